//! What commands say to a pipe, and the files that they make.

use super::{Input, SimpleCommand, Word, absolute, all_variables};

/// The directory that everything a command names lies below, if that is one.
pub(super) fn roots(command: &SimpleCommand) -> Option<String> {
    let [here] = command.directories.as_slice() else {
        return None;
    };
    let given: Vec<&Word> = match command.program()? {
        "find" => command
            .arguments()
            .iter()
            .take_while(|word| !word.text.starts_with(['-', '(', '!']))
            .collect(),
        "ls" => command
            .arguments()
            .iter()
            .filter(|word| !word.text.starts_with('-'))
            .collect(),
        "grep" | "egrep" | "fgrep" | "rg" => {
            let words = command
                .arguments()
                .iter()
                .filter(|word| !word.text.starts_with('-'));
            words.skip(1).collect()
        }
        "fd" | "fdfind" => Vec::new(),
        "git" => {
            let sub = command.arguments().first()?.known()?;
            return matches!(sub, "ls-files" | "diff" | "grep").then(|| here.clone());
        }
        _ => return None,
    };
    match given.as_slice() {
        [] => Some(here.clone()),
        [root] => {
            // Of `src/*.py` all lies below `src`.
            let path = root.known()?;
            let path = path.split(['*', '?', '[']).next().unwrap_or("");
            let path = match path.len() == root.text.len() {
                true => path,
                false => path
                    .rsplit_once('/')
                    .map_or(".", |(directory, _)| directory),
            };
            Some(absolute(path, here))
        }
        roots => {
            let paths: Option<Vec<String>> = roots
                .iter()
                .map(|root| Some(absolute(root.known()?, here)))
                .collect();
            let inside = paths?
                .iter()
                .all(|path| path.starts_with(&format!("{here}/")));
            inside.then(|| here.clone())
        }
    }
}

/// What a command says to the next part of a pipeline. `input` is what it reads
/// itself.
pub(super) fn output(command: &SimpleCommand, input: &Input) -> Input {
    let said = said(command, input.others());
    match input.has_environment() || all_variables::are_said_by(command) {
        true => said.with_environment(),
        false => said,
    }
}

/// The same, whether or not variables are among it.
fn said(command: &SimpleCommand, input: &Input) -> Input {
    let Some(program) = command.program() else {
        return Input::Unknown;
    };
    let words = command.arguments();
    let has = |option: &str| words.iter().any(|word| word.text == option);
    match program {
        "echo" | "printf" => {
            let texts: Option<Vec<&str>> = words
                .iter()
                .filter(|word| {
                    !(program == "echo"
                        && matches!(word.text.as_str(), "-n" | "-e" | "-E" | "-ne" | "-en"))
                })
                .map(Word::known)
                .collect();
            match texts {
                Some(texts) if program == "printf" => printed(&texts),
                Some(texts) => {
                    let text = texts.join(" ");
                    match has("-e") || has("-ne") || has("-en") {
                        true if text.contains('\\') => Input::Unknown,
                        _ => Input::Text(text),
                    }
                }
                None => Input::Unknown,
            }
        }
        "curl" | "wget" | "fetch" | "nc" | "ncat" | "socat" | "aria2c" | "http" => Input::Fetched,
        "base64" | "base32" | "basenc" | "xxd" | "openssl" | "gunzip" | "zcat" | "xzcat"
        | "bzcat" | "uudecode" | "rev" | "gpg" => Input::Decoded,
        "gzip" | "xz" | "bzip2" | "zstd" if has("-d") || has("-dc") || has("-cd") => Input::Decoded,
        "cat" | "tee" | "head" | "tail" | "sort" | "uniq" | "grep" | "egrep" | "tac" | "shuf"
            if !matches!(input, Input::None | Input::Unknown) =>
        {
            match (program, input) {
                ("cat" | "tee", input) => input.clone(),
                (_, Input::Names(directory)) => Input::Names(directory.clone()),
                (_, found @ (Input::Fetched | Input::Decoded)) => found.clone(),
                _ => Input::Unknown,
            }
        }
        "grep" | "egrep" | "rg"
            if !(has("-l")
                || has("-rl")
                || has("-lr")
                || has("-L")
                || has("-lZ")
                || has("-rlZ")
                || has("--files")
                || has("--files-with-matches")
                || has("-rlE")
                || has("-ril")) =>
        {
            Input::Unknown
        }
        "ls" if has("-l") || has("-la") || has("-al") => Input::Unknown,
        "git" if !has("ls-files") && !has("--name-only") && !has("-l") => Input::Unknown,
        "find"
            if words
                .iter()
                .any(|word| word.text.starts_with("-printf") || word.text.starts_with("-exec")) =>
        {
            Input::Unknown
        }
        _ => roots(command).map_or(Input::Unknown, Input::Names),
    }
}

/// Files that a command makes of what it fetches or reads.
pub(super) fn made_by(command: &SimpleCommand) -> Vec<Word> {
    let words = command.arguments();
    let after = |options: &[&str]| -> Vec<Word> {
        let pairs = words.iter().zip(words.iter().skip(1));
        pairs
            .filter(|(option, _)| is_option(&option.text, options))
            .map(|(_, value)| value.clone())
            .collect()
    };
    match command.program() {
        Some("curl") => after(&["-o", "--output"]),
        Some("wget") => after(&["-O", "--output-document"]),
        Some("openssl" | "gpg") => after(&["-out", "-o", "--output"]),
        Some("tee") => words
            .iter()
            .filter(|word| !word.text.starts_with('-'))
            .cloned()
            .collect(),
        // With a file to read it is a copy.
        Some("dd") if !words.iter().any(|word| word.text.starts_with("if=")) => {
            let targets = words.iter().filter_map(|word| {
                let text = word.text.strip_prefix("of=")?.to_owned();
                let word = word.clone();
                Some(Word { text, ..word })
            });
            targets.collect()
        }
        _ => Vec::new(),
    }
}

/// Whether a command adds to the files that it makes.
pub(super) fn adds(command: &SimpleCommand) -> bool {
    let adds = |word: &Word| is_option(&word.text, &["-a", "--append"]);
    command.program() == Some("tee") && command.arguments().iter().any(adds)
}

/// Whether a word is one of these options, or ends a row of short ones with it.
pub(in crate::domain::policy) fn is_option(word: &str, options: &[&str]) -> bool {
    options.iter().any(|option| {
        word == *option
            || option.len() == 2
                && word.starts_with('-')
                && !word.starts_with("--")
                && word.ends_with(&option[1..])
    })
}

/// What `printf` prints, where that is plain.
fn printed(texts: &[&str]) -> Input {
    match texts {
        [text] if !text.contains('%') => {
            let text = text.replace("\\n", "\n");
            match text.contains('\\') {
                true => Input::Unknown,
                false => Input::Text(text),
            }
        }
        ["%s" | "%s\\n" | "%b", text] if !text.contains('\\') => Input::Text((*text).to_owned()),
        _ => Input::Unknown,
    }
}
