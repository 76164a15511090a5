//! A git host: real repositories behind `git http-backend`, over TLS with an
//! authority of its own, and a password.

use std::{
    convert::Infallible,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex, PoisonError},
};

use bytes::Bytes;
use http_body_util::{BodyExt as _, Full};
use hyper::{Request, Response, body::Incoming, header, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, process::Command, task::JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::repository::source_directory;

/// A server on `localhost`; it ends with this.
#[derive(Debug)]
pub struct GitHost {
    /// Its port.
    pub port: u16,
    seen: Arc<Mutex<Vec<Seen>>>,
    _tasks: JoinSet<()>,
}

/// A request that came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// Method and path with its query.
    pub line: String,
    /// The `Authorization` header; empty without one.
    pub authorization: String,
}

impl GitHost {
    /// The certificate of its authority.
    #[must_use]
    pub fn authority() -> PathBuf {
        fixture("authority.pem")
    }

    /// Serves the repositories below `root` to who has this `Authorization`.
    /// `/moved/…` leads to the same path of another host.
    ///
    /// # Panics
    /// When this machine has no ports left, or no git.
    pub async fn start(root: &Path, authorization: &str) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let certificate = CertificateDer::from_pem_file(fixture("server.pem"));
        let key = PrivateKeyDer::from_pem_file(fixture("server.key"));
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the versions are known")
            .with_no_client_auth()
            .with_single_cert(
                vec![certificate.expect("the certificate is there")],
                key.expect("the key is there"),
            )
            .expect("they belong together");
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await;
        let listener = listener.expect("a port is free");
        let port = listener.local_addr().expect("it is bound").port();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let mut tasks = JoinSet::new();
        let (root, wanted, noted) = (root.to_owned(), authorization.to_owned(), seen.clone());
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, root) = (acceptor.clone(), root.clone());
                let (wanted, noted) = (wanted.clone(), noted.clone());
                clients.spawn(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(|request| {
                        let (root, wanted, noted) = (root.clone(), wanted.clone(), noted.clone());
                        async move {
                            Ok::<_, Infallible>(answer(request, &root, &wanted, &noted).await)
                        }
                    });
                    // The client may have gone.
                    let _ = hyper::server::conn::http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            port,
            seen,
            _tasks: tasks,
        }
    }

    /// The requests so far.
    #[must_use]
    pub fn seen(&self) -> Vec<Seen> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}

fn fixture(name: &str) -> PathBuf {
    source_directory().join("fixtures/model/tls").join(name)
}

fn status(code: u16, body: Vec<u8>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = code.try_into().expect("it is a status");
    response
}

async fn answer(
    request: Request<Incoming>,
    root: &Path,
    wanted: &str,
    noted: &Mutex<Vec<Seen>>,
) -> Response<Full<Bytes>> {
    let header = |name: &str| {
        let value = request.headers().get(name);
        let value = value.and_then(|value| value.to_str().ok());
        value.unwrap_or_default().to_owned()
    };
    let authorization = header("authorization");
    noted
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .push(Seen {
            line: format!("{} {}", request.method(), request.uri()),
            authorization: authorization.clone(),
        });
    if authorization != wanted {
        // A host that repeats what it was told.
        let mut refused = status(401, format!("not {authorization}").into_bytes());
        let basic = header::HeaderValue::from_static("Basic realm=\"test\"");
        refused
            .headers_mut()
            .insert(header::WWW_AUTHENTICATE, basic);
        return refused;
    }
    let path = request.uri().path().to_owned();
    if path.starts_with("/moved/") {
        let mut moved = status(302, Vec::new());
        let elsewhere = format!("https://elsewhere.example{path}");
        let elsewhere = elsewhere.parse().expect("it is a URL");
        moved.headers_mut().insert(header::LOCATION, elsewhere);
        return moved;
    }
    let mut backend = Command::new("git");
    backend
        .arg("http-backend")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("GIT_CONFIG_COUNT", "1")
        .env("GIT_CONFIG_KEY_0", "safe.directory")
        .env("GIT_CONFIG_VALUE_0", "*")
        .env("REMOTE_USER", "tester")
        .env("REQUEST_METHOD", request.method().as_str())
        .env("PATH_INFO", &path)
        .env("QUERY_STRING", request.uri().query().unwrap_or_default())
        .env("CONTENT_TYPE", header("content-type"))
        .env("HTTP_CONTENT_ENCODING", header("content-encoding"))
        .env("GIT_PROTOCOL", header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let Ok(body) = request.into_body().collect().await else {
        return status(400, Vec::new());
    };
    let mut child = backend.spawn().expect("git is installed");
    let mut stdin = child.stdin.take().expect("it is piped");
    // It may not want all of it.
    let _ = stdin.write_all(&body.to_bytes()).await;
    drop(stdin);
    let output = child.wait_with_output().await.expect("git ends");
    let split = output
        .stdout
        .windows(4)
        .position(|four| four == b"\r\n\r\n");
    let (head, content) = output.stdout.split_at(split.unwrap_or(0));
    let mut response = status(200, content.get(4..).unwrap_or_default().to_vec());
    for line in String::from_utf8_lossy(head).lines() {
        let Some((name, value)) = line.split_once(": ") else {
            continue;
        };
        match name {
            "Status" => {
                let code = value.split(' ').next().and_then(|code| code.parse().ok());
                *response.status_mut() = code.unwrap_or_default();
            }
            _ => {
                let name: Option<header::HeaderName> = name.parse().ok();
                if let (Some(name), Ok(value)) = (name, value.parse()) {
                    response.headers_mut().insert(name, value);
                }
            }
        }
    }
    response
}
