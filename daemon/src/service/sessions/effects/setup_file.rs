//! What the base commit says to a session: the commands that check it, and what
//! its model should know.
//!
//! It is read from the commit's objects. What the working copy has, which the
//! session may change, has no say.

use crate::{
    domain::{
        checks::{CheckCommand, CheckKind, CheckPlan},
        prompts,
        session::options::SessionOptions,
        setup_file::{SETUP_FILE, SETUP_FILE_MAX_BYTES, SetupFile, SetupFileError},
    },
    service::git::{FileAt, Git, GitError},
};

/// Why a check is in a plan: the setup file names it.
pub(super) const FROM_SETUP_FILE: &str = "compy.toml says so";
/// Where repositories keep their rules for agents, by the convention that most
/// agents follow (agents.md).
const RULES_FILE: &str = "AGENTS.md";
/// Bytes of one knowledge file at most, its start; the whole is cut shorter still.
const KNOWLEDGE_FILE_MAX_BYTES: usize = 64 << 10;

/// Reads the setup file of a commit; `None` when it has none.
pub(super) async fn read(
    git: &Git,
    commit: &str,
) -> Result<Option<Result<SetupFile, SetupFileError>>, GitError> {
    // One that is longer is read by the parser as what it is: too long.
    let content = match git
        .file_at(commit, SETUP_FILE, SETUP_FILE_MAX_BYTES)
        .await?
    {
        FileAt::Content(content) => content,
        FileAt::TooLarge => vec![b' '; SETUP_FILE_MAX_BYTES + 1],
        FileAt::Nothing => return Ok(None),
    };
    Ok(Some(SetupFile::parse(&content)))
}

/// Puts a setup file's commands in place of those that were detected; what a
/// person gave stays.
pub(super) fn apply(file: &SetupFile, options: &SessionOptions, plan: &mut CheckPlan) {
    let command = |kind: CheckKind, argv: &[String]| CheckCommand {
        name: kind.name().to_owned(),
        kind,
        argv: argv.to_vec(),
        why: FROM_SETUP_FILE.to_owned(),
    };
    if let (None, Some(argv)) = (&options.test_command, &file.test) {
        plan.tests = Some(command(CheckKind::Tests, argv));
    }
    if let (None, Some(argv)) = (&options.lint_command, &file.lint) {
        plan.lint = vec![command(CheckKind::Lint, argv)];
    }
}

/// What a repository wants an agent to know: its [`RULES_FILE`], then what its
/// setup file says, each file read from the commit; `None` when that is nothing.
pub(super) async fn knowledge(
    git: &Git,
    commit: &str,
    file: Option<&SetupFile>,
    options: &SessionOptions,
) -> Result<Option<String>, GitError> {
    let mut parts = Vec::new();
    if let Some(text) = read_text(git, commit, RULES_FILE).await? {
        parts.push(part(RULES_FILE, &text));
    }
    if let Some(file) = file {
        let text = file.knowledge.text.trim();
        parts.extend((!text.is_empty()).then(|| text.to_owned()));
        let others = (file.knowledge.files.iter()).filter(|path| *path != RULES_FILE);
        for path in others {
            let text = read_text(git, commit, path).await?;
            let text = text.as_deref().unwrap_or("(there is no such file)");
            parts.push(part(path, text));
        }
    }
    let text = parts.join("\n\n");
    let is_told = !text.is_empty() && options.rules_tokens > 0;
    Ok(is_told.then(|| prompts::knowledge(&text, options.rules_tokens)))
}

/// A file's text, its start where it is too long, which then says so; `None` where
/// there is no such file.
async fn read_text(git: &Git, commit: &str, path: &str) -> Result<Option<String>, GitError> {
    let start = git.start_of_file_at(commit, path, KNOWLEDGE_FILE_MAX_BYTES);
    let Some((start, total_bytes)) = start.await? else {
        return Ok(None);
    };
    let text = String::from_utf8_lossy(&start);
    // Not by what has come: it may be shorter by a credential.
    if total_bytes <= KNOWLEDGE_FILE_MAX_BYTES {
        return Ok(Some(text.into_owned()));
    }
    // The cut may be inside of a character.
    let text = text.trim_end_matches(char::REPLACEMENT_CHARACTER).trim();
    Ok(Some(format!(
        "{text}\n[cut: {path} has {total_bytes} bytes; read the rest]"
    )))
}

fn part(path: &str, content: &str) -> String {
    format!("{path}:\n{}", content.trim())
}
