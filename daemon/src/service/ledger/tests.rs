//! Many calls at once, cut off and made again, under limits.

use std::sync::atomic::{AtomicU64, Ordering};

use tokio::task::JoinSet;

use super::*;
use crate::domain::{
    budget::{Bound, Money, Prices, Quantity},
    conversation::Usage,
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
}

impl Billed {
    fn bill(&self, usage: &Usage) {
        self.tokens.fetch_add(usage.total(), Ordering::Relaxed);
        let cost = prices().cost(usage);
        self.nanos.fetch_add(cost.0, Ordering::Relaxed);
    }
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
        calls.spawn(async move {
            let mut random = fastrand::Rng::with_seed(seed ^ number);
            let mut refused = 0_u32;
            // Up to three tries, each with a reservation of its own.
            for _ in 0..3 {
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
                        billed.bill(&usage);
                        reservation.settle(Amounts {
                            tokens: usage.total(),
                            money: prices().cost(&usage),
                            steps: 1,
                            time_ms: 0,
                        });
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
    for (id, billed) in &sessions {
        let [(_, own), _] = ledger.accounts(id, DAY);
        assert_eq!(own.reserved, Amounts::default());
        let (tokens, nanos) = (
            billed.tokens.load(Ordering::Relaxed),
            billed.nanos.load(Ordering::Relaxed),
        );
        assert!(tokens <= own.spent.tokens && nanos <= own.spent.money.0);
        assert!(own.spent.tokens <= of_a_session.tokens.unwrap());
        assert!(own.spent.money <= of_a_session.money.unwrap());
    }
    let [_, (_, day)] = ledger.accounts(&sessions[0].0, DAY);
    assert!(sum(|billed| &billed.tokens) <= day.spent.tokens);
    assert!(sum(|billed| &billed.nanos) <= day.spent.money.0);
    assert!(day.spent.tokens <= of_a_day.tokens.unwrap());
    assert!(day.spent.money <= of_a_day.money.unwrap());
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
