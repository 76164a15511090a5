//! Whether the daemon's surroundings are sound, and what to do where they are
//! not.
//!
//! [`Doctor::examine`] looks; a pure function for each check judges what was
//! seen, so that every verdict can be tested.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{process::Command, time::timeout};

use crate::{
    domain::model_name::ModelName,
    ports::{
        clock::ClockPort,
        runtime::{EngineInfo, ImageInfo, OverlayVolumes, RuntimeError, RuntimePort},
    },
};

/// Oldest engine API that has what the daemon needs: Engine 20.10.
const LEAST_API: (u32, u32) = (1, 41);
/// Oldest git that knows the options the daemon passes.
const LEAST_GIT: (u32, u32) = (2, 30);
/// Clocks further apart than this are worth a word.
const SKEW: Duration = Duration::from_secs(5);
/// How long a look may take.
const LOOK: Duration = Duration::from_secs(10);

/// What was found in one place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Check {
    /// Its name: "engine".
    pub name: &'static str,
    /// The verdict.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty when all is well.
    pub advice: String,
}

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// All is well.
    Ok,
    /// Work goes on, with something missing.
    Warning,
    /// The main job cannot run.
    Failed,
}

impl Verdict {
    /// Its word: "ok", "warning", "failed".
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

impl Check {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Ok,
            found: found.into(),
            advice: String::new(),
        }
    }

    fn warning(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            name,
            verdict: Verdict::Warning,
            found: found.into(),
            advice: advice.into(),
        }
    }

    fn failed(name: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self {
            verdict: Verdict::Failed,
            ..Self::warning(name, found, advice)
        }
    }
}

/// What the doctor looks at.
#[derive(Debug, Clone)]
pub struct Subjects {
    /// The image of workspaces that name none.
    pub image: String,
    /// The agent's binary.
    pub agent_file: PathBuf,
    /// The data directory.
    pub data_dir: PathBuf,
    /// Free bytes below which work is paused.
    pub low_water_bytes: u64,
    /// What the configuration's reader warned of.
    pub config_warnings: Vec<String>,
    /// The git program: "git".
    pub git: PathBuf,
    /// The model of sessions that name none.
    pub model: Option<ModelName>,
    /// Which providers have a key.
    pub keys: Keys,
}

/// Which providers have a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Keys {
    /// A key for OpenAI-compatible servers.
    pub openai: bool,
    /// The OpenAI-compatible server is not OpenAI's own; such servers often
    /// want no key.
    pub openai_elsewhere: bool,
    /// A key for Anthropic's API.
    pub anthropic: bool,
}

/// Free bytes of the file system with a path.
pub type FreeBytes = fn(&Path) -> io::Result<u64>;

/// Looks at everything the daemon needs.
pub struct Doctor {
    subjects: Subjects,
    runtime: Arc<dyn RuntimePort>,
    clock: Arc<dyn ClockPort>,
    free_bytes: FreeBytes,
}

impl Doctor {
    /// A doctor for these subjects.
    #[must_use]
    pub fn new(
        subjects: Subjects,
        runtime: Arc<dyn RuntimePort>,
        clock: Arc<dyn ClockPort>,
        free_bytes: FreeBytes,
    ) -> Self {
        Self {
            subjects,
            runtime,
            clock,
            free_bytes,
        }
    }

    /// Looks now. `client_time_ms` is the asker's clock, where there is an
    /// asker. The checks come in a fixed order.
    pub async fn examine(&self, client_time_ms: Option<i64>) -> Vec<Check> {
        let subjects = &self.subjects;
        let silent = || RuntimeError::Unavailable(format!("no answer within {LOOK:?}"));
        let (engine, image, git) = tokio::join!(
            timeout(LOOK, self.runtime.engine()),
            timeout(LOOK, self.runtime.image(&subjects.image)),
            look_at_git(&subjects.git),
        );
        let engine = engine.unwrap_or_else(|_| Err(silent()));
        let image = image.unwrap_or_else(|_| Err(silent()));
        let overlays = match &image {
            Ok(Some(_)) => {
                let tried = timeout(LOOK, self.runtime.overlay_volumes(&subjects.image)).await;
                Some(tried.unwrap_or_else(|_| Err(silent())))
            }
            Ok(None) | Err(_) => None,
        };
        let free = (self.free_bytes)(&subjects.data_dir);
        vec![
            judge_engine(&engine),
            judge_engine_api(&engine),
            judge_image(&subjects.image, &image),
            judge_overlays(overlays),
            judge_agent(&subjects.agent_file, &fs::read(&subjects.agent_file)),
            judge_disk(&subjects.data_dir, free, subjects.low_water_bytes),
            judge_configuration(&subjects.config_warnings),
            judge_clock(self.clock.now_ms(), client_time_ms),
            judge_git(&subjects.git, git),
            judge_model(subjects.model.as_ref(), subjects.keys),
        ]
    }
}

fn judge_engine(engine: &Result<EngineInfo, RuntimeError>) -> Check {
    match engine {
        Ok(info) => Check::ok(
            "engine",
            format!(
                "version {}, {} CPUs, {} MiB, storage {}",
                info.version,
                info.cpus,
                info.memory_bytes >> 20,
                info.storage_driver
            ),
        ),
        Err(error) => Check::failed(
            "engine",
            error.to_string(),
            "start Docker (`systemctl start docker`), see that this account may use its socket, or set engine.host",
        ),
    }
}

fn judge_engine_api(engine: &Result<EngineInfo, RuntimeError>) -> Check {
    let Ok(info) = engine else {
        let advice = "see the check `engine`";
        return Check::failed("engine-api", "unknown without an engine", advice);
    };
    let found = format!("version {}", info.api_version);
    let version = info
        .api_version
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse::<u32>().ok()?, minor.parse::<u32>().ok()?)));
    match version {
        Some(version) if version >= LEAST_API => Check::ok("engine-api", found),
        Some(_) | None => {
            let (major, minor) = LEAST_API;
            let advice = format!("use Docker Engine 20.10 or newer (API {major}.{minor})");
            Check::failed("engine-api", found, advice)
        }
    }
}

fn judge_image(reference: &str, image: &Result<Option<ImageInfo>, RuntimeError>) -> Check {
    match image {
        Ok(Some(info)) => Check::ok(
            "image",
            format!("{reference}, {} MiB, {}", info.size_bytes >> 20, info.id),
        ),
        Ok(None) => Check::failed(
            "image",
            format!("the engine has no {reference}"),
            "run `make images`, or set workspace.image to an image that is there",
        ),
        Err(error) => Check::failed("image", error.to_string(), "see the check `engine`"),
    }
}

/// `None` when there is no image to try it with, which another check says.
fn judge_overlays(tried: Option<Result<OverlayVolumes, RuntimeError>>) -> Check {
    const NAME: &str = "overlay-volumes";
    match tried {
        Some(Ok(OverlayVolumes::Work)) => Check::ok(NAME, "work, hard links and renames included"),
        Some(Ok(OverlayVolumes::Fail(why))) => Check::warning(
            NAME,
            why,
            "restores and forks copy whole volumes meanwhile; use an engine that runs as root, with its data on a local ext4 or xfs",
        ),
        Some(Err(error)) => Check::warning(NAME, error.to_string(), "see the check `engine`"),
        None => Check::ok(NAME, "not tried without an engine and an image"),
    }
}

fn judge_agent(file: &Path, content: &io::Result<Vec<u8>>) -> Check {
    let shown = file.display();
    let advice = "build it with `make build`, or set workspace.agent_file";
    match content {
        Ok(bytes) if bytes.starts_with(b"\x7fELF") => {
            Check::ok("agent", format!("{shown}, {} KiB", bytes.len() >> 10))
        }
        Ok(_) => Check::failed("agent", format!("{shown} is no Linux program"), advice),
        Err(error) => Check::failed("agent", format!("{shown}: {error}"), advice),
    }
}

fn judge_disk(dir: &Path, free: io::Result<u64>, low_water_bytes: u64) -> Check {
    let shown = dir.display();
    let free = match free {
        Ok(free) => free,
        Err(error) => {
            let advice =
                "make the data directory, or set data_dir to one that this account may use";
            return Check::failed("disk", format!("{shown}: {error}"), advice);
        }
    };
    let low_water_mib = low_water_bytes >> 20;
    let found = format!(
        "{} MiB free for {shown}, work pauses below {low_water_mib} MiB",
        free >> 20
    );
    let advice = "free some space, or move data_dir to a larger disk";
    if free < low_water_bytes {
        Check::failed("disk", found, advice)
    } else if free < low_water_bytes.saturating_mul(4) {
        Check::warning("disk", found, advice)
    } else {
        Check::ok("disk", found)
    }
}

fn judge_configuration(warnings: &[String]) -> Check {
    if warnings.is_empty() {
        return Check::ok("configuration", "read without a warning");
    }
    Check::warning(
        "configuration",
        warnings.join("; "),
        "`compyd --print-config` shows what counts and where it comes from",
    )
}

fn judge_clock(now_ms: i64, client_ms: Option<i64>) -> Check {
    /// 2020-01-01: a clock before it was never set.
    const PLAUSIBLE_MS: i64 = 1_577_836_800_000;
    if now_ms < PLAUSIBLE_MS {
        return Check::failed(
            "clock",
            "the daemon's clock is before 2020",
            "set the clock; certificates cannot be checked with it",
        );
    }
    let Some(client_ms) = client_ms else {
        return Check::ok("clock", "plausible; no client to compare with");
    };
    let apart = Duration::from_millis(now_ms.abs_diff(client_ms));
    if apart <= SKEW {
        let found = format!("{} ms from the client's", apart.as_millis());
        return Check::ok("clock", found);
    }
    Check::warning(
        "clock",
        format!("{} s from the client's", apart.as_secs()),
        "set both clocks, best by NTP",
    )
}

/// What `git --version` says.
async fn look_at_git(git: &Path) -> Result<String, String> {
    let mut command = Command::new(git);
    command.arg("--version").kill_on_drop(true);
    let output = timeout(LOOK, command.output())
        .await
        .map_err(|_| format!("no answer within {LOOK:?}"))?
        .map_err(|error| error.to_string())?;
    if !output.status.success() {
        return Err(format!("it ended with {}", output.status));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn judge_git(git: &Path, version: Result<String, String>) -> Check {
    let (major, minor) = LEAST_GIT;
    let advice = format!("install git {major}.{minor} or newer on the daemon's host");
    let found = match version {
        Ok(found) => found,
        Err(error) => return Check::failed("git", format!("{}: {error}", git.display()), advice),
    };
    let mut numbers = found
        .trim_start_matches("git version ")
        .split('.')
        .map_while(|part| part.parse::<u32>().ok());
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if (major, minor) >= LEAST_GIT => Check::ok("git", found),
        _ => Check::failed("git", format!("`{found}`"), advice),
    }
}

fn judge_model(model: Option<&ModelName>, keys: Keys) -> Check {
    let Some(name) = model else {
        return Check::warning(
            "model",
            "no default model is set",
            "set COMPY_MODEL or model.default to openai:NAME, anthropic:NAME or scripted:FILE, or name one with --model",
        );
    };
    let no_key = |variable: &str| {
        Check::warning(
            "model",
            format!("{name}, without a key"),
            format!("set {variable} in the daemon's environment"),
        )
    };
    match name {
        ModelName::OpenAi(_) if keys.openai || keys.openai_elsewhere => {
            Check::ok("model", name.to_string())
        }
        ModelName::OpenAi(_) => no_key("OPENAI_API_KEY"),
        ModelName::Anthropic(_) if keys.anthropic => Check::ok("model", name.to_string()),
        ModelName::Anthropic(_) => no_key("ANTHROPIC_API_KEY"),
        ModelName::Scripted(file) if file.is_file() => {
            Check::ok("model", format!("{name}, a script that is played back"))
        }
        ModelName::Scripted(_) => Check::warning(
            "model",
            format!("{name}: there is no such file"),
            "give the script's absolute path as the daemon sees it",
        ),
    }
}

/// Resident memory of this process in bytes; 0 where the kernel does not say.
#[must_use]
pub fn resident_bytes() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let kib: Option<u64> = status.lines().find_map(|line| {
        let value = line.strip_prefix("VmRSS:")?.trim();
        value.trim_end_matches("kB").trim().parse().ok()
    });
    kib.unwrap_or(0) * 1024
}

#[cfg(test)]
mod tests;
