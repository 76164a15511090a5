//! Requests of git to an HTTPS host, over `rustls`.
//!
//! Only headers that git's protocol needs pass, either way. What the host says
//! besides success is put in the daemon's words: a page of a stranger could repeat
//! the login.

use std::{
    convert::Infallible,
    io,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    HeaderMap, Request, Response, StatusCode,
    body::Incoming,
    header::{self, HeaderName, HeaderValue},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject as _},
};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

use crate::{
    domain::{credential::CredentialHost, secret::Secret},
    ports::{
        git_relay::{GitGate, GitRelayPort},
        tunnel::BoxedBytes,
    },
};

/// For a program to say what it wants, and for a host to agree on keys.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_HEAD_BYTES: usize = 64 * 1024;

const TO_THE_HOST: [HeaderName; 6] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::CONTENT_ENCODING,
    header::CONTENT_TYPE,
    header::USER_AGENT,
    HeaderName::from_static("git-protocol"),
];
const FROM_THE_HOST: [HeaderName; 4] = [
    header::CACHE_CONTROL,
    header::CONTENT_ENCODING,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
];

type Answer = Response<BoxBody<Bytes, hyper::Error>>;

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct GitRelay {
    tls: TlsConnector,
    tasks: TaskTracker,
}

impl GitRelay {
    /// Trusts the authorities of this machine, and those in a file of PEM
    /// certificates. Connections to hosts end on `tasks`.
    ///
    /// # Errors
    /// A file that cannot be read or has no certificate; no authority at all.
    pub fn new(extra_ca_file: Option<&Path>, tasks: TaskTracker) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        if let Some(file) = extra_ca_file {
            let failed = |error: String| {
                let message = format!("the CA bundle {}: {error}", file.display());
                io::Error::new(io::ErrorKind::InvalidData, message)
            };
            let certificates = CertificateDer::pem_file_iter(file);
            let mut count = 0;
            for certificate in certificates.map_err(|error| failed(error.to_string()))? {
                let certificate = certificate.map_err(|error| failed(error.to_string()))?;
                let added = roots.add(certificate);
                added.map_err(|error| failed(error.to_string()))?;
                count += 1;
            }
            if count == 0 {
                return Err(failed("holds no PEM certificate".to_owned()));
            }
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            tasks,
        })
    }

    async fn answer(
        &self,
        host: &CredentialHost,
        request: Request<Incoming>,
        world: Option<BoxedBytes>,
        gate: &dyn GitGate,
    ) -> Answer {
        let path = request.uri().path().to_owned();
        let query = request.uri().query().map(str::to_owned);
        let admitted = gate.admit(request.method().as_str(), &path, query.as_deref());
        let login = match admitted.await {
            Ok(login) => Secret::new(&login),
            Err(why) => return said(StatusCode::FORBIDDEN, &why),
        };
        let Some(world) = world else {
            return said(StatusCode::BAD_REQUEST, "a connection is for one request");
        };
        match self.ask(host, request, world, &login).await {
            Ok(response) => passed_on(host, response),
            Err(error) => said(StatusCode::BAD_GATEWAY, &format!("{host}: {error}")),
        }
    }

    async fn ask(
        &self,
        host: &CredentialHost,
        request: Request<Incoming>,
        world: BoxedBytes,
        login: &Secret,
    ) -> Result<Response<Incoming>, String> {
        let name = ServerName::try_from(host.host().to_string());
        let name = name.map_err(|error| error.to_string())?;
        let connecting = self.tls.connect(name, world);
        let secured = tokio::time::timeout(HANDSHAKE_TIMEOUT, connecting).await;
        let secured = secured
            .map_err(|_| "no TLS handshake in time".to_owned())?
            .map_err(|error| {
                format!("no TLS: {error}; an authority of its own is named by workspace.extra_ca_file of compyd")
            })?;
        let gone = |error: hyper::Error| format!("it broke the connection off: {error}");
        let handshake = hyper::client::conn::http1::handshake(TokioIo::new(secured)).await;
        let (mut sender, connection) = handshake.map_err(gone)?;
        let (mut parts, body) = request.into_parts();
        let path = parts.uri.path_and_query().map_or("/", |path| path.as_str());
        parts.uri = (path.parse()).map_err(|_| "the path is not valid".to_owned())?;
        let mut headers = only(&parts.headers, &TO_THE_HOST);
        let authority = match host.port() {
            443 => host.host().to_string(),
            _ => host.to_string(),
        };
        let value = |text: &str| HeaderValue::from_str(text).map_err(|error| error.to_string());
        headers.insert(header::HOST, value(&authority)?);
        let mut authorization = value(login.expose())?;
        authorization.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, authorization);
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        parts.headers = headers;
        // Ends with the response's body, which says it when that is broken off.
        self.tasks.spawn(connection);
        sender
            .send_request(Request::from_parts(parts, body))
            .await
            .map_err(gone)
    }
}

#[async_trait]
impl GitRelayPort for GitRelay {
    async fn relay(
        &self,
        host: &CredentialHost,
        program: BoxedBytes,
        world: BoxedBytes,
        gate: Arc<dyn GitGate>,
    ) {
        let world = Mutex::new(Some(world));
        let service = service_fn(|request| {
            let world = world.lock().unwrap_or_else(PoisonError::into_inner).take();
            let gate = gate.clone();
            async move { Ok::<_, Infallible>(self.answer(host, request, world, &*gate).await) }
        });
        // An error is the program's: it has gone or speaks no HTTP.
        let _ = hyper::server::conn::http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HANDSHAKE_TIMEOUT)
            .max_buf_size(MAX_HEAD_BYTES)
            .keep_alive(false)
            .serve_connection(TokioIo::new(program), service)
            .await;
    }
}

/// What a program is told of the host's answer.
fn passed_on(host: &CredentialHost, response: Response<Incoming>) -> Answer {
    let status = response.status();
    if status.is_success() {
        let (mut parts, body) = response.into_parts();
        parts.headers = only(&parts.headers, &FROM_THE_HOST);
        return Response::from_parts(parts, body.boxed());
    }
    let location = response.headers().get(header::LOCATION);
    if status.is_redirection()
        && let Some(location) = location.and_then(|location| stand_in(host, location))
    {
        let mut answer = said(status, &format!("{host} answered {status}"));
        answer.headers_mut().insert(header::LOCATION, location);
        return answer;
    }
    match status {
        // Git would ask a person for another login.
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => said(
            StatusCode::FORBIDDEN,
            &format!(
                "{host} answered {status} to the stored login: it is refused there, or the repository is"
            ),
        ),
        _ if status.is_redirection() => said(
            StatusCode::BAD_GATEWAY,
            &format!(
                "{host} answered {status}, which leads elsewhere; name the repository's own URL"
            ),
        ),
        _ => said(status, &format!("{host} answered {status}")),
    }
}

/// Where a redirect leads, in the workspace's words; `None` where that is another
/// host.
fn stand_in(host: &CredentialHost, location: &HeaderValue) -> Option<HeaderValue> {
    let location = location.to_str().ok()?;
    let base = host.stand_in_url();
    let path = match location.strip_prefix('/') {
        Some(path) if !path.starts_with('/') => path,
        Some(_) => return None,
        None => (host.https_urls().iter()).find_map(|url| location.strip_prefix(url.as_str()))?,
    };
    format!("{base}{path}").parse().ok()
}

fn only(headers: &HeaderMap, names: &[HeaderName]) -> HeaderMap {
    let kept = names.iter().filter_map(|name| {
        let value = headers.get(name)?;
        Some((name.clone(), value.clone()))
    });
    kept.collect()
}

fn said(status: StatusCode, message: &str) -> Answer {
    let body = Full::new(Bytes::from(format!("compy: {message}\n")));
    let mut answer = Response::new(body.map_err(|never| match never {}).boxed());
    *answer.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    answer.headers_mut().insert(header::CONTENT_TYPE, plain);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redirect_stays_with_the_host_or_is_none() {
        let host = CredentialHost::parse("git.example:8443", 443).unwrap();
        let base = "http://git.example.compy-git.internal:8443";
        for (location, expected) in [
            ("/me/it.git/info/refs", Some("/me/it.git/info/refs")),
            ("https://git.example:8443/x?y=z", Some("/x?y=z")),
            ("https://git.example/x", None),
            ("https://git.example:8443.evil.example/x", None),
            ("//evil.example/x", None),
            ("http://git.example:8443/x", None),
            ("", None),
        ] {
            let found = stand_in(&host, &location.parse().unwrap());
            let expected = expected.map(|path| format!("{base}{path}").parse().unwrap());
            assert_eq!(found, expected, "{location}");
        }
    }

    #[test]
    fn an_authority_that_cannot_be_read_is_named() {
        for content in [None, Some("no certificate")] {
            let directory = tempfile::tempdir().unwrap();
            let file = directory.path().join("ca.pem");
            if let Some(content) = content {
                std::fs::write(&file, content).unwrap();
            }
            let refused = GitRelay::new(Some(&file), TaskTracker::new())
                .err()
                .unwrap()
                .to_string();
            assert!(refused.contains("ca.pem"), "{refused}");
        }
    }
}
