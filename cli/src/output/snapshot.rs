//! Snapshots as compyctl prints them.

use compyd_proto::v1::{Snapshot, SnapshotReason, SnapshotVolume};
use serde::Serialize;

use super::{
    Format, bytes, print, print_json,
    table::Table,
    time,
    workspace::{RepositoryView, state_name},
};
use crate::exit::{Exit, Failure};

/// A snapshot in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct SnapshotView {
    /// `sn-` and 32 hex digits.
    id: String,
    /// Id of the workspace it was taken of.
    workspace_id: String,
    /// Name of the workspace at that time.
    workspace_name: String,
    /// May be empty.
    label: String,
    /// Id of the snapshot before it; may be empty.
    parent_id: String,
    /// `manual`, `before-restore`, `stage`, `setup`.
    reason: String,
    /// When it was begun.
    created_at: Option<String>,
    /// `running`, `paused`, `stopped`.
    workspace_state: String,
    /// What was below /workspace.
    repositories: Vec<RepositoryView>,
    /// Id of its image with the engine.
    image_id: String,
    /// Its volumes.
    volumes: Vec<VolumeView>,
    /// Bytes of all that it names.
    size_bytes: u64,
    /// Bytes that it added to the disk.
    new_bytes: u64,
    /// Milliseconds for which processes stood still.
    pause_ms: u64,
    /// Whether the engine has lost its image: it cannot be restored.
    image_missing: bool,
    /// Files that it does not have because they hold a credential.
    left_out: Vec<String>,
}

/// A volume of a snapshot in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct VolumeView {
    /// `work`, `home`, `browser`.
    name: String,
    /// blake3 in hex.
    tree_hash: String,
    /// Files, directories and all else.
    entries: u64,
    /// Bytes of its files.
    size_bytes: u64,
}

impl From<SnapshotVolume> for VolumeView {
    fn from(volume: SnapshotVolume) -> Self {
        VolumeView {
            name: volume.name,
            tree_hash: volume.tree_hash,
            entries: volume.entries,
            size_bytes: volume.size_bytes,
        }
    }
}

impl From<Snapshot> for SnapshotView {
    fn from(snapshot: Snapshot) -> Self {
        SnapshotView {
            reason: match snapshot.reason() {
                SnapshotReason::Unspecified => "unknown",
                SnapshotReason::Manual => "manual",
                SnapshotReason::BeforeRestore => "before-restore",
                SnapshotReason::Stage => "stage",
                SnapshotReason::Setup => "setup",
            }
            .to_owned(),
            workspace_state: state_name(snapshot.workspace_state()).to_owned(),
            created_at: time(snapshot.created_at.as_ref()),
            id: snapshot.id,
            workspace_id: snapshot.workspace_id,
            workspace_name: snapshot.workspace_name,
            label: snapshot.label,
            parent_id: snapshot.parent_id,
            repositories: snapshot.repositories.into_iter().map(Into::into).collect(),
            image_id: snapshot.image_id,
            volumes: snapshot.volumes.into_iter().map(Into::into).collect(),
            size_bytes: snapshot.size_bytes,
            new_bytes: snapshot.new_bytes,
            pause_ms: snapshot.pause_ms,
            image_missing: snapshot.image_missing,
            left_out: snapshot.left_out,
        }
    }
}

/// Prints one snapshot in the form asked for.
pub(crate) fn print_snapshot(format: Format, snapshot: Option<Snapshot>) -> Result<Exit, Failure> {
    let view = SnapshotView::from(snapshot.unwrap_or_default());
    match format {
        Format::Json => print_json(&view)?,
        Format::Table => print(&detail_table(&view).to_string())?,
    }
    Ok(Exit::OK)
}

/// Snapshots, one line each.
pub(crate) fn list_table(snapshots: &[SnapshotView]) -> Table {
    let mut table = Table::new(&["ID", "CREATED", "REASON", "SIZE", "NEW", "LABEL"]);
    for snapshot in snapshots {
        let reason = match snapshot.image_missing {
            true => format!("{}, image gone", snapshot.reason),
            false => snapshot.reason.clone(),
        };
        table.row([
            snapshot.id.as_str(),
            snapshot.created_at.as_deref().unwrap_or_default(),
            &reason,
            &bytes(snapshot.size_bytes),
            &bytes(snapshot.new_bytes),
            &snapshot.label,
        ]);
    }
    table
}

/// One snapshot, one fact a line.
fn detail_table(snapshot: &SnapshotView) -> Table {
    let mut table = Table::plain();
    table.row(["id", &snapshot.id]);
    table.row(["label", &snapshot.label]);
    let workspace = format!("{} ({})", snapshot.workspace_name, snapshot.workspace_id);
    table.row(["workspace", &workspace]);
    table.row(["state", &snapshot.workspace_state]);
    table.row(["reason", &snapshot.reason]);
    table.row(["parent", &snapshot.parent_id]);
    let created = snapshot.created_at.as_deref().unwrap_or_default();
    table.row(["created", created]);
    table.row(["size", &bytes(snapshot.size_bytes)]);
    table.row(["new", &bytes(snapshot.new_bytes)]);
    table.row(["paused for", &format!("{} ms", snapshot.pause_ms)]);
    table.row(["image", &snapshot.image_id]);
    if snapshot.image_missing {
        let gone = "gone from the engine: the snapshot cannot be restored or forked";
        table.row(["", gone]);
    }
    for volume in &snapshot.volumes {
        let fact = format!(
            "{}: {} in {} entries, tree {}",
            volume.name,
            bytes(volume.size_bytes),
            volume.entries,
            volume.tree_hash.get(..12).unwrap_or(&volume.tree_hash)
        );
        table.row(["volume", &fact]);
    }
    for file in &snapshot.left_out {
        table.row(["left out", file]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_were_left_out_are_shown_each_in_a_line() {
        let left_out = ["/workspace/.npmrc [redacted:npm]", "/etc/x [redacted:npm]"];
        let snapshot = Snapshot {
            left_out: left_out.map(str::to_owned).to_vec(),
            ..Snapshot::default()
        };
        let shown = detail_table(&snapshot.into()).to_string();
        for file in left_out {
            let line = shown.lines().find(|line| line.contains(file));
            assert!(
                line.is_some_and(|line| line.starts_with("left out")),
                "{shown}"
            );
        }
    }
}
