//! `compy.v1.AuditService`: decode, ask the log, encode.

use std::sync::Arc;

use compyd_proto::v1::{self as wire, audit_service_server::AuditService};
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use tonic::{Request, Response, Status};

use super::{convert::audit as convert, status::internal};
use crate::{domain::audit::checkpoint::Checkpoint, ports::audit::AuditPort};

/// The service.
pub struct AuditApi {
    log: Arc<dyn AuditPort>,
}

impl AuditApi {
    /// Answers with this log.
    #[must_use]
    pub fn new(log: Arc<dyn AuditPort>) -> Self {
        Self { log }
    }
}

#[tonic::async_trait]
impl AuditService for AuditApi {
    async fn search_audit(
        &self,
        request: Request<wire::SearchAuditRequest>,
    ) -> Result<Response<wire::SearchAuditResponse>, Status> {
        let query = convert::query(request.into_inner())?;
        let found = self.log.search(query).await;
        let found = found.map_err(|error| convert::error(&error))?;
        Ok(Response::new(wire::SearchAuditResponse {
            records: found.into_iter().map(convert::record).collect(),
        }))
    }

    type ExportAuditStream = BoxStream<'static, Result<wire::ExportAuditResponse, Status>>;

    async fn export_audit(
        &self,
        _request: Request<wire::ExportAuditRequest>,
    ) -> Result<Response<Self::ExportAuditStream>, Status> {
        let line = self.log.checkpoint().await;
        let line = line.map_err(|error| convert::error(&error))?;
        let last = Checkpoint::read(&line)
            .map_err(|error| internal(&error))?
            .seq;
        let log = self.log.clone();
        let parts = stream::try_unfold(0, move |from| {
            let log = log.clone();
            async move {
                let lines = log.lines(from, last).await?;
                let part = wire::ExportAuditResponse { lines: lines.bytes };
                Ok((!part.lines.is_empty()).then_some((part, lines.next)))
            }
        });
        let parts = parts.map_err(|error| convert::error(&error));
        Ok(Response::new(parts.boxed()))
    }

    async fn verify_audit(
        &self,
        _request: Request<wire::VerifyAuditRequest>,
    ) -> Result<Response<wire::VerifyAuditResponse>, Status> {
        let verified = self.log.verify().await;
        let verified = verified.map_err(|error| convert::error(&error))?;
        let key = self.log.public_key();
        Ok(Response::new(convert::verified(&verified, key)))
    }
}
