//! The setup of a repository: what its `compy.toml` wants done once, done once.
//!
//! ```text
//! add_repository: fetch -> plan -+- result known, workspace pristine: restore the baked
//!                                |  snapshot in place, then put the wanted commit there
//!                                `- else: check out, run `initialize`, keep the result
//!                         -> maintenance
//! ```
//!
//! Commands are ordinary durable ones under ids that the run decides, so that a
//! daemon that was killed finds them running, or ended. Everything runs inside,
//! as whoever the file names, under the workspace's egress.
//!
//! A result is kept only if nobody but the daemon has used the workspace until
//! then: a second workspace gets the first one's setup and nothing else of it.

mod command;
mod maintenance;

pub(in crate::service) use self::command::spec as command_spec;

use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Workspaces, WorkspacesError,
    checkout::directory_of,
    git_setup::{FetchedSetup, ReadSetup},
};
use crate::{
    domain::{
        exec::Leftovers,
        ids::{RepositoryName, SnapshotId, WorkspaceId},
        setup::{
            RepositorySetup, SetupIngredients, SetupKey, SetupResult, SetupSource, SetupState,
            WorkspaceSetup,
        },
        setup_file::{SETUP_FILE, SetupFile},
        workspace::{Desired, Purpose, Workspace},
        workspace_event::Happening,
    },
    ports::agent::AgentPort,
};

/// Where setups are kept; set by the owner of snapshots.
#[async_trait]
pub trait BakedSetups: Send + Sync {
    /// The snapshot that the result of a setup is in, if it can be restored.
    async fn find(&self, key: &SetupKey) -> Option<SnapshotId>;

    /// Puts a snapshot in place of everything that is in a workspace. The error
    /// is for a person; the workspace is as it was then.
    async fn restore(&self, workspace: &WorkspaceId, snapshot: &SnapshotId) -> Result<(), String>;

    /// Takes a snapshot of a workspace and keeps it under a key; `None` when
    /// somebody used the workspace until it was taken. The error is for a
    /// person.
    async fn keep(
        &self,
        workspace: &WorkspaceId,
        key: &SetupKey,
    ) -> Result<Option<SnapshotId>, String>;
}

/// What decides about the setup of a repository that is added.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SetupChoice {
    /// The setup file of the commit that is checked out.
    OwnFile,
    /// The setup file of another commit: what is checked out has no say in how
    /// it is set up.
    FileOf {
        /// The commit, in hex.
        commit: String,
        /// Source of the repository in the workspace whose setup this is like;
        /// `None` where the daemon does not vouch for it.
        source: Option<String>,
    },
    /// None.
    Skip,
}

/// The beginning of a setup.
#[derive(Debug)]
pub(super) enum Begin {
    /// With a check-out.
    CheckOut,
    /// With a snapshot, and then the wanted commit.
    Restore(SnapshotId),
    /// With the wanted commit: a snapshot is in place, and a kill came before
    /// the commit was.
    InPlace,
}

/// A repository whose setup is planned.
pub(super) struct Planned<'a> {
    pub(super) name: &'a RepositoryName,
    /// Who asks.
    pub(super) key: &'a str,
    /// Where the repository comes from, as far as its setup goes.
    pub(super) source: SetupSource<'a>,
    pub(super) fetched: &'a FetchedSetup,
    /// Whether the directory is there, from a snapshot that was put in place for
    /// a request that a kill cut off.
    pub(super) half_way: bool,
}

impl Workspaces {
    /// Names the keeper of setups, once; until then nothing is kept.
    pub fn set_baked_setups(&self, baked: Arc<dyn BakedSetups>) {
        if self.inner.baked.set(baked).is_err() {
            tracing::warn!("the keeper of setups was named twice");
        }
    }

    /// Decides how the setup of a repository begins, and writes it down.
    pub(super) async fn plan_setup(
        &self,
        id: &WorkspaceId,
        planned: &Planned<'_>,
    ) -> Result<Begin, WorkspacesError> {
        let name = planned.name;
        let without_setup = match planned.half_way {
            true => Begin::InPlace,
            false => Begin::CheckOut,
        };
        let read = match planned.fetched {
            FetchedSetup::File(read) => read,
            FetchedSetup::Unusable(problem) => {
                let failed = SetupState::Failed {
                    problem: problem.clone(),
                };
                let setup = new_setup(run_of(planned.key, name), &SetupFile::default(), failed);
                self.put_setup(id, name, Some(setup)).await?;
                return Ok(without_setup);
            }
            FetchedSetup::None => {
                self.put_setup(id, name, None).await?;
                return Ok(without_setup);
            }
        };
        let key = self.setup_key(id, planned, read).await?;
        let known = match (&key, self.inner.baked.get()) {
            (Some(key), Some(baked)) => baked.find(key).await.zip(Some(key.clone())),
            _ => None,
        };
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        let record = self.record(id)?;
        let pristine = is_pristine(&record);
        let mut setup = new_setup(
            run_of(planned.key, name),
            &read.file,
            SetupState::Initializing,
        );
        let before = record.setup.repositories.get(name);
        let begin = match (known, before.map(|before| &before.state)) {
            (_, Some(state @ SetupState::Restoring { key: there, .. })) if planned.half_way => {
                // The result of other inputs is no more than a beginning.
                if key.as_ref() == Some(there) {
                    setup.state = state.clone();
                }
                Begin::InPlace
            }
            (Some((snapshot, key)), _) if pristine => {
                setup.state = SetupState::Restoring {
                    snapshot: snapshot.clone(),
                    key,
                };
                Begin::Restore(snapshot)
            }
            _ => Begin::CheckOut,
        };
        // What a change that nobody has merged made is for its own checks only.
        if pristine && record.definition.purpose == Purpose::Project {
            setup.keep_as = key;
        }
        let mut workspace = Workspace::clone(&record);
        (workspace.setup.repositories).insert(name.clone(), setup);
        self.save(workspace).await?;
        Ok(begin)
    }

    /// The key of a setup's result; `None` where there is nothing to keep.
    async fn setup_key(
        &self,
        id: &WorkspaceId,
        planned: &Planned<'_>,
        read: &ReadSetup,
    ) -> Result<Option<SetupKey>, WorkspacesError> {
        if read.file.initialize.is_empty() {
            return Ok(None);
        }
        let definition = &self.record(id)?.definition;
        let image = self.inner.runtime.image(&definition.image).await?;
        Ok(image.map(|image| {
            SetupKey::of(&SetupIngredients {
                image_id: &image.id,
                user: definition.user.as_deref(),
                source: planned.source,
                repository: planned.name,
                initialize: &read.file.initialize,
                inputs: &read.inputs,
            })
        }))
    }

    /// Puts a baked snapshot in place. Where that cannot be done the setup goes
    /// on with a check-out, and the note says so.
    pub(super) async fn restore_setup(
        &self,
        id: &WorkspaceId,
        name: &RepositoryName,
        snapshot: &SnapshotId,
    ) -> Result<Result<(), String>, WorkspacesError> {
        let Some(baked) = self.inner.baked.get() else {
            return Ok(Err("nobody keeps setups".to_owned()));
        };
        tracing::info!(workspace_id = %id, repository = %name, snapshot_id = %snapshot,
            "starting from a baked setup");
        let restored = baked.restore(id, snapshot).await;
        if let Err(problem) = &restored {
            tracing::warn!(workspace_id = %id, snapshot_id = %snapshot, problem,
                "a baked setup cannot be restored");
            self.change_setup(id, |setup| {
                if let Some(setup) = setup.repositories.get_mut(name) {
                    setup.state = SetupState::Initializing;
                }
            })
            .await?;
        }
        Ok(restored)
    }

    /// Does what is left of the setup of a repository that is checked out, and
    /// its first maintenance. Says for a person what was done.
    pub(super) async fn finish_setup(
        &self,
        id: &WorkspaceId,
        name: &RepositoryName,
    ) -> Result<Vec<String>, WorkspacesError> {
        let record = self.record(id)?;
        let Some(setup) = record.setup.repositories.get(name) else {
            return Ok(Vec::new());
        };
        let mut notes = Vec::new();
        let state = match &setup.state {
            SetupState::Initializing => {
                tracing::info!(workspace_id = %id, repository = %name, "setting a repository up");
                match self.initialize(id, name, setup).await {
                    Ok(()) => {
                        let (kept, note) = self.keep_setup(id, setup).await;
                        notes.extend(note);
                        let result = SetupResult::Running { kept };
                        SetupState::Done { result }
                    }
                    Err(problem) => SetupState::Failed { problem },
                }
            }
            SetupState::Restoring { snapshot, .. } => SetupState::Done {
                result: SetupResult::Restoring {
                    snapshot: snapshot.clone(),
                },
            },
            state @ (SetupState::Done { .. } | SetupState::Failed { .. }) => state.clone(),
        };
        if state != setup.state {
            tracing::info!(workspace_id = %id, repository = %name, ?state, "setup ended");
            self.change_setup(id, |setup| {
                setup.pristine = false;
                if let Some(setup) = setup.repositories.get_mut(name) {
                    setup.state = state.clone();
                }
            })
            .await?;
            let what = match &state {
                SetupState::Failed { problem } => Happening::SetupFailed {
                    problem: format!("the setup of {name} failed: {problem}"),
                },
                SetupState::Done { .. }
                | SetupState::Restoring { .. }
                | SetupState::Initializing => Happening::SetUp {
                    repository: name.clone(),
                },
            };
            self.inner.events.record(&record, what).await;
        }
        match state {
            SetupState::Done { result } => notes.extend(described(&result, setup)),
            SetupState::Failed { problem } => {
                return Err(WorkspacesError::SetupFailed {
                    repository: name.clone(),
                    problem,
                });
            }
            SetupState::Restoring { .. } | SetupState::Initializing => {}
        }
        if let Some(problem) = self.first_maintenance(id, name, &setup.run).await? {
            notes.push(format!("its maintenance failed: {problem}"));
        }
        Ok(notes)
    }

    /// Runs `initialize`, or joins what runs of it. The error is for a person.
    async fn initialize(
        &self,
        id: &WorkspaceId,
        name: &RepositoryName,
        setup: &RepositorySetup,
    ) -> Result<(), String> {
        for (number, command) in setup.initialize.iter().enumerate() {
            let exec = format!("{}.{number}", setup.run);
            let spec = command::spec(
                command,
                &directory_of(name),
                setup.timeout_ms,
                // What runs on would change what is kept.
                Leftovers::Kill,
            );
            let ran = self.run_setup_command(id, &exec, spec).await;
            let ran = ran.map_err(|error| format!("`{}`: {error}", command.run))?;
            if !ran.status.is_success() {
                return Err(ran.problem(command));
            }
        }
        Ok(())
    }

    /// Keeps the result of a setup where it may be kept; the note says why it
    /// was not.
    async fn keep_setup(
        &self,
        id: &WorkspaceId,
        setup: &RepositorySetup,
    ) -> (Option<SnapshotId>, Option<String>) {
        let (Some(key), Some(baked)) = (&setup.keep_as, self.inner.baked.get()) else {
            return (None, None);
        };
        let not_kept = |why: &str| {
            let note = format!("the result of its setup is not kept for other workspaces: {why}");
            (None, Some(note))
        };
        match baked.keep(id, key).await {
            Ok(Some(snapshot)) => (Some(snapshot), None),
            Ok(None) => not_kept("the workspace was used meanwhile"),
            Err(problem) => {
                tracing::warn!(workspace_id = %id, problem, "a setup is not kept");
                not_kept(&problem)
            }
        }
    }

    /// Runs the setup of a repository that is there, by the setup file that is
    /// checked out now, whatever it was before. Without `again` one that is
    /// done is left as it is.
    ///
    /// # Errors
    /// [`WorkspacesError::RepositoryUnknown`], [`WorkspacesError::SetupFailed`];
    /// a workspace that does not come up.
    pub async fn set_up(
        &self,
        id: &WorkspaceId,
        repository: Option<RepositoryName>,
        key: &str,
        again: Again,
    ) -> Result<Vec<String>, WorkspacesError> {
        let place = self.inner.adding.place(id);
        let _one_at_a_time = place.lock().await;
        let agent = self.agent_quietly(id).await?;
        let record = self.record(id)?;
        let name = match repository {
            Some(name) if record.repositories.iter().any(|known| known.name == name) => name,
            Some(name) => return Err(WorkspacesError::RepositoryUnknown(name.to_string())),
            None => match record.repositories.as_slice() {
                [only] => only.name.clone(),
                several => {
                    let names: Vec<_> = several.iter().map(|r| r.name.as_str()).collect();
                    return Err(WorkspacesError::RepositoryUnknown(names.join(", ")));
                }
            },
        };
        let run = run_of(key, &name);
        let setup = record.setup.repositories.get(&name);
        let left_as_it_is = match setup.map(|setup| &setup.state) {
            // This very request, cut off by a kill, goes on.
            Some(_) if setup.is_some_and(|setup| setup.run == run) => true,
            Some(SetupState::Done { .. }) => again == Again::IfNotDone,
            Some(SetupState::Initializing) => true,
            Some(SetupState::Restoring { .. } | SetupState::Failed { .. }) | None => false,
        };
        if !left_as_it_is {
            let file = self.setup_file_in(&*agent, &name).await?;
            let state = SetupState::Initializing;
            let setup = match file {
                None => None,
                Some(Ok(file)) => Some(new_setup(run, &file, state)),
                Some(Err(error)) => {
                    let problem = error.to_string();
                    let state = SetupState::Failed { problem };
                    Some(new_setup(run, &SetupFile::default(), state))
                }
            };
            let has_one = setup.is_some();
            self.put_setup(id, &name, setup).await?;
            if !has_one {
                return Ok(vec![format!("{name} has no {SETUP_FILE}")]);
            }
        }
        self.finish_setup(id, &name).await
    }

    /// Goes on with setups that a daemon was killed in the middle of. Each runs
    /// in a task of its own; one that fails says so in the workspace's record.
    pub fn resume_setups(&self) {
        for workspace in self.inner.index.all() {
            if workspace.desired != Desired::Running {
                continue;
            }
            for repository in &workspace.repositories {
                let name = &repository.name;
                let setup = workspace.setup.repositories.get(name);
                if setup.is_none_or(|setup| setup.state != SetupState::Initializing) {
                    continue;
                }
                let (service, id, name) = (self.clone(), workspace.id.clone(), name.clone());
                self.inner.tasks.spawn(async move {
                    let place = service.inner.adding.place(&id);
                    let _one_at_a_time = place.lock().await;
                    if let Err(error) = service.finish_setup(&id, &name).await {
                        tracing::warn!(workspace_id = %id, repository = %name, %error,
                            "a setup that was cut off is not done");
                    }
                });
            }
        }
    }

    /// The setup file that a repository has now; `None` when it has none.
    async fn setup_file_in(
        &self,
        agent: &dyn AgentPort,
        name: &RepositoryName,
    ) -> Result<Option<Result<SetupFile, crate::domain::setup_file::SetupFileError>>, WorkspacesError>
    {
        let content = command::setup_file(agent, name).await?;
        Ok(content.map(|content| SetupFile::parse(&content)))
    }

    /// Notes that somebody other than the daemon is about to use a workspace,
    /// and waits until a baked snapshot is in place.
    pub(super) async fn mark_used(&self, id: &WorkspaceId) -> Result<(), WorkspacesError> {
        let record = self.record(id)?;
        if !record.setup.pristine && !record.setup.is_restoring() {
            return Ok(());
        }
        let lock = self.lock_of(id);
        let held = lock.lock().await;
        if self.record(id)?.setup.is_restoring() {
            drop(held);
            let place = self.inner.adding.place(id);
            drop(place.lock().await);
            return Ok(());
        }
        let mut workspace = Workspace::clone(&*self.record(id)?);
        workspace.setup.pristine = false;
        self.save(workspace).await.map(drop)
    }

    /// Whether a repository's setup has been started from a snapshot, and its
    /// commit is not in place yet.
    pub(super) fn restoring(
        &self,
        id: &WorkspaceId,
        name: &RepositoryName,
    ) -> Result<bool, WorkspacesError> {
        let record = self.record(id)?;
        let setup = record.setup.repositories.get(name);
        Ok(setup.is_some_and(|setup| matches!(setup.state, SetupState::Restoring { .. })))
    }

    pub(super) async fn put_setup(
        &self,
        id: &WorkspaceId,
        name: &RepositoryName,
        setup: Option<RepositorySetup>,
    ) -> Result<(), WorkspacesError> {
        self.change_setup(id, |setups| {
            match setup {
                Some(setup) => setups.repositories.insert(name.clone(), setup),
                None => setups.repositories.remove(name),
            };
        })
        .await
    }

    async fn change_setup(
        &self,
        id: &WorkspaceId,
        change: impl FnOnce(&mut WorkspaceSetup),
    ) -> Result<(), WorkspacesError> {
        let lock = self.lock_of(id);
        let _held = lock.lock().await;
        self.change_setup_held(id, change).await
    }

    /// The same for a caller who holds the workspace's lock.
    async fn change_setup_held(
        &self,
        id: &WorkspaceId,
        change: impl FnOnce(&mut WorkspaceSetup),
    ) -> Result<(), WorkspacesError> {
        let record = self.record(id)?;
        let mut workspace = Workspace::clone(&record);
        change(&mut workspace.setup);
        if workspace == *record {
            return Ok(());
        }
        self.save(workspace).await.map(drop)
    }
}

/// Whether a setup that is done is run again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Again {
    /// It is not.
    IfNotDone,
    /// It is.
    Always,
}

/// Whether nothing is in a workspace but what its image has.
fn is_pristine(workspace: &Workspace) -> bool {
    workspace.setup.pristine
        && workspace.repositories.is_empty()
        && workspace.snapshot.is_none()
        && workspace.base.is_none()
}

fn new_setup(run: String, file: &SetupFile, state: SetupState) -> RepositorySetup {
    RepositorySetup {
        run,
        initialize: file.initialize.clone(),
        timeout_ms: u64::try_from(file.timeout.as_millis()).unwrap_or(u64::MAX),
        keep_as: None,
        state,
    }
}

/// What the ids of a setup's commands begin with; the same for a retry.
fn run_of(key: &str, name: &RepositoryName) -> String {
    const DIGITS: usize = 16;
    let hash = blake3::hash(format!("{name}/{key}").as_bytes()).to_hex();
    format!("setup-{}", &hash[..DIGITS])
}

/// How a setup was done, for a person.
fn described(result: &SetupResult, setup: &RepositorySetup) -> Option<String> {
    match result {
        SetupResult::Running { .. } if setup.initialize.is_empty() => None,
        SetupResult::Running { kept: None } => Some("its setup was run".to_owned()),
        SetupResult::Running { kept: Some(kept) } => {
            Some(format!("its setup was run; the result is kept as {kept}"))
        }
        SetupResult::Restoring { snapshot } => Some(format!(
            "its setup was there: the workspace started from {snapshot}"
        )),
    }
}
