//! Images as streams: `docker save` taken apart, and `docker load` of an archive
//! that is put together here.
//!
//! Nothing that came from outside reaches the engine as it came: the archive it
//! loads has one image, our tag, and names that are made here. Layers wait on
//! the disk until each has been found in the config by its sha256.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bollard::{Docker, query_parameters::ImportImageOptions};
use bytes::Bytes;
use futures_util::{
    StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use ring::digest::{Context, SHA256, digest};
use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::io::{StreamReader, SyncIoBridge};

use super::{
    DockerRuntime,
    errors::refused,
    snapshots::{inspect, size_of},
};
use crate::{
    adapters::disk_space::{free_bytes, is_disk_full},
    domain::{ids::SnapshotId, snapshot::journal::ImageRef},
    ports::{
        image_archive::{
            CONFIG_BYTES_MAX, ImageArchivePort, ImageLoadError, ImageLoading, ImagePart,
        },
        runtime::RuntimeError,
        snapshot_runtime::CommittedImage,
    },
};

/// How long an engine may take to load an image of any size.
const LOAD_TIMEOUT: Duration = Duration::from_secs(60 * 60);
/// Bytes that are read and handed on at once.
const PIECE_BYTES: usize = 256 << 10;
/// Pieces that wait.
const PIECES_WAITING: usize = 8;
/// Most layers that an engine takes.
const LAYERS_MAX: usize = 127;

/// The images of an engine, and room on this host for layers on their way in.
pub struct DockerImages {
    runtime: Arc<DockerRuntime>,
    scratch: PathBuf,
    low_water_bytes: u64,
}

impl DockerImages {
    /// Layers wait in `scratch`, a directory that exists; below
    /// `low_water_bytes` of free space none is taken.
    #[must_use]
    pub fn new(runtime: Arc<DockerRuntime>, scratch: PathBuf, low_water_bytes: u64) -> Self {
        Self {
            runtime,
            scratch,
            low_water_bytes,
        }
    }
}

#[async_trait]
impl ImageArchivePort for DockerImages {
    fn save(&self, image: &ImageRef) -> BoxStream<'static, Result<ImagePart, RuntimeError>> {
        let (runtime, image) = (self.runtime.clone(), image.clone());
        stream::once(async move { save(&runtime, &image).await })
            .try_flatten()
            .boxed()
    }

    async fn load(&self) -> Result<Box<dyn ImageLoading>, ImageLoadError> {
        let scratch = tempfile::Builder::new()
            .prefix("image-")
            .tempdir_in(&self.scratch)
            .map_err(|error| io_failure(&self.scratch, &error))?;
        Ok(Box::new(DockerLoading {
            runtime: self.runtime.clone(),
            scratch,
            low_water_bytes: self.low_water_bytes,
            open: None,
            layers: HashMap::new(),
            begun: 0,
        }))
    }
}

fn io_failure(directory: &Path, error: &io::Error) -> ImageLoadError {
    let directory = directory.display().to_string();
    if is_disk_full(error) {
        return ImageLoadError::DiskFull(directory);
    }
    ImageLoadError::Io {
        directory,
        message: error.to_string(),
    }
}

fn wrong(why: impl Into<String>) -> ImageLoadError {
    ImageLoadError::Wrong(why.into())
}

type Parts = ReceiverStream<Result<ImagePart, RuntimeError>>;

async fn save(runtime: &DockerRuntime, image: &ImageRef) -> Result<Parts, RuntimeError> {
    let docker = runtime.connect()?;
    let inspected = inspect(&docker, &image.0).await?;
    let id = inspected.id.unwrap_or_default();
    let layers = inspected.root_fs.and_then(|root| root.layers);
    let names = Names {
        config: digits(&id).to_owned(),
        layers: layers.unwrap_or_default(),
    };
    // By id: what is saved by tag brings the tag along.
    let saved = docker.export_image(&id).map_err(io::Error::other);
    let input = SyncIoBridge::new(StreamReader::new(saved.boxed()));
    let (tell, parts) = mpsc::channel(PIECES_WAITING);
    let subject = image.0.clone();
    // On cancel: whoever reads is gone, which ends it. On error: told to them.
    tokio::task::spawn_blocking(move || {
        if let Err(error) = take_apart(input, &names, &tell) {
            let _ = tell.blocking_send(Err(RuntimeError::Refused {
                action: "save the image",
                subject,
                message: error.to_string(),
            }));
        }
    });
    Ok(ReceiverStream::new(parts))
}

/// The digits of `sha256:DIGITS`.
fn digits(id: &str) -> &str {
    id.strip_prefix("sha256:").unwrap_or(id)
}

/// What the files in a saved image are called.
struct Names {
    /// Digits of the image's id.
    config: String,
    /// The layers' digests, `sha256:DIGITS`.
    layers: Vec<String>,
}

impl Names {
    /// `DIGITS.json` with older engines, a blob with newer ones.
    fn is_config(&self, path: &str) -> bool {
        let name = path.strip_prefix("blobs/sha256/");
        name.or_else(|| path.strip_suffix(".json")) == Some(&self.config)
    }

    /// `ANYTHING/layer.tar` with older engines, a blob with newer ones.
    fn is_layer(&self, path: &str) -> bool {
        path.ends_with("/layer.tar")
            || path
                .strip_prefix("blobs/sha256/")
                .is_some_and(|blob| self.layers.iter().any(|layer| digits(layer) == blob))
    }
}

type Tell = mpsc::Sender<Result<ImagePart, RuntimeError>>;

fn take_apart(input: impl io::Read, names: &Names, tell: &Tell) -> io::Result<()> {
    let send = |part| {
        tell.blocking_send(Ok(part))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let mut archive = tar::Archive::new(input);
    let mut has_config = false;
    for entry in archive.entries()? {
        let mut entry = entry?;
        // A layer that is there twice is a link the second time.
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        if names.is_config(&path) {
            let mut config = Vec::new();
            entry
                .by_ref()
                .take(CONFIG_BYTES_MAX as u64)
                .read_to_end(&mut config)?;
            has_config = true;
            send(ImagePart::Config(config.into()))?;
        } else if names.is_layer(&path) {
            send(ImagePart::Layer {
                bytes: entry.size(),
            })?;
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                entry
                    .by_ref()
                    .take(PIECE_BYTES as u64)
                    .read_to_end(&mut piece)?;
                if piece.is_empty() {
                    break;
                }
                send(ImagePart::Data(piece.into()))?;
            }
        }
    }
    if has_config {
        Ok(())
    } else {
        Err(io::Error::other("the engine gave no config with it"))
    }
}

/// An image on its way in.
struct DockerLoading {
    runtime: Arc<DockerRuntime>,
    /// Removed with everything in it when this is dropped.
    scratch: TempDir,
    low_water_bytes: u64,
    open: Option<OpenLayer>,
    /// Files by digest, `sha256:DIGITS`.
    layers: HashMap<String, PathBuf>,
    begun: usize,
}

struct OpenLayer {
    file: File,
    path: PathBuf,
    hashed: Context,
    left_bytes: u64,
}

impl DockerLoading {
    fn end_layer(&mut self) -> Result<(), ImageLoadError> {
        let Some(layer) = self.open.take() else {
            return Ok(());
        };
        if layer.left_bytes > 0 {
            return Err(wrong("a layer is shorter than it says"));
        }
        let name = sha256_name(layer.hashed.finish().as_ref());
        match self.layers.insert(name, layer.path) {
            None => Ok(()),
            Some(_) => Err(wrong("a layer is there twice")),
        }
    }

    /// Room for what comes and the low-water mark.
    fn require_room(&self, bytes: u64) -> Result<(), ImageLoadError> {
        let directory = self.scratch.path();
        let free = free_bytes(directory).map_err(|error| io_failure(directory, &error))?;
        match free.checked_sub(self.low_water_bytes) {
            Some(room) if room >= bytes => Ok(()),
            Some(_) | None => Err(ImageLoadError::DiskFull(directory.display().to_string())),
        }
    }
}

/// `sha256:DIGITS`, as engines write it.
fn sha256_name(hash: &[u8]) -> String {
    let digits: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{digits}")
}

#[async_trait]
impl ImageLoading for DockerLoading {
    async fn layer(&mut self, bytes: u64) -> Result<(), ImageLoadError> {
        self.end_layer()?;
        if self.begun >= LAYERS_MAX {
            return Err(wrong("it has more layers than an engine takes"));
        }
        self.require_room(bytes)?;
        let path = self.scratch.path().join(format!("{}.tar", self.begun));
        let file = File::create_new(&path);
        let file = file.map_err(|error| io_failure(self.scratch.path(), &error))?;
        self.begun += 1;
        self.open = Some(OpenLayer {
            file,
            path,
            hashed: Context::new(&SHA256),
            left_bytes: bytes,
        });
        Ok(())
    }

    async fn data(&mut self, data: Bytes) -> Result<(), ImageLoadError> {
        let Some(mut layer) = self.open.take() else {
            return Err(wrong("it has content outside a layer"));
        };
        let Some(left) = layer.left_bytes.checked_sub(data.len() as u64) else {
            return Err(wrong("a layer is longer than it says"));
        };
        let written = tokio::task::spawn_blocking(move || {
            layer.hashed.update(&data);
            layer.left_bytes = left;
            layer.file.write_all(&data).map(|()| layer)
        });
        let written = written
            .await
            .unwrap_or_else(|error| Err(io::Error::other(error)));
        let layer = written.map_err(|error| io_failure(self.scratch.path(), &error))?;
        self.open = Some(layer);
        Ok(())
    }

    async fn finish(
        mut self: Box<Self>,
        config: Bytes,
        id: &str,
        snapshot: &SnapshotId,
    ) -> Result<CommittedImage, ImageLoadError> {
        self.end_layer()?;
        if sha256_name(digest(&SHA256, &config).as_ref()) != id {
            return Err(wrong(format!("its config is not that of {id}")));
        }
        let labels = self.runtime.image_labels(snapshot);
        let config = relabelled(config, &labels)?;
        let layers = self.in_order(&config)?;
        let id = sha256_name(digest(&SHA256, &config).as_ref());
        let tag = ImageRef::of(snapshot);
        let docker = self.runtime.connect()?.with_timeout(LOAD_TIMEOUT);
        load(&docker, &tag, config, layers).await?;
        let inspected = inspect(&docker, &tag.0).await?;
        if inspected.id.as_deref() != Some(&id) {
            return Err(wrong(format!("the engine made {:?} of {id}", inspected.id)));
        }
        let size_bytes = size_of(&inspected);
        Ok(CommittedImage {
            id,
            size_bytes,
            // The engine does not tell which layers it had already.
            new_bytes: size_bytes,
        })
    }
}

impl DockerLoading {
    /// The layers' files in the config's order: each is there, and no other.
    fn in_order(&self, config: &[u8]) -> Result<Vec<PathBuf>, ImageLoadError> {
        #[derive(Deserialize)]
        struct Config {
            rootfs: RootFs,
        }
        #[derive(Deserialize)]
        struct RootFs {
            diff_ids: Vec<String>,
        }
        let config: Config = serde_json::from_slice(config)
            .map_err(|error| wrong(format!("its config cannot be read: {error}")))?;
        let named = config.rootfs.diff_ids;
        if let Some(foreign) = self.layers.keys().find(|layer| !named.contains(layer)) {
            return Err(wrong(format!("its config does not name layer {foreign}")));
        }
        let file = |layer: &String| {
            let file = self.layers.get(layer).cloned();
            file.ok_or_else(|| wrong(format!("layer {layer} is not there, or is another")))
        };
        named.iter().map(file).collect()
    }
}

/// The config with these labels: as it is where it has them already.
fn relabelled(config: Bytes, labels: &HashMap<String, String>) -> Result<Bytes, ImageLoadError> {
    let unreadable = |error| wrong(format!("its config cannot be read: {error}"));
    let mut document: Value = serde_json::from_slice(&config).map_err(unreadable)?;
    let document_config = document.get_mut("config").and_then(Value::as_object_mut);
    let Some(settings) = document_config else {
        return Err(wrong("its config has no settings"));
    };
    let has = settings.entry("Labels").or_insert(Value::Null);
    if !has.is_object() {
        *has = json!({});
    }
    let mut changed = false;
    for (name, value) in labels {
        if has.get(name).and_then(Value::as_str) != Some(value) {
            has[name] = json!(value);
            changed = true;
        }
    }
    match changed {
        true => Ok(serde_json::to_vec(&document).map_err(unreadable)?.into()),
        false => Ok(config),
    }
}

/// Lets the engine load an archive with one image.
async fn load(
    docker: &Docker,
    tag: &ImageRef,
    config: Bytes,
    layers: Vec<PathBuf>,
) -> Result<(), ImageLoadError> {
    let (tell, pieces) = mpsc::channel(PIECES_WAITING);
    let repo_tag = tag.0.clone();
    // On cancel: whoever reads is gone, which ends it. On error: told to them.
    tokio::task::spawn_blocking(move || {
        let mut out = io::BufWriter::with_capacity(PIECE_BYTES, ToChannel { tell: tell.clone() });
        let put = put_together(&mut out, &repo_tag, &config, &layers).and_then(|()| out.flush());
        if let Err(error) = put {
            let _ = tell.blocking_send(Err(error));
        }
    });
    let options = ImportImageOptions {
        quiet: true,
        ..Default::default()
    };
    let mut answers =
        std::pin::pin!(docker.import_image_stream(options, ReceiverStream::new(pieces), None));
    while let Some(answer) = answers.next().await {
        answer.map_err(|error| match error {
            bollard::errors::Error::DockerStreamError { error } => wrong(error),
            other => refused("load the image", &tag.0, &other).into(),
        })?;
    }
    Ok(())
}

/// Writes the archive that an engine loads. A layer that is in the image twice
/// is one file.
fn put_together(
    out: impl io::Write,
    tag: &str,
    config: &[u8],
    layers: &[PathBuf],
) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    let name = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    };
    let manifest = json!([{
        "Config": "config.json",
        "RepoTags": [tag],
        "Layers": layers.iter().map(name).collect::<Vec<_>>(),
    }]);
    let mut document = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o600);
        archive.append_data(&mut header, name, content)
    };
    document("manifest.json", manifest.to_string().as_bytes())?;
    document("config.json", config)?;
    let mut written = Vec::new();
    for path in layers {
        if !written.contains(&path) {
            archive.append_file(name(path), &mut File::open(path)?)?;
            written.push(path);
        }
    }
    archive.finish()
}

/// What is written to it is sent.
struct ToChannel {
    tell: mpsc::Sender<io::Result<Bytes>>,
}

impl io::Write for ToChannel {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let piece = Bytes::copy_from_slice(bytes);
        match self.tell.blocking_send(Ok(piece)) {
            Ok(()) => Ok(bytes.len()),
            Err(_) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_change_only_where_they_differ() {
        let labels = HashMap::from([("compy.snapshot".to_owned(), "sn-1".to_owned())]);
        let config = |text: &'static str| Bytes::from_static(text.as_bytes());
        let same = config(r#"{"z":1,"config":{"Labels":{"x":"y","compy.snapshot":"sn-1"}}}"#);
        assert_eq!(relabelled(same.clone(), &labels), Ok(same));
        for (before, after) in [
            (
                r#"{"config":{"Labels":{"compy.snapshot":"sn-2","x":"y"}}}"#,
                r#"{"config":{"Labels":{"compy.snapshot":"sn-1","x":"y"}}}"#,
            ),
            (
                r#"{"config":{"Labels":null}}"#,
                r#"{"config":{"Labels":{"compy.snapshot":"sn-1"}}}"#,
            ),
        ] {
            assert_eq!(relabelled(config(before), &labels), Ok(config(after)));
        }
        for broken in ["", "{}", r#"{"config":7}"#] {
            assert!(relabelled(config(broken), &labels).is_err(), "{broken}");
        }
    }

    #[test]
    fn a_saved_image_is_taken_apart_whichever_engine_saved_it() {
        let names = Names {
            config: "c0".to_owned(),
            layers: vec!["sha256:aa".to_owned()],
        };
        for (path, config, layer) in [
            ("c0.json", true, false),
            ("blobs/sha256/c0", true, false),
            ("77/layer.tar", false, true),
            ("blobs/sha256/aa", false, true),
            ("blobs/sha256/bb", false, false),
            ("manifest.json", false, false),
            ("77/json", false, false),
        ] {
            assert_eq!(names.is_config(path), config, "{path}");
            assert_eq!(names.is_layer(path), layer, "{path}");
        }
    }
}
