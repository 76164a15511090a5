//! Which daemon is the right one: the one whose certificate is of an authority
//! that this account trusts.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme,
};

use crate::exit::Failure;

/// SHA-256 of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fingerprint([u8; 32]);

impl Fingerprint {
    fn of(certificate: &CertificateDer<'_>) -> Self {
        let hash = ring::digest::digest(&ring::digest::SHA256, certificate);
        let mut bytes = [0; 32];
        bytes.copy_from_slice(hash.as_ref());
        Self(bytes)
    }
}

impl std::str::FromStr for Fingerprint {
    type Err = String;

    /// Reads 64 hex digits, with `sha256:` before them or not, with colons between
    /// them or not.
    fn from_str(text: &str) -> Result<Self, String> {
        let hex = text
            .strip_prefix("sha256:")
            .unwrap_or(text)
            .replace(':', "");
        let expected = || "write sha256: and 64 hex digits, as the daemon's log does".to_owned();
        if hex.len() != 64 || !hex.is_ascii() {
            return Err(expected());
        }
        let mut bytes = [0; 32];
        for (byte, digits) in bytes.iter_mut().zip(hex.as_bytes().chunks(2)) {
            let digits = std::str::from_utf8(digits).map_err(|_| expected())?;
            *byte = u8::from_str_radix(digits, 16).map_err(|_| expected())?;
        }
        Ok(Self(bytes))
    }
}

/// An authority that is trusted.
#[derive(Debug, Clone)]
pub(crate) struct Trust {
    pinned: Option<Fingerprint>,
    /// Known from the begin, or once the daemon has shown the one that is pinned.
    authority: Arc<OnceLock<CertificateDer<'static>>>,
}

impl Trust {
    /// The authority with this fingerprint, which the daemon shows.
    pub(crate) fn pinned(fingerprint: Fingerprint) -> Self {
        Self {
            pinned: Some(fingerprint),
            authority: Arc::default(),
        }
    }

    /// The authority in this PEM.
    pub(crate) fn in_pem(pem: &str) -> Result<Self, String> {
        let authority = CertificateDer::from_pem_slice(pem.as_bytes());
        let authority = authority.map_err(|error| error.to_string())?;
        Ok(Self {
            pinned: None,
            authority: Arc::new(OnceLock::from(authority)),
        })
    }

    /// The authority in this file.
    pub(crate) fn in_file(file: &Path) -> Result<Self, Failure> {
        let read = std::fs::read_to_string(file).map_err(|error| error.to_string());
        read.and_then(|pem| Self::in_pem(&pem)).map_err(|error| {
            Failure::usage(
                format!("{} holds no certificate: {error}", file.display()),
                "name a copy of tls/ca.crt from the daemon's data directory",
            )
        })
    }

    /// The authority in PEM, once it is known.
    pub(crate) fn authority_pem(&self) -> Option<String> {
        let authority = self.authority.get()?;
        let base64 = base64(authority);
        let lines: Vec<&str> = base64
            .as_bytes()
            .chunks(64)
            .filter_map(|line| std::str::from_utf8(line).ok())
            .collect();
        let body = lines.join("\n");
        Some(format!(
            "-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n"
        ))
    }

    /// What a client that trusts it uses.
    pub(crate) fn client_config(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(rustls::DEFAULT_VERSIONS)?;
        let verifier = Arc::new(OfAuthority {
            trust: self.clone(),
            provider,
        });
        let mut config = builder
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"h2".to_vec()];
        Ok(config)
    }

    /// The authority among what a daemon shows, if it is trusted.
    fn authority_in(&self, shown: &[CertificateDer<'_>]) -> Option<CertificateDer<'static>> {
        if let Some(known) = self.authority.get() {
            return Some(known.clone());
        }
        let pinned = self.pinned?;
        let found = shown.iter().find(|it| Fingerprint::of(it) == pinned)?;
        Some(found.clone().into_owned())
    }
}

/// Accepts certificates of one authority, for the name that was dialled, as long
/// as they are good. rustls checks all of that; this only says by which authority.
#[derive(Debug)]
struct OfAuthority {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl OfAuthority {
    fn verifier(
        &self,
        authority: CertificateDer<'static>,
    ) -> Result<Arc<WebPkiServerVerifier>, Error> {
        let mut roots = RootCertStore::empty();
        roots.add(authority)?;
        let builder =
            WebPkiServerVerifier::builder_with_provider(Arc::new(roots), self.provider.clone());
        let built = builder.build();
        built.map_err(|error| Error::General(error.to_string()))
    }
}

impl ServerCertVerifier for OfAuthority {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authority = self.trust.authority_in(shown);
        let authority = authority.ok_or(CertificateError::UnknownIssuer)?;
        let verified = self
            .verifier(authority.clone())?
            .verify_server_cert(server, shown, name, ocsp, now)?;
        // It is there already when it was trusted from the begin.
        let _ = self.trust.authority.set(authority);
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

/// What to tell a person when a certificate is refused; `None` when something else
/// went wrong.
pub(crate) fn refused(
    error: &(dyn std::error::Error + 'static),
    endpoint: &str,
) -> Option<Failure> {
    let (why, advice) = match tls_error(error)? {
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => (
            "it is not for this name",
            "dial a name that the daemon has, or add this one to tls.names of the daemon and start it again".to_owned(),
        ),
        Error::InvalidCertificate(
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. },
        ) => (
            "it is not good at this time",
            "compare the clocks of both machines; the daemon makes another certificate when it starts".to_owned(),
        ),
        Error::InvalidCertificate(_) => (
            "it is not of the authority that you trust",
            format!("somebody may be between you and the daemon. If its data directory was made anew, log in again with the fingerprint that its log says: `compyctl login {endpoint} --ca-fingerprint sha256:...`"),
        ),
        Error::InvalidMessage(_) => {
            return Some(Failure::local(
                format!("{endpoint} does not speak TLS"),
                "dial the port that the daemon listens on with https://; its log says which",
            ));
        }
        _ => return None,
    };
    Some(Failure::local(
        format!("the certificate of {endpoint} is refused: {why}"),
        advice,
    ))
}

/// What rustls says, wherever in an error that is.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<Error>() {
            return Some(found);
        }
        // The source of an I/O error is the source of what it wraps.
        let wrapped = error.downcast_ref::<std::io::Error>();
        if let Some(found) = wrapped.and_then(|it| it.get_ref()?.downcast_ref::<Error>()) {
            return Some(found);
        }
        next = error.source();
    }
    None
}

fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let mut number = [0; 3];
        number[..three.len()].copy_from_slice(three);
        let number = u32::from_be_bytes([0, number[0], number[1], number[2]]);
        for place in 0..4 {
            let digit = (number >> (18 - 6 * place)) & 63;
            text.push(match place <= three.len() {
                true => char::from(DIGITS[digit as usize]),
                false => '=',
            });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fingerprint_is_read_in_every_form_that_programs_print() {
        let hex = "ab".repeat(32);
        let colons = vec!["AB"; 32].join(":");
        for good in [&hex, &format!("sha256:{hex}"), &colons] {
            assert_eq!(good.parse(), Ok(Fingerprint([0xab; 32])), "{good}");
        }
        for bad in ["", "sha256:", &hex[1..], &"zz".repeat(32), &"é".repeat(32)] {
            assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
        }
    }

    #[test]
    fn pem_is_what_was_read() {
        for length in [0_u8, 1, 2, 3, 100, 255] {
            let bytes: Vec<u8> = (0..length).collect();
            let trust = Trust {
                pinned: None,
                authority: Arc::new(OnceLock::from(CertificateDer::from(bytes.clone()))),
            };
            let pem = trust.authority_pem().unwrap();
            let again = Trust::in_pem(&pem).unwrap();
            assert_eq!(again.authority.get().unwrap().as_ref(), bytes);
        }
        assert!(Trust::in_pem("no certificate").is_err());
    }
}
