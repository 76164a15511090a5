//! Commands on the wire.

use bytes::Bytes;
use compyd_proto::v1 as wire;
use tonic::Status;

use super::{
    super::{
        status::{invalid, invalid_id},
        time::timestamp,
    },
    some,
};
use crate::{
    domain::{
        credential::CommandTool,
        exec::{
            Exec, ExecEvent, ExecSpec, Exit, ExitStatus, Leftovers, OutputGap, OutputOffsets,
            OutputStream, Reading, SignalTarget, TerminalSize,
        },
        ids::{ExecId, RequestId, StepId},
    },
    service::workspaces::Follow,
};

const MOST_ARGUMENTS: usize = 4_096;

/// A command to start: its workspace, and what to follow.
///
/// # Errors
/// `REQUEST_ID_INVALID`, `SPEC_INVALID`.
pub fn start(start: wire::ExecStart) -> Result<Follow, Status> {
    let id: RequestId = start
        .request_id
        .parse()
        .map_err(|error| invalid_id("REQUEST_ID_INVALID", &error))?;
    let spec_invalid = |message: String, advice: &str| invalid("SPEC_INVALID", message, advice);
    if start.argv.is_empty() || start.argv.len() > MOST_ARGUMENTS {
        return Err(spec_invalid(
            format!(
                "a command has 1 to {MOST_ARGUMENTS} arguments, not {}",
                start.argv.len()
            ),
            "give the program and its arguments; for more, write them to a file",
        ));
    }
    if start.argv.iter().any(|argument| argument.contains(&0)) {
        return Err(spec_invalid(
            "an argument contains a NUL byte".to_owned(),
            "pass such bytes on standard input",
        ));
    }
    if let Some(bad) = start.environment.iter().find(|variable| {
        variable.name.is_empty()
            || variable.name.contains(['=', '\0'])
            || variable.value.contains(&0)
    }) {
        return Err(spec_invalid(
            format!("`{}` cannot be a variable", bad.name.escape_debug()),
            "names are not empty and have no `=`; neither names nor values have NUL bytes",
        ));
    }
    let terminal = start.terminal.map(terminal_size).transpose()?;
    let spec = ExecSpec {
        argv: start.argv.into_iter().map(Vec::from).collect(),
        cwd: some(&start.cwd),
        environment: start
            .environment
            .into_iter()
            .map(|variable| (variable.name, variable.value.into()))
            .collect(),
        user: some(&start.user),
        timeout_ms: (start.timeout_ms != 0).then_some(start.timeout_ms),
        stdin: start.stdin,
        terminal,
        leftovers: Leftovers::Keep,
        tool: Some(CommandTool::Exec),
    };
    Ok(Follow::Run(id.into(), Box::new(spec)))
}

/// A command to attach to.
///
/// # Errors
/// `EXEC_ID_INVALID`.
pub fn attach(attach: &wire::ExecAttach) -> Result<Follow, Status> {
    let id = id(&attach.exec_id)?;
    let offsets = OutputOffsets {
        stdout: attach.stdout_offset,
        stderr: attach.stderr_offset,
    };
    let reading = match (attach.exit_only, attach.no_follow) {
        (true, _) => Reading::ExitOnly,
        (false, true) => Reading::NoFollow,
        (false, false) => Reading::Follow,
    };
    Ok(Follow::Attach(id, offsets, reading))
}

/// A command's id.
///
/// # Errors
/// `EXEC_ID_INVALID`.
pub fn id(text: &str) -> Result<ExecId, Status> {
    text.parse()
        .map_err(|error| invalid_id("EXEC_ID_INVALID", &error))
}

/// A request's id as a step of the agent's.
///
/// # Errors
/// `REQUEST_ID_INVALID`.
pub fn step_id(request_id: &str) -> Result<StepId, Status> {
    request_id
        .parse()
        .map_err(|error| invalid_id("REQUEST_ID_INVALID", &error))
}

/// A terminal's size.
///
/// # Errors
/// `SPEC_INVALID`.
pub fn terminal_size(size: wire::TerminalSize) -> Result<TerminalSize, Status> {
    let cells = |cells: u32| u16::try_from(cells).ok().filter(|cells| *cells > 0);
    match (cells(size.rows), cells(size.columns)) {
        (Some(rows), Some(columns)) => Ok(TerminalSize { rows, columns }),
        _ => Err(invalid(
            "SPEC_INVALID",
            format!(
                "a terminal cannot have {} rows and {} columns",
                size.rows, size.columns
            ),
            "give 1 to 65535 of each",
        )),
    }
}

/// How to signal a command.
///
/// # Errors
/// `SIGNAL_INVALID`.
pub fn signal(what: Option<wire::signal_exec_request::What>) -> Result<SignalTarget, Status> {
    use wire::signal_exec_request::What;
    match what {
        Some(What::Group(signal)) => Ok(SignalTarget::Group(signal_number(signal)?)),
        Some(What::Tree(signal)) => Ok(SignalTarget::Tree(signal_number(signal)?)),
        Some(What::EndAfterGraceMs(grace_ms)) => Ok(SignalTarget::End { grace_ms }),
        None => Err(invalid(
            "SIGNAL_INVALID",
            "the request names no signal",
            "set group, tree or end_after_grace_ms",
        )),
    }
}

/// A signal's number, checked.
///
/// # Errors
/// `SIGNAL_INVALID`.
pub fn signal_number(signal: i32) -> Result<i32, Status> {
    if (1..=64).contains(&signal) {
        return Ok(signal);
    }
    Err(invalid(
        "SIGNAL_INVALID",
        format!("there is no signal {signal}"),
        "give a number from 1 to 64",
    ))
}

/// What a reader of a command's output receives. The bytes are not copied.
#[must_use]
pub fn event(event: ExecEvent) -> wire::ExecResponse {
    use wire::exec_response::Event;
    let event = match event {
        ExecEvent::Attached(exec) => Event::Attached(info(*exec)),
        ExecEvent::Output {
            stream,
            offset,
            data,
        } => {
            let output = wire::ExecOutput { offset, data };
            match stream {
                OutputStream::Stdout => Event::Stdout(output),
                OutputStream::Stderr => Event::Stderr(output),
            }
        }
        ExecEvent::Gap(gap) => Event::Gap(gap_to_wire(gap)),
        ExecEvent::Exited(exit) => Event::Exit(exit_to_wire(exit)),
    };
    wire::ExecResponse { event: Some(event) }
}

fn gap_to_wire(gap: OutputGap) -> wire::ExecGap {
    wire::ExecGap {
        stderr: gap.stream == OutputStream::Stderr,
        from: gap.from,
        to: gap.to,
    }
}

/// A command, running or ended.
#[must_use]
pub fn info(exec: Exec) -> wire::ExecInfo {
    wire::ExecInfo {
        exec_id: exec.id.to_string(),
        argv: exec.spec.argv.into_iter().map(Bytes::from).collect(),
        cwd: exec.spec.cwd.unwrap_or_default(),
        started_at: Some(timestamp(exec.started_at_ms)),
        stdout_bytes: exec.stdout_bytes,
        stderr_bytes: exec.stderr_bytes,
        stdin_bytes: exec.stdin_bytes,
        gaps: exec.gaps.into_iter().map(gap_to_wire).collect(),
        terminal: exec.spec.terminal.is_some(),
        exit: exec.exit.map(exit_to_wire),
    }
}

fn exit_to_wire(exit: Exit) -> wire::ExecExit {
    use wire::exec_exit::How;
    let how = match exit.status {
        ExitStatus::Code(code) => How::Code(code),
        ExitStatus::Signal(signal) => How::Signal(signal),
        ExitStatus::TimedOut(ms) => How::TimedOutMs(ms),
        ExitStatus::NotStarted(why) => How::NotStarted(why),
        ExitStatus::Unknown(why) => How::Unknown(why),
    };
    wire::ExecExit {
        how: Some(how),
        duration_ms: exit.duration_ms,
        leftover_processes: exit.leftover_processes,
        out_of_memory: exit.out_of_memory,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::grpc::status::reason;

    #[test]
    fn commands_that_cannot_be_are_refused_with_the_reason() {
        let good = wire::ExecStart {
            request_id: "r1".to_owned(),
            argv: vec!["true".into()],
            ..Default::default()
        };
        assert!(super::start(good.clone()).is_ok());
        let variable = |name: &str, value: &'static [u8]| wire::EnvironmentVariable {
            name: name.to_owned(),
            value: value.into(),
        };
        let bad = [
            wire::ExecStart {
                argv: vec![],
                ..good.clone()
            },
            wire::ExecStart {
                argv: vec!["a\0b".into()],
                ..good.clone()
            },
            wire::ExecStart {
                argv: vec!["x".into(); MOST_ARGUMENTS + 1],
                ..good.clone()
            },
            wire::ExecStart {
                environment: vec![variable("", b"x")],
                ..good.clone()
            },
            wire::ExecStart {
                environment: vec![variable("A=B", b"x")],
                ..good.clone()
            },
            wire::ExecStart {
                environment: vec![variable("A", b"x\0")],
                ..good.clone()
            },
            wire::ExecStart {
                terminal: Some(wire::TerminalSize {
                    rows: 0,
                    columns: 80,
                }),
                ..good.clone()
            },
        ];
        for start in bad {
            assert_eq!(reason(&super::start(start).unwrap_err()), "SPEC_INVALID");
        }
        let start = wire::ExecStart {
            request_id: "a b".to_owned(),
            ..good
        };
        assert_eq!(
            reason(&super::start(start).unwrap_err()),
            "REQUEST_ID_INVALID"
        );
    }
}
