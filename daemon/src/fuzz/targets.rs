//! Everything that reads bytes from a model, a workspace or a repository and is a
//! function of them. What needs more than that is beside its adapter.

use std::path::Path;

use ring::rand::SystemRandom;
use serde_json::json;

use super::run_here as fuzz;
use crate::{
    adapters::model::scripted::Transcript,
    domain::{
        audit::{chain::Record, checkpoint::SigningKey, verify},
        conversation::{Arguments, ToolCall},
        edits::{self, Change},
        egress::{Host, Inspection, Target, inspect},
        policy::{Autonomy, Decision, Level, Policy, Session, Subject, Unjudged},
        recovery::{Catalogue, End, FoundIn, Signs},
        redaction::{RedactionStream, Redactor},
        report::{self, Framework, Reading},
        setup_file::SetupFile,
        ssh::{
            HostKey, SshKey,
            agent::{AgentSession, Identity, Reply},
            secrets_of,
            tests::{ED25519_KEY, ED25519_PUBLIC},
        },
        tools::{Tool, ToolRequest},
    },
};

fn texts(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|text| text.as_bytes().to_vec()).collect()
}

/// The files of a directory of the crate's sources.
fn samples(directory: &str) -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join(directory);
    super::stored(&directory)
}

#[test]
fn shell_commands() {
    let corpus = include_str!("../domain/policy/corpus.txt");
    let commands = corpus.lines().filter_map(|line| line.split_once(": "));
    let commands = commands.map(|(_, command)| command.replace('␤', "\n").into_bytes());
    let policy = Policy::built_in();
    let session = Session {
        level: Level::Admin,
        autonomy: Autonomy::Gated,
        repository: "/workspace/r",
        unjudged: Unjudged::none(),
    };
    fuzz("shell", commands.collect(), |input| {
        let line = String::from_utf8_lossy(input).into_owned();
        let directory = "/workspace/r".to_owned();
        let subject = Subject::Line { line, directory };
        let verdict = policy.decide(Tool::RunCommand, &subject, session);
        assert!(!verdict.rulings.is_empty());
        assert_eq!(
            verdict.decision == Decision::Ask,
            !verdict.classes.is_empty()
        );
        assert!(!verdict.why().is_empty());
        let acts = verdict.rulings.iter();
        let kinds = acts.flat_map(|ruling| ruling.act.findings.iter().map(|found| found.kind));
        let mut kinds: Vec<&str> = kinds.map(|kind| kind.name()).collect();
        kinds.sort_unstable();
        kinds.dedup();
        format!(
            "{:?} {} {kinds:?}",
            verdict.decision,
            verdict.rulings.len().min(12)
        )
    });
}

#[test]
fn edits_and_patches() {
    const FILE: &str = "fn one() {\n    two();\n}\n\nfn two() {\n\tthree()\n}\n";
    let seeds = texts(&[
        "0a.rs\n<<<<<<< SEARCH\n    two();\n=======\n    three();\n>>>>>>> REPLACE\n",
        "1--- a/a.rs\n+++ b/a.rs\n@@ -1,3 +1,3 @@\n fn one() {\n-    two();\n+    three();\n }\n",
        "1--- /dev/null\n+++ b/b.rs\n@@ -0,0 +1 @@\n+new\n\\ No newline at end of file\n",
        "2*** Begin Patch\n*** Update File: a.rs\n@@ fn one() {\n-    two();\n+    three();\n*** End Patch\n",
        "2*** Begin Patch\n*** Add File: b\n+one\n*** Delete File: c\n*** End Patch\n",
    ]);
    fuzz("edits", seeds, |input| {
        let text = String::from_utf8_lossy(input.get(1..).unwrap_or_default());
        let changes = match input.first().map_or(0, |format| format % 3) {
            0 => edits::parse_blocks(&text),
            1 => edits::parse_unified(&text),
            _ => edits::parse_envelope(&text),
        };
        let changes = match changes {
            Ok(changes) => changes,
            Err(refusal) => return refusal.message,
        };
        let mut said = String::new();
        for change in changes.iter().take(4) {
            said += match &change.change {
                Change::Delete => "delete ".to_owned(),
                Change::Create { .. } => "create ".to_owned(),
                Change::Modify { blocks, .. } => match edits::plan("a.rs", FILE, blocks) {
                    Ok(_) => "planned ".to_owned(),
                    Err(refusal) => refusal.message,
                },
            }
            .as_str();
        }
        said
    });
}

#[test]
fn arguments_of_tools() {
    let seeds = [
        json!(["run_command", {"command": "ls", "cwd": "src", "timeout_s": 3}]),
        json!(["edit_file", {"path": "a", "replacements": [{"old_text": "a", "new_text": "b"}]}]),
        json!(["todo_add", {"items": [{"text": "pytest passes", "criteria": [{"command_exits": {"argv": ["true"], "code": 0}}]}]}]),
        json!(["grep", {"pattern": "x", "path": "."}]),
        json!(["think", {"content": "a"}]),
        json!(["advance", {"summary": "done"}]),
        json!(["ask_person", {"question": "why"}]),
    ];
    let seeds = seeds.iter().map(|seed| seed.to_string().into_bytes());
    fuzz("arguments", seeds.collect(), |input| {
        let Ok((name, arguments)) = serde_json::from_slice(input) else {
            return "no call".to_owned();
        };
        let call = ToolCall {
            id: "1".to_owned(),
            name,
            arguments: Arguments::Object(arguments),
        };
        match ToolRequest::parse(&call) {
            Ok(request) => format!("{:?}", request.tool()),
            Err(mistake) => mistake.to_string(),
        }
    });
}

#[test]
fn reports_of_tests() {
    let mut seeds = samples("src/domain/report/samples");
    seeds.iter_mut().for_each(|seed| seed.insert(0, 0));
    fuzz("reports", seeds, |input| {
        let Some((choice, output)) = input.split_first() else {
            return String::new();
        };
        let framework = match usize::from(*choice) {
            0 => None,
            choice => Framework::ALL.into_iter().cycle().nth(choice),
        };
        let text = String::from_utf8_lossy(output);
        let junit = (choice % 2 == 0).then_some(&*text);
        match report::read(framework, output, junit) {
            Reading::Report(read) => {
                let some = [read.passed, read.failed, read.errors, read.skipped];
                format!(
                    "{:?} {:?} {}",
                    read.framework,
                    some.map(|count| count > 0),
                    read.names_all
                )
            }
            other => format!("{other:?}"),
        }
    });
}

/// What CI and commands print, as failures are looked for in it.
#[test]
fn logs_of_ci() {
    let catalogue = Catalogue::with(None).expect("the catalogue holds its samples");
    let samples = include_str!("../domain/recovery/catalogue.toml");
    let parts = samples.split("\n\n").map(|part| part.as_bytes().to_vec());
    fuzz("logs", parts.collect(), |output| {
        let signs = Signs {
            found_in: FoundIn::ALL[output.len() % FoundIn::ALL.len()],
            end: End::Exit(1),
            output,
        };
        format!("{:?}", catalogue.detect(&signs).map(|failure| failure.kind))
    });
}

#[test]
fn setup_files() {
    let seeds = texts(&[
        "[setup]\ncommands = [\"pip install -e .\", [\"make\", \"deps\"]]\ninputs = [\"pyproject.toml\"]\n\n[maintenance]\ncommands = [\"true\"]\n",
        "[checks]\ntest = \"pytest -q\"\nlint = [\"ruff\", \"check\"]\n[env]\nA = \"b\"\n",
    ]);
    fuzz("setup", seeds, |input| match SetupFile::parse(input) {
        Ok(file) => format!("{} inputs", file.inputs.map_or(0, |inputs| inputs.len())),
        Err(error) => error.to_string(),
    });
}

#[test]
fn policy_files() {
    let mut seeds = texts(&[
        "approval_timeout_s = 5\nask_above_tokens = 10\nask_above_money = \"2.5\"\nprotected_branches = [\"main\", \"release/*\"]\n",
        "defaults = false\n[[rule]]\nname = \"a\"\ndecision = \"ask\"\npaths = [\"src/**/*.{rs,py}\"]\nmatches = [{ tool = \"write_file\", path = \"src/a.rs\" }]\nmisses = [\"ls\"]\n",
        "[[rule]]\nname = \"b\"\ndecision = \"deny\"\nhosts = [\"*.example.com\"]\nbranches = [\"x*\"]\nrisks = [\"push\"]\nreason = \"no\"\nmatches = [\"git push\"]\nmisses = [\"ls\"]\n",
    ]);
    seeds.push(include_bytes!("../domain/policy/default.toml").to_vec());
    fuzz("policy", seeds, |input| {
        match Policy::read(&String::from_utf8_lossy(input), "f") {
            Ok(policy) => format!(
                "{} rules, {:?}",
                policy.rule_count().min(9),
                policy.ask_above()
            ),
            Err(error) => error.to_string(),
        }
    });
}

/// An export, as the verifier of the domain reads it.
#[test]
fn exports_of_the_audit_log() {
    let sample = include_bytes!("../../../tests/fixtures/audit/sample.jsonl");
    let key = SigningKey::from_seed(&[1; 32])
        .expect("a seed has 32 bytes")
        .public();
    fuzz("audit", vec![sample.to_vec()], |input| {
        for line in input.split(|byte| *byte == b'\n').take(20) {
            let _ = Record::of_line(line);
        }
        let of_key = verify::verify(input, Some(key), None).map(|_| ());
        let any = verify::verify(input, None, None).map(|verified| verified.last);
        format!("{any:?} {of_key:?}")
    });
}

#[test]
fn transcripts() {
    let sample = include_bytes!("../../../tests/sample-fix.jsonl");
    let some: Vec<u8> = sample
        .split_inclusive(|byte| *byte == b'\n')
        .take(4)
        .flatten()
        .copied()
        .collect();
    let faults = "{\"compy_transcript\":1}\n{\"fault\":{\"status\":529}}\n{\"turn\":1,\"text\":\"a\",\"stop\":\"end\",\"usage\":{\"input\":1,\"output\":2},\"expect\":\"b+\",\"delay_ms\":1}\n";
    fuzz(
        "transcripts",
        vec![some, faults.into()],
        |input| match Transcript::parse(&String::from_utf8_lossy(input)) {
            Ok(_) => "read".to_owned(),
            Err(error) => error.to_string(),
        },
    );
}

/// However a stream is cut, the same is taken out of it.
#[test]
fn redaction_of_streams() {
    let named = [
        ("a", b"s3cret-V4lue/x+y".as_slice()),
        ("b", b"line one\nline=two 7d3b5a21c9e04f68\n".as_slice()),
        ("c", b"s3cret-V4lue".as_slice()),
    ];
    let redactor = std::sync::Arc::new(Redactor::new(named));
    let forms = named
        .iter()
        .flat_map(|(_, value)| crate::domain::redaction::forms::of(value));
    fuzz("redaction", forms.collect(), |input| {
        let whole = redactor.bytes(input);
        let mut stream = RedactionStream::new(redactor.clone());
        let mut pieces = Vec::new();
        let mut rest = input;
        let mut step = input.len();
        while !rest.is_empty() {
            step = step.wrapping_mul(31).wrapping_add(7);
            let (piece, later) = rest.split_at(rest.len().min(1 + step % 23));
            pieces.extend_from_slice(&stream.push(bytes::Bytes::copy_from_slice(piece)));
            rest = later;
        }
        pieces.extend_from_slice(&stream.flush());
        assert_eq!(pieces, *whole, "cut in pieces");
        let markers = whole
            .windows(10)
            .filter(|window| window.starts_with(b"[redacted:"));
        format!("{} {}", markers.count().min(20), whole.len() == input.len())
    });
}

/// A byte string of SSH, behind its length.
fn ssh_string(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).expect("it is short");
    [&length.to_be_bytes()[..], bytes].concat()
}

/// What clients of a workspace send to the agent, one message after another: no
/// login is signed but for a session that its host has vouched for.
#[test]
fn messages_to_the_ssh_agent() {
    const SESSION: &[u8] = b"a session's id";
    let key = SshKey::parse(ED25519_KEY.as_bytes()).expect("it is a key");
    let host_keys = HostKey::parse_all(ED25519_PUBLIC).expect("it is one");
    let signature = key
        .sign("ssh-ed25519", SESSION, &SystemRandom::new())
        .expect("it signs so");
    let public = key.public();
    let strings = |all: &[&[u8]]| {
        let each = all.iter().map(|bytes| ssh_string(bytes));
        each.collect::<Vec<_>>().concat()
    };
    let bind = strings(&[b"session-bind@openssh.com", public, SESSION, &signature]);
    let bind = [&[27], &bind[..], &[0]].concat();
    let login = [
        ssh_string(SESSION),
        vec![50],
        strings(&[b"git", b"ssh-connection", b"publickey"]),
        vec![1],
        strings(&[b"ssh-ed25519", public]),
    ]
    .concat();
    let sign = [&[13], &strings(&[public, &login])[..], &[0; 4]].concat();
    let seeds = vec![
        ssh_string(&[11]),
        strings(&[&bind, &sign]),
        strings(&[&[11], &sign, &bind]),
    ];
    let identities = [Identity {
        name: "host".to_owned(),
        public: public.to_vec(),
        algorithms: key.algorithms(),
        host_keys,
    }];
    let mut signs = 0;
    fuzz("ssh_agent", seeds, |input| {
        let mut session = AgentSession::default();
        let (mut rest, mut bound) = (input, false);
        let mut said = String::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = u32::from_be_bytes(*length) as usize;
            let (message, later) = after.split_at(length.min(after.len()));
            rest = later;
            match session.answer(message, &identities) {
                Reply::Message(reply) => {
                    bound |= message.first() == Some(&27) && reply == [6];
                    said += &format!("{:?} ", reply.first());
                }
                Reply::Sign(login) => {
                    assert!(bound, "no host has vouched for the session");
                    assert!(login.data.starts_with(&ssh_string(SESSION)));
                    signs += 1;
                    said += "sign ";
                }
            }
        }
        said
    });
    assert!(signs > 0, "a login that is in order is signed");
}

#[test]
fn private_keys_of_ssh() {
    let seeds = texts(&[
        ED25519_KEY,
        &ED25519_KEY.replace('\n', "\r\n"),
        ED25519_PUBLIC,
        "github.com ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAII2F0GLgD8cTmIV8gFLBARekFIebofvAxW4rQQyAIF/z\n# none\n",
    ]);
    fuzz("ssh_keys", seeds, |input| {
        let lines = secrets_of(input).len().min(9);
        let hosts = HostKey::parse_all(&String::from_utf8_lossy(input));
        let hosts = hosts
            .map(|keys| keys.len().min(9))
            .map_err(|_| "no host key");
        match SshKey::parse(input) {
            Ok(key) => format!("{:?} {lines} {hosts:?}", key.algorithms()),
            Err(error) => format!("{error} {lines} {hosts:?}"),
        }
    });
}

/// The first bytes of a connection. What they have said once, no further bytes
/// take back.
#[test]
fn beginnings_of_connections() {
    let target = Target {
        host: Host::parse("a.example").expect("it is a name"),
        port: 443,
    };
    let name = |name: &str| {
        let length = u16::try_from(name.len()).expect("it is short");
        let name = [&[0], &length.to_be_bytes()[..], name.as_bytes()].concat();
        let list = [&(length + 3).to_be_bytes()[..], &name[..]].concat();
        let extension = [&[0, 0], &(length + 5).to_be_bytes()[..], &list[..]].concat();
        let extensions = [&(length + 9).to_be_bytes()[..], &extension[..]].concat();
        let body = [
            &[3, 3],
            &[7; 32][..],
            &[0, 0, 2, 19, 1, 1, 0],
            &extensions[..],
        ]
        .concat();
        let length = u16::try_from(body.len()).expect("it is short");
        let hello = [&[1, 0], &length.to_be_bytes()[..], &body[..]].concat();
        [&[22, 3, 1], &(length + 4).to_be_bytes()[..], &hello[..]].concat()
    };
    let ours = name("a.example");
    assert_eq!(inspect(&target, &ours), Inspection::Clear);
    let seeds = vec![
        ours,
        name("b.example"),
        b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n".to_vec(),
        b"CONNECT b.example:443 HTTP/1.1\r\nHost: b.example:443\r\n\r\n".to_vec(),
        b"GET http://me@a.example:80/x HTTP/1.0\r\nhost: b.example\r\n\r\nbody".to_vec(),
        b"SSH-2.0-OpenSSH_9.6\r\n".to_vec(),
    ];
    fuzz("connections", seeds, |input| {
        let whole = inspect(&target, input);
        for cut in [
            1,
            input.len() / 3,
            input.len() / 2,
            input.len().saturating_sub(1),
        ] {
            let first = inspect(&target, &input[..cut.min(input.len())]);
            assert!(
                first == Inspection::More || first == whole,
                "{first:?}, and then {whole:?}"
            );
        }
        format!("{whole:?}")
    });
}
