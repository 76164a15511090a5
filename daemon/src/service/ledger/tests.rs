//! Many calls at once, cut off and made again, under limits.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::domain::{
    budget::{Bound, Money, Prices, Quantity},
    compaction::Window,
    conversation::{AssistantTurn, StopReason, Usage},
    edits::EditFormat,
    session::{
        event::{Created, Event, EventBody},
        options::{Budget, RULES_TOKENS, SessionLimits, SessionOptions, VerifyMode, WorkflowKind},
        outcome::{self, Outcome, Reply},
        spending::{Mark, Reserved},
        state::SessionState,
    },
    stage::Stage,
};

const CALLS: u64 = 10_000;
const SESSIONS: usize = 25;
const DAY: Day = Day(20_000);

fn session() -> SessionId {
    SessionId::from_uuid(uuid::Uuid::now_v7())
}

fn prices() -> Prices {
    let price = |text: &str| text.parse().unwrap();
    Prices {
        input: price("3"),
        cached: price("0.3"),
        written: price("3.75"),
        output: price("15"),
    }
}

/// A provider's own book: what it really counted, whether anybody heard of it
/// or not.
#[derive(Default)]
struct Billed {
    tokens: AtomicU64,
    nanos: AtomicU64,
    /// Of it, what was more than was set aside: the provider passed its cap.
    tokens_beyond: AtomicU64,
    nanos_beyond: AtomicU64,
    /// Whether the session was stopped for that.
    stopped: AtomicBool,
}

impl Billed {
    fn bill(&self, usage: &Usage) {
        self.tokens.fetch_add(usage.total(), Ordering::Relaxed);
        let cost = prices().cost(usage);
        self.nanos.fetch_add(cost.0, Ordering::Relaxed);
    }

    fn bill_beyond(&self, spent: Amounts, reserved: Amounts) {
        let beyond = spent.minus(reserved);
        (self.tokens_beyond).fetch_add(beyond.tokens, Ordering::Relaxed);
        (self.nanos_beyond).fetch_add(beyond.money.0, Ordering::Relaxed);
    }
}

/// What a session's log says of a reply for which so much was set aside.
fn recorded(session: &SessionId, amounts: Amounts, usage: Usage) -> Vec<EventBody> {
    let options = SessionOptions {
        edit_format: EditFormat::Replace,
        model: "scripted:/none".parse().unwrap(),
        workflow: WorkflowKind::Swe,
        test_command: None,
        lint_command: None,
        verify: VerifyMode::Auto,
        allow_test_changes: false,
        limits: SessionLimits::default(),
        budget: Budget::default(),
        prices: Some(prices()),
        window: Window::default(),
        rules_tokens: RULES_TOKENS,
        level: Default::default(),
        autonomy: Default::default(),
    };
    let created = Created {
        session: session.clone(),
        task: "fix the sum".into(),
        workspace: "ws-00000000000000000000000000000001".parse().unwrap(),
        workspace_name: "sample".parse().unwrap(),
        repository: "repo".parse().unwrap(),
        system: String::new(),
        tools: vec![],
        options,
    };
    let event = |sequence, body| Event {
        sequence,
        at_ms: 0,
        stage: Stage::Modify,
        body,
    };
    let first = event(1, EventBody::Created(Box::new(created)));
    let mut state = SessionState::begin(&first).unwrap();
    let reserved = Reserved {
        amounts,
        day: DAY,
        limited: true,
    };
    state.apply(&event(2, EventBody::BudgetReserved(reserved)));
    state.apply(&event(3, EventBody::ModelAsked));
    let open = state.open.clone().unwrap();
    let reply = Reply {
        turn: AssistantTurn::default(),
        stop: StopReason::EndTurn,
        usage: Some(usage),
        duration_ms: 1,
        provider_request: None,
    };
    outcome::events(&state, &open, Outcome::Reply(reply))
}

/// Whether a session goes on after such a reply; that it took too much is on
/// record where it does not.
fn goes_on(session: &SessionId, amounts: Amounts, usage: Usage) -> bool {
    let events = recorded(session, amounts, usage);
    let is_noted = events.iter().any(|event| {
        matches!(
            event,
            EventBody::BudgetNoted {
                mark: Mark::Overrun,
                ..
            }
        )
    });
    let is_stopped = events.iter().any(|event| {
        matches!(
            event,
            EventBody::StageEntered {
                to: Stage::Failed,
                ..
            }
        )
    });
    assert_eq!(is_noted, is_stopped);
    !is_stopped
}

/// One call as a provider that honours the output cap counts it.
fn usage(random: &mut fastrand::Rng, bound: Bound) -> Usage {
    let input_cached = random.u64(0..=bound.input);
    let cache_written = random.u64(0..=bound.input - input_cached);
    Usage {
        input_cached,
        cache_written,
        input_uncached: random.u64(0..=bound.input - input_cached - cache_written),
        output: random.u64(0..=bound.output),
        reasoning: 0,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn ten_thousand_calls_at_once_never_spend_more_than_there_is() {
    let seed = fastrand::u64(..);
    println!("seed {seed}");
    let of_a_day = Limits {
        tokens: Some(20_000_000),
        money: Some("60".parse().unwrap()),
        ..Limits::default()
    };
    let of_a_session = Limits {
        tokens: Some(1_500_000),
        money: Some("4".parse().unwrap()),
        ..Limits::default()
    };
    let ledger = Ledger::new(of_a_day);
    let sessions: Vec<(SessionId, Arc<Billed>)> =
        (0..SESSIONS).map(|_| (session(), Arc::default())).collect();
    for (id, _) in &sessions {
        ledger.open(id, of_a_session, &BTreeMap::new());
    }
    let mut calls = JoinSet::new();
    for number in 0..CALLS {
        let ledger = ledger.clone();
        let (id, billed) = sessions[number as usize % SESSIONS].clone();
        // The first session's provider does not keep to its cap.
        let keeps_to_cap = !(number as usize).is_multiple_of(SESSIONS);
        calls.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed ^ number);
            let mut refused = 0_u32;
            // Up to three tries, each with a reservation of its own.
            for _ in 0..3 {
                if billed.stopped.load(Ordering::SeqCst) {
                    break;
                }
                let bound = Bound {
                    input: random.u64(1..20_000),
                    output: random.u64(1..4_000),
                };
                let amounts = bound.amounts(Some(&prices()));
                let Ok(reservation) = ledger.reserve(&id, DAY, amounts) else {
                    refused += 1;
                    break;
                };
                tokio::task::yield_now().await;
                let usage = usage(&mut random, bound);
                match random.u8(0..10) {
                    // It is refused before it begins, and costs nothing.
                    0 => reservation.settle(Amounts::default()),
                    // It is cut off: billed, and nobody hears how much.
                    1 | 2 => {
                        billed.bill(&usage);
                        drop(reservation);
                    }
                    // Whoever asked is cancelled in the middle.
                    3 => {
                        billed.bill(&usage);
                        let gone = tokio::spawn(async move {
                            let _held = reservation;
                            std::future::pending::<()>().await;
                        });
                        gone.abort();
                        let _ = gone.await;
                        break;
                    }
                    _ => {
                        let beyond = match keeps_to_cap || random.bool() {
                            true => 0,
                            false => bound.input + bound.output + random.u64(1..50_000),
                        };
                        let usage = Usage {
                            output: usage.output + beyond,
                            ..usage
                        };
                        billed.bill(&usage);
                        let spent = Amounts {
                            tokens: usage.total(),
                            money: prices().cost(&usage),
                            steps: 1,
                            time_ms: 0,
                        };
                        billed.bill_beyond(spent, amounts);
                        if !goes_on(&id, amounts, usage) {
                            billed.stopped.store(true, Ordering::SeqCst);
                        }
                        reservation.settle(spent);
                        break;
                    }
                }
            }
            refused
        });
    }
    let refused: u32 = calls.join_all().await.into_iter().sum();

    let sum = |of: fn(&Billed) -> &AtomicU64| -> u64 {
        let each = sessions
            .iter()
            .map(|(_, billed)| of(billed).load(Ordering::Relaxed));
        each.sum()
    };
    for (number, (id, billed)) in sessions.iter().enumerate() {
        let [(_, own), _] = ledger.accounts(id, DAY);
        assert_eq!(own.reserved, Amounts::default());
        let (tokens, nanos) = (
            billed.tokens.load(Ordering::Relaxed),
            billed.nanos.load(Ordering::Relaxed),
        );
        assert!(tokens <= own.spent.tokens && nanos <= own.spent.money.0);
        let (tokens_beyond, nanos_beyond) = (
            billed.tokens_beyond.load(Ordering::Relaxed),
            billed.nanos_beyond.load(Ordering::Relaxed),
        );
        // What was beyond a cap is on record, and nothing else is beyond a limit.
        assert!(own.spent.tokens - tokens_beyond <= of_a_session.tokens.unwrap());
        assert!(own.spent.money.0 - nanos_beyond <= of_a_session.money.unwrap().0);
        assert_eq!(tokens_beyond > 0, number == 0);
        assert_eq!(billed.stopped.load(Ordering::SeqCst), number == 0);
    }
    let [_, (_, day)] = ledger.accounts(&sessions[0].0, DAY);
    assert!(sum(|billed| &billed.tokens) <= day.spent.tokens);
    assert!(sum(|billed| &billed.nanos) <= day.spent.money.0);
    let tokens_beyond = sum(|billed| &billed.tokens_beyond);
    let nanos_beyond = sum(|billed| &billed.nanos_beyond);
    assert!(day.spent.tokens - tokens_beyond <= of_a_day.tokens.unwrap());
    assert!(day.spent.money.0 - nanos_beyond <= of_a_day.money.unwrap().0);
    // The limits were really reached: this test could fail.
    assert!(refused > 1_000, "{refused} of {CALLS} calls were refused");
    assert!(
        day.spent.money.0 > of_a_day.money.unwrap().0 / 10 * 9,
        "{day:?}"
    );
    println!("{refused} of {CALLS} calls refused; the day: {day:?}");
}

#[test]
fn what_an_earlier_life_spent_counts() {
    let of_a_day = Limits {
        tokens: Some(100),
        ..Limits::default()
    };
    let ledger = Ledger::new(of_a_day);
    let (first, second) = (session(), session());
    let tokens = |tokens| Amounts {
        tokens,
        money: Money(0),
        steps: 1,
        time_ms: 0,
    };
    let spent = BTreeMap::from([(Day(1), tokens(500)), (DAY, tokens(70))]);
    ledger.open(&first, Limits::default(), &spent);
    // Once, however often it is brought back.
    ledger.open(&first, Limits::default(), &spent);
    let again = ledger.set_aside_again(&first, DAY, tokens(20));
    let refused = ledger.reserve(&second, DAY, tokens(11)).unwrap_err();
    let exhausted = Exhausted {
        quantity: Quantity::Tokens,
        used: 90,
        wanted: 11,
        limit: 100,
    };
    assert_eq!(refused, (Scope::Day(DAY), exhausted));
    again.settle(tokens(5));
    let kept = ledger.reserve(&second, DAY, tokens(25)).unwrap();
    assert_eq!(kept.amounts(), tokens(25));
    // The next day begins anew.
    ledger
        .reserve(&second, Day(20_001), tokens(100))
        .unwrap()
        .settle(tokens(1));
}

#[tokio::test(start_paused = true)]
async fn what_sessions_that_run_at_once_take_of_a_day_counts_while_their_steps_run() {
    let of_a_day = Limits {
        time_ms: Some(60_000),
        ..Limits::default()
    };
    let ledger = Ledger::new(of_a_day);
    let sessions = [session(), session(), session()];
    let second = Duration::from_secs(1);
    let mut kept: Vec<TimeKept> = (sessions.iter())
        .map(|session| ledger.keep_time(session, Some(Instant::now())))
        .collect();
    assert_eq!(ledger.time_left(DAY), Some(60 * second));
    assert_eq!(ledger.time_is_up_in(DAY), Some(20 * second));
    tokio::time::advance(5 * second).await;
    assert_eq!(ledger.time_left(DAY), Some(45 * second));

    // One step ends and another begins: what it took is on record, and once.
    ledger.passed(&sessions[0], DAY, 5_000, Some(Instant::now()));
    assert_eq!(ledger.time_left(DAY), Some(45 * second));
    // One session pauses: its time stands still.
    ledger.passed(&sessions[1], DAY, 5_000, None);
    tokio::time::advance(5 * second).await;
    assert_eq!(ledger.time_left(DAY), Some(35 * second));
    assert_eq!(ledger.time_is_up_in(DAY), Some(second * 35 / 2));
    // One driver ends without a word.
    drop(kept.pop());
    tokio::time::advance(5 * second).await;
    assert_eq!(ledger.time_left(DAY), Some(40 * second));

    // The day's account knows of it, so that no call begins when the time is over.
    let call = Amounts {
        steps: 1,
        ..Amounts::default()
    };
    ledger
        .reserve(&sessions[1], DAY, call)
        .unwrap()
        .settle(call);
    tokio::time::advance(41 * second).await;
    assert_eq!(ledger.time_left(DAY), Some(Duration::ZERO));
    let (scope, exhausted) = ledger.reserve(&sessions[1], DAY, call).unwrap_err();
    assert_eq!(scope, Scope::Day(DAY));
    assert_eq!(
        (exhausted.quantity, exhausted.used),
        (Quantity::Time, 61_000)
    );
    drop(kept);
}
