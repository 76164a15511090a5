//! Programs in other languages that stand in a command: looked through for what
//! starts programs, deletes, or hides what it does. No grammar of theirs is
//! read; words that can do harm are enough to ask.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{Input, SimpleCommand, Word, interpreter},
    },
    Act, Line, awk, code,
    given::{Given, Names},
};

/// A language, and how its interpreters read their arguments.
#[derive(Debug)]
struct Language {
    names: &'static [&'static str],
    /// Letters of the options whose value is a program.
    code: &'static str,
    /// The same of long options, and of words.
    code_long: &'static [&'static str],
    /// Letters of the options that have another value, in the same word or the next.
    valued: &'static str,
    /// Letters whose value is the rest of the word.
    joined: &'static str,
    /// Letters whose value is the file of the program.
    file: &'static str,
    /// Letters whose value is the module that is run.
    module: &'static str,
    /// Long options that have another value.
    valued_long: &'static [&'static str],
    /// Words to ask about.
    words: &'static [&'static str],
}

const PLAIN: Language = Language {
    names: &[],
    code: "",
    code_long: &[],
    valued: "",
    joined: "",
    file: "",
    module: "",
    valued_long: &[],
    words: &[],
};

const LANGUAGES: &[Language] = &[
    Language {
        names: &["python", "python2", "python3", "pypy", "pypy3", "ipython"],
        code: "c",
        valued: "WXQ",
        module: "m",
        valued_long: &["--check-hash-based-pycs", "--jit"],
        words: PYTHON,
        ..PLAIN
    },
    Language {
        names: &["node", "nodejs", "deno", "bun", "ts-node", "tsx"],
        code: "ep",
        code_long: &["--eval", "--print", "eval"],
        valued: "rCO",
        valued_long: &[
            "--require",
            "--import",
            "--loader",
            "--experimental-loader",
            "--conditions",
            "--input-type",
            "--env-file",
            "--title",
            "--test-reporter",
            "--test-name-pattern",
            "--preload",
            "--config",
            "--project",
            "--tsconfig",
            "--compiler-options",
            "--cwd",
            "--ext",
        ],
        words: NODE,
        ..PLAIN
    },
    Language {
        names: &["perl"],
        code: "eE",
        valued: "I",
        joined: "iFDVxMm",
        words: PERL,
        ..PLAIN
    },
    Language {
        names: &["ruby"],
        code: "e",
        valued: "IrEC",
        joined: "iFx",
        valued_long: &[
            "--encoding",
            "--external-encoding",
            "--internal-encoding",
            "--enable",
            "--disable",
            "--dump",
            "--parser",
            "--backtrace-limit",
        ],
        words: PERL,
        ..PLAIN
    },
    Language {
        names: &["php"],
        code: "rBRE",
        code_long: &[
            "--run",
            "--process-begin",
            "--process-code",
            "--process-end",
        ],
        valued: "dcStzg",
        file: "fF",
        valued_long: &[
            "--define",
            "--file",
            "--php-ini",
            "--process-file",
            "--server",
            "--docroot",
            "--zend-extension",
        ],
        words: PHP,
        ..PLAIN
    },
    Language {
        names: &["lua", "luajit"],
        code: "e",
        valued: "l",
        words: LUA,
        ..PLAIN
    },
    Language {
        names: &["osascript", "tclsh", "expect"],
        code: "ec",
        valued: "l",
        file: "f",
        words: &[""],
        ..PLAIN
    },
];

/// What a program in Python may do harm by.
const PYTHON: &[&str] = &[
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
];

/// The same of JavaScript.
const NODE: &[&str] = &[
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
    "data:text/",
];

/// The same of Perl and Ruby.
const PERL: &[&str] = &[
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
];

/// The same of PHP.
const PHP: &[&str] = &[
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
    "auto_prepend",
];

/// The same of Lua.
const LUA: &[&str] = &["os.execute", "io.popen", "os.remove", "load", "os.rename"];

/// The files that stand for the standard input.
const INPUTS: [&str; 4] = ["-", "/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"];

/// Whether a program is an interpreter of one of the languages.
pub(super) fn knows(program: &str) -> bool {
    language(program).is_some()
}

fn language(program: &str) -> Option<&'static Language> {
    let stem = stem(program);
    let is_named = |names: &[&str]| names.contains(&program) || names.contains(&stem);
    LANGUAGES.iter().find(|language| is_named(language.names))
}

/// The name without a version.
fn stem(program: &str) -> &str {
    program.trim_end_matches(|char: char| char.is_ascii_digit() || char == '.')
}

/// What an interpreter is told by its arguments.
#[derive(Debug, Default)]
struct Told<'w> {
    /// Programs that stand in them.
    code: Vec<Word>,
    /// Whether there is to be one, so that no file is read.
    has_code: bool,
    /// The file of the program.
    script: Option<&'w Word>,
    /// The module that is run.
    module: Option<Word>,
    /// Whether files are changed in place.
    in_place: bool,
    /// Everything after these.
    rest: &'w [Word],
}

impl<'w> Told<'w> {
    fn read(language: &Language, words: &'w [Word]) -> Self {
        let mut told = Self::default();
        let mut at = 0;
        while let Some(word) = words.get(at) {
            at += 1;
            let text = word.text.as_str();
            if text == "--" {
                break;
            }
            if language.code_long.contains(&text) && !text.starts_with('-') {
                told.has_code = true;
                told.code.extend(words[at..].iter().cloned());
                break;
            }
            if text.len() < 2 || !text.starts_with('-') {
                at -= 1;
                break;
            }
            at += match text.starts_with("--") {
                true => told.long(language, word, words.get(at)),
                false => told.cluster(language, word, words.get(at)),
            };
            if told.module.is_some() {
                break;
            }
        }
        told.rest = words.get(at.min(words.len())..).unwrap_or_default();
        if !told.has_code && told.module.is_none() && told.script.is_none() {
            told.script = told.rest.first();
            told.rest = told.rest.get(1..).unwrap_or_default();
        }
        told
    }

    /// A long option; how many words after it are its value.
    fn long(&mut self, language: &Language, word: &Word, next: Option<&'w Word>) -> usize {
        let (name, joined) = match word.text.split_once('=') {
            Some((name, value)) => (name, Some(part(word, value))),
            None => (word.text.as_str(), None),
        };
        let takes_next = usize::from(joined.is_none());
        let value = joined.or_else(|| next.cloned());
        if language.code_long.contains(&name) {
            self.has_code = true;
            self.code.extend(value);
            return takes_next;
        }
        // What is imported may be a text.
        self.code
            .extend(value.filter(|value| value.text.starts_with("data:")));
        match language.valued_long.contains(&name) {
            true => takes_next,
            false => 0,
        }
    }

    /// Short options in one word; how many words after it are a value.
    fn cluster(&mut self, language: &Language, word: &Word, next: Option<&'w Word>) -> usize {
        let letters = &word.text[1..];
        for (at, letter) in letters.char_indices() {
            let rest = &letters[at + letter.len_utf8()..];
            let takes_next = usize::from(rest.is_empty());
            let value = match rest.is_empty() {
                true => next.cloned(),
                false => Some(part(word, rest)),
            };
            self.in_place |= letter == 'i';
            if language.code.contains(letter) {
                self.has_code = true;
                self.code.extend(value);
                // `-pe` may be two options.
                if rest.chars().all(|char| char.is_ascii_alphanumeric())
                    && rest.contains(|char: char| language.code.contains(char))
                {
                    self.code.extend(next.cloned());
                }
                return takes_next;
            }
            if language.module.contains(letter) {
                self.module = value;
                return takes_next;
            }
            if language.file.contains(letter) {
                self.script = next;
                return takes_next;
            }
            if language.valued.contains(letter) {
                return takes_next;
            }
            if language.joined.contains(letter) {
                // `-MPOSIX;system(...)` is a program, too.
                if letter.eq_ignore_ascii_case(&'m') && !rest.is_empty() {
                    self.code.extend(value);
                }
                return 0;
            }
        }
        0
    }

    /// Programs that a module is told to run.
    fn of_its_module(&self) -> Vec<&'w Word> {
        let Some(module) = self.module.as_ref() else {
            return Vec::new();
        };
        let is_it = |word: &Word| word.text == "timeit";
        if is_it(module) {
            return self.rest.iter().collect();
        }
        let mut found: Vec<&Word> = match self.rest.iter().position(is_it) {
            Some(at) => self.rest[at + 1..].iter().collect(),
            None => Vec::new(),
        };
        let pairs = self.rest.windows(2).filter(|pair| pair[0].text == "-c");
        found.extend(pairs.map(|pair| &pair[1]));
        found
    }

    /// Programs that stand after the file, where what is before it may have been
    /// misread.
    fn after_its_file(&self, language: &Language) -> Vec<Word> {
        let mut found = Vec::new();
        for (at, word) in self.rest.iter().enumerate() {
            let text = word.text.as_str();
            let mut letters = text.chars().skip(1);
            let is_short = text.len() == 2
                && text.starts_with('-')
                && letters.all(|letter| language.code.contains(letter));
            if is_short || language.code_long.contains(&text) {
                found.extend(self.rest.get(at + 1).cloned());
            } else if let Some((name, value)) = text.split_once('=')
                && language.code_long.contains(&name)
            {
                found.push(part(word, value));
            }
        }
        found
    }
}

fn part(of: &Word, text: &str) -> Word {
    Word {
        text: text.to_owned(),
        exact: of.exact,
        ..Word::default()
    }
}

/// The files that `perl -i` and `ruby -i` change.
pub(super) fn edited_in_place(command: &SimpleCommand) -> &[Word] {
    let Some(language) = command.program().and_then(language) else {
        return &[];
    };
    let told = Told::read(language, command.arguments());
    match told.in_place {
        true => told.rest,
        false => &[],
    }
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
    let Some(language) = language(program) else {
        return;
    };
    act.level = act.level.max(Level::Write);
    let arguments = command.arguments();
    let mut writes = false;
    let mut look = |act: &mut Act, text: &str| {
        look(act, program, text, language.words);
        writes |= code::judge(act, text, command, line);
    };
    let told = Told::read(language, arguments);
    for code in told.code.iter().chain(&told.after_its_file(language)) {
        match code.exact {
            true => look(act, &code.text),
            false => act.find(RiskKind::NotUnderstood, program),
        }
    }
    for code in told.of_its_module() {
        look(act, &code.text);
        if !code.exact && code.text.starts_with(['$', '`']) {
            act.find(RiskKind::NotUnderstood, program);
        }
    }
    let is_input = |word: &Word| INPUTS.contains(&word.text.as_str());
    let prompts = told.module.as_ref().map(|module| &*module.text);
    let reads_input = match told.script {
        Some(script) => is_input(script),
        None => !told.has_code && matches!(prompts, None | Some("code" | "asyncio")),
    };
    let only_says = |word: &Word| word.text.starts_with("--v") || word.text == "-V";
    if (reads_input || arguments.iter().any(|word| word.text == "-"))
        && !arguments.iter().any(only_says)
    {
        match &command.input {
            Input::None | Input::File(_) => {}
            Input::Text(text) => look(act, text),
            Input::Names(_)
            | Input::Fetched
            | Input::Decoded
            | Input::Environment(_)
            | Input::Unknown => {
                act.find(RiskKind::NotUnderstood, program);
            }
        }
    }
    if told
        .script
        .is_some_and(|script| script.text.starts_with("<("))
    {
        act.find(RiskKind::NotUnderstood, program);
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

/// The programs that `awk` is given, or its first operand.
fn awk_programs(words: &[Word]) -> Vec<Word> {
    const VALUED: [&str; 15] = [
        "-F",
        "-v",
        "-f",
        "-e",
        "-i",
        "-l",
        "-E",
        "-W",
        "--field-separator",
        "--assign",
        "--file",
        "--source",
        "--include",
        "--load",
        "--exec",
    ];
    let given = Given::read(words, &VALUED, Names::Shortened);
    let programs: Vec<Word> = given.values(&["-e", "--source"]).cloned().collect();
    let by_file = given.has(&["-f", "--file", "-E", "--exec"]);
    if !programs.is_empty() || by_file {
        return programs;
    }
    let first = given.operands.first();
    first.map(|word| (*word).clone()).into_iter().collect()
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
        Some("awk" | "gawk" | "mawk" | "nawk") => {
            words.iter().any(|word| {
                let code = &word.text;
                code.contains("system(")
                    || code.contains("| getline")
                    || code.contains("|getline")
                    || code.contains("| \"")
                    || code.contains("|\"")
                    || code.contains("/inet/")
            }) || awk_programs(words)
                .iter()
                .any(|program| awk::starts_programs(&program.text))
        }
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
