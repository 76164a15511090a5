//! The cargo that builds this test, in a workspace whose rules know nothing of
//! it: what it is denied says what it needs, as it would tell a person.

use std::{collections::BTreeSet, time::Duration};

use compyd_tests::{
    daemon::{Daemon, Options},
    skip::skip,
    wait,
};
use serde_json::Value;

use super::addresses;

/// Hosts that a registry may be spread over.
const HOSTS_MAX: usize = 4;
/// Times that a registry may fail.
const FAILURES_MAX: usize = 5;

/// Fetches a crate from the index that cargo is set up with. It needs no
/// compiler.
const VENDOR: &str = r#"
    set -e
    mkdir -p /workspace/probe/src; cd /workspace/probe; touch src/lib.rs
    printf '[package]\nname = "probe"\nversion = "0.1.0"\nedition = "2021"\n' > Cargo.toml
    printf '[dependencies]\nitoa = "1"\n' >> Cargo.toml
    rm -rf vendor /tmp/cargo-home
    CARGO_HOME=/tmp/cargo-home CARGO_NET_RETRY=0 ~/cargo vendor 2>&1
    ls vendor
"#;

/// The host of the last connection that was denied, without its port.
async fn denied_host(daemon: &Daemon) -> Option<String> {
    let events = ["-o", "json", "workspace", "events", "w", "--warnings"];
    let ran = daemon.compyctl(&events).await.expect_code(0);
    let events = serde_json::Deserializer::from_slice(&ran.stdout).into_iter::<Value>();
    let denied = events
        .map(Result::unwrap)
        .filter(|event| event["kind"] == "egress_denied")
        .last()?;
    let target = denied["egress"]["target"].as_str()?;
    Some(target.rsplit_once(':')?.0.to_owned())
}

#[tokio::test]
async fn cargo_fetches_a_crate_through_the_tunnel_and_says_what_it_is_denied() {
    let mut options = Options::default();
    // Where TLS is intercepted, this machine has been told by whom.
    if let Ok(bundle) = std::env::var("SSL_CERT_FILE") {
        options = options.set("workspace.extra_ca_file", bundle);
    }
    let Some(mut daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let home = daemon.shell("w", "echo ~").await.text();
    let there = format!("w:{home}/cargo");
    let copy = ["workspace", "cp", env!("CARGO"), &there];
    let _ = daemon.compyctl(&copy).await.expect_code(0);

    let (mut hosts, mut networks) = (BTreeSet::new(), BTreeSet::new());
    let mut failures = 0;
    let vendored = loop {
        let ran = daemon.shell("w", VENDOR).await;
        if ran.code() == Some(0) || hosts.len() == HOSTS_MAX {
            break ran;
        }
        if !ran.text().contains("403") {
            // Whatever the registry has is not this test's to judge.
            failures += 1;
            assert!(failures < FAILURES_MAX, "{ran:?}");
            tokio::time::sleep(Duration::from_secs(5)).await;
            continue;
        }
        let host = wait::until("the denial", wait::PATIENCE, async || {
            let host = denied_host(&daemon).await;
            host.filter(|host| !hosts.contains(host))
        })
        .await;
        let Some(special) = addresses(std::slice::from_ref(&host)).await else {
            return skip(format!("cargo: its host {host} does not answer here"));
        };
        hosts.insert(host);
        networks.extend(special);
        if !networks.is_empty() {
            let all: Vec<String> = networks.iter().cloned().collect();
            let allow =
                |options: Options| options.env("COMPY_EGRESS_ALLOW_NETWORKS", all.join(","));
            daemon.restart_with(allow).await;
        }
        let mut allow = vec!["workspace", "egress", "w"];
        for host in &hosts {
            allow.extend(["--allow", host]);
        }
        let _ = daemon.compyctl(&allow).await.expect_code(0);
    };
    assert_eq!(vendored.code(), Some(0), "{vendored:?}");
    assert!(vendored.text().ends_with("itoa"), "{vendored:?}");
    assert!(!hosts.is_empty(), "it came through closed doors");

    let shut = ["workspace", "egress", "w", "--egress", "none"];
    let _ = daemon.compyctl(&shut).await.expect_code(0);
    let denied = daemon.shell("w", VENDOR).await;
    assert!(denied.text().contains("403"), "{denied:?}");
}
