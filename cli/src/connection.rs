//! The way to the daemon: which endpoint, how it is dialled, what is tried
//! again. Knows nothing about what is asked.
//!
//! A channel reconnects by itself, so every call that failed because the
//! connection broke may simply be made again; mutating requests carry a
//! `request_id` that stays the same over the attempts, which makes that safe.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use compyd_proto::link::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MAX_MESSAGE_BYTES};
use compyd_proto::v1::access_service_client::AccessServiceClient;
use compyd_proto::v1::activity_service_client::ActivityServiceClient;
use compyd_proto::v1::approval_service_client::ApprovalServiceClient;
use compyd_proto::v1::artifact_service_client::ArtifactServiceClient;
use compyd_proto::v1::audit_service_client::AuditServiceClient;
use compyd_proto::v1::credential_service_client::CredentialServiceClient;
use compyd_proto::v1::policy_service_client::PolicyServiceClient;
use compyd_proto::v1::session_service_client::SessionServiceClient;
use compyd_proto::v1::setup_service_client::SetupServiceClient;
use compyd_proto::v1::snapshot_service_client::SnapshotServiceClient;
use compyd_proto::v1::system_service_client::SystemServiceClient;
use compyd_proto::v1::workspace_service_client::WorkspaceServiceClient;
use hyper_util::rt::TokioIo;
use rustls::ClientConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::{Interceptor, interceptor::InterceptedService};
use tonic::transport::{Channel, Uri};
use tonic::{Response, Status};

use crate::exit::{Failure, is_broken_connection, is_transient, retry_delay, root_cause};
use crate::login::trust::{self, Trust};

/// Bytes one stream may have in flight: enough that a command's output is
/// never held back by round trips at 500 MiB/s.
const STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// How long a daemon that is just being started is waited for.
const START_GRACE: Duration = Duration::from_secs(3);
/// How long a call that met a transient error is tried again.
const CALL_GRACE: Duration = Duration::from_secs(6);
/// How long streams wait for a daemon that went away.
pub(crate) const RESTART_GRACE: Duration = Duration::from_secs(30);

/// Where a daemon listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum DaemonEndpoint {
    /// A unix socket.
    Unix(PathBuf),
    /// Plain HTTP/2 on TCP: `http://HOST:PORT`.
    Http(Uri),
    /// HTTP/2 on TCP with TLS: `https://HOST:PORT`.
    Https(Uri),
}

impl std::fmt::Display for DaemonEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DaemonEndpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            DaemonEndpoint::Http(uri) | DaemonEndpoint::Https(uri) => write!(
                f,
                "{}://{}",
                uri.scheme_str().unwrap_or_default(),
                uri.authority().map_or("", |authority| authority.as_str())
            ),
        }
    }
}

impl std::str::FromStr for DaemonEndpoint {
    type Err = String;

    /// Reads `unix:///PATH`, `https://HOST:PORT`, `http://HOST:PORT` or
    /// `tcp://HOST:PORT`, which is `http` too.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "write unix:///PATH, https://HOST:PORT, http://HOST:PORT or tcp://HOST:PORT";
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(DaemonEndpoint::Unix(path.into()))
            } else {
                Err(format!("the socket's path is not absolute; {expected}"))
            };
        }
        let (scheme, address) = match text.split_once("://") {
            Some(("https", address)) => ("https", address),
            Some(("http" | "tcp", address)) => ("http", address),
            _ => return Err(expected.to_owned()),
        };
        let address = address.trim_end_matches('/');
        let uri: Uri = format!("{scheme}://{address}/")
            .parse()
            .map_err(|error| format!("{error}; {expected}"))?;
        match (uri.host(), uri.port_u16(), uri.path()) {
            (Some(host), Some(_), "/") if !host.is_empty() => Ok(match scheme {
                "https" => DaemonEndpoint::Https(uri),
                _ => DaemonEndpoint::Http(uri),
            }),
            _ => Err(expected.to_owned()),
        }
    }
}

/// What a daemon over TCP asks for, and how it is known to be the right one.
#[derive(Clone, Default)]
pub(crate) struct Access {
    /// Whom calls are made as.
    pub(crate) token: Option<String>,
    /// Whose certificates are accepted.
    pub(crate) trust: Option<Trust>,
}

/// The connection, which says with each call whose it is.
pub(crate) type Transport = InterceptedService<Channel, Bearer>;

/// Shows a token.
#[derive(Debug, Clone)]
pub(crate) struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(token) = &self.0 {
            request
                .metadata_mut()
                .insert("authorization", token.clone());
        }
        Ok(request)
    }
}

impl Bearer {
    fn of(access: &Access) -> Result<Self, Failure> {
        let Some(token) = &access.token else {
            return Ok(Self(None));
        };
        let value = format!("Bearer {token}").parse::<MetadataValue<Ascii>>();
        let mut value = value.map_err(|_| {
            Failure::usage(
                "the token has characters that none has",
                "give what `compyctl token create` printed",
            )
        })?;
        value.set_sensitive(true);
        Ok(Self(Some(value)))
    }
}

/// A daemon that answered at least once.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    endpoint: DaemonEndpoint,
    transport: Transport,
}

impl Daemon {
    /// Dials, for up to three seconds, so that `compyd & compyctl run ...`
    /// works.
    pub(crate) async fn connect(
        endpoint: DaemonEndpoint,
        access: Access,
    ) -> Result<Daemon, Failure> {
        let bearer = Bearer::of(&access)?;
        let tls = match &access.trust {
            Some(trust) => Some(Arc::new(trust.client_config().map_err(|error| {
                Failure::local(format!("TLS cannot be used: {error}"), "")
            })?)),
            None => None,
        };
        let mut backoff = Backoff::new(START_GRACE);
        loop {
            match dial(&endpoint, tls.as_ref()).await {
                Ok(channel) => {
                    let transport = InterceptedService::new(channel, bearer);
                    return Ok(Daemon {
                        endpoint,
                        transport,
                    });
                }
                Err(error) => {
                    if let Some(refused) = trust::refused(&error, &endpoint.to_string()) {
                        return Err(refused);
                    }
                    if !backoff.wait().await {
                        return Err(Failure::Unreachable {
                            endpoint: endpoint.to_string(),
                            cause: root_cause(&error),
                        });
                    }
                }
            }
        }
    }

    pub(crate) fn access(&self) -> AccessServiceClient<Transport> {
        AccessServiceClient::new(self.transport.clone())
    }

    pub(crate) fn approvals(&self) -> ApprovalServiceClient<Transport> {
        ApprovalServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn policies(&self) -> PolicyServiceClient<Transport> {
        PolicyServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn workspaces(&self) -> WorkspaceServiceClient<Transport> {
        WorkspaceServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn activity(&self) -> ActivityServiceClient<Transport> {
        ActivityServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Transport> {
        SessionServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn setups(&self) -> SetupServiceClient<Transport> {
        SetupServiceClient::new(self.transport.clone())
    }

    pub(crate) fn snapshots(&self) -> SnapshotServiceClient<Transport> {
        SnapshotServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn artifacts(&self) -> ArtifactServiceClient<Transport> {
        ArtifactServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Transport> {
        AuditServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn credentials(&self) -> CredentialServiceClient<Transport> {
        CredentialServiceClient::new(self.transport.clone())
    }

    pub(crate) fn system(&self) -> SystemServiceClient<Transport> {
        SystemServiceClient::new(self.transport.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// Makes a call, and makes it again for a few seconds while the daemon
    /// says "not now" or the connection breaks. `attempt` must send the same
    /// request, `request_id` included, each time.
    pub(crate) async fn call<T, F, Fut>(&self, attempt: F) -> Result<T, Failure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_for(CALL_GRACE, attempt).await
    }

    /// [`Daemon::call`] with a patience of its own.
    pub(crate) async fn call_for<T, F, Fut>(
        &self,
        patience: Duration,
        mut attempt: F,
    ) -> Result<T, Failure>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<Response<T>, Status>>,
    {
        let mut backoff = Backoff::new(patience);
        loop {
            let status = match attempt().await {
                Ok(response) => return Ok(response.into_inner()),
                Err(status) => status,
            };
            if !is_transient(&status) || !backoff.wait_at_least(retry_delay(&status)).await {
                return Err(self.failure(status));
            }
        }
    }

    /// The failure a status stands for.
    pub(crate) fn failure(&self, status: Status) -> Failure {
        if is_broken_connection(&status) {
            Failure::Unreachable {
                endpoint: self.endpoint.to_string(),
                cause: match std::error::Error::source(&status) {
                    Some(source) => root_cause(source),
                    None => status.message().to_owned(),
                },
            }
        } else {
            Failure::from(status)
        }
    }
}

/// A fresh id for a mutating request.
pub(crate) fn request_id() -> String {
    uuid::Uuid::new_v4().to_string()
}

async fn dial(
    endpoint: &DaemonEndpoint,
    tls: Option<&Arc<ClientConfig>>,
) -> Result<Channel, tonic::transport::Error> {
    let uri = match endpoint {
        DaemonEndpoint::Unix(_) => Uri::from_static("http://compyd"),
        DaemonEndpoint::Http(uri) | DaemonEndpoint::Https(uri) => uri.clone(),
    };
    let builder = Channel::builder(uri)
        .connect_timeout(Duration::from_secs(5))
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(FRAME_BYTES)
        // Finds a peer that vanished without a word while a call waits.
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(20));
    match endpoint {
        DaemonEndpoint::Unix(path) => {
            let path = path.clone();
            let connector = tower::service_fn(move |_: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            builder.connect_with_connector(connector).await
        }
        DaemonEndpoint::Http(_) => builder.connect().await,
        DaemonEndpoint::Https(_) => {
            let tls = tls.cloned();
            let connector = tower::service_fn(move |uri: Uri| {
                let tls = tls.clone();
                async move { dial_tls(&uri, tls).await.map(TokioIo::new) }
            });
            builder.connect_with_connector(connector).await
        }
    }
}

async fn dial_tls(
    uri: &Uri,
    tls: Option<Arc<ClientConfig>>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let tls = tls.ok_or_else(|| std::io::Error::other("nobody says whom to trust"))?;
    let host = uri.host().unwrap_or_default();
    let host = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let stream = TcpStream::connect((host.as_str(), uri.port_u16().unwrap_or(443))).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(std::io::Error::other)?;
    TlsConnector::from(tls).connect(name, stream).await
}

/// Growing pauses until a deadline.
#[derive(Debug)]
pub(crate) struct Backoff {
    patience: Duration,
    deadline: Instant,
    pause: Duration,
}

impl Backoff {
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    const LONGEST_PAUSE: Duration = Duration::from_secs(1);

    pub(crate) fn new(patience: Duration) -> Self {
        Backoff {
            patience,
            deadline: Instant::now() + patience,
            pause: Self::FIRST_PAUSE,
        }
    }

    /// Starts over: something went well in between.
    pub(crate) fn reset(&mut self) {
        *self = Backoff::new(self.patience);
    }

    /// Waits, or answers `false` at once when the deadline would pass.
    pub(crate) async fn wait(&mut self) -> bool {
        self.wait_at_least(None).await
    }

    async fn wait_at_least(&mut self, least: Option<Duration>) -> bool {
        let pause = self.pause.max(least.unwrap_or_default());
        if Instant::now() + pause > self.deadline {
            return false;
        }
        tokio::time::sleep(pause).await;
        self.pause = (self.pause * 2).min(Self::LONGEST_PAUSE);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_read_and_shown_in_one_form() {
        let shown = |text: &str| text.parse::<DaemonEndpoint>().map(|e| e.to_string());
        assert_eq!(
            shown("unix:///run/x.sock").as_deref(),
            Ok("unix:///run/x.sock")
        );
        assert_eq!(
            shown("http://localhost:7878").as_deref(),
            Ok("http://localhost:7878")
        );
        assert_eq!(
            shown("https://compy.example:7878/").as_deref(),
            Ok("https://compy.example:7878")
        );
        assert_eq!(
            shown("tcp://10.0.0.1:7878").as_deref(),
            Ok("http://10.0.0.1:7878")
        );
        assert_eq!(
            shown("tcp://[::1]:7878/").as_deref(),
            Ok("http://[::1]:7878")
        );
        for wrong in [
            "",
            "unix://rel",
            "http://host",
            "https://h",
            "https://h:1/x",
            "/run/x",
            "tcp://:1",
            "tcp://h:1/x",
        ] {
            assert!(shown(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
