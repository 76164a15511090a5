//! Sessions that run out of what they may spend.

use super::*;
use crate::domain::{
    budget::{Marks, Quantity, Scope},
    session::{options::Budget, spending::Mark},
};

/// A model whose provider counts in its own way, and whose first replies are cut.
struct Counting {
    inner: ScriptedModel,
    usage: Option<Usage>,
    cut: Mutex<u32>,
}

#[async_trait]
impl ModelPort for Counting {
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        {
            let mut cut = self.cut.lock().unwrap();
            if *cut > 0 {
                *cut -= 1;
                return Err(ModelError::Cut {
                    provider: "test".into(),
                    message: "the stream ended".into(),
                });
            }
        }
        let mut reply = self.inner.call(request, progress, cancel).await?;
        reply.usage = self.usage;
        Ok(reply)
    }
}

fn output(tokens: u64) -> Option<Usage> {
    Some(Usage {
        input_uncached: 100,
        output: tokens,
        ..Usage::default()
    })
}

fn daemon(fixture: &Fixture, usage: Option<Usage>, cut: u32, of_a_day: Limits) -> Daemon {
    let seen = fixture.seen.clone();
    let models: ModelFactory = Arc::new(move |_, _| {
        let inner = ScriptedModel {
            script: honest(),
            seen: seen.clone(),
            hang: false,
        };
        Ok(Arc::new(Counting {
            inner,
            usage,
            cut: Mutex::new(cut),
        }))
    });
    fixture.daemon_within(fixture.store.clone(), models, of_a_day)
}

fn tokens(tokens: u64) -> SessionOptions {
    SessionOptions {
        budget: Budget {
            tokens: Some(tokens),
            ..Budget::default()
        },
        ..options()
    }
}

fn marks(events: &[Event]) -> Vec<(Scope, Quantity, Mark)> {
    let noted = events.iter().filter_map(|event| match &event.body {
        EventBody::BudgetNoted {
            scope,
            quantity,
            mark,
            ..
        } => Some((*scope, *quantity, *mark)),
        _ => None,
    });
    noted.collect()
}

async fn ended(daemon: &Daemon, fixture: &Fixture, options: SessionOptions) -> Arc<SessionState> {
    let started = daemon.sessions.start(fixture.start(options)).await.unwrap();
    let at_rest = |state: &SessionState| state.condition != Condition::Running;
    daemon.wait_until(started.state.id(), at_rest).await
}

#[tokio::test]
async fn a_call_that_could_pass_the_limit_is_not_made() {
    let fixture = Fixture::new().await;
    // Less than the output cap alone.
    let daemon = daemon(&fixture, output(1), 0, Limits::default());
    let state = ended(&daemon, &fixture, tokens(15_000)).await;
    assert_eq!(state.condition, Condition::Failed);
    assert!(
        state.reason.contains("15000 tokens, the session's budget"),
        "{}",
        state.reason
    );
    assert_eq!(fixture.seen.lock().unwrap().len(), 0);
    assert_eq!(state.spending.spent.tokens, 0);
}

#[tokio::test]
async fn what_is_spent_never_passes_the_limit_and_what_nobody_counted_counts_whole() {
    let fixture = Fixture::new().await;
    // Nobody tells what a call took, so each is settled with its bound.
    let daemon = daemon(&fixture, None, 0, Limits::default());
    let limit = 100_000;
    let mut asked = tokens(limit);
    asked.budget.marks.warn_percent = 50;
    let state = ended(&daemon, &fixture, asked).await;
    assert_eq!(state.condition, Condition::Failed);
    let calls = fixture.seen.lock().unwrap().len();
    assert!((2..=6).contains(&calls), "{calls} calls");
    let spent = state.spending.spent.tokens;
    assert!(spent <= limit && spent > limit / 2, "{spent}");
    // A warning came first.
    let events = fixture.events(state.id()).await;
    let warning = (Scope::Session, Quantity::Tokens, Mark::Warning);
    assert_eq!(marks(&events), [warning]);
}

#[tokio::test]
async fn a_provider_that_passes_its_cap_is_recorded_and_stopped() {
    let fixture = Fixture::new().await;
    let daemon = daemon(&fixture, output(1_000_000), 0, Limits::default());
    let state = ended(&daemon, &fixture, tokens(500_000)).await;
    assert_eq!(state.condition, Condition::Failed);
    assert!(
        state.reason.contains("does not keep to the cap"),
        "{}",
        state.reason
    );
    assert_eq!(state.model_calls, 1);
    let events = fixture.events(state.id()).await;
    let overrun = (Scope::Session, Quantity::Tokens, Mark::Overrun);
    assert_eq!(marks(&events), [overrun]);
    assert_eq!(state.spending.spent.tokens, 1_000_100);
}

#[tokio::test]
async fn without_a_budget_such_a_provider_is_recorded_and_goes_on() {
    let fixture = Fixture::new().await;
    let daemon = daemon(&fixture, output(1_000_000), 0, Limits::default());
    let state = ended(&daemon, &fixture, options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let events = fixture.events(state.id()).await;
    assert!(
        marks(&events)
            .iter()
            .any(|(_, _, mark)| *mark == Mark::Overrun)
    );
}

#[tokio::test]
async fn a_session_pauses_once_at_its_mark_and_goes_on_when_a_person_says_so() {
    let fixture = Fixture::new().await;
    let daemon = daemon(&fixture, output(1), 0, Limits::default());
    let mut asked = tokens(1_000_000);
    asked.budget.marks = Marks {
        warn_percent: 100,
        pause_percent: Some(1),
    };
    asked.limits.max_steps = 10_000;
    asked.budget.tokens = Some(40_000);
    let state = ended(&daemon, &fixture, asked).await;
    assert_eq!(state.condition, Condition::Paused, "{}", state.reason);
    assert!(state.reason.contains("resume to go on"), "{}", state.reason);
    daemon.sessions.resume(state.id()).await.unwrap();
    let at_rest = |state: &SessionState| state.condition != Condition::Running;
    let state = daemon.wait_until(state.id(), at_rest).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let events = fixture.events(state.id()).await;
    let paused = (Scope::Session, Quantity::Tokens, Mark::Pause);
    assert_eq!(marks(&events), [paused]);
}

#[tokio::test]
async fn a_day_is_shared_by_sessions_and_by_lives_of_the_daemon() {
    let fixture = Fixture::new().await;
    let of_a_day = Limits {
        tokens: Some(100_000),
        ..Limits::default()
    };
    let first = daemon(&fixture, output(39_900), 0, of_a_day);
    // Each call takes 40,000 where about 20,000 were reserved, so it is stopped:
    // the day has a limit, although the session has none.
    let state = ended(&first, &fixture, options()).await;
    assert_eq!(state.condition, Condition::Failed, "{}", state.reason);
    first.stop().await;

    let second = daemon(&fixture, None, 0, of_a_day);
    second.sessions.resume_all().await.unwrap();
    let state = ended(&second, &fixture, options()).await;
    assert_eq!(state.condition, Condition::Paused, "{}", state.reason);
    assert!(
        state.reason.contains("100000 tokens, the day's budget"),
        "{}",
        state.reason
    );
    let mut spent = 0;
    for session in fixture.store.sessions().await.unwrap() {
        let state = second.sessions.get(&session).await.unwrap().state;
        spent += state.spending.spent.tokens;
    }
    assert!(spent <= 100_000 && spent > 50_000, "{spent}");
}

#[tokio::test]
async fn a_reply_that_is_cut_is_paid_for_and_asked_for_again() {
    let fixture = Fixture::new().await;
    let daemon = daemon(&fixture, output(1), 2, Limits::default());
    let state = ended(&daemon, &fixture, options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let calls = fixture.seen.lock().unwrap().len();
    assert_eq!(state.model_calls as usize, calls + 2);
    // Two bounds, and 101 tokens for each reply.
    let counted = 101 * calls as u64;
    let unknown = state.spending.spent.tokens - counted;
    assert!(unknown > 2 * 16_000, "{unknown}");

    let pausing = self::daemon(&fixture, output(1), 3, Limits::default());
    let state = ended(&pausing, &fixture, options()).await;
    assert_eq!(state.condition, Condition::Paused, "{}", state.reason);
}

/// A model whose provider breaks down once and asks to be left alone.
struct Overloaded {
    inner: ScriptedModel,
    asks_to_wait: Duration,
    called: Arc<Mutex<Vec<std::time::Instant>>>,
}

#[async_trait]
impl ModelPort for Overloaded {
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let calls = {
            let mut called = self.called.lock().unwrap();
            called.push(std::time::Instant::now());
            called.len()
        };
        if calls == 1 {
            return Err(ModelError::Server {
                provider: "test".into(),
                status: 500,
                message: "busy".into(),
                retry_after: Some(self.asks_to_wait),
            });
        }
        self.inner.call(request, progress, cancel).await
    }
}

#[tokio::test]
async fn a_provider_that_may_have_charged_is_left_alone_for_as_long_as_it_asks() {
    for (asks_to_wait, condition) in [
        (Duration::from_millis(700), Condition::Verified),
        (Duration::from_secs(3600), Condition::Paused),
    ] {
        let fixture = Fixture::new().await;
        let called: Arc<Mutex<Vec<std::time::Instant>>> = Arc::default();
        let (seen, calls) = (fixture.seen.clone(), called.clone());
        let models: ModelFactory = Arc::new(move |_, _| {
            let inner = ScriptedModel {
                script: honest(),
                seen: seen.clone(),
                hang: false,
            };
            Ok(Arc::new(Overloaded {
                inner,
                asks_to_wait,
                called: calls.clone(),
            }))
        });
        let daemon = fixture.daemon_of(fixture.store.clone(), models);
        let state = ended(&daemon, &fixture, options()).await;
        assert_eq!(state.condition, condition, "{}", state.reason);
        let called = called.lock().unwrap().clone();
        match condition {
            Condition::Verified => assert!(called[1] - called[0] >= asks_to_wait),
            _ => {
                assert_eq!(called.len(), 1);
                assert!(state.reason.contains("for 3600 s"), "{}", state.reason);
            }
        }
        daemon.stop().await;
    }
}

#[tokio::test]
async fn a_step_that_takes_longer_than_the_day_may_is_ended_and_the_session_waits() {
    let fixture = Fixture::new().await;
    let of_a_day = Limits {
        time_ms: Some(2_000),
        ..Limits::default()
    };
    let seen = fixture.seen.clone();
    let models: ModelFactory = Arc::new(move |_, _| {
        let (script, seen) = (script(vec![vec![run("sleep 600")]]), seen.clone());
        let hang = false;
        Ok(Arc::new(ScriptedModel { script, seen, hang }))
    });
    let daemon = fixture.daemon_within(fixture.store.clone(), models, of_a_day);
    let state = ended(&daemon, &fixture, options()).await;
    assert_eq!(state.condition, Condition::Paused, "{}", state.reason);
    assert!(
        state.reason.contains("resume after midnight UTC"),
        "{}",
        state.reason
    );
    let agent = fixture.machine.local_agent(&fixture.workspace.id).unwrap();
    assert!(agent.list(true).await.unwrap().is_empty());
}
