//! Who may call what: roles, tokens, and what a token is for.
//!
//! A token is `compy_`, twelve characters that name it, `_`, and 64 hex digits of
//! secret. Only the BLAKE3 of the secret is kept: it has 256 bits of randomness, so
//! that nothing slower is needed.

pub mod rate;

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    ids::{TokenName, WorkspaceId},
    secret::Secret,
};

/// What every token begins with, so that scanners for secrets find it.
const PREFIX: &str = "compy_";
/// Bytes of a token's secret.
pub const SECRET_BYTES: usize = 32;
/// Bytes of what names a token in it.
pub const KEY_BYTES: usize = 6;

/// What a caller is to the daemon. What each may call is in the options of the
/// protocol's methods; an admin may call them all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Looks.
    Reader,
    /// Reads, and answers what sessions ask.
    Reviewer,
    /// Reads, and works.
    Author,
    /// Everything.
    Admin,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 4] = [Self::Reader, Self::Reviewer, Self::Author, Self::Admin];

    /// Its name: "author".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Reader => "reader",
            Self::Reviewer => "reviewer",
            Self::Author => "author",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What a method is about, for tokens of some workspaces only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The daemon as a whole.
    Daemon,
    /// The workspaces of what its first message names.
    Named,
    /// All workspaces; its answer leaves out those of others.
    Filtered,
    /// No workspace.
    Nothing,
}

/// Who may call a method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Access {
    /// The roles that may, beside admins.
    pub roles: Vec<Role>,
    /// What it is about.
    pub reach: Reach,
}

impl Access {
    /// Whether a role may call the method.
    #[must_use]
    pub fn allows(&self, role: Role) -> bool {
        role == Role::Admin || self.roles.contains(&role)
    }
}

/// The workspaces that a caller may touch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// All, also those that are yet to be made.
    All,
    /// These.
    Workspaces(Vec<WorkspaceId>),
}

impl Scope {
    /// Whether a workspace is in it.
    #[must_use]
    pub fn holds(&self, workspace: &WorkspaceId) -> bool {
        match self {
            Self::All => true,
            Self::Workspaces(ids) => ids.contains(workspace),
        }
    }
}

/// A token's record; the token itself cannot be made from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    /// Its name among people.
    pub name: TokenName,
    /// What names it in the token: hex digits.
    pub key: String,
    /// BLAKE3 of the secret.
    pub hash: [u8; 32],
    /// What it may call.
    pub role: Role,
    /// The workspaces that it is for; empty means all.
    #[serde(default)]
    pub workspaces: Vec<WorkspaceId>,
    /// When it was made, in milliseconds since the Unix epoch.
    pub created_at_ms: i64,
    /// From when on it is refused, in milliseconds since the Unix epoch.
    pub expires_at_ms: Option<i64>,
    /// When it was used last as far as that is kept, in milliseconds since the
    /// Unix epoch.
    pub last_used_at_ms: Option<i64>,
}

impl Token {
    /// Whether it is refused because of its age.
    #[must_use]
    pub fn has_expired(&self, now_ms: i64) -> bool {
        self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }

    /// What it is for.
    #[must_use]
    pub fn scope(&self) -> Scope {
        match self.workspaces.as_slice() {
            [] => Scope::All,
            ids => Scope::Workspaces(ids.to_vec()),
        }
    }

    /// Whether this is its secret. Takes as long for any.
    #[must_use]
    pub fn is_of(&self, presented: &Presented) -> bool {
        // `blake3::Hash` compares in constant time.
        blake3::Hash::from_bytes(self.hash) == presented.hash
    }
}

/// A token as a caller presents it.
#[derive(Clone)]
pub struct Presented {
    /// What names it.
    pub key: String,
    hash: blake3::Hash,
}

impl Presented {
    /// Reads a token; `None` when it cannot be one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (key, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let is_hex = |text: &str, bytes: usize| {
            text.len() == 2 * bytes && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
        };
        (is_hex(key, KEY_BYTES) && is_hex(secret, SECRET_BYTES)).then(|| Self {
            key: key.to_owned(),
            hash: blake3::hash(secret.as_bytes()),
        })
    }
}

/// What names the token that is made for a request: no secret, and the same for
/// every retry.
#[must_use]
pub fn key_for(request: uuid::Uuid) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let hash = blake3::hash(request.as_bytes());
    key.copy_from_slice(&hash.as_bytes()[..KEY_BYTES]);
    key
}

/// Makes a token of what names it and of random bytes: what names it, the secret's
/// hash, and the token.
#[must_use]
pub fn mint(key: [u8; KEY_BYTES], secret: [u8; SECRET_BYTES]) -> (String, [u8; 32], Secret) {
    let (key, secret) = (hex(&key), hex(&secret));
    let hash = *blake3::hash(secret.as_bytes()).as_bytes();
    let token = Secret::new(&format!("{PREFIX}{key}_{secret}"));
    (key, hash, token)
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(hash: [u8; 32], key: String) -> Token {
        Token {
            name: "ci".parse().unwrap(),
            key,
            hash,
            role: Role::Reader,
            workspaces: Vec::new(),
            created_at_ms: 0,
            expires_at_ms: Some(1_000),
            last_used_at_ms: None,
        }
    }

    #[test]
    fn a_token_is_known_by_its_secret_alone_and_its_record_does_not_hold_it() {
        let (key, hash, secret) = mint([1; KEY_BYTES], [2; SECRET_BYTES]);
        let token = token(hash, key.clone());
        let presented = Presented::parse(secret.expose()).unwrap();
        assert_eq!(presented.key, key);
        assert!(token.is_of(&presented));
        let (_, _, other) = mint([1; KEY_BYTES], [3; SECRET_BYTES]);
        assert!(!token.is_of(&Presented::parse(other.expose()).unwrap()));
        let kept = serde_json::to_string(&token).unwrap();
        assert!(!kept.contains(&secret.expose()[20..]), "{kept}");
    }

    #[test]
    fn what_cannot_be_a_token_is_none() {
        let (_, _, secret) = mint([1; KEY_BYTES], [2; SECRET_BYTES]);
        let good = secret.expose();
        for bad in [
            "",
            "compy_",
            "compy__",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}0"),
            &good.to_uppercase(),
            &good.replace("compy", "token"),
            &format!(" {good}"),
        ] {
            assert!(Presented::parse(bad).is_none(), "{bad}");
        }
    }

    #[test]
    fn a_token_ends_when_it_expires_and_reaches_what_it_is_for() {
        let mut token = token([0; 32], String::new());
        assert!(!token.has_expired(999) && token.has_expired(1_000));
        let workspace = WorkspaceId::from_uuid(uuid::Uuid::from_u128(1));
        let other = WorkspaceId::from_uuid(uuid::Uuid::from_u128(2));
        assert!(token.scope().holds(&other));
        token.workspaces = vec![workspace.clone()];
        assert!(token.scope().holds(&workspace) && !token.scope().holds(&other));
    }

    #[test]
    fn an_admin_may_call_what_nobody_else_may() {
        let access = Access {
            roles: vec![Role::Reviewer],
            reach: Reach::Nothing,
        };
        let may = Role::ALL.map(|role| access.allows(role));
        assert_eq!(may, [false, true, false, true]);
    }
}
