//! Commands on a local machine: real processes, links that are cut.

use futures_util::StreamExt;

use super::*;
use crate::{
    domain::{artifact::ArtifactKind, redaction::Redactor},
    service::testing::Bench,
};

fn request(bench: &Bench, name: &str, script: &str) -> CommandRequest {
    let step = bench.step(1);
    CommandRequest {
        workspace: bench.workspace().clone(),
        exec: step.exec(name),
        spec: ExecSpec::new(["sh", "-c", script]),
        about: Some(step.about(ArtifactKind::Output, name)),
        bounds: ViewBounds {
            head_bytes: 100,
            tail_bytes: 100,
        },
        apart: None,
        progress: None,
    }
}

async fn run(bench: &Bench, request: CommandRequest) -> CommandOutcome {
    let never = CancellationToken::new();
    bench.commands.run(request, &never).await.unwrap()
}

async fn content(bench: &Bench, artifact: &Artifact) -> Vec<u8> {
    let stream = bench
        .commands
        .artifacts()
        .stream(&artifact.id)
        .await
        .unwrap()
        .1;
    let pieces: Vec<_> = stream.collect().await;
    pieces
        .into_iter()
        .flat_map(|piece| piece.unwrap().to_vec())
        .collect()
}

#[tokio::test]
async fn a_short_output_is_shown_whole_and_kept() {
    let bench = Bench::new(&[]);
    let outcome = run(&bench, request(&bench, "a", "echo out; exit 3")).await;
    assert_eq!(outcome.exit.status, ExitStatus::Code(3));
    assert_eq!((outcome.view.as_str(), outcome.truncated), ("out\n", false));
    assert_eq!(outcome.output, b"out\n");
    let artifact = outcome.artifact.unwrap();
    assert_eq!(content(&bench, &artifact).await, b"out\n");
    assert_eq!(
        (artifact.size_bytes, artifact.kind),
        (4, ArtifactKind::Output)
    );
}

#[tokio::test]
async fn a_long_output_is_shown_as_start_and_end_with_a_pointer() {
    let bench = Bench::new(&[]);
    let outcome = run(&bench, request(&bench, "a", "seq 1 100000")).await;
    assert!(outcome.truncated);
    assert!(outcome.view.starts_with("1\n2\n3\n"), "{}", outcome.view);
    assert!(
        outcome.view.ends_with("99999\n100000\n"),
        "{}",
        outcome.view
    );
    let artifact = outcome.artifact.unwrap();
    let pointer = format!("bytes left out; artifact {} …\n", artifact.id);
    assert!(outcome.view.contains(&pointer), "{}", outcome.view);
    assert!(outcome.view.len() < 400);
    assert_eq!(outcome.total_bytes, 588_895);
    assert_eq!(content(&bench, &artifact).await.len(), 588_895);
}

#[tokio::test]
async fn bytes_that_are_no_text_are_shown_replaced_and_kept_as_they_are() {
    let bench = Bench::new(&[]);
    let outcome = run(&bench, request(&bench, "a", r"printf 'a\377\376b\n'")).await;
    assert_eq!(outcome.view, "a\u{fffd}\u{fffd}b\n");
    assert_eq!(
        content(&bench, &outcome.artifact.unwrap()).await,
        b"a\xff\xfeb\n"
    );
}

#[tokio::test]
async fn characters_are_not_split_at_the_cut() {
    let bench = Bench::new(&[]);
    let script = "i=0; while [ $i -lt 300 ]; do printf '€'; i=$((i+1)); done";
    let outcome = run(&bench, request(&bench, "a", script)).await;
    assert!(outcome.truncated);
    assert!(!outcome.view.contains('\u{fffd}'), "{}", outcome.view);
}

#[tokio::test]
async fn no_byte_is_lost_or_doubled_over_cut_links() {
    let bench = Bench::new(&[]);
    let script = "i=0; while [ $i -lt 400 ]; do i=$((i+1)); echo line $i; echo err $i >&2; sleep 0.002; done";
    let agent = bench.agent();
    let done = CancellationToken::new();
    let cutter = async {
        let mut cuts = 0;
        while !done.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(30)).await;
            cuts += 1;
            // Now and then the workspace cannot be reached for a while.
            agent.cut_links(u32::from(cuts % 5 == 0));
        }
    };
    let command = async {
        let outcome = run(&bench, request(&bench, "a", script)).await;
        done.cancel();
        outcome
    };
    let (outcome, ()) = tokio::join!(command, cutter);
    assert_eq!(outcome.exit.status, ExitStatus::Code(0));
    let text = String::from_utf8(outcome.output).unwrap();
    let lines = |start: &str| -> Vec<u32> {
        let numbers = text.lines().filter_map(|line| line.strip_prefix(start));
        numbers
            .map(|number| number.trim().parse().unwrap())
            .collect()
    };
    let wanted: Vec<u32> = (1..=400).collect();
    assert_eq!(lines("line "), wanted);
    assert_eq!(lines("err "), wanted);
}

#[tokio::test]
async fn the_same_id_again_gives_the_one_outcome() {
    let bench = Bench::new(&[]);
    let script = "echo once >> count; wc -l < count";
    let first = run(&bench, request(&bench, "a", script)).await;
    let started = bench.agent().commands_started();
    let again = run(&bench, request(&bench, "a", script)).await;
    assert_eq!((first.exit, first.output), (again.exit, again.output));
    assert_eq!(bench.agent().commands_started(), started);
    let other = bench
        .commands
        .run(request(&bench, "a", "true"), &CancellationToken::new())
        .await;
    assert!(other.unwrap_err().to_string().contains("another command"));
}

#[tokio::test]
async fn cancelling_ends_the_command() {
    let bench = Bench::new(&[]);
    let cancel = CancellationToken::new();
    let command = bench
        .commands
        .run(request(&bench, "a", "sleep 100 & sleep 100"), &cancel);
    let agent = bench.agent();
    let exec = bench.step(1).exec("a");
    let canceller = async {
        while agent.get(&exec).await.unwrap().is_none() {
            tokio::task::yield_now().await;
        }
        cancel.cancel();
    };
    let (outcome, ()) = tokio::join!(command, canceller);
    assert_eq!(outcome, Err(CommandError::Cancelled));
    let exit = agent.get(&exec).await.unwrap().unwrap().exit.unwrap();
    assert!(
        matches!(exit.status, ExitStatus::Signal(15 | 9)),
        "{exit:?}"
    );
}

#[tokio::test]
async fn a_forgotten_command_has_an_unknown_fate_and_is_not_run_again() {
    let bench = Bench::new(&[]);
    let agent = bench.agent();
    let exec = bench.step(1).exec("a");
    let command = run(&bench, request(&bench, "a", "echo x; sleep 1"));
    let forgetter = async {
        loop {
            let known = agent.get(&exec).await.unwrap();
            if known.is_some_and(|exec| exec.stdout_bytes > 0) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        agent.remove(&exec).await.unwrap();
        agent.cut_links(0);
    };
    let (outcome, ()) = tokio::join!(command, forgetter);
    assert!(matches!(outcome.exit.status, ExitStatus::Unknown(_)));
    assert_eq!(agent.commands_started(), 1);
}

#[tokio::test]
async fn a_full_disk_is_said_and_the_command_is_found_again() {
    let bench = Bench::new(&[]);
    bench.blobs.fill_disk();
    let never = CancellationToken::new();
    let error = bench
        .commands
        .run(request(&bench, "a", "echo out"), &never)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CommandError::Artifact(error) if error.is_disk_full()),
        "{error}"
    );
    bench.blobs.free_disk();
    let outcome = run(&bench, request(&bench, "a", "echo out")).await;
    assert_eq!(outcome.output, b"out\n");
    let listed = bench
        .commands
        .artifacts()
        .list(&bench.session, None, None)
        .await
        .unwrap();
    assert_eq!(listed, [outcome.artifact.unwrap()]);
}

#[tokio::test]
async fn memory_is_bounded_by_start_and_end() {
    let bench = Bench::new(&[]);
    let mut output = Collector::new(None, None, None, &Redactions::default());
    let piece = Bytes::from(vec![b'x'; 1 << 20]);
    for number in 0..200_u64 {
        output
            .take(OutputStream::Stdout, number << 20, piece.clone())
            .await
            .unwrap();
        let held = output.head.capacity() + output.tail.iter().map(Vec::len).sum::<usize>();
        assert!(held <= 10 << 20, "{held}");
    }
    output
        .take(OutputStream::Stdout, 200 << 20, Bytes::from_static(b"end"))
        .await
        .unwrap();
    let outcome = output
        .finish(unknown("test"), ViewBounds::default())
        .await
        .unwrap();
    assert_eq!(outcome.total_bytes, (200 << 20) + 3);
    assert_eq!(outcome.output.len(), 8 << 20);
    assert!(outcome.output.ends_with(b"xend"));
    drop(bench);
}

#[tokio::test]
async fn dropped_bytes_are_said() {
    let mut output = Collector::new(None, None, None, &Redactions::default());
    output
        .take(OutputStream::Stdout, 0, Bytes::from_static(b"abc"))
        .await
        .unwrap();
    // Repeated, overlapping, then with a hole.
    output
        .take(OutputStream::Stdout, 1, Bytes::from_static(b"bcd"))
        .await
        .unwrap();
    output
        .take(OutputStream::Stdout, 0, Bytes::from_static(b"ab"))
        .await
        .unwrap();
    output
        .take(OutputStream::Stdout, 9, Bytes::from_static(b"j"))
        .await
        .unwrap();
    let outcome = output
        .finish(unknown("test"), ViewBounds::default())
        .await
        .unwrap();
    let wanted = "abcd\n… 5 bytes were dropped by the workspace's quota …\nj";
    assert_eq!(outcome.view, wanted);
}

#[tokio::test]
async fn a_value_is_hidden_wherever_it_is_cut_and_each_stream_is_one_text() {
    let redactions = Redactions::default();
    redactions.replace(Redactor::new([("npm", b"t0ken-of-npm".as_slice())]));
    let (progress, mut watched) = mpsc::channel(16);
    let mut output = Collector::new(None, Some(1 << 10), Some(progress), &redactions);
    for (stream, offset, data) in [
        (OutputStream::Stdout, 0, "a t0ken-"),
        (OutputStream::Stderr, 0, "b t0ken"),
        (OutputStream::Stdout, 8, "of-npm\nt0k"),
    ] {
        let data = Bytes::from_static(data.as_bytes());
        output.take(stream, offset, data).await.unwrap();
    }
    let outcome = output.finish(unknown("test"), ViewBounds::default()).await;
    let outcome = outcome.unwrap();
    let stdout = b"a [redacted:npm]\nt0k";
    assert_eq!(outcome.stdout.as_deref(), Some(&stdout[..]));
    let mut seen = Vec::new();
    while let Some(piece) = watched.recv().await {
        seen.extend_from_slice(&piece);
    }
    assert_eq!(seen, outcome.output);
    assert_eq!(outcome.view, "a b [redacted:npm]\nt0kt0ken");
}

#[tokio::test]
async fn standard_output_is_kept_apart_whole_or_not_at_all() {
    let bench = Bench::new(&[]);
    let apart = |name: &str, max_bytes| CommandRequest {
        apart: Some(max_bytes),
        ..request(&bench, name, "echo warning >&2; echo out")
    };
    let outcome = run(&bench, apart("fits", 4)).await;
    assert_eq!(outcome.stdout.as_deref(), Some(&b"out\n"[..]));
    assert!(outcome.view.contains("warning"));
    assert_eq!(content(&bench, &outcome.artifact.unwrap()).await, b"out\n");
    let outcome = run(&bench, apart("does-not", 3)).await;
    assert_eq!(outcome.stdout, None);
    assert_eq!(content(&bench, &outcome.artifact.unwrap()).await, b"out\n");
}
