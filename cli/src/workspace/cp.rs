//! `compyctl workspace cp`: tar on the fly, named as `cp -a` would.
//!
//! Into an existing directory a source keeps its name; otherwise the
//! destination is its new name. Whether a path in a workspace is a directory
//! is read from the head of its archive, so that no program of the image is
//! needed.

use std::ffi::OsString;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;
use clap::Args;
use compyd_proto::link::MAX_CHUNK_BYTES;
use compyd_proto::v1::{
    DownloadRequest, DownloadResponse, UploadRequest, UploadStart, upload_request::Part,
};
use tokio::sync::mpsc;
use tonic::{Code, Streaming};

use crate::command_line::Context;
use crate::connection::{Daemon, request_id};
use crate::exit::{Exit, Failure};
use crate::output::bytes as human_bytes;

/// `compyctl workspace cp SRC DST`.
#[derive(Debug, Args)]
pub(crate) struct CpArguments {
    /// What to copy: a path on this machine, or WORKSPACE:PATH. Relative paths
    /// in a workspace start at /workspace.
    #[arg(value_name = "SRC")]
    source: OsString,
    /// Where to: the other kind of path. A directory that exists takes the
    /// source under its own name; otherwise this is its new name.
    #[arg(value_name = "DST")]
    destination: OsString,
}

impl CpArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        match (Place::read(&self.source), Place::read(&self.destination)) {
            (Place::Here(source), Place::There(there)) => {
                let metadata = std::fs::symlink_metadata(&source).map_err(|error| {
                    Failure::usage(
                        format!("{} cannot be read: {error}", source.display()),
                        "name a file or directory that exists",
                    )
                })?;
                let daemon = context.daemon().await?;
                upload(&daemon, &source, &metadata, &there).await?;
            }
            (Place::There(there), Place::Here(destination)) => {
                let daemon = context.daemon().await?;
                download(&daemon, &there, &destination).await?;
            }
            (Place::Here(_), Place::Here(_)) | (Place::There(_), Place::There(_)) => {
                return Err(Failure::usage(
                    "exactly one of source and destination must be in a workspace",
                    "compyctl workspace cp FILE NAME:PATH, or NAME:PATH FILE; a local name with a colon is written ./a:b",
                ));
            }
        }
        Ok(Exit::OK)
    }
}

/// One side of a copy.
#[derive(Debug, PartialEq, Eq)]
enum Place {
    Here(PathBuf),
    There(Remote),
}

/// A path in a workspace.
#[derive(Debug, PartialEq, Eq)]
struct Remote {
    workspace: String,
    /// Absolute, without a slash at its end.
    path: String,
    /// Whether it was written with one, and so must be a directory.
    wants_directory: bool,
}

impl Place {
    fn read(text: &OsString) -> Self {
        match text.to_str().and_then(|text| text.split_once(':')) {
            Some((workspace, path)) if !workspace.is_empty() && !workspace.contains('/') => {
                let absolute = match path.starts_with('/') {
                    true => path.to_owned(),
                    false => format!("/workspace/{path}"),
                };
                Place::There(Remote {
                    workspace: workspace.to_owned(),
                    path: match absolute.trim_end_matches('/') {
                        "" => "/".to_owned(),
                        trimmed => trimmed.to_owned(),
                    },
                    wants_directory: absolute.ends_with('/'),
                })
            }
            _ => Place::Here(PathBuf::from(text)),
        }
    }
}

impl Remote {
    /// The directory it is in, and its name there.
    fn split(&self) -> (&str, &str) {
        match self.path.rsplit_once('/') {
            Some(("", name)) => ("/", name),
            Some((parent, name)) => (parent, name),
            None => ("/workspace", &self.path),
        }
    }
}

async fn upload(
    daemon: &Daemon,
    source: &Path,
    metadata: &std::fs::Metadata,
    there: &Remote,
) -> Result<(), Failure> {
    let kind = kind_there(daemon, there).await?;
    let (directory, name) = match kind {
        Some(Kind::Directory) => (there.path.as_str(), own_name(source)?),
        None if there.wants_directory => (there.path.as_str(), own_name(source)?),
        Some(Kind::Other) if metadata.is_dir() || there.wants_directory => {
            return Err(Failure::usage(
                format!("{} in the workspace is not a directory", there.path),
                "name a directory, or a path that does not exist yet",
            ));
        }
        Some(Kind::Other) | None => {
            let (directory, name) = there.split();
            (directory, OsString::from(name))
        }
    };
    let (tx, rx) = mpsc::channel(8);
    let start = UploadStart {
        request_id: request_id(),
        workspace: there.workspace.clone(),
        directory: directory.to_owned(),
    };
    tx.try_send(UploadRequest {
        part: Some(Part::Start(start)),
    })
    .expect("the queue was made just now and has room");
    let source = source.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack(&source, &name, ChunkWriter::new(tx)));
    let mut client = daemon.workspaces();
    let answer = client
        .upload(tokio_stream::wrappers::ReceiverStream::new(rx))
        .await;
    let packed = packing
        .await
        .map_err(|error| Failure::local(format!("packing ended early: {error}"), ""))?;
    match (answer, packed) {
        // The daemon's refusal is why packing ended.
        (Err(status), _) => Err(daemon.failure(status)),
        (Ok(_), Err(error)) => Err(Failure::local(format!("packing failed: {error}"), "")),
        (Ok(response), Ok(())) => {
            let response = response.into_inner();
            eprintln!(
                "copied {} {} ({})",
                response.entries,
                if response.entries == 1 {
                    "entry"
                } else {
                    "entries"
                },
                human_bytes(response.content_bytes)
            );
            Ok(())
        }
    }
}

/// The source's own name, also for `.` and paths that end in `..`.
fn own_name(source: &Path) -> Result<OsString, Failure> {
    let canonical;
    let path = match source.components().next_back() {
        Some(Component::Normal(name)) => return Ok(name.to_owned()),
        _ => {
            canonical = std::fs::canonicalize(source)
                .map_err(|error| Failure::usage(format!("{}: {error}", source.display()), ""))?;
            canonical.as_path()
        }
    };
    path.file_name().map(ToOwned::to_owned).ok_or_else(|| {
        Failure::usage(
            "the root directory has no name to copy it under",
            "name a directory below it",
        )
    })
}

/// Packs a file or directory under another name; symbolic links stay links.
fn pack(source: &Path, name: &OsString, writer: ChunkWriter) -> io::Result<()> {
    let mut archive = tar::Builder::new(writer);
    archive.follow_symlinks(false);
    if std::fs::symlink_metadata(source)?.is_dir() {
        archive.append_dir_all(name, source)?;
    } else {
        archive.append_path_with_name(source, name)?;
    }
    archive.into_inner()?.flush()
}

async fn download(daemon: &Daemon, there: &Remote, destination: &Path) -> Result<(), Failure> {
    let stream = open_download(daemon, there)
        .await
        .map_err(|status| daemon.failure(status))?;
    let destination = destination.to_owned();
    let (_, own_name) = there.split();
    let own_name = own_name.to_owned();
    let wants_directory = destination.as_os_str().as_bytes().ends_with(b"/");
    let (tx, rx) = mpsc::channel(8);
    let unpacking = tokio::task::spawn_blocking(move || {
        unpack(
            ChunkReader::new(rx),
            &destination,
            &own_name,
            wants_directory,
        )
    });
    let result = feed(stream, tx).await;
    let unpacked = unpacking
        .await
        .map_err(|error| Failure::local(format!("unpacking ended early: {error}"), ""))?;
    result.map_err(|status| daemon.failure(status))?;
    let entries = unpacked.map_err(|error| {
        Failure::local(
            format!("unpacking failed: {error}"),
            "look at the destination, then copy again",
        )
    })?;
    eprintln!(
        "copied {entries} {}",
        if entries == 1 { "entry" } else { "entries" }
    );
    Ok(())
}

async fn open_download(
    daemon: &Daemon,
    there: &Remote,
) -> Result<Streaming<DownloadResponse>, tonic::Status> {
    let request = DownloadRequest {
        workspace: there.workspace.clone(),
        path: there.path.clone(),
    };
    Ok(daemon.workspaces().download(request).await?.into_inner())
}

async fn feed(
    mut stream: Streaming<DownloadResponse>,
    tx: mpsc::Sender<Bytes>,
) -> Result<(), tonic::Status> {
    while let Some(response) = stream.message().await? {
        if tx.send(response.data).await.is_err() {
            // The unpacker has failed and says why.
            break;
        }
    }
    Ok(())
}

/// Unpacks below the destination; the archive's first component is replaced by
/// the new name. Entries that would leave it are an error.
fn unpack(
    reader: impl Read,
    destination: &Path,
    own_name: &str,
    wants_directory: bool,
) -> io::Result<u64> {
    let (parent, name) = if destination.is_dir() || wants_directory {
        (destination.to_owned(), OsString::from(own_name))
    } else {
        let name = destination
            .file_name()
            .ok_or_else(|| io::Error::other(format!("{} has no name", destination.display())))?;
        let parent = match destination.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
            _ => PathBuf::from("."),
        };
        (parent, name.to_owned())
    };
    if wants_directory {
        std::fs::create_dir_all(&parent)?;
    }
    // Made beside the destination and moved in place when whole, so that
    // nothing half copied is left and nothing outside can be written to.
    let staging = tempfile::Builder::new()
        .prefix(".compyctl-")
        .tempdir_in(&parent)?;
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_mtime(true);
    archive.set_preserve_permissions(true);
    let mut entries = 0;
    let mut directories = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        entries += 1;
        // Last, so that a directory without write permission can be filled.
        if entry.header().entry_type().is_dir() {
            directories.push(entry);
            continue;
        }
        unpack_entry(&mut entry, staging.path())?;
    }
    directories.sort_by(|a, b| b.path_bytes().cmp(&a.path_bytes()));
    for directory in &mut directories {
        unpack_entry(directory, staging.path())?;
    }
    let mut tops = std::fs::read_dir(staging.path())?;
    let top = tops
        .next()
        .ok_or_else(|| io::Error::other("the archive is empty"))??
        .path();
    place(&top, &parent.join(name))?;
    Ok(entries)
}

fn unpack_entry(entry: &mut tar::Entry<'_, impl Read>, directory: &Path) -> io::Result<()> {
    if entry.unpack_in(directory)? {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "the entry {} would leave the destination",
        entry.path()?.display()
    )))
}

/// Moves into place: a file replaces a file, a directory is merged into one.
fn place(from: &Path, to: &Path) -> io::Result<()> {
    let from_is_dir = std::fs::symlink_metadata(from)?.is_dir();
    match std::fs::symlink_metadata(to) {
        Ok(existing) if from_is_dir && existing.is_dir() => {
            for child in std::fs::read_dir(from)? {
                let child = child?;
                place(&child.path(), &to.join(child.file_name()))?;
            }
            Ok(())
        }
        Ok(existing) if from_is_dir != existing.is_dir() => Err(io::Error::other(format!(
            "{} is in the way: a {} cannot replace it",
            to.display(),
            if from_is_dir { "directory" } else { "file" }
        ))),
        Ok(_) | Err(_) => std::fs::rename(from, to),
    }
}

/// What a path in a workspace is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Directory,
    Other,
}

/// Reads the head of the path's archive, then drops the rest.
async fn kind_there(daemon: &Daemon, there: &Remote) -> Result<Option<Kind>, Failure> {
    if there.path == "/" {
        return Ok(Some(Kind::Directory));
    }
    let missing = |failure: &Failure| {
        matches!(failure, Failure::Refused(status) if status.code() == Code::NotFound)
            && failure.reason().as_deref() != Some("WORKSPACE_UNKNOWN")
    };
    let found = async {
        let mut stream = open_download(daemon, there).await?;
        let mut head = Vec::new();
        while head.len() < 64 * 1024 {
            match stream.message().await? {
                Some(response) => head.extend_from_slice(&response.data),
                None => break,
            }
        }
        Ok(kind_of(&head))
    };
    match found
        .await
        .map_err(|status: tonic::Status| daemon.failure(status))
    {
        Ok(kind) => Ok(kind),
        Err(failure) if missing(&failure) => Ok(None),
        Err(failure) => Err(failure),
    }
}

/// What the first entry of an archive is; its data may be cut off.
fn kind_of(head: &[u8]) -> Option<Kind> {
    let mut archive = tar::Archive::new(head);
    let entry = archive.entries().ok()?.next()?.ok()?;
    Some(if entry.header().entry_type().is_dir() {
        Kind::Directory
    } else {
        Kind::Other
    })
}

/// Collects an archive into messages.
struct ChunkWriter {
    tx: mpsc::Sender<UploadRequest>,
    buffer: Vec<u8>,
}

impl ChunkWriter {
    fn new(tx: mpsc::Sender<UploadRequest>) -> Self {
        ChunkWriter {
            tx,
            buffer: Vec::with_capacity(MAX_CHUNK_BYTES),
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let data = std::mem::replace(&mut self.buffer, Vec::with_capacity(MAX_CHUNK_BYTES));
        self.tx
            .blocking_send(UploadRequest {
                part: Some(Part::Data(data.into())),
            })
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

impl Write for ChunkWriter {
    fn write(&mut self, data: &[u8]) -> io::Result<usize> {
        let taken = data.len().min(MAX_CHUNK_BYTES - self.buffer.len());
        self.buffer.extend_from_slice(&data[..taken]);
        if self.buffer.len() == MAX_CHUNK_BYTES {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            Ok(())
        } else {
            self.send()
        }
    }
}

/// Reads an archive from messages.
struct ChunkReader {
    rx: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl ChunkReader {
    fn new(rx: mpsc::Receiver<Bytes>) -> Self {
        ChunkReader {
            rx,
            current: Bytes::new(),
        }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.rx.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        buffer[..length].copy_from_slice(&self.current.split_to(length));
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there(text: &str) -> (String, String, bool) {
        match Place::read(&text.into()) {
            Place::There(remote) => (remote.workspace, remote.path, remote.wants_directory),
            Place::Here(path) => panic!("{text:?} was read as {path:?}"),
        }
    }

    #[test]
    fn a_colon_before_any_slash_names_a_workspace() {
        assert_eq!(there("w:/etc/x"), ("w".into(), "/etc/x".into(), false));
        assert_eq!(there("w:a/"), ("w".into(), "/workspace/a".into(), true));
        assert_eq!(there("w:"), ("w".into(), "/workspace".into(), true));
        assert_eq!(there("w:/"), ("w".into(), "/".into(), true));
        for here in ["a", "./a:b", "/a:b", ":x"] {
            assert_eq!(Place::read(&here.into()), Place::Here(here.into()));
        }
    }

    fn archive(entries: &[(&str, Option<&str>)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_mode(if content.is_some() { 0o640 } else { 0o750 });
            header.set_size(content.map_or(0, str::len) as u64);
            header.set_entry_type(match content {
                Some(_) => tar::EntryType::Regular,
                None => tar::EntryType::Directory,
            });
            // Written raw, so that a test can lie about paths.
            header.as_gnu_mut().unwrap().name[..path.len()].copy_from_slice(path.as_bytes());
            header.set_cksum();
            builder
                .append(&header, content.unwrap_or("").as_bytes())
                .unwrap();
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn names_follow_cp() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        let file = archive(&[("f", Some("new"))]);
        let tree = archive(&[("d", None), ("d/x", Some("1"))]);
        // A file to a new name, over a file, into a directory.
        unpack(&file[..], &path("g"), "f", false).unwrap();
        std::fs::write(path("h"), "old").unwrap();
        unpack(&file[..], &path("h"), "f", false).unwrap();
        std::fs::create_dir(path("into")).unwrap();
        unpack(&file[..], &path("into"), "f", false).unwrap();
        // A directory to a new name, then into the directory it became.
        assert_eq!(unpack(&tree[..], &path("e"), "d", false).unwrap(), 2);
        unpack(&tree[..], &path("e"), "d", false).unwrap();
        for (name, content) in [
            ("g", "new"),
            ("h", "new"),
            ("into/f", "new"),
            ("e/x", "1"),
            ("e/d/x", "1"),
        ] {
            assert_eq!(
                std::fs::read_to_string(path(name)).unwrap(),
                content,
                "{name}"
            );
        }
        assert!(unpack(&tree[..], &path("g"), "d", false).is_err());
        let left: Vec<_> = std::fs::read_dir(directory.path()).unwrap().collect();
        assert_eq!(left.len(), 4, "staging is left behind: {left:?}");
    }

    #[test]
    fn an_archive_cannot_leave_the_destination() {
        let directory = tempfile::tempdir().unwrap();
        let hostile = archive(&[("../evil", Some("x"))]);
        assert!(unpack(&hostile[..], &directory.path().join("a"), "a", false).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        assert!(!directory.path().parent().unwrap().join("evil").exists());
    }

    #[test]
    fn the_head_of_an_archive_says_what_it_is() {
        assert_eq!(kind_of(&archive(&[("d", None)])), Some(Kind::Directory));
        assert_eq!(
            kind_of(&archive(&[("f", Some("x"))])[..512]),
            Some(Kind::Other)
        );
        assert_eq!(kind_of(b""), None);
    }
}
