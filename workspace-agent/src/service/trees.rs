//! `Trees`: bridges between messages and the blocking code that captures and
//! restores.

use std::time::Duration;

use compyd_proto::agent as wire;
use compyd_proto::agent::trees_server::Trees;
use futures_util::{Stream, StreamExt as _};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::{Answer, Replies};
use crate::errors::{AgentError, Reason};
use crate::volume_tree::{
    CaptureOptions, Content, Remembered, Restore, WriteOut, capture, fingerprint,
};

/// Messages between the link and the disk; each holds up to a megabyte.
const QUEUE: usize = 4;
/// After so long without anything to send, an empty message is sent: the daemon
/// takes a longer silence for a lost agent, and a capture may write out much, meet
/// nothing but chunks that were sent, or wait for a slow disk.
const BEAT: Duration = Duration::from_secs(5);
/// As many of them as there may be between two messages: a disk that answers
/// nothing for ten minutes is taken for a broken one.
const BEATS_MAX: u32 = 120;
/// Keys in one message of a restore's answer.
const KEYS_PER_MESSAGE: usize = 1000;

/// Serves trees. It holds nothing: a call has all it needs.
pub(crate) struct TreesService;

#[tonic::async_trait]
impl Trees for TreesService {
    type CaptureTreeStream = Replies<wire::CaptureTreeResponse>;

    async fn capture_tree(
        &self,
        request: Request<Streaming<wire::CaptureTreeRequest>>,
    ) -> Answer<Self::CaptureTreeStream> {
        use wire::capture_tree_request::Message;
        let mut requests = request.into_inner();
        let Some(Message::Header(header)) = first(&mut requests).await?.message else {
            return Err(unexpected("a capture begins with its header").into());
        };
        let mut remembered = Remembered::as_of(header.keys_as_of_ns);
        while let Some(request) = requests.message().await? {
            let Some(Message::Keys(keys)) = request.message else {
                return Err(unexpected("after its header, a capture takes keys").into());
            };
            for file in &keys.files {
                remembered.add(file);
            }
        }
        let content = match header.without_content {
            true => Content::LeaveOut,
            false => Content::Read,
        };
        let write_out = match header.write_out {
            true => WriteOut::First,
            false => WriteOut::No,
        };
        let options = CaptureOptions { content, write_out };
        let (tx, rx) = mpsc::channel(QUEUE);
        tokio::task::spawn_blocking(move || {
            let send = |message| tx.blocking_send(Ok(message)).map_err(drop);
            if let Err(error) = capture(&header.directory, &remembered, options, send) {
                let _ = tx.blocking_send(Err(Status::from(error)));
            }
        });
        let replies: Replies<_> = Box::pin(beating(rx));
        Ok(Response::new(replies))
    }

    async fn fingerprint(
        &self,
        request: Request<wire::FingerprintRequest>,
    ) -> Answer<wire::FingerprintResponse> {
        let request = request.into_inner();
        let taken = tokio::task::spawn_blocking(move || fingerprint(&request)).await;
        let taken = taken.unwrap_or_else(|_| Err(AgentError::lost_task("take the fingerprint")));
        Ok(Response::new(taken?))
    }

    type RestoreTreeStream = Replies<wire::RestoreTreeResponse>;

    async fn restore_tree(
        &self,
        request: Request<Streaming<wire::RestoreTreeRequest>>,
    ) -> Answer<Self::RestoreTreeStream> {
        use wire::restore_tree_request::Message;
        let mut requests = request.into_inner();
        let Some(Message::Header(header)) = first(&mut requests).await?.message else {
            return Err(unexpected("a restore begins with its header").into());
        };
        let (tx, mut rx) = mpsc::channel::<Feed>(QUEUE);
        let mut restoring = tokio::task::spawn_blocking(move || {
            let mut restore = Restore::begin(&header)?;
            loop {
                match rx.blocking_recv() {
                    Some(Feed::Steps(steps)) => {
                        for step in steps.steps {
                            restore.step(step)?;
                        }
                    }
                    Some(Feed::End) => return restore.finish().map(Some),
                    // The caller has gone before its last step.
                    None => return Ok(None),
                }
            }
        });
        // Ends early when the restore refuses a step.
        let feeding = async {
            while let Some(request) = requests.message().await? {
                let Some(Message::Steps(steps)) = request.message else {
                    return Err(unexpected("after its header, a restore takes steps").into());
                };
                if tx.send(Feed::Steps(steps)).await.is_err() {
                    break;
                }
            }
            let _ = tx.send(Feed::End).await;
            Ok::<_, Status>(())
        };
        let restored = tokio::select! {
            restored = &mut restoring => restored,
            fed = feeding => {
                fed?;
                restoring.await
            }
        };
        let restored =
            restored.unwrap_or_else(|_| Err(AgentError::lost_task("restore the tree")))?;
        let (files, summary) = restored.ok_or_else(|| AgentError::lost_task("feed the restore"))?;
        Ok(Response::new(answer(files, summary)))
    }
}

/// What a capture sends, with a beat wherever it is silent for long.
fn beating(
    messages: mpsc::Receiver<Result<wire::CaptureTreeResponse, Status>>,
) -> impl Stream<Item = Result<wire::CaptureTreeResponse, Status>> {
    futures_util::stream::unfold((messages, 0), |(mut messages, beats)| async move {
        let next = match beats < BEATS_MAX {
            true => tokio::time::timeout(BEAT, messages.recv()).await,
            false => Ok(messages.recv().await),
        };
        match next {
            Ok(message) => Some((message?, (messages, 0))),
            Err(_) => Some((Ok(beat()), (messages, beats + 1))),
        }
    })
}

/// No entries: whoever puts a tree together is told nothing.
fn beat() -> wire::CaptureTreeResponse {
    let nothing = wire::CapturedEntries::default();
    wire::CaptureTreeResponse {
        message: Some(wire::capture_tree_response::Message::Entries(nothing)),
    }
}

/// What a restore is fed with. Its end is said, so that a link that breaks
/// does not pass for it.
enum Feed {
    Steps(wire::RestoreSteps),
    End,
}

fn answer(
    files: Vec<wire::KeyedFile>,
    summary: wire::RestoreSummary,
) -> Replies<wire::RestoreTreeResponse> {
    use wire::restore_tree_response::Message;
    let keys: Vec<_> = files
        .chunks(KEYS_PER_MESSAGE)
        .map(|files| {
            Message::Keys(wire::RestoredKeys {
                files: files.to_vec(),
            })
        })
        .collect();
    let messages = keys.into_iter().chain([Message::Summary(summary)]);
    Box::pin(tokio_stream::iter(messages).map(|message| {
        Ok(wire::RestoreTreeResponse {
            message: Some(message),
        })
    }))
}

async fn first<T>(requests: &mut Streaming<T>) -> Result<T, Status> {
    match requests.message().await? {
        Some(request) => Ok(request),
        None => Err(unexpected("the call ended before its header").into()),
    }
}

fn unexpected(what: &str) -> AgentError {
    AgentError::new(
        Reason::SpecInvalid,
        format!("{what}; send what tree.proto says"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_capture_that_is_silent_beats_and_one_that_is_not_does_not() {
        let (tx, rx) = mpsc::channel(QUEUE);
        let summary = wire::CaptureTreeResponse {
            message: Some(wire::capture_tree_response::Message::Summary(
                wire::CaptureSummary::default(),
            )),
        };
        let said = summary.clone();
        let sending = async move {
            tx.send(Ok(said.clone())).await.unwrap();
            // In the middle between the first two beats.
            tokio::time::sleep(BEAT + BEAT / 2).await;
            tx.send(Ok(said)).await.unwrap();
        };
        let hearing = beating(rx).map(Result::unwrap).collect::<Vec<_>>();
        let (heard, ()) = tokio::join!(hearing, sending);
        assert_eq!(heard, [summary.clone(), beat(), summary]);
    }
}
