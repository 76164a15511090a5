//! A snapshot out of an archive.

use std::{
    collections::{HashMap, HashSet},
    io,
};

use bytes::{Bytes, BytesMut};
use futures_util::stream::BoxStream;
use uuid::Uuid;

use super::{
    super::SnapshotsError,
    Archives,
    format::{ARCHIVE_FORMAT, ArchiveError, End, Head, Member},
    read::{Part, Parts},
    untrusted::{self, Needed},
};
use crate::{
    domain::{
        ids::SnapshotId,
        snapshot::{
            CapturedVolume, ManifestError, Snapshot, SnapshotReason,
            hash::ChunkHash,
            journal::{ImageRef, ImportStep, Operation, Progress},
        },
        workspace::Repository,
    },
    ports::{
        chunks::{Chunk, ChunkPin, ChunkWriter},
        image_archive::{ImageLoadError, ImageLoading},
    },
};

/// Most bytes of listings in an archive: those of some two million files.
const LISTING_BYTES_MAX: usize = 256 << 20;

/// A snapshot that came in.
#[derive(Debug, Clone, PartialEq)]
pub struct Imported {
    /// It, as it is stored here.
    pub snapshot: Snapshot,
    /// Whether it was here before.
    pub already: bool,
}

/// Everything of an archive, verified but for the image, which is verified as
/// it is handed to the engine. Dropped, nothing of it is left.
struct Received {
    manifest: Snapshot,
    writer: Box<dyn ChunkWriter>,
    image: Box<dyn ImageLoading>,
    config: Bytes,
}

impl Archives {
    /// Takes in a snapshot. It keeps its id unless another snapshot, or an image
    /// of the engine, has it; one that is here already is left as it is.
    ///
    /// # Errors
    /// [`SnapshotsError::Archive`]: it is refused; a disk, an engine or a store
    /// that does not do its part. Nothing of it is left then: chunks that were
    /// stored go with the next pruning.
    pub async fn import(
        &self,
        archive: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<Imported, SnapshotsError> {
        self.snapshots.ready()?;
        let received = self.receive(archive).await?;
        let _turn = self.importing.lock().await;
        let (manifest, workspaces) = (&received.manifest, &self.snapshots.inner.workspaces);
        let of_workspace = Some(&manifest.workspace);
        let known = workspaces.store().snapshots(of_workspace).await?;
        if let Some(known) = known.into_iter().find(|known| is_same(known, manifest)) {
            return Ok(Imported {
                snapshot: known,
                already: true,
            });
        }
        let mut id = manifest.id.clone();
        let tag = ImageRef::of(&id);
        // Another daemon of the same engine may have the image's name.
        if workspaces.store().snapshot(&id).await?.is_some()
            || workspaces.runtime().image(&tag.0).await?.is_some()
        {
            id = SnapshotId::from_uuid(Uuid::now_v7());
        }
        let snapshot = self.store_as(id, received).await?;
        Ok(Imported {
            snapshot,
            already: false,
        })
    }

    /// Reads an archive to its end.
    async fn receive(
        &self,
        archive: BoxStream<'static, io::Result<Bytes>>,
    ) -> Result<Received, SnapshotsError> {
        let mut parts = Parts::of(archive);
        let Part::Head(head) = parts.next().await? else {
            return Err(ArchiveError::Missing(Member::Head.name()).into());
        };
        let manifest = manifest(&head)?;
        let mut incoming = Incoming::of(&manifest)?;
        let mut writer = self.snapshots.inner.chunks.writer().await?;
        let mut image = self.images.load().await.map_err(load_failure)?;
        let mut config = None;
        let mut layers = 0;
        loop {
            match parts.next().await? {
                Part::Head(_) => return Err(refused(&Member::Head, "it is there twice")),
                Part::Chunk(hash, raw) => {
                    let chunk = incoming.take(&manifest, hash, raw)?;
                    writer.put(chunk).await?;
                }
                Part::Config(document) => config = Some(document),
                Part::Layer(bytes) => {
                    // What is missing is found before hundreds of megabytes are
                    // taken in.
                    incoming.is_whole()?;
                    layers += 1;
                    image.layer(bytes).await.map_err(load_failure)?;
                }
                Part::Data(data) => image.data(data).await.map_err(load_failure)?,
                Part::End(end) => {
                    incoming.is_whole()?;
                    let counted = End {
                        head: ChunkHash::of(&head),
                        chunks: incoming.taken,
                        layers,
                    };
                    if end != counted {
                        return Err(refused(&Member::End, "it does not say what was there"));
                    }
                    break;
                }
            }
        }
        Ok(Received {
            manifest,
            writer,
            image,
            config: config.ok_or_else(|| ArchiveError::Missing(Member::Config.name()))?,
        })
    }

    /// Stores what was received under an id that no snapshot has.
    async fn store_as(
        &self,
        id: SnapshotId,
        received: Received,
    ) -> Result<Snapshot, SnapshotsError> {
        let workspace = received.manifest.workspace.clone();
        let progress = |step| Progress::Import {
            snapshot: id.clone(),
            image: ImageRef::of(&id),
            step,
        };
        let snapshots = &self.snapshots;
        tracing::info!(workspace_id = %workspace, snapshot_id = %id, "importing a snapshot");
        let begun = progress(ImportStep::Begun);
        let mut operation = snapshots.begin(&workspace, begun).await?;
        match self
            .make_durable(&id, received, &progress, &mut operation)
            .await
        {
            // The pin holds until the manifest is stored.
            Ok((manifest, _pin)) => {
                snapshots.finish(&operation).await?;
                tracing::info!(workspace_id = %workspace, snapshot_id = %id, "snapshot imported");
                Ok(manifest)
            }
            Err(error) => {
                let settled = snapshots.settle_failed(&operation, error.clone()).await;
                settled.and(Err(error))
            }
        }
    }

    async fn make_durable(
        &self,
        id: &SnapshotId,
        received: Received,
        progress: &impl Fn(ImportStep) -> Progress,
        operation: &mut Operation,
    ) -> Result<(Snapshot, ChunkPin), SnapshotsError> {
        let mut manifest = received.manifest;
        let was = &manifest.image.id;
        let loaded = received.image.finish(received.config, was, id).await;
        let loaded = loaded.map_err(load_failure)?;
        let user = manifest.definition.user.as_deref();
        let workspaces = &self.snapshots.inner.workspaces;
        (workspaces.without_foreign_volumes(&ImageRef::of(id).0, user)).await?;
        let stored = received.writer.finish().await?;
        manifest.id = id.clone();
        if loaded.id != manifest.image.id {
            let was = std::mem::replace(&mut manifest.image.id, loaded.id);
            manifest.image.archived_id = Some(was);
        }
        manifest.sizes.new_bytes = stored.stored_bytes + loaded.new_bytes;
        let storing = ImportStep::Storing {
            manifest: Box::new(manifest.clone()),
        };
        self.snapshots.advance(operation, progress(storing)).await?;
        Ok((manifest, stored.pin))
    }
}

fn refused(member: &Member, why: &'static str) -> SnapshotsError {
    let name = member.name();
    ArchiveError::Member { name, why }.into()
}

fn load_failure(error: ImageLoadError) -> SnapshotsError {
    match error {
        ImageLoadError::Wrong(why) => ArchiveError::Image(why).into(),
        ImageLoadError::Runtime(error) => error.into(),
        error @ (ImageLoadError::DiskFull(_) | ImageLoadError::Io { .. }) => {
            SnapshotsError::ImageLoad(error)
        }
    }
}

/// Whether a stored snapshot is what an archive holds.
fn is_same(stored: &Snapshot, archived: &Snapshot) -> bool {
    let image = &stored.image;
    stored.volumes == archived.volumes
        && stored.created_at_ms == archived.created_at_ms
        && stored.workspace == archived.workspace
        && (image.id == archived.image.id || image.archived_id.as_ref() == Some(&archived.image.id))
}

/// The manifest in the first member.
fn manifest(head: &[u8]) -> Result<Snapshot, ArchiveError> {
    #[derive(serde::Deserialize)]
    struct OfAnyFormat {
        format: u32,
    }
    let unreadable = |error: serde_json::Error| {
        ArchiveError::Broken(format!("{} cannot be read: {error}", Member::Head.name()))
    };
    // The format first: whatever a newer one holds is refused as newer.
    let OfAnyFormat { format } = serde_json::from_slice(head).map_err(unreadable)?;
    if format > ARCHIVE_FORMAT {
        return Err(ArchiveError::NewerFormat { found: format });
    }
    let head: Head = serde_json::from_slice(head).map_err(unreadable)?;
    let manifest = serde_json::to_vec(&head.manifest).map_err(unreadable)?;
    let manifest = Snapshot::from_json(&manifest).map_err(|error| match error {
        ManifestError::NewerFormat { .. } => ArchiveError::NewerManifest(error),
        ManifestError::Unreadable(why) => ArchiveError::Broken(why),
    })?;
    Ok(from_elsewhere(manifest))
}

/// A manifest without what only this daemon can say: where repositories came from,
/// and that a snapshot is the result of a setup, which other workspaces start from.
fn from_elsewhere(mut manifest: Snapshot) -> Snapshot {
    let repositories = manifest.repositories.into_iter();
    manifest.repositories = repositories.map(Repository::claimed).collect();
    if manifest.reason == SnapshotReason::Setup {
        manifest.reason = SnapshotReason::Manual;
    }
    manifest
}

/// Which chunks are waited for: first those of the listings, then those of the
/// files that the listings name.
struct Incoming {
    /// Chunks of listings that have not come.
    listings: HashSet<ChunkHash>,
    /// Chunks of listings that have come.
    bytes: HashMap<ChunkHash, Bytes>,
    /// Chunks of files that have not come.
    files: Needed,
    /// How many have come.
    taken: u64,
}

impl Incoming {
    fn of(manifest: &Snapshot) -> Result<Self, ArchiveError> {
        let trees = manifest.volumes.values();
        let mut incoming = Self {
            listings: trees
                .flat_map(|tree| tree.listing.iter().copied())
                .collect(),
            bytes: HashMap::new(),
            files: Needed::default(),
            taken: 0,
        };
        // A manifest without listings has no volumes, or impossible ones.
        if incoming.listings.is_empty() {
            incoming.read_listings(manifest)?;
        }
        Ok(incoming)
    }

    /// A chunk that is waited for, and is what its name says.
    fn take(
        &mut self,
        manifest: &Snapshot,
        hash: ChunkHash,
        raw: Bytes,
    ) -> Result<Chunk, SnapshotsError> {
        let wrong = |why| Err(refused(&Member::Chunk(hash), why));
        let chunk = Chunk::of(raw.clone())?;
        if chunk.hash != hash {
            return wrong("its bytes have another hash");
        }
        if self.listings.remove(&hash) {
            let held: usize = self.bytes.values().map(Bytes::len).sum();
            if held + raw.len() > LISTING_BYTES_MAX {
                return wrong("the listings are larger than any daemon's");
            }
            self.bytes.insert(hash, raw);
            self.taken += 1;
            if self.listings.is_empty() {
                self.read_listings(manifest)?;
            }
            return Ok(chunk);
        }
        match self.files.take(&hash) {
            Some(length) if length == u64::from(chunk.raw_bytes) => {
                self.taken += 1;
                Ok(chunk)
            }
            Some(_) => wrong("it has another length than the listing says"),
            None if !self.listings.is_empty() => wrong("it comes before the listings"),
            None => wrong("it is there twice, or nothing names it"),
        }
    }

    /// Learns from the listings which chunks of files are to come.
    fn read_listings(&mut self, manifest: &Snapshot) -> Result<(), ArchiveError> {
        for (volume, tree) in &manifest.volumes {
            let refused = |why| ArchiveError::Volume {
                volume: name(*volume),
                why,
            };
            let mut encoded = BytesMut::new();
            for hash in &tree.listing {
                let Some(bytes) = self.bytes.get(hash) else {
                    return Err(ArchiveError::Missing(Member::Chunk(*hash).name()));
                };
                // A chunk that is named often must not grow beyond bounds.
                if encoded.len() + bytes.len() > LISTING_BYTES_MAX {
                    return Err(refused(
                        "its listing is larger than any daemon's".to_owned(),
                    ));
                }
                encoded.extend_from_slice(bytes);
            }
            untrusted::check(encoded.freeze(), tree, &mut self.files).map_err(refused)?;
        }
        // What is a part of a listing and of a file came once.
        for (hash, raw) in &self.bytes {
            let length = self.files.take(hash);
            if length.is_some_and(|length| length != raw.len() as u64) {
                let name = Member::Chunk(*hash).name();
                let why = "it has another length than the listing says";
                return Err(ArchiveError::Member { name, why });
            }
        }
        self.bytes.clear();
        Ok(())
    }

    fn is_whole(&self) -> Result<(), ArchiveError> {
        match self.listings.iter().next().or_else(|| self.files.missing()) {
            None => Ok(()),
            Some(hash) => Err(ArchiveError::Missing(Member::Chunk(*hash).name())),
        }
    }
}

fn name(volume: CapturedVolume) -> &'static str {
    match volume {
        CapturedVolume::Work => "work",
        CapturedVolume::Home => "home",
        CapturedVolume::Browser => "browser",
    }
}
