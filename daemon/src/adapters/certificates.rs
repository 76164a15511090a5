//! The daemon's own certificate authority, made at first use, and the certificate
//! that it serves with.
//!
//! Clients trust the authority. What the daemon shows them is made anew at each
//! start, for the names that count then, and again long before it ends; its key is
//! on no disk. A lost authority is made anew as well, and clients log in again.

use std::{
    collections::BTreeSet,
    fs, io,
    net::{IpAddr, SocketAddr},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, KeyUsagePurpose,
};
use ring::digest::{SHA256, digest};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject as _},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;
use tokio_util::sync::CancellationToken;

use super::disk_space;

/// What the authority is called.
const AUTHORITY: &str = "Compy certificate authority";
/// How long the authority is good for.
const AUTHORITY_FOR: time::Duration = time::Duration::days(20 * 365);
/// How long what is served is good for.
const SERVED_FOR: time::Duration = time::Duration::days(60);
/// How often it is made anew.
const RENEW_EVERY: Duration = Duration::from_secs(20 * 24 * 60 * 60);
/// After a failure to do so.
const RENEW_AGAIN: Duration = Duration::from_secs(60 * 60);
/// Clocks of clients may be behind by this.
const CLOCKS: time::Duration = time::Duration::days(1);

/// Why there is no certificate.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be used.
    #[error("{} cannot be {action}: {source}; the daemon's account must own it", file.display())]
    Io {
        /// The file.
        file: PathBuf,
        /// What was tried.
        action: &'static str,
        /// The cause.
        source: io::Error,
    },
    /// Others may read the key.
    #[error("others may read {} (mode {mode:o}): make it unreadable for them (`chmod 600`); if they may have read it, delete the directory, and let clients log in again", file.display())]
    Exposed {
        /// The key.
        file: PathBuf,
        /// Its mode.
        mode: u32,
    },
    /// What is on disk is no authority.
    #[error("{} holds no certificate authority: {message}; put both files back, or delete the directory, and let clients log in again", dir.display())]
    Damaged {
        /// The directory of both files.
        dir: PathBuf,
        /// The cause.
        message: String,
    },
    /// A certificate cannot be made.
    #[error("a certificate cannot be made for {names}: {message}")]
    NotMade {
        /// For whom.
        names: String,
        /// The cause.
        message: String,
    },
}

/// Whether the authority was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authority {
    /// It was made just now: nobody trusts it yet.
    New,
    /// Clients may trust it already.
    Kept,
}

/// The authority and what it has signed last.
#[derive(Debug)]
pub struct Certificates {
    dir: PathBuf,
    authority: CertificateDer<'static>,
    names: Vec<String>,
    served: Arc<Served>,
    /// Whether the authority was made by this.
    pub origin: Authority,
}

impl Certificates {
    /// Opens the authority in a directory, or makes one there, and signs a
    /// certificate for these names and addresses.
    ///
    /// # Errors
    /// See [`CertificateError`].
    pub fn open(dir: &Path, names: BTreeSet<String>) -> Result<Self, CertificateError> {
        let (key_file, certificate_file) = (dir.join("ca.key"), dir.join("ca.crt"));
        let origin = match key_file.exists() {
            true => Authority::Kept,
            false => {
                make_authority(dir, &key_file, &certificate_file)?;
                Authority::New
            }
        };
        let pem = fs::read(&certificate_file)
            .map_err(|source| io_error(&certificate_file, "read", source))?;
        let authority =
            CertificateDer::from_pem_slice(&pem).map_err(|error| damaged(dir, &error))?;
        let names: Vec<String> = names.into_iter().collect();
        let served = sign(dir, &authority, &names)?;
        Ok(Self {
            dir: dir.to_owned(),
            authority,
            names,
            served: Arc::new(Served(RwLock::new(Arc::new(served)))),
            origin,
        })
    }

    /// SHA-256 of the authority's certificate: "sha256:" and 64 hex digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash = digest(&SHA256, &self.authority);
        let hex: String = hash.as_ref().iter().map(|b| format!("{b:02x}")).collect();
        format!("sha256:{hex}")
    }

    /// What a server with this certificate uses.
    ///
    /// # Panics
    /// Never: the versions are the provider's own.
    #[must_use]
    pub fn server_config(&self) -> Arc<ServerConfig> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)
            .expect("the provider has the versions of its own")
            .with_no_client_auth();
        let mut config = config.with_cert_resolver(self.served.clone());
        config.alpn_protocols = vec![b"h2".to_vec()];
        Arc::new(config)
    }

    /// Signs another certificate before the one that is served ends. On cancel it
    /// ends at once; a failure is logged and tried again in an hour.
    pub async fn renew(self, stop: CancellationToken) {
        let mut wait = RENEW_EVERY;
        while stop
            .run_until_cancelled(tokio::time::sleep(wait))
            .await
            .is_some()
        {
            wait = match sign(&self.dir, &self.authority, &self.names) {
                Ok(signed) => {
                    self.served.replace(signed);
                    tracing::info!("the server's certificate is renewed");
                    RENEW_EVERY
                }
                Err(error) => {
                    tracing::warn!(%error, "the server's certificate is not renewed");
                    RENEW_AGAIN
                }
            };
        }
    }
}

/// What is shown to clients that connect now.
#[derive(Debug)]
struct Served(RwLock<Arc<CertifiedKey>>);

impl Served {
    fn replace(&self, signed: CertifiedKey) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(signed);
    }
}

impl ResolvesServerCert for Served {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let served = self.0.read().unwrap_or_else(PoisonError::into_inner);
        Some(served.clone())
    }
}

/// The names and addresses that clients may reach these sockets by: those that
/// are listened on, this machine's own where that is all of them, and `more`.
#[must_use]
pub fn names_of(listen: &[SocketAddr], more: &[String]) -> BTreeSet<String> {
    let loopback = ["localhost", "127.0.0.1", "::1"].map(str::to_owned);
    let mut names: BTreeSet<String> = loopback.into_iter().chain(more.iter().cloned()).collect();
    if let Ok(host) = nix::unistd::gethostname() {
        let host = host.to_string_lossy().into_owned();
        if rustls::pki_types::ServerName::try_from(host.as_str()).is_ok() {
            names.insert(host);
        }
    }
    for address in listen {
        match address.ip().is_unspecified() {
            true => names.extend(own_addresses().iter().map(ToString::to_string)),
            false => drop(names.insert(address.ip().to_string())),
        }
    }
    names
}

fn own_addresses() -> Vec<IpAddr> {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let addresses = interfaces.filter_map(|interface| {
        let address = interface.address?;
        let v4 = address.as_sockaddr_in().map(|it| IpAddr::V4(it.ip()));
        v4.or_else(|| address.as_sockaddr_in6().map(|it| IpAddr::V6(it.ip())))
    });
    addresses.collect()
}

fn authority_params() -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params
        .distinguished_name
        .push(DnType::CommonName, AUTHORITY);
    // It signs servers and nothing below itself.
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = OffsetDateTime::now_utc() - CLOCKS;
    params.not_after = OffsetDateTime::now_utc() + AUTHORITY_FOR;
    params
}

/// Both files are there when this returns, the key last: without it, it is done
/// again.
fn make_authority(
    dir: &Path,
    key_file: &Path,
    certificate_file: &Path,
) -> Result<(), CertificateError> {
    let failed = |error: rcgen::Error| CertificateError::NotMade {
        names: AUTHORITY.to_owned(),
        message: error.to_string(),
    };
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)
        .map_err(|source| io_error(dir, "made", source))?;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = authority_params().self_signed(&key).map_err(failed)?;
    write(certificate_file, certificate.pem().as_bytes(), 0o644)?;
    write(key_file, key.serialize_pem().as_bytes(), 0o600)
}

fn write(file: &Path, content: &[u8], mode: u32) -> Result<(), CertificateError> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let unready = file.with_extension("new");
    let written = (|| {
        let _ = fs::remove_file(&unready);
        let mut opened = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&unready)?;
        opened.write_all(content)?;
        opened.sync_all()?;
        fs::rename(&unready, file)?;
        disk_space::sync_dir(file.parent().unwrap_or(Path::new("/")))
    })();
    written.map_err(|source| io_error(file, "written", source))
}

/// A new key with a certificate that the authority signs.
fn sign(
    dir: &Path,
    authority: &CertificateDer<'static>,
    names: &[String],
) -> Result<CertifiedKey, CertificateError> {
    let not_made = |message: String| CertificateError::NotMade {
        names: names.join(", "),
        message,
    };
    let key_file = dir.join("ca.key");
    let unread = |source| io_error(&key_file, "read", source);
    let mode = fs::metadata(&key_file)
        .map_err(unread)?
        .permissions()
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(CertificateError::Exposed {
            file: key_file,
            mode,
        });
    }
    let pem = fs::read_to_string(&key_file).map_err(unread)?;
    let authority_key = KeyPair::from_pem(&pem).map_err(|error| damaged(dir, &error))?;
    // What is signed names its issuer, and the key that signs it, by these.
    let issuer = Issuer::new(authority_params(), authority_key);
    let failed = |error: rcgen::Error| not_made(error.to_string());
    let mut params = CertificateParams::new(names.to_vec()).map_err(failed)?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, "compyd");
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = OffsetDateTime::now_utc() - CLOCKS;
    params.not_after = OffsetDateTime::now_utc() + SERVED_FOR;
    let key = KeyPair::generate().map_err(failed)?;
    let certificate = params.signed_by(&key, &issuer).map_err(failed)?;
    let chain = vec![certificate.der().clone(), authority.clone()];
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider).map_err(|error| not_made(error.to_string()))
}

fn io_error(file: &Path, action: &'static str, source: io::Error) -> CertificateError {
    CertificateError::Io {
        file: file.to_owned(),
        action,
        source,
    }
}

fn damaged(dir: &Path, error: &dyn std::fmt::Display) -> CertificateError {
    CertificateError::Damaged {
        dir: dir.to_owned(),
        message: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use rustls::{
        RootCertStore,
        client::{WebPkiServerVerifier, danger::ServerCertVerifier as _},
        pki_types::{ServerName, UnixTime},
    };

    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    /// Whether a client that trusts one authority accepts what another daemon, or
    /// the same one later, serves under a name at some time from now.
    fn accepts(trusted: &Certificates, served: &Certificates, name: &str, days: u64) -> bool {
        let mut roots = RootCertStore::empty();
        roots.add(trusted.authority.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
        let verifier = verifier.build().unwrap();
        let shown = served.served.0.read().unwrap().cert.clone();
        let (server, rest) = shown.split_first().unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let now = UnixTime::now().as_secs() + days * 24 * 60 * 60;
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now));
        verifier
            .verify_server_cert(server, rest, &name, &[], now)
            .is_ok()
    }

    #[test]
    fn an_authority_is_made_once_and_what_it_signs_is_accepted_by_its_names() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("tls");
        let first = Certificates::open(&dir, names(&["localhost", "10.1.2.3"])).unwrap();
        assert_eq!(first.origin, Authority::New);
        let mode = |file: &str| fs::metadata(dir.join(file)).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode("ca.key"), mode("")), (0o600, 0o700));
        assert!(accepts(&first, &first, "localhost", 0) && accepts(&first, &first, "10.1.2.3", 0));
        assert!(!accepts(&first, &first, "compy.example", 0));
        let second = Certificates::open(&dir, names(&["compy.example"])).unwrap();
        assert_eq!(second.origin, Authority::Kept);
        assert_eq!(first.fingerprint(), second.fingerprint());
        assert!(
            accepts(&first, &second, "compy.example", 0),
            "of the same authority"
        );
        let other = tempfile::tempdir().unwrap();
        let other = Certificates::open(other.path(), names(&["localhost"])).unwrap();
        assert!(!accepts(&first, &other, "localhost", 0), "of another one");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_served_is_renewed_before_it_ends() {
        let dir = tempfile::tempdir().unwrap();
        let made = Certificates::open(dir.path(), names(&["localhost"])).unwrap();
        assert!(accepts(&made, &made, "localhost", 59) && !accepts(&made, &made, "localhost", 61));
        let served = made.served.clone();
        let shown = move || served.0.read().unwrap().cert[0].clone();
        let before = shown();
        let stop = CancellationToken::new();
        let renewing = tokio::spawn(made.renew(stop.clone()));
        tokio::time::sleep(RENEW_EVERY - Duration::from_secs(1)).await;
        assert_eq!(shown(), before);
        tokio::time::sleep(Duration::from_secs(2)).await;
        assert_ne!(shown(), before);
        stop.cancel();
        renewing.await.unwrap();
    }

    #[test]
    fn a_key_that_others_may_read_and_files_that_hold_nothing_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = dir.path().join("ca.key");
        drop(Certificates::open(dir.path(), names(&["localhost"])).unwrap());
        fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
        let exposed = Certificates::open(dir.path(), names(&["localhost"])).unwrap_err();
        assert!(matches!(
            exposed,
            CertificateError::Exposed { mode: 0o640, .. }
        ));
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&key, "nothing").unwrap();
        let damaged = Certificates::open(dir.path(), names(&["localhost"])).unwrap_err();
        assert!(
            matches!(damaged, CertificateError::Damaged { .. }),
            "{damaged}"
        );
    }

    #[test]
    fn a_certificate_has_what_is_listened_on_and_what_is_configured() {
        let names = names_of(
            &["192.0.2.7:1".parse().unwrap()],
            &["compy.example".to_owned()],
        );
        for name in [
            "localhost",
            "127.0.0.1",
            "::1",
            "192.0.2.7",
            "compy.example",
        ] {
            assert!(names.contains(name), "{name}");
        }
        let all = names_of(&["0.0.0.0:1".parse().unwrap()], &[]);
        assert!(!all.contains("0.0.0.0") && all.contains("127.0.0.1"));
    }
}
