//! Private keys as OpenSSH writes them, and the keys of hosts.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use ring::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P256_SHA256_FIXED_SIGNING, ED25519, EcdsaKeyPair,
        Ed25519KeyPair, KeyPair as _, RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA512,
        RsaPublicKeyComponents, UnparsedPublicKey,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    rsa,
    wire::{Reader, fixed, positive, put, strings, unsigned},
};

const BEGIN: &str = "-----BEGIN OPENSSH PRIVATE KEY-----";
const END: &str = "-----END OPENSSH PRIVATE KEY-----";
const MAGIC: &[u8] = b"openssh-key-v1\0";

/// Characters of a line that is a secret by itself.
const MIN_LINE: usize = 20;

const KIND_ED25519: &str = "ssh-ed25519";
const KIND_P256: &str = "ecdsa-sha2-nistp256";
const KIND_RSA: &str = "ssh-rsa";
const CURVE_P256: &[u8] = b"nistp256";

/// A private key. It has no `Debug`.
pub struct SshKey {
    public: Vec<u8>,
    pair: Pair,
}

enum Pair {
    Ed25519(Box<Ed25519KeyPair>),
    P256(Box<EcdsaKeyPair>),
    Rsa(Box<ring::rsa::KeyPair>),
}

/// Why a text is no private key to work with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SshKeyError {
    /// It is none of OpenSSH.
    #[error(
        "it is no private key of OpenSSH; make one with `ssh-keygen -t ed25519 -N ''`, or convert a copy of another with `ssh-keygen -p -N '' -f COPY`"
    )]
    Format,
    /// A passphrase protects it.
    #[error(
        "a passphrase protects it, which nobody could type; make a key of its own for this with `ssh-keygen -t ed25519 -N ''`, or take the passphrase off a copy with `ssh-keygen -p -N '' -f COPY`"
    )]
    Encrypted,
    /// It is of another kind.
    #[error(
        "it is of the kind {0}; ssh-ed25519, ecdsa-sha2-nistp256 and ssh-rsa are known: make one with `ssh-keygen -t ed25519 -N ''`"
    )]
    Kind(String),
    /// It is of RSA and too weak, too long, or its numbers do not belong together.
    #[error(
        "it is no sound key of RSA with 2048 to 4096 bits; make one with `ssh-keygen -t ed25519 -N ''`"
    )]
    Rsa,
}

impl SshKey {
    /// Reads the content of a key file.
    ///
    /// # Errors
    /// [`SshKeyError`].
    pub fn parse(file: &[u8]) -> Result<Self, SshKeyError> {
        let text = std::str::from_utf8(file).map_err(|_| SshKeyError::Format)?;
        let body = text.trim().strip_prefix(BEGIN);
        let body = body.and_then(|body| body.strip_suffix(END));
        let body: String = (body.ok_or(SshKeyError::Format)?.split_ascii_whitespace()).collect();
        let bytes = STANDARD.decode(body).map_err(|_| SshKeyError::Format)?;
        let bytes = bytes.strip_prefix(MAGIC).ok_or(SshKeyError::Format)?;
        let mut reader = Reader(bytes);
        let header = [reader.string(), reader.string(), reader.string()];
        let [Some(cipher), Some(_), Some(_)] = header else {
            return Err(SshKeyError::Format);
        };
        if cipher != b"none" {
            return Err(SshKeyError::Encrypted);
        }
        let mut reader = Reader(private(reader).ok_or(SshKeyError::Format)?);
        let (check, again) = (reader.number(), reader.number());
        let kind = reader.string().filter(|_| check == again);
        let kind = kind.ok_or(SshKeyError::Format)?;
        let kind = String::from_utf8_lossy(kind).into_owned();
        match kind.as_str() {
            KIND_ED25519 => ed25519(reader).ok_or(SshKeyError::Format),
            KIND_P256 => p256(reader).ok_or(SshKeyError::Format),
            KIND_RSA => rsa_key(reader),
            _ => Err(SshKeyError::Kind(kind.escape_debug().take(40).collect())),
        }
    }

    /// The public key, as SSH sends it.
    #[must_use]
    pub fn public(&self) -> &[u8] {
        &self.public
    }

    /// The names of the signatures it makes, the strongest first.
    #[must_use]
    pub fn algorithms(&self) -> &'static [&'static str] {
        match self.pair {
            Pair::Ed25519(_) => &[KIND_ED25519],
            Pair::P256(_) => &[KIND_P256],
            Pair::Rsa(_) => &rsa::ALGORITHMS,
        }
    }

    /// A signature by one of its [`algorithms`](Self::algorithms), as SSH sends it;
    /// `None` for another, and when there are no random numbers.
    #[must_use]
    pub fn sign(&self, algorithm: &str, data: &[u8], random: &SystemRandom) -> Option<Vec<u8>> {
        if !self.algorithms().contains(&algorithm) {
            return None;
        }
        let signature = match &self.pair {
            Pair::Ed25519(pair) => pair.sign(data).as_ref().to_vec(),
            Pair::P256(pair) => {
                let signature = pair.sign(random, data).ok()?;
                let (r, s) = signature.as_ref().split_at(32);
                strings(&[&positive(r), &positive(s)])
            }
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public().modulus_len()];
                let padding = rsa::padding(algorithm)?;
                pair.sign(padding, random, data, &mut signature).ok()?;
                signature
            }
        };
        Some(strings(&[algorithm.as_bytes(), &signature]))
    }
}

/// The private part of a file with one key.
fn private(mut reader: Reader<'_>) -> Option<&[u8]> {
    let count = reader.number()?;
    let _public = reader.string()?;
    let private = reader.string()?;
    reader.end()?;
    (count == 1).then_some(private)
}

/// What must not be seen of a key file: its lines but the first, which is the same
/// in every file without a passphrase, and all of them together. A short last line is
/// often the end of a comment alone.
#[must_use]
pub fn secrets_of(file: &[u8]) -> Vec<Vec<u8>> {
    let lines = file.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii);
    let body = lines.filter(|line| !line.is_empty() && !line.starts_with(b"-----"));
    let secret: Vec<Vec<u8>> = body.skip(1).map(<[u8]>::to_vec).collect();
    let together = secret.concat();
    let long = secret.into_iter().filter(|line| line.len() >= MIN_LINE);
    long.chain([together]).collect()
}

fn ed25519(mut reader: Reader<'_>) -> Option<SshKey> {
    let public = reader.string()?;
    let seed = reader.string()?.get(..32)?;
    let pair = Ed25519KeyPair::from_seed_and_public_key(seed, public).ok()?;
    Some(SshKey {
        public: strings(&[KIND_ED25519.as_bytes(), pair.public_key().as_ref()]),
        pair: Pair::Ed25519(Box::new(pair)),
    })
}

fn p256(mut reader: Reader<'_>) -> Option<SshKey> {
    let curve = reader.string()?;
    let point = reader.string()?;
    let number: [u8; 32] = fixed(reader.string()?)?;
    let pair = EcdsaKeyPair::from_private_key_and_public_key(
        &ECDSA_P256_SHA256_FIXED_SIGNING,
        &number,
        point,
        &SystemRandom::new(),
    );
    (curve == CURVE_P256).then_some(())?;
    Some(SshKey {
        public: strings(&[KIND_P256.as_bytes(), CURVE_P256, point]),
        pair: Pair::P256(Box::new(pair.ok()?)),
    })
}

fn rsa_key(reader: Reader<'_>) -> Result<SshKey, SshKeyError> {
    let numbers = rsa::Numbers::read(reader).ok_or(SshKeyError::Format)?;
    let pair = numbers.pair().ok_or(SshKeyError::Rsa)?;
    Ok(SshKey {
        public: strings(&[KIND_RSA.as_bytes(), numbers.e, numbers.n]),
        pair: Pair::Rsa(Box::new(pair)),
    })
}

/// The public key of a host, as a line of `known_hosts` has it: `KIND BASE64`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HostKey {
    kind: String,
    blob: Vec<u8>,
}

/// Not the key of a host.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{0}` is no host key of the kinds ssh-ed25519, ecdsa-sha2-nistp256 or ssh-rsa; `ssh-keyscan -t ed25519 HOST` prints one, to be compared with what the host's operator says"
)]
pub struct HostKeyError(String);

impl HostKey {
    /// Every key in the text of a `known_hosts` or `.pub` file, of whatever host;
    /// comments are passed over.
    ///
    /// # Errors
    /// The first line that has no key.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, HostKeyError> {
        let lines = text.lines().map(str::trim);
        let lines = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        lines.map(Self::parse).collect()
    }

    fn parse(line: &str) -> Result<Self, HostKeyError> {
        let refused = || HostKeyError(line.escape_debug().take(80).collect());
        // A mark such as @revoked is no key to trust.
        let words: Vec<&str> = line.split_ascii_whitespace().collect();
        let words = match words.first() {
            Some(first) if first.starts_with('@') => return Err(refused()),
            Some(first) if is_kind(first) => &words[..],
            Some(_) => &words[1..],
            None => return Err(refused()),
        };
        let [kind, blob, ..] = words else {
            return Err(refused());
        };
        let blob = STANDARD.decode(blob).map_err(|_| refused())?;
        let named = Reader(&blob).string() == Some(kind.as_bytes());
        match named && is_kind(kind) {
            true => Ok(Self {
                kind: (*kind).to_owned(),
                blob,
            }),
            false => Err(refused()),
        }
    }

    /// The key, as SSH sends it.
    #[must_use]
    pub fn blob(&self) -> &[u8] {
        &self.blob
    }

    /// Whether it signed this.
    #[must_use]
    pub fn verifies(&self, data: &[u8], signature: &[u8]) -> bool {
        self.try_verify(data, signature).is_some()
    }

    fn try_verify(&self, data: &[u8], signature: &[u8]) -> Option<()> {
        let mut signature = Reader(signature);
        let (algorithm, bytes) = (signature.string()?, signature.string()?);
        signature.end()?;
        let mut key = Reader(&self.blob);
        key.string()?;
        match (self.kind.as_str(), algorithm) {
            (KIND_ED25519, b"ssh-ed25519") => {
                let key = UnparsedPublicKey::new(&ED25519, key.string()?);
                key.verify(data, bytes).ok()
            }
            (KIND_P256, b"ecdsa-sha2-nistp256") => {
                let (_curve, point) = (key.string()?, key.string()?);
                let mut numbers = Reader(bytes);
                let (r, s) = (numbers.string()?, numbers.string()?);
                let both: [[u8; 32]; 2] = [fixed(r)?, fixed(s)?];
                let key = UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point);
                key.verify(data, both.as_flattened()).ok()
            }
            (KIND_RSA, b"rsa-sha2-256" | b"rsa-sha2-512") => {
                let (e, n) = (key.string()?, key.string()?);
                let key = RsaPublicKeyComponents {
                    n: unsigned(n),
                    e: unsigned(e),
                };
                let parameters = match algorithm {
                    b"rsa-sha2-256" => &RSA_PKCS1_2048_8192_SHA256,
                    _ => &RSA_PKCS1_2048_8192_SHA512,
                };
                key.verify(parameters, data, bytes).ok()
            }
            _ => None,
        }
    }
}

fn is_kind(word: &str) -> bool {
    [KIND_ED25519, KIND_P256, KIND_RSA].contains(&word)
}

impl std::fmt::Display for HostKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {}", self.kind, STANDARD.encode(&self.blob))
    }
}

impl TryFrom<String> for HostKey {
    type Error = HostKeyError;

    fn try_from(line: String) -> Result<Self, HostKeyError> {
        Self::parse(&line)
    }
}

impl From<HostKey> for String {
    fn from(key: HostKey) -> Self {
        key.to_string()
    }
}

/// A key of a kind that is known, and its comment, as an agent lists it.
pub(super) fn listed(entries: &[(&[u8], &str)]) -> Vec<u8> {
    let count = u32::try_from(entries.len()).expect("credentials are few");
    let mut bytes = count.to_be_bytes().to_vec();
    for (public, comment) in entries {
        put(&mut bytes, public);
        put(&mut bytes, comment.as_bytes());
    }
    bytes
}
