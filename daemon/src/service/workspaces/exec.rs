//! Following a command over any number of links.
//!
//! The link to an agent may drop and come back while a command runs; who reads
//! the command's output does not notice: the stream goes on at the byte where
//! it was cut.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::BoxStream};

use super::{UseGuard, Workspaces, WorkspacesError};
use crate::{
    domain::{
        exec::{Exec, ExecEvent, ExecSpec, OutputOffsets, OutputStream, Reading},
        ids::{ExecId, WorkspaceId},
        workspace::Desired,
    },
    ports::agent::{AgentError, AgentPort},
};

/// How long a workspace may be without a link before its readers are told.
const RELINK_TIMEOUT: Duration = Duration::from_secs(30);

/// What to follow.
#[derive(Debug, Clone)]
pub enum Follow {
    /// A command to start, or to find: the id decides.
    Run(ExecId, Box<ExecSpec>),
    /// A command that was started before.
    Attach(ExecId, OutputOffsets, Reading),
}

type Events = BoxStream<'static, Result<ExecEvent, AgentError>>;

impl Workspaces {
    /// Follows a command, to its exit or as far as is asked for, over links that
    /// drop and come back. The first event is [`ExecEvent::Attached`], once.
    ///
    /// # Errors
    /// A workspace that does not come up, what the agent refuses, or a link
    /// that stays away for half a minute. The command runs on.
    pub async fn follow(
        &self,
        id: &WorkspaceId,
        what: Follow,
    ) -> Result<BoxStream<'static, Result<ExecEvent, WorkspacesError>>, WorkspacesError> {
        self.mark_used(id).await?;
        self.follow_quietly(id, what).await
    }

    /// As [`follow`](Self::follow), for the daemon's own part of a setup.
    pub(super) async fn follow_quietly(
        &self,
        id: &WorkspaceId,
        what: Follow,
    ) -> Result<BoxStream<'static, Result<ExecEvent, WorkspacesError>>, WorkspacesError> {
        let agent = self.agent_quietly(id).await?;
        let in_use = self.use_of(id);
        let (exec, offsets, reading) = match &what {
            Follow::Run(exec, _) => (exec.clone(), OutputOffsets::default(), Reading::Follow),
            Follow::Attach(exec, offsets, reading) => (exec.clone(), *offsets, *reading),
        };
        let events = open(&*agent, &what);
        let reader = Reader {
            service: self.clone(),
            workspace: id.clone(),
            what,
            exec,
            offsets,
            reading,
            attached: false,
            events,
            _in_use: in_use,
        };
        Ok(futures_util::stream::unfold(Some(reader), |reader| async {
            let mut reader = reader?;
            match reader.next().await? {
                Ok(event @ ExecEvent::Exited(_)) => Some((Ok(event), None)),
                Ok(event) => Some((Ok(event), Some(reader))),
                Err(error) => Some((Err(error), None)),
            }
        })
        .boxed())
    }

    /// One command as it is now.
    ///
    /// # Errors
    /// A workspace that does not come up, or a command that it does not know,
    /// in the agent's words.
    pub async fn exec(&self, id: &WorkspaceId, exec: &ExecId) -> Result<Exec, WorkspacesError> {
        let found = self.agent(id).await?.get(exec).await?;
        let unknown = || AgentError::Refused {
            code: "EXEC_UNKNOWN".to_owned(),
            message: format!("there is no command {exec} in this workspace"),
        };
        Ok(found.ok_or_else(unknown)?)
    }

    /// The agent of a workspace that should run, after its link was lost. Never
    /// starts one that a person stopped; waits while one is paused.
    ///
    /// # Errors
    /// [`WorkspacesError::Stopped`], or no link in time.
    pub async fn agent_again(
        &self,
        id: &WorkspaceId,
    ) -> Result<Arc<dyn AgentPort>, WorkspacesError> {
        let mut changes = self.inner.index.changes();
        loop {
            changes.mark_unchanged();
            let workspace = self.record(id)?;
            let name = workspace.definition.name.clone();
            match workspace.desired {
                Desired::Running => break,
                // Whoever follows a command that is frozen waits with it.
                Desired::Paused => {}
                Desired::Stopped => return Err(WorkspacesError::Stopped(name)),
                Desired::Deleted => return Err(WorkspacesError::Deleting(name)),
            }
            // The index lives as long as this service.
            let _ = changes.changed().await;
        }
        Ok(self.inner.links.connected(id, RELINK_TIMEOUT).await?)
    }
}

fn open(agent: &dyn AgentPort, what: &Follow) -> Events {
    match what {
        Follow::Run(id, spec) => agent.run(id, spec),
        Follow::Attach(id, offsets, reading) => agent.attach(id, *offsets, *reading),
    }
}

struct Reader {
    service: Workspaces,
    workspace: WorkspaceId,
    what: Follow,
    exec: ExecId,
    /// The next byte of each output.
    offsets: OutputOffsets,
    reading: Reading,
    /// Whether the reader has been told of the command.
    attached: bool,
    events: Events,
    /// Whoever follows a command uses its workspace.
    _in_use: UseGuard,
}

impl Reader {
    /// Nothing at the end of what there is, where no more is asked for.
    async fn next(&mut self) -> Option<Result<ExecEvent, WorkspacesError>> {
        loop {
            let lost = match self.events.next().await {
                Some(Ok(ExecEvent::Attached(_))) if self.attached => continue,
                Some(Ok(event)) => {
                    self.note(&event);
                    return Some(Ok(event));
                }
                Some(Err(error)) if error.is_transient() => error,
                Some(Err(error)) => return Some(Err(error.into())),
                None if self.reading == Reading::NoFollow => return None,
                None => AgentError::Unreachable("the stream ended".to_owned()),
            };
            if let Err(error) = self.reopen(&lost).await {
                return Some(Err(error));
            }
        }
    }

    fn note(&mut self, event: &ExecEvent) {
        let (stream, next) = match event {
            ExecEvent::Attached(_) => {
                self.attached = true;
                return;
            }
            ExecEvent::Exited(_) => return,
            ExecEvent::Output {
                stream,
                offset,
                data,
            } => (stream, offset + data.len() as u64),
            ExecEvent::Gap(gap) => (&gap.stream, gap.to),
        };
        match stream {
            OutputStream::Stdout => self.offsets.stdout = next,
            OutputStream::Stderr => self.offsets.stderr = next,
        }
    }

    /// Goes on where the link was cut. A command that nobody has been told of
    /// is asked for again by its id, which starts nothing twice.
    async fn reopen(&mut self, error: &AgentError) -> Result<(), WorkspacesError> {
        // A link that is still the current one may refuse at once; give a new
        // one the time to come.
        const PAUSE: Duration = Duration::from_millis(20);
        tracing::debug!(workspace_id = %self.workspace, exec_id = %self.exec, %error,
            "following again");
        tokio::time::sleep(PAUSE).await;
        let agent = self.service.agent_again(&self.workspace).await?;
        self.events = if self.attached {
            agent.attach(&self.exec, self.offsets, self.reading)
        } else {
            open(&*agent, &self.what)
        };
        Ok(())
    }
}
