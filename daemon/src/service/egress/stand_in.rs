//! Names that only the daemon knows: git hosts that it speaks TLS with itself, and
//! its answers to SSH clients.
//!
//! The rules of the workspace decide on the real host, as for every connection;
//! then the login is added on this side of the tunnel.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::Egress;
use crate::{
    domain::{
        credential::{CredentialHost, git},
        ids::WorkspaceId,
        ssh::agent::{self, AgentSession, Reply},
    },
    ports::{
        git_relay::{GitGate, GitRelayPort},
        host_credentials::HostCredentialsPort,
        tunnel::{BoxedBytes, Linked, Wanted},
    },
};

/// Bytes between a program and the relay that stands for its host.
const RELAY_BYTES: usize = 64 * 1024;
/// Largest request of an SSH client; OpenSSH's own limit for its agent.
const MAX_AGENT_MESSAGE: usize = 256 * 1024;

/// What it takes to speak with hosts for a workspace.
#[derive(Clone)]
pub struct HostAccess {
    /// Who has the credentials.
    pub credentials: Arc<dyn HostCredentialsPort>,
    /// Who speaks git's protocol.
    pub git: Arc<dyn GitRelayPort>,
}

/// Decides on the requests of one workspace to one git host.
struct Gate {
    credentials: Arc<dyn HostCredentialsPort>,
    workspace: WorkspaceId,
    host: CredentialHost,
}

#[async_trait]
impl GitGate for Gate {
    async fn admit(&self, method: &str, path: &str, query: Option<&str>) -> Result<String, String> {
        let request = git::admit(method, path, query).map_err(|refused| refused.to_string())?;
        let login = self
            .credentials
            .git_login(&self.workspace, &self.host, &request)
            .await?;
        let host = &self.host;
        login.ok_or_else(|| {
            format!(
                "no login for {host} is stored for this workspace; set one, on the host: compyctl credential set NAME --kind git --host {host} --workspace WORKSPACE"
            )
        })
    }
}

impl Egress {
    /// Names who speaks with hosts, once; until then nobody does.
    pub fn set_hosts(&self, hosts: HostAccess) {
        if self.inner.hosts.set(hosts).is_err() {
            tracing::warn!("the access to hosts was named twice");
        }
    }

    /// The end that a program's connection to a git host is carried to: a relay
    /// before the world. It ends with either.
    pub(super) fn before_git_host(
        &self,
        workspace: &WorkspaceId,
        host: CredentialHost,
        world: BoxedBytes,
    ) -> BoxedBytes {
        let (near, far) = tokio::io::duplex(RELAY_BYTES);
        let Some(HostAccess { credentials, git }) = self.inner.hosts.get().cloned() else {
            return Box::new(near);
        };
        let gate = Arc::new(Gate {
            credentials,
            workspace: workspace.clone(),
            host: host.clone(),
        });
        // On cancel: the far end is cut. Errors are answers to the program.
        self.inner
            .tasks
            .spawn(async move { git.relay(&host, Box::new(far), world, gate).await });
        Box::new(near)
    }

    /// Serves an SSH client as its agent, until either hangs up.
    pub(super) async fn ssh_agent(&self, linked: &Linked, wanted: &Wanted) {
        let workspace = &linked.workspace;
        let Ok(mut client) = linked.tunnel.carry(wanted.id).await else {
            return;
        };
        let Some(HostAccess { credentials, .. }) = self.inner.hosts.get().cloned() else {
            return;
        };
        let mut session = AgentSession::default();
        let idle = self.inner.options.idle_timeout;
        // A client that says something unsound, or nothing for too long, is left.
        while let Ok(Some(message)) = tokio::time::timeout(idle, request(&mut client)).await {
            let answer = answer(&*credentials, workspace, &mut session, &message).await;
            let length = u32::try_from(answer.len()).expect("answers are short");
            let sent = [&length.to_be_bytes()[..], &answer].concat();
            if client.write_all(&sent).await.is_err() {
                return;
            }
        }
        // A link's stream that is dropped takes along what it has not delivered yet.
        let _ = client.shutdown().await;
    }
}

/// The next request; `None` when there is none, or one that is too long.
async fn request(client: &mut BoxedBytes) -> Option<Vec<u8>> {
    let length = usize::try_from(client.read_u32().await.ok()?).ok()?;
    if !(1..=MAX_AGENT_MESSAGE).contains(&length) {
        return None;
    }
    let mut message = vec![0; length];
    client.read_exact(&mut message).await.ok()?;
    Some(message)
}

async fn answer(
    credentials: &dyn HostCredentialsPort,
    workspace: &WorkspaceId,
    session: &mut AgentSession,
    message: &[u8],
) -> Vec<u8> {
    let reply = match credentials.ssh_identities(workspace).await {
        Ok(identities) => session.answer(message, &identities),
        Err(error) => {
            tracing::warn!(workspace_id = %workspace, %error, "no keys for an SSH client");
            agent::refused()
        }
    };
    let refused = vec![agent::FAILURE];
    match reply {
        Reply::Message(message) => message,
        Reply::Sign(login) => {
            let name = &login.name;
            match credentials.ssh_sign(workspace, &login).await {
                Ok(signature) => {
                    tracing::info!(workspace_id = %workspace, credential = %name, user = login.user, "an SSH login is signed");
                    agent::signed(&signature)
                }
                Err(error) => {
                    tracing::warn!(workspace_id = %workspace, credential = %name, %error, "an SSH login is not signed");
                    refused
                }
            }
        }
    }
}
