//! `make recovery-report`: real faults inside real sessions, and what came of
//! them, class by class.
//!
//! `compy-recovery-report TARGET` wants `compyd`, `compyctl` and `compy-agent` in
//! `TARGET/release`, an engine and the default image. The model is scripted: it
//! goes on only where the daemon named the class of the failure, as its advice
//! says, and then does the task. Nothing prints a failure that does not happen: a
//! file system is full, a process is killed, a server refuses.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use compyd_proto::v1::{SessionState, Workflow};
use compyd_tests::{
    daemon::{Daemon, Options},
    programs::Programs,
    repository::Repository,
    script::{Script, call},
    sessions::{request, story},
};
use serde_json::json;

/// Share of the recoverable classes that have to recover.
const RECOVERED_MIN: f64 = 0.6;

/// What has to come of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// The session does its task all the same.
    Recovered,
    /// A person is asked.
    Escalated,
}

/// A fault: how it is brought about, and what helps.
struct Fault {
    class: &'static str,
    /// A command that fails for a real reason.
    cause: &'static str,
    /// What the advice leads to.
    remedy: &'static str,
    end: End,
}

const fn recovers(class: &'static str, cause: &'static str, remedy: &'static str) -> Fault {
    Fault {
        class,
        cause,
        remedy,
        end: End::Recovered,
    }
}

const fn escalates(class: &'static str, cause: &'static str) -> Fault {
    Fault {
        class,
        cause,
        remedy: "",
        end: End::Escalated,
    }
}

/// A server on a free port that answers with the statuses given, one after the
/// other, and a shell line that has its address in `$at`.
macro_rules! against_server {
    ($statuses:literal, $line:literal) => {
        concat!(
            "cat > /tmp/server.py <<'END'\n",
            "import http.server, sys\n",
            "statuses = list(map(int, sys.argv[1:]))\n",
            "class Handler(http.server.BaseHTTPRequestHandler):\n",
            "    def do_GET(self):\n",
            "        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])\n",
            "        self.send_header('WWW-Authenticate', 'Basic realm=\"x\"')\n",
            "        self.send_header('Content-Length', '0')\n",
            "        self.end_headers()\n",
            "    def log_message(self, *_): pass\n",
            "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n",
            "print(server.server_port, flush=True)\n",
            "server.serve_forever()\n",
            "END\n",
            "coproc python3 /tmp/server.py ",
            $statuses,
            "\nread -r port <&${COPROC[0]}; at=http://127.0.0.1:$port; export no_proxy=127.0.0.1\n",
            $line
        )
    };
}

const FAULTS: &[Fault] = &[
    recovers(
        "COMMAND_NOT_FOUND",
        "pytset -q",
        "python -m pytest -q || true",
    ),
    recovers(
        "COMMAND_NOT_FOUND",
        "printf '#!/nowhere/python3\\nprint(1)\\n' > /tmp/tool; chmod +x /tmp/tool; /tmp/tool",
        "python3 /tmp/tool",
    ),
    recovers(
        "PERMISSION_DENIED",
        "touch /usr/lib/mine",
        "touch /workspace/mine",
    ),
    recovers("TIMEOUT", "timeout 1 sleep 60", "timeout 10 sleep 0.1"),
    recovers(
        "DISK_FULL",
        "dd if=/dev/zero of=/dev/shm/fill bs=1M count=100000 2>&1",
        "rm /dev/shm/fill && dd if=/dev/zero of=/dev/shm/fill bs=1M count=1 && rm /dev/shm/fill",
    ),
    recovers(
        "OUT_OF_MEMORY",
        "ulimit -v 400000; python3 -c 'x = bytearray(1 << 30)'",
        "python3 -c 'x = bytearray(1 << 20)'",
    ),
    recovers("OUT_OF_MEMORY", "sh -c 'kill -9 $$'", "sh -c 'true'"),
    recovers(
        "SYNTAX_ERROR",
        "printf 'def f(:\\n    pass\\n' > /tmp/broken.py; python3 /tmp/broken.py",
        "printf 'def f():\\n    pass\\n' > /tmp/broken.py; python3 /tmp/broken.py",
    ),
    recovers(
        "IMPORT_ERROR",
        "python3 -c 'import no_such_module_here'",
        "python3 -c 'import json'",
    ),
    recovers("TYPE_ERROR", "python3 -c 'len(1)'", "python3 -c 'len([1])'"),
    recovers(
        "RUNTIME_ERROR",
        "python3 -c '{}[\"name\"]'",
        "python3 -c '{}.get(\"name\")'",
    ),
    recovers(
        "PORT_IN_USE",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); a.listen(); b = socket.socket(); b.bind(a.getsockname())'",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); a.listen()'",
    ),
    recovers(
        "NETWORK_ERROR",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); at = a.getsockname(); a.close(); socket.create_connection(at)'",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); a.listen(); socket.create_connection(a.getsockname())'",
    ),
    recovers(
        "API_ERROR",
        against_server!("503", "curl -sSf $at"),
        against_server!("200", "curl -sSf $at"),
    ),
    recovers(
        "RATE_LIMIT",
        against_server!("429", "curl -sSf $at"),
        against_server!("200", "curl -sSf $at"),
    ),
    recovers(
        "ASSERTION_ERROR",
        "python -m pytest -q",
        "python -m pytest -q -k 'not just_fits'",
    ),
    recovers(
        "FIXTURE_ERROR",
        "mkdir -p /tmp/t; printf 'def test_a(client):\\n    pass\\n' > /tmp/t/test_a.py; python -m pytest -q /tmp/t",
        "printf 'def test_a():\\n    pass\\n' > /tmp/t/test_a.py; python -m pytest -q /tmp/t",
    ),
    recovers(
        "TEST_FAILURE",
        "mkdir -p /tmp/empty; python -m pytest -q /tmp/empty",
        "python -m pytest -q --collect-only",
    ),
    recovers(
        "MERGE_CONFLICT",
        "rm -rf /tmp/m; git init -qb main /tmp/m; cd /tmp/m; git config user.email a@b; git config user.name a; echo 1 > f; git add f; git commit -qm 1; git switch -qc b; echo 2 > f; git commit -qam 2; git switch -q main; echo 3 > f; git commit -qam 3; git merge b",
        "cd /tmp/m; echo 3 > f; git add f; git commit -qm merged",
    ),
    recovers(
        "BRANCH_EXISTS",
        "rm -rf /tmp/b; git init -qb main /tmp/b; cd /tmp/b; git config user.email a@b; git config user.name a; git commit -q --allow-empty -m 1; git branch x; git branch x",
        "cd /tmp/b; git switch -q x",
    ),
    escalates(
        "AUTH_ERROR",
        against_server!("401", "GIT_TERMINAL_PROMPT=0 git ls-remote $at/x.git"),
    ),
    escalates("NETWORK_ERROR", "curl -sSf https://denied.invalid/"),
];

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<ExitCode> {
    let target = std::env::args()
        .nth(1)
        .map(PathBuf::from)
        .context("usage: compy-recovery-report TARGET_DIRECTORY")?;
    let programs = Programs::in_directory(&target.join("release"));
    let Some(daemon) = Daemon::start(Options::default().programs(programs)).await else {
        bail!("this machine cannot run workspaces; why was said above");
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    let (mut recovered, mut escalated, mut wrong, mut recoverable) = (0, 0, 0, 0_usize);
    println!("{:<20} {:<10} FAULT", "CLASS", "CAME OF IT");
    for (number, fault) in FAULTS.iter().enumerate() {
        let workspace = format!("fault-{number}");
        daemon
            .workspace(&workspace, &["--repo", repository.arg()])
            .await;
        let (end, why) = run(&daemon, &workspace, fault).await;
        let verdict = match end {
            Some(End::Recovered) => "recovered",
            Some(End::Escalated) => "escalated",
            None => "wrong",
        };
        println!(
            "{:<20} {verdict:<10} {}",
            fault.class,
            first_line(fault.cause)
        );
        recoverable += usize::from(fault.end == End::Recovered);
        recovered += usize::from(end == Some(End::Recovered));
        escalated += usize::from(end == Some(End::Escalated));
        if end != Some(fault.end) {
            wrong += 1;
            println!("{why}");
        }
        let _ = daemon
            .compyctl(&["workspace", "delete", &workspace, "--yes"])
            .await;
    }
    let share = recovered as f64 / recoverable as f64;
    println!(
        "{} faults: {recovered} recovered, {escalated} escalated, {wrong} wrong; {:.0} % of the recoverable recovered",
        FAULTS.len(),
        share * 100.0
    );
    Ok(match wrong == 0 && share >= RECOVERED_MIN {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// What came of a fault, and the session's story.
async fn run(daemon: &Daemon, workspace: &str, fault: &Fault) -> (Option<End>, String) {
    let command = |line: &str| call("run_command", json!({"command": line, "timeout_s": 120}));
    let knows = format!(r"\[{}: ", fault.class);
    let script = Script::new().calls([
        call("read_file", json!({"path": "textkit/slug.py"})),
        command(fault.cause),
    ]);
    let script = match fault.end {
        End::Recovered => script
            .line(json!({"expect": knows, "tool_calls": [command(fault.remedy)]}))
            .line(json!({"expect": r"\[exit 0, ", "tool_calls": [call(
                "edit_file",
                json!({"path": "textkit/slug.py", "replacements": [
                    {"old_text": "len(longer) >= max_length", "new_text": "len(longer) > max_length"}]}),
            )]}))
            .tool("advance", json!({"summary": "done"})),
        End::Escalated => script.line(json!({"expect": knows, "tool_calls": [call(
            "report_environment_issue",
            json!({"issue": "it is not reached from here", "tried": first_line(fault.cause), "blocking": true}),
        )]})),
    };
    let mut start = request(workspace, &script.write(daemon.directory()));
    if let Some(options) = &mut start.options {
        options.workflow = Workflow::None.into();
    }
    let id = daemon.start_session(start).await;
    let session = daemon.rested(&id).await;
    let end = match session.state() {
        SessionState::Verified => Some(End::Recovered),
        SessionState::Waiting => Some(End::Escalated),
        SessionState::Unspecified
        | SessionState::Running
        | SessionState::Paused
        | SessionState::Interrupted
        | SessionState::Failed
        | SessionState::Cancelled => None,
    };
    let why = format!(
        "{}\n{}",
        session.state_reason,
        story(&daemon.events(&id, 0).await)
    );
    let _ = daemon.compyctl(&["session", "cancel", &id]).await;
    (end, why)
}

fn first_line(text: &str) -> String {
    text.lines()
        .next()
        .unwrap_or_default()
        .chars()
        .take(90)
        .collect()
}
