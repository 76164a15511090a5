//! `compy.v1.SystemService`: what the daemon is, and whether its surroundings
//! are sound.

use std::{path::PathBuf, sync::Arc};

use compyd_proto::v1::{
    Check, CheckVerdict, CollectGarbageRequest, CollectGarbageResponse, CollectedGarbage,
    DiagnoseRequest, DiagnoseResponse, GetInfoRequest, GetInfoResponse,
    system_service_server::SystemService,
};
use tonic::{Request, Response, Status};

use super::{
    convert::snapshot,
    requests::Requests,
    status::internal,
    time::{millis, timestamp},
};
use crate::{
    ports::chunks::PruneMode,
    service::{
        doctor::{self, Doctor},
        garbage::{Collect, Collected, Garbage, GarbageError, OnlyCopies},
    },
};

/// What the daemon says of itself.
#[derive(Debug, Clone)]
pub struct DaemonInfo {
    /// When it started, in milliseconds since the Unix epoch.
    pub started_at_ms: i64,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The model of sessions that name none; empty when none is set.
    pub default_model: String,
    /// The image of workspaces that name none.
    pub default_image: String,
}

/// The service.
pub struct SystemApi {
    info: DaemonInfo,
    doctor: Arc<Doctor>,
    garbage: Garbage,
    requests: Requests,
}

impl SystemApi {
    /// A service that tells this.
    #[must_use]
    pub fn new(
        info: DaemonInfo,
        doctor: Arc<Doctor>,
        garbage: Garbage,
        requests: Requests,
    ) -> Self {
        Self {
            info,
            doctor,
            garbage,
            requests,
        }
    }
}

#[tonic::async_trait]
impl SystemService for SystemApi {
    async fn get_info(
        &self,
        _request: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        let info = self.info.clone();
        Ok(Response::new(GetInfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            started_at: Some(timestamp(info.started_at_ms)),
            data_dir: info.data_dir.display().to_string(),
            pid: std::process::id(),
            default_model: info.default_model,
            default_image: info.default_image,
            resident_bytes: doctor::resident_bytes(),
        }))
    }

    async fn diagnose(
        &self,
        request: Request<DiagnoseRequest>,
    ) -> Result<Response<DiagnoseResponse>, Status> {
        let client_time_ms = request.into_inner().client_time.as_ref().map(millis);
        let checks = self.doctor.examine(client_time_ms).await;
        let checks = checks.into_iter().map(check).collect();
        Ok(Response::new(DiagnoseResponse { checks }))
    }

    async fn collect_garbage(
        &self,
        request: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        let request = request.into_inner();
        let mode = match request.dry_run {
            true => PruneMode::Measure,
            false => PruneMode::Remove,
        };
        let only_copies = match request.volumes {
            true => OnlyCopies::Remove,
            false => OnlyCopies::Keep,
        };
        let garbage = self.garbage.clone();
        let work = move || async move {
            let collected = garbage.collect(Collect::now(mode, only_copies)).await;
            let collected = collected.map_err(|error| garbage_error(&error))?;
            Ok(CollectGarbageResponse {
                collected: collected.into_iter().map(self::collected).collect(),
            })
        };
        let method = "CollectGarbage";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }
}

fn collected(collected: Collected) -> CollectedGarbage {
    CollectedGarbage {
        kind: collected.kind.to_owned(),
        count: collected.count,
        freed_bytes: collected.freed_bytes,
        kept: collected.kept,
    }
}

fn garbage_error(error: &GarbageError) -> Status {
    match error {
        GarbageError::Snapshots(error) => snapshot::error(error),
        GarbageError::Blobs(error) => internal(error),
    }
}

fn check(check: doctor::Check) -> Check {
    let verdict = match check.verdict {
        doctor::Verdict::Ok => CheckVerdict::Ok,
        doctor::Verdict::Warning => CheckVerdict::Warning,
        doctor::Verdict::Failed => CheckVerdict::Failed,
    };
    Check {
        name: check.name.to_owned(),
        verdict: verdict.into(),
        found: check.found,
        advice: check.advice,
    }
}
