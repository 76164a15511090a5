//! Everything that reads bytes from a model, a workspace or a repository and is a
//! function of them. What needs more than that is beside its adapter.

use std::path::Path;

use serde_json::json;

use super::run_here as fuzz;
use crate::{
    adapters::model::scripted::Transcript,
    domain::{
        audit::{chain::Record, checkpoint::SigningKey, verify},
        conversation::{Arguments, ToolCall},
        edits::{self, Change},
        policy::{Autonomy, Decision, Level, Policy, Session, Subject},
        recovery::{Catalogue, End, FoundIn, Signs},
        redaction::{RedactionStream, Redactor},
        report::{self, Framework, Reading},
        setup_file::SetupFile,
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
        Ok(file) => format!("{} inputs", file.inputs().len()),
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
