//! The first message of a call as values that can be recorded, read by the
//! descriptors of the protocol.
//!
//! Fields of bytes are contents, and may be secrets: of all but those that are
//! [texts](TEXTS), only the length is kept.

use compyd_proto::link::MAX_MESSAGE_BYTES;
use prost_reflect::{
    DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value as Field,
};
use serde_json::{Map, Value};

use crate::domain::audit::bounded;

/// Bytes of a first message that are read: a longer one no handler is given, and
/// only its length is recorded.
const MOST_BYTES: usize = MAX_MESSAGE_BYTES;
/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;
/// Fields of bytes that are texts of any encoding, and no secrets.
const TEXTS: [&str; 4] = ["argv", "path", "directory", "target"];

/// The first message of a call, as far as it has come.
pub(super) struct FirstMessage {
    input: MessageDescriptor,
    bytes: Vec<u8>,
    read: Read,
}

enum Read {
    /// It is not there as a whole.
    No,
    Whole(Arguments),
    TooLong(usize),
    Wrong,
}

/// What is recorded of a message.
#[derive(Clone)]
pub(super) struct Arguments {
    /// Its fields.
    pub(super) values: Value,
    /// The workspace that it names, as the caller did.
    pub(super) workspace: Option<String>,
    /// The session that it names.
    pub(super) session: Option<String>,
    /// The command that it names.
    pub(super) process: Option<String>,
}

impl FirstMessage {
    /// One that has not come yet.
    pub(super) fn of(input: MessageDescriptor) -> Self {
        Self {
            input,
            bytes: Vec::new(),
            read: Read::No,
        }
    }

    /// Takes in bytes; whether it is whole by them.
    pub(super) fn hear(&mut self, bytes: &[u8]) -> bool {
        if !matches!(self.read, Read::No) {
            return false;
        }
        let room = MOST_BYTES + PREFIX_BYTES - self.bytes.len();
        self.bytes
            .extend_from_slice(&bytes[..bytes.len().min(room)]);
        let Some((&[compressed, ref length @ ..], rest)) = self.bytes.split_first_chunk::<5>()
        else {
            return false;
        };
        let length = u32::from_be_bytes(*length) as usize;
        self.read = match rest.get(..length) {
            Some(_) if compressed != 0 => Read::Wrong,
            Some(message) => match DynamicMessage::decode(self.input.clone(), message) {
                Ok(message) => Read::Whole(Arguments::of(fields(&message))),
                Err(_) => Read::Wrong,
            },
            None if length > MOST_BYTES => Read::TooLong(length),
            None => return false,
        };
        self.bytes = Vec::new();
        true
    }

    /// Whether its method takes a `request_id`, as those do that change
    /// something.
    pub(super) fn may_change_something(&self) -> bool {
        has_request_id(&self.input)
    }

    /// Keeps no more of it than is recorded: a call may last for days.
    pub(super) fn shorten(&mut self, shortened: impl FnOnce(Value) -> Value) {
        if let Read::Whole(arguments) = &mut self.read {
            arguments.values = shortened(arguments.values.take());
        }
    }

    /// What is recorded of it.
    pub(super) fn arguments(&self) -> Arguments {
        Arguments::of(match &self.read {
            Read::No => Value::Null,
            Read::Whole(arguments) => return arguments.clone(),
            Read::TooLong(length) => format!("a message of {length} bytes").into(),
            Read::Wrong => "not a message of this method".into(),
        })
    }
}

impl Arguments {
    /// With the links that are among these fields, however long the fields are.
    fn of(values: Value) -> Self {
        let named = |names: &[&str]| names.iter().find_map(|name| text(&values, name));
        Self {
            workspace: named(&["workspace_id", "workspace"]),
            session: named(&["session_id"]).or_else(|| approved_session(&values)),
            process: named(&["exec_id"]).or_else(|| begun_command(&values)),
            values,
        }
    }
}

/// Whether a message has a `request_id`, or a message in it, as the first one of
/// a stream has.
fn has_request_id(message: &MessageDescriptor) -> bool {
    let is_id = |field: FieldDescriptor| match field.kind() {
        Kind::Message(inner) => inner.get_field_by_name("request_id").is_some(),
        _ => field.name() == "request_id",
    };
    message.fields().any(is_id)
}

/// The text of a field, of the message or of one in it.
fn text(values: &Value, name: &str) -> Option<String> {
    let fields = values.as_object()?;
    let of = |value: &Value| value.get(name)?.as_str().map(bounded);
    of(values).or_else(|| fields.values().find_map(of))
}

/// The session of an approval, whose id begins with it.
fn approved_session(values: &Value) -> Option<String> {
    let id = text(values, "approval_id")?;
    let (session, _) = id.split_once(':')?;
    Some(session.to_owned())
}

/// The id of a command that is begun: that of the request.
fn begun_command(values: &Value) -> Option<String> {
    let fields = values.as_object()?;
    let start = fields.values().find(|value| value.get("argv").is_some())?;
    Some(bounded(start.get("request_id")?.as_str()?))
}

/// A text without the login of a URL that it may be.
fn without_login(text: &str) -> String {
    let hidden = text.split_once("://").and_then(|(scheme, rest)| {
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let host = rest[..end].rfind('@')?;
        Some(format!("{scheme}://…{}", &rest[host..]))
    });
    hidden.unwrap_or_else(|| text.to_owned())
}

fn fields(message: &DynamicMessage) -> Value {
    let fields = message.fields();
    let named = |(field, value): (FieldDescriptor, &Field)| {
        (field.name().to_owned(), value_of(&field, value))
    };
    Value::Object(fields.map(named).collect::<Map<_, _>>())
}

fn value_of(field: &FieldDescriptor, value: &Field) -> Value {
    match value {
        Field::Bool(value) => (*value).into(),
        Field::I32(value) => (*value).into(),
        Field::I64(value) => (*value).into(),
        Field::U32(value) => (*value).into(),
        Field::U64(value) => (*value).into(),
        Field::F32(value) => f64::from(*value).into(),
        Field::F64(value) => (*value).into(),
        Field::String(value) => without_login(value).into(),
        Field::Bytes(bytes) if TEXTS.contains(&field.name()) => {
            String::from_utf8_lossy(bytes).into()
        }
        Field::Bytes(bytes) => format!("[{} bytes]", bytes.len()).into(),
        Field::EnumNumber(number) => match field.kind() {
            Kind::Enum(names) => names
                .get_value(*number)
                .map_or_else(|| (*number).into(), |value| value.name().into()),
            _ => (*number).into(),
        },
        Field::Message(message) => fields(message),
        Field::List(values) => values.iter().map(|value| value_of(field, value)).collect(),
        Field::Map(entries) => {
            let inner = match field.kind() {
                Kind::Message(entry) => entry.map_entry_value_field(),
                _ => field.clone(),
            };
            let named = |(key, value): (&MapKey, &Field)| (key_of(key), value_of(&inner, value));
            Value::Object(entries.iter().map(named).collect())
        }
    }
}

fn key_of(key: &MapKey) -> String {
    match key {
        MapKey::Bool(key) => key.to_string(),
        MapKey::I32(key) => key.to_string(),
        MapKey::I64(key) => key.to_string(),
        MapKey::U32(key) => key.to_string(),
        MapKey::U64(key) => key.to_string(),
        MapKey::String(key) => key.clone(),
    }
}

#[cfg(test)]
mod tests {
    use compyd_proto::v1 as wire;
    use prost::Message as _;

    use super::*;
    use crate::api::grpc::methods::Methods;

    #[test]
    fn the_login_in_a_url_is_left_out() {
        let url = "https://me:t0ken@forge.example/a/b.git";
        assert_eq!(without_login(url), "https://…@forge.example/a/b.git");
        for other in ["https://forge.example/@a", "a@b://c", "text", "ssh://host"] {
            assert_eq!(without_login(other), other);
        }
    }

    #[test]
    fn an_approval_is_linked_to_its_session() {
        let methods = Methods::of_this_build();
        let method = methods
            .get("/compy.v1.ApprovalService/AnswerApproval")
            .unwrap();
        let mut first = FirstMessage::of(method.input.clone());
        let id = "0195e7a0-0000-7000-8000-000000000001";
        let message = wire::AnswerApprovalRequest {
            approval_id: format!("{id}:q2"),
            ..Default::default()
        };
        let bytes = message.encode_to_vec();
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        assert!(first.hear(&[&[0], &length[..], &bytes[..]].concat()));
        assert_eq!(first.arguments().session.as_deref(), Some(id));
    }

    #[test]
    fn a_message_may_come_in_pieces_and_is_cut_when_it_is_long() {
        let methods = Methods::of_this_build();
        let method = methods.get("/compy.v1.SystemService/GetInfo").unwrap();
        let mut first = FirstMessage::of(method.input.clone());
        assert!(!first.hear(&[0, 0]));
        assert!(first.hear(&[0, 0, 0]), "an empty message is whole");
        assert!(!first.hear(&[0; 8]), "a second one is not the first");
        let mut long = FirstMessage::of(method.input.clone());
        let length = u32::try_from(MAX_MESSAGE_BYTES + 1).unwrap();
        let head = [&[0][..], &length.to_be_bytes()].concat();
        assert!(long.hear(&head), "its length is enough");
        assert!(!long.hear(&[0; 4096]));
        let values = long.arguments().values;
        assert_eq!(values, Value::from(format!("a message of {length} bytes")));
    }
}
