//! The doctor's findings as text, for `compyd check`.

use std::{fmt::Write as _, process::ExitCode};

use crate::service::doctor::{Check, Verdict};

/// A line for each check, and one more for what to do.
#[must_use]
pub fn table(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Failed => "FAILED",
        };
        let _ = writeln!(text, "{verdict:<8} {:<14} {}", check.name, check.found);
        if !check.advice.is_empty() {
            let _ = writeln!(text, "{:<23} -> {}", "", check.advice);
        }
    }
    text
}

/// Failure when the main job cannot run.
#[must_use]
pub fn exit_code(checks: &[Check]) -> ExitCode {
    match checks.iter().map(|check| check.verdict).max() {
        Some(Verdict::Failed) => ExitCode::FAILURE,
        Some(Verdict::Ok | Verdict::Warning) | None => ExitCode::SUCCESS,
    }
}
