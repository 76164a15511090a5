//! What a fetched repository says of its setup, read from its objects: nothing
//! is checked out for it.

use super::{GitSourceError, git_source::Git};
use crate::domain::setup_file::{SETUP_FILE, SETUP_FILE_MAX_BYTES, SetupFile};

/// The setup file of a repository that was fetched.
#[derive(Debug)]
pub(super) enum FetchedSetup {
    /// It has none.
    None,
    /// It has one that cannot be used; the text says why.
    Unusable(String),
    /// It has one.
    File(Box<ReadSetup>),
}

/// A setup file with what its result depends on.
#[derive(Debug)]
pub(super) struct ReadSetup {
    pub(super) file: SetupFile,
    /// Paths that `initialize` depends on, each with git's id of what is there;
    /// an empty id where nothing is.
    pub(super) inputs: Vec<(String, String)>,
}

/// Reads the setup file of one commit, and what it depends on from another.
pub(super) async fn read(
    git: &Git<'_>,
    file_at: &str,
    inputs_at: &str,
) -> Result<FetchedSetup, GitSourceError> {
    let commit = format!("{file_at}^{{commit}}");
    let known = git.run(&["cat-file", "-e", &commit]).await?;
    if !known.status.success() {
        let problem = format!("the commit {file_at}, whose {SETUP_FILE} counts, is not there");
        return Ok(FetchedSetup::Unusable(problem));
    }
    let found = entries(git, file_at, &[SETUP_FILE]).await?;
    let Some(entry) = found.into_iter().next() else {
        return Ok(FetchedSetup::None);
    };
    // Not a link, which could name anything, and not a directory.
    if !entry.mode.starts_with("100") {
        let problem = format!("{SETUP_FILE} is no regular file");
        return Ok(FetchedSetup::Unusable(problem));
    }
    let size = git.must(&["cat-file", "-s", &entry.object]).await?;
    if (size.trim().parse()).is_ok_and(|size: usize| size > SETUP_FILE_MAX_BYTES) {
        let most = SETUP_FILE_MAX_BYTES >> 10;
        let problem = format!("{SETUP_FILE} is larger than {most} KiB");
        return Ok(FetchedSetup::Unusable(problem));
    }
    let content = git.run(&["cat-file", "blob", &entry.object]).await?;
    let file = match SetupFile::parse(&content.stdout) {
        Ok(file) => file,
        Err(error) => return Ok(FetchedSetup::Unusable(error.to_string())),
    };
    let wanted = file.inputs();
    let found = match wanted.is_empty() {
        // Without paths git lists everything.
        true => Vec::new(),
        false => entries(git, inputs_at, &wanted).await?,
    };
    let object_of = |path: &str| {
        let entry = found.iter().find(|entry| entry.path == path);
        entry.map_or_else(String::new, |entry| entry.object.clone())
    };
    let mut inputs: Vec<_> = (wanted.iter())
        .map(|path| ((*path).to_owned(), object_of(path)))
        .collect();
    inputs.sort();
    Ok(FetchedSetup::File(Box::new(ReadSetup { file, inputs })))
}

struct Entry {
    mode: String,
    object: String,
    path: String,
}

/// What a commit has at these paths; one that it does not have is left out.
async fn entries(
    git: &Git<'_>,
    commit: &str,
    paths: &[&str],
) -> Result<Vec<Entry>, GitSourceError> {
    let arguments = [&["ls-tree", "-z", commit, "--"], paths].concat();
    let listed = git.must(&arguments).await?;
    let entries = listed.split('\0').filter_map(|line| {
        let (about, path) = line.split_once('\t')?;
        let mut words = about.split(' ');
        let (mode, _kind, object) = (words.next()?, words.next()?, words.next()?);
        Some(Entry {
            mode: mode.to_owned(),
            object: object.to_owned(),
            path: path.to_owned(),
        })
    });
    Ok(entries.collect())
}
