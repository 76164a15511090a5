//! What a session has spent, call by call.

use super::super::{calls::Calls, event::ModelAnswered, spending::Reserved};
use super::*;
use crate::domain::{
    budget::{Amounts, Bound, Day, Money, Prices},
    conversation::Usage,
};

const DAY: Day = Day(0);

/// A session's log, folded twice: as the session, and call by call.
struct Log {
    state: SessionState,
    calls: Calls,
    sequence: u64,
}

impl Log {
    fn new(prices: Option<Prices>) -> Self {
        let first = Event {
            sequence: 1,
            at_ms: 0,
            stage: Stage::Understand,
            body: EventBody::Created(Box::new(created(SessionOptions {
                prices,
                ..options()
            }))),
        };
        let mut calls = Calls::default();
        calls.apply(&first);
        Self {
            state: SessionState::begin(&first).unwrap(),
            calls,
            sequence: 1,
        }
    }

    fn append(&mut self, body: EventBody) {
        self.sequence += 1;
        let event = Event {
            sequence: self.sequence,
            at_ms: 1000 * self.sequence as i64,
            stage: Stage::Modify,
            body,
        };
        self.state.apply(&event);
        self.calls.apply(&event);
    }

    fn asked(&mut self, amounts: Amounts) {
        self.append(EventBody::BudgetReserved(Reserved {
            amounts,
            day: DAY,
            limited: true,
        }));
        self.append(EventBody::ModelAsked);
    }

    fn answered(&mut self, usage: Option<Usage>) {
        self.append(EventBody::ModelAnswered(Box::new(ModelAnswered {
            intent: self.sequence,
            turn: AssistantTurn::default(),
            stop: StopReason::EndTurn,
            usage,
            duration_ms: 5,
            provider_request: None,
        })));
    }

    fn failed(&mut self, free: bool) {
        self.append(EventBody::ModelFailed {
            intent: self.sequence,
            error: "the stream ended".into(),
            then: AfterModelFailure::AskAgain,
            free,
            wait_ms: None,
        });
    }
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

#[test]
fn the_calls_of_a_session_cost_what_it_has_spent() {
    for prices in [None, Some(prices())] {
        let mut rng = fastrand::Rng::with_seed(11);
        let mut log = Log::new(prices);
        for _ in 0..500 {
            let bound = Bound {
                input: rng.u64(1..20_000),
                output: rng.u64(1..4_000),
            };
            log.asked(bound.amounts(prices.as_ref()));
            match rng.u8(..4) {
                0 => log.failed(true),
                1 => log.failed(false),
                2 => log.answered(None),
                _ => log.answered(Some(Usage {
                    input_uncached: rng.u64(..10_000),
                    input_cached: rng.u64(..10_000),
                    // Now and then more than was set aside.
                    output: rng.u64(..8_000),
                    ..Usage::default()
                })),
            }
        }
        let spent = log.state.spending.spent;
        let calls = log.calls.into_vec();
        let tokens: u64 = calls.iter().map(|call| call.tokens).sum();
        let money: Money = calls.iter().filter_map(|call| call.cost).sum();
        assert_eq!((tokens, money), (spent.tokens, spent.money));
        assert_eq!(prices.is_some(), money > Money::default());
    }
}

#[test]
fn a_call_that_was_cut_has_a_row_with_all_that_was_set_aside() {
    let mut log = Log::new(Some(prices()));
    let bound = Bound {
        input: 1_000,
        output: 100,
    };
    let amounts = bound.amounts(Some(&prices()));
    log.asked(amounts);
    log.failed(false);
    log.asked(amounts);
    log.failed(true);
    log.asked(amounts);
    log.answered(None);
    let calls = log.calls.into_vec();
    let [cut, uncounted] = calls.as_slice() else {
        panic!("{calls:?}");
    };
    for call in [cut, uncounted] {
        assert_eq!((call.tokens, call.cost), (1_100, Some(amounts.money)));
        assert_eq!(call.usage, None);
    }
    assert_eq!(cut.error.as_deref(), Some("the stream ended"));
    assert_eq!((cut.sequence, cut.duration_ms), (3, 1_000));
    assert_eq!(uncounted.error, None);
}
