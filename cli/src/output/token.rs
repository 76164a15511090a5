//! Tokens and callers as compyctl prints them.

use compyd_proto::v1::{Role, Token, WhoAmIResponse};
use serde::Serialize;

use super::{table::Table, time};

/// A token in JSON, without its secret.
#[derive(Debug, Serialize)]
pub(crate) struct TokenView {
    /// Its name.
    pub(crate) name: String,
    /// `reader`, `reviewer`, `author` or `admin`.
    pub(crate) role: String,
    /// Ids of the workspaces that it is for; empty means all.
    pub(crate) workspaces: Vec<String>,
    /// When it was made.
    pub(crate) created_at: Option<String>,
    /// From when on it is refused.
    pub(crate) expires_at: Option<String>,
    /// Whether it has expired.
    pub(crate) expired: bool,
    /// When a call was last made with it.
    pub(crate) last_used_at: Option<String>,
}

/// A token that was just made, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct NewTokenView {
    #[serde(flatten)]
    pub(crate) token: TokenView,
    /// What the caller shows; not told again.
    pub(crate) secret: String,
}

/// Who one is to the daemon, in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct CallerView {
    /// `uid:N` or `token:NAME`.
    pub(crate) caller: String,
    /// As of a token.
    pub(crate) role: String,
    /// The token; `null` on the unix socket.
    pub(crate) token: Option<TokenView>,
}

impl From<Token> for TokenView {
    fn from(token: Token) -> Self {
        TokenView {
            role: role(token.role()).to_owned(),
            created_at: time(token.created_at.as_ref()),
            expires_at: time(token.expires_at.as_ref()),
            last_used_at: time(token.last_used_at.as_ref()),
            expired: token.expired,
            name: token.name,
            workspaces: token.workspace_ids,
        }
    }
}

impl From<WhoAmIResponse> for CallerView {
    fn from(response: WhoAmIResponse) -> Self {
        CallerView {
            role: role(response.role()).to_owned(),
            caller: response.caller,
            token: response.token.map(Into::into),
        }
    }
}

fn role(role: Role) -> &'static str {
    match role {
        Role::Unspecified => "",
        Role::Reader => "reader",
        Role::Reviewer => "reviewer",
        Role::Author => "author",
        Role::Admin => "admin",
    }
}

/// Tokens, one line each.
pub(crate) fn list_table(tokens: &[TokenView]) -> Table {
    let mut table = Table::new(&["NAME", "ROLE", "EXPIRES", "LAST USED", "WORKSPACES"]);
    for token in tokens {
        let expires = match (&token.expires_at, token.expired) {
            (Some(_), true) => "expired",
            (Some(at), false) => at,
            (None, _) => "never",
        };
        let workspaces = match token.workspaces.as_slice() {
            [] => "all".to_owned(),
            ids => ids.join(" "),
        };
        table.row([
            token.name.as_str(),
            &token.role,
            expires,
            token.last_used_at.as_deref().unwrap_or("never"),
            &workspaces,
        ]);
    }
    table
}
