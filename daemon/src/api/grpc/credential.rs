//! `compy.v1.CredentialService`: decode, call the service, encode. No answer and
//! no error holds a value.

use std::time::Duration;

use bytes::Bytes;
use compyd_proto::v1::{
    self as wire, credential_scope::Scope as WireScope,
    credential_service_server::CredentialService,
};
use tonic::{Code, Request, Response, Status};

use super::{
    convert::workspace_error,
    requests::{Begun, Requests},
    status::{Retry, internal, invalid, invalid_id, refusal},
    time::timestamp,
};
use crate::{
    domain::credential::{
        CommandTool, Credential, CredentialKey, CredentialKind, CredentialScope, NewCredential,
    },
    ports::{clock::ClockPort, store::StoreError},
    service::{
        credentials::{CredentialError, Credentials},
        workspaces::Workspaces,
    },
};

/// While a disk is full.
const WHEN_FULL: Duration = Duration::from_secs(5);

/// The service on the wire.
#[derive(Clone)]
pub struct CredentialApi {
    credentials: Credentials,
    workspaces: Workspaces,
    clock: std::sync::Arc<dyn ClockPort>,
    requests: Requests,
}

impl CredentialApi {
    /// Answers with `credentials`; scopes name workspaces of `workspaces`.
    #[must_use]
    pub fn new(
        credentials: Credentials,
        workspaces: Workspaces,
        clock: std::sync::Arc<dyn ClockPort>,
        requests: Requests,
    ) -> Self {
        Self {
            credentials,
            workspaces,
            clock,
            requests,
        }
    }

    /// `known` says whether a workspace of the scope must be there.
    fn key(
        &self,
        name: &str,
        scope: Option<&wire::CredentialScope>,
        known: Known,
    ) -> Result<CredentialKey, Status> {
        let name = name.parse();
        let name = name.map_err(|error| invalid_id("NAME_INVALID", &error))?;
        let scope = match scope.and_then(|scope| scope.scope.as_ref()) {
            Some(WireScope::Global(true)) => CredentialScope::Global,
            Some(WireScope::Project(url)) => CredentialScope::Project(url.clone()),
            Some(WireScope::Workspace(workspace)) => {
                match (self.workspaces.resolve(workspace), known) {
                    (Ok(found), _) => CredentialScope::Workspace(found.id.clone()),
                    (Err(error), Known::MayBeGone) => match workspace.parse() {
                        Ok(id) => CredentialScope::Workspace(id),
                        Err(_) => return Err(workspace_error::error(&error)),
                    },
                    (Err(error), Known::MustBe) => return Err(workspace_error::error(&error)),
                }
            }
            Some(WireScope::Global(false)) | None => {
                return Err(invalid(
                    "SCOPE_MISSING",
                    "the credential has no scope",
                    "name a workspace or the URL of a repository, or say that it is global",
                ));
            }
        };
        Ok(CredentialKey { scope, name })
    }
}

/// Whether the workspace of a scope must be there.
#[derive(Clone, Copy)]
enum Known {
    MustBe,
    MayBeGone,
}

#[tonic::async_trait]
impl CredentialService for CredentialApi {
    async fn set_credential(
        &self,
        request: Request<wire::SetCredentialRequest>,
    ) -> Result<Response<wire::SetCredentialResponse>, Status> {
        let mut request = request.into_inner();
        let key = self.key(&request.name, request.scope.as_ref(), Known::MustBe)?;
        let now_ms = self.clock.now_ms();
        let expires_in_ms = i64::try_from(request.expires_in_ms).unwrap_or(i64::MAX);
        let new = NewCredential {
            key,
            kind: match request.kind() {
                wire::CredentialKind::Unspecified | wire::CredentialKind::Value => {
                    CredentialKind::Value
                }
                wire::CredentialKind::File => CredentialKind::File,
                wire::CredentialKind::Git => CredentialKind::Git,
                wire::CredentialKind::SshKey => CredentialKind::SshKey,
            },
            host: request.host.clone(),
            host_keys: request.host_keys.clone(),
            tools: tools(&request.tools)?,
            environment: Some(request.environment.clone()).filter(|name| !name.is_empty()),
            expires_at_ms: (expires_in_ms > 0).then(|| now_ms.saturating_add(expires_in_ms)),
            value: request.value.to_vec(),
        };
        // What is remembered of a request must not tell the value, not even by a
        // hash.
        request.value = Bytes::new();
        let credentials = self.credentials.clone();
        let work = move || async move {
            let set = credentials.set(new).await;
            Ok(wire::SetCredentialResponse {
                credential: Some(credential(&set.map_err(refused)?, now_ms)),
            })
        };
        let method = "SetCredential";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn list_credentials(
        &self,
        _request: Request<wire::ListCredentialsRequest>,
    ) -> Result<Response<wire::ListCredentialsResponse>, Status> {
        let now_ms = self.clock.now_ms();
        let all = self.credentials.list();
        Ok(Response::new(wire::ListCredentialsResponse {
            credentials: all.iter().map(|one| credential(one, now_ms)).collect(),
        }))
    }

    async fn delete_credential(
        &self,
        request: Request<wire::DeleteCredentialRequest>,
    ) -> Result<Response<wire::DeleteCredentialResponse>, Status> {
        let request = request.into_inner();
        let key = self.key(&request.name, request.scope.as_ref(), Known::MayBeGone)?;
        let credentials = self.credentials.clone();
        let work = move |begun: Begun| async move {
            match credentials.delete(&key).await {
                // The daemon ended right after it had deleted it.
                Err(CredentialError::Unknown(_)) if begun.before => {}
                deleted => deleted.map_err(refused)?,
            }
            Ok(wire::DeleteCredentialResponse {})
        };
        let method = "DeleteCredential";
        let answer = self
            .requests
            .once_begun(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn rotate_master_key(
        &self,
        request: Request<wire::RotateMasterKeyRequest>,
    ) -> Result<Response<wire::RotateMasterKeyResponse>, Status> {
        let request = request.into_inner();
        let credentials = self.credentials.clone();
        let work = move || async move {
            let (count, key_id) = credentials.rotate().await.map_err(refused)?;
            Ok(wire::RotateMasterKeyResponse {
                credentials: u32::try_from(count).unwrap_or(u32::MAX),
                key_id,
            })
        };
        let method = "RotateMasterKey";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }
}

fn tools(names: &[String]) -> Result<Vec<CommandTool>, Status> {
    let tools = names.iter().map(|name| {
        CommandTool::named(name).ok_or_else(|| {
            let known = CommandTool::ALL.map(CommandTool::name).join(", ");
            let message = format!("`{}` is no tool that has credentials", name.escape_debug());
            invalid("CREDENTIAL_REFUSED", message, format!("tools are {known}"))
        })
    });
    tools.collect()
}

fn credential(credential: &Credential, now_ms: i64) -> wire::Credential {
    let scope = match &credential.key.scope {
        CredentialScope::Global => WireScope::Global(true),
        CredentialScope::Project(url) => WireScope::Project(url.clone()),
        CredentialScope::Workspace(id) => WireScope::Workspace(id.to_string()),
    };
    let kind = match credential.kind {
        CredentialKind::Value => wire::CredentialKind::Value,
        CredentialKind::File => wire::CredentialKind::File,
        CredentialKind::Git => wire::CredentialKind::Git,
        CredentialKind::SshKey => wire::CredentialKind::SshKey,
    };
    wire::Credential {
        name: credential.key.name.to_string(),
        scope: Some(wire::CredentialScope { scope: Some(scope) }),
        kind: kind.into(),
        environment: credential.environment.clone().unwrap_or_default(),
        expires_at: credential.expires_at_ms.map(timestamp),
        created_at: Some(timestamp(credential.created_at_ms)),
        updated_at: Some(timestamp(credential.updated_at_ms)),
        expired: credential.is_expired(now_ms),
        host: (credential.host.as_ref()).map_or_else(String::new, ToString::to_string),
        host_keys: credential
            .host_keys
            .iter()
            .map(ToString::to_string)
            .collect(),
        tools: credential.tools.names(),
    }
}

/// Takes the error as `map_err` gives it.
#[allow(clippy::needless_pass_by_value)]
fn refused(error: CredentialError) -> Status {
    let message = error.to_string();
    match &error {
        CredentialError::Refused { .. } => invalid(
            "CREDENTIAL_REFUSED",
            message,
            "change what it names and set the credential again",
        ),
        CredentialError::Unknown(_) => refusal(
            Code::NotFound,
            "CREDENTIAL_UNKNOWN",
            message,
            "`compyctl credential list` shows names and scopes",
            Retry::No,
        ),
        CredentialError::Key(_) | CredentialError::SameKey(_) => refusal(
            Code::FailedPrecondition,
            "MASTER_KEY",
            message,
            "credentials.key_file, credentials.key and credentials.key_command say where the key is",
            Retry::No,
        ),
        CredentialError::Store(StoreError::DiskFull(_)) => refusal(
            Code::Unavailable,
            "DISK_FULL",
            message,
            "free space on the disk with the data directory",
            Retry::After(WHEN_FULL),
        ),
        CredentialError::Sealed { .. }
        | CredentialError::NoRandomness
        | CredentialError::Store(_) => internal(&error),
    }
}
