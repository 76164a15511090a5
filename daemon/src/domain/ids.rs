//! Names and ids, each its own type: parsed once at the edge, trusted after.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// A text that is not the id or name it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` is not {what}: {rule}", shorten(.text))]
pub struct IdError {
    /// What it should have been: "a workspace name".
    pub what: &'static str,
    /// The text, as given.
    pub text: String,
    /// What it must look like.
    pub rule: &'static str,
}

/// The start of a text, fit for an error message.
fn shorten(text: &str) -> String {
    const SHOWN: usize = 64;
    if text.chars().count() <= SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN).collect();
    format!("{start}…")
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $valid:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let valid: fn(&str) -> bool = $valid;
                if valid(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError { what: $what, text: text.to_owned(), rule: $rule })
                }
            }
        }

        impl TryFrom<String> for $name {
            type Error = IdError;

            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> Self {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

macro_rules! generated_id {
    ($(#[$doc:meta])* $name:ident, $what:literal, $prefix:literal, $rule:literal) => {
        text_id!($(#[$doc])* $name, $what, $rule, |text| {
            text.strip_prefix($prefix).is_some_and(|rest| {
                rest.len() == 32 && rest.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
            })
        });

        impl $name {
            /// An id made from a UUID; version 7 sorts by time.
            #[must_use]
            pub fn from_uuid(uuid: uuid::Uuid) -> Self {
                Self(format!("{}{}", $prefix, uuid.simple()))
            }
        }
    };
}

/// Characters that ids chosen by others may have.
fn is_token(text: &str, longest: usize) -> bool {
    !text.is_empty()
        && text.len() <= longest
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

generated_id!(
    /// Id of a workspace.
    WorkspaceId, "a workspace id", "ws-", "ids are `ws-` and 32 hex digits"
);
generated_id!(
    /// Id of a session.
    SessionId, "a session id", "se-", "ids are `se-` and 32 hex digits"
);
generated_id!(
    /// Id of an artifact.
    ArtifactId, "an artifact id", "ar-", "ids are `ar-` and 32 hex digits"
);
generated_id!(
    /// Id of a snapshot.
    SnapshotId, "a snapshot id", "sn-", "ids are `sn-` and 32 hex digits"
);
generated_id!(
    /// Id of an operation in the journal.
    OperationId, "an operation id", "op-", "ids are `op-` and 32 hex digits"
);
text_id!(
    /// What a person calls a snapshot; need not be unique.
    SnapshotLabel,
    "a snapshot label",
    "labels are 1 to 200 bytes without control characters and without spaces at the ends",
    |text| {
        (1..=200).contains(&text.len())
            && text.trim() == text
            && !text.contains(char::is_control)
    }
);
text_id!(
    /// Unique name of a workspace.
    WorkspaceName,
    "a workspace name",
    "names are 1 to 63 characters of a-z, 0-9, `.`, `_`, `-` and start with a letter or digit",
    |text| {
        is_token(text, 63)
            && !text.bytes().any(|b| b.is_ascii_uppercase())
            && text.starts_with(|c: char| c.is_ascii_alphanumeric())
    }
);
text_id!(
    /// What a person calls a token; unique.
    TokenName,
    "a token name",
    "names are 1 to 63 characters of a-z, 0-9, `.`, `_`, `-` and start with a letter or digit",
    |text| text.parse::<WorkspaceName>().is_ok()
);
text_id!(
    /// Directory of a repository below `/workspace`.
    RepositoryName,
    "a repository name",
    "names are 1 to 100 characters of letters, digits, `.`, `_`, `-` and start with a letter or digit",
    |text| is_token(text, 100) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
);
text_id!(
    /// What a person calls a credential; unique within its scope. Also the name of
    /// its file in a workspace, and what stands in its place in redacted output.
    CredentialName,
    "a credential name",
    "names are 1 to 64 characters of letters, digits, `.`, `_`, `-` and start with a letter or digit",
    |text| is_token(text, 64) && text.starts_with(|c: char| c.is_ascii_alphanumeric())
);
text_id!(
    /// Id of a request, made by the client.
    RequestId,
    "a request id",
    "request ids are 1 to 128 characters of letters, digits, `.`, `_`, `-`",
    |text| is_token(text, 128)
);
text_id!(
    /// Id of a command in a workspace.
    ExecId,
    "an exec id",
    "exec ids are 1 to 128 characters of letters, digits, `.`, `_`, `-`",
    |text| is_token(text, 128)
);
text_id!(
    /// Id of a step of a session, unique over all sessions; also the id of the
    /// command or file change that it causes in the workspace.
    StepId,
    "a step id",
    "step ids are 1 to 128 characters of letters, digits, `.`, `_`, `-`",
    |text| is_token(text, 128)
);

impl StepId {
    /// The step that an event with this sequence number begins. Deterministic,
    /// so that a restart asks about the same step.
    #[must_use]
    pub fn of(session: &SessionId, sequence: u64) -> Self {
        Self(format!("{session}.{sequence}"))
    }
}

impl From<StepId> for ExecId {
    fn from(step: StepId) -> Self {
        Self(step.0)
    }
}

impl From<RequestId> for ExecId {
    fn from(request: RequestId) -> Self {
        Self(request.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workspace_names_are_validated_once() {
        for good in ["a", "api", "my-app.2", "0x", &"a".repeat(63)] {
            assert!(good.parse::<WorkspaceName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "../x",
            "-a",
            ".a",
            "Api",
            "a b",
            "ä",
            &"a".repeat(64),
            &"a".repeat(300),
        ] {
            let error = bad.parse::<WorkspaceName>().unwrap_err();
            assert!(error.to_string().contains("1 to 63 characters"), "{error}");
            assert!(error.to_string().len() < 300);
        }
    }

    #[test]
    fn snapshot_labels_are_one_line_of_text() {
        for good in [
            "a",
            "before the upgrade",
            "vor dem Übergang",
            &"a".repeat(200),
        ] {
            assert!(good.parse::<SnapshotLabel>().is_ok(), "{good}");
        }
        for bad in ["", " a", "a ", "a\nb", "a\u{1b}[0m", &"a".repeat(201)] {
            assert!(bad.parse::<SnapshotLabel>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn generated_ids_parse_back() {
        let id = SessionId::from_uuid(uuid::Uuid::from_u128(7));
        assert_eq!(id.as_str().parse::<SessionId>(), Ok(id.clone()));
        assert!(id.as_str().parse::<WorkspaceId>().is_err());
        assert_eq!(StepId::of(&id, 12).as_str(), format!("{id}.12"));
    }
}
