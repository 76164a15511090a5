//! The listing of a volume: its entries, encoded one after the other and cut
//! into chunks.
//!
//! The encoding is the one that the tree's hash is made of, so the hash of a
//! listing's bytes is the tree's. Cuts are made where the path of an entry says
//! so: a change in one directory leaves the other chunks as they were.

use bytes::{Bytes, BytesMut};
use futures_util::TryStreamExt as _;
use prost::Message as _;

use super::SnapshotsError;
use crate::{
    domain::snapshot::{
        VolumeTree,
        hash::{ChunkHash, TreeHash},
    },
    ports::{
        chunks::{CHUNK_BYTES_MAX, Chunk, ChunkPort, ChunkWriter},
        trees::TreeEntry,
    },
};

/// On average one entry in so many ends a chunk.
const ENTRIES_PER_CUT: u16 = 256;

/// Puts the listing of a tree into a batch.
pub(super) async fn write(
    entries: &[TreeEntry],
    writer: &mut dyn ChunkWriter,
) -> Result<VolumeTree, SnapshotsError> {
    let mut encoded = BytesMut::new();
    let mut listing = Vec::new();
    let mut from = 0;
    let mut bytes = 0;
    let mut put = async |raw: Bytes| -> Result<(), SnapshotsError> {
        let chunk = Chunk::of(raw)?;
        listing.push(chunk.hash);
        Ok(writer.put(chunk).await?)
    };
    for entry in entries {
        entry
            .encode_length_delimited(&mut encoded)
            .expect("a buffer grows as needed");
        bytes += content(entry).map(|(_, length)| length).sum::<u64>();
        while encoded.len() - from > CHUNK_BYTES_MAX {
            put(Bytes::copy_from_slice(
                &encoded[from..from + CHUNK_BYTES_MAX],
            ))
            .await?;
            from += CHUNK_BYTES_MAX;
        }
        let path = blake3::hash(&entry.path);
        let cut = u16::from_le_bytes([path.as_bytes()[0], path.as_bytes()[1]]);
        if cut.is_multiple_of(ENTRIES_PER_CUT) && encoded.len() > from {
            put(Bytes::copy_from_slice(&encoded[from..])).await?;
            from = encoded.len();
        }
    }
    if encoded.len() > from {
        put(Bytes::copy_from_slice(&encoded[from..])).await?;
    }
    Ok(VolumeTree {
        hash: TreeHash::of(&encoded),
        listing,
        entries: entries.len() as u64,
        bytes,
    })
}

/// Reads a listing back.
pub(super) async fn read(
    tree: &VolumeTree,
    chunks: &dyn ChunkPort,
) -> Result<Vec<TreeEntry>, SnapshotsError> {
    let mut encoded = BytesMut::new();
    let mut stream = chunks.stream(tree.listing.clone());
    while let Some(bytes) = stream.try_next().await? {
        encoded.extend_from_slice(&bytes);
    }
    let mut encoded = encoded.freeze();
    if TreeHash::of(&encoded) != tree.hash {
        return Err(SnapshotsError::Damaged("the hash of a listing is another"));
    }
    let mut entries = Vec::new();
    while !encoded.is_empty() {
        let entry = TreeEntry::decode_length_delimited(&mut encoded);
        entries.push(entry.map_err(|_| SnapshotsError::Damaged("a listing cannot be read"))?);
    }
    Ok(entries)
}

/// The root of a tree, which comes first.
pub(super) async fn root(
    tree: &VolumeTree,
    chunks: &dyn ChunkPort,
) -> Result<TreeEntry, SnapshotsError> {
    let first = tree.listing.iter().take(1).copied().collect();
    let first = chunks.stream(first).try_next().await?;
    let root = first.and_then(|bytes| TreeEntry::decode_length_delimited(bytes).ok());
    root.filter(|root| root.path.is_empty())
        .ok_or(SnapshotsError::Damaged("a listing has no root"))
}

/// The chunks of a file and their lengths, from its first byte to its last.
/// A hash that is none is left out; see [`is_sound`].
pub(super) fn content(entry: &TreeEntry) -> impl Iterator<Item = (ChunkHash, u64)> {
    entry.extents.iter().filter_map(|extent| {
        let hash: [u8; 32] = extent.hash[..].try_into().ok()?;
        Some((ChunkHash::from_bytes(hash), extent.length))
    })
}

/// Whether every extent of an entry is a hole or names a chunk.
pub(super) fn is_sound(entry: &TreeEntry) -> bool {
    (entry.extents.iter()).all(|extent| extent.hash.is_empty() || extent.hash.len() == 32)
}

#[cfg(test)]
mod tests {
    use compyd_proto::tree::tree_hash;

    use super::*;
    use crate::{adapters::memory::MemoryChunks, ports::trees::Extent};

    fn entries(count: u32) -> Vec<TreeEntry> {
        (0..count)
            .map(|number| TreeEntry {
                path: format!("directory/{number:06}").into(),
                size_bytes: 10,
                extents: vec![Extent {
                    length: 10,
                    hash: Bytes::copy_from_slice(ChunkHash::of(&number.to_le_bytes()).as_bytes()),
                }],
                ..TreeEntry::default()
            })
            .collect()
    }

    async fn written(chunks: &MemoryChunks, entries: &[TreeEntry]) -> (VolumeTree, u64) {
        let mut writer = chunks.writer().await.unwrap();
        let tree = write(entries, &mut *writer).await.unwrap();
        (tree, writer.finish().await.unwrap().chunks)
    }

    #[tokio::test]
    async fn a_listing_reads_back_and_has_the_hash_of_its_tree() {
        let chunks = MemoryChunks::default();
        let entries = entries(20_000);
        let (tree, _) = written(&chunks, &entries).await;
        assert_eq!(*tree.hash.as_bytes(), tree_hash(&entries));
        assert_eq!((tree.entries, tree.bytes), (20_000, 200_000));
        assert_eq!(read(&tree, &chunks).await.unwrap(), entries);
        let (empty, _) = written(&chunks, &[]).await;
        assert_eq!(read(&empty, &chunks).await.unwrap(), []);
    }

    #[tokio::test]
    async fn one_entry_more_leaves_most_chunks_as_they_were() {
        let chunks = MemoryChunks::default();
        let mut entries = entries(20_000);
        let (tree, first) = written(&chunks, &entries).await;
        assert_eq!(first, tree.listing.len() as u64);
        assert!(first > 20, "{first} chunks");
        entries[7].mode = 0o600;
        entries.insert(9_000, entries[3].clone());
        let (_, second) = written(&chunks, &entries).await;
        assert!(second <= 2, "{second} new chunks");
    }

    #[tokio::test]
    async fn a_listing_that_is_another_is_refused() {
        let chunks = MemoryChunks::default();
        let (mut tree, _) = written(&chunks, &entries(3)).await;
        tree.hash = TreeHash::of(b"another");
        assert!(matches!(
            read(&tree, &chunks).await,
            Err(SnapshotsError::Damaged(_))
        ));
    }
}
