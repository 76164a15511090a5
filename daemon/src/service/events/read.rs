//! Reading events back, and following them.

use std::collections::VecDeque;

use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::sync::watch;

use super::{Events, PAGE};
use crate::{
    domain::{ids::WorkspaceId, workspace_event::WorkspaceEvent},
    ports::store::StoreError,
};

/// Which events to read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventQuery {
    /// Of one workspace; `None` means of all.
    pub workspace: Option<WorkspaceId>,
    /// After this sequence number; 0 means from the oldest that is kept.
    pub after: u64,
    /// Not before this time, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// What comes after the newest one.
    pub following: Following,
}

/// What comes after the newest event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Following {
    /// The end.
    No,
    /// Those that are still to happen.
    Yes,
}

/// What a reader receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EventItem {
    /// An event.
    Event(Box<WorkspaceEvent>),
    /// Events between two numbers were forgotten, or could not be recorded. A
    /// reader that asks for what comes after a number that was never given, as
    /// after the loss of the store, finds `before` below `after`.
    Gap {
        /// The last number before the gap.
        after: u64,
        /// The first number behind it.
        before: u64,
    },
}

impl Events {
    /// Events in the order of their numbers, with every gap said. Ends after
    /// the newest one, or never.
    ///
    /// Cancel safety: dropped anywhere, nothing is lost; read again after the
    /// last number received.
    #[must_use]
    pub fn read(&self, query: EventQuery) -> BoxStream<'static, Result<EventItem, StoreError>> {
        let mut last = self.inner.last.subscribe();
        let newest = *last.borrow_and_update();
        let mut ready = VecDeque::new();
        let mut seen = query.after;
        if seen > newest {
            ready.push_back(EventItem::Gap {
                after: seen,
                before: newest + 1,
            });
            seen = newest;
        }
        let reader = Reader {
            events: self.clone(),
            query,
            last,
            cursor: seen,
            seen,
            ready,
        };
        futures_util::stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await {
                Ok(Some(item)) => Some((Ok(item), Some(reader))),
                Ok(None) => None,
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed()
    }
}

struct Reader {
    events: Events,
    query: EventQuery,
    last: watch::Receiver<u64>,
    /// The last number looked at.
    cursor: u64,
    /// The last number that the reader knows everything up to, among the events
    /// that it asked for.
    seen: u64,
    ready: VecDeque<EventItem>,
}

impl Reader {
    async fn next(&mut self) -> Result<Option<EventItem>, StoreError> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                return Ok(Some(item));
            }
            // Before the look: what is recorded meanwhile is noticed after it.
            self.last.borrow_and_update();
            let store = &self.events.inner.store;
            let page = store.workspace_events(self.cursor, PAGE).await?;
            if page.is_empty() {
                match self.query.following {
                    Following::No => return Ok(None),
                    Following::Yes if self.last.changed().await.is_err() => return Ok(None),
                    Following::Yes => {}
                }
            }
            page.into_iter().for_each(|event| self.take(event));
        }
    }

    fn take(&mut self, event: WorkspaceEvent) {
        self.cursor = event.sequence;
        let previous = match &self.query.workspace {
            Some(wanted) if event.workspace != *wanted => return,
            Some(_) => event.previous,
            None => event.sequence - 1,
        };
        let before = self.seen;
        self.seen = event.sequence;
        if self.query.since_ms.is_some_and(|since| event.at_ms < since) {
            return;
        }
        if previous > before {
            self.ready.push_back(EventItem::Gap {
                after: before,
                before: event.sequence,
            });
        }
        self.ready.push_back(EventItem::Event(Box::new(event)));
    }
}
