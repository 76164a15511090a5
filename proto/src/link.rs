//! What the daemon and the agent must both know about the link between them:
//! protocol version, paths inside the container, HTTP/2 settings.
//!
//! The HTTP/2 numbers answer measured traps. With the default connection
//! window, ten unread streams hang every other call; with the default reset
//! limit, about 1,024 cancelled streams end a connection.

/// Raised when an old peer cannot work with a new one.
pub const PROTOCOL_MAJOR: u32 = 1;
/// Raised with each addition to the protocol.
pub const PROTOCOL_MINOR: u32 = 1;

/// Feature of an agent that serves `Trees`.
pub const FEATURE_TREES: &str = "trees";

/// Feature of an agent that counts the bytes of volumes.
pub const FEATURE_VOLUMES: &str = "volumes";

/// Feature of an agent that changes several files at once.
pub const FEATURE_CHANGES: &str = "changes";

/// Feature of an agent that gives commands their credentials.
pub const FEATURE_SECRETS: &str = "secrets";

/// Feature of an agent that brings SSH clients to the daemon, and to their hosts.
pub const FEATURE_SSH_AGENT: &str = "ssh-agent";

/// Bytes one stream may have in flight, on both ends.
pub const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
/// The same on the link of a helper, whose few streams carry whole volumes: with
/// less, who reads files waits for who writes them.
pub const HELPER_STREAM_WINDOW_BYTES: u32 = 8 * 1024 * 1024;
/// Bytes one connection may have in flight, on both ends: room for more than
/// two hundred stalled streams before anybody else waits.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;
/// Calls that may be open on one link: every tunnelled connection is one.
pub const MAX_STREAMS: u32 = 1024;
/// Connections of one workspace that are tunnelled at a time, in each
/// direction. All of them stalled leave half of the connection window to others.
pub const MAX_TUNNELS: usize = 128;
/// Largest HTTP/2 frame either end accepts. With the default of 16 KiB the
/// framing costs more than half of the speed of a flood of output.
pub const FRAME_BYTES: u32 = 256 * 1024;
/// Largest message either side accepts: a whole-file write and its envelope.
pub const MAX_MESSAGE_BYTES: usize = 20 * 1024 * 1024;
/// Largest piece of output, stdin or archive in one message.
pub const MAX_CHUNK_BYTES: usize = 1024 * 1024;

/// Where the agent's proxy listens on the container's loopback.
pub const PROXY_PORT: u16 = 3128;

/// The daemon's per-workspace directory, mounted read-only into the container.
pub const LINK_DIR: &str = "/run/compy/link";
/// The daemon's socket in it, which the agent dials.
pub const LINK_SOCKET: &str = "/run/compy/link/daemon.sock";
/// Where the volume with the agent's binary is mounted, read-only.
pub const AGENT_DIR: &str = "/.compy";
/// The agent's binary in that volume.
pub const AGENT_BINARY: &str = "/.compy/compy-agent";
/// Where commands find files with credentials, on a tmpfs.
pub const SECRETS_DIR: &str = "/run/compy/secrets";
/// Where SSH clients find their agent: each connection is announced to the daemon
/// as one to [`SSH_AGENT_HOST`].
pub const SSH_AGENT_SOCKET: &str = "/run/compy/ssh-agent.sock";
/// The name of the daemon's own answers to SSH clients; of any port.
pub const SSH_AGENT_HOST: &str = "ssh-agent.compy.internal";
/// The volume that holds exec spools and receipts.
pub const STATE_DIR: &str = "/var/lib/compy";
/// The volume that holds the repositories.
pub const WORK_DIR: &str = "/workspace";

/// Domain of the `google.rpc.ErrorInfo` in the agent's errors.
pub const ERROR_DOMAIN: &str = "agent.compy";
