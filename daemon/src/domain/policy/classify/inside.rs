//! Programs that nothing is known of: what follows them may be a command that
//! they run, as wrappers do.

use super::{
    super::shell::{self, Reading, SimpleCommand, Word, program_name},
    cloud, git, inline, programs,
};

/// Programs that stand for themselves among the arguments of another one.
const TELLING: [&str; 23] = [
    "rm",
    "shred",
    "unlink",
    "mv",
    "dd",
    "tee",
    "git",
    "sh",
    "bash",
    "dash",
    "zsh",
    "ksh",
    "sudo",
    "doas",
    "env",
    "find",
    "xargs",
    "kubectl",
    "helm",
    "terraform",
    "gh",
    "shutdown",
    "reboot",
];
/// Programs whose arguments are files, packages and texts, and no commands.
const KNOWN: [&str; 65] = [
    "rm",
    "rmdir",
    "unlink",
    "shred",
    "trash",
    "srm",
    "wipe",
    "rimraf",
    "del-cli",
    "rsync",
    "mv",
    "cp",
    "install",
    "ln",
    "link",
    "tee",
    "touch",
    "mkdir",
    "truncate",
    "mkfifo",
    "patch",
    "chmod",
    "chown",
    "chgrp",
    "setfacl",
    "chattr",
    "dd",
    "tar",
    "bsdtar",
    "unzip",
    "zip",
    "7z",
    "cpio",
    "curl",
    "wget",
    "scp",
    "sftp",
    "ssh",
    "git",
    "gsed",
    "kill",
    "pkill",
    "killall",
    "fuser",
    "apt",
    "apt-get",
    "apt-cache",
    "apt-mark",
    "dpkg",
    "yum",
    "dnf",
    "apk",
    "pacman",
    "zypper",
    "brew",
    "snap",
    "rpm",
    "port",
    "source",
    ".",
    "su",
    "script",
    "watch",
    "flock",
    "parallel",
];
/// Arguments of one command that are looked at.
const AT_MOST: usize = 4;

/// What a command may run that its arguments name.
pub(super) fn readings(command: &SimpleCommand) -> Vec<Reading> {
    let Some(program) = command.program() else {
        return Vec::new();
    };
    if KNOWN.contains(&program)
        || programs::LOOKS.contains(&program)
        || cloud::knows(program)
        || inline::knows(program)
        || shell::runs_what_follows(program)
    {
        return Vec::new();
    }
    let directory = command.directories.first().map_or("/", String::as_str);
    let words = command.arguments();
    let starts = (0..words.len()).filter(|at| {
        let text = words[*at].known().unwrap_or_default();
        let next = words.get(*at + 1).map_or("", |word| word.text.as_str());
        is_telling(text, next)
    });
    let starts = starts.take(AT_MOST);
    starts
        .map(|at| shell::read_words(words[at..].to_vec(), directory))
        .chain(lines(words).map(|line| shell::read(line, directory)))
        .collect()
}

/// Arguments that are a line by themselves.
fn lines(words: &[Word]) -> impl Iterator<Item = &str> {
    let texts = words.iter().filter_map(Word::known);
    let telling = texts.filter(|text| {
        let mut words = text.split_whitespace();
        let first = words.next().unwrap_or_default();
        let next = words.next().unwrap_or_default();
        !next.is_empty() && is_telling(first, next)
    });
    telling.take(AT_MOST)
}

fn is_telling(text: &str, next: &str) -> bool {
    let program = program_name(text);
    TELLING.contains(&program)
        && (program != "git" || next.starts_with('-') || git::has_subcommand(next))
}
