//! The command's outputs on this side: each byte once, written by a thread.

use std::io::Write as _;

use bytes::Bytes;
use compyd_proto::v1::ExecOutput;
use tokio::sync::{mpsc, oneshot};

use crate::exit::Failure;

/// The part of a chunk that has not arrived yet.
pub(super) fn advance(offset: &mut u64, chunk: ExecOutput, name: &str) -> Result<Bytes, Failure> {
    let ExecOutput {
        offset: start,
        mut data,
    } = chunk;
    if start > *offset {
        return Err(Failure::local(
            format!(
                "bytes {offset} to {start} of {name} are missing from the stream",
                offset = *offset
            ),
            "attach again; if it stays so, report it with the daemon's log",
        ));
    }
    let known = (*offset - start).min(data.len() as u64);
    let new = data.split_off(usize::try_from(known).unwrap_or(data.len()));
    *offset += new.len() as u64;
    Ok(new)
}
/// A piece to write.
pub(super) struct Output {
    pub(super) stderr: bool,
    pub(super) data: Bytes,
}

/// How the writer ended.
pub(super) type Written = oneshot::Receiver<std::io::Result<()>>;

/// Writes outputs, unbuffered and in order. Ends when a reader is gone, which
/// closes the queue, or when the queue is dropped.
pub(super) fn spawn_writer() -> Result<(mpsc::Sender<Output>, Written), Failure> {
    use std::os::fd::AsFd as _;

    let open = |fd: std::os::fd::BorrowedFd<'_>| {
        fd.try_clone_to_owned()
            .map(std::fs::File::from)
            .map_err(|error| Failure::local(format!("the outputs cannot be opened: {error}"), ""))
    };
    let mut stdout = open(std::io::stdout().as_fd())?;
    let mut stderr = open(std::io::stderr().as_fd())?;
    let (tx, mut rx) = mpsc::channel::<Output>(4);
    let (done, written) = oneshot::channel();
    std::thread::Builder::new()
        .name("output".into())
        .spawn(move || {
            let mut result = Ok(());
            while let Some(output) = rx.blocking_recv() {
                let file = if output.stderr {
                    &mut stderr
                } else {
                    &mut stdout
                };
                if let Err(error) = file.write_all(&output.data) {
                    if error.kind() != std::io::ErrorKind::BrokenPipe {
                        result = Err(error);
                    }
                    break;
                }
            }
            drop(rx);
            // The main task may have given up waiting.
            let _ = done.send(result);
        })
        .map_err(|error| Failure::local(format!("no thread for the outputs: {error}"), ""))?;
    Ok((tx, written))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chunk(offset: u64, data: &'static [u8]) -> ExecOutput {
        ExecOutput {
            offset,
            data: Bytes::from_static(data),
        }
    }

    #[test]
    fn output_that_arrives_twice_is_written_once_and_a_hole_is_an_error() {
        let mut offset = 0;
        assert_eq!(advance(&mut offset, chunk(0, b"abc"), "o").unwrap(), "abc");
        assert_eq!(advance(&mut offset, chunk(1, b"bcde"), "o").unwrap(), "de");
        assert_eq!(advance(&mut offset, chunk(0, b"ab"), "o").unwrap(), "");
        assert_eq!(offset, 5);
        assert!(advance(&mut offset, chunk(6, b"x"), "o").is_err());
    }
}
