//! What differs between snapshots, on the wire.

use compyd_proto::{
    agent::TreeEntryKind,
    v1::{self as wire, diff_workspace_response::Part},
};

use crate::service::snapshots::{Change, Diff, RootDiff, Side, What};

/// Paths in a message: at most 4 KiB each.
const CHANGES_AT_ONCE: usize = 500;

/// The messages that tell a comparison.
#[must_use]
pub fn messages(diff: Diff) -> Vec<wire::DiffWorkspaceResponse> {
    let message = |part| wire::DiffWorkspaceResponse { part: Some(part) };
    let root = match diff.root {
        RootDiff::Same => wire::RootChange::Same,
        RootDiff::OtherImage => wire::RootChange::OtherImage,
        RootDiff::NotCompared => wire::RootChange::NotCompared,
    };
    let summary = wire::DiffSummary {
        changes: diff.changes.len() as u64,
        root: root.into(),
    };
    (diff.changes.chunks(CHANGES_AT_ONCE))
        .map(|changes| {
            let changes = changes.iter().map(change).collect();
            message(Part::Changes(wire::PathChanges { changes }))
        })
        .chain([message(Part::Summary(summary))])
        .collect()
}

fn change(change: &Change) -> wire::PathChange {
    let kind = match change.what {
        What::Added => wire::PathChangeKind::Added,
        What::Removed => wire::PathChangeKind::Removed,
        What::Kind => wire::PathChangeKind::Type,
        What::Content => wire::PathChangeKind::Content,
        What::Metadata => wire::PathChangeKind::Metadata,
    };
    wire::PathChange {
        volume: change.volume.name().to_owned(),
        path: change.path.clone(),
        kind: kind.into(),
        before: change.before.map(side),
        after: change.after.map(side),
    }
}

fn side(side: Side) -> wire::PathSide {
    let kind = match side.kind {
        TreeEntryKind::Unspecified => "unknown",
        TreeEntryKind::File => "file",
        TreeEntryKind::Directory => "directory",
        TreeEntryKind::Symlink => "symlink",
        TreeEntryKind::Fifo => "fifo",
        TreeEntryKind::CharacterDevice => "character-device",
        TreeEntryKind::BlockDevice => "block-device",
    };
    wire::PathSide {
        r#type: kind.to_owned(),
        size_bytes: side.size_bytes,
    }
}
