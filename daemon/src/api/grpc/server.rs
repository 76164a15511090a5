//! The gRPC server: limits, health, reflection, and serving until told to stop.

use std::{sync::Arc, time::Duration};

use compyd_proto::{
    FILE_DESCRIPTOR_SET,
    link::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MAX_MESSAGE_BYTES},
    v1::{
        access_service_server::AccessServiceServer, activity_service_server::ActivityServiceServer,
        approval_service_server::ApprovalServiceServer,
        artifact_service_server::ArtifactServiceServer, audit_service_server::AuditServiceServer,
        credential_service_server::CredentialServiceServer,
        policy_service_server::PolicyServiceServer, session_service_server::SessionServiceServer,
        setup_service_server::SetupServiceServer, snapshot_service_server::SnapshotServiceServer,
        system_service_server::SystemServiceServer,
        workspace_service_server::WorkspaceServiceServer,
    },
};
use tokio::{
    net::{TcpListener, UnixListener},
    task::JoinSet,
};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Error, Server},
};

pub use super::{access::CallerLimits, connections::ConnectionBounds};
use super::{
    access::{admit::Admit, guard::Guard},
    activity::ActivityApi,
    approval::ApprovalApi,
    artifact::ArtifactApi,
    audit::AuditApi,
    audited::Recorded,
    connections::Connections,
    credential::CredentialApi,
    incoming,
    measure::Measure,
    methods::Methods,
    policy::PolicyApi,
    session::SessionApi,
    setup::SetupApi,
    snapshot::SnapshotApi,
    system::SystemApi,
    token::AccessApi,
    workspace::WorkspaceApi,
};
use crate::service::{
    access::{Tokens, subjects::Subjects},
    audit::Audit,
};

/// Bytes of a stream that a client may leave unread: clients copy archives and
/// watch output, and few of them share a connection.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

/// Bytes of the headers of a call, as HTTP/2 counts them.
const MAX_HEADER_BYTES: u32 = 16 * 1024;
/// Streams of a connection beyond the calls of a token: those are told that they
/// have too many, where the transport would have them wait.
const STREAMS_BEYOND: u32 = 32;

/// Everything that is served. Adding a service is a field here and a line in
/// [`routes`](Services::routes).
pub struct Services {
    /// Where calls are recorded, and what is served of that.
    pub audit: Audit,
    /// The daemon itself.
    pub system: SystemApi,
    /// What workspaces are doing and what happened to them.
    pub activity: ActivityApi,
    /// What sessions wait for.
    pub approval: ApprovalApi,
    /// What sessions leave behind.
    pub artifact: ArtifactApi,
    /// Credentials, without their values.
    pub credential: CredentialApi,
    /// Tokens.
    pub access: AccessApi,
    /// Workspaces and what is done in them.
    pub workspace: WorkspaceApi,
    /// Setup files of repositories.
    pub setup: SetupApi,
    /// What sessions may do.
    pub policy: PolicyApi,
    /// Snapshots of workspaces.
    pub snapshot: SnapshotApi,
    /// Tasks given to agents.
    pub session: SessionApi,
}

impl Services {
    /// Routes to every service, with health and reflection. Health is what
    /// `readiness` says.
    fn routes(self, health: tonic_health::server::HealthService) -> Routes {
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("the descriptors are made by this build");
        let mut routes = Routes::builder();
        routes
            .add_service(reflection)
            .add_service(tonic_health::pb::health_server::HealthServer::new(health))
            .add_service(
                SystemServiceServer::new(self.system)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(AccessServiceServer::new(self.access))
            .add_service(
                ActivityServiceServer::new(self.activity)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                ApprovalServiceServer::new(self.approval)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                ArtifactServiceServer::new(self.artifact)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                AuditServiceServer::new(AuditApi::new(self.audit.log().clone()))
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                PolicyServiceServer::new(self.policy)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                CredentialServiceServer::new(self.credential)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                SessionServiceServer::new(self.session)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                SetupServiceServer::new(self.setup)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                SnapshotServiceServer::new(self.snapshot)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            )
            .add_service(
                WorkspaceServiceServer::new(self.workspace)
                    .max_decoding_message_size(MAX_MESSAGE_BYTES)
                    .max_encoding_message_size(MAX_MESSAGE_BYTES),
            );
        routes.routes()
    }
}

/// Serving failed.
#[derive(Debug, thiserror::Error)]
#[error("serving clients failed")]
pub struct ServeError(#[from] Error);

/// A bound socket.
#[derive(Debug)]
pub enum Listener {
    /// A unix socket, for its owner.
    Unix(UnixListener),
    /// A TCP port on a loopback address, for those with a token.
    Tcp(TcpListener),
    /// A TCP port with TLS, for those with a token.
    Tls(TcpListener, Arc<rustls::ServerConfig>),
}

/// What is asked of callers, and what they may use.
pub struct Door {
    /// Whom tokens belong to.
    pub tokens: Tokens,
    /// Tells the workspace of what a request names.
    pub subjects: Arc<dyn Subjects>,
    /// What each token may use.
    pub limits: CallerLimits,
    /// How many connections there may be over TCP.
    pub connections: ConnectionBounds,
}

/// Serves on every listener until `stop`: then nothing more is accepted, health
/// says so, and calls under way go on. Returns when the last one has ended.
///
/// # Cancel safety
/// Dropped, it cuts every call.
///
/// # Errors
/// A listener failed.
pub async fn serve(
    services: Services,
    door: Door,
    listeners: Vec<Listener>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let (health, health_service) = health();
    let methods = Arc::new(Methods::of_this_build());
    let audit = services.audit.clone();
    let recorded = Recorded::new(audit.clone(), methods.clone());
    let admit = Admit::new(door.tokens.clone(), audit, door.limits);
    let guard = Guard::new(
        methods,
        door.tokens,
        door.subjects,
        door.limits.message_bytes,
    );
    let connections = Connections::new(door.connections);
    let routes = services.routes(health_service);
    let mut servers = JoinSet::new();
    for listener in listeners {
        let server = Server::builder()
            .layer(Measure)
            .layer(admit.clone())
            .layer(recorded.clone())
            .layer(guard.clone())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(Some(FRAME_BYTES))
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .http2_max_header_list_size(MAX_HEADER_BYTES);
        let (listener, tls) = match listener {
            Listener::Unix(listener) => {
                let incoming = UnixListenerStream::new(listener);
                // Clients that cancel a thousand watches are clients like others.
                let mut server = server.http2_max_local_error_reset_streams(None);
                let server = server.add_routes(routes.clone());
                let stopped = stop.clone().cancelled_owned();
                servers.spawn(async move {
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                });
                continue;
            }
            Listener::Tcp(listener) => (listener, None),
            Listener::Tls(listener, tls) => (listener, Some(tls)),
        };
        let (incoming, accepting) =
            incoming::accept(listener, tls, connections.clone(), stop.clone());
        let streams = u32::try_from(door.limits.streams).unwrap_or(u32::MAX);
        let mut server = server.max_concurrent_streams(streams.saturating_add(STREAMS_BEYOND));
        let server = server.add_routes(routes.clone());
        let stopped = stop.clone().cancelled_owned();
        servers.spawn(async move {
            let serving = server.serve_with_incoming_shutdown(incoming, stopped);
            tokio::join!(serving, accepting).0
        });
    }
    let said = stop.clone();
    servers.spawn(async move {
        said.cancelled().await;
        health
            .set_service_status("", tonic_health::ServingStatus::NotServing)
            .await;
        Ok(())
    });
    while let Some(ended) = servers.join_next().await {
        ended.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
    }
    Ok(())
}

fn health() -> (
    tonic_health::server::HealthReporter,
    tonic_health::server::HealthService,
) {
    let reporter = tonic_health::server::HealthReporter::new();
    let service = tonic_health::server::HealthService::from_health_reporter(reporter.clone());
    (reporter, service)
}
