//! A repository in a local workspace and the services over it, for tests.

use std::{
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
};

use tokio_util::sync::CancellationToken;

use super::{artifacts::Artifacts, commands::Commands, git::Git, step::StepContext};
use crate::{
    adapters::{
        local_agent::{LocalAgent, LocalMachine},
        memory::{ManualClock, MemoryBlobs, MemoryStore},
    },
    domain::{
        checks::Site,
        ids::{SessionId, StepId, WorkspaceId},
        stage::Stage,
    },
};

/// A workspace with the repository `/workspace/app`.
pub(crate) struct Bench {
    pub(crate) machine: LocalMachine,
    pub(crate) store: Arc<MemoryStore>,
    pub(crate) blobs: Arc<MemoryBlobs>,
    pub(crate) commands: Commands,
    pub(crate) site: Site,
    pub(crate) session: SessionId,
    /// The repository on this machine.
    pub(crate) app: PathBuf,
}

impl Bench {
    /// A repository with these files, committed on `main`.
    pub(crate) fn new(files: &[(&str, &str)]) -> Self {
        let machine = LocalMachine::new();
        let (workspace, root) = machine.add_workspace().unwrap();
        let store = Arc::new(MemoryStore::new());
        let blobs = Arc::new(MemoryBlobs::new());
        let clock = Arc::new(ManualClock::at(1_000));
        let artifacts = Artifacts::new(store.clone(), blobs.clone(), clock);
        let app = root.join("app");
        std::fs::create_dir(&app).unwrap();
        let bench = Self {
            commands: Commands::new(Arc::new(machine.clone()), artifacts),
            machine,
            store,
            blobs,
            site: Site {
                workspace,
                directory: "/workspace/app".to_owned(),
            },
            session: SessionId::from_uuid(uuid::Uuid::now_v7()),
            app,
        };
        for (path, content) in files {
            bench.write(path, content);
        }
        bench.host_git(&["init", "--quiet", "-b", "main"]);
        bench.host_git(&["add", "-A"]);
        bench.host_git(&["commit", "--quiet", "--allow-empty", "-m", "base"]);
        bench
    }

    pub(crate) fn workspace(&self) -> &WorkspaceId {
        &self.site.workspace
    }

    pub(crate) fn agent(&self) -> Arc<LocalAgent> {
        self.machine.local_agent(self.workspace()).unwrap()
    }

    pub(crate) fn git(&self) -> Git {
        Git::new(self.commands.clone(), self.site.clone())
    }

    pub(crate) fn step(&self, sequence: u64) -> StepContext {
        StepContext {
            session: self.session.clone(),
            stage: Stage::Validate,
            step: StepId::of(&self.session, sequence),
            cancel: CancellationToken::new(),
            progress: None,
        }
    }

    pub(crate) fn write(&self, path: &str, content: &str) {
        let path = self.app.join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, content).unwrap();
    }

    pub(crate) fn read(&self, path: &str) -> String {
        std::fs::read_to_string(self.app.join(path)).unwrap()
    }

    pub(crate) fn remove(&self, path: &str) {
        std::fs::remove_file(self.app.join(path)).unwrap();
    }

    /// Git as a person would run it; returns what it prints.
    pub(crate) fn host_git(&self, arguments: &[&str]) -> String {
        host_git(&self.app, arguments)
    }

    /// What a person sees as uncommitted.
    pub(crate) fn status(&self) -> String {
        self.host_git(&["status", "--porcelain"])
    }
}

pub(crate) fn host_git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .args(["-c", "user.name=Person", "-c", "user.email=p@localhost"])
        .args(arguments)
        .current_dir(directory)
        .env("GIT_CONFIG_GLOBAL", "/dev/null")
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// Words as owned arguments.
pub(crate) fn argv(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}
