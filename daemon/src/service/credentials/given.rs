//! What a command is given of its workspace's credentials, at the moment it starts.
//!
//! Values are in its environment and files on a tmpfs. Of logins and keys for hosts
//! it learns only the way: git is told to go by the daemon, and SSH clients by an
//! agent whose keys are here.

use std::fmt::Write as _;

use async_trait::async_trait;
use compyd_proto::link::{AGENT_BINARY, SSH_AGENT_SOCKET};

use super::{Credentials, Held};
use crate::{
    domain::{
        audit::Kind,
        credential::{CommandTool, Credential, CredentialHost, CredentialKind, OWN_FILES},
        ids::{ExecId, WorkspaceId},
        workspace::{NetworkMode, Workspace},
    },
    ports::command_secrets::{CommandSecrets, CommandSecretsPort, SecretFile},
};

/// Variable with the path of the configuration for SSH clients.
const SSH_CONFIG: &str = "COMPY_SSH_CONFIG";
/// Variable with the path of the keys of its hosts.
const SSH_KNOWN_HOSTS: &str = "COMPY_SSH_KNOWN_HOSTS";

#[async_trait]
impl CommandSecretsPort for Credentials {
    async fn of(
        &self,
        workspace: &WorkspaceId,
        exec: &ExecId,
        tool: Option<CommandTool>,
    ) -> Result<CommandSecrets, String> {
        if self.inner.values().current.is_empty() {
            return Ok(CommandSecrets::default());
        }
        let Some(workspace) = self.workspace(workspace).await? else {
            return Ok(CommandSecrets::default());
        };
        let (secrets, names) = given(&self.in_force(&workspace), &workspace, tool);
        if !names.is_empty() {
            let audit = &self.inner.audit;
            let used = audit.entry(Kind::CredentialUse, "daemon");
            let used = audit.of_command(used.in_workspace(&workspace.id), &workspace.id, exec);
            let used = used.with("credentials", names);
            let used = match tool {
                Some(tool) => used.with("tool", tool.name()),
                None => used,
            };
            let recorded = audit.record_durably(used).await;
            recorded.map_err(|error| format!("a use of credentials is not on record: {error}"))?;
        }
        Ok(secrets)
    }
}

/// What a command of this tool is given, and the names of the credentials whose
/// values it has.
fn given(
    held: &[Held],
    workspace: &Workspace,
    tool: Option<CommandTool>,
) -> (CommandSecrets, Vec<String>) {
    let (mut secrets, mut names) = (CommandSecrets::default(), Vec::new());
    let (mut git, mut ssh) = (Vec::new(), Vec::new());
    for Held { credential, value } in held {
        let name = credential.key.name.to_string();
        if !credential.tools.allow(tool) {
            if credential.kind == CredentialKind::File {
                secrets.kept_files.push(name);
            }
            continue;
        }
        let variable = credential.environment.clone();
        match credential.kind {
            CredentialKind::Value => {
                let variable = variable.map(|variable| (variable, value.clone()));
                secrets.environment.extend(variable);
                names.push(name);
            }
            CredentialKind::File => {
                names.push(name.clone());
                secrets.files.push(SecretFile {
                    name,
                    content: value.clone(),
                    variable,
                });
            }
            CredentialKind::Git => git.extend(&credential.host),
            CredentialKind::SshKey => ssh.push(credential),
        }
    }
    // On the bridge nothing goes by the daemon.
    if workspace.definition.network == NetworkMode::None {
        secrets.environment.extend(git_settings(&git));
    }
    if !ssh.is_empty() {
        let text = |text: &str| text.as_bytes().to_vec();
        secrets.environment.extend([
            ("SSH_AUTH_SOCK".to_owned(), text(SSH_AGENT_SOCKET)),
            (
                "GIT_SSH_COMMAND".to_owned(),
                format!("ssh -F \"${SSH_CONFIG}\"").into_bytes(),
            ),
        ]);
        let files = [
            ("ssh-config", ssh_config(&ssh, workspace), SSH_CONFIG),
            ("ssh-known-hosts", known_hosts(&ssh), SSH_KNOWN_HOSTS),
        ];
        secrets
            .files
            .extend(files.map(|(name, content, variable)| SecretFile {
                name: format!("{OWN_FILES}{name}"),
                content: content.into_bytes(),
                variable: Some(variable.to_owned()),
            }));
    } else if held
        .iter()
        .any(|held| held.credential.kind == CredentialKind::SshKey)
    {
        let names = ["ssh-config", "ssh-known-hosts"];
        let names = names.map(|name| format!("{OWN_FILES}{name}"));
        secrets.kept_files.extend(names);
    }
    (secrets, names)
}

/// Makes git say the stand-in for the URLs of hosts.
fn git_settings(hosts: &[&CredentialHost]) -> Vec<(String, Vec<u8>)> {
    let settings = hosts.iter().flat_map(|host| {
        let key = format!("url.{}.insteadOf", host.stand_in_url());
        let urls = host.https_urls().into_iter();
        urls.map(move |url| (key.clone(), url))
    });
    let settings: Vec<_> = settings.collect();
    if settings.is_empty() {
        return Vec::new();
    }
    let count = settings.len().to_string().into_bytes();
    let mut variables = vec![("GIT_CONFIG_COUNT".to_owned(), count)];
    for (number, (key, url)) in settings.into_iter().enumerate() {
        variables.push((format!("GIT_CONFIG_KEY_{number}"), key.into_bytes()));
        variables.push((format!("GIT_CONFIG_VALUE_{number}"), url.into_bytes()));
    }
    variables
}

/// For each host its agent, its keys and the way to it; for others what there is.
fn ssh_config(credentials: &[&Credential], workspace: &Workspace) -> String {
    let way = match workspace.definition.network {
        NetworkMode::None => format!("    ProxyCommand {AGENT_BINARY} connect %h %p\n"),
        NetworkMode::Bridge => String::new(),
    };
    let mut config = String::new();
    for host in credentials.iter().filter_map(|one| one.host.as_ref()) {
        let (name, port) = (host.host(), host.port());
        // Writing to a string does not fail.
        let _ = write!(
            config,
            "Host {name}\n    Port {port}\n    IdentityAgent {SSH_AGENT_SOCKET}\n    UserKnownHostsFile ${{{SSH_KNOWN_HOSTS}}}\n    GlobalKnownHostsFile /dev/null\n    StrictHostKeyChecking yes\n    UpdateHostKeys no\n    ForwardAgent no\n{way}"
        );
    }
    config + "Match all\n    Include ~/.ssh/config /etc/ssh/ssh_config\n"
}

fn known_hosts(credentials: &[&Credential]) -> String {
    let lines = credentials.iter().flat_map(|credential| {
        let hosts = credential.host.iter().map(|host| match host.port() {
            22 => host.host().to_string(),
            port => format!("[{}]:{port}", host.host()),
        });
        hosts.flat_map(move |host| {
            let keys = credential.host_keys.iter();
            keys.map(move |key| format!("{host} {key}\n"))
        })
    });
    lines.collect()
}
