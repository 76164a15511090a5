//! Names of models: `openai:NAME`, `anthropic:NAME`, `scripted:FILE`.

use std::{fmt, path::PathBuf, str::FromStr};

use serde::{Deserialize, Serialize};

/// Which model a session talks to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum ModelName {
    /// A server that speaks OpenAI's chat completions, by the model's name.
    OpenAi(String),
    /// Anthropic's messages API, by the model's name.
    Anthropic(String),
    /// A transcript that is played back: never intelligence.
    Scripted(PathBuf),
}

/// A text that names no model.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no model: use openai:NAME, anthropic:NAME or scripted:FILE")]
pub struct ModelNameError(String);

impl FromStr for ModelName {
    type Err = ModelNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once(':') {
            Some((_, "")) | None => Err(ModelNameError(text.to_owned())),
            Some(("openai", name)) => Ok(Self::OpenAi(name.to_owned())),
            Some(("anthropic", name)) => Ok(Self::Anthropic(name.to_owned())),
            Some(("scripted", file)) => Ok(Self::Scripted(PathBuf::from(file))),
            Some(_) => Err(ModelNameError(text.to_owned())),
        }
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OpenAi(name) => write!(f, "openai:{name}"),
            Self::Anthropic(name) => write!(f, "anthropic:{name}"),
            Self::Scripted(file) => write!(f, "scripted:{}", file.display()),
        }
    }
}

impl TryFrom<String> for ModelName {
    type Error = ModelNameError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<ModelName> for String {
    fn from(name: ModelName) -> Self {
        name.to_string()
    }
}

/// Which models a rule is for: a name, or the beginning of one with `*`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelPattern(String);

/// A text that is no pattern of models' names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` names no models: use PROVIDER:NAME, where NAME may end in *")]
pub struct NotAPattern(String);

impl ModelPattern {
    /// Whether the rule is for this model.
    #[must_use]
    pub fn matches(&self, model: &ModelName) -> bool {
        let name = model.to_string();
        match self.0.strip_suffix('*') {
            Some(beginning) => name.starts_with(beginning),
            None => name == self.0,
        }
    }
}

impl FromStr for ModelPattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let star_is_last = text.find('*').is_none_or(|at| at + 1 == text.len());
        if text.contains(':') && star_is_last {
            Ok(Self(text.to_owned()))
        } else {
            Err(NotAPattern(text.to_owned()))
        }
    }
}

impl fmt::Display for ModelPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_survive_a_round_trip() {
        for text in [
            "openai:llama3:8b",
            "anthropic:claude",
            "scripted:/a/b.jsonl",
        ] {
            assert_eq!(text.parse::<ModelName>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_names_no_model_is_refused_with_the_choices() {
        for text in ["", "gpt", "openai:", "gemini:x"] {
            let error = text.parse::<ModelName>().unwrap_err().to_string();
            assert!(error.contains("openai:NAME"), "{error}");
        }
    }
}
