//! `compy.v1.SessionService`.

use std::{pin::Pin, sync::Arc, time::Duration};

use compyd_proto::v1::{self as wire, session_service_server};
use futures_util::{Stream, StreamExt as _};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Response, Status};

use super::{
    access::{name_of, scope_of},
    convert::{
        cognition,
        session::{self as convert, Detail, OptionsMistake},
    },
    requests::{Begun, Requests},
    status::{Retry, internal, invalid, invalid_id, refusal},
};
use crate::{
    domain::{
        budget::{PriceRule, Prices},
        compaction::{Window, WindowRule},
        edits::EditFormats,
        ids::SessionId,
        model_name::ModelName,
        session::{
            checkpoint::RollBackTo,
            event::Condition,
            options::{Budget, RULES_TOKENS, SessionLimits},
            request::{Answer, RequestRefusal, Scope, open_question},
        },
        workspace::Workspace,
    },
    ports::store::{StoreError, StorePort},
    service::sessions::{LogError, Published, SessionError, Sessions, StartSession},
};

/// What sessions are started with where a request does not say.
#[derive(Debug, Clone)]
pub struct SessionDefaults {
    /// The model, by name; `None` means that a request must name one.
    pub model: Option<String>,
    /// How models write edits.
    pub edit_formats: EditFormats,
    /// Limits.
    pub limits: SessionLimits,
    /// What its model calls may cost.
    pub budget: Budget,
    /// What models cost; the first rule that is for a model counts.
    pub prices: Vec<PriceRule>,
    /// How much models can be told; the first rule that is for a model counts.
    pub windows: Vec<WindowRule>,
    /// The share of its window from which on a conversation is compacted.
    pub compact_percent: u8,
    /// Tokens of a repository's own rules that a model is told at most.
    pub rules_tokens: u32,
    /// Whether all sessions of a day share a budget of money.
    pub days_cost_money: bool,
}

impl Default for SessionDefaults {
    fn default() -> Self {
        Self {
            edit_formats: EditFormats::default(),
            model: None,
            limits: SessionLimits::default(),
            budget: Budget::default(),
            prices: Vec::new(),
            windows: Vec::new(),
            compact_percent: Window::default().compact_percent,
            rules_tokens: RULES_TOKENS,
            days_cost_money: false,
        }
    }
}

impl SessionDefaults {
    /// How much a model can be told.
    #[must_use]
    pub fn window_of(&self, model: &ModelName) -> Window {
        let mut rules = self.windows.iter();
        let rule = rules.find(|rule| rule.models.matches(model));
        Window {
            tokens: rule.map_or(Window::default().tokens, |rule| rule.tokens),
            compact_percent: self.compact_percent,
        }
    }

    /// What a model costs, where somebody said. A transcript costs nothing.
    #[must_use]
    pub fn prices_of(&self, model: &ModelName) -> Option<Prices> {
        let found = PriceRule::find(&self.prices, model);
        found.or_else(|| matches!(model, ModelName::Scripted(_)).then(Prices::default))
    }
}

/// The service on the wire.
#[derive(Clone)]
pub struct SessionApi {
    sessions: Sessions,
    store: Arc<dyn StorePort>,
    requests: Requests,
    defaults: Arc<SessionDefaults>,
}

impl SessionApi {
    /// Sessions over gRPC.
    #[must_use]
    pub fn new(
        sessions: Sessions,
        store: Arc<dyn StorePort>,
        requests: Requests,
        defaults: SessionDefaults,
    ) -> Self {
        Self {
            sessions,
            store,
            requests,
            defaults: Arc::new(defaults),
        }
    }

    /// A workspace by name or id.
    async fn workspace(&self, name_or_id: &str) -> Result<Workspace, Status> {
        let found = if let Ok(id) = name_or_id.parse() {
            self.store.workspace(&id).await
        } else if let Ok(name) = name_or_id.parse() {
            self.store.workspace_named(&name).await
        } else {
            Ok(None)
        };
        found.map_err(|error| internal(&error))?.ok_or_else(|| {
            let shown: String = name_or_id.chars().take(64).collect();
            refusal(
                Code::NotFound,
                "WORKSPACE_UNKNOWN",
                format!("there is no workspace `{shown}`"),
                "`compyctl workspace list` shows those there are",
                Retry::No,
            )
        })
    }

    async fn start(
        &self,
        id: SessionId,
        request: wire::StartSessionRequest,
    ) -> Result<Published, Status> {
        let workspace = self.workspace(&request.workspace).await?;
        let repository = match request.repository.as_str() {
            "" => None,
            name => Some(
                name.parse()
                    .map_err(|error| invalid_id("REPOSITORY_UNKNOWN", &error))?,
            ),
        };
        let options = convert::options(request.options, &self.defaults)
            .map_err(|mistake| options_status(&mistake))?;
        let start = StartSession {
            id,
            task: request.task,
            workspace,
            repository,
            options,
        };
        self.sessions.start(start).await.map_err(session_status)
    }
}

pub(super) fn session_id(text: &str) -> Result<SessionId, Status> {
    text.parse()
        .map_err(|error| invalid_id("SESSION_UNKNOWN", &error))
}

/// A session as an answer carries it.
pub(super) fn answered(
    result: Result<Published, SessionError>,
) -> Result<Option<wire::Session>, Status> {
    let published = result.map_err(session_status)?;
    Ok(Some(convert::session(&published, Detail::Whole)))
}

#[tonic::async_trait]
impl session_service_server::SessionService for SessionApi {
    async fn start_session(
        &self,
        request: Request<wire::StartSessionRequest>,
    ) -> Result<Response<wire::StartSessionResponse>, Status> {
        let request = request.into_inner();
        let (api, asked) = (self.clone(), request.clone());
        let work = move |begun: Begun| async move {
            let id = SessionId::from_uuid(begun.id);
            let started = api.start(id, asked).await?;
            let session = Some(convert::session(&started, Detail::Whole));
            Ok(wire::StartSessionResponse { session })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_begun("StartSession", id, &request, work)
            .await;
        answer.map(Response::new)
    }

    async fn get_session(
        &self,
        request: Request<wire::GetSessionRequest>,
    ) -> Result<Response<wire::GetSessionResponse>, Status> {
        let id = session_id(&request.get_ref().session_id)?;
        let session = answered(self.sessions.get(&id).await)?;
        Ok(Response::new(wire::GetSessionResponse { session }))
    }

    async fn list_model_calls(
        &self,
        request: Request<wire::ListModelCallsRequest>,
    ) -> Result<Response<wire::ListModelCallsResponse>, Status> {
        let id = session_id(&request.get_ref().session_id)?;
        let calls = self
            .sessions
            .model_calls(&id)
            .await
            .map_err(session_status)?;
        let calls = calls.iter().map(convert::model_call).collect();
        Ok(Response::new(wire::ListModelCallsResponse { calls }))
    }

    async fn get_session_cognition(
        &self,
        request: Request<wire::GetSessionCognitionRequest>,
    ) -> Result<Response<wire::GetSessionCognitionResponse>, Status> {
        let id = session_id(&request.get_ref().session_id)?;
        let report = self.sessions.cognition(&id).await.map_err(session_status)?;
        Ok(Response::new(cognition::report(&report)))
    }

    async fn list_sessions(
        &self,
        request: Request<wire::ListSessionsRequest>,
    ) -> Result<Response<wire::ListSessionsResponse>, Status> {
        let scope = scope_of(&request);
        let request = request.into_inner();
        let workspace = match request.workspace.as_str() {
            "" => None,
            name_or_id => Some(self.workspace(name_or_id).await?.id.to_string()),
        };
        let sessions = self.sessions.list().await.map_err(session_status)?;
        let any = i32::from(wire::SessionState::Unspecified);
        let sessions = sessions
            .iter()
            .filter(|session| scope.holds(&session.state.created.workspace))
            .map(|session| convert::session(session, Detail::Listed))
            .filter(|session| {
                let in_workspace = workspace
                    .as_ref()
                    .is_none_or(|workspace| session.workspace_id == *workspace);
                in_workspace && (request.state == any || session.state == request.state)
            })
            .collect();
        Ok(Response::new(wire::ListSessionsResponse { sessions }))
    }

    type WatchSessionStream =
        Pin<Box<dyn Stream<Item = Result<wire::WatchSessionResponse, Status>> + Send>>;

    async fn watch_session(
        &self,
        request: Request<wire::WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        let request = request.into_inner();
        let id = session_id(&request.session_id)?;
        let watching = self
            .sessions
            .watch(&id, request.after_sequence, !request.no_follow)
            .await
            .map_err(session_status)?;
        let items = ReceiverStream::new(watching).map(move |item| match item {
            Ok(item) => Ok(convert::watch_item(&id, item)),
            Err(error) => Err(log_status(&error)),
        });
        Ok(Response::new(Box::pin(items)))
    }

    async fn pause_session(
        &self,
        request: Request<wire::PauseSessionRequest>,
    ) -> Result<Response<wire::PauseSessionResponse>, Status> {
        let request = request.into_inner();
        let session = session_id(&request.session_id)?;
        let sessions = self.sessions.clone();
        let work = move || async move {
            let session = answered(sessions.pause(&session).await)?;
            Ok(wire::PauseSessionResponse { session })
        };
        let id = &request.request_id;
        let answer = self.requests.once("PauseSession", id, &request, work).await;
        answer.map(Response::new)
    }

    async fn resume_session(
        &self,
        request: Request<wire::ResumeSessionRequest>,
    ) -> Result<Response<wire::ResumeSessionResponse>, Status> {
        let request = request.into_inner();
        let session = session_id(&request.session_id)?;
        let sessions = self.sessions.clone();
        let work = move |begun: Begun| async move {
            let now = match begun.before {
                true => sessions.get(&session).await.ok(),
                false => None,
            };
            let resumed = match now {
                // The daemon ended right after it had resumed it to its question,
                // which is not to be answered by resuming once more.
                Some(waits) if waits.state.condition == Condition::Waiting => Ok(waits),
                Some(_) | None => sessions.resume(&session).await,
            };
            let session = answered(resumed)?;
            Ok(wire::ResumeSessionResponse { session })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_begun("ResumeSession", id, &request, work)
            .await;
        answer.map(Response::new)
    }

    async fn rollback_session(
        &self,
        request: Request<wire::RollbackSessionRequest>,
    ) -> Result<Response<wire::RollbackSessionResponse>, Status> {
        let request = request.into_inner();
        let session = session_id(&request.session_id)?;
        let stage = convert::stage_of(request.stage()).ok_or_else(|| {
            invalid(
                "STAGE_INVALID",
                "no stage to roll back to is named",
                "name one that `compyctl session show` has a snapshot of",
            )
        })?;
        let attempt = (request.attempt > 0).then_some(request.attempt);
        let (sessions, of) = (self.sessions.clone(), session.clone());
        let about = async move {
            let now = sessions.get(&of).await.map_err(session_status)?;
            Ok(now.state.sequence.to_string())
        };
        let sessions = self.sessions.clone();
        let work = move |begun: Begun| async move {
            let since: Option<u64> = begun.about.parse().ok();
            let to = RollBackTo {
                stage,
                attempt,
                since,
            };
            let rolled_back = match sessions.roll_back(&session, to).await {
                // Begun by a daemon that wrote nothing down of it: what runs is
                // taken for the rollback.
                Err(SessionError::Refused(RequestRefusal::Running))
                    if begun.before && since.is_none() =>
                {
                    sessions.get(&session).await
                }
                rolled_back => rolled_back,
            };
            let session = answered(rolled_back)?;
            Ok(wire::RollbackSessionResponse { session })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_bound("RollbackSession", id, &request, about, work)
            .await;
        answer.map(Response::new)
    }

    async fn cancel_session(
        &self,
        request: Request<wire::CancelSessionRequest>,
    ) -> Result<Response<wire::CancelSessionResponse>, Status> {
        let request = request.into_inner();
        let session = session_id(&request.session_id)?;
        let (sessions, reason) = (self.sessions.clone(), request.reason.clone());
        let work = move || async move {
            let session = answered(sessions.cancel(&session, &reason).await)?;
            Ok(wire::CancelSessionResponse { session })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once("CancelSession", id, &request, work)
            .await;
        answer.map(Response::new)
    }

    async fn answer_session(
        &self,
        request: Request<wire::AnswerSessionRequest>,
    ) -> Result<Response<wire::AnswerSessionResponse>, Status> {
        let by = name_of(&request);
        let request = request.into_inner();
        let session = session_id(&request.session_id)?;
        let (sessions, of, named) = (
            self.sessions.clone(),
            session.clone(),
            request.question_id.clone(),
        );
        // By the time of a retry the session may ask something else.
        let about = async move {
            if !named.is_empty() {
                return Ok(named);
            }
            let now = sessions.get(&of).await.map_err(session_status)?;
            let open = open_question(&now.state).map_err(SessionError::from);
            Ok(open.map_err(session_status)?.id.clone())
        };
        let sessions = self.sessions.clone();
        let given = Answer {
            question: (!request.question_id.is_empty()).then(|| request.question_id.clone()),
            accepted: request.accept,
            text: request.text.clone(),
            scope: Scope::Once,
            by,
        };
        let work = move |begun: Begun| async move {
            // Empty where a daemon began it that wrote nothing down of it.
            let bound = Some(begun.about).filter(|about| !about.is_empty());
            let given = Answer {
                question: bound.or(given.question),
                ..given
            };
            let answer = match sessions.answer(&session, given).await {
                // The daemon ended right after it had taken the answer.
                Err(SessionError::Refused(
                    RequestRefusal::NothingAsked
                    | RequestRefusal::QuestionUnknown { .. }
                    | RequestRefusal::Ended(_),
                )) if begun.before => sessions.get(&session).await,
                answer => answer,
            };
            let session = answered(answer)?;
            Ok(wire::AnswerSessionResponse { session })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_bound("AnswerSession", id, &request, about, work)
            .await;
        answer.map(Response::new)
    }
}

fn options_status(mistake: &OptionsMistake) -> Status {
    let message = mistake.to_string();
    match mistake {
        OptionsMistake::ModelMissing => refusal(
            Code::FailedPrecondition,
            "MODEL_MISSING",
            message,
            "name one with --model or COMPY_MODEL, or set a default in the daemon's configuration",
            Retry::No,
        ),
        OptionsMistake::ModelInvalid(_) => invalid(
            "MODEL_INVALID",
            message,
            "use openai:NAME, anthropic:NAME or scripted:FILE",
        ),
        OptionsMistake::CommandInvalid { .. } => invalid(
            "COMMAND_INVALID",
            message,
            "quote it as a shell would; it runs without a shell",
        ),
        OptionsMistake::AutonomyInvalid(_) => {
            invalid("AUTONOMY_INVALID", message, "give 0, 1, 2 or 3")
        }
        OptionsMistake::MoneyInvalid(_) => invalid(
            "MONEY_INVALID",
            message,
            "give an amount in the currency of the daemon's prices: 2.50",
        ),
        OptionsMistake::PriceMissing(_) => refusal(
            Code::FailedPrecondition,
            "PRICE_MISSING",
            message,
            "`compyd --sample-config` shows how a price is written; or limit tokens with --budget-tokens",
            Retry::No,
        ),
    }
}

/// A session's error on the wire.
pub(super) fn session_status(error: SessionError) -> Status {
    let message = error.to_string();
    let not_found =
        |reason, message, advice| refusal(Code::NotFound, reason, message, advice, Retry::No);
    let not_now = |reason, message, advice: String| {
        refusal(Code::FailedPrecondition, reason, message, advice, Retry::No)
    };
    match error {
        SessionError::Unknown(_) => not_found(
            "SESSION_UNKNOWN",
            message,
            "`compyctl session list` shows those there are",
        ),
        SessionError::TaskInvalid(_) => invalid(
            "TASK_INVALID",
            message,
            "say what is to be done, in up to 64 KiB",
        ),
        SessionError::RepositoryUnknown(_) => not_found(
            "REPOSITORY_UNKNOWN",
            message,
            "`compyctl workspace show` lists the workspace's repositories",
        ),
        SessionError::Active { session, .. } => not_now(
            "SESSION_ACTIVE",
            message,
            format!("wait for it, or end it with `compyctl session cancel {session}`"),
        ),
        SessionError::Model { .. } => not_now(
            "MODEL_INVALID",
            message,
            "check the model's name, its key and the daemon's configuration".into(),
        ),
        SessionError::Refused(RequestRefusal::Ended(_)) => not_now(
            "SESSION_ENDED",
            message,
            "start a new one with `compyctl run`; what this one has done is in its workspace"
                .into(),
        ),
        SessionError::Refused(RequestRefusal::NothingAsked) => not_now(
            "NOTHING_ASKED",
            message,
            "look at it with `compyctl session show`".into(),
        ),
        SessionError::Refused(RequestRefusal::OnceOnly { .. }) => not_now(
            "APPROVED_ONCE_ONLY",
            message,
            "approve it without --for".into(),
        ),
        SessionError::Refused(RequestRefusal::Expired { .. }) => not_now(
            "APPROVAL_EXPIRED",
            message,
            "resume the session: it goes on without what it asked for".into(),
        ),
        SessionError::Refused(RequestRefusal::QuestionUnknown { .. }) => not_found(
            "QUESTION_UNKNOWN",
            message,
            "answer the question that is open, or leave its id out",
        ),
        SessionError::Refused(RequestRefusal::Running) => not_now(
            "SESSION_RUNNING",
            message,
            "pause it first with `compyctl session pause`".into(),
        ),
        SessionError::Refused(RequestRefusal::NoSnapshot { .. }) => not_now(
            "STAGE_WITHOUT_SNAPSHOT",
            message,
            "name one of those with --to, STAGE or STAGE#ATTEMPT".into(),
        ),
        SessionError::Refused(RequestRefusal::Published { .. }) => not_now(
            "BRANCH_PUBLISHED",
            message,
            "roll back to a later stage, or cancel the session and start a new one".into(),
        ),
        SessionError::Shared { other, .. } => not_now(
            "WORKSPACE_SHARED",
            message,
            format!("wait for it, or end it with `compyctl session cancel {other}`"),
        ),
        SessionError::Log(error) => log_status(&error),
        SessionError::Stopping => refusal(
            Code::Unavailable,
            "STOPPING",
            message,
            "try again once the daemon is back",
            Retry::After(Duration::from_secs(2)),
        ),
    }
}

fn log_status(error: &LogError) -> Status {
    match error {
        LogError::Store(StoreError::DiskFull(_)) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            error.to_string(),
            "free some space and try again",
            Retry::After(Duration::from_secs(5)),
        ),
        LogError::Store(
            StoreError::NameTaken(_)
            | StoreError::Missing(_)
            | StoreError::WrongSequence { .. }
            | StoreError::NewerFormat { .. }
            | StoreError::Damaged(_)
            | StoreError::Failed { .. },
        )
        | LogError::Event(_)
        | LogError::Headless(_) => internal(error),
    }
}
