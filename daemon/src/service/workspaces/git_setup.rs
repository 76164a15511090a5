//! What a fetched repository says of its setup, read from its objects: nothing
//! is checked out for it.

use std::time::Duration;

use super::{GitSourceError, git_source::Git};
use crate::domain::setup_file::{SETUP_FILE, SETUP_FILE_MAX_BYTES, SetupFile};

/// Bytes of a listing of all files that are looked at, some 300 000 files.
const LISTING_MAX_BYTES: usize = 32 << 20;
/// Time that such a listing may take: a few trees can be made to name each other
/// without end.
const LISTING_TIMEOUT: Duration = Duration::from_secs(60);

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
    /// an empty id where nothing is. Of more files than are looked at, all of the
    /// repository as one.
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
    let mut inputs = match &file.inputs {
        Some(wanted) => named(git, inputs_at, wanted).await?,
        // Nothing depends on anything.
        None if file.initialize.is_empty() => Vec::new(),
        None => well_known(git, inputs_at, &file).await?,
    };
    inputs.sort();
    Ok(FetchedSetup::File(Box::new(ReadSetup { file, inputs })))
}

/// What a commit has at the paths that a setup file names.
async fn named(
    git: &Git<'_>,
    commit: &str,
    wanted: &[String],
) -> Result<Vec<(String, String)>, GitSourceError> {
    let paths: Vec<&str> = wanted.iter().map(String::as_str).collect();
    let found = match paths.is_empty() {
        // Without paths git lists everything.
        true => Vec::new(),
        false => entries(git, commit, &paths).await?,
    };
    let object_of = |path: &String| {
        let entry = found.iter().find(|entry| entry.path == *path);
        entry.map_or_else(String::new, |entry| entry.object.clone())
    };
    Ok(wanted
        .iter()
        .map(|path| (path.clone(), object_of(path)))
        .collect())
}

/// The files of a commit that a setup depends on whose file names none.
async fn well_known(
    git: &Git<'_>,
    commit: &str,
    file: &SetupFile,
) -> Result<Vec<(String, String)>, GitSourceError> {
    let arguments = ["ls-tree", "-r", "-z", commit];
    let listing = git.must_within(&arguments, LISTING_MAX_BYTES);
    let Ok(listed) = tokio::time::timeout(LISTING_TIMEOUT, listing).await else {
        return whole(git, commit).await;
    };
    let Some(listed) = listed? else {
        return whole(git, commit).await;
    };
    let found = entries_of(&listed).filter(|entry| file.depends_on(&entry.path));
    Ok(found.map(|entry| (entry.path, entry.object)).collect())
}

/// All that a commit has, as one.
async fn whole(git: &Git<'_>, commit: &str) -> Result<Vec<(String, String)>, GitSourceError> {
    let tree = format!("{commit}^{{tree}}");
    let tree = git.must(&["rev-parse", "--verify", &tree]).await?;
    Ok(vec![("/".to_owned(), tree.trim().to_owned())])
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
    Ok(entries_of(&listed).collect())
}

/// The entries that git has listed.
fn entries_of(listed: &str) -> impl Iterator<Item = Entry> {
    listed.split('\0').filter_map(|line| {
        let (about, path) = line.split_once('\t')?;
        let mut words = about.split(' ');
        let (mode, _kind, object) = (words.next()?, words.next()?, words.next()?);
        Some(Entry {
            mode: mode.to_owned(),
            object: object.to_owned(),
            path: path.to_owned(),
        })
    })
}
