//! Who calls, and whether they may. Two layers around every service:
//!
//! ```text
//! admit  -> who is it?  unix socket: the owner; TCP: the bearer token
//!           how often?  calls per second, calls at once, connections
//! (recorded: from here on a call is in the audit log)
//! guard  -> may they?   the method's roles, the workspaces of the token
//!           how much?   bytes of a message; the caller's deadline
//! ```

pub(super) mod admit;
mod failures;
pub(super) mod guard;
mod limits;
pub(super) mod subjects;
#[cfg(test)]
mod tests;
mod until;

use std::{net::SocketAddr, sync::Arc};

use http::Extensions;
use serde_json::Value;

pub use self::limits::CallerLimits;
use crate::{
    domain::access::{Role, Scope},
    service::{access::Held, workspaces::Asker},
};

/// Who makes a call; every request has one once it is admitted.
#[derive(Clone)]
pub(super) enum Caller {
    /// Whoever may open the unix socket.
    Owner {
        /// As the socket says.
        uid: Option<u32>,
        /// Their process.
        pid: Option<i32>,
    },
    /// Somebody with a token.
    Token {
        /// The token.
        held: Arc<Held>,
        /// Where the call comes from.
        address: SocketAddr,
    },
}

impl Caller {
    /// The caller of a request, once it is admitted.
    pub(super) fn of(extensions: &Extensions) -> Option<&Self> {
        extensions.get()
    }

    /// Its name in the audit log.
    pub(super) fn name(&self) -> String {
        match self {
            Self::Owner { uid: Some(uid), .. } => format!("uid:{uid}"),
            Self::Owner { uid: None, .. } => "uid:?".to_owned(),
            Self::Token { held, .. } => format!("token:{}", held.token().name),
        }
    }

    /// What else the audit log has of it.
    pub(super) fn details(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::Owner { pid, .. } => pid.iter().map(|pid| ("pid", (*pid).into())).collect(),
            Self::Token { held, address } => vec![
                ("role", held.token().role.name().into()),
                ("token", held.token().key.clone().into()),
                ("address", address.ip().to_string().into()),
            ],
        }
    }

    /// What it may call.
    pub(super) fn role(&self) -> Role {
        match self {
            Self::Owner { .. } => Role::Admin,
            Self::Token { held, .. } => held.token().role,
        }
    }

    /// The workspaces that it may touch.
    pub(super) fn scope(&self) -> &Scope {
        match self {
            Self::Owner { .. } => &Scope::All,
            Self::Token { held, .. } => held.scope(),
        }
    }
}

/// The name of the caller of a request, as the audit log has it.
pub(super) fn name_of<T>(request: &tonic::Request<T>) -> Option<String> {
    Caller::of(request.extensions()).map(Caller::name)
}

/// Whose word and whose rights the caller of a request has: an admin's are those of
/// whoever may set the credentials of every project.
pub(super) fn asker_of<T>(request: &tonic::Request<T>) -> Asker {
    let caller = Caller::of(request.extensions());
    match caller.map(|caller| (caller.role(), caller.scope())) {
        Some((Role::Admin, Scope::All)) => Asker::Admin,
        Some((Role::Author | Role::Reviewer | Role::Reader, Scope::All)) => Asker::Other,
        Some((_, Scope::Workspaces(_))) | None => Asker::OfSome,
    }
}

/// The workspaces that the caller of a request may touch.
pub(super) fn scope_of<T>(request: &tonic::Request<T>) -> Scope {
    let scope = request.extensions().get();
    // A request that passed no guard reaches nothing.
    scope.cloned().unwrap_or(Scope::Workspaces(Vec::new()))
}
