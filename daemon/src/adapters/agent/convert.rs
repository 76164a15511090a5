//! Between the agent's messages and the domain, with every answer checked.

use bytes::Bytes;
use compyd_proto::agent as wire;

use super::refusal::broken;
use crate::{
    domain::{
        exec::{
            Exec, ExecSpec, Exit, ExitStatus, Leftovers, OutputGap, OutputStream, SignalTarget,
            SpoolLimits, TerminalSize,
        },
        files::{
            FileInfo, FileKind, FileText, FileUpdate, FileWrite, GlobQuery, GrepLine, GrepQuery,
            Listing, Receipt,
        },
        ids::ExecId,
    },
    ports::{agent::AgentError, command_secrets::CommandSecrets},
};

/// One for each stream.
const MOST_GAPS: usize = 2;

type Environment = [(String, Vec<u8>)];

pub(super) fn spec_to_wire(spec: &ExecSpec, base: &Environment) -> wire::ExecSpec {
    let leftovers = match spec.leftovers {
        Leftovers::Keep => wire::Leftovers::Keep,
        Leftovers::Kill => wire::Leftovers::Kill,
    };
    wire::ExecSpec {
        argv: spec.argv.iter().cloned().map(Bytes::from).collect(),
        cwd: spec.cwd.clone().unwrap_or_default(),
        env: base
            .iter()
            .chain(&spec.environment)
            .map(|(name, value)| wire::EnvVar {
                name: name.clone(),
                value: value.clone().into(),
            })
            .collect(),
        user: spec.user.clone().unwrap_or_default(),
        timeout_ms: spec.timeout_ms.unwrap_or(0),
        stdin: spec.stdin,
        pty: spec.terminal.map(size_to_wire),
        leftovers: leftovers.into(),
    }
}

pub(super) fn secrets_to_wire(secrets: CommandSecrets) -> wire::CommandSecrets {
    let variables = secrets.environment.into_iter();
    let files = secrets.files.into_iter();
    wire::CommandSecrets {
        env: variables
            .map(|(name, value)| wire::EnvVar {
                name,
                value: value.into(),
            })
            .collect(),
        files: files
            .map(|file| wire::SecretFile {
                name: file.name,
                content: file.content.into(),
                variable: file.variable.unwrap_or_default(),
            })
            .collect(),
        kept_files: secrets.kept_files,
    }
}

/// The other way; the variables that every command is given are taken off.
fn spec_from_wire(spec: wire::ExecSpec, base: &Environment) -> Result<ExecSpec, String> {
    let mut environment: Vec<(String, Vec<u8>)> = spec
        .env
        .into_iter()
        .map(|variable| (variable.name, variable.value.into()))
        .collect();
    if environment.starts_with(base) {
        environment.drain(..base.len());
    }
    let terminal = match spec.pty {
        None => None,
        Some(size) => Some(TerminalSize {
            rows: u16::try_from(size.rows).map_err(|_| "terminal too high")?,
            columns: u16::try_from(size.cols).map_err(|_| "terminal too wide")?,
        }),
    };
    Ok(ExecSpec {
        argv: spec.argv.into_iter().map(Vec::from).collect(),
        cwd: some(spec.cwd),
        environment,
        user: some(spec.user),
        timeout_ms: (spec.timeout_ms != 0).then_some(spec.timeout_ms),
        stdin: spec.stdin,
        terminal,
        leftovers: match wire::Leftovers::try_from(spec.leftovers) {
            Ok(wire::Leftovers::Kill) => Leftovers::Kill,
            Ok(wire::Leftovers::Keep | wire::Leftovers::Unspecified) | Err(_) => Leftovers::Keep,
        },
        tool: None,
    })
}

pub(super) fn size_to_wire(size: TerminalSize) -> wire::PtySize {
    wire::PtySize {
        rows: size.rows.into(),
        cols: size.columns.into(),
    }
}

pub(super) fn signal_to_wire(target: SignalTarget) -> wire::signal_exec_request::What {
    use wire::signal_exec_request::What;
    match target {
        SignalTarget::Group(signal) => What::Group(signal),
        SignalTarget::Tree(signal) => What::Tree(signal),
        SignalTarget::End { grace_ms } => What::EndAfterGraceMs(grace_ms),
    }
}

/// A command; `expected` is the id it must have.
pub(super) fn exec(
    call: &'static str,
    exec: Option<wire::Exec>,
    expected: Option<&ExecId>,
    base: &Environment,
) -> Result<Exec, AgentError> {
    let exec = exec.ok_or_else(|| broken(call, "no command in the answer"))?;
    let id: ExecId = exec
        .exec_id
        .parse()
        .map_err(|error| broken(call, format!("{error}")))?;
    if expected.is_some_and(|expected| *expected != id) {
        return Err(broken(call, format!("the answer is about {id}")));
    }
    let spec = match exec.spec {
        Some(spec) => spec_from_wire(spec, base).map_err(|why| broken(call, why))?,
        // Of a command that was forgotten since it ended, only that is known.
        None if exec.exit.is_some() => ExecSpec::new::<&[u8]>([]),
        None => return Err(broken(call, "no specification in the answer")),
    };
    Ok(Exec {
        id,
        spec,
        pid: exec.pid,
        started_at_ms: exec.started_at_ms,
        stdout_bytes: exec.stdout_bytes,
        stderr_bytes: exec.stderr_bytes,
        stdin_bytes: exec.stdin_bytes,
        gaps: exec
            .gaps
            .iter()
            .take(MOST_GAPS)
            .map(|gap| self::gap(call, gap))
            .collect::<Result<_, _>>()?,
        exit: exec.exit.map(|exit| self::exit(call, exit)).transpose()?,
    })
}

/// Bytes that the agent has not kept.
pub(super) fn gap(call: &'static str, gap: &wire::Gap) -> Result<OutputGap, AgentError> {
    let stream = match wire::Stream::try_from(gap.stream) {
        Ok(wire::Stream::Stdout) => OutputStream::Stdout,
        Ok(wire::Stream::Stderr) => OutputStream::Stderr,
        Ok(wire::Stream::Unspecified) | Err(_) => return Err(broken(call, "a gap in no stream")),
    };
    let (from, to) = (gap.from, gap.to);
    if from >= to {
        return Err(broken(call, format!("a gap from {from} to {to}")));
    }
    Ok(OutputGap { stream, from, to })
}

pub(super) fn spool_limits(limits: SpoolLimits) -> wire::SpoolLimits {
    let ms = |age: std::time::Duration| u64::try_from(age.as_millis()).unwrap_or(u64::MAX).max(1);
    wire::SpoolLimits {
        stream_bytes: limits.stream_bytes,
        total_bytes: limits.total_bytes,
        ended_ms: limits.ended.map_or(0, ms),
    }
}

pub(super) fn exit(call: &'static str, exit: wire::Exit) -> Result<Exit, AgentError> {
    use wire::exit::How;
    let status = match exit.how {
        Some(How::Code(code)) if code <= 255 => ExitStatus::Code(code),
        Some(How::Signal(signal)) if (1..=64).contains(&signal) => ExitStatus::Signal(signal),
        Some(How::TimedOut(limit)) => ExitStatus::TimedOut(limit.timeout_ms),
        Some(How::NotStarted(why)) => ExitStatus::NotStarted(why.message),
        Some(How::Unknown(why)) => ExitStatus::Unknown(why),
        Some(How::Code(code)) => return Err(broken(call, format!("exit status {code}"))),
        Some(How::Signal(signal)) => return Err(broken(call, format!("signal {signal}"))),
        None => return Err(broken(call, "an exit that does not say how")),
    };
    Ok(Exit {
        status,
        duration_ms: exit.duration_ms,
        leftover_processes: exit.leftover_processes,
        out_of_memory: exit.out_of_memory,
    })
}

pub(super) fn text(
    call: &'static str,
    text: wire::ReadFileResponse,
) -> Result<FileText, AgentError> {
    Ok(FileText {
        hash: hash(call, text.hash)?,
        content: text.content,
        first_line: text.first_line,
        line_count: text.line_count,
        total_lines: text.total_lines,
        total_bytes: text.total_bytes,
        truncated: text.truncated,
    })
}

pub(super) fn write_to_wire(step_id: String, write: &FileWrite) -> wire::WriteFileRequest {
    wire::WriteFileRequest {
        step_id,
        path: write.path.clone(),
        content: write.content.clone().into(),
        expected_hash: write.expected_hash.clone().unwrap_or_default(),
        create_only: write.create_only,
        mode: 0,
    }
}

pub(super) fn changes_to_wire(step_id: String, updates: &[FileUpdate]) -> wire::ChangeFilesRequest {
    use wire::file_change::To;
    let changes = updates.iter().map(|update| wire::FileChange {
        path: update.path.clone(),
        expected_hash: update.expected_hash.clone().unwrap_or_default(),
        to: Some(match &update.to {
            Some(content) => To::Content(content.clone().into()),
            None => To::Removed(true),
        }),
        mode: update.mode.unwrap_or(0),
    });
    wire::ChangeFilesRequest {
        step_id,
        changes: changes.collect(),
    }
}

/// A receipt; `step` is the id it must have.
pub(super) fn receipt(
    call: &'static str,
    receipt: Option<wire::Receipt>,
    step: &str,
) -> Result<Receipt, AgentError> {
    let receipt = receipt.ok_or_else(|| broken(call, "no receipt in the answer"))?;
    if receipt.step_id != step {
        return Err(broken(call, "the receipt is of another step"));
    }
    if !receipt.path.starts_with('/') {
        return Err(broken(call, "the receipt's path is not absolute"));
    }
    let hash_before = match some(receipt.hash_before) {
        Some(before) => Some(hash(call, before)?),
        None => None,
    };
    Ok(Receipt {
        path: receipt.path,
        hash_before,
        hash_after: match some(receipt.hash_after) {
            Some(after) => Some(hash(call, after)?),
            None => None,
        },
        size_bytes: receipt.size_bytes,
        replayed: receipt.replayed,
    })
}

/// Receipts of one step at most: files of a change.
const MOST_RECEIPTS: usize = 256;

/// As many receipts as were asked for, all of one step.
pub(super) fn receipts(
    call: &'static str,
    receipts: Vec<wire::Receipt>,
    step: &str,
) -> Result<Vec<Receipt>, AgentError> {
    if receipts.len() > MOST_RECEIPTS {
        return Err(broken(call, format!("{} receipts", receipts.len())));
    }
    receipts
        .into_iter()
        .map(|one| receipt(call, Some(one), step))
        .collect()
}

pub(super) fn infos(
    call: &'static str,
    entries: Vec<wire::FileInfo>,
    truncated: bool,
    at_most: usize,
) -> Result<Listing<FileInfo>, AgentError> {
    if entries.len() > at_most {
        return Err(broken(call, format!("{} entries", entries.len())));
    }
    let entries = entries
        .into_iter()
        .map(|entry| info(call, Some(entry)))
        .collect::<Result<_, _>>()?;
    Ok(Listing { entries, truncated })
}

pub(super) fn info(
    call: &'static str,
    info: Option<wire::FileInfo>,
) -> Result<FileInfo, AgentError> {
    let info = info.ok_or_else(|| broken(call, "no file in the answer"))?;
    let kind = match wire::FileKind::try_from(info.kind) {
        Ok(wire::FileKind::File) => FileKind::File,
        Ok(wire::FileKind::Directory) => FileKind::Directory,
        Ok(wire::FileKind::Symlink) => FileKind::Symlink,
        Ok(wire::FileKind::Other) => FileKind::Other,
        Ok(wire::FileKind::Unspecified) | Err(_) => {
            return Err(broken(call, format!("file kind {}", info.kind)));
        }
    };
    Ok(FileInfo {
        path: info.path,
        kind,
        size_bytes: info.size_bytes,
        mode: info.mode & 0o7777,
        mtime_ns: info.mtime_ns,
        link_target: some(info.link_target),
    })
}

pub(super) fn glob_to_wire(query: &GlobQuery) -> wire::GlobRequest {
    wire::GlobRequest {
        pattern: query.pattern.clone(),
        path: query.path.clone().unwrap_or_default(),
        max_matches: query.max_matches.unwrap_or(0),
        include_ignored: query.include_ignored,
    }
}

pub(super) fn grep_to_wire(query: &GrepQuery) -> wire::GrepRequest {
    wire::GrepRequest {
        pattern: query.pattern.clone(),
        path: query.path.clone().unwrap_or_default(),
        globs: query.globs.clone(),
        ignore_case: query.ignore_case,
        before_context: query.context.0,
        after_context: query.context.1,
        max_matches: query.max_matches.unwrap_or(0),
        include_ignored: query.include_ignored,
    }
}

pub(super) fn grep_lines(answer: wire::GrepResponse) -> Listing<GrepLine> {
    Listing {
        entries: answer
            .lines
            .into_iter()
            .map(|line| GrepLine {
                path: line.path,
                line: line.line,
                text: line.text,
                matched: line.matched,
            })
            .collect(),
        truncated: answer.truncated,
    }
}

fn hash(call: &'static str, hash: String) -> Result<String, AgentError> {
    let sound = hash.len() == 64 && hash.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    if sound {
        Ok(hash)
    } else {
        Err(broken(call, "a hash that is not 64 hex digits"))
    }
}

fn some(text: String) -> Option<String> {
    (!text.is_empty()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_command_that_has_ended_the_specification_may_be_forgotten() {
        let ended = wire::Exec {
            exec_id: "old".to_owned(),
            exit: Some(wire::Exit {
                how: Some(wire::exit::How::Code(3)),
                ..wire::Exit::default()
            }),
            ..wire::Exec::default()
        };
        let runs = wire::Exec {
            exit: None,
            ..ended.clone()
        };
        let read = |sent| exec("GetExec", Some(sent), None, &[]);
        let known = read(ended).unwrap();
        assert!(known.spec.argv.is_empty());
        assert_eq!(known.exit.unwrap().status, ExitStatus::Code(3));
        assert!(
            read(runs)
                .unwrap_err()
                .to_string()
                .contains("no specification")
        );
    }
}
