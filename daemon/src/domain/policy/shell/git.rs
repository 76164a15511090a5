//! What git runs: aliases, helpers and hooks of its configuration, and commands
//! that it is given.

use std::collections::BTreeMap;

use super::{Input, Word, walk::Walker, wrap::after_options};

impl Walker<'_> {
    /// Git runs what its configuration says.
    pub(super) fn git(&mut self, arguments: &[Word]) {
        let mut at = 0;
        let mut settings = Vec::new();
        while let Some(word) = arguments.get(at) {
            let begins_at = at;
            match word.text.as_str() {
                "-c" => {
                    if let Some(setting) = arguments.get(at + 1) {
                        self.git_setting(setting);
                    }
                    at += 2;
                }
                "--config-env" => {
                    if let Some(setting) = arguments.get(at + 1) {
                        self.git_setting_elsewhere(&setting.text, setting.exact);
                    }
                    at += 2;
                }
                text if text.starts_with("--config-env=") => {
                    self.git_setting_elsewhere(&text["--config-env=".len()..], word.exact);
                    at += 1;
                }
                text if text.starts_with("--exec-path=") => {
                    self.doubt("`--exec-path` puts other programs in place of git's own");
                    at += 1;
                }
                "-C" | "--git-dir" | "--work-tree" | "--namespace" => at += 2,
                text if text.starts_with('-') => at += 1,
                _ => break,
            }
            if says_where(&word.text) {
                let words = arguments.get(begins_at..at).unwrap_or_default();
                settings.extend(words.iter().map(|word| word.text.as_str()));
            }
        }
        let rest = arguments.get(at..).unwrap_or_default();
        self.git_push(&settings.join(" "), rest);
        match rest.first().map(|word| word.text.as_str()) {
            Some("config") => {
                let words: Vec<&Word> = rest[1..]
                    .iter()
                    .filter(|word| !word.text.starts_with('-'))
                    .collect();
                if let [name, value] = words.as_slice() {
                    let setting = Word {
                        text: format!("{}={}", name.text, value.text),
                        exact: name.exact && value.exact,
                        ..Word::default()
                    };
                    self.git_setting(&setting);
                }
            }
            Some("rebase") => self.dash_c("git rebase", &rest[1..], &["-x", "--exec"]),
            Some("bisect") if rest.get(1).is_some_and(|word| word.text == "run") => {
                let command = rest.get(2..).unwrap_or_default().to_vec();
                self.command(
                    command,
                    Vec::new(),
                    Vec::new(),
                    BTreeMap::new(),
                    Input::None,
                );
            }
            Some("submodule") => {
                if let Some(at) = rest.iter().position(|word| word.text == "foreach") {
                    let words = rest.get(at + 1..).unwrap_or_default();
                    let words = after_options(words, &[], 0).to_vec();
                    // It runs in each of them, which has remotes of its own.
                    let before = self.directories.clone();
                    for directory in &mut self.directories {
                        directory.push_str("/*");
                    }
                    self.evaluated("git submodule foreach", &words);
                    self.directories = before;
                }
            }
            Some("grep") => {
                let options = rest[1..].iter().take_while(|word| word.text != "--");
                for word in options {
                    match pager_of_grep(&word.text) {
                        None | Some("") => {}
                        Some(pager) if word.exact => self.script(pager),
                        Some(_) => {
                            self.doubt("what `git grep` shows with is not known before it runs");
                        }
                    }
                }
            }
            Some("difftool") => self.dash_c("git difftool", &rest[1..], &["-x", "--extcmd"]),
            Some("filter-branch") => {
                self.doubt("`git filter-branch` runs scripts over the history")
            }
            _ => {}
        }
    }

    /// A push that is told where to go by more than its words: whoever lets a push
    /// of a branch to a remote has not let that.
    fn git_push(&mut self, settings: &str, rest: &[Word]) {
        let sub = rest.first().map_or("", |word| word.text.as_str());
        if !matches!(sub, "push" | "subtree" | "send-pack" | "lfs") {
            return;
        }
        if !settings.is_empty() {
            self.doubt(format!(
                "where `git {sub}` pushes may be changed by `{settings}`"
            ));
        }
        if let Some(name) = self.git_elsewhere.clone() {
            self.doubt(format!(
                "where `git {sub}` pushes may be changed by `{name}`"
            ));
        }
        let starts = |word: &Word| {
            let name = word.text.split('=').next().unwrap_or_default();
            let programs = ["--receive-pack", "--exec"];
            name.len() > 4 && programs.iter().any(|option| option.starts_with(name))
        };
        if rest.iter().any(starts) {
            self.doubt(format!("`git {sub}` is told what to run on the other side"));
        }
    }

    fn git_setting(&mut self, setting: &Word) {
        let (name, value) = setting.text.split_once('=').unwrap_or((&setting.text, ""));
        let name = name.to_ascii_lowercase();
        if !runs_programs(&name) {
            return;
        }
        let names_files = matches!(name.as_str(), "core.hookspath" | "init.templatedir")
            || name.starts_with("include");
        if !setting.exact || names_files {
            self.doubt(format!("what git runs for `{name}` is not known"));
            return;
        }
        let value = value.to_owned();
        match (name.starts_with("alias."), value.strip_prefix('!')) {
            (true, None) => self.script(&format!("git {value}")),
            (_, Some(script)) => self.script(script),
            (false, None) => self.script(&value),
        }
    }

    /// A setting whose value is that of a variable.
    fn git_setting_elsewhere(&mut self, setting: &str, exact: bool) {
        let name = setting.split('=').next().unwrap_or(setting);
        if !exact || runs_programs(name) {
            self.doubt(format!("what git runs for `{name}` is not known"));
        }
    }
}

/// What `git grep -O` opens the files with; empty for the usual pager.
pub(in crate::domain::policy) fn pager_of_grep(option: &str) -> Option<&str> {
    if let Some(long) = option.strip_prefix("--") {
        let (name, value) = long.split_once('=').unwrap_or((long, ""));
        let is_it = name.starts_with("op") && "open-files-in-pager".starts_with(name);
        return is_it.then_some(value);
    }
    let cluster = option.strip_prefix('-')?;
    // What comes after these is their value.
    let at = cluster.find(|char: char| "OefABCm".contains(char))?;
    cluster[at..].strip_prefix('O')
}

/// Whether an option of git's own may change where a push goes.
fn says_where(option: &str) -> bool {
    let name = option.split('=').next().unwrap_or_default();
    matches!(
        name,
        "-c" | "--config-env" | "--git-dir" | "--namespace" | "--exec-path"
    )
}

/// Whether a setting of this name changes where pushes go, or what they push.
pub(in crate::domain::policy) fn moves_pushes(name: &str) -> bool {
    const FETCHES: [&str; 9] = [
        ".fetch",
        ".tagopt",
        ".prune",
        ".prunetags",
        ".skipdefaultupdate",
        ".skipfetchall",
        ".partialclonefilter",
        ".promisor",
        ".followremotehead",
    ];
    let name = name.to_ascii_lowercase();
    name.starts_with("remote.") && !FETCHES.iter().any(|end| name.ends_with(end))
        || name.starts_with("url.")
        || name.starts_with("branch.")
            && (name.ends_with(".remote") || name.ends_with(".pushremote"))
        || matches!(name.as_str(), "push.default" | "push.pushoption")
}

/// Whether git starts what a setting of this name says.
pub(super) fn runs_programs(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let of_a_tool = ["filter.", "diff.", "merge.", "difftool.", "mergetool."];
    let commands = [
        ".clean",
        ".smudge",
        ".process",
        ".textconv",
        ".driver",
        ".command",
        ".cmd",
    ];
    name.starts_with("alias.")
        || name.starts_with("pager.")
        || name.starts_with("include")
        || name.starts_with("gpg.") && name.ends_with("program")
        || matches!(
            name.as_str(),
            "core.sshcommand"
                | "core.pager"
                | "core.editor"
                | "core.askpass"
                | "core.fsmonitor"
                | "core.gitproxy"
                | "sequence.editor"
                | "credential.helper"
                | "diff.external"
                | "core.hookspath"
                | "init.templatedir"
        )
        || of_a_tool.iter().any(|start| name.starts_with(start))
            && commands.iter().any(|end| name.ends_with(end))
}
