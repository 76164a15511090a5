//! What happened to a workspace: facts that a person or a program reads
//! afterwards, in the order in which they became known.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{
    egress::{EgressDecision, EgressOutcome, Protocol},
    ids::{RepositoryName, SnapshotId, WorkspaceId, WorkspaceName},
    redaction::Redactor,
};

/// Something that happened to a workspace, as the store keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkspaceEvent {
    /// Its place among the events of all workspaces, from 1; never given twice.
    pub sequence: u64,
    /// Sequence number of the event before it of the same workspace, 0 for
    /// none; it may be forgotten by now.
    pub previous: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// The workspace; it may be gone.
    pub workspace: WorkspaceId,
    /// Its name at that time.
    pub name: WorkspaceName,
    /// What happened.
    pub what: Happening,
}

/// What can happen to a workspace.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Happening {
    /// It was made.
    Created,
    /// It was started.
    Started {
        /// Why.
        cause: StartCause,
    },
    /// It was stopped.
    Stopped {
        /// Why.
        cause: StopCause,
    },
    /// A person froze it.
    Paused,
    /// A person let it go on.
    Resumed,
    /// It was deleted.
    Deleted,
    /// Its container ended without being asked to.
    Died {
        /// Exit status of its first process, where the engine told.
        exit_code: Option<i64>,
    },
    /// The kernel ended a process of it for want of memory.
    OutOfMemory,
    /// Its record was made from its container's labels.
    Adopted,
    /// Something of it is missing or broken.
    Damaged {
        /// What, and what comes of it.
        what: String,
    },
    /// Something missing or broken was put right.
    Repaired {
        /// What, and how.
        what: String,
    },
    /// A connection was decided on, once or many times in the same way.
    Egress(EgressSeen),
    /// Decisions on connections came faster than they could be recorded.
    EgressMissed {
        /// How many are not recorded.
        count: u64,
    },
    /// Its files have come near to its disk limit.
    DiskHigh {
        /// Bytes in use.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// Its files have passed its disk limit.
    DiskOver {
        /// Bytes in use.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
        /// Commands that were ended because of it.
        commands_ended: u32,
    },
    /// Its files are well below its disk limit again.
    DiskOk {
        /// Bytes in use.
        used_bytes: u64,
        /// The limit.
        limit_bytes: u64,
    },
    /// A snapshot of it was taken.
    SnapshotTaken {
        /// The snapshot.
        snapshot: SnapshotId,
        /// Milliseconds for which processes stood still.
        pause_ms: u64,
        /// Bytes that it added to the disk.
        new_bytes: u64,
        /// Files that it does not have because they hold a credential; some of them
        /// where they are many.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        left_out: Vec<String>,
    },
    /// A snapshot of it could not be taken.
    SnapshotFailed {
        /// Why.
        message: String,
    },
    /// It was brought back to a snapshot.
    Restored {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// It was made from a snapshot.
    Forked {
        /// The snapshot.
        snapshot: SnapshotId,
    },
    /// A repository was set up by its setup file.
    SetUp {
        /// The repository.
        repository: RepositoryName,
    },
    /// What a repository's setup file wants done was not.
    SetupFailed {
        /// What failed, and its last words.
        problem: String,
    },
    /// Written by a newer daemon.
    #[serde(other)]
    Unknown,
}

/// Why a workspace was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartCause {
    /// Somebody asked for it.
    Request,
    /// Somebody used it.
    Use,
    /// It should run and did not.
    ShouldRun,
}

/// Why a workspace was stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cause", rename_all = "snake_case")]
pub enum StopCause {
    /// Somebody asked for it.
    Request,
    /// Nobody used it for this long.
    Idle {
        /// Milliseconds.
        after_ms: u64,
    },
    /// It was paused, and what was frozen has ended: the engine restarted, or
    /// a restore put another container into its place.
    PauseLost,
}

/// Connections that were decided on in the same way.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EgressSeen {
    /// Where to: `host:port`, or what the program wrote instead.
    pub target: String,
    /// How it asked: "http", "connect", "socks".
    pub protocol: String,
    /// What was decided.
    pub verdict: EgressVerdict,
    /// How many connections, at least 1; the event's time is the first one's.
    pub count: u64,
}

/// What was decided on a connection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum EgressVerdict {
    /// Connected.
    Allowed {
        /// The address and port that were dialled.
        address: String,
    },
    /// Against the rules.
    Denied {
        /// Code of the rule: "NOT_LISTED".
        code: String,
        /// Why.
        reason: String,
        /// What to do about it; may be empty.
        advice: String,
    },
    /// Allowed and not connected.
    Failed {
        /// Why.
        reason: String,
    },
}

/// Which events are forgotten together: connections can be many and must not
/// push out what happens rarely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Ring {
    /// Connections.
    Network,
    /// Everything else.
    LifeCycle,
}

/// Whether a person should look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// In the course of things.
    Info,
    /// Something was refused, lost or is about to be.
    Warning,
}

impl EgressSeen {
    /// What is kept of a decision in a workspace of this name.
    #[must_use]
    pub fn of(decision: &EgressDecision, workspace: &str) -> Self {
        let protocol: Protocol = decision.protocol;
        let verdict = match &decision.outcome {
            EgressOutcome::Allowed(address) => EgressVerdict::Allowed {
                address: address.to_string(),
            },
            EgressOutcome::Denied(denial) => EgressVerdict::Denied {
                code: denial.code().to_owned(),
                reason: denial.to_string(),
                advice: denial.advice(workspace),
            },
            EgressOutcome::Failed(reason) => EgressVerdict::Failed {
                reason: reason.clone(),
            },
        };
        Self {
            target: decision.target.clone(),
            protocol: protocol.name().to_owned(),
            verdict,
            count: 1,
        }
    }

    /// Whether two were decided in the same way and can be told as one.
    #[must_use]
    pub fn is_like(&self, other: &Self) -> bool {
        (&self.target, &self.protocol, &self.verdict)
            == (&other.target, &other.protocol, &other.verdict)
    }
}

impl Happening {
    /// The same without the values of credentials. A value that is so like a word
    /// of the format that nothing is left of it leaves the event as it is: what
    /// has such a value in it is a kind and no message.
    #[must_use]
    pub fn redacted(self, redactor: &Redactor) -> Self {
        if redactor.is_empty() {
            return self;
        }
        let value = serde_json::to_value(&self).expect("events have string keys");
        let clean = redactor.json(value.clone());
        match clean == value {
            true => self,
            false => serde_json::from_value(clean).unwrap_or(self),
        }
    }

    /// Stable, in lower case: "stopped", "egress_denied".
    #[must_use]
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Started { .. } => "started",
            Self::Stopped { .. } => "stopped",
            Self::Paused => "paused",
            Self::Resumed => "resumed",
            Self::Deleted => "deleted",
            Self::Died { .. } => "died",
            Self::OutOfMemory => "out_of_memory",
            Self::Adopted => "adopted",
            Self::Damaged { .. } => "damaged",
            Self::Repaired { .. } => "repaired",
            Self::Egress(seen) => match seen.verdict {
                EgressVerdict::Allowed { .. } => "egress_allowed",
                EgressVerdict::Denied { .. } => "egress_denied",
                EgressVerdict::Failed { .. } => "egress_failed",
            },
            Self::EgressMissed { .. } => "egress_missed",
            Self::DiskHigh { .. } => "disk_high",
            Self::DiskOver { .. } => "disk_over",
            Self::DiskOk { .. } => "disk_ok",
            Self::SnapshotTaken { .. } => "snapshot_taken",
            Self::SnapshotFailed { .. } => "snapshot_failed",
            Self::Restored { .. } => "restored",
            Self::Forked { .. } => "forked",
            Self::SetUp { .. } => "set_up",
            Self::SetupFailed { .. } => "setup_failed",
            Self::Unknown => "unknown",
        }
    }

    /// Which events it is forgotten with.
    #[must_use]
    pub fn ring(&self) -> Ring {
        match self {
            Self::Egress(_) | Self::EgressMissed { .. } => Ring::Network,
            Self::Created
            | Self::Started { .. }
            | Self::Stopped { .. }
            | Self::Paused
            | Self::Resumed
            | Self::Deleted
            | Self::Died { .. }
            | Self::OutOfMemory
            | Self::Adopted
            | Self::Damaged { .. }
            | Self::Repaired { .. }
            | Self::DiskHigh { .. }
            | Self::DiskOver { .. }
            | Self::DiskOk { .. }
            | Self::SnapshotTaken { .. }
            | Self::SnapshotFailed { .. }
            | Self::Restored { .. }
            | Self::Forked { .. }
            | Self::SetUp { .. }
            | Self::SetupFailed { .. }
            | Self::Unknown => Ring::LifeCycle,
        }
    }

    /// Whether a person should look.
    #[must_use]
    pub fn severity(&self) -> Severity {
        match self {
            Self::Died { .. }
            | Self::OutOfMemory
            | Self::Adopted
            | Self::Damaged { .. }
            | Self::EgressMissed { .. }
            | Self::DiskHigh { .. }
            | Self::DiskOver { .. }
            | Self::SnapshotFailed { .. }
            | Self::SetupFailed { .. }
            | Self::Stopped {
                cause: StopCause::PauseLost,
            } => Severity::Warning,
            Self::Egress(seen) => match seen.verdict {
                EgressVerdict::Allowed { .. } => Severity::Info,
                EgressVerdict::Denied { .. } | EgressVerdict::Failed { .. } => Severity::Warning,
            },
            Self::Created
            | Self::Started { .. }
            | Self::Stopped {
                cause: StopCause::Request | StopCause::Idle { .. },
            }
            | Self::Paused
            | Self::Resumed
            | Self::Deleted
            | Self::Repaired { .. }
            | Self::DiskOk { .. }
            | Self::SnapshotTaken { .. }
            | Self::Restored { .. }
            | Self::Forked { .. }
            | Self::SetUp { .. }
            | Self::Unknown => Severity::Info,
        }
    }
}

impl fmt::Display for Happening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Created => f.write_str("the workspace was created"),
            Self::Started { cause } => write!(f, "the workspace was started: {cause}"),
            Self::Stopped { cause } => write!(f, "the workspace was stopped: {cause}"),
            Self::Paused => f.write_str("the workspace was paused"),
            Self::Resumed => f.write_str("the workspace was resumed"),
            Self::Deleted => f.write_str("the workspace was deleted"),
            Self::Died { exit_code } => {
                f.write_str("the container ended by itself")?;
                match exit_code {
                    Some(code) => write!(f, " with exit status {code}"),
                    None => Ok(()),
                }
            }
            Self::OutOfMemory => {
                f.write_str("the kernel ended a process: the memory limit was reached")
            }
            Self::Adopted => f.write_str(
                "the workspace was adopted by its container's labels; it reaches nothing until its egress is set",
            ),
            Self::Damaged { what } | Self::Repaired { what } => f.write_str(what),
            Self::Egress(seen) => seen.fmt(f),
            Self::EgressMissed { count } => {
                write!(f, "{count} connections were decided on and are not recorded: they came too fast")
            }
            Self::DiskHigh {
                used_bytes,
                limit_bytes,
            } => write!(f, "{used_bytes} of {limit_bytes} bytes of the disk limit are in use"),
            Self::DiskOver {
                used_bytes,
                limit_bytes,
                commands_ended,
            } => {
                write!(f, "{used_bytes} bytes are in use, above the disk limit of {limit_bytes}: new commands are refused")?;
                match commands_ended {
                    0 => Ok(()),
                    ended => write!(f, ", {ended} running command(s) were ended"),
                }
            }
            Self::DiskOk { limit_bytes: 0, .. } => f.write_str("the disk limit was taken away"),
            Self::DiskOk {
                used_bytes,
                limit_bytes,
            } => write!(f, "{used_bytes} of {limit_bytes} bytes of the disk limit are in use again"),
            Self::SnapshotTaken {
                snapshot,
                pause_ms,
                new_bytes,
                left_out,
            } => {
                write!(
                    f,
                    "snapshot {snapshot} was taken: {new_bytes} new bytes, processes stood still for {pause_ms} ms"
                )?;
                match left_out.as_slice() {
                    [] => Ok(()),
                    files => write!(
                        f,
                        "; left out, as they hold a credential: {}",
                        files.join(", ")
                    ),
                }
            }
            Self::SnapshotFailed { message } => write!(f, "no snapshot was taken: {message}"),
            Self::Restored { snapshot } => write!(f, "the workspace was restored to {snapshot}"),
            Self::Forked { snapshot } => write!(f, "the workspace was made from {snapshot}"),
            Self::SetUp { repository } => write!(f, "{repository} was set up by its compy.toml"),
            Self::SetupFailed { problem } => f.write_str(problem),
            Self::Unknown => f.write_str("a newer daemon recorded this"),
        }
    }
}

impl fmt::Display for StartCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Request => "it was asked for",
            Self::Use => "it was used",
            Self::ShouldRun => "it should run and did not",
        })
    }
}

impl fmt::Display for StopCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Request => f.write_str("it was asked for"),
            Self::Idle { after_ms } => {
                write!(f, "nobody used it for {} s", after_ms.div_ceil(1_000))
            }
            Self::PauseLost => {
                f.write_str("it was paused, and the processes that were frozen have ended")
            }
        }
    }
}

impl fmt::Display for EgressSeen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.verdict {
            EgressVerdict::Allowed { address } => {
                write!(f, "{} was connected to {address}", self.target)?;
            }
            EgressVerdict::Denied { reason, advice, .. } => {
                f.write_str(reason)?;
                if !advice.is_empty() {
                    write!(f, "; {advice}")?;
                }
            }
            EgressVerdict::Failed { reason } => {
                write!(
                    f,
                    "{} is allowed and was not reached: {reason}",
                    self.target
                )?;
            }
        }
        match self.count {
            0 | 1 => Ok(()),
            count => write!(f, " ({count} times)"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_newer_daemon_recorded_is_kept_and_said() {
        let newer = r#"{"kind":"teleported","to":"the moon"}"#;
        let read: Happening = serde_json::from_str(newer).unwrap();
        assert_eq!(read, Happening::Unknown);
    }

    #[test]
    fn records_read_back_as_they_were_written() {
        let denied = EgressSeen {
            target: "pypi.org:443".to_owned(),
            protocol: "connect".to_owned(),
            verdict: EgressVerdict::Denied {
                code: "NOT_LISTED".to_owned(),
                reason: "it is not listed".to_owned(),
                advice: "list it".to_owned(),
            },
            count: 3,
        };
        for what in [
            Happening::Created,
            Happening::Stopped {
                cause: StopCause::Idle { after_ms: 1_500 },
            },
            Happening::Egress(denied),
        ] {
            let written = serde_json::to_string(&what).unwrap();
            assert_eq!(
                serde_json::from_str::<Happening>(&written).unwrap(),
                what,
                "{written}"
            );
        }
    }

    #[test]
    fn a_denial_says_why_what_to_do_and_how_often() {
        let seen = EgressSeen {
            target: "a.example:443".to_owned(),
            protocol: "socks".to_owned(),
            verdict: EgressVerdict::Denied {
                code: "NOT_LISTED".to_owned(),
                reason: "a.example:443 is not on the allow-list of this workspace".to_owned(),
                advice: "allow it".to_owned(),
            },
            count: 12,
        };
        assert_eq!(
            Happening::Egress(seen).to_string(),
            "a.example:443 is not on the allow-list of this workspace; allow it (12 times)"
        );
    }
}
