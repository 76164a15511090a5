//! `compyctl credential set`.

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, ValueEnum};
use compyd_proto::v1::{CredentialKind, SetCredentialRequest};

use super::scope::ScopeArguments;
use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::{Format, credential::CredentialView, print_json};
use crate::{terminal, values};

/// More than the daemon takes; it says what it takes.
const MOST_BYTES: u64 = 1 << 20;

/// `compyctl credential set NAME`. There is no option for the value: command
/// lines are seen by everybody on a machine and kept in the shell's history.
#[derive(Debug, Args)]
pub(crate) struct SetArguments {
    /// Its name: also the name of the variable in capitals, or of the file.
    name: String,
    #[command(flatten)]
    scope: ScopeArguments,
    /// What it is to the commands that use it.
    #[arg(long, value_enum, default_value = "value", value_name = "KIND")]
    kind: KindName,
    /// The variable that commands find it in; for a file, the one with its path.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "NAME"
    )]
    env: String,
    /// The host that a login or a key is for; ports are 443 and 22 unless named.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "HOST[:PORT]"
    )]
    host: String,
    /// A file with the public keys of an SSH host, as ssh-keyscan prints them.
    #[arg(long, value_name = "PATH")]
    host_key: Option<PathBuf>,
    /// Whose commands are given a value or a file; may be repeated
    /// [default: exec, run_command].
    #[arg(long, value_enum, value_name = "TOOL")]
    tool: Vec<ToolName>,
    /// From when on it is not used any more: 12h, 30d.
    #[arg(long, value_parser = values::duration, value_name = "TIME")]
    expires: Option<Duration>,
    /// Read the value from this file instead of standard input or a prompt.
    #[arg(long, value_name = "PATH")]
    from_file: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum KindName {
    /// A text in a variable of commands
    Value,
    /// A file that commands find in /run/compy/secrets
    File,
    /// A login for git over HTTPS, USER:PASSWORD or a token, which no command sees
    Git,
    /// A private key for logins by SSH, which no command sees
    SshKey,
}

/// Whose commands are given a credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ToolName {
    /// Those of people: workspace exec and workspace shell
    Exec,
    /// Those of models
    #[value(name = "run_command")]
    RunCommand,
    /// Those of setup files
    Setup,
    /// Criteria, proofs and CI
    Check,
}

impl ToolName {
    fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

impl SetArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let value = match &self.from_file {
            Some(file) => from_file(file)?,
            None if io::stdin().is_terminal() && self.kind == KindName::SshKey => {
                return Err(Failure::usage(
                    "a private key has many lines, and a prompt takes one",
                    "name its file by --from-file, or pipe it",
                ));
            }
            None if io::stdin().is_terminal() => prompted(&self.name)?,
            None => read("standard input", io::stdin().lock())?,
        };
        let host_keys = match &self.host_key {
            Some(file) => String::from_utf8_lossy(&from_file(file)?).into_owned(),
            None => String::new(),
        };
        let daemon = context.daemon().await?;
        let kind = match self.kind {
            KindName::Value => CredentialKind::Value,
            KindName::File => CredentialKind::File,
            KindName::Git => CredentialKind::Git,
            KindName::SshKey => CredentialKind::SshKey,
        };
        let request = SetCredentialRequest {
            request_id: request_id(),
            name: self.name,
            scope: Some(self.scope.into_wire()),
            kind: kind.into(),
            environment: self.env,
            expires_in_ms: self.expires.map_or(0, values::milliseconds),
            value: value.into(),
            host: self.host,
            host_keys,
            tools: self.tool.iter().map(|tool| tool.name()).collect(),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.credentials(), request.clone());
                async move { client.set_credential(request).await }
            })
            .await?;
        let view = CredentialView::from(response.credential.unwrap_or_default());
        match context.format {
            Format::Json => print_json(&view)?,
            Format::Table => eprintln!("set credential {} ({})", view.name, view.scope),
        }
        Ok(Exit::OK)
    }
}

fn from_file(file: &Path) -> Result<Vec<u8>, Failure> {
    let name = file.display().to_string();
    match std::fs::File::open(file) {
        Ok(opened) => read(&name, opened),
        Err(error) => Err(Failure::local(
            format!("{name} cannot be opened: {error}"),
            "name a file that holds the value and that this account may read",
        )),
    }
}

fn read(name: &str, from: impl io::Read) -> Result<Vec<u8>, Failure> {
    let mut value = Vec::new();
    match from.take(MOST_BYTES).read_to_end(&mut value) {
        Ok(_) => Ok(value),
        Err(error) => Err(Failure::local(
            format!("the value cannot be read from {name}: {error}"),
            "",
        )),
    }
}

fn prompted(name: &str) -> Result<Vec<u8>, Failure> {
    let answer = terminal::ask_unseen(&format!("Value of {name} (not shown): "));
    match answer {
        Ok(Some(value)) => Ok(value.into_bytes()),
        Ok(None) => Err(Failure::usage(
            "no value was given",
            "type it, or pipe it: `compyctl credential set NAME --global < FILE`",
        )),
        Err(error) => Err(Failure::local(
            format!("the value cannot be read from the terminal: {error}"),
            "pipe it instead, or use --from-file",
        )),
    }
}
