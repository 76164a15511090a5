//! Which part may know which: read from the sources and from cargo.

use std::{path::Path, process::Command};

use compyd_tests::repository::source_directory;

/// Crates, and the places below `daemon/src` that may name them. `app/parts.rs` names
/// our own adapter `sled`.
const ARROWS: [(&[&str], &[&str]); 3] = [
    (&["bollard", "sled"], &["adapters/", "app/parts.rs"]),
    (&["tonic"], &["api/", "adapters/agent"]),
    (&["axum", "hyper"], &["api/", "adapters/"]),
];

/// What the domain, which is pure, names nowhere.
const NOT_IN_DOMAIN: [&str; 8] = [
    "tokio", "tonic", "bollard", "sled", "reqwest", "hyper", "std::fs", "std::net",
];

/// Lines of a source that name a crate or module, tests' lines too.
fn names(line: &str, name: &str) -> bool {
    let code = line.split("//").next().unwrap_or_default();
    let bytes = code.as_bytes();
    code.match_indices(name).any(|(at, _)| {
        let before = at.checked_sub(1).map(|before| bytes[before]);
        let clear =
            before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b"_:\"".contains(&byte));
        clear && code[at + name.len()..].starts_with("::")
            || (clear
                && code.trim_start().starts_with("use ")
                && code[at + name.len()..].starts_with(';'))
    })
}

fn sources(directory: &Path, found: &mut Vec<std::path::PathBuf>) {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

#[test]
fn each_ring_of_the_daemon_knows_what_it_may() {
    let root = source_directory().parent().unwrap().join("daemon/src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(
        files.len() > 50,
        "the daemon's sources are at {}",
        root.display()
    );
    let mut wrong = Vec::new();
    for file in files {
        let place = file.strip_prefix(&root).unwrap().display().to_string();
        let text = std::fs::read_to_string(&file).unwrap();
        // Tests may put any two parts together.
        let is_test = place.ends_with("tests.rs") || place.contains("testing");
        if is_test {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            let mut refuse = |name: &str| {
                wrong.push(format!(
                    "daemon/src/{place}:{}: {name}: {}",
                    number + 1,
                    line.trim()
                ));
            };
            for (crates, allowed) in ARROWS {
                if !allowed.iter().any(|prefix| place.starts_with(prefix)) {
                    crates
                        .iter()
                        .filter(|name| names(line, name))
                        .for_each(|name| refuse(name));
                }
            }
            if place.starts_with("domain/") {
                NOT_IN_DOMAIN
                    .iter()
                    .filter(|name| names(line, name))
                    .for_each(|name| refuse(name));
            }
            let inwards = ["crate::adapters", "crate::api"];
            let inner = ["domain/", "ports/", "service/"];
            if inner.iter().any(|prefix| place.starts_with(prefix)) && !in_tests(&text, number) {
                inwards
                    .iter()
                    .filter(|name| line.contains(*name))
                    .for_each(|name| refuse(name));
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "arrows that point the wrong way:\n{}",
        wrong.join("\n")
    );
}

/// Whether a line belongs to the tests at the end of a file.
fn in_tests(text: &str, line: usize) -> bool {
    let begin = text.lines().position(|line| line.trim() == "#[cfg(test)]");
    begin.is_some_and(|begin| line > begin)
}

#[test]
fn the_reader_of_arrows_sees_what_it_should() {
    for (line, name, seen) in [
        ("use tonic::Status;", "tonic", true),
        ("    let x = sled::open(path);", "sled", true),
        ("// use tonic::Status", "tonic", false),
        ("use crate::tonic_like::x;", "tonic", false),
        ("use assailed::Status;", "sled", false),
        ("use tokio;", "tokio", true),
    ] {
        assert_eq!(names(line, name), seen, "{line}");
    }
}

#[test]
fn client_and_agent_do_not_depend_on_the_daemon() {
    for package in ["compyd-cli", "compyd-agent", "compyd-proto"] {
        let output = Command::new(env!("CARGO"))
            .current_dir(source_directory().parent().unwrap())
            .args([
                "tree",
                "--offline",
                "--locked",
                "--edges",
                "normal",
                "--prefix",
                "none",
            ])
            .args(["--package", package])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        let tree = String::from_utf8_lossy(&output.stdout);
        assert!(tree.starts_with(package), "{tree}");
        for line in tree.lines().skip(1) {
            let name = line.split(' ').next().unwrap_or_default();
            assert!(
                name != "compyd" && name != "bollard" && name != "sled",
                "{package} depends on {line}"
            );
        }
    }
}
