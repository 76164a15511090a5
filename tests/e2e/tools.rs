//! Tools that misbehave inside a session: what the model sees stays small, what
//! they wrote is kept, and the session goes on.

use compyd_proto::v1::{ToolEnded, ToolOutcome, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::{Repository, sample_script},
    script::{Script, call},
};
use serde_json::json;

const HUGE_BYTES: u64 = 200 * 1000 * 1000;

#[tokio::test]
async fn tools_that_misbehave_cost_the_session_nothing() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let run = |command: &str, timeout_s: u64| {
        call(
            "run_command",
            json!({"command": command, "timeout_s": timeout_s}),
        )
    };
    let odd = json!({"tool_calls": [
        // Prints 200 MB.
        run("echo begin; yes 0123456 | head -c 199999989; echo; echo end", 120),
        // Prints what is no text.
        run(r"printf 'a\377\376b\000c\n'", 10),
        // Never ends.
        run("echo started; sleep 100000", 2),
        // Leaves a daemon that holds the pipe.
        run("setsid sleep 54321 & echo left", 60),
        // Is gone from where it stood.
        run("kill -9 $$", 10),
    ]});
    let script = Script::load(&sample_script()).before_turn(0, odd);
    let id = daemon.play(&script).await;
    let events = daemon.verified(&id).await;
    let ended: Vec<&ToolEnded> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::ToolEnded(ended)) if ended.name == "run_command" => Some(ended),
            _ => None,
        })
        .collect();
    let [huge, binary, endless, holder, killed] = &ended[..5] else {
        panic!("five commands: {ended:?}");
    };

    assert_eq!(huge.outcome(), ToolOutcome::Ok);
    assert!(
        huge.content.len() < 64 * 1024,
        "{} bytes for the model",
        huge.content.len()
    );
    assert!(huge.content.starts_with("begin\n"), "{:.200}", huge.content);
    assert!(huge.content.contains("\nend\n"), "the end is shown");
    assert!(
        huge.content.contains(&huge.artifact_id),
        "it says where the rest is"
    );
    let kept = daemon.artifacts_of(&id).await;
    let kept = kept
        .iter()
        .find(|kept| kept.id == huge.artifact_id)
        .unwrap();
    assert_eq!(kept.size_bytes, HUGE_BYTES);
    let bytes = daemon.artifact(&kept.id).await;
    assert_eq!(blake3::hash(&bytes).to_string(), kept.hash);
    assert!(bytes.starts_with(b"begin\n") && bytes.ends_with(b"\nend\n"));

    assert!(
        binary.content.contains('a') && binary.content.contains('b'),
        "{:?}",
        binary.content
    );
    let raw = daemon.artifact(&binary.artifact_id).await;
    assert_eq!(raw, b"a\xff\xfeb\0c\n", "the bytes themselves are kept");

    assert_eq!(endless.outcome(), ToolOutcome::Error);
    assert!(
        endless.content.contains("started") && endless.content.contains("timed out"),
        "{}",
        endless.content
    );
    assert!(endless.duration_ms < 30_000, "{} ms", endless.duration_ms);

    assert_eq!(holder.outcome(), ToolOutcome::Ok, "{}", holder.content);
    assert!(holder.content.contains("left"), "{}", holder.content);
    assert!(holder.duration_ms < 30_000, "{} ms", holder.duration_ms);
    let alive = daemon
        .shell("w", "ps -eo args | grep -c '^sleep' || true")
        .await;
    assert_eq!(alive.text(), "0", "what tools left running is ended");

    assert_eq!(killed.outcome(), ToolOutcome::Error);
    assert!(killed.content.contains('9'), "{}", killed.content);
}

#[tokio::test]
async fn paths_that_lead_out_or_nowhere_are_refused_by_name() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    std::os::unix::fs::symlink("/etc", repository.path().join("out")).unwrap();
    std::fs::write(
        repository.path().join("blob.bin"),
        [0_u8, 159, 146, 150].repeat(100),
    )
    .unwrap();
    repository.commit("odd files");
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    let read = |path: &str| call("read_file", json!({"path": path}));
    let odd = json!({"tool_calls": [
        read("../../etc/passwd"), read("out/passwd"), read("missing.py"), read("blob.bin"), read("textkit"),
    ]});
    let script = Script::load(&sample_script()).before_turn(0, odd);
    let id = daemon.play(&script).await;
    let events = daemon.verified(&id).await;
    let answers: Vec<(ToolOutcome, &str)> = events
        .iter()
        .filter_map(|event| match &event.event {
            Some(Event::ToolEnded(ended)) if ended.name == "read_file" => {
                Some((ended.outcome(), ended.content.as_str()))
            }
            _ => None,
        })
        .collect();
    for (index, words) in [
        (0, "outside"),
        (1, "outside"),
        (2, "missing.py"),
        (3, "blob.bin"),
        (4, "directory"),
    ] {
        let (outcome, content) = answers[index];
        assert_eq!(outcome, ToolOutcome::Error, "{content}");
        assert!(content.contains(words), "no {words:?} in {content:?}");
        assert!(!content.contains("root:x:"), "{content}");
    }
}
