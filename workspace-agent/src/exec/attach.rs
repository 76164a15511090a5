//! One reader of a command's output.
//!
//! A reader pulls: it takes the next bytes from the spool when its peer has
//! room for them, and waits for the command only when it has caught up. So a
//! slow reader costs one message of memory and slows nobody, and following a
//! live command and reading an old one are the same thing.

use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use bytes::Bytes;
use compyd_proto::agent::attach_exec_response::Event;
use compyd_proto::agent::{AttachExecResponse, Exec, Gap, Output as OutputBytes};
use futures_util::Stream;
use nix::errno::Errno;
use nix::libc;
use tokio::sync::watch;

use super::extent::Extent;
use super::progress::Progress;
use super::spool::{ExecFiles, Output};
use crate::errors::{AgentError, Reason};

/// Bytes in one message at most: a stream window, so that one message is in
/// flight while the next one is read.
const CHUNK_BYTES: u64 = 256 * 1024;

/// What a reader wants.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Wish {
    pub(crate) stdout_offset: u64,
    pub(crate) stderr_offset: u64,
    pub(crate) exit_only: bool,
    pub(crate) no_follow: bool,
}

pub(super) struct Reader {
    first: Option<Exec>,
    files: ExecFiles,
    progress: watch::Receiver<Progress>,
    cursors: [Cursor; 2],
    exit_only: bool,
    /// Where to stop instead of following.
    stop_at: Option<[u64; 2]>,
    /// The stream that had the last turn.
    turn: usize,
    over: bool,
}

struct Cursor {
    output: Output,
    offset: u64,
    file: Option<Arc<File>>,
}

impl Reader {
    /// Fails when an offset lies beyond what was written.
    pub(super) fn new(
        exec: Exec,
        files: ExecFiles,
        mut progress: watch::Receiver<Progress>,
        wish: Wish,
    ) -> Result<Self, AgentError> {
        let now = progress.borrow_and_update().clone();
        for (output, offset) in [
            (Output::Stdout, wish.stdout_offset),
            (Output::Stderr, wish.stderr_offset),
        ] {
            let bytes = now.extent(output).bytes;
            if offset > bytes {
                return Err(AgentError::new(
                    Reason::OffsetOutOfRange,
                    format!(
                        "{output:?} of command {} has {bytes} bytes so far; offset {offset} lies beyond them",
                        exec.exec_id
                    ),
                )
                .with("spooled_bytes", bytes));
            }
        }
        let cursor = |output, offset| Cursor {
            output,
            offset,
            file: None,
        };
        Ok(Self {
            first: Some(exec),
            files,
            cursors: [
                cursor(Output::Stdout, wish.stdout_offset),
                cursor(Output::Stderr, wish.stderr_offset),
            ],
            exit_only: wish.exit_only,
            stop_at: wish
                .no_follow
                .then_some([now.stdout.bytes, now.stderr.bytes]),
            turn: 0,
            over: false,
            progress,
        })
    }

    pub(super) fn into_stream(
        self,
    ) -> impl Stream<Item = Result<AttachExecResponse, AgentError>> + Send {
        futures_util::stream::unfold(self, |mut reader| async move {
            let event = reader.next().await?;
            let response = event.map(|event| AttachExecResponse { event: Some(event) });
            Some((response, reader))
        })
    }

    async fn next(&mut self) -> Option<Result<Event, AgentError>> {
        if self.over {
            return None;
        }
        if let Some(exec) = self.first.take() {
            return Some(Ok(Event::Attached(exec)));
        }
        loop {
            let now = self.progress.borrow_and_update().clone();
            if !self.exit_only {
                match self.next_output(&now).await {
                    Ok(None) => {}
                    Ok(Some(event)) => return Some(Ok(event)),
                    Err(error) => {
                        self.over = true;
                        return Some(Err(error));
                    }
                }
            }
            if let Some(exit) = now.exit() {
                self.over = true;
                return Some(Ok(Event::Exit(exit.as_ref().clone())));
            }
            if self.stop_at.is_some() {
                return None;
            }
            if self.progress.changed().await.is_err() {
                self.over = true;
                return Some(Err(AgentError::new(
                    Reason::ExecUnknown,
                    "the command was forgotten while it was read",
                )));
            }
        }
    }

    async fn next_output(&mut self, now: &Progress) -> Result<Option<Event>, AgentError> {
        for _ in 0..self.cursors.len() {
            self.turn = 1 - self.turn;
            let stop = self.stop_at.map_or(u64::MAX, |stop| stop[self.turn]);
            let cursor = &mut self.cursors[self.turn];
            // A gap that reaches the end may still grow, and is told as one.
            let is_final = now.exit().is_some() || stop < u64::MAX;
            let extent = now.extent(cursor.output);
            if extent.lacks(cursor.offset) {
                if is_final || extent.gap_to < extent.bytes {
                    return Ok(Some(cursor.skip(extent)));
                }
                continue;
            }
            let end = extent.end_of_kept(cursor.offset).min(stop);
            if cursor.offset >= end {
                continue;
            }
            let read = cursor.read(&self.files, end).await;
            // What was dropped meanwhile may have been read as zeros, or not
            // at all.
            let after = self.progress.borrow().extent(cursor.output);
            if after.lacks(cursor.offset) {
                return Ok(Some(cursor.skip(after)));
            }
            let mut data = read?;
            let known = after.end_of_kept(cursor.offset) - cursor.offset;
            data.truncate(usize::try_from(known).unwrap_or(data.len()));
            return Ok(Some(cursor.take(data)));
        }
        Ok(None)
    }
}

impl Cursor {
    /// Tells of the rest of the gap that the offset lies in.
    fn skip(&mut self, extent: Extent) -> Event {
        let from = std::mem::replace(&mut self.offset, extent.gap_to);
        Event::Gap(Gap {
            stream: self.output.on_the_wire().into(),
            from,
            to: extent.gap_to,
        })
    }

    fn take(&mut self, data: Bytes) -> Event {
        let offset = self.offset;
        self.offset += data.len() as u64;
        let bytes = OutputBytes { offset, data };
        match self.output {
            Output::Stdout => Event::Stdout(bytes),
            Output::Stderr => Event::Stderr(bytes),
        }
    }

    async fn read(&mut self, files: &ExecFiles, end: u64) -> Result<Bytes, AgentError> {
        let length = usize::try_from((end - self.offset).min(CHUNK_BYTES)).unwrap_or(0);
        let data = self.read_at(files, self.offset, length).await;
        data.map_err(|error| {
            AgentError::new(
                Reason::Io,
                format!("could not read the spooled {:?}: {error}", self.output),
            )
        })
    }

    async fn read_at(
        &mut self,
        files: &ExecFiles,
        offset: u64,
        length: usize,
    ) -> io::Result<Bytes> {
        let file = match &self.file {
            Some(file) => Arc::clone(file),
            None => Arc::clone(self.file.insert(Arc::new(files.reader(self.output)?))),
        };
        // What was just written is still in memory, and reading it takes less
        // time than handing it to a thread. Anything else may take a disk's
        // time, and is read where waiting is allowed.
        let mut buffer = vec![0; length];
        let read = match read_cached(&file, &mut buffer, offset) {
            Ok(read) if read > 0 => read,
            _ => {
                buffer = tokio::task::spawn_blocking(move || {
                    use std::os::unix::fs::FileExt as _;
                    file.read_exact_at(&mut buffer, offset)?;
                    io::Result::Ok(buffer)
                })
                .await
                .map_err(io::Error::other)??;
                length
            }
        };
        buffer.truncate(read);
        Ok(buffer.into())
    }
}

/// Reads what is in the page cache and nothing else.
fn read_cached(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut slices = [IoSliceMut::new(buffer)];
    let offset = libc::off_t::try_from(offset).map_err(io::Error::other)?;
    // SAFETY: IoSliceMut has the layout of iovec, and there is one of it.
    #[allow(unsafe_code)]
    let read = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            slices.as_mut_ptr().cast::<libc::iovec>(),
            1,
            offset,
            libc::RWF_NOWAIT,
        )
    };
    Ok(usize::try_from(Errno::result(read)?).unwrap_or(0))
}
