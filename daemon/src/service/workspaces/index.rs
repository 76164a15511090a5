//! The records of the store in memory: this service is their only writer, and
//! every command looks one up.

use std::{
    collections::HashMap,
    sync::{Arc, PoisonError, RwLock},
};

use tokio::sync::watch;

use crate::domain::{
    ids::{WorkspaceId, WorkspaceName},
    workspace::Workspace,
};

/// Workspaces by id and by name.
#[derive(Debug)]
pub(super) struct Index {
    /// Held for a look-up or an exchange, never over an await.
    maps: RwLock<Maps>,
    /// Counts the changes.
    changes: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Maps {
    by_id: HashMap<WorkspaceId, Arc<Workspace>>,
    by_name: HashMap<WorkspaceName, WorkspaceId>,
}

impl Index {
    pub(super) fn new(workspaces: Vec<Workspace>) -> Self {
        let index = Self {
            maps: RwLock::default(),
            changes: watch::Sender::new(0),
        };
        for workspace in workspaces {
            index.put(workspace);
        }
        index
    }

    /// Tells of every change.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(super) fn get(&self, id: &WorkspaceId) -> Option<Arc<Workspace>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        maps.by_id.get(id).cloned()
    }

    /// By id first: an id may look like a name.
    pub(super) fn resolve(&self, name_or_id: &str) -> Option<Arc<Workspace>> {
        if let Some(found) = name_or_id.parse().ok().and_then(|id| self.get(&id)) {
            return Some(found);
        }
        let name: WorkspaceName = name_or_id.parse().ok()?;
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let id = maps.by_name.get(&name)?;
        maps.by_id.get(id).cloned()
    }

    /// By name.
    pub(super) fn all(&self) -> Vec<Arc<Workspace>> {
        let maps = self.maps.read().unwrap_or_else(PoisonError::into_inner);
        let mut all: Vec<_> = maps.by_id.values().cloned().collect();
        all.sort_by(|a, b| a.definition.name.cmp(&b.definition.name));
        all
    }

    pub(super) fn put(&self, workspace: Workspace) -> Arc<Workspace> {
        let workspace = Arc::new(workspace);
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        let (id, name) = (&workspace.id, &workspace.definition.name);
        maps.by_name.insert(name.clone(), id.clone());
        maps.by_id.insert(id.clone(), workspace.clone());
        drop(maps);
        self.changes.send_modify(|changes| *changes += 1);
        workspace
    }

    pub(super) fn remove(&self, id: &WorkspaceId) {
        let mut maps = self.maps.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(workspace) = maps.by_id.remove(id) {
            maps.by_name.remove(&workspace.definition.name);
        }
        drop(maps);
        self.changes.send_modify(|changes| *changes += 1);
    }
}
