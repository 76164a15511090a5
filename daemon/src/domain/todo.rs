//! Todos: what is to be done, and how far it has been seen to be done.
//!
//! ```text
//! pending -> in progress -> claimed -> verifying -> verified
//!    ^            ^                        |           |
//!    |            +------ start ------ rejected <------+ the tree changed
//!    +-- claim is allowed from pending, in progress, rejected
//! ```
//! The model can start and claim. Only the daemon's checks, and a person where
//! the session asks for one, can verify or reject.

use serde::{Deserialize, Serialize};

use super::{criteria::Criterion, ids::ArtifactId};

/// One todo of a session.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Todo {
    /// Number within the session, from 1.
    pub id: u32,
    /// What is to be done, in the model's words.
    pub text: String,
    /// What must hold. Where there is nothing that the daemon can check, a person
    /// verifies it.
    pub criteria: Vec<Criterion>,
    /// How far it is.
    pub state: TodoState,
}

/// How far a todo is. Each state carries what is known in it and no more.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TodoState {
    /// Planned.
    Pending,
    /// Being worked on.
    InProgress,
    /// The model says that it is done.
    Claimed {
        /// Its words; may be empty.
        claim: String,
    },
    /// The daemon is checking.
    Verifying {
        /// The model's words; may be empty.
        claim: String,
    },
    /// It has been seen to be done, on one exact tree.
    Verified(Evidence),
    /// A check failed, or a person said no.
    Rejected {
        /// Why, as it went back to the model.
        reason: String,
        /// What the checks showed; `None` when none ran.
        artifact: Option<ArtifactId>,
    },
}

/// What verified a todo.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// Git tree of the working copy that was checked, in hex. A working copy
    /// with another tree needs a new check.
    pub tree: String,
    /// A line for people.
    pub summary: String,
    /// The checks' output.
    pub artifact: Option<ArtifactId>,
    /// Who had the last word.
    pub judge: Judge,
}

/// Who had the last word on a todo.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Judge {
    /// The daemon's checks.
    Daemon,
    /// A person, after the daemon's checks.
    Person,
}

/// Why a todo does not do what it was asked; for the model to read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TodoRefusal {
    /// It was verified already.
    #[error("todo {0} is verified already; there is nothing left to do for it")]
    AlreadyVerified(u32),
    /// It is being checked.
    #[error("todo {0} is being verified now; wait for the answer")]
    UnderVerification(u32),
}

impl Todo {
    /// A planned todo.
    #[must_use]
    pub fn new(id: u32, text: String, criteria: Vec<Criterion>) -> Self {
        let state = TodoState::Pending;
        Self {
            id,
            text,
            criteria,
            state,
        }
    }

    /// This todo in another state.
    #[must_use]
    pub fn with(&self, state: TodoState) -> Self {
        Self {
            state,
            ..self.clone()
        }
    }

    /// The todo once work on it begins; beginning twice is accepted.
    ///
    /// # Errors
    /// It is verified, or being verified.
    pub fn start(&self) -> Result<Self, TodoRefusal> {
        match &self.state {
            TodoState::Pending | TodoState::InProgress | TodoState::Rejected { .. } => {
                Ok(self.with(TodoState::InProgress))
            }
            TodoState::Claimed { .. } | TodoState::Verifying { .. } => {
                Err(TodoRefusal::UnderVerification(self.id))
            }
            TodoState::Verified(_) => Err(TodoRefusal::AlreadyVerified(self.id)),
        }
    }

    /// The todo once the model says that it is done.
    ///
    /// # Errors
    /// It is verified, or being verified.
    pub fn claim(&self, claim: String) -> Result<Self, TodoRefusal> {
        match &self.state {
            TodoState::Pending | TodoState::InProgress | TodoState::Rejected { .. } => {
                Ok(self.with(TodoState::Claimed { claim }))
            }
            TodoState::Claimed { .. } | TodoState::Verifying { .. } => {
                Err(TodoRefusal::UnderVerification(self.id))
            }
            TodoState::Verified(_) => Err(TodoRefusal::AlreadyVerified(self.id)),
        }
    }

    /// The todo while the daemon checks it.
    #[must_use]
    pub fn verifying(&self) -> Self {
        let claim = match &self.state {
            TodoState::Claimed { claim } | TodoState::Verifying { claim } => claim.clone(),
            TodoState::Pending
            | TodoState::InProgress
            | TodoState::Verified(_)
            | TodoState::Rejected { .. } => String::new(),
        };
        self.with(TodoState::Verifying { claim })
    }

    /// Whether it has been seen to be done.
    #[must_use]
    pub fn is_verified(&self) -> bool {
        self.evidence().is_some()
    }

    /// What verified it.
    #[must_use]
    pub fn evidence(&self) -> Option<&Evidence> {
        match &self.state {
            TodoState::Verified(evidence) => Some(evidence),
            TodoState::Pending
            | TodoState::InProgress
            | TodoState::Claimed { .. }
            | TodoState::Verifying { .. }
            | TodoState::Rejected { .. } => None,
        }
    }
}

impl TodoState {
    /// Its name for people: "in progress".
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::InProgress => "in progress",
            Self::Claimed { .. } => "claimed",
            Self::Verifying { .. } => "verifying",
            Self::Verified(_) => "verified",
            Self::Rejected { .. } => "rejected",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn every_state() -> Vec<TodoState> {
        vec![
            TodoState::Pending,
            TodoState::InProgress,
            TodoState::Claimed { claim: "c".into() },
            TodoState::Verifying { claim: "c".into() },
            TodoState::Verified(Evidence {
                tree: "t".into(),
                summary: "s".into(),
                artifact: None,
                judge: Judge::Daemon,
            }),
            TodoState::Rejected {
                reason: "r".into(),
                artifact: None,
            },
        ]
    }

    #[test]
    fn every_state_answers_start_and_claim() {
        let answers: Vec<_> = every_state()
            .into_iter()
            .map(|state| {
                let todo = Todo::new(1, "t".into(), vec![]).with(state);
                let name = |result: Result<Todo, TodoRefusal>| match result {
                    Ok(todo) => todo.state.name(),
                    Err(TodoRefusal::AlreadyVerified(_)) => "refused: verified",
                    Err(TodoRefusal::UnderVerification(_)) => "refused: under way",
                };
                (
                    todo.state.name(),
                    name(todo.start()),
                    name(todo.claim("done".into())),
                )
            })
            .collect();
        assert_eq!(
            answers,
            [
                ("pending", "in progress", "claimed"),
                ("in progress", "in progress", "claimed"),
                ("claimed", "refused: under way", "refused: under way"),
                ("verifying", "refused: under way", "refused: under way"),
                ("verified", "refused: verified", "refused: verified"),
                ("rejected", "in progress", "claimed"),
            ]
        );
    }

    #[test]
    fn a_claim_verifies_nothing() {
        let todo = Todo::new(1, "t".into(), vec![]);
        assert!(!todo.claim("really done".into()).unwrap().is_verified());
    }
}
