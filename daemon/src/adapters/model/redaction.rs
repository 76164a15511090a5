//! Takes secrets out of what is recorded: the keys in use in every form that
//! they are written in, and whatever has the shape of a key.

use std::{
    fmt,
    sync::{Arc, LazyLock},
};

use regex::Regex;
use serde_json::{Map, Value};

use crate::domain::{redaction, secret::Secret};

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

/// Takes the values of stored credentials out of a text, as they are at the time.
#[derive(Clone)]
pub struct StoredCredentials(Arc<dyn Fn(&str) -> String + Send + Sync>);

impl StoredCredentials {
    /// What `redacted` takes out.
    pub fn new(redacted: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        Self(Arc::new(redacted))
    }
}

impl Default for StoredCredentials {
    /// There are none.
    fn default() -> Self {
        Self::new(str::to_owned)
    }
}

impl fmt::Debug for StoredCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StoredCredentials(***)")
    }
}

/// Replaces secrets by a mark.
pub(super) struct Redactor {
    keys: redaction::Redactor,
    stored: StoredCredentials,
}

impl Redactor {
    pub(super) fn new(keys: &[Secret], stored: StoredCredentials) -> Self {
        let keys = keys.iter().filter(|key| !key.is_empty());
        let named = keys.map(|key| ("model-key", key.expose().as_bytes()));
        Self {
            keys: redaction::Redactor::new(named),
            stored,
        }
    }

    pub(super) fn text(&self, text: &str) -> String {
        let text = self.stored.0(text);
        let text = self.keys.text(&text);
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
        let redactor = Redactor::new(
            &[Secret::new("my-own-key"), Secret::new("")],
            StoredCredentials::default(),
        );
        let tail = "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8s9";
        // The last character of base64 holds a few bits of the key.
        for (key, left) in [
            ("my-own-key", ""),
            ("bXktb3duLWtleQ==", "Q=="),
            ("6d792d6f776e2d6b6579", ""),
        ] {
            let cleaned = redactor.text(&format!("export A='{key}'"));
            assert_eq!(cleaned, format!("export A='[redacted:model-key]{left}'"));
        }
        let shapes = [
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
        let redactor = Redactor::new(&[], StoredCredentials::default());
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
        let redactor = Redactor::new(&[Secret::new("k\"ey-in-use")], StoredCredentials::default());
        let object = serde_json::json!({"a": [{"k\"ey-in-use": "x k\"ey-in-use y"}], "n": 1});
        let Value::Object(object) = object else {
            unreachable!()
        };
        let cleaned = serde_json::to_string(&redactor.object(object)).unwrap();
        assert_eq!(
            cleaned,
            r#"{"a":[{"[redacted:model-key]":"x [redacted:model-key] y"}],"n":1}"#
        );
    }
}
