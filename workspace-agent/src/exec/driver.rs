//! The task that owns one command from launch to its last leftover.
//!
//! It alone talks to the command's supervisor. When the supervisor is killed,
//! the leader comes to PID 1 as an orphan and the driver goes on with what the
//! reaper knows: the pipes were PID 1's all along.

use std::sync::Arc;
use std::time::{Duration, Instant};

use compyd_proto::agent::exit::How;
use compyd_proto::agent::{CommandSecrets, ExecSpec, Exit, Leftovers, NotStarted, TimedOut};
use nix::errno::Errno;
use nix::libc;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::command::{Command, Wanted};
use super::keeper::Keeper;
use super::memory;
use super::orphans::Target;
use super::output::{Pump, Pumped, discard};
use super::pipe::Streams;
use super::pool::Supervisor;
use super::progress::Phase;
use super::protocol::{Ending, Order, Report, Step};
use super::records::EndRecord;
use super::spool::{ExecFiles, Output};
use super::start::start;
use super::stdin::Stdin;
use super::table::{Shared, span};
use super::timer::PausableTimer;
use crate::tree;

/// From SIGTERM to SIGKILL when a time-out has passed.
const TIMEOUT_GRACE_MS: u32 = 500;
/// The same when the agent itself ends.
const SHUTDOWN_GRACE_MS: u32 = 300;
/// What is left of any grace once the leader of an ended tree has exited.
const AFTER_LEADER_MS: u32 = 50;
/// How long the end of a call waits for an ended tree to be gone.
const TREE_GONE: Duration = Duration::from_millis(150);
/// Time after which an ending that should be over is taken in hand.
const FORCE_AFTER: Duration = Duration::from_millis(400);
/// How often an orphaned leader is looked for.
const ORPHAN_PERIOD: Duration = Duration::from_millis(50);

/// Starts the command, follows it, records its end.
pub(super) async fn drive(
    shared: Arc<Shared>,
    command: Arc<Command>,
    spec: Arc<ExecSpec>,
    secrets: Option<CommandSecrets>,
    wanted: mpsc::Receiver<Wanted>,
) {
    let oom_kills_before = memory::oom_kills();
    let started = match start(&shared, &command, &spec, secrets).await {
        Ok(started) => started,
        Err(error) => return shared.refuse(&command, error),
    };
    let (supervisor, report) = started.first_word;
    let run = Run {
        shared,
        command,
        spec,
        files: started.files,
        supervisor: Some(supervisor),
        leader: None,
        started: Instant::now(),
        oom_kills_before,
        timed_out: false,
        ending: false,
        force_at: None,
    };
    run.follow(report, started.streams, wanted).await;
}

/// How the leader ended, as far as anybody knows.
struct LeaderEnd {
    how: How,
    leftovers: u32,
    max_rss_bytes: u64,
}

struct Run {
    shared: Arc<Shared>,
    command: Arc<Command>,
    spec: Arc<ExecSpec>,
    files: ExecFiles,
    /// Absent once it was killed, or has been given back.
    supervisor: Option<Supervisor>,
    leader: Option<i32>,
    started: Instant,
    /// What the kernel had counted before the start.
    oom_kills_before: Option<u64>,
    timed_out: bool,
    /// Whether the end of the tree has been ordered.
    ending: bool,
    /// When an ordered end is taken in hand, should the tree still be there.
    force_at: Option<Instant>,
}

impl Run {
    async fn follow(
        mut self,
        first: Option<Report>,
        streams: Streams,
        mut wanted: mpsc::Receiver<Wanted>,
    ) {
        let leader_exited = CancellationToken::new();
        let end = match self.judge_start(first).await {
            Ok(pid) => {
                let Streams {
                    stdin,
                    stdout,
                    stderr,
                    terminal,
                } = streams;
                self.leader = Some(pid);
                self.started = Instant::now();
                let stdin = Stdin::new(stdin, terminal.is_some(), leader_exited.clone());
                self.command
                    .running(self.files.clone(), pid, stdin, terminal);
                let pumps = [(Some(stdout), Output::Stdout), (stderr, Output::Stderr)]
                    .into_iter()
                    .filter_map(|(pipe, output)| {
                        let pump = Pump::new(pipe?, self.keeper(output));
                        // On cancel: runs on to the end of its stream.
                        Some(self.shared.tracker.spawn(pump.run(leader_exited.clone())))
                    })
                    .collect();
                let end = self.await_leader(&mut wanted).await;
                let duration = self.started.elapsed();
                leader_exited.cancel();
                self.settle(end, duration, pumps).await
            }
            Err(exit) => {
                self.command.files_known(self.files.clone());
                (exit, Vec::new())
            }
        };
        drop(wanted);
        let (exit, held_open) = end;
        self.record(exit);
        for pipe in held_open {
            let stop = self.shared.shutdown.clone();
            // On cancel: ends with the agent.
            self.shared.tracker.spawn(async move {
                tokio::select! {
                    () = discard(pipe) => {}
                    () = stop.cancelled() => {}
                }
            });
        }
        self.await_empty().await;
    }

    fn keeper(&self, output: Output) -> Keeper {
        let progress = Arc::clone(&self.command.progress);
        Keeper::new(
            Arc::clone(&self.shared),
            self.files.clone(),
            output,
            progress,
        )
    }

    /// The pid when the program runs, or the end there and then.
    async fn judge_start(&mut self, first: Option<Report>) -> Result<i32, Exit> {
        let how = match first {
            Some(Report::Started { pid }) => return Ok(pid),
            Some(Report::NotStarted { step, errno }) => {
                // Nothing runs, so the supervisor is free.
                if let Some(supervisor) = self.supervisor.take() {
                    self.shared.pool.give_back(supervisor);
                }
                How::NotStarted(NotStarted {
                    errno,
                    message: not_started(step, errno, &self.spec),
                })
            }
            Some(Report::LeaderExited { .. } | Report::Empty) | None => {
                self.supervisor = None;
                self.sweep_orphans().await;
                How::Unknown("its supervisor was killed while the command was being started".into())
            }
        };
        Err(Exit {
            how: Some(how),
            ..Exit::default()
        })
    }

    async fn await_leader(&mut self, wanted: &mut mpsc::Receiver<Wanted>) -> LeaderEnd {
        let mut timer = PausableTimer::new(Duration::from_millis(self.spec.timeout_ms));
        let has_timeout = self.spec.timeout_ms > 0;
        let reaper = self.shared.reaper.clone();
        let shutdown = self.shared.shutdown.clone();
        let pid = self.leader.unwrap_or_default();
        let started = self.started;
        loop {
            tokio::select! {
                report = next_report(self.supervisor.as_ref()) => match report {
                    Some(Report::LeaderExited { ending, leftovers, max_rss_bytes }) => {
                        return LeaderEnd { how: how(ending), leftovers, max_rss_bytes };
                    }
                    Some(Report::Started { .. } | Report::NotStarted { .. } | Report::Empty) => {}
                    None => self.supervisor = None,
                },
                reaped = reaper.reaped(pid, started), if self.supervisor.is_none() => {
                    let target = self.target();
                    let leftovers = blocking(move || target.members().len()).await.unwrap_or(0);
                    return LeaderEnd {
                        how: how(reaped.ending),
                        leftovers: u32::try_from(leftovers).unwrap_or(u32::MAX),
                        max_rss_bytes: reaped.max_rss_bytes,
                    };
                }
                () = tokio::time::sleep(ORPHAN_PERIOD), if self.supervisor.is_none() => {
                    if tree::process(pid).is_none() && reaper.find(pid, started).is_none() {
                        return LeaderEnd {
                            how: How::Unknown(
                                "its supervisor was killed and has taken the exit status along".into(),
                            ),
                            leftovers: 0,
                            max_rss_bytes: 0,
                        };
                    }
                }
                Some(wanted) = wanted.recv() => self.obey(wanted).await,
                () = timer.passed(), if has_timeout && !self.timed_out => {
                    self.timed_out = true;
                    self.end_tree(TIMEOUT_GRACE_MS).await;
                }
                () = sleep_until(self.force_at) => self.force().await,
                () = shutdown.cancelled(), if !self.ending => self.end_tree(SHUTDOWN_GRACE_MS).await,
            }
        }
    }

    async fn obey(&mut self, wanted: Wanted) {
        let order = match wanted {
            Wanted::End { grace_ms } => return self.end_tree(grace_ms).await,
            Wanted::SignalGroup(signal) => Order::SignalGroup(signal),
            Wanted::SignalTree(signal) => Order::SignalTree(signal),
        };
        if self.order(order) {
            return;
        }
        let (target, leader) = (self.target(), self.leader);
        let _ = blocking(move || match (order, leader) {
            (Order::SignalGroup(signal), Some(leader)) => tree::send(-leader, signal),
            (Order::SignalTree(signal), _) => tree::signal_each(&target.members(), signal),
            _ => Ok(()),
        })
        .await;
    }

    /// Orders the end of the tree; [`Run::force`] follows if that is not
    /// enough.
    async fn end_tree(&mut self, grace_ms: u32) {
        self.ending = true;
        let grace = Duration::from_millis(u64::from(grace_ms));
        if self.order(Order::EndTree { grace_ms }) {
            let force_at = Instant::now() + grace + FORCE_AFTER;
            self.force_at = Some(self.force_at.map_or(force_at, |at| at.min(force_at)));
            return;
        }
        self.force_at = Some(Instant::now() + grace);
        let target = self.target();
        let _ = blocking(move || {
            let members = target.members();
            let _ = tree::signal_each(&members, libc::SIGTERM);
            tree::signal_each(&members, libc::SIGCONT)
        })
        .await;
    }

    /// Ends the tree from PID 1.
    async fn force(&mut self) {
        if self.supervisor.is_none() {
            self.force_at = Some(Instant::now() + ORPHAN_PERIOD);
            self.sweep_orphans().await;
            return;
        }
        self.force_at = Some(Instant::now() + FORCE_AFTER);
        let (target, is_init) = (self.target(), self.shared.settings.is_init);
        let _ = blocking(move || {
            if is_init {
                target.freeze_and_kill();
            } else {
                target.sweep();
            }
            // Somebody may have stopped the supervisor itself.
            target.supervisor.map(|pid| tree::send(pid, libc::SIGCONT))
        })
        .await;
    }

    async fn sweep_orphans(&self) {
        let target = self.target();
        let _ = blocking(move || {
            // Each sweep sees the children that the last one was too early for.
            for _ in 0..50 {
                if target.sweep() == 0 {
                    return;
                }
                std::thread::sleep(Duration::from_millis(2));
            }
        })
        .await;
    }

    /// From the leader's exit to the complete output.
    async fn settle(
        &mut self,
        end: LeaderEnd,
        duration: Duration,
        pumps: Vec<JoinHandle<Pumped>>,
    ) -> (Exit, Vec<super::pipe::Pipe>) {
        let kill = self.spec.leftovers() == Leftovers::Kill;
        if self.timed_out || kill {
            // What has survived so far must not survive the call. The pumps
            // see the end of the pipes once it is gone.
            self.end_tree(if kill { 0 } else { AFTER_LEADER_MS }).await;
            let _ = tokio::time::timeout(TREE_GONE, self.await_empty_report()).await;
        }
        let mut held_open = Vec::new();
        for pump in pumps {
            match pump.await {
                Ok(Pumped::HeldOpen(pipe)) => held_open.push(pipe),
                Ok(Pumped::AtEnd) | Err(_) => {}
            }
        }
        let how = if self.timed_out {
            How::TimedOut(TimedOut {
                timeout_ms: self.spec.timeout_ms,
            })
        } else {
            end.how
        };
        let exit = Exit {
            out_of_memory: how != How::Code(0) && memory::oom_kills() > self.oom_kills_before,
            how: Some(how),
            duration_ms: u64::try_from(duration.as_millis()).unwrap_or(u64::MAX),
            leftover_processes: end.leftovers,
            max_rss_bytes: end.max_rss_bytes,
        };
        (exit, held_open)
    }

    /// Writes the end to disk, then tells everybody.
    fn record(&self, exit: Exit) {
        let progress = self.command.progress.borrow().clone();
        let record = EndRecord {
            exit: Some(exit.clone()),
            stdout_bytes: progress.stdout.bytes,
            stderr_bytes: progress.stderr.bytes,
            stdout_gap: span(progress.stdout),
            stderr_gap: span(progress.stderr),
        };
        if let Err(error) = self.shared.with_room(|| self.files.write_end(&record)) {
            // Readers get the truth now; after a restart it will be unknown.
            eprintln!(
                "compy-agent: could not record the end of {}: {error}",
                self.command.id
            );
        }
        self.command.progress.send_modify(|progress| {
            progress.phase = Phase::Ended {
                pid: self.leader.unwrap_or_default(),
                exit: Arc::new(exit),
            };
        });
        self.shared.ended(&self.command);
    }

    /// Stays until the last leftover is gone, then frees the supervisor.
    async fn await_empty(&mut self) {
        let shutdown = self.shared.shutdown.clone();
        while self.supervisor.is_some() {
            let force_at = self.force_at;
            let ending = self.ending;
            tokio::select! {
                () = self.await_empty_report() => {}
                () = sleep_until(force_at) => self.force().await,
                () = shutdown.cancelled(), if !ending => self.end_tree(SHUTDOWN_GRACE_MS).await,
            }
        }
        if self.ending {
            self.sweep_orphans().await;
        }
    }

    /// Returns when the supervisor was given back or is gone.
    async fn await_empty_report(&mut self) {
        while let Some(supervisor) = &self.supervisor {
            match supervisor.report().await {
                Some(Report::Empty) => {
                    self.ending = false;
                    self.force_at = None;
                    if let Some(supervisor) = self.supervisor.take() {
                        self.shared.pool.give_back(supervisor);
                    }
                }
                Some(_) => {}
                None => self.supervisor = None,
            }
        }
    }

    /// Tells the supervisor; false when there is none to tell.
    fn order(&mut self, order: Order) -> bool {
        let Some(supervisor) = &self.supervisor else {
            return false;
        };
        supervisor.order(order, &[]).is_ok()
    }

    fn target(&self) -> Target {
        Target {
            exec_id: self.command.id.clone(),
            supervisor: self.supervisor.as_ref().map(Supervisor::pid),
            leader: self.leader,
        }
    }
}

async fn next_report(supervisor: Option<&Supervisor>) -> Option<Report> {
    match supervisor {
        Some(supervisor) => supervisor.report().await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(when: Option<Instant>) {
    match when {
        Some(when) => tokio::time::sleep_until(when.into()).await,
        None => std::future::pending().await,
    }
}

/// Runs what may wait for the disk or walk `/proc`; nothing if it panicked.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    tokio::task::spawn_blocking(work).await.ok()
}

fn how(ending: Ending) -> How {
    match ending {
        Ending::Code(code) => How::Code(u32::from(code)),
        Ending::Signal(signal) => How::Signal(u32::from(signal)),
    }
}

fn not_started(step: Step, errno: i32, spec: &ExecSpec) -> String {
    let text = Errno::from_raw(errno).desc();
    let mut letters = text.chars();
    let text: String = letters
        .next()
        .map(|first| first.to_lowercase().chain(letters).collect())
        .unwrap_or_default();
    let program = String::from_utf8_lossy(&spec.argv[0]);
    match step {
        Step::Program => format!("{text}: {program}"),
        Step::Directory => format!("{text}: the working directory {}", spec.cwd),
        Step::Account => format!("{text}: setting the user {}", spec.user),
        Step::Fork => format!("{text}: making a process for {program}"),
        Step::Session | Step::Terminal => format!("{text}: setting up the session of {program}"),
        Step::Streams => format!("{text}: setting up the streams of {program}"),
    }
}
