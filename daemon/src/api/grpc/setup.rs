//! `compy.v1.SetupService`: decode, call the service, encode.

use compyd_proto::v1::{self as wire, setup_service_server::SetupService};
use tonic::{Request, Response, Status};

use super::{
    convert::{workspace as convert, workspace_error},
    requests::Requests,
    status::invalid_id,
};
use crate::{
    domain::setup_file::SetupFile,
    service::workspaces::{Again, Workspaces},
};

/// The service on the wire.
#[derive(Clone)]
pub struct SetupApi {
    workspaces: Workspaces,
    requests: Requests,
}

impl SetupApi {
    /// Answers with `workspaces`.
    #[must_use]
    pub fn new(workspaces: Workspaces, requests: Requests) -> Self {
        Self {
            workspaces,
            requests,
        }
    }
}

#[tonic::async_trait]
impl SetupService for SetupApi {
    async fn set_up_repository(
        &self,
        request: Request<wire::SetUpRepositoryRequest>,
    ) -> Result<Response<wire::SetUpRepositoryResponse>, Status> {
        let request = request.into_inner();
        let repository = match request.repository.as_str() {
            "" => None,
            name => {
                let name = name.parse();
                Some(name.map_err(|error| invalid_id("NAME_INVALID", &error))?)
            }
        };
        let again = match request.again {
            true => Again::Always,
            false => Again::IfNotDone,
        };
        let (workspaces, of) = (self.workspaces.clone(), request.clone());
        let work = move || async move {
            let found = workspaces.resolve(&of.workspace);
            let id = found
                .map_err(|error| workspace_error::error(&error))?
                .id
                .clone();
            let done = workspaces
                .set_up(&id, repository, &of.request_id, again)
                .await;
            let notes = done.map_err(|error| workspace_error::error(&error))?;
            let view = workspaces.get(&id).await;
            let view = view.map_err(|error| workspace_error::error(&error))?;
            Ok(wire::SetUpRepositoryResponse {
                workspace: Some(convert::view(&view)),
                notes,
            })
        };
        let method = "SetUpRepository";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn check_setup_file(
        &self,
        request: Request<wire::CheckSetupFileRequest>,
    ) -> Result<Response<wire::CheckSetupFileResponse>, Status> {
        let problems = match SetupFile::parse(&request.get_ref().content) {
            Ok(_) => Vec::new(),
            Err(error) => error.problems,
        };
        let problems = problems.into_iter().map(|problem| wire::SetupFileProblem {
            line: u32::try_from(problem.line).unwrap_or(u32::MAX),
            message: problem.message,
        });
        Ok(Response::new(wire::CheckSetupFileResponse {
            problems: problems.collect(),
        }))
    }
}
