use proptest::{prelude::*, sample::Index};
use ring::signature::{Ed25519KeyPair, KeyPair as _};

use super::*;

/// What a daemon wrote: twelve records, a checkpoint after every fourth, and a
/// retention that removed the first ones. See `sample_is_what_this_daemon_writes`
/// in `daemon/src/domain/audit/tests.rs`.
const SAMPLE: &str = include_str!("../../../tests/fixtures/audit/sample.jsonl");

fn lines(log: &str) -> Vec<String> {
    log.split_inclusive('\n').map(str::to_owned).collect()
}

/// The newest checkpoint: the last line.
fn held(log: &str) -> Checkpoint {
    read_checkpoint(lines(log).last().unwrap().as_bytes()).unwrap()
}

/// A log written by this test, line by line.
struct Written {
    pair: Ed25519KeyPair,
    text: String,
    seq: u64,
    hash: String,
}

impl Written {
    fn new(seed: u8) -> Self {
        Self {
            pair: Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).unwrap(),
            text: String::new(),
            seq: 0,
            hash: "0".repeat(64),
        }
    }

    fn line(&mut self, record: &str) -> &mut Self {
        self.seq += 1;
        self.hash = hex(digest(&SHA256, record.as_bytes()).as_ref());
        self.text += &format!("{}{record}}}\n", frame(&self.hash));
        self
    }

    fn record(&mut self, kind: &str, detail: &str) -> &mut Self {
        let (seq, prev) = (self.seq + 1, self.hash.clone());
        self.line(&format!(
            r#"{{"seq":{seq},"prev":"{prev}","at_ms":7,"kind":"{kind}","caller":"daemon","detail":{{{detail}}}}}"#
        ))
    }

    fn checkpoint(&mut self) -> &mut Self {
        let (seq, prev) = (self.seq + 1, &self.hash);
        let key = hex(self.pair.public_key().as_ref());
        let start = format!(
            r#"{{"seq":{seq},"prev":"{prev}","at_ms":8,"kind":"checkpoint","caller":"daemon","key":"{key}""#
        );
        let signature = self.pair.sign(&[SIGNED_FOR, start.as_bytes()].concat());
        let record = format!(r#"{start},"signature":"{}"}}"#, hex(signature.as_ref()));
        self.line(&record)
    }
}

#[test]
fn what_a_daemon_wrote_is_sound() {
    let held = held(SAMPLE);
    let sound = read_log(SAMPLE.as_bytes(), Some(&held), Some(&held.key)).unwrap();
    assert!(sound.first > 1, "its beginning was removed");
    assert_eq!(sound.last, held.seq);
    assert_eq!(sound.checkpoint, Some(held));
    assert_eq!(sound.last - sound.first + 1, lines(SAMPLE).len() as u64);
}

#[derive(Debug, Clone)]
enum Mutation {
    Edit(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    RemoveLines(Index, usize),
    Swap(Index, Index),
    Repeat(Index),
    Truncate(Index),
}

fn mutation() -> impl Strategy<Value = Mutation> {
    prop_oneof![
        (any::<Index>(), 1..=255_u8).prop_map(|(at, by)| Mutation::Edit(at, by)),
        (any::<Index>(), any::<u8>()).prop_map(|(at, byte)| Mutation::Insert(at, byte)),
        any::<Index>().prop_map(Mutation::Remove),
        (any::<Index>(), 1..5_usize).prop_map(|(at, count)| Mutation::RemoveLines(at, count)),
        (any::<Index>(), any::<Index>()).prop_map(|(one, other)| Mutation::Swap(one, other)),
        any::<Index>().prop_map(Mutation::Repeat),
        any::<Index>().prop_map(Mutation::Truncate),
    ]
}

fn mutated(log: &str, mutation: &Mutation) -> Vec<u8> {
    let mut bytes = log.as_bytes().to_vec();
    let mut lines = lines(log);
    match mutation {
        Mutation::Edit(at, by) => bytes[at.index(log.len())] ^= by,
        Mutation::Insert(at, byte) => bytes.insert(at.index(log.len() + 1), *byte),
        Mutation::Remove(at) => drop(bytes.remove(at.index(log.len()))),
        Mutation::Truncate(at) => bytes.truncate(at.index(log.len())),
        Mutation::RemoveLines(at, count) => {
            let at = at.index(lines.len());
            let end = lines.len().min(at + count);
            lines.drain(at..end);
            bytes = lines.concat().into_bytes();
        }
        Mutation::Swap(one, other) => {
            let (one, other) = (one.index(lines.len()), other.index(lines.len()));
            lines.swap(one, other);
            bytes = lines.concat().into_bytes();
        }
        Mutation::Repeat(at) => {
            let at = at.index(lines.len());
            lines.insert(at, lines[at].clone());
            bytes = lines.concat().into_bytes();
        }
    }
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn any_one_mutation_is_found(mutation in mutation()) {
        let changed = mutated(SAMPLE, &mutation);
        prop_assume!(changed != SAMPLE.as_bytes());
        let held = held(SAMPLE);
        let found = read_log(changed.as_slice(), Some(&held), None);
        prop_assert!(found.is_err(), "{mutation:?} was not found");
    }
}

#[test]
fn a_log_written_anew_with_another_key_is_found_by_who_knows_the_key() {
    let mut ours = Written::new(1);
    ours.record("daemon", "").record("push", "").checkpoint();
    let held = held(&ours.text);
    let mut theirs = Written::new(2);
    theirs.record("daemon", "").record("login", "").checkpoint();
    let forged = theirs.text.as_bytes();
    assert!(
        read_log(forged, None, None).is_ok(),
        "by itself it looks well"
    );
    for (held, key) in [(Some(&held), None), (None, Some(held.key.as_str()))] {
        let found = read_log(forged, held, key).unwrap_err().to_string();
        assert!(
            found.contains("line 3") && found.contains("signed by"),
            "{found}"
        );
    }
    // Somebody has the key: what is held elsewhere still tells.
    let mut stolen = Written::new(1);
    stolen.record("daemon", "").record("login", "").checkpoint();
    let found = read_log(stolen.text.as_bytes(), Some(&held), None).unwrap_err();
    assert_eq!(
        found.to_string(),
        "line 3: it is not the checkpoint that is held"
    );
}

#[test]
fn a_beginning_is_missing_unless_that_is_announced_and_signed() {
    let mut log = Written::new(1);
    log.record("daemon", "").checkpoint().record("push", "");
    let cut = |log: &Written| lines(&log.text)[1..].concat();
    assert!(read_log(cut(&log).as_bytes(), None, None).is_err());
    log.record("retention", r#""first":2"#);
    assert!(
        read_log(cut(&log).as_bytes(), None, None).is_err(),
        "not signed"
    );
    log.checkpoint();
    let sound = read_log(cut(&log).as_bytes(), Some(&held(&log.text)), None).unwrap();
    assert_eq!((sound.first, sound.last), (2, 5));
    let more = lines(&log.text)[2..].concat();
    assert!(
        read_log(more.as_bytes(), None, None).is_err(),
        "more is missing"
    );
    let first = lines(&log.text)[1].clone();
    let older = read_checkpoint(first.as_bytes()).unwrap();
    assert!(read_log(cut(&log).as_bytes(), Some(&older), None).is_ok());
}

#[test]
fn a_checkpoint_file_must_be_a_checkpoint() {
    let mut log = Written::new(1);
    log.record("daemon", "");
    let flaw = read_checkpoint(log.text.as_bytes()).unwrap_err();
    assert!(flaw.to_string().contains("not a checkpoint"), "{flaw}");
    assert!(read_checkpoint(b"").is_err());
    log.checkpoint();
    let line = lines(&log.text).pop().unwrap();
    let changed = line.replace("\"at_ms\":8", "\"at_ms\":9");
    assert!(read_checkpoint(changed.as_bytes()).is_err());
}
