//! Levels, decisions and tiers on the wire.

use compyd_proto::v1 as wire;

use crate::domain::policy::{Autonomy, By, Decision, Level, Ruling, Tier};

/// The level that was asked for.
#[must_use]
pub fn level_of(level: wire::Level) -> Level {
    match level {
        wire::Level::Read => Level::Read,
        wire::Level::Write => Level::Write,
        wire::Level::Unspecified | wire::Level::Admin => Level::Admin,
    }
}

/// A level.
#[must_use]
pub fn level(level: Level) -> wire::Level {
    match level {
        Level::Read => wire::Level::Read,
        Level::Write => wire::Level::Write,
        Level::Admin => wire::Level::Admin,
    }
}

/// The autonomy that was asked for.
///
/// # Errors
/// There is none with that number.
pub fn autonomy_of(asked: Option<u32>) -> Result<Autonomy, String> {
    match asked {
        None => Ok(Autonomy::default()),
        Some(number) => Autonomy::try_from(u8::try_from(number).unwrap_or(u8::MAX)),
    }
}

/// A decision.
#[must_use]
pub fn decision(decision: Decision) -> wire::PolicyDecision {
    match decision {
        Decision::Allow => wire::PolicyDecision::Allow,
        Decision::Ask => wire::PolicyDecision::Ask,
        Decision::Deny => wire::PolicyDecision::Deny,
    }
}

/// A tier.
#[must_use]
pub fn tier(tier: Tier) -> wire::RiskTier {
    match tier {
        Tier::Low => wire::RiskTier::Low,
        Tier::Medium => wire::RiskTier::Medium,
        Tier::High => wire::RiskTier::High,
    }
}

/// The decision about an act.
#[must_use]
pub fn ruling(ruling: &Ruling) -> wire::PolicyRuling {
    wire::PolicyRuling {
        act: ruling.act.shown(),
        decision: decision(ruling.decision).into(),
        tier: tier(ruling.act.tier()).into(),
        level: level(ruling.act.level).into(),
        rule: match &ruling.by {
            By::Rule { name, .. } => name.clone(),
            By::Level { .. } | By::Autonomy(_) | By::Protected => String::new(),
        },
        why: ruling.why(),
    }
}
