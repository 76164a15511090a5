//! An engine of the test's own, to be stopped and started under a daemon while
//! the machine's engine serves everybody else.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use serde_json::json;

use crate::{
    daemon::PATH,
    engine::{Engine, IMAGE},
    skip::is_root,
    wait,
};

/// A second engine, not running at first. Dropped, it is gone with its data.
#[derive(Debug)]
pub struct SecondEngine {
    directory: tempfile::TempDir,
    /// Where it keeps images, containers and volumes.
    data: PathBuf,
    storage_driver: String,
    child: Option<Child>,
}

impl SecondEngine {
    /// Prepares an engine.
    ///
    /// # Errors
    /// Says what this machine lacks.
    ///
    /// # Panics
    /// When the disk refuses.
    pub async fn prepare() -> Result<Self, String> {
        if !is_root() {
            return Err("only root can run a second engine".to_owned());
        }
        for program in ["dockerd", "docker", "unshare"] {
            let found = PATH
                .split(':')
                .any(|directory| Path::new(directory).join(program).is_file());
            if !found {
                return Err(format!("there is no {program} to run a second engine with"));
            }
        }
        let first = Engine::connect(None).await?;
        if !first.has_image(IMAGE).await {
            return Err(format!("the engine has no image {IMAGE}: make images"));
        }
        let info = first
            .docker()
            .info()
            .await
            .map_err(|error| error.to_string())?;
        let directory = tempfile::Builder::new()
            .prefix("compy-engine-")
            .tempdir()
            .expect("there is room for a temporary directory");
        Ok(Self {
            data: directory.path().join("data"),
            directory,
            storage_driver: info.driver.unwrap_or_default(),
            child: None,
        })
    }

    /// The same with its data on another disk. To be said before it starts.
    #[must_use]
    pub fn with_data_on(mut self, disk: &Path) -> Self {
        self.data = disk.join("engine");
        self
    }

    /// Where it listens, when it runs.
    #[must_use]
    pub fn host(&self) -> String {
        format!("unix://{}", self.path("docker.sock").display())
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Starts it, and waits until it answers.
    ///
    /// # Errors
    /// It does not, in 60 s; says the end of its log.
    ///
    /// # Panics
    /// When it cannot be started at all.
    pub async fn start(&mut self) -> Result<(), String> {
        let config = json!({"storage-driver": self.storage_driver, "shutdown-timeout": 5});
        std::fs::write(self.path("daemon.json"), config.to_string())
            .expect("the configuration can be written");
        // What a killed engine left: the next one would wait for the dead.
        let _ = std::fs::remove_file(self.path("exec/containerd/containerd.pid"));
        let _ = std::fs::remove_file(self.path("pid"));
        let log = std::fs::File::options()
            .create(true)
            .append(true)
            .open(self.path("log"))
            .expect("the log can be opened");
        let errors = log.try_clone().expect("descriptors are to be had");
        let child = Command::new("unshare")
            .args(["--net", "dockerd", "--host", &self.host()])
            .arg("--config-file")
            .arg(self.path("daemon.json"))
            .arg("--data-root")
            .arg(&self.data)
            .arg("--exec-root")
            .arg(self.path("exec"))
            .arg("--pidfile")
            .arg(self.path("pid"))
            .args(["--bridge", "none", "--iptables=false"])
            .env_clear()
            .env("PATH", PATH)
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .expect("unshare starts");
        self.child = Some(child);
        let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
        while Engine::connect(Some(&self.host())).await.is_err() {
            let ended = self
                .child
                .as_mut()
                .is_some_and(|child| child.try_wait().is_ok_and(|status| status.is_some()));
            if ended || tokio::time::Instant::now() > deadline {
                let log = std::fs::read_to_string(self.path("log")).unwrap_or_default();
                let end: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("the second engine does not start: {end:?}"));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Gives it the default image of the machine's engine.
    ///
    /// # Panics
    /// When that fails.
    pub async fn load_image(&self) {
        let mut save = Command::new("docker")
            .args(["save", IMAGE])
            .stdout(Stdio::piped())
            .spawn()
            .expect("docker starts");
        let image = save.stdout.take().expect("its output is a pipe");
        let mut load = Command::new("docker")
            .args(["--host", &self.host(), "load", "--quiet"])
            .stdin(image)
            .stdout(Stdio::null())
            .spawn()
            .expect("docker starts");
        let loaded = tokio::task::spawn_blocking(move || {
            let loaded = load.wait();
            let _ = save.wait();
            loaded
        });
        let status = loaded.await.expect("waiting does not panic");
        assert!(status.expect("docker can be waited for").success());
    }

    /// Stops it and everything in it, and waits for its end.
    ///
    /// # Panics
    /// When it does not end in 60 s.
    pub async fn stop(&mut self) {
        let Some(mut child) = self.child.take() else {
            return;
        };
        terminate(&child, Signal::SIGTERM);
        wait::until(
            "the end of the second engine",
            Duration::from_secs(60),
            async || child.try_wait().ok().flatten(),
        )
        .await;
    }

    /// Ends it as a power failure would: the engine, its containerd, and
    /// everything in every container, none of them asked.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the engine runs");
        let own = self.directory.path().display().to_string();
        kill_all_of(&own);
        let _ = child.wait();
        // Again: one of them may have begun another meanwhile.
        wait::until("the end of the engine", wait::PATIENCE, async || {
            (kill_all_of(&own) == 0).then_some(())
        })
        .await;
        // A power failure leaves no mounts; those of FUSE, whose programs are
        // dead, would be in the next engine's way.
        self.unmount_all();
    }

    /// Where it keeps a container.
    #[must_use]
    pub fn container_dir(&self, id: &str) -> PathBuf {
        self.data.join("containers").join(id)
    }

    /// Unmounts what an engine that was killed had mounted.
    fn unmount_all(&self) {
        let own = self.directory.path().display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        // The latest first: mounts are in mounts.
        for line in mounts.lines().rev() {
            if let Some(point) = line
                .split(' ')
                .nth(4)
                .filter(|point| point.starts_with(&own))
            {
                let _ = nix::mount::umount2(point, nix::mount::MntFlags::MNT_DETACH);
            }
        }
    }
}

struct Process {
    pid: i32,
    parent: i32,
    command: String,
}

/// Kills the programs of an engine, which name its directory, and what runs in its
/// containers, which has a shim among them as its parent; how many programs.
fn kill_all_of(directory: &str) -> usize {
    let processes = processes();
    let programs: Vec<i32> = (processes.iter())
        .filter(|process| process.command.contains(directory))
        .map(|process| process.pid)
        .collect();
    let inside = (processes.iter())
        .filter(|process| programs.contains(&process.parent))
        .map(|process| process.pid);
    for pid in programs.iter().copied().chain(inside) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
    programs.len()
}

/// Every process of this machine.
fn processes() -> Vec<Process> {
    let entries = std::fs::read_dir("/proc").expect("/proc is there");
    let read = |entry: std::fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let command = std::fs::read(entry.path().join("cmdline")).ok()?;
        let stat = std::fs::read_to_string(entry.path().join("stat")).ok()?;
        // After the name in brackets: the state, and the parent.
        let parent = stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()?;
        Some(Process {
            pid,
            parent,
            command: String::from_utf8_lossy(&command).into_owned(),
        })
    };
    entries.filter_map(Result::ok).filter_map(read).collect()
}

fn terminate(child: &Child, signal: Signal) {
    if let Ok(pid) = i32::try_from(child.id()) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

impl Drop for SecondEngine {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(&child, Signal::SIGTERM);
            // Its own time-out is five seconds; it unmounts what it mounted.
            for _ in 0..300 {
                if child.try_wait().is_ok_and(|status| status.is_some()) {
                    break;
                }
                std::thread::sleep(Duration::from_millis(100));
            }
            let _ = child.kill();
            let _ = child.wait();
        }
        self.unmount_all();
    }
}
