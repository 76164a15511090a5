//! What every container of ours may do, and no more. Nothing here depends on
//! who asks.

use std::{collections::HashMap, path::Path};

use bollard::models::{
    HostConfig, HostConfigLogConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum,
    MountType, MountVolumeOptions, RestartPolicy, RestartPolicyNameEnum,
};

use crate::domain::workspace::{Limits, NetworkMode};

/// What `apt-get install` needs of root, and the agent to give each command its
/// account and to end it. Each was found by taking it away.
pub const CAPABILITIES: [&str; 7] = [
    // Give files to their owners; dpkg and the agent's uploads do.
    "CHOWN",
    // Write below directories of other accounts.
    "DAC_OVERRIDE",
    // Set modes and times of files of other accounts.
    "FOWNER",
    // Keep setgid when dpkg gives a file to a group such as `mail`.
    "FSETID",
    // End commands of other accounts.
    "KILL",
    // Become the account of a command; apt becomes `_apt`.
    "SETGID",
    "SETUID",
];

/// Where the link and the secrets are: nothing on it survives a stop.
const RUN_DIR: &str = "/run/compy";

/// The tmpfs mounts of a container.
pub(super) fn tmpfs() -> HashMap<String, String> {
    let options = "mode=0711,size=16m,nosuid,nodev,noexec".to_owned();
    HashMap::from([(RUN_DIR.to_owned(), options)])
}

/// A named volume.
pub(super) fn volume(name: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        typ: Some(MountType::VOLUME),
        source: Some(name.to_owned()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        ..Default::default()
    }
}

/// A volume that is not filled from the image when it is empty.
pub(super) fn without_copy(mount: Mount) -> Mount {
    Mount {
        volume_options: Some(MountVolumeOptions {
            no_copy: Some(true),
            ..Default::default()
        }),
        ..mount
    }
}

/// A file or directory of the host, read-only.
pub(super) fn bind(source: &Path, target: &str) -> Mount {
    bind_as(source, target, MountBindOptionsPropagationEnum::RPRIVATE)
}

/// The same of the engine's own directories, which it hands out in no other
/// way: what it unmounts later is not to be held by the container.
pub(super) fn bind_of_engine(source: &Path, target: &str) -> Mount {
    bind_as(source, target, MountBindOptionsPropagationEnum::RSLAVE)
}

fn bind_as(source: &Path, target: &str, how: MountBindOptionsPropagationEnum) -> Mount {
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(true),
        bind_options: Some(MountBindOptions {
            propagation: Some(how),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// The engine's settings for a workspace's container.
pub(super) fn host_config(
    limits: &Limits,
    network: NetworkMode,
    mounts: Vec<Mount>,
    tmpfs: HashMap<String, String>,
) -> HostConfig {
    let memory = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
    HostConfig {
        nano_cpus: Some(i64::from(limits.cpu_millis) * 1_000_000),
        memory: Some(memory),
        // Memory and swap together: no swap beyond the memory.
        memory_swap: Some(memory),
        pids_limit: Some(i64::from(limits.pids)),
        cap_drop: Some(vec!["ALL".to_owned()]),
        cap_add: Some(CAPABILITIES.map(str::to_owned).to_vec()),
        // The engine's default seccomp profile applies when none is named.
        security_opt: Some(vec!["no-new-privileges".to_owned()]),
        privileged: Some(false),
        network_mode: Some(
            match network {
                NetworkMode::None => "none",
                NetworkMode::Bridge => "bridge",
            }
            .to_owned(),
        ),
        mounts: Some(mounts),
        tmpfs: Some(tmpfs),
        // The agent is the init, and the daemon starts containers itself: the
        // link's socket must be new before each start.
        init: Some(false),
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        // Commands' output never goes through here; this is the agent's log.
        log_config: Some(HostConfigLogConfig {
            typ: Some("json-file".to_owned()),
            config: Some(HashMap::from([
                ("max-size".to_owned(), "1m".to_owned()),
                ("max-file".to_owned(), "2".to_owned()),
            ])),
        }),
        ..Default::default()
    }
}
