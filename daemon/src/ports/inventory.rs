//! Everything that a daemon has in a container engine, found by its labels.

use async_trait::async_trait;

use super::runtime::RuntimeError;
use crate::domain::orphans::EngineObject;

/// An engine's containers and volumes that carry this daemon's labels. Images
/// and copies of trees are
/// [`SnapshotRuntimePort`](super::snapshot_runtime::SnapshotRuntimePort)'s.
#[async_trait]
pub trait InventoryPort: Send + Sync {
    /// Every container of a workspace and of a helper, and every volume of
    /// them, as the engine has them at one moment after the call. An object
    /// whose labels do not say whose it is is not among them.
    async fn inventory(&self) -> Result<Vec<EngineObject>, RuntimeError>;

    /// Whether one of them is still in the engine.
    async fn has(&self, object: &EngineObject) -> Result<bool, RuntimeError>;

    /// Removes one of them, running or not. An absent one is accepted; a volume
    /// that a container uses is left.
    async fn discard(&self, object: &EngineObject) -> Result<Discarded, RuntimeError>;
}

/// What became of an object that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Discarded {
    /// It is not there.
    Gone,
    /// Something uses it.
    InUse,
}
