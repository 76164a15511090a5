//! The program `compyd` as an operator meets it: exit codes, signals, one
//! daemon per data directory. No engine needed.
#![allow(clippy::unwrap_used)]

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, ChildStderr, Command, ExitStatus, Output, Stdio},
    time::{Duration, Instant},
};

use compyd_proto::v1::{GetInfoRequest, system_service_client::SystemServiceClient};
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

/// `compyd` on a directory of its own, in an empty environment.
fn compyd(dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_compyd"));
    command
        .env_clear()
        .env("HOME", dir)
        .env("PATH", "/usr/bin:/bin")
        .arg("--data-dir")
        .arg(dir.join("data"))
        .arg("--listen")
        .arg(format!("unix://{}", dir.join("compyd.sock").display()))
        .args(["--set", "engine.host=unix:///nonexistent/docker.sock"])
        .args(["--set", "disk.low_water=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}

/// A daemon that is killed when the test ends.
struct Daemon {
    child: Child,
    log: BufReader<ChildStderr>,
}

impl Daemon {
    fn start(command: &mut Command) -> Self {
        let mut child = command.spawn().unwrap();
        let log = BufReader::new(child.stderr.take().unwrap());
        let mut daemon = Self { child, log };
        daemon.wait_for("is ready");
        daemon
    }

    /// Reads the log up to a line with these words.
    fn wait_for(&mut self, words: &str) {
        let mut line = String::new();
        while !line.contains(words) {
            line.clear();
            let read = self.log.read_line(&mut line).unwrap();
            assert!(read > 0, "the log ended without `{words}`");
        }
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    fn ended(&mut self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "it still runs");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn channel(dir: &Path) -> Channel {
    let endpoint = format!("unix:{}", dir.join("compyd.sock").display());
    Endpoint::from_shared(endpoint)
        .unwrap()
        .connect()
        .await
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

// A client of its own thread can hear that the daemon closes its connection.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_signal_ends_an_idle_daemon_in_good_order() {
    let dir = tempfile::tempdir().unwrap();
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start(&mut compyd(dir.path()));
        let info = SystemServiceClient::new(channel(dir.path()).await)
            .get_info(GetInfoRequest {})
            .await
            .unwrap();
        assert_eq!(info.into_inner().pid, daemon.child.id());
        daemon.signal(signal);
        assert_eq!(daemon.ended(Duration::from_secs(15)).code(), Some(0));
        assert!(!dir.path().join("compyd.sock").exists());
    }
}

#[tokio::test]
async fn a_second_signal_ends_at_once_what_the_first_one_drains() {
    let dir = tempfile::tempdir().unwrap();
    let mut command = compyd(dir.path());
    command.args(["--set", "shutdown_grace=10m"]);
    let mut daemon = Daemon::start(&mut command);
    let mut watch = HealthClient::new(channel(dir.path()).await)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    watch.message().await.unwrap().unwrap();
    daemon.signal(Signal::SIGTERM);
    daemon.wait_for("shutting down");
    assert!(daemon.child.try_wait().unwrap().is_none(), "it drains");
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.ended(Duration::from_secs(10)).code(), Some(130));
}

#[test]
fn a_killed_daemon_leaves_nothing_in_the_way_of_the_next() {
    let dir = tempfile::tempdir().unwrap();
    for _ in 0..3 {
        let mut daemon = Daemon::start(&mut compyd(dir.path()));
        daemon.signal(Signal::SIGKILL);
        daemon.ended(Duration::from_secs(10));
        assert!(dir.path().join("compyd.sock").exists(), "a stale socket");
    }
}

#[test]
fn a_second_daemon_says_who_holds_the_data_and_fails() {
    let dir = tempfile::tempdir().unwrap();
    let daemon = Daemon::start(&mut compyd(dir.path()));
    let second = compyd(dir.path()).output().unwrap();
    assert_eq!(second.status.code(), Some(1));
    let said = stderr(&second);
    let holder = format!("pid {}", daemon.child.id());
    assert!(said.contains(&holder), "{said}");
}

#[test]
fn every_mistake_is_reported_at_once_before_anything_is_made() {
    let dir = tempfile::tempdir().unwrap();
    let output = compyd(dir.path())
        .env("COMPY_WORKSPACE_PIDS", "few")
        .args(["--set", "workspace.cpu=none", "--set", "modle.default=x"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    let said = stderr(&output);
    for words in [
        "3 mistakes",
        "COMPY_WORKSPACE_PIDS",
        "workspace.cpu",
        "did you mean model.default?",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!dir.path().join("data").exists());
}

#[test]
fn a_check_without_an_engine_fails_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let output = compyd(dir.path()).arg("check").output().unwrap();
    assert_eq!(output.status.code(), Some(1));
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("FAILED   engine"), "{said}");
    assert!(said.contains("-> start Docker"), "{said}");
    assert!(said.contains("ok       disk"), "{said}");
    assert!(!dir.path().join("data").exists(), "a check makes nothing");
}

#[test]
fn the_effective_configuration_names_its_sources_and_hides_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let output = compyd(dir.path())
        .env("OPENAI_API_KEY", "sk-secret")
        .arg("--print-config")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(said.contains("# variable OPENAI_API_KEY"), "{said}");
    assert!(said.contains("# flag --data-dir"), "{said}");
    assert!(!said.contains("sk-secret"), "{said}");
}
