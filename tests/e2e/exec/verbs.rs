//! The verbs for commands that run by themselves: detach, list, attach, wait,
//! signal.

use compyd_tests::{
    daemon::{Daemon, Options},
    wait,
};

async fn detached(daemon: &Daemon, script: &str) -> String {
    let args = ["-o", "json", "workspace", "exec", "w", "--detach", "--"];
    let args = args.into_iter().chain(["sh", "-c", script]);
    let ran = daemon.client().args(args).run().await.expect_code(0);
    ran.json()["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_detached_command_is_listed_joined_anywhere_waited_for_and_ended() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let counts = detached(&daemon, "echo one; echo two; echo three >&2; exit 5").await;
    let waits = detached(
        &daemon,
        "trap 'echo hup; exit 6' HUP; echo up; while :; do sleep 0.1; done",
    )
    .await;
    let stays = detached(&daemon, "setsid sleep 4711 & echo up; sleep 4711").await;

    let exit = daemon
        .compyctl(&["-o", "json", "workspace", "wait", "w", &counts])
        .await
        .expect_code(5)
        .json();
    assert_eq!((&exit["how"], &exit["code"]), (&"code".into(), &5.into()));
    let list = async |more: &[&str]| {
        let args = ["-o", "json", "workspace", "execs", "w"];
        let args = args.iter().chain(more);
        let json = daemon.client().args(args).run().await.expect_code(0).json();
        let ids = json.as_array().unwrap().iter();
        ids.map(|exec| exec["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(list(&[]).await, [&*stays, &*waits, &*counts]);
    assert_eq!(list(&["--running"]).await, [&*stays, &*waits]);

    let attach = async |more: &[&str]| {
        let args = ["workspace", "attach", "w"].iter().chain(more);
        let ran = daemon.client().args(args).run().await;
        (ran.code, ran.text(), ran.stderr)
    };
    let texts = |code, stdout: &str, stderr: &str| (code, stdout.to_owned(), stderr.to_owned());
    assert_eq!(attach(&[&counts]).await, texts(5, "one\ntwo\n", "three\n"));
    assert_eq!(
        attach(&[&counts, "--from", "4", "--stderr-from", "6"]).await,
        texts(5, "two\n", "")
    );
    assert_eq!(
        attach(&[&counts, "--tail", "3"]).await,
        texts(5, "wo\n", "ee\n")
    );
    let (code, _, problem) = attach(&[&counts, "--from", "9"]).await;
    assert!(
        code == 1 && problem.contains("OFFSET_OUT_OF_RANGE"),
        "{problem}"
    );
    let (code, _, problem) = attach(&["nobody"]).await;
    assert!(code == 2 && problem.contains("EXEC_UNKNOWN"), "{problem}");

    // What there is so far, without waiting for more.
    wait::until("both are up", wait::PATIENCE, async || {
        let up = async |id: &str| attach(&[id, "--no-follow"]).await == texts(0, "up\n", "");
        (up(&waits).await && up(&stays).await).then_some(())
    })
    .await;
    let kill = async |more: &[&str]| {
        let args = ["workspace", "kill", "w"].iter().chain(more);
        let _ = daemon.client().args(args).run().await.expect_code(0);
    };
    kill(&[&waits, "--signal", "HUP"]).await;
    // The group's sleep gets it too, which the shell may say on standard error.
    let (code, text, _) = attach(&[&waits]).await;
    assert_eq!((code, text.as_str()), (6, "up\nhup\n"));
    kill(&[&stays, "--grace", "1s"]).await;
    assert_eq!(attach(&[&stays]).await, texts(143, "up\n", ""));
    // One that has ended is left as it is.
    kill(&[&stays]).await;
    assert_eq!(list(&["--running"]).await, Vec::<String>::new());
}
