//! Commands of the model's that fail.

use std::collections::HashMap;

use compyd_proto::v1::{Session, SessionEvent, Workflow, session_event::Event};
use serde_json::{Value, json};

use super::{
    BROKEN, End, Outcome, TEST, delete, ended, fixed, read, run, think, told, when_told, workspace,
};
use crate::{
    daemon::Daemon,
    script::{Script, call},
    sessions::request,
};

/// A command that fails for a real reason, and what its advice leads to.
struct Fault {
    class: &'static str,
    what: &'static str,
    cause: &'static str,
    wanted: End,
    /// Nothing where a person has to help.
    remedy: &'static str,
}

const fn recovers(
    class: &'static str,
    what: &'static str,
    cause: &'static str,
    remedy: &'static str,
) -> Fault {
    Fault {
        class,
        what,
        cause,
        wanted: End::Recovered,
        remedy,
    }
}

const fn escalates(class: &'static str, what: &'static str, cause: &'static str) -> Fault {
    Fault {
        class,
        what,
        cause,
        wanted: End::Escalated,
        remedy: "",
    }
}

/// Starts a server on a free port that answers with this status, puts its
/// address into `$at`, and runs a line.
macro_rules! against_server {
    ($status:literal, $line:literal) => {
        concat!(
            "cat > /tmp/server.py <<'END'\n",
            "import http.server, sys\n",
            "class Handler(http.server.BaseHTTPRequestHandler):\n",
            "    def do_GET(self):\n",
            "        self.send_response(int(sys.argv[1]))\n",
            "        self.send_header('WWW-Authenticate', 'Basic realm=\"x\"')\n",
            "        self.send_header('Content-Length', '0')\n",
            "        self.end_headers()\n",
            "    def log_message(self, *_): pass\n",
            "server = http.server.HTTPServer(('127.0.0.1', 0), Handler)\n",
            "print(server.server_port, flush=True)\n",
            "server.serve_forever()\n",
            "END\n",
            "coproc python3 /tmp/server.py ",
            $status,
            "\nread -r port <&${COPROC[0]}; at=http://127.0.0.1:$port; export no_proxy=127.0.0.1\n",
            $line
        )
    };
}

/// Makes packages of which `left` and `right==1` want different versions of a
/// third, and installs these.
macro_rules! install_packages {
    ($wanted:literal) => {
        concat!(
            "mkdir -p /tmp/wheels && python3 - <<'END'\n",
            "import zipfile\n",
            "def wheel(name, version, *needs):\n",
            "    info = f'{name}-{version}.dist-info/'\n",
            "    needs = ''.join(f'Requires-Dist: {need}\\n' for need in needs)\n",
            "    with zipfile.ZipFile(f'/tmp/wheels/{name}-{version}-py3-none-any.whl', 'w') as file:\n",
            "        file.writestr(f'{name}.py', '')\n",
            "        file.writestr(info + 'METADATA', f'Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n{needs}')\n",
            "        file.writestr(info + 'WHEEL', 'Wheel-Version: 1.0\\nGenerator: x\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n')\n",
            "        file.writestr(info + 'RECORD', '')\n",
            "wheel('left', '1', 'shared==1'); wheel('right', '1', 'shared==2'); wheel('right', '2', 'shared==1')\n",
            "wheel('shared', '1'); wheel('shared', '2')\n",
            "END\n",
            "pip install --no-index --find-links /tmp/wheels --target /tmp/site ",
            $wanted
        )
    };
}

const FAULTS: &[Fault] = &[
    recovers(
        "COMMAND_NOT_FOUND",
        "a program that is not there",
        "pytset -q",
        "python -m pytest -q --collect-only",
    ),
    recovers(
        "COMMAND_NOT_FOUND",
        "a script whose interpreter is gone",
        "printf '#!/nowhere/python3\\nprint(1)\\n' > /tmp/tool; chmod +x /tmp/tool; /tmp/tool",
        "python3 /tmp/tool",
    ),
    recovers(
        "PERMISSION_DENIED",
        "a place of the system's",
        "touch /usr/lib/mine",
        "touch /workspace/mine",
    ),
    recovers(
        "TIMEOUT",
        "a program that never ends",
        "timeout 1 sleep 60",
        "timeout 10 sleep 0.1",
    ),
    recovers(
        "DISK_FULL",
        "a file system without space",
        "dd if=/dev/zero of=/dev/shm/fill bs=1M count=100000 2>&1",
        "rm /dev/shm/fill && dd if=/dev/zero of=/dev/shm/fill bs=1M count=1 && rm /dev/shm/fill",
    ),
    recovers(
        "OUT_OF_MEMORY",
        "more memory than there is",
        "ulimit -v 400000; python3 -c 'x = bytearray(1 << 30)'",
        "python3 -c 'x = bytearray(1 << 20)'",
    ),
    recovers(
        "OUT_OF_MEMORY",
        "a killed process",
        "sh -c 'kill -9 $$'",
        "sh -c 'true'",
    ),
    recovers(
        "SYNTAX_ERROR",
        "Python that cannot be parsed",
        "printf 'def f(:\\n    pass\\n' > /tmp/broken.py; python3 /tmp/broken.py",
        "printf 'def f():\\n    pass\\n' > /tmp/broken.py; python3 /tmp/broken.py",
    ),
    recovers(
        "SYNTAX_ERROR",
        "C that cannot be parsed",
        "printf 'int main(void) { return 0 }\\n' > /tmp/broken.c; gcc /tmp/broken.c -o /tmp/broken",
        "printf 'int main(void) { return 0; }\\n' > /tmp/broken.c; gcc /tmp/broken.c -o /tmp/broken",
    ),
    recovers(
        "IMPORT_ERROR",
        "a Python module that is not there",
        "python3 -c 'import no_such_module_here'",
        "python3 -c 'import json'",
    ),
    recovers(
        "IMPORT_ERROR",
        "a Node module that is not there",
        "node -e 'require(\"./no-such-module-here\")'",
        "node -e 'require(\"fs\")'",
    ),
    recovers(
        "TYPE_ERROR",
        "a value of another type",
        "python3 -c 'len(1)'",
        "python3 -c 'len([1])'",
    ),
    recovers(
        "RUNTIME_ERROR",
        "an exception",
        "python3 -c '{}[\"name\"]'",
        "python3 -c '{}.get(\"name\")'",
    ),
    recovers(
        "RUNTIME_ERROR",
        "a crash",
        "python3 -c 'import os, signal; os.kill(os.getpid(), signal.SIGSEGV)'",
        "python3 -c 'import os, signal'",
    ),
    recovers(
        "PORT_IN_USE",
        "a port that is taken",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); a.listen(); b = socket.socket(); b.bind(a.getsockname())'",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); a.listen()'",
    ),
    recovers(
        "NETWORK_ERROR",
        "a server that is not there",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); at = a.getsockname(); a.close(); socket.create_connection(at)'",
        "python3 -c 'import socket; a = socket.socket(); a.bind((\"127.0.0.1\", 0)); a.listen(); socket.create_connection(a.getsockname())'",
    ),
    escalates(
        "NETWORK_ERROR",
        "a host that is not allowed",
        "curl -sSf https://denied.invalid/",
    ),
    recovers(
        "API_ERROR",
        "a server that fails",
        against_server!("503", "curl -sSf $at"),
        against_server!("200", "curl -sSf $at"),
    ),
    recovers(
        "RATE_LIMIT",
        "a server that limits the rate",
        against_server!("429", "curl -sSf $at"),
        against_server!("200", "curl -sSf $at"),
    ),
    escalates(
        "AUTH_ERROR",
        "a server that wants credentials",
        against_server!("401", "GIT_TERMINAL_PROMPT=0 git ls-remote $at/x.git"),
    ),
    recovers(
        "ASSERTION_ERROR",
        "a test whose assertion does not hold",
        "python -m pytest -q",
        "python -m pytest -q --collect-only test_sums.py",
    ),
    recovers(
        "FIXTURE_ERROR",
        "a test that asks for a fixture that is not there",
        "mkdir -p /tmp/t; printf 'def test_a(client):\\n    pass\\n' > /tmp/t/test_a.py; python -m pytest -q /tmp/t",
        "printf 'def test_a():\\n    pass\\n' > /tmp/t/test_a.py; python -m pytest -q /tmp/t",
    ),
    recovers(
        "TEST_FAILURE",
        "a directory without tests",
        "mkdir -p /tmp/empty; python -m pytest -q /tmp/empty",
        "python -m pytest -q --collect-only",
    ),
    recovers(
        "LINT_ERROR",
        "a warning that counts as an error",
        "printf 'int main(void) { int x; return 0; }\\n' > /tmp/a.c; gcc -Wall -Werror /tmp/a.c -o /tmp/a",
        "printf 'int main(void) { return 0; }\\n' > /tmp/a.c; gcc -Wall -Werror /tmp/a.c -o /tmp/a",
    ),
    recovers(
        "FORMAT_ERROR",
        "white space where none should be",
        "rm -rf /tmp/f; git init -q /tmp/f; cd /tmp/f; printf 'x = 1 \\n' > a.py; git add a.py; git diff --cached --check",
        "cd /tmp/f; printf 'x = 1\\n' > a.py; git add a.py; git diff --cached --check",
    ),
    recovers(
        "DEPENDENCY_CONFLICT",
        "packages that exclude each other",
        install_packages!("left right==1"),
        install_packages!("left right==2"),
    ),
    recovers(
        "MERGE_CONFLICT",
        "two branches that change a line",
        "rm -rf /tmp/m; git init -qb main /tmp/m; cd /tmp/m; git config user.email a@b; git config user.name a; echo 1 > f; git add f; git commit -qm 1; git switch -qc b; echo 2 > f; git commit -qam 2; git switch -q main; echo 3 > f; git commit -qam 3; git merge b",
        "cd /tmp/m; echo 3 > f; git add f; git commit -qm merged",
    ),
    recovers(
        "BRANCH_EXISTS",
        "a branch that is there",
        "rm -rf /tmp/b; git init -qb main /tmp/b; cd /tmp/b; git config user.email a@b; git config user.name a; git commit -q --allow-empty -m 1; git branch x; git branch x",
        "cd /tmp/b; git switch -q x",
    ),
    escalates(
        "PUSH_REJECTED",
        "a push to a branch that has gone on",
        "rm -rf /tmp/p /tmp/q /tmp/o; git init -qb main --bare /tmp/o; git clone -q /tmp/o /tmp/p; cd /tmp/p; git config user.email a@b; git config user.name a; git commit -q --allow-empty -m 1; git push -q origin HEAD:main; git clone -q /tmp/o /tmp/q; git commit -q --allow-empty -m 2; git push -q origin HEAD:main; cd /tmp/q; git config user.email a@b; git config user.name a; git commit -q --allow-empty -m 3; git push origin HEAD:main",
    ),
    recovers(
        "UNKNOWN",
        "a failure that nobody knows",
        "sh -c 'echo it is not so >&2; exit 3'",
        "true",
    ),
];

/// Brings every fault about in one session; where one goes wrong, the others in
/// another one.
pub(super) async fn bring_about(daemon: &Daemon, each: &mut impl FnMut(Outcome)) {
    let mut left: Vec<&Fault> = FAULTS.iter().collect();
    let mut sessions = 0;
    while !left.is_empty() {
        sessions += 1;
        let name = format!("commands-{sessions}");
        workspace(
            daemon,
            &name,
            &[("sums.py", BROKEN), ("test_sums.py", TEST)],
        )
        .await;
        let (session, events, asked) = play(daemon, &name, &left).await;
        delete(daemon, &name).await;
        let story = told(&session, &events);
        if ended(&session) == Some(End::Recovered) {
            for fault in left.drain(..) {
                let end = match fault.wanted {
                    _ if !is_recorded(&events, fault) => None,
                    End::Escalated
                        if asked.iter().any(|question| question.contains(fault.what)) =>
                    {
                        Some(End::Escalated)
                    }
                    End::Escalated => None,
                    End::Recovered => Some(End::Recovered),
                };
                each(outcome(fault, end, &story));
            }
            return;
        }
        // The first that was not recognised; else whatever came last.
        let unknown = left.iter().position(|fault| !is_recorded(&events, fault));
        let wrong = left.remove(unknown.unwrap_or(left.len() - 1));
        each(outcome(wrong, None, &story));
    }
}

fn outcome(fault: &Fault, end: Option<End>, story: &str) -> Outcome {
    Outcome {
        class: fault.class,
        fault: fault.what,
        wanted: fault.wanted,
        end,
        story: story.to_owned(),
    }
}

/// Whether the log has a fault's command with its type.
fn is_recorded(events: &[SessionEvent], fault: &Fault) -> bool {
    let commands: HashMap<&str, String> = (events.iter())
        .filter_map(|event| match &event.event {
            Some(Event::ToolStarted(started)) => {
                let arguments = &started.tool.as_ref()?.arguments;
                let arguments: Value = serde_json::from_str(arguments).ok()?;
                let command = arguments["command"].as_str()?.to_owned();
                Some((started.step_id.as_str(), command))
            }
            _ => None,
        })
        .collect();
    events.iter().any(|event| match &event.event {
        Some(Event::ToolEnded(ended)) => {
            let command = commands.get(ended.step_id.as_str());
            ended.failure == fault.class && command.is_some_and(|line| line == fault.cause)
        }
        _ => false,
    })
}

/// Plays a session that meets these faults, and answers when it asks a person.
/// Also gives what it asked.
async fn play(
    daemon: &Daemon,
    workspace: &str,
    faults: &[&Fault],
) -> (Session, Vec<SessionEvent>, Vec<String>) {
    let mut start = request(workspace, &script(faults).write(daemon.directory()));
    start.task = "add subtracts; fix it".to_owned();
    if let Some(options) = &mut start.options {
        options.workflow = Workflow::None.into();
    }
    let id = daemon.start_session(start).await;
    let mut asked = Vec::new();
    loop {
        let session = daemon.rested(&id).await;
        let Some(question) = session.question.clone() else {
            return (session, daemon.events(&id, 0).await, asked);
        };
        asked.push(question.text);
        let answer = ["session", "answer", &id, "--yes", "--text", GO_ON];
        let _ = daemon.compyctl(&answer).await.expect_code(0);
        let id_of_it = question.id;
        daemon
            .session_when(&id, "go on", |session| {
                let open = session.question.as_ref();
                open.is_none_or(|open| open.id != id_of_it)
            })
            .await;
    }
}

/// What a person says to a session that cannot go on.
const GO_ON: &str = "go on without it";

/// Each fault, what the model does about it once it was told its type, and the
/// task.
fn script(faults: &[&Fault]) -> Script {
    let mut script = Script::new();
    let mut done = String::new();
    let mut before = vec![read("sums.py")];
    for fault in faults {
        // Git operations want a reason.
        before.extend([
            think("git has sums.py, which I will change; first I look at what is around it"),
            run(fault.cause),
        ]);
        script = match done.as_str() {
            "" => script.calls(std::mem::take(&mut before)),
            done => when_told(script, done, &std::mem::take(&mut before)),
        };
        let known = match fault.class {
            "UNKNOWN" => r"\[exit 3, ".to_owned(),
            class => format!(r"\[{class}: "),
        };
        let (help, ends) = match fault.wanted {
            End::Recovered => (run(fault.remedy), r"\[exit 0, "),
            End::Escalated => {
                let report = json!({"issue": fault.what, "tried": fault.cause, "blocking": true});
                (call("report_environment_issue", report), GO_ON)
            }
        };
        let reason = think("what failed says what to do; git and sums.py wait");
        script = when_told(script, &known, &[reason, help]);
        ends.clone_into(&mut done);
    }
    fixed(script)
}
