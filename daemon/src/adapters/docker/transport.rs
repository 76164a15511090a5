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
/// How long an engine may take until it begins to answer: a commit answers when
/// it is done.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(120);

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
    let timeout = ANSWER_TIMEOUT.as_secs() + 5;
    let engine = Some("http://engine");
    Docker::connect_with_custom_transport(transport, engine, timeout, API_DEFAULT_VERSION)
        .map_err(|error| unavailable(&error))
}

async fn ask(address: Address, request: BollardRequest) -> Result<Response<Incoming>, Error> {
    let object = object_of(request.uri().path());
    let begun = Instant::now();
    let answered = tokio::time::timeout(ANSWER_TIMEOUT, send(address, request)).await;
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
