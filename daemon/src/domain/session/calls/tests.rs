//! What became of the prefix, call by call.

use super::*;
use crate::domain::{
    compaction::Cause,
    conversation::{AssistantTurn, StopReason},
};

const MINUTE_MS: i64 = 60_000;

fn answered(at_ms: i64, usage: Option<(u64, u64, u64)>) -> Event {
    event(
        at_ms,
        EventBody::ModelAnswered(Box::new(ModelAnswered {
            intent: 1,
            turn: AssistantTurn::default(),
            stop: StopReason::EndTurn,
            usage: usage.map(|(input_uncached, input_cached, cache_written)| Usage {
                input_uncached,
                input_cached,
                cache_written,
                output: 10,
                reasoning: 0,
            }),
            duration_ms: 5,
            provider_request: None,
        })),
    )
}

fn event(at_ms: i64, body: EventBody) -> Event {
    Event {
        sequence: 1,
        at_ms,
        stage: Stage::Modify,
        body,
    }
}

fn prefixes(events: &[Event]) -> Vec<Prefix> {
    let mut calls = Calls::default();
    events.iter().for_each(|event| calls.apply(event));
    calls.into_vec().iter().map(|call| call.prefix).collect()
}

#[test]
fn each_break_of_the_prefix_has_its_cause() {
    let compacted = EventBody::Compacted {
        cause: Cause::Overflow,
        keep_from: 9,
        left_out: 8,
        briefing: "what holds".to_owned(),
    };
    let events = [
        answered(0, Some((2_000, 0, 3_000))),
        answered(MINUTE_MS, Some((200, 5_000, 100))),
        answered(8 * MINUTE_MS, Some((5_400, 0, 0))),
        answered(9 * MINUTE_MS, Some((5_500, 0, 0))),
        event(9 * MINUTE_MS, compacted),
        answered(10 * MINUTE_MS, Some((900, 0, 0))),
        answered(11 * MINUTE_MS, Some((950, 0, 0))),
        answered(12 * MINUTE_MS, None),
    ];
    assert_eq!(
        prefixes(&events),
        [
            Prefix::Broken(Break::First),
            Prefix::Kept,
            Prefix::Broken(Break::Idle { seconds: 7 * 60 }),
            Prefix::Broken(Break::Provider),
            Prefix::Broken(Break::Compaction),
            Prefix::Broken(Break::Short),
            Prefix::Unknown,
        ]
    );
}

#[test]
fn a_provider_that_never_tells_of_a_cache_is_not_blamed() {
    let events = [
        answered(0, Some((5_000, 0, 0))),
        answered(MINUTE_MS, Some((6_000, 0, 0))),
    ];
    assert_eq!(
        prefixes(&events),
        [Prefix::Broken(Break::First), Prefix::Unknown]
    );
}
