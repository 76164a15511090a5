//! Operations on snapshots, step by step, and what becomes of one that was
//! cut off.
//!
//! `Begun` and what ends in `ing` are journaled before their work is done, the
//! other steps after it, so that whatever a crash left behind is in the
//! journal. When an operation has ended its record is removed.
//!
//! ```text
//!            cut off here: undone               cut off here: finished
//! snapshot   Begun ---> Pausing ---> Resumed -> Storing
//!              '---- nothing to pause --------> Storing
//!            Flattening, before Storing, when the image has many layers
//! restore    Begun ---> Filled ---------------> Swapping ---> Cleaning
//! fork       Begun ---> Filled ---------------> Adding
//! import     Begun ----------------------------> Storing
//! delete                                        Begun
//! ```
//!
//! At the next start [`settle`] says for each operation found what to do, and
//! after it the operation is as if it had never begun or as if it had ended.
//! Every effect can be repeated: one that finds its work done has done it.
//! Operations are settled in the order of their ids, before clients are served
//! and before chunks are pruned: what an unfinished snapshot names is kept by
//! nothing but its journal.

use serde::{Deserialize, Serialize};

use super::Snapshot;
use crate::domain::{
    ids::{OperationId, SnapshotId, WorkspaceId},
    workspace::Workspace,
};

/// An operation under way, as it is in the journal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Operation {
    /// Its id; ids sort by time.
    pub id: OperationId,
    /// The workspace it is about: of a fork, the new one.
    pub workspace: WorkspaceId,
    /// When it was begun, in milliseconds since the Unix epoch.
    pub begun_at_ms: i64,
    /// What it is and how far it has come.
    pub progress: Progress,
}

/// What an operation is, what is known of it from its beginning, and its step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// A snapshot is taken.
    Snapshot {
        /// The id it will have.
        snapshot: SnapshotId,
        /// The container that reads the volumes.
        helper: ContainerRef,
        /// What a commit will be tagged as; there is none when the root file
        /// system is unchanged.
        image: ImageRef,
        /// How far it has come.
        step: SnapshotStep,
    },
    /// A workspace is brought back to a snapshot.
    Restore {
        /// What is restored.
        snapshot: SnapshotId,
        /// The container that fills the new volumes.
        helper: ContainerRef,
        /// The new container and volumes.
        new: Generation,
        /// How far it has come.
        step: RestoreStep,
    },
    /// A workspace is made from a snapshot.
    Fork {
        /// What it is made from.
        snapshot: SnapshotId,
        /// The container that fills the volumes.
        helper: ContainerRef,
        /// How far it has come.
        step: ForkStep,
    },
    /// A snapshot comes in from an archive, all of which was verified before.
    Import {
        /// The id it will have.
        snapshot: SnapshotId,
        /// What its image will be tagged as.
        image: ImageRef,
        /// How far it has come.
        step: ImportStep,
    },
    /// A snapshot is deleted. Its chunks are left to pruning.
    Delete {
        /// Which.
        snapshot: SnapshotId,
        /// How far it has come.
        step: DeleteStep,
    },
}

impl Progress {
    /// The manifest that this is about to store: until then nothing else keeps
    /// what it names.
    #[must_use]
    pub fn unstored(&self) -> Option<&Snapshot> {
        match self {
            Self::Snapshot { step, .. } => match step {
                SnapshotStep::Storing { manifest } => Some(manifest),
                SnapshotStep::Begun
                | SnapshotStep::Pausing { .. }
                | SnapshotStep::Resumed
                | SnapshotStep::Flattening { .. } => None,
            },
            Self::Import { step, .. } => match step {
                ImportStep::Storing { manifest } => Some(manifest),
                ImportStep::Begun => None,
            },
            Self::Restore { .. } | Self::Fork { .. } | Self::Delete { .. } => None,
        }
    }

    /// Whether this takes the snapshot with this id.
    #[must_use]
    pub fn takes(&self, wanted: &SnapshotId) -> bool {
        match self {
            Self::Snapshot { snapshot, .. } => snapshot == wanted,
            Self::Restore { .. }
            | Self::Fork { .. }
            | Self::Import { .. }
            | Self::Delete { .. } => false,
        }
    }

    /// The containers that do its work.
    pub fn helpers(&self) -> impl Iterator<Item = &ContainerRef> {
        let (helper, flattening) = match self {
            Self::Snapshot { helper, step, .. } => match step {
                SnapshotStep::Flattening { read, write, .. } => {
                    (Some(helper), [Some(read), Some(write)])
                }
                SnapshotStep::Begun
                | SnapshotStep::Pausing { .. }
                | SnapshotStep::Resumed
                | SnapshotStep::Storing { .. } => (Some(helper), [None; 2]),
            },
            Self::Restore { helper, .. } | Self::Fork { helper, .. } => (Some(helper), [None; 2]),
            Self::Import { .. } | Self::Delete { .. } => (None, [None; 2]),
        };
        helper.into_iter().chain(flattening.into_iter().flatten())
    }
}

/// A step of taking a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SnapshotStep {
    /// The helper may be there; the image too, when there is nothing to pause.
    Begun,
    /// The workspace may stand still, and the image may be there.
    Pausing {
        /// The workspace's container. One that a person paused is never here.
        container: ContainerRef,
    },
    /// The workspace runs again; what pauses it from now on is somebody else.
    Resumed,
    /// The layers of the image are being made one. The snapshot's tag is the
    /// committed image's or the new one's.
    Flattening {
        /// The container that sees the committed image.
        read: ContainerRef,
        /// The container that becomes the new image.
        write: ContainerRef,
        /// The committed image, by the engine's id.
        image: ImageRef,
    },
    /// Everything is durable; the manifest may be stored.
    Storing {
        /// What is to be stored.
        manifest: Box<Snapshot>,
    },
}

/// A step of bringing a workspace back to a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RestoreStep {
    /// The helper and some of the new container and volumes may be there; the
    /// old ones are in use.
    Begun,
    /// The new volumes are filled and durable; the old ones are in use.
    Filled,
    /// The store may name the new ones; the old container may be stopped.
    Swapping {
        /// What is being left.
        old: Generation,
        /// The workspace's record as it is to be.
        record: Box<Workspace>,
    },
    /// The store names the new ones. The record may have changed since, so it
    /// is not to be written again.
    Cleaning {
        /// What nobody uses any more.
        old: Generation,
    },
}

/// A step of making a workspace from a snapshot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForkStep {
    /// The helper and some of the container and volumes may be there.
    Begun,
    /// The volumes are filled and durable.
    Filled,
    /// The store may have the workspace.
    Adding {
        /// Its record.
        record: Box<Workspace>,
    },
}

/// A step of taking in a snapshot from an archive.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ImportStep {
    /// The image may be there.
    Begun,
    /// Everything is durable; the manifest may be stored.
    Storing {
        /// What is to be stored.
        manifest: Box<Snapshot>,
    },
}

/// A step of deleting a snapshot. The manifest goes first: what is listed is
/// whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeleteStep {
    /// The manifest may be gone, and the image too.
    Begun {
        /// The image that nobody else needs; `None` when somebody does.
        image: Option<ImageRef>,
    },
}

/// A container by the name that it was given, or by the engine's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ContainerRef(pub String);

/// An image by a tag of ours, or by the engine's id.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ImageRef(pub String);

/// Which container and volumes of a workspace: each restore makes new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Generation(pub u32);

impl Generation {
    /// What a workspace is made with.
    pub const FIRST: Self = Self(1);

    /// The one that a restore makes.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl Default for Generation {
    fn default() -> Self {
        Self::FIRST
    }
}

impl ImageRef {
    /// What the tags of all snapshots' images begin with.
    pub const SNAPSHOTS: &str = "compy/snapshot:";

    /// The tag of the image that is committed for a snapshot.
    #[must_use]
    pub fn of(snapshot: &SnapshotId) -> Self {
        Self(format!("{}{snapshot}", Self::SNAPSHOTS))
    }
}

/// What is to be done about an operation that was cut off.
#[derive(Debug, Clone, PartialEq)]
pub struct Settlement {
    /// How it ends.
    pub verdict: Verdict,
    /// What to do for that, in this order. Then the operation's record goes.
    pub effects: Vec<Effect>,
}

/// How an operation that was cut off ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// As if it had never begun.
    Undone,
    /// As if it had not been cut off.
    Finished,
}

/// Something to do. Each is done again without harm.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Let a container's processes go on; one that is gone or runs is left.
    Unpause(ContainerRef),
    /// Remove a container, running or not.
    RemoveContainer(ContainerRef),
    /// Remove an image's tag, and the image when that was its last.
    RemoveImage(ImageRef),
    /// Remove a container and its volumes.
    RemoveGeneration {
        /// Of this workspace.
        workspace: WorkspaceId,
        /// Which.
        generation: Generation,
    },
    /// Store a manifest.
    PutSnapshot(Box<Snapshot>),
    /// Make a snapshot the one that its workspace was last at, if the workspace
    /// is still at the one before.
    NameLast {
        /// The workspace.
        workspace: WorkspaceId,
        /// The one before.
        parent: Option<SnapshotId>,
        /// The one that was taken.
        snapshot: SnapshotId,
    },
    /// Remove a manifest from the store.
    RemoveSnapshot(SnapshotId),
    /// Make a workspace use this container and these volumes from now on; they
    /// are removed when it is to be deleted.
    Swap {
        /// The new ones.
        to: Generation,
        /// The workspace's record as it was to be. What a restore does not
        /// change may have changed since.
        record: Box<Workspace>,
    },
    /// Add a workspace to the store; one that is there is left as it is.
    AddWorkspace(Box<Workspace>),
}

/// What the next start has to do about an operation that it finds in the
/// journal.
#[must_use]
pub fn settle(operation: &Operation) -> Settlement {
    let workspace = &operation.workspace;
    match &operation.progress {
        Progress::Snapshot {
            snapshot: _,
            helper,
            image,
            step,
        } => settle_snapshot(helper, image, step),
        Progress::Restore {
            snapshot: _,
            helper,
            new,
            step,
        } => settle_restore(workspace, helper, *new, step),
        Progress::Fork {
            snapshot: _,
            helper,
            step,
        } => settle_fork(workspace, helper, step),
        Progress::Import {
            snapshot: _,
            image,
            step,
        } => settle_import(image, step),
        Progress::Delete { snapshot, step } => settle_delete(snapshot, step),
    }
}

fn settle_snapshot(helper: &ContainerRef, image: &ImageRef, step: &SnapshotStep) -> Settlement {
    let nothing_left = [
        Effect::RemoveContainer(helper.clone()),
        Effect::RemoveImage(image.clone()),
    ];
    match step {
        SnapshotStep::Begun | SnapshotStep::Resumed => undone(nothing_left),
        // First of all: somebody may be waiting for the workspace.
        SnapshotStep::Pausing { container } => {
            let unpause = Effect::Unpause(container.clone());
            undone([unpause].into_iter().chain(nothing_left))
        }
        SnapshotStep::Flattening { read, write, image } => undone(
            [read, write]
                .map(|helper| Effect::RemoveContainer(helper.clone()))
                .into_iter()
                .chain(nothing_left)
                .chain([Effect::RemoveImage(image.clone())]),
        ),
        SnapshotStep::Storing { manifest } => finished([
            Effect::PutSnapshot(manifest.clone()),
            name_last(manifest),
            Effect::RemoveContainer(helper.clone()),
        ]),
    }
}

fn name_last(manifest: &Snapshot) -> Effect {
    Effect::NameLast {
        workspace: manifest.workspace.clone(),
        parent: manifest.parent.clone(),
        snapshot: manifest.id.clone(),
    }
}

fn settle_restore(
    workspace: &WorkspaceId,
    helper: &ContainerRef,
    new: Generation,
    step: &RestoreStep,
) -> Settlement {
    let without_helper = Effect::RemoveContainer(helper.clone());
    match step {
        RestoreStep::Begun | RestoreStep::Filled => {
            undone([without_helper, remove_generation(workspace, new)])
        }
        RestoreStep::Swapping { old, record } => finished([
            without_helper,
            Effect::Swap {
                to: new,
                record: record.clone(),
            },
            remove_generation(workspace, *old),
        ]),
        RestoreStep::Cleaning { old } => {
            finished([without_helper, remove_generation(workspace, *old)])
        }
    }
}

fn settle_fork(workspace: &WorkspaceId, helper: &ContainerRef, step: &ForkStep) -> Settlement {
    let without_helper = Effect::RemoveContainer(helper.clone());
    match step {
        ForkStep::Begun | ForkStep::Filled => undone([
            without_helper,
            remove_generation(workspace, Generation::FIRST),
        ]),
        ForkStep::Adding { record } => {
            finished([without_helper, Effect::AddWorkspace(record.clone())])
        }
    }
}

fn settle_import(image: &ImageRef, step: &ImportStep) -> Settlement {
    match step {
        ImportStep::Begun => undone([Effect::RemoveImage(image.clone())]),
        ImportStep::Storing { manifest } => finished([Effect::PutSnapshot(manifest.clone())]),
    }
}

fn settle_delete(snapshot: &SnapshotId, step: &DeleteStep) -> Settlement {
    match step {
        DeleteStep::Begun { image } => finished(
            [Effect::RemoveSnapshot(snapshot.clone())]
                .into_iter()
                .chain(image.clone().map(Effect::RemoveImage)),
        ),
    }
}

fn undone(effects: impl IntoIterator<Item = Effect>) -> Settlement {
    Settlement {
        verdict: Verdict::Undone,
        effects: effects.into_iter().collect(),
    }
}

fn finished(effects: impl IntoIterator<Item = Effect>) -> Settlement {
    Settlement {
        verdict: Verdict::Finished,
        effects: effects.into_iter().collect(),
    }
}

fn remove_generation(workspace: &WorkspaceId, generation: Generation) -> Effect {
    Effect::RemoveGeneration {
        workspace: workspace.clone(),
        generation,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ports::contract::store::{operation, snapshot, workspace};

    #[test]
    fn every_step_is_undone_or_finished_with_nothing_left_behind() {
        let record = || Box::new(workspace(7, "api"));
        let manifest = || Box::new(snapshot(1, 7));
        let (helper, tag) = (
            || ContainerRef("helper".to_owned()),
            || ImageRef("tag".to_owned()),
        );
        let container = || ContainerRef("container".to_owned());
        let id = || snapshot(1, 7).id;
        let generation = |number| Effect::RemoveGeneration {
            workspace: workspace(7, "api").id,
            generation: Generation(number),
        };
        let no_helper = || Effect::RemoveContainer(helper());
        let no_image = || Effect::RemoveImage(tag());

        let taking = |step| Progress::Snapshot {
            snapshot: id(),
            helper: helper(),
            image: tag(),
            step,
        };
        let restoring = |step| Progress::Restore {
            snapshot: id(),
            helper: helper(),
            new: Generation(5),
            step,
        };
        let forking = |step| Progress::Fork {
            snapshot: id(),
            helper: helper(),
            step,
        };
        let importing = |step| Progress::Import {
            snapshot: id(),
            image: tag(),
            step,
        };
        let deleting = |step| Progress::Delete {
            snapshot: id(),
            step,
        };
        let old = Generation(4);
        let table = [
            (
                taking(SnapshotStep::Begun),
                undone([no_helper(), no_image()]),
            ),
            (
                taking(SnapshotStep::Pausing {
                    container: container(),
                }),
                undone([Effect::Unpause(container()), no_helper(), no_image()]),
            ),
            (
                taking(SnapshotStep::Resumed),
                undone([no_helper(), no_image()]),
            ),
            (
                taking(SnapshotStep::Flattening {
                    read: ContainerRef("read".to_owned()),
                    write: ContainerRef("write".to_owned()),
                    image: ImageRef("sha256:1".to_owned()),
                }),
                undone([
                    Effect::RemoveContainer(ContainerRef("read".to_owned())),
                    Effect::RemoveContainer(ContainerRef("write".to_owned())),
                    no_helper(),
                    no_image(),
                    Effect::RemoveImage(ImageRef("sha256:1".to_owned())),
                ]),
            ),
            (
                taking(SnapshotStep::Storing {
                    manifest: manifest(),
                }),
                finished([
                    Effect::PutSnapshot(manifest()),
                    Effect::NameLast {
                        workspace: workspace(7, "api").id,
                        parent: manifest().parent,
                        snapshot: id(),
                    },
                    no_helper(),
                ]),
            ),
            (
                restoring(RestoreStep::Begun),
                undone([no_helper(), generation(5)]),
            ),
            (
                restoring(RestoreStep::Filled),
                undone([no_helper(), generation(5)]),
            ),
            (
                restoring(RestoreStep::Swapping {
                    old,
                    record: record(),
                }),
                finished([
                    no_helper(),
                    Effect::Swap {
                        to: Generation(5),
                        record: record(),
                    },
                    generation(4),
                ]),
            ),
            (
                restoring(RestoreStep::Cleaning { old }),
                finished([no_helper(), generation(4)]),
            ),
            (
                forking(ForkStep::Begun),
                undone([no_helper(), generation(1)]),
            ),
            (
                forking(ForkStep::Filled),
                undone([no_helper(), generation(1)]),
            ),
            (
                forking(ForkStep::Adding { record: record() }),
                finished([no_helper(), Effect::AddWorkspace(record())]),
            ),
            (importing(ImportStep::Begun), undone([no_image()])),
            (
                importing(ImportStep::Storing {
                    manifest: manifest(),
                }),
                finished([Effect::PutSnapshot(manifest())]),
            ),
            (
                deleting(DeleteStep::Begun { image: Some(tag()) }),
                finished([Effect::RemoveSnapshot(id()), no_image()]),
            ),
            (
                deleting(DeleteStep::Begun { image: None }),
                finished([Effect::RemoveSnapshot(id())]),
            ),
        ];
        for (progress, expected) in table {
            let operation = Operation {
                progress,
                ..operation(1, 7)
            };
            assert_eq!(settle(&operation), expected, "{operation:?}");
            let json = serde_json::to_vec(&operation).unwrap();
            let read: Operation = serde_json::from_slice(&json).unwrap();
            assert_eq!(read, operation);
        }
    }
}
