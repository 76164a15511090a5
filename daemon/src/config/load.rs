//! Merging the sources, and parsing what came out.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use compyd_proto::endpoint::default_socket_path;

use super::{
    BudgetSettings, ConfigError, CredentialsSettings, DiskSettings, EgressSettings, EngineSettings,
    GcSettings, KeySource, LogSettings, Mistake, ModelSettings, Origin, RemoteSettings,
    RepositorySettings, SessionSettings, Settings, SnapshotsSettings, Source, WorkspaceSettings,
    keys::{
        self, BASE_URL_VARIABLE, CLIENT_VARIABLES, DOCKER_HOST_VARIABLE, Default, ENGINE_HOST,
        KEYS, Key, Shown, Values,
    },
    values,
};
use crate::domain::{
    audit::AuditUpkeep,
    budget::{self, Marks, Money, NotAPrice, NotMoney},
    compaction::NotAWindow,
    credential::seal::MasterKey,
    edits::EditFormats,
    egress::{HostPattern, Network, Policy},
    exec::SpoolLimits,
    model_name::ModelName,
    secret::Secret,
    session::options::Budget,
    workspace::Limits,
};

/// How alike two names are when one is taken for a slip of the other.
const ALIKE: f64 = 0.75;

/// What the command line says.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--config`; it must exist.
    pub config: Option<PathBuf>,
    /// `--set KEY=VALUE` and the flags that stand for one: flag, key, values.
    pub values: Vec<(String, String, Vec<String>)>,
}

/// Who runs the daemon and where, for what nobody sets.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// The account.
    pub uid: u32,
    /// Where `compyd` itself is.
    pub program: PathBuf,
}

/// Merges defaults, file, environment and flags.
///
/// # Errors
/// Every mistake that was found, not only the first.
pub fn load(
    flags: &Flags,
    environment: impl IntoIterator<Item = (String, String)>,
    surroundings: &Surroundings,
) -> Result<Settings, ConfigError> {
    let environment: BTreeMap<String, String> = environment.into_iter().collect();
    let mut merged = Merged::default();
    merged.take_defaults(&environment, surroundings);
    if let Some((file, text)) = merged.read_file(flags, &environment, surroundings) {
        merged.take_file(&file, &text);
    }
    merged.take_environment(&environment);
    merged.take_flags(flags);
    let settings = merged.parse();
    match settings {
        Some(settings) if merged.mistakes.is_empty() => Ok(settings),
        _ => Err(ConfigError(merged.mistakes)),
    }
}

/// The values so far, and everything that was wrong.
#[derive(Default)]
struct Merged {
    values: BTreeMap<&'static str, (Vec<String>, Source)>,
    mistakes: Vec<Mistake>,
    warnings: Vec<String>,
}

impl Merged {
    fn set(&mut self, key: &'static Key, values: Vec<String>, source: Source) {
        self.values.insert(key.name, (values, source));
    }

    fn take_defaults(
        &mut self,
        environment: &BTreeMap<String, String>,
        surroundings: &Surroundings,
    ) {
        for key in KEYS {
            let value = match (&key.default, key.name) {
                (Default::Fixed(value), _) => (*value).to_owned(),
                (Default::Unset, _) => continue,
                (Default::Derived(_), "data_dir") => {
                    match default_data_dir(environment, surroundings.uid) {
                        Some(dir) => dir.display().to_string(),
                        None => continue,
                    }
                }
                (Default::Derived(_), "listen") => {
                    let runtime_dir = environment.get("XDG_RUNTIME_DIR").map(String::as_str);
                    let path = default_socket_path(runtime_dir, surroundings.uid);
                    format!("unix://{}", path.display())
                }
                (Default::Derived(_), _) => {
                    let beside = surroundings.program.with_file_name("compy-agent");
                    beside.display().to_string()
                }
            };
            self.set(key, vec![value], Source::Default);
        }
    }

    /// The file that counts and its text; only one that was asked for must be
    /// there.
    fn read_file(
        &mut self,
        flags: &Flags,
        environment: &BTreeMap<String, String>,
        surroundings: &Surroundings,
    ) -> Option<(PathBuf, String)> {
        let file = match &flags.config {
            Some(file) => file.clone(),
            None => default_file(environment, surroundings.uid)?,
        };
        match fs::read_to_string(&file) {
            Ok(text) => Some((file, text)),
            Err(error) if flags.config.is_none() && error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => {
                let problem = format!("it cannot be read: {error}");
                self.mistakes.push(Mistake::File { file, problem });
                None
            }
        }
    }

    fn take_file(&mut self, file: &Path, text: &str) {
        match text.parse::<toml::Table>() {
            Ok(table) => self.take_table(file, "", &table),
            Err(error) => self.mistakes.push(Mistake::File {
                file: file.to_owned(),
                problem: error.to_string().trim_end().replace('\n', "\n    "),
            }),
        }
    }

    fn take_table(&mut self, file: &Path, prefix: &str, table: &toml::Table) {
        let source = || Source::File(file.to_owned());
        for (name, value) in table {
            let name = format!("{prefix}{name}");
            if let Some(key) = keys::find(&name) {
                match texts(key, value) {
                    Ok(values) => self.set(key, values, source()),
                    Err(problem) => self.mistakes.push(Mistake::Invalid {
                        key: key.name,
                        value: shown(key, &[value.to_string()]),
                        source_of_it: source(),
                        problem: problem.to_owned(),
                    }),
                }
                continue;
            }
            let below = format!("{name}.");
            match value {
                toml::Value::Table(inner)
                    if KEYS.iter().any(|key| key.name.starts_with(&below)) =>
                {
                    self.take_table(file, &below, inner);
                }
                _ => self.unknown(&name, source()),
            }
        }
    }

    fn unknown(&mut self, name: &str, source: Source) {
        let tables = [
            "log",
            "workspace",
            "egress",
            "engine",
            "model",
            "session",
            "snapshots",
            "repository",
            "disk",
            "audit",
            "gc",
            "metrics",
            "tls",
            "remote",
        ];
        let known = KEYS.iter().map(|key| key.name).chain(tables);
        self.mistakes.push(Mistake::Unknown {
            name: name.to_owned(),
            source_of_it: source,
            nearest: nearest(name, known).map(|(known, _)| known),
        });
    }

    fn take_environment(&mut self, environment: &BTreeMap<String, String>) {
        for key in KEYS {
            let variable = key.variable();
            if let Some(value) = environment.get(&variable).filter(|value| !value.is_empty()) {
                let values = match key.values {
                    Values::One => vec![value.clone()],
                    Values::Many => value
                        .split(',')
                        .map(|part| part.trim().to_owned())
                        .collect(),
                };
                self.set(key, values, Source::Variable(variable));
            }
        }
        if let Some(url) = environment
            .get(BASE_URL_VARIABLE)
            .filter(|url| !url.is_empty())
        {
            let anthropic = self.values.get("model.default").is_some_and(|(values, _)| {
                values.iter().any(|value| value.starts_with("anthropic:"))
            });
            let name = if anthropic {
                "model.anthropic_base_url"
            } else {
                "model.openai_base_url"
            };
            let key = keys::find(name).expect("both are in the table");
            let source = Source::Variable(BASE_URL_VARIABLE.to_owned());
            self.set(key, vec![url.clone()], source);
        }
        if !self.values.contains_key(ENGINE_HOST)
            && let Some(host) = environment
                .get(DOCKER_HOST_VARIABLE)
                .filter(|host| !host.is_empty())
        {
            let key = keys::find(ENGINE_HOST).expect("it is in the table");
            let source = Source::Variable(DOCKER_HOST_VARIABLE.to_owned());
            self.set(key, vec![host.clone()], source);
        }
        let variables: Vec<String> = KEYS.iter().map(Key::variable).collect();
        for name in environment.keys().filter(|name| name.starts_with("COMPY_")) {
            if variables.contains(name)
                || name == BASE_URL_VARIABLE
                || CLIENT_VARIABLES.contains(&name.as_str())
            {
                continue;
            }
            let best = KEYS
                .iter()
                .map(|key| {
                    (
                        key,
                        strsim::normalized_damerau_levenshtein(name, &key.variable()),
                    )
                })
                .max_by(|(_, a), (_, b)| a.total_cmp(b))
                .filter(|(_, alike)| *alike >= ALIKE);
            match best {
                Some((key, _)) => self.mistakes.push(Mistake::Invalid {
                    key: key.name,
                    value: "…".to_owned(),
                    source_of_it: Source::Variable(name.clone()),
                    problem: format!(
                        "there is no such variable, did you mean {}?",
                        key.variable()
                    ),
                }),
                // Shells and service managers export names for other programs.
                None => self
                    .warnings
                    .push(format!("variable {name} means nothing to compyd")),
            }
        }
    }

    fn take_flags(&mut self, flags: &Flags) {
        for (flag, name, values) in &flags.values {
            match keys::find(name) {
                Some(key) => self.set(key, values.clone(), Source::Flag(flag.clone())),
                None => self.unknown(name, Source::Flag(flag.clone())),
            }
        }
    }

    /// Parses one key; a mistake is noted and everything else still looked at.
    fn one<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<T> {
        let Some((values, source)) = self.values.get(name).cloned() else {
            self.mistakes.push(Mistake::Invalid {
                key: name,
                value: String::new(),
                source_of_it: Source::Default,
                problem: "it has no default here; set it".to_owned(),
            });
            return None;
        };
        let problem = match values.as_slice() {
            [value] => match parse(value) {
                Ok(parsed) => return Some(parsed),
                Err(problem) => problem,
            },
            _ => "give one value".to_owned(),
        };
        self.refuse(name, &values, source, problem);
        None
    }

    /// Like [`one`](Self::one); unset is `Some(None)`.
    fn optional<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Option<T>> {
        match self.values.contains_key(name) {
            true => self.one(name, parse).map(Some),
            false => Some(None),
        }
    }

    fn many<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        let (values, source) = self.values.get(name).cloned()?;
        if values.is_empty() {
            self.refuse(name, &values, source, "give at least one".to_owned());
            return None;
        }
        let mut parsed = Vec::new();
        let mut sound = true;
        for value in values {
            match parse(&value) {
                Ok(value) => parsed.push(value),
                Err(problem) => {
                    self.refuse(name, &[value], source.clone(), problem);
                    sound = false;
                }
            }
        }
        sound.then_some(parsed)
    }

    /// Like [`many`](Self::many); unset is an empty list.
    fn many_or_none<T>(
        &mut self,
        name: &'static str,
        parse: impl Fn(&str) -> Result<T, String>,
    ) -> Option<Vec<T>> {
        match self.values.contains_key(name) {
            true => self.many(name, parse),
            false => Some(Vec::new()),
        }
    }

    fn refuse(&mut self, name: &'static str, values: &[String], source: Source, problem: String) {
        let key = keys::find(name).expect("only keys of the table are parsed");
        self.mistakes.push(Mistake::Invalid {
            key: name,
            value: shown(key, values),
            source_of_it: source,
            problem,
        });
    }
}

impl Merged {
    /// The settings, unless something in them was wrong. Every key is parsed
    /// before the first one is missed.
    fn parse(&mut self) -> Option<Settings> {
        let data_dir = self.one("data_dir", values::path);
        let listen = self.many("listen", values::listen);
        let shutdown_grace = self.one("shutdown_grace", values::duration);
        let filter = self.one("log.filter", values::log_filter);
        let format = self.one("log.format", values::log_format);
        let workspace = self.parse_workspace();
        let exec = self.parse_exec();
        let egress = self.parse_egress();
        let host = self.optional(ENGINE_HOST, values::engine_host);
        let labels = self.many_or_none("engine.labels", values::label);
        let model = self.parse_model();
        let max_steps = self.one("session.max_steps", |text| {
            values::number(text, 1, 1_000_000, "1 to 1000000")
        });
        let max_time = self.one("session.max_time", values::duration);
        let rules_tokens = self.one("session.rules_tokens", |text| {
            values::number(text, 0, 1_000_000, "0 to 1000000")
        });
        let bundle_max_bytes = self.one("session.bundle_max", values::bytes);
        let check_timeout = self.one("session.check_timeout", values::duration);
        let patterns_file = self.optional("recovery.patterns_file", values::path);
        let policy_file = self.optional("policy.file", values::path);
        let credentials = self.parse_credentials(data_dir.as_deref());
        let overlays = self.one("snapshots.overlays", values::yes_or_no);
        let copies_max_bytes = self.one("snapshots.copies_max", values::bytes);
        let layers_max = self.one("snapshots.layers_max", |text| {
            values::number(text, 1, 90, "1 to 90")
        });
        let allow_file_urls = self.one("repository.allow_file_urls", values::yes_or_no);
        let low_water_bytes = self.one("disk.low_water", values::bytes);
        let names = self.many_or_none("tls.names", values::host_name);
        let remote = self.parse_remote();
        let metrics = self.optional("metrics.listen", values::port_or_address);
        let keep = self.one("audit.keep", values::duration);
        let max_bytes = self.one("audit.max", values::bytes);
        let checkpoint_every = self.one("audit.checkpoint_every", values::duration);
        let every = self.one("gc.every", values::duration);
        let grace = self.one("gc.grace", values::duration);
        let budget = self.parse_budget();
        let log = LogSettings {
            filter: filter?,
            format: format?,
        };
        let session = SessionSettings {
            max_steps: max_steps?,
            max_time: max_time?,
            rules_tokens: rules_tokens?,
            bundle_max_bytes: bundle_max_bytes?,
            check_timeout: check_timeout?,
            patterns_file: patterns_file?,
            policy_file: policy_file?,
        };
        Some(Settings {
            data_dir: data_dir?,
            listen: listen?,
            log,
            shutdown_grace: shutdown_grace?,
            workspace: workspace?,
            exec: exec?,
            egress: egress?,
            engine: EngineSettings {
                host: host?,
                labels: labels?.into_iter().collect(),
            },
            model: model?,
            session,
            budget: budget?,
            credentials: credentials?,
            snapshots: SnapshotsSettings {
                overlays: overlays?,
                copies_max_bytes: copies_max_bytes?,
                layers_max: layers_max?,
            },
            repository: RepositorySettings {
                allow_file_urls: allow_file_urls?,
            },
            disk: DiskSettings {
                low_water_bytes: low_water_bytes?,
            },
            tls_names: names?,
            remote: remote?,
            metrics: metrics?,
            audit: AuditUpkeep {
                keep: keep?,
                max_bytes: max_bytes?,
                checkpoint_every: checkpoint_every?,
            },
            gc: GcSettings {
                every: every?,
                grace: grace?,
            },
            warnings: std::mem::take(&mut self.warnings),
            origins: self.origins(),
        })
    }

    fn parse_remote(&mut self) -> Option<RemoteSettings> {
        let per_second = self.one("remote.calls_per_second", |text| {
            values::number(text, 1, 1_000_000, "1 to 1000000")
        });
        let streams = self.one("remote.streams", |text| {
            values::number(text, 1, 10_000, "1 to 10000")
        });
        let message_bytes = self.one("remote.message_max", values::message_size);
        let mut connections =
            |name| self.one(name, |text| values::number(text, 1, 100_000, "1 to 100000"));
        let total = connections("remote.connections");
        let per_address = connections("remote.connections_per_address");
        let per_token = connections("remote.connections_per_token");
        Some(RemoteSettings {
            calls_per_second: per_second?,
            streams: streams?,
            message_bytes: message_bytes?,
            connections: total?,
            connections_per_address: per_address?,
            connections_per_token: per_token?,
        })
    }

    fn parse_credentials(&mut self, data_dir: Option<&Path>) -> Option<CredentialsSettings> {
        let file = self.optional("credentials.key_file", values::path);
        let given = self.optional("credentials.key", |text| {
            (MasterKey::parse(text).map(|_| Secret::new(text))).map_err(|error| error.to_string())
        });
        let command = self.optional("credentials.key_command", values::command);
        let forget_lost = self.one("credentials.forget_lost", values::yes_or_no);
        let key = match (file?, given?, command?) {
            (Some(file), None, None) => KeySource::File(file),
            (None, Some(given), None) => KeySource::Given(given),
            (None, None, Some(command)) => KeySource::Command(command),
            (None, None, None) => KeySource::File(data_dir?.join("credentials.key")),
            _ => {
                let key = "credentials.key_command";
                let key = match self.values.contains_key(key) {
                    true => key,
                    false => "credentials.key",
                };
                let (values, source) = self.values.get(key).cloned()?;
                let problem = "the master key has one place: set one of credentials.key_file, credentials.key and credentials.key_command".to_owned();
                self.refuse(key, &values, source, problem);
                return None;
            }
        };
        Some(CredentialsSettings {
            key,
            forget_lost: forget_lost?,
        })
    }

    fn parse_workspace(&mut self) -> Option<WorkspaceSettings> {
        let image = self.one("workspace.image", values::not_empty);
        let cpu_millis = self.one("workspace.cpu", values::cpus);
        let memory_bytes = self.one("workspace.memory", |text| {
            let bytes = values::bytes(text)?;
            let range = (32 << 20)..=(1 << 50);
            (range.contains(&bytes))
                .then_some(bytes)
                .ok_or_else(|| "give a size from 32MiB to 1024TiB".to_owned())
        });
        let pids = self.one("workspace.pids", |text| {
            values::number(text, 16, 1_000_000, "16 to 1000000")
        });
        let disk_bytes = self.one("workspace.disk", |text| {
            let bytes = values::bytes(text)?;
            let range = (1 << 20)..=(1 << 50);
            (bytes == 0 || range.contains(&bytes))
                .then_some(bytes)
                .ok_or_else(|| "give a size from 1MiB to 1024TiB, or 0".to_owned())
        });
        let idle_stop = self.one("workspace.idle_stop", values::idle_stop);
        let network = self.one("workspace.network", values::network);
        let extra_ca_file = self.optional("workspace.extra_ca_file", values::path);
        let agent_file = self.one("workspace.agent_file", values::path);
        Some(WorkspaceSettings {
            image: image?,
            limits: Limits {
                cpu_millis: cpu_millis?,
                memory_bytes: memory_bytes?,
                pids: pids?,
                disk_bytes: disk_bytes?,
            },
            idle_stop: idle_stop?,
            network: network?,
            extra_ca_file: extra_ca_file?,
            agent_file: agent_file?,
        })
    }

    fn parse_budget(&mut self) -> Option<BudgetSettings> {
        let count = |text: &str| values::number(text, 1, u64::MAX, "1 up");
        let per_cent = |text: &str| values::number(text, 1, 100, "1 to 100");
        let money = |text: &str| {
            let money: Money = text.parse().map_err(|error: NotMoney| error.to_string())?;
            Ok(money)
        };
        let tokens = self.optional("budget.tokens", count);
        let session_money = self.optional("budget.money", money);
        let day_tokens = self.optional("budget.day_tokens", count);
        let day_money = self.optional("budget.day_money", money);
        let day_steps = self.optional("budget.day_steps", count);
        let day_time = self.optional("budget.day_time", values::duration);
        let warn_percent = self.one("budget.warn_at", per_cent);
        let pause_percent = self.optional("budget.pause_at", per_cent);
        let prices = self.many_or_none("budget.prices", |text| {
            text.parse().map_err(|error: NotAPrice| error.to_string())
        });
        let milliseconds =
            |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Some(BudgetSettings {
            of_a_session: Budget {
                tokens: tokens?,
                money: session_money?,
                marks: Marks {
                    warn_percent: warn_percent?,
                    pause_percent: pause_percent?,
                },
            },
            of_a_day: budget::Limits {
                tokens: day_tokens?,
                money: day_money?,
                steps: day_steps?,
                time_ms: day_time?.map(milliseconds),
            },
            prices: prices?,
        })
    }

    fn parse_exec(&mut self) -> Option<SpoolLimits> {
        let at_least = |text: &str, least: u64, problem: &str| {
            let bytes = values::bytes(text)?;
            ((least << 20)..=(1 << 50))
                .contains(&bytes)
                .then_some(bytes)
                .ok_or_else(|| problem.to_owned())
        };
        let stream_bytes = self.one("exec.stream_quota", |text| {
            at_least(text, 1, "give a size from 1MiB to 1024TiB")
        });
        let total_bytes = self.one("exec.total_quota", |text| {
            at_least(text, 2, "give a size from 2MiB to 1024TiB")
        });
        let age = self.one("exec.output_age", values::duration);
        Some(SpoolLimits {
            stream_bytes: stream_bytes?,
            total_bytes: total_bytes?,
            ended: age.map(|age| Some(age).filter(|age| !age.is_zero()))?,
        })
    }

    fn parse_egress(&mut self) -> Option<EgressSettings> {
        let kind = self.one("egress.default", values::egress);
        let hosts = self.many_or_none("egress.allow", |text| {
            let pattern = text.parse::<HostPattern>();
            pattern
                .map(|it| it.to_string())
                .map_err(|error| error.to_string())
        });
        let allow_networks = self.many_or_none("egress.allow_networks", |text| {
            text.parse::<Network>().map_err(|error| error.to_string())
        });
        let (kind, hosts) = (kind?, hosts?);
        let default = match Policy::new(kind, &hosts) {
            Ok(default) => default,
            Err(error) => {
                let source = self
                    .values
                    .get("egress.default")
                    .map(|(_, source)| source.clone());
                let source = source.unwrap_or(Source::Default);
                self.refuse("egress.allow", &hosts, source, error.to_string());
                return None;
            }
        };
        Some(EgressSettings {
            default,
            allow_networks: allow_networks?,
        })
    }

    fn parse_model(&mut self) -> Option<ModelSettings> {
        let secret = |text: &str| match Secret::new(text) {
            secret if secret.is_empty() => Err("it is empty".to_owned()),
            secret => Ok(secret),
        };
        let default = self.optional("model.default", |text| {
            text.parse::<ModelName>().map_err(|error| error.to_string())
        });
        let openai_base_url = self.optional("model.openai_base_url", values::base_url);
        let anthropic_base_url = self.optional("model.anthropic_base_url", values::base_url);
        let openai_api_key = self.optional("model.openai_api_key", secret);
        let anthropic_api_key = self.optional("model.anthropic_api_key", secret);
        let idle_timeout = self.one("model.idle_timeout", values::duration);
        let max_output_tokens = self.one("model.max_output_tokens", |text| {
            values::number(text, 1, 1_000_000, "1 to 1000000")
        });
        let retries = self.one("model.retries", |text| {
            values::number(text, 0, 100, "0 to 100")
        });
        let windows = self.many_or_none("model.windows", |text| {
            text.parse().map_err(|error: NotAWindow| error.to_string())
        });
        let compact_percent = self.one("model.compact_at", |text| {
            values::number(text, 10, 95, "10 to 95")
        });
        let edit_formats = self.many_or_none("model.edit_formats", values::edit_format);
        let record_dir = self.optional("model.record_dir", values::path);
        Some(ModelSettings {
            default: default?,
            openai_base_url: openai_base_url?,
            anthropic_base_url: anthropic_base_url?,
            openai_api_key: openai_api_key?,
            anthropic_api_key: anthropic_api_key?,
            idle_timeout: idle_timeout?,
            max_output_tokens: max_output_tokens?,
            retries: retries?,
            windows: windows?,
            compact_percent: compact_percent?,
            edit_formats: EditFormats { own: edit_formats? },
            record_dir: record_dir?,
        })
    }

    fn origins(&self) -> Vec<Origin> {
        let set = KEYS.iter().filter_map(|key| {
            let (values, source) = self.values.get(key.name)?;
            let values = match key.shown {
                Shown::Yes => values.clone(),
                Shown::Hidden => vec!["***".to_owned()],
            };
            Some(Origin {
                key: key.name,
                values,
                source: source.clone(),
            })
        });
        set.collect()
    }
}

/// A value as it may be shown.
fn shown(key: &Key, values: &[String]) -> String {
    match key.shown {
        Shown::Yes => values.join(", "),
        Shown::Hidden => "***".to_owned(),
    }
}

/// A file's value as texts; numbers and truth values may go unquoted.
fn texts(key: &Key, value: &toml::Value) -> Result<Vec<String>, &'static str> {
    match (value, &key.values) {
        (toml::Value::Array(values), Values::Many) => values
            .iter()
            .map(|value| text(value).ok_or("give a list of texts"))
            .collect(),
        (value, Values::One | Values::Many) => text(value)
            .map(|text| vec![text])
            .ok_or("give a text, a number or a truth value"),
    }
}

fn text(value: &toml::Value) -> Option<String> {
    match value {
        toml::Value::String(text) => Some(text.clone()),
        toml::Value::Integer(number) => Some(number.to_string()),
        toml::Value::Float(number) => Some(number.to_string()),
        toml::Value::Boolean(truth) => Some(truth.to_string()),
        toml::Value::Datetime(_) | toml::Value::Array(_) | toml::Value::Table(_) => None,
    }
}

/// The known name that a name is most like, if it is like any: as a whole, or
/// by its last part when it stands in the wrong table.
fn nearest<'a>(name: &str, known: impl Iterator<Item = &'a str>) -> Option<(&'a str, f64)> {
    let last = |name: &str| name.rsplit('.').next().unwrap_or_default().to_owned();
    known
        .map(|known| {
            let whole = strsim::normalized_damerau_levenshtein(name, known);
            let part = strsim::normalized_damerau_levenshtein(&last(name), &last(known));
            (known, whole.max(part * 0.95))
        })
        .max_by(|(_, a), (_, b)| a.total_cmp(b))
        .filter(|(_, alike)| *alike >= ALIKE * 0.8)
}

fn home(environment: &BTreeMap<String, String>, variable: &str, below: &str) -> Option<PathBuf> {
    let absolute = |text: &String| text.starts_with('/').then(|| PathBuf::from(text));
    environment.get(variable).and_then(absolute).or_else(|| {
        let home = environment.get("HOME").and_then(absolute)?;
        Some(home.join(below))
    })
}

fn default_data_dir(environment: &BTreeMap<String, String>, uid: u32) -> Option<PathBuf> {
    match uid {
        0 => Some(PathBuf::from("/var/lib/compy")),
        _ => home(environment, "XDG_DATA_HOME", ".local/share").map(|dir| dir.join("compy")),
    }
}

fn default_file(environment: &BTreeMap<String, String>, uid: u32) -> Option<PathBuf> {
    match uid {
        0 => Some(PathBuf::from("/etc/compy/compyd.toml")),
        _ => {
            home(environment, "XDG_CONFIG_HOME", ".config").map(|dir| dir.join("compy/compyd.toml"))
        }
    }
}
