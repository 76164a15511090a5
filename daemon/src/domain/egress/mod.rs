//! What a workspace may reach, decided without a network: rules over hosts,
//! ports and addresses.
//!
//! ```text
//! what a program wrote --Host--> rules of the workspace --Policy--> look-up
//!   --> addresses --AddressRules--> dial exactly these --> first bytes --inspect-->
//! ```
//!
//! A host is parsed once, by [`Host`], and means the same in every later step.
//! A name is never trusted for where it leads: addresses that are not of the
//! public Internet are refused under every policy, unless the operator names
//! their networks.

mod address;
mod environment;
mod host;
mod inspect;
mod policy;

#[cfg(test)]
mod tests;

pub use self::{
    address::{AddressRules, Network, NetworkError, Range},
    environment::proxy_environment,
    host::{Host, HostError},
    inspect::{Inspection, Mismatch, TLS_UNRECOGNIZED_NAME, inspect},
    policy::{HostPattern, PatternError, Policy, PolicyError, PolicyKind},
};
use super::ids::WorkspaceId;
use core::net::SocketAddr;
use std::fmt;

/// Where a program wants to go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The host.
    pub host: Host,
    /// The port, 1 to 65,535.
    pub port: u16,
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Host::Address(address) => SocketAddr::new(*address, self.port).fmt(f),
            Host::Name(name) => write!(f, "{name}:{}", self.port),
        }
    }
}

/// How a program asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// One plain HTTP request.
    Http,
    /// CONNECT of HTTP.
    Connect,
    /// CONNECT of SOCKS5.
    Socks,
}

impl Protocol {
    /// For logs.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Connect => "connect",
            Self::Socks => "socks",
        }
    }
}

/// Why a connection is against the rules.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// The workspace reaches nothing.
    #[error("{0} is not allowed: this workspace reaches nothing")]
    NoEgress(Target),
    /// The allow-list does not name it.
    #[error("{0} is not on the allow-list of this workspace")]
    NotListed(Target),
    /// Mail to strangers.
    #[error("{0} is not allowed: port 25 is closed")]
    PortClosed(Target),
    /// An address that is not of the public Internet.
    #[error("{target} is not allowed: {address} is {range}")]
    Address {
        /// Where to.
        target: Target,
        /// The address that it stands for; the first one of several.
        address: core::net::IpAddr,
        /// What the address is.
        range: Range,
    },
    /// Not a host.
    #[error("not a host: {0}")]
    Host(#[from] HostError),
    /// What is said in the connection is for somebody else.
    #[error("the connection to {target} is closed: {mismatch}")]
    Mismatch {
        /// Where to.
        target: Target,
        /// Who it is for.
        mismatch: Mismatch,
    },
    /// The rules changed while it was open.
    #[error("the connection to {0} is closed: the rules of this workspace have changed")]
    RulesChanged(Target),
}

impl Denial {
    /// Stable, in capitals.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoEgress(_) => "NO_EGRESS",
            Self::NotListed(_) => "NOT_LISTED",
            Self::PortClosed(_) => "PORT_CLOSED",
            Self::Address { .. } => "ADDRESS_REFUSED",
            Self::Host(_) => "HOST_INVALID",
            Self::Mismatch { .. } => "HOST_MISMATCH",
            Self::RulesChanged(_) => "RULES_CHANGED",
        }
    }

    /// What a person may do about it in a workspace of this name; empty where
    /// nothing helps.
    #[must_use]
    pub fn advice(&self, workspace: &str) -> String {
        match self {
            Self::NoEgress(target) | Self::NotListed(target) => {
                let host = HostPattern::exactly(target);
                format!(
                    "to allow it, on the host: compyctl workspace egress {workspace} --egress allow --allow {host} (it replaces the list)"
                )
            }
            Self::PortClosed(_) => "submit mail on port 465 or 587".to_owned(),
            Self::Address { .. } => {
                "an operator may name the network in egress.allow_networks of compyd".to_owned()
            }
            Self::Host(_) => {
                "write a DNS name, or an address in its usual form: 192.0.2.1, [2001:db8::1]"
                    .to_owned()
            }
            Self::Mismatch { .. } => "connect to the host that is meant".to_owned(),
            Self::RulesChanged(_) => String::new(),
        }
    }
}

/// A decision on one connection, as it is told to whoever watches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EgressDecision {
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Whose connection.
    pub workspace: WorkspaceId,
    /// Which of the workspace's decisions since the daemon started, from 1: a
    /// watcher that misses some knows how many.
    pub number: u64,
    /// Where to, as the program wrote it where it is not a host.
    pub target: String,
    /// How it asked.
    pub protocol: Protocol,
    /// What was decided.
    pub outcome: EgressOutcome,
}

/// What was decided on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EgressOutcome {
    /// It is allowed and was connected to this address.
    Allowed(SocketAddr),
    /// It is against the rules, from the start or since.
    Denied(Denial),
    /// It is allowed and did not come about; says why.
    Failed(String),
}
