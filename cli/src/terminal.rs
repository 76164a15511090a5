//! The terminal on this side: what is one, how large it is, raw mode that is
//! always undone, questions. Refuses to know what is shown on it.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use compyd_proto::v1::TerminalSize;

use crate::exit::Failure;

/// Whether a person can be asked: input and standard error are terminals.
pub(crate) fn can_ask() -> bool {
    io::stdin().is_terminal() && io::stderr().is_terminal()
}

/// Whether the live view can be drawn on standard error.
pub(crate) fn can_draw() -> bool {
    io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Whether colours may be used on a stream, as `NO_COLOR` asks.
pub(crate) fn colours(is_terminal: bool) -> bool {
    is_terminal && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// Size of the terminal, or 24 rows of 80 columns when it does not say.
pub(crate) fn size() -> TerminalSize {
    let (columns, rows) = crossterm::terminal::size().unwrap_or((80, 24));
    TerminalSize {
        rows: u32::from(rows.max(1)),
        columns: u32::from(columns.max(1)),
    }
}

/// The terminal in raw mode until dropped; a panic restores it too, before its
/// message is printed.
#[derive(Debug)]
pub(crate) struct RawMode(());

impl RawMode {
    pub(crate) fn enter() -> Result<Self, Failure> {
        crossterm::terminal::enable_raw_mode().map_err(|error| {
            Failure::local(
                format!("the terminal cannot be set to raw mode: {error}"),
                "",
            )
        })?;
        let previous = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            // Nothing more can be done about a terminal that is gone.
            let _ = crossterm::terminal::disable_raw_mode();
            previous(info);
        }));
        Ok(RawMode(()))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // As above.
        let _ = crossterm::terminal::disable_raw_mode();
    }
}

/// Asks on standard error and reads one line from standard input, without its
/// line end; `None` at the end of input. Blocks.
pub(crate) fn ask(question: &str) -> io::Result<Option<String>> {
    let mut error = io::stderr().lock();
    write!(error, "{question}")?;
    error.flush()?;
    let mut line = String::new();
    if io::stdin().lock().read_line(&mut line)? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end_matches(['\n', '\r']).to_owned()))
}

/// Asks as [`ask`] does, without showing what is typed. Blocks.
pub(crate) fn ask_unseen(question: &str) -> io::Result<Option<String>> {
    use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
    let before = tcgetattr(io::stdin())?;
    let mut unseen = before.clone();
    unseen.local_flags.remove(LocalFlags::ECHO);
    tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &unseen)?;
    let answer = ask(question);
    let restored = tcsetattr(io::stdin(), SetArg::TCSAFLUSH, &before);
    // The line end that was typed was not shown either.
    eprintln!();
    restored?;
    answer
}

/// Asks for a yes before something is lost; `instead` is the command line that
/// needs none.
pub(crate) fn confirmed(question: &str, instead: &str) -> Result<bool, Failure> {
    if !can_ask() {
        return Err(Failure::usage(
            "this needs a person's word, and there is no terminal to ask on",
            instead,
        ));
    }
    let answer = ask(question)
        .map_err(|error| Failure::local(format!("the answer cannot be read: {error}"), ""))?;
    Ok(matches!(
        answer.as_deref().map(str::trim),
        Some("y" | "Y" | "yes" | "Yes")
    ))
}

/// Text from elsewhere, safe to print: control characters, with which a
/// terminal could be driven, become visible. Tabs stay; line ends stay where
/// `lines` says so.
pub(crate) fn printable(text: &str, lines: Lines) -> String {
    text.chars()
        .map(|c| match (c, lines) {
            ('\t', _) => '\t',
            ('\n', Lines::Keep) => '\n',
            ('\n' | '\r', Lines::Join) => ' ',
            (c, _) if c.is_control() => '\u{fffd}',
            // Marks that reorder the text around them.
            ('\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}', _) => '\u{fffd}',
            (c, _) => c,
        })
        .collect()
}

/// What [`printable`] does with line ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lines {
    /// Keeps them.
    Keep,
    /// Makes them blanks.
    Join,
}

/// The first `width` columns of a line, with an ellipsis when it was longer.
/// Counts characters, so wide ones may still wrap.
pub(crate) fn clipped(line: &str, width: usize) -> String {
    if line.chars().count() <= width {
        return line.to_owned();
    }
    let mut clipped: String = line.chars().take(width.saturating_sub(1)).collect();
    clipped.push('…');
    clipped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_cannot_drive_the_terminal() {
        assert_eq!(
            printable("a\x1b]0;pwned\x07\u{202e}b\r\n\tc", Lines::Join),
            "a\u{fffd}]0;pwned\u{fffd}\u{fffd}b  \tc"
        );
        assert_eq!(printable("a\nb\u{9b}", Lines::Keep), "a\nb\u{fffd}");
    }

    #[test]
    fn long_lines_are_clipped_with_an_ellipsis() {
        assert_eq!(clipped("abcdef", 6), "abcdef");
        assert_eq!(clipped("abcdef", 4), "abc…");
    }
}
