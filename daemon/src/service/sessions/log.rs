//! A session's log: appended first, folded after; or, where what follows is
//! appended at once, folded first and appended together with that.

use std::sync::Arc;

use crate::{
    domain::{
        context::Context,
        ids::SessionId,
        session::{
            event::{Event, EventBody, EventError},
            state::{HeadlessLog, SessionState},
        },
    },
    ports::{
        clock::ClockPort,
        store::{StoreError, StorePort},
    },
    service::redaction::Redactions,
};

/// Events read from the store at a time.
const PAGE: usize = 512;

/// The log of one session and what it folds to. One driver owns it.
pub(super) struct Log {
    store: Arc<dyn StorePort>,
    clock: Arc<dyn ClockPort>,
    redactions: Redactions,
    /// After the events that are on disk and those that are not yet.
    state: SessionState,
    /// Likewise.
    context: Context,
    /// The last events, which nobody but this log knows of.
    deferred: Vec<Event>,
}

/// Why a log cannot be read or written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An event.
    #[error(transparent)]
    Event(#[from] EventError),
    /// The first event.
    #[error(transparent)]
    Headless(#[from] HeadlessLog),
}

impl Log {
    /// Begins a log with its first event; durable when it returns.
    pub(super) async fn create(
        store: Arc<dyn StorePort>,
        clock: Arc<dyn ClockPort>,
        redactions: Redactions,
        session: &SessionId,
        first: EventBody,
        stage: crate::domain::stage::Stage,
    ) -> Result<Self, LogError> {
        let event = Event {
            sequence: 1,
            at_ms: clock.now_ms(),
            stage,
            body: first,
        };
        let event = event.redacted(&redactions.current())?;
        let state = SessionState::begin(&event)?;
        store.append(session, 1, vec![event.encode()]).await?;
        let context = Context::begin(&state.created);
        Ok(Self {
            store,
            clock,
            redactions,
            state,
            context,
            deferred: Vec::new(),
        })
    }

    /// Reads a log from the store; `None` when there is no such session.
    pub(super) async fn load(
        store: Arc<dyn StorePort>,
        clock: Arc<dyn ClockPort>,
        redactions: Redactions,
        session: &SessionId,
    ) -> Result<Option<Self>, LogError> {
        let mut folded: Option<(SessionState, Context)> = None;
        let mut next = 1;
        loop {
            let page = read(store.as_ref(), session, next).await?;
            if page.is_empty() {
                break;
            }
            for event in page {
                next = event.sequence + 1;
                match &mut folded {
                    Some((state, context)) => {
                        state.apply(&event);
                        context.apply(&event);
                    }
                    None => {
                        let state = SessionState::begin(&event)?;
                        let context = Context::begin(&state.created);
                        folded = Some((state, context));
                    }
                }
            }
        }
        Ok(folded.map(|(state, context)| Self {
            store,
            clock,
            redactions,
            state,
            context,
            deferred: Vec::new(),
        }))
    }

    /// Milliseconds since the Unix epoch.
    pub(super) fn now_ms(&self) -> i64 {
        self.clock.now_ms()
    }

    /// The session after the events so far.
    pub(super) fn state(&self) -> &SessionState {
        &self.state
    }

    /// The conversation after the events so far.
    pub(super) fn context(&self) -> &Context {
        &self.context
    }

    /// Whether [`defer`](Self::defer) left events that are not on disk.
    pub(super) fn has_deferred(&self) -> bool {
        !self.deferred.is_empty()
    }

    /// Takes events on that the next [`append`](Self::append) writes with its own:
    /// two writes that follow each other at once cost twice the wait for the disk.
    /// Until then nothing may be done or told because of them.
    pub(super) fn defer(&mut self, bodies: &[EventBody]) -> Result<(), LogError> {
        let events = self.events(bodies)?;
        self.fold(&events);
        self.deferred.extend(events);
        Ok(())
    }

    /// Appends events after those that were deferred, all or none; durable when it
    /// returns. After an error nothing has changed and the same call can be made
    /// again. What is written and what follows from it hold no credential.
    pub(super) async fn append(&mut self, bodies: &[EventBody]) -> Result<(), LogError> {
        let events = self.events(bodies)?;
        let all = self.deferred.iter().chain(&events);
        let encoded: Vec<_> = all.map(Event::encode).collect();
        let Some(first) = self.deferred.first().or(events.first()) else {
            return Ok(());
        };
        let first = first.sequence;
        self.store.append(self.state.id(), first, encoded).await?;
        self.fold(&events);
        for event in self.deferred.drain(..).chain(events) {
            tracing::info!(
                session_id = %self.state.id(),
                sequence = event.sequence,
                stage = %event.stage,
                "{}",
                crate::domain::session::briefing::line(&event.body)
            );
        }
        Ok(())
    }

    /// The next events, with these bodies.
    fn events(&self, bodies: &[EventBody]) -> Result<Vec<Event>, EventError> {
        let at_ms = self.clock.now_ms();
        let mut stage = self.state.stage;
        let redactor = self.redactions.current();
        (self.state.sequence + 1..)
            .zip(bodies)
            .map(|(sequence, body)| {
                if let EventBody::StageEntered { to, .. } = body {
                    stage = *to;
                }
                let event = Event {
                    sequence,
                    at_ms,
                    stage,
                    body: body.clone(),
                };
                event.redacted(&redactor)
            })
            .collect()
    }

    fn fold(&mut self, events: &[Event]) {
        for event in events {
            self.state.apply(event);
            self.context.apply(event);
        }
    }
}

/// The next events of a session from a sequence number on; empty at the end.
pub(super) async fn read(
    store: &dyn StorePort,
    session: &SessionId,
    from: u64,
) -> Result<Vec<Event>, LogError> {
    let page = store.events(session, from, PAGE).await?;
    page.iter()
        .map(|bytes| Event::decode(bytes).map_err(LogError::from))
        .collect()
}

/// blake3 of a session's log up to and with a sequence number, in hex.
pub(super) async fn hash(
    store: &dyn StorePort,
    session: &SessionId,
    last: u64,
) -> Result<String, StoreError> {
    let mut hasher = blake3::Hasher::new();
    let mut next = 1;
    while next <= last {
        let wanted = usize::try_from(last - next + 1).unwrap_or(PAGE).min(PAGE);
        let page = store.events(session, next, wanted).await?;
        if page.is_empty() {
            break;
        }
        next += page.len() as u64;
        for event in &page {
            hasher.update(event);
            hasher.update(b"\n");
        }
    }
    Ok(hasher.finalize().to_hex().to_string())
}
