//! A provider that limits, fails, cuts its replies or refuses the key.

use std::{collections::HashMap, sync::Arc};

use compyd::adapters::model::{
    fake_provider::{Answer, FakeProvider, RecordedRequest, WireDialect, wire},
    scripted::Transcript,
};
use compyd_proto::v1::Workflow;
use serde_json::json;

use super::{BROKEN, End, Outcome, TEST, delete, ended, fixed, read, run, think, told, workspace};
use crate::{daemon::Daemon, script::Script, sessions::request};

/// Requests of the model `passing` that are answered wrongly, by number from 1,
/// and how.
const WRONG: [(usize, &str); 5] = [
    (1, "limits"),
    (2, "limits"),
    (4, "fails"),
    (5, "fails"),
    (7, "breaks off"),
];

/// The provider, on a port of this machine.
pub struct Provider {
    server: FakeProvider,
    turns: usize,
}

impl Provider {
    /// Starts it.
    ///
    /// # Panics
    /// When this machine has no port left.
    pub async fn start() -> Self {
        let script = Script::new()
            .calls([read("sums.py")])
            .calls([think("sums.py subtracts where it should add")])
            .calls([run("true")]);
        let transcript = Transcript::parse(&fixed(script).text()).expect("it is a transcript");
        let transcript = Arc::new(transcript);
        let turns = transcript.len();
        let mut asked = HashMap::<String, usize>::new();
        let answers = move |request: &RecordedRequest| {
            let model = request.body["model"]
                .as_str()
                .unwrap_or_default()
                .to_owned();
            let number = asked.entry(model.clone()).or_default();
            *number += 1;
            let how = match model.as_str() {
                "passing" => WRONG
                    .iter()
                    .find(|(wrong, _)| wrong == number)
                    .map(|(_, how)| *how),
                "failing" => Some("fails"),
                _ => Some("refuses"),
            };
            answer(how, request, &transcript)
        };
        Self {
            server: FakeProvider::start(WireDialect::OpenAi, Box::new(answers)).await,
            turns,
        }
    }

    /// Where it is, as `model.openai_base_url` has it.
    #[must_use]
    pub fn base_url(&self) -> String {
        self.server.base_url()
    }

    /// Plays a session that meets troubles which pass, and some that meet one
    /// which does not.
    pub(super) async fn bring_about(&self, daemon: &Daemon, each: &mut impl FnMut(Outcome)) {
        let (end, story) = self.play(daemon, "passing").await;
        // Every wrong answer was one more request, and nothing else was.
        let requests = self.server.requests().len();
        let end =
            end.filter(|(end, _)| *end == End::Recovered && requests == self.turns + WRONG.len());
        for (class, fault) in [
            (
                "RATE_LIMIT",
                "a provider that limits the rate, with Retry-After",
            ),
            ("API_ERROR", "a provider that fails twice"),
            ("NETWORK_ERROR", "a provider whose reply breaks off"),
        ] {
            each(Outcome {
                class,
                fault,
                wanted: End::Recovered,
                end: end.as_ref().map(|(end, _)| *end),
                story: format!("{requests} requests\n{story}"),
            });
        }
        for (class, model, fault) in [
            ("API_ERROR", "failing", "a provider that goes on failing"),
            ("AUTH_ERROR", "refusing", "a provider that refuses the key"),
        ] {
            let (end, story) = self.play(daemon, model).await;
            // With what is known of it.
            let end = end.filter(|(_, reason)| reason.contains(class));
            each(Outcome {
                class,
                fault,
                wanted: End::Escalated,
                end: end.map(|(end, _)| end),
                story,
            });
        }
    }

    /// How a session with a model ends and why, and its story.
    async fn play(&self, daemon: &Daemon, model: &str) -> (Option<(End, String)>, String) {
        workspace(
            daemon,
            model,
            &[("sums.py", BROKEN), ("test_sums.py", TEST)],
        )
        .await;
        let mut start = request(model, &format!("openai:{model}"));
        start.task = "add subtracts; fix it".to_owned();
        if let Some(options) = &mut start.options {
            options.workflow = Workflow::None.into();
        }
        let id = daemon.start_session(start).await;
        let session = daemon.rested(&id).await;
        let story = told(&session, &daemon.events(&id, 0).await);
        let _ = daemon.compyctl(&["session", "cancel", &id]).await;
        delete(daemon, model).await;
        let end = ended(&session).map(|end| (end, session.state_reason.clone()));
        (end, story)
    }
}

/// The turn that follows, or what is wrong instead.
fn answer(how: Option<&str>, request: &RecordedRequest, transcript: &Transcript) -> Answer {
    let number = request.turns();
    let reply = match transcript.turn(number) {
        Some(turn) => wire::turn(WireDialect::OpenAi, number, turn, request.text.len()),
        None => wire::opening(WireDialect::OpenAi),
    };
    let error = |message: &str| json!({"error": {"message": message, "type": "error"}});
    match how {
        None => Answer::stream(reply),
        Some("limits") => Answer::json(429, &error("slow down")).header("retry-after", "1"),
        Some("refuses") => Answer::json(401, &error("no such key")),
        Some("breaks off") => {
            let half: String = reply.chars().take(reply.chars().count() / 2).collect();
            Answer::stream(half).then_cut()
        }
        Some(_) => Answer::json(503, &error("overloaded")),
    }
}
