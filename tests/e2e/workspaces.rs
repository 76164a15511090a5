//! Workspaces: their life, the commands in them, what they may and may not do,
//! and what cannot be made into one.

use std::{collections::HashMap, time::Duration};

use bollard::{
    models::{ContainerConfig, ContainerCreateBody},
    query_parameters::{CommitContainerOptions, CreateContainerOptions},
};
use compyd_proto::v1::{
    ExecAttach, ExecRequest, SignalExecRequest, WorkspaceState, exec_exit::How, exec_request,
    signal_exec_request::What,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    engine::{IMAGE, LABEL},
    exec::{collect, command, input, start},
    repository::{Repository, git},
    request_id,
    script::Script,
    sessions::{request, rests},
    skip::skip,
    wait,
};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use tonic_types::StatusExt;

async fn started() -> Option<Daemon> {
    let daemon = Daemon::start(Options::default()).await?;
    daemon.workspace("w", &[]).await;
    Some(daemon)
}

async fn names(daemon: &Daemon) -> Vec<(String, String)> {
    let list = daemon
        .compyctl(&["-o", "json", "workspace", "list"])
        .await
        .expect_code(0)
        .json();
    let name = |view: &Value, key: &str| view[key].as_str().unwrap().to_owned();
    let views = list.as_array().unwrap().iter();
    views
        .map(|view| (name(view, "name"), name(view, "state")))
        .collect()
}

#[tokio::test]
async fn a_workspace_keeps_what_is_in_it_over_stop_start_and_restart() {
    let Some(mut daemon) = started().await else {
        return;
    };
    daemon.workspace("v", &[]).await;
    let pair = |name: &str, state: &str| (name.to_owned(), state.to_owned());
    assert_eq!(
        names(&daemon).await,
        [pair("v", "running"), pair("w", "running")]
    );
    // In a volume, in the home, and in the root file system.
    let write = "echo a > /workspace/a && echo b > ~/b";
    assert_eq!(daemon.shell("w", write).await.code(), Some(0));
    let mut as_root = command("w", &["sh", "-c", "echo c > /opt/c"]);
    as_root.user = "root".to_owned();
    assert_eq!(daemon.exec(as_root).await.unwrap().code(), Some(0));
    for _ in 0..2 {
        let _ = daemon
            .compyctl(&["workspace", "stop", "w"])
            .await
            .expect_code(0);
        assert_eq!(
            daemon.workspace_now("w").await.state(),
            WorkspaceState::Stopped
        );
    }
    assert_eq!(
        names(&daemon).await,
        [pair("v", "running"), pair("w", "stopped")]
    );
    daemon.restart().await;
    assert_eq!(
        daemon.workspace_now("w").await.state(),
        WorkspaceState::Stopped
    );
    for _ in 0..2 {
        let _ = daemon
            .compyctl(&["workspace", "start", "w"])
            .await
            .expect_code(0);
    }
    let read = daemon.shell("w", "cat /workspace/a ~/b /opt/c").await;
    assert_eq!(read.text(), "a\nb\nc");

    let asked = daemon.compyctl(&["workspace", "delete", "w"]).await;
    assert_eq!(asked.code, 2, "a person's word is needed: {}", asked.stderr);
    let _ = daemon
        .compyctl(&["workspace", "delete", "w", "--yes"])
        .await
        .expect_code(0);
    assert_eq!(names(&daemon).await, [pair("v", "running")]);
    let gone = daemon.compyctl(&["workspace", "show", "w"]).await;
    assert!(
        gone.code == 2 && gone.stderr.contains("WORKSPACE_UNKNOWN"),
        "{}",
        gone.stderr
    );
    // Nothing of it is left with the engine; the other one has what it had.
    let kept = daemon.workspace_now("v").await.id;
    let engine = daemon.engine().await;
    let volumes = engine.workspace_volumes(daemon.run_name()).await;
    assert!(
        !volumes.is_empty() && volumes.iter().all(|name| name.contains(&kept)),
        "{volumes:?}"
    );
}

#[tokio::test]
async fn exec_passes_bytes_status_and_signals_through() {
    let Some(daemon) = started().await else {
        return;
    };
    let exec = async |args: &[&str], stdin: &[u8]| {
        let mut all = vec!["workspace", "exec", "w"];
        all.extend(args);
        daemon.client().args(all).stdin(stdin).run().await
    };
    // Standard input, every byte there is, and both outputs apart.
    let bytes: Vec<u8> = (0..=255).cycle().take(3 << 20).collect();
    let ran = exec(&["--", "sh", "-c", "cat; echo oops >&2; exit 7"], &bytes).await;
    assert_eq!((ran.code, ran.stderr.trim()), (7, "oops"));
    assert!(ran.stdout == bytes, "{} bytes came back", ran.stdout.len());
    for (args, code) in [
        (&["--", "true"][..], 0),
        (&["--", "sh", "-c", "kill -TERM $$"], 128 + 15),
        (&["--", "/no/such/program"], 127),
        (&["--", "/etc/passwd"], 126),
        (&["--timeout", "300ms", "--", "sleep", "60"], 124),
    ] {
        let ran = exec(args, b"").await;
        assert_eq!(ran.code, code, "{args:?}: {}", ran.stderr);
    }
    let ran = exec(
        &[
            "--cwd",
            "/tmp",
            "--env",
            "A=b c",
            "--",
            "sh",
            "-c",
            "pwd; echo $A",
        ],
        b"",
    )
    .await;
    assert_eq!(ran.text(), "/tmp\nb c\n");
    let ran = exec(&["--user", "root", "--", "id", "-u"], b"").await;
    assert_eq!(ran.text(), "0\n");
    let ran = exec(&["--", "id", "-u"], b"").await;
    assert_ne!(ran.text(), "0\n", "commands run as the image's user");
    let nowhere = daemon
        .compyctl(&["workspace", "exec", "nowhere", "--", "true"])
        .await;
    assert_eq!(nowhere.code, 125);
    assert!(
        nowhere.stderr.contains("WORKSPACE_UNKNOWN"),
        "{}",
        nowhere.stderr
    );
}

#[tokio::test]
async fn a_command_outlives_its_client_and_the_daemon_and_is_found_again() {
    let Some(mut daemon) = started().await else {
        return;
    };
    let script = "for i in $(seq 40); do echo line $i; echo err $i >&2; sleep 0.05; done; exit 5";
    let start_it = command("w", &["sh", "-c", script]);
    let id = start_it.request_id.clone();
    let messages = tokio_stream::once(start(start_it.clone()));
    let mut stream = daemon
        .workspaces()
        .exec(messages)
        .await
        .unwrap()
        .into_inner();
    stream.message().await.unwrap();
    drop(stream);
    daemon.restart().await;
    let attach = |stdout_offset| ExecRequest {
        part: Some(exec_request::Part::Attach(ExecAttach {
            workspace: "w".to_owned(),
            exec_id: id.clone(),
            stdout_offset,
            ..ExecAttach::default()
        })),
    };
    let stream = daemon
        .workspaces()
        .exec(tokio_stream::once(attach(0)))
        .await
        .unwrap();
    let done = collect(stream.into_inner()).await.unwrap();
    let wanted: String = (1..=40).map(|n| format!("line {n}\n")).collect();
    assert_eq!(String::from_utf8_lossy(&done.stdout), wanted);
    assert_eq!(done.code(), Some(5));
    // The same id again starts nothing: it is the same command.
    let again = daemon.exec(start_it).await.unwrap();
    assert_eq!((&again.stdout, again.code()), (&done.stdout, Some(5)));
    let mut other = command("w", &["true"]);
    other.request_id = id;
    let refused = daemon.exec(other).await.unwrap_err();
    let details = refused.get_error_details();
    assert!(
        details
            .error_info()
            .is_some_and(|info| info.reason.contains("CONFLICT")),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_signal_ends_the_whole_tree() {
    let Some(daemon) = started().await else {
        return;
    };
    let tree = command(
        "w",
        &[
            "sh",
            "-c",
            "setsid sleep 4321 & sh -c 'sleep 4321' & echo up; wait",
        ],
    );
    let id = tree.request_id.clone();
    let messages = tokio_stream::once(start(tree));
    let stream = daemon
        .workspaces()
        .exec(messages)
        .await
        .unwrap()
        .into_inner();
    let alive = "ps -eo args | grep -c '^sleep 4321' || true";
    wait::until("both sleeps", Duration::from_secs(20), async || {
        (daemon.shell("w", alive).await.text() == "2").then_some(())
    })
    .await;
    let signal = SignalExecRequest {
        request_id: request_id(),
        workspace: "w".to_owned(),
        exec_id: id,
        what: Some(What::EndAfterGraceMs(500)),
    };
    daemon.workspaces().signal_exec(signal).await.unwrap();
    let done = collect(stream).await.unwrap();
    assert!(
        matches!(done.exit.how, Some(How::Signal(_))),
        "{:?}",
        done.exit
    );
    wait::until("no sleep", wait::PATIENCE, async || {
        (daemon.shell("w", alive).await.text() == "0").then_some(())
    })
    .await;
}

#[tokio::test]
async fn files_are_copied_in_and_out() {
    let Some(daemon) = started().await else {
        return;
    };
    let tree = daemon.directory().join("tree");
    std::fs::create_dir_all(tree.join("deep/er")).unwrap();
    let content: Vec<u8> = (0..2_000_000_u32).flat_map(u32::to_le_bytes).collect();
    std::fs::write(tree.join("deep/er/file"), &content).unwrap();
    std::os::unix::fs::symlink("deep/er/file", tree.join("link")).unwrap();
    let copy = async |from: &str, to: &str| daemon.compyctl(&["workspace", "cp", from, to]).await;
    let _ = copy(tree.to_str().unwrap(), "w:/workspace/copied")
        .await
        .expect_code(0);
    let hash = daemon
        .shell("w", "readlink copied/link; stat -c %s copied/deep/er/file")
        .await;
    assert_eq!(hash.text(), format!("deep/er/file\n{}", content.len()));
    let back = daemon.directory().join("back");
    let _ = copy("w:/workspace/copied", back.to_str().unwrap())
        .await
        .expect_code(0);
    assert!(std::fs::read(back.join("link")).unwrap() == content);
    let missing = copy("w:/workspace/none", back.to_str().unwrap()).await;
    assert!(
        missing.code != 0 && missing.stderr.contains("none"),
        "{}",
        missing.stderr
    );
}

#[tokio::test]
async fn names_that_cannot_be_are_refused_and_leave_nothing() {
    let Some(daemon) = started().await else {
        return;
    };
    let long = "n".repeat(300);
    for (name, reason) in [
        ("w", "NAME_TAKEN"),
        ("", "NAME_INVALID"),
        (long.as_str(), "NAME_INVALID"),
        ("../x", "NAME_INVALID"),
        ("Ümlaut", "NAME_INVALID"),
        ("-dash", "NAME_INVALID"),
    ] {
        let ran = daemon.compyctl(&["workspace", "create", "--", name]).await;
        assert!(ran.code == 1 || ran.code == 2, "{name:?}: {ran:?}");
        assert!(ran.stderr.contains(reason), "{name:?}: {}", ran.stderr);
        assert!(
            ran.stderr.contains("try:"),
            "{name:?} says not what to do: {}",
            ran.stderr
        );
    }
    let image = daemon
        .compyctl(&["workspace", "create", "x", "--image", "no/such:image"])
        .await;
    assert!(
        image.code == 1 && image.stderr.contains("IMAGE_MISSING"),
        "{}",
        image.stderr
    );
    assert_eq!(names(&daemon).await.len(), 1);
    let engine = daemon.engine().await;
    assert_eq!(engine.containers(Some(daemon.run_name())).await.len(), 1);
}

#[tokio::test]
async fn tasks_that_are_none_are_refused_and_leave_nothing() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    let huge = daemon.directory().join("task");
    std::fs::write(&huge, "x".repeat(1 << 20)).unwrap();
    for args in [
        &[""][..],
        &["  \n"],
        &["--task-file", huge.to_str().unwrap()],
    ] {
        let mut all = vec![
            "run",
            "--repo",
            repository.arg(),
            "--model",
            "scripted:/none",
        ];
        all.extend(args);
        let ran = daemon.compyctl(&all).await;
        assert_eq!(ran.code, 2, "{}", ran.stderr);
        assert!(ran.stderr.contains("task"), "{}", ran.stderr);
    }
    // The daemon does not leave it to its client.
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    for task in [String::new(), " ".to_owned(), "x".repeat(1 << 20)] {
        let mut start = request("w", "scripted:/none");
        start.task = task;
        let refused = daemon.sessions().start_session(start).await.unwrap_err();
        let reason = refused.get_details_error_info().unwrap().reason;
        assert_eq!(reason, "TASK_INVALID");
    }
    let model = daemon
        .sessions()
        .start_session(request("w", "gpt"))
        .await
        .unwrap_err();
    assert_eq!(
        model.get_details_error_info().unwrap().reason,
        "MODEL_INVALID"
    );
    let none = daemon
        .sessions()
        .start_session(request("w", ""))
        .await
        .unwrap_err();
    assert_eq!(
        none.get_details_error_info().unwrap().reason,
        "MODEL_MISSING"
    );
    assert_eq!(names(&daemon).await.len(), 1);
}

#[tokio::test]
async fn repositories_that_cannot_be_fetched_say_why() {
    let options = Options::default().set("repository.allow_file_urls", "true");
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let empty = Repository::empty(daemon.directory().join("empty"));
    let sample = Repository::sample(daemon.directory().join("sample"));
    let locked = serve(
        "401 Unauthorized",
        "WWW-Authenticate: Basic realm=\"x\"\r\n",
    )
    .await;
    let missing = serve("404 Not Found", "").await;
    let file = |repository: &Repository| format!("file://{}", repository.arg());
    for (url, reason) in [
        (format!("{missing}/none.git"), "REPOSITORY_UNREACHABLE"),
        (
            "http://127.0.0.1:1/none.git".to_owned(),
            "REPOSITORY_UNREACHABLE",
        ),
        (format!("{locked}/private.git"), "REPOSITORY_NEEDS_LOGIN"),
        (file(&empty), "REPOSITORY_EMPTY"),
        (
            format!("{}#no-such-branch", file(&sample)),
            "REFERENCE_UNKNOWN",
        ),
        ("ext::sh -c id".to_owned(), ""),
    ] {
        let ran = daemon.compyctl(&["workspace", "add-repo", "w", &url]).await;
        assert_ne!(ran.code, 0, "{url} was taken");
        assert!(ran.stderr.contains(reason), "{url}: {}", ran.stderr);
    }
    assert_eq!(daemon.workspace_now("w").await.repositories, []);
    let _ = daemon
        .compyctl(&["workspace", "add-repo", "w", &file(&sample)])
        .await
        .expect_code(0);
    let twice = daemon
        .compyctl(&["workspace", "add-repo", "w", &file(&sample)])
        .await;
    assert!(
        twice.stderr.contains("REPOSITORY_EXISTS"),
        "{}",
        twice.stderr
    );
}

#[tokio::test]
async fn submodules_are_left_out_and_named() {
    let Some(daemon) = started().await else {
        return;
    };
    let inner = Repository::sample(daemon.directory().join("inner"));
    let outer = Repository::with_files(daemon.directory().join("outer"), &[("a", "a\n")]);
    outer.git(&["submodule", "--quiet", "add", inner.arg(), "vendored"]);
    outer.commit("with a submodule");
    let ran = daemon
        .compyctl(&["workspace", "add-repo", "w", outer.arg()])
        .await
        .expect_code(0);
    let said = format!("{}{}", ran.text(), ran.stderr);
    assert!(
        said.contains("vendored") || said.contains("submodule"),
        "{said}"
    );
    assert_eq!(
        daemon
            .shell("w", "cat outer/a; ls outer/vendored")
            .await
            .text(),
        "a"
    );
    let bare = git(outer.path(), &["rev-parse", "HEAD"]);
    assert_eq!(daemon.workspace_now("w").await.repositories[0].commit, bare);
}

/// A server that answers every request the same way; gives its URL.
async fn serve(status: &'static str, headers: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Ends with the test's runtime.
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut head: Vec<u8> = Vec::new();
            let mut buffer = [0; 4096];
            while !head.windows(4).any(|end| end == b"\r\n\r\n") {
                match stream.read(&mut buffer).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => head.extend(&buffer[..read]),
                }
            }
            let answer = format!(
                "HTTP/1.1 {status}\r\n{headers}Content-Length: 0\r\nConnection: close\r\n\r\n"
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    format!("http://{address}")
}

#[tokio::test]
async fn a_workspace_is_hardened_as_seen_from_outside_and_from_inside() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let workspace = daemon
        .workspace("w", &["--cpus", "1", "--memory", "512M", "--pids", "128"])
        .await;
    let engine = daemon.engine().await;
    let seen = engine.inspect(&workspace.container_id).await;
    let host = seen.host_config.unwrap();
    assert_eq!(host.privileged, Some(false));
    assert_eq!(host.network_mode.as_deref(), Some("none"));
    assert_eq!(host.cap_drop, Some(vec!["ALL".to_owned()]));
    let mut added = host.cap_add.unwrap();
    added.sort();
    assert_eq!(
        added,
        [
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "SETGID",
            "SETUID"
        ]
    );
    assert_eq!(
        host.security_opt,
        Some(vec!["no-new-privileges".to_owned()])
    );
    assert_eq!(
        (
            host.nano_cpus,
            host.memory,
            host.memory_swap,
            host.pids_limit
        ),
        (
            Some(1_000_000_000),
            Some(512 << 20),
            Some(512 << 20),
            Some(128)
        )
    );
    assert!(host.devices.unwrap_or_default().is_empty());
    let mounts = seen.mounts.unwrap();
    for mount in &mounts {
        let source = mount.source.clone().unwrap_or_default();
        assert!(!source.contains("docker.sock"), "{mount:?}");
        let target = mount.destination.clone().unwrap_or_default();
        if target == "/run/compy/link" || target == "/.compy" {
            assert_eq!(mount.rw, Some(false), "{mount:?}");
        }
    }
    // From inside, as root: the most that anything in there can be.
    let mut inside = command(
        "w",
        &[
            "sh",
            "-c",
            "grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -s '\\t ' ' '; \
             ls /sys/class/net; find /dev -type b 2>/dev/null; ls -d /dev/kmsg /dev/mem /dev/kvm /dev/fuse /dev/net 2>/dev/null; \
             (echo h > /proc/sysrq-trigger) 2>/dev/null && echo can-sysrq; \
             while read -r _ at kind _; do case $kind in cgroup*) \
             mkdir \"$at/x\" 2>/dev/null && echo cgroup-writable;; esac; done < /proc/mounts; \
             touch /.compy/x 2>/dev/null && echo agent-writable; \
             touch /run/compy/link/x 2>/dev/null && echo link-writable; \
             mount -t tmpfs none /mnt 2>/dev/null && echo can-mount; \
             echo 1 > /proc/sys/kernel/sysrq 2>/dev/null && echo can-sysctl; \
             for masked in kcore keys timer_list sched_debug latency_stats; do \
             [ \"$(head -c 1 /proc/$masked 2>/dev/null | wc -c)\" -eq 0 ] || echo readable: /proc/$masked; done; \
             find /proc/acpi /proc/scsi /sys/firmware -mindepth 1 2>/dev/null; \
             find / -path /proc -prune -o -type s -print 2>/dev/null \
             | grep -E 'docker|containerd|podman|crio|buildkit'; \
             tr '\\0' '\\n' < /proc/1/environ 2>/dev/null | grep -ciE 'key|token|secret'; true",
        ],
    );
    inside.user = "root".to_owned();
    let said = daemon.exec(inside).await.unwrap().text();
    // chown 0, dac_override 1, fowner 3, fsetid 4, kill 5, setgid 6, setuid 7
    let bits = 0b1111_1011;
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines[..4],
        [
            format!("CapEff: {bits:016x}"),
            format!("CapBnd: {bits:016x}"),
            "NoNewPrivs: 1".to_owned(),
            "Seccomp: 2".to_owned(),
        ],
        "{said}"
    );
    assert_eq!(lines[4], "lo", "no device but loopback: {said}");
    assert_eq!(
        lines[5..].iter().filter(|line| **line != "0").count(),
        0,
        "{said}"
    );
    // The pids limit holds: far more children than it allows.
    let forks = "for i in $(seq 400); do sleep 5 & done 2>/dev/null; wait; echo end";
    let mut many = command("w", &["sh", "-c", forks]);
    many.timeout_ms = 30_000;
    let many = daemon.exec(many).await.unwrap();
    assert!(!many.text().contains("panic"), "{many:?}");
    // What it left sleeping may hold the last places; the agent has its own.
    wait::until(
        "a place for a command",
        Duration::from_secs(20),
        async || (daemon.shell("w", "echo alive").await.text() == "alive").then_some(()),
    )
    .await;
}

#[tokio::test]
async fn a_bridge_is_given_only_when_asked_for() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let engine = daemon.engine().await;
    if !engine.has_bridge().await {
        skip("this engine has no bridge");
        return;
    }
    let workspace = daemon.workspace("w", &["--network", "bridge"]).await;
    let seen = engine.inspect(&workspace.container_id).await;
    assert_eq!(
        seen.host_config.unwrap().network_mode.as_deref(),
        Some("bridge")
    );
    assert_eq!(
        daemon
            .shell("w", "ls /sys/class/net | grep -c eth0")
            .await
            .text(),
        "1"
    );
}

#[tokio::test]
async fn packages_that_an_image_has_install_scripts_for_can_be_unpacked_as_root() {
    let Some(daemon) = started().await else {
        return;
    };
    // What apt and dpkg need of root, without a network: owners, modes, setgid
    // files, another account.
    let mut root = command(
        "w",
        &[
            "sh",
            "-c",
            "set -e; cd /opt; touch a; chown nobody:mail a; chmod 2755 a; stat -c '%U:%G %a' a; \
             su -s /bin/sh nobody -c 'id -un'",
        ],
    );
    root.user = "root".to_owned();
    let done = daemon.exec(root).await.unwrap();
    assert_eq!(done.text(), "nobody:mail 2755\nnobody", "{done:?}");
}

#[tokio::test]
async fn workspaces_are_adopted_when_the_store_is_lost() {
    let Some(mut daemon) = started().await else {
        return;
    };
    let before = daemon.workspace_now("w").await;
    assert_eq!(
        daemon
            .shell("w", "echo kept > /workspace/kept")
            .await
            .code(),
        Some(0)
    );
    daemon.kill().await;
    std::fs::remove_dir_all(daemon.data_dir().join("store")).unwrap();
    daemon.restart().await;
    let after = wait::until(
        "the adopted workspace",
        Duration::from_secs(30),
        async || {
            let seen = names(&daemon).await;
            (seen == [("w".to_owned(), "running".to_owned())]).then_some(())
        },
    );
    after.await;
    let after = daemon.workspace_now("w").await;
    assert_eq!((after.id, after.image), (before.id, before.image));
    assert_eq!(
        daemon.shell("w", "cat /workspace/kept").await.text(),
        "kept"
    );
    assert_eq!(
        daemon
            .engine()
            .await
            .containers(Some(daemon.run_name()))
            .await
            .len(),
        1
    );
}

#[tokio::test]
async fn a_workspace_with_a_session_is_deleted_by_force_alone() {
    let Some(daemon) = Daemon::with_sample(Options::default()).await else {
        return;
    };
    let model = Script::new()
        .tool("run_command", serde_json::json!({"command": "sleep 600"}))
        .write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    let busy = daemon
        .compyctl(&["workspace", "delete", "w", "--yes"])
        .await;
    assert!(
        busy.code == 1 && busy.stderr.contains("WORKSPACE_BUSY"),
        "{}",
        busy.stderr
    );
    let _ = daemon
        .compyctl(&["workspace", "delete", "w", "--yes", "--force"])
        .await
        .expect_code(0);
    let session = daemon
        .session_when(&id, "end", |session| rests(session.state()))
        .await;
    assert_eq!(session.state(), compyd_proto::v1::SessionState::Cancelled);
    assert_eq!(names(&daemon).await, []);
}

#[tokio::test]
async fn a_hundred_megabytes_go_through_a_command_unharmed() {
    let Some(daemon) = started().await else {
        return;
    };
    let mut echo = command("w", &["cat"]);
    echo.stdin = true;
    let bytes: Vec<u8> = (0..100_u32 << 20)
        .map(|n| (n.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    let done = daemon.exec_with(echo, input(&bytes)).await.unwrap();
    assert_eq!(done.code(), Some(0));
    assert!(
        done.stdout == bytes,
        "{} bytes came back",
        done.stdout.len()
    );
}

/// Makes an image that declares volumes. It goes with the run.
async fn image_with_volumes(daemon: &Daemon, paths: &[&str]) -> String {
    let engine = daemon.engine().await;
    let docker = engine.docker();
    let labels = HashMap::from([(LABEL.to_owned(), daemon.run_name().to_owned())]);
    let body = ContainerCreateBody {
        image: Some(IMAGE.to_owned()),
        labels: Some(labels.clone()),
        ..Default::default()
    };
    let made = docker.create_container(None::<CreateContainerOptions>, body);
    let container = made.await.unwrap().id;
    let name = format!("compy/test-volumes:{}", daemon.run_name());
    let (repository, tag) = name.rsplit_once(':').unwrap();
    let options = CommitContainerOptions {
        container: Some(container.clone()),
        repo: Some(repository.to_owned()),
        tag: Some(tag.to_owned()),
        ..Default::default()
    };
    let config = ContainerConfig {
        volumes: Some(paths.iter().map(|&path| path.to_owned()).collect()),
        labels: Some(labels),
        ..Default::default()
    };
    docker.commit_container(options, config).await.unwrap();
    docker.remove_container(&container, None).await.unwrap();
    name
}

#[tokio::test]
async fn an_image_that_keeps_files_where_no_snapshot_has_them_is_refused() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    // Where a workspace has a volume of its own, nothing is lost.
    for (paths, foreign) in [
        (vec!["/workspace", "/tmp"], ""),
        (
            vec!["/workspace", "/var/lib/db", "/workspace/cache"],
            "/var/lib/db, /workspace/cache",
        ),
    ] {
        let image = image_with_volumes(&daemon, &paths).await;
        let made = daemon
            .compyctl(&["workspace", "create", "w", "--image", &image])
            .await;
        if foreign.is_empty() {
            let _ = made.expect_code(0);
            let delete = ["workspace", "delete", "w", "--yes"];
            let _ = daemon.compyctl(&delete).await.expect_code(0);
            continue;
        }
        assert_eq!(made.code, 1, "{made:?}");
        for said in ["IMAGE_VOLUMES", foreign, "docker export"] {
            assert!(made.stderr.contains(said), "{said}: {}", made.stderr);
        }
    }
    assert_eq!(names(&daemon).await, []);
}
