//! What a snapshot is: the manifest that names everything a workspace was.
//!
//! ```text
//! Snapshot --- definition, repositories
//!          |-- image: the root file system, committed or the parent's
//!          +-- volumes: work, home, browser
//!                 listing: chunks --> entries, each with chunks of content
//! ```
//!
//! A manifest is stored when everything it names is durable, and not before:
//! what is listed is whole. [`journal`] says what becomes of one that was not
//! finished.

pub mod copies;
pub mod hash;
pub mod journal;
pub mod layers;
pub mod point;
pub mod retention;
pub mod root;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use self::{
    hash::{ChunkHash, TreeHash},
    root::RootLook,
};
use super::{
    ids::{SessionId, SnapshotId, SnapshotLabel, WorkspaceId},
    stage::Stage,
    workspace::{Provenance, Repository, WorkspaceDefinition},
};

/// The format of manifests that this daemon writes, and the newest it reads.
pub const MANIFEST_FORMAT: u32 = 1;

/// Files that a manifest names of those that were left out.
pub const LEFT_OUT_NAMED: usize = 200;

/// A manifest: everything that a workspace was at one moment.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`MANIFEST_FORMAT`] when it was written.
    pub format: u32,
    /// Its id; ids sort by time.
    pub id: SnapshotId,
    /// The workspace it was taken of. It may be gone by now.
    pub workspace: WorkspaceId,
    /// What a person calls it.
    pub label: Option<SnapshotLabel>,
    /// The snapshot that the workspace was at before, by a snapshot or a
    /// restore. It may be gone by now.
    pub parent: Option<SnapshotId>,
    /// Why it was taken.
    pub reason: SnapshotReason,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// What the workspace was doing.
    pub workspace_state: CapturedState,
    /// The workspace's definition, its name at that time included.
    pub definition: WorkspaceDefinition,
    /// Its repositories.
    pub repositories: Vec<Repository>,
    /// Its root file system.
    pub image: SnapshotImage,
    /// Its volumes; one that the image has no place for is empty.
    pub volumes: BTreeMap<CapturedVolume, VolumeTree>,
    /// What it takes.
    pub sizes: SnapshotSizes,
    /// Milliseconds for which processes stood still for it; 0 when they did
    /// not.
    pub pause_ms: u64,
    /// What the container had changed of its image's files; `None` where the
    /// engine does not let that be looked at.
    #[serde(default)]
    pub root: Option<RootLook>,
    /// Files that it does not have because they hold a credential, each with the
    /// marker of one; the first [`LEFT_OUT_NAMED`] of them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub left_out: BTreeMap<String, String>,
}

/// Why a snapshot was taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "kind")]
pub enum SnapshotReason {
    /// A person or another client asked for it.
    Manual,
    /// To be able to go back from a restore.
    BeforeRestore {
        /// What was about to be restored.
        restored: SnapshotId,
    },
    /// A session came to a stage.
    Stage {
        /// The session.
        session: SessionId,
        /// The stage it was about to enter.
        stage: Stage,
    },
    /// A repository's setup had run.
    Setup,
}

/// What a workspace was doing when its snapshot was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapturedState {
    /// Its processes ran.
    Running,
    /// A person had paused it.
    Paused,
    /// No process ran.
    Stopped,
}

/// The root file system of a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotImage {
    /// Content id of the image, as the engine gave it.
    pub id: String,
    /// Where the image came from.
    pub origin: ImageOrigin,
    /// The content id that it had where it was exported, when that is another.
    #[serde(default)]
    pub archived_id: Option<String>,
}

/// Where the image of a snapshot came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImageOrigin {
    /// Committed for this snapshot.
    Committed,
    /// The image that the container was made from: the root file system had
    /// not changed. The parent may name the same one.
    Shared,
}

/// A volume that snapshots capture.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CapturedVolume {
    /// `/workspace`.
    Work,
    /// The home directory of the commands' account.
    Home,
    /// Browser profiles.
    Browser,
}

impl CapturedVolume {
    /// Every one, in the order of manifests.
    pub const ALL: [Self; 3] = [Self::Work, Self::Home, Self::Browser];

    /// What people call it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Work => "work",
            Self::Home => "home",
            Self::Browser => "browser",
        }
    }
}

/// The content of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeTree {
    /// Names the tree as a whole.
    pub hash: TreeHash,
    /// The chunks whose contents, one after the other, are the encoded
    /// listing. The listing names the chunks of the files.
    pub listing: Vec<ChunkHash>,
    /// Files, directories and all else in it, its root included.
    pub entries: u64,
    /// Bytes of its files as they are in chunks: each chunk of a file counts,
    /// holes do not.
    pub bytes: u64,
}

/// What a snapshot takes, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct SnapshotSizes {
    /// All that it names: the volumes' files and the image with its layers.
    pub bytes: u64,
    /// What it added to the disk: new chunks as stored, and the layer that was
    /// committed.
    pub new_bytes: u64,
}

/// A manifest that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ManifestError {
    /// A newer daemon wrote it.
    #[error(
        "the snapshot has format {found}; this daemon knows up to {known}: use a newer daemon",
        known = MANIFEST_FORMAT
    )]
    NewerFormat {
        /// Its format.
        found: u32,
    },
    /// It is no manifest.
    #[error("the manifest of the snapshot cannot be read: {0}")]
    Unreadable(String),
}

impl Snapshot {
    /// Its repositories for a workspace that is put to it and has these now. What a
    /// manifest of an older daemon does not say of a source, a repository of the
    /// same name and source may, or nobody.
    #[must_use]
    pub fn repositories_over(&self, now: &[Repository]) -> Vec<Repository> {
        let provenance = |of: &Repository| match of.provenance {
            Provenance::Unrecorded => {
                let is_same =
                    |other: &&Repository| (&other.name, &other.source) == (&of.name, &of.source);
                (now.iter().find(is_same)).map_or(Provenance::Claimed, |same| same.provenance)
            }
            known @ (Provenance::Claimed | Provenance::Fetched | Provenance::Declared) => known,
        };
        let all = self.repositories.iter();
        all.map(|of| Repository {
            provenance: provenance(of),
            ..of.clone()
        })
        .collect()
    }

    /// The manifest as it is stored and exported: JSON.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("manifests have string keys and no fallible serialisers")
    }

    /// Reads what [`to_json`](Self::to_json) wrote. The format is looked at
    /// first, so that whatever a newer one holds is refused as newer.
    ///
    /// # Errors
    /// See [`ManifestError`].
    pub fn from_json(bytes: &[u8]) -> Result<Self, ManifestError> {
        #[derive(Deserialize)]
        struct OfAnyFormat {
            format: u32,
        }
        let unreadable = |error: serde_json::Error| ManifestError::Unreadable(error.to_string());
        let OfAnyFormat { format } = serde_json::from_slice(bytes).map_err(unreadable)?;
        if format > MANIFEST_FORMAT {
            return Err(ManifestError::NewerFormat { found: format });
        }
        serde_json::from_slice(bytes).map_err(unreadable)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::contract::store::snapshot;

    #[test]
    fn a_manifest_reads_back_whole() {
        let snapshot = snapshot(1, 2);
        assert_eq!(Snapshot::from_json(&snapshot.to_json()), Ok(snapshot));
    }

    #[test]
    fn an_older_manifest_says_nothing_of_sources_and_the_workspace_may() {
        let repository = |name: &str, provenance| Repository {
            name: name.parse().unwrap(),
            source: "https://git.example/api".to_owned(),
            commit: String::new(),
            branch: String::new(),
            provenance,
        };
        let mut old = snapshot(1, 2);
        old.repositories = vec![
            repository("api", Provenance::Unrecorded),
            repository("other", Provenance::Unrecorded),
            repository("fetched", Provenance::Fetched),
        ];
        let now = [
            repository("api", Provenance::Declared),
            repository("fetched", Provenance::Claimed),
        ];
        let over = |now| {
            let all = old.repositories_over(now).into_iter();
            all.map(|of| of.provenance).collect::<Vec<_>>()
        };
        let (declared, claimed) = (Provenance::Declared, Provenance::Claimed);
        assert_eq!(over(&now), [declared, claimed, Provenance::Fetched]);
        assert_eq!(over(&[]), [claimed, claimed, Provenance::Fetched]);
    }

    #[test]
    fn a_newer_format_is_refused_as_newer_whatever_it_holds() {
        let newer = MANIFEST_FORMAT + 1;
        let json = format!(r#"{{"volumes":[7],"format":{newer},"reason":{{"kind":"whim"}}}}"#);
        let error = Snapshot::from_json(json.as_bytes()).unwrap_err();
        assert_eq!(error, ManifestError::NewerFormat { found: newer });
        assert!(error.to_string().contains("use a newer daemon"), "{error}");
    }

    #[test]
    fn what_is_no_manifest_is_refused() {
        let broken = br#"{"format":1,"id":"sn-"}"#.as_slice();
        for bytes in [b"".as_slice(), b"{}", b"[]", broken] {
            let error = Snapshot::from_json(bytes).unwrap_err();
            assert!(matches!(error, ManifestError::Unreadable(_)), "{error}");
        }
    }
}
