//! `compyctl run TASK`: a task goes in, a proved pull request comes out.

pub(crate) mod local_repository;
mod task;
mod workspace_name;

use std::time::Duration;

use clap::{Args, ValueEnum};
use compyd_proto::v1::{
    ListWorkspacesRequest, Session, SessionOptions, StartSessionRequest, Verify, Workflow,
};

use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};
use crate::output::{Format, session::RunResult};
use crate::policy::LevelName;
use crate::values;
use crate::watch::{self, Watch};
use crate::workspace::create::{MachineOptions, create};
use crate::workspace::delete::delete;
use crate::workspace::{RepositorySource, add_repository};

/// `compyctl run TASK`.
#[derive(Debug, Args)]
#[command(
    group = clap::ArgGroup::new("where").required(true).multiple(true).args(["workspace", "repo"]),
    group = clap::ArgGroup::new("what").required(true).args(["task", "task_file"]),
    after_help = crate::exit::EXIT_CODES_HELP,
)]
pub(crate) struct RunArguments {
    /// What is to be done, in your words; `-` reads it from standard input.
    task: Option<String>,
    /// Read the task from a file.
    #[arg(long, value_name = "FILE")]
    task_file: Option<std::path::PathBuf>,
    /// Work in this workspace; default: a new one named after the repository.
    #[arg(short, long, value_name = "NAME", conflicts_with_all = ["name", "image", "cpus", "memory", "pids", "network", "user"])]
    workspace: Option<String>,
    /// Repository to work on: a path on this machine, or a URL that the daemon
    /// fetches.
    #[arg(short, long, value_name = "PATH_OR_URL[#REF]")]
    repo: Option<String>,
    /// Directory of the repository below /workspace, where there are several
    /// or another than the source's name is wanted.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "DIR"
    )]
    directory: String,
    /// Leave the repository's compy.toml aside when it is put into the workspace.
    #[arg(long, requires = "repo")]
    no_setup: bool,
    /// Name of the new workspace; default: derived from the repository.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Keep the new workspace even when the session cannot be started.
    #[arg(long)]
    keep: bool,
    /// openai:NAME, anthropic:NAME or scripted:FILE; default: the daemon's.
    #[arg(
        short,
        long,
        env = "COMPY_MODEL",
        default_value = "",
        hide_default_value = true,
        value_name = "MODEL"
    )]
    model: String,
    /// Command that proves the task: "python -m pytest -q"; default: what the
    /// repository's compy.toml says, or detected.
    #[arg(short, long, value_parser = command_words, default_value = "", hide_default_value = true, value_name = "CMD")]
    test: String,
    /// Lint command; default: what compy.toml says, or detected.
    #[arg(long, value_parser = command_words, default_value = "", hide_default_value = true, value_name = "CMD")]
    lint: String,
    /// Stages up to a pull request, or one free stage and the daemon's proof.
    #[arg(long, value_enum, default_value = "swe")]
    workflow: WorkflowName,
    /// Who verifies claims: the daemon alone, or a person after it.
    #[arg(long, value_enum, default_value = "auto")]
    verify: VerifyName,
    /// Let the task change tests that exist.
    #[arg(long)]
    allow_test_changes: bool,
    /// Wall time at most, pauses left out; default: the daemon's.
    #[arg(long, value_parser = values::duration, value_name = "TIME")]
    max_time: Option<Duration>,
    /// Model calls at most; default: the daemon's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..), value_name = "N")]
    max_steps: Option<u32>,
    /// Tokens at most, input and output; default: the daemon's.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..), value_name = "N")]
    budget_tokens: Option<u64>,
    /// Money at most, in the currency of the daemon's prices: 2.50.
    #[arg(long, value_name = "MONEY")]
    budget_money: Option<String>,
    /// The most that it may do: look, change the workspace, or act beyond it as far
    /// as the policy lets it.
    #[arg(long, value_enum, default_value = "admin")]
    level: LevelName,
    /// How far it goes without a person: 0 every act is approved, 1 it looks alone,
    /// 2 what is of low risk, 3 all but what is of high risk.
    #[arg(long, value_parser = clap::value_parser!(u32).range(0..=3), default_value = "3", value_name = "N")]
    autonomy: u32,
    /// Start the session and leave; prints its id.
    #[arg(short, long)]
    detach: bool,
    #[command(flatten)]
    machine: MachineOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum WorkflowName {
    /// Understand, plan, locate, modify, validate, pull request, CI.
    Swe,
    /// One free stage and the daemon's proof.
    None,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum VerifyName {
    /// The daemon verifies by itself.
    Auto,
    /// A person is asked for each claim.
    Manual,
}

impl RunArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let task = task::read(self.task.as_deref(), self.task_file.as_deref())?;
        let source = match &self.repo {
            Some(text) => Some(RepositorySource::find(text).await?),
            None => None,
        };
        let daemon = context.daemon().await?;
        let (workspace, created) = match (&self.workspace, &source) {
            (Some(name), _) => (name.clone(), false),
            (None, Some(source)) => (self.create_workspace(&daemon, source).await?, true),
            (None, None) => {
                return Err(Failure::usage(
                    "there is nowhere to work",
                    "--repo PATH_OR_URL, or --workspace NAME",
                ));
            }
        };
        let started = self.start(&daemon, &workspace, source.as_ref(), task).await;
        let session = match started {
            Ok(session) => session,
            Err(failure) => {
                if created {
                    self.clean_up(&daemon, &workspace).await;
                }
                return Err(failure);
            }
        };
        if self.detach {
            eprintln!(
                "started; watch it with `compyctl session watch {}`",
                session.id
            );
            match context.format {
                Format::Table => crate::output::print(&format!("{}\n", session.id))?,
                Format::Json => crate::output::print_json(&RunResult {
                    verdict: crate::output::session::state_name(session.state()).to_owned(),
                    exit_code: Exit::OK.0,
                    session: session.into(),
                })?,
            }
            return Ok(Exit::OK);
        }
        let watch = Watch {
            daemon: &daemon,
            session_id: session.id,
            after_sequence: 0,
        };
        let outcome = watch.follow(watch::View::choose(context.format)).await?;
        watch::report(context.format, &outcome)
    }

    async fn start(
        &self,
        daemon: &Daemon,
        workspace: &str,
        source: Option<&RepositorySource>,
        task: String,
    ) -> Result<Session, Failure> {
        let repository = match source {
            Some(source) => {
                eprintln!(
                    "putting {} into workspace {workspace} ...",
                    source.base_name()
                );
                add_repository(daemon, workspace, &self.directory, source, self.no_setup)
                    .await?
                    .name
            }
            None => self.directory.clone(),
        };
        let request = StartSessionRequest {
            request_id: request_id(),
            task,
            workspace: workspace.to_owned(),
            repository,
            options: Some(self.session_options()),
        };
        let response = daemon
            .call(|| {
                let (mut client, request) = (daemon.sessions(), request.clone());
                async move { client.start_session(request).await }
            })
            .await?;
        Ok(response.session.unwrap_or_default())
    }

    fn session_options(&self) -> SessionOptions {
        SessionOptions {
            model: self.model.clone(),
            workflow: match self.workflow {
                WorkflowName::Swe => Workflow::Swe,
                WorkflowName::None => Workflow::None,
            }
            .into(),
            test_command: self.test.clone(),
            lint_command: self.lint.clone(),
            verify: match self.verify {
                VerifyName::Auto => Verify::Auto,
                VerifyName::Manual => Verify::Manual,
            }
            .into(),
            allow_test_changes: self.allow_test_changes,
            max_steps: self.max_steps.unwrap_or(0),
            max_time_ms: self.max_time.map_or(0, values::milliseconds),
            budget_tokens: self.budget_tokens.unwrap_or(0),
            budget_money: self.budget_money.clone().unwrap_or_default(),
            level: self.level.to_wire().into(),
            autonomy: Some(self.autonomy),
        }
    }

    /// Creates the workspace, under the next free name unless one was given.
    async fn create_workspace(
        &self,
        daemon: &Daemon,
        source: &RepositorySource,
    ) -> Result<String, Failure> {
        if let Some(name) = &self.name {
            create(daemon, name, &self.machine).await?;
            return Ok(name.clone());
        }
        let base = workspace_name::derive(source.base_name());
        let taken: Vec<String> = daemon
            .call(|| {
                let mut client = daemon.workspaces();
                async move { client.list_workspaces(ListWorkspacesRequest {}).await }
            })
            .await?
            .workspaces
            .into_iter()
            .map(|workspace| workspace.name)
            .collect();
        for name in workspace_name::candidates(&base).filter(|name| !taken.contains(name)) {
            eprintln!("creating workspace {name} ...");
            match create(daemon, &name, &self.machine).await {
                Ok(_) => return Ok(name),
                // Somebody was quicker.
                Err(failure) if failure.reason().as_deref() == Some("NAME_TAKEN") => {}
                Err(failure) => return Err(failure),
            }
        }
        Err(Failure::usage(
            format!(
                "every name from {base} to {base}-{} is taken",
                workspace_name::LAST_NUMBER
            ),
            "name the workspace with --name, or use one with --workspace",
        ))
    }

    /// Removes the workspace that was made for a session that cannot start, so
    /// that the next attempt finds its name free.
    async fn clean_up(&self, daemon: &Daemon, workspace: &str) {
        if self.keep {
            eprintln!("note: workspace {workspace} is kept");
            return;
        }
        match delete(daemon, workspace, false).await {
            Ok(()) => eprintln!("note: workspace {workspace} was removed again; --keep keeps it"),
            Err(_) => eprintln!(
                "note: workspace {workspace} is left; remove it with `compyctl workspace delete {workspace}`"
            ),
        }
    }
}

/// A command in a shell's words; checked here so that a missing quote is found
/// before anything is created.
fn command_words(text: &str) -> Result<String, String> {
    match shell_words::split(text) {
        Ok(words) if words.is_empty() && !text.is_empty() => {
            Err("the command is empty; leave the option out to have it detected".into())
        }
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!(
            "{error}; write it as for a shell: \"python -m pytest -q\""
        )),
    }
}
