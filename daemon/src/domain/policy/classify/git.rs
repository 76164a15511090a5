//! Git.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{SimpleCommand, Word, absolute, pager_of_grep},
    },
    Act, Line, files, has, moves, operands, value_of,
};

/// Options of git itself that have a value.
const GLOBAL: [&str; 6] = [
    "-C",
    "-c",
    "--git-dir",
    "--work-tree",
    "--namespace",
    "--config-env",
];
/// Subcommands that only look.
const LOOKS: [&str; 29] = [
    "status",
    "log",
    "diff",
    "show",
    "blame",
    "ls-files",
    "ls-tree",
    "rev-parse",
    "rev-list",
    "grep",
    "describe",
    "cat-file",
    "shortlog",
    "merge-base",
    "name-rev",
    "for-each-ref",
    "show-ref",
    "whatchanged",
    "help",
    "version",
    "count-objects",
    "fsck",
    "var",
    "check-ignore",
    "check-attr",
    "diff-tree",
    "diff-index",
    "diff-files",
    "annotate",
];

/// The other subcommands that come with git or are well known. Any other word may
/// be an alias of the repository's configuration.
const OTHERS: [&str; 104] = [
    "add",
    "am",
    "annex",
    "apply",
    "archive",
    "backfill",
    "bisect",
    "branch",
    "bugreport",
    "bundle",
    "check-mailmap",
    "check-ref-format",
    "checkout",
    "checkout-index",
    "cherry",
    "cherry-pick",
    "clean",
    "clone",
    "column",
    "commit",
    "commit-graph",
    "commit-tree",
    "config",
    "credential",
    "credential-cache",
    "credential-store",
    "daemon",
    "diagnose",
    "difftool",
    "fast-export",
    "fast-import",
    "fetch",
    "fetch-pack",
    "filter-branch",
    "filter-repo",
    "fmt-merge-msg",
    "format-patch",
    "gc",
    "get-tar-commit-id",
    "hash-object",
    "hook",
    "http-push",
    "index-pack",
    "init",
    "instaweb",
    "interpret-trailers",
    "lfs",
    "ls-remote",
    "mailinfo",
    "mailsplit",
    "maintenance",
    "merge",
    "merge-file",
    "merge-index",
    "merge-tree",
    "mergetool",
    "mktag",
    "mktree",
    "mv",
    "notes",
    "p4",
    "pack-objects",
    "pack-refs",
    "patch-id",
    "prune",
    "pull",
    "push",
    "range-diff",
    "read-tree",
    "rebase",
    "reflog",
    "remote",
    "repack",
    "replace",
    "request-pull",
    "rerere",
    "reset",
    "restore",
    "revert",
    "rm",
    "send-email",
    "send-pack",
    "show-branch",
    "show-index",
    "sparse-checkout",
    "stage",
    "stash",
    "stripspace",
    "submodule",
    "subtree",
    "svn",
    "switch",
    "symbolic-ref",
    "tag",
    "unpack-file",
    "unpack-objects",
    "update-index",
    "update-ref",
    "update-server-info",
    "verify-commit",
    "verify-pack",
    "verify-tag",
    "worktree",
    "write-tree",
];

/// Whether git has a subcommand of this name.
pub(super) fn has_subcommand(name: &str) -> bool {
    LOOKS.contains(&name) || OTHERS.contains(&name)
}

pub(super) fn judge(act: &mut Act, command: &SimpleCommand, line: &mut Line<'_>) {
    let words = command.arguments();
    let mut at = 0;
    let mut elsewhere = None;
    while let Some(word) = words.get(at) {
        if GLOBAL.contains(&word.text.as_str()) {
            if word.text == "-C" {
                elsewhere = words.get(at + 1);
            }
            at += 2;
        } else if word.text.starts_with('-') {
            at += 1;
        } else {
            break;
        }
    }
    let configured = words[..at.min(words.len())]
        .iter()
        .any(|word| word.text == "-c" || word.text.starts_with("--config-env"));
    let Some(sub) = words.get(at) else {
        return;
    };
    let Some(name) = sub.known() else {
        act.find(RiskKind::NotUnderstood, "git");
        return;
    };
    // Rules name `git push` whatever stands between the two.
    act.argv = ["git"]
        .into_iter()
        .map(str::to_owned)
        .chain(words[at..].iter().map(|word| word.text.clone()))
        .collect();
    act.certain = 1 + words[at..].iter().take_while(|word| word.exact).count();
    let rest = &words[at + 1..];
    let directories: Vec<String> = match elsewhere {
        None => command.directories.clone(),
        Some(word) => files::places(word, &command.directories)
            .into_iter()
            .flatten()
            .collect(),
    };
    if LOOKS.contains(&name)
        || name == "branch"
            && rest.iter().all(|word| {
                word.text.starts_with('-')
                    && !has(std::slice::from_ref(word), &["-D", "-d", "-m", "-f"])
            })
    {
        looks_but_writes(act, name, rest, &directories, line);
        return;
    }
    act.level = act.level.max(Level::Write);
    if !has_subcommand(name) {
        act.find(RiskKind::NotUnderstood, format!("git {name}"));
    }
    if has(rest, &["--upload-pack"]) {
        act.find(RiskKind::NotUnderstood, "--upload-pack");
    }
    // What a push without a branch pushes can be changed by these.
    if configured || matches!(name, "branch" | "config" | "remote" | "symbolic-ref") {
        line.on = None;
    }
    let on = line.on.as_ref().filter(|(at, _)| *at == directories);
    let on = on.map(|(_, branch)| branch.clone());
    match name {
        "push" => push(act, rest, on, line),
        "subtree" if rest.first().is_some_and(|word| word.text == "push") => {
            push(act, &rest[1..], on, line);
        }
        "merge" | "pull" => {
            if has(rest, &["--abort", "--quit"]) {
                return;
            }
            if let Some(branch) = line
                .branch
                .clone()
                .filter(|branch| is_protected(branch, line))
            {
                act.find(RiskKind::Merge, format!("into {branch}"));
                act.branches.push(branch);
            }
        }
        "checkout" | "switch" => {
            let given = operands(rest, &["-b", "-B", "-c", "-C", "--orphan"]);
            if has(rest, &["-f", "--force", "--discard-changes"])
                || rest
                    .iter()
                    .any(|word| word.text == "--" || word.text == ".")
            {
                act.find(RiskKind::Discard, "git checkout");
            }
            let made = value_of(rest, &["-b", "-B", "-c", "-C"]).map(str::to_owned);
            let named = given.first().map(|word| word.text.clone());
            // What `git checkout x` names may be a file.
            let certain = match name {
                "switch" if !has(rest, &["-d", "--detach"]) => made.clone().or(named.clone()),
                _ => made.clone(),
            };
            let certain = certain
                .filter(|name| !name.starts_with(['-', '@']) && rest.iter().all(|word| word.exact));
            line.on = certain.map(|branch| (directories.clone(), branch));
            line.branch = made.or(named);
        }
        "reset" if has(rest, &["--hard", "--merge", "--keep"]) => {
            if line
                .branch
                .as_ref()
                .is_some_and(|branch| is_protected(branch, line))
            {
                act.find(RiskKind::HistoryRewrite, "git reset");
            }
            act.find(RiskKind::Discard, "git reset");
        }
        "restore" if !has(rest, &["--staged", "-S"]) || has(rest, &["--worktree", "-W"]) => {
            act.find(RiskKind::Discard, "git restore");
        }
        "clean" if !has(rest, &["-n", "--dry-run"]) => {
            act.find(RiskKind::Discard, "git clean");
            if directories
                .iter()
                .any(|at| at.len() < line.repository.len() || !at.starts_with(line.repository))
            {
                act.find(RiskKind::DeleteOutside, "git clean");
            }
        }
        "stash"
            if rest
                .first()
                .is_some_and(|word| matches!(word.text.as_str(), "drop" | "clear")) =>
        {
            act.find(RiskKind::Discard, "git stash");
        }
        "commit" if has(rest, &["--amend"]) => {
            act.find(RiskKind::HistoryRewrite, "git commit --amend")
        }
        "rebase" | "filter-branch" | "filter-repo" | "replace" => {
            act.find(RiskKind::HistoryRewrite, format!("git {name}"))
        }
        "reflog"
            if rest
                .first()
                .is_some_and(|word| matches!(word.text.as_str(), "expire" | "delete")) =>
        {
            act.find(RiskKind::DeleteRepository, "git reflog");
        }
        "gc" | "prune"
            if has(rest, &["--prune", "--expire"])
                || rest.iter().any(|word| word.text.starts_with("--prune")) =>
        {
            act.find(RiskKind::HistoryRewrite, format!("git {name}"));
        }
        "update-ref" | "symbolic-ref" => act.find(RiskKind::GitInternals, format!("git {name}")),
        "branch" if has(rest, &["-D", "-d", "--delete", "-f", "--force", "-M"]) => {
            act.find(RiskKind::HistoryRewrite, "git branch")
        }
        "tag" if has(rest, &["-d", "--delete", "-f", "--force"]) => {
            act.find(RiskKind::HistoryRewrite, "git tag")
        }
        "remote"
            if rest
                .first()
                .is_some_and(|word| matches!(word.text.as_str(), "add" | "set-url")) =>
        {
            act.find(RiskKind::SendOut, "git remote");
        }
        "config" => {
            let names: Vec<&str> = operands(rest, &["-f", "--file", "--type"])
                .iter()
                .map(|word| word.text.as_str())
                .collect();
            if names.first().is_some_and(|name| {
                name.starts_with("credential")
                    || name.starts_with("url.")
                    || name.starts_with("http.")
            }) && names.len() > 1
            {
                act.find(RiskKind::Credentials, names[0]);
            } else if has(rest, &["--global", "--system"]) && names.len() > 1 {
                act.find(RiskKind::WriteOutside, "git config --global");
            }
        }
        "credential" | "credential-store" | "credential-cache" => {
            act.find(RiskKind::Credentials, format!("git {name}"))
        }
        "http-push" | "send-pack" | "svn" | "p4" => {
            act.find(RiskKind::Merge, format!("git {name}"));
            act.find(RiskKind::Push, format!("git {name}"));
        }
        "send-email" | "daemon" | "instaweb" => act.find(RiskKind::Push, format!("git {name}")),
        "lfs" if rest.first().is_some_and(|word| word.text == "push") => {
            act.find(RiskKind::Push, "git lfs push");
        }
        "archive" => {
            if let Some(path) = value_of(rest, &["-o", "--output"]) {
                files::write_word(act, &Word::exact(path), &directories, line);
            }
            if has(rest, &["--exec"]) {
                act.find(RiskKind::NotUnderstood, "git archive --exec");
            }
        }
        "format-patch" => {
            if let Some(path) = value_of(rest, &["-o", "--output-directory", "--output"]) {
                files::write_word(act, &Word::exact(path), &directories, line);
            }
        }
        "bundle" if rest.first().is_some_and(|word| word.text == "create") => {
            for word in operands(&rest[1..], &[]).into_iter().take(1) {
                files::write_word(act, word, &directories, line);
            }
        }
        "worktree" if rest.first().is_some_and(|word| word.text == "remove") => {
            for word in operands(&rest[1..], &[]) {
                files::delete_word(act, word, &directories, line);
            }
        }
        "rm" => {
            for word in operands(rest, &["--pathspec-from-file"]) {
                files::delete_word(act, word, &directories, line);
            }
        }
        "mv" => {
            let mut given = operands(rest, &[]);
            if let Some(target) = given.pop() {
                files::write_tree(act, target, &directories, line);
            }
            for word in given {
                moves::moved(act, word, &directories, line);
            }
        }
        "clone" | "init" => {
            let given = operands(
                rest,
                &[
                    "-b",
                    "--branch",
                    "--depth",
                    "-o",
                    "--origin",
                    "--template",
                    "-c",
                ],
            );
            let target = if name == "clone" {
                given.get(1)
            } else {
                given.first()
            };
            if let Some(word) = target {
                for path in files::places(word, &directories).into_iter().flatten() {
                    if !absolute(&path, "/").starts_with(line.repository) {
                        files::write_word(act, &Word::exact(path), &directories, line);
                    }
                }
            }
        }
        _ => {}
    }
}

/// What a subcommand that looks writes and starts by its options.
fn looks_but_writes(
    act: &mut Act,
    name: &str,
    rest: &[Word],
    directories: &[String],
    line: &Line<'_>,
) {
    let options = rest.iter().take_while(|word| word.text != "--");
    for (at, word) in options.enumerate() {
        let output = match word.text.split_once('=') {
            Some(("--output", path)) => Some(Word {
                text: path.to_owned(),
                exact: word.exact,
                ..Word::default()
            }),
            Some(_) | None if word.text == "--output" => rest.get(at + 1).cloned(),
            Some(_) | None => None,
        };
        if let Some(output) = output {
            files::write_word(act, &output, directories, line);
        }
        // The repository's configuration names the programs.
        let starts = matches!(word.text.as_str(), "--ext-diff" | "--lost-found");
        if starts || name == "grep" && pager_of_grep(&word.text).is_some() {
            act.level = act.level.max(Level::Write);
        }
    }
}

/// `on` is the branch that is pushed where none is named.
fn push(act: &mut Act, rest: &[Word], on: Option<String>, line: &Line<'_>) {
    if has(rest, &["-n", "--dry-run"]) {
        return;
    }
    let given = operands(
        rest,
        &[
            "-o",
            "--push-option",
            "--receive-pack",
            "--exec",
            "--repo",
            "-P",
            "--prefix",
        ],
    );
    let mut forced = has(
        rest,
        &[
            "-f",
            "--force",
            "--force-with-lease",
            "--force-if-includes",
            "--mirror",
            "-d",
            "--delete",
            "--prune",
        ],
    );
    if has(rest, &["--receive-pack", "--exec"]) {
        act.find(RiskKind::NotUnderstood, "git push --receive-pack");
    }
    // Whether it may push to branches that it does not name.
    let mut open = rest.iter().any(|word| !word.exact)
        || has(rest, &["--all", "--branches", "--mirror"])
        || given.len() < 2 && on.is_none();
    if given.len() < 2 {
        act.branches.extend(on.clone());
    }
    for spec in given.iter().skip(1) {
        let text = spec.text.as_str();
        forced |= text.starts_with('+') || text.starts_with(':') && text.len() > 1 || !spec.exact;
        let target = text
            .trim_start_matches('+')
            .rsplit(':')
            .next()
            .unwrap_or("");
        let target = target.strip_prefix("refs/heads/").unwrap_or(target);
        let target = match (target, on.as_deref()) {
            ("HEAD" | "@", Some(branch)) if !text.contains(':') => branch,
            _ => target,
        };
        open |= matches!(target, "" | "HEAD" | "@") || target.contains('*');
        act.branches.push(target.to_owned());
    }
    let remote = given.first().map_or("origin", |word| word.text.as_str());
    let subject = format!("{remote} {}", act.branches.join(" "));
    let subject = subject.trim_end().to_owned();
    let reaches = |branch: &String| is_protected(branch, line);
    if open && !line.protected.is_empty() || act.branches.iter().any(reaches) {
        act.find(RiskKind::Merge, subject.clone());
    }
    let kind = if forced {
        RiskKind::ForcePush
    } else {
        RiskKind::Push
    };
    act.find(kind, subject);
}

/// Whether a branch is one that others build on.
fn is_protected(branch: &str, line: &Line<'_>) -> bool {
    let branch = branch.strip_prefix("refs/").unwrap_or(branch);
    let branch = branch.strip_prefix("heads/").unwrap_or(branch);
    line.protected
        .iter()
        .any(|pattern| match pattern.strip_suffix('*') {
            Some(prefix) => branch.starts_with(prefix),
            None => branch == pattern,
        })
}
