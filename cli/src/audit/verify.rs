//! `compyctl audit verify`.

use std::{
    fs::{self, File},
    io::BufReader,
    path::{Path, PathBuf},
};

use clap::Args;
use compyd_proto::v1::VerifyAuditRequest;
use serde::Serialize;

use super::verifier::{self, Checkpoint, Flaw, Sound};
use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json, time};

/// `compyctl audit verify [FILE]`.
///
/// With a file, no daemon is asked: the export alone is read. A checkpoint that
/// was kept elsewhere shows whether the log was cut off or written anew since
/// then. Without one, the daemon reads its own log through.
#[derive(Debug, Args)]
pub(crate) struct VerifyArguments {
    /// What `compyctl audit export` wrote; none means the daemon's own log.
    file: Option<PathBuf>,
    /// A checkpoint that was kept elsewhere; it must be in the log.
    #[arg(long, value_name = "FILE", requires = "file")]
    checkpoint: Option<PathBuf>,
    /// Public key of who must have signed, in hex.
    #[arg(long, value_name = "HEX", requires = "file")]
    key: Option<String>,
}

/// What was found, in JSON.
#[derive(Debug, Serialize)]
struct VerifiedView {
    /// Number of the first record.
    first: u64,
    /// Number of the last record.
    last: u64,
    /// The last checkpoint.
    checkpoint: Option<CheckpointView>,
    /// Records after it: chained, and not signed yet.
    unsigned: u64,
}

/// A checkpoint in JSON.
#[derive(Debug, Serialize)]
struct CheckpointView {
    /// Number of the record.
    seq: u64,
    /// When it was signed.
    at: Option<String>,
    /// Public key of who signed.
    key: String,
    /// Hash of the record.
    hash: String,
}

impl From<Sound> for VerifiedView {
    fn from(sound: Sound) -> Self {
        let signed = sound.checkpoint.as_ref().map_or(sound.first - 1, |c| c.seq);
        Self {
            first: sound.first,
            last: sound.last,
            unsigned: sound.last - signed,
            checkpoint: sound.checkpoint.map(|checkpoint| CheckpointView {
                seq: checkpoint.seq,
                at: time(Some(&prost_types::Timestamp {
                    seconds: checkpoint.at_ms.div_euclid(1_000),
                    nanos: 0,
                })),
                key: checkpoint.key,
                hash: checkpoint.hash,
            }),
        }
    }
}

impl VerifiedView {
    /// Prints it.
    fn print(&self, format: Format) -> Result<(), Failure> {
        if format == Format::Json {
            return print_json(self);
        }
        let mut text = format!(
            "records {} to {} are as they were written\n",
            self.first, self.last
        );
        text += &match &self.checkpoint {
            Some(checkpoint) => format!(
                "signed up to record {} ({}) by {}\n",
                checkpoint.seq,
                checkpoint.at.as_deref().unwrap_or("-"),
                checkpoint.key,
            ),
            None => "nothing is signed\n".to_owned(),
        };
        print(&text)
    }
}

impl VerifyArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let Some(file) = &self.file else {
            return ask(context).await;
        };
        let held = match &self.checkpoint {
            Some(file) => Some(read_checkpoint(file)?),
            None => None,
        };
        let log = File::open(file).map_err(|error| unreadable(file, &error))?;
        let log = BufReader::with_capacity(1 << 20, log);
        let sound = verifier::read_log(log, held.as_ref(), self.key.as_deref())
            .map_err(|flaw| failure(file, &flaw))?;
        if held.is_none() && self.key.is_none() {
            eprintln!(
                "note: without --checkpoint or --key, a log that was cut off or written anew by somebody else looks sound too"
            );
        }
        VerifiedView::from(sound).print(context.format)?;
        Ok(Exit::OK)
    }
}

/// Has the daemon verify its own log.
async fn ask(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let found = daemon
        .call(|| {
            let mut client = daemon.audit();
            async move { client.verify_audit(VerifyAuditRequest {}).await }
        })
        .await?;
    let checkpoint = (found.checkpoint_seq != 0).then(|| CheckpointView {
        seq: found.checkpoint_seq,
        at: time(found.checkpoint_at.as_ref()),
        key: found.public_key,
        hash: found.checkpoint_hash,
    });
    let signed = checkpoint.as_ref().map(|checkpoint| checkpoint.seq);
    let view = VerifiedView {
        first: found.first_seq,
        last: found.last_seq,
        unsigned: found.last_seq - signed.unwrap_or(found.first_seq.saturating_sub(1)),
        checkpoint,
    };
    view.print(context.format)?;
    Ok(Exit::OK)
}

fn read_checkpoint(file: &Path) -> Result<Checkpoint, Failure> {
    let bytes = fs::read(file).map_err(|error| unreadable(file, &error))?;
    verifier::read_checkpoint(&bytes).map_err(|flaw| {
        Failure::usage(
            format!("{} is not a checkpoint: {flaw}", file.display()),
            "give a file that `compyctl audit export --checkpoint` wrote",
        )
    })
}

fn unreadable(file: &Path, error: &std::io::Error) -> Failure {
    Failure::usage(
        format!("{} cannot be read: {error}", file.display()),
        "name a file that `compyctl audit export` wrote",
    )
}

fn failure(file: &Path, flaw: &Flaw) -> Failure {
    Failure::local(
        format!("{} does not verify: {flaw}", file.display()),
        "keep this file and the daemon's data directory as they are for whoever looks into it",
    )
}
