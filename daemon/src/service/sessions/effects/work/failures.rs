//! What the daemon's own work failed with: checks, git and the forge, CI.

use futures_util::StreamExt as _;

use super::{
    super::{EffectContext, end_of},
    merge::MERGE,
};
use crate::domain::{
    checks::{CheckKind, CheckResult},
    criteria::Criterion,
    exec::ExitStatus,
    proof::{Proof, TestRun, run_name},
    recovery::{Catalogue, End, Failure, FailureType, FoundIn, Signs},
    session::work::{TodoCheck, Work},
};

/// Bytes of a kept output that are read again.
const OUTPUT_MAX_BYTES: usize = 8 << 20;

/// What the failed ones of these checks failed with, each kind once.
pub(super) fn of_checks<'a>(
    catalogue: &Catalogue,
    failed: impl Iterator<Item = &'a CheckResult>,
) -> Vec<Failure> {
    once(failed.map(|check| {
        match check.command.name.as_str() {
            MERGE => known(catalogue, FoundIn::Git, End::Exit(1), check.view.as_bytes())
                .unwrap_or_else(|| Failure::of(FailureType::MergeConflict)),
            _ => of_check(catalogue, check),
        }
    }))
}

fn of_check(catalogue: &Catalogue, check: &CheckResult) -> Failure {
    let status = &check.exit.status;
    known(
        catalogue,
        FoundIn::Checks,
        end_of(status),
        check.view.as_bytes(),
    )
    .unwrap_or_else(|| {
        Failure::of(match (status, check.command.kind) {
            (ExitStatus::NotStarted(_), _) => FailureType::CommandNotFound,
            (_, CheckKind::Tests) => FailureType::TestFailure,
            (_, CheckKind::Lint) => FailureType::LintError,
            (_, CheckKind::Types) => FailureType::TypeError,
        })
    })
}

/// What the failed ones of CI's checks failed with, each kind once.
pub(super) fn of_ci<'a>(
    catalogue: &Catalogue,
    failed: impl Iterator<Item = &'a CheckResult>,
) -> Vec<Failure> {
    let found = once(failed.map(|check| {
        // The name first: what a check prints says less than which one it is.
        let (name, summary) = (&check.command.name, &check.summary);
        let said = format!("{name}: {summary}\n{}", check.view);
        let end = end_of(&check.exit.status);
        known(catalogue, FoundIn::Ci, end, said.as_bytes())
            .unwrap_or_else(|| Failure::of(FailureType::CiBuildFailed))
    }));
    match found.is_empty() {
        // CI without a test command.
        true => vec![Failure::of(FailureType::CiBuildFailed)],
        false => found,
    }
}

/// What a todo's criteria failed with; nothing where there is none.
pub(super) fn of_todo(catalogue: &Catalogue, check: &TodoCheck) -> Vec<Failure> {
    let failed = || check.results.iter().filter(|result| !result.holds);
    let said: Vec<&str> = failed().map(|result| result.found.as_str()).collect();
    if check.holds || said.is_empty() {
        return Vec::new();
    }
    let tests = failed().any(|result| matches!(result.criterion, Criterion::TestsPass { .. }));
    let found = known(
        catalogue,
        FoundIn::Checks,
        End::Failed,
        said.join("\n").as_bytes(),
    );
    vec![found.unwrap_or_else(|| {
        Failure::of(match tests {
            true => FailureType::TestFailure,
            false => FailureType::Unknown,
        })
    })]
}

/// What a proof failed with: the first of its runs that did not pass, and should.
pub(super) async fn of_proof(context: &EffectContext, proof: &Proof) -> Vec<Failure> {
    if proof.proved {
        return Vec::new();
    }
    let should_pass = |run: &&TestRun| {
        [run_name::BRANCH, run_name::BRANCH_WITH_BASE_TESTS].contains(&run.name.as_str())
    };
    let failed = proof.runs.iter().filter(should_pass);
    let Some(run) = failed.into_iter().find(|run| !run.verdict.is_pass()) else {
        return vec![Failure::of(FailureType::TestFailure)];
    };
    let catalogue = context.world.catalogue.clone();
    let (end, output) = (end_of(&run.exit.status), output_of(context, run).await);
    let found =
        tokio::task::spawn_blocking(move || known(&catalogue, FoundIn::Checks, end, &output));
    let found = found.await.ok().flatten();
    vec![found.unwrap_or_else(|| Failure::of(FailureType::TestFailure))]
}

/// Why a piece of work could not be done.
pub(super) fn of_error(catalogue: &Catalogue, work: &Work, error: &str) -> Failure {
    let found_in = match work {
        Work::BaseRun
        | Work::SnapshotStart
        | Work::SnapshotStage
        | Work::SnapshotAct
        | Work::RollBack { .. }
        | Work::Validate
        | Work::VerifyTodo { .. }
        | Work::Prove => FoundIn::Checks,
        Work::Commit | Work::Publish | Work::OpenPullRequest | Work::RunCi => FoundIn::Git,
    };
    known(catalogue, found_in, End::Failed, error.as_bytes())
        .unwrap_or_else(|| Failure::of(FailureType::Unknown))
}

/// A run's output as it was kept; empty where it cannot be read.
async fn output_of(context: &EffectContext, run: &TestRun) -> Vec<u8> {
    let Some(artifact) = &run.artifact else {
        return Vec::new();
    };
    let Ok((_, mut pieces)) = context.world.commands.artifacts().stream(artifact).await else {
        return Vec::new();
    };
    let mut output = Vec::new();
    while let Some(Ok(piece)) = pieces.next().await {
        output.extend_from_slice(&piece);
        if output.len() >= OUTPUT_MAX_BYTES {
            break;
        }
    }
    output
}

fn known(catalogue: &Catalogue, found_in: FoundIn, end: End, output: &[u8]) -> Option<Failure> {
    catalogue.detect(&Signs {
        found_in,
        end,
        output,
    })
}

fn once(failures: impl Iterator<Item = Failure>) -> Vec<Failure> {
    let mut kinds: Vec<Failure> = Vec::new();
    for failure in failures {
        if !kinds.iter().any(|other| other.kind == failure.kind) {
            kinds.push(failure);
        }
    }
    kinds
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{
        checks::CheckCommand, exec::Exit, recovery::RecoveryAction, report::RunVerdict,
    };

    fn check(name: &str, summary: &str, view: &str) -> CheckResult {
        CheckResult {
            command: CheckCommand {
                name: name.into(),
                kind: match name {
                    "tests" => CheckKind::Tests,
                    _ => CheckKind::Lint,
                },
                argv: vec!["make".into()],
                why: "given".into(),
            },
            exit: Exit {
                status: ExitStatus::Code(1),
                duration_ms: 1,
                leftover_processes: 0,
                out_of_memory: false,
            },
            verdict: RunVerdict::Failed,
            report: None,
            summary: summary.into(),
            view: view.into(),
            artifact: None,
            reports: vec![],
        }
    }

    fn kind_in_ci(name: &str, summary: &str, view: &str) -> FailureType {
        let catalogue = Catalogue::with(None).unwrap();
        let failures = of_ci(&catalogue, [check(name, summary, view)].iter());
        assert_eq!(failures.len(), 1);
        failures[0].kind
    }

    #[test]
    fn what_a_check_of_ci_prints_tells_what_it_failed_with() {
        let unreadable = "cannot be read: it ends early";
        for (name, summary, view, kind) in [
            (
                "tests",
                unreadable,
                "FAILED test_a.py::test_b",
                FailureType::CiTestFailed,
            ),
            (
                "tests",
                unreadable,
                "suite a: 0 failed\nsuite b: 2 failed",
                FailureType::CiTestFailed,
            ),
            (
                "tests",
                unreadable,
                "suite a: 0 failed\nthe build has failed",
                FailureType::CiBuildFailed,
            ),
            // Which check it is says more than what it prints of others.
            (
                "lint-ruff",
                "failed (exit status 1)",
                "FAILED: 3 failed",
                FailureType::CiLintFailed,
            ),
            (
                "tests",
                "1 failed",
                "$ ruff check\nlint: clean",
                FailureType::CiTestFailed,
            ),
        ] {
            assert_eq!(kind_in_ci(name, summary, view), kind, "{name}: {view}");
        }
    }

    #[test]
    fn an_entry_of_ones_own_is_looked_for_in_what_ci_prints() {
        let own = r#"
[[pattern]]
id = "ours.licence"
where = ["ci"]
exit = "failed"
pattern = "no licence server"
type = "NETWORK_ERROR"
action = "escalate"
advice = "Ask for the licence server."
sample = "no licence server found"
clean = "licensed"
"#;
        let catalogue = Catalogue::with(Some(own)).unwrap();
        let failed = [check("tests", "1 failed", "E  no licence server")];
        let failures = of_ci(&catalogue, failed.iter());
        assert_eq!(failures.len(), 1);
        assert_eq!(failures[0].id, "ours.licence");
        assert_eq!(failures[0].action, RecoveryAction::Escalate);
    }
}
