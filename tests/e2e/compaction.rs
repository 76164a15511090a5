//! Conversations that grow too long, with a provider at the other end: the
//! session goes on after a compaction, and the person is told what it cost.

use compyd::{
    adapters::model::{
        fake_provider::{Answer, FakeProvider, RecordedRequest, WireDialect, wire},
        scripted::Transcript,
    },
    domain::compaction::EPOCH_BEGINS,
};
use compyd_proto::v1::{Compacted, SessionState, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::sample_script,
    script::{Script, call},
    sessions::{request, story},
};
use serde_json::json;

use crate::model_http::{model, settings};

/// Bytes of one thought.
const THOUGHT_BYTES: usize = 4_000;
/// Thoughts before the edit.
const THOUGHTS: usize = 16;

/// The sample's script with much to think about before the edit.
fn talkative() -> Script {
    let thought = |number: usize| {
        let filler = "textkit/slug.py compares with the limit itself; ";
        let content = format!(
            "thought {number}: {}",
            filler.repeat(THOUGHT_BYTES / filler.len())
        );
        // With a file read beside it, as calls without an act are a monologue.
        let read = json!({"path": "textkit/slug.py", "first_line": number + 1, "line_count": 1});
        json!({"tool_calls": [
            call("think", json!({"content": content})),
            call("read_file", read)]})
    };
    // Turn 6 is the edit.
    (0..THOUGHTS)
        .rev()
        .fold(Script::load(&sample_script()), |script, number| {
            script.before_turn(6, thought(number))
        })
}

/// A provider that goes by what it has answered, as the turns that a compaction
/// left out are in no request. It takes conversations up to `limit_bytes`.
async fn provider(dialect: WireDialect, script: &Script, limit_bytes: usize) -> FakeProvider {
    let transcript = Transcript::parse(&script.text()).unwrap();
    let mut answered = 0;
    let next = move |request: &RecordedRequest| {
        if request.text.len() > limit_bytes {
            return too_long(dialect);
        }
        answered += 1;
        let turn = transcript
            .turn(answered - 1)
            .expect("the script has a turn for each request");
        Answer::stream(wire::turn(dialect, answered - 1, turn, request.text.len()))
    };
    FakeProvider::start(dialect, Box::new(next)).await
}

/// What either provider says to a conversation that it cannot take.
fn too_long(dialect: WireDialect) -> Answer {
    let error = match dialect {
        WireDialect::OpenAi => json!({
            "message": "This model's maximum context length is 8192 tokens.",
            "type": "invalid_request_error", "param": "messages",
            "code": "context_length_exceeded"}),
        WireDialect::Anthropic => json!({
            "type": "invalid_request_error",
            "message": "prompt is too long: 215000 tokens > 200000 maximum"}),
    };
    Answer::json(400, &json!({"type": "error", "error": error}))
}

/// The whole job under these settings: its compactions, after what must hold
/// for every one of them was checked.
async fn compacted(
    dialect: WireDialect,
    limit_bytes: usize,
    more: impl FnOnce(Options) -> Options,
) -> Option<Vec<Compacted>> {
    let script = talkative();
    let provider = provider(dialect, &script, limit_bytes).await;
    let daemon = Daemon::with_sample(more(settings(&provider, dialect))).await?;
    let id = daemon.start_session(request("w", model(dialect))).await;
    let session = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(provider.violations(), Vec::<String>::new());
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}\n{}",
        session.state_reason,
        story(&events)
    );
    let found: Vec<Compacted> = events
        .into_iter()
        .filter_map(|event| match event.event {
            Some(Event::Compacted(compacted)) => Some(compacted),
            _ => None,
        })
        .collect();
    // Nothing was asked twice but what was found too long.
    let too_long = found.iter().filter(|each| each.overflow).count();
    assert_eq!(session.model_calls as usize, script.turns() + too_long);
    assert_eq!(provider.requests().len(), script.turns() + too_long);
    assert!(!found.is_empty(), "nothing was compacted");
    // What is left out is not sent again, and what has to be known is.
    for each in &found {
        assert!(each.briefing.starts_with(EPOCH_BEGINS), "{}", each.briefing);
        assert!(each.left_out > 0);
        for part in [
            "todo 1 is",
            "One todo: the comparison in slugify.",
            "textkit/slug.py",
        ] {
            assert!(
                each.briefing.contains(part),
                "{part} is not in: {}",
                each.briefing
            );
        }
    }
    let sent = provider.requests();
    let mut epochs = sent
        .iter()
        .map(|request| request.text.matches(EPOCH_BEGINS).count());
    assert!(
        epochs.clone().all(|count| count <= 1),
        "two briefings in one request"
    );
    assert_eq!(
        epochs.next_back(),
        Some(1),
        "the last request is of a later epoch"
    );
    assert!(
        !sent.last().unwrap().text.contains("thought 0:"),
        "what was left out is sent again"
    );
    // And the person sees which calls paid for their prefix again, and why.
    let shown = daemon
        .compyctl(&["-o", "json", "session", "show", &id])
        .await;
    let shown = shown.expect_code(0).json();
    let breaks: Vec<&str> = (shown["calls"].as_array().unwrap().iter())
        .map(|call| call["prefix_break"].as_str().unwrap())
        .filter(|cause| cause.contains("compaction"))
        .collect();
    assert_eq!(breaks.len(), found.len(), "{:#}", shown["calls"]);
    Some(found)
}

#[tokio::test]
async fn a_session_goes_on_after_its_share_of_the_window() {
    let window = |options: Options| options.set("model.windows", "anthropic:*=16000");
    let Some(found) = compacted(WireDialect::Anthropic, usize::MAX, window).await else {
        return;
    };
    assert!(found.iter().all(|each| !each.overflow), "{found:?}");
}

#[tokio::test]
async fn a_session_goes_on_after_its_provider_found_it_too_long() {
    for dialect in [WireDialect::OpenAi, WireDialect::Anthropic] {
        let Some(found) = compacted(dialect, 70_000, |options| options).await else {
            return;
        };
        assert!(found.iter().all(|each| each.overflow), "{found:?}");
    }
}
