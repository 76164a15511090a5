//! Words as a shell expands them, as far as their value is certain.

use tree_sitter::Node;

use super::{Word, walk::Walker};

/// The words that one word becomes while it is expanded.
#[derive(Debug, Default)]
struct Fields {
    done: Vec<Word>,
    open: Option<Word>,
}

impl Fields {
    fn push(&mut self, text: &str) {
        let open = self.open.get_or_insert_with(|| Word::exact(""));
        open.text.push_str(text);
    }

    fn push_unknown(&mut self, word: &Word) {
        match &mut self.open {
            Some(open) => {
                open.exact = false;
                open.within = None;
                open.text.push_str(&word.text);
            }
            None => self.open = Some(word.clone()),
        }
    }

    /// A part outside quotes: a shell looks for files that a pattern fits.
    fn push_bare(&mut self, text: &str) {
        self.push(text);
        if text.contains(['*', '?', '['])
            && let Some(open) = &mut self.open
        {
            open.is_glob = true;
        }
    }

    fn cut(&mut self) {
        self.done.extend(self.open.take());
    }

    /// What a variable without quotes becomes: split where there is space.
    fn push_split(&mut self, text: &str) {
        if text.starts_with(char::is_whitespace) {
            self.cut();
        }
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            self.push_bare(word);
            if words.peek().is_some() {
                self.cut();
            }
        }
        if text.ends_with(char::is_whitespace) {
            self.cut();
        }
    }

    fn finish(mut self) -> Vec<Word> {
        self.cut();
        self.done
    }
}

impl Walker<'_> {
    /// The words that a node of the tree becomes; commands inside it are walked.
    pub(super) fn words(&mut self, node: Node<'_>, source: &str) -> Vec<Word> {
        let mut fields = Fields::default();
        self.expand(node, source, false, &mut fields);
        fields.finish()
    }

    /// The one word that a node becomes where nothing is split.
    pub(super) fn word(&mut self, node: Node<'_>, source: &str) -> Word {
        let mut fields = Fields::default();
        self.expand(node, source, true, &mut fields);
        let words = fields.finish();
        match words.as_slice() {
            [] => Word::exact(""),
            [word] => word.clone(),
            words => Word {
                exact: words.iter().all(|word| word.exact),
                text: words.iter().map(|word| word.text.as_str()).collect(),
                ..Word::default()
            },
        }
    }

    fn expand(&mut self, node: Node<'_>, source: &str, quoted: bool, fields: &mut Fields) {
        let text = &source[node.byte_range()];
        match node.kind() {
            "word" | "number" | "extglob_pattern" | "regex" | "variable_name" | "test_operator" => {
                match braces(text) {
                    Some(words) if !quoted => {
                        for (index, word) in words.iter().enumerate() {
                            if index > 0 {
                                fields.cut();
                            }
                            fields.push_bare(&unescaped(word));
                        }
                    }
                    _ if quoted => fields.push(&unescaped(text)),
                    _ => fields.push_bare(&unescaped(text)),
                }
            }
            "raw_string" => fields.push(text.trim_matches('\'')),
            "ansi_c_string" => match ansi_c(text) {
                Some(text) => fields.push(&text),
                None => fields.push_unknown(&Word::unknown(text)),
            },
            "string" | "translated_string" => self.expand_string(node, source, fields),
            "concatenation" | "command_name" => self.expand_parts(node, source, quoted, fields),
            "simple_expansion" | "expansion" => {
                let value = self.variable(node, source);
                match value.known() {
                    Some(known) if quoted => fields.push(known),
                    Some(known) => fields.push_split(known),
                    None => fields.push_unknown(&value),
                }
            }
            "command_substitution" => {
                let value = self.substituted(node, source);
                match value.known() {
                    Some(known) if quoted => fields.push(known),
                    Some(known) => fields.push_split(known),
                    None => fields.push_unknown(&value),
                }
            }
            "process_substitution" => {
                let input = self.process(node, source);
                fields.push_unknown(&input);
            }
            "brace_expression" => {
                // A range of numbers or letters: nothing that leaves a directory.
                fields.push(text);
            }
            "arithmetic_expansion" => {
                self.walk_inside(node, source);
                fields.push_unknown(&Word::unknown(text));
            }
            _ => {
                self.walk_inside(node, source);
                fields.push_unknown(&Word::unknown(text));
            }
        }
    }

    /// The parts of a word side by side. Braces can reach over several parts;
    /// those are taken as they are written where nothing else is in them.
    fn expand_parts(&mut self, node: Node<'_>, source: &str, quoted: bool, fields: &mut Fields) {
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.children(&mut cursor).collect();
        let plain = children.iter().all(|child| {
            matches!(child.kind(), "word" | "number" | "{" | "}" | ",") || !child.is_named()
        });
        let text = &source[node.byte_range()];
        if plain && let Some(words) = braces(text) {
            for (index, word) in words.iter().enumerate() {
                if index > 0 {
                    fields.cut();
                }
                fields.push_bare(&unescaped(word));
            }
            return;
        }
        for child in children {
            if child.is_named() {
                self.expand(child, source, quoted, fields);
            } else {
                fields.push_bare(&unescaped(&source[child.byte_range()]));
            }
        }
    }

    fn expand_string(&mut self, node: Node<'_>, source: &str, fields: &mut Fields) {
        // An empty string is a word too.
        fields.push("");
        let (mut at, end) = (node.start_byte(), node.end_byte());
        let opening = source[at..end].find('"').map_or(0, |quote| quote + 1);
        at += opening;
        let end = end.saturating_sub(1).max(at);
        let mut cursor = node.walk();
        for child in node.named_children(&mut cursor) {
            if child.start_byte() > at {
                fields.push(&in_quotes(&source[at..child.start_byte()]));
            }
            if child.kind() == "string_content" {
                fields.push(&in_quotes(&source[child.byte_range()]));
            } else {
                self.expand(child, source, true, fields);
            }
            at = child.end_byte();
        }
        if at < end {
            fields.push(&in_quotes(&source[at..end]));
        }
    }

    /// The value of a variable, where the line itself says it.
    fn variable(&mut self, node: Node<'_>, source: &str) -> Word {
        let text = &source[node.byte_range()];
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.named_children(&mut cursor).collect();
        for child in children.iter().skip(1) {
            // Defaults and patterns can hold commands.
            self.walk_inside(*child, source);
        }
        let name = text.trim_start_matches('$');
        let name = name
            .strip_prefix('{')
            .and_then(|rest| rest.strip_suffix('}'))
            .unwrap_or(name);
        let plain = !name.is_empty()
            && (name
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || char == '_')
                || name == "@"
                || name == "*");
        if plain {
            return self.value(name).unwrap_or_else(|| Word::unknown(text));
        }
        Word::unknown(text)
    }
}

/// Text without the backslashes of a shell.
fn unescaped(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars();
    while let Some(char) = chars.next() {
        match char {
            '\\' => match chars.next() {
                Some('\n') | None => {}
                Some(next) => plain.push(next),
            },
            char => plain.push(char),
        }
    }
    plain
}

/// Text between double quotes without its backslashes.
fn in_quotes(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(char) = chars.next() {
        match (char, chars.peek()) {
            ('\\', Some('$' | '`' | '"' | '\\')) => plain.extend(chars.next()),
            ('\\', Some('\n')) => {
                chars.next();
            }
            (char, _) => plain.push(char),
        }
    }
    plain
}

/// The text of `$'...'`; `None` where it has an escape that is not known here.
fn ansi_c(text: &str) -> Option<String> {
    let inner = text.strip_prefix("$'")?.strip_suffix('\'')?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut chars = inner.chars().peekable();
    while let Some(char) = chars.next() {
        if char != '\\' {
            let mut buffer = [0; 4];
            bytes.extend_from_slice(char.encode_utf8(&mut buffer).as_bytes());
            continue;
        }
        let digits = |chars: &mut std::iter::Peekable<std::str::Chars<'_>>, radix, most| {
            let mut number = 0_u32;
            let mut count = 0;
            while count < most
                && let Some(digit) = chars.peek().and_then(|char| char.to_digit(radix))
            {
                number = number * radix + digit;
                count += 1;
                chars.next();
            }
            (count > 0).then_some(number)
        };
        match chars.peek().copied()? {
            'n' | 'r' | 't' | 'a' | 'b' | 'e' | 'E' | 'f' | 'v' => {
                bytes.push(match chars.next()? {
                    'n' => b'\n',
                    'r' => b'\r',
                    't' => b'\t',
                    'a' => 7,
                    'b' => 8,
                    'f' => 12,
                    'v' => 11,
                    _ => 27,
                });
            }
            '\\' | '\'' | '"' | '?' => {
                bytes.push(u8::try_from(chars.next()?).ok()?);
            }
            'x' => {
                chars.next();
                bytes.push(u8::try_from(digits(&mut chars, 16, 2)?).ok()?);
            }
            'u' | 'U' => {
                let most = if chars.next()? == 'u' { 4 } else { 8 };
                let char = char::from_u32(digits(&mut chars, 16, most)?)?;
                let mut buffer = [0; 4];
                bytes.extend_from_slice(char.encode_utf8(&mut buffer).as_bytes());
            }
            '0'..='7' => bytes.push(u8::try_from(digits(&mut chars, 8, 3)? & 0xff).ok()?),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

/// The words that a list in braces stands for: `a{b,c}d` for `abd acd`. `None`
/// without such a list; more than a few are left as they are.
fn braces(text: &str) -> Option<Vec<String>> {
    const MOST: usize = 32;
    let open = text.find('{')?;
    let mut depth = 0;
    let mut commas = Vec::new();
    let mut close = None;
    for (at, char) in text.char_indices().skip_while(|(at, _)| *at < open) {
        match char {
            '{' => depth += 1,
            '}' => {
                depth -= 1;
                if depth == 0 {
                    close = Some(at);
                    break;
                }
            }
            ',' if depth == 1 => commas.push(at),
            _ => {}
        }
    }
    let close = close?;
    if commas.is_empty() || text[..open].ends_with('$') {
        return None;
    }
    let mut words = Vec::new();
    let mut from = open + 1;
    for to in commas.into_iter().chain([close]) {
        let word = format!("{}{}{}", &text[..open], &text[from..to], &text[close + 1..]);
        words.extend(braces(&word).unwrap_or_else(|| vec![word]));
        if words.len() > MOST {
            return None;
        }
        from = to + 1;
    }
    Some(words)
}
