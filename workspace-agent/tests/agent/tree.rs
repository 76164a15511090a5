//! Trees of processes: time-outs, kills, leftovers, killed supervisors.
//! Survivors are counted from outside, by the tag in their environment.

use compyd_proto::agent::exit::How;
use compyd_proto::agent::signal_exec_request::What;
use compyd_proto::agent::*;

use crate::harness::*;

/// Children that have left the leader by every way there is, and the leader
/// waiting.
const EVERY_WAY_OUT: &str = "
    sleep 300 &
    setsid sleep 300 &
    setsid setsid sleep 300 &
    (sleep 300 & sleep 300 &)
    nohup sleep 300 >/dev/null 2>&1 &
    sh -c 'setsid sh -c \"sleep 300 & sleep 300\" & ' &
    sh -c 'trap \"\" TERM HUP INT; sleep 300' &
    sleep 300 & kill -STOP $!
    sh -c 'sleep 0.01 & exec sleep 300' &
    echo ready
    wait
    sleep 300";

fn tag(id: &str) -> String {
    format!("COMPY_EXEC_ID={id}")
}

async fn ready(rig: &Rig, id: &str, bytes: u64) {
    until("the script is ready", async || {
        rig.get(id).await.stdout_bytes >= bytes
    })
    .await;
}

#[tokio::test]
async fn a_time_out_ends_every_process_whichever_way_it_left() {
    let rig = Rig::start().await;
    let mut spec = sh(EVERY_WAY_OUT);
    spec.timeout_ms = 5_000;
    let outcome = rig.run("timeout-all", spec).await;
    assert_eq!(outcome.how(), How::TimedOut(TimedOut { timeout_ms: 5_000 }));
    assert_eq!(outcome.text(), "ready\n");
    until("nobody is left", async || {
        with_variable(&tag("timeout-all")).is_empty()
    })
    .await;
}

#[tokio::test]
async fn ending_a_tree_gives_its_processes_the_grace_they_were_promised() {
    let rig = Rig::start().await;
    let script =
        "trap 'sleep 0.2; echo tidied; exit 9' TERM; echo ready; while :; do sleep 0.01; done";
    let stream = rig.open("grace", sh(script)).await;
    ready(&rig, "grace", 6).await;
    rig.signal("grace", What::EndAfterGraceMs(5000)).await;
    let outcome = Outcome::collect(stream).await;
    assert_eq!(
        (outcome.text().as_str(), outcome.how()),
        ("ready\ntidied\n", How::Code(9))
    );
}

#[tokio::test]
async fn ending_a_tree_without_grace_leaves_nobody() {
    let rig = Rig::start().await;
    let stream = rig.open("kill-all", sh(EVERY_WAY_OUT)).await;
    ready(&rig, "kill-all", 6).await;
    assert!(with_variable(&tag("kill-all")).len() >= 8);
    rig.signal("kill-all", What::EndAfterGraceMs(0)).await;
    assert_eq!(Outcome::collect(stream).await.how(), How::Signal(9));
    until("nobody is left", async || {
        with_variable(&tag("kill-all")).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_signal_to_the_tree_reaches_sessions_that_a_group_signal_does_not() {
    let rig = Rig::start().await;
    let script = "trap 'echo leader' USR1
        setsid sh -c 'trap \"echo away; exit\" USR1; echo ready; while :; do sleep 0.01; done' &
        child=$!
        while kill -0 $child 2>/dev/null; do wait; done";
    let stream = rig.open("usr", sh(script)).await;
    ready(&rig, "usr", 6).await;
    rig.signal("usr", What::Group(10)).await;
    ready(&rig, "usr", 13).await;
    rig.signal("usr", What::Tree(10)).await;
    let outcome = Outcome::collect(stream).await;
    let mut lines: Vec<&str> = std::str::from_utf8(&outcome.stdout)
        .unwrap()
        .lines()
        .collect();
    assert_eq!(lines[..2], ["ready", "leader"]);
    lines.sort_unstable();
    assert_eq!(lines, ["away", "leader", "leader", "ready"]);
}

#[tokio::test]
async fn a_step_signals_a_command_once_however_often_it_is_asked_for() {
    let rig = Rig::start().await;
    // Dies of the third.
    let script = "n=0; trap 'n=$((n+1)); echo $n; [ $n -lt 3 ] || exit 0' USR1
        echo r; while :; do sleep 0.01; done";
    let stream = rig.open("usr", sh(script)).await;
    ready(&rig, "usr", 2).await;
    for (step, bytes) in [("one", 4), ("one", 4), ("two", 6), ("one", 6)] {
        rig.signal_as("usr", What::Group(10), step).await;
        ready(&rig, "usr", bytes).await;
    }
    assert!(rig.get("usr").await.exit.is_none());
    rig.signal("usr", What::Group(10)).await;
    assert_eq!(Outcome::collect(stream).await.text(), "r\n1\n2\n3\n");
    // It has ended, and is left as it is.
    rig.signal_as("usr", What::Group(10), "one").await;
}

#[tokio::test]
async fn a_background_child_that_holds_the_pipe_does_not_hold_the_call() {
    let rig = Rig::start().await;
    // One sleeps, one floods: neither the silence nor the noise may be waited out.
    for (id, child) in [("silence", "sleep 300"), ("noise", "yes")] {
        let outcome = rig.sh(id, &format!("{child} & echo mine; exit 5")).await;
        assert_eq!(outcome.how(), How::Code(5));
        assert!(outcome.text().contains("mine\n"));
        assert_eq!(outcome.exit.unwrap().leftover_processes, 1);
        // It lives on: it was started to stay.
        assert_eq!(with_variable(&tag(id)).len(), 1);
    }
    assert_eq!(rig.sh("next", "echo fine").await.text(), "fine\n");
}

#[tokio::test]
async fn leftovers_are_ended_where_that_is_asked_for() {
    let rig = Rig::start().await;
    let mut spec = sh("setsid sleep 300 & nohup sleep 300 >/dev/null 2>&1 & sleep 0.1; echo done");
    spec.leftovers = Leftovers::Kill.into();
    let outcome = rig.run("tidy", spec).await;
    assert_eq!(
        (outcome.text().as_str(), outcome.how()),
        ("done\n", How::Code(0))
    );
    assert_eq!(outcome.exit.unwrap().leftover_processes, 2);
    until("nobody is left", async || {
        with_variable(&tag("tidy")).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_killed_supervisor_loses_no_byte_and_the_status_is_still_the_truth() {
    let rig = Rig::start().await;
    let script = "echo before; while [ ! -e go ]; do sleep 0.01; done; head -c 3000000 /dev/zero; echo after; exit 6";
    let stream = rig.open("lost", sh(script)).await;
    ready(&rig, "lost", 7).await;
    let leader = rig.get("lost").await.pid as i32;
    let supervisor = parent(leader);
    assert_ne!(supervisor, rig.agent_pid());
    signal(supervisor, 9);
    until("the leader is an orphan", async || {
        parent(leader) == rig.agent_pid()
    })
    .await;
    std::fs::write(rig.work().join("go"), "").unwrap();
    let outcome = Outcome::collect(stream).await;
    assert_eq!(outcome.how(), How::Code(6));
    assert_eq!(outcome.stdout.len(), 7 + 3_000_000 + 6);
    assert!(outcome.stdout.ends_with(b"\0after\n"));
}

#[tokio::test]
async fn the_tree_of_a_killed_supervisor_is_still_ended_whole() {
    let rig = Rig::start().await;
    let stream = rig.open("orphans", sh(EVERY_WAY_OUT)).await;
    ready(&rig, "orphans", 6).await;
    let leader = rig.get("orphans").await.pid as i32;
    signal(parent(leader), 9);
    until("the leader is an orphan", async || {
        parent(leader) == rig.agent_pid()
    })
    .await;
    rig.signal("orphans", What::EndAfterGraceMs(100)).await;
    let outcome = Outcome::collect(stream).await;
    assert!(matches!(outcome.how(), How::Signal(9 | 15)), "{outcome:?}");
    until("nobody is left", async || {
        with_variable(&tag("orphans")).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_time_out_reaches_the_tree_of_a_stopped_supervisor() {
    let rig = Rig::start().await;
    let mut spec = sh("echo ready; setsid sleep 300 & sleep 300");
    spec.timeout_ms = 5_000;
    let stream = rig.open("stopped", spec).await;
    ready(&rig, "stopped", 6).await;
    signal(parent(rig.get("stopped").await.pid as i32), 19);
    let outcome = Outcome::collect(stream).await;
    assert_eq!(outcome.how(), How::TimedOut(TimedOut { timeout_ms: 5_000 }));
    until("nobody is left", async || {
        with_variable(&tag("stopped")).is_empty()
    })
    .await;
}

#[tokio::test]
async fn a_supervisor_killed_while_it_waits_costs_no_command() {
    let rig = Rig::start().await;
    rig.sh("first", "true").await;
    for pid in supervisors(&rig) {
        signal(pid, 9);
    }
    assert_eq!(rig.sh("second", "exit 8").await.how(), How::Code(8));
    until("the dead are reaped", async || zombies(&rig) == 0).await;
}

#[tokio::test]
async fn a_bomb_of_forks_under_a_limit_is_ended() {
    let rig = Rig::start().await;
    // Twice bounded, because a test must not take its machine down: by the
    // number of processes, and by an age after which no generation forks.
    let script = r#"
        deadline=$(($(date +%s) + 5))
        bomb() { [ $(date +%s) -lt $deadline ] || exit; sleep 0.02; bomb & bomb & wait; }
        bomb & sleep 60"#;
    let mut spec = argv(&["prlimit", "--nproc=120:120", "sh", "-c", script]);
    spec.user = "nobody".into();
    spec.cwd = "/".into();
    spec.timeout_ms = 1000;
    let outcome = rig.run("bomb", spec).await;
    assert_eq!(outcome.how(), How::TimedOut(TimedOut { timeout_ms: 1000 }));
    until("nobody is left", async || {
        with_variable(&tag("bomb")).is_empty()
    })
    .await;
    assert_eq!(rig.sh("after", "echo fine").await.text(), "fine\n");
}

#[tokio::test]
async fn init_freezes_a_bomb_kills_it_and_lets_everybody_else_go_on() {
    let Some(rig) = Rig::start_as_init().await else {
        return;
    };
    // A bystander that counts, and one that somebody has stopped on purpose.
    rig.start_exec("bystander", sh("while :; do echo x; sleep 0.01; done"))
        .await;
    rig.start_exec("paused", sh("echo up; kill -STOP $$; echo continued"))
        .await;
    ready(&rig, "paused", 3).await;
    let script = r#"
        trap "" TERM
        deadline=$(($(date +%s) + 5))
        bomb() { [ $(date +%s) -lt $deadline ] || exit; bomb & bomb & wait; }
        echo up; bomb & sleep 60"#;
    let mut spec = argv(&["prlimit", "--nproc=150:150", "sh", "-c", script]);
    spec.user = "nobody".into();
    spec.cwd = "/".into();
    let stream = rig.open("init-bomb", spec).await;
    ready(&rig, "init-bomb", 3).await;
    // A stopped supervisor cannot end its tree: init has to.
    let leader = with_variable(&tag("init-bomb"));
    let supervisor = leader
        .iter()
        .map(|pid| parent(*pid))
        .find(|pid| !leader.contains(pid));
    signal(supervisor.unwrap(), 19);
    rig.signal("init-bomb", What::EndAfterGraceMs(0)).await;
    assert_eq!(Outcome::collect(stream).await.how(), How::Signal(9));
    until("nobody is left", async || {
        with_variable(&tag("init-bomb")).is_empty()
    })
    .await;
    let before = rig.get("bystander").await.stdout_bytes;
    until("the bystander goes on", async || {
        rig.get("bystander").await.stdout_bytes > before + 10
    })
    .await;
    assert_eq!(rig.get("paused").await.stdout_bytes, 3);
    assert_eq!(rig.sh("after", "echo fine").await.text(), "fine\n");
}

#[tokio::test]
async fn init_takes_the_whole_container_along_when_it_ends() {
    let Some(mut rig) = Rig::start_as_init().await else {
        return;
    };
    rig.start_exec(
        "init-end",
        sh("trap '' TERM; setsid sleep 300 & echo up; sleep 300"),
    )
    .await;
    ready(&rig, "init-end", 3).await;
    let init = parent(parent(with_variable(&tag("init-end"))[0]));
    signal(init, 15);
    until("nobody is left", async || {
        with_variable(&tag("init-end")).is_empty() && !is_alive(init)
    })
    .await;
    rig.wait_for_end();
}

#[tokio::test]
async fn orphans_and_zombies_of_commands_are_reaped() {
    let rig = Rig::start().await;
    for n in 0..20 {
        rig.sh(
            &format!("z{n}"),
            "(sleep 0.02 &) ; (sleep 0.01 & exec sleep 0.03) & exit",
        )
        .await;
    }
    until("no zombie is left", async || zombies(&rig) == 0).await;
}

#[tokio::test]
async fn terminate_ends_everything_promptly_and_records_it() {
    let mut rig = Rig::start().await;
    rig.start_exec(
        "polite",
        sh("trap 'exit 3' TERM; echo up; while :; do sleep 0.01; done"),
    )
    .await;
    rig.start_exec(
        "stubborn",
        sh("trap '' TERM; echo up; while :; do sleep 0.01; done"),
    )
    .await;
    rig.sh("behind", "setsid sleep 300 & exit").await;
    ready(&rig, "polite", 3).await;
    ready(&rig, "stubborn", 3).await;
    rig.terminate_agent();
    for id in ["polite", "stubborn", "behind"] {
        until("nobody is left", async || {
            with_variable(&tag(id)).is_empty()
        })
        .await;
    }
    rig.restart_agent().await;
    // Where its shell was not scheduled within its grace, it is killed like the
    // other one.
    let polite = rig.get("polite").await.exit.unwrap().how;
    assert!(
        matches!(polite, Some(How::Code(3) | How::Signal(9))),
        "{polite:?}"
    );
    assert_eq!(
        rig.get("stubborn").await.exit.unwrap().how,
        Some(How::Signal(9))
    );
}

#[tokio::test]
async fn a_killed_agent_leaves_ended_commands_whole_and_running_ones_unknown() {
    let mut rig = Rig::start().await;
    rig.sh("ended", "printf kept; exit 2").await;
    rig.start_exec("running", sh("printf partial; exec sleep 300"))
        .await;
    ready(&rig, "running", 7).await;
    let first = rig
        .client
        .hello(HelloRequest::default())
        .await
        .unwrap()
        .into_inner();
    rig.restart_agent().await;
    let second = rig
        .client
        .hello(HelloRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_ne!(first.boot_id, second.boot_id);
    let ended = Outcome::collect(rig.attach(from_start("ended")).await).await;
    assert_eq!((ended.text().as_str(), ended.how()), ("kept", How::Code(2)));
    let running = Outcome::collect(rig.attach(from_start("running")).await).await;
    assert_eq!(running.text(), "partial");
    assert!(matches!(running.how(), How::Unknown(why) if why.contains("restarted")));
    // The same id is still the same command, and nothing is started again.
    let again = rig.start_exec("ended", sh("printf kept; exit 2")).await;
    assert!(!again.started);
    until("nobody is left", async || {
        with_variable(&tag("running")).is_empty()
    })
    .await;
}

fn children(rig: &Rig) -> Vec<(i32, String)> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            let mut fields = stat.rsplit(')').next()?.split(' ').skip(1);
            let state = fields.next()?.to_owned();
            (fields.next()?.parse() == Ok(rig.agent_pid())).then_some((pid, state))
        })
        .collect()
}

fn supervisors(rig: &Rig) -> Vec<i32> {
    children(rig)
        .into_iter()
        .filter(|(_, state)| state != "Z")
        .map(|(pid, _)| pid)
        .collect()
}

fn zombies(rig: &Rig) -> usize {
    children(rig)
        .iter()
        .filter(|(_, state)| state == "Z")
        .count()
}
