//! The policy file: TOML, read strictly.

use serde::{Deserialize, Deserializer, de::Error as _};
use toml::Spanned;

use super::{decision::Decision, risk::RiskKind};
use crate::domain::{budget::Money, proof::Risk, tools::Tool};

/// Rules that a file can have.
pub(super) const RULES_MAX: usize = 2_000;
/// How long an approval is waited for when the file does not say, in seconds.
pub(super) const APPROVAL_TIMEOUT_S: u64 = 60 * 60;

/// Why a policy cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It is no policy file.
    #[error("{origin} is no policy: {why}")]
    Malformed {
        /// Where it comes from.
        origin: String,
        /// What is wrong, with the line.
        why: String,
    },
    /// A rule is wrong.
    #[error("{origin}, line {line}: rule `{rule}`: {why}")]
    Rule {
        /// Where it comes from.
        origin: String,
        /// Line of the rule, from 1.
        line: usize,
        /// Its name.
        rule: String,
        /// What is wrong, and what to do.
        why: String,
    },
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PolicyFile {
    /// Whether the rules that come with the daemon follow those of the file.
    #[serde(default = "yes")]
    pub(super) defaults: bool,
    /// How long an approval is waited for.
    pub(super) approval_timeout_s: Option<u64>,
    /// Branches that nothing is merged to without a person; `*` at the end
    /// stands for anything.
    pub(super) protected_branches: Option<Vec<String>>,
    /// Tokens of one session beyond which a person is asked, and again for as
    /// many more.
    pub(super) ask_above_tokens: Option<u64>,
    /// The same of money, as a text: "2.50".
    #[serde(default, deserialize_with = "money")]
    pub(super) ask_above_money: Option<Money>,
    /// From which risk on a person is asked about changed tests.
    pub(super) ask_on_test_changes: Option<AskOnTestChanges>,
    /// Whether a person is asked about tests that failed before and fail still.
    pub(super) ask_on_known_failures: Option<bool>,
    #[serde(default)]
    pub(super) rule: Vec<Spanned<RuleText>>,
}

fn yes() -> bool {
    true
}

/// From which risk on a person is asked about changed tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum AskOnTestChanges {
    Low,
    Medium,
    High,
    Never,
}

impl AskOnTestChanges {
    pub(super) fn from(self) -> Option<Risk> {
        match self {
            Self::Low => Some(Risk::Low),
            Self::Medium => Some(Risk::Medium),
            Self::High => Some(Risk::High),
            Self::Never => None,
        }
    }
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RuleText {
    pub(super) name: String,
    pub(super) decision: Decision,
    #[serde(default)]
    pub(super) reason: String,
    pub(super) tools: Option<Vec<Tool>>,
    pub(super) argv: Option<Vec<String>>,
    pub(super) paths: Option<Vec<String>>,
    pub(super) hosts: Option<Vec<String>>,
    pub(super) branches: Option<Vec<String>>,
    pub(super) risks: Option<Vec<RiskKind>>,
    #[serde(default)]
    pub(super) matches: Vec<Example>,
    #[serde(default)]
    pub(super) misses: Vec<Example>,
}

/// A tool call that a rule must, or must not, match.
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub(super) enum Example {
    /// A command line, run in the repository.
    Command(String),
    /// A call of a file tool.
    File(FileExample),
}

#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileExample {
    pub(super) tool: Tool,
    pub(super) path: String,
}

impl Example {
    /// For people.
    pub(super) fn shown(&self) -> String {
        match self {
            Self::Command(line) => line.clone(),
            Self::File(file) => format!("{} {}", file.tool.name(), file.path),
        }
    }
}

impl PolicyFile {
    /// Reads a file's text.
    pub(super) fn parse(text: &str, origin: &str) -> Result<Self, PolicyError> {
        let malformed = |why: String| PolicyError::Malformed {
            origin: origin.to_owned(),
            why,
        };
        let file: Self = toml::from_str(text)
            .map_err(|error| malformed(error.to_string().trim_end().to_owned()))?;
        if file.rule.len() > RULES_MAX {
            return Err(malformed(format!(
                "it has {} rules, and at most {RULES_MAX} are read",
                file.rule.len()
            )));
        }
        if file.approval_timeout_s == Some(0) {
            return Err(malformed(
                "`approval_timeout_s` is 0: an approval is waited for at least a second".into(),
            ));
        }
        if file.ask_above_tokens == Some(0) || file.ask_above_money == Some(Money(0)) {
            return Err(malformed(
                "`ask_above_tokens` and `ask_above_money` are at least 1 token and more than no money: a session that may spend nothing has a budget of nothing".into(),
            ));
        }
        let protected = file.protected_branches.iter().flatten();
        for branch in protected {
            if branch.is_empty() || branch.trim_end_matches('*').contains('*') {
                return Err(malformed(format!(
                    "`protected_branches` has `{branch}`: a branch, or the start of one with `*` at its end, is wanted"
                )));
            }
        }
        Ok(file)
    }
}

/// An amount of money, which is written as a text.
fn money<'de, D: Deserializer<'de>>(from: D) -> Result<Option<Money>, D::Error> {
    let text = String::deserialize(from)?;
    text.parse().map(Some).map_err(D::Error::custom)
}

/// Line of an offset into a text, from 1.
pub(super) fn line_at(text: &str, offset: usize) -> usize {
    text.get(..offset)
        .map_or(1, |before| before.matches('\n').count() + 1)
}
