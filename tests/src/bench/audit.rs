//! The audit log: a search over a million records beside `grep` and `jq` over
//! the exported lines, and what recording adds to a tool call.

use std::{
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Instant,
};

use compyd::{
    adapters::{
        audit::{AuditOptions, FileAudit},
        clock::SystemClock,
        sled::{SledOptions, SledStore},
    },
    domain::{
        audit::{Entry, Kind, Outcome, query::Query},
        ids::SessionId,
    },
    ports::{audit::AuditPort, clock::ClockPort, store::StorePort},
};
use serde_json::json;

use super::{Better, Measured, Report};

const RECORDS: u64 = 1_000_000;
/// Records of one session.
const OF_A_SESSION: u64 = 1_000;
const ROUNDS: usize = 15;
/// In hexadecimal, as a part of every record is.
const ABSENT_HASH: &str = "5eb63bbbe01eeed093cb22bb8f5acdc3";
/// Tool calls of a round.
const CALLS: u64 = 200;

/// Measures in a directory on a real disk.
pub async fn measure(directory: &Path, report: &mut Report) {
    let directory = tempfile::Builder::new()
        .prefix("audit-")
        .tempdir_in(directory)
        .expect("there is room");
    let clock = Arc::new(SystemClock);
    let options = AuditOptions::below(directory.path(), 0, clock.clone());
    let log = tokio::task::spawn_blocking(move || FileAudit::open(options))
        .await
        .expect("opening does not panic")
        .expect("the log opens");
    calls(&log, clock.as_ref(), directory.path(), report).await;
    fill(&log, clock.as_ref()).await;
    let exported = export(&log, directory.path()).await;
    let session = session(RECORDS / OF_A_SESSION / 2);
    let searches = [
        (
            "a million records, by text | grep",
            Query {
                text: Some("a needle in the hay".to_owned()),
                ..of_a_page()
            },
            Theirs::Grep("a needle in the hay".to_owned()),
        ),
        (
            "a million records, by absent text | grep",
            Query {
                text: Some("nowhere to be seen".to_owned()),
                ..of_a_page()
            },
            Theirs::Grep("nowhere to be seen".to_owned()),
        ),
        (
            "a million records, by absent hash | grep",
            Query {
                text: Some(ABSENT_HASH.to_owned()),
                ..of_a_page()
            },
            Theirs::Grep(ABSENT_HASH.to_owned()),
        ),
        (
            "a million records, by absent characters | grep",
            Query {
                text: Some("zq".to_owned()),
                ..of_a_page()
            },
            Theirs::Grep("zq".to_owned()),
        ),
        (
            "a million records, by caller and hour | jq",
            Query {
                caller: Some("uid:77".to_owned()),
                since_ms: Some(clock.now_ms() - 3_600_000),
                until_ms: Some(clock.now_ms()),
                ..of_a_page()
            },
            Theirs::Jq("select(.record.caller == \"uid:77\")".to_owned()),
        ),
        (
            "a million records, what all have and one | grep",
            Query {
                tool: Some("read_file".to_owned()),
                text: Some("cargo test --package p77777".to_owned()),
                ..of_a_page()
            },
            Theirs::Grep("cargo test --package p77777".to_owned()),
        ),
        (
            "a million records, by session | jq",
            Query {
                session: Some(session.clone()),
                ..of_a_page()
            },
            Theirs::Jq(format!("select(.record.session == \"{session}\")")),
        ),
        (
            "a million records, denied tools | jq",
            Query {
                tool: Some("write_file".to_owned()),
                outcome: Some(Outcome::Denied),
                ..of_a_page()
            },
            Theirs::Jq(
                "select(.record.tool == \"write_file\" and .record.outcome == \"denied\")"
                    .to_owned(),
            ),
        ),
    ];
    for (name, query, theirs) in searches {
        let (mut ours, mut of_them) = (Vec::new(), Vec::new());
        for round in 0..ROUNDS {
            let begun = Instant::now();
            let found = log.search(query.clone()).await.expect("the log is read");
            ours.push(begun.elapsed().as_secs_f64() * 1e3);
            assert_eq!(found.is_empty(), name.contains("absent"), "{name}");
            // jq takes tens of seconds.
            if round == 0 || matches!(theirs, Theirs::Grep(_)) {
                of_them.extend(theirs.run(&exported));
            }
        }
        report.add(
            Measured {
                name,
                unit: "ms",
                better: Better::Less,
                ours,
                theirs: of_them,
            },
            "under 200 ms",
            |ours, _| ours.p50 < 200.0,
        );
    }
    log.close().await;
}

fn of_a_page() -> Query {
    Query {
        limit: 100,
        ..Query::default()
    }
}

fn session(number: u64) -> String {
    format!("se-{number:032x}")
}

/// What a user would otherwise do.
enum Theirs {
    /// For a text.
    Grep(String),
    /// With a filter.
    Jq(String),
}

impl Theirs {
    /// Milliseconds; `None` where the tool is not to be had.
    fn run(&self, exported: &Path) -> Option<f64> {
        let mut command = match self {
            Self::Grep(text) => {
                let mut grep = Command::new("grep");
                grep.args(["-F", text]);
                grep
            }
            Self::Jq(filter) => {
                let mut jq = Command::new("jq");
                jq.args(["-c", filter]);
                jq
            }
        };
        let begun = Instant::now();
        let status = command.arg(exported).stdout(Stdio::null()).status().ok()?;
        // grep says with 1 that there is nothing.
        let done = matches!(status.code(), Some(0 | 1));
        done.then(|| begun.elapsed().as_secs_f64() * 1e3)
    }
}

fn entry(clock: &dyn ClockPort, number: u64) -> Entry {
    let tool = ["run_command", "read_file", "edit_file"][(number % 3) as usize];
    let mut entry = Entry::new(clock.now_ms(), Kind::ToolCall, "model")
        .with_tool(tool)
        .with_outcome(Outcome::Ok)
        .with(
            "arguments",
            json!({"command": format!("cargo test --package p{number}")}),
        )
        .with(
            "result_sha256",
            blake3::hash(&number.to_le_bytes()).to_hex().to_string(),
        )
        .with("duration_ms", number % 5_000);
    entry.session = Some(session(number / OF_A_SESSION));
    entry.step = Some(format!("{}.{number}", session(number / OF_A_SESSION)));
    entry
}

/// Fills the log; rare ones are in its middle.
async fn fill(log: &FileAudit, clock: &dyn ClockPort) {
    for number in 0..RECORDS {
        let mut entry = entry(clock, number);
        if number == RECORDS / 3 {
            entry.caller = "uid:77".to_owned();
        }
        if number == RECORDS / 2 {
            entry = entry
                .with_tool("write_file")
                .with_outcome(Outcome::Denied)
                .with("reason", "a needle in the hay");
        }
        // Lets the writer keep up.
        if number % 4_096 == 0 {
            let recorded = log.record_durably(entry).await;
            recorded.expect("there is room");
        } else {
            log.record(entry);
        }
    }
    let found = log.search(of_a_page()).await.expect("the log is read");
    let last = found.first().expect("there are records").seq;
    assert!(last >= RECORDS, "nothing was missed: {last}");
}

async fn export(log: &FileAudit, directory: &Path) -> std::path::PathBuf {
    use std::io::Write as _;
    let _ = log.checkpoint().await.expect("there is room");
    let path = directory.join("exported.jsonl");
    let mut file = std::fs::File::create(&path).expect("there is room");
    let mut from = 0;
    loop {
        let lines = log.lines(from, u64::MAX).await.expect("the log is read");
        if lines.bytes.is_empty() {
            return path;
        }
        file.write_all(&lines.bytes).expect("there is room");
        from = lines.next;
    }
}

/// A tool call that runs `true`, the least there is, with its two durable
/// events, and with and without its two records. It runs here: the way into a
/// workspace would only hide what recording costs.
async fn calls(log: &FileAudit, clock: &dyn ClockPort, directory: &Path, report: &mut Report) {
    let options = SledOptions::in_dir(directory.join("store"));
    let store = tokio::task::spawn_blocking(move || SledStore::open(options))
        .await
        .expect("opening does not panic")
        .expect("the store opens");
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for round in 0..2 * ROUNDS {
        let recorded = round % 2 == 0;
        let session = SessionId::from_uuid(uuid::Uuid::new_v4());
        let begun = Instant::now();
        for call in 0..CALLS {
            for half in 0..2 {
                let event = vec![b'x'; 400];
                let appended = store.append(&session, 2 * call + half + 1, vec![event]);
                appended.await.expect("there is room");
                if recorded {
                    log.record(entry(clock, call));
                }
                if half == 0 {
                    let status = tokio::process::Command::new("true").status();
                    assert!(status.await.expect("it is there").success());
                }
            }
        }
        let each = begun.elapsed().as_secs_f64() * 1e6 / CALLS as f64;
        if recorded {
            with.push(each);
        } else {
            without.push(each);
        }
    }
    store.close().await;
    report.add(
        Measured {
            name: "tool call that runs `true`, on record | not",
            unit: "us",
            better: Better::Less,
            ours: with,
            theirs: without,
        },
        "at most 10 % slower",
        |_, ratio| ratio >= 1.0 / 1.1,
    );
}
