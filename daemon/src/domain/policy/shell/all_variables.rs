//! Where all variables go: what says them, and the files that they are put in.
//!
//! Who starts a command may have lent it credentials as variables, so all of them
//! together are worth as much as the best of them.

use super::{SimpleCommand, Word, absolute, walk::Walker, wrap::after_options};

/// Whether a command says all variables, or what holds them.
pub(super) fn are_said_by(command: &SimpleCommand) -> bool {
    let words = command.arguments();
    let mut given = words.iter().chain(&command.reads);
    if given.any(|word| word.of_environment) {
        return true;
    }
    let has_operand = words.iter().any(|word| !word.text.starts_with('-'));
    let names = |word: &Word, name: &str| {
        let is_of_a_name = |char: char| char.is_ascii_alphanumeric() || "_.".contains(char);
        let mut names = word.text.split(|char: char| !is_of_a_name(char));
        names.any(|found| found.split('.').next() == Some(name))
    };
    match command.program() {
        Some("env") => {
            let valued = ["-u", "-C", "-S", "--unset", "--chdir", "--split-string"];
            after_options(words, &valued, 0).is_empty()
        }
        Some("printenv") => !has_operand,
        Some("set") => words.is_empty(),
        // `-f` and `-F` show functions.
        Some("export" | "declare" | "typeset" | "local" | "readonly") => {
            let shows_functions = |word: &Word| word.text.contains(['f', 'F']);
            command.environment.is_empty() && !has_operand && !words.iter().any(shows_functions)
        }
        Some("awk" | "gawk" | "mawk" | "nawk") => words.iter().any(|word| names(word, "ENVIRON")),
        Some("perl") => words.iter().any(|word| word.text.contains("%ENV")),
        Some("ruby") => words
            .iter()
            .any(|word| are_whole(&word.text, "ENV", &["[", ".fetch", ".key"])),
        Some("python" | "python3") => words
            .iter()
            .any(|word| are_whole(&word.text, "os.environ", &["[", ".get", ".setdefault"])),
        Some("node") => words
            .iter()
            .any(|word| are_whole(&word.text, "process.env", &["[", ".", "?."])),
        Some("jq") => of_jq(words).any(|word| are_in_filter(&word.text)),
        _ => false,
    }
}

/// Whether a program says a name that holds all variables, with none of what takes
/// one of them out after it.
fn are_whole(program: &str, name: &str, parts: &[&str]) -> bool {
    let is_of_a_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    program.match_indices(name).any(|(at, found)| {
        let (before, after) = (&program[..at], &program[at + found.len()..]);
        let is_part = before.ends_with(is_of_a_name) || after.starts_with(is_of_a_name);
        !is_part && !parts.iter().any(|part| after.starts_with(part))
    })
}

/// The words of a `jq` that may be its filter: none that name variables of its own.
fn of_jq(words: &[Word]) -> impl Iterator<Item = &Word> {
    let mut values = 0;
    words.iter().filter(move |word| {
        let is_value = values > 0;
        values = match word.text.as_str() {
            _ if is_value => values - 1,
            "--arg" | "--argjson" | "--slurpfile" | "--rawfile" => 2,
            _ => 0,
        };
        !is_value
    })
}

/// Whether a filter of `jq` says `$ENV`, or `env` that is no key of an object.
fn are_in_filter(filter: &str) -> bool {
    let is_of_a_name = |char: char| char.is_ascii_alphanumeric() || char == '_';
    let mut variables = filter.match_indices("$ENV");
    let is_variable =
        variables.any(|(at, name)| !filter[at + name.len()..].starts_with(is_of_a_name));
    let mut functions = filter.match_indices("env");
    let is_function = functions.any(|(at, name)| {
        let (before, after) = (&filter[..at], &filter[at + name.len()..]);
        let is_part = before.ends_with(is_of_a_name) || after.starts_with(is_of_a_name);
        let is_text = before.ends_with('"') && after.starts_with('"');
        let (opens, closes) = (before.trim_end(), after.trim_start());
        let is_key = closes.starts_with(':')
            || opens.ends_with('{')
            || opens.ends_with(',') && closes.starts_with('}');
        !(is_part || is_text || is_key || before.ends_with(['$', '.', '@']))
    });
    is_variable || is_function
}

impl Walker<'_> {
    /// Whether one of the commands from here on says all variables.
    pub(super) fn say_environment(&self, begins_at: usize) -> bool {
        let commands = self.reading.commands.get(begins_at..).unwrap_or_default();
        commands
            .iter()
            .any(|command| command.input.has_environment() || are_said_by(command))
    }

    /// Files hold all variables from here on.
    pub(super) fn note_environment(&mut self, files: &[Word], directories: &[String]) {
        for file in files.iter().filter(|word| word.exact) {
            let places = directories.iter().map(|from| absolute(&file.text, from));
            self.of_environment.extend(places);
        }
    }

    /// Marks the words that name files with all variables: `@FILE` and
    /// `--file=FILE` do, too.
    pub(super) fn mark_environment(&self, command: &mut SimpleCommand) {
        for word in command.argv.iter_mut().skip(1) {
            word.of_environment |= self.names_environment(word, &command.directories);
        }
    }

    /// Whether a word names a file with all variables.
    pub(super) fn names_environment(&self, word: &Word, directories: &[String]) -> bool {
        let Some(text) = word.known().filter(|_| !self.of_environment.is_empty()) else {
            return false;
        };
        // `x=@FILE;type=text/plain`, `x=<FILE`.
        let text = text.split(';').next().unwrap_or(text);
        let text = text.rsplit(['=', '@', '<']).next().unwrap_or(text);
        // `-TFILE`, and what a file is called once it is compressed.
        let row = text.strip_prefix('-').filter(|row| !row.starts_with('-'));
        let attached = row.and_then(|row| row.split_once('T'));
        let endings = [".gz", ".xz", ".bz2", ".zst"];
        let packed = endings.iter().filter_map(|end| text.strip_suffix(end));
        let attached = attached.map(|(_, file)| file);
        let mut names = std::iter::once(text).chain(attached).chain(packed);
        names.any(|name| {
            let mut places = directories.iter().map(|from| absolute(name, from));
            places.any(|place| self.of_environment.contains(&place))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_variable_is_not_all_of_them() {
        let ruby = |program: &str| are_whole(program, "ENV", &["[", ".fetch", ".key"]);
        assert!(ruby("p ENV.to_h") && ruby("puts ENV") && ruby("ENV['a']; p ENV.inspect"));
        assert!(!ruby("p ENV['HOME']") && !ruby("ENV.fetch('A')") && !ruby("MY_ENV = 1"));
    }

    #[test]
    fn only_what_is_no_key_of_an_object_says_all_variables() {
        for filter in [
            "env",
            "$ENV",
            "env|to_entries",
            "[., env]",
            "{a: env}",
            "{env: env}",
            ". + $ENV",
            "\"\\(env)\"",
        ] {
            assert!(are_in_filter(filter), "{filter}");
        }
        for filter in [
            "{env:$env}",
            "{ env : .x }",
            "{env}",
            "{a, env}",
            "{\"env\": 1}",
            ".env",
            ".a.env[0]",
            "$env",
            "$ENVIRONMENT",
            ".environment",
            ".ENV",
        ] {
            assert!(!are_in_filter(filter), "{filter}");
        }
    }
}
