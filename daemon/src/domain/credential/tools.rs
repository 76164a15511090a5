//! Which commands of a workspace a credential is given to.

use serde::{Deserialize, Serialize};

/// Who starts a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CommandTool {
    /// A person: `workspace exec` and `workspace shell`.
    Exec,
    /// A session's model, by the tool of this name.
    RunCommand,
    /// The setup file of a repository.
    Setup,
    /// Checks of todos, proofs and CI.
    Check,
}

impl CommandTool {
    /// Every one.
    pub const ALL: [Self; 4] = [Self::Exec, Self::RunCommand, Self::Setup, Self::Check];

    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Exec => "exec",
            Self::RunCommand => "run_command",
            Self::Setup => "setup",
            Self::Check => "check",
        }
    }

    /// The one of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }
}

/// Tools in their order, each once, at least one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllowedTools(Vec<CommandTool>);

impl Default for AllowedTools {
    /// Those that somebody asked for: a person or a model.
    fn default() -> Self {
        Self(vec![CommandTool::Exec, CommandTool::RunCommand])
    }
}

impl AllowedTools {
    /// These; the default when there are none.
    #[must_use]
    pub fn of(mut tools: Vec<CommandTool>) -> Self {
        tools.sort_unstable();
        tools.dedup();
        match tools.is_empty() {
            true => Self::default(),
            false => Self(tools),
        }
    }

    /// Whether a command is among them; the daemon's own, of no tool, never is.
    #[must_use]
    pub fn allow(&self, tool: Option<CommandTool>) -> bool {
        tool.is_some_and(|tool| self.0.contains(&tool))
    }

    /// Their names.
    #[must_use]
    pub fn names(&self) -> Vec<String> {
        self.0.iter().map(|tool| tool.name().to_owned()).collect()
    }

    /// Whether it is what a credential has that says nothing of tools.
    #[must_use]
    pub fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
