//! Commands in workspaces, for people and for scripts.

use compyd_proto::v1::{ExecExit, ExecGap, ExecInfo, exec_exit::How};
use serde::Serialize;

use super::table::Table;
use super::{bytes, time};

/// A command in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct ExecView {
    /// Its id.
    pub(crate) id: String,
    /// Program and arguments; bytes that are not UTF-8 are replaced.
    argv: Vec<String>,
    /// Working directory; empty means /workspace.
    cwd: String,
    /// When it started.
    started_at: Option<String>,
    /// Whether it has a terminal.
    terminal: bool,
    /// Whether it has not ended.
    pub(crate) running: bool,
    /// How it ended; `null` while it runs.
    exit: Option<ExitView>,
    /// Bytes of standard output so far, those dropped included.
    pub(crate) stdout_bytes: u64,
    /// Bytes of standard error so far, those dropped included.
    pub(crate) stderr_bytes: u64,
    /// Bytes of standard input accepted so far.
    stdin_bytes: u64,
    /// Bytes that are not kept.
    gaps: Vec<GapView>,
}

/// How a command ended, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct ExitView {
    /// `code`, `signal`, `timed-out`, `not-started`, `unknown`.
    how: &'static str,
    /// Exit status of the leader; `null` when it did not exit.
    code: Option<u32>,
    /// Signal that ended the leader; `null` when none did.
    signal: Option<u32>,
    /// The time-out, or why there is no status; may be empty.
    message: String,
    /// From start to exit of the leader.
    duration_ms: u64,
    /// Processes that were still alive when the leader exited.
    leftover_processes: u32,
    /// Whether the kernel ended a process of the workspace while it ran,
    /// because its memory limit was reached.
    out_of_memory: bool,
}

/// Bytes of a stream that are not kept, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct GapView {
    /// `stdout` or `stderr`.
    stream: &'static str,
    /// First byte dropped.
    from: u64,
    /// First byte kept after it.
    to: u64,
}

impl From<ExecExit> for ExitView {
    fn from(exit: ExecExit) -> Self {
        let (how, code, signal, message) = match exit.how {
            Some(How::Code(code)) => ("code", Some(code), None, String::new()),
            Some(How::Signal(signal)) => ("signal", None, Some(signal), String::new()),
            Some(How::TimedOutMs(ms)) => ("timed-out", None, None, format!("after {ms} ms")),
            Some(How::NotStarted(why)) => ("not-started", None, None, why),
            Some(How::Unknown(why)) => ("unknown", None, None, why),
            None => ("unknown", None, None, String::new()),
        };
        ExitView {
            how,
            code,
            signal,
            message,
            duration_ms: exit.duration_ms,
            leftover_processes: exit.leftover_processes,
            out_of_memory: exit.out_of_memory,
        }
    }
}

impl ExitView {
    fn brief(&self) -> String {
        match (self.code, self.signal) {
            (Some(code), _) => format!("exit {code}"),
            (None, Some(signal)) => format!("signal {signal}"),
            (None, None) => self.how.to_owned(),
        }
    }
}

impl From<ExecGap> for GapView {
    fn from(gap: ExecGap) -> Self {
        GapView {
            stream: if gap.stderr { "stderr" } else { "stdout" },
            from: gap.from,
            to: gap.to,
        }
    }
}

impl From<ExecInfo> for ExecView {
    fn from(info: ExecInfo) -> Self {
        ExecView {
            id: info.exec_id,
            argv: info
                .argv
                .iter()
                .map(|argument| String::from_utf8_lossy(argument).into_owned())
                .collect(),
            cwd: info.cwd,
            started_at: time(info.started_at.as_ref()),
            terminal: info.terminal,
            running: info.exit.is_none(),
            exit: info.exit.map(Into::into),
            stdout_bytes: info.stdout_bytes,
            stderr_bytes: info.stderr_bytes,
            stdin_bytes: info.stdin_bytes,
            gaps: info.gaps.into_iter().map(Into::into).collect(),
        }
    }
}

impl ExecView {
    fn state(&self) -> String {
        match &self.exit {
            None if self.terminal => "running (terminal)".to_owned(),
            None => "running".to_owned(),
            Some(exit) => exit.brief(),
        }
    }

    fn dropped(&self) -> u64 {
        self.gaps.iter().map(|gap| gap.to - gap.from).sum()
    }
}

/// Commands in rows.
pub(crate) fn list_table(views: &[ExecView]) -> Table {
    let mut table = Table::new(&["ID", "STATE", "STARTED", "OUTPUT", "DROPPED", "COMMAND"]);
    for view in views {
        let dropped = match view.dropped() {
            0 => String::new(),
            dropped => bytes(dropped),
        };
        table.row([
            view.id.as_str(),
            &view.state(),
            view.started_at.as_deref().unwrap_or_default(),
            &bytes(view.stdout_bytes + view.stderr_bytes),
            &dropped,
            &shell_words::join(&view.argv),
        ]);
    }
    table
}
