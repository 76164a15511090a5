//! `compy.v1.ApprovalService`: what sessions wait for, and the answers.

use std::{collections::BTreeMap, pin::Pin, time::Duration};

use compyd_proto::v1::{
    self as wire, approval_service_server::ApprovalService, watch_approvals_response::Change,
};
use futures_util::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status};

use super::{
    access::{name_of, scope_of},
    convert::session as convert,
    requests::{Begun, Requests},
    session::{answered, session_id},
    shutdown::until,
    status::{Retry, invalid, refusal},
};
use crate::{
    domain::access,
    domain::session::request::{Answer, RequestRefusal, Scope},
    service::sessions::{SessionError, Sessions},
};

/// How often a watch looks whether something has changed.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Changes that a slow reader may leave unread.
const WAITING: usize = 64;

/// The service on the wire.
#[derive(Clone)]
pub struct ApprovalApi {
    sessions: Sessions,
    requests: Requests,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl ApprovalApi {
    /// Answers with `sessions`; watches run on `tasks` and end with `stop`.
    #[must_use]
    pub fn new(
        sessions: Sessions,
        requests: Requests,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            sessions,
            requests,
            tasks,
            stop,
        }
    }
}

/// What is waited for now in workspaces of a scope, by id: sessions of an earlier time
/// first.
fn waiting(sessions: &Sessions, scope: &access::Scope) -> BTreeMap<String, wire::Approval> {
    let waiting = sessions.waiting_for_approval();
    let within = waiting
        .iter()
        .filter(|state| scope.holds(&state.created.workspace));
    let approvals = within.filter_map(|state| {
        let (question, request) = state.approval_in_question()?;
        Some(convert::approval(&question.id, request, Some(state)))
    });
    approvals
        .map(|approval| (approval.id.clone(), approval))
        .collect()
}

#[tonic::async_trait]
impl ApprovalService for ApprovalApi {
    async fn list_approvals(
        &self,
        request: Request<wire::ListApprovalsRequest>,
    ) -> Result<Response<wire::ListApprovalsResponse>, Status> {
        let waiting = waiting(&self.sessions, &scope_of(&request));
        let approvals = waiting.into_values().collect();
        Ok(Response::new(wire::ListApprovalsResponse { approvals }))
    }

    type WatchApprovalsStream =
        Pin<Box<dyn Stream<Item = Result<wire::WatchApprovalsResponse, Status>> + Send>>;

    async fn watch_approvals(
        &self,
        request: Request<wire::WatchApprovalsRequest>,
    ) -> Result<Response<Self::WatchApprovalsStream>, Status> {
        let scope = scope_of(&request);
        let (sender, changes) = tokio::sync::mpsc::channel(WAITING);
        let (sessions, stop) = (self.sessions.clone(), self.stop.clone());
        // On cancel, and when the client has left: it ends.
        self.tasks.spawn(async move {
            let mut known = BTreeMap::new();
            let mut look = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = sender.closed() => return,
                    _ = look.tick() => {}
                }
                let now = waiting(&sessions, &scope);
                let settled = known.keys().filter(|id| !now.contains_key(*id));
                let settled = settled.map(|id: &String| Change::SettledId(id.clone()));
                let asked = now.iter().filter(|(id, _)| !known.contains_key(*id));
                let asked = asked.map(|(_, approval)| Change::Asked(approval.clone()));
                let changes: Vec<Change> = settled.chain(asked).collect();
                for change in changes {
                    let change = Some(change);
                    let message = Ok(wire::WatchApprovalsResponse { change });
                    if sender.send(message).await.is_err() {
                        return;
                    }
                }
                known = now;
            }
        });
        let stream = until(&self.stop, ReceiverStream::new(changes));
        Ok(Response::new(stream))
    }

    async fn answer_approval(
        &self,
        request: Request<wire::AnswerApprovalRequest>,
    ) -> Result<Response<wire::AnswerApprovalResponse>, Status> {
        let (reach, by) = (scope_of(&request), name_of(&request));
        let request = request.into_inner();
        let Some((session, question)) = request.approval_id.split_once(':') else {
            return Err(unknown(&request.approval_id));
        };
        let session = session_id(session).map_err(|_| unknown(&request.approval_id))?;
        let (accepted, scope) = match request.verdict() {
            wire::ApprovalVerdict::Once => (true, Scope::Once),
            wire::ApprovalVerdict::Session => (true, Scope::Session),
            wire::ApprovalVerdict::Project => (true, Scope::Project),
            wire::ApprovalVerdict::Denied => (false, Scope::Once),
            wire::ApprovalVerdict::Unspecified | wire::ApprovalVerdict::Expired => {
                return Err(invalid(
                    "VERDICT_INVALID",
                    "no verdict that a person can give",
                    "give ONCE, SESSION, PROJECT or DENIED",
                ));
            }
        };
        if scope == Scope::Project && reach != access::Scope::All {
            return Err(refusal(
                Code::PermissionDenied,
                "SCOPE_INSUFFICIENT",
                "an approval for a project counts in workspaces that the token is not for",
                "approve it once or for the session",
                Retry::No,
            ));
        }
        let answer = Answer {
            question: Some(question.to_owned()),
            accepted,
            text: request.text.clone(),
            scope,
            by,
        };
        let (sessions, id) = (self.sessions.clone(), request.approval_id.clone());
        let work = move |begun: Begun| async move {
            let answer = match sessions.answer(&session, answer).await {
                Err(SessionError::Refused(
                    RequestRefusal::NothingAsked
                    | RequestRefusal::QuestionUnknown { .. }
                    | RequestRefusal::Ended(_),
                )) => match begun.before {
                    // The daemon ended right after it had taken the answer.
                    true => sessions.get(&session).await,
                    false => return Err(unknown(&id)),
                },
                Err(SessionError::Unknown(_)) => return Err(unknown(&id)),
                answer => answer,
            };
            let session = answered(answer)?;
            Ok(wire::AnswerApprovalResponse { session })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_begun("AnswerApproval", id, &request, work)
            .await;
        answer.map(Response::new)
    }
}

fn unknown(id: &str) -> Status {
    let shown: String = id.chars().take(80).collect();
    refusal(
        Code::NotFound,
        "APPROVAL_UNKNOWN",
        format!(
            "no session waits for approval `{shown}`: it was answered, has expired, or never was"
        ),
        "`compyctl approval list` shows what is waited for",
        Retry::No,
    )
}
