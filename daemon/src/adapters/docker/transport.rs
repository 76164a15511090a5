//! The way to the engine: a connection for each request, and how long the
//! engine takes to answer.

use std::{
    path::PathBuf,
    time::{Duration, Instant},
};

use bollard::{API_DEFAULT_VERSION, BollardRequest, Docker, errors::Error};
use http::{HeaderValue, Response, Uri, header::HOST, uri::PathAndQuery};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, UnixStream},
};

use super::errors::unavailable;
use crate::{
    metrics::{self, EngineAnswer},
    ports::runtime::RuntimeError,
};

/// Where engines listen when nothing else is said.
const DEFAULT_SOCKET: &str = "/var/run/docker.sock";
/// How long an engine may take until it begins to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);
/// The same where it answers when gigabytes are written: a commit, a load. Who
/// may wait less long says so: a workspace stands still no longer than a
/// snapshot allows.
const WRITTEN_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Where an engine listens.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Address {
    Unix(PathBuf),
    Tcp(String),
}

impl Address {
    /// `unix:///PATH` or `tcp://HOST:PORT`.
    fn parse(host: Option<&str>) -> Option<Self> {
        match host.unwrap_or(DEFAULT_SOCKET).split_once("://") {
            None if host.is_none() => Some(Self::Unix(DEFAULT_SOCKET.into())),
            Some(("unix", path)) => Some(Self::Unix(path.into())),
            Some(("tcp" | "http", host)) => Some(Self::Tcp(host.to_owned())),
            _ => None,
        }
    }
}

/// An engine that is reached at the first call.
pub(super) fn connect(host: Option<&str>) -> Result<Docker, RuntimeError> {
    let address = Address::parse(host).ok_or_else(|| {
        let host = host.unwrap_or_default();
        RuntimeError::Unavailable(format!("`{host}` is no address of an engine"))
    })?;
    let transport = move |request: BollardRequest| ask(address.clone(), request);
    // Our own limit comes first, so that it is measured.
    let timeout = WRITTEN_TIMEOUT.as_secs() + 5;
    let engine = Some("http://engine");
    Docker::connect_with_custom_transport(transport, engine, timeout, API_DEFAULT_VERSION)
        .map_err(|error| unavailable(&error))
}

async fn ask(address: Address, request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let object = object_of(request.uri().path());
    let begun = Instant::now();
    let limit = answer_timeout(request.uri().path());
    let answered = tokio::time::timeout(limit, send(address, request)).await;
    let answered = answered.unwrap_or(Err(Error::RequestTimeoutError));
    let answer = match &answered {
        Ok(response) if response.status().is_client_error() => EngineAnswer::Refused,
        Ok(response) if response.status().is_server_error() => EngineAnswer::Refused,
        Ok(_) => EngineAnswer::Ok,
        Err(_) => EngineAnswer::None,
    };
    metrics::engine_asked(object, answer, begun.elapsed());
    answered
}

async fn send(address: Address, request: BollardRequest) -> Result<Response<Incoming>, Error> {
    match address {
        Address::Unix(path) => send_over(UnixStream::connect(path).await?, request).await,
        Address::Tcp(host) => send_over(TcpStream::connect(host).await?, request).await,
    }
}

async fn send_over(
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    mut request: BollardRequest,
) -> Result<Response<Incoming>, Error> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // On cancel: none, it ends with the answer or with who reads it. On error:
    // who reads the answer is told.
    tokio::spawn(connection.with_upgrades());
    let path =
        (request.uri().path_and_query().cloned()).unwrap_or_else(|| PathAndQuery::from_static("/"));
    *request.uri_mut() = Uri::from(path);
    let host = HeaderValue::from_static("engine");
    request.headers_mut().insert(HOST, host);
    Ok(sender.send_request(request).await?)
}

/// How long an engine may take until it begins to answer a request to a path.
fn answer_timeout(path: &str) -> Duration {
    let written = object_of(path) == "commit" || path.ends_with("/images/load");
    if written {
        WRITTEN_TIMEOUT
    } else {
        ANSWER_TIMEOUT
    }
}

/// The kind of object in a path: `/v1.41/containers/json`.
fn object_of(path: &str) -> &'static str {
    const OBJECTS: [&str; 8] = [
        "containers",
        "volumes",
        "images",
        "commit",
        "events",
        "version",
        "info",
        "_ping",
    ];
    let mut parts = path.trim_start_matches('/').split('/').take(2);
    let known = parts.find_map(|part| OBJECTS.into_iter().find(|object| *object == part));
    known.unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_sockets_and_ports() {
        let unix = |path: &str| Some(Address::Unix(path.into()));
        assert_eq!(Address::parse(None), unix(DEFAULT_SOCKET));
        assert_eq!(Address::parse(Some("unix:///a/b.sock")), unix("/a/b.sock"));
        let tcp = Some(Address::Tcp("127.0.0.1:1".to_owned()));
        assert_eq!(Address::parse(Some("tcp://127.0.0.1:1")), tcp);
        assert_eq!(Address::parse(Some("ssh://host")), None);
        assert_eq!(Address::parse(Some("/a/b.sock")), None);
    }

    #[test]
    fn an_engine_may_write_gigabytes_before_it_answers_and_is_not_waited_for_else() {
        for (path, limit) in [
            ("/v1.41/commit", WRITTEN_TIMEOUT),
            ("/v1.41/images/load", WRITTEN_TIMEOUT),
            ("/v1.41/images/load/json", ANSWER_TIMEOUT),
            ("/v1.41/containers/commit/json", ANSWER_TIMEOUT),
            ("/v1.41/containers/abc/pause", ANSWER_TIMEOUT),
        ] {
            assert_eq!(answer_timeout(path), limit, "{path}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_commit_that_takes_ten_minutes_is_waited_for() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("engine.sock");
        let listener = tokio::net::UnixListener::bind(&socket).unwrap();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4_096];
            tokio::io::AsyncReadExt::read(&mut stream, &mut request)
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_secs(600)).await;
            let answer = b"HTTP/1.1 201 Created\r\nContent-Length: 14\r\n\r\n{\"Id\":\"sha:1\"}\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer)
                .await
                .unwrap();
        });
        let docker = connect(Some(&format!("unix://{}", socket.display()))).unwrap();
        let options = bollard::query_parameters::CommitContainerOptions::default();
        let config = bollard::models::ContainerConfig::default();
        let committed = docker.commit_container(options, config).await.unwrap();
        assert_eq!(committed.id, "sha:1");
    }

    #[test]
    fn a_path_is_counted_by_the_kind_of_its_object_alone() {
        for (path, object) in [
            ("/v1.41/containers/json", "containers"),
            ("/v1.41/containers/abc/start", "containers"),
            ("/_ping", "_ping"),
            ("/v1.41/somebodys/volumes", "other"),
            ("/", "other"),
        ] {
            assert_eq!(object_of(path), object, "{path}");
        }
    }
}
