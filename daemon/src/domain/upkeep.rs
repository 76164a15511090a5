//! What became of a workspace that nobody had asked for, and what a person is
//! told of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

use serde::{Deserialize, Serialize};

use super::{
    ids::{OperationId, SnapshotId},
    snapshot::CapturedVolume,
};

/// Restores that are remembered.
const RESTORES_REMEMBERED: usize = 8;

/// The daemon's own notes on a workspace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Upkeep {
    /// Its container was never made yet, so there is nothing to lose.
    pub new: bool,
    /// Volumes that were lost and are being filled again: whatever is in them
    /// is not to be trusted.
    pub refilling: BTreeSet<CapturedVolume>,
    /// What a person should know; said until the workspace is stopped or
    /// restored.
    pub notice: Option<Notice>,
    /// The last few restores that kept nothing of what was there before, the
    /// newest last. They became true together with what they brought back, so one
    /// that is asked for again is known to be done.
    pub restores: Vec<OperationId>,
}

impl Upkeep {
    /// Of a workspace that is about to be made.
    #[must_use]
    pub fn of_new() -> Self {
        Self {
            new: true,
            ..Self::default()
        }
    }

    /// Of a workspace that is brought back by a restore which kept nothing.
    #[must_use]
    pub fn after_restore(&self, restore: OperationId) -> Self {
        let mut restores = self.restores.clone();
        restores.push(restore);
        let forgotten = restores.len().saturating_sub(RESTORES_REMEMBERED);
        restores.drain(..forgotten);
        Self {
            restores,
            ..Self::default()
        }
    }
}

/// What was done to a workspace without being asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Notice {
    /// Its record was lost and made again from the labels of its container.
    Adopted,
    /// Its container was gone and was made again.
    Rebuilt {
        /// The snapshot whose image it was made from; `None` means the image
        /// that it had been made from before.
        root: Option<SnapshotId>,
        /// What became of the volumes that were gone as well.
        volumes: BTreeMap<CapturedVolume, Refill>,
    },
}

/// What became of a volume that was gone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refill {
    /// It holds what a snapshot had.
    From(SnapshotId),
    /// No snapshot has it, so it is as in a new workspace.
    New,
    /// Every snapshot of it is damaged; it holds what could be read.
    Damaged,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Adopted => f.write_str(
                "found by the labels of its container, as its record was lost; \
                 set its egress again if it is to reach anything",
            ),
            Self::Rebuilt { root, volumes } => {
                f.write_str("its container was gone and was made again from ")?;
                match root {
                    Some(snapshot) => write!(f, "snapshot {snapshot}")?,
                    None => f.write_str("its image")?,
                }
                f.write_str("; what was changed outside its volumes since is lost")?;
                for (volume, refill) in volumes {
                    let volume = volume.name();
                    match refill {
                        Refill::From(snapshot) => {
                            write!(
                                f,
                                "; volume {volume} was gone and is as in snapshot {snapshot}"
                            )
                        }
                        Refill::New => write!(
                            f,
                            "; volume {volume} was gone and is new, as no snapshot has it"
                        ),
                        Refill::Damaged => write!(
                            f,
                            "; volume {volume} was gone and its snapshots are damaged: it is incomplete"
                        ),
                    }?;
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    #[test]
    fn a_notice_says_what_is_lost_and_what_came_back_from_where() {
        let snapshot = SnapshotId::from_uuid(Uuid::from_u128(1));
        let volumes = BTreeMap::from([
            (CapturedVolume::Work, Refill::From(snapshot.clone())),
            (CapturedVolume::Home, Refill::New),
        ]);
        let root = Some(snapshot.clone());
        let said = Notice::Rebuilt { root, volumes }.to_string();
        for part in [
            &format!("made again from snapshot {snapshot}"),
            &format!("volume work was gone and is as in snapshot {snapshot}"),
            "volume home was gone and is new",
            "outside its volumes",
        ] {
            assert!(said.contains(part), "no {part:?} in {said:?}");
        }
    }

    #[test]
    fn the_last_restores_are_remembered_and_no_more() {
        let id = |number| OperationId::from_uuid(Uuid::from_u128(number));
        let upkeep = (0..10).fold(Upkeep::of_new(), |upkeep, number| {
            upkeep.after_restore(id(number))
        });
        let expected = Upkeep {
            restores: (2..10).map(id).collect(),
            ..Upkeep::default()
        };
        assert_eq!(upkeep, expected);
    }

    #[test]
    fn what_older_daemons_stored_needs_no_upkeep() {
        let upkeep: Upkeep = serde_json::from_str("{}").unwrap();
        assert_eq!(upkeep, Upkeep::default());
    }
}
