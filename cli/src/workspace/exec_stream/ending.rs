//! What a command's end is to the process that ran it.

use compyd_proto::v1::{ExecExit, exec_exit::How};

use crate::exit::Exit;
use crate::terminal;

const OUT_OF_MEMORY: &str = "while the command ran, the kernel ended a process of the workspace: \
    its memory limit was reached";

/// What compyctl exits with; what there is to say about it goes to standard
/// error.
pub(crate) fn conclude(exit: ExecExit) -> Exit {
    let out_of_memory = exit.out_of_memory.then(|| OUT_OF_MEMORY.to_owned());
    let (exit, explanation) = exit_of(exit);
    for explanation in explanation.into_iter().chain(out_of_memory) {
        eprintln!(
            "compyctl: {}",
            terminal::printable(&explanation, terminal::Lines::Join)
        );
    }
    exit
}

/// What compyctl exits with, and what it says about it.
fn exit_of(exit: ExecExit) -> (Exit, Option<String>) {
    match exit.how {
        Some(How::Code(code)) => (Exit(u8::try_from(code).unwrap_or(u8::MAX)), None),
        Some(How::Signal(signal)) => (
            Exit(u8::try_from(signal.saturating_add(128)).unwrap_or(u8::MAX)),
            None,
        ),
        Some(How::TimedOutMs(limit)) => (
            Exit::TIMED_OUT,
            Some(format!(
                "the command was ended by its time-out of {}",
                humantime::format_duration(std::time::Duration::from_millis(limit))
            )),
        ),
        Some(How::NotStarted(why)) => {
            let lower = why.to_ascii_lowercase();
            let missing = ["no such file", "not found", "enoent"]
                .iter()
                .any(|phrase| lower.contains(phrase));
            (
                if missing {
                    Exit::NOT_FOUND
                } else {
                    Exit::NOT_EXECUTABLE
                },
                Some(format!("the command was not started: {why}")),
            )
        }
        Some(How::Unknown(why)) => (
            Exit::FATE_UNKNOWN,
            Some(format!("the command's fate is not known: {why}")),
        ),
        None => (
            Exit::FATE_UNKNOWN,
            Some("the command ended in a way this compyctl does not know".into()),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exit(how: Option<How>) -> u8 {
        exit_of(ExecExit {
            how,
            duration_ms: 0,
            leftover_processes: 0,
            out_of_memory: false,
        })
        .0
        .0
    }

    #[test]
    fn every_way_to_end_has_its_exit_code() {
        assert_eq!(exit(Some(How::Code(0))), 0);
        assert_eq!(exit(Some(How::Code(255))), 255);
        assert_eq!(exit(Some(How::Signal(9))), 137);
        assert_eq!(exit(Some(How::Signal(64))), 192);
        assert_eq!(exit(Some(How::TimedOutMs(5))), 124);
        assert_eq!(
            exit(Some(How::NotStarted("x: No such file or directory".into()))),
            127
        );
        assert_eq!(
            exit(Some(How::NotStarted("x: Permission denied".into()))),
            126
        );
        assert_eq!(exit(Some(How::Unknown("the agent was killed".into()))), 125);
        assert_eq!(exit(None), 125);
    }
}
