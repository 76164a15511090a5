//! Keys and values as they are on disk. A change here is a new format.

use serde::{Serialize, de::DeserializeOwned};

use crate::ports::store::{RequestOutcome, RequestRecord};

/// A value that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a record cannot be read: {0}")]
pub(super) struct CodecError(String);

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    serde_json::to_vec(value).expect("records have string keys and no fallible serialisers")
}

pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    serde_json::from_slice(bytes).map_err(|error| CodecError(error.to_string()))
}

/// `at_ms`, the fingerprint's length, the fingerprint, the answer. Answers are
/// bytes, which JSON would blow up fourfold. The fingerprint of a request that
/// has no answer is followed by `+` and the id of what it makes, or by `-` when
/// it failed; in the answer's place is what it is about.
pub(super) fn encode_request(record: &RequestRecord) -> Vec<u8> {
    let (suffix, answer) = match &record.outcome {
        RequestOutcome::Begun { id, about } => (format!("+{}", id.simple()), about.as_bytes()),
        RequestOutcome::Failed => ("-".to_owned(), [].as_slice()),
        RequestOutcome::Answered(answer) => (String::new(), answer.as_slice()),
    };
    let fingerprint = format!("{}{suffix}", record.fingerprint);
    let length = u16::try_from(fingerprint.len()).expect("a hash in hex is short");
    let mut bytes = Vec::with_capacity(10 + fingerprint.len() + answer.len());
    bytes.extend_from_slice(&request_at(record.at_ms));
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(fingerprint.as_bytes());
    bytes.extend_from_slice(answer);
    bytes
}

pub(super) fn decode_request(bytes: &[u8]) -> Result<RequestRecord, CodecError> {
    let cut = || CodecError("a request is cut short".to_owned());
    let (at_ms, rest) = bytes.split_first_chunk().ok_or_else(cut)?;
    let (length, rest) = rest.split_first_chunk().ok_or_else(cut)?;
    let (fingerprint, answer) = rest
        .split_at_checked(usize::from(u16::from_be_bytes(*length)))
        .ok_or_else(cut)?;
    let fingerprint = String::from_utf8_lossy(fingerprint);
    let (fingerprint, outcome) = if let Some((fingerprint, id)) = fingerprint.split_once('+') {
        let id = uuid::Uuid::parse_str(id).map_err(|error| CodecError(error.to_string()))?;
        let about = String::from_utf8_lossy(answer).into_owned();
        (fingerprint, RequestOutcome::Begun { id, about })
    } else if let Some(fingerprint) = fingerprint.strip_suffix('-') {
        (fingerprint, RequestOutcome::Failed)
    } else {
        (&*fingerprint, RequestOutcome::Answered(answer.to_vec()))
    };
    Ok(RequestRecord {
        fingerprint: fingerprint.to_owned(),
        outcome,
        at_ms: i64::from_be_bytes(*at_ms),
    })
}

/// When a request was remembered, as its record begins.
pub(super) fn request_at(at_ms: i64) -> [u8; 8] {
    at_ms.to_be_bytes()
}

/// Keys: one letter for the kind, `/`, and what identifies the record.
pub(super) mod key {
    use crate::domain::{
        credential::{CredentialKey, CredentialScope},
        ids::{
            ArtifactId, OperationId, RequestId, SessionId, SnapshotId, TokenName, WorkspaceId,
            WorkspaceName,
        },
        setup::SetupKey,
        snapshot::copies::VolumeRef,
    };

    pub(in super::super) const FORMAT: &[u8] = b"format";
    /// There once the journal of the session logs was made.
    pub(in super::super) const JOURNAL: &[u8] = b"journal";
    pub(in super::super) const WORKSPACES: &[u8] = b"w/";
    pub(in super::super) const ARTIFACTS: &[u8] = b"a/";
    pub(in super::super) const REQUESTS: &[u8] = b"r/";
    pub(in super::super) const SNAPSHOTS: &[u8] = b"s/";
    pub(in super::super) const BAKED_SETUPS: &[u8] = b"b/";
    pub(in super::super) const OPERATIONS: &[u8] = b"o/";
    pub(in super::super) const WORKSPACE_EVENTS: &[u8] = b"e/";
    pub(in super::super) const TREE_COPIES: &[u8] = b"c/";
    pub(in super::super) const LAST_USES: &[u8] = b"u/";

    pub(in super::super) const CREDENTIALS: &[u8] = b"k/";

    /// A scope may name any project, so the name comes first: it has no `/`.
    pub(in super::super) fn credential(key: &CredentialKey) -> Vec<u8> {
        let name = &key.name;
        match &key.scope {
            CredentialScope::Global => format!("k/{name}/g"),
            CredentialScope::Project(url) => format!("k/{name}/p/{url}"),
            CredentialScope::Workspace(id) => format!("k/{name}/w/{id}"),
        }
        .into_bytes()
    }

    pub(in super::super) const PAST_CREDENTIALS: &[u8] = b"x/";

    pub(in super::super) fn past_credential(id: &str) -> Vec<u8> {
        format!("x/{id}").into_bytes()
    }

    pub(in super::super) const TOKENS: &[u8] = b"y/";

    pub(in super::super) fn token(name: &TokenName) -> Vec<u8> {
        format!("y/{name}").into_bytes()
    }

    pub(in super::super) fn workspace(id: &WorkspaceId) -> Vec<u8> {
        format!("w/{id}").into_bytes()
    }

    /// Holds the workspace's id.
    pub(in super::super) fn workspace_name(name: &WorkspaceName) -> Vec<u8> {
        format!("n/{name}").into_bytes()
    }

    pub(in super::super) fn artifact(id: &ArtifactId) -> Vec<u8> {
        format!("a/{id}").into_bytes()
    }

    pub(in super::super) fn artifacts_of(session: &SessionId) -> Vec<u8> {
        format!("i/{session}/").into_bytes()
    }

    /// Holds the artifact's id.
    pub(in super::super) fn artifact_of(session: &SessionId, id: &ArtifactId) -> Vec<u8> {
        format!("i/{session}/{id}").into_bytes()
    }

    pub(in super::super) fn snapshot(id: &SnapshotId) -> Vec<u8> {
        format!("s/{id}").into_bytes()
    }

    pub(in super::super) fn snapshots_of(workspace: &WorkspaceId) -> Vec<u8> {
        format!("t/{workspace}/").into_bytes()
    }

    /// Holds the snapshot's id.
    pub(in super::super) fn snapshot_of(workspace: &WorkspaceId, id: &SnapshotId) -> Vec<u8> {
        format!("t/{workspace}/{id}").into_bytes()
    }

    /// Holds the snapshot's id.
    pub(in super::super) fn baked_setup(setup: &SetupKey) -> Vec<u8> {
        format!("b/{}", setup.as_str()).into_bytes()
    }

    pub(in super::super) fn operation(id: &OperationId) -> Vec<u8> {
        format!("o/{id}").into_bytes()
    }

    /// In the order of the sequence numbers.
    pub(in super::super) fn workspace_event(sequence: u64) -> Vec<u8> {
        [WORKSPACE_EVENTS, &sequence.to_be_bytes()].concat()
    }

    pub(in super::super) fn tree_copy(volume: &VolumeRef) -> Vec<u8> {
        format!("c/{}", volume.0).into_bytes()
    }

    /// Holds the id and the time.
    pub(in super::super) fn last_use(id: &WorkspaceId) -> Vec<u8> {
        format!("u/{id}").into_bytes()
    }

    /// A repository may have any name, so its length ends it.
    pub(in super::super) fn pull_requests_of(repository: &str) -> Vec<u8> {
        let mut key = b"p/".to_vec();
        key.extend_from_slice(&(repository.len() as u64).to_be_bytes());
        key.extend_from_slice(repository.as_bytes());
        key
    }

    pub(in super::super) fn pull_request(repository: &str, number: u64) -> Vec<u8> {
        let mut key = pull_requests_of(repository);
        key.extend_from_slice(&number.to_be_bytes());
        key
    }

    pub(in super::super) fn request(id: &RequestId) -> Vec<u8> {
        format!("r/{id}").into_bytes()
    }
}
