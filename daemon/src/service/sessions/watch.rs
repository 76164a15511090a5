//! Watching a session: the log replayed, then followed, without gaps.
//!
//! Events always come from the store, by sequence number; the driver's
//! publication only says that there are more. So nothing can be missed or come
//! twice, however slow the watcher is. Progress is another matter: a slow
//! watcher loses some.

use std::sync::Arc;

use tokio::sync::{broadcast, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{LogError, Progress, Published, log::read};
use crate::{
    domain::{ids::SessionId, session::event::Event},
    ports::store::StorePort,
};

/// Items that wait for a watcher; then the log is read no further.
const QUEUE: usize = 64;

/// What a watcher receives.
#[derive(Debug, Clone, PartialEq)]
pub enum WatchItem {
    /// From the log.
    Event(Box<Event>),
    /// Not from the log.
    Progress(Progress),
}

/// The watcher's end; dropping it ends the watch.
pub type Watching = mpsc::Receiver<Result<WatchItem, LogError>>;

/// What following needs.
pub(super) struct Live {
    pub(super) published: tokio::sync::watch::Receiver<Published>,
    pub(super) progress: broadcast::Receiver<Progress>,
}

/// Begins to watch; the task ends with the watcher, the session or the daemon.
pub(super) fn start(
    tasks: &TaskTracker,
    store: Arc<dyn StorePort>,
    session: SessionId,
    after: u64,
    live: Option<Live>,
    shutdown: CancellationToken,
) -> Watching {
    let (sender, watching) = mpsc::channel(QUEUE);
    tasks.spawn(async move {
        let watch = Watch {
            store,
            session,
            seen: after,
            sender: sender.clone(),
        };
        tokio::select! {
            () = shutdown.cancelled() => {}
            () = sender.closed() => {}
            () = watch.run(live) => {}
        }
    });
    watching
}

struct Watch {
    store: Arc<dyn StorePort>,
    session: SessionId,
    /// Sequence number of the last event sent.
    seen: u64,
    sender: mpsc::Sender<Result<WatchItem, LogError>>,
}

impl Watch {
    async fn run(mut self, live: Option<Live>) {
        let Some(mut live) = live else {
            let _ = self.replay().await;
            return;
        };
        loop {
            // Looked at before the replay, so that what is published meanwhile
            // is noticed after it.
            let ended = {
                let now = live.published.borrow_and_update();
                now.state
                    .condition
                    .has_ended()
                    .then_some(now.state.sequence)
            };
            if self.replay().await.is_none() {
                return;
            }
            if ended.is_some_and(|last| self.seen >= last) {
                return;
            }
            loop {
                tokio::select! {
                    biased;
                    changed = live.published.changed() => {
                        if changed.is_err() {
                            // The driver is gone: what it wrote last is still to be read.
                            let _ = self.replay().await;
                            return;
                        }
                        break;
                    }
                    progress = live.progress.recv() => match progress {
                        Ok(progress) => {
                            if self.send(Ok(WatchItem::Progress(progress))).await.is_none() {
                                return;
                            }
                        }
                        Err(broadcast::error::RecvError::Lagged(_)) => {}
                        Err(broadcast::error::RecvError::Closed) => {
                            let _ = live.published.changed().await;
                            break;
                        }
                    },
                }
            }
        }
    }

    /// Sends what the store has beyond the last event sent; `None` when the
    /// watch is over.
    async fn replay(&mut self) -> Option<()> {
        loop {
            let page = match read(self.store.as_ref(), &self.session, self.seen + 1).await {
                Ok(page) => page,
                Err(error) => {
                    self.send(Err(error)).await?;
                    return None;
                }
            };
            if page.is_empty() {
                return Some(());
            }
            for event in page {
                self.seen = event.sequence;
                self.send(Ok(WatchItem::Event(Box::new(event)))).await?;
            }
        }
    }

    async fn send(&self, item: Result<WatchItem, LogError>) -> Option<()> {
        self.sender.send(item).await.ok()
    }
}
