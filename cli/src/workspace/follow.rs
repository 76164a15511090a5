//! Streams about workspaces that go on over a daemon that restarts.

use std::future::Future;

use tonic::{Response, Status, Streaming};

use crate::connection::{Backoff, Daemon, RESTART_GRACE};
use crate::exit::{Failure, is_transient};

/// Whether a stream that the daemon ended is opened again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// What was asked for has been received.
    Done,
    /// It never ends by itself.
    Broken,
}

/// Opens a stream with what is known so far, hands each item over, and opens it
/// again when the connection breaks, for half a minute without an item.
pub(super) async fn follow<Known, Item, Opened>(
    daemon: &Daemon,
    known: &mut Known,
    end: End,
    open: impl Fn(&Known) -> Opened,
    mut take: impl FnMut(&mut Known, Item) -> Result<(), Failure>,
) -> Result<(), Failure>
where
    Opened: Future<Output = Result<Response<Streaming<Item>>, Status>>,
{
    let mut backoff = Backoff::new(RESTART_GRACE);
    loop {
        let status = match open(known).await {
            Ok(response) => {
                let mut items = response.into_inner();
                loop {
                    match items.message().await {
                        Ok(Some(item)) => {
                            backoff.reset();
                            take(known, item)?;
                        }
                        Ok(None) if end == End::Done => return Ok(()),
                        Ok(None) => break Status::unavailable("the daemon ended the stream"),
                        Err(status) => break status,
                    }
                }
            }
            Err(status) => status,
        };
        if !is_transient(&status) || !backoff.wait().await {
            return Err(daemon.failure(status));
        }
    }
}
