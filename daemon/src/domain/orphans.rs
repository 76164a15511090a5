//! What a daemon has in its engine that nothing needs any more.
//!
//! Whoever makes something in the engine writes down before that it will: in a
//! workspace's record or in the journal of operations. So what is in the engine
//! and in neither is an orphan, as long as the engine was looked at first: what
//! was made meanwhile was not seen, and what has ended meanwhile is in the
//! record. Orphans come of kills between two steps that the journal does not
//! cover, of engines that failed, and of people.

use std::collections::{HashMap, HashSet};

use super::{ids::WorkspaceId, snapshot::journal::Generation};

/// How long a helper that no journal names may work: what it does takes
/// seconds.
pub const UNRECORDED_AGE_MS: i64 = 60 * 60 * 1000;

/// Something in the engine that carries this daemon's labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineObject {
    /// The engine's id of a container, the name of a volume.
    pub name: String,
    /// What it is.
    pub role: Role,
    /// When it was made, in milliseconds since the Unix epoch; `None` where
    /// the engine does not tell.
    pub made_at_ms: Option<i64>,
}

/// What an object of the engine is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// The container of a workspace's generation.
    Container {
        /// The workspace.
        workspace: WorkspaceId,
        /// Which of its containers.
        generation: Generation,
        /// Whether a record can be made from its labels.
        adoptable: bool,
    },
    /// A volume of a workspace's generation.
    Volume {
        /// The workspace.
        workspace: WorkspaceId,
        /// Which of its volumes.
        generation: Generation,
    },
    /// A container that reads, fills or tries something.
    Helper {
        /// The id that it dials under; `None` when it never runs or does not
        /// dial.
        id: Option<WorkspaceId>,
        /// Who may be using it holds the lock of this workspace.
        of: Option<WorkspaceId>,
        /// Who made it.
        maker: Maker,
    },
    /// A volume of such a container's own.
    HelperVolume {
        /// Who made it.
        maker: Maker,
    },
}

/// The process that made something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Maker {
    /// This one.
    This,
    /// One that has ended: a data directory has one daemon at a time.
    Earlier,
}

impl EngineObject {
    /// The workspace whose lock is held while it is decided about and removed.
    #[must_use]
    pub fn held_with(&self) -> Option<&WorkspaceId> {
        match &self.role {
            Role::Container { workspace, .. } | Role::Volume { workspace, .. } => Some(workspace),
            Role::Helper { of, .. } => of.as_ref(),
            Role::HelperVolume { .. } => None,
        }
    }

    fn is_older(&self, age_ms: i64, now_ms: i64) -> bool {
        (self.made_at_ms).is_some_and(|made| made <= now_ms.saturating_sub(age_ms))
    }
}

/// What is known of what the engine should have.
#[derive(Debug, Clone, Default)]
pub struct Known {
    /// The generation of each workspace that there is a record of.
    pub workspaces: HashMap<WorkspaceId, Generation>,
    /// Workspaces and helpers that operations under way name.
    pub journaled: HashSet<WorkspaceId>,
    /// The newest generation of each workspace that has a container.
    pub contained: HashMap<WorkspaceId, Generation>,
}

impl Known {
    /// Notes what the engine has containers of.
    #[must_use]
    pub fn with_containers(mut self, objects: &[EngineObject]) -> Self {
        for object in objects {
            if let Role::Container {
                workspace,
                generation,
                adoptable: true,
            } = &object.role
            {
                let newest = self.contained.entry(workspace.clone()).or_default();
                *newest = (*newest).max(*generation);
            }
        }
        self
    }

    /// The generation that a workspace uses: the newest there is a container
    /// of, as the engine is right where the record is of an older day.
    fn current(&self, workspace: &WorkspaceId) -> Option<Generation> {
        let recorded = self.workspaces.get(workspace);
        recorded.max(self.contained.get(workspace)).copied()
    }
}

/// Whether something is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is, or may be.
    Needed,
    /// It is not.
    Orphan,
    /// Nothing names it, and it may be the only copy of somebody's files.
    OnlyCopy,
}

/// Whether anything needs an object of the engine. `known` is of a later moment
/// than the object.
#[must_use]
pub fn verdict(object: &EngineObject, known: &Known, now_ms: i64) -> Verdict {
    match &object.role {
        Role::Container {
            workspace,
            generation,
            adoptable,
        } => match known.current(workspace) {
            _ if known.journaled.contains(workspace) => Verdict::Needed,
            // The reconciler makes a record of it.
            Some(current) if *generation >= current => Verdict::Needed,
            Some(_) => Verdict::Orphan,
            None if *adoptable => Verdict::Needed,
            None => Verdict::OnlyCopy,
        },
        Role::Volume {
            workspace,
            generation,
        } => match known.current(workspace) {
            _ if known.journaled.contains(workspace) => Verdict::Needed,
            Some(current) if *generation == current => Verdict::Needed,
            Some(_) | None => Verdict::OnlyCopy,
        },
        Role::Helper {
            maker: Maker::Earlier,
            ..
        }
        | Role::HelperVolume {
            maker: Maker::Earlier,
        } => Verdict::Orphan,
        Role::Helper { id: Some(id), .. } if known.journaled.contains(id) => Verdict::Needed,
        // Nobody holds the lock that its users hold.
        Role::Helper { of: Some(_), .. } => Verdict::Orphan,
        Role::Helper { .. } | Role::HelperVolume { .. } => {
            match object.is_older(UNRECORDED_AGE_MS, now_ms) {
                true => Verdict::Orphan,
                false => Verdict::Needed,
            }
        }
    }
}

/// As [`verdict`], for a collector that leaves alone what is younger than
/// `grace_ms`.
#[must_use]
pub fn verdict_after(grace_ms: i64, object: &EngineObject, known: &Known, now_ms: i64) -> Verdict {
    match grace_ms == 0 || object.is_older(grace_ms, now_ms) {
        true => verdict(object, known, now_ms),
        false => Verdict::Needed,
    }
}

#[cfg(test)]
mod tests {
    use uuid::Uuid;

    use super::*;

    const NOW_MS: i64 = 1_000_000_000;

    fn id(number: u128) -> WorkspaceId {
        WorkspaceId::from_uuid(Uuid::from_u128(number))
    }

    fn object(role: Role) -> EngineObject {
        EngineObject {
            name: "it".to_owned(),
            role,
            made_at_ms: Some(NOW_MS - 1),
        }
    }

    fn container(number: u128, generation: u32, adoptable: bool) -> EngineObject {
        object(Role::Container {
            workspace: id(number),
            generation: Generation(generation),
            adoptable,
        })
    }

    fn volume(number: u128, generation: u32) -> EngineObject {
        object(Role::Volume {
            workspace: id(number),
            generation: Generation(generation),
        })
    }

    fn helper(number: Option<u128>, of: Option<u128>, maker: Maker) -> EngineObject {
        object(Role::Helper {
            id: number.map(id),
            of: of.map(id),
            maker,
        })
    }

    /// Workspace 1 is at its third generation and quiet, 2 is being restored,
    /// which helper 20 does. 3 is not known and has a container, 4 has none.
    #[test]
    fn what_neither_a_record_nor_the_journal_names_is_an_orphan() {
        let known = Known {
            workspaces: HashMap::from([(id(1), Generation(3)), (id(2), Generation(3))]),
            journaled: HashSet::from([id(2), id(20)]),
            contained: HashMap::new(),
        };
        let known = known.with_containers(&[container(3, 2, true), container(5, 1, false)]);
        let table = [
            (container(1, 3, true), Verdict::Needed),
            (container(1, 2, true), Verdict::Orphan),
            (container(1, 4, true), Verdict::Needed),
            (container(2, 2, true), Verdict::Needed),
            (container(2, 4, true), Verdict::Needed),
            (container(3, 2, true), Verdict::Needed),
            (container(3, 1, true), Verdict::Orphan),
            (container(5, 1, false), Verdict::OnlyCopy),
            (volume(1, 3), Verdict::Needed),
            (volume(1, 2), Verdict::OnlyCopy),
            (volume(1, 4), Verdict::OnlyCopy),
            (volume(2, 2), Verdict::Needed),
            (volume(2, 4), Verdict::Needed),
            (volume(3, 2), Verdict::Needed),
            (volume(3, 1), Verdict::OnlyCopy),
            (volume(4, 1), Verdict::OnlyCopy),
            (helper(Some(20), Some(2), Maker::This), Verdict::Needed),
            (helper(Some(20), Some(2), Maker::Earlier), Verdict::Orphan),
            (helper(Some(21), Some(1), Maker::This), Verdict::Orphan),
            (helper(Some(21), None, Maker::This), Verdict::Needed),
            (helper(None, None, Maker::This), Verdict::Needed),
            (helper(None, None, Maker::Earlier), Verdict::Orphan),
        ];
        for (object, expected) in table {
            assert_eq!(verdict(&object, &known, NOW_MS), expected, "{object:?}");
        }
    }

    #[test]
    fn a_record_of_an_older_day_does_not_cost_what_the_workspace_uses() {
        let known = Known {
            workspaces: HashMap::from([(id(1), Generation(1))]),
            ..Known::default()
        };
        let newer = container(1, 2, true);
        let known = known.with_containers(std::slice::from_ref(&newer));
        assert_eq!(verdict(&newer, &known, NOW_MS), Verdict::Needed);
        assert_eq!(verdict(&volume(1, 2), &known, NOW_MS), Verdict::Needed);
    }

    #[test]
    fn what_no_journal_names_goes_when_it_is_old_and_its_age_is_known() {
        let known = Known::default();
        for role in [
            Role::HelperVolume { maker: Maker::This },
            helper(None, None, Maker::This).role,
        ] {
            let aged = |made_at_ms| EngineObject {
                made_at_ms,
                ..object(role.clone())
            };
            let old = aged(Some(NOW_MS - UNRECORDED_AGE_MS));
            assert_eq!(verdict(&old, &known, NOW_MS), Verdict::Orphan);
            let young = aged(Some(NOW_MS - UNRECORDED_AGE_MS + 1));
            assert_eq!(verdict(&young, &known, NOW_MS), Verdict::Needed);
            assert_eq!(verdict(&aged(None), &known, NOW_MS), Verdict::Needed);
        }
    }

    #[test]
    fn a_grace_leaves_alone_what_is_younger_or_of_unknown_age() {
        let known = Known::default();
        let orphan = helper(None, None, Maker::Earlier);
        let after = |grace_ms| verdict_after(grace_ms, &orphan, &known, NOW_MS);
        assert_eq!(
            [after(0), after(1), after(2)],
            [Verdict::Orphan, Verdict::Orphan, Verdict::Needed]
        );
        let ageless = EngineObject {
            made_at_ms: None,
            ..orphan.clone()
        };
        let of_ageless = |grace_ms| verdict_after(grace_ms, &ageless, &known, NOW_MS);
        assert_eq!(
            [of_ageless(0), of_ageless(1)],
            [Verdict::Orphan, Verdict::Needed]
        );
    }
}
