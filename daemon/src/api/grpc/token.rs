//! `compy.v1.AccessService`: decode, call the service, encode. A token's secret is
//! in one answer and in no record: what is remembered of that request has none.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use compyd_proto::v1::{self as wire, access_service_server::AccessService};
use tonic::{Code, Request, Response, Status};

use super::{
    access::{Caller, admit::missing},
    convert::workspace_error,
    methods::{role, role_on_wire},
    requests::{Begun, Requests},
    status::{Retry, internal, invalid, invalid_id, refusal},
    time::timestamp,
};
use crate::{
    domain::{
        access::Token,
        ids::{IdError, TokenName, WorkspaceId},
        secret::Secret,
    },
    ports::{clock::ClockPort, store::StoreError},
    service::{
        access::{NewToken, Tokens, TokensError},
        workspaces::Workspaces,
    },
};

/// While a disk is full.
const WHEN_FULL: Duration = Duration::from_secs(5);
/// How long a retry is told a secret.
const TOLD_AGAIN: Duration = Duration::from_secs(5 * 60);

/// The service on the wire.
#[derive(Clone)]
pub struct AccessApi {
    tokens: Tokens,
    workspaces: Workspaces,
    clock: Arc<dyn ClockPort>,
    requests: Requests,
    /// What was just made, by the request's id. Held for an exchange.
    fresh: Arc<Mutex<HashMap<String, (Instant, Secret)>>>,
}

impl AccessApi {
    /// Answers with `tokens`; scopes name workspaces of `workspaces`.
    #[must_use]
    pub fn new(
        tokens: Tokens,
        workspaces: Workspaces,
        clock: Arc<dyn ClockPort>,
        requests: Requests,
    ) -> Self {
        Self {
            tokens,
            workspaces,
            clock,
            requests,
            fresh: Arc::default(),
        }
    }

    fn on_wire(&self, token: &Token) -> wire::Token {
        wire::Token {
            name: token.name.to_string(),
            role: role_on_wire(token.role).into(),
            workspace_ids: token.workspaces.iter().map(ToString::to_string).collect(),
            created_at: Some(timestamp(token.created_at_ms)),
            expires_at: token.expires_at_ms.map(timestamp),
            last_used_at: token.last_used_at_ms.map(timestamp),
            expired: token.has_expired(self.clock.now_ms()),
        }
    }

    /// The workspaces of these names or ids.
    fn resolve(&self, names_or_ids: &[String]) -> Result<Vec<WorkspaceId>, Status> {
        let found = names_or_ids.iter().map(|name_or_id| {
            let found = self.workspaces.resolve(name_or_id);
            found
                .map(|workspace| workspace.id.clone())
                .map_err(|error| workspace_error::error(&error))
        });
        found.collect()
    }

    fn fresh<T>(&self, change: impl FnOnce(&mut HashMap<String, (Instant, Secret)>) -> T) -> T {
        let mut fresh = self.fresh.lock().unwrap_or_else(PoisonError::into_inner);
        fresh.retain(|_, (made, _)| made.elapsed() < TOLD_AGAIN);
        change(&mut fresh)
    }
}

#[tonic::async_trait]
impl AccessService for AccessApi {
    async fn who_am_i(
        &self,
        request: Request<wire::WhoAmIRequest>,
    ) -> Result<Response<wire::WhoAmIResponse>, Status> {
        let caller = Caller::of(request.extensions()).ok_or_else(missing)?;
        let token = match caller {
            Caller::Owner { .. } => None,
            Caller::Token { held, .. } => Some(self.on_wire(held.token())),
        };
        Ok(Response::new(wire::WhoAmIResponse {
            caller: caller.name(),
            role: role_on_wire(caller.role()).into(),
            token,
        }))
    }

    async fn create_token(
        &self,
        request: Request<wire::CreateTokenRequest>,
    ) -> Result<Response<wire::CreateTokenResponse>, Status> {
        let request = request.into_inner();
        let name: TokenName =
            (request.name.parse()).map_err(|error| invalid_id("NAME_INVALID", &error))?;
        let role = role(request.role()).ok_or_else(|| {
            invalid(
                "ROLE_MISSING",
                "the token has no role",
                "give it one: reader, reviewer, author or admin",
            )
        })?;
        let expires_in =
            (request.expires_in_ms > 0).then(|| Duration::from_millis(request.expires_in_ms));
        let (api, named) = (self.clone(), request.workspaces.clone());
        // By the time of a retry other workspaces may have the names.
        let about = async move { api.resolve(&named).map(|ids| listed(&ids)) };
        let (api, id) = (self.clone(), request.request_id.clone());
        let named = request.workspaces.clone();
        let work = move |begun: Begun| async move {
            let workspaces = match begun.about.as_str() {
                // None, or begun by a daemon that wrote nothing down of them.
                "" => api.resolve(&named)?,
                ids => unlisted(ids)?,
            };
            let new = NewToken {
                name,
                role,
                workspaces,
                expires_in,
            };
            let created = api.tokens.create(begun.id, new).await;
            let (token, secret) = created.map_err(refused)?;
            api.fresh(|fresh| fresh.insert(id, (Instant::now(), secret)));
            Ok(wire::CreateTokenResponse {
                token: Some(api.on_wire(&token)),
                secret: String::new(),
            })
        };
        let id = &request.request_id;
        let answer = (self.requests).once_bound("CreateToken", id, &request, about, work);
        let mut answer = answer.await?;
        let secret = self.fresh(|fresh| fresh.get(id).map(|(_, secret)| secret.clone()));
        answer.secret = secret
            .ok_or_else(|| not_shown_again(&request.name))?
            .expose()
            .to_owned();
        Ok(Response::new(answer))
    }

    async fn list_tokens(
        &self,
        _: Request<wire::ListTokensRequest>,
    ) -> Result<Response<wire::ListTokensResponse>, Status> {
        let all = self.tokens.list();
        Ok(Response::new(wire::ListTokensResponse {
            tokens: all.iter().map(|token| self.on_wire(token)).collect(),
        }))
    }

    async fn revoke_token(
        &self,
        request: Request<wire::RevokeTokenRequest>,
    ) -> Result<Response<wire::RevokeTokenResponse>, Status> {
        let request = request.into_inner();
        let name: TokenName =
            (request.name.parse()).map_err(|error| invalid_id("NAME_INVALID", &error))?;
        let (tokens, named) = (self.tokens.clone(), name.clone());
        // By the time of a retry another token may have the name.
        let about = async move { tokens.key_of(&named).map_err(refused) };
        let tokens = self.tokens.clone();
        let work = move |begun: Begun| async move {
            let revoked = match begun.about.as_str() {
                // Begun by a daemon that wrote nothing down of it.
                "" => tokens.revoke(&name).await,
                key => tokens.revoke_this(&name, key).await,
            };
            match revoked {
                // The daemon ended right after it had revoked it.
                Err(TokensError::Unknown(_)) if begun.before => {}
                revoked => revoked.map_err(refused)?,
            }
            Ok(wire::RevokeTokenResponse {})
        };
        let id = &request.request_id;
        let answer = (self.requests).once_bound("RevokeToken", id, &request, about, work);
        answer.await.map(Response::new)
    }
}

/// Workspaces as a request is bound to them.
fn listed(ids: &[WorkspaceId]) -> String {
    let ids: Vec<&str> = ids.iter().map(WorkspaceId::as_str).collect();
    ids.join(",")
}

/// What [`listed`] made of at least one.
fn unlisted(ids: &str) -> Result<Vec<WorkspaceId>, Status> {
    let ids = ids.split(',').map(str::parse::<WorkspaceId>);
    let ids: Result<Vec<WorkspaceId>, IdError> = ids.collect();
    ids.map_err(|error| internal(&error))
}

fn not_shown_again(name: &str) -> Status {
    refusal(
        Code::FailedPrecondition,
        "TOKEN_NOT_SHOWN_AGAIN",
        format!("token {name} was made by this request before, and its secret is kept nowhere"),
        format!("revoke it (`compyctl token revoke {name}`) and make another"),
        Retry::No,
    )
}

fn refused(error: TokensError) -> Status {
    let message = error.to_string();
    match error {
        TokensError::Exists(name) => refusal(
            Code::AlreadyExists,
            "TOKEN_EXISTS",
            message,
            format!("take another name, or revoke that one first: `compyctl token revoke {name}`"),
            Retry::No,
        ),
        TokensError::Unknown(_) => refusal(
            Code::NotFound,
            "TOKEN_UNKNOWN",
            message,
            "`compyctl token list` shows the tokens there are",
            Retry::No,
        ),
        TokensError::Store(StoreError::DiskFull(_)) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            message,
            "free some space on the daemon's disk; nothing has changed",
            Retry::After(WHEN_FULL),
        ),
        TokensError::NoRandomness | TokensError::Store(_) => internal(&message),
    }
}

#[cfg(test)]
mod tests;
