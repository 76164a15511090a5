//! Logins and keys for hosts: used by git and ssh in a workspace, and nowhere in it.

use std::{
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use compyd_proto::v1::ExecStart;
use compyd_tests::{
    daemon::{Daemon, Options},
    exec::{Done, command},
    git_https::GitHost,
    repository::{Repository, git},
    skip::skip,
};
use serde_json::Value;

const TOKEN: &str = "canary_T0ken_8d31f0c6aa47";

/// A daemon that reaches this machine, and trusts the authority of the tests' host.
async fn daemon() -> Option<Daemon> {
    let options = Options::default()
        .set("egress.allow_networks", "127.0.0.1")
        .set(
            "workspace.extra_ca_file",
            GitHost::authority().display().to_string(),
        );
    Daemon::start(options).await
}

async fn run(daemon: &Daemon, workspace: &str, user: &str, script: &str) -> Done {
    let start = ExecStart {
        user: user.to_owned(),
        timeout_ms: 60_000,
        ..command(workspace, &["bash", "-c", script])
    };
    daemon.exec(start).await.unwrap()
}

/// Both outputs of a script that git and ssh may say something in.
async fn said(daemon: &Daemon, workspace: &str, script: &str) -> String {
    let done = run(daemon, workspace, "", &format!("exec 2>&1; {script}")).await;
    format!("{}\nexit {:?}", done.text(), done.code())
}

/// What a person would run to find a secret: every environment, every file that is
/// not a device's, git's settings.
const LOOK_EVERYWHERE: &str = r#"
for each in /proc/[0-9]*/environ /proc/[0-9]*/cmdline; do tr '\0' '\n' < "$each"; done 2>/dev/null
cd /workspace/it 2>/dev/null && git config --list && cat .git/config
find / -xdev \( -path /proc -o -path /sys -o -path /usr -o -path /dev \) -prune -o -type f -size -4M -exec cat {} + 2>/dev/null
find /workspace /home /root /tmp /var/tmp /var/lib/compy /run -type f -size -4M -exec cat {} + 2>/dev/null
exit 0"#;

/// Holds for what a workspace has of a value: nothing, in no form. Redaction is
/// told off by its marker.
async fn has_nothing_of(daemon: &Daemon, workspace: &str, values: &[&str]) {
    let everything = run(daemon, workspace, "root", LOOK_EVERYWHERE).await.stdout;
    assert!(everything.len() > 10_000, "the look sees something");
    let redacted = b"[redacted:";
    let holds = |sought: &[u8]| everything.windows(sought.len()).any(|part| part == sought);
    assert!(!holds(redacted), "something was redacted");
    for value in values {
        let base64 = STANDARD.encode(value);
        for form in [value.as_bytes(), base64.trim_end_matches('=').as_bytes()] {
            assert!(!holds(form), "{value}");
        }
    }
}

/// Uses of credentials that are on record, the newest first.
async fn uses(daemon: &Daemon) -> Vec<Value> {
    let search = ["-o", "json", "audit", "search", "--kind", "credential_use"];
    let ran = daemon.compyctl(&search).await.expect_code(0);
    let lines = ran.text();
    let records = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap());
    records.collect()
}

async fn set(daemon: &Daemon, arguments: &[&str], value: &str) {
    let arguments = [&["credential", "set"], arguments].concat();
    let ran = daemon.client().args(arguments).stdin(value).run().await;
    let ran = ran.expect_code(0);
    assert!(!format!("{}{}", ran.text(), ran.stderr).contains(value));
}

/// A bare repository `me/it.git` below a directory, with one commit.
fn repository(daemon: &Daemon) -> PathBuf {
    let source = Repository::with_files(
        daemon.directory().join("source"),
        &[("readme", "private\n")],
    );
    let root = daemon.directory().join("host");
    std::fs::create_dir_all(root.join("me")).unwrap();
    let target = root.join("me/it.git").display().to_string();
    git(source.path(), &["clone", "--quiet", "--bare", ".", &target]);
    root
}

#[tokio::test]
async fn a_private_repository_is_cloned_and_its_login_is_not_in_the_workspace() {
    let Some(daemon) = daemon().await else {
        return;
    };
    let login = format!("me:{TOKEN}");
    let header = format!("Basic {}", STANDARD.encode(&login));
    let host = GitHost::start(&repository(&daemon), &header).await;
    let place = format!("localhost:{}", host.port);
    for name in ["w", "other"] {
        daemon.workspace(name, &["--allow", &place]).await;
    }
    daemon.workspace("closed", &[]).await;
    for name in ["w", "closed"] {
        let scope = [
            "forge",
            "--workspace",
            name,
            "--kind",
            "git",
            "--host",
            &place,
        ];
        set(&daemon, &scope, &login).await;
    }
    let url = format!("https://{place}/me/it.git");
    let clone = format!(
        "cd /workspace && git clone {url} it && cat it/readme && git -C it config remote.origin.url && git -C it fetch"
    );
    let cloned = said(&daemon, "w", &clone).await;
    assert!(cloned.contains("private\n"), "{cloned}");
    assert!(cloned.contains(&format!("\n{url}\n")), "{cloned}");
    assert!(cloned.ends_with("exit Some(0)"), "{cloned}");

    // Each request was on record before it was made.
    let uses = uses(&daemon).await;
    let asked = host.seen();
    assert_eq!(uses.len(), asked.len(), "{uses:?} {asked:?}");
    assert!(
        asked.iter().all(|seen| seen.authorization == header),
        "{asked:?}"
    );
    for record in &uses {
        let detail = record["detail"].to_string();
        for part in ["forge", &place, "/me/it.git"] {
            assert!(detail.contains(part), "{record}");
        }
    }
    has_nothing_of(&daemon, "w", &[TOKEN, &login]).await;

    // Nothing but reading passes, also for who goes by the stand-in itself.
    let stand_in = format!("http://localhost.compy-git.internal:{}", host.port);
    let push = "cd /workspace/it && git -c user.name=x -c user.email=x@example.com commit -q --allow-empty -m x && git push origin HEAD:refs/heads/x";
    let pushed = said(&daemon, "w", push).await;
    assert!(
        pushed.contains("403") && pushed.ends_with("exit Some(128)"),
        "{pushed}"
    );
    for (path, expected) in [
        (
            "/me/it.git/info/refs?service=git-receive-pack",
            "published by the daemon",
        ),
        ("/me/it.git/HEAD", "only what"),
        (
            "/moved/it.git/info/refs?service=git-upload-pack",
            "leads elsewhere",
        ),
        (
            "/none.git/info/refs?service=git-upload-pack",
            "answered 404",
        ),
    ] {
        let curl = format!("curl -sS '{stand_in}{path}'");
        let answer = said(&daemon, "w", &curl).await;
        assert!(answer.contains(expected), "{path}: {answer}");
    }
    let connect = said(
        &daemon,
        "w",
        &format!("curl -sS -p {stand_in}/me/it.git/HEAD"),
    )
    .await;
    assert!(!connect.contains("refs/heads"), "{connect}");
    let refs = host
        .seen()
        .into_iter()
        .filter(|seen| seen.line.contains("receive-pack"));
    assert_eq!(refs.count(), 0, "a push came to the host");

    // Out of scope there is no login, on either way.
    let before = host.seen().len();
    let direct = said(
        &daemon,
        "other",
        &format!("unset no_proxy NO_PROXY; GIT_TERMINAL_PROMPT=0 git ls-remote {url}"),
    )
    .await;
    assert!(
        direct.contains("Username") || direct.contains("401"),
        "{direct}"
    );
    let refs = format!("curl -sS '{stand_in}/me/it.git/info/refs?service=git-upload-pack'");
    let by_name = said(&daemon, "other", &refs).await;
    assert!(by_name.contains("no login for localhost"), "{by_name}");
    let seen = host.seen().split_off(before);
    assert!(
        seen.iter().all(|seen| seen.authorization.is_empty()),
        "{seen:?}"
    );
    // The rules of the workspace come first.
    let denied = said(&daemon, "closed", &format!("git ls-remote {url}")).await;
    assert!(denied.contains("403"), "{denied}");
    assert_eq!(
        host.seen().len(),
        before + seen.len(),
        "a closed workspace got through"
    );

    // A login that the host refuses is said to be refused, and not repeated.
    set(
        &daemon,
        &[
            "forge",
            "--workspace",
            "w",
            "--kind",
            "git",
            "--host",
            &place,
        ],
        "me:wr0ng-Pass-word",
    )
    .await;
    let wrong = said(&daemon, "w", &refs).await;
    assert!(
        wrong.contains("stored login") && !wrong.contains("Basic"),
        "{wrong}"
    );
    // With its workspace a credential is gone.
    let delete = ["workspace", "delete", "w", "--yes"];
    let _ = daemon.compyctl(&delete).await.expect_code(0);
    let listed = daemon.compyctl(&["credential", "list", "-o", "json"]).await;
    assert_eq!(
        listed.json().as_array().map(Vec::len),
        Some(1),
        "{}",
        listed.text()
    );
}

/// Keys that may log in, as `ssh-keygen` names their kinds.
const LOGIN_KINDS: [&str; 3] = ["ed25519", "ecdsa", "rsa"];

/// A server of OpenSSH on this machine; it ends with this.
struct SshHost {
    port: u16,
    child: Child,
    directory: PathBuf,
}

impl SshHost {
    /// Lets the keys `login-KIND.pub` in the directory in, and serves this account.
    fn start(directory: &Path) -> Option<Self> {
        let program = Path::new("/usr/sbin/sshd");
        if !program.is_file() {
            skip("there is no /usr/sbin/sshd (openssh-server)");
            return None;
        }
        let key = |name: &str, kind: &str| {
            let file = directory.join(name);
            let made = Command::new("ssh-keygen")
                .args(["-q", "-t", kind, "-N", "", "-C", "test", "-f"])
                .arg(&file)
                .status()
                .unwrap();
            assert!(made.success());
            file.display().to_string()
        };
        let host_key = key("host", "ed25519");
        for kind in LOGIN_KINDS {
            key(&format!("login-{kind}"), kind);
        }
        key("unknown", "ed25519");
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = free.local_addr().unwrap().port();
        drop(free);
        // It wants this for what it does before a login.
        let _ = std::fs::create_dir_all("/run/sshd");
        let keys = LOGIN_KINDS.map(|kind| {
            let public = format!("login-{kind}.pub");
            directory.join(public).display().to_string()
        });
        let child = Command::new(program)
            .args(["-D", "-e", "-f", "/dev/null", "-h", &host_key])
            .args([
                "-o",
                &format!("Port={port}"),
                "-o",
                "ListenAddress=127.0.0.1",
            ])
            .args(["-o", &format!("AuthorizedKeysFile={}", keys.join(" "))])
            .args([
                "-o",
                "StrictModes=no",
                "-o",
                "UsePAM=no",
                "-o",
                "PidFile=none",
            ])
            .args([
                "-o",
                "PasswordAuthentication=no",
                "-o",
                "PermitRootLogin=yes",
            ])
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let directory = directory.to_owned();
        let mut host = Self {
            port,
            child,
            directory,
        };
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            let ended = host.child.try_wait().unwrap();
            assert_eq!(ended, None, "sshd has ended; did somebody take {port}?");
            std::thread::sleep(Duration::from_millis(50));
        }
        Some(host)
    }

    fn file(&self, name: &str) -> String {
        std::fs::read_to_string(self.directory.join(name)).unwrap()
    }
}

impl Drop for SshHost {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn a_login_by_ssh_is_signed_for_its_host_and_the_key_stays_outside() {
    let Some(daemon) = daemon().await else {
        return;
    };
    let directory = daemon.directory().join("ssh");
    std::fs::create_dir_all(&directory).unwrap();
    let Some(host) = SshHost::start(&directory) else {
        return;
    };
    let root = repository(&daemon);
    let account =
        String::from_utf8(Command::new("id").arg("-un").output().unwrap().stdout).unwrap();
    let account = account.trim();
    let place = format!("localhost:{}", host.port);
    for name in ["w", "other"] {
        daemon.workspace(name, &["--allow", &place]).await;
    }
    let key = host.file("login-ed25519");
    let host_key = directory.join("host.pub").display().to_string();
    let arguments = [
        "deploy",
        "--workspace",
        "w",
        "--kind",
        "ssh-key",
        "--host",
        &place,
        "--host-key",
        &host_key,
    ];
    set(&daemon, &arguments, &key).await;

    let url = format!("ssh://{account}@{place}{}/me/it.git", root.display());
    let clone = format!("cd /workspace && git clone {url} it && cat it/readme");
    let cloned = said(&daemon, "w", &clone).await;
    assert!(cloned.contains("private\n"), "{cloned}\n{}", daemon.log());
    let uses = uses(&daemon).await;
    assert!(
        uses.len() == 1 && uses[0]["detail"].to_string().contains("deploy"),
        "{uses:?}"
    );
    assert!(uses[0]["detail"].to_string().contains(account), "{uses:?}");

    // The agent lists the public key and does nothing else.
    let listed = said(&daemon, "w", "ssh-add -L").await;
    let public = host.file("login-ed25519.pub");
    let blob = public.split(' ').nth(1).unwrap();
    assert!(listed.contains(blob), "{listed}");
    for refused in [
        "ssh-add -D",
        "ssh-add -x < /dev/null",
        "ssh-keygen -q -t ed25519 -N '' -f ~/own && ssh-add ~/own",
        "ssh-add -L > /tmp/d.pub; echo x > /tmp/x; ssh-keygen -Y sign -n file -f /tmp/d.pub /tmp/x",
    ] {
        let refused_with = said(&daemon, "w", refused).await;
        assert!(
            !refused_with.ends_with("exit Some(0)"),
            "{refused}: {refused_with}"
        );
    }
    let lines: Vec<&str> = key
        .lines()
        .filter(|line| !line.starts_with("-----"))
        .collect();
    // The first line is the same for every key, also for one that was made there.
    has_nothing_of(&daemon, "w", &lines[1..]).await;

    // A workspace out of scope has neither the key nor the way.
    let other = said(&daemon, "other", "ssh-add -L; env | grep SSH").await;
    assert!(
        !other.contains(blob) && !other.contains("SSH_AUTH_SOCK"),
        "{other}"
    );
    let socket = "SSH_AUTH_SOCK=/run/compy/ssh-agent.sock ssh-add -L";
    let other = said(&daemon, "other", socket).await;
    assert!(other.contains("no identities"), "{other}");

    for kind in LOGIN_KINDS {
        let key = host.file(&format!("login-{kind}"));
        set(&daemon, &arguments, &key).await;
        let read = said(&daemon, "w", &format!("git ls-remote {url} main")).await;
        assert!(read.contains("refs/heads/main"), "{kind}: {read}");
    }

    // A host that shows another key than the one that is named is not spoken with.
    let wrong = directory.join("unknown.pub").display().to_string();
    let arguments = [
        "deploy",
        "--workspace",
        "w",
        "--kind",
        "ssh-key",
        "--host",
        &place,
        "--host-key",
        &wrong,
    ];
    set(&daemon, &arguments, &key).await;
    let refused = said(&daemon, "w", &format!("git ls-remote {url}")).await;
    assert!(refused.contains("verification failed"), "{refused}");
    // Nor does ignoring that get a signature.
    let lax = format!(
        "ssh -F /dev/null -o StrictHostKeyChecking=no -o UserKnownHostsFile=/dev/null -o 'ProxyCommand=/.compy/compy-agent connect %h %p' -o BatchMode=yes -p {} {account}@localhost true",
        host.port
    );
    let refused = said(&daemon, "w", &lax).await;
    assert!(refused.contains("Permission denied"), "{refused}");
}

#[tokio::test]
async fn a_credential_is_given_to_the_tools_that_it_names() {
    let Some(daemon) = daemon().await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let scope = ["by-people", "--workspace", "w"];
    set(&daemon, &scope, TOKEN).await;
    let only_checks = ["by-checks", "--workspace", "w", "--tool", "check"];
    set(&daemon, &only_checks, "canary_T0ken_of-checks").await;
    let env = said(&daemon, "w", "env").await;
    assert!(
        env.contains("BY_PEOPLE=") && !env.contains("BY_CHECKS"),
        "{env}"
    );
    let listed = daemon.compyctl(&["credential", "list"]).await.text();
    assert!(
        listed.contains("exec,run_command") && listed.contains("check"),
        "{listed}"
    );
    let wrong = ["credential", "set", "x", "--global", "--tool", "nobody"];
    let refused = daemon.client().args(wrong).stdin(TOKEN).run().await;
    let refused = refused.expect_code(2);
    assert!(refused.stderr.contains("run_command"), "{}", refused.stderr);
    let login = ["x", "--global", "--kind", "git", "--host", "git.example"];
    let login = [&["credential", "set", "--tool", "exec"], &login[..]].concat();
    let refused = daemon.client().args(login).stdin(TOKEN).run().await;
    let refused = refused.expect_code(2);
    assert!(
        refused.stderr.contains("leave --tool out"),
        "{}",
        refused.stderr
    );
}
