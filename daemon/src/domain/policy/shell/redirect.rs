//! Redirections and here-documents.

use tree_sitter::Node;

use super::{Input, Word, output, walk::Walker};

/// Redirections of one command that are looked at: what each may write is judged.
const REDIRECTS_MAX: usize = 64;

impl Walker<'_> {
    pub(super) fn redirected(&mut self, node: Node<'_>, source: &str) {
        let mut cursor = node.walk();
        let mut redirects = Vec::new();
        let mut bodies = Vec::new();
        for child in node.named_children(&mut cursor) {
            match child.kind() {
                "file_redirect" | "heredoc_redirect" | "herestring_redirect" => {
                    redirects.push(child);
                }
                _ => bodies.push(child),
            }
        }
        for body in bodies {
            if body.kind() == "command" {
                self.simple(body, source, &redirects);
            } else {
                let begins_at = self.reading.commands.len();
                let streams = self.streams(&redirects, source);
                let given = streams.input.unwrap_or_else(|| self.input.clone());
                let outer = std::mem::replace(&mut self.input, given);
                self.statement(body, source);
                self.input = outer;
                let directories = self.directories.clone();
                // What several commands say together is not put together here.
                self.note_texts(streams.writes.iter(), &directories, None);
                if self.say_environment(begins_at) {
                    self.note_environment(&streams.writes, &directories);
                }
                match self.reading.commands.get_mut(begins_at..) {
                    Some([.., last]) => last.writes.extend(streams.writes),
                    Some([]) | None => {
                        let writes = streams.writes.into_iter();
                        let writes = writes.map(|word| (word, directories.clone()));
                        self.reading.writes.extend(writes);
                    }
                }
            }
        }
        if node
            .named_child(0)
            .is_some_and(|first| first.kind() == "file_redirect")
        {
            let streams = self.streams(&redirects, source);
            let directories = self.directories.clone();
            self.note_texts(streams.writes.iter(), &directories, None);
            let writes = streams.writes.into_iter();
            let writes = writes.map(|word| (word, directories.clone()));
            self.reading.writes.extend(writes);
        }
        self.after_heredocs(&redirects, source);
    }

    /// What stands on a here-document's first line after it: the rest of the
    /// pipeline, or of the list.
    fn after_heredocs(&mut self, redirects: &[Node<'_>], source: &str) {
        for redirect in redirects {
            if redirect.kind() != "heredoc_redirect" {
                continue;
            }
            let last = self.reading.commands.last();
            let output = last.map(|last| output::output(last, &last.input));
            let mut cursor = redirect.walk();
            let children: Vec<Node<'_>> = redirect.named_children(&mut cursor).collect();
            for child in children {
                match child.kind() {
                    "heredoc_start" | "heredoc_body" | "heredoc_end" | "file_redirect"
                    | "file_descriptor" => {}
                    "pipeline" => {
                        let input = output.clone().unwrap_or(Input::Unknown);
                        self.pipeline(child, source, input);
                    }
                    _ => self.perhaps(|walker| walker.statement(child, source)),
                }
            }
        }
    }

    /// What redirections give to a command.
    pub(super) fn streams(&mut self, redirects: &[Node<'_>], source: &str) -> Streams {
        let mut streams = Streams::default();
        if redirects.len() > REDIRECTS_MAX {
            self.doubt(format!("it redirects more than {REDIRECTS_MAX} times"));
        }
        for redirect in redirects.iter().take(REDIRECTS_MAX) {
            match redirect.kind() {
                "heredoc_redirect" => {
                    let mut cursor = redirect.walk();
                    let children: Vec<Node<'_>> = redirect.named_children(&mut cursor).collect();
                    let quoted = children.iter().any(|child| {
                        child.kind() == "heredoc_start"
                            && source[child.byte_range()].contains(['\'', '"', '\\'])
                    });
                    for child in &children {
                        if child.kind() == "heredoc_body" {
                            let text = &source[child.byte_range()];
                            let plain = quoted || !text.contains(['$', '`', '\\']);
                            let begins_at = self.reading.commands.len();
                            if !quoted {
                                self.walk_inside(*child, source);
                            }
                            let of_environment = self.say_environment(begins_at);
                            if !plain {
                                streams.reads.push(Word {
                                    of_environment,
                                    ..Word::unknown(text)
                                });
                            }
                            streams.input = Some(match plain {
                                true => Input::Text(text.to_owned()),
                                false if of_environment => Input::Unknown.with_environment(),
                                false => Input::Unknown,
                            });
                        } else if child.kind() == "file_redirect" {
                            self.file_redirect(*child, source, &mut streams);
                        }
                    }
                    streams.input.get_or_insert(Input::Unknown);
                }
                "herestring_redirect" => {
                    let word = redirect
                        .named_child(0)
                        .map(|node| self.word(node, source))
                        .unwrap_or_default();
                    streams.input = Some(match word.known() {
                        Some(text) => Input::Text(text.to_owned()),
                        None if word.of_environment => Input::Unknown.with_environment(),
                        None => Input::Unknown,
                    });
                    if !word.exact {
                        streams.reads.push(word);
                    }
                }
                _ => self.file_redirect(*redirect, source, &mut streams),
            }
        }
        streams
    }

    fn file_redirect(&mut self, node: Node<'_>, source: &str, streams: &mut Streams) {
        let text = &source[node.byte_range()];
        let mut cursor = node.walk();
        let targets: Vec<Node<'_>> = node
            .children_by_field_name("destination", &mut cursor)
            .collect();
        let operator = text.trim_start_matches(|char: char| char.is_ascii_digit());
        for target in targets {
            let mut word = self.word(target, source);
            word.is_added_to = operator.trim_start_matches('&').starts_with(">>");
            let copies = operator.starts_with(">&") || operator.starts_with("<&");
            let is_number = |char: char| char.is_ascii_digit() || char == '-';
            if copies && word.text.chars().all(is_number) {
                continue;
            }
            if operator.starts_with("<>") || !operator.starts_with('<') {
                streams.writes.push(word);
            } else {
                word.of_environment |= self.names_environment(&word, &self.directories);
                streams.input = Some(match target.kind() {
                    _ if word.of_environment => Input::Unknown.with_environment(),
                    "process_substitution" => Input::Unknown,
                    _ => Input::File(word.clone()),
                });
                streams.reads.push(word);
            }
        }
    }
}

/// What redirections give to a command.
#[derive(Debug, Default)]
pub(super) struct Streams {
    pub(super) input: Option<Input>,
    pub(super) writes: Vec<Word>,
    pub(super) reads: Vec<Word>,
}
