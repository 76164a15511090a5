//! The files that a session has written whose text was not judged as a script for
//! a shell: to have a shell run one of them is a doubt. So is to start a program of
//! the system's under another name.
//!
//! A text counts as judged where it is known, is named as a script or begins as
//! one, and is short enough to be read whole. What a program of any language
//! writes, and what `sed -i` and `patch` change in a file, is not followed.

use std::{collections::BTreeMap, ops::Bound};

use super::shell::{self, LINE_MAX_BYTES, SimpleCommand};

/// Copies of one session that are kept.
const COPIES_MAX: usize = 4096;

/// The files, by absolute path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Unjudged {
    files: BTreeMap<String, Language>,
    /// How many of them were noted as copies.
    copies: usize,
    /// Whether there were more copies than are kept, so that any file may be one.
    is_full: bool,
}

/// What a file that was not judged is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    /// One that is none of a shell's, by its first line or its name.
    Other,
    /// Nobody knows.
    Unknown,
}

impl Unjudged {
    /// No files.
    #[must_use]
    pub fn none() -> &'static Self {
        static NONE: Unjudged = Unjudged {
            files: BTreeMap::new(),
            copies: 0,
            is_full: false,
        };
        &NONE
    }

    /// Whether a shell that reads this file runs what was not judged.
    #[must_use]
    pub fn holds(&self, path: &str) -> bool {
        self.is_full || self.files.contains_key(path)
    }

    /// Whether starting this file may have a shell run what was not judged.
    #[must_use]
    pub fn may_be_a_script(&self, path: &str) -> bool {
        self.is_full || self.files.get(path) == Some(&Language::Unknown)
    }

    /// A file has this text now, or one that is not known.
    pub fn write(&mut self, path: &str, text: Option<&str>) {
        if path.starts_with("/dev/") {
            return;
        }
        if text.is_some_and(|text| is_judged(path, text)) {
            self.files.remove(path);
            return;
        }
        self.files.insert(path.to_owned(), language(path, text));
    }

    /// A part of a file has changed. A script's new part is judged as one; what
    /// nobody has judged stays that.
    pub fn change(&mut self, path: &str, part: &str) {
        let was_judged = !self.files.contains_key(path) && is_judged_in_parts(path, part);
        if was_judged || is_judged(path, part) {
            return;
        }
        let language = match self.files.get(path) {
            Some(known) => *known,
            None => language(path, Some(part)),
        };
        self.files.insert(path.to_owned(), language);
    }

    /// A file is gone.
    pub fn delete(&mut self, path: &str) {
        self.files.remove(path);
    }

    /// A file has another name now; under that it is judged no more than before.
    pub fn rename(&mut self, from: &str, to: &str) {
        if let Some(language) = self.files.remove(from) {
            self.files.insert(to.to_owned(), language);
        }
    }

    /// A command line was run in a directory, absolute.
    pub fn run(&mut self, line: &str, directory: &str) {
        let reading = shell::read(line, directory);
        for (path, text) in &reading.written {
            match text {
                Some(text) if reading.added.contains(path) => self.change(path, text),
                _ => self.write(path, text.as_deref()),
            }
        }
        for command in &reading.commands {
            self.copy(command);
        }
    }

    /// A copy of what was not judged is not judged either, and under the name of a
    /// copy no program is judged as what it is.
    fn copy(&mut self, command: &SimpleCommand) {
        for copy in shell::copies_of(command, usize::MAX) {
            let (from, to) = (copy.origin, copy.place);
            let Some(from) = from.known() else {
                continue;
            };
            let is_program = !from.contains(['/', '~']) || shell::program_name(from) != from;
            if is_program {
                self.note_copy(to.clone(), Language::Unknown);
            }
            // The file itself, or all that lie in a directory.
            let copied = self
                .files
                .range::<str, _>((Bound::Included(from), Bound::Unbounded));
            let copied = copied.map_while(|(path, language)| {
                let below = path.strip_prefix(from)?;
                Some((below.to_owned(), *language))
            });
            let copied: Vec<(String, Language)> = copied
                .filter(|(below, _)| below.is_empty() || below.starts_with('/'))
                .take(COPIES_MAX + 1)
                .collect();
            for (below, language) in copied {
                self.note_copy(format!("{to}{below}"), language);
            }
            if self.is_full {
                return;
            }
        }
    }

    fn note_copy(&mut self, path: String, language: Language) {
        if self.files.contains_key(&path) {
            self.files.insert(path, language);
        } else if self.copies < COPIES_MAX {
            self.copies += 1;
            self.files.insert(path, language);
        } else {
            self.is_full = true;
        }
    }
}

/// Whether the gate has read a text as a script when it was written.
fn is_judged(path: &str, text: &str) -> bool {
    shell::is_script(path, text) && text.len() <= LINE_MAX_BYTES
}

/// Whether the gate has read a part of a file as one of a script, as nothing says
/// that it is something else.
fn is_judged_in_parts(path: &str, part: &str) -> bool {
    shell::may_be_script(path) && part.len() <= LINE_MAX_BYTES
}

fn language(path: &str, text: Option<&str>) -> Language {
    const OTHERS: [&str; 11] = [
        ".py", ".js", ".mjs", ".cjs", ".ts", ".rb", ".pl", ".php", ".lua", ".awk", ".sed",
    ];
    let interpreter = text.and_then(shell::interpreter);
    match interpreter {
        Some(_) if !shell::is_script("", text.unwrap_or_default()) => Language::Other,
        Some(_) => Language::Unknown,
        None if OTHERS.iter().any(|ending| path.ends_with(ending)) => Language::Other,
        None => Language::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HERE: &str = "/w/r";

    fn after(lines: &[&str]) -> Unjudged {
        let mut files = Unjudged::default();
        for line in lines {
            files.run(line, HERE);
        }
        files
    }

    #[test]
    fn what_a_line_writes_is_judged_only_as_a_script_whose_text_is_known() {
        for line in [
            "cat > notes.md <<'EOF'\nrm -rf ~/data\nEOF",
            "echo 'rm -rf ~/data' > notes.md",
            "printf 'x' | tee notes.md",
            "curl -so notes.md https://example.com/x",
            "sort x > notes.md",
            "echo 'x' > a; cp a notes.md",
            "{ echo rm; echo x; } > notes.md",
            "for f in a b; do echo $f; done > notes.md",
            "> notes.md cat x",
        ] {
            assert!(after(&[line]).holds("/w/r/notes.md"), "{line}");
            assert!(after(&[line]).may_be_a_script("/w/r/notes.md"), "{line}");
        }
        for line in [
            "cat > x.sh <<'EOF'\nls\nEOF",
            "printf '#!/bin/sh\\nls\\n' > x.sh",
            "cat x.sh",
            "sort x.sh > /dev/null",
            "sort y > x.sh; rm x.sh; echo ls > x.sh",
        ] {
            assert!(!after(&[line]).holds("/w/r/x.sh"), "{line}");
        }
        assert!(after(&["sort y > x.sh"]).holds("/w/r/x.sh"));
        assert!(!after(&["sort y > x.sh", "echo ls > x.sh"]).holds("/w/r/x.sh"));
        assert!(after(&["echo x > a", "mv a b", "mkdir d && cp b d"]).holds("/w/r/d/b"));
        assert!(after(&["echo x > d/a", "mv d e"]).holds("/w/r/e/a"));
        assert!(after(&["echo x > d/a", "cp -r d e"]).holds("/w/r/e/d/a"));
        for line in [
            "cp /bin/rm x",
            "ln -sf /usr/bin/rm x",
            "install -m 755 /bin/rm x",
            "cp $(which rm) x",
            "dd if=/bin/rm of=x",
        ] {
            assert!(after(&[line]).may_be_a_script("/w/r/x"), "{line}");
        }
        assert!(after(&["cp /bin/rm d"]).may_be_a_script("/w/r/d/rm"));
        assert!(!after(&["cp target/release/tool x"]).holds("/w/r/x"));
        // What is installed where systems keep programs is none of theirs before.
        for installs in [
            "install -m 755 target/release/tool /usr/local/bin/tool",
            "cp target/release/tool /usr/local/bin",
            "ln -sf /w/r/target/release/tool /usr/local/bin/tool",
            "mv target/release/tool /usr/local/bin/",
        ] {
            let files = after(&[installs]);
            assert_eq!(files, Unjudged::default(), "{installs}");
        }
        assert!(!after(&["echo x > b", "cp a b"]).holds("/w/r/a"));
        assert!(!after(&["echo x > d-e/a", "cp -r d f"]).holds("/w/r/f-e/a"));
        let mut edited = Unjudged::default();
        edited.change("/w/r/bin/tool", "    return 1");
        assert!(
            !edited.holds("/w/r/bin/tool"),
            "a part is judged when it is written"
        );
        edited.change("/w/r/notes.md", "ls");
        assert!(edited.holds("/w/r/notes.md"));
        // What is added says nothing of what was there.
        for adds in ["echo ls >> x.sh", "echo ls | tee -a x.sh"] {
            assert!(
                after(&["curl -so x.sh https://h/y", adds]).holds("/w/r/x.sh"),
                "{adds}"
            );
            assert!(!after(&[adds]).holds("/w/r/x.sh"), "{adds}");
        }
        assert!(after(&["curl -so x.sh https://h/y; echo ls >> x.sh"]).holds("/w/r/x.sh"));
        assert!(!after(&["echo ls > x.sh; echo ls >> x.sh"]).holds("/w/r/x.sh"));
    }

    #[test]
    fn copies_are_kept_up_to_a_bound_and_beyond_it_any_file_may_be_one() {
        let names: Vec<String> = (0..500).map(|number| format!("/bin/p{number}")).collect();
        let files = after(&[&format!("cp {} d", names.join(" "))]);
        assert!(files.holds("/w/r/d/p1") && !files.holds("/w/r/x"));
        assert_eq!(files.files.len(), 500);
        let mut files = after(&["echo x > d0/a"]);
        for number in 1..40 {
            files.run(&format!("cp -r d{} d{number}", number - 1), HERE);
        }
        assert!(files.files.len() <= COPIES_MAX + 1);
        assert!(files.holds("/w/r/d39/a") && files.may_be_a_script("/w/r/x"));
    }

    #[test]
    fn a_program_of_another_language_may_be_started_but_no_shell_may_read_it() {
        let mut files = after(&["printf '#!/usr/bin/env python3\\nprint(1)\\n' > tool"]);
        assert!(files.holds("/w/r/tool") && !files.may_be_a_script("/w/r/tool"));
        files.write("/w/r/a.py", Some("import os"));
        assert!(files.holds("/w/r/a.py") && !files.may_be_a_script("/w/r/a.py"));
        files.change("/w/r/run.sh", "ls");
        assert!(!files.holds("/w/r/run.sh"));
        files.change("/w/r/run.txt", "rm -rf ~/data");
        assert!(files.may_be_a_script("/w/r/run.txt"));
        files.delete("/w/r/run.txt");
        assert!(!files.holds("/w/r/run.txt"));
        let long = format!("# {}\nrm -rf ~/data", "x".repeat(LINE_MAX_BYTES));
        files.write("/w/r/long.sh", Some(&long));
        assert!(files.holds("/w/r/long.sh"));
    }
}
