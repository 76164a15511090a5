//! Every command the agent knows, by the id its caller chose.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use compyd_proto::agent::exit::How;
use compyd_proto::agent::{
    AttachExecResponse, CommandSecrets, Exec, ExecSpec, Exit, PtySize, SpoolLimits,
};
use futures_util::Stream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::attach::{Reader, Wish};
use super::command::{Command, Wanted};
use super::extent::Extent;
use super::pool::Pool;
use super::progress::{Phase, Progress};
use super::quotas::Quotas;
use super::records::{EndRecord, Span};
use super::spool::{Found, Output, Spool, is_full};
use super::{driver, spec};
use crate::accounts::{Account, Accounts};
use crate::errors::{AgentError, Reason};
use crate::reaper::Reaper;

/// Ended commands kept; beyond them the oldest is forgotten but for how it ended.
/// Each takes about 2.5 KiB of the few megabytes that an agent may use.
const ENDED_AT_MOST: usize = 500;
/// How often output is looked at that may be too old.
const EXPIRY_PERIOD: Duration = Duration::from_secs(60);
const SIGNALS: std::ops::RangeInclusive<i32> = 1..=64;

/// What does not change while the agent runs.
pub(crate) struct Settings {
    pub(crate) accounts: Accounts,
    pub(crate) default_user: Account,
    pub(crate) work_dir: PathBuf,
    /// Where files with credentials are put, on a tmpfs.
    pub(crate) secrets_dir: PathBuf,
    /// The container's own variables, which every command starts from.
    pub(crate) environment: Vec<(Vec<u8>, Vec<u8>)>,
    /// Whether this is PID 1, which alone may stop everybody.
    pub(crate) is_init: bool,
}

/// The table; cheap to clone.
#[derive(Clone)]
pub(crate) struct ExecTable {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) settings: Settings,
    pub(super) spool: Spool,
    pub(super) pool: Pool,
    pub(super) reaper: Reaper,
    /// Waits for the drivers, the pumps and what they leave.
    pub(super) tracker: TaskTracker,
    /// Ends every tree.
    pub(super) shutdown: CancellationToken,
    pub(super) quotas: Quotas,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    by_id: HashMap<String, Arc<Command>>,
    /// Oldest end first.
    ended: VecDeque<Arc<Command>>,
    next_sequence: u64,
}

impl ExecTable {
    /// A table that takes over what an earlier agent left in the spool.
    pub(crate) fn open(
        settings: Settings,
        (spool, found): (Spool, Vec<Found>),
        pool: Pool,
        reaper: Reaper,
        tracker: TaskTracker,
        shutdown: CancellationToken,
    ) -> Self {
        let mut list = List::default();
        let mut kept = 0;
        for found in found {
            let progress = settle(&found);
            kept += progress.kept();
            let sequence = list.sequence();
            let command = Command::found(&found, progress, sequence);
            list.by_id.insert(command.id.clone(), Arc::clone(&command));
            list.ended.push_back(command);
        }
        let table = Self {
            shared: Arc::new(Shared {
                settings,
                spool,
                pool,
                reaper,
                tracker,
                shutdown,
                quotas: Quotas::new(kept),
                list: Mutex::new(list),
            }),
        };
        table.shared.forget_oldest();
        // On cancel: ends with the agent.
        let shared = Arc::clone(&table.shared);
        table.shared.tracker.spawn(shared.expire_outputs());
        table
    }

    /// Limits the spools from now on.
    pub(crate) async fn limit_spools(&self, limits: &SpoolLimits) {
        self.shared.quotas.set(limits);
        let shared = Arc::clone(&self.shared);
        let _ = tokio::task::spawn_blocking(move || shared.drop_what_is_too_much()).await;
    }

    /// Starts a command or finds it, and waits until it runs. Only one that is
    /// started is given the secrets.
    pub(crate) async fn start(
        &self,
        id: String,
        mut spec: ExecSpec,
        secrets: Option<CommandSecrets>,
    ) -> Result<(CommandHandle, bool), AgentError> {
        spec::check_id("exec id", &id)?;
        spec::check(&spec)?;
        spec::detach(&mut spec);
        let (command, requests) = self.find_or_insert(id, spec)?;
        let started = requests.is_some();
        if let Some((spec, requests)) = requests {
            let shared = Arc::clone(&self.shared);
            // On cancel: runs on, the call that wanted it may be made again.
            let driven = driver::drive(shared, Arc::clone(&command), spec, secrets, requests);
            self.shared.tracker.spawn(driven);
        }
        command.started().await?;
        Ok((CommandHandle { command }, started))
    }

    #[allow(clippy::type_complexity)]
    fn find_or_insert(
        &self,
        id: String,
        spec: ExecSpec,
    ) -> Result<
        (
            Arc<Command>,
            Option<(Arc<ExecSpec>, tokio::sync::mpsc::Receiver<Wanted>)>,
        ),
        AgentError,
    > {
        let fingerprint = spec::fingerprint(&spec);
        let spec = Arc::new(spec);
        let mut list = self.shared.list();
        let known = (list.by_id.get(&id).cloned())
            .or_else(|| self.shared.forgotten(&id, Some(Arc::clone(&spec))));
        if let Some(known) = known {
            if known.fingerprint == fingerprint {
                return Ok((known, None));
            }
            return Err(AgentError::new(
                Reason::ExecConflict,
                format!(
                    "command {id} exists with another specification; choose a new id for a new command"
                ),
            ));
        }
        if self.shared.shutdown.is_cancelled() {
            return Err(AgentError::new(
                Reason::ShuttingDown,
                "the workspace is stopping; start it again first",
            ));
        }
        let sequence = list.sequence();
        let (command, requests) =
            Command::new(id.clone(), Arc::clone(&spec), fingerprint, sequence);
        list.by_id.insert(id, Arc::clone(&command));
        Ok((command, Some((spec, requests))))
    }

    /// The command with this id, once it is not being started any more.
    pub(crate) async fn find(&self, id: &str) -> Result<CommandHandle, AgentError> {
        let command = {
            let list = self.shared.list();
            (list.by_id.get(id).cloned()).or_else(|| self.shared.forgotten(id, None))
        };
        let command = command.ok_or_else(|| {
            AgentError::new(
                Reason::ExecUnknown,
                format!("there is no command {id:?}; it was never started here, or it was removed"),
            )
        })?;
        command.started().await?;
        Ok(CommandHandle { command })
    }

    /// Every command, newest first.
    pub(crate) async fn list(&self, running_only: bool) -> Vec<Exec> {
        let mut commands: Vec<_> = self.shared.list().by_id.values().cloned().collect();
        commands.sort_by_key(|command| std::cmp::Reverse(command.sequence));
        let mut execs = Vec::with_capacity(commands.len());
        for command in commands {
            let shown = match command.progress.borrow().phase {
                Phase::Starting | Phase::Running { .. } => true,
                Phase::Ended { .. } => !running_only,
                Phase::Refused(_) => false,
            };
            if shown {
                execs.push(command.describe().await);
            }
        }
        execs
    }

    /// Forgets a command that has ended; one that is not known is forgotten
    /// already.
    pub(crate) async fn remove(&self, id: &str) -> Result<(), AgentError> {
        let command = {
            let mut list = self.shared.list();
            let known = list.by_id.get(id).cloned();
            if let Some(command) = &known
                && command.progress.borrow().exit().is_none()
            {
                return Err(AgentError::new(
                    Reason::ExecRunning,
                    format!("command {id} still runs; end it before it is removed"),
                ));
            }
            // Killed while it forgot the command, an earlier agent left both.
            let mut forgotten = self.shared.spool.forgotten();
            let freed = forgotten.remove(id, crate::now_ms());
            freed.map_err(|error| {
                AgentError::new(
                    Reason::Io,
                    format!("could not free the id of command {id}: {error}"),
                )
            })?;
            let Some(command) = known else {
                return Ok(());
            };
            list.by_id.remove(id);
            list.ended.retain(|ended| ended.id != id);
            command
        };
        let files = command.files()?;
        self.shared.quotas.free(command.kept());
        tokio::task::spawn_blocking(move || files.remove())
            .await
            .map_err(|_| AgentError::lost_task("remove the command"))?
            .map_err(|error| {
                AgentError::new(
                    Reason::Io,
                    format!("could not free the spool of command {id}: {error}"),
                )
            })
    }
}

impl Shared {
    fn list(&self) -> MutexGuard<'_, List> {
        self.list.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Frees the id of a command that could not be started, and says why.
    pub(super) fn refuse(&self, command: &Arc<Command>, error: AgentError) {
        self.list().by_id.remove(&command.id);
        command
            .progress
            .send_modify(|progress| progress.phase = Phase::Refused(Arc::new(error)));
    }

    /// Takes note of an end.
    pub(super) fn ended(self: &Arc<Self>, command: &Arc<Command>) {
        command.ended();
        self.list().ended.push_back(Arc::clone(command));
        self.forget_oldest();
    }

    /// A command that ended within the last day and was forgotten; the caller
    /// holds the list. `spec` is what it is asked for with.
    fn forgotten(&self, id: &str, spec: Option<Arc<ExecSpec>>) -> Option<Arc<Command>> {
        let remnant = self.spool.forgotten().get(id, crate::now_ms())?;
        Command::forgotten(&remnant, spec, self.spool.files(id))
    }

    fn keep_remnant(&self, command: &Command) {
        let Some(remnant) = command.remnant() else {
            return;
        };
        let kept = self.spool.forgotten().put(&remnant, crate::now_ms());
        if let Err(error) = kept {
            eprintln!(
                "compy-agent: could not keep how {} ended: {error}",
                command.id
            );
        }
    }

    fn forget_oldest(self: &Arc<Self>) {
        loop {
            let oldest = {
                let mut list = self.list();
                if list.ended.len() <= ENDED_AT_MOST {
                    return;
                }
                let Some(oldest) = list.ended.pop_front() else {
                    return;
                };
                // Before its id is free, so that nobody starts it once more.
                self.keep_remnant(&oldest);
                list.by_id.remove(&oldest.id);
                oldest
            };
            let Ok(files) = oldest.files() else { continue };
            let kept = oldest.kept();
            self.quotas.free(kept);
            if kept > 0 {
                // On cancel: runs on; what is left over is found again.
                self.tracker.spawn_blocking(move || files.remove());
            } else if let Err(error) = files.remove() {
                eprintln!("compy-agent: could not forget {}: {error}", oldest.id);
            }
        }
    }
}

/// Room for output.
impl Shared {
    /// Frees the output of the command that ended first of those that have
    /// any; false when there is none.
    pub(super) fn drop_oldest_output(&self) -> bool {
        let oldest = {
            let list = self.list();
            list.ended.iter().find(|ended| ended.kept() > 0).cloned()
        };
        oldest.is_some_and(|oldest| {
            self.drop_output(&oldest);
            true
        })
    }

    fn drop_output(&self, command: &Command) {
        self.quotas.free(command.drop_output());
    }

    /// Does what needs a little room on the disk, after others have made it.
    pub(super) fn with_room<T>(&self, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        loop {
            match act() {
                Err(error) if is_full(&error) && self.drop_oldest_output() => {}
                done => return done,
            }
        }
    }

    fn drop_what_is_too_much(&self) {
        while !self.quotas.has_room_for(0) && self.drop_oldest_output() {}
        let Some(age) = self.quotas.age() else { return };
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let before = crate::now_ms().saturating_sub(age);
        let old: Vec<_> = {
            let list = self.list();
            let is_old = |ended: &&Arc<Command>| ended.ended_at_ms().is_some_and(|at| at < before);
            let old = list.ended.iter().filter(is_old);
            old.filter(|ended| ended.kept() > 0).cloned().collect()
        };
        for command in old {
            self.drop_output(&command);
        }
    }

    async fn expire_outputs(self: Arc<Self>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(EXPIRY_PERIOD) => {}
                () = self.shutdown.cancelled() => return,
            }
            let shared = Arc::clone(&self);
            let _ = tokio::task::spawn_blocking(move || shared.drop_what_is_too_much()).await;
        }
    }
}

impl List {
    fn sequence(&mut self) -> u64 {
        self.next_sequence += 1;
        self.next_sequence
    }
}

/// The progress of a command found on disk. One without an end ran when the
/// last agent ended, and that is all that can be said about it.
fn settle(found: &Found) -> Progress {
    let end = found.end.clone().unwrap_or_else(|| {
        let [stdout, stderr] = [Output::Stdout, Output::Stderr].map(|o| found.files.found(o));
        let end = EndRecord {
            exit: Some(Exit {
                how: Some(How::Unknown(
                    "the agent restarted while the command ran".into(),
                )),
                ..Exit::default()
            }),
            stdout_bytes: stdout.bytes,
            stderr_bytes: stderr.bytes,
            stdout_gap: span(stdout),
            stderr_gap: span(stderr),
        };
        if let Err(error) = found.files.write_end(&end) {
            eprintln!("compy-agent: could not record an unknown end: {error}");
        }
        end
    });
    let extent = |output, bytes, gap: Option<Span>| match gap {
        _ if bytes > 0 && !found.files.has(output) => Extent::whole(bytes).dropped(),
        None => Extent::whole(bytes),
        Some(gap) => Extent {
            bytes,
            gap_from: gap.from,
            gap_to: gap.to,
        },
    };
    Progress {
        stdout: extent(Output::Stdout, end.stdout_bytes, end.stdout_gap),
        stderr: extent(Output::Stderr, end.stderr_bytes, end.stderr_gap),
        phase: Phase::Ended {
            pid: 0,
            exit: Arc::new(end.exit.unwrap_or_default()),
        },
    }
}

/// The gap of a stream as it is recorded.
pub(super) fn span(extent: Extent) -> Option<Span> {
    extent.has_gap().then_some(Span {
        from: extent.gap_from,
        to: extent.gap_to,
    })
}

/// One command that runs or has ended; what callers do to it.
pub(crate) struct CommandHandle {
    command: Arc<Command>,
}

impl CommandHandle {
    /// The command as it is now.
    pub(crate) async fn describe(&self) -> Exec {
        self.command.describe().await
    }

    /// Waits until there is something to tell, output or an end, but not long.
    pub(crate) async fn has_news(&self, within: Duration) {
        let mut progress = self.command.progress.subscribe();
        let news =
            progress.wait_for(|progress| progress.exit().is_some() || progress.written() > 0);
        let _ = tokio::time::timeout(within, news).await;
    }

    /// A reader from the given offsets.
    pub(crate) async fn attach(
        &self,
        wish: Wish,
    ) -> Result<impl Stream<Item = Result<AttachExecResponse, AgentError>> + Send + use<>, AgentError>
    {
        let exec = self.command.describe().await;
        let progress = self.command.progress.subscribe();
        Ok(Reader::new(exec, self.command.files()?, progress, wish)?.into_stream())
    }

    /// Feeds standard input; returns the bytes accepted in all.
    pub(crate) async fn write_stdin(
        &self,
        offset: u64,
        bytes: &[u8],
        eof: bool,
    ) -> Result<u64, AgentError> {
        self.command.write_stdin(offset, bytes, eof).await
    }

    pub(crate) async fn resize(&self, size: &PtySize) -> Result<(), AgentError> {
        self.command.resize(size).await
    }

    /// Whether a step has signalled the command.
    pub(crate) fn was_signalled_by(&self, step_id: &str) -> bool {
        self.command.was_signalled_by(step_id)
    }

    /// Takes note of the step that has signalled the command.
    pub(crate) fn signalled_by(&self, step_id: String) {
        self.command.signalled_by(step_id);
    }

    /// Signals the leader's group.
    pub(crate) async fn signal_group(&self, signal: i32) -> Result<(), AgentError> {
        check_signal(signal)?;
        self.command.want(Wanted::SignalGroup(signal)).await;
        Ok(())
    }

    /// Signals every process of the tree.
    pub(crate) async fn signal_tree(&self, signal: i32) -> Result<(), AgentError> {
        check_signal(signal)?;
        self.command.want(Wanted::SignalTree(signal)).await;
        Ok(())
    }

    /// Ends the tree: SIGTERM now, SIGKILL after the grace period.
    pub(crate) async fn end(&self, grace_ms: u32) {
        self.command.want(Wanted::End { grace_ms }).await;
    }
}

fn check_signal(signal: i32) -> Result<(), AgentError> {
    if SIGNALS.contains(&signal) {
        return Ok(());
    }
    Err(AgentError::new(
        Reason::SignalInvalid,
        format!("there is no signal {signal}; signals have the numbers 1 to 64"),
    ))
}
