use std::{collections::HashSet, fs, os::unix::fs::PermissionsExt as _, time::Duration};

use super::*;
use crate::{
    adapters::memory::ManualClock,
    domain::audit::{
        Kind, Outcome,
        checkpoint::Checkpoint,
        verify::{Fault, verify},
    },
};

/// What a test's disk has free, which is written in a file beside the log.
fn pretended(dir: &Path) -> io::Result<u64> {
    let free = fs::read_to_string(dir.with_file_name("free"));
    Ok(free.map_or(u64::MAX, |text| text.parse().unwrap()))
}

struct Field {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Field {
    fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::default()),
        }
    }

    fn options(&self) -> AuditOptions {
        AuditOptions {
            free_bytes: pretended,
            ..AuditOptions::below(self.dir.path(), 1_000, self.clock.clone())
        }
    }

    fn open(&self) -> FileAudit {
        FileAudit::open(self.options()).unwrap()
    }

    fn log_dir(&self) -> PathBuf {
        self.dir.path().join("audit")
    }

    fn has_free(&self, bytes: u64) {
        fs::write(self.dir.path().join("free"), bytes.to_string()).unwrap();
    }

    fn entry(&self, number: u64) -> Entry {
        Entry::new(self.clock.now_ms(), Kind::ToolCall, "model")
            .with_tool("run_command")
            .with_outcome(Outcome::Ok)
            .with("number", number)
    }

    /// The lines that are on disk.
    fn bytes(&self) -> Vec<u8> {
        let numbers = segment::numbers(&self.log_dir()).unwrap();
        let files = numbers.into_iter();
        let files = files.map(|first| fs::read(segment::path(&self.log_dir(), first)).unwrap());
        files
            .map(|file| without_room(&file).to_vec())
            .collect::<Vec<_>>()
            .concat()
    }
}

/// What is in a file before the zeros.
fn without_room(file: &[u8]) -> &[u8] {
    let end = file.iter().rposition(|byte| *byte != 0);
    &file[..end.map_or(0, |last| last + 1)]
}

fn all() -> Query {
    Query {
        limit: 1_000_000,
        ..Query::default()
    }
}

fn numbers(records: &[Record]) -> Vec<u64> {
    let number = |record: &Record| record.entry.detail.get("number")?.as_u64();
    records.iter().filter_map(number).collect()
}

async fn export(audit: &FileAudit) -> Vec<u8> {
    let line = audit.checkpoint().await.unwrap();
    let last = Checkpoint::read(&line).unwrap().seq;
    let (mut from, mut bytes) = (0, Vec::new());
    loop {
        let lines = audit.lines(from, last).await.unwrap();
        if lines.bytes.is_empty() {
            return bytes;
        }
        bytes.extend_from_slice(&lines.bytes);
        from = lines.next;
    }
}

#[tokio::test]
async fn what_is_recorded_is_found_exported_and_verified_and_goes_on_after_a_restart() {
    let field = Field::new();
    let audit = field.open();
    audit.record(field.entry(1));
    assert_eq!(audit.record_durably(field.entry(2)).await, Ok(2));
    audit.record(field.entry(3));
    let found = audit.search(all()).await.unwrap();
    assert_eq!(numbers(&found), [3, 2, 1], "the newest first");
    assert_eq!(found[1].entry, field.entry(2));
    let line = audit.checkpoint().await.unwrap();
    assert_eq!(
        audit.checkpoint().await.unwrap(),
        line,
        "nothing new to sign"
    );
    audit.close().await;
    assert!(
        audit.record_durably(field.entry(4)).await.is_err(),
        "it is closed"
    );

    let audit = field.open();
    assert_eq!(audit.record_durably(field.entry(5)).await, Ok(5));
    let found = audit.search(all()).await.unwrap();
    assert_eq!(numbers(&found), [5, 3, 2, 1]);
    let exported = export(&audit).await;
    assert_eq!(exported, field.bytes(), "the files are the export");
    let held = Checkpoint::read(&line).unwrap();
    let verified = verify(&exported, Some(audit.public_key()), Some(held)).unwrap();
    assert_eq!((verified.first, verified.last), (1, 6));
    assert_eq!(audit.verify().await, Ok(verified));
}

#[tokio::test]
async fn many_who_wait_get_numbers_of_their_own() {
    let field = Field::new();
    let audit = Arc::new(field.open());
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..200 {
        let (audit, entry) = (audit.clone(), field.entry(number));
        tasks.spawn(async move {
            audit.record(entry.clone());
            audit.record_durably(entry).await.unwrap()
        });
    }
    let given: HashSet<u64> = tasks.join_all().await.into_iter().collect();
    assert_eq!(given.len(), 200);
    let found = audit.search(all()).await.unwrap();
    assert_eq!(found.len(), 400);
    for seq in given {
        let record = found.iter().find(|record| record.seq == seq);
        assert!(record.is_some(), "record {seq} is there");
    }
    assert!(verify(&export(&audit).await, None, None).is_ok());
}

#[tokio::test]
async fn wherever_a_crash_cuts_a_write_what_was_acknowledged_stays() {
    let field = Field::new();
    let audit = field.open();
    audit.record(field.entry(1));
    assert_eq!(audit.record_durably(field.entry(2)).await, Ok(2));
    let acknowledged = field.bytes().len();
    audit.record(field.entry(3));
    audit.record(field.entry(4));
    audit.search(all()).await.unwrap();
    let written = field.bytes();
    drop(audit);
    let key = fs::read(field.dir.path().join("audit.key")).unwrap();
    // Every line's beginning and end, and places in between.
    let is_near_an_end = |cut: &usize| {
        let around = &written[cut.saturating_sub(2)..(cut + 2).min(written.len())];
        around.contains(&b'\n') || cut.is_multiple_of(41)
    };
    for cut in (acknowledged..written.len()).filter(is_near_an_end) {
        let crashed = Field::new();
        fs::create_dir(crashed.log_dir()).unwrap();
        let file = segment::path(&crashed.log_dir(), 1);
        // A file system may also have made the file as long as it was to be.
        let mut left = written[..cut].to_vec();
        if cut % 2 == 0 {
            left.resize(written.len(), 0);
        }
        fs::write(&file, &left).unwrap();
        let key_file = crashed.dir.path().join("audit.key");
        fs::write(&key_file, &key).unwrap();
        fs::set_permissions(&key_file, fs::Permissions::from_mode(0o600)).unwrap();
        let audit = crashed.open();
        let found = audit.search(all()).await.unwrap();
        let found = numbers(&found);
        assert!(found.ends_with(&[2, 1]), "cut at {cut}: {found:?}");
        let verified = audit.verify().await.unwrap();
        audit.record_durably(crashed.entry(9)).await.unwrap();
        let whole = export(&audit).await;
        assert!(verify(&whole, Some(audit.public_key()), verified.checkpoint).is_ok());
        // Nothing is thrown away: the end is in the log or beside it.
        let kept = written[..cut]
            .iter()
            .rposition(|byte| *byte == b'\n')
            .unwrap()
            + 1;
        let torn = without_room(&left[kept..]);
        if !torn.is_empty() {
            let aside = crashed.log_dir().join(format!("torn-{:020}-{kept}", 1));
            assert_eq!(fs::read(aside).unwrap(), torn);
            let told = Query {
                text: Some("torn".into()),
                ..all()
            };
            assert_eq!(audit.search(told).await.unwrap().len(), 1);
        }
    }
}

#[tokio::test]
async fn there_is_room_behind_the_last_line_until_the_log_is_closed() {
    let field = Field::new();
    let audit = field.open();
    audit.record_durably(field.entry(1)).await.unwrap();
    let file = segment::path(&field.log_dir(), 1);
    let open = fs::read(&file).unwrap();
    audit.record_durably(field.entry(2)).await.unwrap();
    assert_eq!(
        fs::metadata(&file).unwrap().len(),
        open.len() as u64,
        "a record changes no size"
    );
    let lines = field.bytes();
    assert!(lines.len() < open.len());
    audit.close().await;
    let closed = fs::read(&file).unwrap();
    assert!(closed.starts_with(&lines));
    assert_eq!(without_room(&closed), closed);
    // As after a crash.
    fs::write(&file, [closed.clone(), vec![0; 1_000]].concat()).unwrap();
    let audit = field.open();
    assert_eq!(numbers(&audit.search(all()).await.unwrap()), [2, 1]);
    assert_eq!(field.bytes(), closed);
}

#[tokio::test]
async fn damage_of_what_was_on_disk_is_no_torn_end() {
    let field = Field::new();
    let audit = field.open();
    for number in 0..3 {
        audit.record_durably(field.entry(number)).await.unwrap();
    }
    drop(audit);
    let file = segment::path(&field.log_dir(), 1);
    let mut bytes = field.bytes();
    bytes[300] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let error = FileAudit::open(field.options()).unwrap_err();
    assert!(matches!(error, AuditError::Damaged(_)), "{error}");
    assert!(error.to_string().contains("keep a copy"), "{error}");
    assert_eq!(fs::read(&file).unwrap(), bytes, "it is left alone");
}

#[tokio::test]
async fn verification_names_what_was_changed_in_an_older_file() {
    let field = Field::new();
    let small = AuditOptions {
        segment_bytes: 2_000,
        ..field.options()
    };
    let audit = FileAudit::open(small.clone()).unwrap();
    for number in 0..30 {
        audit.record_durably(field.entry(number)).await.unwrap();
    }
    audit.close().await;
    let firsts = segment::numbers(&field.log_dir()).unwrap();
    assert!(firsts.len() > 3, "{firsts:?}");
    let file = segment::path(&field.log_dir(), firsts[1]);
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("\"number\":", "\"numbes\":", 1)).unwrap();
    let audit = FileAudit::open(small).unwrap();
    let found = audit.verify().await;
    assert!(
        matches!(found, Err(AuditError::Fault(Fault::Line { .. }))),
        "{found:?}"
    );
}

#[tokio::test]
async fn old_files_go_up_to_a_signed_checkpoint_and_the_rest_verifies() {
    let field = Field::new();
    let options = AuditOptions {
        segment_bytes: 2_000,
        ..field.options()
    };
    let audit = FileAudit::open(options.clone()).unwrap();
    for number in 0..30 {
        field.clock.advance(Duration::from_secs(60));
        audit.record_durably(field.entry(number)).await.unwrap();
    }
    let before = segment::numbers(&field.log_dir()).unwrap();
    let middle = field.clock.now_ms() - 15 * 60_000;
    let kept = Retention {
        before_ms: middle,
        max_bytes: u64::MAX,
    };
    let first = audit.retain(kept).await.unwrap();
    let after = segment::numbers(&field.log_dir()).unwrap();
    assert_eq!(after.first(), Some(&first));
    assert!(after.len() < before.len(), "{before:?} {after:?}");
    let found = audit.search(all()).await.unwrap();
    let found = numbers(&found);
    assert_eq!(found.first(), Some(&29));
    assert!(
        *found.last().unwrap() > 5 && *found.last().unwrap() <= 15,
        "{found:?}"
    );
    let exported = export(&audit).await;
    let verified = verify(&exported, Some(audit.public_key()), None).unwrap();
    assert_eq!(verified.first, first);
    assert!(matches!(
        audit.lines(1, 99).await,
        Err(AuditError::Failed { .. })
    ));

    // By size, down to the file that is written to.
    let kept = Retention {
        before_ms: 0,
        max_bytes: 0,
    };
    let first = audit.retain(kept).await.unwrap();
    assert_eq!(segment::numbers(&field.log_dir()).unwrap()[0], first);
    assert_eq!(
        audit
            .retain(Retention {
                max_bytes: u64::MAX,
                ..kept
            })
            .await,
        Ok(first)
    );
    audit.close().await;
    let audit = FileAudit::open(options).unwrap();
    assert_eq!(audit.verify().await.unwrap().first, first);
    assert_eq!(
        audit.record_durably(field.entry(30)).await.unwrap(),
        audit.search(all()).await.unwrap()[0].seq
    );
}

#[tokio::test]
async fn a_quiet_log_is_cut_by_time_as_well() {
    let field = Field::new();
    let audit = field.open();
    audit.record_durably(field.entry(1)).await.unwrap();
    for _ in 0..20 {
        field.clock.advance(Duration::from_secs(3_600));
        let before_ms = field.clock.now_ms() - 8 * 3_600_000;
        audit.record_durably(field.entry(2)).await.unwrap();
        let kept = Retention {
            before_ms,
            max_bytes: u64::MAX,
        };
        audit.retain(kept).await.unwrap();
    }
    let found = audit.search(all()).await.unwrap();
    let oldest = found.last().unwrap().entry.at_ms;
    let age = Duration::from_millis((field.clock.now_ms() - oldest) as u64);
    assert!(age <= Duration::from_secs(10 * 3_600), "{age:?}");
    assert!(found.len() > 8);
    assert!(audit.verify().await.is_ok());
}

#[tokio::test]
async fn a_full_disk_refuses_who_waits_and_forgets_nothing_that_it_can_hold() {
    let field = Field::new();
    let audit = field.open();
    audit.record_durably(field.entry(1)).await.unwrap();
    field.has_free(900);
    let before = field.bytes();
    let refused = audit.record_durably(field.entry(2)).await.unwrap_err();
    assert!(refused.is_disk_full(), "{refused}");
    audit.record(field.entry(3));
    let found = audit.search(all()).await.unwrap();
    assert_eq!(numbers(&found), [1], "reading goes on");
    assert!(audit.checkpoint().await.unwrap_err().is_disk_full());
    assert_eq!(field.bytes(), before);
    field.has_free(u64::MAX);
    assert_eq!(audit.record_durably(field.entry(4)).await, Ok(3));
    let found = audit.search(all()).await.unwrap();
    assert_eq!(numbers(&found), [4, 3, 1]);
    assert!(audit.verify().await.is_ok());
}

#[tokio::test]
async fn what_a_full_disk_cannot_hold_is_counted_in_the_log() {
    let field = Field::new();
    field.has_free(0);
    let audit = field.open();
    let refused = tokio::join!(
        audit.record_durably(field.entry(1)),
        audit.record_durably(field.entry(2))
    );
    assert!(
        refused.0.is_err() && refused.1.is_err(),
        "nothing is there yet"
    );
    for number in 0..6_000 {
        audit.record(field.entry(number));
    }
    audit.search(all()).await.unwrap();
    field.has_free(u64::MAX);
    let told = Query {
        text: Some("records were missed".into()),
        ..all()
    };
    audit.record_durably(field.entry(6_000)).await.unwrap();
    let told = audit.search(told).await.unwrap();
    let kept = numbers(&audit.search(all()).await.unwrap()).len() as u64;
    assert_eq!(told.len(), 1);
    assert_eq!(
        told[0].entry.detail["count"].as_u64().unwrap() + kept,
        6_001
    );
}

#[tokio::test]
async fn an_index_that_is_lost_or_wrong_is_made_anew() {
    let field = Field::new();
    let options = AuditOptions {
        segment_bytes: 3_000,
        ..field.options()
    };
    let audit = FileAudit::open(options.clone()).unwrap();
    for number in 0..40 {
        let entry = match number % 10 {
            0 => field.entry(number).with_tool("rare"),
            _ => field.entry(number),
        };
        audit.record(entry);
        if number % 5 == 0 {
            audit.record_durably(field.entry(1_000)).await.unwrap();
        }
    }
    let rare = Query {
        tool: Some("rare".into()),
        ..all()
    };
    let expected = audit.search(rare.clone()).await.unwrap();
    assert_eq!(numbers(&expected), [30, 20, 10, 0]);
    audit.close().await;
    let firsts = segment::numbers(&field.log_dir()).unwrap();
    assert!(firsts.len() > 3, "{firsts:?}");
    fs::remove_file(segment::index_path(&field.log_dir(), firsts[0])).unwrap();
    let second = segment::index_path(&field.log_dir(), firsts[1]);
    let kept = fs::read_to_string(&second).unwrap();
    fs::write(&second, kept.replace("\"records\":", "\"records\":1")).unwrap();
    // A filter that has nothing, and one that is of another block.
    let filters = segment::filters_path(&field.log_dir(), firsts[1]);
    fs::write(&filters, vec![0; fs::read(&filters).unwrap().len()]).unwrap();
    let of_another = segment::filters_path(&field.log_dir(), firsts[2]);
    fs::copy(
        &of_another,
        segment::filters_path(&field.log_dir(), firsts[3]),
    )
    .unwrap();
    let audit = FileAudit::open(options).unwrap();
    assert_eq!(audit.search(rare).await.unwrap(), expected);
}

#[tokio::test]
async fn a_search_finds_what_reading_everything_through_finds() {
    let field = Field::new();
    let options = AuditOptions {
        segment_bytes: 300_000,
        ..field.options()
    };
    let mut random = fastrand::Rng::with_seed(7);
    let words = [
        "cargo", "té\"st", "a\\b", "rm -rf", "deadbeef", "~", "tool", "hash",
    ];
    let mut entry = |number: u64| {
        let mut entry = field.entry(number);
        entry.session = (random.u8(..) > 40).then(|| format!("se-{}", random.u64(..400)));
        entry.tool = (random.u8(..) > 40).then(|| format!("tool{}", random.u64(..30)));
        entry.outcome = Some(Outcome::ALL[random.usize(..Outcome::ALL.len())]);
        let word = words[random.usize(..words.len())];
        let said = format!("{word} {:x}", random.u64(..));
        entry.with(
            "said",
            serde_json::json!({"n": [random.u64(..9_999), true, null], "t": said}),
        )
    };
    let mut audit = FileAudit::open(options.clone()).unwrap();
    let mut queries = fastrand::Rng::with_seed(8);
    for life in 0..2 {
        for number in 0..2_500 {
            let entry = entry(life * 2_500 + number);
            audit.record(entry);
        }
        let everything = audit.search(all()).await.unwrap();
        let mut hits = 0;
        for _ in 0..400 {
            let of = &everything[queries.usize(..everything.len())].entry;
            let mut some = |value: &Option<String>| match queries.u8(..3) {
                0 => value.clone(),
                _ => None,
            };
            let mut query = Query {
                session: some(&of.session),
                tool: some(&of.tool),
                caller: some(&Some(of.caller.clone())),
                ..all()
            };
            query.outcome = of.outcome.filter(|_| queries.bool());
            let said = of.detail.get("said").and_then(|said| said["t"].as_str());
            if let Some(said) = said.filter(|_| queries.bool()) {
                let said: Vec<char> = said.chars().collect();
                let start = queries.usize(..said.len());
                let length = queries.usize(..9);
                let text: String = said[start..].iter().take(length).collect();
                let absent = queries.u8(..4) == 0;
                query.text = Some(if absent { format!("{text}%") } else { text });
            }
            let matches = |record: &&Record| query.matches(record.seq, &record.entry);
            let expected: Vec<Record> = everything.iter().filter(matches).cloned().collect();
            hits += usize::from(!expected.is_empty());
            assert_eq!(
                audit.search(query.clone()).await.unwrap(),
                expected,
                "{query:?}"
            );
        }
        assert!(
            (50..400).contains(&hits),
            "{hits} of 400 queries find something"
        );
        // The next life reads its indexes.
        audit.close().await;
        audit = FileAudit::open(options.clone()).unwrap();
    }
}

#[tokio::test]
async fn pages_follow_each_other_without_gap() {
    let field = Field::new();
    let options = AuditOptions {
        segment_bytes: 40_000,
        ..field.options()
    };
    let audit = FileAudit::open(options).unwrap();
    for number in 0..1_000 {
        audit.record(field.entry(number));
        if number % 100 == 99 {
            audit.record_durably(field.entry(5_000)).await.unwrap();
        }
    }
    let whole = audit.search(all()).await.unwrap();
    let mut paged = Vec::new();
    let mut query = Query {
        limit: 37,
        ..Query::default()
    };
    loop {
        let page = audit.search(query.clone()).await.unwrap();
        let Some(last) = page.last() else { break };
        query.before_seq = Some(last.seq);
        paged.extend(page);
    }
    assert_eq!(paged, whole);
}

#[tokio::test]
async fn the_key_is_for_its_account_alone_and_is_missed_when_it_is_gone() {
    let field = Field::new();
    let audit = field.open();
    audit.record_durably(field.entry(1)).await.unwrap();
    let public = audit.public_key();
    audit.close().await;
    let file = field.dir.path().join("audit.key");
    let mode = |file: &Path| fs::metadata(file).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&file), 0o600);
    assert_eq!(mode(&field.log_dir()), 0o700);
    assert_eq!(field.open().public_key(), public);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    let others = FileAudit::open(field.options()).unwrap_err();
    assert!(others.to_string().contains("mode 640"), "{others}");
    fs::remove_file(&file).unwrap();
    let missing = FileAudit::open(field.options()).unwrap_err();
    assert!(missing.to_string().contains("key is missing"), "{missing}");
}
