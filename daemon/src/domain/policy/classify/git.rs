//! Git.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{SimpleCommand, Word, absolute, moves_pushes, pager_of_grep},
    },
    Act, Line, files,
    given::{Given, Names},
    has, moves, operands, value_of,
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

/// Options of `git push` that have a value.
const PUSH_VALUED: [&str; 6] = [
    "-o",
    "--push-option",
    "--receive-pack",
    "--exec",
    "--repo",
    "--recurse-submodules",
];
/// Those of `git subtree push`.
const SUBTREE_VALUED: [&str; 10] = [
    "-P",
    "--prefix",
    "-b",
    "--branch",
    "-m",
    "--message",
    "-S",
    "--gpg-sign",
    "--annotate",
    "--onto",
];
/// Options of `git push` that change nothing about what is pushed and where.
const PUSHES_THE_SAME: [&str; 23] = [
    "-u",
    "--set-upstream",
    "-q",
    "--quiet",
    "-v",
    "--verbose",
    "--progress",
    "--no-progress",
    "--porcelain",
    "--verify",
    "--no-verify",
    "--thin",
    "--no-thin",
    "--atomic",
    "-4",
    "-6",
    "--repo",
    // These make it another kind of push.
    "-f",
    "--force",
    "--force-with-lease",
    "--force-if-includes",
    "-d",
    "--delete",
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
        "push" => {
            let given = Given::read(rest, &PUSH_VALUED, Names::Shortened);
            if !is_dry_run(&given, rest) {
                push(act, rest, &given, on, &directories, line);
            }
        }
        "subtree" if rest.first().is_some_and(|word| word.text == "push") => {
            let rest = &rest[1..];
            let given = Given::read(rest, &SUBTREE_VALUED, Names::Shortened);
            push(act, rest, &given, on, &directories, line);
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
        "clean"
            if !is_dry_run(
                &Given::read(rest, &["-e", "--exclude"], Names::Shortened),
                rest,
            ) =>
        {
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
        "remote" => remote(act, rest),
        "config" => config(act, rest),
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

/// Whether nothing is done but said: of `-n`, `--dry-run` and `--no-dry-run` the
/// last one counts, and a word that is not known may be one more.
fn is_dry_run(given: &Given<'_>, words: &[Word]) -> bool {
    let mut says = given.options.iter().filter_map(|(name, _)| match &**name {
        "-n" | "--dry-run" => Some(true),
        name if name.starts_with("--no-d") => Some(false),
        _ => None,
    });
    says.next_back() == Some(true) && words.iter().all(|word| word.exact)
}

/// A remote is named, or gets another address: who has approved a push to a name
/// has approved it for what the name stood for then.
fn remote(act: &mut Act, rest: &[Word]) {
    let given = operands(rest, &["-t", "-m", "--track", "--master"]);
    match given.first().map(|word| (word.known(), &word.text)) {
        Some((Some("add" | "set-url" | "rename"), _)) => {
            act.find(RiskKind::GitInternals, format!("remote {}", shown(rest)));
        }
        Some((None, text)) => act.find(RiskKind::NotUnderstood, format!("git remote {text}")),
        Some((Some(_), _)) | None => {}
    }
}

/// A setting that is written.
fn config(act: &mut Act, rest: &[Word]) {
    const VALUED: [&str; 8] = [
        "-f",
        "--file",
        "--blob",
        "--type",
        "--default",
        "--comment",
        "--value",
        "--url",
    ];
    let given = Given::read(rest, &VALUED, Names::Shortened);
    let mut names = given.operands.as_slice();
    let verb = names.first().map_or("", |word| word.text.as_str());
    let is_verb = matches!(verb, "set" | "unset" | "rename-section" | "remove-section");
    if is_verb {
        names = &names[1..];
    }
    let options = || given.options.iter().map(|(name, _)| name.as_str());
    let removes = |name: &str| {
        ["--unset", "--re"]
            .iter()
            .any(|start| name.starts_with(start))
    };
    let reads = matches!(verb, "get" | "list") || options().any(|name| name.starts_with("--get"));
    let writes = is_verb || options().any(removes) || names.len() > 1 && !reads;
    let Some(name) = names.first().filter(|_| writes) else {
        return;
    };
    let value = names.get(1).map_or("", |word| word.text.as_str());
    let lower = name.text.to_ascii_lowercase();
    let is_usual = lower == "push.default" && matches!(value, "simple" | "current" | "nothing")
        || lower.starts_with("branch.") && value == "origin";
    if !name.exact {
        act.find(RiskKind::NotUnderstood, format!("git config {}", name.text));
    } else if ["credential", "url.", "http."]
        .iter()
        .any(|start| lower.starts_with(start))
    {
        act.find(RiskKind::Credentials, &name.text);
    } else if moves_pushes(&lower) && !is_usual {
        act.find(RiskKind::GitInternals, format!("config {}", shown(rest)));
    } else if has(rest, &["--global", "--system"]) {
        act.find(RiskKind::WriteOutside, "git config --global");
    }
}

fn shown(words: &[Word]) -> String {
    let texts: Vec<&str> = words.iter().map(|word| word.text.as_str()).collect();
    texts.join(" ")
}

/// `on` is the branch that is pushed where none is named.
fn push(
    act: &mut Act,
    rest: &[Word],
    given: &Given<'_>,
    on: Option<String>,
    directories: &[String],
    line: &Line<'_>,
) {
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
    if given.has(&["--receive-pack", "--exec"]) {
        act.find(RiskKind::NotUnderstood, "git push --receive-pack");
    }
    let refs = given.operands.get(1..).unwrap_or_default();
    // Whether it may push to branches that it does not name.
    let mut open = rest.iter().any(|word| !word.exact)
        || has(rest, &["--all", "--branches", "--mirror"])
        || refs.is_empty() && on.is_none();
    if refs.is_empty() {
        act.branches.extend(on.clone());
    }
    for spec in refs {
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
    let remote = given.operands.first().copied();
    let remote = remote.or_else(|| given.values(&["--repo"]).last());
    let remote = remote.map_or("origin", |word| word.text.as_str());
    let subject = format!("{remote} {}", act.branches.join(" "));
    let beside = pushed_beside(given, directories, line);
    let subject = format!("{}{beside}", subject.trim_end());
    let reaches = |branch: &String| is_protected(branch, line);
    if open && !line.protected.is_empty()
        || act.branches.iter().any(reaches)
        || given.values(&["-o", "--push-option"]).any(may_merge)
    {
        act.find(RiskKind::Merge, subject.clone());
    }
    let kind = if forced {
        RiskKind::ForcePush
    } else {
        RiskKind::Push
    };
    act.find(kind, subject);
}

/// What makes a push another one than that of the same branch to the same remote:
/// options that push more or ask the other side for more, and another repository,
/// which has remotes of its own.
fn pushed_beside(given: &Given<'_>, directories: &[String], line: &Line<'_>) -> String {
    let mut beside = String::new();
    for (name, value) in &given.options {
        if !PUSHES_THE_SAME.contains(&name.as_str()) {
            let value = value.as_ref().map(|value| format!(" {}", value.text));
            beside = format!("{beside} {name}{}", value.unwrap_or_default());
        }
    }
    match directories {
        [only] if only == line.repository => beside,
        [] => format!("{beside} (in a directory that is not known)"),
        places => format!("{beside} (in {})", places.join(", ")),
    }
}

/// Whether a push option asks the forge to merge.
fn may_merge(option: &Word) -> bool {
    let text = option.text.to_ascii_lowercase();
    let asks = ["merge_when", "auto_merge", "automerge", "auto-merge"];
    !option.exact || asks.iter().any(|word| text.contains(word))
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
