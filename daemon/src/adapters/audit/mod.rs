//! The audit log in files of its own.
//!
//! ```text
//! callers --bounded queue--> writer thread --write--> audit/00..01.jsonl  full, with its index
//!    ^                            |                   audit/00..7f.jsonl  the one written
//!    +------ acks, all at once ---+-- fdatasync
//! ```
//!
//! A line is written within a few milliseconds, so that the end of the daemon
//! alone takes nothing along that was written; it is synced together with
//! others at least every second, and at once when somebody waits for it. A file
//! after the first begins with a checkpoint, so that those before it can go.
//!
//! The files are what is exported: what verifies one verifies the others laid
//! end to end. Behind the last line of the one that is written there are zeros,
//! [room](super::fill) for more; closing and opening take them off. Where lines are is found by a sparse index with times
//! ([`segment`]) and by filters of what they say ([`filter`]); what is left is
//! looked through.

mod filter;
mod key;
mod search;
mod segment;
mod writer;

#[cfg(test)]
mod tests;

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
};

use async_trait::async_trait;
use tokio::sync::oneshot;

use self::{
    segment::{Contents, Indexer, LastSegment, Segment},
    writer::{Order, Queue, Writer},
};
use crate::{
    adapters::{
        disk_space::{free_bytes, is_disk_full, sync_dir},
        fill::Filled,
    },
    domain::audit::{
        Entry,
        chain::{Head, Record},
        checkpoint::PublicKey,
        query::Query,
        verify::Verified,
    },
    metrics,
    ports::{
        audit::{AuditError, AuditPort, Lines, Retention},
        clock::ClockPort,
    },
};

/// A file this long is not written to any more.
const SEGMENT_BYTES: u64 = 64 << 20;

/// Where the log is and what it may use.
#[derive(Clone)]
pub struct AuditOptions {
    /// Its directory; made when it is not there.
    pub dir: PathBuf,
    /// The file of its signing key; made with a new log.
    pub key_file: PathBuf,
    /// Free bytes below which nothing more is written.
    pub low_water_bytes: u64,
    /// A file this long is not written to any more.
    pub segment_bytes: u64,
    /// How free space is looked at.
    pub free_bytes: fn(&Path) -> io::Result<u64>,
    /// For what the log says about itself.
    pub clock: Arc<dyn ClockPort>,
}

impl AuditOptions {
    /// The usual sizes for a log below `data_dir`.
    #[must_use]
    pub fn below(data_dir: &Path, low_water_bytes: u64, clock: Arc<dyn ClockPort>) -> Self {
        Self {
            dir: data_dir.join("audit"),
            key_file: data_dir.join("audit.key"),
            low_water_bytes,
            segment_bytes: SEGMENT_BYTES,
            free_bytes,
            clock,
        }
    }
}

/// What is written, for readers. The writer alone changes it.
type Shared = Arc<RwLock<Vec<Contents>>>;

/// The log in files.
pub struct FileAudit {
    shared: Shared,
    queue: Arc<Queue>,
    dir: PathBuf,
    public: PublicKey,
}

impl std::fmt::Debug for FileAudit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileAudit")
            .field("dir", &self.dir)
            .finish_non_exhaustive()
    }
}

impl FileAudit {
    /// Opens or makes a log and starts its writer. What a crash left behind the
    /// last whole line is put into a file of its own, and recorded. Blocks: call
    /// it off the async threads.
    ///
    /// # Errors
    /// [`AuditError::Damaged`], [`AuditError::Key`], [`AuditError::DiskFull`], or
    /// [`AuditError::Failed`] for the rest.
    pub fn open(options: AuditOptions) -> Result<Self, AuditError> {
        let failed = |error| failure("open", &options.dir, &error);
        make_dir(&options.dir).map_err(failed)?;
        let mut numbers = segment::numbers(&options.dir).map_err(failed)?;
        let key = key::open(&options.key_file, numbers.is_empty())?;
        let mut torn = Vec::new();
        // The last file may have been made and not written to.
        let last = loop {
            let Some(number) = numbers.last().copied() else {
                break None;
            };
            let segment = Segment::open(&options.dir, number).map_err(failed)?;
            let mut found = segment::open_last(&segment)?;
            let end = found.blocks.last().map_or(0, |block| block.end);
            if !found.torn.is_empty() {
                set_aside(&options.dir, number, end, &found.torn).map_err(failed)?;
                torn.append(&mut found.torn);
            }
            Filled::to(end).cut(&segment.file, end).map_err(failed)?;
            numbers.pop();
            if !found.blocks.is_empty() {
                break Some((segment, found));
            }
            for file in segment::files(&options.dir, number) {
                remove_file(&file).map_err(failed)?;
            }
        };
        let mut all = Vec::new();
        for number in numbers {
            let segment = Segment::open(&options.dir, number).map_err(failed)?;
            let blocks = segment::open_full(&options.dir, &segment)?;
            all.push(Contents {
                segment: Arc::new(segment),
                blocks,
            });
        }
        check_gaps(&all, last.as_ref())?;
        let (head, checkpoint, indexer) = match last {
            Some((segment, found)) => {
                all.push(Contents {
                    segment: Arc::new(segment),
                    blocks: found.blocks,
                });
                (found.head, found.checkpoint, found.indexer)
            }
            None => {
                let segment = Segment::create(&options.dir, 1).map_err(failed)?;
                sync_dir(&options.dir).map_err(failed)?;
                all.push(Contents {
                    segment: Arc::new(segment),
                    blocks: Vec::new(),
                });
                (Head::START, None, Indexer::default())
            }
        };
        let shared: Shared = Arc::new(RwLock::new(all));
        let queue = Arc::new(Queue::default());
        let (public, dir) = (key.public(), options.dir.clone());
        let mut writer = Writer::new(shared.clone(), queue.clone(), options, key, head);
        if let Some((_, line)) = &checkpoint
            && let Ok(signed) = Record::of_line(line.trim_ascii_end())
        {
            metrics::audit_signed(signed.entry.at_ms);
        }
        writer.last_checkpoint = checkpoint;
        writer.indexer = indexer;
        if !torn.is_empty() {
            writer.note_torn(&torn);
        }
        std::thread::Builder::new()
            .name("audit-writer".to_owned())
            .spawn(move || writer.run())
            .map_err(|error| AuditError::Failed {
                action: "start the writer of",
                message: error.to_string(),
            })?;
        Ok(Self {
            shared,
            queue,
            dir,
            public,
        })
    }

    /// Sends an order and waits for its answer.
    async fn order<T>(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<T, AuditError>>) -> Order,
    ) -> Result<T, AuditError> {
        let (ack, answer) = oneshot::channel();
        self.queue.push(order(ack))?;
        answer.await.map_err(|_| closed())?
    }

    /// Everything that is written, after what was recorded so far.
    async fn contents(&self) -> Result<Vec<Contents>, AuditError> {
        self.order(Order::Written).await?;
        let shared = self.shared.read().unwrap_or_else(PoisonError::into_inner);
        Ok(shared.clone())
    }
}

#[async_trait]
impl AuditPort for FileAudit {
    fn record(&self, entry: Entry) {
        self.queue.record(entry);
    }

    async fn record_durably(&self, entry: Entry) -> Result<u64, AuditError> {
        self.order(|ack| Order::Durable(entry, ack)).await
    }

    async fn search(&self, query: Query) -> Result<Vec<Record>, AuditError> {
        let contents = self.contents().await?;
        blocking("search", move || search::search(&contents, &query)).await
    }

    async fn checkpoint(&self) -> Result<Vec<u8>, AuditError> {
        self.order(Order::Checkpoint).await
    }

    async fn lines(&self, from: u64, last: u64) -> Result<Lines, AuditError> {
        let contents = self.contents().await?;
        blocking("read", move || search::lines(&contents, from, last)).await
    }

    async fn verify(&self) -> Result<Verified, AuditError> {
        let contents = self.contents().await?;
        let key = self.public;
        blocking("verify", move || search::verify(&contents, key)).await
    }

    async fn retain(&self, retention: Retention) -> Result<u64, AuditError> {
        self.order(|ack| Order::Retain(retention, ack)).await
    }

    fn public_key(&self) -> PublicKey {
        self.public
    }

    async fn close(&self) {
        // A writer that has ended has nothing to close.
        let _ = self.order(Order::Close).await;
    }
}

impl Drop for FileAudit {
    fn drop(&mut self) {
        self.queue.abandon();
    }
}

/// Runs what blocks off the async threads.
async fn blocking<T: Send + 'static>(
    action: &'static str,
    work: impl FnOnce() -> Result<T, AuditError> + Send + 'static,
) -> Result<T, AuditError> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| AuditError::Failed {
        action,
        message: error.to_string(),
    })?
}

/// Makes the directory for this account alone.
fn make_dir(dir: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700).create(dir)?;
    dir.parent().map_or(Ok(()), sync_dir)
}

/// Removes a file that may be gone already.
fn remove_file(file: &Path) -> io::Result<()> {
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Keeps what a crash left behind the last whole line.
fn set_aside(dir: &Path, number: u64, at: u64, torn: &[u8]) -> io::Result<()> {
    let file = dir.join(format!("torn-{number:020}-{at}"));
    fs::write(&file, torn)?;
    fs::File::open(&file)?.sync_all()?;
    tracing::warn!(file = %file.display(), bytes = torn.len(), "the end of the audit log was cut off by a crash; what was left of it is kept");
    sync_dir(dir)
}

/// Each file must begin where the one before it ends.
fn check_gaps(full: &[Contents], last: Option<&(Segment, LastSegment)>) -> Result<(), AuditError> {
    let firsts = full.iter().map(|contents| contents.segment.first);
    let firsts = firsts.chain(last.map(|(segment, _)| segment.first));
    for (contents, next) in full.iter().zip(firsts.skip(1)) {
        let end = contents.blocks.last();
        let end = end.map_or(0, |block| block.first + block.records);
        if end != next {
            let why = format!("the next file begins with record {next}, not with {end}");
            return Err(damaged(&contents.segment.path, contents.end(), &why));
        }
    }
    Ok(())
}

fn closed() -> AuditError {
    AuditError::Failed {
        action: "use",
        message: "it is closed".to_owned(),
    }
}

/// An error of the file system in the port's words.
fn failure(action: &'static str, path: &Path, error: &io::Error) -> AuditError {
    let path = path.display();
    if is_disk_full(error) {
        return AuditError::DiskFull(path.to_string());
    }
    AuditError::Failed {
        action,
        message: format!("{path}: {error}"),
    }
}

fn damaged(path: &Path, offset: u64, why: &str) -> AuditError {
    let path = path.display();
    AuditError::Damaged(format!("{path} at byte {offset}: {why}"))
}
