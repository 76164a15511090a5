//! What the setup file of the base commit says to a session: the commands that
//! check it, and what its model should know.
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
/// Bytes of one knowledge file at most; the whole is cut shorter still.
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

/// What a setup file wants an agent to know, its files read from the commit;
/// `None` when that is nothing.
pub(super) async fn knowledge(
    git: &Git,
    commit: &str,
    file: &SetupFile,
) -> Result<Option<String>, GitError> {
    let mut text = file.knowledge.text.trim().to_owned();
    for path in &file.knowledge.files {
        let found = git.file_at(commit, path, KNOWLEDGE_FILE_MAX_BYTES).await?;
        let content = match &found {
            FileAt::Content(content) => String::from_utf8_lossy(content),
            FileAt::TooLarge => "(the file is too large)".into(),
            FileAt::Nothing => "(there is no such file)".into(),
        };
        if !text.is_empty() {
            text.push_str("\n\n");
        }
        text.push_str(&format!("{path}:\n{}", content.trim()));
    }
    Ok((!text.is_empty()).then(|| prompts::knowledge(&text)))
}
