//! Snapshots on the wire.

use std::collections::HashSet;

use compyd_proto::v1 as wire;
use tonic::{Code, Status};

use super::{
    super::{
        status::{Retry, internal, invalid_id, refusal},
        time::timestamp,
    },
    workspace, workspace_error,
};
use crate::{
    domain::{
        ids::{SnapshotId, SnapshotLabel},
        snapshot::{CapturedState, CapturedVolume, Snapshot, SnapshotReason, VolumeTree},
    },
    ports::{chunks::ChunkError, image_archive::ImageLoadError},
    service::snapshots::{PruneReport, SnapshotsError, archive::ArchiveError},
};

/// When trying again may help.
const SOON: Retry = Retry::After(std::time::Duration::from_secs(2));

/// The id of a snapshot.
///
/// # Errors
/// `SNAPSHOT_ID_INVALID`.
pub fn id(text: &str) -> Result<SnapshotId, Status> {
    text.parse()
        .map_err(|error| invalid_id("SNAPSHOT_ID_INVALID", &error))
}

/// A label, or none.
///
/// # Errors
/// `SNAPSHOT_LABEL_INVALID`.
pub fn label(text: &str) -> Result<Option<SnapshotLabel>, Status> {
    if text.is_empty() {
        return Ok(None);
    }
    let label = text.parse();
    label
        .map(Some)
        .map_err(|error| invalid_id("SNAPSHOT_LABEL_INVALID", &error))
}

/// A snapshot as clients see it.
#[must_use]
pub fn snapshot(snapshot: &Snapshot) -> wire::Snapshot {
    let reason = match snapshot.reason {
        SnapshotReason::Manual => wire::SnapshotReason::Manual,
        SnapshotReason::BeforeRestore { .. } => wire::SnapshotReason::BeforeRestore,
        SnapshotReason::Stage { .. } => wire::SnapshotReason::Stage,
        SnapshotReason::Setup => wire::SnapshotReason::Setup,
    };
    let state = match snapshot.workspace_state {
        CapturedState::Running => wire::WorkspaceState::Running,
        CapturedState::Paused => wire::WorkspaceState::Paused,
        CapturedState::Stopped => wire::WorkspaceState::Stopped,
    };
    wire::Snapshot {
        id: snapshot.id.to_string(),
        workspace_id: snapshot.workspace.to_string(),
        workspace_name: snapshot.definition.name.to_string(),
        label: (snapshot.label.as_ref()).map_or_else(String::new, ToString::to_string),
        parent_id: (snapshot.parent.as_ref()).map_or_else(String::new, ToString::to_string),
        reason: reason.into(),
        created_at: Some(timestamp(snapshot.created_at_ms)),
        workspace_state: state.into(),
        repositories: (snapshot.repositories.iter())
            .map(workspace::repository)
            .collect(),
        image_id: snapshot.image.id.clone(),
        volumes: (snapshot.volumes.iter())
            .map(|(volume, tree)| self::volume(*volume, tree))
            .collect(),
        left_out: (snapshot.left_out.iter())
            .map(|(path, marker)| format!("{path} {marker}"))
            .collect(),
        size_bytes: snapshot.sizes.bytes,
        new_bytes: snapshot.sizes.new_bytes,
        pause_ms: snapshot.pause_ms,
        image_missing: false,
    }
}

/// Snapshots, with those whose image is missing.
pub fn snapshots(all: &[Snapshot], missing: &HashSet<SnapshotId>) -> Vec<wire::Snapshot> {
    let told = all.iter().map(|one| wire::Snapshot {
        image_missing: missing.contains(&one.id),
        ..snapshot(one)
    });
    told.collect()
}

fn volume(volume: CapturedVolume, tree: &VolumeTree) -> wire::SnapshotVolume {
    wire::SnapshotVolume {
        name: volume.name().to_owned(),
        tree_hash: tree.hash.to_string(),
        entries: tree.entries,
        size_bytes: tree.bytes,
    }
}

/// What pruning gave.
#[must_use]
pub fn pruned(report: &PruneReport) -> wire::PruneSnapshotsResponse {
    wire::PruneSnapshotsResponse {
        snapshots: report.snapshots.iter().map(snapshot).collect(),
        images: report.images,
        chunks: report.chunks,
        freed_bytes: report.freed_bytes,
    }
}

/// Why a request about snapshots was not done.
#[must_use]
pub fn error(error: &SnapshotsError) -> Status {
    let message = error.to_string();
    match error {
        SnapshotsError::Unknown(_) => refusal(
            Code::NotFound,
            "SNAPSHOT_UNKNOWN",
            message,
            "`compyctl workspace snapshots NAME` shows the ids",
            Retry::No,
        ),
        SnapshotsError::NoContainer(_) => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_MISSING",
            message,
            "start the workspace, which makes its container again; a restore may go without a \
             backup",
            Retry::No,
        ),
        SnapshotsError::ImageGone(_) => refusal(
            Code::FailedPrecondition,
            "SNAPSHOT_IMAGE_GONE",
            message,
            "somebody removed it from the engine; load it again, or use another snapshot",
            Retry::No,
        ),
        SnapshotsError::Unsettled => refusal(
            Code::Unavailable,
            "SNAPSHOTS_UNSETTLED",
            message,
            "start the container engine; `compyctl doctor` says what it sees",
            SOON,
        ),
        SnapshotsError::TooManyLayers { .. } => refusal(
            Code::FailedPrecondition,
            "TOO_MANY_LAYERS",
            message,
            "use an image with fewer layers: `docker export` and `docker import` make all of an \
             image's one",
            Retry::No,
        ),
        SnapshotsError::Credential(_) => refusal(
            Code::FailedPrecondition,
            "CREDENTIAL_IN_SNAPSHOT",
            message,
            "remove the credential from what is named, or delete the file; commands find \
             credentials in their variables and below /run/compy/secrets",
            Retry::No,
        ),
        SnapshotsError::PausedTooLong { .. } => refusal(
            Code::DeadlineExceeded,
            "PAUSED_TOO_LONG",
            message,
            "the workspace goes on and nothing was kept; stop it and take the snapshot then, or \
             move what is large from its root file system to /workspace",
            Retry::No,
        ),
        SnapshotsError::FinishedLater(_) => refusal(
            Code::Aborted,
            "FINISHED_LATER",
            message,
            "put right what it names (`compyctl doctor` helps); the daemon tries again every few \
             seconds and when it starts, and asking again would do it twice",
            Retry::No,
        ),
        SnapshotsError::Needed { .. } => refusal(
            Code::FailedPrecondition,
            "SNAPSHOT_NEEDED",
            message,
            "it is deleted by itself when the session has ended; `compyctl session cancel` ends one",
            Retry::No,
        ),
        SnapshotsError::Abandoned => refusal(
            Code::Cancelled,
            "ABANDONED",
            message,
            "ask again and wait for the answer",
            Retry::No,
        ),
        SnapshotsError::Deleting => refusal(
            Code::Unavailable,
            "SNAPSHOTS_BUSY",
            message,
            "try again",
            SOON,
        ),
        SnapshotsError::Chunks(ChunkError::DiskFull(_)) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            message,
            "free some space where the daemon keeps its data; nothing was lost",
            SOON,
        ),
        SnapshotsError::Damaged(_)
        | SnapshotsError::Chunks(ChunkError::Damaged { .. } | ChunkError::Missing(_)) => refusal(
            Code::DataLoss,
            "SNAPSHOT_DAMAGED",
            message,
            "use another snapshot, or restore the data directory from a copy",
            Retry::No,
        ),
        SnapshotsError::Archive(
            ArchiveError::NewerFormat { .. } | ArchiveError::NewerManifest(_),
        ) => refusal(
            Code::FailedPrecondition,
            "ARCHIVE_NEWER",
            message,
            "import it with a daemon as new as the one that exported it; nothing is left of it here",
            Retry::No,
        ),
        SnapshotsError::Archive(
            ArchiveError::Broken(_)
            | ArchiveError::Member { .. }
            | ArchiveError::Missing(_)
            | ArchiveError::Volume { .. }
            | ArchiveError::Image(_),
        ) => refusal(
            Code::InvalidArgument,
            "ARCHIVE_REFUSED",
            message,
            "export the snapshot again, or use another copy of the file; nothing is left of it here",
            Retry::No,
        ),
        SnapshotsError::ImageLoad(ImageLoadError::DiskFull(_)) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            message,
            "free some space where the daemon keeps its data; nothing was lost",
            SOON,
        ),
        SnapshotsError::ImageLoad(
            ImageLoadError::Io { .. } | ImageLoadError::Wrong(_) | ImageLoadError::Runtime(_),
        ) => internal(error),
        SnapshotsError::Unreadable { .. } => refusal(
            Code::FailedPrecondition,
            "SNAPSHOT_UNREADABLE",
            message,
            "delete that snapshot, or restore the data directory from a copy; nothing was pruned",
            Retry::No,
        ),
        SnapshotsError::Chunks(
            ChunkError::Wrong { .. } | ChunkError::NewerFormat { .. } | ChunkError::Io { .. },
        )
        | SnapshotsError::Agent(_) => internal(error),
        SnapshotsError::Workspaces(error) => workspace_error::error(error),
    }
}
