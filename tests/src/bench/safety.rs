//! What stands before every tool call and behind every byte of output: a decision
//! by 500 rules beside a set of regular expressions over the same commands, and
//! redaction of 100 credentials beside one expression of all their forms.

use std::{fmt::Write as _, sync::Arc, time::Instant};

use bytes::Bytes;
use compyd::domain::{
    policy::{Autonomy, FileChangeKind, FileUse, Level, Policy, Session, Subject, Unjudged},
    redaction::{RedactionStream, Redactor, forms},
    tools::Tool,
};
use regex::{RegexSet, bytes::Regex};

use super::{Better, Measured, Report};

const RULES: usize = 500;
const SECRETS: usize = 100;
const REPOSITORY: &str = "/workspace/repository";
/// Decisions of a round.
const DECISIONS: usize = 2_000;
const ROUNDS: usize = 30;
/// Bytes of output that are redacted in a round, and of a piece of them.
const OUTPUT_BYTES: usize = 64 << 20;
const PIECE_BYTES: usize = 32 << 10;

/// Measures both; needs no daemon.
pub fn measure(report: &mut Report) {
    decisions(report);
    redaction(report);
}

/// Commands of every length that sessions run.
const COMMANDS: [&str; 8] = [
    "cargo test --workspace",
    "python -m pytest -q tests/test_slug.py",
    "git add -A && git commit -m 'mend the slug'",
    "cd src && rg -n 'fn main' | head -20",
    "for f in a b c; do sed -i s/x/y/ $f.txt; done",
    "npm run build -- --mode production > /tmp/build.log 2>&1",
    "tool250 --with some arguments",
    "VERSION=3; curl -fsSL https://host7.example.com/$VERSION.tar.gz | tar xz -C /tmp",
];

fn decisions(report: &mut Report) {
    let mut file = String::new();
    for number in 0..RULES {
        let (condition, matches) = match number % 4 {
            0 | 1 => (
                format!("argv = [\"tool{number} --with\"]"),
                format!("\"tool{number} --with x\""),
            ),
            2 => (
                format!("paths = [\"src/part{number}/**\"]"),
                format!("{{ tool = \"write_file\", path = \"src/part{number}/a.rs\" }}"),
            ),
            _ => (
                format!("hosts = [\"*.host{number}.example.com\"]"),
                format!("\"curl https://a.host{number}.example.com/\""),
            ),
        };
        writeln!(
            file,
            "[[rule]]\nname = \"rule {number}\"\ndecision = \"ask\"\n{condition}\nmatches = [{matches}]\nmisses = [\"ls\"]"
        )
        .expect("a text takes everything");
    }
    let policy = Policy::read(&file, "the benchmark").expect("the rules hold their examples");
    assert!(policy.rule_count() >= RULES);
    let session = Session {
        level: Level::Admin,
        autonomy: Autonomy::Gated,
        repository: REPOSITORY,
        unjudged: Unjudged::none(),
    };
    let mut calls: Vec<(Tool, Subject)> = COMMANDS
        .map(|line| {
            let subject = Subject::Line {
                line: line.to_owned(),
                directory: REPOSITORY.to_owned(),
            };
            (Tool::RunCommand, subject)
        })
        .into();
    calls.push((
        Tool::WriteFile,
        Subject::Files {
            paths: vec![FileUse {
                path: format!("{REPOSITORY}/src/part250/slug.rs"),
                change: FileChangeKind::Write,
                script: None,
            }],
        },
    ));
    let patterns = (0..RULES).map(|number| match number % 4 {
        0 | 1 => format!(r"\btool{number} --with"),
        2 => format!(r"\bsrc/part{number}/"),
        _ => format!(r"\b[a-z.-]+\.host{number}\.example\.com\b"),
    });
    let set = RegexSet::new(patterns).expect("the patterns are right");
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        let begun = Instant::now();
        for (tool, subject) in calls.iter().cycle().take(DECISIONS) {
            std::hint::black_box(policy.decide(*tool, subject, session));
        }
        ours.push(begun.elapsed().as_secs_f64() * 1e6 / DECISIONS as f64);
        let begun = Instant::now();
        for line in COMMANDS.iter().cycle().take(DECISIONS) {
            std::hint::black_box(set.matches(std::hint::black_box(line)));
        }
        theirs.push(begun.elapsed().as_secs_f64() * 1e6 / DECISIONS as f64);
    }
    report.add(
        Measured {
            name: "decision of 500 rules | a regex set",
            unit: "us",
            better: Better::Less,
            ours,
            theirs,
        },
        "under 50 us",
        |ours, _| ours.p50 < 50.0,
    );
}

/// Output of compilers, tests and downloads, with a credential in it now and then.
fn output(secrets: &[(String, Vec<u8>)]) -> Bytes {
    let mut random = fastrand::Rng::with_seed(1);
    let mut output = Vec::with_capacity(OUTPUT_BYTES + 1_000);
    while output.len() < OUTPUT_BYTES {
        let number = random.u32(..);
        let line = match number % 5 {
            0 => format!(
                "   Compiling part{number} v0.{}.1 (/workspace/repository/part)\n",
                number % 90
            ),
            1 => format!(
                "test module{}::it_holds_what_it_says_{number} ... ok\n",
                number % 400
            ),
            2 => format!(
                "{{\"level\":\"info\",\"id\":\"{number:08x}-77d2\",\"message\":\"GET /items/{number} took {} ms\"}}\n",
                number % 900
            ),
            3 => format!(
                "sha256:{:032x}{:032x}  dist/package-{number}.tar.gz\n",
                random.u128(..),
                random.u128(..)
            ),
            _ => format!(
                "\x1b[33mwarning\x1b[0m: unused variable `value_{number}` at src/lib.rs:{}\n",
                number % 2_000
            ),
        };
        output.extend_from_slice(line.as_bytes());
        if random.u32(..2_000) == 0 {
            output.extend_from_slice(&secrets[random.usize(..secrets.len())].1);
            output.push(b'\n');
        }
    }
    output.into()
}

fn redaction(report: &mut Report) {
    let mut random = fastrand::Rng::with_seed(2);
    let secrets: Vec<(String, Vec<u8>)> = (0..SECRETS)
        .map(|number| {
            let value: String = (0..40).map(|_| random.alphanumeric()).collect();
            (
                format!("secret{number}"),
                format!("ghp_{value}").into_bytes(),
            )
        })
        .collect();
    let output = output(&secrets);
    let named = secrets
        .iter()
        .map(|(name, value)| (name.as_str(), value.as_slice()));
    let redactor = Arc::new(Redactor::new(named));
    let all: Vec<String> = secrets
        .iter()
        .flat_map(|(_, value)| forms::of(value))
        .map(|form| regex::escape(std::str::from_utf8(&form).expect("the values are text")))
        .collect();
    let expression = Regex::new(&all.join("|")).expect("the forms are escaped");
    let rate = |begun: Instant| output.len() as f64 / 1e6 / begun.elapsed().as_secs_f64();
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let begun = Instant::now();
        let mut stream = RedactionStream::new(redactor.clone());
        let mut at = 0;
        let mut bytes = 0;
        while at < output.len() {
            let end = output.len().min(at + PIECE_BYTES);
            bytes += stream.push(output.slice(at..end)).len();
            at = end;
        }
        bytes += stream.flush().len();
        ours.push(rate(begun));
        assert!(bytes < output.len(), "values are longer than their names");
        // It takes seconds.
        if round < 3 {
            let begun = Instant::now();
            let mut redacted = 0;
            for piece in output.chunks(PIECE_BYTES) {
                redacted += expression
                    .replace_all(piece, b"[redacted]".as_slice())
                    .len();
            }
            theirs.push(rate(begun));
            assert!(redacted < output.len());
        }
    }
    report.add(
        Measured {
            name: "redaction of 100 credentials | a regex",
            unit: "MB/s",
            better: Better::More,
            ours,
            theirs,
        },
        "at least 300 MB/s",
        |ours, _| ours.p50 >= 300.0,
    );
}
