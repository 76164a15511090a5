//! Effects: what a session does beyond its log, each made so that doing the
//! same step again does nothing twice.
//!
//! An effect either has an [`Outcome`] or a [`Trouble`]. A trouble leaves the
//! intent open: the same step is settled later, by asking the part that knows.

mod model;
mod setup_file;
mod tools;
mod work;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

use super::{Progress, gatekeeper::Gatekeeper};
use crate::{
    domain::{
        artifact::ArtifactKind,
        audit::{Entry, Kind},
        backoff::{Backoff, PROVIDER_WAIT_MAX},
        checks::Site,
        context::Context,
        exec::ExitStatus,
        ids::{ArtifactId, StepId},
        recovery::{Catalogue, End},
        session::{
            outcome::Outcome,
            pull_request,
            state::{Effect, Open, SessionState},
            work::Work,
        },
        tools::Tool,
        workspace::Desired,
    },
    ports::{
        agent::{AgentError, AgentPort},
        forge::ForgePort,
        model::{ModelPort, ModelRequest},
        store::StorePort,
        workspaces::{WorkspaceAccessError, WorkspacesPort},
    },
    service::{
        artifacts::ArtifactError,
        audit::Audit,
        ci::LocalCi,
        commands::{CommandError, Commands},
        git::{BundleSpace, Git},
        proof::{ProofError, Prover},
        step::StepContext,
    },
};

/// The parts of the world that sessions act on. Cheap to clone.
#[derive(Clone)]
pub struct World {
    /// Records; for the hash of a log.
    pub store: Arc<dyn StorePort>,
    /// Commands in workspaces, with the workspaces and the artifacts.
    pub commands: Commands,
    /// Proofs and verifications.
    pub prover: Prover,
    /// The forge.
    pub forge: Arc<dyn ForgePort>,
    /// CI of the forge.
    pub ci: LocalCi,
    /// What branches are brought to the forge in.
    pub bundles: BundleSpace,
    /// Known failures.
    pub catalogue: Arc<Catalogue>,
    /// Where it is recorded what sessions do.
    pub audit: Audit,
    /// What sessions may do, and what people have approved for projects.
    pub gatekeeper: Gatekeeper,
}

/// How patient effects are.
#[derive(Debug, Clone, Copy)]
pub struct Patience {
    /// How long a workspace that does not answer is asked again before the
    /// session pauses.
    pub outage: Duration,
    /// What the workflow's waits between tries are divided by: 1, and more in
    /// tests.
    pub haste: u32,
    /// How often in a row a model is asked that begins to answer and does not
    /// end. Each try may cost, so each is a call of its own.
    pub model_tries: u32,
    /// Longest wait that a provider may ask for after such a call; beyond it the
    /// session pauses.
    pub provider_wait_max: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            outage: Duration::from_secs(300),
            haste: 1,
            model_tries: 3,
            provider_wait_max: PROVIDER_WAIT_MAX,
        }
    }
}

/// Why an effect has no outcome. Its intent stays open, except after `Fatal`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Trouble {
    /// The disk is full; the same again helps once there is space.
    DiskFull(String),
    /// A part of the world does not answer; a person has to look.
    Outage(String),
    /// Nothing can help.
    Fatal(String),
    /// The session was cancelled.
    Stopped,
}

/// Everything one effect needs.
pub(super) struct EffectContext {
    pub(super) world: World,
    pub(super) model: Arc<dyn ModelPort>,
    pub(super) patience: Patience,
    pub(super) state: Arc<SessionState>,
    pub(super) open: Open,
    pub(super) progress: broadcast::Sender<Progress>,
    pub(super) cancel: CancellationToken,
}

/// What the model is told; only for [`Effect::AskModel`].
pub(super) fn request(state: &SessionState, told: &Context) -> ModelRequest {
    ModelRequest {
        system: told.system().to_owned(),
        tools: told.tools().to_vec(),
        messages: told.messages().to_vec(),
        max_output_tokens: state.created.options.limits.max_output_tokens,
        turns_left_out: told.turns_left_out(),
    }
}

/// Brings about an effect, or finds out what became of it.
///
/// Dropped halfway it leaves what runs in the workspace running: the same step
/// joins it.
pub(super) async fn perform(
    context: EffectContext,
    request: Option<ModelRequest>,
) -> Result<Outcome, Trouble> {
    match context.open.effect.clone() {
        Effect::AskModel => match request {
            Some(request) => model::ask(&context, &request).await,
            None => Err(Trouble::Fatal("a model call without a request".into())),
        },
        Effect::RunTool {
            call,
            expected_hash,
        } => tools::run(&context, &call, expected_hash).await,
        Effect::DoWork { work, attempt } => work::run(&context, &work, attempt).await,
    }
}

/// Ends what an effect that nobody performs any more left running, and puts
/// back what it changed. Doing so twice is harmless.
pub(super) async fn abandon(
    world: &World,
    state: &SessionState,
    open: &Open,
) -> Result<(), Trouble> {
    let workspace = &state.created.workspace;
    let work = match &open.effect {
        Effect::AskModel => return Ok(()),
        Effect::RunTool { call, .. } if call.name != Tool::RunCommand.name() => return Ok(()),
        Effect::RunTool { .. } => None,
        Effect::DoWork { work, .. } => Some(work),
    };
    let known = world.commands.workspaces().get(workspace).await;
    // In a workspace that was stopped nothing runs; it is not started for this.
    if known.is_ok_and(|workspace| workspace.desired == Desired::Running) {
        let ended = world.commands.end_step(workspace, &open.step).await;
        ended.map_err(|error| Trouble::Outage(error.to_string()))?;
    }
    match work {
        Some(Work::Prove | Work::RunCi) => {
            for key in clean_copies(state) {
                let deleted = world.commands.workspaces().delete_clean_of(&key).await;
                deleted.map_err(|error| Trouble::Outage(error.to_string()))?;
            }
            Ok(())
        }
        Some(
            Work::BaseRun
            | Work::SnapshotStart
            | Work::SnapshotStage
            | Work::SnapshotAct
            | Work::RollBack { .. }
            | Work::Validate
            | Work::VerifyTodo { .. }
            | Work::Commit
            | Work::Publish
            | Work::OpenPullRequest,
        )
        | None => Ok(()),
    }
}

/// Keys of the clean workspaces that a session's proof and CI may have now.
pub(super) fn clean_copies(state: &SessionState) -> Vec<String> {
    let opened = state.pull_request.as_ref();
    let ci = opened.map(|opened| LocalCi::key(state.id(), &opened.pull_request));
    let proof = state.open.as_ref().map(|open| proof_copy(&open.step));
    ci.into_iter().chain(proof).collect()
}

/// Key of the clean workspace that a step proves in.
fn proof_copy(step: &StepId) -> String {
    format!("proof-{step}")
}

/// Where the session's checks run.
pub(super) fn site(state: &SessionState) -> Site {
    Site {
        workspace: state.created.workspace.clone(),
        directory: state.repository_dir(),
    }
}

impl EffectContext {
    /// Git in the session's repository.
    fn git(&self) -> Git {
        Git::new(self.world.commands.clone(), site(&self.state))
    }

    /// This step for the services that checks and proofs are made with.
    fn step(&self, output: impl Into<Option<mpsc::Sender<Bytes>>>) -> StepContext {
        StepContext {
            session: self.state.id().clone(),
            stage: self.state.stage,
            step: self.open.step.clone(),
            cancel: self.cancel.clone(),
            progress: output.into(),
        }
    }

    /// An entry of the audit log about this step.
    fn audit_entry(&self, kind: Kind) -> Entry {
        let entry = self.world.audit.entry(kind, "daemon");
        entry
            .in_workspace(&self.state.created.workspace)
            .in_session(self.state.id())
            .in_step(&self.open.step)
    }

    /// Records what is about to be done; it is on disk when this returns.
    async fn record_first(&self, entry: Entry) -> Result<(), Trouble> {
        match self.world.audit.record_durably(entry).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_disk_full() => Err(Trouble::DiskFull(error.to_string())),
            Err(error) => Err(Trouble::Outage(error.to_string())),
        }
    }

    /// Keeps a text that is too long to be shown whole.
    async fn keep(&self, title: &str, text: String) -> Result<ArtifactId, Trouble> {
        let about = self
            .step(None)
            .about(ArtifactKind::Output, pull_request::subject(title));
        let artifacts = self.world.commands.artifacts();
        match artifacts.put(about, text.into()).await {
            Ok(artifact) => Ok(artifact.id),
            Err(error) => {
                Err(artifact_trouble(&error).unwrap_or(Trouble::Outage(error.to_string())))
            }
        }
    }

    /// Does something with the agent, again and again while the workspace does
    /// not answer, for as long as patience lasts. The call must be one that may
    /// be made again: reads, and changes under a step id.
    async fn with_agent<T, F, Fut>(&self, call: F) -> Result<Result<T, AgentError>, Trouble>
    where
        F: Fn(Arc<dyn AgentPort>) -> Fut,
        Fut: Future<Output = Result<T, AgentError>>,
    {
        let mut outage = Outage::new(self.patience.outage);
        loop {
            let agent = tokio::select! {
                () = self.cancel.cancelled() => return Err(Trouble::Stopped),
                agent = self.world.commands.workspaces().agent(&self.state.created.workspace) => agent,
            };
            let error = match agent {
                Ok(agent) => {
                    let answer = tokio::select! {
                        () = self.cancel.cancelled() => return Err(Trouble::Stopped),
                        answer = call(agent) => answer,
                    };
                    match answer {
                        Err(error) if error.is_transient() => error.to_string(),
                        answer => return Ok(answer),
                    }
                }
                Err(error @ WorkspaceAccessError::Unavailable(_)) => error.to_string(),
                Err(
                    error @ (WorkspaceAccessError::Unknown(_) | WorkspaceAccessError::Broken(_)),
                ) => return Err(Trouble::Fatal(error.to_string())),
            };
            let notice = format!("{error}; trying again");
            let _ = self.progress.send(Progress::Notice(notice));
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Trouble::Stopped),
                again = outage.wait() => if !again {
                    return Err(Trouble::Outage(error));
                },
            }
        }
    }
}

impl EffectContext {
    /// Has something done to workspaces, again and again while they cannot be
    /// reached, for as long as patience lasts. The call must be one that may be
    /// made again. It is not cut short when the session is cancelled.
    async fn with_workspaces<T, F, Fut>(&self, call: F) -> Result<T, Trouble>
    where
        F: Fn(Arc<dyn WorkspacesPort>) -> Fut,
        Fut: Future<Output = Result<T, WorkspaceAccessError>>,
    {
        let mut outage = Outage::new(self.patience.outage);
        loop {
            let error = match call(self.world.commands.workspaces().clone()).await {
                Ok(done) => return Ok(done),
                Err(
                    error @ (WorkspaceAccessError::Unknown(_) | WorkspaceAccessError::Broken(_)),
                ) => return Err(Trouble::Fatal(error.to_string())),
                Err(error @ WorkspaceAccessError::Unavailable(_)) => error.to_string(),
            };
            let notice = format!("{error}; trying again");
            let _ = self.progress.send(Progress::Notice(notice));
            tokio::select! {
                () = self.cancel.cancelled() => return Err(Trouble::Stopped),
                again = outage.wait() => if !again {
                    return Err(Trouble::Outage(error));
                },
            }
        }
    }
}

/// Waits for something that does not answer, for a bounded time in all.
struct Outage {
    failed: u32,
    left: Duration,
}

impl Outage {
    const BACKOFF: Backoff = Backoff {
        first: Duration::from_millis(50),
        longest: Duration::from_secs(10),
    };

    fn new(total: Duration) -> Self {
        Self {
            failed: 0,
            left: total,
        }
    }

    /// Waits; `false` without waiting once the time is used up.
    async fn wait(&mut self) -> bool {
        if self.left.is_zero() {
            return false;
        }
        self.failed += 1;
        let wait = Self::BACKOFF.wait(self.failed, fastrand::f64());
        let wait = wait.min(self.left);
        self.left -= wait;
        tokio::time::sleep(wait).await;
        true
    }
}

/// Passes a command's output on to those who watch, until `work` ends.
async fn with_output<T>(
    progress: &broadcast::Sender<Progress>,
    work: impl AsyncFnOnce(mpsc::Sender<Bytes>) -> T,
) -> T {
    let (sender, mut output) = mpsc::channel(64);
    let forward = async {
        while let Some(data) = output.recv().await {
            let _ = progress.send(Progress::CommandOutput(data));
        }
    };
    let (result, ()) = tokio::join!(work(sender), forward);
    result
}

/// A command's error, where it is a trouble rather than a result.
fn command_trouble(error: &CommandError) -> Option<Trouble> {
    match error {
        CommandError::Cancelled => Some(Trouble::Stopped),
        CommandError::Artifact(error) => artifact_trouble(error),
        CommandError::Workspace(
            error @ (WorkspaceAccessError::Unknown(_) | WorkspaceAccessError::Broken(_)),
        ) => Some(Trouble::Fatal(error.to_string())),
        CommandError::Workspace(WorkspaceAccessError::Unavailable(_))
        | CommandError::Agent(_)
        | CommandError::Lost { .. } => None,
    }
}

/// How a command ended that did not do what it should.
fn end_of(status: &ExitStatus) -> End {
    match status {
        // Judged by what it says.
        ExitStatus::Code(0) => End::Failed,
        ExitStatus::Code(code) => End::Exit(*code),
        ExitStatus::Signal(signal) => End::Exit(128 + signal),
        ExitStatus::TimedOut(_) => End::TimedOut,
        ExitStatus::NotStarted(_) | ExitStatus::Unknown(_) => End::Failed,
    }
}

fn artifact_trouble(error: &ArtifactError) -> Option<Trouble> {
    error
        .is_disk_full()
        .then(|| Trouble::DiskFull(error.to_string()))
}

fn git_trouble(error: &crate::service::git::GitError) -> Option<Trouble> {
    use crate::service::git::GitError;
    match error {
        GitError::Command(error) => command_trouble(error),
        GitError::Refused { .. }
        | GitError::Unexpected { .. }
        | GitError::TooMuch { .. }
        | GitError::BundleTooLarge { .. }
        | GitError::Host { .. } => None,
    }
}

fn proof_trouble(error: &ProofError) -> Option<Trouble> {
    match error {
        ProofError::NotClean { .. } => None,
        ProofError::Git(error) => git_trouble(error),
        ProofError::Command(error) => command_trouble(error),
        ProofError::Artifact(error) => artifact_trouble(error),
    }
}
