//! The decision about a tool call, and why it is that.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{
    classify::{Act, Finding, Subject, acts_after},
    risk::{Autonomy, Level, RiskKind, Tier},
    rules::{BUILT_IN_ORIGIN, Policy, Rule},
    unjudged::Unjudged,
};
use crate::domain::tools::Tool;

/// What may be done, from least to most strict.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It is done.
    Allow,
    /// A person is asked first.
    Ask,
    /// It is refused.
    Deny,
}

impl Decision {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Allow => "allow",
            Self::Ask => "ask",
            Self::Deny => "deny",
        }
    }
}

/// What of a session a decision depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Session<'a> {
    /// The most that it may do.
    pub level: Level,
    /// How far it goes alone.
    pub autonomy: Autonomy,
    /// Its repository, absolute.
    pub repository: &'a str,
    /// The files that it has written and that were not judged as scripts.
    pub unjudged: &'a Unjudged,
}

/// What decided about an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum By {
    /// A rule.
    Rule {
        /// Its name.
        name: String,
        /// The file it stands in.
        origin: String,
        /// Its line there.
        line: usize,
        /// Why, in the rule's words; may be empty.
        reason: String,
    },
    /// The session's level.
    Level {
        /// What the act needs.
        needs: Level,
        /// What the session has.
        has: Level,
    },
    /// The session's autonomy, and the act's tier.
    Autonomy(Autonomy),
    /// Nothing is merged to a protected branch without a person, whatever the
    /// rules say.
    Protected,
}

/// The decision about an act.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ruling {
    /// The act.
    pub act: Act,
    /// The decision.
    pub decision: Decision,
    /// What decided.
    pub by: By,
}

/// The decision about a tool call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// The strictest of all acts.
    pub decision: Decision,
    /// The highest tier of those acts that were decided so.
    pub tier: Tier,
    /// Of what is asked, what makes it the same as another call: each kind of risk
    /// with what it concerns, sorted. Empty where nothing is asked.
    pub classes: Vec<String>,
    /// The decision about each act, in order; never empty.
    pub rulings: Vec<Ruling>,
}

impl Policy {
    /// Decides about a tool call.
    #[must_use]
    pub fn decide(&self, tool: Tool, subject: &Subject, session: Session<'_>) -> Verdict {
        let protected = self.protected_branches();
        let acts = acts_after(
            session.unjudged,
            tool,
            subject,
            session.repository,
            protected,
        );
        let free = *subject == Subject::Nothing;
        let rulings: Vec<Ruling> = acts
            .into_iter()
            .map(|act| {
                let (decision, by) = self.rule_on(&act, session, free);
                Ruling { act, decision, by }
            })
            .collect();
        let decision = rulings.iter().map(|ruling| ruling.decision).max();
        let decision = decision.unwrap_or(Decision::Allow);
        let decisive = || rulings.iter().filter(|ruling| ruling.decision == decision);
        let tier = decisive()
            .map(|ruling| ruling.act.tier())
            .max()
            .unwrap_or_default();
        let mut classes: Vec<String> = match decision {
            Decision::Ask => decisive()
                .flat_map(|ruling| classes_of(&ruling.act, subject))
                .collect(),
            Decision::Allow | Decision::Deny => Vec::new(),
        };
        classes.sort();
        classes.dedup();
        Verdict {
            decision,
            tier,
            classes,
            rulings,
        }
    }

    /// What the rules say to the daemon's own last act, the publication of a
    /// session's branch: a rule has to name it, as the command `compy publish`.
    /// Without one it is the workflow's to do.
    #[must_use]
    pub fn publication(&self, branch: &str) -> Verdict {
        let mut act = Act::command(Tool::RunCommand, ["compy", "publish"]);
        act.branches.push(branch.to_owned());
        let (decision, by) = match self.rule_naming(&act) {
            Some(rule) => (rule.decision, rule.by()),
            None => (Decision::Allow, By::Autonomy(Autonomy::Gated)),
        };
        let classes = match decision {
            Decision::Ask => vec![format!("publish: {branch}")],
            Decision::Allow | Decision::Deny => Vec::new(),
        };
        let tier = Tier::High;
        Verdict {
            decision,
            tier,
            classes,
            rulings: vec![Ruling { act, decision, by }],
        }
    }

    fn rule_on(&self, act: &Act, session: Session<'_>, free: bool) -> (Decision, By) {
        if act.level > session.level {
            let (needs, has) = (act.level, session.level);
            return (Decision::Deny, By::Level { needs, has });
        }
        if let Some(rule) = self.rule_of(act) {
            let merges = act
                .findings
                .iter()
                .any(|finding| finding.kind == RiskKind::Merge);
            if rule.decision == Decision::Allow && merges {
                return (Decision::Ask, By::Protected);
            }
            return (rule.decision, rule.by());
        }
        let alone = free || session.autonomy.goes_on(act.level, act.tier());
        let decision = if alone {
            Decision::Allow
        } else {
            Decision::Ask
        };
        (decision, By::Autonomy(session.autonomy))
    }
}

/// What makes an act the same as another one, to a person who has approved it.
fn classes_of(act: &Act, subject: &Subject) -> Vec<String> {
    // What is read by a command is as much of it as its words.
    let words = match subject {
        Subject::Line { line, .. } if act.is_fed => line.trim().to_owned(),
        Subject::Line { .. } | Subject::Argvs { .. } | Subject::Files { .. } | Subject::Nothing => {
            act.shown()
        }
    };
    let class = |finding: &Finding| {
        let concerns_a_place = match finding.kind {
            RiskKind::DeleteOutside
            | RiskKind::DeleteRepository
            | RiskKind::WriteSystem
            | RiskKind::GitInternals
            | RiskKind::ForcePush
            | RiskKind::Push
            | RiskKind::MigrationFile
            | RiskKind::CiFile
            | RiskKind::DependencyFile
            | RiskKind::WriteOutside => true,
            RiskKind::NotUnderstood
            | RiskKind::Merge
            | RiskKind::Deploy
            | RiskKind::Database
            | RiskKind::Credentials
            | RiskKind::Egress
            | RiskKind::Spending
            | RiskKind::Machine
            | RiskKind::Schedule
            | RiskKind::Discard
            | RiskKind::HistoryRewrite
            | RiskKind::Install
            | RiskKind::SendOut
            | RiskKind::EndProcesses => false,
        };
        match concerns_a_place {
            true => format!("{}: {}", finding.kind.name(), finding.subject),
            // Nothing less than the same words again is the same.
            false => format!("{}: {words}", finding.kind.name()),
        }
    };
    let top = act.tier();
    let mut classes: Vec<String> = act
        .findings
        .iter()
        .filter(|finding| finding.kind.tier() == top)
        .map(class)
        .collect();
    if classes.is_empty() {
        classes.push(match act.argv.first() {
            Some(program) => format!("command: {program}"),
            None => format!("tool: {}", act.tool.name()),
        });
    }
    classes
}

/// Whether an answer to what has this class holds for the one call alone: what is
/// merged next under the same words is something else.
#[must_use]
pub fn is_asked_each_time(class: &str) -> bool {
    let kind = class.split_once(": ").map(|(kind, _)| kind);
    kind == Some(RiskKind::Merge.name())
}

impl Rule {
    fn by(&self) -> By {
        By::Rule {
            name: self.name.clone(),
            origin: self.origin.clone(),
            line: self.line,
            reason: self.reason.clone(),
        }
    }
}

impl Ruling {
    /// Why it was decided so, in a line.
    #[must_use]
    pub fn why(&self) -> String {
        let risks = self.act.findings.iter();
        let risks: Vec<String> = risks
            .map(|finding| {
                format!(
                    "{} ({}, {})",
                    finding.kind.words(),
                    finding.kind.name(),
                    finding.subject
                )
            })
            .collect();
        let risks = match risks.as_slice() {
            [] => "nothing risky is seen in it".to_owned(),
            risks => risks.join("; "),
        };
        match &self.by {
            By::Rule {
                name,
                reason,
                origin,
                line,
            } if reason.is_empty() => {
                format!("rule `{name}` ({origin}, line {line}): {risks}")
            }
            By::Rule {
                name,
                reason,
                origin,
                line,
            } => {
                format!("rule `{name}` ({origin}, line {line}): {reason}")
            }
            By::Level { needs, has } => {
                format!("it needs the level {needs} and the session runs at {has}: {risks}")
            }
            By::Autonomy(autonomy) => format!(
                "no rule matches; {} risk at autonomy {}: {risks}",
                self.act.tier().name(),
                u8::from(*autonomy)
            ),
            By::Protected => format!(
                "nothing is merged to a protected branch without a person, whatever a rule says: {risks}"
            ),
        }
    }
}

impl By {
    /// Whether a rule that somebody wrote for this daemon decided.
    #[must_use]
    pub fn is_own_rule(&self) -> bool {
        matches!(self, Self::Rule { origin, .. } if origin != BUILT_IN_ORIGIN)
    }
}

impl Verdict {
    /// Why, in a line for each act that decided.
    #[must_use]
    pub fn why(&self) -> String {
        let decisive = self
            .rulings
            .iter()
            .filter(|ruling| ruling.decision == self.decision);
        let mut why = String::new();
        for ruling in decisive {
            let separator = if why.is_empty() { "" } else { "\n" };
            let _ = write!(why, "{separator}`{}`: {}", ruling.act.shown(), ruling.why());
        }
        why
    }
}
