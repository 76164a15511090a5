//! The whole daemon in this process, without an engine, over a unix socket.

use std::{path::Path, time::Duration};

use compyd_proto::v1::{
    CheckVerdict, DiagnoseRequest, GetArtifactRequest, GetInfoRequest, ListArtifactsRequest,
    artifact_service_client::ArtifactServiceClient, get_artifact_response::Part,
    system_service_client::SystemServiceClient,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::{net::UnixStream, sync::oneshot, task::JoinHandle};
use tonic::{
    Code,
    transport::{Channel, Endpoint},
};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tonic_types::StatusExt as _;

use super::*;
use crate::{
    config::{self, Flags, Surroundings},
    domain::{
        artifact::{Artifact, ArtifactKind},
        ids::{ArtifactId, SessionId},
        stage::Stage,
    },
    ports::{blobs::BlobPort as _, store::StorePort as _},
};

struct Daemon {
    dir: tempfile::TempDir,
    stop: Option<oneshot::Sender<()>>,
    running: JoinHandle<Result<(), AppError>>,
}

fn settings(dir: &Path) -> Settings {
    let mut flags = Flags::default();
    let socket = format!("unix://{}", dir.join("run/compyd.sock").display());
    let data_dir = dir.join("data").display().to_string();
    for (key, value) in [
        ("data_dir", data_dir.as_str()),
        ("listen", socket.as_str()),
        ("engine.host", "unix:///nonexistent/docker.sock"),
        ("disk.low_water", "0"),
        ("shutdown_grace", "5s"),
    ] {
        let given = vec![value.to_owned()];
        flags
            .values
            .push(("--set".to_owned(), key.to_owned(), given));
    }
    let surroundings = Surroundings {
        uid: 1000,
        program: "/nonexistent/compyd".into(),
    };
    config::load(&flags, [], &surroundings).unwrap()
}

async fn start(dir: tempfile::TempDir) -> Daemon {
    let settings = settings(dir.path());
    let prepared = Prepared::new(&settings).await.unwrap();
    let (stop, stopped) = oneshot::channel::<()>();
    let running = tokio::spawn(run(settings, prepared, async {
        let _ = stopped.await;
    }));
    Daemon {
        dir,
        stop: Some(stop),
        running,
    }
}

impl Daemon {
    async fn channel(&self) -> Channel {
        let path = self.dir.path().join("run/compyd.sock");
        let dial = tower::service_fn(move |_| {
            let path = path.clone();
            async move {
                let stream = UnixStream::connect(path).await?;
                Ok::<_, std::io::Error>(hyper_util::rt::TokioIo::new(stream))
            }
        });
        Endpoint::from_static("http://compyd")
            .connect_with_connector(dial)
            .await
            .unwrap()
    }

    async fn stop(mut self) -> tempfile::TempDir {
        drop(self.stop.take());
        timeout(Duration::from_secs(20), self.running)
            .await
            .expect("the daemon stops")
            .unwrap()
            .unwrap();
        self.dir
    }
}

#[tokio::test]
async fn a_client_finds_out_what_is_served_and_that_it_is_healthy() {
    let daemon = start(tempfile::tempdir().unwrap()).await;
    let channel = daemon.channel().await;
    let health = HealthClient::new(channel.clone())
        .check(HealthCheckRequest::default())
        .await
        .unwrap();
    assert_eq!(health.into_inner().status(), ServingStatus::Serving);

    let ask = ServerReflectionRequest {
        message_request: Some(MessageRequest::ListServices(String::new())),
        ..ServerReflectionRequest::default()
    };
    let mut answers = ServerReflectionClient::new(channel)
        .server_reflection_info(futures_util::stream::iter([ask]))
        .await
        .unwrap()
        .into_inner();
    let answer = answers.next().await.unwrap().unwrap();
    let Some(MessageResponse::ListServicesResponse(list)) = answer.message_response else {
        panic!("{answer:?}");
    };
    let names: Vec<_> = list.service.into_iter().map(|found| found.name).collect();
    for service in [
        "compy.v1.SystemService",
        "compy.v1.ArtifactService",
        "compy.v1.WorkspaceService",
        "grpc.health.v1.Health",
    ] {
        assert!(names.iter().any(|name| name == service), "{names:?}");
    }
    daemon.stop().await;
}

#[tokio::test]
async fn the_daemon_serves_without_an_engine_and_says_what_is_missing() {
    let daemon = start(tempfile::tempdir().unwrap()).await;
    let mut system = SystemServiceClient::new(daemon.channel().await);
    let info = system.get_info(GetInfoRequest {}).await.unwrap();
    let info = info.into_inner();
    assert_eq!(info.version, env!("CARGO_PKG_VERSION"));
    assert_eq!(info.pid, std::process::id());
    assert!(info.resident_bytes > 0);
    let found = system.diagnose(DiagnoseRequest::default()).await.unwrap();
    let checks = found.into_inner().checks;
    let engine = checks.iter().find(|check| check.name == "engine").unwrap();
    assert_eq!(engine.verdict(), CheckVerdict::Failed);
    assert!(!engine.advice.is_empty());
    let disk = checks.iter().find(|check| check.name == "disk").unwrap();
    assert_eq!(disk.verdict(), CheckVerdict::Ok);
    daemon.stop().await;
}

#[tokio::test]
async fn a_second_daemon_on_the_same_data_is_told_who_has_them() {
    let daemon = start(tempfile::tempdir().unwrap()).await;
    let refused = Prepared::new(&settings(daemon.dir.path())).await;
    let refused = refused.unwrap_err();
    assert!(matches!(refused, AppError::Lock(LockError::Held { .. })));
    let pid = std::process::id().to_string();
    assert!(refused.to_string().contains(&pid), "{refused}");
    let mut system = SystemServiceClient::new(daemon.channel().await);
    system
        .get_info(GetInfoRequest {})
        .await
        .expect("the first one goes on");
    let dir = daemon.stop().await;
    assert!(!dir.path().join("run/compyd.sock").exists());
    start(dir).await.stop().await;
}

#[tokio::test]
async fn artifacts_are_listed_filtered_and_fetched_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    make_private_dir(&settings.data_dir).unwrap();
    let parts = parts::open(&settings, Redactions::default()).await.unwrap();
    let session = SessionId::from_uuid(uuid::Uuid::from_u128(1));
    let content = bytes::Bytes::from(vec![7; (2 << 20) + 3]);
    let hash = parts.blobs.put(content.clone()).await.unwrap();
    let artifact = |number: u128, stage, kind| Artifact {
        id: ArtifactId::from_uuid(uuid::Uuid::from_u128(number)),
        session: session.clone(),
        stage,
        step: None,
        kind,
        title: "pytest -q".to_owned(),
        hash: hash.as_str().to_owned(),
        size_bytes: content.len() as u64,
        media_type: "text/plain".to_owned(),
        created_at_ms: 1_780_000_000_123,
    };
    let report = artifact(1, Stage::Validate, ArtifactKind::TestReport);
    let diff = artifact(2, Stage::Pr, ArtifactKind::Diff);
    for one in [&report, &diff] {
        parts.store.put_artifact(one).await.unwrap();
    }
    parts
        .store
        .append(&session, 1, vec![b"{}".to_vec()])
        .await
        .unwrap();
    parts.store.close().await;
    drop(parts);

    let daemon = start(dir).await;
    let mut client = ArtifactServiceClient::new(daemon.channel().await);
    let list = async |client: &mut ArtifactServiceClient<Channel>, stage: &str, kind: i32| {
        let request = ListArtifactsRequest {
            session_id: session.to_string(),
            stage: stage.to_owned(),
            r#type: kind,
        };
        let listed = client.list_artifacts(request).await?.into_inner();
        Ok::<Vec<String>, tonic::Status>(listed.artifacts.into_iter().map(|it| it.id).collect())
    };
    let (report_id, diff_id) = (report.id.to_string(), diff.id.to_string());
    let both = vec![report_id.clone(), diff_id.clone()];
    assert_eq!(list(&mut client, "", 0).await.unwrap(), both);
    let validate = list(&mut client, "validate", 0).await.unwrap();
    assert_eq!(validate, std::slice::from_ref(&report_id));
    assert_eq!(list(&mut client, "", 2).await.unwrap(), [diff_id]);
    assert!(list(&mut client, "PR", 3).await.unwrap().is_empty());

    let request = GetArtifactRequest {
        artifact_id: report_id,
    };
    let stream = client.get_artifact(request).await.unwrap().into_inner();
    let messages: Vec<_> = stream.try_collect().await.unwrap();
    let mut parts = messages.into_iter().map(|message| message.part.unwrap());
    let Some(Part::Artifact(first)) = parts.next() else {
        panic!("the record comes first");
    };
    assert_eq!(first.stage, "VALIDATE");
    assert_eq!(first.created_at.unwrap().nanos, 123_000_000);
    let data: Vec<_> = parts
        .map(|part| match part {
            Part::Data(data) => data,
            Part::Artifact(_) => panic!("only once"),
        })
        .collect();
    assert_eq!(data.concat(), content);

    for (stage, kind, reason) in [
        ("NOWHERE", 0, "STAGE_INVALID"),
        ("", 99, "ARTIFACT_TYPE_INVALID"),
    ] {
        let status = list(&mut client, stage, kind).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument);
        assert_eq!(status.get_details_error_info().unwrap().reason, reason);
    }
    let unknown = GetArtifactRequest {
        artifact_id: ArtifactId::from_uuid(uuid::Uuid::from_u128(9)).to_string(),
    };
    let status = client.get_artifact(unknown).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
    assert!(status.get_details_localized_message().is_some());
    let nobody = ListArtifactsRequest {
        session_id: SessionId::from_uuid(uuid::Uuid::from_u128(9)).to_string(),
        ..ListArtifactsRequest::default()
    };
    let status = client.list_artifacts(nobody).await.unwrap_err();
    let info = status.get_details_error_info().unwrap();
    assert_eq!(info.reason, "SESSION_UNKNOWN");
    daemon.stop().await;
}

#[tokio::test]
async fn a_client_that_holds_a_stream_open_does_not_hold_up_the_shutdown() {
    let daemon = start(tempfile::tempdir().unwrap()).await;
    let mut watch = HealthClient::new(daemon.channel().await)
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let first = watch.next().await.unwrap().unwrap();
    assert_eq!(first.status(), ServingStatus::Serving);
    let stopping = tokio::spawn(daemon.stop());
    let second = watch.next().await.unwrap().unwrap();
    assert_eq!(second.status(), ServingStatus::NotServing);
    // It is still held: the grace cuts it off.
    stopping.await.unwrap();
}

#[tokio::test]
async fn the_identity_is_made_once() {
    let dir = tempfile::tempdir().unwrap();
    let settings = settings(dir.path());
    make_private_dir(&settings.data_dir).unwrap();
    let first = parts::identity(&settings).unwrap();
    assert_eq!(first.len(), 32);
    assert_eq!(parts::identity(&settings).unwrap(), first);
}
