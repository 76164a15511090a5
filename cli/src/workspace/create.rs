//! `compyctl workspace create`.

use clap::{Args, ValueEnum};
use compyd_proto::v1::{
    CreateWorkspaceRequest, GetWorkspaceRequest, IdleStop, Limits, NetworkMode, Workspace,
};

use super::egress::EgressOptions;
use super::{RepositorySource, add_repository, print_workspace};
use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};
use crate::values;

/// What a workspace is made of; shared with `run`.
#[derive(Debug, Clone, Args)]
pub(crate) struct MachineOptions {
    /// Image to make it from; default: the daemon's.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "IMAGE"
    )]
    image: String,
    /// CPUs at most: 2, 0.5; default: the daemon's.
    #[arg(long, value_parser = values::cpu_millis, value_name = "N")]
    cpus: Option<u32>,
    /// Memory at most: 512M, 4G; default: the daemon's.
    #[arg(long, value_parser = values::memory_bytes, value_name = "SIZE")]
    memory: Option<u64>,
    /// Processes and threads at most; default: the daemon's.
    #[arg(long, value_parser = clap::value_parser!(u32).range(16..=1_000_000), value_name = "N")]
    pids: Option<u32>,
    /// What its files may use: 20G; looked at now and then. Default: the
    /// daemon's.
    #[arg(long, value_parser = values::disk_bytes, value_name = "SIZE")]
    disk: Option<u64>,
    /// Stop it when nobody has used it for so long: 30m, 8h; or never. The next
    /// use starts it. Default: the daemon's.
    #[arg(long, value_parser = super::set::idle_stop, value_name = "TIME|never")]
    idle_stop: Option<IdleStop>,
    /// Network: no device but loopback, or the engine's bridge.
    #[arg(long, value_enum, default_value = "none", value_name = "MODE")]
    network: Network,
    #[command(flatten)]
    egress: EgressOptions,
    /// Account that commands run as; default: the image's.
    #[arg(
        long,
        default_value = "",
        hide_default_value = true,
        value_name = "USER"
    )]
    user: String,
}

/// Network of a workspace.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Network {
    /// No device but loopback.
    None,
    /// The engine's default bridge.
    Bridge,
}

/// `compyctl workspace create NAME`.
#[derive(Debug, Args)]
pub(crate) struct CreateArguments {
    /// Unique name: 1 to 63 characters of a-z, 0-9, '.', '_' and '-'.
    name: String,
    /// A repository to put into it: a path or a URL, with an optional branch,
    /// tag or commit. May be given more than once.
    #[arg(long = "repo", value_name = "PATH_OR_URL[#REF]")]
    repositories: Vec<String>,
    /// Leave their compy.toml aside: nothing of the repositories runs.
    #[arg(long)]
    no_setup: bool,
    #[command(flatten)]
    machine: MachineOptions,
}

impl CreateArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let mut sources = Vec::new();
        for text in &self.repositories {
            sources.push(RepositorySource::find(text).await?);
        }
        let daemon = context.daemon().await?;
        let mut workspace = Some(create(&daemon, &self.name, &self.machine).await?);
        for source in &sources {
            add_repository(&daemon, &self.name, "", source, self.no_setup).await.inspect_err(|_| {
                eprintln!(
                    "note: workspace {0} exists; add the repository with `compyctl workspace add-repo {0} SOURCE`, \
                     or delete it with `compyctl workspace delete {0}`",
                    self.name
                );
            })?;
        }
        if !sources.is_empty() {
            let request = GetWorkspaceRequest {
                workspace: self.name.clone(),
            };
            workspace = daemon
                .call(|| {
                    let (mut client, request) = (daemon.workspaces(), request.clone());
                    async move { client.get_workspace(request).await }
                })
                .await?
                .workspace;
        }
        print_workspace(context, workspace)
    }
}

/// Creates a workspace.
pub(crate) async fn create(
    daemon: &Daemon,
    name: &str,
    machine: &MachineOptions,
) -> Result<Workspace, Failure> {
    let request = CreateWorkspaceRequest {
        request_id: request_id(),
        name: name.to_owned(),
        image: machine.image.clone(),
        limits: Some(Limits {
            cpu_millis: machine.cpus.unwrap_or(0),
            memory_bytes: machine.memory.unwrap_or(0),
            pids: machine.pids.unwrap_or(0),
            disk_bytes: machine.disk.unwrap_or(0),
        }),
        network: match machine.network {
            Network::None => NetworkMode::None,
            Network::Bridge => NetworkMode::Bridge,
        }
        .into(),
        user: machine.user.clone(),
        egress: machine.egress.to_wire(),
        idle_stop: machine.idle_stop,
    };
    let response = daemon
        .call(|| {
            let (mut client, request) = (daemon.workspaces(), request.clone());
            async move { client.create_workspace(request).await }
        })
        .await?;
    Ok(response.workspace.unwrap_or_default())
}
