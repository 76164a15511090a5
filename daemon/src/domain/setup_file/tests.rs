use super::*;

fn parse(text: &str) -> Result<SetupFile, SetupFileError> {
    SetupFile::parse(text.as_bytes())
}

/// What is said of a file, one mistake a line.
fn problems(text: &str) -> String {
    let error = parse(text).expect_err(text);
    let problems: Vec<String> = error.problems.iter().map(ToString::to_string).collect();
    problems.join("\n")
}

fn command(run: &str) -> SetupCommand {
    SetupCommand {
        run: run.to_owned(),
        user: None,
    }
}

#[test]
fn a_whole_file_is_read() {
    let file = parse(
        r#"
version = 1
[setup]
initialize = ["pip install -r requirements.txt", { run = "apt-get update", user = "root" }]
maintenance = ["git fetch --quiet"]
inputs = ["requirements.txt", "vendor/"]
timeout = "30m"
maintenance_timeout = "45s"
[commands]
test = "sh -c 'cd app && pytest -q'"
lint = "ruff check ."
[knowledge]
text = """
Use tabs.
"""
files = ["docs/CONVENTIONS.md"]
"#,
    );
    let words = |words: &[&str]| Some(words.iter().map(|&word| word.to_owned()).collect());
    let root = SetupCommand {
        user: Some("root".to_owned()),
        ..command("apt-get update")
    };
    let expected = SetupFile {
        initialize: vec![command("pip install -r requirements.txt"), root],
        maintenance: vec![command("git fetch --quiet")],
        inputs: Some(vec!["requirements.txt".to_owned(), "vendor".to_owned()]),
        timeout: Duration::from_secs(1_800),
        maintenance_timeout: Duration::from_secs(45),
        test: words(&["sh", "-c", "cd app && pytest -q"]),
        lint: words(&["ruff", "check", "."]),
        knowledge: Knowledge {
            text: "Use tabs.\n".to_owned(),
            files: vec!["docs/CONVENTIONS.md".to_owned()],
        },
    };
    assert_eq!(file, Ok(expected));
}

#[test]
fn what_is_left_out_has_defaults() {
    let file = parse("").unwrap();
    assert_eq!(file, SetupFile::default());
    assert!(file.depends_on("Cargo.lock"));
    let file = parse("[setup]\ninputs = []").unwrap();
    assert!(!file.depends_on("Cargo.lock"));
}

#[test]
fn what_dependencies_are_installed_from_is_known_in_any_directory() {
    let file = parse("[setup]\ninitialize = [\"make deps\"]").unwrap();
    let changed = |path: &str| file.is_changed_by(&[path.to_owned()]);
    for path in [
        "compy.toml",
        "package-lock.json",
        "web/package-lock.json",
        "services/api/pyproject.toml",
        "pdm.lock",
        "web/bun.lock",
        "web/bun.lockb",
        "requirements.txt",
        "api/requirements-dev.txt",
        "test-requirements.txt",
        "requirements/base.txt",
        "api/requirements/prod.txt",
        "constraints.txt",
    ] {
        assert!(changed(path), "{path}");
    }
    for path in [
        "src/lib.rs",
        "web/compy.toml",
        "docs/requirements.md",
        "notes.txt",
        "web/package-lock.json.bak",
        "yarn.lock/README",
    ] {
        assert!(!changed(path), "{path}");
    }
    // What the file names is all.
    let file = parse("[setup]\ninitialize = [\"make\"]\ninputs = [\"web/\", \"lock\"]").unwrap();
    let changed = |path: &str| file.is_changed_by(&[path.to_owned()]);
    assert!(changed("web/a.js") && changed("lock"));
    assert!(!changed("package-lock.json") && !changed("api/lock") && !changed("webs/a.js"));
    assert!(!parse("").unwrap().is_changed_by(&["Cargo.lock".to_owned()]));
}

#[test]
fn unknown_keys_are_refused_with_their_line_and_the_nearest_known_one() {
    assert_eq!(
        problems("\n[setup]\ninitialise = []\n"),
        "line 3: unknown key `initialise` in [setup]; did you mean `initialize`?"
    );
    assert_eq!(
        problems("[comands]\ntest = \"x\"\n"),
        "line 1: unknown key `comands`; did you mean `commands`?"
    );
    assert_eq!(
        problems("[setup]\nxyzzy = 1"),
        "line 2: unknown key `xyzzy` in [setup]; there are initialize, maintenance, inputs, \
         timeout, maintenance_timeout"
    );
    let nested = "[setup]\ninitialize = [{ run = \"x\", usr = \"root\" }]";
    assert!(problems(nested).contains("did you mean `user`?"));
}

#[test]
fn every_mistake_is_said_at_once() {
    let said = problems(
        "version = 2\n[setup]\ninitialize = \"make\"\ntimeout = \"3h\"\n[commands]\ntest = \"a 'b\"\n",
    );
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(
        lines,
        [
            "line 1: the only version is 1",
            "line 3: `initialize` is a list: [\"...\"]",
            "line 4: `timeout` is a time from \"1s\" to \"120m\", in quotes",
            "line 6: the command is without a closing quote; write it as for a shell: \
             \"python -m pytest -q\"",
        ]
    );
}

#[test]
fn each_kind_of_wrong_value_is_refused() {
    for (text, part) in [
        ("setup = 1", "[setup] on a line of its own"),
        ("[setup]\ninitialize = [1]", "an entry of `initialize`"),
        ("[setup]\ninitialize = [\" \"]", "not empty"),
        (
            "[setup]\ninitialize = [{ user = \"root\" }]",
            "without `run`",
        ),
        (
            "[setup]\ninitialize = [{ run = \"x\", user = \"-r\" }]",
            "no account's name",
        ),
        (
            "[setup]\ninputs = [\"/etc/passwd\"]",
            "inside the repository",
        ),
        ("[setup]\ninputs = [\"a/../../b\"]", "inside the repository"),
        ("[setup]\ninputs = [\":(glob)**\"]", "inside the repository"),
        ("[setup]\nmaintenance_timeout = \"11m\"", "\"10m\""),
        ("[setup]\ntimeout = 5", "in quotes"),
        ("[commands]\nlint = \"\"", "empty"),
        ("[commands]\nlint = [\"a\"]", "a text in quotes"),
        ("[knowledge]\nfiles = [\"..\"]", "inside the repository"),
        ("[setup\n", "line 1"),
        (
            "[setup]\ninitialize = [\"a\"]\ninitialize = [\"b\"]",
            "line 3",
        ),
    ] {
        let said = problems(text);
        assert!(said.contains(part), "{text:?} says {said:?}");
    }
}

#[test]
fn size_and_counts_are_bounded() {
    let large = format!("# {}\n", "x".repeat(SETUP_FILE_MAX_BYTES));
    assert!(problems(&large).contains("larger than 64 KiB"));
    let many = vec!["\"x\""; COMMANDS_MAX + 1].join(",");
    let said = problems(&format!("[setup]\ninitialize = [{many}]"));
    assert!(said.contains("65 entries, 64 at most"), "{said}");
    let long = "x".repeat(COMMAND_MAX_BYTES + 1);
    assert!(problems(&format!("[setup]\ninitialize = [\"{long}\"]")).contains("at most 8 KiB"));
    let noise = SetupFile::parse("t\n".repeat(1000).as_bytes()).unwrap_err();
    assert_eq!(noise.problems.len(), 20);
    let error = SetupFile::parse(b"\xff").unwrap_err();
    assert_eq!(
        error.to_string(),
        "compy.toml cannot be used: it is not UTF-8"
    );
}
