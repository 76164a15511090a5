//! Commands: bytes, ends, offsets, input, terminals.

use bytes::Bytes;
use compyd_proto::agent::attach_exec_response::Event;
use compyd_proto::agent::exit::How;
use compyd_proto::agent::signal_exec_request::What;
use compyd_proto::agent::*;
use tonic::Code;

use crate::harness::*;

#[tokio::test]
async fn output_arrives_byte_for_byte_on_its_own_stream() {
    let rig = Rig::start().await;
    let outcome = rig
        .sh(
            "a",
            r"printf 'out\000\377\376'; printf 'err\200' >&2; exit 7",
        )
        .await;
    assert_eq!(outcome.stdout, b"out\0\xff\xfe");
    assert_eq!(outcome.stderr, b"err\x80");
    assert_eq!(outcome.how(), How::Code(7));
    let exec = rig.get("a").await;
    assert_eq!((exec.stdout_bytes, exec.stderr_bytes), (6, 4));
    assert_eq!(exec.exit, outcome.exit);
    assert!(exec.exit.unwrap().max_rss_bytes > 100_000);
    assert!(outcome.attached.unwrap().pid > 0);
}

#[tokio::test]
async fn two_hundred_megabytes_arrive_whole_live_and_again() {
    let rig = Rig::start().await;
    let script = "head -c 200000000 /dev/zero | tr '\\0' 'x'; printf end";
    let live = rig.sh("big", script).await;
    assert_eq!(live.stdout.len(), 200_000_003);
    assert!(live.stdout.ends_with(b"xxend"));
    assert!(live.stdout[..200_000_000].iter().all(|byte| *byte == b'x'));
    assert_eq!(live.how(), How::Code(0));
    let again = Outcome::collect(rig.attach(from_start("big")).await).await;
    assert!(again.stdout == live.stdout);
}

#[tokio::test]
async fn an_exit_by_signal_is_told_from_an_exit_code() {
    let rig = Rig::start().await;
    assert_eq!(rig.sh("a", "kill -9 $$").await.how(), How::Signal(9));
    assert_eq!(rig.sh("b", "kill -TERM $$").await.how(), How::Signal(15));
    assert_eq!(rig.sh("c", "exit 137").await.how(), How::Code(137));
}

#[tokio::test]
async fn a_program_that_cannot_be_executed_ends_the_command_and_says_why() {
    let rig = Rig::start().await;
    let outcome = rig.run("a", argv(&["no-such-program"])).await;
    let How::NotStarted(why) = outcome.how() else {
        panic!("{outcome:?}")
    };
    assert_eq!(why.errno, 2);
    assert_eq!(why.message, "no such file or directory: no-such-program");
    std::fs::write(rig.work().join("plain"), "text").unwrap();
    let outcome = rig.run("b", argv(&["./plain"])).await;
    assert!(matches!(outcome.how(), How::NotStarted(why) if why.errno == 13));
    // The supervisor is free for the next one.
    assert_eq!(rig.sh("c", "exit 3").await.how(), How::Code(3));
}

#[tokio::test]
async fn the_environment_is_the_accounts_with_the_callers_on_top() {
    let rig = Rig::start().await;
    let mut spec = argv(&["env"]);
    for (name, value) in [("A", "1"), ("A", "2"), ("B", "")] {
        spec.env.push(EnvVar {
            name: name.into(),
            value: Bytes::copy_from_slice(value.as_bytes()),
        });
    }
    let outcome = rig.run("e", spec).await;
    let text = outcome.text();
    let lines: Vec<&str> = text.lines().collect();
    for expected in [
        "A=2",
        "B=",
        "COMPY_EXEC_ID=e",
        "USER=root",
        "LOGNAME=root",
        "HOME=/root",
    ] {
        assert!(lines.contains(&expected), "{expected} in {text}");
    }
    for prefix in ["PATH=", "LANG=", "SHELL="] {
        assert!(text.contains(prefix), "{prefix} in {text}");
    }
    assert!(!text.contains("TERM="), "{text}");
}

#[tokio::test]
async fn commands_start_where_they_are_told_as_who_they_are_told() {
    let rig = Rig::start().await;
    let here = rig.sh("a", "pwd; id -u").await;
    assert_eq!(here.text(), format!("{}\n0\n", rig.work().display()));
    let mut spec = sh("pwd; id -u; id -g; echo $HOME; cat /proc/self/status | grep NoSuch; umask");
    spec.cwd = "/".into();
    spec.user = "daemon".into();
    assert_eq!(
        rig.run("b", spec).await.text(),
        "/\n1\n1\n/usr/sbin\n0022\n"
    );
    let mut spec = sh("id -u; id -G");
    spec.user = "4242:77".into();
    spec.cwd = "/".into();
    assert_eq!(rig.run("c", spec).await.text(), "4242\n77\n");
}

#[tokio::test]
async fn commands_get_default_signals_and_no_foreign_descriptors() {
    let rig = Rig::start().await;
    let outcome = rig
        .sh(
            "a",
            "grep -E 'SigBlk|SigIgn' /proc/self/status; ls /proc/self/fd | tr '\\n' ' '",
        )
        .await;
    let text = outcome.text();
    assert!(text.contains("SigBlk:\t0000000000000000"), "{text}");
    assert!(text.contains("SigIgn:\t0000000000000000"), "{text}");
    // 3 is the directory that ls reads.
    assert!(text.ends_with("0 1 2 3 "), "{text}");
}

#[tokio::test]
async fn the_same_id_joins_and_another_specification_is_a_conflict() {
    let rig = Rig::start().await;
    let spec = sh("sleep 0.2; echo once >> count; cat count");
    let (a, b, c) = tokio::join!(
        rig.run("same", spec.clone()),
        rig.run("same", spec.clone()),
        rig.start_exec("same", spec.clone())
    );
    assert_eq!(a.text(), "once\n");
    assert_eq!(b.text(), "once\n");
    assert_eq!(a.attached.unwrap().pid, b.attached.unwrap().pid);
    assert_eq!(c.exec.unwrap().exec_id, "same");
    let again = rig.start_exec("same", spec.clone()).await;
    assert!(!again.started);
    assert_eq!(again.exec.unwrap().exit.unwrap().how, Some(How::Code(0)));
    assert_eq!(
        std::fs::read_to_string(rig.work().join("count")).unwrap(),
        "once\n"
    );

    let status = rig.try_open("same", sh("echo other")).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::AlreadyExists, "EXEC_CONFLICT".into())
    );
}

#[tokio::test]
async fn what_cannot_be_started_is_refused_with_its_reason_and_the_id_stays_free() {
    let rig = Rig::start().await;
    let mut no_directory = sh("true");
    no_directory.cwd = "/no/such/directory".into();
    let mut no_user = sh("true");
    no_user.user = "nobody-here".into();
    for (spec, expected) in [
        (no_directory, "CWD_MISSING"),
        (no_user, "USER_UNKNOWN"),
        (argv(&[]), "SPEC_INVALID"),
        (argv(&["a\0b"]), "SPEC_INVALID"),
    ] {
        assert_eq!(reason(rig.try_open("id", spec).await.map(drop)), expected);
    }
    for id in ["", "a/b", &"x".repeat(129)] {
        assert_eq!(
            reason(rig.try_open(id, sh("true")).await.map(drop)),
            "SPEC_INVALID"
        );
    }
    assert_eq!(rig.sh("id", "exit 4").await.how(), How::Code(4));
}

#[tokio::test]
async fn unknown_commands_are_refused_everywhere_and_forgotten_gladly() {
    let rig = Rig::start().await;
    let mut client = rig.client.clone();
    let id = || "nope".to_owned();
    let unknown = "EXEC_UNKNOWN";
    assert_eq!(
        reason(client.attach_exec(from_start("nope")).await.map(drop)),
        unknown
    );
    assert_eq!(
        reason(client.get_exec(GetExecRequest { exec_id: id() }).await),
        unknown
    );
    let signal = SignalExecRequest {
        exec_id: id(),
        what: Some(What::Group(15)),
        ..SignalExecRequest::default()
    };
    assert_eq!(reason(client.signal_exec(signal).await), unknown);
    let resize = ResizeExecRequest {
        exec_id: id(),
        size: Some(PtySize { rows: 1, cols: 1 }),
    };
    assert_eq!(reason(client.resize_exec(resize).await), unknown);
    assert_eq!(
        reason(rig.stdin("nope", vec![(0, b"x".to_vec(), false)]).await),
        unknown
    );
    client
        .remove_exec(RemoveExecRequest { exec_id: id() })
        .await
        .unwrap();
}

#[tokio::test]
async fn attach_starts_at_any_offset_and_refuses_one_beyond() {
    let rig = Rig::start().await;
    rig.sh("a", "printf 0123456789; printf abc >&2").await;
    let request = AttachExecRequest {
        stdout_offset: 7,
        stderr_offset: 3,
        ..from_start("a")
    };
    let outcome = Outcome::collect_from(rig.attach(request).await, 7, 3).await;
    assert_eq!((outcome.text().as_str(), outcome.stderr.len()), ("789", 0));
    assert_eq!(outcome.how(), How::Code(0));

    let only = AttachExecRequest {
        exit_only: true,
        ..from_start("a")
    };
    let outcome = Outcome::collect(rig.attach(only).await).await;
    assert_eq!((outcome.stdout.len(), outcome.how()), (0, How::Code(0)));

    let mut client = rig.client.clone();
    let beyond = AttachExecRequest {
        stdout_offset: 11,
        ..from_start("a")
    };
    let status = client.attach_exec(beyond).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::OutOfRange, "OFFSET_OUT_OF_RANGE".into())
    );
    assert_eq!(fact(&status, "spooled_bytes"), "10");
}

#[tokio::test]
async fn no_follow_ends_at_what_is_there() {
    let rig = Rig::start().await;
    let mut live = rig.open("a", sh("echo first; exec sleep 60")).await;
    until("the first line", async || {
        rig.get("a").await.stdout_bytes == 6
    })
    .await;
    let request = AttachExecRequest {
        no_follow: true,
        ..from_start("a")
    };
    let outcome = Outcome::collect(rig.attach(request).await).await;
    assert_eq!(outcome.text(), "first\n");
    assert!(outcome.exit.is_none());
    rig.signal("a", What::Group(9)).await;
    while let Some(message) = live.message().await.unwrap() {
        if let Some(Event::Exit(exit)) = message.event {
            assert_eq!(exit.how, Some(How::Signal(9)));
        }
    }
}

#[tokio::test]
async fn live_output_comes_as_it_is_written() {
    let rig = Rig::start().await;
    let mut spec = sh("echo ready; read line; echo got $line");
    spec.stdin = true;
    let mut stream = rig.open("a", spec).await;
    let mut next = async || stream.message().await.unwrap().unwrap().event.unwrap();
    assert!(matches!(next().await, Event::Attached(_)));
    assert!(matches!(next().await, Event::Stdout(piece) if piece.data == "ready\n"));
    rig.stdin("a", vec![(0, b"hello\n".to_vec(), false)])
        .await
        .unwrap();
    assert!(matches!(next().await, Event::Stdout(piece) if piece.data == "got hello\n"));
    assert!(matches!(next().await, Event::Exit(_)));
}

#[tokio::test]
async fn input_is_taken_once_whatever_is_repeated_and_ends_when_told() {
    let rig = Rig::start().await;
    let mut spec = argv(&["cat"]);
    spec.stdin = true;
    rig.start_exec("cat", spec.clone()).await;
    let accepted = rig.stdin(
        "cat",
        vec![(0, b"abc".to_vec(), false), (3, b"def".to_vec(), false)],
    );
    assert_eq!(accepted.await.unwrap(), 6);
    // A resumed stream repeats what it does not know to be accepted.
    let accepted = rig
        .stdin("cat", vec![(2, b"cdefgh".to_vec(), false)])
        .await
        .unwrap();
    assert_eq!(accepted, 8);
    let gap = rig
        .stdin("cat", vec![(9, b"x".to_vec(), false)])
        .await
        .unwrap_err();
    assert_eq!(refusal(&gap), (Code::OutOfRange, "STDIN_GAP".into()));
    assert_eq!(fact(&gap, "accepted_bytes"), "8");
    assert_eq!(rig.get("cat").await.stdin_bytes, 8);
    assert_eq!(rig.stdin("cat", vec![(8, vec![], true)]).await.unwrap(), 8);
    let outcome = Outcome::collect(rig.attach(from_start("cat")).await).await;
    assert_eq!(outcome.text(), "abcdefgh");
    assert_eq!(outcome.how(), How::Code(0));
    let closed = rig.stdin("cat", vec![(8, b"more".to_vec(), false)]).await;
    assert_eq!(reason(closed), "STDIN_CLOSED");
}

#[tokio::test]
async fn input_without_being_asked_for_is_empty_and_refused() {
    let rig = Rig::start().await;
    assert_eq!(rig.run("a", argv(&["cat"])).await.how(), How::Code(0));
    rig.start_exec("b", argv(&["sleep", "60"])).await;
    assert_eq!(
        reason(rig.stdin("b", vec![(0, b"x".to_vec(), false)]).await),
        "STDIN_CLOSED"
    );
}

#[tokio::test]
async fn input_waits_for_a_command_that_does_not_read_and_gives_up_with_it() {
    let rig = Rig::start().await;
    let mut spec = argv(&["sleep", "60"]);
    spec.stdin = true;
    rig.start_exec("a", spec).await;
    let flood = rig.stdin("a", vec![(0, vec![b'x'; 1024 * 1024], false)]);
    tokio::pin!(flood);
    until("the pipe is full", async || {
        tokio::select! {
            result = &mut flood => panic!("{result:?}"),
            exec = rig.get("a") => exec.stdin_bytes >= 65_536,
        }
    })
    .await;
    rig.signal("a", What::Group(9)).await;
    let _ = tokio::time::timeout(PATIENCE, flood)
        .await
        .expect("it gives up");
    until("it ended", async || rig.get("a").await.exit.is_some()).await;
    let more = rig
        .stdin("a", vec![(2_000_000, b"x".to_vec(), false)])
        .await;
    assert_eq!(reason(more), "STDIN_CLOSED");
}

#[tokio::test]
async fn a_megabyte_of_input_comes_out_again() {
    let rig = Rig::start().await;
    let mut spec = argv(&["cat"]);
    spec.stdin = true;
    let content: Vec<u8> = (0..3_000_000u32).map(|n| (n % 251) as u8).collect();
    let stream = rig.open("a", spec).await;
    let pieces = content
        .chunks(700_000)
        .enumerate()
        .map(|(n, piece)| (n as u64 * 700_000, piece.to_vec(), n == 4))
        .collect();
    let (accepted, outcome) = tokio::join!(rig.stdin("a", pieces), Outcome::collect(stream));
    assert_eq!(accepted.unwrap(), 3_000_000);
    assert!(outcome.stdout == content);
}

#[tokio::test]
async fn a_terminal_has_its_size_echoes_and_is_resized() {
    let rig = Rig::start().await;
    let mut spec = sh("tty; stty size; echo $TERM; read line; stty size; cat");
    spec.pty = Some(PtySize { rows: 24, cols: 80 });
    rig.start_exec("t", spec).await;
    until("the prompt", async || rig.get("t").await.stdout_bytes >= 35).await;
    let mut client = rig.client.clone();
    let request = ResizeExecRequest {
        exec_id: "t".into(),
        size: Some(PtySize {
            rows: 50,
            cols: 132,
        }),
    };
    client.resize_exec(request).await.unwrap();
    rig.stdin(
        "t",
        vec![(0, b"go\n".to_vec(), false), (3, b"typed\n".to_vec(), true)],
    )
    .await
    .unwrap();
    let outcome = Outcome::collect(rig.attach(from_start("t")).await).await;
    let text = outcome.text();
    assert!(text.starts_with("/dev/pts/"), "{text}");
    assert!(text.contains("\r\n24 80\r\nxterm-256color\r\n"), "{text}");
    assert!(text.contains("50 132\r\n"), "{text}");
    // Once echoed by the terminal, once printed by cat, which the end of the
    // input has ended.
    assert_eq!(text.matches("typed\r\n").count(), 2, "{text}");
    assert_eq!(outcome.how(), How::Code(0));
    assert!(outcome.stderr.is_empty());
    // Crossing the end is no mistake.
    let request = ResizeExecRequest {
        exec_id: "t".into(),
        size: Some(PtySize { rows: 1, cols: 1 }),
    };
    client.resize_exec(request).await.unwrap();
}

#[tokio::test]
async fn a_terminals_interrupt_reaches_the_foreground() {
    let rig = Rig::start().await;
    let mut spec = argv(&["sleep", "60"]);
    spec.pty = Some(PtySize { rows: 24, cols: 80 });
    let stream = rig.open("t", spec).await;
    rig.stdin("t", vec![(0, b"\x03".to_vec(), false)])
        .await
        .unwrap();
    assert_eq!(Outcome::collect(stream).await.how(), How::Signal(2));
}

#[tokio::test]
async fn resizing_without_a_terminal_or_without_cells_is_refused() {
    let rig = Rig::start().await;
    rig.start_exec("a", argv(&["sleep", "60"])).await;
    let mut client = rig.client.clone();
    let mut resize = async |rows, cols| {
        let request = ResizeExecRequest {
            exec_id: "a".into(),
            size: Some(PtySize { rows, cols }),
        };
        reason(client.resize_exec(request).await)
    };
    assert_eq!(resize(10, 10).await, "NO_PTY");
    assert_eq!(resize(0, 10).await, "SPEC_INVALID");
}

#[tokio::test]
async fn commands_are_listed_newest_first_and_removed_once_ended() {
    let rig = Rig::start().await;
    rig.sh("one", "true").await;
    rig.start_exec("two", argv(&["sleep", "60"])).await;
    let mut client = rig.client.clone();
    let mut ids = async |running_only| -> Vec<String> {
        let answer = client
            .list_execs(ListExecsRequest { running_only })
            .await
            .unwrap();
        answer
            .into_inner()
            .execs
            .into_iter()
            .map(|exec| exec.exec_id)
            .collect()
    };
    assert_eq!(ids(false).await, ["two", "one"]);
    assert_eq!(ids(true).await, ["two"]);
    let mut client = rig.client.clone();
    let mut remove = async |id: &str| {
        client
            .remove_exec(RemoveExecRequest { exec_id: id.into() })
            .await
    };
    assert_eq!(reason(remove("two").await), "EXEC_RUNNING");
    remove("one").await.unwrap();
    assert_eq!(ids(false).await, ["two"]);
    assert!(!rig.state().join("exec/one.record").exists());
    rig.signal("two", What::Tree(9)).await;
    until("it ended", async || rig.get("two").await.exit.is_some()).await;
    remove("two").await.unwrap();
    assert!(ids(false).await.is_empty());
}

#[tokio::test]
async fn signals_are_checked_and_one_for_an_ended_command_does_nothing() {
    let rig = Rig::start().await;
    rig.sh("a", "true").await;
    for what in [What::Group(15), What::Tree(9), What::EndAfterGraceMs(0)] {
        rig.signal("a", what).await;
    }
    let mut client = rig.client.clone();
    for what in [
        None,
        Some(What::Group(0)),
        Some(What::Tree(65)),
        Some(What::Group(-1)),
    ] {
        let request = SignalExecRequest {
            exec_id: "a".into(),
            what,
            ..SignalExecRequest::default()
        };
        assert_eq!(reason(client.signal_exec(request).await), "SIGNAL_INVALID");
    }
}

#[tokio::test]
async fn fifty_at_once_all_come_back_right() {
    let rig = Rig::start().await;
    let runs = (0..50).map(|n| {
        let rig = &rig;
        async move {
            (
                n,
                rig.sh(&format!("r{n}"), &format!("echo {n}; exit {n}"))
                    .await,
            )
        }
    });
    for (n, outcome) in futures_util::future::join_all(runs).await {
        assert_eq!(outcome.text(), format!("{n}\n"));
        assert_eq!(outcome.how(), How::Code(n));
    }
}

#[tokio::test]
async fn of_ended_commands_beyond_five_hundred_is_known_how_they_ended_and_they_run_once() {
    let mut rig = Rig::start().await;
    let outputs = rig.state().join("exec");
    // What no agent keeps in memory beside a command that has ended.
    let large = format!("echo # {}", "x".repeat(4000));
    for n in 0..505 {
        let script = if n == 4 { &large } else { "echo" };
        rig.sh(&format!("old{n}"), script).await;
    }
    let only_the_newest = async || {
        until("the oldest are gone", async || {
            std::fs::read_dir(&outputs).unwrap().count() == 500
        })
        .await;
    };
    only_the_newest().await;
    rig.restart_agent().await;
    rig.sh("new", "echo").await;
    only_the_newest().await;
    let mut client = rig.client.clone();
    let gone = rig.get("old5").await;
    assert_eq!(gone.exit.unwrap().how, Some(How::Code(0)));
    assert_eq!((gone.stdout_bytes, gone.spec), (1, None));
    assert!(!gone.gaps.is_empty(), "its output is said to be gone");
    // Asked for again with the same id: what it did is not done again.
    let again = rig.start_exec("old5", sh("echo")).await;
    assert!(!again.started);
    let again = rig.start_exec("old4", sh(&large)).await;
    assert!(!again.started);
    assert_eq!(again.exec.unwrap().spec, Some(sh(&large)));
    let mut events = rig.attach(from_start("old5")).await;
    let mut told = Vec::new();
    while let Some(message) = events.message().await.unwrap() {
        told.push(match message.event.unwrap() {
            Event::Attached(_) => "attached".to_owned(),
            Event::Stdout(output) | Event::Stderr(output) => format!("{output:?}"),
            Event::Gap(gap) => format!("a gap to {}", gap.to),
            Event::Exit(exit) => format!("{:?}", exit.how.unwrap()),
        });
    }
    assert_eq!(told, ["attached", "a gap to 1", "Code(0)"]);
    let outputs = std::fs::read_dir(&outputs).unwrap().count();
    assert_eq!(outputs, 500, "nothing was started");
    // With another specification, or removed, it is as one that is known.
    let other = start_request("old5", sh("true"));
    assert_eq!(reason(client.start_exec(other).await), "EXEC_CONFLICT");
    let remove = RemoveExecRequest {
        exec_id: "old5".into(),
    };
    client.remove_exec(remove).await.unwrap();
    let removed = client
        .get_exec(GetExecRequest {
            exec_id: "old5".into(),
        })
        .await;
    assert_eq!(reason(removed), "EXEC_UNKNOWN");
    assert_eq!(rig.get("old6").await.exit.unwrap().how, Some(How::Code(0)));
    assert_eq!(rig.get("new").await.exit.unwrap().how, Some(How::Code(0)));
}
