//! `compy-agent serve`: wires the parts together, and ends them in order.

use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use compyd_proto::agent::agent_server::AgentServer;
use compyd_proto::agent::trees_server::TreesServer;
use compyd_proto::agent::tunnel_server::TunnelServer;
use compyd_proto::link;
use nix::libc;
use nix::unistd::Uid;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::transport::Server;

use crate::accounts::{Account, Accounts};
use crate::exec::pool::Pool;
use crate::exec::spool::{Spool, private_dir_all};
use crate::exec::table::{ExecTable, Settings};
use crate::files::FileTools;
use crate::link::{Dialler, links};
use crate::options::Options;
use crate::reaper::Reaper;
use crate::service::tunnel::TunnelService;
use crate::service::{AgentService, TreesService};
use crate::tunnel::desk::Desk;
use crate::{first_use, machine, tree, tunnel};

/// What this agent can do wherever it runs.
const FEATURES: [&str; 4] = [
    link::FEATURE_TREES,
    link::FEATURE_VOLUMES,
    link::FEATURE_CHANGES,
    link::FEATURE_SECRETS,
];

/// Longest time for everything to end after a signal; containers are given 5 s.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(3);
/// How often the heap is looked at after it has changed.
const TRIM_PERIOD: Duration = Duration::from_secs(5);
/// How often at most where it does not: a hundred idle agents are to cost
/// nothing.
const TRIM_PERIOD_IDLE: Duration = Duration::from_secs(80);
/// Change of the resident memory that makes a trim worth its millisecond.
const TRIM_THRESHOLD_BYTES: u64 = 128 * 1024;
/// What a helper keeps at the end of a heap before it gives it back, and the
/// largest piece that comes from a heap: glibc takes up to 32 MiB there.
#[cfg(target_env = "gnu")]
const HELPER_KEEPS_BYTES: libc::c_int = 32 << 20;
/// Threads that may wait for disks and slow peers. They are made when needed
/// and end when idle.
const BLOCKING_THREADS: usize = 256;
const BLOCKING_STACK_BYTES: usize = 512 * 1024;
const BLOCKING_IDLE: Duration = Duration::from_secs(2);

/// What an agent is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Serves {
    /// A workspace, for days, in little memory.
    Workspace,
    /// Volumes, for seconds, as fast as it can.
    Volumes,
}

impl Serves {
    /// One with roots of its own serves volumes.
    fn of(options: &Options) -> Self {
        match options.roots.is_empty() {
            true => Self::Workspace,
            false => Self::Volumes,
        }
    }

    fn stream_window_bytes(self) -> u32 {
        match self {
            Self::Workspace => link::STREAM_WINDOW_BYTES,
            Self::Volumes => link::HELPER_STREAM_WINDOW_BYTES,
        }
    }
}

/// How the allocator is to keep memory; to be called before there are threads.
#[cfg(target_env = "gnu")]
fn set_up_heap(serves: Serves) {
    let settings: &[_] = match serves {
        // A heap for each blocking thread would hold 300 KiB for as long as
        // anything made by that thread lives.
        Serves::Workspace => &[(libc::M_ARENA_MAX, 1)],
        // Chunks and messages come and go by the thousand: their pages are kept,
        // and each thread has a heap of its own.
        Serves::Volumes => &[
            (libc::M_MMAP_THRESHOLD, HELPER_KEEPS_BYTES),
            (libc::M_TRIM_THRESHOLD, HELPER_KEEPS_BYTES),
        ],
    };
    for (setting, value) in settings {
        // SAFETY: mallopt has no preconditions; no other thread runs yet.
        #[allow(unsafe_code)]
        unsafe {
            libc::mallopt(*setting, *value);
        }
    }
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(options: Options) -> ExitCode {
    #[cfg(target_env = "gnu")]
    set_up_heap(Serves::of(&options));
    // One thread drives everything: the work is short, and handing it from
    // core to core would cost more than it takes.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .max_blocking_threads(BLOCKING_THREADS)
        .thread_stack_size(BLOCKING_STACK_BYTES)
        .thread_keep_alive(BLOCKING_IDLE)
        .build();
    let result = runtime.map_err(StartError::Runtime).and_then(|runtime| {
        let result = runtime.block_on(serve(options));
        // A thread that waits for a peer or a disk holds up nobody's end.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("compy-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The agent could not come up.
#[derive(Debug, thiserror::Error)]
enum StartError {
    #[error("could not start the runtime: {0}")]
    Runtime(io::Error),
    #[error("could not set up the process: {0}")]
    Process(io::Error),
    #[error("could not use the state directory {0}: {1}; it must be a writable volume")]
    State(PathBuf, io::Error),
    #[error("the default user cannot be used: {0}")]
    User(#[from] crate::accounts::AccountError),
    #[error("the server ended: {0}")]
    Server(tonic::transport::Error),
}

async fn serve(options: Options) -> Result<(), StartError> {
    let is_init = std::process::id() == 1;
    let serves = Serves::of(&options);
    nix::sys::prctl::set_dumpable(false).map_err(|errno| StartError::Process(errno.into()))?;
    // Orphans come here also when this is not the init of a container.
    nix::sys::prctl::set_child_subreaper(true)
        .map_err(|errno| StartError::Process(errno.into()))?;
    let mut terminate = signal(SignalKind::terminate()).map_err(StartError::Process)?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(StartError::Process)?;

    let accounts = Accounts::default();
    let user = default_user(&accounts, &options.user)?;
    let roots = roots(&options.roots, &user);
    if is_init && Uid::effective().is_root() && serves == Serves::Workspace {
        first_use::prepare(&user, &roots[0]);
        machine::prepare(&options.workspace_id, Path::new("/"));
    }
    let state_error = |error| StartError::State(options.state.clone(), error);
    private_dir_all(&options.state).map_err(state_error)?;
    let spool = Spool::open(&options.state).map_err(state_error)?;
    let files = FileTools::open(
        &options.state,
        roots.clone(),
        accounts.clone(),
        user.clone(),
    )
    .map_err(state_error)?;

    let tracker = TaskTracker::new();
    let shutdown = CancellationToken::new();
    let stop_reaping = CancellationToken::new();
    let reaper = Reaper::start(&tracker, stop_reaping.clone()).map_err(StartError::Process)?;
    let program = std::env::current_exe().map_err(StartError::Process)?;
    let pool = Pool::new(program, tracker.clone());
    let settings = Settings {
        accounts,
        default_user: user.clone(),
        work_dir: roots[0].clone(),
        secrets_dir: link::SECRETS_DIR.into(),
        environment: inherited_environment(),
        is_init,
    };
    let table = ExecTable::open(
        settings,
        spool,
        pool,
        reaper,
        tracker.clone(),
        shutdown.clone(),
    );
    tracker.spawn(trim_heap(serves, stop_reaping.clone()));

    let desk = Desk::new(tracker.clone(), shutdown.clone());
    let proxy_port = proxy_port(options.proxy, &desk).await;
    let mut features = FEATURES.to_vec();
    match tunnel::ssh_agent::start(&options.ssh_agent, &desk) {
        Ok(()) => features.push(link::FEATURE_SSH_AGENT),
        Err(error) => eprintln!(
            "compy-agent: no agent for SSH clients here: cannot listen on {}: {error}",
            options.ssh_agent.display()
        ),
    }
    let tunnel = TunnelServer::new(TunnelService::new(desk));
    let service = AgentServer::new(AgentService::new(
        table, files, &user, proxy_port, &features,
    ))
    .max_decoding_message_size(link::MAX_MESSAGE_BYTES)
    .max_encoding_message_size(link::MAX_MESSAGE_BYTES);
    let trees = TreesServer::new(TreesService)
        .max_decoding_message_size(link::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(link::MAX_MESSAGE_BYTES);
    eprintln!(
        "compy-agent {}: serving workspace {:?} on {}",
        env!("CARGO_PKG_VERSION"),
        options.workspace_id,
        options.link.display()
    );
    let server = Server::builder()
        .initial_stream_window_size(serves.stream_window_bytes())
        .initial_connection_window_size(link::CONNECTION_WINDOW_BYTES)
        .max_frame_size(link::FRAME_BYTES)
        .max_concurrent_streams(link::MAX_STREAMS)
        // The daemon is trusted: however many calls it cancels, the link stays.
        .http2_max_local_error_reset_streams(None)
        .http2_max_pending_accept_reset_streams(Some(usize::MAX))
        .add_service(service)
        .add_service(tunnel)
        .add_service(trees)
        .serve_with_incoming(links(Dialler::Socket(options.link)));
    let result = tokio::select! {
        result = server => result.map_err(StartError::Server),
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    end_everything(&tracker, &shutdown, &stop_reaping, is_init).await;
    result
}

/// Starts the proxy; 0 when it cannot listen. A workspace is of use without.
async fn proxy_port(address: SocketAddr, desk: &Desk) -> u16 {
    match tunnel::proxy::start(address, desk).await {
        Ok(address) => address.port(),
        Err(error) => {
            eprintln!("compy-agent: no proxy here: cannot listen on {address}: {error}");
            0
        }
    }
}

/// Ends every tree, waits for their ends to be recorded, then takes the rest
/// of the container along.
async fn end_everything(
    tracker: &TaskTracker,
    shutdown: &CancellationToken,
    stop_reaping: &CancellationToken,
    is_init: bool,
) {
    shutdown.cancel();
    tracker.close();
    // What was started past the agent, by the engine's exec, has no driver.
    if is_init {
        let _ = tree::send(-1, libc::SIGTERM);
    }
    let drivers = async {
        // The reaper and the heap's task are the two that stay.
        while tracker.len() > 2 {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    let _ = tokio::time::timeout(SHUTDOWN_LIMIT, drivers).await;
    if is_init {
        let _ = tree::send(-1, libc::SIGKILL);
    }
    stop_reaping.cancel();
    let _ = tokio::time::timeout(Duration::from_millis(100), tracker.wait()).await;
}

fn default_user(accounts: &Accounts, wanted: &str) -> Result<Account, StartError> {
    if wanted.is_empty() {
        return Ok(accounts.find(&Uid::effective().to_string())?);
    }
    Ok(accounts.find(wanted)?)
}

fn roots(wanted: &[PathBuf], user: &Account) -> Vec<PathBuf> {
    if !wanted.is_empty() {
        return wanted.to_vec();
    }
    let mut roots = vec![PathBuf::from(link::WORK_DIR)];
    if user.home != Path::new("/") {
        roots.push(user.home.clone());
    }
    roots.extend(["/tmp", "/var/tmp"].map(PathBuf::from));
    roots
}

/// What the image and the engine gave the container, without what only a
/// first process has.
fn inherited_environment() -> Vec<(Vec<u8>, Vec<u8>)> {
    use std::os::unix::ffi::OsStringExt as _;
    std::env::vars_os()
        .map(|(name, value)| (name.into_vec(), value.into_vec()))
        .filter(|(name, _)| !name.starts_with(b"COMPY_") && name != b"TERM")
        .collect()
}

/// Gives memory back to the container after a burst: the allocator alone keeps
/// what a flood of output has used. A helper ends before that would be of use.
async fn trim_heap(serves: Serves, stop: CancellationToken) {
    if serves == Serves::Volumes {
        return stop.cancelled().await;
    }
    let mut after_last = resident_bytes();
    let mut period = TRIM_PERIOD;
    loop {
        tokio::select! {
            () = tokio::time::sleep(period) => {}
            () = stop.cancelled() => return,
        }
        // An idle agent does not change, and is left alone.
        if resident_bytes().abs_diff(after_last) > TRIM_THRESHOLD_BYTES {
            // SAFETY: malloc_trim has no preconditions.
            #[allow(unsafe_code)]
            #[cfg(target_env = "gnu")]
            unsafe {
                libc::malloc_trim(0);
            }
            after_last = resident_bytes();
            period = TRIM_PERIOD;
        } else {
            period = (2 * period).min(TRIM_PERIOD_IDLE);
        }
    }
}

/// Resident memory of this process, in bytes.
pub(crate) fn resident_bytes() -> u64 {
    std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|statm| statm.split(' ').nth(1)?.parse::<u64>().ok())
        .map_or(0, |pages| pages * 4096)
}
