//! Whatever a command's processes do to get away, ending the command ends all
//! of them, as the engine sees from outside.

use std::time::{Duration, Instant};

use compyd_proto::v1::{
    ExecResponse, SignalExecRequest, exec_response::Event, signal_exec_request::What,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    engine::Engine,
    exec::{command, start},
    programs::torture,
    request_id,
    wait::PATIENCE,
};
use tonic::Streaming;

/// What every process of a case has in its command line.
const MARK: &str = "31415926";

/// A way to get away, and the script for it. Each prints `ready` when its
/// processes are there, then its tail (see [`TAIL`]), and stays.
struct Case {
    name: &'static str,
    script: &'static str,
    /// Processes of it at least, the leader included.
    processes: usize,
}

/// What is put after each `ready`: more bytes than a pipe holds, and a word on
/// stderr once they are written.
const TAIL: &str = "printf %0100000d 0; echo said >&2";
const TAIL_BYTES: usize = 100_000;

const CASES: [Case; 11] = [
    Case {
        name: "process groups",
        script: "set -m; sleep 31415926 & sleep 31415926 & echo ready; wait",
        processes: 3,
    },
    Case {
        name: "setsid",
        script: "setsid sleep 31415926 & sleep 0.2; echo ready; exec sleep 31415926",
        processes: 2,
    },
    Case {
        name: "double fork",
        script: "(setsid sh -c '(sleep 31415926 &) & exit' &); sleep 0.3; echo ready; exec sleep 31415926",
        processes: 2,
    },
    Case {
        name: "nohup",
        script: "nohup sleep 31415926 >/dev/null 2>&1 & sleep 0.2; echo ready; exec sleep 31415926",
        processes: 2,
    },
    Case {
        name: "disowned",
        script: "exec bash -c 'sleep 31415926 & disown -a; echo ready; sleep 31415926'",
        processes: 2,
    },
    Case {
        name: "deaf to SIGTERM",
        script: "trap '' TERM HUP INT; sleep 31415926 & echo ready; while :; do sleep 31415926; done",
        processes: 3,
    },
    Case {
        name: "stopped",
        script: "sleep 31415926 & kill -STOP $!; echo ready; kill -STOP $$; : 31415926",
        processes: 2,
    },
    Case {
        name: "zombie",
        script: "sleep 0 & sleep 0.2; echo ready; exec sleep 31415926",
        processes: 1,
    },
    Case {
        name: "children that hold the pipe",
        script: "(exec 3>&1 4>&2; setsid sleep 31415926) & sleep 0.2; echo ready; exec sleep 31415926",
        processes: 2,
    },
    Case {
        name: "a killed supervisor",
        script: "setsid sleep 31415926 & sleep 0.2; kill -9 $PPID; echo ready; exec sleep 31415926",
        processes: 2,
    },
    // Under the workspace's limit of processes, and only there.
    Case {
        name: "fork bomb",
        script: "b() { b 31415926 & b 31415926 & sleep 31415926; }; echo ready; b 2>/dev/null; sleep 31415926",
        processes: 20,
    },
];

async fn marked(engine: &Engine, container: &str) -> Vec<String> {
    let mut processes = engine.top(container).await;
    processes.retain(|line| line.contains(MARK) || line.contains("<defunct>"));
    processes
}

/// Waits until a script has written its tail; what has come of it by then.
async fn said(stream: &mut Streaming<ExecResponse>) -> Vec<u8> {
    const READY: &[u8] = b"ready\n";
    let (mut text, mut errors) = (Vec::new(), Vec::new());
    loop {
        let ready = text.windows(READY.len()).position(|part| part == READY);
        if let Some(at) = ready.filter(|_| errors.ends_with(b"said\n")) {
            return text.split_off(at + READY.len());
        }
        let message = stream.message().await.unwrap().expect("it is not over");
        match message.event.unwrap() {
            Event::Stdout(output) => text.extend_from_slice(&output.data),
            Event::Stderr(output) => errors.extend_from_slice(&output.data),
            Event::Exit(exit) => panic!("it ended: {exit:?}"),
            Event::Attached(_) | Event::Gap(_) => {}
        }
    }
}

async fn exit(stream: &mut Streaming<ExecResponse>) -> Vec<u8> {
    let mut tail = Vec::new();
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Stdout(output) => tail.extend_from_slice(&output.data),
            Event::Exit(_) => return tail,
            Event::Attached(_) | Event::Stderr(_) | Event::Gap(_) => {}
        }
    }
    panic!("the stream ended before the command");
}

#[tokio::test]
async fn ending_a_command_leaves_nobody_whichever_way_they_went() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let workspace = daemon.workspace("w", &["--pids", "200"]).await;
    let (engine, container) = (daemon.engine().await, workspace.container_id);
    for Case {
        name,
        script,
        processes,
    } in CASES
    {
        let script = script.replace("echo ready;", &format!("echo ready; {TAIL};"));
        let mut it = command("w", &["sh", "-c", &script]);
        // As root, who may kill a supervisor.
        it.user = "root".to_owned();
        let id = it.request_id.clone();
        let mut stream = daemon.follow(start(it)).await.unwrap();
        let mut tail = said(&mut stream).await;
        compyd_tests::wait::until(name, PATIENCE, async || {
            (marked(&engine, &container).await.len() >= processes).then_some(())
        })
        .await;
        let begun = Instant::now();
        let end = SignalExecRequest {
            request_id: request_id(),
            workspace: "w".to_owned(),
            exec_id: id,
            what: Some(What::EndAfterGraceMs(0)),
        };
        daemon.workspaces().signal_exec(end).await.unwrap();
        tail.extend(exit(&mut stream).await);
        let returned = begun.elapsed();
        assert_eq!(
            tail.len(),
            TAIL_BYTES,
            "{name}: bytes of the tail are missing"
        );
        let gone = compyd_tests::wait::until(
            &format!("the end of all processes of: {name}"),
            PATIENCE,
            async || {
                let left = marked(&engine, &container).await;
                left.is_empty().then(|| begun.elapsed())
            },
        )
        .await;
        println!("{name}: returned after {returned:?}, nobody left after {gone:?}");
        if torture() {
            assert!(gone < Duration::from_secs(1), "{name}: {gone:?}");
            let bound = Duration::from_millis(250);
            assert!(returned < bound, "{name}: {returned:?}");
        }
        // Others never notice.
        assert_eq!(
            daemon.shell("w", "echo fine").await.text(),
            "fine",
            "{name}"
        );
    }
}

#[tokio::test]
async fn a_call_returns_with_its_leader_and_its_last_bytes_whoever_holds_the_pipe() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let ways = [
        "sleep 31415926 &",
        "setsid sleep 31415926 &",
        "nohup sleep 31415926 &",
        "(sleep 31415926 &);",
        "sleep 31415926 & kill -STOP $!;",
    ];
    for way in ways {
        // The leader says when it goes, by a clock that both sides share.
        let script = format!("{way} head -c 300000 /dev/zero | tr '\\0' t; echo; date +%s.%N");
        let mut stream = daemon
            .follow(start(command("w", &["sh", "-c", &script])))
            .await
            .unwrap();
        let output = exit(&mut stream).await;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap();
        let text = String::from_utf8(output).unwrap();
        let (tail, left) = text.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(tail.len(), 300_000, "{way}: bytes of the tail are missing");
        let left = Duration::from_secs_f64(left.parse().unwrap());
        let late = now.saturating_sub(left);
        println!("{way} the call returned {late:?} after its leader");
        let bound = if torture() { 250 } else { 10_000 };
        assert!(late < Duration::from_millis(bound), "{way} {late:?}");
    }
}
