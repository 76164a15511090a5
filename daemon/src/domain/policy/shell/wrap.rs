//! Commands that run other commands.

use std::collections::BTreeMap;

use super::{
    Input, SimpleCommand, Word,
    output::roots,
    walk::Walker,
    wrappers::{RUNNERS, SHELLS, WRAPPERS},
};

/// The program that a script names in its first line.
pub(in crate::domain::policy) fn interpreter(text: &str) -> Option<&str> {
    let line = text.lines().next()?.strip_prefix("#!")?;
    let mut words = line.split_whitespace();
    let path = words.next()?;
    let name = path.rsplit('/').next()?;
    match name {
        "env" => words.find(|word| !word.starts_with('-')),
        name => Some(name),
    }
}

impl Walker<'_> {
    /// Walks what a command runs.
    pub(super) fn follow(&mut self, command: &SimpleCommand) {
        let Some(program) = command.program().map(str::to_owned) else {
            let shown = command.argv[0].text.clone();
            self.doubt(format!(
                "which program `{shown}` is, is not known before it runs"
            ));
            return;
        };
        if program.contains(['*', '?', '[']) && program != "[" && program != "[[" {
            self.doubt(format!(
                "which program `{program}` is, depends on which files there are"
            ));
        }
        for (name, value) in &command.environment {
            self.environment(name, value);
        }
        let arguments = command.arguments();
        if SHELLS.contains(&program.as_str()) {
            return self.shell(&program, command);
        }
        match program.as_str() {
            "eval" => self.evaluated("eval", arguments),
            "source" | "." => self.sourced(command),
            "trap" => {
                if let Some(handler) = arguments.first() {
                    self.text("trap", handler);
                }
            }
            "alias" => self.alias(arguments),
            "cd" | "pushd" => self.change_directory(arguments),
            "popd" => self.go_to(None),
            "read" | "mapfile" | "readarray" | "getopts" | "unset" => {
                for word in arguments {
                    self.lose(&word.text);
                }
            }
            "printf" if arguments.first().is_some_and(|word| word.text == "-v") => {
                if let Some(word) = arguments.get(1) {
                    self.lose(&word.text);
                }
            }
            "xargs" | "parallel" => self.xargs(command),
            "find" | "fd" | "fdfind" => self.find(command),
            "env" => self.env(command),
            "su" => self.dash_c("su", arguments, &["-c", "--command"]),
            "script" => self.dash_c("script", arguments, &["-c", "--command"]),
            "watch" => {
                let words = after_options(arguments, &["-n", "--interval"], 0);
                self.evaluated("watch", words);
            }
            "flock" => {
                self.dash_c("flock", arguments, &["-c", "--command"]);
                let words = after_options(arguments, &["-w", "-E"], 1);
                if words.first().is_none_or(|word| word.text != "-c") {
                    self.run(words, command);
                }
            }
            "ssh" => {
                let valued = [
                    "-b", "-c", "-D", "-E", "-F", "-i", "-J", "-L", "-l", "-m", "-O", "-o", "-p",
                    "-R", "-S", "-W", "-w",
                ];
                let words = after_options(arguments, &valued, 1);
                if !words.is_empty() {
                    self.evaluated("ssh", words);
                }
            }
            "git" => self.git(arguments),
            "make" | "gmake" if reads_stdin(arguments, "-f") => {
                self.doubt("`make` reads its rules from a pipe");
            }
            "at" | "batch" => self.doubt("what it runs later is not known"),
            program if program.contains('/') => self.written(command),
            _ => {
                if let Some(found) = WRAPPERS.iter().find(|wrapper| wrapper.name == program) {
                    let words = after_options(arguments, found.valued, found.operands);
                    return self.run(words, command);
                }
                let subcommand = arguments.first().map(|word| word.text.as_str());
                if RUNNERS.contains(&(program.as_str(), subcommand.unwrap_or_default()))
                    && program != "docker"
                {
                    let valued = ["-n", "--name", "--extra", "--with", "--python", "-p"];
                    let words = after_options(&arguments[1..], &valued, 0);
                    self.run(words, command);
                }
            }
        }
    }

    /// Runs words as a command in place of this one.
    fn run(&mut self, words: &[Word], of: &SimpleCommand) {
        if words.is_empty() {
            return;
        }
        let reads = Vec::new();
        let (input, environment) = (of.input.clone(), BTreeMap::new());
        self.command(words.to_vec(), Vec::new(), reads, environment, input);
    }

    /// Variables that make programs run something.
    fn environment(&mut self, name: &str, value: &Word) {
        match name {
            "LD_PRELOAD" | "LD_LIBRARY_PATH" | "LD_AUDIT" | "BASH_ENV" | "ENV"
            | "PROMPT_COMMAND" | "PERL5OPT" | "RUBYOPT" | "PYTHONSTARTUP" | "SHELLOPTS" | "IFS" => {
                self.doubt(format!("`{name}` makes programs run what is not named"));
            }
            "NODE_OPTIONS" if value.text.contains("--require") || value.text.contains("-r ") => {
                self.doubt("`NODE_OPTIONS` makes node run what is not named");
            }
            "GIT_SSH_COMMAND"
            | "GIT_SSH"
            | "GIT_EDITOR"
            | "GIT_PAGER"
            | "PAGER"
            | "EDITOR"
            | "VISUAL"
            | "GIT_EXTERNAL_DIFF"
            | "GIT_ASKPASS"
            | "SSH_ASKPASS"
            | "MANPAGER"
            | "LESSOPEN"
            | "GIT_PROXY_COMMAND"
            | "GIT_SEQUENCE_EDITOR"
            | "BROWSER" => {
                self.text(name, value);
            }
            // Only what begins with the path as it is names no other programs
            // for the usual ones.
            "PATH" if !value.text.starts_with("$PATH") && !value.text.starts_with("${PATH}") => {
                let first = value.text.split(':').next().unwrap_or("");
                let ordinary = [
                    "/usr/",
                    "/bin",
                    "/sbin",
                    "./node_modules/.bin",
                    "node_modules/.bin",
                    "~/.local/bin",
                    "~/.cargo/bin",
                    "./venv/bin",
                    "venv/bin",
                    ".venv/bin",
                ];
                if !ordinary.iter().any(|prefix| first.starts_with(prefix))
                    && !first.ends_with("/node_modules/.bin")
                    && !first.ends_with("venv/bin")
                {
                    self.doubt("`PATH` puts other programs in place of the usual ones");
                }
            }
            _ => {}
        }
    }

    /// Walks a text that is run as a script, if it is known.
    fn text(&mut self, who: &str, word: &Word) {
        match word.known() {
            Some("" | "-") => {}
            Some(text) => self.script(text),
            None => self.doubt(format!("what `{who}` runs is not known before it runs")),
        }
    }

    /// Walks words that are put together and run as a script.
    fn evaluated(&mut self, who: &str, words: &[Word]) {
        if words.iter().all(|word| word.exact) {
            let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
            self.script(&texts.join(" "));
        } else {
            self.doubt(format!("what `{who}` runs is not known before it runs"));
        }
    }

    fn sourced(&mut self, command: &SimpleCommand) {
        match command.arguments().first() {
            Some(word) if word.exact && word.text != "/dev/stdin" && word.text != "-" => {
                self.written(command);
            }
            Some(word) if word.exact => self.input_script(command),
            _ => self.doubt("what is sourced is not known before it runs"),
        }
    }

    /// A shell: its script is a word, its input or a file.
    fn shell(&mut self, program: &str, command: &SimpleCommand) {
        let arguments = command.arguments();
        let mut at = 0;
        while let Some(word) = arguments.get(at) {
            let Some(text) = word.known() else {
                self.doubt(format!("what `{program}` runs is not known before it runs"));
                return;
            };
            if matches!(text, "-o" | "+o" | "-O" | "+O" | "--rcfile" | "--init-file") {
                if text.ends_with("file") {
                    self.doubt(format!("`{program}` starts with a file of its own"));
                }
                at += 2;
                continue;
            }
            let is_short = text.len() > 1 && text.starts_with('-') && !text.starts_with("--");
            if is_short && text.contains('c') || text == "--command" {
                let Some(script) = arguments.get(at + 1) else {
                    return;
                };
                let Some(script) = script.known().map(str::to_owned) else {
                    self.doubt(format!("what `{program}` runs is not known before it runs"));
                    return;
                };
                let rest = arguments.get(at + 3..).unwrap_or_default().to_vec();
                let zero = arguments.get(at + 2).cloned();
                if let Some(zero) = zero {
                    self.assign("0", zero);
                }
                self.with_arguments(&rest, |walker| walker.script(&script));
                return;
            }
            if is_short && text.contains('s') || text == "-" {
                return self.input_script(command);
            }
            if text.starts_with('-') || text.starts_with('+') {
                at += 1;
                continue;
            }
            if matches!(text, "/dev/stdin" | "/proc/self/fd/0" | "/dev/fd/0") {
                return self.input_script(command);
            }
            // A script in a file runs like any other program.
            return self.written(command);
        }
        if !arguments
            .iter()
            .any(|word| word.text == "--version" || word.text == "--help")
        {
            self.input_script(command);
        }
    }

    /// A script that the line has written before.
    fn written(&mut self, command: &SimpleCommand) {
        match command.runs.clone() {
            // What is no script for a shell is judged by its language.
            Some(Some(text)) if interpreter(&text).is_some_and(|name| !SHELLS.contains(&name)) => {}
            Some(Some(text)) => self.script(&text),
            Some(None) => self.doubt("it runs a file that it has just made of what is not known"),
            None => {}
        }
    }

    /// A shell that reads its script from its input.
    fn input_script(&mut self, command: &SimpleCommand) {
        match command.input.clone() {
            Input::None => {}
            Input::Text(text) => self.script(&text),
            Input::File(word) if word.exact => {}
            Input::Fetched => self.doubt("it runs what it fetches from the network"),
            Input::Decoded => self.doubt("it runs what it has decoded"),
            Input::File(_) | Input::Names(_) | Input::Unknown => {
                self.doubt("a shell runs what another command says");
            }
        }
    }

    fn alias(&mut self, words: &[Word]) {
        for word in words {
            match (word.known(), word.text.split_once('=')) {
                (Some(_), Some((name, text))) => self.define_alias(name, text),
                (None, Some(_)) => self.doubt("an alias is not known before it is used"),
                (_, None) => {}
            }
        }
    }

    fn change_directory(&mut self, words: &[Word]) {
        let mut words = words
            .iter()
            .filter(|word| !matches!(word.text.as_str(), "-P" | "-L" | "-e" | "-@" | "--" | "-n"));
        match words.next() {
            None => self.go_to(Some("~")),
            Some(word) if word.text == "-" => self.go_to(None),
            Some(word) => {
                let path = word.known().filter(|path| !path.contains(['*', '?', '[']));
                self.go_to(path);
            }
        }
    }

    fn env(&mut self, command: &SimpleCommand) {
        let arguments = command.arguments();
        let mut at = 0;
        while let Some(word) = arguments.get(at) {
            match word.text.as_str() {
                "-u" | "--unset" | "-C" | "--chdir" => at += 2,
                "-S" | "--split-string" => {
                    let rest: Vec<Word> = arguments.get(at + 1..).unwrap_or_default().to_vec();
                    return self.evaluated("env", &rest);
                }
                text if text.starts_with("-S") || text.starts_with("--split-string=") => {
                    let text = text
                        .trim_start_matches("--split-string=")
                        .trim_start_matches("-S");
                    return self.script(text);
                }
                text if text.starts_with('-') => at += 1,
                text if text.contains('=') => {
                    if let Some((name, value)) = text.split_once('=') {
                        let value = Word {
                            text: value.to_owned(),
                            exact: word.exact,
                            ..Word::default()
                        };
                        self.environment(name, &value);
                    }
                    at += 1;
                }
                _ => break,
            }
        }
        self.run(arguments.get(at..).unwrap_or_default(), command);
    }

    /// `-c TEXT` of a program that is no shell.
    fn dash_c(&mut self, who: &str, words: &[Word], options: &[&str]) {
        for (at, word) in words.iter().enumerate() {
            let text = word.text.as_str();
            let is_short = text.starts_with('-') && !text.starts_with("--");
            // `-qc TEXT` as well.
            let ends = options.contains(&"-c") && is_short && text.ends_with('c');
            if (ends || options.contains(&text))
                && let Some(script) = words.get(at + 1)
            {
                return self.text(who, script);
            }
            if let Some(script) = word.text.strip_prefix("--command=") {
                return self.script(script);
            }
        }
    }

    /// `xargs`: the command gets words that come from its input.
    fn xargs(&mut self, command: &SimpleCommand) {
        let valued = [
            "-a",
            "-d",
            "-E",
            "-I",
            "-L",
            "-n",
            "-P",
            "-s",
            "-j",
            "--max-args",
            "--max-procs",
            "--delimiter",
            "--replace",
            "--arg-file",
        ];
        let arguments = command.arguments();
        let words = after_options(arguments, &valued, 0);
        let mut mark = None;
        // What comes after them are options of the command's.
        let own = &arguments[..arguments.len() - words.len()];
        for (at, word) in own.iter().enumerate() {
            match word.text.as_str() {
                "-I" => mark = arguments.get(at + 1).map(|word| word.text.clone()),
                "-i" | "--replace" => mark = Some("{}".to_owned()),
                text if text.starts_with("-I") => mark = Some(text[2..].to_owned()),
                _ => {}
            }
        }
        let given = match &command.input {
            Input::Names(directory) => Word {
                within: Some(directory.clone()),
                ..Word::unknown("NAMES")
            },
            Input::Text(text) if text.split_whitespace().count() == 1 => Word::exact(text.trim()),
            _ => Word::unknown("WORDS"),
        };
        self.with_given(words, mark.as_deref(), &given, command);
    }

    /// `find -exec`: the command gets the names that are found.
    fn find(&mut self, command: &SimpleCommand) {
        let arguments = command.arguments();
        let given = Word {
            within: roots(command),
            ..Word::unknown("{}")
        };
        let mut at = 0;
        while let Some(word) = arguments.get(at) {
            at += 1;
            if !matches!(
                word.text.as_str(),
                "-exec" | "-execdir" | "-ok" | "-okdir" | "-x" | "-X" | "--exec" | "--exec-batch"
            ) {
                continue;
            }
            let rest = arguments.get(at..).unwrap_or_default();
            let end = rest
                .iter()
                .position(|word| matches!(word.text.as_str(), ";" | "+"))
                .unwrap_or(rest.len());
            self.with_given(&rest[..end], Some("{}"), &given, command);
            at += end;
        }
    }

    /// Runs a command in which a mark, or its end, stands for other words.
    fn with_given(&mut self, words: &[Word], mark: Option<&str>, given: &Word, of: &SimpleCommand) {
        let mut filled: Vec<Word> = words
            .iter()
            .map(|word| match mark {
                Some(mark) if word.text == mark => given.clone(),
                Some(mark) if word.text.contains(mark) => Word {
                    exact: given.exact && word.exact,
                    text: word.text.replace(mark, &given.text),
                    ..Word::default()
                },
                _ => word.clone(),
            })
            .collect();
        if mark.is_none() && !filled.is_empty() {
            filled.push(given.clone());
        }
        self.run(&filled, of);
    }

    /// Git runs what its configuration says.
    fn git(&mut self, arguments: &[Word]) {
        let mut at = 0;
        while let Some(word) = arguments.get(at) {
            match word.text.as_str() {
                "-c" | "--config-env" => {
                    if let Some(setting) = arguments.get(at + 1) {
                        self.git_setting(setting);
                    }
                    at += 2;
                }
                "-C" | "--git-dir" | "--work-tree" | "--namespace" => at += 2,
                text if text.starts_with('-') => at += 1,
                _ => break,
            }
        }
        let rest = arguments.get(at..).unwrap_or_default();
        match rest.first().map(|word| word.text.as_str()) {
            Some("config") => {
                let words: Vec<&Word> = rest[1..]
                    .iter()
                    .filter(|word| !word.text.starts_with('-'))
                    .collect();
                if let [name, value] = words.as_slice() {
                    let setting = Word {
                        text: format!("{}={}", name.text, value.text),
                        exact: name.exact && value.exact,
                        ..Word::default()
                    };
                    self.git_setting(&setting);
                }
            }
            Some("rebase") => self.dash_c("git rebase", &rest[1..], &["-x", "--exec"]),
            Some("bisect") if rest.get(1).is_some_and(|word| word.text == "run") => {
                let command = rest.get(2..).unwrap_or_default().to_vec();
                self.command(
                    command,
                    Vec::new(),
                    Vec::new(),
                    BTreeMap::new(),
                    Input::None,
                );
            }
            Some("submodule") => {
                if let Some(at) = rest.iter().position(|word| word.text == "foreach") {
                    let words = rest.get(at + 1..).unwrap_or_default();
                    let words = after_options(words, &[], 0).to_vec();
                    self.evaluated("git submodule foreach", &words);
                }
            }
            Some("filter-branch") => {
                self.doubt("`git filter-branch` runs scripts over the history")
            }
            _ => {}
        }
    }

    fn git_setting(&mut self, setting: &Word) {
        let (name, value) = setting.text.split_once('=').unwrap_or((&setting.text, ""));
        let name = name.to_ascii_lowercase();
        let runs = name.starts_with("alias.")
            || matches!(
                name.as_str(),
                "core.sshcommand"
                    | "core.pager"
                    | "core.editor"
                    | "core.askpass"
                    | "core.fsmonitor"
                    | "core.gitproxy"
                    | "sequence.editor"
                    | "credential.helper"
                    | "diff.external"
                    | "gpg.program"
                    | "core.hookspath"
                    | "init.templatedir"
            )
            || (name.starts_with("filter.")
                || name.starts_with("diff.")
                || name.starts_with("merge."))
                && (name.ends_with(".clean")
                    || name.ends_with(".smudge")
                    || name.ends_with(".process")
                    || name.ends_with(".textconv")
                    || name.ends_with(".driver")
                    || name.ends_with(".command"));
        if !runs {
            return;
        }
        if !setting.exact || name == "core.hookspath" || name == "init.templatedir" {
            self.doubt(format!("what git runs for `{name}` is not known"));
            return;
        }
        let value = value.to_owned();
        match (name.starts_with("alias."), value.strip_prefix('!')) {
            (true, None) => self.script(&format!("git {value}")),
            (_, Some(script)) => self.script(script),
            (false, None) => self.script(&value),
        }
    }
}

fn reads_stdin(words: &[Word], option: &str) -> bool {
    words.iter().enumerate().any(|(at, word)| {
        word.text == option
            && words
                .get(at + 1)
                .is_some_and(|next| matches!(next.text.as_str(), "-" | "/dev/stdin"))
            || word.text == format!("{option}-")
    })
}

/// The words after options, their values, and so many operands.
fn after_options<'w>(words: &'w [Word], valued: &[&str], operands: usize) -> &'w [Word] {
    let mut at = 0;
    while let Some(word) = words.get(at) {
        let text = word.text.as_str();
        if text == "--" {
            at += 1;
            break;
        }
        let is_assignment = text.contains('=') && !text.starts_with(['-', '=', '/', '.']);
        if valued.contains(&text) {
            at += 2;
        } else if text.starts_with('-') && text.len() > 1 || is_assignment {
            at += 1;
        } else {
            break;
        }
    }
    words
        .get((at + operands).min(words.len())..)
        .unwrap_or_default()
}
