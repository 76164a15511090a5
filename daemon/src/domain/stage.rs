//! The stages of the workflow.
//!
//! ```text
//! UNDERSTAND -> PLAN -> LOCATE -> MODIFY -> VALIDATE -> PR -> CI -> COMPLETE
//!                                   ^         |               |
//!                                   +- DEBUG <+     ITERATE <-+
//!                                   +------------------+
//! ```
//! and `FAILED` from anywhere.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A stage of the workflow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// The model reads what there is.
    Understand,
    /// The model writes todos with criteria.
    Plan,
    /// The model finds the places to change.
    Locate,
    /// The model edits.
    Modify,
    /// The daemon runs tests, lint and type checks.
    Validate,
    /// The model finds out why validation failed.
    Debug,
    /// The daemon proves, commits and opens the pull request.
    Pr,
    /// The forge's checks run.
    Ci,
    /// The model finds out why CI failed.
    Iterate,
    /// Done and proved.
    Complete,
    /// Given up, with a reason.
    Failed,
}

impl Stage {
    /// Every stage, in the order of the happy path, loops beside their cause.
    pub const ALL: [Self; 11] = [
        Self::Understand,
        Self::Plan,
        Self::Locate,
        Self::Modify,
        Self::Validate,
        Self::Debug,
        Self::Pr,
        Self::Ci,
        Self::Iterate,
        Self::Complete,
        Self::Failed,
    ];

    /// Its name in capitals: "UNDERSTAND".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Understand => "UNDERSTAND",
            Self::Plan => "PLAN",
            Self::Locate => "LOCATE",
            Self::Modify => "MODIFY",
            Self::Validate => "VALIDATE",
            Self::Debug => "DEBUG",
            Self::Pr => "PR",
            Self::Ci => "CI",
            Self::Iterate => "ITERATE",
            Self::Complete => "COMPLETE",
            Self::Failed => "FAILED",
        }
    }

    /// The stage with this name, whatever its case; `None` for any other word.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|stage| stage.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
