//! Commands that run other commands.

use std::collections::BTreeMap;

use super::{
    Input, RUNS_DECODED, RUNS_FETCHED, RUNS_SAID, RunBy, RunFile, SimpleCommand, Word, absolute,
    found::{narrows, starting_points},
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

/// Whether a program's arguments are walked here where they are a command.
pub(in crate::domain::policy) fn runs_what_follows(program: &str) -> bool {
    SHELLS.contains(&program) || WRAPPERS.iter().any(|wrapper| wrapper.name == program)
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
            // `IFS=, read` splits what it reads, and nothing after it.
            if name != "IFS" || program != "read" {
                self.environment(name, value);
            }
        }
        let arguments = command.arguments();
        if SHELLS.contains(&program.as_str()) {
            return self.shell(&program, command);
        }
        match program.as_str() {
            "eval" => self.evaluated("eval", arguments),
            "source" | "." => self.sourced(command),
            "trap" => {
                let first = arguments.iter().find(|word| word.text != "--");
                if let Some(handler) = first {
                    self.text("trap", handler);
                }
            }
            "export" | "declare" | "typeset" | "local" | "readonly" => self.declared(arguments),
            "alias" => self.alias(arguments),
            "hash" => self.hash(arguments),
            "enable" if has_letter(arguments, 'f') => {
                self.doubt("`enable -f` gives a program's name to something else");
            }
            "compgen" | "complete" => {
                for pair in arguments.windows(2).filter(|pair| pair[0].text == "-C") {
                    self.text(&program, &pair[1]);
                }
            }
            "cd" | "pushd" => self.change_directory(arguments),
            "popd" => self.go_to(None),
            "mapfile" | "readarray" => self.mapfile(&program, arguments),
            "read" | "getopts" | "unset" => {
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
            "make" | "gmake"
                if arguments
                    .iter()
                    .any(|word| word.text.starts_with("--ev") || word.text.starts_with("-E")) =>
            {
                self.doubt("`make` is given rules of its own");
            }
            "tmux" | "screen" | "zellij" => self.typed(&program, arguments),
            "at" | "batch" => self.doubt("what it runs later is not known"),
            program if program.contains('/') => {
                self.written(command, &command.argv[0], RunBy::Itself);
            }
            _ => {
                if let Some(found) = WRAPPERS.iter().find(|wrapper| wrapper.name == program) {
                    let words = after_options(arguments, found.valued, found.operands);
                    if program == "sudo" {
                        let options = &arguments[..arguments.len() - words.len()];
                        if let Some(directory) = sudo_directory(options) {
                            return self.within(&directory, |walker| walker.run(words, command));
                        }
                    }
                    if program == "npx" {
                        let options = &arguments[..arguments.len() - words.len()];
                        self.dash_c("npx", options, &["-c", "--call"]);
                    }
                    return self.run(words, command);
                }
                let subcommand = arguments.first().map(|word| word.text.as_str());
                if RUNNERS.contains(&(program.as_str(), subcommand.unwrap_or_default()))
                    && program != "docker"
                {
                    let valued = [
                        "-n", "--name", "--extra", "--with", "--python", "-p", "-c", "--call",
                    ];
                    let given = &arguments[1..];
                    let words = after_options(given, &valued, 0);
                    if program == "npm" {
                        let options = &given[..given.len() - words.len()];
                        self.dash_c("npm exec", options, &["-c", "--call"]);
                    }
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

    /// Walks a text that is run as a script, if it is known.
    pub(super) fn text(&mut self, who: &str, word: &Word) {
        match word.known() {
            Some("" | "-") => {}
            Some(text) => self.script(text),
            None => self.doubt(format!("what `{who}` runs is not known before it runs")),
        }
    }

    /// What a terminal in the background is told: a text with spaces is a line.
    fn typed(&mut self, who: &str, words: &[Word]) {
        for word in words {
            if !word.exact || word.text.contains(char::is_whitespace) {
                self.text(who, word);
            }
        }
    }

    /// Walks words that are put together and run as a script.
    pub(super) fn evaluated(&mut self, who: &str, words: &[Word]) {
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
                self.written(command, word, RunBy::Shell);
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
            return self.written(command, word, RunBy::Shell);
        }
        if !arguments
            .iter()
            .any(|word| word.text == "--version" || word.text == "--help")
        {
            self.input_script(command);
        }
    }

    /// A script in a file, which the line may have written before.
    fn written(&mut self, command: &SimpleCommand, file: &Word, by: RunBy) {
        let was_there = match file.known() {
            Some(path) => {
                (command.directories.iter()).any(|from| self.added.contains(&absolute(path, from)))
            }
            None => false,
        };
        // What was there before it was added to is run as well.
        if command.runs.is_none() || was_there {
            self.reading.runs.push(RunFile {
                file: file.clone(),
                directories: command.directories.clone(),
                by,
            });
        }
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
            Input::File(word) if word.exact => self.reading.runs.push(RunFile {
                file: word,
                directories: command.directories.clone(),
                by: RunBy::Shell,
            }),
            Input::Fetched => self.doubt(RUNS_FETCHED),
            Input::Decoded => self.doubt(RUNS_DECODED),
            // What comes with all variables is no less risky to run than without.
            Input::Environment(others) => match others.others() {
                Input::Fetched => self.doubt(RUNS_FETCHED),
                Input::Decoded => self.doubt(RUNS_DECODED),
                _ => self.doubt(RUNS_SAID),
            },
            Input::File(_) | Input::Names(_) | Input::Unknown => self.doubt(RUNS_SAID),
        }
    }

    fn alias(&mut self, words: &[Word]) {
        for word in words {
            match (word.known(), word.text.split_once('=')) {
                (Some(_), Some((name, text))) => self.define_alias(name, text),
                (None, _) => self.doubt("an alias is not known before it is used"),
                (Some(_), None) => {}
            }
        }
        // `alias name words`, as `csh` has it.
        if let [name, text @ ..] = words
            && !text.is_empty()
            && !name.text.starts_with('-')
            && !words.iter().any(|word| word.text.contains('='))
        {
            let text: Vec<&str> = text.iter().map(|word| word.text.as_str()).collect();
            self.define_alias(&name.text, &text.join(" "));
        }
    }

    /// `hash -p FILE NAME` and `hash NAME=FILE` make a name stand for a file.
    fn hash(&mut self, words: &[Word]) {
        // `hash "$1"` asks whether there is a program.
        let asks = |word: &Word| {
            let name = word.text.trim_matches(['$', '{', '}']);
            name.chars()
                .all(|char| char.is_ascii_alphanumeric() || char == '_')
        };
        let binds = |word: &Word| word.text.contains('=') || !word.exact && !asks(word);
        if has_letter(words, 'p') || words.iter().any(binds) {
            self.doubt("`hash` gives programs other names");
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

    /// Walks what runs in another directory; afterwards it is where it was.
    fn within(&mut self, directory: &Word, walk: impl FnOnce(&mut Self)) {
        let before = self.directories.clone();
        let is_path = |path: &&str| !path.contains(['*', '?', '[']);
        self.go_to(directory.known().filter(is_path));
        walk(self);
        self.directories = before;
    }

    /// `env`: options, variables, and a command, perhaps in another directory.
    fn env(&mut self, command: &SimpleCommand) {
        let arguments = command.arguments();
        let mut directory = None;
        let mut at = 0;
        while let Some(word) = arguments.get(at) {
            at += 1;
            let text = word.text.as_str();
            if text == "--" {
                continue;
            }
            if let Some(long) = text.strip_prefix("--") {
                let (name, joined) = match long.split_once('=') {
                    Some((name, value)) => (name, Some(part(word, value))),
                    None => (long, None),
                };
                let takes =
                    |whole: &str, least: &str| name.starts_with(least) && whole.starts_with(name);
                if takes("chdir", "c") || takes("split-string", "s") || takes("unset", "u") {
                    let value = joined.or_else(|| {
                        at += 1;
                        arguments.get(at - 1).cloned()
                    });
                    if takes("chdir", "c") {
                        directory = value;
                    } else if takes("split-string", "s") {
                        return self.env_script(directory, value, arguments.get(at..));
                    }
                }
                continue;
            }
            if text.len() > 1 && text.starts_with('-') {
                let cluster = text[1..].char_indices();
                let valued = cluster.clone().find(|(_, char)| "uCSa".contains(*char));
                let Some((option_at, option)) = valued else {
                    continue;
                };
                let rest = &text[1 + option_at + 1..];
                let value = if rest.is_empty() {
                    at += 1;
                    arguments.get(at - 1).cloned()
                } else {
                    Some(part(word, rest))
                };
                match option {
                    'C' => directory = value,
                    'S' => return self.env_script(directory, value, arguments.get(at..)),
                    _ => {}
                }
                continue;
            }
            if let Some((name, value)) = text.split_once('=') {
                self.environment(name, &part(word, value));
                continue;
            }
            if text == "-" {
                continue;
            }
            at -= 1;
            break;
        }
        let rest = arguments.get(at..).unwrap_or_default();
        match directory {
            Some(directory) => self.within(&directory, |walker| walker.run(rest, command)),
            None => self.run(rest, command),
        }
    }

    /// `env -S TEXT`: a text that is taken apart and run.
    fn env_script(&mut self, directory: Option<Word>, text: Option<Word>, rest: Option<&[Word]>) {
        let words: Vec<Word> = text
            .into_iter()
            .chain(rest.unwrap_or_default().iter().cloned())
            .collect();
        match directory {
            Some(directory) => {
                self.within(&directory, |walker| walker.evaluated("env", &words));
            }
            None => self.evaluated("env", &words),
        }
    }

    /// `mapfile -C` runs a text as it reads, with the line that it has read.
    fn mapfile(&mut self, program: &str, arguments: &[Word]) {
        let mut at = 0;
        while let Some(word) = arguments.get(at) {
            at += 1;
            let text = word.text.as_str();
            if text == "--" {
                continue;
            }
            if text.len() < 2 || !text.starts_with('-') {
                self.lose(text);
                continue;
            }
            let mut cluster = text[1..].char_indices();
            let Some((option_at, option)) = cluster.find(|(_, char)| "dnOsuCc".contains(*char))
            else {
                continue;
            };
            let rest = &text[1 + option_at + 1..];
            let value = if rest.is_empty() {
                at += 1;
                arguments.get(at - 1).cloned()
            } else {
                Some(part(word, rest))
            };
            if option == 'C'
                && let Some(callback) = value
            {
                match callback.known() {
                    // What it reads comes after the text, quoted.
                    Some(callback) => self.script(&format!("{callback} \"$_\"")),
                    None => self.text(program, &callback),
                }
            }
        }
    }

    /// Assignments among the words of `export`, `declare` and their like: those
    /// that are quoted, and those of a name that is not known.
    fn declared(&mut self, arguments: &[Word]) {
        let refers = |word: &Word| word.text.starts_with('-') && word.text.contains('n');
        let is_reference = arguments.iter().any(refers);
        for word in arguments.iter().filter(|word| !word.text.starts_with('-')) {
            let Some((name, value)) = word.text.split_once('=') else {
                if !word.exact {
                    self.lose_all();
                }
                continue;
            };
            let name = name.trim_end_matches('+');
            if name.contains(|char: char| !char.is_ascii_alphanumeric() && char != '_') {
                self.lose_all();
                continue;
            }
            let value = part(word, value);
            self.environment(name, &value);
            if is_reference {
                self.lose(&value.text);
            }
            if self.variables.contains_key(name) || word.text.contains("+=") {
                self.lose(name);
            } else {
                self.assign(name, value);
            }
        }
    }

    /// `-c TEXT` of a program that is no shell.
    pub(super) fn dash_c(&mut self, who: &str, words: &[Word], options: &[&str]) {
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
            let joined = options.iter().filter(|option| option.starts_with("--"));
            let mut joined =
                joined.filter_map(|option| text.strip_prefix(*option)?.strip_prefix('='));
            if let Some(script) = joined.next() {
                let script = Word {
                    text: script.to_owned(),
                    ..word.clone()
                };
                return self.text(who, &script);
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
        // What finds everything finds the directories that it looks in, too.
        let here = Word::exact(".");
        let whole: Vec<&Word> = match command.program() {
            Some("find") if !narrows(arguments) => match starting_points(arguments) {
                points if points.is_empty() => vec![&here],
                points => points,
            },
            _ => Vec::new(),
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
            let words = &rest[..end];
            if matches!(word.text.as_str(), "-execdir" | "-okdir") {
                let before = self.directories.clone();
                self.directories = self.found_directories(arguments);
                self.with_given(words, Some("{}"), &given, command);
                self.directories = before;
            } else {
                self.with_given(words, Some("{}"), &given, command);
            }
            for root in &whole {
                self.with_given(words, Some("{}"), root, command);
            }
            at += end;
        }
    }

    /// Where `find -execdir` may run its command: where it starts, in what it
    /// starts from, and below.
    fn found_directories(&self, arguments: &[Word]) -> Vec<String> {
        let here = Word::exact(".");
        let mut roots = starting_points(arguments);
        if roots.is_empty() {
            roots.push(&here);
        }
        let mut found: Vec<String> = Vec::new();
        for root in roots {
            let Some(path) = root.known() else {
                return Vec::new();
            };
            for from in &self.directories {
                let inside = absolute(path, from);
                let beside = match path.trim_end_matches('/').rsplit_once('/') {
                    Some(_) => absolute("..", &inside),
                    None if path.starts_with('/') => "/".to_owned(),
                    None => from.clone(),
                };
                let below = format!("{}/*", inside.trim_end_matches('/'));
                for directory in [beside, inside, below] {
                    if !found.contains(&directory) {
                        found.push(directory);
                    }
                }
            }
        }
        found
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
}

/// Whether a short option is given, alone or among others.
fn has_letter(words: &[Word], letter: char) -> bool {
    words.iter().any(|word| {
        let cluster = word.text.strip_prefix('-');
        cluster.is_some_and(|letters| letters.contains(letter))
    })
}

/// A part of a word.
fn part(of: &Word, text: &str) -> Word {
    Word {
        text: text.to_owned(),
        exact: of.exact,
        ..Word::default()
    }
}

/// The directory that `sudo` changes to.
fn sudo_directory(options: &[Word]) -> Option<Word> {
    options.iter().enumerate().find_map(|(at, word)| {
        let text = word.text.as_str();
        if matches!(text, "-D" | "--chdir") {
            return options.get(at + 1).cloned();
        }
        let joined = text.strip_prefix("--chdir=");
        let joined = joined.or_else(|| text.strip_prefix("-D"));
        joined.map(|path| part(word, path))
    })
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
pub(super) fn after_options<'w>(words: &'w [Word], valued: &[&str], operands: usize) -> &'w [Word] {
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
