//! The clean copy that a commit is proved in: a fork of the snapshot that was
//! taken before the session's first edit, with the commit checked out in it.
//!
//! Nothing that the session installed, put in the way or left in ignored files
//! is there. Its workspace is found again by the step, so that a proof that was
//! cut off goes on in it.

use super::{
    super::{EffectContext, Trouble, proof_copy, setup_file, site},
    Undone, again, useless,
};
use crate::{
    domain::{
        artifact::ArtifactKind,
        checks::Site,
        exec::Leftovers,
        session::work::{BaseRun, Commit},
        setup_file::SetupFile,
    },
    service::{
        commands::{CommandRequest, ViewBounds},
        git::Git,
        proof::CopyEvidence,
        step::StepContext,
        workspaces::setup_command_spec,
    },
};

/// Said to the model when tests pass in its workspace and not in the copy.
pub(super) const WHAT_IS_NOT_THERE: &str = ". The proof ran in a clean copy: the workspace as it \
    was before the first edit, with the commit checked out. What the commit has not, ignored \
    files and what was installed since, is not there";

/// A copy to prove in.
pub(super) struct CleanCopy {
    /// Where it is.
    pub(super) site: Site,
    /// What it is made of.
    pub(super) evidence: CopyEvidence,
}

/// The setup does not work with the commit's files; says what to do.
pub(super) struct SetupFailed(pub(super) String);

/// Makes the copy, or finds the one that this step has made.
pub(super) async fn open(
    context: &EffectContext,
    step: &StepContext,
    base: &BaseRun,
    commit: &Commit,
) -> Result<Result<CleanCopy, SetupFailed>, Undone> {
    let state = &context.state;
    let Some(snapshot) = &state.start else {
        return Err(useless(
            "no snapshot was taken before the session's first edit, so there is no clean copy to \
             prove in: start the session again",
        ));
    };
    let bundles = &context.world.bundles;
    let directory = bundles
        .directory()
        .map_err(|error| again(format!("no temporary directory on the host: {error}")))?;
    let bundle = directory.path().join("commit.bundle");
    let (like, key) = (&state.created.workspace, &proof_copy(&context.open.step));
    let forked = context.with_workspaces(|workspaces| async move {
        workspaces.fork_clean(like, snapshot, key).await
    });
    let session = context.git();
    let changes_something = base.commit != commit.commit;
    let bundled = async {
        match changes_something {
            true => {
                let (from, to, most) = (&base.commit, &commit.commit, bundles.max_bytes);
                let bundled = session.bundle_since(from, to, &bundle, most, &context.cancel);
                bundled.await
            }
            false => Ok(()),
        }
    };
    let (workspace, bundled) = tokio::join!(forked, bundled);
    let (workspace, ()) = (workspace?, bundled?);
    if context.cancel.is_cancelled() {
        return Err(Trouble::Stopped.into());
    }
    let site = Site {
        workspace,
        ..site(state)
    };
    let git = Git::new(context.world.commands.clone(), site.clone());
    // A proof that goes on after a kill may have a run under way in there.
    let begun = context.world.prover.has_begun_proof(&site, step).await?;
    if changes_something && !begun {
        git.check_out_bundled(&bundle, &commit.commit).await?;
    }
    // What is checked out has no say in how it is set up, unless the task is
    // about how things are tested.
    let rules = match state.created.options.allow_test_changes {
        true => &commit.commit,
        false => &base.commit,
    };
    let file = setup_file::read(&git, rules).await?;
    let file = file.and_then(Result::ok).unwrap_or_default();
    let mut setup = Vec::new();
    if file.is_changed_by(&commit.changed_files) {
        if !begun {
            if let Err(failed) = set_up(context, step, &site, &file).await? {
                return Ok(Err(failed));
            }
            git.tidy().await?;
        }
        setup = file
            .initialize
            .iter()
            .map(|command| command.run.clone())
            .collect();
    }
    let snapshot = snapshot.clone();
    let evidence = CopyEvidence { snapshot, setup };
    Ok(Ok(CleanCopy { site, evidence }))
}

/// Runs the setup in the copy.
async fn set_up(
    context: &EffectContext,
    step: &StepContext,
    site: &Site,
    file: &SetupFile,
) -> Result<Result<(), SetupFailed>, Undone> {
    let timeout_ms = u64::try_from(file.timeout.as_millis()).unwrap_or(u64::MAX);
    for (number, command) in file.initialize.iter().enumerate() {
        let title = format!("setup in the clean copy: {}", command.run);
        let spec = setup_command_spec(command, &site.directory, timeout_ms, Leftovers::Kill);
        let request = CommandRequest {
            workspace: site.workspace.clone(),
            exec: step.exec(&format!("setup-{number}")),
            spec,
            about: Some(step.about(ArtifactKind::Output, title)),
            bounds: ViewBounds::default(),
            apart: None,
            progress: step.progress.clone(),
        };
        let outcome = context.world.commands.run(request, &step.cancel).await?;
        if !outcome.exit.status.is_success() {
            return Ok(Err(SetupFailed(format!(
                "files that the setup depends on were changed, and in a clean copy it fails with \
                 them: `{}` ({}): {}; make the setup work with the committed files",
                command.run,
                outcome.exit.status,
                outcome.view.trim()
            ))));
        }
    }
    Ok(Ok(()))
}

/// Deletes the copy. One that cannot be deleted now is deleted at the next
/// start of the daemon.
pub(super) async fn close(context: &EffectContext) {
    let key = proof_copy(&context.open.step);
    let deleted = context.world.commands.workspaces().delete_clean_of(&key);
    if let Err(error) = deleted.await {
        tracing::warn!(step = %context.open.step, %error, "a clean copy was left behind");
    }
}
