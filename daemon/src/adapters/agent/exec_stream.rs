//! A command's output as it comes from an agent, checked on the way: the right
//! command, every byte at its offset or named as dropped, nothing after the
//! exit.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use compyd_proto::{
    agent::{AttachExecResponse, Gap, Output, attach_exec_response::Event},
    link::MAX_CHUNK_BYTES,
};
use futures_util::Stream;
use tonic::Streaming;

use super::{
    convert,
    refusal::{self, broken},
};
use crate::{
    domain::{
        exec::{ExecEvent, OutputGap, OutputOffsets, OutputStream, Reading},
        ids::ExecId,
    },
    ports::agent::AgentError,
};

/// Ends after the exit or the first error.
pub(super) struct ExecStream {
    call: &'static str,
    inner: Streaming<AttachExecResponse>,
    id: ExecId,
    environment: std::sync::Arc<[(String, Vec<u8>)]>,
    next: OutputOffsets,
    reading: Reading,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Opening,
    Following,
    Ended,
}

impl ExecStream {
    pub(super) fn new(
        call: &'static str,
        inner: Streaming<AttachExecResponse>,
        id: ExecId,
        environment: std::sync::Arc<[(String, Vec<u8>)]>,
        (from, reading): (OutputOffsets, Reading),
    ) -> Self {
        Self {
            call,
            inner,
            id,
            environment,
            next: from,
            reading,
            phase: Phase::Opening,
        }
    }

    fn check(&mut self, message: AttachExecResponse) -> Result<ExecEvent, AgentError> {
        match (self.phase, message.event) {
            (Phase::Opening, Some(Event::Attached(exec))) => {
                self.phase = Phase::Following;
                convert::exec(self.call, Some(exec), Some(&self.id), &self.environment)
                    .map(|exec| ExecEvent::Attached(Box::new(exec)))
            }
            (Phase::Following, Some(Event::Stdout(output))) => {
                self.output(OutputStream::Stdout, output)
            }
            (Phase::Following, Some(Event::Stderr(output))) => {
                self.output(OutputStream::Stderr, output)
            }
            (Phase::Following, Some(Event::Gap(gap))) => self.gap(&gap),
            (Phase::Following, Some(Event::Exit(exit))) => {
                self.phase = Phase::Ended;
                convert::exit(self.call, exit).map(ExecEvent::Exited)
            }
            (_, None) => Err(broken(self.call, "an event that says nothing")),
            (_, Some(_)) => Err(broken(self.call, "an event out of order")),
        }
    }

    fn next_of(&mut self, stream: OutputStream) -> &mut u64 {
        match stream {
            OutputStream::Stdout => &mut self.next.stdout,
            OutputStream::Stderr => &mut self.next.stderr,
        }
    }

    fn output(&mut self, stream: OutputStream, output: Output) -> Result<ExecEvent, AgentError> {
        let call = self.call;
        if output.data.len() > MAX_CHUNK_BYTES {
            return Err(broken(call, format!("{} bytes at once", output.data.len())));
        }
        let next = self.next_of(stream);
        if output.offset != *next {
            let message = format!("output continues at {}, not at {next}", output.offset);
            return Err(broken(call, message));
        }
        let Some(end) = next.checked_add(output.data.len() as u64) else {
            return Err(broken(call, "more bytes than there can be"));
        };
        *next = end;
        Ok(ExecEvent::Output {
            stream,
            offset: output.offset,
            data: output.data,
        })
    }

    fn gap(&mut self, gap: &Gap) -> Result<ExecEvent, AgentError> {
        let call = self.call;
        let OutputGap { stream, .. } = convert::gap(call, gap)?;
        let next = self.next_of(stream);
        if gap.from != *next || gap.to <= gap.from {
            let message = format!("a gap from {} to {}, at {next}", gap.from, gap.to);
            return Err(broken(call, message));
        }
        *next = gap.to;
        Ok(ExecEvent::Gap(OutputGap {
            stream,
            from: gap.from,
            to: gap.to,
        }))
    }
}

impl Stream for ExecStream {
    type Item = Result<ExecEvent, AgentError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.phase == Phase::Ended {
            return Poll::Ready(None);
        }
        let item = match std::task::ready!(Pin::new(&mut self.inner).poll_next(cx)) {
            Some(Ok(message)) => self.check(message),
            Some(Err(status)) => Err(refusal::read(self.call, &status)),
            None if self.phase == Phase::Following && self.reading == Reading::NoFollow => {
                self.phase = Phase::Ended;
                return Poll::Ready(None);
            }
            None => Err(AgentError::Unreachable(
                "the stream ended before the command".to_owned(),
            )),
        };
        if item.is_err() {
            self.phase = Phase::Ended;
        }
        Poll::Ready(Some(item))
    }
}
