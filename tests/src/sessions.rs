//! Sessions: started, waited for, and read.

use std::time::Duration;

use compyd_proto::v1::{
    GetSessionRequest, ListArtifactsRequest, ResumeSessionRequest, Session, SessionEvent,
    SessionOptions, SessionState, StartSessionRequest, ToolEnded, WatchSessionRequest, Workflow,
    get_artifact_response, session_event::Event, watch_session_response::Item,
};
use serde_json::Value;

use crate::{
    compyctl::Ran,
    daemon::{Daemon, Options},
    repository::Repository,
    request_id,
    script::Script,
    wait,
};

/// How long a session may take on a slow machine.
pub const SESSION_PATIENCE: Duration = Duration::from_secs(600);

/// A request for a session in the only repository of a workspace.
#[must_use]
pub fn request(workspace: &str, model: &str) -> StartSessionRequest {
    StartSessionRequest {
        request_id: request_id(),
        task: "slugify drops the last word when max_length equals its length; fix it".to_owned(),
        workspace: workspace.to_owned(),
        repository: String::new(),
        options: Some(SessionOptions {
            model: model.to_owned(),
            workflow: Workflow::Swe.into(),
            test_command: "python -m pytest -q".to_owned(),
            ..Default::default()
        }),
    }
}

/// Whether a session in this state can go no further by itself.
#[must_use]
pub fn rests(state: SessionState) -> bool {
    match state {
        SessionState::Running | SessionState::Unspecified => false,
        SessionState::Paused
        | SessionState::Waiting
        | SessionState::Interrupted
        | SessionState::Failed
        | SessionState::Verified
        | SessionState::Cancelled => true,
    }
}

/// Short names of what happened, in order: what two runs of the same script
/// share whatever happened to the daemon in between.
#[must_use]
pub fn outline(events: &[SessionEvent]) -> Vec<String> {
    events
        .iter()
        .filter_map(|event| match event.event.as_ref()? {
            Event::StageEntered(entered) => Some(format!("enter {}", entered.stage)),
            Event::ToolEnded(ended) => Some(format!("{} {}", ended.name, ended.outcome)),
            Event::CheckEnded(ended) => Some(format!("check {} {}", ended.name, ended.passed)),
            Event::Committed(_) => Some("commit".to_owned()),
            Event::PullRequestOpened(_) => Some("pull request".to_owned()),
            Event::ProofMade(made) => {
                let proved = made.proof.as_ref().is_some_and(|proof| proof.proved);
                Some(format!("proof {proved}"))
            }
            Event::ModelAnswered(_) => Some("model".to_owned()),
            Event::Created(_)
            | Event::StageLeft(_)
            | Event::MessageAdded(_)
            | Event::BudgetReserved(_)
            | Event::BudgetNoted(_)
            | Event::Compacted(_)
            | Event::ModelAsked(_)
            | Event::ModelFailed(_)
            | Event::ToolStarted(_)
            | Event::TodoChanged(_)
            | Event::CheckStarted(_)
            | Event::StateChanged(_)
            | Event::QuestionAsked(_)
            | Event::QuestionAnswered(_)
            | Event::CognitionNoted(_) => None,
        })
        .collect()
}

/// What a session's log says it was told and saw, for messages of assertions.
#[must_use]
pub fn story(events: &[SessionEvent]) -> String {
    events
        .iter()
        .map(|event| format!("{:>4} {}\n", event.sequence, event.summary))
        .collect()
}

/// How the tools of a session ended, in order.
#[must_use]
pub fn tools_ended(events: &[SessionEvent]) -> Vec<&ToolEnded> {
    events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::ToolEnded(ended)) => Some(ended),
            _ => None,
        })
        .collect()
}

impl Daemon {
    /// A daemon with the sample's repository in workspace `w`; `None` where this
    /// machine cannot run one.
    pub async fn with_sample(options: Options) -> Option<Self> {
        let daemon = Self::start(options).await?;
        let repository = Repository::sample(daemon.directory().join("textkit"));
        daemon.workspace("w", &["--repo", repository.arg()]).await;
        Some(daemon)
    }

    /// Plays a script in the repository of workspace `w`, and gives the session's
    /// id.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn play(&self, script: &Script) -> String {
        let model = script.write(self.directory());
        self.start_session(request("w", &model)).await
    }

    /// Starts a session and gives its id.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn start_session(&self, request: StartSessionRequest) -> String {
        let answer = self.sessions().start_session(request).await;
        let session = answer
            .unwrap_or_else(|status| panic!("the session does not start: {status}"))
            .into_inner()
            .session;
        session.expect("the answer holds a session").id
    }

    /// The session as it is now.
    ///
    /// # Panics
    /// When the daemon does not know it.
    pub async fn session(&self, id: &str) -> Session {
        let request = GetSessionRequest {
            session_id: id.to_owned(),
        };
        self.sessions()
            .get_session(request)
            .await
            .unwrap_or_else(|status| panic!("session {id}: {status}"))
            .into_inner()
            .session
            .expect("the answer holds a session")
    }

    /// Waits until a session rests: it has ended, or somebody must do something.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn rested(&self, id: &str) -> Session {
        self.session_when(id, "rest", |session| rests(session.state()))
            .await
    }

    /// Waits until a session rests, which has to be verified; gives its events.
    ///
    /// # Panics
    /// When it does not rest in time or is not verified; with the session's story.
    pub async fn verified(&self, id: &str) -> Vec<SessionEvent> {
        let session = self.rested(id).await;
        let events = self.events(id, 0).await;
        assert_eq!(
            session.state(),
            SessionState::Verified,
            "{}\n{}",
            session.state_reason,
            story(&events)
        );
        events
    }

    /// Waits until a session fits.
    ///
    /// # Panics
    /// When it does not in time; with the session's story.
    pub async fn session_when(
        &self,
        id: &str,
        what: &str,
        fits: impl Fn(&Session) -> bool,
    ) -> Session {
        let deadline = tokio::time::Instant::now() + SESSION_PATIENCE;
        loop {
            let session = self.session(id).await;
            if fits(&session) {
                return session;
            }
            if tokio::time::Instant::now() > deadline {
                let story = story(&self.events(id, 0).await);
                panic!("session {id} does not {what} in {SESSION_PATIENCE:?}\n{story}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// The session's events so far, after a sequence number.
    ///
    /// # Panics
    /// When they are not in order and without gaps.
    pub async fn events(&self, id: &str, after_sequence: u64) -> Vec<SessionEvent> {
        let request = WatchSessionRequest {
            session_id: id.to_owned(),
            after_sequence,
            no_follow: true,
        };
        let answer = self.sessions().watch_session(request).await;
        let mut stream = answer
            .unwrap_or_else(|status| panic!("watch {id}: {status}"))
            .into_inner();
        let mut events = Vec::new();
        let mut next = after_sequence + 1;
        while let Some(message) = stream.message().await.expect("the log can be read") {
            if let Some(Item::Event(event)) = message.item {
                assert_eq!(event.sequence, next, "events come in order without gaps");
                next += 1;
                events.push(event);
            }
        }
        events
    }

    /// Goes on with a session.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn resume(&self, id: &str) {
        let request = ResumeSessionRequest {
            request_id: request_id(),
            session_id: id.to_owned(),
        };
        let answer = self.sessions().resume_session(request).await;
        answer.unwrap_or_else(|status| panic!("resume {id}: {status}"));
    }

    /// Waits for the end of a session that a restart may have interrupted:
    /// resumes it where it does not go on by itself.
    ///
    /// # Panics
    /// When it does not end in time.
    pub async fn ended(&self, id: &str) -> Session {
        loop {
            let session = self.rested(id).await;
            if session.state() != SessionState::Interrupted {
                return session;
            }
            self.resume(id).await;
        }
    }

    /// Ids, stages and types of a session's artifacts, and their bytes.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn artifact(&self, id: &str) -> Vec<u8> {
        let request = compyd_proto::v1::GetArtifactRequest {
            artifact_id: id.to_owned(),
        };
        let answer = self.artifacts().get_artifact(request).await;
        let mut stream = answer
            .unwrap_or_else(|status| panic!("artifact {id}: {status}"))
            .into_inner();
        let mut bytes = Vec::new();
        while let Some(message) = stream.message().await.expect("the artifact can be read") {
            if let Some(get_artifact_response::Part::Data(data)) = message.part {
                bytes.extend(data);
            }
        }
        bytes
    }

    /// Every artifact of a session.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn artifacts_of(&self, session: &str) -> Vec<compyd_proto::v1::Artifact> {
        let request = ListArtifactsRequest {
            session_id: session.to_owned(),
            ..Default::default()
        };
        let answer = self.artifacts().list_artifacts(request).await;
        answer
            .unwrap_or_else(|status| panic!("artifacts of {session}: {status}"))
            .into_inner()
            .artifacts
    }

    /// `compyctl run` with these arguments and `-o json`: what it left, and the
    /// result object it ended with.
    pub async fn run(&self, args: &[&str]) -> (Ran, Value) {
        let mut all = vec!["run", "-o", "json"];
        all.extend(args);
        let ran = self.compyctl(&all).await;
        let result = if ran.stdout.is_empty() {
            Value::Null
        } else {
            ran.last_json()
        };
        (ran, result)
    }

    /// Waits until a session has logged something.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn event_when(
        &self,
        id: &str,
        what: &str,
        fits: impl Fn(&SessionEvent) -> bool,
    ) -> SessionEvent {
        wait::until(what, SESSION_PATIENCE, async || {
            self.events(id, 0)
                .await
                .into_iter()
                .find(|event| fits(event))
        })
        .await
    }
}
