//! `compy.v1.SystemService`: what the daemon is, and whether its surroundings
//! are sound.

use std::{path::PathBuf, sync::Arc};

use compyd_proto::v1::{
    Check, CheckVerdict, DiagnoseRequest, DiagnoseResponse, GetInfoRequest, GetInfoResponse,
    system_service_server::SystemService,
};
use tonic::{Request, Response, Status};

use super::time::{millis, timestamp};
use crate::service::doctor::{self, Doctor};

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
}

impl SystemApi {
    /// A service that tells this.
    #[must_use]
    pub fn new(info: DaemonInfo, doctor: Arc<Doctor>) -> Self {
        Self { info, doctor }
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
