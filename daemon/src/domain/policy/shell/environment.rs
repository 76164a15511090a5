//! Variables that make programs run something.

use super::{Word, git, walk::Walker};

impl Walker<'_> {
    /// A variable that programs are started with, or may be.
    pub(super) fn environment(&mut self, name: &str, value: &Word) {
        if says_what_git_reads(name) {
            self.git_elsewhere = Some(name.to_owned());
        }
        match name {
            "BASH_CMDS" | "BASH_ALIASES" => {
                self.doubt(format!("`{name}` gives programs other names"));
            }
            "LD_PRELOAD" | "LD_LIBRARY_PATH" | "LD_AUDIT" | "BASH_ENV" | "PROMPT_COMMAND"
            | "PERL5OPT" | "RUBYOPT" | "PYTHONSTARTUP" | "SHELLOPTS" => {
                self.doubt(format!("`{name}` makes programs run what is not named"));
            }
            // `ENV=production` names no file.
            "ENV" if !value.exact || value.text.contains(['/', '.']) => {
                self.doubt("`ENV` makes shells run what is not named");
            }
            // Splitting at less than usual makes no command of what was none.
            "IFS" if !value.exact || value.text.contains(|char: char| !char.is_whitespace()) => {
                self.doubt("`IFS` makes other words of what follows");
            }
            "NODE_OPTIONS" if value.text.contains("--require") || value.text.contains("-r ") => {
                self.doubt("`NODE_OPTIONS` makes node run what is not named");
            }
            "MAKEFLAGS" if !value.exact || value.text.contains("--ev") => {
                self.doubt("`MAKEFLAGS` gives make rules of its own");
            }
            "GIT_SSH_COMMAND"
            | "GIT_SSH"
            | "GIT_EDITOR"
            | "GIT_PAGER"
            | "PAGER"
            | "EDITOR"
            | "VISUAL"
            | "GIT_EXTERNAL_DIFF"
            | "GIT_ASKPASS"
            | "SSH_ASKPASS"
            | "MANPAGER"
            | "LESSOPEN"
            | "GIT_PROXY_COMMAND"
            | "GIT_SEQUENCE_EDITOR"
            | "BROWSER" => {
                self.text(name, value);
            }
            "GIT_CONFIG_PARAMETERS" | "GIT_EXEC_PATH" | "GIT_TEMPLATE_DIR" => {
                self.doubt(format!("`{name}` makes git run what is not named"));
            }
            "GIT_CONFIG" | "GIT_CONFIG_GLOBAL" | "GIT_CONFIG_SYSTEM"
                if value.known() != Some("/dev/null") =>
            {
                self.doubt(format!("`{name}` makes git run what is not named"));
            }
            name if name.starts_with("GIT_CONFIG_KEY_")
                && value.known().is_none_or(git::runs_programs) =>
            {
                self.doubt(format!("`{name}` makes git run what is not named"));
            }
            name if name.starts_with("GIT_CONFIG_KEY_")
                && value.known().is_some_and(git::moves_pushes) =>
            {
                self.doubt(format!("`{name}` changes where git pushes to"));
            }
            "PATH" => self.path(value),
            _ => {}
        }
    }

    /// Only what begins with the path as it is, or with a directory of the usual
    /// ones, names no other programs for the usual names.
    fn path(&mut self, value: &Word) {
        const USUAL: [&str; 19] = [
            "/usr/",
            "/bin",
            "/sbin",
            "/opt/",
            "./node_modules/.bin",
            "node_modules/.bin",
            "~/.local/bin",
            "~/.cargo/bin",
            "~/go/bin",
            "~/.bun/bin",
            "~/.deno/bin",
            "~/.npm-global/bin",
            "~/.nvm/",
            "~/.pyenv/",
            "~/.rbenv/",
            "~/.volta/bin",
            "./venv/bin",
            "venv/bin",
            ".venv/bin",
        ];
        let first = value.text.split(':').next().unwrap_or("");
        if !matches!(first, "$PATH" | "${PATH}")
            && !USUAL.iter().any(|prefix| first.starts_with(prefix))
            && !first.ends_with("/node_modules/.bin")
            && !first.ends_with("venv/bin")
        {
            self.doubt("`PATH` puts other programs in place of the usual ones");
        }
    }
}

/// Whether a variable of this name changes which settings git reads.
fn says_what_git_reads(name: &str) -> bool {
    const NAMES: [&str; 5] = [
        "HOME",
        "XDG_CONFIG_HOME",
        "GIT_DIR",
        "GIT_COMMON_DIR",
        "GIT_NAMESPACE",
    ];
    NAMES.contains(&name) || name.starts_with("GIT_CONFIG")
}
