//! Sessions: started, driven, watched and answered.
//!
//! Every session that has not ended has one driver, parked while it is paused
//! or waits. This service finds the driver and hands requests to it; it decides
//! nothing about a session itself. One session at a time works on a repository
//! of a workspace.

mod driver;
mod effects;
mod gatekeeper;
mod late_model;
mod log;
mod users;
mod watch;

#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use self::{
    driver::Published,
    effects::{Patience, World},
    gatekeeper::Gatekeeper,
    log::LogError,
    watch::{WatchItem, Watching},
};
use self::{
    driver::{Driver, Mail},
    late_model::LateModel,
    log::Log,
};
use crate::{
    domain::{
        budget::Limits,
        cognition,
        ids::{RepositoryName, SessionId, WorkspaceId},
        model_name::ModelName,
        prompts,
        session::{
            calls::{Calls, ModelCall},
            checkpoint::RollBackTo,
            event::{Condition, Created, EventBody},
            options::{SessionOptions, TASK_MAX_BYTES},
            request::{Answer, Request, RequestRefusal, Response, respond},
            spending::{self, Reserved},
            state::SessionState,
        },
        tools, workflow,
        workspace::Workspace,
    },
    ports::{
        clock::ClockPort,
        model::{ModelError, ModelPort},
        store::StorePort,
    },
    service::{ledger::Ledger, workspaces::WorkspaceUsers as _},
};

/// Requests that can wait for a driver; more wait at their callers.
const MAILBOX: usize = 16;
/// Progress kept for a slow watcher; older progress is lost to it.
const PROGRESS: usize = 512;

/// Makes the model a name stands for, for one session.
pub type ModelFactory =
    Arc<dyn Fn(&ModelName, &SessionId) -> Result<Arc<dyn ModelPort>, ModelError> + Send + Sync>;

/// What is happening right now; part of no log, lost to slow watchers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// More text of the model's reply.
    ModelText(String),
    /// More of the reasoning that the provider shows.
    ModelReasoning(String),
    /// More output of the command under way.
    CommandOutput(Bytes),
    /// A line about what is being waited for.
    Notice(String),
}

/// How sessions are kept.
#[derive(Debug, Clone, Copy)]
pub struct SessionSettings {
    /// Whether sessions that ran when the daemon ended go on by themselves.
    pub auto_resume: bool,
    /// How patient effects are.
    pub patience: Patience,
    /// What all sessions may spend on a day together.
    pub of_a_day: Limits,
}

impl Default for SessionSettings {
    fn default() -> Self {
        Self {
            auto_resume: true,
            patience: Patience::default(),
            of_a_day: Limits::default(),
        }
    }
}

/// What a session is started with.
#[derive(Debug, Clone)]
pub struct StartSession {
    /// Its id, chosen by the caller: the same id again, after a kill, finds the
    /// session that was started.
    pub id: SessionId,
    /// What is to be done.
    pub task: String,
    /// Its workspace.
    pub workspace: Workspace,
    /// Its repository; `None` means the only one.
    pub repository: Option<RepositoryName>,
    /// Options, defaults filled in.
    pub options: SessionOptions,
}

/// The sessions of a daemon. Cheap to clone.
#[derive(Clone)]
pub struct Sessions {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn StorePort>,
    clock: Arc<dyn ClockPort>,
    world: World,
    models: ModelFactory,
    settings: SessionSettings,
    ledger: Ledger,
    tasks: TaskTracker,
    shutdown: CancellationToken,
    /// Sessions that have not ended, by id. The lock is held for a look-up or an
    /// insert, never over an await.
    live: Mutex<HashMap<SessionId, Handle>>,
    /// Sessions that have ended, as a list shows them: their logs never change
    /// again. The lock is held for a look-up or an insert.
    ended: Mutex<HashMap<SessionId, Arc<SessionState>>>,
    /// Held while a session is started, so that two starts cannot both find a
    /// repository free.
    starting: tokio::sync::Mutex<()>,
}

/// The way to a driver.
#[derive(Clone)]
struct Handle {
    mailbox: mpsc::Sender<Mail>,
    published: tokio::sync::watch::Receiver<Published>,
    progress: broadcast::Sender<Progress>,
}

/// Why a session cannot be started, found or asked.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// There is none with this id.
    #[error("there is no session {0}")]
    Unknown(SessionId),
    /// The task is empty or too long.
    #[error("a task has 1 to {TASK_MAX_BYTES} bytes, this one has {0}")]
    TaskInvalid(usize),
    /// The workspace has no such repository, or several and none was named.
    #[error("{0}")]
    RepositoryUnknown(String),
    /// Another session works on the repository.
    #[error("session {session} works on {repository} in {workspace} and is {condition}", condition = condition.name())]
    Active {
        /// The other one.
        session: SessionId,
        /// Its repository.
        repository: RepositoryName,
        /// Its workspace's name.
        workspace: String,
        /// Its condition.
        condition: Condition,
    },
    /// The model cannot be used.
    #[error("the model {name} cannot be used: {source}")]
    Model {
        /// The name.
        name: ModelName,
        /// Why.
        source: ModelError,
    },
    /// A rollback would undo what another session does.
    #[error("session {other} works in {workspace} too, and a rollback would undo what it does")]
    Shared {
        /// The workspace's name.
        workspace: String,
        /// The other one.
        other: SessionId,
    },
    /// The session does not do what it was asked.
    #[error(transparent)]
    Refused(#[from] RequestRefusal),
    /// The log.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The daemon is ending.
    #[error("the daemon is stopping")]
    Stopping,
}

impl Sessions {
    /// The sessions of a store. [`resume_all`](Self::resume_all) brings back
    /// those that have not ended. Drivers run on `tasks`, which the owner waits
    /// for after firing `shutdown`.
    #[must_use]
    pub fn new(
        clock: Arc<dyn ClockPort>,
        world: World,
        models: ModelFactory,
        settings: SessionSettings,
        tasks: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let store = world.store.clone();
        Self {
            inner: Arc::new(Inner {
                store,
                clock,
                world,
                models,
                ledger: Ledger::new(settings.of_a_day),
                settings,
                tasks,
                shutdown,
                live: Mutex::new(HashMap::new()),
                ended: Mutex::new(HashMap::new()),
                starting: tokio::sync::Mutex::new(()),
            }),
        }
    }

    /// Gives every session that has not ended its driver back. Those that ran
    /// become interrupted, and go on by themselves where that is configured.
    /// A log that cannot be read is reported and left as it is.
    ///
    /// # Errors
    /// The store cannot list its sessions.
    pub async fn resume_all(&self) -> Result<(), SessionError> {
        let sessions = self.inner.store.sessions().await.map_err(LogError::from)?;
        for id in sessions {
            if let Err(error) = self.bring_back(&id).await {
                tracing::error!(session_id = %id, %error, "session cannot be brought back");
            }
        }
        self.delete_left_over_copies();
        Ok(())
    }

    /// Deletes the clean workspaces that no session's checks go on in, in a task
    /// of its own: the engine may not answer yet. On error: logs it; they are
    /// deleted at the next start.
    fn delete_left_over_copies(&self) {
        let handles: Vec<Handle> = self.live().values().cloned().collect();
        let used: Vec<String> = handles
            .iter()
            .flat_map(|handle| effects::clean_copies(&handle.published.borrow().state))
            .collect();
        let workspaces = self.inner.world.commands.workspaces().clone();
        self.inner.tasks.spawn(async move {
            if let Err(error) = workspaces.keep_clean(&used).await {
                tracing::warn!(%error, "clean workspaces of an earlier life are left");
            }
        });
    }

    async fn load(&self, id: &SessionId) -> Result<Option<Log>, LogError> {
        let inner = &self.inner;
        let redactions = inner.world.commands.redactions().clone();
        Log::load(inner.store.clone(), inner.clock.clone(), redactions, id).await
    }

    async fn bring_back(&self, id: &SessionId) -> Result<(), SessionError> {
        let auto_resume = self.inner.settings.auto_resume;
        let reason = "the daemon ended while it ran";
        self.drive_again(id, reason, auto_resume).await
    }

    /// Gives a session that has not ended a driver, where it has none; one that
    /// ran is interrupted for this reason.
    async fn drive_again(
        &self,
        id: &SessionId,
        reason: &str,
        auto_resume: bool,
    ) -> Result<(), SessionError> {
        let inner = &self.inner;
        let _one_at_a_time = inner.starting.lock().await;
        let Some(mut log) = self.load(id).await? else {
            return Ok(());
        };
        inner.world.gatekeeper.learn(log.state());
        if log.state().condition.has_ended() {
            self.open_account(log.state());
            self.remember_ended(log.state());
            return Ok(());
        }
        if self.handle(id).is_some() {
            return Ok(());
        }
        let name = log.state().created.options.model.clone();
        let model = self.model(&name, id);
        let reason = reason.to_owned();
        self.note(&mut log, Request::Interrupt { reason }).await?;
        let interrupted = log.state().condition == Condition::Interrupted;
        let model = match model {
            Ok(model) => {
                if interrupted && auto_resume {
                    let reason = "the daemon is back".to_owned();
                    self.note(&mut log, Request::Resume { reason }).await?;
                }
                model
            }
            // It has its driver all the same: people can look at it, cancel it,
            // and resume it once the model can be used.
            Err(error) => {
                if interrupted {
                    let reason = format!("{error}; resume when that is mended");
                    self.note(&mut log, Request::Pause { reason }).await?;
                }
                Arc::new(LateModel::new(inner.models.clone(), name, id.clone()))
            }
        };
        self.spawn(log, model);
        Ok(())
    }

    /// Records what a request comes to, before there is a driver.
    async fn note(&self, log: &mut Log, request: Request) -> Result<(), SessionError> {
        match respond(log.state(), &request, log.now_ms()) {
            Response::Accepted(events) => Ok(log.append(&events).await?),
            Response::AlreadySo => Ok(()),
            Response::Refused(refusal) => Err(refusal.into()),
        }
    }

    /// Starts a session; it is in the store when this returns.
    ///
    /// # Errors
    /// See [`SessionError`].
    pub async fn start(&self, start: StartSession) -> Result<Published, SessionError> {
        let task = start.task.trim();
        if task.is_empty() || task.len() > TASK_MAX_BYTES {
            return Err(SessionError::TaskInvalid(task.len()));
        }
        let _one_at_a_time = self.inner.starting.lock().await;
        let session = start.id;
        match self.get(&session).await {
            Ok(started) => return Ok(started),
            Err(SessionError::Unknown(_)) => {}
            Err(error) => return Err(error),
        }
        let repository = self
            .find_repository(&start.workspace, start.repository)
            .await?;
        self.refuse_second(&start.workspace.id, &repository)?;
        let model = self.model(&start.options.model, &session)?;
        let directory = format!("/workspace/{repository}");
        let created = Created {
            session: session.clone(),
            task: task.to_owned(),
            workspace: start.workspace.id,
            workspace_name: start.workspace.definition.name,
            repository,
            system: prompts::system(task, &directory, &start.options),
            tools: tools::definitions(start.options.edit_format),
            options: start.options,
        };
        let stage = workflow::first_stage(created.options.workflow);
        let inner = &self.inner;
        let log = Log::create(
            inner.store.clone(),
            inner.clock.clone(),
            inner.world.commands.redactions().clone(),
            &session,
            EventBody::Created(Box::new(created)),
            stage,
        )
        .await?;
        let handle = self.spawn(log, model);
        let published = handle.published.borrow().clone();
        Ok(published)
    }

    /// The repository to work on: of those that the workspace's record has, else
    /// of those that are in it.
    async fn find_repository(
        &self,
        workspace: &Workspace,
        named: Option<RepositoryName>,
    ) -> Result<RepositoryName, SessionError> {
        let unknown = match pick_repository(workspace, named.clone()) {
            Ok(repository) => return Ok(repository),
            Err(unknown) => unknown,
        };
        let workspaces = self.inner.world.commands.workspaces();
        match workspaces.find_repositories(&workspace.id).await {
            Ok(found) => pick_repository(&found, named),
            Err(error) => {
                tracing::warn!(workspace_id = %workspace.id, %error, "cannot look for repositories");
                Err(unknown)
            }
        }
    }

    fn refuse_second(
        &self,
        workspace: &WorkspaceId,
        repository: &RepositoryName,
    ) -> Result<(), SessionError> {
        for handle in self.live().values() {
            let state = handle.published.borrow().state.clone();
            let same =
                state.created.workspace == *workspace && state.created.repository == *repository;
            if same && !state.condition.has_ended() {
                return Err(SessionError::Active {
                    session: state.id().clone(),
                    repository: repository.clone(),
                    workspace: state.created.workspace_name.to_string(),
                    condition: state.condition,
                });
            }
        }
        Ok(())
    }

    fn model(
        &self,
        name: &ModelName,
        session: &SessionId,
    ) -> Result<Arc<dyn ModelPort>, SessionError> {
        (self.inner.models)(name, session).map_err(|source| SessionError::Model {
            name: name.clone(),
            source,
        })
    }

    fn open_account(&self, state: &SessionState) {
        let ledger = &self.inner.ledger;
        let spent = &state.spending.by_day;
        ledger.open(state.id(), spending::limits(state), spent);
    }

    fn spawn(&self, log: Log, model: Arc<dyn ModelPort>) -> Handle {
        let inner = &self.inner;
        self.open_account(log.state());
        let reservation = log.state().spending.reserved.map(|reserved| {
            let Reserved { amounts, day, .. } = reserved;
            (inner.ledger).set_aside_again(log.state().id(), day, amounts)
        });
        let id = log.state().id().clone();
        let (mail, mailbox) = mpsc::channel(MAILBOX);
        let (progress, _) = broadcast::channel(PROGRESS);
        let state = Arc::new(log.state().clone());
        let halted = None;
        let (publish, published) = tokio::sync::watch::channel(Published { state, halted });
        let handle = Handle {
            mailbox: mail,
            published,
            progress: progress.clone(),
        };
        let driver = Driver {
            log,
            world: inner.world.clone(),
            model,
            patience: inner.settings.patience,
            mailbox,
            published: publish,
            progress,
            shutdown: inner.shutdown.clone(),
            begun: None,
            ledger: inner.ledger.clone(),
            reservation,
            deferred_records: Vec::new(),
        };
        self.live().insert(id.clone(), handle.clone());
        let sessions = self.clone();
        inner.tasks.spawn(async move {
            let ran = AssertUnwindSafe(Box::pin(driver.run())).catch_unwind();
            let has_failed = ran.await.is_err();
            sessions.live().remove(&id);
            if has_failed {
                sessions.take_over(&id).await;
            }
        });
        handle
    }

    /// Has a session whose driver ended by a defect of the daemon stand still, so
    /// that it neither seems to run nor meets the same defect at once.
    async fn take_over(&self, id: &SessionId) {
        tracing::error!(session_id = %id, "a defect of the daemon ended the driver of a session");
        let reason = "a defect of the daemon ended its last step; the daemon's log has more";
        if let Err(error) = self.drive_again(id, reason, false).await {
            tracing::error!(session_id = %id, %error, "session cannot be brought back");
        }
    }

    fn live(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Handle>> {
        self.inner
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn handle(&self, id: &SessionId) -> Option<Handle> {
        self.live().get(id).cloned()
    }

    /// A session as it is.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], or its log cannot be read.
    pub async fn get(&self, id: &SessionId) -> Result<Published, SessionError> {
        if let Some(handle) = self.handle(id) {
            return Ok(handle.published.borrow().clone());
        }
        let log = self
            .load(id)
            .await?
            .ok_or_else(|| SessionError::Unknown(id.clone()))?;
        let state = Arc::new(log.state().clone());
        Ok(Published {
            state,
            halted: None,
        })
    }

    /// The model calls of a session so far.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], or its log cannot be read.
    pub async fn model_calls(&self, id: &SessionId) -> Result<Vec<ModelCall>, SessionError> {
        let mut calls = Calls::default();
        let mut next = 1;
        loop {
            let page = log::read(self.inner.store.as_ref(), id, next).await?;
            let Some(last) = page.last() else {
                return match next {
                    1 => Err(SessionError::Unknown(id.clone())),
                    _ => Ok(calls.into_vec()),
                };
            };
            next = last.sequence + 1;
            page.iter().for_each(|event| calls.apply(event));
        }
    }

    /// A session as a list shows it.
    async fn listed(&self, id: &SessionId) -> Result<Published, SessionError> {
        let known = self.ended().get(id).cloned();
        if let Some(state) = known {
            let halted = None;
            return Ok(Published { state, halted });
        }
        let session = self.get(id).await?;
        if session.state.condition.has_ended() {
            self.remember_ended(&session.state);
        }
        Ok(session)
    }

    fn remember_ended(&self, state: &SessionState) {
        let listed = Arc::new(state.listed());
        self.ended().insert(state.id().clone(), listed);
    }

    fn ended(&self) -> std::sync::MutexGuard<'_, HashMap<SessionId, Arc<SessionState>>> {
        self.inner
            .ended
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Every session, newest first, without what only a driver needs. One whose log cannot be read is reported
    /// and left out.
    ///
    /// # Errors
    /// The store cannot list its sessions.
    pub async fn list(&self) -> Result<Vec<Published>, SessionError> {
        let ids = self.inner.store.sessions().await.map_err(LogError::from)?;
        let mut sessions = Vec::with_capacity(ids.len());
        for id in ids {
            match self.listed(&id).await {
                Ok(session) => sessions.push(session),
                Err(error) => tracing::error!(session_id = %id, %error, "session cannot be read"),
            }
        }
        Ok(sessions)
    }

    /// Sessions that wait for a person to approve something, as they are.
    #[must_use]
    pub fn waiting_for_approval(&self) -> Vec<Arc<SessionState>> {
        let live = self.live();
        let states = live
            .values()
            .map(|handle| handle.published.borrow().state.clone());
        states
            .filter(|state| state.approval_in_question().is_some())
            .collect()
    }

    /// Stops a session after the step under way. A paused one is left as it is.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`RequestRefusal::Ended`].
    pub async fn pause(&self, id: &SessionId) -> Result<Published, SessionError> {
        let reason = "a person paused it".to_owned();
        self.ask(id, Request::Pause { reason }).await
    }

    /// Goes on with a paused, waiting or interrupted session. One that runs is
    /// left as it is, and so is one that waits for a person's verdict.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`RequestRefusal::Ended`].
    pub async fn resume(&self, id: &SessionId) -> Result<Published, SessionError> {
        let reason = "a person resumed it".to_owned();
        self.ask(id, Request::Resume { reason }).await
    }

    /// Ends a session, and what it runs in its workspace. An ended one is left
    /// as it is.
    ///
    /// # Errors
    /// [`SessionError::Unknown`].
    pub async fn cancel(&self, id: &SessionId, reason: &str) -> Result<Published, SessionError> {
        let reason = match reason.trim() {
            "" => "a person cancelled it".to_owned(),
            words => format!("a person cancelled it: {words}"),
        };
        self.ask(id, Request::Cancel { reason }).await
    }

    /// Puts a session that stands still, and its workspace, back to a snapshot of
    /// its own, and goes on from there. One that has begun already is left as it is.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], [`SessionError::Shared`] and [`RequestRefusal`].
    pub async fn roll_back(
        &self,
        id: &SessionId,
        to: RollBackTo,
    ) -> Result<Published, SessionError> {
        let session = self.get(id).await?;
        if to.has_begun(&session.state) {
            return Ok(session);
        }
        let workspace = &session.state.created.workspace;
        let mut others = self.sessions_in(workspace).await;
        others.retain(|other| other != id);
        if let Some(other) = others.into_iter().next() {
            let workspace = session.state.created.workspace_name.to_string();
            return Err(SessionError::Shared { workspace, other });
        }
        self.ask(id, Request::RollBack(to)).await
    }

    /// Answers what a session asks.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] and [`RequestRefusal`].
    pub async fn answer(&self, id: &SessionId, answer: Answer) -> Result<Published, SessionError> {
        self.ask(id, Request::Answer(answer)).await
    }

    async fn ask(&self, id: &SessionId, request: Request) -> Result<Published, SessionError> {
        if let Some(handle) = self.handle(id) {
            let (answer, answered) = oneshot::channel();
            let request = request.clone();
            if handle.mailbox.send(Mail { request, answer }).await.is_ok()
                && let Ok(result) = answered.await
            {
                let state = result?;
                let halted = handle.published.borrow().halted.clone();
                return Ok(Published { state, halted });
            }
            if self.inner.shutdown.is_cancelled() {
                return Err(SessionError::Stopping);
            }
        }
        // It has ended, perhaps just now: the log says how.
        let session = self.get(id).await?;
        match respond(&session.state, &request, self.inner.clock.now_ms()) {
            Response::AlreadySo => Ok(session),
            Response::Refused(refusal) => Err(refusal.into()),
            Response::Accepted(_) => {
                // Its driver is gone although it has not ended: give it one.
                self.bring_back(id).await?;
                match self.handle(id) {
                    Some(_) => Box::pin(self.ask(id, request)).await,
                    None => Err(SessionError::Stopping),
                }
            }
        }
    }

    /// What a session's log says of its thinking.
    ///
    /// # Errors
    /// [`SessionError::Unknown`], or its log cannot be read.
    pub async fn cognition(&self, id: &SessionId) -> Result<cognition::Report, SessionError> {
        let mut events = Vec::new();
        loop {
            let next = events.len() as u64 + 1;
            let page = log::read(self.inner.store.as_ref(), id, next).await?;
            if page.is_empty() {
                break;
            }
            events.extend(page);
        }
        if events.is_empty() {
            return Err(SessionError::Unknown(id.clone()));
        }
        Ok(cognition::report(&events))
    }

    /// The session's events after a sequence number, in order and without gaps,
    /// and with `follow` what comes until it has ended, progress mixed in.
    ///
    /// # Errors
    /// [`SessionError::Unknown`].
    pub async fn watch(
        &self,
        id: &SessionId,
        after: u64,
        follow: bool,
    ) -> Result<Watching, SessionError> {
        let handle = self.handle(id);
        if handle.is_none() {
            self.get(id).await?;
        }
        let live = handle.filter(|_| follow).map(|handle| watch::Live {
            published: handle.published,
            progress: handle.progress.subscribe(),
        });
        Ok(watch::start(
            &self.inner.tasks,
            self.inner.store.clone(),
            id.clone(),
            after,
            live,
            self.inner.shutdown.clone(),
        ))
    }
}

fn pick_repository(
    workspace: &Workspace,
    named: Option<RepositoryName>,
) -> Result<RepositoryName, SessionError> {
    let name = &workspace.definition.name;
    let known: Vec<&str> = workspace
        .repositories
        .iter()
        .map(|repository| repository.name.as_str())
        .collect();
    let unknown = |message: String| Err(SessionError::RepositoryUnknown(message));
    match (named, workspace.repositories.as_slice()) {
        (_, []) => unknown(format!("workspace {name} has no repository")),
        (None, [only]) => Ok(only.name.clone()),
        (None, _) => unknown(format!(
            "workspace {name} has several repositories, name one: {}",
            known.join(", ")
        )),
        (Some(wanted), repositories) => {
            if repositories
                .iter()
                .any(|repository| repository.name == wanted)
            {
                return Ok(wanted);
            }
            unknown(format!(
                "workspace {name} has no repository {wanted}; it has: {}",
                known.join(", ")
            ))
        }
    }
}
