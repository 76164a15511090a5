//! Files that are written or deleted.

use super::{
    super::{
        risk::{Level, RiskKind},
        shell::{Word, absolute},
    },
    Act, Line,
    guarded::{Extent, is_credential, kind_below, kind_of_file},
    named,
    paths::{Place, is_system, place},
};

/// A file is written, at an absolute path.
pub(super) fn write(act: &mut Act, path: &str, repository: &str) {
    act.level = act.level.max(Level::Write);
    act.paths.push(named(path, repository));
    if path.starts_with("/dev/tcp/") || path.starts_with("/dev/udp/") {
        act.find(RiskKind::Egress, path);
        return;
    }
    match place(path, repository) {
        Place::GitInternals => act.find(RiskKind::GitInternals, path),
        Place::WholeRepository | Place::Scratch => {}
        Place::Repository(relative) => {
            let kind = match something_below(&relative) {
                Some(directory) => kind_below(directory, Extent::Some),
                None => kind_of_file(&relative),
            };
            if let Some(kind) = kind {
                act.find(kind, relative);
            }
        }
        Place::Outside if is_credential(path) => act.find(RiskKind::Credentials, path),
        Place::Outside if is_system(path) => act.find(RiskKind::WriteSystem, path),
        Place::Outside => act.find(RiskKind::WriteOutside, path),
    }
}

/// A file or a directory with all that is in it is deleted, at an absolute path.
pub(super) fn delete(act: &mut Act, path: &str, repository: &str) {
    act.level = act.level.max(Level::Write);
    act.paths.push(named(path, repository));
    let above = format!("{}/", path.trim_end_matches('/'));
    match place(path, repository) {
        Place::WholeRepository | Place::GitInternals => act.find(RiskKind::DeleteRepository, path),
        Place::Scratch => {}
        Place::Repository(relative) => gone(act, relative),
        Place::Outside if repository.starts_with(&above) => {
            act.find(RiskKind::DeleteRepository, path);
            act.find(RiskKind::DeleteOutside, path);
        }
        Place::Outside => act.find(RiskKind::DeleteOutside, path),
    }
}

/// A file or a directory of the repository is no longer where it was.
pub(super) fn gone(act: &mut Act, relative: String) {
    let kind = match something_below(&relative) {
        Some(directory) => kind_below(directory, Extent::Some),
        None => kind_below(&relative, Extent::Whole),
    };
    if let Some(kind) = kind {
        act.find(kind, relative);
    }
}

/// The directory of `directory/?`: something below it, it is not known what.
fn something_below(relative: &str) -> Option<&str> {
    relative.strip_suffix("/?")
}

/// A word names where a directory may be put, with all that is in it.
pub(super) fn write_tree(act: &mut Act, word: &Word, directories: &[String], line: &Line<'_>) {
    write_word(act, word, directories, line);
    for path in places(word, directories).into_iter().flatten() {
        if let Place::Repository(relative) = place(&path, line.repository)
            && let Some(kind) = kind_below(&relative, Extent::Some)
        {
            act.find(kind, relative);
        }
    }
}

/// A word names what is written.
pub(super) fn write_word(act: &mut Act, word: &Word, directories: &[String], line: &Line<'_>) {
    act.level = act.level.max(Level::Write);
    for path in places(word, directories) {
        match path {
            Some(path) if leaves(&path, line) => act.find(RiskKind::WriteSystem, path),
            Some(path) => write(act, &path, line.repository),
            // A name that is not known lies outside at worst.
            None => act.find(RiskKind::WriteOutside, &word.text),
        }
    }
}

/// A word names what is deleted.
pub(super) fn delete_word(act: &mut Act, word: &Word, directories: &[String], line: &Line<'_>) {
    act.level = act.level.max(Level::Write);
    for path in places(word, directories) {
        match path {
            Some(path) if leaves(&path, line) => act.find(RiskKind::DeleteOutside, path),
            Some(path) => delete(act, &path, line.repository),
            None => act.find(RiskKind::DeleteOutside, &word.text),
        }
    }
}

/// The paths that a word may name; `None` for one that is not known.
pub(super) fn places(word: &Word, directories: &[String]) -> Vec<Option<String>> {
    if let Some(within) = &word.within {
        // Something below it, not all of it.
        return vec![Some(format!("{}/?", within.trim_end_matches('/')))];
    }
    let Some(text) = word.known() else {
        // `build/$name` can be anywhere once the name has `..` in it, but for a
        // prefix that names no directory above it is taken at its word.
        return vec![None];
    };
    if text.starts_with(['/', '~']) {
        return vec![Some(absolute(text, "/"))];
    }
    if directories.is_empty() {
        return vec![None];
    }
    directories
        .iter()
        .map(|from| Some(absolute(text, from)))
        .collect()
}

/// Whether a path goes through a link that the line has made to the outside.
fn leaves(path: &str, line: &Line<'_>) -> bool {
    line.links.iter().any(|link| {
        path.strip_prefix(link.as_str())
            .is_some_and(|rest| rest.starts_with('/'))
    })
}
