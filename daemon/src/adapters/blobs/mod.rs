//! Blobs as single files named by their hash.
//!
//! `ab/cd/HASH` below the directory. A blob is written to `tmp/`, synced,
//! renamed and its directory synced, so that a crash leaves either the whole
//! blob or a file in `tmp/`, which the next start removes.

#[cfg(test)]
mod tests;

use std::{
    fs::{self, File},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::{self, BoxStream, StreamExt as _};
use tempfile::NamedTempFile;

use super::disk_space::{free_bytes, is_disk_full, sync_dir};
use crate::ports::blobs::{BlobError, BlobHash, BlobPort, BlobWriter, PIECE_BYTES, StoredBlob};

/// Blobs in a directory. Clones share it.
#[derive(Debug, Clone)]
pub struct FileBlobs {
    dirs: Arc<Dirs>,
}

#[derive(Debug)]
struct Dirs {
    root: PathBuf,
    /// Below `root`, so that a rename stays within the file system.
    unfinished: PathBuf,
    low_water_bytes: u64,
    /// Held while a blob gets its name, or loses it: one that is put again at
    /// that moment stays.
    naming: Mutex<()>,
}

impl FileBlobs {
    /// Opens or makes the directory and removes what a crash left unfinished.
    /// Below `low_water_bytes` of free space nothing more is written. Blocks:
    /// call it off the async threads.
    ///
    /// # Errors
    /// [`BlobError::DiskFull`] or [`BlobError::Io`].
    pub fn open(root: impl Into<PathBuf>, low_water_bytes: u64) -> Result<Self, BlobError> {
        let root = root.into();
        let unfinished = root.join("tmp");
        let dirs = Dirs {
            root,
            unfinished,
            low_water_bytes,
            naming: Mutex::default(),
        };
        dirs.prepare().map_err(|error| {
            let action = format!("prepare {}", dirs.root.display());
            dirs.failure(action, &error)
        })?;
        let dirs = Arc::new(dirs);
        Ok(Self { dirs })
    }

    /// Runs blocking work with the directories.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Dirs) -> Result<T, BlobError> + Send + 'static,
    ) -> Result<T, BlobError> {
        let dirs = self.dirs.clone();
        blocking(move || work(&dirs)).await
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, BlobError> + Send + 'static,
) -> Result<T, BlobError> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|error| {
            Err(BlobError::Io {
                action: "run its work".to_owned(),
                message: error.to_string(),
            })
        })
}

impl Dirs {
    fn prepare(&self) -> io::Result<()> {
        fs::create_dir_all(&self.unfinished)?;
        for left in fs::read_dir(&self.unfinished)? {
            fs::remove_file(left?.path())?;
        }
        sync_dir(&self.root)
    }

    fn path(&self, hash: &BlobHash) -> PathBuf {
        let digits = hash.as_str();
        self.root
            .join(&digits[..2])
            .join(&digits[2..4])
            .join(digits)
    }

    fn failure(&self, action: String, error: &io::Error) -> BlobError {
        if is_disk_full(error) {
            return BlobError::DiskFull(self.root.display().to_string());
        }
        BlobError::Io {
            action,
            message: error.to_string(),
        }
    }

    fn begin(&self) -> Result<Unfinished, BlobError> {
        if free_bytes(&self.root).is_ok_and(|free| free < self.low_water_bytes) {
            return Err(BlobError::DiskFull(self.root.display().to_string()));
        }
        let file = NamedTempFile::new_in(&self.unfinished)
            .map_err(|error| self.failure("begin a blob".to_owned(), &error))?;
        Ok(Unfinished {
            file,
            hasher: blake3::Hasher::new(),
            size: 0,
        })
    }

    fn write(&self, blob: &mut Unfinished, data: &[u8]) -> Result<(), BlobError> {
        blob.file
            .as_file_mut()
            .write_all(data)
            .map_err(|error| self.failure("write a blob".to_owned(), &error))?;
        blob.hasher.update(data);
        blob.size += data.len() as u64;
        Ok(())
    }

    fn finish(&self, blob: Unfinished) -> Result<(BlobHash, u64), BlobError> {
        let digits = blob.hasher.finalize().to_hex().to_string();
        let hash = BlobHash::parse(&digits).expect("blake3 in hex is a blob hash");
        self.store(blob.file, &hash)
            .map_err(|error| self.failure(format!("store {digits}"), &error))?;
        Ok((hash, blob.size))
    }

    fn store(&self, file: NamedTempFile, hash: &BlobHash) -> io::Result<()> {
        let path = self.path(hash);
        let dir = path.parent().expect("a blob is two directories deep");
        if !path.exists() {
            file.as_file().sync_all()?;
            let above = dir.parent().expect("a blob is two directories deep");
            if !dir.exists() {
                fs::create_dir_all(dir)?;
                sync_dir(above)?;
                sync_dir(&self.root)?;
            }
        }
        self.name(file, &path)?;
        // Also when it was there: its writer may not have come this far.
        sync_dir(dir)
    }

    /// Gives a blob its name. One that has it is of now from here on, so that
    /// nobody removes it for its age.
    fn name(&self, file: NamedTempFile, path: &Path) -> io::Result<()> {
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        if path.exists() {
            // Whoever was first wrote the same bytes.
            return File::open(path)?.set_modified(SystemTime::now());
        }
        // It may have been there a moment ago, and this one not been synced.
        file.as_file().sync_all()?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    fn list(&self) -> io::Result<Vec<StoredBlob>> {
        let mut blobs = Vec::new();
        for above in directories_in(&self.root)? {
            for dir in directories_in(&above)? {
                for file in fs::read_dir(dir)? {
                    let file = file?;
                    let name = file.file_name();
                    let Some(hash) = name.to_str().and_then(BlobHash::parse) else {
                        continue;
                    };
                    match file.metadata() {
                        Ok(found) => blobs.push(StoredBlob {
                            hash,
                            size_bytes: found.len(),
                            put_at_ms: milliseconds(found.modified()?),
                        }),
                        // Removed since.
                        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                        Err(error) => return Err(error),
                    }
                }
            }
        }
        Ok(blobs)
    }

    fn remove(&self, hash: &BlobHash, before_ms: i64) -> io::Result<bool> {
        let path = self.path(hash);
        let _naming = self.naming.lock().unwrap_or_else(PoisonError::into_inner);
        let removed = fs::metadata(&path).and_then(|found| {
            if milliseconds(found.modified()?) >= before_ms {
                return Ok(false);
            }
            fs::remove_file(&path).map(|()| true)
        });
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            other => other,
        }
    }

    fn open(&self, hash: &BlobHash) -> Result<File, BlobError> {
        File::open(self.path(hash)).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => BlobError::Missing(hash.clone()),
            _ => self.failure(format!("open {}", hash.as_str()), &error),
        })
    }

    fn read(&self, hash: &BlobHash, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        let mut file = self.open(hash)?;
        let mut content = Vec::new();
        file.metadata()
            .and_then(|found| {
                file.seek(SeekFrom::Start(offset.min(found.len())))?;
                file.take(length as u64).read_to_end(&mut content)
            })
            .map_err(|error| self.failure(format!("read {}", hash.as_str()), &error))?;
        Ok(content.into())
    }
}

/// The directories of blobs below one; their names are two digits.
fn directories_in(above: &Path) -> io::Result<Vec<PathBuf>> {
    let mut directories = Vec::new();
    for entry in fs::read_dir(above)? {
        let entry = entry?;
        if entry.file_name().len() == 2 && entry.file_type()?.is_dir() {
            directories.push(entry.path());
        }
    }
    Ok(directories)
}

fn milliseconds(time: SystemTime) -> i64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A blob that has no name yet. Dropped, its file is removed.
struct Unfinished {
    file: NamedTempFile,
    hasher: blake3::Hasher,
    size: u64,
}

#[async_trait]
impl BlobPort for FileBlobs {
    async fn put(&self, content: Bytes) -> Result<BlobHash, BlobError> {
        self.blocking(move |dirs| {
            let mut blob = dirs.begin()?;
            dirs.write(&mut blob, &content)?;
            dirs.finish(blob).map(|(hash, _)| hash)
        })
        .await
    }

    async fn begin(&self) -> Result<Box<dyn BlobWriter>, BlobError> {
        let blob = self.blocking(Dirs::begin).await?;
        Ok(Box::new(FileWriter {
            dirs: self.dirs.clone(),
            blob: Some(blob),
        }))
    }

    async fn size(&self, hash: &BlobHash) -> Result<Option<u64>, BlobError> {
        let hash = hash.clone();
        self.blocking(move |dirs| match fs::metadata(dirs.path(&hash)) {
            Ok(found) => Ok(Some(found.len())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(dirs.failure(format!("look at {}", hash.as_str()), &error)),
        })
        .await
    }

    async fn read(&self, hash: &BlobHash, offset: u64, length: usize) -> Result<Bytes, BlobError> {
        let hash = hash.clone();
        self.blocking(move |dirs| dirs.read(&hash, offset, length))
            .await
    }

    async fn list(&self) -> Result<Vec<StoredBlob>, BlobError> {
        self.blocking(|dirs| {
            dirs.list()
                .map_err(|error| dirs.failure("list the blobs".to_owned(), &error))
        })
        .await
    }

    async fn remove(&self, hash: &BlobHash, before_ms: i64) -> Result<bool, BlobError> {
        let hash = hash.clone();
        self.blocking(move |dirs| {
            dirs.remove(&hash, before_ms)
                .map_err(|error| dirs.failure(format!("remove {}", hash.as_str()), &error))
        })
        .await
    }

    fn stream(&self, hash: &BlobHash) -> BoxStream<'static, Result<Bytes, BlobError>> {
        let (this, hash) = (self.clone(), hash.clone());
        stream::try_unfold(0_u64, move |offset| {
            let (this, hash) = (this.clone(), hash.clone());
            async move {
                let piece = this.read(&hash, offset, PIECE_BYTES).await?;
                let next = offset + piece.len() as u64;
                Ok((!piece.is_empty()).then_some((piece, next)))
            }
        })
        .boxed()
    }
}

/// Writes pieces on tokio's blocking threads, one after the other.
struct FileWriter {
    dirs: Arc<Dirs>,
    /// `None` after a write failed: what is on disk is then not known.
    blob: Option<Unfinished>,
}

impl FileWriter {
    fn take(&mut self) -> Result<Unfinished, BlobError> {
        self.blob.take().ok_or_else(|| BlobError::Io {
            action: "go on with a blob".to_owned(),
            message: "an earlier write of it failed".to_owned(),
        })
    }
}

#[async_trait]
impl BlobWriter for FileWriter {
    async fn write(&mut self, data: Bytes) -> Result<(), BlobError> {
        let mut blob = self.take()?;
        let dirs = self.dirs.clone();
        let blob = blocking(move || dirs.write(&mut blob, &data).map(|()| blob)).await?;
        self.blob = Some(blob);
        Ok(())
    }

    async fn finish(mut self: Box<Self>) -> Result<(BlobHash, u64), BlobError> {
        let blob = self.take()?;
        let dirs = self.dirs.clone();
        blocking(move || dirs.finish(blob)).await
    }
}

/// How many files are unfinished.
#[cfg(test)]
fn unfinished(root: &std::path::Path) -> usize {
    fs::read_dir(root.join("tmp")).map_or(0, Iterator::count)
}
