//! What the first message of a call names, by the descriptors of the protocol,
//! and the message itself, which the handler is yet to read.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame};
use http_body_util::BodyExt as _;
use prost::Message as _;
use prost_reflect::{DynamicMessage, Kind, MessageDescriptor, Value};
use tonic::{Status, body::Body};

use crate::{api::grpc::status::invalid, service::access::subjects::Subject};

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// What a field's text names.
type Names = fn(String) -> Subject;

/// The fields that name something, as compy/v1/access.proto lists them.
const FIELDS: [(&str, Names); 7] = [
    ("workspace", Subject::Workspace),
    ("session_id", Subject::Session),
    ("snapshot", Subject::Snapshot),
    ("from", Subject::Snapshot),
    ("to", Subject::Snapshot),
    ("artifact_id", Subject::Artifact),
    ("approval_id", Subject::Approval),
];

fn subject_of(name: &str) -> Option<Names> {
    let found = FIELDS.iter().find(|(field, _)| *field == name);
    found.map(|(_, subject)| *subject)
}

/// The fields of a message, and of those in it, that name something.
#[cfg(test)]
pub(in super::super) fn fields_of(message: &MessageDescriptor) -> Vec<String> {
    let own = |message: &MessageDescriptor| -> Vec<String> {
        let texts = message
            .fields()
            .filter(|it| matches!(it.kind(), Kind::String));
        let names = texts.map(|field| field.name().to_owned());
        names.filter(|name| subject_of(name).is_some()).collect()
    };
    let inner = message.fields().filter_map(|field| match field.kind() {
        Kind::Message(inner) => Some(own(&inner)),
        _ => None,
    });
    own(message).into_iter().chain(inner.flatten()).collect()
}

/// What a message names.
fn subjects_in(message: &DynamicMessage) -> Vec<Subject> {
    let own = |message: &DynamicMessage| -> Vec<Subject> {
        let named = message.fields().filter_map(|(field, value)| {
            let (Kind::String, Value::String(text)) = (field.kind(), value) else {
                return None;
            };
            let subject = subject_of(field.name())?;
            (!text.is_empty()).then(|| subject(text.clone()))
        });
        named.collect()
    };
    let inner = message.fields().filter_map(|(_, value)| match value {
        Value::Message(inner) => Some(own(inner)),
        _ => None,
    });
    let inner: Vec<Subject> = inner.flatten().collect();
    own(message).into_iter().chain(inner).collect()
}

/// Reads the first message of a call; gives what it names, and the call's body as
/// if nobody had read it.
///
/// The message is written anew from what was read, so that the handler, whose
/// decoder is another one, is given exactly what was looked at.
///
/// # Errors
/// What the body fails with, or it has no message of this kind.
pub(super) async fn of_first_message(
    input: &MessageDescriptor,
    mut body: Body,
) -> Result<(Vec<Subject>, Body), Status> {
    let mut read = BytesMut::new();
    let message = loop {
        if let Some((&[compressed, ref length @ ..], rest)) =
            read.split_first_chunk::<PREFIX_BYTES>()
        {
            let length = u32::from_be_bytes(*length) as usize;
            if compressed != 0 {
                return Err(unreadable());
            }
            if let Some(message) = rest.get(..length) {
                let decoded = DynamicMessage::decode(input.clone(), message);
                let decoded = decoded.map_err(|_| unreadable())?;
                let _ = read.split_to(PREFIX_BYTES + length);
                break decoded;
            }
        }
        let frame = body.frame().await.ok_or_else(unreadable)??;
        if let Some(data) = frame.data_ref() {
            read.extend_from_slice(data);
        }
    };
    let bytes = message.encode_to_vec();
    let length = u32::try_from(bytes.len()).map_err(|_| unreadable())?;
    let mut first = BytesMut::with_capacity(PREFIX_BYTES + bytes.len() + read.len());
    first.extend_from_slice(&[0]);
    first.extend_from_slice(&length.to_be_bytes());
    first.extend_from_slice(&bytes);
    first.extend_from_slice(&read);
    let body = Body::new(Replayed {
        first: Some(first.freeze()),
        rest: body,
    });
    Ok((subjects_in(&message), body))
}

fn unreadable() -> Status {
    invalid(
        "MESSAGE_INVALID",
        "the call's first message is missing or is not one of this method",
        "compyctl and compyd may differ in version: compare `compyctl version`",
    )
}

/// A body of which the begin was read.
struct Replayed {
    first: Option<Bytes>,
    rest: Body,
}

impl HttpBody for Replayed {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(Ok(Frame::data(first)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }
}
