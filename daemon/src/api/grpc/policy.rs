//! `compy.v1.PolicyService`: decode, ask the policy, encode.

use compyd_proto::v1::{self as wire, policy_service_server::PolicyService};
use tonic::{Request, Response, Status};

use super::{convert::policy as convert, status::invalid};
use crate::{
    domain::{
        policy::{Policy, Session, Subject, Unjudged},
        tools::Tool,
    },
    service::policies::Policies,
};

/// The repository that a command is explained in.
const REPOSITORY: &str = "/workspace/repository";

/// The service on the wire.
#[derive(Clone)]
pub struct PolicyApi {
    policies: Policies,
}

impl PolicyApi {
    /// Answers with the policy in use.
    #[must_use]
    pub fn new(policies: Policies) -> Self {
        Self { policies }
    }
}

#[tonic::async_trait]
impl PolicyService for PolicyApi {
    async fn check_policy(
        &self,
        request: Request<wire::CheckPolicyRequest>,
    ) -> Result<Response<wire::CheckPolicyResponse>, Status> {
        let request = request.into_inner();
        let name = match request.name.trim() {
            "" => "the policy",
            name => name,
        };
        let (problem, rules) = match Policy::read(&request.text, name) {
            Ok(policy) => (String::new(), policy.rule_count()),
            Err(error) => (error.to_string(), 0),
        };
        Ok(Response::new(wire::CheckPolicyResponse {
            problem,
            rules: u32::try_from(rules).unwrap_or(u32::MAX),
        }))
    }

    async fn explain_policy(
        &self,
        request: Request<wire::ExplainPolicyRequest>,
    ) -> Result<Response<wire::ExplainPolicyResponse>, Status> {
        let request = request.into_inner();
        let autonomy = convert::autonomy_of(request.autonomy)
            .map_err(|message| invalid("AUTONOMY_INVALID", message, "give 0, 1, 2 or 3"))?;
        let session = Session {
            level: convert::level_of(request.level()),
            autonomy,
            repository: REPOSITORY,
            unjudged: Unjudged::none(),
        };
        let directory = match request.directory.as_str() {
            "" => REPOSITORY.to_owned(),
            directory => directory.to_owned(),
        };
        let subject = Subject::Line {
            line: request.command,
            directory,
        };
        let verdict = self
            .policies
            .current()
            .decide(Tool::RunCommand, &subject, session);
        let (file, problem) = self.policies.source();
        Ok(Response::new(wire::ExplainPolicyResponse {
            decision: convert::decision(verdict.decision).into(),
            tier: convert::tier(verdict.tier).into(),
            rulings: verdict.rulings.iter().map(convert::ruling).collect(),
            file: file.map_or_else(String::new, |file| file.display().to_string()),
            reload_problem: problem.unwrap_or_default(),
        }))
    }
}
