//! Receipts: what a mutating tool did under a step id, kept on disk.
//!
//! ```text
//!   nothing ---- begin (synced) ----> STEP.intent ---- finish ----> STEP.receipt
//! ```
//!
//! The intent holds the whole receipt, so finishing is a rename. An agent that
//! was killed between the two settles the intent by looking at the file: it has
//! the hash from before, or the one from after. That is also why the receipt
//! itself need not be synced.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex, PoisonError};

use compyd_proto::agent::Receipt;
use prost::Message as _;

use crate::errors::AgentError;
use crate::exec::spool::private_dir_all;

/// Everything that a repeated call must answer.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct StepRecord {
    #[prost(message, optional, tag = "1")]
    pub(super) receipt: Option<Receipt>,
    /// For an edit.
    #[prost(uint32, tag = "2")]
    pub(super) replaced: u32,
    /// For an edit.
    #[prost(uint32, tag = "3")]
    pub(super) first_changed_line: u32,
    /// For an upload.
    #[prost(uint64, tag = "4")]
    pub(super) entries: u64,
    /// For an upload.
    #[prost(uint64, tag = "5")]
    pub(super) content_bytes: u64,
    /// For a change of several files; `receipt` is the first one's.
    #[prost(message, repeated, tag = "6")]
    pub(super) changes: Vec<ChangeRecord>,
}

/// One file of a change of several.
#[derive(Clone, PartialEq, prost::Message)]
pub(super) struct ChangeRecord {
    #[prost(message, required, tag = "1")]
    pub(super) receipt: Receipt,
    /// The file beside it that holds the new content until it is in place; empty
    /// for a removal.
    #[prost(string, tag = "2")]
    pub(super) ready: String,
}

/// What is known of a step.
#[derive(Debug)]
pub(super) enum Known {
    Nothing,
    /// Begun; an agent was killed before it finished.
    Begun(StepRecord),
    Done(StepRecord),
}

/// The directory of receipts.
pub(super) struct Receipts {
    root: PathBuf,
    /// Steps at work now; a repeated one waits for its first.
    busy: Mutex<HashSet<String>>,
    freed: Condvar,
    /// Held from the look at a file to its replacement, so that two tools
    /// cannot both find the hash they expect.
    pub(super) changing: Mutex<()>,
}

/// The right to work on a step; given back on drop.
pub(super) struct Turn<'a> {
    receipts: &'a Receipts,
    step_id: String,
}

impl Receipts {
    pub(super) fn open(state: &Path) -> io::Result<Self> {
        let root = state.join("receipts");
        private_dir_all(&root)?;
        Ok(Self {
            root,
            busy: Mutex::default(),
            freed: Condvar::new(),
            changing: Mutex::default(),
        })
    }

    /// Waits until nobody else works on this step.
    pub(super) fn turn(&self, step_id: &str) -> Turn<'_> {
        let mut busy = self.busy.lock().unwrap_or_else(PoisonError::into_inner);
        while !busy.insert(step_id.to_owned()) {
            busy = self
                .freed
                .wait(busy)
                .unwrap_or_else(PoisonError::into_inner);
        }
        Turn {
            receipts: self,
            step_id: step_id.to_owned(),
        }
    }
}

impl Turn<'_> {
    fn path(&self, kind: &str) -> PathBuf {
        self.receipts.root.join(format!("{}.{kind}", self.step_id))
    }

    pub(super) fn known(&self) -> Result<Known, AgentError> {
        if let Some(record) = self.load("receipt")? {
            return Ok(Known::Done(record));
        }
        Ok(self.load("intent")?.map_or(Known::Nothing, Known::Begun))
    }

    fn load(&self, kind: &str) -> Result<Option<StepRecord>, AgentError> {
        let path = self.path(kind);
        let bytes = match std::fs::read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(AgentError::io("read the receipt", &path, &error)),
        };
        // One that was torn by a power loss was never acted on: acting comes
        // after the sync.
        Ok(StepRecord::decode(bytes.as_slice())
            .ok()
            .filter(|record| record.receipt.is_some()))
    }

    /// Puts the intent on disk; to be called before anything is changed.
    pub(super) fn begin(&self, record: &StepRecord) -> Result<(), AgentError> {
        let path = self.path("intent");
        let write = || -> io::Result<()> {
            let mut file = File::create(&path)?;
            file.write_all(&record.encode_to_vec())?;
            file.sync_all()?;
            File::open(&self.receipts.root)?.sync_all()
        };
        write().map_err(|error| AgentError::io("write the receipt", &path, &error))
    }

    /// Turns the intent into the receipt.
    pub(super) fn finish(&self) -> Result<(), AgentError> {
        let path = self.path("receipt");
        std::fs::rename(self.path("intent"), &path)
            .map_err(|error| AgentError::io("write the receipt", &path, &error))
    }

    /// Takes back an intent that was not acted on.
    pub(super) fn forget(&self) {
        let _ = std::fs::remove_file(self.path("intent"));
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let mut busy = self
            .receipts
            .busy
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        busy.remove(&self.step_id);
        self.receipts.freed.notify_all();
    }
}
