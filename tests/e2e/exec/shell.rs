//! Shells at a real terminal: left, come back to, and carried over a daemon
//! that goes away.

use compyd_tests::{
    daemon::{Daemon, Options},
    terminal::Terminal,
};

fn shell(daemon: &Daemon, more: &[&str]) -> Terminal {
    let args = ["workspace", "shell", "w"].iter().chain(more);
    Terminal::open(daemon.client().args(args))
}

/// What a shell types back is not what it answers: sums are told apart.
async fn answers(terminal: &mut Terminal, number: u32) {
    terminal.type_in(format!("echo is-$((1000000+{number}))-it\r").as_bytes());
    terminal
        .wait_for(&format!("is-{}-it", 1_000_000 + number))
        .await;
}

async fn running(daemon: &Daemon) -> Vec<serde_json::Value> {
    let args = ["-o", "json", "workspace", "execs", "w", "--running"];
    let list = daemon.compyctl(&args).await.expect_code(0).json();
    list.as_array().unwrap().clone()
}

#[tokio::test]
async fn a_shell_is_left_come_back_to_and_drawn_anew() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let mut first = shell(&daemon, &[]);
    answers(&mut first, 1).await;
    // Over a daemon that is killed, what was missed is shown.
    first.type_in(b"sleep 2; echo mis$((40+2))sed\r");
    first.wait_for("mis$").await;
    daemon.restart().await;
    first.wait_for("mis42sed").await;
    answers(&mut first, 2).await;
    // The keys that detach.
    first.type_in(b"\x1dd");
    assert!(first.ended().await.success());
    first.wait_for("compyctl workspace attach w").await;
    let listed = running(&daemon).await;
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0]["terminal"], true);

    // Another terminal, of another size: the scroll-back, then more.
    let mut second = shell(&daemon, &["--attach"]);
    second.wait_for("mis42sed").await;
    answers(&mut second, 3).await;
    second.resize(50, 132);
    // The size goes another way than what is typed.
    second.type_in(b"until stty size | grep -q '^50 '; do sleep 0.1; done; stty size\r");
    second.wait_for("50 132").await;
    // A program that draws the screen is told to, although nothing changed.
    second.type_in(b"trap 'echo drawn-$((6*7))' WINCH; echo trap-$((1+1))\r");
    second.wait_for("trap-2").await;
    drop(second);

    // A terminal that was closed leaves the shell running.
    let id = listed[0]["id"].as_str().unwrap();
    let mut third = shell(&daemon, &["--attach", id]);
    third.resize(50, 132);
    third.wait_for("drawn-42").await;
    answers(&mut third, 4).await;
    third.type_in(b"exit 3\r");
    assert_eq!(third.ended().await.code(), Some(3));
    assert_eq!(running(&daemon).await, [] as [serde_json::Value; 0]);
    let none = shell(&daemon, &["--attach"]).ended().await;
    assert_eq!(none.code(), Some(2));
}
