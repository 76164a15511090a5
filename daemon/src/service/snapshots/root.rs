//! The root file system of a workspace, as an image: one that holds it already,
//! or a new one.

use std::collections::BTreeMap;

use futures_util::TryStreamExt as _;

use super::{Snapshots, SnapshotsError, scan::ScannedTrees, take::Taking};
use crate::{
    domain::snapshot::{ImageOrigin, SnapshotReason, root::RootLook},
    ports::{
        runtime::RuntimeError,
        snapshot_runtime::{
            CommittedImage, ROOT_CHANGES_DIRECTORY, ROOT_SHOWN_DIRECTORY, RootChanges,
            VolumeAccess, helper_container,
        },
        trees::{KnownFiles, TreesPort, WriteOut},
    },
    service::workspaces::WorkspacesError,
};

/// A helper that reads what a snapshot is made of.
pub(super) struct Reader {
    pub(super) trees: ScannedTrees,
    root: RootView,
    /// What is known of the image that the last snapshot has.
    pub(super) last_image: LastImage,
}

/// Whether the image of the last snapshot was looked through for the credentials
/// that there are now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LastImage {
    /// It was, and holds none.
    Clean,
    /// Nobody knows.
    Unknown,
}

/// Whether a helper sees what the container changed of its image's files.
#[derive(Debug, Clone, Copy)]
enum RootView {
    /// It cannot be had here.
    None,
    Changes,
    /// And the container's whole root file system, which holds writes back.
    ChangesAndShown,
}

/// Why nobody changes a root file system while it is held.
#[derive(Debug, Clone, Copy)]
pub(super) enum Standing {
    /// Its processes have ended, or stood still before.
    Still,
    /// They are frozen for this, and time is short.
    Frozen {
        /// When what they had written was written out last; `None` where that
        /// failed.
        written_out_ns: Option<i64>,
    },
}

/// A look at a root file system.
pub(super) struct LookedAt {
    look: RootLook,
    pub(super) begun_ns: i64,
    changed_ns: i64,
}

impl LookedAt {
    /// The look where a later one like it means that nothing changed: where
    /// something was written after all was written out, it may be written
    /// again through a mapping without a trace.
    fn lasting(self, standing: Standing) -> Option<RootLook> {
        let lasts = match standing {
            Standing::Still => true,
            Standing::Frozen { written_out_ns } => {
                written_out_ns.is_some_and(|at| self.changed_ns < at)
            }
        };
        lasts.then_some(self.look)
    }
}

/// A root file system that an image holds.
pub(super) struct HeldRoot {
    pub(super) image: CommittedImage,
    pub(super) origin: ImageOrigin,
    pub(super) look: Option<RootLook>,
    /// Files that hold a credential, each with its marker: in the image, and not to
    /// be kept.
    pub(super) left_out: BTreeMap<String, String>,
}

impl Snapshots {
    /// Starts the helper of a snapshot. It reads the volumes, and what the
    /// container changed of its image's files where the engine lets it.
    pub(super) async fn open_reader(&self, taking: &Taking<'_>) -> Result<Reader, SnapshotsError> {
        let (id, of) = (&taking.helper, taking.workspace);
        let redactor = self.redactor();
        let reader = |trees, root| Reader {
            trees: ScannedTrees::new(trees, redactor.clone()),
            root,
            last_image: LastImage::Unknown,
        };
        let open = |root: Option<RootChanges>| self.open_helper(id, of, VolumeAccess::Read, root);
        let changes = self
            .inner
            .runtime
            .root_changes(&taking.container.id)
            .await?;
        let Some(changes) = changes else {
            return Ok(reader(open(None).await?, RootView::None));
        };
        let root = match changes.shown_at {
            Some(_) => RootView::ChangesAndShown,
            None => RootView::Changes,
        };
        match open(Some(changes)).await {
            Ok(trees) => Ok(reader(trees, root)),
            // An engine elsewhere or without root may not have that directory.
            Err(SnapshotsError::Workspaces(WorkspacesError::Runtime(
                error @ RuntimeError::Refused { .. },
            ))) => {
                tracing::info!(workspace_id = %of.id, %error,
                    "the engine does not show what the container changed; it is committed");
                self.remove_container(&helper_container(id)).await?;
                Ok(reader(open(None).await?, RootView::None))
            }
            Err(error) => Err(error),
        }
    }

    /// What the container has changed of its image's files by now; `None`
    /// where that cannot be seen.
    pub(super) async fn look_at_root(
        &self,
        taking: &Taking<'_>,
        reader: &Reader,
        write_out: WriteOut,
    ) -> Option<LookedAt> {
        let shown_at = match reader.root {
            RootView::None => return None,
            RootView::Changes => None,
            RootView::ChangesAndShown => Some(ROOT_SHOWN_DIRECTORY),
        };
        let looked = (reader.trees).fingerprint(ROOT_CHANGES_DIRECTORY, shown_at, write_out);
        match looked.await {
            Ok(looked) => Some(LookedAt {
                look: RootLook {
                    container: taking.container.id.0.clone(),
                    fingerprint: looked.fingerprint,
                    entries: looked.entries,
                },
                begun_ns: looked.begun_ns,
                changed_ns: looked.changed_ns,
            }),
            Err(error) => {
                tracing::warn!(workspace_id = %taking.workspace.id, %error,
                    "the root file system cannot be compared; it is committed");
                None
            }
        }
    }

    /// The files with a credential among what the container changed of its image's
    /// files, all of which a commit keeps.
    async fn credentials_in_root(
        &self,
        reader: &Reader,
    ) -> Result<BTreeMap<String, String>, SnapshotsError> {
        let redactor = reader.trees.redactor();
        if redactor.is_empty() {
            return Ok(BTreeMap::new());
        }
        if let RootView::None = reader.root {
            return Err(SnapshotsError::Credential(
                "credentials are stored, and the engine does not show what the container changed of its image's files, so nobody can tell whether one is among them; delete the credentials, or run the daemon as root beside the engine".to_owned(),
            ));
        }
        let whole = ScannedTrees::new(reader.trees.inner(), redactor);
        let mut events = whole.capture(ROOT_CHANGES_DIRECTORY, KnownFiles::default(), WriteOut::No);
        while events.try_next().await?.is_some() {}
        let found = whole.found().into_iter().map(|(path, marker)| {
            let inside = path.strip_prefix(ROOT_CHANGES_DIRECTORY);
            (inside.unwrap_or(&path).to_owned(), marker)
        });
        Ok(found.collect())
    }

    /// Finds an image that holds the root file system as it is now, or makes
    /// one. Nobody may change it meanwhile.
    pub(super) async fn hold_root(
        &self,
        taking: &Taking<'_>,
        reader: &Reader,
        standing: Standing,
    ) -> Result<HeldRoot, SnapshotsError> {
        let write_out = match standing {
            Standing::Still => WriteOut::First,
            Standing::Frozen { .. } => WriteOut::No,
        };
        let looked = self.look_at_root(taking, reader, write_out).await;
        let (base, last) = (taking.container.base.as_ref(), taking.last.as_ref());
        let held = (looked.as_ref()).and_then(|looked| looked.look.held_by(base, last));
        let look = looked.and_then(|looked| looked.lasting(standing));
        let left_out = match (&held, reader.last_image) {
            (Some(_), LastImage::Clean) => BTreeMap::new(),
            (Some(_), LastImage::Unknown) | (None, _) => self.credentials_in_root(reader).await?,
        };
        // Not even for a moment, where the snapshot is refused anyway.
        if taking.reason == SnapshotReason::Manual && !left_out.is_empty() {
            self.check_left_out(taking, &left_out)?;
        }
        if let Some(held) = held.filter(|_| left_out.is_empty()) {
            match self.inner.runtime.share(&held, &taking.snapshot).await {
                Ok(image) => {
                    return Ok(HeldRoot {
                        image,
                        origin: ImageOrigin::Shared,
                        look,
                        left_out,
                    });
                }
                // It went with a snapshot that was deleted since.
                Err(RuntimeError::ImageMissing(_)) => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(base) = base {
            let made_from = &taking.workspace.definition.image;
            let layers = self.inner.runtime.layers(&base.0, made_from).await?;
            if layers.is_full() {
                let name = taking.workspace.definition.name.clone();
                return Err(SnapshotsError::TooManyLayers { name });
            }
        }
        let (container, snapshot) = (&taking.container.id, &taking.snapshot);
        Ok(HeldRoot {
            image: self.inner.runtime.commit(container, snapshot).await?,
            origin: ImageOrigin::Committed,
            // The next one must not share an image that lacks files.
            look: look.filter(|_| left_out.is_empty()),
            left_out,
        })
    }
}
