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

/// Where the engine is.
pub(super) const ENGINE_HOST: &str = "engine.host";

/// Says where the engine is to whoever uses it, where no key does.
pub(super) const DOCKER_HOST_VARIABLE: &str = "DOCKER_HOST";

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
            "Where clients are served: unix:///PATH; https://IP:PORT for TCP with TLS, where a token is asked for; tcp://IP:PORT without TLS on a loopback address. A list.",
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
        ENGINE_HOST,
        Default::Unset,
        "The engine's socket, unix:///PATH; unset means DOCKER_HOST, and without that the engine's own default.",
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
    Key {
        values: Values::Many,
        ..key(
            "model.windows",
            Default::Unset,
            "Tokens of a conversation that a model takes: MODEL=TOKENS, where MODEL may end in *. A list; the first that fits counts, else 128000.",
        )
    },
    key(
        "model.compact_at",
        Default::Fixed("75"),
        "Per cent of its window from which on a conversation is compacted: 10 to 95.",
    ),
    key(
        "model.retries",
        Default::Fixed("2"),
        "How often a failed call is tried again.",
    ),
    Key {
        values: Values::Many,
        ..key(
            "model.edit_formats",
            Default::Unset,
            "How models write edits, MODEL=FORMAT: a name or a name's begin and *; replace, blocks, diff, patch or whole. Where nothing fits, patch for OpenAI's own models and replace for all others. A list.",
        )
    },
    key(
        "model.record_dir",
        Default::Unset,
        "Where each session's model replies are written, as transcripts that scripted:FILE plays.",
    ),
    key(
        "credentials.key_file",
        Default::Unset,
        "The file with the master key of stored credentials, made at the first start. Default: credentials.key in the data directory.",
    ),
    Key {
        shown: Shown::Hidden,
        ..key(
            "credentials.key",
            Default::Unset,
            "The master key itself, 64 hex digits, instead of a file. Better in the environment than here.",
        )
    },
    key(
        "credentials.key_command",
        Default::Unset,
        "A program with arguments that prints the master key, instead of a file: \"pass show compy\".",
    ),
    key(
        "credentials.forget_lost",
        Default::Fixed("false"),
        "Whether credentials are deleted whose master key is lost. Otherwise the daemon does not start without it.",
    ),
    key(
        "recovery.patterns_file",
        Default::Unset,
        "Failures that the daemon knows beside its own, in the format of its catalogue.toml.",
    ),
    key(
        "policy.file",
        Default::Unset,
        "Rules on what sessions may do alone, ask for or not do; before the daemon's own. Read again when it changes.",
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
        "session.rules_tokens",
        Default::Fixed("4000"),
        "Tokens of a repository's own rules (AGENTS.md, and compy.toml's knowledge) that a model is told at most.",
    ),
    key(
        "session.bundle_max",
        Default::Fixed("2GiB"),
        "Size of what is brought from a workspace to be published: a branch with its history.",
    ),
    key(
        "session.check_timeout",
        Default::Fixed("30m"),
        "How long a run of tests, lint or types may take; longer is a failure.",
    ),
    key(
        "budget.tokens",
        Default::Unset,
        "Tokens, input and output, that a session may take; unset: as many as it needs.",
    ),
    key(
        "budget.money",
        Default::Unset,
        "Money that a session may cost, in the currency of budget.prices: 2.50.",
    ),
    key(
        "budget.day_tokens",
        Default::Unset,
        "Tokens that all sessions may take on a day (UTC) together.",
    ),
    key(
        "budget.day_money",
        Default::Unset,
        "Money that all sessions may cost on a day together.",
    ),
    key(
        "budget.day_steps",
        Default::Unset,
        "Steps of all sessions on a day together.",
    ),
    key(
        "budget.day_time",
        Default::Unset,
        "Time in which sessions run on a day, added up.",
    ),
    key(
        "budget.warn_at",
        Default::Fixed("80"),
        "Per cent of a limit (of tokens, money, steps or time) from which on a session warns.",
    ),
    key(
        "budget.pause_at",
        Default::Unset,
        "Per cent of a limit at which a session pauses once, for a person to look; unset: it does not.",
    ),
    Key {
        values: Values::Many,
        ..key(
            "budget.prices",
            Default::Unset,
            "What a million tokens of a model cost: MODEL=INPUT/CACHED/WRITTEN/OUTPUT, where MODEL may end in *. A list; the first that fits counts.",
        )
    },
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
    Key {
        values: Values::Many,
        ..key(
            "tls.names",
            Default::Unset,
            "More names and IP addresses that clients reach the daemon by, for its certificate; it has this machine's own. A list.",
        )
    },
    key(
        "remote.calls_per_second",
        Default::Fixed("100"),
        "Calls that a token may make in a second, 1 to 1000000; for a moment, twice as many.",
    ),
    key(
        "remote.streams",
        Default::Fixed("64"),
        "Calls of a token that may be open at once, 1 to 10000.",
    ),
    key(
        "remote.message_max",
        Default::Fixed("20MiB"),
        "Size of a message that is taken of a token, 64KiB to 20MiB.",
    ),
    key(
        "remote.connections",
        Default::Fixed("512"),
        "Connections over TCP, 1 to 100000. The oldest without a token goes for a new one.",
    ),
    key(
        "remote.connections_per_address",
        Default::Fixed("128"),
        "Connections over TCP of one address, 1 to 100000.",
    ),
    key(
        "remote.connections_per_token",
        Default::Fixed("32"),
        "Connections over TCP of one token, 1 to 100000.",
    ),
    key(
        "metrics.listen",
        Default::Unset,
        "Where metrics are served for Prometheus, at /metrics: PORT on loopback, or IP:PORT.",
    ),
    key(
        "audit.keep",
        Default::Fixed("365d"),
        "How long records of the audit log are kept.",
    ),
    key(
        "audit.max",
        Default::Fixed("4GiB"),
        "What the audit log may take; the oldest records go beyond it.",
    ),
    key(
        "audit.checkpoint_every",
        Default::Fixed("1h"),
        "At least how often new records of the audit log are signed.",
    ),
    key(
        "gc.every",
        Default::Fixed("1h"),
        "How often what nothing needs any more is removed.",
    ),
    key(
        "gc.grace",
        Default::Fixed("1h"),
        "How old something in the engine is at least before it is removed by itself.",
    ),
];
