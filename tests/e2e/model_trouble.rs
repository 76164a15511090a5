//! Models and providers that misbehave: the session ends as it should, and
//! nothing it knew is lost.

use std::time::{Duration, Instant};

use compyd::adapters::model::{
    fake_provider::{Answer, FakeProvider, WireDialect, wire},
    scripted::Transcript,
};
use compyd_proto::v1::{Session, SessionEvent, SessionState, ToolOutcome, session_event::Event};
use compyd_tests::{
    daemon::Daemon,
    repository::{Repository, sample_script},
    script::Script,
    sessions::{request, story},
};
use serde_json::{Value, json};

use crate::model_http::{model, settings};

struct Run {
    daemon: Daemon,
    provider: FakeProvider,
    id: String,
}

impl Run {
    /// The sample's session with a provider that plays a script.
    async fn start(dialect: WireDialect, script: &Script) -> Option<Self> {
        Self::start_with(dialect, script, 4).await
    }

    async fn start_with(dialect: WireDialect, script: &Script, retries: u32) -> Option<Self> {
        let transcript = Transcript::parse(&script.text()).unwrap();
        let provider = FakeProvider::playing(dialect, transcript).await;
        Self::start_at(dialect, provider, retries).await
    }

    /// The sample's session with this provider.
    async fn start_at(dialect: WireDialect, provider: FakeProvider, retries: u32) -> Option<Self> {
        let options = settings(&provider, dialect).set("model.retries", retries.to_string());
        let daemon = Daemon::start(options).await?;
        let repository = Repository::sample(daemon.directory().join("textkit"));
        daemon.workspace("w", &["--repo", repository.arg()]).await;
        let id = daemon.start_session(request("w", model(dialect))).await;
        Some(Self {
            daemon,
            provider,
            id,
        })
    }

    /// The session at rest, in this state.
    async fn rests_as(&self, state: SessionState) -> (Session, Vec<SessionEvent>) {
        let session = self.daemon.rested(&self.id).await;
        let events = self.daemon.events(&self.id, 0).await;
        assert_eq!(
            session.state(),
            state,
            "{}\n{}",
            session.state_reason,
            story(&events)
        );
        assert_eq!(self.provider.violations(), Vec::<String>::new());
        (session, events)
    }
}

fn sample() -> Script {
    Script::load(&sample_script())
}

fn answers_of<'a>(events: &'a [SessionEvent], tool: &str) -> Vec<(ToolOutcome, &'a str)> {
    let ended = events.iter().filter_map(|event| match &event.event {
        Some(Event::ToolEnded(ended)) if ended.name == tool => {
            Some((ended.outcome(), ended.content.as_str()))
        }
        _ => None,
    });
    ended.collect()
}

fn daemons_words(events: &[SessionEvent]) -> Vec<&str> {
    let said = events.iter().filter_map(|event| match &event.event {
        Some(Event::MessageAdded(message)) if !message.from_person => Some(message.text.as_str()),
        _ => None,
    });
    said.collect()
}

async fn odd_replies_are_corrected(dialect: WireDialect) {
    // Before the first turn of a script that otherwise does its work.
    let odd: [Value; 5] = [
        json!({"tool_calls": [{"name": "read_file", "arguments_raw": "{\"path\": \"textkit/sl"}]}),
        json!({"tool_calls": [{"name": "bash", "arguments": {"command": "true"}}]}),
        json!({"tool_calls": [
            {"name": "read_file", "arguments": {"path": "README.md"}},
            {"name": "read_file", "arguments": {"path": "missing.py"}}]}),
        json!({"text": "I think that it works already."}),
        json!({"text": ""}),
    ];
    let script = odd
        .into_iter()
        .rev()
        .fold(sample(), |script, line| script.before_turn(0, line));
    // One turn for each request: a reply without a word leaves no trace in the
    // next request that a turn could be counted by.
    let transcript = Transcript::parse(&script.text()).unwrap();
    let mut turns = 0;
    let next = move |request: &compyd::adapters::model::fake_provider::RecordedRequest| {
        turns += 1;
        let turn = transcript
            .turn(turns - 1)
            .expect("the script has a turn for each request");
        Answer::stream(wire::turn(dialect, turns - 1, turn, request.text.len()))
    };
    let provider = FakeProvider::start(dialect, Box::new(next)).await;
    let Some(run) = Run::start_at(dialect, provider, 4).await else {
        return;
    };
    let (_, events) = run.rests_as(SessionState::Verified).await;
    let reads = answers_of(&events, "read_file");
    assert_eq!(reads[0].0, ToolOutcome::Refused, "{reads:?}");
    assert!(reads[0].1.contains("not a JSON object"), "{reads:?}");
    let (unknown, advice) = answers_of(&events, "bash")[0];
    assert_eq!(unknown, ToolOutcome::Refused);
    assert!(
        advice.contains("`bash`") && advice.contains("run_command"),
        "{advice}"
    );
    // Two calls at once: both are answered, each by itself.
    assert_eq!(
        [reads[1].0, reads[2].0],
        [ToolOutcome::Ok, ToolOutcome::Error],
        "{reads:?}"
    );
    assert!(reads[2].1.contains("missing.py"), "{reads:?}");
    // Without a call, and without a word: told what is expected.
    for words in ["called no tool", "was empty"] {
        let told = daemons_words(&events)
            .iter()
            .filter(|text| text.contains(words))
            .count();
        assert_eq!(told, 1, "{words}: {:#?}", daemons_words(&events));
    }
}

#[tokio::test]
async fn odd_replies_are_corrected_and_cost_nothing_else_openai() {
    odd_replies_are_corrected(WireDialect::OpenAi).await;
}

#[tokio::test]
async fn odd_replies_are_corrected_and_cost_nothing_else_anthropic() {
    odd_replies_are_corrected(WireDialect::Anthropic).await;
}

#[tokio::test]
async fn a_model_that_only_talks_fails_the_session() {
    let script = Script::new()
        .says("Let me explain.")
        .says("As I said.")
        .says("It is done.");
    let Some(run) = Run::start(WireDialect::OpenAi, &script).await else {
        return;
    };
    let (session, _) = run.rests_as(SessionState::Failed).await;
    assert!(
        session.state_reason.contains("called no tool"),
        "{}",
        session.state_reason
    );
    assert_eq!(session.model_calls, 3);
}

#[tokio::test]
async fn passing_trouble_of_a_provider_is_waited_out() {
    let script = sample()
        .before_turn(1, json!({"fault": {"status": 429, "retry_after_s": 2}}))
        .before_turn(2, json!({"fault": {"status": 429}}))
        .before_turn(3, json!({"fault": {"status": 529}}))
        .before_turn(4, json!({"fault": "cut"}));
    let begun = Instant::now();
    let Some(run) = Run::start(WireDialect::OpenAi, &script).await else {
        return;
    };
    let (session, events) = run.rests_as(SessionState::Verified).await;
    assert!(
        begun.elapsed() >= Duration::from_secs(2),
        "Retry-After was not honoured"
    );
    assert_eq!(run.provider.requests().len(), sample().turns() + 4);
    // The log tells of the calls that count: a try that was refused is none of
    // them, a reply that was cut may have cost as much as a whole one.
    assert_eq!(
        session.model_calls as usize,
        sample().turns() + 1,
        "{}",
        story(&events)
    );
}

#[tokio::test]
async fn anthropics_limits_are_waited_out_and_its_spend_limit_is_not() {
    let script = sample()
        .before_turn(1, json!({"fault": {"status": 529}}))
        .before_turn(2, json!({"fault": {"status": 429, "retry_after_s": 1}}))
        // Without Retry-After it is a limit that somebody has to raise.
        .before_turn(3, json!({"fault": {"status": 429}}));
    let Some(run) = Run::start(WireDialect::Anthropic, &script).await else {
        return;
    };
    let (paused, _) = run.rests_as(SessionState::Paused).await;
    assert!(
        paused.state_reason.contains("quota"),
        "{}",
        paused.state_reason
    );
    // Three turns, two tries that failed and were made again, and the last one.
    assert_eq!(run.provider.requests().len(), 6);
    run.daemon.resume(&run.id).await;
    run.rests_as(SessionState::Verified).await;
}

#[tokio::test]
async fn a_stream_that_is_cut_each_time_pauses_the_session_and_resumes() {
    let cut = || json!({"fault": "cut"});
    let script = sample().before_turn(3, cut()).before_turn(3, cut());
    let Some(run) = Run::start_with(WireDialect::OpenAi, &script, 1).await else {
        return;
    };
    let (paused, before) = run.rests_as(SessionState::Paused).await;
    assert!(
        paused.state_reason.contains("resume"),
        "{}",
        paused.state_reason
    );
    run.daemon.resume(&run.id).await;
    let (_, after) = run.rests_as(SessionState::Verified).await;
    assert_eq!(
        story(&before),
        story(&after[..before.len()]),
        "the log only grows"
    );
}

#[tokio::test]
async fn a_refused_key_pauses_the_session_until_it_is_mended() {
    let script = sample().before_turn(2, json!({"fault": {"status": 401}}));
    let Some(run) = Run::start(WireDialect::OpenAi, &script).await else {
        return;
    };
    let (paused, _) = run.rests_as(SessionState::Paused).await;
    // Asked once: a key that is refused is refused again.
    assert_eq!(run.provider.requests().len(), 3, "{}", paused.state_reason);
    run.daemon.resume(&run.id).await;
    run.rests_as(SessionState::Verified).await;
}

#[tokio::test]
async fn a_refused_request_fails_the_session_with_the_providers_words() {
    for dialect in [WireDialect::OpenAi, WireDialect::Anthropic] {
        let script = sample().before_turn(1, json!({"fault": {"status": 400}}));
        let Some(run) = Run::start(dialect, &script).await else {
            return;
        };
        let (session, _) = run.rests_as(SessionState::Failed).await;
        assert_eq!(run.provider.requests().len(), 2);
        assert!(
            session.state_reason.contains("a fault of the transcript"),
            "{}",
            session.state_reason
        );
    }
}
