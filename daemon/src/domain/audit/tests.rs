use proptest::prelude::*;
use serde_json::json;

use super::{
    chain::{Head, LineError, Record},
    checkpoint::{Checkpoint, CheckpointError, PURPOSE, SigningKey},
    query::Query,
    verify::{Fault, Verified, verify},
    *,
};

fn key() -> SigningKey {
    SigningKey::from_seed(&[7; 32]).unwrap()
}

/// A log of so many records with a checkpoint after each fifth and at the end,
/// and the line of the last one.
fn log(records: u64) -> (Vec<u8>, Vec<u8>) {
    let mut head = Head::START;
    let mut lines = Vec::new();
    for number in 0..records {
        let entry = Entry::new(1_000 + number as i64, Kind::ToolCall, "model")
            .with_tool("run_command")
            .with_outcome(Outcome::Ok)
            .with("arguments", json!({"command": format!("echo {number}")}));
        let synced = (number % 3 == 0).then_some(head.seq);
        head.add(&entry.fields(), synced, &mut lines);
        if number % 5 == 4 {
            head.add_checkpoint(&key(), 2_000, None, &mut lines);
        }
    }
    let before = lines.len();
    head.add_checkpoint(&key(), 3_000, Some(head.seq), &mut lines);
    let held = lines[before..].to_vec();
    (lines, held)
}

fn lines_of(log: &[u8]) -> Vec<Vec<u8>> {
    log.split_inclusive(|byte| *byte == b'\n')
        .map(<[u8]>::to_vec)
        .collect()
}

#[test]
fn a_whole_log_is_verified_with_and_without_what_is_held_elsewhere() {
    let (log, held) = log(12);
    let held = Checkpoint::read(&held).unwrap();
    assert_eq!(held.key, key().public());
    let expected = Verified {
        first: 1,
        last: 15,
        checkpoint: Some(held.clone()),
    };
    assert_eq!(verify(&log, None, None), Ok(expected.clone()));
    assert_eq!(verify(&log, Some(held.key), Some(held)), Ok(expected));
}

#[test]
fn the_bytes_of_a_log_are_as_documented() {
    let mut lines = Vec::new();
    let mut head = Head::START;
    let entry = Entry::new(5, Kind::Daemon, "daemon").with("event", "started");
    head.add(&entry.fields(), Some(0), &mut lines);
    let record = format!(
        r#"{{"seq":1,"prev":"{}","synced":0,"at_ms":5,"kind":"daemon","caller":"daemon","detail":{{"event":"started"}}}}"#,
        "0".repeat(64)
    );
    let hash = chain::Hash::of(record.as_bytes());
    let line = format!("{{\"hash\":\"{hash}\",\"record\":{record}}}\n");
    assert_eq!(String::from_utf8(lines).unwrap(), line);
    assert_eq!(
        &line.as_bytes()[chain::RECORD_AT..][..record.len()],
        record.as_bytes()
    );
    assert_eq!(
        hash.to_string(),
        blank_sha256(&record),
        "SHA-256, as anybody's tool computes it"
    );
}

/// SHA-256 by the system's own tool.
fn blank_sha256(text: &str) -> String {
    use std::io::Write as _;
    let mut tool = std::process::Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    tool.stdin
        .take()
        .unwrap()
        .write_all(text.as_bytes())
        .unwrap();
    let output = tool.wait_with_output().unwrap();
    String::from_utf8(output.stdout).unwrap()[..64].to_owned()
}

/// One change of a log.
#[derive(Debug, Clone)]
enum Mutation {
    Edit(prop::sample::Index, u8),
    InsertByte(prop::sample::Index, u8),
    RemoveByte(prop::sample::Index),
    RemoveLines(prop::sample::Index, usize),
    Swap(prop::sample::Index, prop::sample::Index),
    Repeat(prop::sample::Index),
    Truncate(prop::sample::Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    use prop::sample::Index;
    prop_oneof![
        (any::<Index>(), 1..=255_u8).prop_map(|(at, by)| Mutation::Edit(at, by)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::InsertByte(at, byte)),
        any::<Index>().prop_map(Mutation::RemoveByte),
        (any::<Index>(), 1..4_usize).prop_map(|(at, count)| Mutation::RemoveLines(at, count)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        any::<Index>().prop_map(Mutation::Repeat),
        any::<Index>().prop_map(Mutation::Truncate),
    ]
}

fn mutated(log: &[u8], mutation: &Mutation) -> Vec<u8> {
    let mut bytes = log.to_vec();
    let mut lines = lines_of(log);
    match mutation {
        Mutation::Edit(at, by) => bytes[at.index(log.len())] ^= by,
        Mutation::InsertByte(at, byte) => bytes.insert(at.index(log.len() + 1), *byte),
        Mutation::RemoveByte(at) => drop(bytes.remove(at.index(log.len()))),
        Mutation::RemoveLines(at, count) => {
            let at = at.index(lines.len());
            let end = lines.len().min(at + count);
            lines.drain(at..end);
            bytes = lines.concat();
        }
        Mutation::Swap(one, other) => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
            bytes = lines.concat();
        }
        Mutation::Repeat(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
            bytes = lines.concat();
        }
        Mutation::Truncate(at) => bytes.truncate(at.index(log.len())),
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_one_mutation_is_found(records in 1..14_u64, mutation in mutation()) {
        let (log, held) = log(records);
        let held = Checkpoint::read(&held).unwrap();
        let changed = mutated(&log, &mutation);
        prop_assume!(changed != log);
        let found = verify(&changed, None, Some(held));
        prop_assert!(found.is_err(), "{mutation:?} was not found");
    }

    #[test]
    fn a_needle_is_in_the_line_of_every_match(text in "[ -~\n\t\"\\\\é]{1,12}", before in "\\PC{0,8}") {
        let entry = Entry::new(1, Kind::Network, "daemon").with("target", format!("{before}{text}!"));
        let mut line = Vec::new();
        Head::START.clone().add(&entry.fields(), None, &mut line);
        let query = Query { text: Some(text), ..Query::default() };
        prop_assert!(query.matches(1, &entry));
        let line = String::from_utf8(line).unwrap();
        for needle in query.needles() {
            prop_assert!(line.contains(&needle), "{needle} in {line}");
        }
    }
}

/// A log that somebody wrote anew from a record on, with the right hashes.
fn rewritten(log: &[u8], from: usize, key: Option<&SigningKey>) -> Vec<u8> {
    let lines = lines_of(log);
    let mut bytes = lines[..from].concat();
    let last = chain::Line::parse(lines[from - 1].trim_ascii_end()).unwrap();
    let mut head = Head {
        seq: last.record().unwrap().seq,
        hash: last.hash,
    };
    for line in &lines[from..] {
        let record = Record::of_line(line.trim_ascii_end()).unwrap();
        match (record.entry.kind, key) {
            (Kind::Checkpoint, Some(key)) => head.add_checkpoint(key, 1, None, &mut bytes),
            _ => {
                let entry = record.entry.with("changed", true);
                head.add(&entry.fields(), None, &mut bytes);
            }
        }
    }
    bytes
}

#[test]
fn who_computes_every_hash_anew_is_found_by_the_checkpoints() {
    let (log, held) = log(12);
    let held = Checkpoint::read(&held).unwrap();
    let unsigned = rewritten(&log, 3, None);
    assert_eq!(
        verify(&unsigned, None, None),
        Err(Fault::Checkpoint {
            seq: 6,
            error: CheckpointError::Form
        })
    );
    let theirs = SigningKey::from_seed(&[9; 32]).unwrap();
    let signed = rewritten(&log, 3, Some(&theirs));
    assert!(
        verify(&signed, None, None).is_ok(),
        "by itself it looks well"
    );
    assert_eq!(
        verify(&signed, Some(key().public()), None),
        Err(Fault::Key {
            seq: 6,
            expected: key().public(),
            found: theirs.public()
        })
    );
    let with_our_key = rewritten(&log, 3, Some(&key()));
    assert_eq!(
        verify(&with_our_key, None, Some(held.clone())),
        Err(Fault::NotHeld { held: held.seq })
    );
}

#[test]
fn a_beginning_must_be_signed_to_be_one() {
    let mut head = Head::START;
    let mut lines = Vec::new();
    let entry = Entry::new(1, Kind::ToolCall, "model").fields();
    head.add(&entry, None, &mut lines);
    head.add(&entry, None, &mut lines);
    let cut = lines.len();
    head.add_checkpoint(&key(), 2, None, &mut lines);
    head.add(&entry, None, &mut lines);
    assert_eq!(
        verify(&lines[cut..], None, None),
        Err(Fault::Beginning { first: 3 })
    );
    let retention = Entry::new(3, Kind::Retention, "daemon").with("first", 3);
    head.add(&retention.fields(), None, &mut lines);
    assert_eq!(
        verify(&lines[cut..], None, None),
        Err(Fault::Beginning { first: 3 }),
        "nobody has signed it yet"
    );
    head.add_checkpoint(&key(), 4, None, &mut lines);
    let held = lines_of(&lines).pop().unwrap();
    let held = Checkpoint::read(&held).unwrap();
    let found = verify(&lines[cut..], None, Some(held.clone())).unwrap();
    assert_eq!(
        (found.first, found.last, found.checkpoint),
        (3, 6, Some(held))
    );
    // More than was decided on is missing.
    let later = lines_of(&lines)[3..].concat();
    assert_eq!(
        verify(&later, None, None),
        Err(Fault::Beginning { first: 4 })
    );
    let older = Checkpoint {
        seq: 2,
        ..Checkpoint::read(&lines_of(&lines)[2]).unwrap()
    };
    assert_eq!(
        verify(&lines[cut..], None, Some(older)),
        Err(Fault::HeldIsOlder { first: 3, held: 2 })
    );
}

#[test]
fn what_is_cut_off_behind_the_newest_checkpoint_is_named() {
    let (log, held) = log(4);
    let held = Checkpoint::read(&held).unwrap();
    let lines = lines_of(&log);
    assert_eq!(
        verify(&lines[..3].concat(), None, Some(held)),
        Err(Fault::Truncated { last: 3, held: 5 })
    );
    assert_eq!(verify(b"", None, None), Err(Fault::Empty));
    let unfinished = &log[..log.len() - 1];
    assert_eq!(
        verify(unfinished, None, None),
        Err(Fault::Line {
            seq: 5,
            error: LineError::Form
        })
    );
}

#[test]
fn a_signature_is_for_checkpoints_alone() {
    let (log, held) = log(1);
    let line = chain::Line::parse(held.trim_ascii_end()).unwrap();
    let signed = line.record.len() - (128 + r#","signature":""}"#.len());
    let signature = key().sign(&line.record[..signed]);
    let held_text = String::from_utf8(held.clone()).unwrap();
    assert!(held_text.contains(&chain::hex(&signature)));
    assert!(PURPOSE.ends_with(b"\n"), "no record begins with it");
    let first = &lines_of(&log)[0];
    assert_eq!(Checkpoint::read(first), Err(CheckpointError::Kind));
}

#[test]
fn long_texts_and_many_values_are_cut_with_the_hash_of_the_whole() {
    let long = "é".repeat(MAX_TEXT_BYTES);
    let entry = Entry::new(1, Kind::ToolCall, "model")
        .with("content", long.clone())
        .with("list", vec!["x"; 5_000])
        .in_bounds();
    let hash = chain::Hash::of(long.as_bytes());
    let kept = entry.detail["content"].as_str().unwrap();
    assert!(kept.ends_with(&format!("… [{} bytes, sha256 {hash}]", long.len())));
    assert!(kept.len() < MAX_TEXT_BYTES + 200);
    let list = entry.detail["list"].as_array().unwrap();
    assert!(list.len() <= MAX_VALUES + 1);
    assert!(
        list.last()
            .unwrap()
            .as_str()
            .unwrap()
            .contains("5000 values")
    );
}

#[test]
fn names_are_those_of_the_records() {
    for kind in Kind::ALL {
        assert_eq!(json!(kind), json!(kind.name()));
        assert_eq!(Kind::named(kind.name()), Some(kind));
    }
    for outcome in Outcome::ALL {
        assert_eq!(json!(outcome), json!(outcome.name()));
        assert_eq!(Outcome::named(outcome.name()), Some(outcome));
    }
    assert_eq!(Kind::named("other"), None);
}

#[test]
fn a_query_holds_every_part_that_is_given() {
    let entry = Entry::new(50, Kind::ToolCall, "model")
        .with_tool("run_command")
        .with_outcome(Outcome::Denied)
        .with(
            "arguments",
            json!({"deep": [{"path": "a \"quoted\"\npath"}]}),
        );
    let all = Query {
        caller: Some("model".into()),
        tool: Some("run_command".into()),
        kind: Some(Kind::ToolCall),
        outcome: Some(Outcome::Denied),
        text: Some("\"quoted\"\npa".into()),
        since_ms: Some(50),
        until_ms: Some(51),
        before_seq: Some(8),
        ..Query::default()
    };
    assert!(all.matches(7, &entry));
    let others = [
        Query {
            caller: Some("mode".into()),
            ..all.clone()
        },
        Query {
            tool: Some("run".into()),
            ..all.clone()
        },
        Query {
            kind: Some(Kind::Network),
            ..all.clone()
        },
        Query {
            outcome: Some(Outcome::Ok),
            ..all.clone()
        },
        Query {
            text: Some("absent".into()),
            ..all.clone()
        },
        Query {
            since_ms: Some(51),
            ..all.clone()
        },
        Query {
            until_ms: Some(50),
            ..all.clone()
        },
        Query {
            session: Some("se-1".into()),
            ..all.clone()
        },
        Query {
            workspace: Some("ws-1".into()),
            ..all.clone()
        },
        Query {
            before_seq: Some(7),
            ..all
        },
    ];
    for other in others {
        assert!(!other.matches(7, &entry), "{other:?}");
    }
}

/// The log that `compyctl audit verify` is tested with: checkpoints, links,
/// texts that JSON escapes, and a beginning that was removed.
fn sample() -> Vec<u8> {
    let mut head = Head::START;
    let mut lines = Vec::new();
    let mut begins_at = 0;
    for number in 1..=12_u64 {
        let mut entry = Entry::new(1_780_000_000_000 + number as i64, Kind::ToolCall, "model")
            .with_tool("run_command")
            .with_outcome(Outcome::Ok)
            .by_process(format!("p{number}"))
            .with("arguments", json!({"command": "printf \"a\\n\" | ünïcode"}));
        if number % 3 == 0 {
            entry.kind = Kind::Network;
            entry = entry.with_outcome(Outcome::Denied).decided_by("NOT_LISTED");
        }
        head.add(
            &entry.fields(),
            (number % 2 == 0).then_some(head.seq),
            &mut lines,
        );
        if number % 4 == 0 {
            if number == 4 {
                begins_at = lines.len();
            }
            head.add_checkpoint(&key(), 1_780_000_001_000, None, &mut lines);
        }
    }
    let retention = Entry::new(1_780_000_002_000, Kind::Retention, "daemon").with("first", 5);
    head.add(&retention.fields(), None, &mut lines);
    head.add_checkpoint(&key(), 1_780_000_003_000, Some(head.seq), &mut lines);
    lines.split_off(begins_at)
}

#[test]
fn sample_is_what_this_daemon_writes() {
    let sample = sample();
    let kept = include_str!("../../../../tests/fixtures/audit/sample.jsonl");
    assert_eq!(String::from_utf8(sample.clone()).unwrap(), kept);
    let verified = verify(&sample, Some(key().public()), None).unwrap();
    assert_eq!((verified.first, verified.last), (5, 17));
}

#[test]
fn all_texts_of_a_detail_are_bounded_together() {
    let text = "x".repeat(MAX_TEXT_BYTES);
    let texts = vec![text.clone(); MAX_RECORD_BYTES / MAX_TEXT_BYTES + 9];
    let entry = Entry::new(0, Kind::ApiCall, "a")
        .with("argv", texts)
        .in_bounds();
    let kept = entry.detail["argv"].as_array().unwrap();
    assert_eq!(kept[MAX_RECORD_BYTES / MAX_TEXT_BYTES - 1], text);
    let beyond = kept.last().unwrap().as_str().unwrap();
    let hash = chain::Hash::of(text.as_bytes());
    assert_eq!(beyond, format!("… [{MAX_TEXT_BYTES} bytes, sha256 {hash}]"));
}
