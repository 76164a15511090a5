//! The rules of a workspace: nothing, a list of hosts, or everything public.

use core::net::IpAddr;
use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Denial, Host, HostError, Target};

/// Patterns of one workspace.
const MOST_PATTERNS: usize = 256;
/// What a pattern without a port means.
const WEB_PORTS: [u16; 2] = [80, 443];
/// Port of mail between servers; programs submit on others.
const SMTP: u16 = 25;

/// What a workspace may reach.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "policy", content = "hosts", rename_all = "snake_case")]
pub enum Policy {
    /// Nothing.
    #[default]
    None,
    /// What one of 1 to 256 patterns matches.
    AllowList(Vec<HostPattern>),
    /// Every host on every port but 25.
    Open,
}

/// The kind of a policy, without its list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PolicyKind {
    /// See [`Policy::None`].
    None,
    /// See [`Policy::AllowList`].
    AllowList,
    /// See [`Policy::Open`].
    Open,
}

/// A policy that cannot be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// An allow-list of nothing.
    #[error("an allow-list has 1 to {MOST_PATTERNS} hosts, not {0}")]
    Length(usize),
    /// Hosts beside a policy that has no list.
    #[error("hosts are allowed one by one under the allow-list policy only")]
    HostsWithoutList,
    /// Hosts that are none.
    #[error(transparent)]
    Pattern(#[from] PatternError),
}

impl Policy {
    /// A policy from its parts.
    ///
    /// # Errors
    /// See [`PolicyError`].
    pub fn new<Text: AsRef<str>>(kind: PolicyKind, hosts: &[Text]) -> Result<Self, PolicyError> {
        match kind {
            PolicyKind::None | PolicyKind::Open if !hosts.is_empty() => {
                Err(PolicyError::HostsWithoutList)
            }
            PolicyKind::None => Ok(Self::None),
            PolicyKind::Open => Ok(Self::Open),
            PolicyKind::AllowList => {
                if !(1..=MOST_PATTERNS).contains(&hosts.len()) {
                    return Err(PolicyError::Length(hosts.len()));
                }
                let patterns = hosts.iter().map(|host| host.as_ref().parse());
                Ok(Self::AllowList(patterns.collect::<Result<_, _>>()?))
            }
        }
    }

    /// Its kind.
    #[must_use]
    pub fn kind(&self) -> PolicyKind {
        match self {
            Self::None => PolicyKind::None,
            Self::AllowList(_) => PolicyKind::AllowList,
            Self::Open => PolicyKind::Open,
        }
    }

    /// Its hosts; empty where it has no list.
    #[must_use]
    pub fn hosts(&self) -> &[HostPattern] {
        match self {
            Self::AllowList(patterns) => patterns,
            Self::None | Self::Open => &[],
        }
    }

    /// Whether a target is allowed by what it is called; where it leads is
    /// decided by [`AddressRules`](super::AddressRules).
    ///
    /// # Errors
    /// Why it is not.
    pub fn admit(&self, target: &Target) -> Result<(), Denial> {
        match self {
            Self::None => Err(Denial::NoEgress(target.clone())),
            Self::Open if target.port == SMTP => Err(Denial::PortClosed(target.clone())),
            Self::Open => Ok(()),
            Self::AllowList(patterns) => {
                let listed = patterns.iter().any(|pattern| pattern.matches(target));
                (listed.then_some(())).ok_or_else(|| Denial::NotListed(target.clone()))
            }
        }
    }
}

/// A host, or everything below a domain; with a port, or with 80 and 443.
///
/// Written `example.org`, `*.example.org`, `192.0.2.1`, `[2001:db8::1]`, each
/// with an optional `:PORT`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostPattern {
    who: Who,
    /// `None` means 80 and 443.
    port: Option<u16>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Who {
    Host(Host),
    /// Names below this one, and not it.
    Below(String),
}

/// Not a pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternError {
    /// Its host.
    #[error(transparent)]
    Host(#[from] HostError),
    /// `*` in the wrong place.
    #[error(
        "`*` stands for what is below a domain: *.example.org; for every host use the open policy"
    )]
    Star,
    /// `*.` before an address.
    #[error("nothing is below an address")]
    BelowAddress,
    /// Its port.
    #[error("a port is a number from 1 to 65535")]
    Port,
}

impl HostPattern {
    /// The pattern that matches one target.
    pub(super) fn exactly(target: &Target) -> Self {
        Self {
            who: Who::Host(target.host.clone()),
            port: (!WEB_PORTS.contains(&target.port)).then_some(target.port),
        }
    }

    fn matches(&self, target: &Target) -> bool {
        let port = match self.port {
            Some(port) => port == target.port,
            None => WEB_PORTS.contains(&target.port),
        };
        port && match (&self.who, &target.host) {
            (Who::Host(host), other) => host == other,
            (Who::Below(domain), Host::Name(name)) => name
                .strip_suffix(domain.as_str())
                .is_some_and(|below| below.len() > 1 && below.ends_with('.')),
            (Who::Below(_), Host::Address(_)) => false,
        }
    }
}

impl FromStr for HostPattern {
    type Err = PatternError;

    fn from_str(text: &str) -> Result<Self, PatternError> {
        let (host, port) = split_port(text)?;
        let who = match host.strip_prefix("*.") {
            Some(domain) if domain.contains('*') => return Err(PatternError::Star),
            Some(domain) => match Host::parse(domain)? {
                Host::Name(name) => Who::Below(name),
                Host::Address(_) => return Err(PatternError::BelowAddress),
            },
            None if host.contains('*') => return Err(PatternError::Star),
            None => Who::Host(Host::parse(host)?),
        };
        Ok(Self { who, port })
    }
}

/// Host and port; an address of version 6 has brackets when a port follows.
fn split_port(text: &str) -> Result<(&str, Option<u16>), PatternError> {
    let is_version_6 = text
        .parse::<IpAddr>()
        .is_ok_and(|address| address.is_ipv6());
    match text.rsplit_once(':') {
        Some((host, port)) if !is_version_6 && !text.ends_with(']') => {
            let digits = port.bytes().all(|byte| byte.is_ascii_digit());
            let port = port.parse().ok().filter(|port| digits && *port != 0);
            Ok((host, Some(port.ok_or(PatternError::Port)?)))
        }
        Some(_) | None => Ok((text, None)),
    }
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.who {
            Who::Host(host) => host.fmt(f)?,
            Who::Below(domain) => write!(f, "*.{domain}")?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl TryFrom<String> for HostPattern {
    type Error = PatternError;

    fn try_from(text: String) -> Result<Self, PatternError> {
        text.parse()
    }
}

impl From<HostPattern> for String {
    fn from(pattern: HostPattern) -> Self {
        pattern.to_string()
    }
}
