//! Programs of `sed`, read as far as is needed to know the files that they write.

/// The files that a program writes, with the commands `w` and `W` and the flag
/// `w` of `s`; `None` where the program is not understood.
pub(super) fn written_by(program: &str) -> Option<Vec<&str>> {
    let mut reader = Reader {
        text: program,
        at: 0,
    };
    let mut written = Vec::new();
    loop {
        reader.skip(|char| char.is_whitespace() || matches!(char, ';' | '{' | '}'));
        let Some(char) = reader.peek() else {
            return Some(written);
        };
        if char == '#' {
            reader.rest_of_line();
            continue;
        }
        reader.addresses()?;
        match reader.next()? {
            '{' | '}' | '=' | 'd' | 'D' | 'g' | 'G' | 'h' | 'H' | 'n' | 'N' | 'p' | 'P' | 'x'
            | 'F' | 'z' => {}
            'l' | 'L' | 'q' | 'Q' => reader.skip(|char| char == ' ' || char.is_ascii_digit()),
            ':' | 'b' | 't' | 'T' => {
                reader.skip(|char| !matches!(char, ';' | '\n' | '}'));
            }
            'a' | 'i' | 'c' => reader.text_of_lines(),
            'r' | 'R' | 'v' | 'e' => {
                reader.rest_of_line();
            }
            'w' | 'W' => written.push(reader.rest_of_line().trim()),
            'y' => {
                let mark = reader.next()?;
                reader.past(mark)?;
                reader.past(mark)?;
            }
            's' => {
                let mark = reader.next()?;
                reader.past(mark)?;
                reader.past(mark)?;
                reader.skip(|char| char.is_ascii_digit() || "gpiImMe".contains(char));
                if reader.peek() == Some('w') {
                    reader.next();
                    written.push(reader.rest_of_line().trim());
                }
            }
            _ => return None,
        }
        reader.skip(|char| char == ' ' || char == '\t');
        if !matches!(reader.peek(), None | Some(';' | '\n' | '}' | '#')) && !reader.is_in_block() {
            return None;
        }
    }
}

struct Reader<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Reader<'t> {
    fn peek(&self) -> Option<char> {
        self.text[self.at..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let char = self.peek()?;
        self.at += char.len_utf8();
        Some(char)
    }

    fn skip(&mut self, is_skipped: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&is_skipped) {
            self.next();
        }
    }

    /// Whether what was read last opened a block, or began a line.
    fn is_in_block(&self) -> bool {
        let before = self.text[..self.at].trim_end_matches([' ', '\t']);
        before.ends_with(['{', '}', '\n'])
    }

    fn rest_of_line(&mut self) -> &'t str {
        let rest = &self.text[self.at..];
        let line = rest.split('\n').next().unwrap_or(rest);
        self.at += line.len();
        line
    }

    /// The text of `a`, `i` and `c`: lines that end with a backslash go on.
    fn text_of_lines(&mut self) {
        while self.rest_of_line().ends_with('\\') && self.next().is_some() {}
    }

    /// Goes past the next mark that has no backslash before it.
    fn past(&mut self, mark: char) -> Option<()> {
        loop {
            match self.next()? {
                '\\' => {
                    self.next()?;
                }
                char if char == mark => return Some(()),
                _ => {}
            }
        }
    }

    /// Goes past the addresses of a command.
    fn addresses(&mut self) -> Option<()> {
        loop {
            match self.peek()? {
                '/' => {
                    self.next();
                    self.past('/')?;
                    self.skip(|char| matches!(char, 'I' | 'M'));
                }
                '\\' => {
                    self.next();
                    let mark = self.next()?;
                    self.past(mark)?;
                    self.skip(|char| matches!(char, 'I' | 'M'));
                }
                '$' | ',' | '~' | '+' | '!' | ' ' | '\t' | '0'..='9' => {
                    self.next();
                }
                _ => return Some(()),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_files_that_a_program_writes_are_known() {
        let table: [(&str, &[&str]); 14] = [
            ("1,40p", &[]),
            ("s/now we/go on/", &[]),
            ("s/w a/b/g; s|x|w y|p", &[]),
            ("/^$/d;$!N;y/abc/xyw/", &[]),
            ("w src/app.py", &["src/app.py"]),
            ("s/a/b/w out", &["out"]),
            ("s/a\\/b/c/gpw out", &["out"]),
            ("/x/,/y/ { s/a/b/; w one\n p }\n1W two", &["one", "two"]),
            ("/x/{p;w out\n}", &["out"]),
            ("a w no\n2w yes", &["yes"]),
            ("i\\\nw no\\\nw no\nw yes", &["yes"]),
            (":a;N;$!ba;s/\\n/ /g", &[]),
            ("\\,w x,d # w no", &[]),
            ("", &[]),
        ];
        for (program, written) in table {
            assert_eq!(written_by(program).as_deref(), Some(written), "{program}");
        }
        for program in ["s/a/b", "k", "s/a/b/k", "p p", "/x"] {
            assert_eq!(written_by(program), None, "{program}");
        }
    }
}
