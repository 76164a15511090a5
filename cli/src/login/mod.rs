//! `compyctl login` and `compyctl logout`: whom this account trusts at an endpoint,
//! and the token that it is known by there.

pub(crate) mod store;
pub(crate) mod trust;

use std::io::{self, IsTerminal as _, Read as _};
use std::path::{Path, PathBuf};

use clap::Args;
use compyd_proto::v1::WhoAmIRequest;

use self::store::Login;
use self::trust::{Fingerprint, Trust};
use crate::command_line::Context;
use crate::connection::{Access, Daemon, DaemonEndpoint};
use crate::exit::{Exit, Failure};
use crate::output::{Format, print_json, token::CallerView};
use crate::terminal;

/// More than any token has.
const MOST_BYTES: u64 = 4096;

/// `compyctl login ENDPOINT`. There is no option for the token itself: command
/// lines are seen by everybody on a machine. It comes from --token-file, standard
/// input or a prompt.
#[derive(Debug, Args)]
pub(crate) struct LoginArguments {
    /// The daemon: https://HOST:PORT, or http://HOST:PORT on this machine.
    #[arg(value_name = "ENDPOINT")]
    to: DaemonEndpoint,
    /// SHA-256 of the daemon's certificate authority, as its log says at the start.
    #[arg(long, value_name = "sha256:HEX", conflicts_with = "ca_file")]
    ca_fingerprint: Option<Fingerprint>,
    /// The daemon's certificate authority itself: tls/ca.crt of its data directory.
    #[arg(long, value_name = "PATH")]
    ca_file: Option<PathBuf>,
}

/// `compyctl logout ENDPOINT`.
#[derive(Debug, Args)]
pub(crate) struct LogoutArguments {
    /// The daemon, as in `compyctl login`.
    #[arg(value_name = "ENDPOINT")]
    from: DaemonEndpoint,
}

impl LoginArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let trust = match &self.to {
            DaemonEndpoint::Unix(_) => {
                return Err(Failure::usage(
                    "whoever may open the unix socket needs no login",
                    "leave it out; `compyctl login` is for https://HOST:PORT",
                ));
            }
            DaemonEndpoint::Http(_) => None,
            DaemonEndpoint::Https(_) => Some(self.trust()?),
        };
        let token = match &context.token_file {
            Some(file) => store::token_in(file)?,
            None => given_token()?,
        };
        let access = Access {
            token: Some(token.clone()),
            trust: trust.clone(),
        };
        let daemon = Daemon::connect(self.to.clone(), access).await?;
        let response = daemon
            .call(|| {
                let mut client = daemon.access();
                async move { client.who_am_i(WhoAmIRequest {}).await }
            })
            .await?;
        // The authority is known by now, also where only its fingerprint was.
        let ca = trust.and_then(|trust| trust.authority_pem());
        let login = Login {
            endpoint: self.to.to_string(),
            ca,
            token,
        };
        let file = store::keep(&login)?;
        let view = CallerView::from(response);
        match context.format {
            Format::Json => print_json(&view)?,
            Format::Table => {
                eprintln!(
                    "logged in at {} as {} ({})",
                    self.to, view.caller, view.role
                );
                eprintln!("kept in {}", file.display());
            }
        }
        Ok(Exit::OK)
    }

    fn trust(&self) -> Result<Trust, Failure> {
        match (&self.ca_file, self.ca_fingerprint) {
            (Some(file), _) => Trust::in_file(file),
            (None, Some(fingerprint)) => Ok(Trust::pinned(fingerprint)),
            (None, None) => Err(Failure::usage(
                format!("nothing says which certificate authority {} has", self.to),
                "give --ca-fingerprint with what the daemon's log says at its start (\"log in from another machine by\"), or --ca-file with a copy of tls/ca.crt from its data directory",
            )),
        }
    }
}

impl LogoutArguments {
    pub(crate) fn run(self) -> Result<Exit, Failure> {
        if store::forget(&self.from)? {
            eprintln!(
                "logged out at {}; the token is still good until it is revoked",
                self.from
            );
            return Ok(Exit::OK);
        }
        Err(Failure::usage(
            format!("there is no login at {}", self.from),
            "name the endpoint as in `compyctl login`",
        ))
    }
}

/// The token from a prompt or standard input.
fn given_token() -> Result<String, Failure> {
    if io::stdin().is_terminal() {
        let answer = terminal::ask_unseen("Token (not shown): ");
        return match answer {
            Ok(Some(token)) if !token.trim().is_empty() => Ok(token.trim().to_owned()),
            Ok(_) => Err(no_token()),
            Err(error) => Err(Failure::local(
                format!("the token cannot be read from the terminal: {error}"),
                "pipe it instead, or use --token-file",
            )),
        };
    }
    read_token(io::stdin().lock(), Path::new("standard input"))
}

/// A token from a file that was opened.
fn read_token(from: impl io::Read, name: &Path) -> Result<String, Failure> {
    let mut text = String::new();
    let read = from.take(MOST_BYTES).read_to_string(&mut text);
    read.map_err(|error| {
        Failure::local(
            format!("the token cannot be read from {}: {error}", name.display()),
            "give what `compyctl token create` printed",
        )
    })?;
    match text.trim() {
        "" => Err(no_token()),
        token => Ok(token.to_owned()),
    }
}

fn no_token() -> Failure {
    Failure::usage(
        "no token was given",
        "type it, pipe it (`compyctl login ENDPOINT ... < FILE`), or use --token-file",
    )
}
