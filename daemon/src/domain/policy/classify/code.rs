//! Files that a program standing in a command names. No grammar is read: a text
//! in quotes that names a guarded file counts where the program writes at all.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{SimpleCommand, Word, absolute},
    },
    Act, Line, awk, files,
    guarded::{Extent, is_credential_by_name, kind_below},
    has,
    paths::{Place, is_system, place},
    sed,
};

/// What writes files, in any of the languages, in small letters.
const WRITES: [&str; 12] = [
    "write",
    "file_put_contents",
    "fputs(",
    "appendfile",
    "copyfile",
    "copytree",
    "shutil.copy",
    "fs.cp",
    "copy('",
    "copy(\"",
    ".touch(",
    "io.binwrite",
];
/// What only says something.
const SAYS: [&str; 4] = [
    "sys.stdout.write",
    "sys.stderr.write",
    "process.stdout.write",
    "process.stderr.write",
];

/// Bytes of a name; what is longer names no file.
const NAME_MAX_BYTES: usize = 300;

/// A text in quotes.
struct Quoted {
    text: String,
    /// Where it begins and ends, its quotes included.
    begins_at: usize,
    ends_at: usize,
}

/// Judges a program's text by the files that it names; says whether it writes.
pub(super) fn judge(act: &mut Act, code: &str, command: &SimpleCommand, line: &Line<'_>) -> bool {
    let quoted = quoted(code);
    let names = names(code, &quoted);
    for name in &names {
        if name.contains(['/', '.']) && is_credential_by_name(name) {
            act.find(RiskKind::Credentials, name);
        }
    }
    let writes = writes(code, &quoted);
    for name in names.iter().filter(|_| writes) {
        named(act, name, command, line);
    }
    writes
}

/// Judges the arguments of a program that writes: `sys.argv` and its like.
pub(super) fn judge_given(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let given = command.arguments().iter().filter_map(Word::known);
    for name in given.filter(|text| !text.starts_with('-')) {
        named(act, name, command, line);
    }
}

/// `awk` writes by redirection, which is judged as one of a shell.
pub(super) fn judge_awk(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    let words = command.arguments();
    if has(words, &["-f", "--file"]) {
        // What the file says is not looked at.
        act.level = act.level.max(Level::Write);
    }
    let value = |name: &str| {
        let mut values = words.iter().filter_map(|word| {
            let text = word.text.strip_prefix("-v").unwrap_or(&word.text);
            let (given, value) = text.split_once('=')?;
            (given == name).then(|| part(word, value))
        });
        values.next_back()
    };
    for code in words {
        for target in awk::written_by(&code.text) {
            let target = match target {
                awk::Target::File(path) => part(code, &path),
                awk::Target::Variable(name) => value(&name).unwrap_or_else(|| Word::unknown(name)),
                awk::Target::Unknown(text) => Word::unknown(text),
            };
            written(act, &target, command, line);
        }
    }
}

/// `sed` writes with the command `w` and with the flag `w` of `s`.
pub(super) fn judge_sed(act: &mut Act, command: &SimpleCommand, line: &Line<'_>) {
    for program in sed_programs(act, command.arguments()) {
        match sed::written_by(&program.text) {
            Some(paths) => {
                for path in paths {
                    written(act, &part(&program, path), command, line);
                }
            }
            None => {
                act.level = act.level.max(Level::Write);
                sed_by_letters(act, &program.text, command, line);
            }
        }
    }
}

/// The programs that `sed` is given, or its first operand.
fn sed_programs(act: &mut Act, words: &[Word]) -> Vec<Word> {
    let mut programs = Vec::new();
    let mut first = None;
    let mut from_file = false;
    let mut at = 0;
    while let Some(word) = words.get(at) {
        at += 1;
        let text = word.text.as_str();
        if let Some(long) = text.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            let takes = |whole: &str| !name.is_empty() && whole.starts_with(name);
            if takes("line-length") {
                at += usize::from(value.is_none());
            } else if takes("expression") || takes("file") {
                let value = value.map(|value| part(word, value)).or_else(|| {
                    at += 1;
                    words.get(at - 1).cloned()
                });
                match takes("file") {
                    true => from_file = true,
                    false => programs.extend(value),
                }
            }
        } else if text.len() > 1 && text.starts_with('-') {
            let mut cluster = text[1..].char_indices();
            let valued = cluster.find(|(_, char)| "efli".contains(*char));
            let Some((option_at, option)) = valued.filter(|(_, char)| *char != 'i') else {
                continue;
            };
            let rest = &text[option_at + 2..];
            let value = if rest.is_empty() {
                at += 1;
                words.get(at - 1).cloned()
            } else {
                Some(part(word, rest))
            };
            match option {
                'e' => programs.extend(value),
                'f' => from_file = true,
                _ => {}
            }
        } else if first.is_none() {
            first = Some(word);
        }
    }
    if from_file {
        // What the file says is not looked at.
        act.level = act.level.max(Level::Write);
    } else if programs.is_empty() {
        programs.extend(first.cloned());
    }
    programs
}

/// Of a program that is not understood, whatever may be the name of a file.
fn sed_by_letters(act: &mut Act, program: &str, command: &SimpleCommand, line: &Line<'_>) {
    for text in program.lines() {
        for (at, _) in text.match_indices(['w', 'W']) {
            let begins = text[..at]
                .chars()
                .next_back()
                .is_none_or(|before| !before.is_ascii_alphabetic() || "gpimIMe".contains(before));
            if begins {
                named(act, text[at + 1..].trim(), command, line);
            }
        }
    }
}

/// A file is written, as by a redirection; what is said to a stream is not.
fn written(act: &mut Act, target: &Word, command: &SimpleCommand, line: &Line<'_>) {
    const STREAMS: [&str; 4] = ["/dev/stdout", "/dev/stderr", "/dev/null", "/dev/tty"];
    if !STREAMS.contains(&target.text.as_str()) && target.text != "-" {
        files::write_word(act, target, &command.directories, line);
    }
}

/// A part of a word; what a shell has yet to fill in is not known.
fn part(of: &Word, text: &str) -> Word {
    let is_plain = of.exact || !text.contains(['$', '`']);
    Word {
        text: text.to_owned(),
        exact: is_plain,
        ..Word::default()
    }
}

/// A file is named where files are written.
fn named(act: &mut Act, name: &str, command: &SimpleCommand, line: &Line<'_>) {
    if name.len() > NAME_MAX_BYTES
        || name.contains(char::is_whitespace)
        || !name.contains(|char: char| char.is_ascii_alphanumeric())
    {
        return;
    }
    let repository = [line.repository.to_owned()];
    let directories = match command.directories.as_slice() {
        [] => &repository[..],
        known => known,
    };
    for path in files::places(&Word::exact(name), directories)
        .into_iter()
        .flatten()
    {
        match place(&path, line.repository) {
            Place::GitInternals => act.find(RiskKind::GitInternals, &path),
            Place::Repository(relative) => match kind_below(&relative, Extent::Some) {
                // A word like any other.
                Some(RiskKind::MigrationFile) if !name.contains('/') => {}
                Some(kind) => act.find(kind, relative),
                None => {}
            },
            Place::Outside if path.len() > 1 && is_system(&path) => {
                act.find(RiskKind::WriteSystem, &path);
            }
            Place::WholeRepository | Place::Scratch | Place::Outside => {}
        }
    }
}

fn writes(code: &str, quoted: &[Quoted]) -> bool {
    let mut lower = code.to_ascii_lowercase();
    for said in SAYS {
        lower = lower.replace(said, "");
    }
    let mut modes = quoted.iter().filter(|quoted| {
        let before = code[..quoted.begins_at].trim_end();
        let is_mode = quoted.text.len() <= 3
            && quoted.text.starts_with(['w', 'a', 'x', 'r'])
            && (!quoted.text.starts_with('r') || quoted.text.contains('+'))
            && quoted.text.chars().all(|char| "waxrbt+".contains(char));
        is_mode && (before.ends_with(',') || before.ends_with("mode="))
    });
    modes.next().is_some() || WRITES.iter().any(|word| lower.contains(word))
}

/// What texts may name: each by itself, and those that are put together.
fn names(code: &str, quoted: &[Quoted]) -> Vec<String> {
    let joins = code.contains("join(");
    let mut names: Vec<String> = Vec::new();
    let mut whole = String::new();
    let further = |whole: &mut String, separator: &str, text: &str| {
        whole.push_str(separator);
        whole.push_str(text);
    };
    let mut ended_at = None;
    for next in quoted {
        let between = ended_at.and_then(|ended_at| code.get(ended_at..next.begins_at));
        let is_nothing = |char: char| char.is_whitespace() || matches!(char, '(' | ')');
        match between.map(|between| between.trim_matches(is_nothing)) {
            Some("" | "+" | ".") => further(&mut whole, "", &next.text),
            Some("/") => further(&mut whole, "/", &next.text),
            Some(",") if joins => further(&mut whole, "/", &next.text),
            _ => whole.clone_from(&next.text),
        }
        names.push(next.text.clone());
        if whole != next.text && whole.len() <= NAME_MAX_BYTES {
            names.push(whole.clone());
        }
        ended_at = Some(next.ends_at);
    }
    // `./x` is `x`.
    for name in &mut names {
        if let Some(rest) = name.strip_prefix("./") {
            *name = absolute(rest, "/")[1..].to_owned();
        }
    }
    names
}

/// The texts in quotes. One that is not closed ends with its line, so that a
/// quote in a comment hides nothing that comes after it.
fn quoted(code: &str) -> Vec<Quoted> {
    let mut found = Vec::new();
    let mut at = 0;
    while let Some(offset) = code[at..].find(['\'', '"', '`']) {
        let begins_at = at + offset;
        let mark = &code[begins_at..=begins_at];
        let triple = mark.repeat(3);
        if code[begins_at..].starts_with(&triple)
            && let Some(length) = code[begins_at + 3..].find(&triple)
        {
            let text = &code[begins_at + 3..begins_at + 3 + length];
            at = begins_at + length + 6;
            found.push(Quoted {
                text: text.to_owned(),
                begins_at,
                ends_at: at,
            });
            continue;
        }
        let (text, length) = until(&code[begins_at + 1..], mark);
        at = begins_at + 1 + length;
        found.push(Quoted {
            text,
            begins_at,
            ends_at: at,
        });
    }
    found
}

/// The text up to a mark or the end of the line, without backslashes, and how
/// many bytes it takes.
fn until(code: &str, mark: &str) -> (String, usize) {
    let mut text = String::new();
    let mut chars = code.char_indices();
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => text.extend(chars.next().map(|(_, char)| char)),
            '\n' if mark != "`" => return (text, at + 1),
            char if mark.starts_with(char) => return (text, at + 1),
            char => text.push(char),
        }
    }
    (text, code.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_found_and_put_together() {
        let code = "x = 'a' + \"b\" # don't\nopen('.gi' + 'thub/x', \"w\"); y = '''o'k'''";
        let quoted = quoted(code);
        let texts: Vec<&str> = quoted.iter().map(|quoted| quoted.text.as_str()).collect();
        assert_eq!(texts, ["a", "b", "t", ".gi", "thub/x", "w", "o'k"]);
        let names = names(code, &quoted);
        assert!(names.iter().any(|name| name == ".github/x"), "{names:?}");
        assert!(writes(code, &quoted));
        let code = "print(open('w').read()); d['a']; x == 'w'";
        assert!(!writes(code, &super::quoted(code)));
    }
}
