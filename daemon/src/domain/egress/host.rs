//! Hosts as programs write them, in one form.
//!
//! The many spellings of an address are its weak point: what one parser takes
//! for a name another takes for 127.0.0.1. Here a host is an address in its
//! usual form or a DNS name, and anything that some parser could take for an
//! address in another form is neither.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::fmt;

const LONGEST_NAME: usize = 253;
const LONGEST_LABEL: usize = 63;
const LONGEST_SHOWN: usize = 80;

/// A host in its one form.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Host {
    /// A DNS name: lower case, ASCII, without a dot at its end, 1 to 253 bytes.
    /// Its last label is not a number.
    Name(String),
    /// An address. One of version 4 that is written as version 6
    /// (`::ffff:192.0.2.1`) is of version 4.
    Address(IpAddr),
}

/// Not a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` {problem}")]
pub struct HostError {
    given: String,
    problem: &'static str,
}

impl Host {
    /// Parses what a program wrote: a name or an address; one of version 6 with
    /// or without brackets.
    ///
    /// # Errors
    /// Anything else, what is wrong with it, and the text cut to a sound length.
    pub fn parse(given: &str) -> Result<Self, HostError> {
        parse(given).map_err(|problem| HostError {
            given: given.escape_debug().take(LONGEST_SHOWN).collect(),
            problem,
        })
    }

    /// The address in its one form.
    #[must_use]
    pub fn of_address(address: IpAddr) -> Self {
        Self::Address(address.to_canonical())
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(IpAddr::V4(address)) => address.fmt(f),
            Self::Address(IpAddr::V6(address)) => write!(f, "[{address}]"),
        }
    }
}

fn parse(given: &str) -> Result<Host, &'static str> {
    if let Some(inner) = given.strip_prefix('[') {
        let address = inner.strip_suffix(']').map(str::parse::<Ipv6Addr>);
        return match address {
            Some(Ok(address)) => Ok(Host::of_address(address.into())),
            Some(Err(_)) | None => Err("is not an address of version 6"),
        };
    }
    if given.contains(':') {
        let address: Result<Ipv6Addr, _> = given.parse();
        return address
            .map(|address| Host::of_address(address.into()))
            .map_err(|_| "is not an address of version 6");
    }
    if let Ok(address) = given.parse::<Ipv4Addr>() {
        return Ok(Host::Address(address.into()));
    }
    let name = given.strip_suffix('.').unwrap_or(given);
    check_name(name)?;
    Ok(Host::Name(name.to_ascii_lowercase()))
}

fn check_name(name: &str) -> Result<(), &'static str> {
    if !name.is_ascii() {
        return Err("has letters beyond ASCII; write it in its xn-- form");
    }
    if name.is_empty() || name.len() > LONGEST_NAME {
        return Err("is not a name of 1 to 253 characters");
    }
    for label in name.split('.') {
        let sound = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if label.is_empty() || label.len() > LONGEST_LABEL {
            return Err("has a part that is empty or longer than 63 characters");
        }
        if !label.bytes().all(sound) || label.starts_with('-') || label.ends_with('-') {
            return Err("has characters that names do not have");
        }
    }
    // "2130706433", "0x7f.1", "127.1" and "010.0.0.1" are addresses to some
    // parsers: those that end in a number, as the URL standard says it.
    let last = name.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last
        .strip_prefix("0x")
        .or_else(|| last.strip_prefix("0X"))
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err("is neither a name nor an address in its usual form");
    }
    Ok(())
}
