//! Files written and edited: where an edit lands is worked out here
//! ([`crate::domain::edits`]); the agent writes what came of it, if the files are
//! still those that it was worked out on.

use std::fmt::Write as _;

use super::{super::EffectContext, super::Trouble, Brought, refused, resolve, shorten};
use crate::{
    domain::{
        edits::{self, Change, FileChange, Tolerance},
        files::{FileText, FileUpdate, FileWrite, ReadRange, Receipt},
        session::event::{ChangedFile, ToolEffect},
        tools::{EditFile, WriteFile, path_key},
    },
    ports::agent::AgentError,
    service::syntax,
};

/// Bytes of a file that is edited, at most.
const EDITED_MAX_BYTES: u32 = 4 << 20;

/// One file of an edit, worked out and not made.
struct FilePlan {
    /// Absolute, as asked for.
    path: String,
    /// Its text now; `None` where there is none.
    before: Option<FileText>,
    /// Its text then; `None` to remove it.
    after: Option<String>,
    /// Permission bits of a file that is moved here.
    mode: Option<u32>,
    /// What is done, for the model.
    words: String,
}

/// Writes a whole file.
pub(super) async fn write_file(
    context: &EffectContext,
    write: WriteFile,
    expected_hash: Option<String>,
) -> Result<Brought, Trouble> {
    let path = resolve(context, &write.path);
    let before = match expected_hash {
        Some(_) => read(context, &path).await?.ok(),
        None => None,
    };
    let text = before.as_ref().map(|before| before.content.as_str());
    if let Err(refusal) = edits::check_whole(&write.path, text, &write.content) {
        return Ok(Brought::error(refusal.message));
    }
    let request = FileWrite {
        path: path.clone(),
        content: write.content.clone().into_bytes(),
        create_only: expected_hash.is_none(),
        expected_hash,
    };
    // Read after a kill, it may be what was written.
    let before = before.filter(|before| request.expected_hash.as_ref() == Some(&before.hash));
    let (step, asked) = (&context.open.step, &request);
    let answer = context
        .with_agent(|agent| async move { agent.write_file(step, asked).await })
        .await?;
    let receipt = match answer {
        Ok(receipt) => receipt,
        Err(error) => return Ok(refused(error)),
    };
    let verb = match receipt.hash_before {
        Some(_) => "Written",
        None => "Made",
    };
    let mut content = format!("{verb}: {path}, {} bytes.", receipt.size_bytes);
    let before = before.map(|before| before.content);
    tell_errors(&mut content, context, &path, before, &write.content).await;
    Ok(Brought::ok(content, effect(vec![path], vec![receipt])))
}

/// Edits files: all of them or none.
pub(super) async fn edit_file(context: &EffectContext, edit: EditFile) -> Result<Brought, Trouble> {
    // After a kill the edit may be there already, and would fit nowhere.
    let step = &context.open.step;
    let made = context
        .with_agent(|agent| async move { agent.receipts(step).await })
        .await?;
    match made {
        Ok(receipts) if receipts.is_empty() => {}
        Ok(receipts) => {
            let paths: Vec<String> = receipts.iter().map(|made| made.path.clone()).collect();
            let mut content = format!("Edited: {}.", paths.join(", "));
            for made in receipts.iter().filter(|made| made.hash_after.is_some()) {
                if let Ok(text) = read(context, &made.path).await? {
                    tell_errors(&mut content, context, &made.path, None, &text.content).await;
                }
            }
            return Ok(Brought::ok(content, effect(paths, receipts)));
        }
        Err(error) => return Ok(refused(error)),
    }
    let changes = match edit.changes() {
        Ok(changes) => changes,
        Err(message) => return Ok(Brought::error(message)),
    };
    let count = changes.len();
    let mut plans: Vec<FilePlan> = Vec::with_capacity(count);
    for change in changes {
        match work_out(context, change).await? {
            Ok(planned) => plans.extend(planned),
            Err(message) => {
                let fitting: Vec<String> = plans
                    .iter()
                    .map(|plan| shorten(context, &plan.path))
                    .collect();
                let others = match (count, fitting.as_slice()) {
                    (1, _) => String::new(),
                    (_, []) => " No other file was changed either.".to_owned(),
                    (_, fitting) => format!(
                        " The changes of {} fit and were not applied either: all files or none.",
                        fitting.join(", ")
                    ),
                };
                return Ok(Brought::error(format!("{message}{others}")));
            }
        }
    }
    make(context, plans).await
}

async fn make(context: &EffectContext, plans: Vec<FilePlan>) -> Result<Brought, Trouble> {
    let step = &context.open.step;
    let hash = |plan: &FilePlan| plan.before.as_ref().map(|before| before.hash.clone());
    let answer = match plans.as_slice() {
        [
            plan @ FilePlan {
                after: Some(after), ..
            },
        ] => {
            let write = FileWrite {
                path: plan.path.clone(),
                content: after.clone().into_bytes(),
                create_only: plan.before.is_none(),
                expected_hash: hash(plan),
            };
            let asked = &write;
            context
                .with_agent(|agent| async move { agent.write_file(step, asked).await })
                .await?
                .map(|receipt| vec![receipt])
        }
        plans => {
            let updates: Vec<FileUpdate> = plans
                .iter()
                .map(|plan| FileUpdate {
                    path: plan.path.clone(),
                    expected_hash: hash(plan),
                    to: plan.after.clone().map(String::into_bytes),
                    mode: plan.mode,
                })
                .collect();
            let asked = &updates;
            context
                .with_agent(|agent| async move { agent.change_files(step, asked).await })
                .await?
        }
    };
    let receipts = match answer {
        Ok(receipts) => receipts,
        Err(error) => return Ok(refused(error)),
    };
    let words: Vec<&str> = plans.iter().map(|plan| plan.words.as_str()).collect();
    let mut content = words.join("\n");
    let mut paths = Vec::with_capacity(plans.len());
    for plan in plans {
        if let Some(after) = &plan.after {
            let before = plan.before.map(|before| before.content);
            tell_errors(&mut content, context, &plan.path, before, after).await;
        }
        paths.push(plan.path);
    }
    Ok(Brought::ok(content, effect(paths, receipts)))
}

/// What one change comes to, or why it cannot be made, for the model.
async fn work_out(
    context: &EffectContext,
    change: FileChange,
) -> Result<Result<Vec<FilePlan>, String>, Trouble> {
    let path = resolve(context, &change.path);
    let named = change.path;
    let (blocks, move_to) = match change.change {
        Change::Create { content } => {
            if exists(context, &path).await? {
                return Ok(Err(format!(
                    "{named} exists already; nothing was applied. Read it and change its lines, or replace it with write_file"
                )));
            }
            return Ok(Ok(vec![FilePlan {
                words: format!("Made: {path}, {} bytes.", content.len()),
                before: None,
                after: Some(content),
                mode: None,
                path,
            }]));
        }
        Change::Delete => (Vec::new(), None),
        Change::Modify { blocks, move_to } => {
            if let Some(to) = &move_to
                && exists(context, &resolve(context, to)).await?
            {
                return Ok(Err(format!(
                    "{to} exists already, and {named} cannot be moved there; nothing was applied"
                )));
            }
            (blocks, Some(move_to))
        }
    };
    let before = match read(context, &path).await? {
        Ok(text) => text,
        Err(error) => return Ok(Err(refused(error).content)),
    };
    if before.truncated {
        return Ok(Err(format!(
            "{named} has {} bytes and files up to {EDITED_MAX_BYTES} bytes are edited; change it with a command",
            before.total_bytes
        )));
    }
    let seen = context.state.files.get(&path_key(&path));
    if seen.is_some_and(|seen| *seen != before.hash) {
        return Ok(Err(format!(
            "{named} has changed since you last saw it; nothing was applied. Read it again, then change what is there now"
        )));
    }
    let Some(move_to) = move_to else {
        return Ok(Ok(vec![FilePlan {
            words: format!("Deleted: {path}."),
            path,
            before: Some(before),
            after: None,
            mode: None,
        }]));
    };
    let (text, places) = if blocks.is_empty() {
        (before.content.clone(), String::new())
    } else {
        match edits::plan(&named, &before.content, &blocks) {
            Ok(planned) => {
                let places = places(&planned);
                (planned.text, places)
            }
            Err(refusal) => return Ok(Err(refusal.message)),
        }
    };
    let Some(to) = move_to else {
        return Ok(Ok(vec![FilePlan {
            words: format!("Edited: {path}{places}."),
            path,
            before: Some(before),
            after: Some(text),
            mode: None,
        }]));
    };
    let to = resolve(context, &to);
    let asked = &path;
    let mode = context
        .with_agent(|agent| async move { agent.stat(asked).await })
        .await?;
    let mode = mode.ok().flatten().map(|info| info.mode);
    Ok(Ok(vec![
        FilePlan {
            words: format!("Moved: {path} to {to}{places}."),
            path: to,
            before: None,
            after: Some(text),
            mode,
        },
        FilePlan {
            words: format!("Deleted: {path}."),
            path,
            before: Some(before),
            after: None,
            mode: None,
        },
    ]))
}

fn places(planned: &edits::Planned) -> String {
    let count = match planned.places {
        1 => "1 place".to_owned(),
        count => format!("{count} places"),
    };
    let how = match planned.tolerance {
        Tolerance::Exact => String::new(),
        loosely => format!(", not exactly{}", loosely.in_words()),
    };
    format!(", {count}, the first at line {}{how}", planned.first_line)
}

/// A whole text file, as far as files are edited.
async fn read(
    context: &EffectContext,
    path: &str,
) -> Result<Result<FileText, AgentError>, Trouble> {
    let range = ReadRange {
        first_line: None,
        line_count: Some(u32::MAX),
        max_bytes: Some(EDITED_MAX_BYTES),
    };
    let asked = &range;
    context
        .with_agent(|agent| async move { agent.read_file(path, asked).await })
        .await
}

async fn exists(context: &EffectContext, path: &str) -> Result<bool, Trouble> {
    let found = context
        .with_agent(|agent| async move { agent.stat(path).await })
        .await?;
    // What cannot be looked at is the agent's to refuse when it is written.
    Ok(matches!(found, Ok(Some(_))))
}

/// Says which syntax errors an edit brought into a file.
async fn tell_errors(
    content: &mut String,
    context: &EffectContext,
    path: &str,
    before: Option<String>,
    after: &str,
) {
    let errors = syntax::new_errors(path, before, after.to_owned()).await;
    if errors.is_empty() {
        return;
    }
    let shown = shorten(context, path);
    let _ = write!(
        content,
        "\nThe edit is made, and {shown} does not parse: mend that first."
    );
    for error in errors {
        let _ = write!(content, "\n{shown}:{error}");
    }
}

fn effect(paths: Vec<String>, receipts: Vec<Receipt>) -> ToolEffect {
    let mut files: Vec<ChangedFile> = paths
        .into_iter()
        .zip(receipts)
        .map(|(path, receipt)| ChangedFile {
            path,
            before: receipt.hash_before,
            after: receipt.hash_after,
        })
        .collect();
    match (files.len(), files.pop()) {
        (
            1,
            Some(ChangedFile {
                path,
                before,
                after: Some(after),
            }),
        ) => ToolEffect::FileChanged {
            path,
            before,
            after,
        },
        (_, last) => {
            files.extend(last);
            ToolEffect::FilesChanged { files }
        }
    }
}
