//! The files of a store: opened, migrated, made durable.

use std::{
    fs::{self, File},
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use super::{
    SledOptions,
    codec::{decode, encode, key},
};
use crate::{
    adapters::disk_space::{free_bytes, is_disk_full, sync_dir},
    domain::snapshot::{MANIFEST_FORMAT, ManifestError},
    ports::store::StoreError,
};

/// The format this daemon writes.
pub(super) const FORMAT: u32 = 1;

/// How long to wait for the previous handle of the same files to go: sled lets
/// go of its lock in background threads.
const RELEASE_WAIT: Duration = Duration::from_secs(5);

/// Free space without which nothing is written, whatever the settings say.
/// sled must never meet a full disk: it can note the error and wake nobody who
/// waits for the flush. This is room for its segments under way, with plenty
/// left for what other programs write in the same instant.
const FLOOR: u64 = 16 << 20;

/// Turns the data of one format into those of the next.
type Migration = fn(&sled::Tree) -> Result<(), sled::Error>;

/// The step from format `n` to `n + 1` is at `n - 1`.
const MIGRATIONS: [Migration; FORMAT as usize - 1] = [];

/// An open sled with what it lacks.
pub(super) struct Database {
    db: sled::Db,
    /// The same file that sled writes, for `fdatasync`.
    file: File,
    /// Where sled puts values that fit into no segment.
    large_values_dir: PathBuf,
    /// When that directory was last made durable, by its own time of change.
    large_values_synced: Mutex<Option<SystemTime>>,
}

impl std::fmt::Debug for Database {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Database").finish_non_exhaustive()
    }
}

impl Database {
    pub(super) fn open(options: &SledOptions) -> Result<Self, StoreError> {
        let dir = options.dir.display().to_string();
        let io_failure = |error: io::Error| failure("open", &dir, &sled::Error::Io(error));
        fs::create_dir_all(&options.dir).map_err(io_failure)?;
        require_free(&options.dir, FLOOR)?;
        let db = open_sled(options)?;
        let database = Self {
            file: File::options()
                .append(true)
                .open(options.dir.join("db"))
                .map_err(io_failure)?,
            large_values_dir: options.dir.join("blobs"),
            large_values_synced: Mutex::new(None),
            db,
        };
        let marker = options.dir.join("made");
        if marker.exists() && database.tree().is_empty() {
            // sled takes a log whose start it cannot read for an empty one.
            return Err(StoreError::Damaged(format!("{dir} has lost its records")));
        }
        migrate(database.tree(), FORMAT, &MIGRATIONS, &dir)?;
        database
            .sync()
            .map_err(|error| failure("open", &dir, &error))?;
        File::create(marker)
            .and_then(|file| file.sync_all())
            .and_then(|()| sync_dir(&options.dir))
            .map_err(io_failure)?;
        Ok(database)
    }

    pub(super) fn tree(&self) -> &sled::Tree {
        &self.db
    }

    /// Makes everything applied so far durable. sled's own flush hands the
    /// data to the kernel and no further.
    pub(super) fn sync(&self) -> Result<(), sled::Error> {
        self.db.flush()?;
        self.file.sync_data()?;
        // sled syncs its files of large values, but not their names.
        let changed = fs::metadata(&self.large_values_dir).and_then(|found| found.modified());
        if let Ok(changed) = changed {
            let mut synced = self
                .large_values_synced
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            if *synced != Some(changed) {
                sync_dir(&self.large_values_dir)?;
                *synced = Some(changed);
            }
        }
        Ok(())
    }
}

/// Refuses a write of this many bytes unless there is room for it.
pub(super) fn check_room(options: &SledOptions, bytes: u64) -> Result<(), StoreError> {
    let needed = bytes.saturating_add(FLOOR);
    require_free(&options.dir, needed.max(options.low_water_bytes))
}

fn require_free(dir: &Path, needed: u64) -> Result<(), StoreError> {
    match free_bytes(dir) {
        Ok(free) if free < needed => Err(StoreError::DiskFull(dir.display().to_string())),
        // A disk that does not tell is found out by the write.
        Ok(_) | Err(_) => Ok(()),
    }
}

/// sled can panic on damaged files; that is an answer like any other.
fn open_sled(options: &SledOptions) -> Result<sled::Db, StoreError> {
    let dir = options.dir.display().to_string();
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        let config = sled::Config::new()
            .path(&options.dir)
            .cache_capacity(options.cache_bytes)
            .flush_every_ms(None);
        match catch_unwind(AssertUnwindSafe(|| config.open())) {
            Ok(Ok(db)) => return Ok(db),
            Ok(Err(error)) if is_locked(&error) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Ok(Err(error)) => return Err(failure("open", &dir, &error)),
            Err(panic) => {
                let said = panic_text(&*panic);
                return Err(StoreError::Damaged(format!("{dir} cannot be read: {said}")));
            }
        }
    }
}

fn is_locked(error: &sled::Error) -> bool {
    matches!(error, sled::Error::Io(error)
        if error.kind() == io::ErrorKind::WouldBlock || error.to_string().contains("lock"))
}

/// Brings the data to format `newest`, step by step. Steps can be repeated: a
/// migration that is cut off begins again from the format it found.
fn migrate(
    tree: &sled::Tree,
    newest: u32,
    migrations: &[Migration],
    dir: &str,
) -> Result<(), StoreError> {
    let failed = |error: sled::Error| failure("migrate", dir, &error);
    let found = tree.get(key::FORMAT).map_err(failed)?;
    let found: u32 = match found {
        Some(bytes) => decode(&bytes).map_err(|error| StoreError::Damaged(error.to_string()))?,
        None if tree.is_empty() => newest,
        None => {
            return Err(StoreError::Damaged(format!(
                "{dir} has records and no format"
            )));
        }
    };
    if found > newest {
        return Err(StoreError::NewerFormat {
            dir: dir.to_owned(),
            found,
            known: newest,
        });
    }
    let done = found.saturating_sub(1) as usize;
    if found == newest && tree.contains_key(key::FORMAT).map_err(failed)? {
        return Ok(());
    }
    for migration in migrations.iter().skip(done) {
        migration(tree).map_err(failed)?;
    }
    tree.insert(key::FORMAT, encode(&newest)).map_err(failed)?;
    Ok(())
}

/// sled's error in the port's words.
pub(super) fn failure(action: &'static str, dir: &str, error: &sled::Error) -> StoreError {
    match error {
        sled::Error::Io(error) if is_disk_full(error) => StoreError::DiskFull(dir.to_owned()),
        sled::Error::Corruption { .. } => StoreError::Damaged(format!("{dir}: {error}")),
        sled::Error::Io(_)
        | sled::Error::CollectionNotFound(_)
        | sled::Error::Unsupported(_)
        | sled::Error::ReportableBug(_) => StoreError::Failed {
            action,
            message: format!("{dir}: {error}"),
        },
    }
}

/// A manifest that cannot be read, in the port's words.
pub(super) fn manifest_failure(dir: &str, error: &ManifestError) -> StoreError {
    match error {
        ManifestError::NewerFormat { found } => StoreError::NewerFormat {
            dir: dir.to_owned(),
            found: *found,
            known: MANIFEST_FORMAT,
        },
        ManifestError::Unreadable(_) => StoreError::Damaged(format!("{dir}: {error}")),
    }
}

/// What a panic said.
pub(super) fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<String>()
        .cloned()
        .or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()))
        .unwrap_or_else(|| "no reason given".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch() -> (tempfile::TempDir, SledOptions) {
        let dir = tempfile::tempdir().unwrap();
        let options = SledOptions::in_dir(dir.path().join("store"));
        (dir, options)
    }

    #[test]
    fn an_older_format_is_migrated_one_step_at_a_time() {
        let (_dir, options) = scratch();
        let db = open_sled(&options).unwrap();
        db.insert(key::FORMAT, encode(&1_u32)).unwrap();
        let first: Migration = |tree| tree.insert("a", "1").map(drop);
        let second: Migration = |tree| {
            let a = tree.get("a")?.expect("the first step ran before");
            tree.insert("b", a).map(drop)
        };
        migrate(&db, 3, &[first, second], "here").unwrap();
        assert_eq!(db.get("b").unwrap().as_deref(), Some(b"1".as_slice()));
        assert_eq!(db.get(key::FORMAT).unwrap().unwrap(), encode(&3_u32));
    }

    #[test]
    fn a_migrated_store_is_not_migrated_again() {
        let (_dir, options) = scratch();
        let db = open_sled(&options).unwrap();
        db.insert(key::FORMAT, encode(&2_u32)).unwrap();
        let never: Migration = |_| panic!("this step was done before");
        migrate(&db, 2, &[never], "here").unwrap();
    }

    #[test]
    fn a_newer_format_is_refused_and_left_alone() {
        let (_dir, options) = scratch();
        drop(Database::open(&options).unwrap());
        let db = open_sled(&options).unwrap();
        db.insert(key::FORMAT, encode(&(FORMAT + 1))).unwrap();
        drop(db);
        let error = Database::open(&options).unwrap_err();
        assert_eq!(
            error,
            StoreError::NewerFormat {
                dir: options.dir.display().to_string(),
                found: FORMAT + 1,
                known: FORMAT
            }
        );
        let db = open_sled(&options).unwrap();
        assert_eq!(db.get(key::FORMAT).unwrap().unwrap(), encode(&(FORMAT + 1)));
    }

    #[test]
    fn damaged_files_are_an_error_with_advice_and_no_panic() {
        let (_dir, options) = scratch();
        let database = Database::open(&options).unwrap();
        for number in 0..2_000_u32 {
            database
                .tree()
                .insert(number.to_be_bytes(), vec![7; 1_000])
                .unwrap();
        }
        database.sync().unwrap();
        drop(database);
        let file = options.dir.join("db");
        let mut bytes = fs::read(&file).unwrap();
        for byte in bytes.iter_mut().step_by(3) {
            *byte ^= 0x5a;
        }
        fs::write(&file, &bytes).unwrap();
        let error = Database::open(&options).unwrap_err();
        assert!(matches!(error, StoreError::Damaged(_)), "{error}");
        assert!(error.to_string().contains("restore the data directory"));
    }
}
