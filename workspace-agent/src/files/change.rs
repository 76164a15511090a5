//! WriteFile and EditFile: whole-file replacement, at most once per step id.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use compyd_proto::agent::{
    EditFileRequest, EditFileResponse, GetReceiptResponse, Receipt, Replacement, WriteFileRequest,
    WriteFileResponse,
};
use nix::libc;

use super::receipts::{Known, Receipts, StepRecord, Turn};
use super::roots::Roots;
use super::{change_set, text};
use crate::accounts::Account;
use crate::errors::{AgentError, Reason};
use crate::identity::as_account;

pub(super) const MAX_CONTENT_BYTES: usize = 16 * 1024 * 1024;
pub(super) const DEFAULT_MODE: u32 = 0o644;
const MAX_REPLACEMENTS: usize = 256;
/// Lines named when a text is found too often.
const LINES_NAMED: usize = 20;

/// Writes a whole file, or answers what was done under this step id before.
pub(super) fn write(
    roots: &Roots,
    user: &Account,
    receipts: &Receipts,
    request: WriteFileRequest,
) -> Result<WriteFileResponse, AgentError> {
    if request.content.len() > MAX_CONTENT_BYTES {
        return Err(AgentError::new(
            Reason::FileTooLarge,
            format!(
                "the content has {} bytes and may have {MAX_CONTENT_BYTES}; upload it, or write it with a command",
                request.content.len()
            ),
        )
        .with("size_bytes", request.content.len()));
    }
    let record = once(user, receipts, &request.step_id, || {
        let path = roots.resolve_unlinked(&request.path)?;
        let before = present(&path)?;
        if request.create_only && before.is_some() {
            return Err(AgentError::new(
                Reason::AlreadyExists,
                format!(
                    "{} exists already; leave create_only out to replace it",
                    path.display()
                ),
            ));
        }
        check_hash(&path, &request.expected_hash, before.as_ref())?;
        Ok(Change {
            hash_before: before.map(|file| file.hash).unwrap_or_default(),
            content: request.content.to_vec(),
            mode: if request.mode == 0 {
                DEFAULT_MODE
            } else {
                request.mode & 0o7777
            },
            path,
            replaced: 0,
            first_changed_line: 0,
        })
    })?;
    Ok(WriteFileResponse {
        receipt: record.receipt,
    })
}

/// Replaces exact text, or answers what was done under this step id before.
pub(super) fn edit(
    roots: &Roots,
    user: &Account,
    receipts: &Receipts,
    request: EditFileRequest,
) -> Result<EditFileResponse, AgentError> {
    check_replacements(&request.replacements)?;
    let record = once(user, receipts, &request.step_id, || {
        let path = roots.resolve_unlinked(&request.path)?;
        let before = text::read_all(&path)?;
        let present = Present {
            hash: blake3::hash(before.as_bytes()).to_hex().to_string(),
        };
        check_hash(&path, &request.expected_hash, Some(&present))?;
        let edited = apply(&path, before, &request.replacements)?;
        Ok(Change {
            hash_before: present.hash,
            content: edited.text.into_bytes(),
            mode: DEFAULT_MODE,
            path,
            replaced: edited.replaced,
            first_changed_line: edited.first_changed_line,
        })
    })?;
    Ok(EditFileResponse {
        replaced: record.replaced,
        first_changed_line: record.first_changed_line,
        receipt: record.receipt,
    })
}

/// The receipt of a step, an interrupted one settled by looking at its file.
pub(super) fn settled(
    user: &Account,
    receipts: &Receipts,
    step_id: &str,
) -> Result<GetReceiptResponse, AgentError> {
    let turn = receipts.turn(step_id);
    let record = match turn.known()? {
        Known::Nothing => None,
        Known::Done(record) => Some(record),
        Known::Begun(record) => settle(user, &turn, record)?,
    };
    let record = record.map(replayed).unwrap_or_default();
    Ok(GetReceiptResponse {
        receipt: record.receipt,
        receipts: (record.changes.into_iter())
            .map(|change| change.receipt)
            .collect(),
    })
}

/// A change that is worked out but not made.
struct Change {
    path: PathBuf,
    hash_before: String,
    content: Vec<u8>,
    /// For a file that does not exist.
    mode: u32,
    replaced: u32,
    first_changed_line: u32,
}

/// Makes the change that `plan` works out, unless the step is known.
fn once(
    user: &Account,
    receipts: &Receipts,
    step_id: &str,
    plan: impl FnOnce() -> Result<Change, AgentError>,
) -> Result<StepRecord, AgentError> {
    let turn = receipts.turn(step_id);
    match turn.known()? {
        Known::Nothing => {}
        Known::Done(record) => return Ok(replayed(record)),
        Known::Begun(record) => {
            if let Some(record) = settle(user, &turn, record)? {
                return Ok(replayed(record));
            }
        }
    }
    let _changing = receipts
        .changing
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let (change, ready) = as_account(user, || {
        let change = plan()?;
        let ready = write_beside(&change)?;
        Ok::<_, AgentError>((change, ready))
    })?;
    let record = StepRecord {
        receipt: Some(Receipt {
            step_id: step_id.to_owned(),
            path: change.path.display().to_string(),
            hash_before: change.hash_before.clone(),
            hash_after: blake3::hash(&change.content).to_hex().to_string(),
            size_bytes: change.content.len() as u64,
            at_ms: crate::now_ms(),
            replayed: false,
        }),
        replaced: change.replaced,
        first_changed_line: change.first_changed_line,
        ..StepRecord::default()
    };
    turn.begin(&record)?;
    if let Err(error) = as_account(user, || put_in_place(&change.path, ready)) {
        turn.forget();
        return Err(error);
    }
    turn.finish()?;
    Ok(record)
}

/// Finds out what became of a step that was cut short: done, or not begun.
pub(super) fn settle(
    user: &Account,
    turn: &Turn<'_>,
    record: StepRecord,
) -> Result<Option<StepRecord>, AgentError> {
    if !record.changes.is_empty() {
        return change_set::settle(user, turn, record);
    }
    let Some(receipt) = &record.receipt else {
        return Ok(None);
    };
    let path = PathBuf::from(&receipt.path);
    let now = as_account(user, || present(&path))?
        .map(|file| file.hash)
        .unwrap_or_default();
    if now == receipt.hash_after {
        turn.finish()?;
        return Ok(Some(record));
    }
    if now == receipt.hash_before {
        turn.forget();
        return Ok(None);
    }
    Err(AgentError::new(
        Reason::HashMismatch,
        format!(
            "step {} was cut short, and {} is now neither what it was before nor what the step would have made of it; read the file and decide under a new step id",
            receipt.step_id,
            path.display()
        ),
    )
    .with("hash", now))
}

pub(super) fn replayed(mut record: StepRecord) -> StepRecord {
    let changes = record.changes.iter_mut().map(|change| &mut change.receipt);
    for receipt in record.receipt.iter_mut().chain(changes) {
        receipt.replayed = true;
    }
    record
}

/// A file as it is now.
pub(super) struct Present {
    pub(super) hash: String,
}

pub(super) fn present(path: &Path) -> Result<Option<Present>, AgentError> {
    let meta = match std::fs::symlink_metadata(path) {
        Ok(meta) => meta,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(AgentError::io("look at", path, &error)),
    };
    if !meta.is_file() {
        return Err(AgentError::new(
            Reason::NotAFile,
            format!("{} exists and is not a regular file", path.display()),
        ));
    }
    let hash = File::open(path)
        .and_then(|mut file| text::hash_file(&mut file))
        .map_err(|error| AgentError::io("read", path, &error))?;
    Ok(Some(Present { hash }))
}

pub(super) fn check_hash(
    path: &Path,
    expected: &str,
    now: Option<&Present>,
) -> Result<(), AgentError> {
    let now = now.map_or("", |file| file.hash.as_str());
    if expected.is_empty() || expected == now {
        return Ok(());
    }
    let what = if now.is_empty() {
        "does not exist any more"
    } else {
        "has changed since it was read"
    };
    Err(AgentError::new(
        Reason::HashMismatch,
        format!(
            "{} {what}; read it again and repeat the change on what is there now",
            path.display()
        ),
    )
    .with("hash", now))
}

/// Writes the new content into a temporary file beside the old one, with its
/// mode, and syncs it.
fn write_beside(change: &Change) -> Result<tempfile::TempPath, AgentError> {
    ready_beside(&change.path, &change.content, change.mode)
}

/// Makes a synced temporary file beside `path` that can be put in its place.
/// `mode` is for a file that is not there yet.
pub(super) fn ready_beside(
    path: &Path,
    content: &[u8],
    mode: u32,
) -> Result<tempfile::TempPath, AgentError> {
    let failed = |error: std::io::Error| AgentError::io("write", path, &error);
    let parent = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(parent).map_err(failed)?;
    let mode = std::fs::metadata(path).map_or(mode, |meta| meta.mode() & 0o7777);
    let mut file = tempfile::Builder::new()
        .prefix(".compy-write-")
        .tempfile_in(parent)
        .map_err(failed)?;
    file.write_all(content).map_err(failed)?;
    file.as_file()
        .set_permissions(Permissions::from_mode(mode))
        .map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    Ok(file.into_temp_path())
}

fn put_in_place(path: &Path, ready: tempfile::TempPath) -> Result<(), AgentError> {
    ready
        .persist(path)
        .map_err(|error| AgentError::io("replace", path, &error.error))?;
    sync_parent(path)
}

pub(super) fn sync_parent(path: &Path) -> Result<(), AgentError> {
    let parent = path.parent().unwrap_or(Path::new("/"));
    match File::open(parent).and_then(|directory| directory.sync_all()) {
        // Some file systems cannot sync a directory, and some directories
        // cannot be read; the file is in place either way.
        Err(error) if error.raw_os_error() == Some(libc::EIO) => {
            Err(AgentError::io("replace", path, &error))
        }
        _ => Ok(()),
    }
}

fn check_replacements(replacements: &[Replacement]) -> Result<(), AgentError> {
    let refuse = |message: String| Err(AgentError::new(Reason::SpecInvalid, message));
    if !(1..=MAX_REPLACEMENTS).contains(&replacements.len()) {
        return refuse(format!(
            "an edit takes 1 to {MAX_REPLACEMENTS} replacements; this one has {}",
            replacements.len()
        ));
    }
    for (index, replacement) in replacements.iter().enumerate() {
        let number = index + 1;
        if replacement.old_text.is_empty() {
            return refuse(format!(
                "replacement {number} has no text to find; write the whole file instead, or name text to replace"
            ));
        }
        if replacement.old_text == replacement.new_text {
            return refuse(format!(
                "replacement {number} would change nothing: both texts are equal"
            ));
        }
    }
    Ok(())
}

struct Edited {
    text: String,
    replaced: u32,
    first_changed_line: u32,
}

fn apply(
    path: &Path,
    mut text: String,
    replacements: &[Replacement],
) -> Result<Edited, AgentError> {
    let mut replaced = 0;
    let mut first_changed_line = u32::MAX;
    for (index, replacement) in replacements.iter().enumerate() {
        let old = replacement.old_text.as_str();
        let matches: Vec<usize> = text.match_indices(old).map(|(at, _)| at).collect();
        let number = index + 1;
        let Some(first) = matches.first() else {
            return Err(AgentError::new(
                Reason::NoMatch,
                format!(
                    "the text of replacement {number} is not in {}; nothing was changed. It must match exactly, white space and line ends included: read the file again",
                    path.display()
                ),
            )
            .with("replacement", number));
        };
        if matches.len() > 1 && !replacement.all {
            let lines: Vec<String> = matches
                .iter()
                .take(LINES_NAMED)
                .map(|at| text::line_of(&text, *at).to_string())
                .collect();
            let lines = lines.join(", ");
            return Err(AgentError::new(
                Reason::ManyMatches,
                format!(
                    "the text of replacement {number} is {} times in {}, at lines {lines}; nothing was changed. Take more of the surrounding lines into it, or ask for all of them",
                    matches.len(),
                    path.display()
                ),
            )
            .with("replacement", number)
            .with("matches", matches.len())
            .with("lines", lines));
        }
        first_changed_line = first_changed_line.min(text::line_of(&text, *first));
        replaced += u32::try_from(matches.len()).unwrap_or(u32::MAX);
        text = text.replace(old, &replacement.new_text);
    }
    Ok(Edited {
        text,
        replaced,
        first_changed_line,
    })
}
