//! `compyctl policy`: one file per verb.

mod check;
mod explain;

use clap::{Subcommand, ValueEnum};
use compyd_proto::v1::{Level, PolicyDecision, RiskTier};

use crate::command_line::Context;
use crate::exit::{Exit, Failure};

/// Verbs of `policy`.
#[derive(Debug, Subcommand)]
pub(crate) enum PolicyVerb {
    /// Says what is wrong with a policy file; 1 when something is
    Check(check::CheckArguments),
    /// Says what the policy in use decides about a command, and why; nothing runs
    Explain(explain::ExplainArguments),
}

impl PolicyVerb {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match self {
            PolicyVerb::Check(arguments) => arguments.run(context).await,
            PolicyVerb::Explain(arguments) => arguments.run(context).await,
        }
    }
}

/// The most that a session may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LevelName {
    /// It looks, and changes nothing.
    Read,
    /// It changes the workspace.
    Write,
    /// It acts beyond the workspace too, as far as the policy lets it.
    Admin,
}

impl LevelName {
    pub(crate) fn to_wire(self) -> Level {
        match self {
            LevelName::Read => Level::Read,
            LevelName::Write => Level::Write,
            LevelName::Admin => Level::Admin,
        }
    }
}

/// A level's name.
pub(crate) fn level_name(level: Level) -> &'static str {
    match level {
        Level::Read => "read",
        Level::Write => "write",
        Level::Unspecified | Level::Admin => "admin",
    }
}

/// A decision's name.
pub(crate) fn decision_name(decision: PolicyDecision) -> &'static str {
    match decision {
        PolicyDecision::Unspecified => "unknown",
        PolicyDecision::Allow => "allow",
        PolicyDecision::Ask => "ask",
        PolicyDecision::Deny => "deny",
    }
}

/// A tier's name.
pub(crate) fn tier_name(tier: RiskTier) -> &'static str {
    match tier {
        RiskTier::Unspecified => "unknown",
        RiskTier::Low => "low",
        RiskTier::Medium => "medium",
        RiskTier::High => "high",
    }
}
