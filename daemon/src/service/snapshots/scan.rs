//! Credentials in what a snapshot would keep: files of volumes that hold one are
//! found while they are read, and left out.
//!
//! A file that was read before, and found without any, is not read again: what is
//! remembered of volumes is forgotten when credentials change
//! ([`Snapshots::recall`](super::Snapshots)). Looked for is what redaction looks
//! for, also across the chunks of a file.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use async_trait::async_trait;
use bytes::Bytes;
use compyd_proto::link::WORK_DIR;
use futures_util::{StreamExt as _, stream::BoxStream};

use super::listing;
use crate::{
    domain::{
        redaction::Redactor,
        snapshot::{CapturedVolume, hash::ChunkHash},
    },
    ports::{
        agent::AgentError,
        chunks::Chunk,
        snapshot_runtime::volume_directory,
        trees::{
            CaptureEvent, KnownFiles, RestoreExtent, RestoreItem, RestoredTree, TreeEntry,
            TreeFingerprint, TreesPort, WriteOut,
        },
    },
};

/// Bytes at either end of a chunk that are kept for what lies across two. Of a longer
/// form that is cut only the parts are found that are looked for by themselves.
const EDGE_BYTES: usize = 1024;

/// Trees whose files with credentials are left out of what is captured.
pub(super) struct ScannedTrees {
    inner: Arc<dyn TreesPort>,
    redactor: Arc<Redactor>,
    /// Held for one event.
    found: Arc<Mutex<BTreeMap<String, String>>>,
}

impl ScannedTrees {
    pub(super) fn new(inner: Arc<dyn TreesPort>, redactor: Arc<Redactor>) -> Self {
        Self {
            inner,
            redactor,
            found: Arc::default(),
        }
    }

    /// What is looked for.
    pub(super) fn redactor(&self) -> Arc<Redactor> {
        self.redactor.clone()
    }

    /// The trees as they are.
    pub(super) fn inner(&self) -> Arc<dyn TreesPort> {
        self.inner.clone()
    }

    /// The files that were left out so far, each with the marker of the credential
    /// that is in it.
    pub(super) fn found(&self) -> BTreeMap<String, String> {
        lock(&self.found).clone()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[async_trait]
impl TreesPort for ScannedTrees {
    fn capture(
        &self,
        directory: &str,
        known: KnownFiles,
        write_out: WriteOut,
    ) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        let events = self.inner.capture(directory, known, write_out);
        if self.redactor.is_empty() {
            return events;
        }
        let mut scan = Scan {
            redactor: self.redactor.clone(),
            directory: directory.to_owned(),
            chunks: HashMap::new(),
            left_out: HashMap::new(),
        };
        let found = self.found.clone();
        events
            .filter_map(move |event| {
                let kept = match event {
                    Ok(event) => scan.pass(event, &mut lock(&found)).transpose(),
                    Err(error) => Some(Err(error)),
                };
                std::future::ready(kept)
            })
            .boxed()
    }

    fn look(&self, directory: &str) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
        self.inner.look(directory)
    }

    async fn restore(
        &self,
        directory: &str,
        extent: RestoreExtent,
        items: BoxStream<'static, RestoreItem>,
    ) -> Result<RestoredTree, AgentError> {
        self.inner.restore(directory, extent, items).await
    }

    async fn fingerprint(
        &self,
        directory: &str,
        shown_at: Option<&str>,
        write_out: WriteOut,
    ) -> Result<TreeFingerprint, AgentError> {
        self.inner.fingerprint(directory, shown_at, write_out).await
    }
}

/// One capture that is looked through.
struct Scan {
    redactor: Arc<Redactor>,
    directory: String,
    chunks: HashMap<ChunkHash, Seen>,
    /// Paths below the directory, for hard links to them.
    left_out: HashMap<Bytes, String>,
}

/// What is known of a chunk that was looked through.
enum Seen {
    /// It holds the credential of this marker.
    Holds(String),
    /// Its first and its last bytes.
    Edges(Bytes, Bytes),
}

impl Scan {
    /// What is left of an event.
    fn pass(
        &mut self,
        event: CaptureEvent,
        found: &mut BTreeMap<String, String>,
    ) -> Result<Option<CaptureEvent>, AgentError> {
        match event {
            CaptureEvent::Chunk(chunk) => {
                let clean = self.chunk(&chunk)?;
                Ok(clean.then_some(CaptureEvent::Chunk(chunk)))
            }
            CaptureEvent::Entry(seen) => match self.credential_in(&seen.entry) {
                None => Ok(Some(CaptureEvent::Entry(seen))),
                Some(marker) => {
                    let path = seen.entry.path.clone();
                    found.insert(self.shown(&path), marker.clone());
                    self.left_out.insert(path, marker);
                    Ok(None)
                }
            },
            CaptureEvent::Ended { as_of_ns } => Ok(Some(CaptureEvent::Ended { as_of_ns })),
        }
    }

    /// A path as people in the workspace know it.
    fn shown(&self, path: &[u8]) -> String {
        let path = String::from_utf8_lossy(path);
        let volume = (CapturedVolume::ALL.into_iter())
            .find(|volume| volume_directory(*volume) == self.directory);
        match volume {
            Some(CapturedVolume::Work) => format!("{WORK_DIR}/{path}"),
            Some(CapturedVolume::Home) => format!("~/{path}"),
            Some(CapturedVolume::Browser) | None => {
                format!("{}/{path}", self.directory.trim_end_matches('/'))
            }
        }
    }

    /// Whether a chunk holds none.
    fn chunk(&mut self, chunk: &Chunk) -> Result<bool, AgentError> {
        let raw = chunk.decode().map_err(|error| AgentError::Protocol {
            call: "capture",
            message: error.to_string(),
        })?;
        let seen = match self.redactor.first(&raw) {
            Some((_, marker)) => Seen::Holds(marker.to_owned()),
            None => {
                let edge = raw.len().min(EDGE_BYTES);
                // Copies: slices would keep the whole chunk.
                let copy = Bytes::copy_from_slice;
                Seen::Edges(copy(&raw[..edge]), copy(&raw[raw.len() - edge..]))
            }
        };
        let clean = matches!(seen, Seen::Edges(..));
        self.chunks.insert(chunk.hash, seen);
        Ok(clean)
    }

    /// The marker of a credential in a file, its links or its attributes.
    fn credential_in(&self, entry: &TreeEntry) -> Option<String> {
        if let Some(marker) = self.left_out.get(&entry.hard_link) {
            return Some(marker.clone());
        }
        let shown = [&entry.path, &entry.link_target].into_iter();
        let shown = shown.chain(entry.xattrs.iter().map(|xattr| &xattr.value));
        let mut first = shown.filter_map(|bytes| self.redactor.first(bytes));
        if let Some((_, marker)) = first.next() {
            return Some(marker.to_owned());
        }
        let mut before: &[u8] = &[];
        for (hash, _) in listing::content(entry) {
            match self.chunks.get(&hash) {
                Some(Seen::Holds(marker)) => return Some(marker.clone()),
                Some(Seen::Edges(start, end)) => {
                    let across = [before, &start[..]].concat();
                    if let Some((_, marker)) = self.redactor.first(&across) {
                        return Some(marker.to_owned());
                    }
                    before = end;
                }
                // Of a file that was not read again.
                None => before = &[],
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use compyd_proto::agent::Extent;
    use futures_util::{TryStreamExt as _, stream};

    use super::*;
    use crate::ports::trees::{CapturedEntry, TreeEntryKind};

    /// Trees of which a capture tells this.
    struct Told(Vec<CaptureEvent>);

    #[async_trait]
    impl TreesPort for Told {
        fn capture(
            &self,
            _: &str,
            _: KnownFiles,
            _: WriteOut,
        ) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
            stream::iter(self.0.clone()).map(Ok).boxed()
        }

        fn look(&self, _: &str) -> BoxStream<'static, Result<CaptureEvent, AgentError>> {
            stream::empty().boxed()
        }

        async fn restore(
            &self,
            _: &str,
            _: RestoreExtent,
            _: BoxStream<'static, RestoreItem>,
        ) -> Result<RestoredTree, AgentError> {
            Err(AgentError::Unreachable("it only tells".to_owned()))
        }

        async fn fingerprint(
            &self,
            _: &str,
            _: Option<&str>,
            _: WriteOut,
        ) -> Result<TreeFingerprint, AgentError> {
            Err(AgentError::Unreachable("it only tells".to_owned()))
        }
    }

    fn chunk(content: &'static str) -> Chunk {
        Chunk::of(Bytes::from_static(content.as_bytes())).unwrap()
    }

    fn file(path: &'static str, chunks: &[&Chunk]) -> TreeEntry {
        let extents = chunks.iter().map(|chunk| Extent {
            hash: Bytes::copy_from_slice(chunk.hash.as_bytes()),
            length: chunk.raw_bytes.into(),
        });
        TreeEntry {
            path: Bytes::from_static(path.as_bytes()),
            kind: TreeEntryKind::File.into(),
            extents: extents.collect(),
            ..TreeEntry::default()
        }
    }

    fn entry(entry: TreeEntry) -> CaptureEvent {
        CaptureEvent::Entry(Box::new(CapturedEntry {
            entry,
            same: false,
            key: None,
            mount: false,
        }))
    }

    async fn captured(events: Vec<CaptureEvent>) -> (Vec<String>, BTreeMap<String, String>) {
        let redactor = Redactor::new([("npm", b"t0ken-of-npm".as_slice())]);
        let trees = ScannedTrees::new(Arc::new(Told(events)), Arc::new(redactor));
        let told = trees.capture("/v", KnownFiles::default(), WriteOut::No);
        let told: Vec<CaptureEvent> = told.try_collect().await.unwrap();
        let names = told.iter().map(|event| match event {
            CaptureEvent::Chunk(chunk) => {
                String::from_utf8_lossy(&chunk.decode().unwrap()).into_owned()
            }
            CaptureEvent::Entry(seen) => String::from_utf8_lossy(&seen.entry.path).into_owned(),
            CaptureEvent::Ended { .. } => "end".to_owned(),
        });
        (names.collect(), trees.found())
    }

    #[tokio::test]
    async fn files_with_a_credential_are_left_out_by_every_name() {
        let (clean, raw) = (chunk("nothing"), chunk("TOKEN=t0ken-of-npm\n"));
        let encoded = chunk("dDBrZW4tb2YtbnBt");
        let (first, second) = (chunk("... t0ken"), chunk("-of-npm ..."));
        let linked = TreeEntry {
            hard_link: Bytes::from_static(b".npmrc"),
            ..file("other-name", &[])
        };
        let pointing = TreeEntry {
            link_target: Bytes::from_static(b"/x/t0ken-of-npm"),
            ..file("link", &[])
        };
        let chunks = [&clean, &raw, &encoded, &first, &second];
        let chunks = chunks.into_iter().cloned().map(CaptureEvent::Chunk);
        let events = chunks.chain([
            entry(file("a", &[&clean, &first])),
            entry(file(".npmrc", &[&clean, &raw])),
            entry(file("auth", &[&encoded])),
            entry(file("cut", &[&first, &second])),
            entry(linked),
            entry(pointing),
            entry(file("z", &[&second, &first])),
            CaptureEvent::Ended { as_of_ns: 1 },
        ]);
        let (told, found) = captured(events.collect()).await;
        let kept = ["nothing", "... t0ken", "-of-npm ...", "a", "z", "end"];
        assert_eq!(told, kept);
        let left_out: Vec<&str> = found.keys().map(String::as_str).collect();
        let expected = ["/v/.npmrc", "/v/auth", "/v/cut", "/v/link", "/v/other-name"];
        assert_eq!(left_out, expected);
        assert!(found.values().all(|marker| marker == "[redacted:npm]"));
    }

    #[tokio::test]
    async fn what_is_no_chunk_ends_the_capture() {
        let mut wrong = chunk("nothing");
        wrong.raw_bytes += 1;
        let redactor = Redactor::new([("npm", b"t0ken-of-npm".as_slice())]);
        let told = Told(vec![CaptureEvent::Chunk(wrong)]);
        let trees = ScannedTrees::new(Arc::new(told), Arc::new(redactor));
        let told = trees.capture("/v", KnownFiles::default(), WriteOut::No);
        assert!(told.try_collect::<Vec<_>>().await.is_err());
    }
}
