//! An audit log in memory.

use std::sync::{Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use crate::{
    domain::audit::{
        Entry,
        chain::{Head, Record},
        checkpoint::{PublicKey, SigningKey},
        query::Query,
        verify::{Verified, verify},
    },
    ports::audit::{AuditError, AuditPort, Lines, Retention},
};

/// An audit log in memory, signed with a key that everybody knows. Nothing of it
/// is ever removed.
#[derive(Debug)]
pub struct MemoryAudit {
    key: SigningKey,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    head: Head,
    lines: Vec<Vec<u8>>,
    is_full: bool,
}

impl Default for MemoryAudit {
    fn default() -> Self {
        Self {
            key: SigningKey::from_seed(&[1; 32]).expect("a seed has 32 bytes"),
            state: Mutex::new(State {
                head: Head::START,
                lines: Vec::new(),
                is_full: false,
            }),
        }
    }
}

impl MemoryAudit {
    /// Makes it fail like a full disk, or end that.
    pub fn set_full(&self, is_full: bool) {
        self.state().is_full = is_full;
    }

    /// Everything recorded, the oldest first.
    #[must_use]
    pub fn entries(&self) -> Vec<Entry> {
        let records = self.state().records();
        records.into_iter().map(|record| record.entry).collect()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn add(&mut self, entry: &Entry) -> Result<u64, AuditError> {
        if self.is_full {
            return Err(AuditError::DiskFull("memory".to_owned()));
        }
        let mut line = Vec::new();
        self.head.add(&entry.fields(), None, &mut line);
        self.lines.push(line);
        Ok(self.head.seq)
    }

    fn records(&self) -> Vec<Record> {
        let read = |line: &Vec<u8>| Record::of_line(line.trim_ascii_end());
        let records = self.lines.iter().map(read);
        records
            .collect::<Result<_, _>>()
            .expect("it wrote these lines itself")
    }
}

#[async_trait]
impl AuditPort for MemoryAudit {
    fn record(&self, entry: Entry) {
        // Nobody waits for it.
        let _ = self.state().add(&entry);
    }

    async fn record_durably(&self, entry: Entry) -> Result<u64, AuditError> {
        self.state().add(&entry)
    }

    async fn search(&self, query: Query) -> Result<Vec<Record>, AuditError> {
        let records = self.state().records().into_iter().rev();
        let found = records.filter(|record| query.matches(record.seq, &record.entry));
        Ok(found.take(query.limit).collect())
    }

    async fn checkpoint(&self) -> Result<Vec<u8>, AuditError> {
        let mut state = self.state();
        let mut line = Vec::new();
        state.head.add_checkpoint(&self.key, 0, None, &mut line);
        state.lines.push(line.clone());
        Ok(line)
    }

    async fn lines(&self, from: u64, last: u64) -> Result<Lines, AuditError> {
        let state = self.state();
        let lines = (1..).zip(&state.lines);
        let wanted = lines.filter(|(seq, _)| *seq >= from && *seq <= last);
        let bytes: Vec<u8> = wanted.flat_map(|(_, line)| line.iter().copied()).collect();
        Ok(Lines {
            bytes: bytes.into(),
            next: last + 1,
        })
    }

    async fn verify(&self) -> Result<Verified, AuditError> {
        let log = self.state().lines.concat();
        Ok(verify(&log, Some(self.key.public()), None)?)
    }

    async fn retain(&self, _retention: Retention) -> Result<u64, AuditError> {
        Ok(1)
    }

    fn public_key(&self) -> PublicKey {
        self.key.public()
    }

    async fn close(&self) {}
}
