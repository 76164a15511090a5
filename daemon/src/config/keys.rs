//! The table of everything that can be set.

/// Something that can be set.
#[derive(Debug)]
pub(super) struct Key {
    /// As in the file: "workspace.memory".
    pub name: &'static str,
    /// Its own environment variable where that is not `COMPY_` and its name.
    pub variable: Option<&'static str>,
    /// Its value when nobody sets it.
    pub default: Default,
    /// How many values it has.
    pub values: Values,
    /// Whether it is shown.
    pub shown: Shown,
    /// What it is, for the sample file.
    pub about: &'static str,
}

/// A key's value when nobody sets it.
#[derive(Debug)]
pub(super) enum Default {
    /// Always this.
    Fixed(&'static str),
    /// None.
    Unset,
    /// It depends on who runs the daemon; described for the sample.
    Derived(&'static str),
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Values {
    One,
    Many,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Shown {
    Yes,
    /// A secret; only whether it is set.
    Hidden,
}

impl Key {
    /// Its environment variable.
    pub(super) fn variable(&self) -> String {
        self.variable.map_or_else(
            || format!("COMPY_{}", self.name.replace('.', "_").to_uppercase()),
            str::to_owned,
        )
    }
}

/// The key with this name.
pub(super) fn find(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// Sets the base URL of the default model's provider.
pub(super) const BASE_URL_VARIABLE: &str = "COMPY_MODEL_BASE_URL";

/// Variables of the client, which a daemon started from the same shell sees.
pub(super) const CLIENT_VARIABLES: &[&str] = &[
    "COMPY_ENDPOINT",
    "COMPY_TOKEN_FILE",
    "COMPY_OUTPUT",
    "COMPY_CONFIG",
];

const fn key(name: &'static str, default: Default, about: &'static str) -> Key {
    Key {
        name,
        variable: None,
        default,
        values: Values::One,
        shown: Shown::Yes,
        about,
    }
}

/// Everything that can be set, in the order of the sample file: keys without a
/// table first.
pub(super) const KEYS: &[Key] = &[
    key(
        "data_dir",
        Default::Derived("/var/lib/compy for root, else $XDG_DATA_HOME/compy"),
        "Where everything is kept. One daemon at a time.",
    ),
    Key {
        values: Values::Many,
        ..key(
            "listen",
            Default::Derived(
                "/run/compy/compyd.sock for root, else $XDG_RUNTIME_DIR/compy/compyd.sock",
            ),
            "Where clients are served: unix:///PATH, or tcp://HOST:PORT on a loopback address. A list.",
        )
    },
    key(
        "shutdown_grace",
        Default::Fixed("20s"),
        "How long a shutdown waits for what is under way.",
    ),
    key(
        "log.filter",
        Default::Fixed("info"),
        "What is logged: a level, or directives like \"info,compyd=debug\".",
    ),
    key("log.format", Default::Fixed("text"), "text or json."),
    key(
        "workspace.image",
        Default::Fixed("compy/base:latest"),
        "The image of workspaces that name none.",
    ),
    key(
        "workspace.cpu",
        Default::Fixed("2"),
        "CPUs of a workspace, with a fraction.",
    ),
    key(
        "workspace.memory",
        Default::Fixed("4GiB"),
        "Memory of a workspace: bytes, or with KiB, MiB, GiB. No swap beyond it.",
    ),
    key(
        "workspace.pids",
        Default::Fixed("4096"),
        "Processes and threads of a workspace.",
    ),
    key(
        "workspace.disk",
        Default::Fixed("0"),
        "What the files of a workspace may use: bytes, or with MiB, GiB; 0 is no limit. Looked at now and then.",
    ),
    key(
        "workspace.idle_stop",
        Default::Fixed("never"),
        "When a workspace that nobody uses is stopped: 30m, 8h, or never. The next use starts it.",
    ),
    key(
        "workspace.network",
        Default::Fixed("none"),
        "none or bridge.",
    ),
    key(
        "workspace.extra_ca_file",
        Default::Unset,
        "A CA bundle that containers trust besides their own, for networks that intercept TLS.",
    ),
    key(
        "workspace.agent_file",
        Default::Derived("compy-agent beside compyd"),
        "The static binary that runs in workspaces.",
    ),
    key(
        "exec.stream_quota",
        Default::Fixed("1GiB"),
        "What is kept of each output of a command: its beginning and its end, half each.",
    ),
    key(
        "exec.total_quota",
        Default::Fixed("8GiB"),
        "What the outputs of a workspace's commands may take together; the commands that ended first lose theirs.",
    ),
    key(
        "exec.output_age",
        Default::Fixed("7days"),
        "How long output is kept after its command has ended; 0s: for ever.",
    ),
    key(
        "egress.default",
        Default::Fixed("none"),
        "What workspaces without a network reach that say nothing: none, allow (the hosts of egress.allow) or open.",
    ),
    Key {
        values: Values::Many,
        ..key(
            "egress.allow",
            Default::Unset,
            "Hosts of the default, when that is allow: HOST, *.DOMAIN, each with an optional :PORT. A list.",
        )
    },
    Key {
        values: Values::Many,
        ..key(
            "egress.allow_networks",
            Default::Unset,
            "Private networks that workspaces may reach where their rules allow the host: 10.1.0.0/16. A list.",
        )
    },
    key(
        "engine.host",
        Default::Unset,
        "The engine's socket, unix:///PATH; unset means its own default.",
    ),
    Key {
        values: Values::Many,
        ..key(
            "engine.labels",
            Default::Unset,
            "Labels on every container and volume, KEY=VALUE. A list.",
        )
    },
    Key {
        variable: Some("COMPY_MODEL"),
        ..key(
            "model.default",
            Default::Unset,
            "The model of sessions that name none: openai:NAME, anthropic:NAME or scripted:FILE.",
        )
    },
    key(
        "model.openai_base_url",
        Default::Unset,
        "Base URL of an OpenAI-compatible server; unset means OpenAI's own. COMPY_MODEL_BASE_URL sets it too.",
    ),
    key(
        "model.anthropic_base_url",
        Default::Unset,
        "Base URL of Anthropic's API; unset means Anthropic's own. COMPY_MODEL_BASE_URL sets it for an anthropic: model.",
    ),
    Key {
        variable: Some("OPENAI_API_KEY"),
        shown: Shown::Hidden,
        ..key(
            "model.openai_api_key",
            Default::Unset,
            "Key for OpenAI-compatible servers. Better in OPENAI_API_KEY than here.",
        )
    },
    Key {
        variable: Some("ANTHROPIC_API_KEY"),
        shown: Shown::Hidden,
        ..key(
            "model.anthropic_api_key",
            Default::Unset,
            "Key for Anthropic's API. Better in ANTHROPIC_API_KEY than here.",
        )
    },
    key(
        "model.idle_timeout",
        Default::Fixed("5m"),
        "How long a reply may stand still.",
    ),
    key(
        "model.max_output_tokens",
        Default::Fixed("8192"),
        "Output cap of each call.",
    ),
    key(
        "model.retries",
        Default::Fixed("4"),
        "How often a failed call is tried again.",
    ),
    key(
        "model.record_dir",
        Default::Unset,
        "Where each session's model replies are written, as transcripts that scripted:FILE plays.",
    ),
    key(
        "session.max_steps",
        Default::Fixed("200"),
        "Steps of a session.",
    ),
    key(
        "session.max_time",
        Default::Fixed("2h"),
        "Time of a session.",
    ),
    key(
        "session.bundle_max",
        Default::Fixed("2GiB"),
        "Size of what is brought from a workspace to be published: a branch with its history.",
    ),
    key(
        "snapshots.overlays",
        Default::Fixed("true"),
        "Whether restored and forked volumes may lie over copies; false fills each whole.",
    ),
    key(
        "snapshots.copies_max",
        Default::Fixed("20GiB"),
        "Room for copies of volumes that restores and forks lie over; 0 keeps only those in use.",
    ),
    key(
        "snapshots.layers_max",
        Default::Fixed("40"),
        "Layers, 1 to 90, that snapshots may put on an image before they are made one.",
    ),
    key(
        "repository.allow_file_urls",
        Default::Fixed("false"),
        "Whether the daemon fetches from file:// URLs, which are its own host's files.",
    ),
    key(
        "disk.low_water",
        Default::Fixed("256MiB"),
        "Free space below which nothing more is written.",
    ),
    key(
        "gc.every",
        Default::Fixed("1h"),
        "How often content that no snapshot names any more is removed.",
    ),
];
