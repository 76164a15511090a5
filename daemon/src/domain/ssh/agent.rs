//! What the daemon answers to SSH clients of a workspace, as an agent that lists
//! keys and signs logins, and does nothing else.
//!
//! A client first shows, by OpenSSH's `session-bind@openssh.com`, which host its
//! session is with: that host's signature over the session's id. A login is
//! signed only for a session that was shown so, with a host whose key the
//! credential names. Nothing else is ever signed, and no other request is answered.

use super::{
    HostKey,
    key::listed,
    wire::{Reader, strings},
};

/// The answer to whatever is not done.
pub const FAILURE: u8 = 5;
const SUCCESS: u8 = 6;
const REQUEST_IDENTITIES: u8 = 11;
const IDENTITIES_ANSWER: u8 = 12;
const SIGN_REQUEST: u8 = 13;
const SIGN_RESPONSE: u8 = 14;
const EXTENSION: u8 = 27;
const SESSION_BIND: &[u8] = b"session-bind@openssh.com";

const USERAUTH_REQUEST: u8 = 50;
const PUBLIC_KEY: &[u8] = b"publickey";
const PUBLIC_KEY_OF_HOST: &[u8] = b"publickey-hostbound-v00@openssh.com";

/// Sessions that one connection of a client may show.
const MOST_SESSIONS: usize = 16;

/// A key that logins may be signed with.
pub struct Identity {
    /// The credential's name.
    pub name: String,
    /// The public key, as SSH sends it.
    pub public: Vec<u8>,
    /// The names of the signatures it makes.
    pub algorithms: &'static [&'static str],
    /// The keys of the host it is for.
    pub host_keys: Vec<HostKey>,
}

/// What to do about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Send this.
    Message(Vec<u8>),
    /// Sign this login, and answer with [`signed`].
    Sign(LoginToSign),
}

/// A login that a client may have signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginToSign {
    /// The name of the credential whose key signs.
    pub name: String,
    /// Who is to be logged in.
    pub user: String,
    /// How it is signed.
    pub algorithm: &'static str,
    /// What is signed.
    pub data: Vec<u8>,
}

/// One connection of a client.
#[derive(Default)]
pub struct AgentSession {
    /// Ids of sessions, each with the key of its host.
    bound: Vec<(Vec<u8>, Vec<u8>)>,
}

impl AgentSession {
    /// What to do about a message. What is not understood is refused.
    pub fn answer(&mut self, message: &[u8], identities: &[Identity]) -> Reply {
        let mut reader = Reader(message);
        let reply = match reader.byte() {
            Some(REQUEST_IDENTITIES) if reader.0.is_empty() => {
                let entries: Vec<_> = (identities.iter())
                    .map(|identity| (&identity.public[..], identity.name.as_str()))
                    .collect();
                let listed = [&[IDENTITIES_ANSWER], &listed(&entries)[..]].concat();
                Some(Reply::Message(listed))
            }
            Some(SIGN_REQUEST) => self.sign(reader, identities),
            Some(EXTENSION) => (self.bind(reader, identities)).map(|()| message_of(SUCCESS)),
            Some(_) | None => None,
        };
        reply.unwrap_or_else(refused)
    }

    /// Takes note of a session that its host vouches for.
    fn bind(&mut self, mut reader: Reader<'_>, identities: &[Identity]) -> Option<()> {
        if reader.string()? != SESSION_BIND {
            return None;
        }
        let (host_key, id, signature) = (reader.string()?, reader.string()?, reader.string()?);
        let forwarded = reader.byte()?;
        reader.end()?;
        let keys = identities.iter().flat_map(|identity| &identity.host_keys);
        let mut pinned = keys.filter(|key| key.blob() == host_key);
        let shown = forwarded == 0
            && self.bound.len() < MOST_SESSIONS
            && (pinned.next()).is_some_and(|key| key.verifies(id, signature));
        shown.then(|| self.bound.push((id.to_vec(), host_key.to_vec())))
    }

    fn sign(&self, mut reader: Reader<'_>, identities: &[Identity]) -> Option<Reply> {
        let (public, data) = (reader.string()?, reader.string()?);
        let _flags = reader.number()?;
        reader.end()?;
        let identity = (identities.iter()).find(|identity| identity.public == public)?;
        let login = Login::parse(data)?;
        let (_, host_key) = (self.bound.iter()).find(|(id, _)| id == login.session)?;
        let algorithm = (identity.algorithms.iter())
            .find(|algorithm| algorithm.as_bytes() == login.algorithm)?;
        let is_host = |key: &HostKey| key.blob() == host_key;
        let sound = identity.host_keys.iter().any(is_host)
            && login.host_key.is_none_or(|named| named == host_key)
            && login.public == public;
        sound.then(|| {
            Reply::Sign(LoginToSign {
                name: identity.name.clone(),
                user: String::from_utf8_lossy(login.user).into_owned(),
                algorithm,
                data: data.to_vec(),
            })
        })
    }
}

/// What a client wants signed to log in (RFC 4252, section 7).
struct Login<'a> {
    session: &'a [u8],
    user: &'a [u8],
    algorithm: &'a [u8],
    public: &'a [u8],
    /// Where the request names its host.
    host_key: Option<&'a [u8]>,
}

impl<'a> Login<'a> {
    fn parse(data: &'a [u8]) -> Option<Self> {
        let mut reader = Reader(data);
        let session = reader.string()?;
        let is_request = reader.byte()? == USERAUTH_REQUEST;
        let (user, service, method) = (reader.string()?, reader.string()?, reader.string()?);
        let is_signed = reader.byte()? == 1;
        let (algorithm, public) = (reader.string()?, reader.string()?);
        let host_key = match method {
            PUBLIC_KEY => None,
            PUBLIC_KEY_OF_HOST => Some(reader.string()?),
            _ => return None,
        };
        reader.end()?;
        (is_request && is_signed && service == b"ssh-connection").then_some(Self {
            session,
            user,
            algorithm,
            public,
            host_key,
        })
    }
}

/// The answer with a signature.
#[must_use]
pub fn signed(signature: &[u8]) -> Vec<u8> {
    [&[SIGN_RESPONSE], &strings(&[signature])[..]].concat()
}

/// The answer to whatever is not done.
#[must_use]
pub fn refused() -> Reply {
    message_of(FAILURE)
}

fn message_of(kind: u8) -> Reply {
    Reply::Message(vec![kind])
}
