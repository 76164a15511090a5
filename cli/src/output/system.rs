//! The daemon's own facts as compyctl prints them.

use compyd_proto::v1::{Check, CheckVerdict, GetInfoResponse};
use serde::Serialize;

use super::{table::Table, time};

/// Outcome of `doctor` in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct DoctorView {
    /// Whether no check failed.
    pub(crate) ok: bool,
    /// In the daemon's order.
    pub(crate) checks: Vec<CheckView>,
}

/// One check in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct CheckView {
    /// What was checked.
    pub(crate) name: String,
    /// `ok`, `warning` or `failed`.
    pub(crate) verdict: String,
    /// What was found.
    pub(crate) found: String,
    /// What to do; may be empty.
    pub(crate) advice: String,
}

impl From<Check> for CheckView {
    fn from(check: Check) -> Self {
        CheckView {
            verdict: match check.verdict() {
                // A verdict this program does not know is not a good one.
                CheckVerdict::Unspecified | CheckVerdict::Warning => "warning",
                CheckVerdict::Ok => "ok",
                CheckVerdict::Failed => "failed",
            }
            .to_owned(),
            name: check.name,
            found: check.found,
            advice: check.advice,
        }
    }
}

/// Checks, one line each, the advice below.
pub(crate) fn checks_table(checks: &[CheckView]) -> Table {
    let mut table = Table::new(&["CHECK", "VERDICT", "FOUND"]);
    for check in checks {
        table.row([&check.name, &check.verdict, &check.found]);
        if !check.advice.is_empty() {
            table.row([" ", " ", &format!("try: {}", check.advice)]);
        }
    }
    table
}

/// Versions of both sides in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct VersionView {
    /// Version of compyctl.
    pub(crate) client: String,
    /// The daemon, when it answers.
    pub(crate) daemon: Option<DaemonView>,
}

/// The daemon in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct DaemonView {
    /// Version of compyd.
    pub(crate) version: String,
    /// When it started.
    pub(crate) started_at: Option<String>,
    /// Its data directory.
    pub(crate) data_dir: String,
    /// Its process id.
    pub(crate) pid: u32,
    /// Model of sessions that name none; may be empty.
    pub(crate) default_model: String,
    /// Image of workspaces that name none.
    pub(crate) default_image: String,
    /// Resident memory.
    pub(crate) resident_bytes: u64,
}

impl From<GetInfoResponse> for DaemonView {
    fn from(info: GetInfoResponse) -> Self {
        DaemonView {
            started_at: time(info.started_at.as_ref()),
            version: info.version,
            data_dir: info.data_dir,
            pid: info.pid,
            default_model: info.default_model,
            default_image: info.default_image,
            resident_bytes: info.resident_bytes,
        }
    }
}
