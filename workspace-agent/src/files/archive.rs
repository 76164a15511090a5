//! Upload and Download: tar streams into and out of a directory.
//!
//! An archive is input of unknown origin. Names are taken apart before
//! anything is made, every directory on the way is looked at without following
//! links, and a link that the archive (or anybody) has put in the way may only
//! lead to places inside the directory. Symbolic links themselves may point
//! anywhere: repositories hold such links, and writing through one is what is
//! refused. Everything is done with the rights of the owner-to-be, so owners
//! named in the archive are never used.

use std::collections::HashMap;
use std::fs::{File, Metadata, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, symlink};
use std::path::{Component, Path, PathBuf};

use compyd_proto::agent::{Receipt, UploadResponse};
use nix::sys::stat::{Mode, UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use tar::{Archive, Builder, Entry, EntryType, Header};

use super::receipts::{Known, Receipts, StepRecord, Turn};
use super::roots::Roots;
use crate::accounts::Account;
use crate::errors::{AgentError, Reason};
use crate::identity::as_account;

const COPY_BYTES: usize = 128 * 1024;

/// Unpacks an archive, at most once per step id. What was unpacked before an
/// error stays; a repeated upload after one starts anew.
pub(super) fn upload(
    roots: &Roots,
    receipts: &Receipts,
    user: &Account,
    directory: &str,
    step_id: &str,
    content: impl Read,
) -> Result<UploadResponse, AgentError> {
    let turn = (!step_id.is_empty()).then(|| receipts.turn(step_id));
    if let Some(Known::Done(record)) = turn.as_ref().map(Turn::known).transpose()? {
        return Ok(UploadResponse {
            entries: record.entries,
            content_bytes: record.content_bytes,
            replayed: true,
        });
    }
    let (path, unpacked) = as_account(user, || {
        let path = roots.resolve(directory)?;
        Ok::<_, AgentError>((path.clone(), unpack(&path, content)?))
    })?;
    if let Some(turn) = turn {
        turn.begin(&StepRecord {
            receipt: Some(Receipt {
                step_id: step_id.to_owned(),
                path: path.display().to_string(),
                size_bytes: unpacked.content_bytes,
                at_ms: crate::now_ms(),
                ..Receipt::default()
            }),
            entries: unpacked.entries,
            content_bytes: unpacked.content_bytes,
            ..StepRecord::default()
        })?;
        turn.finish()?;
    }
    Ok(UploadResponse {
        entries: unpacked.entries,
        content_bytes: unpacked.content_bytes,
        replayed: false,
    })
}

struct Unpacked {
    entries: u64,
    content_bytes: u64,
}

/// Unpacks an archive below a directory, which is made when it is missing.
fn unpack(directory: &Path, content: impl Read) -> Result<Unpacked, AgentError> {
    let io = |error| AgentError::io("unpack into", directory, &error);
    std::fs::create_dir_all(directory).map_err(io)?;
    let mut target = Target {
        root: directory.canonicalize().map_err(io)?,
        directories: Vec::new(),
        unpacked: Unpacked {
            entries: 0,
            content_bytes: 0,
        },
    };
    let mut archive = Archive::new(content);
    let broken = |error: io::Error| {
        AgentError::new(
            Reason::Io,
            format!("the archive cannot be read: {error}; send a whole, uncompressed tar stream"),
        )
    };
    for entry in archive.entries().map_err(broken)? {
        target.unpack(entry.map_err(broken)?)?;
    }
    // Whatever follows the end of the archive is read, so that the sender is
    // not cut off.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(broken)?;
    target.finish()?;
    Ok(target.unpacked)
}

struct Target {
    root: PathBuf,
    /// Modes and times of directories are set last: a read-only directory
    /// could not be filled, and filling one changes its time.
    directories: Vec<(PathBuf, u32, i64)>,
    unpacked: Unpacked,
}

impl Target {
    fn unpack<R: Read>(&mut self, mut entry: Entry<'_, R>) -> Result<(), AgentError> {
        let kind = entry.header().entry_type();
        if matches!(kind, EntryType::XGlobalHeader | EntryType::XHeader) {
            return Ok(());
        }
        let name = entry
            .path()
            .map_err(|error| {
                AgentError::new(
                    Reason::PathInvalid,
                    format!("a name in the archive is not valid: {error}"),
                )
            })?
            .into_owned();
        let below = self.plain_name(&name)?;
        self.unpacked.entries += 1;
        let io = |error: io::Error| AgentError::io("unpack", &name, &error);
        let mode = entry.header().mode().map_err(io)? & 0o7777;
        let mtime = entry
            .header()
            .mtime()
            .ok()
            .and_then(|mtime| i64::try_from(mtime).ok())
            .unwrap_or(0);
        let Some(below) = below else {
            // The directory itself: "./".
            self.directories.push((self.root.clone(), mode, mtime));
            return Ok(());
        };
        let path = self.place(&below, &name)?;
        match kind {
            EntryType::Directory => {
                if !path.is_dir() {
                    remove(&path).map_err(io)?;
                    std::fs::create_dir(&path).map_err(io)?;
                }
                self.directories.push((path, mode, mtime));
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                remove(&path).map_err(io)?;
                let mut file = OpenOptions::new()
                    .write(true)
                    .create_new(true)
                    .mode(0o600)
                    .custom_flags(nix::libc::O_NOFOLLOW)
                    .open(&path)
                    .map_err(io)?;
                self.unpacked.content_bytes += copy(&mut entry, &mut file).map_err(io)?;
                file.set_permissions(Permissions::from_mode(mode))
                    .map_err(io)?;
                drop(file);
                set_mtime(&path, mtime).map_err(io)?;
            }
            EntryType::Symlink => {
                let target = link_name(&entry, &name)?;
                remove(&path).map_err(io)?;
                symlink(target, &path).map_err(io)?;
                set_mtime(&path, mtime).map_err(io)?;
            }
            EntryType::Link => {
                let target = link_name(&entry, &name)?;
                let Some(target) = self.plain_name(&target)? else {
                    return Err(self.outside(&name, "is a hard link to the directory itself"));
                };
                let target = self.place(&target, &name)?;
                remove(&path).map_err(io)?;
                std::fs::hard_link(target, &path).map_err(io)?;
            }
            EntryType::Fifo => {
                remove(&path).map_err(io)?;
                nix::unistd::mkfifo(&path, Mode::from_bits_truncate(mode))
                    .map_err(|errno| io(errno.into()))?;
            }
            other => {
                return Err(AgentError::new(
                    Reason::PathInvalid,
                    format!(
                        "{} is of a kind that cannot be uploaded ({other:?}); leave devices and the like out of the archive",
                        name.display()
                    ),
                ));
            }
        }
        Ok(())
    }

    /// The components of a name; nothing for the directory itself.
    fn plain_name(&self, name: &Path) -> Result<Option<PathBuf>, AgentError> {
        let mut plain = PathBuf::new();
        for component in name.components() {
            match component {
                Component::Normal(part) => plain.push(part),
                Component::CurDir => {}
                Component::RootDir | Component::Prefix(_) => {
                    return Err(self.outside(name, "is an absolute name"));
                }
                Component::ParentDir => return Err(self.outside(name, "goes up with ..")),
            }
        }
        Ok((!plain.as_os_str().is_empty()).then_some(plain))
    }

    /// Where an entry goes: every directory on the way is made, or is a real
    /// one, or is a link that stays inside.
    fn place(&self, below: &Path, name: &Path) -> Result<PathBuf, AgentError> {
        let io = |error: io::Error| AgentError::io("unpack", name, &error);
        let mut at = self.root.clone();
        let parents = below.parent().unwrap_or(Path::new(""));
        for part in parents.components() {
            at.push(part);
            match std::fs::symlink_metadata(&at) {
                Ok(meta) if meta.is_dir() => {}
                Ok(meta) if meta.is_symlink() => {
                    let real = at.canonicalize().map_err(|_| {
                        self.outside(name, "goes through a link that leads nowhere")
                    })?;
                    if !real.starts_with(&self.root) {
                        return Err(self.outside(name, "goes through a link that leads out"));
                    }
                    at = real;
                }
                Ok(_) => {
                    return Err(AgentError::new(
                        Reason::NotADirectory,
                        format!(
                            "could not unpack {}: {} is not a directory",
                            name.display(),
                            at.display()
                        ),
                    ));
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    std::fs::create_dir(&at).map_err(io)?;
                }
                Err(error) => return Err(io(error)),
            }
        }
        let file_name = below.file_name().unwrap_or_default();
        Ok(at.join(file_name))
    }

    fn outside(&self, name: &Path, why: &str) -> AgentError {
        AgentError::new(
            Reason::PathOutsideRoots,
            format!(
                "the archive's entry {} would leave {}: it {why}; the upload ended there",
                name.display(),
                self.root.display()
            ),
        )
    }

    fn finish(&self) -> Result<(), AgentError> {
        for (path, mode, mtime) in self.directories.iter().rev() {
            let io = |error| AgentError::io("unpack", path, &error);
            // A later entry may have put something else in its place.
            if std::fs::symlink_metadata(path).is_ok_and(|meta| meta.is_dir()) {
                std::fs::set_permissions(path, Permissions::from_mode(*mode)).map_err(io)?;
                set_mtime(path, *mtime).map_err(io)?;
            }
        }
        Ok(())
    }
}

fn link_name<R: Read>(entry: &Entry<'_, R>, name: &Path) -> Result<PathBuf, AgentError> {
    entry
        .link_name()
        .ok()
        .flatten()
        .map(|target| target.into_owned())
        .ok_or_else(|| {
            AgentError::new(
                Reason::PathInvalid,
                format!("the link {} in the archive has no target", name.display()),
            )
        })
}

/// Removes what is in the way of a new file; a directory is in the way for
/// good.
fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn copy(from: &mut impl Read, to: &mut impl Write) -> io::Result<u64> {
    let mut buffer = vec![0; COPY_BYTES];
    let mut total = 0;
    loop {
        match from.read(&mut buffer) {
            Ok(0) => return Ok(total),
            Ok(length) => {
                to.write_all(&buffer[..length])?;
                total += length as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn set_mtime(path: &Path, seconds: i64) -> io::Result<()> {
    let time = TimeSpec::new(seconds, 0);
    let cwd = nix::fcntl::AT_FDCWD;
    utimensat(cwd, path, &time, &time, UtimensatFlags::NoFollowSymlink)?;
    Ok(())
}

/// Packs a file or directory; entries are named from its last component.
pub(super) fn pack(path: &Path, sink: impl Write) -> Result<(), AgentError> {
    let name = path
        .file_name()
        .map_or_else(|| PathBuf::from("root"), PathBuf::from);
    let mut packer = Packer {
        builder: Builder::new(sink),
        linked: HashMap::new(),
    };
    packer.pack(path, &name)?;
    packer
        .builder
        .into_inner()
        .and_then(|mut sink| sink.flush())
        .map_err(|error| AgentError::io("pack", path, &error))
}

struct Packer<W: Write> {
    builder: Builder<W>,
    /// Names of files with several names, by device and inode.
    linked: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn pack(&mut self, path: &Path, name: &Path) -> Result<(), AgentError> {
        let io = |error| AgentError::io("pack", path, &error);
        let meta = match std::fs::symlink_metadata(path) {
            Ok(meta) => meta,
            Err(error) => return Err(io(error)),
        };
        let mut header = header_of(&meta);
        if meta.is_symlink() {
            header.set_entry_type(EntryType::Symlink);
            let target = std::fs::read_link(path).map_err(io)?;
            return self
                .builder
                .append_link(&mut header, name, target)
                .map_err(io);
        }
        if meta.is_dir() {
            header.set_entry_type(EntryType::Directory);
            self.builder
                .append_data(&mut header, name, io::empty())
                .map_err(io)?;
            return self.pack_children(path, name);
        }
        if !meta.is_file() {
            // Sockets mean nothing elsewhere, and devices cannot be made.
            if nix::sys::stat::SFlag::from_bits_truncate(meta.mode() & nix::libc::S_IFMT)
                == nix::sys::stat::SFlag::S_IFIFO
            {
                header.set_entry_type(EntryType::Fifo);
                return self
                    .builder
                    .append_data(&mut header, name, io::empty())
                    .map_err(io);
            }
            return Ok(());
        }
        if meta.nlink() > 1 {
            match self.linked.entry((meta.dev(), meta.ino())) {
                std::collections::hash_map::Entry::Occupied(first) => {
                    header.set_entry_type(EntryType::Link);
                    let first = first.get().clone();
                    return self
                        .builder
                        .append_link(&mut header, name, first)
                        .map_err(io);
                }
                std::collections::hash_map::Entry::Vacant(first) => {
                    first.insert(name.to_owned());
                }
            }
        }
        let file = File::open(path).map_err(io)?;
        header.set_entry_type(EntryType::Regular);
        header.set_size(meta.len());
        let content = Exactly {
            file,
            left: meta.len(),
        };
        self.builder
            .append_data(&mut header, name, content)
            .map_err(io)
    }

    fn pack_children(&mut self, path: &Path, name: &Path) -> Result<(), AgentError> {
        let io = |error| AgentError::io("pack", path, &error);
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path).map_err(io)? {
            names.push(entry.map_err(io)?.file_name());
        }
        names.sort();
        for child in names {
            match self.pack(&path.join(&child), &name.join(&child)) {
                // Files come and go while they are packed.
                Err(_) if std::fs::symlink_metadata(path.join(&child)).is_err() => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn header_of(meta: &Metadata) -> Header {
    let mut header = Header::new_gnu();
    header.set_mode(meta.permissions().mode() & 0o7777);
    header.set_uid(u64::from(meta.uid()));
    header.set_gid(u64::from(meta.gid()));
    header.set_mtime(u64::try_from(meta.mtime()).unwrap_or(0));
    header.set_size(0);
    header
}

/// As many bytes as the header has promised, whatever becomes of the file.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.left)
            .unwrap_or(usize::MAX)
            .min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let read = match self.file.read(&mut buffer[..wanted])? {
            // The file has shrunk.
            0 => {
                buffer[..wanted].fill(0);
                wanted
            }
            read => read,
        };
        self.left -= read as u64;
        Ok(read)
    }
}
