//! Conversations that grow too long.

use super::*;
use crate::domain::compaction::{Cause, EPOCH_BEGINS, Window};

/// A model that finds conversations longer than this too long.
struct Narrow {
    inner: ScriptedModel,
    bytes: usize,
}

#[async_trait]
impl ModelPort for Narrow {
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let bytes = serde_json::to_string(&request.messages).unwrap().len();
        if bytes > self.bytes {
            return Err(ModelError::ContextOverflow {
                provider: "test".into(),
                message: format!("{bytes} bytes"),
            });
        }
        let mut reply = self.inner.call(request, progress, cancel).await?;
        reply.usage = None;
        Ok(reply)
    }
}

/// As [`honest`], with much to read and think on the way. It goes by what was
/// said in all, as turns that are left out were said all the same.
fn talkative() -> Script {
    let mut replies = whole(vec![]);
    for number in 0..12 {
        let content = format!(
            "thought {number}: {}",
            "the sum is a difference; ".repeat(80)
        );
        // The same again and again would be a circle.
        let read = json!({"path": "sums.py", "line_count": 100 + number});
        replies.push(vec![
            call("think", json!({"content": content})),
            call("read_file", read),
        ]);
    }
    replies.extend([
        vec![fix(), run(RUN_ONCE)],
        vec![reason(), claim()],
        vec![advance()],
    ]);
    script(replies)
}

async fn play(fixture: &Fixture, bytes: usize, window: u64) -> (Arc<SessionState>, Vec<Event>) {
    let seen = fixture.seen.clone();
    let models: ModelFactory = Arc::new(move |_, _| {
        let inner = ScriptedModel {
            script: talkative(),
            seen: seen.clone(),
            hang: false,
        };
        Ok(Arc::new(Narrow { inner, bytes }))
    });
    let daemon = fixture.daemon_of(fixture.store.clone(), models);
    let options = SessionOptions {
        window: Window {
            tokens: window,
            ..Window::default()
        },
        ..options()
    };
    let started = daemon.sessions.start(fixture.start(options)).await.unwrap();
    let at_rest = |state: &SessionState| state.condition != Condition::Running;
    let state = daemon.wait_until(started.state.id(), at_rest).await;
    let events = fixture.events(state.id()).await;
    (state, events)
}

fn causes(events: &[Event]) -> Vec<Cause> {
    let compacted = events.iter().filter_map(|event| match event.body {
        EventBody::Compacted { cause, .. } => Some(cause),
        _ => None,
    });
    compacted.collect()
}

/// Every request extends the one before, or begins a new epoch.
fn epochs(seen: &[ModelRequest]) -> usize {
    let mut begun = 0;
    for pair in seen.windows(2) {
        assert_eq!(pair[0].system, pair[1].system);
        assert_eq!(pair[0].tools, pair[1].tools);
        if pair[1].messages.starts_with(&pair[0].messages) {
            continue;
        }
        begun += 1;
        assert_eq!(pair[0].messages[0], pair[1].messages[0], "the task stays");
        let Message::User { text } = &pair[1].messages[1] else {
            panic!("a briefing is the daemon's");
        };
        assert!(text.starts_with(EPOCH_BEGINS), "{text}");
    }
    begun
}

#[tokio::test]
async fn a_long_conversation_is_compacted_and_the_session_goes_on() {
    let fixture = Fixture::new().await;
    let (state, events) = play(&fixture, usize::MAX, 10_000).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let causes = causes(&events);
    assert!(!causes.is_empty());
    assert!(
        causes
            .iter()
            .all(|cause| matches!(cause, Cause::Share { .. }))
    );
    let seen = fixture.seen.lock().unwrap();
    assert_eq!(epochs(&seen), causes.len());
    // What the model has to know is in the first briefing.
    let briefing = events.iter().find_map(|event| match &event.body {
        EventBody::Compacted { briefing, .. } => Some(briefing),
        _ => None,
    });
    let briefing = briefing.unwrap();
    for part in [
        "todo 1 is",
        "PLAN: done",
        "sums.py",
        "thought",
        "You are in MODIFY",
    ] {
        assert!(briefing.contains(part), "{part} is not in: {briefing}");
    }
    // Nothing was said or done twice.
    let log = std::fs::read_to_string(fixture.root.join("effects.log")).unwrap();
    assert_eq!(log, "ran\n");
}

#[tokio::test]
async fn the_rules_of_a_repository_are_in_every_epoch() {
    let fixture = Fixture::new().await;
    let repository = fixture.repository();
    std::fs::write(repository.join("AGENTS.md"), "Sums are exact.\n").unwrap();
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "rules"]);
    let (state, events) = play(&fixture, usize::MAX, 10_000).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    assert!(!causes(&events).is_empty());
    let seen = fixture.seen.lock().unwrap();
    assert_eq!(epochs(&seen), causes(&events).len());
    for request in seen.iter() {
        let told = serde_json::to_string(&request.messages).unwrap();
        assert!(told.contains("AGENTS.md:\\nSums are exact."), "{told}");
    }
}

#[tokio::test]
async fn a_conversation_that_the_provider_finds_too_long_is_compacted() {
    let fixture = Fixture::new().await;
    let (state, events) = play(&fixture, 30_000, 1_000_000).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let causes = causes(&events);
    assert!(!causes.is_empty() && causes.iter().all(|cause| *cause == Cause::Overflow));
    let log = std::fs::read_to_string(fixture.root.join("effects.log")).unwrap();
    assert_eq!(log, "ran\n");
}

#[tokio::test]
async fn a_window_that_nothing_fits_into_fails_the_session_and_does_not_spin() {
    let fixture = Fixture::new().await;
    let (state, _) = play(&fixture, 10, 1_000_000).await;
    assert_eq!(state.condition, Condition::Failed);
    assert!(state.model_calls <= 3, "{}", state.model_calls);
}
