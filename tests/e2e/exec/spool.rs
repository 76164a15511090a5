//! Output beyond the quota: what stays, what is said of the rest, and that the
//! command's status is its own.

use compyd_tests::daemon::{Daemon, Options};

#[tokio::test]
async fn output_beyond_the_quota_keeps_both_its_ends_and_says_what_is_gone() {
    let options = Options::default()
        .set("exec.stream_quota", "1MiB")
        .set("exec.total_quota", "2MiB");
    let Some(mut daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let flood = "sleep 1; seq -f %015.0f 1 1000000; echo over >&2; exit 9";
    let args = [
        "workspace",
        "exec",
        "w",
        "--detach",
        "--",
        "sh",
        "-c",
        flood,
    ];
    let json = ["-o", "json"].into_iter().chain(args);
    let started = daemon.client().args(json).run().await.expect_code(0).json();
    let id = started["id"].as_str().unwrap().to_owned();
    let _ = daemon
        .compyctl(&["workspace", "wait", "w", &id])
        .await
        .expect_code(9);
    for life in 0..2 {
        let ran = daemon
            .compyctl(&["workspace", "attach", "w", &id])
            .await
            .expect_code(9);
        let text = ran.text();
        assert!(text.starts_with("000000000000001\n000000000000002\n"));
        assert!(text.ends_with("000000000999999\n000000001000000\n"));
        assert!(text.len() <= 1 << 20, "{} bytes", text.len());
        let lost = 16_000_000 - text.len();
        let note = format!("[compyctl: {lost} bytes of standard output were dropped here");
        assert!(ran.stderr.contains(&note), "{}", ran.stderr);
        assert!(ran.stderr.contains("over\n"), "{}", ran.stderr);
        let shown = daemon
            .compyctl(&["-o", "json", "workspace", "execs", "w", &id])
            .await
            .json();
        let gap = &shown["gaps"][0];
        assert_eq!(shown["stdout_bytes"], 16_000_000);
        assert_eq!(gap["stream"], "stdout");
        let span = gap["to"].as_u64().unwrap() - gap["from"].as_u64().unwrap();
        assert_eq!(span, lost as u64);
        if life == 0 {
            daemon.restart().await;
        }
    }
    // Two more of its size, and the first one's output makes room for theirs.
    for _ in 0..2 {
        let args = ["workspace", "exec", "w", "--", "sh", "-c", flood];
        let _ = daemon.compyctl(&args).await.expect_code(9);
    }
    let ran = daemon
        .compyctl(&["workspace", "attach", "w", &id])
        .await
        .expect_code(9);
    assert_eq!(ran.text(), "");
    let note = "[compyctl: 16000000 bytes of standard output were dropped here";
    assert!(ran.stderr.contains(note), "{}", ran.stderr);
}
