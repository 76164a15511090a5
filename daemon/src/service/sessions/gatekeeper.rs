//! What tool calls are judged by, beside their session: the policy in use, and
//! what people have approved for a project.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use crate::{
    domain::{
        ids::{RepositoryName, WorkspaceId},
        policy::Policy,
        session::state::SessionState,
    },
    service::policies::Policies,
};

type Project = (WorkspaceId, RepositoryName);

/// Hands out what the gate needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Gatekeeper {
    policies: Policies,
    /// Classes that were approved for a project: gathered from the logs, which
    /// keep them. Held for a look-up or an insert.
    approved: Arc<Mutex<HashMap<Project, BTreeSet<String>>>>,
}

impl Gatekeeper {
    /// With this policy, and nothing approved yet.
    #[must_use]
    pub fn new(policies: Policies) -> Self {
        Self {
            policies,
            approved: Arc::default(),
        }
    }

    /// The policy in use.
    #[must_use]
    pub(super) fn policy(&self) -> Arc<Policy> {
        self.policies.current()
    }

    /// What was approved for a session's project.
    #[must_use]
    pub(super) fn approved_for(&self, state: &SessionState) -> BTreeSet<String> {
        let approved = self.approved.lock().unwrap_or_else(PoisonError::into_inner);
        approved.get(&project(state)).cloned().unwrap_or_default()
    }

    /// Takes note of what was approved in a session for its project.
    pub(super) fn learn(&self, state: &SessionState) {
        if state.approvals.project.is_empty() {
            return;
        }
        let mut approved = self.approved.lock().unwrap_or_else(PoisonError::into_inner);
        let known = approved.entry(project(state)).or_default();
        known.extend(state.approvals.project.iter().cloned());
    }
}

fn project(state: &SessionState) -> Project {
    let created = &state.created;
    (created.workspace.clone(), created.repository.clone())
}
