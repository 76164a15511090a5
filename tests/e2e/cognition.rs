//! What a session knows of itself: where it had to reason, what tempted it, and
//! what the person who asks is shown.

use compyd_proto::v1::{ToolOutcome, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::sample_script,
    script::Script,
};
use serde_json::{Value, json};

/// The entry of a list with this value.
fn entry<'a>(list: &'a Value, key: &str, value: &str) -> &'a Value {
    let mut entries = list.as_array().expect("a list").iter();
    entries
        .find(|entry| entry[key] == value)
        .unwrap_or_else(|| panic!("no {value} in {list:#}"))
}

/// How often a point was come to, and how often it had been reasoned about.
fn point(shown: &Value, name: &str) -> (u64, u64) {
    let point = entry(&shown["points"], "name", name);
    (
        point["met"].as_u64().unwrap(),
        point["reasoned"].as_u64().unwrap(),
    )
}

#[tokio::test]
async fn a_claim_that_jumps_ahead_is_refused_and_shown_to_who_asks() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    // Right after the edit, which is turn 6: nothing was run, nothing was
    // thought about.
    let hasty = json!({"tool_calls": [{"name": "todo_claim", "arguments":
        {"id": 1, "evidence": "The comparison is right now."}}]});
    let script = Script::load(&sample_script()).before_turn(7, hasty);
    let id = daemon.play(&script).await;
    let events = daemon.verified(&id).await;

    // The model was told what is missing, and went the long way.
    let claims: Vec<_> = (events.iter())
        .filter_map(|event| match &event.event {
            Some(Event::ToolEnded(ended)) if ended.name == "todo_claim" => Some(ended),
            _ => None,
        })
        .collect();
    assert_eq!(claims.len(), 2);
    assert_eq!(claims[0].outcome(), ToolOutcome::Refused);
    let words = &claims[0].content;
    assert!(words.contains("think") && words.contains("run"), "{words}");
    assert_eq!(claims[1].outcome(), ToolOutcome::Ok);

    let shown = daemon
        .compyctl(&["-o", "json", "session", "cognition", &id])
        .await
        .expect_code(0)
        .json();
    let claim = entry(&shown["temptations"], "id", "T1");
    assert_eq!(
        (&claim["met"], &claim["recognised"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(shown["recognition"]["rate"], json!(1.0));
    assert_eq!(shown["temptations"].as_array().unwrap().len(), 8);
    assert_eq!(point(&shown, "before moving to edits"), (1, 1));
    let (met, reasoned) = point(&shown, "before completing");
    assert_eq!(met, reasoned + 1, "{:#}", shown["points"]);
    assert!(shown["compliance"]["rate"].as_f64().unwrap() < 1.0);
    // Every thought of the script, and what each was for.
    assert_eq!(shown["thoughts"], json!(3));
    let scenarios = shown["scenarios"].as_array().unwrap().iter();
    let counted: u64 = scenarios.map(|each| each["count"].as_u64().unwrap()).sum();
    assert_eq!(counted, 3, "{:#}", shown["scenarios"]);
    // The decisions in the order of the log.
    let timeline = shown["timeline"].as_array().unwrap();
    let numbers: Vec<u64> = (timeline.iter())
        .map(|entry| entry["sequence"].as_u64().unwrap())
        .collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
    let met_at = entry(&shown["timeline"], "temptation", "T1");
    assert_eq!(met_at["stage"], "MODIFY", "{met_at:#}");

    let table = daemon
        .compyctl(&["session", "cognition", &id])
        .await
        .expect_code(0)
        .text();
    for part in ["before completing", "T1", "T8", "refused:"] {
        assert!(table.contains(part), "no {part:?} in:\n{table}");
    }
}
