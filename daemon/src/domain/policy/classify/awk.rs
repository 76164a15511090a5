//! Programs of `awk`, read as far as is needed to know the files that they write
//! and whether they start other programs.

/// What `print` and `printf` are redirected to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Target {
    /// The file of this name.
    File(String),
    /// The file that this variable names.
    Variable(String),
    /// The file that this expression names.
    Unknown(String),
}

/// The files that a program writes.
pub(super) fn written_by(program: &str) -> Vec<Target> {
    let mut targets = Vec::new();
    let mut prints = false;
    let mut depth = 0_usize;
    // The last two that were read, for what a slash means.
    let (mut before, mut last_but_one) = ('\n', '\n');
    let mut at = 0;
    while let Some(char) = program[at..].chars().next() {
        let begins_at = at;
        at += char.len_utf8();
        match char {
            '"' => at = past(program, at, '"'),
            '#' => at += program[at..].find('\n').unwrap_or(program.len() - at),
            '/' if !ends_an_operand(before, last_but_one) => at = past(program, at, '/'),
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            ';' | '{' | '}' | '\n' => prints = false,
            '>' if prints && depth == 0 => {
                at += usize::from(program[at..].starts_with('>'));
                let rest = &program[at..];
                let target = target(rest);
                targets.push(target);
                prints = false;
            }
            char if is_of_a_name(char) => {
                let rest = &program[begins_at..];
                let length = rest.find(|char| !is_of_a_name(char)).unwrap_or(rest.len());
                at = begins_at + length;
                if matches!(&rest[..length], "print" | "printf") {
                    (prints, depth) = (true, 0);
                    // A slash after them begins an expression.
                    (before, last_but_one) = (' ', ' ');
                    continue;
                }
            }
            _ => {}
        }
        if !char.is_whitespace() || char == '\n' {
            (before, last_but_one) = (char, before);
        }
    }
    targets
}

/// Whether a program may start others: by `system`, by a pipe, or by a function
/// whose name a variable holds.
pub(super) fn starts_programs(program: &str) -> bool {
    // The last two that were read, for what a slash means.
    let (mut before, mut last_but_one) = ('\n', '\n');
    let mut at = 0;
    while let Some(char) = program[at..].chars().next() {
        let begins_at = at;
        at += char.len_utf8();
        match char {
            '"' => at = past(program, at, '"'),
            '#' => at += program[at..].find('\n').unwrap_or(program.len() - at),
            '/' if !ends_an_operand(before, last_but_one) => at = past(program, at, '/'),
            '|' if program[at..].starts_with('|') => at += 1,
            '|' | '@' => return true,
            char if is_of_a_name(char) => {
                let rest = &program[begins_at..];
                let length = rest.find(|char| !is_of_a_name(char)).unwrap_or(rest.len());
                at = begins_at + length;
                let is_called = program[at..].trim_start().starts_with('(');
                if &rest[..length] == "system" && is_called {
                    return true;
                }
                if matches!(&rest[..length], "print" | "printf" | "return") {
                    (before, last_but_one) = (' ', ' ');
                    continue;
                }
            }
            _ => {}
        }
        if !char.is_whitespace() || char == '\n' {
            (before, last_but_one) = (char, before);
        }
    }
    false
}

/// Whether a slash after these divides what stands before it.
fn ends_an_operand(before: char, last_but_one: char) -> bool {
    match before {
        '+' | '-' => last_but_one == before,
        ')' | ']' | '_' | '$' | '"' => true,
        char => char.is_ascii_alphanumeric(),
    }
}

fn is_of_a_name(char: char) -> bool {
    char.is_ascii_alphanumeric() || char == '_'
}

/// The end of a text or an expression that this mark closes.
fn past(program: &str, from: usize, mark: char) -> usize {
    let mut chars = program[from..].char_indices();
    while let Some((at, char)) = chars.next() {
        if char == '\\' {
            chars.next();
        } else if char == mark || char == '\n' {
            return from + at + char.len_utf8();
        }
    }
    program.len()
}

/// What stands after a redirection, up to the end of its statement.
fn target(rest: &str) -> Target {
    let rest = rest.trim_start_matches([' ', '\t']);
    let ends = |rest: &str| {
        let rest = rest.trim_start_matches([' ', '\t']);
        rest.is_empty() || rest.starts_with([';', '}', '\n', '#'])
    };
    if rest.starts_with('"') {
        let end = past(rest, 1, '"');
        let closed = rest[1..end].strip_suffix('"');
        let text = closed.filter(|text| !text.contains('\\'));
        if let Some(text) = text.filter(|_| ends(&rest[end..])) {
            return Target::File(text.to_owned());
        }
    }
    let name = rest.find(|char| !is_of_a_name(char)).unwrap_or(rest.len());
    if name > 0 && ends(&rest[name..]) {
        return Target::Variable(rest[..name].to_owned());
    }
    let expression = rest.split([';', '}', '\n']).next().unwrap_or(rest);
    Target::Unknown(expression.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_to_files_is_known() {
        let file = |name: &str| Target::File(name.to_owned());
        let variable = |name: &str| Target::Variable(name.to_owned());
        let unknown = |text: &str| Target::Unknown(text.to_owned());
        let table = [
            ("{print $1}", vec![]),
            ("$3 > 5 {print $1}", vec![]),
            ("{print ($1 > 2)}", vec![]),
            ("{print \"a > b\"}", vec![]),
            ("/print >/ {print}", vec![]),
            ("{ if ($1 > 2) print $1 }", vec![]),
            ("{print; if (a > b) n++}", vec![]),
            (
                "BEGIN{print \"x\" > \"src/app.py\"}",
                vec![file("src/app.py")],
            ),
            ("{printf(\"%s\", $1) >> \"out\"}", vec![file("out")]),
            (
                "{print > f; print $1>\"b\"}",
                vec![variable("f"), file("b")],
            ),
            ("{print > $1\".txt\"}", vec![unknown("$1\".txt\"")]),
            ("{print > \"a\" \"b\"}", vec![unknown("\"a\" \"b\"")]),
            (
                "{print $1/2 > \"out\" } # print > \"no\"",
                vec![file("out")],
            ),
            ("{print /x/ > \"out\"}", vec![file("out")]),
            ("BEGIN{x=\"1\"/1; print \"y\" > \"a/b\"}", vec![file("a/b")]),
            ("{n++/1; print > \"a/b\"}", vec![file("a/b")]),
            ("{print > \"é", vec![unknown("\"é")]),
            ("{print > \"", vec![unknown("\"")]),
            ("{print > \"\"}", vec![file("")]),
        ];
        for (program, targets) in table {
            assert_eq!(written_by(program), targets, "{program}");
        }
    }

    #[test]
    fn pipes_and_calls_of_system_are_known() {
        for program in [
            "BEGIN{c=\"ls\"; print \"x\" | c}",
            "BEGIN{system (\"ls\")}",
            "BEGIN{system\t(\"ls\")}",
            "BEGIN{\"ls\"  |  getline x}",
            "{print $1/2 |& c}",
            "BEGIN{f=\"system\"; @f(\"ls\")}",
            "{n++/1; print | c}",
        ] {
            assert!(starts_programs(program), "{program}");
        }
        for program in [
            "/a|b/{print}",
            "$1 ~ /a|b/ || $2 !~ /c|d/",
            "{print \"a | b\"} # a | b",
            "{gsub(/\\||x/, \"\"); print}",
            "{split($0, a, /,|;/)}",
            "{systems(1)}",
            "{return /a|b/}",
        ] {
            assert!(!starts_programs(program), "{program}");
        }
    }
}
