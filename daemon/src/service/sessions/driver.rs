//! The driver: one task that owns one session.
//!
//! ```text
//! loop: decide ── Record ──> append
//!          │
//!          ├──── Perform ──> the effect, with the mailbox open beside it ──> its outcome
//!          ├──── Wait ─────> the mailbox
//!          └──── End
//! ```
//!
//! Appending comes before acting. An outcome is appended together with what is
//! decided next, where that is an intent: one wait for the disk for both. What only
//! looks runs while its intent is written, and nothing follows from what it saw
//! before both are done. On shutdown an effect is dropped, not ended: what it started
//! in the workspace lives on, and the next driver finds it by its step.

use std::{pin::Pin, sync::Arc, time::Duration};

use tokio::{
    sync::{broadcast, mpsc, oneshot, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    Progress, SessionError,
    effects::{self, EffectContext, Patience, Trouble, World},
    log::{Log, LogError},
};
use crate::{
    domain::audit::Entry,
    domain::budget::{Amounts, Bound, Day, Scope},
    domain::compaction,
    domain::session::{
        decide::{Next, decide, leaving, time_is_up, time_left},
        event::{AfterModelFailure, Condition, EventBody},
        gate::Gate,
        outcome::{self, NoReply, Outcome},
        request::{Request, Response, respond},
        spending::{self, Reached, Reserved},
        state::{Effect, Open, SessionState},
    },
    domain::{stage::Stage, tools::Tool},
    ports::{audit::AuditError, model::ModelPort, store::StoreError},
    service::ledger::{Ledger, Reservation},
};

/// How long a cancelled effect may take to end.
const CANCEL_DEADLINE: Duration = Duration::from_secs(20);
/// Between two looks at what sessions have left of the day's time.
const DAY_LOOK: Duration = Duration::from_secs(5);
/// Wait between tries while the disk is full.
const DISK_FULL_WAIT: Duration = Duration::from_secs(3);

/// A session as the world may see it.
#[derive(Debug, Clone)]
pub struct Published {
    /// The session after the events that are on disk.
    pub state: Arc<SessionState>,
    /// Why nothing goes on although the session runs: a full disk.
    pub halted: Option<String>,
}

/// A request to a driver, and where its answer goes.
pub(super) struct Mail {
    pub(super) request: Request,
    pub(super) answer: oneshot::Sender<Result<Arc<SessionState>, SessionError>>,
}

/// What a driver is made of.
pub(super) struct Driver {
    pub(super) log: Log,
    pub(super) world: World,
    pub(super) model: Arc<dyn ModelPort>,
    pub(super) patience: Patience,
    pub(super) mailbox: mpsc::Receiver<Mail>,
    pub(super) published: watch::Sender<Published>,
    pub(super) progress: broadcast::Sender<Progress>,
    pub(super) shutdown: CancellationToken,
    /// The intent that this driver itself has recorded, in this life.
    pub(super) begun: Option<u64>,
    pub(super) ledger: Ledger,
    /// What is set aside for the model call under way.
    pub(super) reservation: Option<Reservation>,
    /// What the audit log is told of events once those are on disk.
    pub(super) deferred_records: Vec<Entry>,
}

/// Why a driver stops before its session has ended.
enum Stop {
    /// The daemon ends.
    Shutdown,
    /// The log cannot be written: nothing may be done any more.
    Log(LogError),
}

/// What ends a step before its outcome.
enum End {
    /// A person.
    Asked(Mail),
    /// A limit on time.
    Time(Scope),
}

/// When events are on disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum When {
    /// At once.
    Now,
    /// With those that follow: [`Log::defer`].
    WithTheNext,
}

impl From<LogError> for Stop {
    fn from(error: LogError) -> Self {
        Self::Log(error)
    }
}

impl Driver {
    /// Drives the session until it has ended or the daemon does.
    ///
    /// On cancel: leaves the effect under way to the next driver. On error: logs
    /// it; the session is interrupted and can be resumed.
    pub(super) async fn run(mut self) {
        let session = self.log.state().id().clone();
        let _time = self
            .ledger
            .keep_time(&session, self.runs_since(Instant::now()));
        match self.drive().await {
            Ok(()) => {}
            Err(Stop::Shutdown) => {
                let reason = "the daemon stops".to_owned();
                let events = match self.comes_to(&Request::Interrupt { reason }) {
                    Response::Accepted(events) => events,
                    Response::AlreadySo | Response::Refused(_) => Vec::new(),
                };
                match self.append_once(&events).await {
                    Ok(()) => self.publish(),
                    Err(error) => {
                        // The next daemon notices it all the same.
                        tracing::warn!(session_id = %session, %error, "interruption is not recorded");
                    }
                }
            }
            Err(Stop::Log(error)) => {
                tracing::error!(session_id = %session, %error, "session stops: its log cannot be written");
                self.publish_halted(error.to_string());
            }
        }
    }

    async fn drive(&mut self) -> Result<(), Stop> {
        loop {
            if self.shutdown.is_cancelled() {
                return Err(Stop::Shutdown);
            }
            // Before a request is taken: one that cannot be answered is refused.
            if !self.mailbox.is_empty() {
                self.flush().await?;
            }
            while let Ok(mail) = self.mailbox.try_recv() {
                self.answer(mail).await?;
            }
            let policy = self.world.gatekeeper.policy();
            let approved = self.world.gatekeeper.approved_for(self.log.state());
            let gate = Gate {
                policy: Some(&policy),
                project: &approved,
                now_ms: self.log.now_ms(),
            };
            let next = decide(self.log.state(), &gate);
            match &next {
                Next::Record(_) => {}
                Next::Perform(open) if open.effect.only_looks() => {}
                Next::Perform(_) | Next::Wait | Next::End => self.flush().await?,
            }
            match next {
                Next::Record(events) => {
                    let events = self.before_model_call(events);
                    match begins_a_look(&events) {
                        true => self.record(&events, When::WithTheNext).await?,
                        false => self.append(&events).await?,
                    }
                    self.begun = self.log.state().open.as_ref().map(|open| open.intent);
                }
                Next::Perform(open) => self.perform(open).await?,
                Next::Wait => {
                    let expiry = self.expiry();
                    let left = expiry.as_ref().map_or(Duration::MAX, |(_, left)| *left);
                    let mail = tokio::select! {
                        () = self.shutdown.cancelled() => return Err(Stop::Shutdown),
                        mail = self.mailbox.recv() => Some(mail.ok_or(Stop::Shutdown)?),
                        () = tokio::time::sleep(left), if expiry.is_some() => None,
                    };
                    match (mail, expiry) {
                        (Some(mail), _) => self.answer(mail).await?,
                        (None, Some((question, _))) => self.expire(question).await?,
                        (None, None) => {}
                    }
                }
                Next::End => return Ok(()),
            }
        }
    }

    /// The approval that the session waits for, and how long it still may.
    fn expiry(&self) -> Option<(String, Duration)> {
        let state = self.log.state();
        if state.condition != Condition::Waiting {
            return None;
        }
        let (question, approval) = state.approval_in_question()?;
        let left_ms = approval.expires_at_ms.saturating_sub(self.log.now_ms());
        let left = Duration::from_millis(u64::try_from(left_ms).unwrap_or(0));
        Some((question.id.clone(), left))
    }

    /// Refuses what nobody has answered, once its time has come by the clock.
    async fn expire(&mut self, question: String) -> Result<(), Stop> {
        if self.expiry().is_some_and(|(_, left)| !left.is_zero()) {
            return Ok(());
        }
        match self.comes_to(&Request::Expire { question }) {
            Response::Accepted(events) => self.append(&events).await,
            Response::AlreadySo | Response::Refused(_) => Ok(()),
        }
    }

    /// What goes before a model call: room in the conversation, and what it may
    /// cost set aside; or what comes instead of it. Other events are left as they
    /// are.
    fn before_model_call(&mut self, mut events: Vec<EventBody>) -> Vec<EventBody> {
        if events.last() != Some(&EventBody::ModelAsked) {
            return events;
        }
        if let Some(compacted) = compaction::due(self.log.state(), self.log.context()) {
            return vec![compacted];
        }
        if self.log.state().overflowed {
            let why = "the conversation does not fit the model's window, and there is nothing left to leave out; give a model with a larger one";
            return leaving(self.log.state(), Stage::Failed, why).into();
        }
        let (state, day) = (self.log.state(), Day::of(self.log.now_ms()));
        let options = &state.created.options;
        match spending::reached(state, &self.ledger.accounts(state.id(), day)) {
            Reached::Pause(instead) => return instead,
            Reached::Notes(notes) => drop(events.splice(..0, notes)),
        }
        let bound = Bound::of(
            self.log.context().measured(),
            options.limits.max_output_tokens,
        );
        let amounts = bound.amounts(options.prices.as_ref());
        match self.ledger.reserve(state.id(), day, amounts) {
            Err((scope, exhausted)) => spending::refused(state, scope, exhausted),
            Ok(reservation) => {
                let budget = &options.budget;
                let limited =
                    budget.tokens.is_some() || budget.money.is_some() || self.ledger.limits_days();
                let reserved = EventBody::BudgetReserved(Reserved {
                    amounts,
                    day,
                    limited,
                });
                events.insert(events.len() - 1, reserved);
                self.reservation = Some(reservation);
                events
            }
        }
    }

    /// Appends once, and keeps the accounts with what came of it.
    async fn append_once(&mut self, events: &[EventBody]) -> Result<(), LogError> {
        self.record_once(events, When::Now).await
    }

    async fn record_once(&mut self, events: &[EventBody], when: When) -> Result<(), LogError> {
        let before = self.log.state().spending.spent;
        let audit = self.world.audit.clone();
        if self.log.has_deferred() && audit.records_first(self.log.state(), events) {
            // What ended before is on record before.
            self.log.append(&[]).await?;
            let deferred = self.deferred_records.drain(..);
            audit.after_session_events(self.log.state(), deferred);
        }
        let records = audit.before_session_events(self.log.state(), events);
        let records = records.await.map_err(not_recorded)?;
        // The events are of now, however long the disk takes.
        let at = Instant::now();
        match when {
            When::Now => {
                self.log.append(events).await?;
                let deferred = self.deferred_records.drain(..);
                audit.after_session_events(self.log.state(), deferred.chain(records));
            }
            When::WithTheNext => {
                self.log.defer(events)?;
                self.deferred_records.extend(records);
            }
        }
        let spent = self.log.state().spending.spent.minus(before);
        let call = Amounts {
            time_ms: 0,
            ..spent
        };
        if call != Amounts::default()
            && let Some(reservation) = self.reservation.take()
        {
            reservation.settle(call);
        }
        if !events.is_empty() {
            let day = Day::of(self.log.state().updated_at_ms);
            let session = self.log.state().id();
            let since = self.runs_since(at);
            self.ledger.passed(session, day, spent.time_ms, since);
        }
        Ok(())
    }

    /// Since when the session's time passes, where it does: the last event was then.
    fn runs_since(&self, last_event: Instant) -> Option<Instant> {
        (self.log.state().condition == Condition::Running).then_some(last_event)
    }

    /// What a request comes to in the session as it is, now.
    fn comes_to(&self, request: &Request) -> Response {
        respond(self.log.state(), request, self.log.now_ms())
    }

    /// Whether a request ends the step under way: what runs in the workspace ends
    /// before the session does, or before the workspace is put back.
    fn ends_the_step(&self, request: &Request) -> bool {
        match request {
            Request::Cancel { .. } => !self.log.state().condition.has_ended(),
            Request::RollBack(_) => {
                matches!(self.comes_to(request), Response::Accepted(_))
            }
            Request::Pause { .. }
            | Request::Resume { .. }
            | Request::Answer(_)
            | Request::Expire { .. }
            | Request::Interrupt { .. } => false,
        }
    }

    /// Answers a request while nobody performs an effect. One that an earlier
    /// life left open ends before its session does.
    async fn answer(&mut self, mail: Mail) -> Result<(), Stop> {
        if self.ends_the_step(&mail.request)
            && let Some(open) = self.log.state().open.clone()
        {
            let ending = effects::abandon(&self.world, self.log.state(), &open);
            let step = &open.step;
            match tokio::time::timeout(CANCEL_DEADLINE, ending).await {
                Ok(Ok(())) => {}
                Ok(Err(trouble)) => {
                    tracing::warn!(%step, ?trouble, "what a cancelled step left may run on");
                }
                Err(_) => {
                    tracing::warn!(%step, "a cancelled step did not end within {CANCEL_DEADLINE:?}");
                }
            }
        }
        self.respond(mail).await
    }

    /// Records what a request comes to, and tells who asked. One that cannot be
    /// recorded because the disk is full is refused, not kept for later.
    async fn respond(&mut self, mail: Mail) -> Result<(), Stop> {
        let result = match self.comes_to(&mail.request) {
            Response::Accepted(events) => match self.append_once(&events).await {
                Ok(()) => {
                    self.publish();
                    Ok(self.snapshot())
                }
                Err(error @ LogError::Store(StoreError::DiskFull(_))) => Err(error.into()),
                Err(error) => return Err(error.into()),
            },
            Response::AlreadySo => Ok(self.snapshot()),
            Response::Refused(refusal) => Err(refusal.into()),
        };
        let _ = mail.answer.send(result);
        Ok(())
    }

    /// Brings about the effect under way and appends its outcome.
    async fn perform(&mut self, open: Open) -> Result<(), Stop> {
        let begun_here = self.begun == Some(open.intent);
        if open.effect == Effect::AskModel && !begun_here {
            let outcome = Outcome::NoReply(NoReply {
                error: "the daemon ended during the call".into(),
                then: AfterModelFailure::AskAgain,
                free: false,
                wait_ms: None,
            });
            return self.conclude(&open, outcome).await;
        }
        let cancel = CancellationToken::new();
        let context = EffectContext {
            world: self.world.clone(),
            model: self.model.clone(),
            patience: self.patience,
            state: match self.log.has_deferred() {
                true => Arc::new(self.log.state().clone()),
                false => self.snapshot(),
            },
            open: open.clone(),
            progress: self.progress.clone(),
            cancel: cancel.clone(),
        };
        let request = (open.effect == Effect::AskModel)
            .then(|| effects::request(self.log.state(), self.log.context()));
        let mut effect = std::pin::pin!(effects::perform(context, request));
        if let Some(result) = self.flush_beside(effect.as_mut()).await? {
            return self.settle(&open, result).await;
        }
        let mut last_event = Instant::now();
        let mut time = std::pin::pin!(tokio::time::sleep(self.next_look(last_event)));
        loop {
            let runs = self.log.state().condition == Condition::Running;
            let end = tokio::select! {
                biased;
                () = self.shutdown.cancelled() => return Err(Stop::Shutdown),
                result = &mut effect => return self.settle(&open, result).await,
                () = &mut time, if runs => match self.time_is_up(last_event) {
                    Some(scope) => End::Time(scope),
                    None => {
                        time.set(tokio::time::sleep(self.next_look(last_event)));
                        continue;
                    }
                },
                mail = self.mailbox.recv() => End::Asked(mail.ok_or(Stop::Shutdown)?),
            };
            let end = match end {
                End::Asked(mail) if !self.ends_the_step(&mail.request) => {
                    let before = self.log.state().sequence;
                    self.respond(mail).await?;
                    if self.log.state().sequence != before {
                        // Time stands still while a session is paused.
                        last_event = Instant::now();
                        time.set(tokio::time::sleep(self.next_look(last_event)));
                    }
                    continue;
                }
                end => end,
            };
            cancel.cancel();
            let outcome = match tokio::time::timeout(CANCEL_DEADLINE, &mut effect).await {
                Ok(outcome) => outcome.ok(),
                Err(_) => {
                    let step = &open.step;
                    tracing::warn!(%step, "a cancelled step did not end within {CANCEL_DEADLINE:?}");
                    None
                }
            };
            return match end {
                End::Asked(mail) => self.step_ended(&open, outcome, mail).await,
                End::Time(scope) => self.out_of_time(&open, outcome, scope).await,
            };
        }
    }

    /// Appends what is left to append, the intent of what only looks, while that
    /// looks; gives what came of it if it is done first.
    async fn flush_beside(
        &mut self,
        mut effect: Pin<&mut impl Future<Output = Result<Outcome, Trouble>>>,
    ) -> Result<Option<Result<Outcome, Trouble>>, Stop> {
        let mut result = None;
        let mut flush = std::pin::pin!(self.flush());
        loop {
            tokio::select! {
                biased;
                flushed = &mut flush => return flushed.map(|()| result),
                seen = &mut effect, if result.is_none() => result = Some(seen),
            }
        }
    }

    /// Takes on how an effect ended by itself.
    async fn settle(&mut self, open: &Open, result: Result<Outcome, Trouble>) -> Result<(), Stop> {
        match result {
            Ok(outcome) => self.conclude(open, outcome).await,
            Err(trouble) => self.trouble(trouble).await,
        }
    }

    /// Does what a step was ended for.
    async fn step_ended(
        &mut self,
        open: &Open,
        outcome: Option<Outcome>,
        mail: Mail,
    ) -> Result<(), Stop> {
        if let Some(outcome) = outcome {
            let events = outcome::events(self.log.state(), open, outcome);
            match self.append_once(&events).await {
                Ok(()) => self.publish(),
                Err(error @ LogError::Store(StoreError::DiskFull(_))) => {
                    // Who asked must not wait for space; what happened must.
                    let _ = mail.answer.send(Err(error.into()));
                    return self.append(&events).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
        self.respond(mail).await
    }

    /// What is left of the session's time; the last event was then.
    fn time_left(&self, last_event: Instant) -> Duration {
        time_left(self.log.state()).saturating_sub(last_event.elapsed())
    }

    /// When to look at the time again: other sessions use the day's, too.
    fn next_look(&self, last_event: Instant) -> Duration {
        let of_day = self.ledger.time_is_up_in(Day::of(self.log.now_ms()));
        let of_day = of_day.map_or(Duration::MAX, |left| left.min(DAY_LOOK));
        self.time_left(last_event).min(of_day)
    }

    /// Whose time is used up.
    fn time_is_up(&self, last_event: Instant) -> Option<Scope> {
        if self.time_left(last_event).is_zero() {
            return Some(Scope::Session);
        }
        let day = Day::of(self.log.now_ms());
        let is_over = (self.ledger.time_left(day)).is_some_and(|left| left.is_zero());
        is_over.then_some(Scope::Day(day))
    }

    /// Stops a session when time is used up in the middle of a step: its own time
    /// ends it, that of the day lets it wait.
    async fn out_of_time(
        &mut self,
        open: &Open,
        outcome: Option<Outcome>,
        scope: Scope,
    ) -> Result<(), Stop> {
        if let Some(outcome) = outcome {
            self.conclude(open, outcome).await?;
        }
        if self.log.state().condition != Condition::Running {
            return Ok(());
        }
        match scope {
            Scope::Session => self.fail(time_is_up(self.log.state())).await,
            Scope::Day(_) => self.append(&[spending::day_is_over()]).await,
        }
    }

    /// Takes on what came of an effect. It is on disk with what is decided next, or
    /// before anything else is done.
    async fn conclude(&mut self, open: &Open, outcome: Outcome) -> Result<(), Stop> {
        let events = outcome::events(self.log.state(), open, outcome);
        self.record(&events, When::WithTheNext).await
    }

    /// Appends what was left for the next append.
    async fn flush(&mut self) -> Result<(), Stop> {
        match self.log.has_deferred() {
            true => self.append(&[]).await,
            false => Ok(()),
        }
    }

    /// Deals with an effect that has no outcome.
    async fn trouble(&mut self, trouble: Trouble) -> Result<(), Stop> {
        match trouble {
            Trouble::DiskFull(reason) => self.wait_for_space(reason, None).await,
            Trouble::Outage(reason) => {
                if self.log.state().condition != Condition::Running {
                    return Ok(());
                }
                let reason = format!("{reason}; resume when that is mended");
                let to = Condition::Paused;
                self.append(&[EventBody::StateChanged { to, reason }]).await
            }
            Trouble::Fatal(reason) => self.fail(reason).await,
            // Only a cancel stops an effect, and then nobody asks what came of
            // it.
            Trouble::Stopped => Ok(()),
        }
    }

    async fn fail(&mut self, reason: String) -> Result<(), Stop> {
        let [left, entered] = leaving(self.log.state(), Stage::Failed, &reason);
        let ended = EventBody::StateChanged {
            to: Condition::Failed,
            reason,
        };
        self.append(&[left, entered, ended]).await
    }

    /// Appends, and tells the world.
    async fn append(&mut self, events: &[EventBody]) -> Result<(), Stop> {
        self.record(events, When::Now).await?;
        self.publish();
        Ok(())
    }

    /// Records events, however long the disk is full: nothing may be done that the
    /// log does not know, and nothing that is known may be lost.
    async fn record(&mut self, events: &[EventBody], when: When) -> Result<(), Stop> {
        loop {
            match self.record_once(events, when).await {
                Ok(()) => return Ok(()),
                Err(LogError::Store(full @ StoreError::DiskFull(_))) => {
                    self.wait_for_space(full.to_string(), Some(&full)).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// Waits a while for space, and answers requests meanwhile. They are
    /// refused with `full` while events wait to be appended: what a request
    /// comes to must not come before those.
    async fn wait_for_space(
        &mut self,
        reason: String,
        full: Option<&StoreError>,
    ) -> Result<(), Stop> {
        tracing::warn!(session_id = %self.log.state().id(), reason, "session halts");
        let _ = self.progress.send(Progress::Notice(reason.clone()));
        self.publish_halted(reason);
        let mut wait = std::pin::pin!(tokio::time::sleep(DISK_FULL_WAIT));
        loop {
            let mail = tokio::select! {
                () = self.shutdown.cancelled() => return Err(Stop::Shutdown),
                () = &mut wait => return Ok(()),
                mail = self.mailbox.recv() => mail.ok_or(Stop::Shutdown)?,
            };
            if let Some(full) = full {
                let refusal = LogError::Store(full.clone());
                let _ = mail.answer.send(Err(refusal.into()));
                continue;
            }
            self.answer(mail).await?;
            if self.log.state().condition != Condition::Running {
                return Ok(());
            }
        }
    }

    /// Shows the session as it is on disk.
    fn publish(&self) {
        self.world.gatekeeper.learn(self.log.state());
        let state = Arc::new(self.log.state().clone());
        let halted = None;
        self.published.send_replace(Published { state, halted });
    }

    /// Shows why nothing goes on, beside what was shown before.
    fn publish_halted(&self, reason: String) {
        let halt = |published: &mut Published| published.halted = Some(reason);
        self.published.send_modify(halt);
    }

    fn snapshot(&self) -> Arc<SessionState> {
        self.published.borrow().state.clone()
    }
}

/// Whether what only looks comes next.
fn begins_a_look(events: &[EventBody]) -> bool {
    match events.last() {
        Some(EventBody::ToolStarted { call, .. }) => {
            Tool::named(&call.name).is_some_and(Tool::only_looks)
        }
        _ => false,
    }
}

/// An approval that the audit log did not take, as the log's own failure: the
/// same follows.
fn not_recorded(error: AuditError) -> LogError {
    LogError::Store(match error {
        AuditError::DiskFull(place) => StoreError::DiskFull(place),
        AuditError::Damaged(_)
        | AuditError::Fault(_)
        | AuditError::Key { .. }
        | AuditError::Failed { .. } => StoreError::Failed {
            action: "record an approval in the audit log",
            message: error.to_string(),
        },
    })
}
