//! A daemon's end of `Trees`: what it keeps of a capture, and what it sends to
//! restore it.

use std::collections::{HashMap, HashSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use bytes::Bytes;
use compyd_proto::agent::restore_step::Step;
use compyd_proto::agent::*;
use compyd_proto::tree::{delta, tree_hash, walk_order};
use tonic::Status;

use crate::harness::Trees;

/// What a snapshot keeps, and what makes the next capture of the directory
/// cheap.
#[derive(Debug, Default, Clone)]
pub(crate) struct Captured {
    pub(crate) entries: Vec<TreeEntry>,
    /// Content by hash, as it travelled.
    pub(crate) chunks: HashMap<Bytes, ChunkContent>,
    pub(crate) keys: Vec<KeyedFile>,
    pub(crate) torn: Vec<Bytes>,
    pub(crate) mounts: Vec<Bytes>,
    pub(crate) summary: CaptureSummary,
}

impl Captured {
    pub(crate) fn hash(&self) -> [u8; 32] {
        tree_hash(&self.entries)
    }

    pub(crate) fn entry(&self, path: &str) -> &TreeEntry {
        let found = self.entries.iter().find(|entry| entry.path == path);
        found.unwrap_or_else(|| panic!("no {path} in {:?}", self.paths()))
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        let path = |entry: &TreeEntry| String::from_utf8_lossy(&entry.path).into_owned();
        self.entries.iter().map(path).collect()
    }

    /// The bytes of a file, holes as zeros.
    pub(crate) fn content(&self, path: &str) -> Vec<u8> {
        let mut content = Vec::new();
        for extent in &self.entry(path).extents {
            content.extend(match self.chunks.get(&extent.hash) {
                Some(chunk) => raw(chunk, extent.length),
                None => vec![0; extent.length as usize],
            });
        }
        content
    }

    /// The steps that make these entries.
    pub(crate) fn steps<'a>(
        &self,
        removes: &[Bytes],
        entries: impl IntoIterator<Item = &'a TreeEntry>,
    ) -> Vec<Step> {
        let mut steps: Vec<Step> = removes.iter().cloned().map(Step::Remove).collect();
        for entry in entries {
            steps.push(Step::Entry(entry.clone()));
            let data = entry
                .extents
                .iter()
                .filter(|extent| !extent.hash.is_empty());
            steps.extend(data.map(|extent| Step::Content(self.chunks[&extent.hash].clone())));
        }
        steps
    }
}

pub(crate) fn raw(chunk: &ChunkContent, length: u64) -> Vec<u8> {
    match chunk.encoding() {
        ChunkEncoding::Raw => chunk.data.to_vec(),
        ChunkEncoding::Zstd => zstd::bulk::decompress(&chunk.data, length as usize).unwrap(),
        ChunkEncoding::Unspecified => panic!("a chunk of no encoding"),
    }
}

/// Captures a directory; with an earlier capture of it, only what changed.
/// Checks what a capture promises about its messages.
pub(crate) async fn capture(
    trees: &Trees,
    directory: &Path,
    earlier: Option<&Captured>,
) -> Result<Captured, Status> {
    capture_with(trees, directory, earlier, CaptureHeader::default()).await
}

/// The same, of a file system that is written out first.
pub(crate) async fn capture_written_out(
    trees: &Trees,
    directory: &Path,
    earlier: Option<&Captured>,
) -> Result<Captured, Status> {
    let header = CaptureHeader {
        write_out: true,
        ..CaptureHeader::default()
    };
    capture_with(trees, directory, earlier, header).await
}

/// Looks at a directory: keys, and no content.
pub(crate) async fn look(trees: &Trees, directory: &Path) -> Result<Captured, Status> {
    let header = CaptureHeader {
        without_content: true,
        ..CaptureHeader::default()
    };
    capture_with(trees, directory, None, header).await
}

async fn capture_with(
    trees: &Trees,
    directory: &Path,
    earlier: Option<&Captured>,
    header: CaptureHeader,
) -> Result<Captured, Status> {
    use capture_tree_request::Message as Ask;
    use capture_tree_response::Message as Answer;
    let mut requests = vec![Ask::Header(CaptureHeader {
        directory: Bytes::copy_from_slice(directory.as_os_str().as_bytes()),
        keys_as_of_ns: earlier.map_or(0, |earlier| earlier.summary.keys_as_of_ns),
        ..header
    })];
    for keys in earlier
        .map_or(&[][..], |earlier| &earlier.keys)
        .chunks(1000)
    {
        let files = keys.to_vec();
        requests.push(Ask::Keys(RememberedKeys { files }));
    }
    let requests = requests.into_iter().map(|message| CaptureTreeRequest {
        message: Some(message),
    });
    let known: HashMap<&Bytes, &TreeEntry> = earlier
        .into_iter()
        .flat_map(|earlier| &earlier.entries)
        .map(|entry| (&entry.path, entry))
        .collect();
    let mut captured = Captured {
        chunks: earlier
            .map(|earlier| earlier.chunks.clone())
            .unwrap_or_default(),
        ..Captured::default()
    };
    let mut sent = HashSet::new();
    let mut finished = false;
    let mut trees = trees.clone();
    let answer = trees.capture_tree(tokio_stream::iter(requests)).await?;
    let mut messages = answer.into_inner();
    while let Some(message) = messages.message().await? {
        assert!(!finished, "nothing follows the summary");
        match message.message.unwrap() {
            Answer::Chunks(chunks) => {
                for chunk in chunks.chunks {
                    let content = chunk.content.unwrap();
                    let bytes = raw(&content, chunk.length.into());
                    assert_eq!(bytes.len(), chunk.length as usize);
                    assert_eq!(blake3::hash(&bytes).as_bytes()[..], chunk.hash);
                    assert!(sent.insert(chunk.hash.clone()), "a chunk is sent once");
                    captured.chunks.insert(chunk.hash, content);
                }
            }
            Answer::Entries(entries) => {
                for CapturedEntry {
                    entry,
                    same,
                    key,
                    torn,
                    mount,
                } in entries.entries
                {
                    let mut entry = entry.unwrap();
                    if same {
                        assert!(entry.extents.is_empty());
                        entry.extents = known[&entry.path].extents.clone();
                    }
                    if torn {
                        captured.torn.push(entry.path.clone());
                    }
                    if mount {
                        captured.mounts.push(entry.path.clone());
                    }
                    let path = entry.path.clone();
                    captured.keys.extend(key.map(|key| KeyedFile {
                        path,
                        key: Some(key),
                    }));
                    if let Some(last) = captured.entries.last() {
                        assert!(walk_order(&last.path, &entry.path).is_lt());
                    }
                    for extent in entry.extents.iter().filter(|e| !e.hash.is_empty()) {
                        assert!(captured.chunks.contains_key(&extent.hash), "chunks first");
                    }
                    captured.entries.push(entry);
                }
            }
            Answer::Summary(summary) => {
                captured.summary = summary;
                finished = true;
            }
        }
    }
    assert!(finished, "a capture ends with its summary");
    assert_eq!(captured.summary.entries, captured.entries.len() as u64);
    Ok(captured)
}

/// Sends a restore's steps, a few to a message.
pub(crate) async fn restore(
    trees: &Trees,
    directory: &Path,
    mode: RestoreMode,
    steps: Vec<Step>,
) -> Result<(Vec<KeyedFile>, RestoreSummary), Status> {
    use restore_tree_request::Message as Ask;
    use restore_tree_response::Message as Answer;
    let header = Ask::Header(RestoreHeader {
        directory: Bytes::copy_from_slice(directory.as_os_str().as_bytes()),
        mode: mode.into(),
    });
    let steps: Vec<Ask> = steps
        .chunks(20)
        .map(|steps| {
            let step = |step: &Step| RestoreStep {
                step: Some(step.clone()),
            };
            Ask::Steps(RestoreSteps {
                steps: steps.iter().map(step).collect(),
            })
        })
        .collect();
    let requests = [header].into_iter().chain(steps);
    let requests = requests.map(|message| RestoreTreeRequest {
        message: Some(message),
    });
    let mut trees = trees.clone();
    let answer = trees.restore_tree(tokio_stream::iter(requests)).await?;
    let mut messages = answer.into_inner();
    let mut keys = Vec::new();
    loop {
        match messages.message().await?.unwrap().message.unwrap() {
            Answer::Keys(restored) => keys.extend(restored.files),
            Answer::Summary(summary) => {
                assert!(messages.message().await?.is_none());
                return Ok((keys, summary));
            }
        }
    }
}

/// Makes a directory what was captured.
pub(crate) async fn restore_whole(trees: &Trees, directory: &Path, captured: &Captured) {
    let steps = captured.steps(&[], &captured.entries);
    restore(trees, directory, RestoreMode::Whole, steps)
        .await
        .unwrap();
}

/// Makes a directory what was captured by changing what differs from `now`.
/// Returns the capture with the keys of what was written.
pub(crate) async fn restore_delta(
    trees: &Trees,
    directory: &Path,
    now: &Captured,
    captured: &Captured,
) -> Captured {
    let delta = delta(&now.entries, &captured.entries);
    let steps = captured.steps(&delta.removes, delta.entries.iter().copied());
    let (keys, summary) = restore(trees, directory, RestoreMode::Delta, steps)
        .await
        .unwrap();
    assert_eq!(summary.entries, delta.entries.len() as u64);
    Captured {
        keys,
        summary: CaptureSummary {
            keys_as_of_ns: summary.keys_as_of_ns,
            ..captured.summary
        },
        ..captured.clone()
    }
}
