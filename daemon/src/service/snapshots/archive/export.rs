//! A snapshot as one stream of bytes.

use std::collections::HashSet;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream::BoxStream};
use tokio_stream::wrappers::ReceiverStream;

use super::{
    super::{SnapshotsError, listing},
    Archives,
    format::{ARCHIVE_FORMAT, End, Head, Member},
    write::{ArchiveWriter, Gone},
};
use crate::{
    domain::{
        ids::SnapshotId,
        snapshot::{Snapshot, hash::ChunkHash, journal::ImageRef},
    },
    ports::{chunks::ChunkWriter, image_archive::ImagePart},
};

/// Why an export ended early.
enum Ended {
    Gone,
    Failed(SnapshotsError),
}

impl From<Gone> for Ended {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl<E: Into<SnapshotsError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

impl Archives {
    /// The archive of a snapshot. Its chunks stay until it was read to its end,
    /// also when the snapshot is deleted meanwhile; its image does not, which
    /// then ends it with an error.
    ///
    /// # Errors
    /// [`SnapshotsError::Unknown`], [`SnapshotsError::ImageGone`],
    /// [`SnapshotsError::Damaged`]; what the engine or the store fails with.
    /// The stream fails with the same: what came before is no archive.
    pub async fn export(
        &self,
        id: &SnapshotId,
    ) -> Result<BoxStream<'static, Result<Bytes, SnapshotsError>>, SnapshotsError> {
        self.snapshots.ready()?;
        let inner = &self.snapshots.inner;
        // Whatever is said to be there is pinned as long as this batch, which
        // never ends.
        let mut pins = inner.chunks.writer().await?;
        let manifest = self.snapshots.usable(id).await?;
        let chunks = self.chunks_of(&manifest, &mut *pins).await?;
        let (mut writer, pieces) = ArchiveWriter::new();
        let archives = self.clone();
        // On cancel: the client's stream ends without an end, which it sees. On
        // error: told to the client.
        self.tasks.spawn(async move {
            let written = archives.write(&manifest, chunks, &mut writer).await;
            drop(pins);
            match written {
                Ok(()) => drop(writer.finish().await),
                Err(Ended::Gone) => {}
                Err(Ended::Failed(error)) => {
                    tracing::warn!(snapshot_id = %manifest.id, %error, "an export failed");
                    writer.fail(error).await;
                }
            }
        });
        Ok(ReceiverStream::new(pieces).boxed())
    }

    /// The chunks that a snapshot names, each once: those of listings first.
    async fn chunks_of(
        &self,
        manifest: &Snapshot,
        pins: &mut dyn ChunkWriter,
    ) -> Result<Vec<ChunkHash>, SnapshotsError> {
        let inner = &self.snapshots.inner;
        let mut chunks: Vec<ChunkHash> = Vec::new();
        for tree in manifest.volumes.values() {
            chunks.extend(&tree.listing);
        }
        if !pins.missing(chunks.clone()).await?.is_empty() {
            return Err(SnapshotsError::Damaged("a part of a listing is not there"));
        }
        for tree in manifest.volumes.values() {
            let entries = listing::read(tree, &*inner.chunks).await?;
            let content: Vec<ChunkHash> = (entries.iter())
                .flat_map(|entry| listing::content(entry).map(|(hash, _)| hash))
                .collect();
            if !pins.missing(content.clone()).await?.is_empty() {
                return Err(SnapshotsError::Damaged("a part of a file is not there"));
            }
            chunks.extend(content);
        }
        let mut seen = HashSet::new();
        chunks.retain(|hash| seen.insert(*hash));
        Ok(chunks)
    }

    async fn write(
        &self,
        manifest: &Snapshot,
        chunks: Vec<ChunkHash>,
        writer: &mut ArchiveWriter,
    ) -> Result<(), Ended> {
        let head = Head {
            format: ARCHIVE_FORMAT,
            manifest: serde_json::from_slice(&manifest.to_json())
                .expect("a manifest is written as JSON"),
        };
        let head = Bytes::from(serde_json::to_vec(&head).expect("it has string keys"));
        let mut end = End {
            head: ChunkHash::of(&head),
            chunks: chunks.len() as u64,
            layers: 0,
        };
        writer.member(&Member::Head, head).await?;
        let mut content = self.snapshots.inner.chunks.stream(chunks.clone());
        for hash in chunks {
            let raw = content.try_next().await?;
            let raw = raw.ok_or(SnapshotsError::Damaged("a chunk is not there"))?;
            writer.member(&Member::Chunk(hash), raw).await?;
        }
        let cut = || SnapshotsError::Damaged("the engine cut a layer of the image short");
        let mut image = self.images.save(&ImageRef::of(&manifest.id));
        while let Some(part) = image.try_next().await? {
            match part {
                ImagePart::Data(data) => writer.data(data).await?,
                ImagePart::Config(_) | ImagePart::Layer { .. } if !writer.is_whole() => {
                    return Err(cut().into());
                }
                ImagePart::Config(config) => writer.member(&Member::Config, config).await?,
                ImagePart::Layer { bytes } => {
                    writer.begin(&Member::Layer(end.layers), bytes).await?;
                    end.layers += 1;
                }
            }
        }
        if !writer.is_whole() {
            return Err(cut().into());
        }
        let end = serde_json::to_vec(&end).expect("it has string keys");
        Ok(writer.member(&Member::End, end.into()).await?)
    }
}
