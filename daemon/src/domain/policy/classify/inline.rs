//! Programs in other languages that stand in a command: looked through for what
//! starts programs, deletes, or hides what it does. No grammar of theirs is
//! read; words that can do harm are enough to ask.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{Input, SimpleCommand, interpreter},
    },
    Act, Line, code,
};

/// Languages, the options that a program follows, and words to ask about.
const LANGUAGES: &[(&[&str], &[&str], &[&str])] = &[
    (
        &["python", "python2", "python3", "pypy", "pypy3", "ipython"],
        &["-c"],
        &[
            "os.system",
            "subprocess",
            "popen",
            "exec(",
            "eval(",
            "compile(",
            "__import__",
            "importlib",
            "getattr(",
            "rmtree",
            "os.remove",
            "os.unlink",
            "os.rmdir",
            ".unlink(",
            ".rmdir(",
            "os.rename",
            "os.replace",
            "socket",
            "base64",
            "codecs",
            "ctypes",
            "pty.",
            "marshal",
            "pickle",
            "os.environ",
            "os.exec",
            "os.spawn",
            "os.kill",
            "shutil.move",
            "chr(",
            "bytes.fromhex",
            "urlopen",
            "requests.",
            "os.chmod",
            "os.truncate",
            "globals(",
            "builtins",
            "symlink",
            "os.link",
            "hardlink",
        ],
    ),
    (
        &["node", "nodejs", "deno", "bun", "ts-node", "tsx"],
        &["-e", "--eval", "-p", "--print", "-pe", "eval"],
        &[
            "child_process",
            "eval(",
            "function(",
            "rmsync",
            "rmdir",
            "unlink",
            "fs.rm",
            "process.kill",
            "process.env",
            "net.",
            "http",
            "fetch(",
            "buffer.from",
            "atob(",
            "fromcharcode",
            "spawn",
            "exec",
            "vm.",
            "truncate",
            "rename",
            "symlink",
            "fs.link",
        ],
    ),
    (
        &["perl", "ruby"],
        &[
            "-e", "-E", "-ne", "-pe", "-i", "-pi", "-lne", "-lpe", "-pie", "-nle",
        ],
        &[
            "system",
            "exec",
            "`",
            "qx",
            "unlink",
            "rmtree",
            "rmdir",
            "rm_rf",
            "fileutils",
            "eval",
            "io.popen",
            "socket",
            "fork",
            "kill",
            "pack(",
            "unpack",
            "base64",
            "%x",
            "delete",
            "open(",
            "spawn",
            "env[",
            "$env",
            "symlink",
        ],
    ),
    (
        &["php"],
        &["-r"],
        &[
            "system",
            "exec",
            "`",
            "unlink",
            "rmdir",
            "eval",
            "popen",
            "base64",
            "fsockopen",
            "getenv",
            "passthru",
            "symlink",
            "rename",
        ],
    ),
    (
        &["lua", "luajit"],
        &["-e"],
        &["os.execute", "io.popen", "os.remove", "load", "os.rename"],
    ),
    (&["osascript", "tclsh", "expect"], &["-e", "-c"], &[""]),
];

/// Whether a program is an interpreter of one of the languages.
pub(super) fn knows(program: &str) -> bool {
    let stem = stem(program);
    let mut names = LANGUAGES.iter().flat_map(|(names, _, _)| *names);
    names.any(|name| *name == program || *name == stem)
}

/// The name without a version.
fn stem(program: &str) -> &str {
    program.trim_end_matches(|char: char| char.is_ascii_digit() || char == '.')
}

/// Judges a program that stands in a command, or comes on its input.
pub(super) fn judge(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let script = match &command.runs {
        Some(Some(text)) => interpreter(text),
        Some(None) | None => None,
    };
    let Some(program) = script.or(command.program()) else {
        return;
    };
    let stem = stem(program);
    let is_named = |names: &[&str]| names.contains(&program) || names.contains(&stem);
    let Some((_, options, words)) = LANGUAGES.iter().find(|(names, _, _)| is_named(names)) else {
        return;
    };
    act.level = act.level.max(Level::Write);
    let arguments = command.arguments();
    let mut writes = false;
    let mut look = |act: &mut Act, text: &str| {
        look(act, program, text, words);
        writes |= code::judge(act, text, command, line);
    };
    let mut given = false;
    for (at, argument) in arguments.iter().enumerate() {
        let text = argument.text.as_str();
        if options.contains(&text) {
            given = true;
            match arguments.get(at + 1) {
                Some(code) if !code.exact => act.find(RiskKind::NotUnderstood, program),
                Some(code) => look(act, &code.text),
                None => {}
            }
        } else if let Some(code) = options
            .iter()
            .filter(|option| option.len() == 2)
            .find_map(|option| text.strip_prefix(option))
        {
            given = true;
            look(act, code);
        }
    }
    let script = arguments.iter().find(|word| !word.text.starts_with('-'));
    let reads_input = !given && (script.is_none() || arguments.iter().any(|word| word.text == "-"));
    if reads_input
        && !arguments
            .iter()
            .any(|word| word.text.starts_with("--v") || word.text == "-V" || word.text == "-m")
    {
        match &command.input {
            Input::None | Input::File(_) => {}
            Input::Text(text) => look(act, text),
            Input::Names(_) | Input::Fetched | Input::Decoded | Input::Unknown => {
                act.find(RiskKind::NotUnderstood, program);
            }
        }
    }
    match &command.runs {
        Some(Some(text)) => look(act, text),
        Some(None) => act.find(RiskKind::NotUnderstood, program),
        None => {}
    }
    if writes {
        code::judge_given(act, command, line);
    }
}

fn look(act: &mut Act, program: &str, code: &str, words: &[&str]) {
    let code = code.to_ascii_lowercase();
    if let Some(word) = words.iter().find(|word| code.contains(**word)) {
        act.find(
            RiskKind::NotUnderstood,
            format!("{program}: `{word}` in the program given to it"),
        );
    }
}

/// `awk` and `sed` can run commands and write files.
pub(super) fn judge_text_tools(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let words = command.arguments();
    match command.program() {
        Some("awk" | "gawk" | "mawk" | "nawk") => code::judge_awk(act, command, line),
        Some("sed" | "gsed") => code::judge_sed(act, command, line),
        _ => {}
    }
    let risky = match command.program() {
        Some("awk" | "gawk" | "mawk" | "nawk") => words.iter().any(|word| {
            let code = &word.text;
            code.contains("system(")
                || code.contains("| getline")
                || code.contains("|getline")
                || code.contains("| \"")
                || code.contains("|\"")
                || code.contains("/inet/")
        }),
        Some("sed" | "gsed") => words
            .iter()
            .filter(|word| !word.text.starts_with("--"))
            .any(|word| {
                let code = word.text.trim_end();
                // The flag `e` of `s`, and the command `e`.
                code.starts_with('s')
                    && code
                        .rsplit(['/', '|', '#', ',', '@'])
                        .next()
                        .is_some_and(|flags| {
                            flags.contains('e')
                                && flags.chars().all(|flag| "gipemIM0123456789".contains(flag))
                        })
                    && code.len() > 4
                    || code == "e"
                    || code.starts_with("e ")
                    || code.starts_with("1e ")
            }),
        Some("vim" | "vi" | "ex" | "nvim" | "ed" | "emacs") => words
            .iter()
            .any(|word| word.text.contains('!') || word.text == "--eval"),
        Some("gdb" | "lldb") => words
            .iter()
            .any(|word| word.text.contains("shell") || word.text.contains("system(")),
        _ => false,
    };
    if risky {
        let program = command.program().unwrap_or_default();
        act.find(
            RiskKind::NotUnderstood,
            format!("{program}: it runs other programs"),
        );
    }
}
