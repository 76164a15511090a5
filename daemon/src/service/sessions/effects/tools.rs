//! Tools in the workspace: what the model asked for, done, and said back to it
//! in bounded text.

mod edits;

use std::{fmt::Write as _, time::Instant};

use super::{EffectContext, Trouble, command_trouble, end_of, with_output};
use crate::{
    domain::{
        artifact::ArtifactKind,
        conversation::ToolCall,
        credential::CommandTool,
        exec::{ExecSpec, Leftovers},
        files::{FileInfo, FileKind, FileText, GlobQuery, GrepQuery, Listing, ReadRange},
        recovery::{Catalogue, End, FailureType, FoundIn, RecoveryAction, Signs},
        session::{
            event::{KnownFailure, ToolEffect, ToolOutcome},
            outcome::{Outcome, ToolAnswer},
        },
        tools::{
            COMMAND_TIMEOUT_DEFAULT_S, Glob, Grep, ListDirectory, ReadFile, RunCommand,
            ToolRequest, workspace_path,
        },
    },
    ports::agent::AgentError,
    service::commands::{CommandRequest, ViewBounds},
};

/// Bytes of a file or a search shown at once.
const SHOWN_MAX_BYTES: usize = 48 * 1024;
/// Lines of a listing or a search shown at once.
const SHOWN_MAX_LINES: usize = 200;
/// Characters of a found line shown.
const LINE_MAX_CHARS: usize = 400;
/// Bytes of a file asked for: what is not shown is kept.
const READ_MAX_BYTES: u32 = 1 << 20;
/// Entries of a listing asked for, and lines of a search.
const ENTRIES_MAX: u32 = 5_000;

/// Runs the command with bash where there is one, and with sh elsewhere.
const SHELL: &str = r#"command -v bash >/dev/null 2>&1 && exec bash -c "$1"; exec sh -c "$1""#;

/// What a tool brought, before it is timed.
struct Brought {
    outcome: ToolOutcome,
    content: String,
    artifact: Option<crate::domain::ids::ArtifactId>,
    failure: Option<KnownFailure>,
    effect: ToolEffect,
}

impl Brought {
    fn ok(content: impl Into<String>, effect: ToolEffect) -> Self {
        Self {
            outcome: ToolOutcome::Ok,
            content: content.into(),
            artifact: None,
            failure: None,
            effect,
        }
    }

    fn error(content: impl Into<String>) -> Self {
        Self {
            outcome: ToolOutcome::Error,
            content: content.into(),
            artifact: None,
            failure: None,
            effect: ToolEffect::None,
        }
    }

    /// Says what is known of the failure with these signs, and what to do.
    fn advised(mut self, catalogue: &Catalogue, signs: &Signs<'_>) -> Self {
        self.failure = Some(match catalogue.detect(signs) {
            Some(failure) => {
                let _ = write!(self.content, "\n{}", failure.told());
                KnownFailure {
                    id: failure.id,
                    kind: failure.kind,
                    action: failure.action,
                }
            }
            None => KnownFailure {
                id: String::new(),
                kind: FailureType::Unknown,
                action: RecoveryAction::Fix,
            },
        });
        self
    }
}

/// Runs a tool, or joins the run of the same step.
pub(super) async fn run(
    context: &EffectContext,
    call: &ToolCall,
    expected_hash: Option<String>,
) -> Result<Outcome, Trouble> {
    let begun = Instant::now();
    let brought = match ToolRequest::parse(call) {
        Err(mistake) => Brought::error(mistake.to_string()),
        Ok(ToolRequest::ReadFile(read)) => read_file(context, read).await?,
        Ok(ToolRequest::WriteFile(write)) => {
            edits::write_file(context, write, expected_hash).await?
        }
        Ok(ToolRequest::EditFile(edit)) => edits::edit_file(context, edit).await?,
        Ok(ToolRequest::ListDirectory(list)) => list_directory(context, list).await?,
        Ok(ToolRequest::Glob(query)) => glob(context, query).await?,
        Ok(ToolRequest::Grep(query)) => grep(context, query).await?,
        Ok(ToolRequest::RunCommand(command)) => run_command(context, command).await?,
        Ok(
            ToolRequest::Think(_)
            | ToolRequest::TodoAdd(_)
            | ToolRequest::TodoStart(_)
            | ToolRequest::TodoClaim(_)
            | ToolRequest::Advance(_)
            | ToolRequest::AskPerson(_)
            | ToolRequest::ReportEnvironmentIssue(_),
        ) => Brought::error("this tool does not act on the workspace"),
    };
    let brought = known_of_files(context, brought);
    Ok(Outcome::Tool(ToolAnswer {
        outcome: brought.outcome,
        content: brought.content,
        artifact: brought.artifact,
        duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        failure: brought.failure,
        effect: brought.effect,
    }))
}

/// What is known of a file tool's failure, where that is anything.
fn known_of_files(context: &EffectContext, brought: Brought) -> Brought {
    let content = brought.content.clone();
    let signs = Signs {
        found_in: FoundIn::File,
        end: End::Failed,
        output: content.as_bytes(),
    };
    let catalogue = &context.world.catalogue;
    let failed = brought.outcome == ToolOutcome::Error && brought.failure.is_none();
    if failed && catalogue.detect(&signs).is_some() {
        return brought.advised(catalogue, &signs);
    }
    brought
}

async fn read_file(context: &EffectContext, read: ReadFile) -> Result<Brought, Trouble> {
    let path = resolve(context, &read.path);
    let range = ReadRange {
        first_line: read.first_line,
        line_count: read.line_count.map(|count| count.min(2_000)),
        max_bytes: Some(READ_MAX_BYTES),
    };
    let (path_asked, range_asked) = (&path, &range);
    let answer = context
        .with_agent(|agent| async move { agent.read_file(path_asked, range_asked).await })
        .await?;
    Ok(match answer {
        Ok(text) => {
            let hash = text.hash.clone();
            let (mut content, mut artifact) = (numbered(&text), None);
            if let Some(start) = start_of(&text) {
                let title = format!("read_file {}", read.path);
                let id = context.keep(&title, content).await?;
                content = format!("{}\n[what was read is kept as {id}]", numbered(&start));
                artifact = Some(id);
            }
            Brought {
                artifact,
                ..Brought::ok(content, ToolEffect::FileSeen { path, hash })
            }
        }
        Err(error) => refused(error),
    })
}

/// The lines of a text that can be shown, where that is not all of them.
fn start_of(text: &FileText) -> Option<FileText> {
    if text.content.len() <= SHOWN_MAX_BYTES {
        return None;
    }
    let end = (0..=SHOWN_MAX_BYTES)
        .rev()
        .find(|at| text.content.is_char_boundary(*at))?;
    let start = &text.content[..end];
    let content = match start.rfind('\n') {
        Some(end) => &start[..=end],
        None => start,
    };
    Some(FileText {
        content: content.to_owned(),
        line_count: u32::try_from(content.lines().count()).unwrap_or(u32::MAX),
        truncated: true,
        ..text.clone()
    })
}

/// A file's lines with their numbers, and what is missing.
fn numbered(text: &FileText) -> String {
    if text.total_lines == 0 {
        return "(the file is empty)".into();
    }
    let mut shown = String::with_capacity(text.content.len() + text.content.len() / 8);
    for (number, line) in (text.first_line..).zip(text.content.lines()) {
        let _ = writeln!(shown, "{number}\t{line}");
    }
    let last = text.first_line + text.line_count.saturating_sub(1);
    if text.truncated || text.first_line > 1 {
        let _ = write!(
            shown,
            "[lines {} to {last} of {}]",
            text.first_line, text.total_lines
        );
    }
    shown
}

async fn list_directory(context: &EffectContext, list: ListDirectory) -> Result<Brought, Trouble> {
    let path = resolve(context, list.path.as_deref().unwrap_or("."));
    let asked = &path;
    let answer = context
        .with_agent(|agent| async move { agent.list_directory(asked, Some(ENTRIES_MAX)).await })
        .await?;
    Ok(match answer {
        Ok(listing) if listing.entries.is_empty() => {
            Brought::ok("(the directory is empty)", ToolEffect::None)
        }
        Ok(listing) => {
            let lines = entries(&listing, |info| info.path.clone());
            let title = format!("list_directory {path}");
            found(context, &title, lines, listing.truncated).await?
        }
        Err(error) => refused(error),
    })
}

async fn glob(context: &EffectContext, glob: Glob) -> Result<Brought, Trouble> {
    let query = GlobQuery {
        pattern: glob.pattern,
        path: Some(resolve(context, glob.path.as_deref().unwrap_or("."))),
        max_matches: Some(ENTRIES_MAX),
        include_ignored: false,
    };
    let asked = &query;
    let answer = context
        .with_agent(|agent| async move { agent.glob(asked).await })
        .await?;
    Ok(match answer {
        Ok(listing) if listing.entries.is_empty() => {
            Brought::ok("No file matches.", ToolEffect::None)
        }
        Ok(listing) => {
            let lines = entries(&listing, |info| shorten(context, &info.path));
            let title = format!("glob {}", query.pattern);
            found(context, &title, lines, listing.truncated).await?
        }
        Err(error) => refused(error),
    })
}

/// A line for each entry.
fn entries(listing: &Listing<FileInfo>, name: impl Fn(&FileInfo) -> String) -> Vec<String> {
    let lines = listing.entries.iter().map(|info| {
        let name = name(info);
        match info.kind {
            FileKind::File => format!("{name}  {} bytes", info.size_bytes),
            FileKind::Directory => format!("{name}/"),
            FileKind::Symlink => {
                let target = info.link_target.as_deref().unwrap_or("?");
                format!("{name} -> {target}")
            }
            FileKind::Other => format!("{name}  (neither file nor directory)"),
        }
    });
    lines.collect()
}

/// What was found, a line each: the first ones shown, all of them kept where
/// that leaves something out. `more` says that the agent left out some as well.
async fn found(
    context: &EffectContext,
    title: &str,
    lines: Vec<String>,
    more: bool,
) -> Result<Brought, Trouble> {
    let mut shown = String::new();
    let mut count = 0;
    let mut whole = true;
    for line in lines.iter().take(SHOWN_MAX_LINES) {
        let cut = line.char_indices().nth(LINE_MAX_CHARS);
        let text = cut.map_or(line.as_str(), |(end, _)| &line[..end]);
        if shown.len() + text.len() > SHOWN_MAX_BYTES {
            break;
        }
        whole &= cut.is_none();
        shown.push_str(text);
        shown.push('\n');
        count += 1;
    }
    whole &= count == lines.len();
    let artifact = if whole {
        None
    } else {
        let total = lines.len();
        let id = context.keep(title, lines.join("\n") + "\n").await?;
        let _ = write!(shown, "[{count} of {total} lines, kept whole as {id}]");
        Some(id)
    };
    if more {
        shown.push_str("[more follow; ask more narrowly]");
    }
    Ok(Brought {
        artifact,
        ..Brought::ok(shown, ToolEffect::None)
    })
}

async fn grep(context: &EffectContext, grep: Grep) -> Result<Brought, Trouble> {
    let query = GrepQuery {
        pattern: grep.pattern,
        path: Some(resolve(context, grep.path.as_deref().unwrap_or("."))),
        globs: grep.glob.into_iter().collect(),
        ignore_case: grep.ignore_case,
        context: (grep.context, grep.context),
        max_matches: Some((ENTRIES_MAX / (1 + 2 * grep.context.min(20))).max(1)),
        include_ignored: false,
    };
    let asked = &query;
    let answer = context
        .with_agent(|agent| async move { agent.grep(asked).await })
        .await?;
    Ok(match answer {
        Ok(listing) if listing.entries.is_empty() => {
            Brought::ok("No line matches.", ToolEffect::None)
        }
        Ok(listing) => {
            let lines = listing.entries.iter().map(|line| {
                let mark = if line.matched { ':' } else { '-' };
                let path = shorten(context, &line.path);
                format!("{path}{mark}{}{mark}{}", line.line, line.text)
            });
            let title = format!("grep {}", query.pattern);
            found(context, &title, lines.collect(), listing.truncated).await?
        }
        Err(error) => refused(error),
    })
}

async fn run_command(context: &EffectContext, run: RunCommand) -> Result<Brought, Trouble> {
    let cwd = resolve(context, run.cwd.as_deref().unwrap_or("."));
    let timeout_s = run.timeout_s.unwrap_or(COMMAND_TIMEOUT_DEFAULT_S);
    let spec = ExecSpec {
        cwd: Some(cwd),
        timeout_ms: Some(timeout_s * 1000),
        leftovers: Leftovers::Kill,
        tool: Some(CommandTool::RunCommand),
        ..ExecSpec::new(["sh", "-c", SHELL, "sh", run.command.as_str()])
    };
    let title = crate::domain::session::pull_request::subject(&run.command);
    let outcome = with_output(&context.progress, async |output| {
        let step = context.step(output.clone());
        let request = CommandRequest {
            workspace: context.state.created.workspace.clone(),
            exec: context.open.step.clone().into(),
            spec,
            about: Some(step.about(ArtifactKind::Output, title)),
            bounds: ViewBounds::default(),
            apart: None,
            progress: Some(output),
        };
        drop(step);
        context.world.commands.run(request, &context.cancel).await
    })
    .await;
    let outcome = match outcome {
        Ok(outcome) => outcome,
        Err(error) => {
            if let Some(trouble) = command_trouble(&error) {
                return Err(trouble);
            }
            use crate::service::commands::CommandError;
            return match error {
                CommandError::Agent(error @ AgentError::Refused { .. }) => Ok(refused(error)),
                error => Err(Trouble::Outage(error.to_string())),
            };
        }
    };
    let mut content = outcome.view;
    if !content.is_empty() && !content.ends_with('\n') {
        content.push('\n');
    }
    let seconds = outcome.exit.duration_ms as f64 / 1000.0;
    let _ = write!(content, "[{}, {seconds:.1} s]", outcome.exit);
    let artifact = outcome.artifact.map(|artifact| artifact.id);
    if outcome.truncated {
        let _ = write!(content, " [{} bytes in all", outcome.total_bytes);
        if let Some(id) = &artifact {
            let _ = write!(content, ", kept as {id}");
        }
        content.push(']');
    }
    let brought = Brought {
        artifact,
        ..Brought::ok(content, ToolEffect::CommandRan)
    };
    if outcome.exit.status.is_success() {
        return Ok(brought);
    }
    let end = end_of(&outcome.exit.status);
    let catalogue = context.world.catalogue.clone();
    let output = outcome.output;
    let advised = tokio::task::spawn_blocking(move || {
        let signs = Signs {
            found_in: FoundIn::Command,
            end,
            output: &output,
        };
        Brought {
            outcome: ToolOutcome::Error,
            ..brought
        }
        .advised(&catalogue, &signs)
    });
    advised
        .await
        .map_err(|error| Trouble::Outage(error.to_string()))
}

fn resolve(context: &EffectContext, path: &str) -> String {
    workspace_path(&context.state.repository_dir(), path)
}

/// A path below the repository without the repository's own.
fn shorten(context: &EffectContext, path: &str) -> String {
    let directory = context.state.repository_dir();
    path.strip_prefix(&directory)
        .and_then(|rest| rest.strip_prefix('/'))
        .unwrap_or(path)
        .to_owned()
}

/// What the model is told when the agent refuses.
fn refused(error: AgentError) -> Brought {
    let advice = match error.code() {
        Some("HASH_MISMATCH") => {
            "; it changed since you last saw it: read it again, then change what is there now"
        }
        Some("ALREADY_EXISTS") => "; read it before you replace it",
        Some(_) | None => "",
    };
    Brought::error(format!("{error}{advice}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbered_lines_say_which_part_of_the_file_they_are() {
        let text = FileText {
            content: "b\nc\n".into(),
            first_line: 2,
            line_count: 2,
            total_lines: 9,
            total_bytes: 18,
            hash: String::new(),
            truncated: true,
        };
        assert_eq!(numbered(&text), "2\tb\n3\tc\n[lines 2 to 3 of 9]");
        assert_eq!(start_of(&text), None);
    }

    #[test]
    fn of_a_long_text_whole_lines_are_shown() {
        let line = format!("{}\n", "x".repeat(1023));
        let text = FileText {
            content: line.repeat(100),
            first_line: 1,
            line_count: 100,
            total_lines: 100,
            total_bytes: 100 << 10,
            hash: "h".into(),
            truncated: false,
        };
        let start = start_of(&text);
        let wanted = FileText {
            content: line.repeat(48),
            line_count: 48,
            truncated: true,
            ..text
        };
        assert_eq!(start, Some(wanted));
    }
}
