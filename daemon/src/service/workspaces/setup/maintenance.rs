//! What a repository wants done at each start of the workspace's container.
//!
//! It is done before anybody is let in, once for each start, by the setup file
//! that is checked out then. The ids of its commands name the start: a daemon
//! that comes while they run joins them, and one that comes later finds them
//! done. A failure is said and keeps nobody out.

use std::time::Duration;

use tokio::time::Instant;

use super::{super::Workspaces, command};
use crate::{
    domain::{
        exec::{Leftovers, SignalTarget},
        ids::{RepositoryName, WorkspaceId},
        setup::{SetupState, StartStamp},
        setup_file::SetupFile,
        workspace_event::Happening,
    },
    ports::agent::AgentPort,
    service::redaction::Redactions,
    service::workspaces::{WorkspacesError, checkout::directory_of},
};

/// Between SIGTERM and SIGKILL for a command that took too long.
const GRACE_MS: u32 = 2_000;

impl Workspaces {
    /// Does the maintenance of a workspace whose agent has just come up, unless
    /// it was done for this start; the caller holds its lock.
    pub(in crate::service::workspaces) async fn maintain(
        &self,
        id: &WorkspaceId,
        agent: &dyn AgentPort,
    ) {
        if let Err(error) = self.try_maintain(id, agent).await {
            tracing::warn!(workspace_id = %id, %error, "maintenance is left out");
        }
    }

    async fn try_maintain(
        &self,
        id: &WorkspaceId,
        agent: &dyn AgentPort,
    ) -> Result<(), WorkspacesError> {
        let record = self.record(id)?;
        if record.repositories.is_empty() || record.setup.is_restoring() {
            return Ok(());
        }
        let Some(start) = self.start_of(id).await? else {
            return Ok(());
        };
        if record.setup.maintained.as_ref() == Some(&start) {
            return Ok(());
        }
        let mut problems = Vec::new();
        for repository in &record.repositories {
            let setup = record.setup.repositories.get(&repository.name);
            // The first maintenance comes after the setup.
            if setup.is_some_and(|setup| setup.state == SetupState::Initializing) {
                continue;
            }
            let problem = self
                .maintain_one(id, agent, &repository.name, &start.0)
                .await;
            problems.push((repository.name.clone(), problem));
        }
        self.change_setup_held(id, |setup| {
            setup.maintained = Some(start);
            setup.maintenance_problems = (problems.into_iter())
                .filter_map(|(name, problem)| Some((name, problem?)))
                .collect();
        })
        .await
    }

    /// Does the maintenance of a repository that has just been set up by this
    /// run. Returns why it failed.
    pub(super) async fn first_maintenance(
        &self,
        id: &WorkspaceId,
        name: &RepositoryName,
        run: &str,
    ) -> Result<Option<String>, WorkspacesError> {
        let agent = self.agent_quietly(id).await?;
        let Some(start) = self.start_of(id).await? else {
            return Ok(None);
        };
        let problem = self.maintain_one(id, &*agent, name, run).await;
        self.change_setup(id, |setup| {
            setup.maintained = Some(start);
            match &problem {
                Some(problem) => (setup.maintenance_problems).insert(name.clone(), problem.clone()),
                None => setup.maintenance_problems.remove(name),
            };
        })
        .await?;
        Ok(problem)
    }

    async fn start_of(&self, id: &WorkspaceId) -> Result<Option<StartStamp>, WorkspacesError> {
        let container = self.inner.runtime.find(id).await?;
        Ok(container.map(|container| container.start))
    }

    async fn maintain_one(
        &self,
        id: &WorkspaceId,
        agent: &dyn AgentPort,
        name: &RepositoryName,
        occasion: &str,
    ) -> Option<String> {
        let file = match self.setup_file_in(agent, name).await {
            Ok(Some(Ok(file))) => file,
            Ok(Some(Err(error))) => return Some(error.to_string()),
            Ok(None) => return None,
            Err(error) => return Some(error.to_string()),
        };
        if file.maintenance.is_empty() {
            return None;
        }
        tracing::info!(workspace_id = %id, repository = %name, "maintenance begins");
        let problem = run_all(agent, name, &file, occasion, &self.inner.options.redactions)
            .await
            .err();
        match &problem {
            Some(problem) => {
                tracing::warn!(workspace_id = %id, repository = %name, problem,
                    "maintenance failed");
                if let Ok(record) = self.record(id) {
                    let problem = format!("the maintenance of {name} failed: {problem}");
                    let what = Happening::SetupFailed { problem };
                    self.inner.events.record(&record, what).await;
                }
            }
            None => tracing::info!(workspace_id = %id, repository = %name, "maintenance done"),
        }
        problem
    }
}

/// Runs every command of a file's `maintenance`, or joins it: once for each
/// occasion. The error is for a person.
async fn run_all(
    agent: &dyn AgentPort,
    name: &RepositoryName,
    file: &SetupFile,
    occasion: &str,
    redactions: &Redactions,
) -> Result<(), String> {
    const DIGITS: usize = 16;
    let hash = blake3::hash(format!("{name}/{occasion}").as_bytes()).to_hex();
    let limit = file.maintenance_timeout;
    let limit_ms = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
    let deadline = Instant::now() + limit;
    for (number, command) in file.maintenance.iter().enumerate() {
        let exec = format!("maintenance-{}.{number}", &hash[..DIGITS]);
        // What it starts in the background, a database say, is there to stay.
        let spec = command::spec(command, &directory_of(name), limit_ms, Leftovers::Keep);
        let running = command::run_over(agent, &exec, &spec, redactions);
        let Ok(ran) = tokio::time::timeout_at(deadline, running).await else {
            end(agent, &exec).await;
            return Err(format!(
                "`{}`: maintenance took more than {} s",
                command.run,
                limit.as_secs()
            ));
        };
        let ran = ran.map_err(|error| format!("`{}`: {error}", command.run))?;
        if !ran.status.is_success() {
            return Err(ran.problem(command));
        }
    }
    Ok(())
}

/// Ends a command that took too long, as well as can be done now.
async fn end(agent: &dyn AgentPort, exec: &str) {
    const PATIENCE: Duration = Duration::from_secs(5);
    let Ok(exec) = command::exec_id(exec) else {
        return;
    };
    let target = SignalTarget::End { grace_ms: GRACE_MS };
    let ended = tokio::time::timeout(PATIENCE, agent.signal(&exec, None, target)).await;
    if !matches!(ended, Ok(Ok(()))) {
        tracing::warn!(exec_id = %exec, "a maintenance command that took too long is left");
    }
}
