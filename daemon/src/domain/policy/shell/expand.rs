//! Words as a shell expands them, as far as their value is certain.

use tree_sitter::Node;

use super::{Word, walk::Walker};

/// The words that one word becomes while it is expanded.
#[derive(Debug, Default)]
struct Fields {
    done: Vec<Word>,
    open: Option<Word>,
    /// Whether the first word is one by itself, whatever stands before it.
    begins_apart: bool,
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
                open.of_environment |= word.of_environment;
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
        self.begins_apart |= self.open.is_none() && self.done.is_empty();
        self.done.extend(self.open.take());
    }

    /// What a part of a word has become.
    fn push_part(&mut self, part: &Self) {
        if part.begins_apart {
            self.cut();
        }
        for word in &part.done {
            self.push_word(word);
            self.cut();
        }
        if let Some(word) = &part.open {
            self.push_word(word);
        }
    }

    fn push_word(&mut self, word: &Word) {
        if !word.exact {
            return self.push_unknown(word);
        }
        self.push(&word.text);
        if let Some(open) = &mut self.open {
            open.is_glob |= word.is_glob;
        }
    }

    /// A text outside quotes, in which marks stand for parts that were expanded
    /// before. Braces come first: what they stand for are words.
    fn push_template(&mut self, template: &str, parts: &[Self], shown: &str) {
        let words = match braces(template) {
            Braces::None => vec![template.to_owned()],
            Braces::Words(words) => words,
            Braces::TooMany => return self.push_unknown(&Word::unknown(shown)),
        };
        for (index, word) in words.iter().enumerate() {
            if index > 0 {
                self.cut();
            }
            // An empty one is no word at all.
            for piece in word.split_inclusive(is_mark) {
                let bare = piece.trim_end_matches(is_mark);
                if !bare.is_empty() {
                    self.push_bare(&unescaped(bare));
                }
                let part = piece[bare.len()..].chars().next().and_then(part_of);
                if let Some(part) = part.and_then(|at| parts.get(at)) {
                    self.push_part(part);
                }
            }
        }
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
                of_environment: words.iter().any(|word| word.of_environment),
                ..Word::default()
            },
        }
    }

    fn expand(&mut self, node: Node<'_>, source: &str, quoted: bool, fields: &mut Fields) {
        let text = &source[node.byte_range()];
        match node.kind() {
            "word" | "number" | "extglob_pattern" | "regex" | "variable_name" | "test_operator" => {
                if quoted {
                    fields.push(&unescaped(text));
                } else if text.contains(is_mark) {
                    fields.push_unknown(&Word::unknown(text));
                } else {
                    fields.push_template(text, &[], text);
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
            "brace_expression" if quoted => fields.push(text),
            "brace_expression" => fields.push_template(text, &[], text),
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

    /// The parts of a word side by side. Braces can reach over several parts, and
    /// hold parts that are quoted or expanded.
    fn expand_parts(&mut self, node: Node<'_>, source: &str, quoted: bool, fields: &mut Fields) {
        let mut cursor = node.walk();
        let children: Vec<Node<'_>> = node.children(&mut cursor).collect();
        let text = &source[node.byte_range()];
        if !quoted && text.contains('{') && node.kind() == "concatenation" {
            return self.expand_braced(&children, node, source, fields);
        }
        for child in children {
            if child.is_named() {
                self.expand(child, source, quoted, fields);
            } else {
                fields.push_bare(&unescaped(&source[child.byte_range()]));
            }
        }
    }

    fn expand_braced(
        &mut self,
        children: &[Node<'_>],
        node: Node<'_>,
        source: &str,
        fields: &mut Fields,
    ) {
        let text = &source[node.byte_range()];
        let mut template = String::with_capacity(text.len());
        let mut parts = Vec::new();
        let mut is_clear = !text.contains(is_mark);
        let mut at = node.start_byte();
        for child in children {
            template.push_str(&source[at..child.start_byte().max(at)]);
            at = child.end_byte();
            let is_bare = matches!(
                child.kind(),
                "word" | "number" | "brace_expression" | "extglob_pattern"
            );
            if is_bare || !child.is_named() {
                template.push_str(&source[child.byte_range()]);
                continue;
            }
            let mut part = Fields::default();
            self.expand(*child, source, false, &mut part);
            match mark_of(parts.len()) {
                Some(mark) => template.push(mark),
                None => is_clear = false,
            }
            parts.push(part);
        }
        template.push_str(&source[at..node.end_byte().max(at)]);
        match is_clear {
            true => fields.push_template(&template, &parts, text),
            false => fields.push_unknown(&Word::unknown(text)),
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

/// Characters that nobody uses stand for the parts of a word.
const MARKS: std::ops::RangeInclusive<u32> = 0xe000..=0xf8ff;

fn is_mark(char: char) -> bool {
    MARKS.contains(&u32::from(char))
}

fn mark_of(part: usize) -> Option<char> {
    let mark = MARKS.start().checked_add(u32::try_from(part).ok()?)?;
    char::from_u32(mark).filter(|char| is_mark(*char))
}

fn part_of(mark: char) -> Option<usize> {
    usize::try_from(u32::from(mark).checked_sub(*MARKS.start())?).ok()
}

/// Words that are found one by one.
const WORDS_MAX: usize = 32;

/// What braces outside quotes stand for.
#[derive(Debug, PartialEq, Eq)]
enum Braces {
    /// There are none that mean anything.
    None,
    /// These words.
    Words(Vec<String>),
    /// More words than are looked at.
    TooMany,
}

/// A pair of braces that means something.
struct Group {
    opens_at: usize,
    closes_at: usize,
    /// Where its commas are; none in a range.
    commas: Vec<usize>,
}

/// The words that braces stand for: `a{b,c}d` for `abd acd`, and `{1..3}` for
/// `1 2 3`.
fn braces(text: &str) -> Braces {
    let groups = groups(text);
    if groups.len() > WORDS_MAX {
        return Braces::TooMany;
    }
    // The first one holds those that are in it.
    let Some(group) = groups.into_iter().min_by_key(|group| group.opens_at) else {
        return Braces::None;
    };
    let inside = &text[group.opens_at + 1..group.closes_at];
    let choices = match group.commas.as_slice() {
        [] => match range(inside) {
            Some(choices) => choices,
            None => return Braces::TooMany,
        },
        commas => {
            let mut choices = Vec::with_capacity(commas.len() + 1);
            let mut from = group.opens_at + 1;
            for to in commas.iter().copied().chain([group.closes_at]) {
                choices.push(text[from..to].to_owned());
                from = to + 1;
            }
            choices
        }
    };
    let (before, after) = (&text[..group.opens_at], &text[group.closes_at + 1..]);
    let mut words = Vec::new();
    for choice in choices {
        let word = format!("{before}{choice}{after}");
        match braces(&word) {
            Braces::None => words.push(word),
            Braces::Words(more) => words.extend(more),
            Braces::TooMany => return Braces::TooMany,
        }
        if words.len() > WORDS_MAX {
            return Braces::TooMany;
        }
    }
    Braces::Words(words)
}

/// Every pair of braces with a comma or a range in it.
fn groups(text: &str) -> Vec<Group> {
    let mut found = Vec::new();
    let mut open: Vec<(usize, Vec<usize>)> = Vec::new();
    let mut chars = text.char_indices();
    let mut before = ' ';
    while let Some((at, char)) = chars.next() {
        match char {
            '\\' => {
                chars.next();
            }
            // `${` begins something else; what closes it is its own.
            '{' if before == '$' => open.push((usize::MAX, Vec::new())),
            '{' => open.push((at, Vec::new())),
            ',' => {
                if let Some((_, commas)) = open.last_mut() {
                    commas.push(at);
                }
            }
            '}' => {
                let Some((opens_at, commas)) = open.pop() else {
                    continue;
                };
                if opens_at != usize::MAX
                    && (!commas.is_empty() || is_range(&text[opens_at + 1..at]))
                {
                    found.push(Group {
                        opens_at,
                        closes_at: at,
                        commas,
                    });
                }
            }
            _ => {}
        }
        before = char;
    }
    found
}

/// The ends and the step of `1..9`, `a..z` and `1..9..2`.
fn ends(inside: &str) -> Option<(&str, &str, u64)> {
    let parts: Vec<&str> = inside.split("..").collect();
    let (first, last, step) = match parts.as_slice() {
        [first, last] => (*first, *last, 1),
        [first, last, step] => (*first, *last, step.parse::<i64>().ok()?.unsigned_abs()),
        _ => return None,
    };
    let is_number = |text: &str| text.parse::<i64>().is_ok();
    let is_letter = |text: &str| text.len() == 1 && text.as_bytes()[0].is_ascii_alphabetic();
    let is_range = is_number(first) && is_number(last) || is_letter(first) && is_letter(last);
    is_range.then_some((first, last, step.max(1)))
}

fn is_range(inside: &str) -> bool {
    ends(inside).is_some()
}

/// What a range stands for, which is all letters; of many numbers, the first and
/// the last ones and those that mean something by themselves: a number names
/// nothing, and no other number names anything else.
fn range(inside: &str) -> Option<Vec<String>> {
    const ENDS: u64 = 3;
    let (first, last, step) = ends(inside)?;
    let (Ok(from), Ok(to)) = (first.parse::<i64>(), last.parse::<i64>()) else {
        return letters(first, last, step);
    };
    let count = (from.abs_diff(to) / step).saturating_add(1);
    let value = |index: u64| match from <= to {
        true => from.saturating_add_unsigned(index.saturating_mul(step)),
        false => from.saturating_sub_unsigned(index.saturating_mul(step)),
    };
    let special = [-1, 0, 1].into_iter().filter_map(|number: i64| {
        let is_between = from.min(to) <= number && number <= from.max(to);
        let away = number.abs_diff(from);
        (is_between && away % step == 0).then_some(away / step)
    });
    let mut indices: Vec<u64> = match count {
        ..=8 => (0..count).collect(),
        _ => (0..ENDS)
            .chain(special)
            .chain(count - ENDS..count)
            .collect(),
    };
    indices.sort_unstable();
    indices.dedup();
    let padded = |text: &str| text.trim_start_matches('-').starts_with('0') && text.len() > 1;
    let width = match padded(first) || padded(last) {
        true => first.len().max(last.len()),
        false => 0,
    };
    let shown = |index| format!("{:0width$}", value(index));
    Some(indices.into_iter().map(shown).collect())
}

fn letters(first: &str, last: &str, step: u64) -> Option<Vec<String>> {
    let (from, to) = (*first.as_bytes().first()?, *last.as_bytes().first()?);
    // Between large letters and small ones there are marks.
    if from.is_ascii_lowercase() != to.is_ascii_lowercase() {
        return None;
    }
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    let shown = |byte: u8| char::from(byte).to_string();
    Some(match from <= to {
        true => (from..=to).step_by(step).map(shown).collect(),
        false => (to..=from).rev().step_by(step).map(shown).collect(),
    })
}
