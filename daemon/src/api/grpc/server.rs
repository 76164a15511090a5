//! The gRPC server: limits, health, reflection, and serving until told to stop.

use std::time::Duration;

use compyd_proto::{
    FILE_DESCRIPTOR_SET,
    link::{CONNECTION_WINDOW_BYTES, FRAME_BYTES, MAX_MESSAGE_BYTES},
    v1::{
        activity_service_server::ActivityServiceServer,
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
use tokio_stream::wrappers::{TcpListenerStream, UnixListenerStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    service::Routes,
    transport::{Error, Server},
};

use super::{
    activity::ActivityApi, approval::ApprovalApi, artifact::ArtifactApi, audit::AuditApi,
    audited::Recorded, credential::CredentialApi, measure::Measure, policy::PolicyApi,
    session::SessionApi, setup::SetupApi, snapshot::SnapshotApi, system::SystemApi,
    workspace::WorkspaceApi,
};

use crate::service::audit::Audit;

/// Bytes of a stream that a client may leave unread: clients copy archives and
/// watch output, and few of them share a connection.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;

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
    /// A unix socket.
    Unix(UnixListener),
    /// A TCP port.
    Tcp(TcpListener),
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
    listeners: Vec<Listener>,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    let (health, health_service) = health();
    let recorded = Recorded::new(services.audit.clone());
    let routes = services.routes(health_service);
    let mut servers = JoinSet::new();
    for listener in listeners {
        let stop = stop.clone();
        let server = Server::builder()
            .layer(Measure)
            .layer(recorded.clone())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(Some(FRAME_BYTES))
            // Clients that cancel a thousand watches are clients like others.
            .http2_max_local_error_reset_streams(None)
            .http2_keepalive_interval(Some(Duration::from_secs(30)))
            .http2_keepalive_timeout(Some(Duration::from_secs(20)))
            .tcp_nodelay(true)
            .add_routes(routes.clone());
        servers.spawn(async move {
            let stopped = stop.cancelled_owned();
            match listener {
                Listener::Unix(listener) => {
                    let incoming = UnixListenerStream::new(listener);
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                }
                Listener::Tcp(listener) => {
                    let incoming = TcpListenerStream::new(listener);
                    server.serve_with_incoming_shutdown(incoming, stopped).await
                }
            }
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
