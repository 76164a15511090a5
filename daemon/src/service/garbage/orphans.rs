//! Containers and volumes of this daemon in the engine that nothing needs.

use super::{Collect, Collected, Garbage, GarbageError, OnlyCopies, names, of};
use crate::{
    domain::orphans::{EngineObject, Known, Role, Verdict, verdict_after},
    ports::{chunks::PruneMode, inventory::Discarded},
};

impl Garbage {
    /// Containers, helpers and volumes.
    pub(super) async fn collect_objects(
        &self,
        what: Collect,
    ) -> Result<[Collected; 3], GarbageError> {
        let mut found = [
            of("containers", 0, 0),
            of("helpers", 0, 0),
            of("volumes", 0, 0),
        ];
        let mut objects = self.inner.engine.inventory().await?;
        // Containers before the volumes that they use.
        objects.sort_by_key(|object| kind_of(object) == Kind::Volume);
        for object in &objects {
            // Whoever makes or uses it holds this.
            let _held = match object.held_with() {
                Some(id) => match self.inner.workspaces.try_hold(id) {
                    Some(held) => Some(held),
                    None => continue,
                },
                None => None,
            };
            let kind = &mut found[kind_of(object) as usize];
            let verdict = self.judge(object, &objects, what).await?;
            // Whoever held the lock until now may have removed it.
            if verdict != Verdict::Needed && !self.inner.engine.has(object).await? {
                continue;
            }
            match (verdict, what.only_copies) {
                (Verdict::Needed, _) => {}
                (Verdict::OnlyCopy, OnlyCopies::Keep) => kind.kept += 1,
                (Verdict::OnlyCopy, OnlyCopies::Remove) | (Verdict::Orphan, _) => {
                    if self.remove(object, what.mode).await? == Discarded::Gone {
                        kind.count += 1;
                    }
                }
            }
        }
        Ok(found)
    }

    /// What the records say now of what the engine had before.
    async fn judge(
        &self,
        object: &EngineObject,
        all: &[EngineObject],
        what: Collect,
    ) -> Result<Verdict, GarbageError> {
        let workspaces = &self.inner.workspaces;
        // The operations first: one that ends now has changed its record.
        let journaled = names(&self.inner.store.operations().await?);
        let known = Known {
            workspaces: workspaces.generations(),
            journaled,
            ..Known::default()
        };
        let known = known.with_containers(all);
        let grace_ms = i64::try_from(what.grace.as_millis()).unwrap_or(i64::MAX);
        Ok(verdict_after(grace_ms, object, &known, workspaces.now_ms()))
    }

    async fn remove(
        &self,
        object: &EngineObject,
        mode: PruneMode,
    ) -> Result<Discarded, GarbageError> {
        match mode {
            PruneMode::Measure => Ok(Discarded::Gone),
            PruneMode::Remove => {
                tracing::info!(name = %object.name, role = ?object.role,
                    "removing what nothing needs from the engine");
                Ok(self.inner.engine.discard(object).await?)
            }
        }
    }
}

/// The places of the kinds in the answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Container,
    Helper,
    Volume,
}

fn kind_of(object: &EngineObject) -> Kind {
    match object.role {
        Role::Container { .. } => Kind::Container,
        Role::Helper { .. } => Kind::Helper,
        Role::Volume { .. } | Role::HelperVolume { .. } => Kind::Volume,
    }
}
