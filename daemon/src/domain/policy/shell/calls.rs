//! What a line itself defines and then uses: aliases, functions, files that it
//! writes and runs, and what substitutions stand for.

use tree_sitter::Node;

use super::{Input, SimpleCommand, Word, absolute, output, walk::Walker};

impl Walker<'_> {
    /// The file that a command runs, if the line has written it before.
    pub(super) fn written_file(&self, command: &SimpleCommand) -> Option<Option<String>> {
        if self.written.is_empty() {
            return None;
        }
        let script = command
            .arguments()
            .iter()
            .find(|word| !word.text.starts_with('-'));
        let named = [command.argv.first(), script];
        let mut paths = named.into_iter().flatten().filter_map(Word::known);
        paths.find_map(|path| {
            let mut places = self.directories.iter().map(|from| absolute(path, from));
            places.find_map(|place| self.written.get(&place).cloned())
        })
    }

    pub(super) fn note_written(&mut self, command: &SimpleCommand) {
        let said = output::output(command, &command.input);
        let has_environment = said.has_environment();
        let text = match said {
            Input::Text(text) => Some(text),
            Input::None
            | Input::Names(_)
            | Input::Fetched
            | Input::Decoded
            | Input::Environment(_)
            | Input::File(_)
            | Input::Unknown => None,
        };
        let made = output::made_by(command).into_iter();
        let adds = output::adds(command);
        let made = made.map(|word| Word {
            is_added_to: adds,
            ..word
        });
        let targets: Vec<Word> = command.writes.iter().cloned().chain(made).collect();
        self.note_texts(targets.iter(), &command.directories, text.as_deref());
        if has_environment {
            self.note_environment(&targets, &command.directories);
        }
    }

    /// Files have this text from here on, or one that is not known.
    pub(super) fn note_texts<'w>(
        &mut self,
        files: impl Iterator<Item = &'w Word>,
        directories: &[String],
        text: Option<&str>,
    ) {
        for file in files.filter(|word| word.exact) {
            for from in directories {
                let place = absolute(&file.text, from);
                let mut text = text.map(str::to_owned);
                if !file.is_added_to {
                    self.added.remove(&place);
                    self.of_environment.remove(&place);
                } else if let Some(before) = self.written.get(&place) {
                    text = before
                        .clone()
                        .zip(text)
                        .map(|(before, text)| before + &text);
                } else {
                    self.added.insert(place.clone());
                }
                self.written.insert(place, text);
            }
        }
    }

    /// Follows an alias or a function by this name. The command itself is judged
    /// as well: neither is certain to be used.
    pub(super) fn call(&mut self, command: &SimpleCommand) {
        let Some(name) = command.argv[0].known().map(str::to_owned) else {
            return;
        };
        if let Some(alias) = self.aliases.get(&name).cloned() {
            let rest: Vec<String> = command
                .arguments()
                .iter()
                .map(|word| match word.known() {
                    Some(text) => quoted(text),
                    None => "\"$_\"".to_owned(),
                })
                .collect();
            self.aliases.remove(&name);
            self.script(&format!("{alias} {}", rest.join(" ")));
            self.aliases.insert(name.clone(), alias);
        }
        if let Some(body) = self.functions.get(&name).cloned() {
            let arguments = command.arguments().to_vec();
            self.with_arguments(&arguments, |walker| walker.script(&body));
        }
    }

    /// Walks with these as `$1` and so on.
    pub(super) fn with_arguments(&mut self, words: &[Word], walk: impl FnOnce(&mut Self)) {
        let names: Vec<String> = (1..=9).map(|number| number.to_string()).collect();
        let before: Vec<Option<Word>> = names
            .iter()
            .chain([&"@".to_owned(), &"*".to_owned()])
            .map(|name| self.variables.remove(name))
            .collect();
        for (name, word) in names.iter().zip(words) {
            self.variables.insert(name.clone(), word.clone());
        }
        if let [only] = words {
            self.variables.insert("@".to_owned(), only.clone());
            self.variables.insert("*".to_owned(), only.clone());
        }
        walk(self);
        let all = names
            .iter()
            .cloned()
            .chain(["@".to_owned(), "*".to_owned()]);
        for (name, value) in all.zip(before) {
            self.variables.remove(&name);
            if let Some(value) = value {
                self.variables.insert(name, value);
            }
        }
    }

    /// The value of a command substitution, where it is known without running
    /// it; what is in it is walked.
    pub(super) fn substituted(&mut self, node: Node<'_>, source: &str) -> Word {
        let begins_at = self.reading.commands.len();
        let text = &source[node.byte_range()];
        self.walk_inside(node, source);
        if self.say_environment(begins_at) {
            return Word {
                of_environment: true,
                ..Word::unknown(text)
            };
        }
        let here = match self.directories.as_slice() {
            [only] => Some(only.clone()),
            _ => None,
        };
        let Some([command]) = self.reading.commands.get(begins_at..) else {
            return Word::unknown(text);
        };
        let arguments: Vec<&str> = command.arguments().iter().filter_map(Word::known).collect();
        match (command.program(), arguments.as_slice()) {
            (Some("mktemp"), given) if given.iter().all(|word| word.starts_with('-')) => {
                Word::exact("/tmp/tmp.made")
            }
            (Some("pwd"), []) => here.map_or_else(|| Word::unknown(text), Word::exact),
            (Some("git"), ["rev-parse", "--show-toplevel"]) => Word::exact(self.start),
            (Some("echo"), words) if words.len() == command.arguments().len() => {
                Word::exact(words.join(" "))
            }
            _ => match output::output(command, &command.input) {
                Input::Names(directory) => Word {
                    within: Some(directory),
                    ..Word::unknown(text)
                },
                _ => Word::unknown(text),
            },
        }
    }

    /// A process substitution as a word: nobody knows its name, and a shell that
    /// reads it runs what it says.
    pub(super) fn process(&mut self, node: Node<'_>, source: &str) -> Word {
        let begins_at = self.reading.commands.len();
        self.walk_inside(node, source);
        Word {
            of_environment: self.say_environment(begins_at),
            ..Word::unknown(&source[node.byte_range()])
        }
    }
}

/// A word as a shell reads it back.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}
