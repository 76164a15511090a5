//! Takes secrets out of what is recorded: the keys in use, and whatever has
//! the shape of a key.

use std::sync::LazyLock;

use regex::Regex;
use serde_json::{Map, Value};

use crate::domain::secret::Secret;

/// What stands where a secret was.
const REMOVED: &str = "[secret removed]";

/// Shapes of keys, and of the places where secrets are given.
static SHAPES: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?x)
        -----BEGIN\ [A-Z\ ]*PRIVATE\ KEY-----[\s\S]*?(?:-----END\ [A-Z\ ]*PRIVATE\ KEY-----|\z)
        | \b(?:sk|pk|rk)-[A-Za-z0-9_-]{16,}              # OpenAI, Anthropic, OpenRouter
        | \b(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,}     # Stripe
        | \b(?:gsk_|xai-|hf_|npm_|pypi-)[A-Za-z0-9_-]{16,}
        | \bgh[pousr]_[A-Za-z0-9]{20,} | \bgithub_pat_[A-Za-z0-9_]{20,}
        | \bglpat-[A-Za-z0-9_-]{16,}
        | \b(?:AKIA|ASIA)[A-Z0-9]{16}\b                  # AWS
        | \bAIza[A-Za-z0-9_-]{30,}                       # Google
        | \bxox[abprs]-[A-Za-z0-9-]{10,}                 # Slack
        | \beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}   # JWT
        | (?i:\bbearer\s+)[A-Za-z0-9._~+/-]{16,}=*
        ",
    )
    .expect("the pattern is constant and tested")
});

/// `scheme://user:password@host`.
static USER_INFO: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"([a-z][a-z0-9+.-]*://[^/\s:@]*:)[^/\s@]+@")
        .expect("the pattern is constant and tested")
});

/// Replaces secrets by a mark.
#[derive(Debug)]
pub(super) struct Redactor {
    keys: Vec<Secret>,
}

impl Redactor {
    pub(super) fn new(mut keys: Vec<Secret>) -> Self {
        keys.retain(|key| !key.is_empty());
        Self { keys }
    }

    pub(super) fn text(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for key in &self.keys {
            text = text.replace(key.expose(), REMOVED);
        }
        let text = SHAPES.replace_all(&text, REMOVED);
        USER_INFO
            .replace_all(&text, format!("${{1}}{REMOVED}@"))
            .into_owned()
    }

    /// The same for every text and key of an object, before it becomes JSON:
    /// an escape could hide a secret afterwards.
    pub(super) fn object(&self, object: Map<String, Value>) -> Map<String, Value> {
        object
            .into_iter()
            .map(|(key, value)| (self.text(&key), self.value(value)))
            .collect()
    }

    fn value(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text)),
            Value::Array(items) => items.into_iter().map(|item| self.value(item)).collect(),
            Value::Object(object) => Value::Object(self.object(object)),
            Value::Null | Value::Bool(_) | Value::Number(_) => value,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_in_use_and_shapes_of_keys_are_removed() {
        let redactor = Redactor::new(vec![Secret::new("my-own-key"), Secret::new("")]);
        let tail = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9";
        let shapes = [
            "my-own-key".to_owned(),
            format!("sk-ant-api03-{tail}"),
            format!("sk-proj-{tail}"),
            format!("gsk_{tail}"),
            format!("ghp_{tail}"),
            format!("github_pat_{tail}"),
            "AKIAIOSFODNN7EXAMPLE".to_owned(),
            format!("AIza{tail}"),
            "xoxb-123456789012-abcdef".to_owned(),
            format!("eyJhbGciOiJI.{tail}.{tail}"),
            format!("Bearer {tail}"),
            format!("-----BEGIN RSA PRIVATE KEY-----\n{tail}\n-----END RSA PRIVATE KEY-----"),
        ];
        for secret in shapes {
            let cleaned = redactor.text(&format!("export A='{secret}' # and more"));
            assert_eq!(
                cleaned,
                format!("export A='{REMOVED}' # and more"),
                "{secret}"
            );
        }
        assert_eq!(
            redactor.text("git clone https://me:hunter2@host/x"),
            format!("git clone https://me:{REMOVED}@host/x")
        );
    }

    #[test]
    fn ordinary_text_stays() {
        let redactor = Redactor::new(Vec::new());
        for text in [
            "task-list of the risk-based approach",
            "https://host:8080/path?a=b@c",
            "the bearer of this",
            "commit 3f786850e387550fdab836ed7e6dc881de23001b",
            "sk-learn, hf_hub",
        ] {
            assert_eq!(redactor.text(text), text);
        }
    }

    #[test]
    fn every_depth_of_an_object_is_cleaned() {
        let redactor = Redactor::new(vec![Secret::new("k\"ey")]);
        let object = serde_json::json!({"a": [{"k\"ey": "x k\"ey y"}], "n": 1});
        let Value::Object(object) = object else {
            unreachable!()
        };
        let cleaned = serde_json::to_string(&redactor.object(object)).unwrap();
        assert_eq!(
            cleaned,
            format!("{{\"a\":[{{\"{REMOVED}\":\"x {REMOVED} y\"}}],\"n\":1}}")
        );
    }
}
