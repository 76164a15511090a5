//! The way to the daemon: which endpoint, how it is dialled, what is tried
//! again. Knows nothing about what is asked.
//!
//! A channel reconnects by itself, so every call that failed because the
//! connection broke may simply be made again; mutating requests carry a
//! `request_id` that stays the same over the attempts, which makes that safe.

use std::future::Future;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use compyd_proto::link::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MAX_MESSAGE_BYTES};
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
use tokio::net::UnixStream;
use tonic::transport::{Channel, Uri};
use tonic::{Response, Status};

use crate::exit::{Failure, is_broken_connection, is_transient, retry_delay, root_cause};

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
}

impl std::fmt::Display for DaemonEndpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            DaemonEndpoint::Unix(path) => write!(f, "unix://{}", path.display()),
            DaemonEndpoint::Http(uri) => write!(
                f,
                "http://{}",
                uri.authority().map_or("", |authority| authority.as_str())
            ),
        }
    }
}

impl std::str::FromStr for DaemonEndpoint {
    type Err = String;

    /// Reads `unix:///PATH`, `http://HOST:PORT` or `tcp://HOST:PORT`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let expected = "write unix:///PATH, http://HOST:PORT or tcp://HOST:PORT";
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') {
                Ok(DaemonEndpoint::Unix(path.into()))
            } else {
                Err(format!("the socket's path is not absolute; {expected}"))
            };
        }
        let Some(address) = text
            .strip_prefix("http://")
            .or_else(|| text.strip_prefix("tcp://"))
        else {
            return Err(expected.to_owned());
        };
        let address = address.trim_end_matches('/');
        let uri: Uri = format!("http://{address}/")
            .parse()
            .map_err(|error| format!("{error}; {expected}"))?;
        match (uri.host(), uri.port_u16(), uri.path()) {
            (Some(host), Some(_), "/") if !host.is_empty() => Ok(DaemonEndpoint::Http(uri)),
            _ => Err(expected.to_owned()),
        }
    }
}

/// A daemon that answered at least once.
#[derive(Debug, Clone)]
pub(crate) struct Daemon {
    endpoint: DaemonEndpoint,
    channel: Channel,
}

impl Daemon {
    /// Dials, for up to three seconds, so that `compyd & compyctl run ...`
    /// works.
    pub(crate) async fn connect(endpoint: DaemonEndpoint) -> Result<Daemon, Failure> {
        let mut backoff = Backoff::new(START_GRACE);
        loop {
            match dial(&endpoint).await {
                Ok(channel) => return Ok(Daemon { endpoint, channel }),
                Err(error) => {
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

    pub(crate) fn approvals(&self) -> ApprovalServiceClient<Channel> {
        ApprovalServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn policies(&self) -> PolicyServiceClient<Channel> {
        PolicyServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn workspaces(&self) -> WorkspaceServiceClient<Channel> {
        WorkspaceServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn activity(&self) -> ActivityServiceClient<Channel> {
        ActivityServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn setups(&self) -> SetupServiceClient<Channel> {
        SetupServiceClient::new(self.channel.clone())
    }

    pub(crate) fn snapshots(&self) -> SnapshotServiceClient<Channel> {
        SnapshotServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn artifacts(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn audit(&self) -> AuditServiceClient<Channel> {
        AuditServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
            .max_encoding_message_size(MAX_MESSAGE_BYTES)
    }

    pub(crate) fn credentials(&self) -> CredentialServiceClient<Channel> {
        CredentialServiceClient::new(self.channel.clone())
    }

    pub(crate) fn system(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.channel.clone())
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

async fn dial(endpoint: &DaemonEndpoint) -> Result<Channel, tonic::transport::Error> {
    let uri = match endpoint {
        DaemonEndpoint::Unix(_) => Uri::from_static("http://compyd"),
        DaemonEndpoint::Http(uri) => uri.clone(),
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
    }
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
            "https://h:1",
            "/run/x",
            "tcp://:1",
            "tcp://h:1/x",
        ] {
            assert!(shown(wrong).is_err(), "{wrong:?} was accepted");
        }
    }
}
