//! ChangeFiles: several files written and removed, all of them or none.
//!
//! ```text
//!   checked ── new contents synced beside the files ── intent ── one by one ── receipt
//! ```
//!
//! Up to the intent nothing has changed; from the intent on the change is made,
//! whatever happens: an agent that was killed in between finishes it from the
//! contents that its intent names. An error in between takes back what was done.

use std::collections::HashSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use compyd_proto::agent::{
    ChangeFilesRequest, ChangeFilesResponse, FileChange, Receipt, file_change,
};

use super::change::{
    DEFAULT_MODE, MAX_CONTENT_BYTES, check_hash, present, ready_beside, replayed, sync_parent,
};
use super::receipts::{ChangeRecord, Known, Receipts, StepRecord, Turn};
use super::roots::Roots;
use crate::accounts::Account;
use crate::errors::{AgentError, Reason};
use crate::identity::as_account;

const MAX_CHANGES: usize = 256;

/// Changes files, or answers what was done under this step id before.
pub(super) fn change(
    roots: &Roots,
    user: &Account,
    receipts: &Receipts,
    request: ChangeFilesRequest,
) -> Result<ChangeFilesResponse, AgentError> {
    check(&request.changes)?;
    let turn = receipts.turn(&request.step_id);
    match turn.known()? {
        Known::Nothing => {}
        Known::Done(record) => return Ok(answer(replayed(record))),
        Known::Begun(record) => {
            if let Some(record) = super::change::settle(user, &turn, record)? {
                return Ok(answer(replayed(record)));
            }
        }
    }
    let _changing = receipts
        .changing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let prepared = as_account(user, || prepare(roots, &request))?;
    let changes: Vec<ChangeRecord> = prepared.iter().map(Prepared::record).collect();
    let record = StepRecord {
        receipt: changes.first().map(|change| change.receipt.clone()),
        changes,
        ..StepRecord::default()
    };
    turn.begin(&record)?;
    if let Err(error) = as_account(user, || make(prepared)) {
        turn.forget();
        return Err(error);
    }
    turn.finish()?;
    Ok(answer(record))
}

fn answer(record: StepRecord) -> ChangeFilesResponse {
    let receipts = record.changes.into_iter().map(|change| change.receipt);
    ChangeFilesResponse {
        receipts: receipts.collect(),
    }
}

fn check(changes: &[FileChange]) -> Result<(), AgentError> {
    let refuse = |message: String| Err(AgentError::new(Reason::SpecInvalid, message));
    if !(1..=MAX_CHANGES).contains(&changes.len()) {
        return refuse(format!(
            "a change is of 1 to {MAX_CHANGES} files; this one is of {}",
            changes.len()
        ));
    }
    let mut bytes = 0;
    for change in changes {
        match &change.to {
            Some(file_change::To::Content(content)) => bytes += content.len(),
            Some(file_change::To::Removed(true)) if !change.expected_hash.is_empty() => {}
            Some(file_change::To::Removed(_)) | None => {
                return refuse(format!(
                    "the change of {:?} says neither what to write nor which content to remove",
                    change.path
                ));
            }
        }
    }
    if bytes > MAX_CONTENT_BYTES {
        return Err(AgentError::new(
            Reason::FileTooLarge,
            format!(
                "the changes hold {bytes} bytes and may hold {MAX_CONTENT_BYTES}; make several"
            ),
        )
        .with("size_bytes", bytes));
    }
    Ok(())
}

/// A file's content and mode, to be put back.
type Before = (Vec<u8>, u32);

/// A change of one file that is checked and not made.
struct Prepared {
    path: PathBuf,
    receipt: Receipt,
    /// What is there now.
    before: Option<Before>,
    /// The new content beside the file; `None` for a removal.
    ready: Option<tempfile::TempPath>,
}

impl Prepared {
    fn record(&self) -> ChangeRecord {
        let ready = self.ready.as_deref().map(|path| path.display().to_string());
        ChangeRecord {
            receipt: self.receipt.clone(),
            ready: ready.unwrap_or_default(),
        }
    }
}

fn prepare(roots: &Roots, request: &ChangeFilesRequest) -> Result<Vec<Prepared>, AgentError> {
    let mut seen = HashSet::new();
    let mut prepared = Vec::with_capacity(request.changes.len());
    for change in &request.changes {
        let path = roots.resolve_unlinked(&change.path)?;
        if !seen.insert(path.clone()) {
            return Err(AgentError::new(
                Reason::SpecInvalid,
                format!(
                    "{} is changed twice; say one thing of each file",
                    path.display()
                ),
            ));
        }
        let now = present(&path)?;
        if change.expected_hash.is_empty() && now.is_some() {
            return Err(AgentError::new(
                Reason::AlreadyExists,
                format!("{} exists already", path.display()),
            ));
        }
        check_hash(&path, &change.expected_hash, now.as_ref())?;
        let before = match &now {
            Some(_) => {
                let failed = |error: std::io::Error| AgentError::io("read", &path, &error);
                let mode = std::fs::metadata(&path).map_err(failed)?.mode() & 0o7777;
                Some((std::fs::read(&path).map_err(failed)?, mode))
            }
            None => None,
        };
        let content = match &change.to {
            Some(file_change::To::Content(content)) => Some(content),
            Some(file_change::To::Removed(_)) | None => None,
        };
        let mode = match change.mode {
            0 => DEFAULT_MODE,
            mode => mode & 0o7777,
        };
        let ready = match content {
            Some(content) => Some(ready_beside(&path, content, mode)?),
            None => None,
        };
        let hash_after = content.map(|content| blake3::hash(content).to_hex().to_string());
        prepared.push(Prepared {
            receipt: Receipt {
                step_id: request.step_id.clone(),
                path: path.display().to_string(),
                hash_before: now.map(|file| file.hash).unwrap_or_default(),
                hash_after: hash_after.unwrap_or_default(),
                size_bytes: content.map_or(0, |content| content.len() as u64),
                at_ms: crate::now_ms(),
                replayed: false,
            },
            path,
            before,
            ready,
        });
    }
    Ok(prepared)
}

/// Puts everything in place. After an error nothing has changed, as far as the
/// disk allows.
fn make(prepared: Vec<Prepared>) -> Result<(), AgentError> {
    let mut done: Vec<(PathBuf, Option<Before>)> = Vec::with_capacity(prepared.len());
    for change in prepared {
        let path = change.path;
        let made = match change.ready {
            Some(ready) => ready
                .persist(&path)
                .map_err(|error| AgentError::io("replace", &path, &error.error)),
            None => {
                std::fs::remove_file(&path).map_err(|error| AgentError::io("remove", &path, &error))
            }
        };
        if let Err(error) = made {
            let left: Vec<String> = done
                .iter()
                .rev()
                .filter(|(path, before)| put_back(path, before.as_ref()).is_err())
                .map(|(path, _)| path.display().to_string())
                .collect();
            if left.is_empty() {
                return Err(error);
            }
            return Err(AgentError::new(
                Reason::Io,
                format!("{error}; and these stay changed: {}", left.join(", ")),
            ));
        }
        done.push((path, change.before));
    }
    done.iter().try_for_each(|(path, _)| sync_parent(path))
}

fn put_back(path: &Path, before: Option<&Before>) -> Result<(), AgentError> {
    match before {
        Some((content, mode)) => ready_beside(path, content, *mode)?
            .persist(path)
            .map_err(|error| AgentError::io("put back", path, &error.error)),
        None => {
            std::fs::remove_file(path).map_err(|error| AgentError::io("put back", path, &error))
        }
    }
}

/// Finishes a change that was cut short, or finds that it had not begun.
pub(super) fn settle(
    user: &Account,
    turn: &Turn<'_>,
    record: StepRecord,
) -> Result<Option<StepRecord>, AgentError> {
    let mut ahead = Vec::new();
    for change in &record.changes {
        let path = Path::new(&change.receipt.path);
        let now = as_account(user, || present(path))?.map(|file| file.hash);
        let now = now.unwrap_or_default();
        if now == change.receipt.hash_before {
            ahead.push(change);
        } else if now != change.receipt.hash_after {
            return Err(AgentError::new(
                Reason::HashMismatch,
                format!(
                    "step {} was cut short, and {} is now neither what it was before nor what the step would have made of it; read the files it names and decide under a new step id",
                    change.receipt.step_id,
                    path.display()
                ),
            )
            .with("hash", now));
        }
    }
    if ahead.len() == record.changes.len() {
        for change in ahead.iter().filter(|change| !change.ready.is_empty()) {
            let _ = as_account(user, || {
                std::fs::remove_file(&change.ready)
                    .map_err(|error| AgentError::io("remove", Path::new(&change.ready), &error))
            });
        }
        turn.forget();
        return Ok(None);
    }
    as_account(user, || ahead.into_iter().try_for_each(finish))?;
    turn.finish()?;
    Ok(Some(record))
}

fn finish(change: &ChangeRecord) -> Result<(), AgentError> {
    let path = Path::new(&change.receipt.path);
    if change.ready.is_empty() {
        std::fs::remove_file(path).map_err(|error| AgentError::io("remove", path, &error))?;
        return sync_parent(path);
    }
    let ready = Path::new(&change.ready);
    let now = present(ready)?.map(|file| file.hash);
    if now.as_deref() != Some(change.receipt.hash_after.as_str()) {
        return Err(AgentError::new(
            Reason::HashMismatch,
            format!(
                "step {} was cut short, and the new content of {} is gone; read the files it names and decide under a new step id",
                change.receipt.step_id,
                path.display()
            ),
        ));
    }
    std::fs::rename(ready, path).map_err(|error| AgentError::io("replace", path, &error))?;
    sync_parent(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Field {
        directory: tempfile::TempDir,
        receipts: Receipts,
        roots: Roots,
        user: Account,
    }

    impl Field {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let work = directory.path().join("work");
            std::fs::create_dir(&work).unwrap();
            for name in ["changed", "removed"] {
                std::fs::write(work.join(name), name).unwrap();
            }
            Self {
                receipts: Receipts::open(&directory.path().join("state")).unwrap(),
                roots: Roots::new(vec![work.canonicalize().unwrap()]),
                // Nobody's rights are taken on.
                user: Account {
                    name: "root".into(),
                    uid: 0,
                    gid: 0,
                    home: "/".into(),
                    shell: "/bin/sh".into(),
                    groups: Vec::new(),
                },
                directory,
            }
        }

        /// Every file with its content, in the order of names.
        fn files(&self) -> Vec<(String, String)> {
            let work = self.directory.path().join("work");
            let mut files: Vec<(String, String)> = std::fs::read_dir(work)
                .unwrap()
                .map(|entry| entry.unwrap())
                .map(|entry| {
                    let name = entry.file_name().into_string().unwrap();
                    (name, std::fs::read_to_string(entry.path()).unwrap())
                })
                .collect();
            files.sort();
            files
        }

        fn change(&self, request: ChangeFilesRequest) -> Result<ChangeFilesResponse, AgentError> {
            change(&self.roots, &self.user, &self.receipts, request)
        }
    }

    fn hash(text: &str) -> String {
        blake3::hash(text.as_bytes()).to_hex().to_string()
    }

    fn file(path: &str, before: &str, after: Option<&str>) -> FileChange {
        let to = match after {
            Some(after) => file_change::To::Content(after.to_owned().into()),
            None => file_change::To::Removed(true),
        };
        FileChange {
            path: path.into(),
            expected_hash: match before {
                "" => String::new(),
                before => hash(before),
            },
            to: Some(to),
            mode: 0o755,
        }
    }

    fn request() -> ChangeFilesRequest {
        ChangeFilesRequest {
            step_id: "s".into(),
            changes: vec![
                file("changed", "changed", Some("other")),
                file("removed", "removed", None),
                file("new", "", Some("new")),
            ],
        }
    }

    fn before() -> Vec<(String, String)> {
        ["changed", "removed"]
            .map(|name| (name.into(), name.into()))
            .into()
    }

    fn after() -> Vec<(String, String)> {
        [("changed", "other"), ("new", "new")]
            .map(|(name, text)| (name.into(), text.into()))
            .into()
    }

    #[test]
    fn files_are_changed_together_and_once_for_a_step() {
        let field = Field::new();
        let receipts = field.change(request()).unwrap().receipts;
        assert_eq!(field.files(), after());
        let hashes: Vec<(&str, &str)> = receipts
            .iter()
            .map(|made| (made.hash_before.as_str(), made.hash_after.as_str()))
            .collect();
        let [changed, removed, other, new] = ["changed", "removed", "other", "new"].map(hash);
        assert_eq!(
            hashes,
            [
                (changed.as_str(), other.as_str()),
                (removed.as_str(), ""),
                ("", new.as_str())
            ]
        );
        let again = field.change(request()).unwrap().receipts;
        assert!(again.iter().all(|made| made.replayed));
        assert_eq!(field.files(), after());
    }

    #[test]
    fn one_file_that_is_not_as_expected_keeps_all_as_they_are() {
        for (index, wrong) in [
            file("changed", "else", Some("x")),
            file("removed", "else", None),
            file("changed", "", Some("x")),
            file("./new", "", Some("twice")),
        ]
        .into_iter()
        .enumerate()
        {
            let field = Field::new();
            let mut request = request();
            match index {
                0 | 2 => request.changes[0] = wrong,
                1 => request.changes[1] = wrong,
                _ => request.changes.push(wrong),
            }
            assert!(field.change(request).is_err(), "{index}");
            assert_eq!(field.files(), before(), "{index}");
        }
    }

    #[test]
    fn a_change_that_breaks_off_is_taken_back() {
        let field = Field::new();
        let prepared = prepare(&field.roots, &request()).unwrap();
        // The last file cannot be put in place any more.
        std::fs::create_dir_all(field.directory.path().join("work/new/below")).unwrap();
        assert!(make(prepared).is_err());
        std::fs::remove_dir_all(field.directory.path().join("work/new")).unwrap();
        assert_eq!(field.files(), before());
    }

    #[test]
    fn a_kill_at_any_moment_leaves_all_or_none_and_the_step_ends_the_same() {
        for done in 0..=3 {
            let field = Field::new();
            {
                let turn = field.receipts.turn("s");
                let prepared = prepare(&field.roots, &request()).unwrap();
                let changes: Vec<ChangeRecord> = prepared.iter().map(Prepared::record).collect();
                let record = StepRecord {
                    receipt: changes.first().map(|change| change.receipt.clone()),
                    changes,
                    ..StepRecord::default()
                };
                turn.begin(&record).unwrap();
                for (index, mut change) in prepared.into_iter().enumerate() {
                    match change.ready.take() {
                        // A killed agent cleans nothing up.
                        Some(ready) if index >= done => std::mem::forget(ready),
                        Some(ready) => ready.persist(&change.path).unwrap(),
                        None if index < done => std::fs::remove_file(&change.path).unwrap(),
                        None => {}
                    }
                }
            }
            let settled = super::super::change::settled(&field.user, &field.receipts, "s").unwrap();
            let (files, count) = match done {
                0 => (before(), 0),
                _ => (after(), 3),
            };
            assert_eq!(field.files(), files, "{done}");
            assert_eq!(settled.receipts.len(), count, "{done}");
            field.change(request()).unwrap();
            assert_eq!(field.files(), after(), "{done}");
        }
    }

    #[test]
    fn a_file_that_somebody_else_changed_meanwhile_is_left_to_a_person() {
        let field = Field::new();
        {
            let turn = field.receipts.turn("s");
            let prepared = prepare(&field.roots, &request()).unwrap();
            let changes: Vec<ChangeRecord> = prepared.iter().map(Prepared::record).collect();
            let record = StepRecord {
                receipt: changes.first().map(|change| change.receipt.clone()),
                changes,
                ..StepRecord::default()
            };
            turn.begin(&record).unwrap();
        }
        std::fs::write(field.directory.path().join("work/changed"), "foreign").unwrap();
        let refused = field.change(request()).unwrap_err();
        assert_eq!(refused.reason(), Reason::HashMismatch);
    }
}
