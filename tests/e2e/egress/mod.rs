//! What a workspace reaches through the tunnel: real tools come through, ways
//! around the rules do not.

mod attempts;
mod cargo;

use std::{net::SocketAddr, path::Path, process::Command, time::Duration};

use attempts::{Attempt, PRELUDE, Rules, TwinAt};
use compyd::domain::egress::{AddressRules, Host, Target};
use compyd_proto::v1::EnvironmentVariable;
use compyd_tests::{
    compyctl::Ran,
    daemon::{Daemon, Options},
    exec::command,
    skip::skip,
    wait,
    world::{GOOD, LEAKED, World},
};
use futures_util::StreamExt as _;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _};

/// Attempts under way together.
const AT_ONCE: usize = 4;
const FEWEST_ATTEMPTS: usize = 40;

/// A daemon for which 127.0.0.1 is a network that workspaces may reach.
async fn daemon() -> Option<(Daemon, World)> {
    let options = Options::default().set("egress.allow_networks", "127.0.0.1");
    let daemon = Daemon::start(options).await?;
    let world = World::start(daemon.directory()).await;
    Some((daemon, world))
}

/// Runs a script with the ports of the world, and with a proxy for `localhost`,
/// too; what it printed.
async fn script(daemon: &Daemon, workspace: &str, world: &World, script: &str) -> String {
    let own = World::own_address().map_or_else(String::new, |own| own.to_string());
    let variables = [
        ("GOOD", world.good.to_string()),
        ("SINK", world.sink.to_string()),
        ("OWN", own),
        ("NO_PROXY", String::new()),
        ("no_proxy", String::new()),
    ];
    let mut start = command(workspace, &["sh", "-c", &format!("{PRELUDE}\n{script}")]);
    start.environment = variables
        .map(|(name, value)| EnvironmentVariable {
            name: name.to_owned(),
            value: value.into(),
        })
        .to_vec();
    let done = daemon.exec(start).await.unwrap();
    let error = String::from_utf8_lossy(&done.stderr).into_owned();
    String::from_utf8_lossy(&done.stdout).into_owned() + &error
}

#[tokio::test]
async fn no_way_around_the_rules_leads_anywhere() {
    let Some((daemon, world)) = daemon().await else {
        return;
    };
    if World::own_address().is_none() {
        skip("this machine has no address but loopback");
        return;
    }
    let listed = format!("localhost:{}", world.good);
    daemon.workspace("listed", &["--allow", &listed]).await;
    daemon.workspace("open", &["--egress", "open"]).await;
    daemon.workspace("closed", &[]).await;
    // What comes through there has not leaked.
    let bridged = match daemon.engine().await.has_bridge().await {
        true => {
            daemon.workspace("bridge", &["--network", "bridge"]).await;
            Some(World::start(daemon.directory()).await)
        }
        false => None,
    };
    let attempts = attempts::all();
    assert!(attempts.len() >= FEWEST_ATTEMPTS, "{}", attempts.len());
    let (daemon, world, bridged) = (&daemon, &world, bridged.as_ref());
    let verdicts = futures_util::stream::iter(&attempts)
        .map(|attempt| async move { verdict(daemon, world, bridged, attempt).await })
        .buffer_unordered(AT_ONCE);
    let wrong: Vec<String> = verdicts.filter_map(|wrong| async { wrong }).collect().await;
    assert!(
        wrong.is_empty(),
        "{} of {}:\n{}",
        wrong.len(),
        attempts.len(),
        wrong.join("\n")
    );
    assert_eq!(world.leaks(), 0, "somebody came to the sink");
}

/// What is wrong with an attempt; nothing when it failed as it should and its
/// twin came through. `bridged` is the world of twins on the bridge, where there
/// is one.
async fn verdict(
    daemon: &Daemon,
    world: &World,
    bridged: Option<&World>,
    attempt: &Attempt,
) -> Option<String> {
    let name = attempt.name;
    let workspace = |rules| match rules {
        Rules::Listed => "listed",
        Rules::Open => "open",
        Rules::Closed => "closed",
    };
    let said = script(daemon, workspace(attempt.rules), world, &attempt.script).await;
    if said.contains(LEAKED) || !said.contains(attempt.expected) {
        return Some(format!(
            "{name}: not refused by {:?}:\n{said}",
            attempt.expected
        ));
    }
    let (twin_in, world) = match (attempt.twin_at, attempt.rules, bridged) {
        (TwinAt::Rules, Rules::Closed, _) => (workspace(Rules::Listed), world),
        (TwinAt::Rules, rules @ (Rules::Listed | Rules::Open), _) => (workspace(rules), world),
        (TwinAt::Bridge, _, Some(bridged)) => ("bridge", bridged),
        (TwinAt::Bridge, _, None) => {
            skip(format!("{name}: its twin, as this engine has no bridge"));
            return None;
        }
    };
    let said = script(daemon, twin_in, world, &attempt.twin).await;
    (!said.contains(attempt.twin_expected)).then(|| format!("{name}: its twin failed:\n{said}"))
}

#[tokio::test]
async fn on_the_bridge_the_host_is_reached_and_no_rules_are_promised() {
    let Some((daemon, world)) = daemon().await else {
        return;
    };
    if World::own_address().is_none() {
        skip("this machine has no address but loopback");
        return;
    }
    if !daemon.engine().await.has_bridge().await {
        skip("this engine has no bridge");
        return;
    }
    daemon.workspace("bridge", &["--network", "bridge"]).await;
    // What the attempts of the matrix would find if they came through.
    let said = script(&daemon, "bridge", &world, "get http://$OWN:$SINK/; env").await;
    assert!(said.contains(LEAKED), "{said}");
    assert!(!said.contains("http_proxy="), "{said}");
    let refused = daemon
        .compyctl(&["workspace", "egress", "bridge", "--egress", "open"])
        .await;
    assert!(refused.stderr.contains("EGRESS_INVALID"), "{refused:?}");
}

#[tokio::test]
async fn rules_change_at_once_and_denials_say_what_to_do() {
    let Some((daemon, world)) = daemon().await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let good = format!("localhost:{}", world.good);
    let fetch = "get http://localhost:$GOOD/";
    let denied = script(&daemon, "w", &world, fetch).await;
    let advice = format!("compyctl workspace egress w --egress allow --allow {good}");
    assert!(denied.contains(&advice), "{denied}");
    daemon.wait_for_log("egress denied").await;

    let set = async |more: &[&str]| -> Ran {
        let mut arguments = vec!["-o", "json", "workspace", "egress", "w"];
        arguments.extend(more);
        daemon.compyctl(&arguments).await.expect_code(0)
    };
    let shown = set(&["--allow", &good]).await.json();
    assert_eq!(shown["egress"], "allow");
    assert_eq!(shown["allow"], serde_json::json!([good]));
    let allowed = script(&daemon, "w", &world, fetch).await;
    assert!(allowed.contains(GOOD), "{allowed}");

    // One that is open is cut when the rules refuse it.
    let slow = script(
        &daemon,
        "w",
        &world,
        "get -m 300 -N -o /tmp/slow http://localhost:$GOOD/slow",
    );
    let change = async {
        let grown = "test -s /tmp/slow && echo grown";
        wait::until(
            "the download goes on",
            Duration::from_secs(30),
            async || (daemon.shell("w", grown).await.text() == "grown").then_some(()),
        )
        .await;
        set(&["--egress", "none"]).await
    };
    let (_, changed) = tokio::join!(slow, change);
    assert!(
        changed.stderr.contains("1 open connection(s) were cut"),
        "{changed:?}"
    );
    let denied = script(&daemon, "w", &world, fetch).await;
    assert!(denied.contains("NO_EGRESS"), "{denied}");
}

#[tokio::test]
async fn a_port_of_a_workspace_is_forwarded_to_the_client() {
    let Some((daemon, _world)) = daemon().await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    daemon
        .shell("w", "cd /workspace && echo inside > f && (python3 -m http.server 8123 --bind 127.0.0.1 >/dev/null 2>&1 &)")
        .await;
    let mut forward = daemon
        .client()
        .args(["workspace", "port-forward", "w", "8123:0"])
        .spawn();
    let mut lines = tokio::io::BufReader::new(forward.stdout.take().unwrap()).lines();
    let line = lines.next_line().await.unwrap().unwrap();
    let address: SocketAddr = line.split(' ').nth(1).unwrap().parse().unwrap();
    assert!(address.ip().is_loopback());
    let fetched = wait::until("the server answers", Duration::from_secs(30), async || {
        let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
        stream.write_all(b"GET /f HTTP/1.0\r\n\r\n").await.ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await.ok()?;
        (!text.is_empty()).then_some(text)
    })
    .await;
    assert!(fetched.ends_with("\r\n\r\ninside\n"), "{fetched}");
    forward.kill().await.unwrap();
}

#[tokio::test]
async fn a_server_on_the_workspaces_own_loopback_is_reached_past_the_proxy() {
    let Some((daemon, _world)) = daemon().await else {
        return;
    };
    // Where everything else is refused: a request that went through the proxy
    // would not come back.
    daemon.workspace("w", &[]).await;
    daemon
        .shell("w", "cd /workspace && echo inside > f && (python3 -m http.server 8123 --bind 127.0.0.1 >/dev/null 2>&1 &)")
        .await;
    for host in ["127.0.0.1", "localhost"] {
        let fetch = format!(
            "echo $NO_PROXY $no_proxy; curl --silent --show-error --retry 20 --retry-delay 1 --retry-connrefused http://{host}:8123/f"
        );
        let fetched = daemon.shell("w", &fetch).await.text();
        let direct = "localhost,127.0.0.1,::1";
        assert_eq!(
            fetched.trim_end(),
            format!("{direct} {direct}\ninside"),
            "{host}"
        );
    }
}

#[tokio::test]
async fn git_and_npm_work_through_the_tunnel() {
    let Some((daemon, world)) = daemon().await else {
        return;
    };
    let good = format!("localhost:{}", world.good);
    daemon.workspace("w", &["--allow", &good]).await;
    bare_repository(daemon.directory());
    let git = "git clone -q http://localhost:$GOOD/repository.git /workspace/r 2>&1 && cat /workspace/r/f";
    let said = script(&daemon, "w", &world, git).await;
    assert_eq!(said.trim(), "content");
    let npm = "npm ping --registry http://localhost:$GOOD/ 2>&1; echo exit $?";
    let said = script(&daemon, "w", &world, npm).await;
    assert!(said.contains("exit 0"), "{said}");
    // The same to where they may not go, in the words of the tool.
    let git = "git ls-remote http://127.0.0.2:$SINK/repository.git 2>&1";
    let said = script(&daemon, "w", &world, git).await;
    assert!(said.contains("403"), "{said}");
    assert_eq!(world.leaks(), 0);
}

/// A repository that plain files serve.
fn bare_repository(directory: &Path) {
    let git = |arguments: &[&str]| {
        let done = Command::new("git")
            .args(["-c", "user.name=P", "-c", "user.email=p@localhost"])
            .args(arguments)
            .current_dir(directory)
            .env("GIT_CONFIG_GLOBAL", "/dev/null")
            .output()
            .unwrap();
        assert!(done.status.success(), "{arguments:?}: {done:?}");
    };
    git(&["init", "-q", "-b", "main", "seed"]);
    std::fs::write(directory.join("seed/f"), "content\n").unwrap();
    git(&["-C", "seed", "add", "-A"]);
    git(&["-C", "seed", "commit", "-q", "-m", "base"]);
    git(&["clone", "-q", "--bare", "seed", "repository.git"]);
    git(&["-C", "repository.git", "update-server-info"]);
}

/// Where a package tool of the image goes, and a command that goes there.
struct Tool {
    name: &'static str,
    /// Prints the hosts it needs, one a line, from its own configuration.
    hosts: &'static str,
    /// Exits with 0 when it came through.
    fetch: &'static str,
}

const TOOLS: [Tool; 2] = [
    Tool {
        name: "pip",
        hosts: "python3 -c 'from pip._internal.models.index import PyPI; print(PyPI.netloc); print(PyPI.file_storage_domain)'",
        fetch: "pip download -q --no-deps --no-cache-dir -d /tmp/p six",
    },
    Tool {
        name: "apt",
        hosts: r"grep -rhE '^(URIs:|deb )' /etc/apt | grep -oE 'https?://[^/ ]+' | sed 's,.*/,,' | sort -u",
        fetch: "apt-get -qq -o Acquire::Retries=1 update",
    },
];

#[tokio::test]
async fn package_tools_work_through_the_tunnel() {
    let Some(probe) = Daemon::start(Options::default()).await else {
        return;
    };
    probe.workspace("probe", &[]).await;
    let mut tools = Vec::new();
    let mut networks = Vec::new();
    for tool in &TOOLS {
        let said = probe.shell("probe", tool.hosts).await.text();
        let hosts: Vec<String> = said.split_whitespace().map(str::to_owned).collect();
        match addresses(&hosts).await {
            Some(found) => {
                networks.extend(found);
                tools.push((tool, hosts));
            }
            None => skip(format!(
                "{}: its hosts {hosts:?} do not answer here",
                tool.name
            )),
        }
    }
    drop(probe);
    networks.sort();
    networks.dedup();
    let mut options = Options::default();
    if !networks.is_empty() {
        options = options.env("COMPY_EGRESS_ALLOW_NETWORKS", networks.join(","));
    }
    // Where TLS is intercepted, this machine has been told by whom.
    if let Ok(bundle) = std::env::var("SSL_CERT_FILE") {
        options = options.set("workspace.extra_ca_file", bundle);
    }
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    for (tool, hosts) in tools {
        let name = tool.name;
        let mut arguments: Vec<&str> = vec!["--user", "root"];
        for host in &hosts {
            arguments.extend(["--allow", host.as_str()]);
        }
        daemon.workspace(name, &arguments).await;
        // A mirror may fail by itself.
        let patiently = format!(
            "for try in 1 2 3 4; do {} && exit 0; sleep 5; done; exit 1",
            tool.fetch
        );
        let done = daemon.shell(name, &patiently).await;
        assert_eq!(done.code(), Some(0), "{name}: {done:?}");
        // The same command finds the door shut, and says so.
        let _ = daemon
            .compyctl(&["workspace", "egress", name, "--egress", "none"])
            .await
            .expect_code(0);
        let fetch = tool.fetch.replace(" -q ", " ").replace(" -qq ", " ");
        let denied = daemon.shell(name, &format!("{fetch} 2>&1")).await.text();
        assert!(denied.contains("403"), "{name}: {denied}");
    }
}

/// Networks to allow so that all these hosts are reached; `None` when one does
/// not answer.
async fn addresses(hosts: &[String]) -> Option<Vec<String>> {
    let mut special = Vec::new();
    for host in hosts {
        let found = tokio::net::lookup_host((host.as_str(), 443)).await;
        let found: Vec<SocketAddr> = found.ok()?.collect();
        let connecting = tokio::net::TcpStream::connect(found.as_slice());
        let connected = tokio::time::timeout(Duration::from_secs(10), connecting).await;
        connected.ok()?.ok()?;
        let target = Target {
            host: Host::parse(host).ok()?,
            port: 443,
        };
        for address in found {
            let refused = AddressRules::default()
                .choose(&target, &[address.ip()])
                .is_err();
            if refused {
                special.push(address.ip().to_string());
            }
        }
    }
    (!hosts.is_empty()).then_some(special)
}
