//! From a specification to a program in a supervisor's hands.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use compyd_proto::agent::{CommandSecrets, ExecSpec};

use super::command::Command;
use super::pipe::Streams;
use super::pool::Supervisor;
use super::protocol::{Launch, Order, Report};
use super::secrets;
use super::spec;
use super::spool::{ExecFiles, is_full};
use super::table::Shared;
use crate::accounts::Account;
use crate::errors::{AgentError, Reason};

/// Supervisors tried before a launch fails: one may have been killed while it
/// waited.
const LAUNCH_TRIES: usize = 20;

/// A command whose launch is in a supervisor's hands.
pub(super) struct Started {
    pub(super) files: ExecFiles,
    pub(super) streams: Streams,
    /// Nothing when the supervisor was killed over it.
    pub(super) first_word: (Supervisor, Option<Report>),
}

/// What goes to the supervisor with the launch: stdin, stdout, stderr.
type ChildEnds = [OwnedFd; 3];

/// Records the command and has it started; fails when nothing was.
pub(super) async fn start(
    shared: &Arc<Shared>,
    command: &Arc<Command>,
    spec: &Arc<ExecSpec>,
    secrets: Option<CommandSecrets>,
) -> Result<Started, AgentError> {
    let exec = command.as_started(ExecSpec::clone(spec));
    let prepared = if spec.user.is_empty() {
        // Nothing that waits for a disk, and a thread would take longer to
        // wake than this takes.
        prepare(shared, spec, secrets.as_ref(), &exec)?
    } else {
        let (owner, wanted) = (Arc::clone(shared), Arc::clone(spec));
        tokio::task::spawn_blocking(move || prepare(&owner, &wanted, secrets.as_ref(), &exec))
            .await
            .map_err(|_| AgentError::lost_task("start the command"))??
    };
    let Prepared {
        files,
        streams,
        child_ends,
        launch,
    } = prepared;
    match hand_over(shared, &launch, child_ends).await {
        Ok(first_word) => Ok(Started {
            files,
            streams,
            first_word,
        }),
        Err(error) => {
            let _ = tokio::task::spawn_blocking(move || files.remove()).await;
            Err(AgentError::new(
                Reason::Io,
                format!("could not start the command: {error}; try again"),
            ))
        }
    }
}

/// Gives the launch to a supervisor and waits for its first word. One that was
/// killed before it read the launch has started nothing: another one gets it.
async fn hand_over(
    shared: &Shared,
    launch: &Launch,
    child_ends: ChildEnds,
) -> Result<(Supervisor, Option<Report>), Box<dyn std::error::Error + Send + Sync>> {
    let [stdin, stdout, stderr] = child_ends;
    let fds = [launch.to_memory_file()?, stdin, stdout, stderr];
    for _ in 0..LAUNCH_TRIES {
        let supervisor = shared.pool.take().await?;
        if supervisor.order(Order::Launch, &fds).is_err() {
            continue;
        }
        let report = supervisor.report().await;
        if report.is_some() || !supervisor.left_unread() {
            return Ok((supervisor, report));
        }
    }
    Err("the supervisors are being killed".into())
}

/// What a launch needs.
struct Prepared {
    files: ExecFiles,
    streams: Streams,
    child_ends: ChildEnds,
    launch: Launch,
}

/// Everything that may fail before anything runs. Looks accounts up in a file
/// when the specification names one.
fn prepare(
    shared: &Shared,
    spec: &ExecSpec,
    secrets: Option<&CommandSecrets>,
    exec: &compyd_proto::agent::Exec,
) -> Result<Prepared, AgentError> {
    let account: Account = if spec.user.is_empty() {
        shared.settings.default_user.clone()
    } else {
        shared
            .settings
            .accounts
            .find(&spec.user)
            .map_err(|error| AgentError::new(Reason::UserUnknown, error.to_string()))?
    };
    let directory = spec::directory(spec, &shared.settings.work_dir)?;
    let given = match secrets {
        Some(secrets) => secrets::place(&shared.settings.secrets_dir, &account, secrets)?,
        None => secrets::Variables::new(),
    };
    let launch = spec::launch(
        &exec.exec_id,
        spec,
        &account,
        &directory,
        [&shared.settings.environment, &given],
        nix::unistd::Uid::effective().is_root(),
    );
    let (streams, child_ends) = match &spec.pty {
        Some(size) => Streams::terminal(size, &account),
        None => Streams::pipes(spec.stdin),
    }
    .map_err(|error| AgentError::io("open the streams of", Path::new(&exec.exec_id), &error))?;
    let files = shared.with_room(|| shared.spool.create(exec));
    let files = files.map_err(|error| {
        let full = is_full(&error);
        let reason = if full { Reason::SpoolFull } else { Reason::Io };
        AgentError::new(
            reason,
            format!("could not make the spool of command {}: {error}; remove old commands or free space in the state volume", exec.exec_id),
        )
    })?;
    Ok(Prepared {
        files,
        streams,
        child_ends,
        launch,
    })
}
