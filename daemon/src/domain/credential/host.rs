//! Hosts that a credential is for, and the names under which a workspace reaches
//! them through the daemon.
//!
//! Git in a workspace is told to say `http://HOST.compy-git.internal:PORT/` for
//! `https://HOST:PORT/`. The name exists nowhere: the daemon knows it, speaks TLS
//! with the host itself, and adds the login there.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::domain::egress::{Host, HostError, Target};

/// Ends the names that stand for git hosts.
const GIT_SUFFIX: &str = ".compy-git.internal";
/// The name that stands for the daemon's answers to SSH clients.
const SSH_AGENT: &str = compyd_proto::link::SSH_AGENT_HOST;

/// A host and a port, written `HOST:PORT`: a DNS name or an address of version 4.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct CredentialHost {
    host: Host,
    port: u16,
}

/// Not a host for a credential.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialHostError {
    /// None was named.
    #[error("this kind is for one host: name it with --host")]
    Missing,
    /// One was named for a kind that is used anywhere.
    #[error("a value or a file is for no host: leave --host out, or set it as kind git or ssh-key")]
    Unwanted,
    /// The host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// The port.
    #[error("a port is a number from 1 to 65535")]
    Port,
    /// An address of version 6.
    #[error("a host is a DNS name or an address of version 4")]
    Version6,
}

impl CredentialHost {
    /// Reads `HOST` or `HOST:PORT`.
    ///
    /// # Errors
    /// [`CredentialHostError`].
    pub fn parse(text: &str, default_port: u16) -> Result<Self, CredentialHostError> {
        let (host, port) = match text.trim().split_once(':') {
            None => (text.trim(), default_port),
            Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => {
                (host, port.parse().map_err(|_| CredentialHostError::Port)?)
            }
            Some(_) => return Err(CredentialHostError::Port),
        };
        let host = Host::parse(host)?;
        match (&host, port) {
            (_, 0) => Err(CredentialHostError::Port),
            (Host::Address(address), _) if address.is_ipv6() => Err(CredentialHostError::Version6),
            (Host::Name(_) | Host::Address(_), _) => Ok(Self { host, port }),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn target(&self) -> Target {
        Target {
            host: self.host.clone(),
            port: self.port,
        }
    }

    /// The host alone.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The port.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URLs of the host's repositories begin with one of these.
    #[must_use]
    pub fn https_urls(&self) -> Vec<String> {
        let mut urls = vec![format!("https://{}:{}/", self.host, self.port)];
        if self.port == 443 {
            urls.push(format!("https://{}/", self.host));
        }
        urls
    }

    /// What git in a workspace says instead.
    #[must_use]
    pub fn stand_in_url(&self) -> String {
        format!("http://{}{GIT_SUFFIX}:{}/", self.host, self.port)
    }
}

impl fmt::Display for CredentialHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl TryFrom<String> for CredentialHost {
    type Error = CredentialHostError;

    fn try_from(text: String) -> Result<Self, CredentialHostError> {
        // It was written with its port.
        Self::parse(&text, 0)
    }
}

impl From<CredentialHost> for String {
    fn from(host: CredentialHost) -> Self {
        host.to_string()
    }
}

/// What the daemon itself answers to, of what a workspace may name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StandIn {
    /// A git host.
    Git(CredentialHost),
    /// The daemon's answers to SSH clients.
    SshAgent,
}

impl StandIn {
    /// `None` for everything that is of the world.
    #[must_use]
    pub fn of(target: &Target) -> Option<Self> {
        let Host::Name(name) = &target.host else {
            return None;
        };
        if name == SSH_AGENT {
            return Some(Self::SshAgent);
        }
        let host = name.strip_suffix(GIT_SUFFIX)?;
        CredentialHost::parse(host, target.port).ok().map(Self::Git)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(text: &str) -> Result<CredentialHost, CredentialHostError> {
        CredentialHost::parse(text, 443)
    }

    #[test]
    fn a_host_is_reached_by_its_stand_in_and_by_no_other_name() {
        let github = host("GitHub.com").unwrap();
        assert_eq!(github.to_string(), "github.com:443");
        assert_eq!(
            github.https_urls(),
            ["https://github.com:443/", "https://github.com/"]
        );
        let url = "http://github.com.compy-git.internal:443/";
        assert_eq!(github.stand_in_url(), url);
        let local = host("127.0.0.1:8443").unwrap();
        assert_eq!(local.https_urls(), ["https://127.0.0.1:8443/"]);
        let named = |name: &str| Target {
            host: Host::parse(name).unwrap(),
            port: 8443,
        };
        let seen = |name: &str| StandIn::of(&named(name));
        assert_eq!(
            seen("127.0.0.1.compy-git.internal"),
            Some(StandIn::Git(local))
        );
        assert_eq!(seen(SSH_AGENT), Some(StandIn::SshAgent));
        for name in [
            "github.com",
            "compy-git.internal",
            "xcompy-git.internal",
            "127.0.0.1",
        ] {
            assert_eq!(seen(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_no_host_is_refused() {
        for text in [
            "",
            "a:0",
            "a:70000",
            "a:b",
            "[::1]",
            "::1",
            "https://a/",
            "a/b",
            "a b",
            "a:",
            "a:+1",
        ] {
            assert!(host(text).is_err(), "{text}");
        }
        let stored: Result<CredentialHost, _> = serde_json::from_str("\"a\"");
        assert!(stored.is_err(), "a stored host has its port");
    }
}
