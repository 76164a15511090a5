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
//! have accepted it. Input that is kept is bounded: beyond 16 MiB
//! no more is read until the daemon has said how much it accepted.

mod ending;
mod input;
mod output;

use std::collections::VecDeque;

use bytes::Bytes;
use compyd_proto::v1::{
    ExecAttach, ExecExit, ExecRequest, ExecResponse, ExecStart, ListExecsRequest, exec_request,
    exec_response,
};
use futures_util::future::BoxFuture;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

pub(super) use self::ending::conclude;
use self::input::{DetachKeys, Input};
use self::output::{Output, advance, spawn_writer};
use crate::connection::{Backoff, Daemon, RESTART_GRACE};
use crate::exit::{Exit, Failure, is_transient};
use crate::terminal::{self, RawMode};

const SIGINT: i32 = 2;
/// What a program that writes into a closed pipe is sent.
const SIGPIPE: i32 = 13;
const SIGTERM: i32 = 15;

/// What detaches a terminal from its command: Ctrl-], then d.
pub(crate) const DETACH_KEYS: [u8; 2] = [0x1d, b'd'];

/// How the stream begins.
#[derive(Debug)]
pub(crate) enum Opening {
    /// Starts a command, whose id is the request id.
    Start(ExecStart),
    /// Attaches to a command.
    Attach(ExecAttach),
}

/// A command to run or to attach to.
#[derive(Debug)]
pub(crate) struct ExecStream {
    pub(crate) daemon: Daemon,
    pub(crate) workspace: String,
    pub(crate) opening: Opening,
    /// Whether standard input is passed on.
    pub(crate) stdin: bool,
    /// Whether this side's terminal is set to raw mode and its size passed on;
    /// typing [`DETACH_KEYS`] then leaves the command running.
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
        let (stdout_offset, stderr_offset) = match &self.opening {
            Opening::Start(_) => (0, 0),
            Opening::Attach(attach) => (attach.stdout_offset, attach.stderr_offset),
        };
        let _raw_mode = self.tty.then(RawMode::enter).transpose()?;
        let (output, written) = spawn_writer()?;
        let (detach, detached) = mpsc::channel(1);
        let keys = self.tty.then(|| DetachKeys::new(detach));
        let mut session = Attached {
            input: Input::new(self.stdin, keys, &self.opening)?,
            detached,
            stdout_offset,
            stderr_offset,
            is_known: matches!(self.opening, Opening::Attach(_)),
            output,
            output_is_closed: false,
            in_partial_line: self.tty && stdout_offset > 0,
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
            Opening::Attach(attach) => &attach.exec_id,
        }
    }

    /// What is asked for when the command is known.
    fn attach(&self, stdout_offset: u64, stderr_offset: u64) -> ExecAttach {
        ExecAttach {
            workspace: self.workspace.clone(),
            exec_id: self.exec_id().to_owned(),
            stdout_offset,
            stderr_offset,
            exit_only: false,
            no_follow: self.is_no_follow(),
        }
    }

    fn is_no_follow(&self) -> bool {
        matches!(&self.opening, Opening::Attach(attach) if attach.no_follow)
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
    /// The output that there is has been given, and no more was asked for.
    EndOfOutput,
    /// A person typed the keys that detach.
    Detached,
}

/// What is known of the command over all connections.
struct Attached {
    stream: ExecStream,
    input: Input,
    /// Told when a person wants to detach.
    detached: mpsc::Receiver<()>,
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
    /// Whether what arrives may begin within a line that a terminal could take
    /// for anything.
    in_partial_line: bool,
}

impl Attached {
    async fn run_to_end(&mut self, signals: &mut Signals) -> Result<Exit, Failure> {
        let mut backoff = Backoff::new(RESTART_GRACE);
        loop {
            let offsets = (self.stdout_offset, self.stderr_offset, self.input.accepted);
            let status = match self.connect_and_pump(signals).await? {
                Break::Exited(exit) => return self.conclude(exit).await,
                Break::Connection(status) => status,
                Break::EndOfOutput => return Ok(Exit::OK),
                Break::Detached => {
                    eprint!("\r\n");
                    self.explain_how_to_attach();
                    return Ok(Exit::OK);
                }
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
            Opening::Start(_) | Opening::Attach(_) => {
                let attach = self.stream.attach(self.stdout_offset, self.stderr_offset);
                exec_request::Part::Attach(attach)
            }
        };
        requests
            .try_send(ExecRequest { part: Some(first) })
            .expect("the queue was made just now and has room");
        let mut client = self.stream.daemon.workspaces();
        let stream = tokio_stream::wrappers::ReceiverStream::new(receiver);
        // A signal that comes before the daemon has answered is the command's,
        // which may have begun; the next one gives the daemon up.
        let mut control = VecDeque::new();
        let opening = client.exec(stream);
        tokio::pin!(opening);
        let mut responses = loop {
            let signal = tokio::select! {
                opened = &mut opening => match opened {
                    Ok(response) => break response.into_inner(),
                    Err(status) if is_transient(&status) && !control.is_empty() => {
                        return Err(self.given_up());
                    }
                    Err(status) => return Ok(Break::Connection(status)),
                },
                _ = signals.interrupt.recv() => SIGINT,
                _ = signals.terminate.recv() => SIGTERM,
            };
            if !control.is_empty() {
                return Err(self.given_up());
            }
            eprintln!("the daemon has not answered yet; interrupt again to give up");
            control.push_back(exec_request::Part::Signal(signal));
        };
        // Until the daemon has said how much input it has, none is sent.
        self.input.is_settled = false;
        self.pump(&mut responses, &requests, control, signals).await
    }

    /// Cancel safety: every branch either takes a whole item from its queue or
    /// leaves it there; `reserve` takes nothing by itself.
    async fn pump(
        &mut self,
        responses: &mut Streaming<ExecResponse>,
        requests: &mpsc::Sender<ExecRequest>,
        mut control: VecDeque<exec_request::Part>,
        signals: &mut Signals,
    ) -> Result<Break, Failure> {
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
                _ = signals.interrupt.recv() => control.push_back(exec_request::Part::Signal(SIGINT)),
                _ = signals.terminate.recv() => control.push_back(exec_request::Part::Signal(SIGTERM)),
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
                    Ok(None) if self.stream.is_no_follow() => return Ok(Break::EndOfOutput),
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
                Some(()) = self.detached.recv() => return Ok(Break::Detached),
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
                let mut data = advance(&mut self.stdout_offset, chunk, "standard output")?;
                if self.in_partial_line
                    && let Some(end) = data.iter().position(|byte| *byte == b'\n')
                {
                    data = data.slice(end + 1..);
                    self.in_partial_line = false;
                }
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
                let lost = gap.to.saturating_sub(gap.from.max(*offset));
                *offset = gap.to.max(*offset);
                // Through the writer, so that it stands where the bytes would.
                let note = format!(
                    "\n[compyctl: {lost} bytes of {name} were dropped here, up to byte {}]\n",
                    gap.to
                );
                Ok(Taken::Output(self.to_write(true, note.into())))
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
        Ok(conclude(exit))
    }

    fn given_up(&self) -> Failure {
        self.explain_how_to_attach();
        Failure::local("interrupted while waiting for the daemon", "")
    }

    fn explain_how_to_attach(&self) {
        if self.is_known {
            eprintln!(
                "the command goes on; attach to it with `compyctl workspace attach {} {}`",
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
