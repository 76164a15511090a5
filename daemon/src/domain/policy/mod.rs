//! What a session may do alone, what a person is asked about, and what is
//! refused.
//!
//! ```text
//!  tool call ──classify──> acts, each with findings (kind of risk, subject)
//!                            │
//!            rules of the policy file, in order; the first that matches an act decides it
//!                            │ none
//!            level of the session (a ceiling), then its autonomy and the act's tier
//!                            │
//!                   the strictest decision of all acts is the call's
//! ```
//!
//! Everything here is pure. A shell command is parsed and followed, never
//! searched ([`shell`]); what cannot be followed is of high risk.

pub mod classify;
pub mod decision;
mod file;
pub mod risk;
mod rules;
pub mod shell;
mod unjudged;

#[cfg(test)]
mod tests;

pub use self::{
    classify::{Act, FileChangeKind, FileUse, Finding, Subject},
    decision::{By, Decision, Ruling, Session, Verdict, is_asked_each_time},
    file::PolicyError,
    risk::{Autonomy, Level, RiskKind, Tier},
    rules::{AskAbove, AskOnProof, Policy},
    unjudged::Unjudged,
};
