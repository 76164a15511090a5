//! One command's streams, joined to this process's own: bytes in and out,
//! signals, terminal sizes, and the exit status.
//!
//! ```text
//!   stdin --reader thread--> Input --+                    +--> writer thread --> stdout, stderr
//!   SIGINT SIGTERM SIGWINCH ---------+--> Exec (gRPC) ----+
//!                                          | broke?
//!                                          +--> again, at the offsets that are known
//! ```
//!
//! A connection that breaks loses nothing: output is asked for again from the
//! first byte that did not arrive, input is kept until the daemon is known to
//! have accepted it. Input that is kept is bounded: beyond [`KEPT_INPUT_BYTES`]
//! no more is read until the daemon has said how much it accepted.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};

use bytes::Bytes;
use compyd_proto::v1::{
    ExecAttach, ExecExit, ExecInput, ExecOutput, ExecRequest, ExecResponse, ExecStart,
    ListExecsRequest, exec_exit::How, exec_request, exec_response,
};
use futures_util::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};

use crate::connection::{Backoff, Daemon, RESTART_GRACE};
use crate::exit::{Exit, Failure, is_transient};
use crate::terminal::{self, RawMode};

/// Most input that is kept for a connection that may break.
const KEPT_INPUT_BYTES: u64 = 16 * 1024 * 1024;
/// Largest piece of input read at once.
const INPUT_CHUNK_BYTES: usize = 256 * 1024;
/// What a program that writes into a closed pipe is sent.
const SIGPIPE: i32 = 13;

/// How the stream begins.
#[derive(Debug)]
pub(crate) enum Opening {
    /// Starts a command, whose id is the request id.
    Start(ExecStart),
    /// Attaches to a command.
    Attach {
        /// Its id.
        exec_id: String,
    },
}

/// A command to run or to attach to.
#[derive(Debug)]
pub(crate) struct ExecStream {
    pub(crate) daemon: Daemon,
    pub(crate) workspace: String,
    pub(crate) opening: Opening,
    /// Whether standard input is passed on.
    pub(crate) stdin: bool,
    /// Whether this side's terminal is set to raw mode and its size passed on.
    pub(crate) tty: bool,
}

impl ExecStream {
    /// Runs to the command's end; the exit is the command's.
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        let listen = |kind| {
            signal(kind)
                .map_err(|error| Failure::local(format!("signals cannot be received: {error}"), ""))
        };
        let mut signals = Signals {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            resize: listen(SignalKind::window_change())?,
        };
        let _raw_mode = self.tty.then(RawMode::enter).transpose()?;
        let (output, written) = spawn_writer()?;
        let mut session = Attached {
            input: Input::new(self.stdin, &self.opening)?,
            stdout_offset: 0,
            stderr_offset: 0,
            is_known: matches!(self.opening, Opening::Attach { .. }),
            output,
            output_is_closed: false,
            stream: self,
        };
        let exit = session.run_to_end(&mut signals).await?;
        // Ends the writer once everything before is written.
        drop(session);
        match written.await {
            Ok(Ok(())) | Err(_) => Ok(exit),
            Ok(Err(error)) => Err(Failure::local(
                format!("output cannot be written: {error}"),
                "",
            )),
        }
    }

    fn exec_id(&self) -> &str {
        match &self.opening {
            Opening::Start(start) => &start.request_id,
            Opening::Attach { exec_id } => exec_id,
        }
    }
}

struct Signals {
    interrupt: Signal,
    terminate: Signal,
    resize: Signal,
}

/// Why one connection's loop ended.
enum Break {
    /// The command ended.
    Exited(ExecExit),
    /// The connection broke; what it said.
    Connection(Status),
}

/// What is known of the command over all connections.
struct Attached {
    stream: ExecStream,
    input: Input,
    /// Bytes of standard output that arrived.
    stdout_offset: u64,
    /// Bytes of standard error that arrived.
    stderr_offset: u64,
    /// Whether the daemon has confirmed the command; before that, starting is
    /// repeated under the same id.
    is_known: bool,
    output: mpsc::Sender<Output>,
    /// Nobody reads standard output any more.
    output_is_closed: bool,
}

impl Attached {
    async fn run_to_end(&mut self, signals: &mut Signals) -> Result<Exit, Failure> {
        let mut backoff = Backoff::new(RESTART_GRACE);
        loop {
            let offsets = (self.stdout_offset, self.stderr_offset, self.input.accepted);
            let status = match self.connect_and_pump(signals).await? {
                Break::Exited(exit) => return self.conclude(exit).await,
                Break::Connection(status) => status,
            };
            if !is_transient(&status) {
                return Err(self.stream.daemon.failure(status));
            }
            if offsets != (self.stdout_offset, self.stderr_offset, self.input.accepted) {
                backoff.reset();
            }
            let waited = tokio::select! {
                waited = backoff.wait() => waited,
                _ = signals.interrupt.recv() => false,
                _ = signals.terminate.recv() => false,
            };
            if !waited {
                self.explain_how_to_attach();
                return Err(self.stream.daemon.failure(status));
            }
        }
    }

    /// One connection, from its first message to the command's end or its own.
    async fn connect_and_pump(&mut self, signals: &mut Signals) -> Result<Break, Failure> {
        let (requests, receiver) = mpsc::channel::<ExecRequest>(4);
        let first = match &self.stream.opening {
            Opening::Start(start) if !self.is_known => exec_request::Part::Start(start.clone()),
            Opening::Start(_) | Opening::Attach { .. } => exec_request::Part::Attach(ExecAttach {
                workspace: self.stream.workspace.clone(),
                exec_id: self.stream.exec_id().to_owned(),
                stdout_offset: self.stdout_offset,
                stderr_offset: self.stderr_offset,
            }),
        };
        requests
            .try_send(ExecRequest { part: Some(first) })
            .expect("the queue was made just now and has room");
        let mut client = self.stream.daemon.workspaces();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        let mut responses = tokio::select! {
            opened = client.exec(stream) => match opened {
                Ok(response) => response.into_inner(),
                Err(status) => return Ok(Break::Connection(status)),
            },
            _ = signals.interrupt.recv() => return Err(self.given_up()),
            _ = signals.terminate.recv() => return Err(self.given_up()),
        };
        // Until the daemon has said how much input it has, none is sent.
        self.input.is_settled = false;
        self.pump(&mut responses, &requests, signals).await
    }

    /// Cancel safety: every branch either takes a whole item from its queue or
    /// leaves it there; `reserve` takes nothing by itself.
    async fn pump(
        &mut self,
        responses: &mut Streaming<ExecResponse>,
        requests: &mpsc::Sender<ExecRequest>,
        signals: &mut Signals,
    ) -> Result<Break, Failure> {
        let mut control: VecDeque<exec_request::Part> = VecDeque::new();
        if self.stream.tty {
            control.push_back(exec_request::Part::Resize(terminal::size()));
        }
        let mut pending: Option<Output> = None;
        let output = self.output.clone();
        let mut acceptance: Option<BoxFuture<'static, Option<u64>>> = None;
        // A daemon that has stopped reading ends by its own last message.
        let mut requests_are_open = true;
        loop {
            let may_send = requests_are_open && (!control.is_empty() || self.input.has_unsent());
            if self.input.is_full() && acceptance.is_none() {
                acceptance = Some(self.ask_acceptance());
            }
            tokio::select! {
                biased;
                _ = signals.interrupt.recv() => control.push_back(exec_request::Part::Signal(2)),
                _ = signals.terminate.recv() => control.push_back(exec_request::Part::Signal(15)),
                _ = signals.resize.recv(), if self.stream.tty => {
                    control.push_back(exec_request::Part::Resize(terminal::size()));
                }
                permit = output.reserve(), if pending.is_some() => match permit {
                    Ok(permit) => permit.send(pending.take().expect("the branch is guarded by it")),
                    Err(_) => {
                        // Nobody reads our output: what a local program in a
                        // pipe would meet, and the rest is discarded.
                        pending = None;
                        self.output_is_closed = true;
                        control.push_back(exec_request::Part::Signal(SIGPIPE));
                    }
                },
                message = responses.message(), if pending.is_none() => match message {
                    Ok(Some(ExecResponse { event: Some(event) })) => match self.take(event)? {
                        Taken::Output(output) => pending = output,
                        Taken::Exited(exit) => return Ok(Break::Exited(exit)),
                    },
                    Ok(Some(ExecResponse { event: None })) => {}
                    Ok(None) => return Ok(Break::Connection(Status::unavailable(
                        "the stream ended before the command did",
                    ))),
                    Err(status) => return Ok(Break::Connection(status)),
                },
                permit = requests.reserve(), if may_send => match permit {
                    Ok(permit) => {
                        let part = control
                            .pop_front()
                            .or_else(|| self.input.next_unsent().map(exec_request::Part::Input));
                        if part.is_some() {
                            permit.send(ExecRequest { part });
                        }
                    }
                    Err(_) => requests_are_open = false,
                },
                accepted = async { acceptance.as_mut().expect("the branch is guarded by it").await },
                    if acceptance.is_some() =>
                {
                    acceptance = None;
                    if let Some(accepted) = accepted {
                        self.input.accept(accepted)?;
                    }
                }
                () = self.input.read(), if self.input.wants_more() => {}
            }
        }
    }

    fn take(&mut self, event: exec_response::Event) -> Result<Taken, Failure> {
        match event {
            exec_response::Event::Attached(info) => {
                self.is_known = true;
                self.input.settle(info.stdin_bytes)?;
                Ok(Taken::Output(None))
            }
            exec_response::Event::Stdout(chunk) => {
                let data = advance(&mut self.stdout_offset, chunk, "standard output")?;
                Ok(Taken::Output(self.to_write(false, data)))
            }
            exec_response::Event::Stderr(chunk) => {
                let data = advance(&mut self.stderr_offset, chunk, "standard error")?;
                Ok(Taken::Output(self.to_write(true, data)))
            }
            exec_response::Event::Gap(gap) => {
                let (name, offset) = if gap.stderr {
                    ("standard error", &mut self.stderr_offset)
                } else {
                    ("standard output", &mut self.stdout_offset)
                };
                eprintln!(
                    "compyctl: bytes {} to {} of {name} were dropped by the workspace's quota",
                    gap.from, gap.to
                );
                *offset = gap.to.max(*offset);
                Ok(Taken::Output(None))
            }
            exec_response::Event::Exit(exit) => Ok(Taken::Exited(exit)),
        }
    }

    fn to_write(&self, stderr: bool, data: Bytes) -> Option<Output> {
        (!data.is_empty() && !self.output_is_closed).then_some(Output { stderr, data })
    }

    /// How much input the daemon has accepted by now.
    fn ask_acceptance(&self) -> BoxFuture<'static, Option<u64>> {
        let mut client = self.stream.daemon.workspaces();
        let request = ListExecsRequest {
            workspace: self.stream.workspace.clone(),
            running_only: true,
        };
        let exec_id = self.stream.exec_id().to_owned();
        Box::pin(async move {
            // The command reads at its own pace; asking more often is of no use.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            let response = client.list_execs(request).await.ok()?.into_inner();
            let exec = response
                .execs
                .into_iter()
                .find(|exec| exec.exec_id == exec_id)?;
            Some(exec.stdin_bytes)
        })
    }

    async fn conclude(&self, exit: ExecExit) -> Result<Exit, Failure> {
        if exit.leftover_processes > 0 && self.stream.tty {
            eprint!("{} processes of it still run\r\n", exit.leftover_processes);
        }
        let (exit, explanation) = exit_of(exit);
        if let Some(explanation) = explanation {
            eprintln!(
                "compyctl: {}",
                terminal::printable(&explanation, terminal::Lines::Join)
            );
        }
        Ok(exit)
    }

    fn given_up(&self) -> Failure {
        self.explain_how_to_attach();
        Failure::local("interrupted while waiting for the daemon", "")
    }

    fn explain_how_to_attach(&self) {
        if self.is_known {
            eprintln!(
                "the command goes on; attach to it with `compyctl workspace exec {} --attach {}`",
                self.stream.workspace,
                self.stream.exec_id()
            );
        }
    }
}

enum Taken {
    Output(Option<Output>),
    Exited(ExecExit),
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

/// The part of a chunk that has not arrived yet.
fn advance(offset: &mut u64, chunk: ExecOutput, name: &str) -> Result<Bytes, Failure> {
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

/// Standard input: what is read, what is sent, what is accepted.
///
/// `accepted <= sent <= end of kept`, all as offsets in the command's input.
struct Input {
    /// `None` once standard input has ended, or when it is not passed on.
    reader: Option<mpsc::Receiver<Bytes>>,
    /// Chunks from `accepted` on, each with its offset.
    kept: VecDeque<(u64, Bytes)>,
    /// Offset of the first byte after the kept ones.
    end: u64,
    /// Offset of the first byte not sent on this connection.
    sent: u64,
    /// Bytes the daemon is known to have.
    accepted: u64,
    /// Whether this connection has told how much was accepted.
    is_settled: bool,
    /// Whether standard input has ended, and whether that was sent.
    eof: Eof,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Eof {
    /// Input is not passed on.
    NotOurs,
    /// More may come.
    Open,
    /// It has ended, unsent on this connection.
    Unsent,
    /// It was sent.
    Sent,
}

impl Input {
    fn new(passed_on: bool, opening: &Opening) -> Result<Self, Failure> {
        Ok(Input {
            reader: passed_on.then(spawn_reader).transpose()?,
            kept: VecDeque::new(),
            end: 0,
            sent: 0,
            accepted: 0,
            is_settled: matches!(opening, Opening::Start(_)),
            eof: if passed_on { Eof::Open } else { Eof::NotOurs },
        })
    }

    /// Takes up where the daemon says its input ends. At the first message of
    /// a foreign command that is where ours begins.
    fn settle(&mut self, stdin_bytes: u64) -> Result<(), Failure> {
        if self.end == 0 && self.kept.is_empty() && stdin_bytes > 0 {
            (self.end, self.sent, self.accepted) = (stdin_bytes, stdin_bytes, stdin_bytes);
        }
        self.accept(stdin_bytes)?;
        self.sent = self.accepted;
        if self.eof == Eof::Sent {
            self.eof = Eof::Unsent;
        }
        self.is_settled = true;
        Ok(())
    }

    fn accept(&mut self, stdin_bytes: u64) -> Result<(), Failure> {
        if stdin_bytes > self.end || stdin_bytes < self.accepted {
            return Err(Failure::local(
                format!(
                    "the daemon has {stdin_bytes} bytes of standard input, between {} and {} were sent",
                    self.accepted, self.end
                ),
                "another client may feed the same command; its output can be followed with --attach and </dev/null",
            ));
        }
        self.accepted = stdin_bytes;
        while let Some((start, chunk)) = self.kept.front_mut() {
            let chunk_end = *start + chunk.len() as u64;
            if chunk_end <= stdin_bytes {
                self.kept.pop_front();
                continue;
            }
            if *start < stdin_bytes {
                let known = stdin_bytes - *start;
                *chunk = chunk.split_off(usize::try_from(known).unwrap_or(chunk.len()));
                *start = stdin_bytes;
            }
            break;
        }
        Ok(())
    }

    fn is_full(&self) -> bool {
        self.is_settled && self.end - self.accepted >= KEPT_INPUT_BYTES
    }

    fn wants_more(&self) -> bool {
        self.reader.is_some() && self.is_settled && self.sent == self.end && !self.is_full()
    }

    fn has_unsent(&self) -> bool {
        self.is_settled && (self.sent < self.end || self.eof == Eof::Unsent)
    }

    fn next_unsent(&mut self) -> Option<ExecInput> {
        let next = self
            .kept
            .iter()
            .find(|(start, chunk)| start + chunk.len() as u64 > self.sent);
        if let Some((start, chunk)) = next {
            let skip = usize::try_from(self.sent - start).unwrap_or(0);
            let input = ExecInput {
                offset: self.sent,
                data: chunk.slice(skip..),
                eof: false,
            };
            self.sent = start + chunk.len() as u64;
            return Some(input);
        }
        if self.eof != Eof::Unsent {
            return None;
        }
        self.eof = Eof::Sent;
        Some(ExecInput {
            offset: self.end,
            data: Bytes::new(),
            eof: true,
        })
    }

    /// Keeps the next chunk. Cancel safety: as `mpsc::Receiver::recv`.
    async fn read(&mut self) {
        let Some(reader) = &mut self.reader else {
            return std::future::pending().await;
        };
        match reader.recv().await {
            Some(chunk) => {
                let start = self.end;
                self.end += chunk.len() as u64;
                self.kept.push_back((start, chunk));
            }
            None => {
                self.reader = None;
                self.eof = Eof::Unsent;
            }
        }
    }
}

/// Reads standard input until its end. The thread may stay in a read when the
/// command has ended; the process's exit ends it.
fn spawn_reader() -> Result<mpsc::Receiver<Bytes>, Failure> {
    let (tx, rx) = mpsc::channel(2);
    std::thread::Builder::new()
        .name("stdin".into())
        .spawn(move || {
            let mut buffer = vec![0; INPUT_CHUNK_BYTES];
            loop {
                match std::io::stdin().lock().read(&mut buffer) {
                    Ok(0) => break,
                    Ok(length) => {
                        if tx
                            .blocking_send(Bytes::copy_from_slice(&buffer[..length]))
                            .is_err()
                        {
                            break;
                        }
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => {
                        eprintln!("compyctl: standard input cannot be read on: {error}");
                        break;
                    }
                }
            }
        })
        .map_err(|error| Failure::local(format!("no thread for standard input: {error}"), ""))?;
    Ok(rx)
}

struct Output {
    stderr: bool,
    data: Bytes,
}

/// How the writer ended.
type Written = oneshot::Receiver<std::io::Result<()>>;

/// Writes outputs, unbuffered and in order. Ends when a reader is gone, which
/// closes the queue, or when the queue is dropped.
fn spawn_writer() -> Result<(mpsc::Sender<Output>, Written), Failure> {
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

    fn exit(how: Option<How>) -> u8 {
        exit_of(ExecExit {
            how,
            duration_ms: 0,
            leftover_processes: 0,
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

    fn input() -> Input {
        Input {
            reader: None,
            kept: VecDeque::from([
                (0, Bytes::from_static(b"abc")),
                (3, Bytes::from_static(b"def")),
            ]),
            end: 6,
            sent: 0,
            accepted: 0,
            is_settled: true,
            eof: Eof::Unsent,
        }
    }

    fn rest(input: &mut Input) -> (Vec<u64>, Vec<u8>, bool) {
        let (mut offsets, mut data, mut eof) = (Vec::new(), Vec::new(), false);
        while let Some(piece) = input.next_unsent() {
            offsets.push(piece.offset);
            data.extend_from_slice(&piece.data);
            eof |= piece.eof;
        }
        (offsets, data, eof)
    }

    #[test]
    fn input_is_sent_again_from_the_byte_the_daemon_lacks() {
        let mut input = input();
        assert_eq!(rest(&mut input), (vec![0, 3, 6], b"abcdef".to_vec(), true));
        input.settle(4).unwrap();
        assert_eq!(rest(&mut input), (vec![4, 6], b"ef".to_vec(), true));
        input.settle(6).unwrap();
        assert_eq!(rest(&mut input), (vec![6], vec![], true));
        assert!(input.settle(5).is_err());
        assert!(input.settle(7).is_err());
    }
}
