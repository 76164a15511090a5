//! Trees over a link: messages cut to size on the way in, checked on the way
//! out.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use compyd_proto::{
    agent::{
        self as wire, capture_tree_request, capture_tree_response, restore_step,
        restore_tree_request, restore_tree_response, trees_client::TreesClient,
    },
    link,
};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use prost::Message as _;
use tonic::transport::Channel;

use super::refusal::{self, broken};
use crate::{
    domain::snapshot::hash::{ChunkHash, Fingerprint},
    ports::{
        agent::AgentError,
        chunks::{CHUNK_BYTES_MAX, Chunk, ChunkEncoding},
        trees::{
            CaptureEvent, CapturedEntry, KeyedFile, KnownFiles, RestoreExtent, RestoreItem,
            RestoredTree, TreeFingerprint, TreesPort, WriteOut,
        },
    },
};

/// Keys in one message.
const KEYS_AT_ONCE: usize = 1_000;
/// Bytes of steps after which a message is sent.
const STEPS_BYTES: usize = 512 * 1024;
/// Between one message of a capture and the next: the workspace may stand still
/// meanwhile. An agent with nothing to say sends an empty one every few seconds, so
/// one that is silent for so long is gone.
const CAPTURE_SILENCE_MAX: Duration = Duration::from_secs(30);
/// For a whole volume.
const RESTORE_DEADLINE: Duration = Duration::from_secs(30 * 60);
const CAPTURE: &str = "capture";
const RESTORE: &str = "restore";
/// Nothing is read for it, and the workspace may stand still meanwhile.
const FINGERPRINT_DEADLINE: Duration = Duration::from_secs(30);
const FINGERPRINT: &str = "fingerprint";

/// The part of an agent that reads and writes trees.
pub(super) struct TreeLink {
    client: TreesClient<Channel>,
}

impl TreeLink {
    pub(super) fn new(channel: Channel) -> Self {
        let client = TreesClient::new(channel)
            .max_decoding_message_size(link::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(link::MAX_MESSAGE_BYTES);
        Self { client }
    }

    fn walk(
        &self,
        header: wire::CaptureHeader,
        known: Vec<KeyedFile>,
    ) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        use capture_tree_request::Message;
        let mut messages = vec![Message::Header(header)];
        let mut files = known.into_iter();
        loop {
            let files: Vec<_> = files.by_ref().take(KEYS_AT_ONCE).collect();
            if files.is_empty() {
                break;
            }
            messages.push(Message::Keys(wire::RememberedKeys { files }));
        }
        let requests = stream::iter(messages).map(|message| wire::CaptureTreeRequest {
            message: Some(message),
        });
        let mut client = self.client.clone();
        let opened = async move {
            let answer = client.capture_tree(requests).await;
            let parts = answer.map_err(|status| refusal::read(CAPTURE, &status))?;
            Ok(parts
                .into_inner()
                .map_err(|status| refusal::read(CAPTURE, &status)))
        };
        never_silent(
            stream::once(opened).try_flatten().boxed(),
            CAPTURE_SILENCE_MAX,
        )
        .map(|part| stream::iter(part.map_or_else(|error| vec![Err(error)], events)))
        .flatten()
        .boxed()
    }
}

#[async_trait]
impl TreesPort for TreeLink {
    fn capture(
        &self,
        directory: &str,
        known: KnownFiles,
        write_out: WriteOut,
    ) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        let header = wire::CaptureHeader {
            directory: Bytes::copy_from_slice(directory.as_bytes()),
            keys_as_of_ns: known.as_of_ns,
            without_content: false,
            write_out: write_out == WriteOut::First,
        };
        self.walk(header, known.files)
    }

    fn look(&self, directory: &str) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        let header = wire::CaptureHeader {
            directory: Bytes::copy_from_slice(directory.as_bytes()),
            keys_as_of_ns: 0,
            without_content: true,
            write_out: false,
        };
        self.walk(header, Vec::new())
    }

    async fn restore(
        &self,
        directory: &str,
        extent: RestoreExtent,
        items: BoxStream<'static, RestoreItem>,
    ) -> Result<RestoredTree, AgentError> {
        use restore_tree_request::Message;
        let header = Message::Header(wire::RestoreHeader {
            directory: Bytes::copy_from_slice(directory.as_bytes()),
            mode: match extent {
                RestoreExtent::Whole => wire::RestoreMode::Whole,
                RestoreExtent::Delta => wire::RestoreMode::Delta,
            }
            .into(),
        });
        let steps = batches(items).map(|steps| Message::Steps(wire::RestoreSteps { steps }));
        let requests =
            stream::iter([header])
                .chain(steps)
                .map(|message| wire::RestoreTreeRequest {
                    message: Some(message),
                });
        let refused = |status| refusal::read(RESTORE, &status);
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(RESTORE_DEADLINE, client.restore_tree(requests)).await;
        let answer = answer.map_err(|_| refusal::deadline(RESTORE, RESTORE_DEADLINE))?;
        let mut parts = answer.map_err(refused)?.into_inner();
        let mut files = Vec::new();
        while let Some(part) = parts.message().await.map_err(refused)? {
            match part.message {
                Some(restore_tree_response::Message::Keys(keys)) => files.extend(keys.files),
                Some(restore_tree_response::Message::Summary(summary)) => {
                    let as_of_ns = summary.keys_as_of_ns;
                    return Ok(RestoredTree {
                        entries: summary.entries,
                        files: KnownFiles { files, as_of_ns },
                    });
                }
                None => return Err(broken(RESTORE, "an empty message".to_owned())),
            }
        }
        Err(broken(RESTORE, "it ended without a summary".to_owned()))
    }

    async fn fingerprint(
        &self,
        directory: &str,
        shown_at: Option<&str>,
        write_out: WriteOut,
    ) -> Result<TreeFingerprint, AgentError> {
        let bytes = |path: &str| Bytes::copy_from_slice(path.as_bytes());
        let request = wire::FingerprintRequest {
            directory: bytes(directory),
            shown_at: shown_at.map_or_else(Bytes::new, bytes),
            write_out: write_out == WriteOut::First,
        };
        let mut client = self.client.clone();
        let answer = tokio::time::timeout(FINGERPRINT_DEADLINE, client.fingerprint(request)).await;
        let answer = answer
            .map_err(|_| refusal::deadline(FINGERPRINT, FINGERPRINT_DEADLINE))?
            .map_err(|status| refusal::read(FINGERPRINT, &status))?
            .into_inner();
        let hash: [u8; 32] = answer.hash[..]
            .try_into()
            .map_err(|_| broken(FINGERPRINT, "a hash that is not 32 bytes".to_owned()))?;
        Ok(TreeFingerprint {
            fingerprint: Fingerprint::from_bytes(hash),
            entries: answer.entries,
            begun_ns: answer.begun_ns,
            changed_ns: answer.changed_ns,
        })
    }
}

/// A stream that ends with an error when it says nothing for so long.
fn never_silent<T: Send + 'static>(
    parts: BoxStream<'static, Result<T, AgentError>>,
    longest: Duration,
) -> BoxStream<'static, Result<T, AgentError>> {
    stream::unfold(Some(parts), move |parts| async move {
        let mut parts = parts?;
        match tokio::time::timeout(longest, parts.next()).await {
            Ok(part) => Some((part?, Some(parts))),
            Err(_) => Some((Err(refusal::deadline(CAPTURE, longest)), None)),
        }
    })
    .boxed()
}

/// Items in messages of about [`STEPS_BYTES`].
fn batches(
    items: BoxStream<'static, RestoreItem>,
) -> impl futures_util::Stream<Item = Vec<wire::RestoreStep>> {
    stream::unfold(items.fuse(), |mut items| async move {
        let (mut steps, mut bytes) = (Vec::new(), 0);
        while bytes < STEPS_BYTES
            && let Some(item) = items.next().await
        {
            let step = match item {
                RestoreItem::Remove(path) => restore_step::Step::Remove(path),
                RestoreItem::Entry(entry) => restore_step::Step::Entry(*entry),
                RestoreItem::Content(data) => restore_step::Step::Content(wire::ChunkContent {
                    encoding: wire::ChunkEncoding::Raw.into(),
                    data,
                }),
            };
            let step = wire::RestoreStep { step: Some(step) };
            bytes += step.encoded_len();
            steps.push(step);
        }
        (!steps.is_empty()).then_some((steps, items))
    })
}

/// What one message of a capture tells.
fn events(part: wire::CaptureTreeResponse) -> Vec<Result<CaptureEvent, AgentError>> {
    use capture_tree_response::Message;
    match part.message {
        Some(Message::Chunks(chunks)) => (chunks.chunks.into_iter())
            .map(|captured| chunk(captured).map(CaptureEvent::Chunk))
            .collect(),
        Some(Message::Entries(entries)) => (entries.entries.into_iter())
            .map(|captured| entry(captured).map(|entry| CaptureEvent::Entry(Box::new(entry))))
            .collect(),
        Some(Message::Summary(summary)) => vec![Ok(CaptureEvent::Ended {
            as_of_ns: summary.keys_as_of_ns,
        })],
        None => vec![Err(broken(CAPTURE, "an empty message".to_owned()))],
    }
}

fn chunk(captured: wire::CapturedChunk) -> Result<Chunk, AgentError> {
    let content = captured.content.unwrap_or_default();
    let encoding = match content.encoding() {
        wire::ChunkEncoding::Raw => ChunkEncoding::Raw,
        wire::ChunkEncoding::Zstd => ChunkEncoding::Zstd,
        wire::ChunkEncoding::Unspecified => {
            return Err(broken(CAPTURE, "a chunk without an encoding".to_owned()));
        }
    };
    let hash: [u8; 32] = captured.hash[..]
        .try_into()
        .map_err(|_| broken(CAPTURE, "a hash that is not 32 bytes".to_owned()))?;
    if captured.length as usize > CHUNK_BYTES_MAX || content.data.len() > CHUNK_BYTES_MAX {
        return Err(broken(CAPTURE, "a chunk of more than 1 MiB".to_owned()));
    }
    Ok(Chunk {
        hash: ChunkHash::from_bytes(hash),
        raw_bytes: captured.length,
        encoding,
        data: content.data,
    })
}

fn entry(captured: wire::CapturedEntry) -> Result<CapturedEntry, AgentError> {
    let entry = captured
        .entry
        .ok_or_else(|| broken(CAPTURE, "an entry without anything".to_owned()))?;
    Ok(CapturedEntry {
        entry,
        same: captured.same,
        key: captured.key.filter(|_| !captured.torn),
        mount: captured.mount,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_agent_that_stops_sending_ends_the_capture() {
        let longest = Duration::from_secs(30);
        let slow = stream::iter(0..3).then(|part| async move {
            tokio::time::sleep(Duration::from_secs(29)).await;
            Ok::<_, AgentError>(part)
        });
        let heard: Vec<_> = never_silent(slow.chain(stream::pending()).boxed(), longest)
            .collect()
            .await;
        let silent = Err(refusal::deadline(CAPTURE, longest));
        assert_eq!(heard, [Ok(0), Ok(1), Ok(2), silent]);
    }

    #[test]
    fn a_message_without_entries_says_nothing() {
        let nothing = wire::CapturedEntries::default();
        let beat = wire::CaptureTreeResponse {
            message: Some(capture_tree_response::Message::Entries(nothing)),
        };
        assert!(events(beat).is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_capture_that_ends_is_not_called_silent() {
        let parts = stream::iter([Ok::<_, AgentError>(1)]).boxed();
        let heard: Vec<_> = never_silent(parts, Duration::ZERO).collect().await;
        assert_eq!(heard, [Ok(1)]);
    }
}
