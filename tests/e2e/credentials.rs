//! Credentials: used by commands, and found nowhere else.
//!
//! Canaries are set as credentials and printed in every form by a session's
//! commands. A scanner looks for them in everything that outlives the session and
//! in every message to its model. The same scanner finds all of them in each of these
//! places when redaction is off.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use compyd::adapters::model::{
    fake_provider::{FakeProvider, WireDialect},
    scripted::Transcript,
};
use compyd_proto::v1::SessionState;
use compyd_tests::{
    daemon::{Daemon, Options},
    policy::allowing_commands,
    repository::{Repository, sample_script},
    script::{Script, call},
    sessions::{request, story},
};
use serde_json::json;

use crate::model_http::{model, settings};

/// What is set, by name: a token, a password with what JSON and URLs escape, and
/// a file of several lines.
const CANARIES: [(&str, &str, &str); 3] = [
    ("token", "value", "canary_T0ken_5f3a9c1e7b2d"),
    ("password", "value", "cän\"ary/P4ss word\\+9f?&="),
    (
        "keyfile",
        "file",
        "# canary file\nid = 7\nkey = c4naryF1leK3y00112233445566778899aabb\n",
    ),
];

/// The part of a canary that has to be found nowhere: of the file, its key.
fn needle(canary: &str) -> &str {
    let key = canary.lines().find_map(|line| line.strip_prefix("key = "));
    key.unwrap_or(canary)
}

/// Prints each canary in every form, from the environment and from the file. The
/// last lines print one in two pieces, and one as the end of a line that fails.
const PRINT: &str = r#"
import base64, json, os, sys, time, urllib.parse
key = open(os.environ["KEYFILE"]).read().split("key = ")[1].strip()
for name, value in (("token", os.environ["TOKEN"]), ("password", os.environ["PASSWORD"]), ("key", key)):
    raw = value.encode()
    print(name, value)
    print(json.dumps(value), json.dumps(value, ensure_ascii=False))
    print(urllib.parse.quote(value), urllib.parse.quote(value, safe=""), urllib.parse.quote_plus(value))
    print(raw.hex(), raw.hex().upper())
    for before in (b"", b"x", b"xy"):
        print(base64.b64encode(before + raw).decode(), base64.urlsafe_b64encode(before + raw).decode())
    half = len(raw) // 2
    sys.stdout.flush()
    os.write(1, raw[:half]); time.sleep(0.3); os.write(1, raw[half:] + b"\n")
    os.write(2, b"to the other stream: " + raw + b"\n")
sys.exit("no luck with " + key)
"#;

async fn set(daemon: &Daemon, name: &str, kind: &str, value: &str) {
    let mut args = vec![
        "credential",
        "set",
        name,
        "--workspace",
        "w",
        "--kind",
        kind,
    ];
    if kind == "file" {
        args.extend(["--env", "KEYFILE"]);
    }
    let client = daemon.client().args(args).stdin(value.as_bytes());
    let ran = client.run().await.expect_code(0);
    let said = format!("{}{}", ran.text(), ran.stderr);
    assert!(!said.contains(needle(value)), "{said}");
}

/// Every form of a canary that the script prints, but those that hide nothing.
pub(super) fn forms(value: &str) -> Vec<(String, Vec<u8>)> {
    let raw = value.as_bytes();
    let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
    let json = serde_json::to_string(value).unwrap();
    let percent: String = raw
        .iter()
        .map(|byte| match byte {
            byte if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) => {
                char::from(*byte).to_string()
            }
            byte => format!("%{byte:02X}"),
        })
        .collect();
    let mut forms = vec![
        ("raw".to_owned(), raw.to_vec()),
        ("JSON".to_owned(), json[1..json.len() - 1].into()),
        ("URL".to_owned(), percent.into_bytes()),
        ("hex".to_owned(), hex.clone().into_bytes()),
        ("HEX".to_owned(), hex.to_uppercase().into_bytes()),
    ];
    for before in 0..3 {
        forms.push((format!("base64 after {before}"), base64_inside(raw, before)));
    }
    forms
}

/// The characters of base64 that `raw` decides alone after so many other bytes.
fn base64_inside(raw: &[u8], before: usize) -> Vec<u8> {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let all = [&b"xy"[..before], raw].concat();
    let bit = |at: usize| usize::from(all[at / 8] >> (7 - at % 8) & 1);
    let character = |at: usize| (0..6).fold(0, |value, n| value << 1 | bit(6 * at + n));
    let first = (8 * before).div_ceil(6);
    let characters = (first..8 * all.len() / 6).map(|at| ALPHABET[character(at)]);
    characters.collect()
}

/// Where the outputs of commands come to, with every form of every canary.
const WITH_OUTPUTS: [&str; 4] = [
    "a message to the model",
    "an artifact",
    "store/events/",
    "blobs/",
];
/// Where the task comes to, or a command that says a canary, as they are.
const WITH_THE_TASK: [&str; 6] = [
    "session show",
    "the log",
    "audit/",
    "recordings/",
    // Pull requests.
    "store/db",
    "what the forge has",
];

/// Which forms of which canaries are in which place.
type Hits = BTreeMap<String, BTreeSet<String>>;

/// Looks through some bytes, and through the texts in them if they are JSON.
fn scan(place: &str, bytes: &[u8], hits: &mut Hits) {
    let texts = unescaped(bytes);
    for (name, _, value) in CANARIES {
        for (form, sought) in forms(needle(value)) {
            let is_in = |bytes: &[u8]| bytes.windows(sought.len()).any(|window| window == sought);
            if is_in(bytes) || is_in(texts.as_slice()) {
                let found = hits.entry(format!("{name} {form}")).or_default();
                found.insert(place.to_owned());
            }
        }
    }
}

/// What JSON says with backslashes, without them.
fn unescaped(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'\\') {
        plain.extend_from_slice(&rest[..at]);
        let number = rest.get(at + 2..at + 6);
        let number = number.and_then(|digits| std::str::from_utf8(digits).ok());
        let number = number.and_then(|digits| u32::from_str_radix(digits, 16).ok());
        let (char, length) = match (rest.get(at + 1), number.and_then(char::from_u32)) {
            (Some(b'u'), Some(char)) => (char, 6),
            (Some(b'n'), _) => ('\n', 2),
            (Some(b't'), _) => ('\t', 2),
            (Some(byte), _) if byte.is_ascii() => (char::from(*byte), 2),
            (Some(_) | None, _) => ('\\', 1),
        };
        plain.extend_from_slice(char.to_string().as_bytes());
        rest = &rest[at + length..];
    }
    // Nothing has to be looked through twice.
    if rest.len() < bytes.len() {
        plain.extend_from_slice(rest);
    }
    plain
}

/// Everything that the bare repositories below a directory hold, which they keep
/// compressed.
fn scan_repositories(directory: &Path, hits: &mut Hits) {
    let mut found = 0;
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        if !directory.join("objects").is_dir() {
            let entries = std::fs::read_dir(&directory).unwrap();
            let entries = entries.map(|entry| entry.unwrap().path());
            left.extend(entries.filter(|path| path.is_dir()));
            continue;
        }
        found += 1;
        let references = ["for-each-ref"];
        let objects = ["cat-file", "--batch", "--batch-all-objects"];
        for arguments in [&references[..], &objects[..]] {
            let git = Command::new("git")
                .arg("--git-dir")
                .arg(&directory)
                .args(arguments)
                .output()
                .unwrap();
            assert!(git.status.success(), "{arguments:?} {git:?}");
            scan("what the forge has", &git.stdout, hits);
        }
    }
    assert!(found > 0, "there is a repository of the forge");
}

/// Every file below a directory.
pub(crate) fn files_below(directory: &Path, files: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(directory) else {
        return;
    };
    for entry in entries.flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => files_below(&entry.path(), files),
            Ok(kind) if kind.is_file() => files.push(entry.path()),
            Ok(_) | Err(_) => {}
        }
    }
}

/// One session whose commands print all canaries, and what is found of them.
async fn hits_of_a_session(mode: Mode) -> Option<Hits> {
    let print = call(
        "run_command",
        json!({"command": format!("python3 -c '{PRINT}'"), "timeout_s": 60}),
    );
    // The model repeats a canary that somebody told it, and a file holds one.
    let told = call(
        "run_command",
        json!({"command": format!("echo {}", CANARIES[0].2), "timeout_s": 10}),
    );
    let written = call(
        "run_command",
        json!({"command": "cp $KEYFILE /tmp/copy && cat /tmp/copy && env", "timeout_s": 10}),
    );
    let script = Script::load(&sample_script())
        .before_turn(0, json!({"tool_calls": [print, told, written]}));
    let transcript = Transcript::parse(&script.text()).unwrap();
    let provider = FakeProvider::playing(WireDialect::OpenAi, transcript).await;
    let recordings = tempfile::tempdir().unwrap();
    let data = tempfile::tempdir().unwrap();
    if mode == Mode::WithoutRedaction {
        std::fs::write(data.path().join("redaction-off"), "").unwrap();
    }
    // Commands that print all they have are what a person is asked about.
    let policy = allowing_commands();
    let options = settings(&provider, WireDialect::OpenAi)
        .data_dir(data.path())
        .set("policy.file", policy.path().display().to_string())
        .set("log.filter", "debug")
        .set("model.record_dir", recordings.path().display().to_string());
    let mut daemon = Daemon::start(options).await?;
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    for (name, kind, value) in CANARIES {
        set(&daemon, name, kind, value).await;
    }
    let mut start = request("w", model(WireDialect::OpenAi));
    // It comes to the title of what is published, and to its text.
    let token = CANARIES[0].2;
    start.task = format!("{token}: {}; the token is {token}", start.task);
    let id = daemon.start_session(start).await;
    let session = daemon.rested(&id).await;
    let story = story(&daemon.events(&id, 0).await);
    assert_eq!(session.state(), SessionState::Verified, "{story}");

    let mut hits = Hits::new();
    for request in provider.requests() {
        scan("a message to the model", request.text.as_bytes(), &mut hits);
    }
    let shown = daemon
        .compyctl(&["session", "show", &id, "-o", "json"])
        .await;
    scan("session show", &shown.stdout, &mut hits);
    for artifact in daemon.artifacts_of(&id).await {
        scan("an artifact's title", artifact.title.as_bytes(), &mut hits);
        scan(
            "an artifact",
            &daemon.artifact(&artifact.id).await,
            &mut hits,
        );
    }
    let listed = daemon.compyctl(&["credential", "list", "-o", "json"]).await;
    let names = listed.json();
    assert_eq!(names.as_array().map(Vec::len), Some(CANARIES.len()));
    scan("credential list", &listed.stdout, &mut hits);
    let events = daemon
        .compyctl(&["workspace", "events", "w", "-o", "json"])
        .await;
    scan("the workspace's events", &events.stdout, &mut hits);
    daemon.terminate().await;
    scan("the log", daemon.log().as_bytes(), &mut hits);
    let mut files = Vec::new();
    files_below(data.path(), &mut files);
    files_below(recordings.path(), &mut files);
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        let place = match file.strip_prefix(data.path()) {
            Ok(place) => place.display().to_string(),
            Err(_) => format!("recordings/{}", file.display()),
        };
        scan(&place, &std::fs::read(&file).unwrap(), &mut hits);
    }
    scan_repositories(&data.path().join("forge"), &mut hits);
    Some(hits)
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    WithRedaction,
    WithoutRedaction,
}

#[tokio::test]
async fn no_canary_is_on_disk_in_a_log_or_in_a_message_to_a_model() {
    let Some(hits) = hits_of_a_session(Mode::WithRedaction).await else {
        return;
    };
    assert_eq!(hits, Hits::new());
}

#[tokio::test]
async fn the_scanner_finds_every_canary_when_redaction_is_off() {
    let Some(hits) = hits_of_a_session(Mode::WithoutRedaction).await else {
        return;
    };
    let is_in = |what: &str, place: &str| {
        let mut places = hits.get(what).into_iter().flatten();
        places.any(|found| found.starts_with(place))
    };
    let mut missed = Vec::new();
    for place in WITH_OUTPUTS {
        for (name, _, value) in CANARIES {
            let forms = forms(needle(value)).into_iter();
            let forms = forms.map(|(form, _)| format!("{name} {form}"));
            missed.extend(
                forms
                    .filter(|form| !is_in(form, place))
                    .map(|form| format!("{form} in {place}")),
            );
        }
    }
    for place in WITH_THE_TASK {
        if !is_in("token raw", place) {
            missed.push(format!("token raw in {place}"));
        }
    }
    assert_eq!(missed, Vec::<String>::new(), "{hits:?}");
}

#[tokio::test]
async fn commands_have_what_their_scope_allows_and_the_container_has_none_of_it() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    daemon.workspace("other", &[]).await;
    for (name, kind, value) in CANARIES {
        set(&daemon, name, kind, value).await;
    }
    let script = r#"printf '%s\n%s\n' "$TOKEN" "$PASSWORD"; cat "$KEYFILE"; stat -c %a "$KEYFILE"; stat -f -c %T "$KEYFILE""#;
    let here = daemon.shell("w", script).await.text();
    let [token, password, file] = CANARIES.map(|canary| canary.2);
    assert_eq!(here, format!("{token}\n{password}\n{file}400\ntmpfs"));
    let there = daemon
        .shell("other", r#"env; ls -R /run/compy"#)
        .await
        .text();
    assert!(
        !there.contains("TOKEN") && !there.contains("keyfile"),
        "{there}"
    );

    // A caller's own variable is stronger, and a deleted credential is gone.
    let own = [
        "workspace",
        "exec",
        "w",
        "--env",
        "TOKEN=mine",
        "--",
        "printenv",
        "TOKEN",
    ];
    assert_eq!(daemon.compyctl(&own).await.expect_code(0).text(), "mine\n");
    for name in ["token", "keyfile"] {
        let delete = ["credential", "delete", name, "--workspace", "w", "--yes"];
        let _ = daemon.compyctl(&delete).await.expect_code(0);
    }
    let gone = daemon.shell("w", "env; ls -R /run/compy").await.text();
    assert!(
        !gone.contains("TOKEN") && !gone.contains("keyfile"),
        "{gone}"
    );
    assert!(gone.contains("PASSWORD="), "{gone}");

    // Neither the container's configuration nor the agent's records, which are on
    // a volume, have any of it. What a command printed is kept in `exec` beside them.
    let mut hits = Hits::new();
    let listed = daemon
        .compyctl(&["workspace", "execs", "w", "-o", "json"])
        .await;
    scan("the commands that are listed", &listed.stdout, &mut hits);
    let spools = daemon
        .exec(compyd_proto::v1::ExecStart {
            user: "root".to_owned(),
            ..compyd_tests::exec::command(
                "w",
                &["sh", "-c", "find /var/lib/compy -type f ! -path '*/exec/*' -exec cat {} +; tr '\\0' '\\n' < /proc/1/environ"],
            )
        })
        .await;
    scan(
        "the agent's records",
        spools.expect("it runs").text().as_bytes(),
        &mut hits,
    );
    assert_eq!(hits, Hits::new());
}

#[tokio::test]
async fn a_snapshot_with_a_credential_in_a_file_is_refused_by_its_name() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    for (name, kind, value) in CANARIES {
        set(&daemon, name, kind, value).await;
    }
    let take = async || daemon.compyctl(&["workspace", "snapshot", "w"]).await;
    for (write, path, undo) in [
        (
            "printenv TOKEN | base64 > /workspace/notes",
            "/workspace/notes",
            "rm /workspace/notes",
        ),
        ("cp $KEYFILE ~/copy", "/copy", "rm ~/copy"),
    ] {
        let written = daemon.shell("w", write).await;
        assert_eq!(written.code(), Some(0), "{write}");
        let refused = take().await.expect_code(1);
        assert!(refused.stderr.contains(path), "{}", refused.stderr);
        assert!(refused.stderr.contains("[redacted:"), "{}", refused.stderr);
        let _ = daemon.shell("w", undo).await;
    }
    as_root(&daemon, "printenv PASSWORD > /etc/left-behind").await;
    let refused = take().await.expect_code(1);
    assert!(
        refused.stderr.contains("/etc/left-behind"),
        "{}",
        refused.stderr
    );
    as_root(&daemon, ": > /etc/left-behind").await;
    let _ = take().await.expect_code(0);
}

/// Runs a script as root in the workspace `w`.
async fn as_root(daemon: &Daemon, script: &str) {
    let start = compyd_tests::exec::command("w", &["sh", "-c", script]);
    let start = compyd_proto::v1::ExecStart {
        user: "root".to_owned(),
        ..start
    };
    let ran = daemon.exec(start).await.unwrap();
    assert_eq!(ran.code(), Some(0), "{script}: {}", ran.text());
}

#[tokio::test]
async fn what_was_written_before_it_became_a_credential_is_found_in_a_root_that_did_not_change() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let (name, kind, value) = CANARIES[0];
    as_root(&daemon, &format!("echo {value} > /etc/left-behind")).await;
    let take = async || daemon.compyctl(&["workspace", "snapshot", "w"]).await;
    let _ = take().await.expect_code(0);
    set(&daemon, name, kind, value).await;
    let refused = take().await.expect_code(1);
    assert!(
        refused.stderr.contains("/etc/left-behind"),
        "{}",
        refused.stderr
    );
    as_root(&daemon, ": > /etc/left-behind").await;
    let _ = take().await.expect_code(0);
}

#[tokio::test]
async fn the_daemons_own_snapshot_leaves_a_file_of_the_root_out_and_says_so() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let take = ["workspace", "snapshot", "w", "-o", "json"];
    let before = daemon.compyctl(&take).await.expect_code(0).json();
    let (name, kind, value) = CANARIES[0];
    let write = format!("echo {value} > /etc/left-behind; echo kept > /etc/kept");
    as_root(&daemon, &write).await;
    set(&daemon, name, kind, value).await;
    let restore = ["workspace", "restore", "w", before["id"].as_str().unwrap()];
    let restored = daemon.compyctl(&restore).await.expect_code(0);
    let said = "what was there before is snapshot ";
    let backup = restored
        .stderr
        .lines()
        .find_map(|line| line.strip_prefix(said));
    let backup = backup.expect("it says what it kept");
    let show = ["snapshot", "show", backup, "-o", "json"];
    let shown = daemon.compyctl(&show).await.expect_code(0).json();
    let left_out = json!([format!("/etc/left-behind [redacted:{name}]")]);
    assert_eq!(shown["left_out"], left_out);
    let fork = ["snapshot", "fork", backup, "copy"];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    let look = "cat /etc/kept; test -e /etc/left-behind || echo gone";
    assert_eq!(daemon.shell("copy", look).await.text(), "kept\ngone");
}

#[tokio::test]
async fn a_value_that_could_not_be_hidden_is_refused_with_the_reason() {
    let daemon = Daemon::start_bare(Options::default()).await;
    let set = ["credential", "set", "pin", "--global"];
    let ran = daemon.client().args(set).stdin("1234").run().await;
    let ran = ran.expect_code(2);
    assert!(ran.stderr.contains("4 bytes"), "{}", ran.stderr);
    assert!(!ran.stderr.contains("1234"), "{}", ran.stderr);
    let rotated = daemon
        .compyctl(&["credential", "rotate", "-o", "json"])
        .await;
    assert_eq!(rotated.expect_code(0).json()["credentials"], 0);
}
