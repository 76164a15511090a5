//! A merge that the model began and has not ended: a check of the daemon's own.

use crate::domain::{
    checks::{CheckCommand, CheckKind, CheckResult},
    exec::{Exit, ExitStatus},
    report::RunVerdict,
};

/// Its name.
pub(super) const MERGE: &str = "merge";

/// The check that fails while files hold the markers of a merge.
pub(super) fn unmerged(files: Vec<String>) -> Option<CheckResult> {
    let count = match files.len() {
        0 => return None,
        1 => "1 file holds".to_owned(),
        count => format!("{count} files hold"),
    };
    let lines: Vec<String> = files
        .iter()
        .map(|file| format!("{file}: needs merge"))
        .collect();
    Some(CheckResult {
        command: CheckCommand {
            name: MERGE.to_owned(),
            kind: CheckKind::Lint,
            argv: ["git", "diff", "--check"].map(str::to_owned).to_vec(),
            why: "a merge was begun".to_owned(),
        },
        exit: Exit {
            status: ExitStatus::Code(1),
            duration_ms: 0,
            leftover_processes: 0,
            out_of_memory: false,
        },
        verdict: RunVerdict::Failed,
        report: None,
        summary: format!("{count} conflict markers"),
        view: lines.join("\n"),
        artifact: None,
        reports: Vec::new(),
    })
}
