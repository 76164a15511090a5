//! Levels, tiers, autonomy, and the kinds of risk there are.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::domain::tools::Tool;

/// What an act may do, from least to most. A session's level is a ceiling.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// Looks, and changes nothing.
    Read,
    /// Changes the workspace.
    Write,
    /// Acts on what lies beyond the workspace, or on what it runs as.
    #[default]
    Admin,
}

impl Level {
    /// Every level, lowest first.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl FromStr for Level {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|level| level.name() == name);
        found.ok_or_else(|| format!("`{name}` is no level; there are read, write, admin"))
    }
}

/// The least level at which a tool can be used at all. What a command needs is
/// seen in the command.
#[must_use]
pub fn level_of(tool: Tool) -> Level {
    match tool {
        Tool::Think
        | Tool::ReadFile
        | Tool::ListDirectory
        | Tool::Glob
        | Tool::Grep
        | Tool::RunCommand
        | Tool::TodoAdd
        | Tool::TodoStart
        | Tool::TodoClaim
        | Tool::Advance
        | Tool::AskPerson
        | Tool::ReportEnvironmentIssue => Level::Read,
        Tool::WriteFile | Tool::EditFile => Level::Write,
    }
}

/// How far a session goes without a person.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(try_from = "u8", into = "u8")]
pub enum Autonomy {
    /// 0: a person approves every act on the workspace, reading included.
    Manual,
    /// 1: it looks alone, and proposes what changes anything.
    Propose,
    /// 2: it does alone what is of low risk.
    LowRisk,
    /// 3: it does everything alone but what is of high risk.
    #[default]
    Gated,
}

impl Autonomy {
    /// Whether an act of this level and tier is done without asking.
    #[must_use]
    pub fn goes_on(self, level: Level, tier: Tier) -> bool {
        match self {
            Self::Manual => false,
            Self::Propose => level == Level::Read && tier == Tier::Low,
            Self::LowRisk => tier == Tier::Low,
            Self::Gated => tier <= Tier::Medium,
        }
    }
}

impl TryFrom<u8> for Autonomy {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        match number {
            0 => Ok(Self::Manual),
            1 => Ok(Self::Propose),
            2 => Ok(Self::LowRisk),
            3 => Ok(Self::Gated),
            other => Err(format!("autonomy is 0, 1, 2 or 3, not {other}")),
        }
    }
}

impl From<Autonomy> for u8 {
    fn from(autonomy: Autonomy) -> Self {
        match autonomy {
            Autonomy::Manual => 0,
            Autonomy::Propose => 1,
            Autonomy::LowRisk => 2,
            Autonomy::Gated => 3,
        }
    }
}

/// How much can go wrong.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// It goes on alone where the checks pass.
    #[default]
    Low,
    /// A person sees it before it is merged.
    Medium,
    /// A person sees it before it is done.
    High,
}

impl Tier {
    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
        }
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident $name:literal $tier:ident $level:ident $words:literal;)*) => {
        /// A kind of risk.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "kebab-case")]
        pub enum RiskKind {
            $($(#[$doc])* $kind,)*
        }

        impl RiskKind {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$kind,)*];

            /// Its name in a policy file.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$kind => $name,)* }
            }

            /// Its tier.
            #[must_use]
            pub fn tier(self) -> Tier {
                match self { $(Self::$kind => Tier::$tier,)* }
            }

            /// The level that it needs.
            #[must_use]
            pub fn level(self) -> Level {
                match self { $(Self::$kind => Level::$level,)* }
            }

            /// What it is, for people.
            #[must_use]
            pub fn words(self) -> &'static str {
                match self { $(Self::$kind => $words,)* }
            }
        }
    };
}

kinds! {
    /// What it does cannot be known before it runs.
    NotUnderstood "not-understood" High Write "it cannot be known before it runs what it does";
    /// Something outside the repository is deleted.
    DeleteOutside "delete-outside" High Write "it deletes outside the repository";
    /// The repository or its history is deleted.
    DeleteRepository "delete-repository" High Write "it deletes the repository or its history";
    /// The system, or a user's settings that programs run from, are changed.
    WriteSystem "write-system" High Write "it changes the system or the user's settings";
    /// What git keeps for itself is changed.
    GitInternals "git-internals" High Write "it changes what git itself runs or keeps";
    /// A branch of a remote is rewritten or deleted.
    ForcePush "force-push" High Admin "it rewrites or deletes what is on a remote";
    /// Commits leave the workspace.
    Push "push" High Admin "it sends commits out of the workspace";
    /// Something is merged that others build on.
    Merge "merge" High Admin "it merges what others build on";
    /// Something is deployed or published.
    Deploy "deploy" High Admin "it deploys or publishes";
    /// A file that changes databases is changed.
    MigrationFile "migration-file" High Write "it changes a schema or a migration";
    /// A database is changed.
    Database "database" High Write "it changes a database";
    /// What the checks run is changed.
    CiFile "ci-file" High Write "it changes what CI runs";
    /// What the project depends on is changed.
    DependencyFile "dependency-file" High Write "it changes what the project depends on";
    /// Credentials are read, changed or handed on.
    Credentials "credentials" High Admin "it touches credentials";
    /// More is reached, or lets itself be reached, than the workspace's rules say.
    Egress "egress" High Admin "it opens another way out of the workspace, or into it";
    /// Something that has a price is ordered.
    Spending "spending" High Admin "it can cost money";
    /// The machine, or everything that runs on it, is stopped.
    Machine "machine" High Admin "it stops or changes the machine itself";
    /// Something runs later, when nobody looks.
    Schedule "schedule" High Admin "it makes something run later";
    /// Work that was not committed is thrown away.
    Discard "discard" Medium Write "it throws away what was not committed";
    /// The history of the branch is rewritten.
    HistoryRewrite "history-rewrite" Medium Write "it rewrites the branch's history";
    /// Software is installed that is no part of the project.
    Install "install" Medium Write "it installs software in the workspace";
    /// Something outside the repository is written.
    WriteOutside "write-outside" Medium Write "it writes outside the repository";
    /// Something is sent to another machine.
    SendOut "send-out" Medium Write "it sends something to another machine";
    /// Processes are ended that it did not name one by one.
    EndProcesses "end-processes" Medium Write "it ends processes by name";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_the_file_and_no_two_are_equal() {
        let names: std::collections::BTreeSet<&str> =
            RiskKind::ALL.iter().map(|kind| kind.name()).collect();
        assert_eq!(names.len(), RiskKind::ALL.len());
        for kind in RiskKind::ALL {
            let written = serde_json::to_value(kind).unwrap();
            assert_eq!(written, kind.name());
        }
    }

    #[test]
    fn autonomy_lets_through_what_it_says() {
        use {Autonomy::*, Level::*, Tier::*};
        let table = [
            (Manual, Read, Low, false),
            (Propose, Read, Low, true),
            (Propose, Write, Low, false),
            (LowRisk, Write, Low, true),
            (LowRisk, Write, Medium, false),
            (Gated, Write, Medium, true),
            (Gated, Write, High, false),
            (Gated, Read, High, false),
        ];
        for (autonomy, level, tier, goes_on) in table {
            assert_eq!(
                autonomy.goes_on(level, tier),
                goes_on,
                "{autonomy:?} {level:?} {tier:?}"
            );
        }
        assert!(Autonomy::try_from(4).is_err());
    }
}
