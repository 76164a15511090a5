//! Snapshots that a session takes of its workspace, and going back to one.

use super::{super::EffectContext, super::Trouble, Done, Undone, done, useless};
use crate::domain::{ids::SnapshotId, session::work::WorkResult, snapshot::SnapshotReason};

/// Takes the snapshot that clean copies are made of; the same step again finds
/// it.
pub(super) async fn start(context: &EffectContext) -> Result<Done, Undone> {
    let snapshot = take(context).await?;
    done(WorkResult::StartSnapshot { snapshot }, Vec::new())
}

/// Takes the snapshot of what a stage begins with; the same step again finds it.
pub(super) async fn stage(context: &EffectContext) -> Result<Done, Undone> {
    let snapshot = take(context).await?;
    done(WorkResult::StageSnapshot { snapshot }, Vec::new())
}

/// Takes the snapshot that goes before an approved act; the same step again finds
/// it.
pub(super) async fn act(context: &EffectContext) -> Result<Done, Undone> {
    let snapshot = take(context).await?;
    done(WorkResult::ActSnapshot { snapshot }, Vec::new())
}

async fn take(context: &EffectContext) -> Result<SnapshotId, Undone> {
    let snapshot = snapshot_id(context);
    let created = &context.state.created;
    let reason = SnapshotReason::Stage {
        session: created.session.clone(),
        stage: context.state.stage,
    };
    let (id, of, why) = (&snapshot, &created.workspace, &reason);
    context
        .with_workspaces(
            |workspaces| async move { workspaces.take_snapshot(of, id, why.clone()).await },
        )
        .await?;
    Ok(snapshot)
}

/// Puts the workspace back to a snapshot of the session's, and keeps what it was;
/// the same step again keeps nothing twice.
pub(super) async fn roll_back(context: &EffectContext, to: &SnapshotId) -> Result<Done, Undone> {
    let kept = snapshot_id(context);
    let created = &context.state.created;
    let (of, session, keep) = (&created.workspace, &created.session, &kept);
    let restored = context
        .with_workspaces(
            |workspaces| async move { workspaces.roll_back(of, to, keep, session).await },
        )
        .await;
    match restored {
        Ok(()) => {}
        // The workspace is as it was, and the session can go on with it.
        Err(Trouble::Fatal(reason)) => return Err(useless(reason)),
        Err(trouble) => return Err(trouble.into()),
    }
    let to = to.clone();
    done(WorkResult::RolledBack { to, kept }, Vec::new())
}

/// An id that is the step's own and sorts by time, as all of them do.
fn snapshot_id(context: &EffectContext) -> SnapshotId {
    let hash = blake3::hash(context.open.step.as_str().as_bytes());
    let mut random = [0; 10];
    random.copy_from_slice(&hash.as_bytes()[..10]);
    let since_ms = u64::try_from(context.open.since_ms).unwrap_or(0);
    let uuid = uuid::Builder::from_unix_timestamp_millis(since_ms, &random);
    SnapshotId::from_uuid(uuid.into_uuid())
}
