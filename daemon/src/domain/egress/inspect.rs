//! The first bytes of a connection: whom are they for?
//!
//! A server of many names goes by the name in the TLS hello or in the request's
//! `Host`. When that is not the host that was allowed, the connection is for
//! somebody else. Whatever is neither TLS nor HTTP says no name and passes.

use super::{Host, Target};

/// Bytes that are looked at; a hello or a request's head is never longer.
const MOST_BYTES: usize = 64 * 1024;
const MOST_HEADERS: usize = 128;

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
const SERVER_NAME: u16 = 0;
const HOST_NAME: u8 = 0;

/// A fatal alert of TLS, `unrecognized_name`: what a client is told whose hello
/// names another host.
pub const TLS_UNRECOGNIZED_NAME: [u8; 7] = [21, 3, 3, 0, 2, 2, 112];

/// What the first bytes say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inspection {
    /// Too few to tell; hold them back until more have come.
    More,
    /// Nothing against it.
    Clear,
    /// They are for somebody else.
    Mismatch(Mismatch),
}

/// Who a connection is for, where that is not its target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    /// The TLS hello names another host.
    #[error("its TLS hello names {0}")]
    Sni(String),
    /// The request names another host.
    #[error("its request names {0}")]
    Request(String),
    /// A hello or a head that is not sound: what it names cannot be told.
    #[error("its TLS hello or request is not sound")]
    Unsound,
}

/// Looks at the first bytes that a program sends to a target.
///
/// A target that is an address may be called anything: it was allowed for what
/// it is.
#[must_use]
pub fn inspect(target: &Target, bytes: &[u8]) -> Inspection {
    let Host::Name(name) = &target.host else {
        return Inspection::Clear;
    };
    let found = match bytes.first() {
        None => return Inspection::More,
        Some(&HANDSHAKE) => server_name(bytes),
        Some(_) => request_hosts(bytes),
    };
    match found {
        Found::More if bytes.len() >= MOST_BYTES => Inspection::Mismatch(Mismatch::Unsound),
        Found::More => Inspection::More,
        Found::Nothing => Inspection::Clear,
        Found::Unsound => Inspection::Mismatch(Mismatch::Unsound),
        Found::Sni(host) if is(&host, name) => Inspection::Clear,
        Found::Sni(host) => Inspection::Mismatch(Mismatch::Sni(host)),
        Found::Hosts(hosts) => hosts
            .into_iter()
            .find(|host| !is(host, name))
            .map_or(Inspection::Clear, |host| {
                Inspection::Mismatch(Mismatch::Request(host))
            }),
    }
}

fn is(said: &str, name: &str) -> bool {
    Host::parse(said).is_ok_and(|host| host == Host::Name(name.to_owned()))
}

/// What bytes name.
enum Found {
    More,
    Nothing,
    Unsound,
    Sni(String),
    Hosts(Vec<String>),
}

/// The hosts that an HTTP/1 request names: in its URL, in `Host`.
fn request_hosts(bytes: &[u8]) -> Found {
    let mut headers = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(_)) => {}
        Ok(httparse::Status::Partial) => return Found::More,
        // A request with more headers than that is a request.
        Err(httparse::Error::TooManyHeaders) => return Found::Unsound,
        // Another protocol, unless it got beyond the first line.
        Err(_) if request.version.is_some() => return Found::Unsound,
        Err(_) => return Found::Nothing,
    }
    let mut hosts = Vec::new();
    let url = request.path.unwrap_or_default();
    if let Some((_, rest)) = url.split_once("://") {
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit('@').next().unwrap_or_default();
        hosts.push(without_port(host).to_owned());
    }
    let named = request
        .headers
        .iter()
        .filter(|header| header.name.eq_ignore_ascii_case("host"))
        .map(|header| String::from_utf8_lossy(header.value));
    hosts.extend(named.map(|host| without_port(host.trim()).to_owned()));
    Found::Hosts(hosts)
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => host,
    }
}

/// The server name in a TLS hello, which may be spread over several records.
fn server_name(bytes: &[u8]) -> Found {
    let mut hello = Vec::new();
    let mut records = Reader(bytes);
    loop {
        // Type, version, and a fragment.
        let Some(kind) = records.byte() else {
            return Found::More;
        };
        if kind != HANDSHAKE {
            return Found::Unsound;
        }
        let Some(version) = records.number(2) else {
            return Found::More;
        };
        if version >> 8 != 3 {
            return Found::Unsound;
        }
        let Some(length) = records.number(2) else {
            return Found::More;
        };
        let part = &records.0[..length.min(records.0.len())];
        hello.extend_from_slice(part);
        if let [kind, ..] = hello[..]
            && kind != CLIENT_HELLO
        {
            return Found::Unsound;
        }
        if let [_, a, b, c, rest @ ..] = &hello[..] {
            let whole = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
            if rest.len() >= whole {
                let name = name_in_hello(&rest[..whole]);
                return name.unwrap_or(Found::Unsound);
            }
        }
        if records.take(length).is_none() {
            return Found::More;
        }
    }
}

/// `None` when the hello is not sound.
fn name_in_hello(hello: &[u8]) -> Option<Found> {
    let mut hello = Reader(hello);
    hello.take(2 + 32)?; // Version and random.
    hello.vector(1)?; // Session.
    hello.vector(2)?; // Cipher suites.
    hello.vector(1)?; // Compression methods.
    if hello.0.is_empty() {
        return Some(Found::Nothing);
    }
    let mut extensions = Reader(hello.vector(2)?);
    let mut found = None;
    while !extensions.0.is_empty() {
        let kind = u16::try_from(extensions.number(2)?).ok()?;
        let content = extensions.vector(2)?;
        if kind != SERVER_NAME {
            continue;
        }
        let mut names = Reader(Reader(content).vector(2)?);
        let is_host = names.byte()? == HOST_NAME;
        let name = names.vector(2)?;
        // One name of one kind, once (RFC 6066, section 3).
        if !is_host || !names.0.is_empty() || found.is_some() {
            return None;
        }
        found = Some(String::from_utf8_lossy(name).into_owned());
    }
    Some(found.map_or(Found::Nothing, Found::Sni))
}

/// Bytes, read from the front.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1).map(|bytes| bytes[0])
    }

    /// A big-endian number of so many bytes.
    fn number(&mut self, bytes: usize) -> Option<usize> {
        let taken = self.take(bytes)?;
        Some((taken.iter()).fold(0, |number, byte| number << 8 | usize::from(*byte)))
    }

    /// What follows its length, which has so many bytes.
    fn vector(&mut self, length_bytes: usize) -> Option<&'a [u8]> {
        let length = self.number(length_bytes)?;
        self.take(length)
    }
}
