//! One command as the table holds it, running or ended.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use compyd_proto::agent::{Exec, ExecSpec, PtySize};
use prost::Message as _;
use tokio::sync::{mpsc, watch};

use super::extent::Extent;
use super::forgotten::Remnant;
use super::pipe::Pipe;
use super::progress::{Phase, Progress};
use super::records::EndRecord;
use super::spool::{ExecFiles, Found};
use super::stdin::Stdin;
use crate::errors::{AgentError, Reason};

/// Largest specification that an ended command keeps in memory; a larger one
/// is read from its spool when somebody asks.
const SPEC_IN_MEMORY_BYTES: usize = 1024;
/// Steps that a command was signalled with, kept while it runs; the oldest goes.
const SIGNALS_KNOWN: usize = 64;
/// Requests to a driver that may wait; it takes them at once.
const REQUESTS: usize = 16;

/// What a caller wants of a running command.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    SignalGroup(i32),
    SignalTree(i32),
    End { grace_ms: u32 },
}

pub(super) struct Command {
    pub(super) id: String,
    pub(super) fingerprint: blake3::Hash,
    /// Grows with each command; tells the newest.
    pub(super) sequence: u64,
    started_at_ms: i64,
    /// The driver and the pumps write it, readers watch it.
    pub(super) progress: Arc<watch::Sender<Progress>>,
    /// What only a command that has not ended needs.
    live: Mutex<Option<Arc<Live>>>,
    /// Absent when it is large and the command has ended.
    spec: Mutex<Option<Arc<ExecSpec>>>,
    /// Set before the phase leaves `Starting`.
    files: OnceLock<ExecFiles>,
    /// Bytes of input accepted by a command that has ended.
    stdin_bytes: AtomicU64,
}

struct Live {
    /// To the driver.
    wanted: mpsc::Sender<Wanted>,
    /// Set when the program runs.
    stdin: OnceLock<Stdin>,
    /// Set when the program runs on a terminal.
    terminal: OnceLock<Pipe>,
    /// Steps that it was signalled with. Held for a look or an exchange.
    signalled: Mutex<VecDeque<String>>,
}

impl Command {
    /// A command about to be started, and where its driver gets requests from.
    pub(super) fn new(
        id: String,
        spec: Arc<ExecSpec>,
        fingerprint: blake3::Hash,
        sequence: u64,
    ) -> (Arc<Self>, mpsc::Receiver<Wanted>) {
        let (wanted, requests) = mpsc::channel(REQUESTS);
        let command = Self {
            id,
            fingerprint,
            sequence,
            started_at_ms: crate::now_ms(),
            progress: Arc::new(watch::Sender::new(Progress::default())),
            live: Mutex::new(Some(Arc::new(Live {
                wanted,
                stdin: OnceLock::new(),
                terminal: OnceLock::new(),
                signalled: Mutex::default(),
            }))),
            spec: Mutex::new(Some(spec)),
            files: OnceLock::new(),
            stdin_bytes: AtomicU64::new(0),
        };
        (Arc::new(command), requests)
    }

    /// A command found on disk, which has ended one way or the other.
    pub(super) fn found(found: &Found, progress: Progress, sequence: u64) -> Arc<Self> {
        let spec = found.exec.spec.clone().unwrap_or_default();
        let fingerprint = super::spec::fingerprint(&spec);
        let id = found.exec.exec_id.clone();
        let (command, _) = Self::new(id, Arc::new(spec), fingerprint, sequence);
        let mut command = Arc::into_inner(command).expect("nobody else has seen it yet");
        command.started_at_ms = found.exec.started_at_ms;
        let command = Arc::new(command);
        command.files_known(found.files.clone());
        command.progress.send_replace(progress);
        command.ended();
        command
    }

    /// A command that was forgotten since it ended: its output is gone, and what
    /// it was started with is known to whoever starts it again.
    pub(super) fn forgotten(
        remnant: &Remnant,
        spec: Option<Arc<ExecSpec>>,
        files: ExecFiles,
    ) -> Option<Arc<Self>> {
        let end = remnant.end.as_ref()?;
        let fingerprint = blake3::Hash::from_slice(&remnant.fingerprint).ok()?;
        let id = remnant.exec_id.clone();
        let (command, _) = Self::new(id, Arc::default(), fingerprint, 0);
        let mut command = Arc::into_inner(command).expect("nobody else has seen it yet");
        command.started_at_ms = remnant.started_at_ms;
        command.files_known(files);
        command.progress.send_replace(Progress {
            stdout: Extent::whole(end.stdout_bytes).dropped(),
            stderr: Extent::whole(end.stderr_bytes).dropped(),
            phase: Phase::Ended {
                pid: 0,
                exit: Arc::new(end.exit.clone().unwrap_or_default()),
            },
        });
        command.ended();
        // However large: there is none on disk.
        command.spec = Mutex::new(spec);
        Some(Arc::new(command))
    }

    /// What is left of a command that has ended once it is forgotten.
    pub(super) fn remnant(&self) -> Option<Remnant> {
        let progress = self.progress.borrow();
        let exit = progress.exit()?;
        Some(Remnant {
            exec_id: self.id.clone(),
            fingerprint: self.fingerprint.as_bytes().to_vec(),
            started_at_ms: self.started_at_ms,
            ended_at_ms: self.started_at_ms.saturating_add_unsigned(exit.duration_ms),
            end: Some(EndRecord {
                exit: Some(exit.as_ref().clone()),
                stdout_bytes: progress.stdout.bytes,
                stderr_bytes: progress.stderr.bytes,
                ..EndRecord::default()
            }),
        })
    }

    /// The record that goes to disk before anything is started.
    pub(super) fn as_started(&self, spec: ExecSpec) -> Exec {
        Exec {
            exec_id: self.id.clone(),
            spec: Some(spec),
            started_at_ms: self.started_at_ms,
            ..Exec::default()
        }
    }

    pub(super) fn files_known(&self, files: ExecFiles) {
        let _ = self.files.set(files);
    }

    /// The program runs.
    pub(super) fn running(&self, files: ExecFiles, pid: i32, stdin: Stdin, terminal: Option<Pipe>) {
        self.files_known(files);
        if let Some(live) = self.live() {
            let _ = live.stdin.set(stdin);
            if let Some(terminal) = terminal {
                let _ = live.terminal.set(terminal);
            }
        }
        self.progress
            .send_modify(|progress| progress.phase = Phase::Running { pid });
    }

    /// Lets go of what only a running command needs.
    pub(super) fn ended(&self) {
        let live = self
            .live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        let accepted = live.and_then(|live| live.stdin.get().map(Stdin::accepted));
        self.stdin_bytes
            .store(accepted.unwrap_or(0), Ordering::Relaxed);
        self.forget_large_spec();
    }

    fn forget_large_spec(&self) {
        let mut spec = self.spec.lock().unwrap_or_else(PoisonError::into_inner);
        let is_large = |spec: &Arc<ExecSpec>| spec.encoded_len() > SPEC_IN_MEMORY_BYTES;
        if spec.as_ref().is_some_and(is_large) {
            *spec = None;
        }
    }

    fn live(&self) -> Option<Arc<Live>> {
        self.live
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The spool; fails while the command is being started.
    pub(super) fn files(&self) -> Result<ExecFiles, AgentError> {
        self.files.get().cloned().ok_or_else(|| {
            AgentError::new(
                Reason::ExecUnknown,
                format!("command {} has not started", self.id),
            )
        })
    }

    /// Bytes of output on disk.
    pub(super) fn kept(&self) -> u64 {
        self.progress.borrow().kept()
    }

    /// When it ended, in milliseconds since the Unix epoch.
    pub(super) fn ended_at_ms(&self) -> Option<i64> {
        let duration = self.progress.borrow().exit()?.duration_ms;
        Some(self.started_at_ms.saturating_add_unsigned(duration))
    }

    /// Lets go of the output of a command that has ended, on disk too; its
    /// readers are told of a gap. Returns how much that was.
    pub(super) fn drop_output(&self) -> u64 {
        let mut freed = 0;
        self.progress.send_if_modified(|progress| {
            freed = progress.kept();
            progress.stdout = progress.stdout.dropped();
            progress.stderr = progress.stderr.dropped();
            freed > 0
        });
        if let Some(files) = self.files.get()
            && let Err(error) = files.remove_output()
        {
            eprintln!(
                "compy-agent: could not free the output of {}: {error}",
                self.id
            );
        }
        freed
    }

    /// Waits until the command runs or has ended; fails when it was refused.
    pub(super) async fn started(&self) -> Result<(), AgentError> {
        let mut progress = self.progress.subscribe();
        loop {
            match &progress.borrow_and_update().phase {
                Phase::Starting => {}
                Phase::Running { .. } | Phase::Ended { .. } => return Ok(()),
                Phase::Refused(error) => return Err(error.as_ref().clone()),
            }
            if progress.changed().await.is_err() {
                return Err(AgentError::lost_task("start the command"));
            }
        }
    }

    /// The command as it is now.
    pub(super) async fn describe(&self) -> Exec {
        let spec = self.spec().await;
        let stdin_bytes = match self.live() {
            Some(live) => live.stdin.get().map_or(0, Stdin::accepted),
            None => self.stdin_bytes.load(Ordering::Relaxed),
        };
        let progress = self.progress.borrow();
        Exec {
            exec_id: self.id.clone(),
            spec,
            pid: progress.pid(),
            started_at_ms: self.started_at_ms,
            stdout_bytes: progress.stdout.bytes,
            stderr_bytes: progress.stderr.bytes,
            stdin_bytes,
            exit: progress.exit().map(|exit| exit.as_ref().clone()),
            gaps: progress.gaps(),
        }
    }

    async fn spec(&self) -> Option<ExecSpec> {
        let known = self
            .spec
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        if let Some(spec) = known {
            return Some(spec.as_ref().clone());
        }
        let files = self.files.get()?.clone();
        let read = tokio::task::spawn_blocking(move || files.read_start()).await;
        read.ok()?.ok()?.spec
    }

    pub(super) async fn write_stdin(
        &self,
        offset: u64,
        bytes: &[u8],
        eof: bool,
    ) -> Result<u64, AgentError> {
        let live = self.live();
        match live.as_ref().and_then(|live| live.stdin.get()) {
            Some(stdin) => stdin.write(&self.id, offset, bytes, eof).await,
            None => Err(AgentError::new(
                Reason::StdinClosed,
                format!("command {} has ended and takes no input", self.id),
            )),
        }
    }

    /// Hands a request to the driver; one for an ended command does nothing.
    pub(super) async fn want(&self, wanted: Wanted) {
        if let Some(live) = self.live() {
            let _ = live.wanted.send(wanted).await;
        }
    }

    /// Whether a step has signalled the command; one that has ended knows none,
    /// and no signal reaches it.
    pub(super) fn was_signalled_by(&self, step_id: &str) -> bool {
        self.live().is_some_and(|live| {
            let signalled = live.signalled.lock();
            let signalled = signalled.unwrap_or_else(PoisonError::into_inner);
            signalled.iter().any(|known| known == step_id)
        })
    }

    /// Takes note of the step that has signalled the command.
    pub(super) fn signalled_by(&self, step_id: String) {
        if let Some(live) = self.live() {
            let signalled = live.signalled.lock();
            let mut signalled = signalled.unwrap_or_else(PoisonError::into_inner);
            if signalled.len() >= SIGNALS_KNOWN {
                signalled.pop_front();
            }
            signalled.push_back(step_id);
        }
    }

    pub(super) async fn resize(&self, size: &PtySize) -> Result<(), AgentError> {
        super::spec::check_size(size)?;
        let live = self.live();
        match live.as_ref().and_then(|live| live.terminal.get()) {
            Some(terminal) => terminal.resize(size).map_err(|error| {
                AgentError::new(
                    Reason::Io,
                    format!(
                        "could not resize the terminal of command {}: {error}",
                        self.id
                    ),
                )
            }),
            // A resize that crosses the end of the command is no mistake.
            None if live.is_none() && self.spec().await.is_some_and(|spec| spec.pty.is_some()) => {
                Ok(())
            }
            None => Err(AgentError::new(
                Reason::NoPty,
                format!("command {} has no terminal; start it with one", self.id),
            )),
        }
    }
}
