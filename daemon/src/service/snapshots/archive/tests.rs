//! Archives against an engine, a store and chunks in memory: what comes out
//! goes in, and whatever is not that is refused and leaves nothing.

use std::io::{Cursor, Read as _, Write as _};

use bytes::{Bytes, BytesMut};
use compyd_proto::agent::{TreeEntryKind, Xattr};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use prost::Message as _;
use tokio_util::task::TaskTracker;

use super::{
    super::{
        Prune, SnapshotsError, listing,
        tests::{World, world},
    },
    format::{ARCHIVE_FORMAT, ArchiveError, End, Member},
    *,
};
use crate::{
    adapters::memory::MemoryImages,
    domain::{
        snapshot::{
            CapturedVolume, MANIFEST_FORMAT, Snapshot, SnapshotReason, VolumeTree,
            hash::{ChunkHash, TreeHash},
            journal::{ImageRef, ImportStep, Progress},
        },
        workspace::{Provenance, Repository},
    },
    ports::{
        chunks::{CHUNK_BYTES_MAX, Chunk, ChunkPort as _, PruneMode},
        contract::store::snapshot,
        snapshot_runtime::SnapshotRuntimePort as _,
        store::StorePort as _,
        trees::{Extent, TreeEntry},
    },
};

/// A member of an archive as it is written.
#[derive(Debug, Clone, PartialEq)]
struct Raw {
    name: String,
    kind: tar::EntryType,
    content: Vec<u8>,
    /// What the header says, when that is another.
    size: Option<u64>,
}

impl Raw {
    fn new(name: impl Into<String>, content: impl Into<Vec<u8>>) -> Self {
        Self {
            name: name.into(),
            kind: tar::EntryType::Regular,
            content: content.into(),
            size: None,
        }
    }
}

fn members(archive: &[u8]) -> Vec<Raw> {
    let tar = zstd::decode_all(archive).unwrap();
    let mut tar = tar::Archive::new(Cursor::new(tar));
    let entries = tar.entries().unwrap();
    let read = |entry: std::io::Result<tar::Entry<'_, _>>| {
        let mut entry = entry.unwrap();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        let name = entry.path().unwrap().display().to_string();
        Raw::new(name, content)
    };
    entries.map(read).collect()
}

fn tar(members: &[Raw]) -> Vec<u8> {
    let mut out = Vec::new();
    for member in members {
        let mut header = tar::Header::new_ustar();
        // As bytes: what is tried here are names that no library would write.
        header.as_mut_bytes()[..member.name.len()].copy_from_slice(member.name.as_bytes());
        header.set_entry_type(member.kind);
        header.set_size(member.size.unwrap_or(member.content.len() as u64));
        header.set_mode(0o600);
        header.set_cksum();
        out.extend_from_slice(header.as_bytes());
        out.extend_from_slice(&member.content);
        out.resize(out.len().next_multiple_of(512), 0);
    }
    out.resize(out.len() + 1024, 0);
    out
}

fn packed(members: &[Raw]) -> Vec<u8> {
    zstd::encode_all(Cursor::new(tar(members)), 1).unwrap()
}

/// A world without any snapshot, and archives of it.
struct Here {
    world: World,
    archives: Archives,
    images: MemoryImages,
}

async fn place() -> Here {
    let world = world().await;
    world.snapshots.settle().await.unwrap();
    let own = snapshot(5, 1).id;
    world.snapshots.delete(&own).await.unwrap();
    let images = MemoryImages::new(world.runtime.clone());
    let (snapshots, tasks) = (world.snapshots.clone(), TaskTracker::new());
    let archives = Archives::new(snapshots, Arc::new(images.clone()), tasks);
    Here {
        world,
        archives,
        images,
    }
}

fn entry(path: &'static str, kind: TreeEntryKind) -> TreeEntry {
    TreeEntry {
        path: Bytes::from_static(path.as_bytes()),
        kind: kind.into(),
        mode: 0o755,
        ..TreeEntry::default()
    }
}

fn file(path: &'static str, content: &[u8]) -> TreeEntry {
    let extent = Extent {
        length: content.len() as u64,
        hash: Bytes::copy_from_slice(ChunkHash::of(content).as_bytes()),
    };
    TreeEntry {
        size_bytes: content.len() as u64,
        extents: vec![extent],
        ..entry(path, TreeEntryKind::File)
    }
}

const CONTENTS: [&[u8]; 2] = [b"one content", b"another content"];

/// A tree with something of most kinds.
fn tree() -> Vec<TreeEntry> {
    let xattr = Xattr {
        name: Bytes::from_static(b"user.x"),
        value: Bytes::from_static(b"\xff"),
    };
    vec![
        entry("", TreeEntryKind::Directory),
        file("a", CONTENTS[0]),
        TreeEntry {
            xattrs: vec![xattr],
            ..entry("d", TreeEntryKind::Directory)
        },
        file("d/b", CONTENTS[1]),
        TreeEntry {
            mode: 0,
            hard_link: Bytes::from_static(b"a"),
            ..entry("d/c", TreeEntryKind::File)
        },
        TreeEntry {
            mode: 0o777,
            link_target: Bytes::from_static(b"../../etc/passwd"),
            ..entry("link", TreeEntryKind::Symlink)
        },
    ]
}

impl Here {
    /// Stores a snapshot with such a tree and an image.
    async fn stored(&self, entries: &[TreeEntry]) -> Snapshot {
        let mut writer = self.world.chunks.writer().await.unwrap();
        for content in CONTENTS {
            let chunk = Chunk::of(Bytes::from_static(content)).unwrap();
            writer.put(chunk).await.unwrap();
        }
        let tree = listing::write(entries, &mut *writer).await.unwrap();
        let stored = writer.finish().await.unwrap();
        let mut manifest = snapshot(7, 1);
        manifest.volumes = [(CapturedVolume::Work, tree)].into();
        manifest.image.id = MemoryImages::id();
        self.world.store.put_snapshot(&manifest).await.unwrap();
        self.world.runtime.add_committed(&manifest.id);
        drop(stored);
        manifest
    }

    async fn export(&self, manifest: &Snapshot) -> Vec<u8> {
        let pieces = self.archives.export(&manifest.id).await.unwrap();
        let bytes: BytesMut = pieces.try_collect().await.unwrap();
        bytes.to_vec()
    }

    async fn import(&self, archive: &[u8]) -> Result<Imported, SnapshotsError> {
        // In pieces that have nothing to do with what is in them.
        let pieces: Vec<_> = (archive.chunks(1000))
            .map(|piece| Ok(Bytes::copy_from_slice(piece)))
            .collect();
        self.archives.import(stream::iter(pieces).boxed()).await
    }

    /// Snapshots, images of snapshots, and chunks after pruning; nothing is
    /// under way.
    async fn left(&self) -> (usize, usize, usize) {
        let World { store, runtime, .. } = &self.world;
        assert_eq!(store.operations().await, Ok(vec![]));
        let everything = Prune::everything(PruneMode::Remove);
        self.world.snapshots.prune(everything).await.unwrap();
        let snapshots = store.snapshots(None).await.unwrap().len();
        let images = runtime.committed().await.unwrap().len();
        (snapshots, images, self.world.chunks.len())
    }
}

const NOTHING: (usize, usize, usize) = (0, 0, 0);

#[tokio::test]
async fn what_is_exported_comes_in_elsewhere_and_once() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let archive = here.export(&manifest).await;
    let names: Vec<String> = members(&archive).into_iter().map(|m| m.name).collect();
    assert_eq!(names[0], Member::Head.name());
    assert_eq!(names.last(), Some(&Member::End.name()));
    assert_eq!(names.len(), 8, "{names:?}");

    let there = place().await;
    let imported = there.import(&archive).await.unwrap();
    assert!(!imported.already);
    let mut expected = manifest.clone();
    expected.sizes.new_bytes = imported.snapshot.sizes.new_bytes;
    assert_eq!(imported.snapshot, expected);
    assert_eq!(there.left().await, (1, 1, 3));
    let read = listing::read(
        &expected.volumes[&CapturedVolume::Work],
        &*there.world.chunks,
    );
    assert_eq!(read.await.unwrap(), tree());
    let again = there.import(&archive).await.unwrap();
    assert_eq!(
        again,
        Imported {
            snapshot: expected,
            already: true
        }
    );
    assert_eq!(there.left().await, (1, 1, 3));
    assert_eq!(here.import(&archive).await.unwrap().snapshot, manifest);
    // From there it goes on in the same form.
    assert_eq!(
        members(&there.export(&manifest).await)[1..6],
        members(&archive)[1..6]
    );
}

#[tokio::test]
async fn an_archive_vouches_for_no_source_and_is_no_result_of_a_setup() {
    let here = place().await;
    let mut manifest = here.stored(&tree()).await;
    manifest.repositories = vec![Repository {
        name: "api".parse().unwrap(),
        source: "https://git.example/api".to_owned(),
        commit: String::new(),
        branch: String::new(),
        provenance: Provenance::Fetched,
    }];
    manifest.reason = SnapshotReason::Setup;
    here.world.store.put_snapshot(&manifest).await.unwrap();
    let archive = here.export(&manifest).await;
    let there = place().await;
    let imported = there.import(&archive).await.unwrap().snapshot;
    assert_eq!(imported.reason, SnapshotReason::Manual);
    let repository = manifest.repositories.remove(0);
    assert_eq!(imported.repositories, [repository.claimed()]);
}

#[tokio::test]
async fn a_snapshot_whose_id_another_has_comes_in_under_a_new_one() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let archive = here.export(&manifest).await;
    let there = place().await;
    let other = there.stored(&tree()[..2]).await;
    let imported = there.import(&archive).await.unwrap().snapshot;
    assert_ne!(imported.id, manifest.id);
    assert_eq!(imported.volumes, manifest.volumes);
    assert_eq!(there.world.snapshots.get(&other.id).await.unwrap(), other);
    assert_eq!(there.left().await, (2, 2, 4));
}

#[tokio::test]
async fn an_export_keeps_its_chunks_while_it_is_read() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let pieces = here.archives.export(&manifest.id).await.unwrap();
    let id = &manifest.id;
    here.world.store.remove_snapshot(id).await.unwrap();
    let everything = Prune::everything(PruneMode::Measure);
    let pruned = here.world.snapshots.prune(everything).await.unwrap();
    assert_eq!(pruned.chunks, 0);
    let archive: BytesMut = pieces.try_collect().await.unwrap();
    let there = place().await;
    there.import(&archive).await.unwrap();
    here.archives.tasks.close();
    here.archives.tasks.wait().await;
    assert_eq!(here.left().await, NOTHING);
}

#[tokio::test]
async fn an_export_of_what_is_not_whole_fails() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let unknown = here.archives.export(&snapshot(9, 1).id).await;
    assert!(matches!(unknown, Err(SnapshotsError::Unknown(_))));
    let image = ImageRef::of(&manifest.id);
    here.world.runtime.remove_image(&image).await.unwrap();
    let gone = here.archives.export(&manifest.id).await;
    assert!(matches!(gone, Err(SnapshotsError::ImageGone(_))));
    here.world.runtime.add_committed(&manifest.id);
    here.world
        .store
        .remove_snapshot(&manifest.id)
        .await
        .unwrap();
    here.left().await;
    here.world.runtime.add_committed(&manifest.id);
    here.world.store.put_snapshot(&manifest).await.unwrap();
    let pruned = here.archives.export(&manifest.id).await;
    assert!(matches!(pruned, Err(SnapshotsError::Damaged(_))));
}

/// One way to break an archive, what it is called, and what the refusal says.
type Broken = (&'static str, Vec<u8>, &'static str);

fn at(members: &[Raw], name: &str) -> usize {
    members.iter().position(|m| m.name == name).unwrap()
}

/// Archives with one member changed, added, removed or moved.
fn broken_members(sound: &[Raw]) -> Vec<Broken> {
    let with = |change: &dyn Fn(&mut Vec<Raw>)| {
        let mut members = sound.to_vec();
        change(&mut members);
        packed(&members)
    };
    let end = at(sound, "end.json");
    let (listing, chunk, layer) = (1, 3, at(sound, "image/layers/0"));
    let config = at(sound, "image/config.json");
    let added = |raw: Raw| with(&|members| members.insert(end, raw.clone()));
    let link = |kind| Raw {
        kind,
        ..Raw::new("image/layers/2", "")
    };
    let head = |change: &dyn Fn(&mut serde_json::Value)| {
        with(&|members| {
            let mut document = serde_json::from_slice(&members[0].content).unwrap();
            change(&mut document);
            members[0].content = serde_json::to_vec(&document).unwrap();
        })
    };
    let mut cases = vec![
        (
            "a name that leads out",
            added(Raw::new("../../etc/x", "x")),
            "leads out",
        ),
        (
            "a name with dots inside",
            added(Raw::new("chunks/../../x", "x")),
            "leads out",
        ),
        (
            "an absolute name",
            added(Raw::new("/etc/x", "x")),
            "leads out",
        ),
        (
            "an unknown member",
            added(Raw::new("notes.txt", "x")),
            "no such member",
        ),
        (
            "a symbolic link",
            added(link(tar::EntryType::Symlink)),
            "no plain file",
        ),
        (
            "a hard link",
            added(link(tar::EntryType::Link)),
            "no plain file",
        ),
        (
            "a device",
            added(link(tar::EntryType::Char)),
            "no plain file",
        ),
        (
            "a directory",
            added(link(tar::EntryType::Directory)),
            "no plain file",
        ),
        (
            "a long name",
            added(link(tar::EntryType::GNULongName)),
            "no plain file",
        ),
        (
            "an extension",
            added(link(tar::EntryType::XHeader)),
            "no plain file",
        ),
        ("two manifests", added(sound[0].clone()), "twice"),
        ("two configs", added(sound[config].clone()), "twice"),
        ("a layer twice", added(sound[layer].clone()), "twice"),
        ("a chunk twice", added(sound[chunk].clone()), "twice"),
        ("a listing twice", added(sound[listing].clone()), "twice"),
        (
            "a chunk that nothing names",
            added(Raw::new(Member::Chunk(ChunkHash::of(b"x")).name(), "x")),
            "nothing names it",
        ),
        (
            "a layer that the config does not name",
            added(Raw::new("image/layers/2", "x")),
            "does not say what was there",
        ),
        (
            "a gap in the layers",
            added(Raw::new("image/layers/3", "x")),
            "is not there",
        ),
        (
            "something after the end",
            with(&|m| m.push(m[chunk].clone())),
            "after the end",
        ),
        (
            "no manifest",
            with(&|m| drop(m.remove(0))),
            "before the manifest",
        ),
        ("no end", with(&|m| drop(m.remove(end))), "lacks end.json"),
        (
            "no config",
            with(&|m| drop(m.remove(config))),
            "lacks image/config.json",
        ),
        (
            "no listing",
            with(&|m| drop(m.remove(listing))),
            "before the listings",
        ),
        (
            "no chunk",
            with(&|m| drop(m.remove(chunk))),
            "lacks chunks/",
        ),
        (
            "no layer",
            with(&|m| drop(m.remove(layer + 1))),
            "does not say",
        ),
        (
            "a chunk with other bytes",
            with(&|m| m[chunk].content[0] ^= 1),
            "another hash",
        ),
        (
            "a listing with other bytes",
            with(&|m| m[listing].content[0] ^= 1),
            "another hash",
        ),
        (
            "a layer with other bytes",
            with(&|m| m[layer].content[0] ^= 1),
            "root file system",
        ),
        (
            "a config with other bytes",
            with(&|m| m[config].content[0] ^= 1),
            "root file system",
        ),
        (
            "another manifest than the end says",
            head(&|h| h["manifest"]["pause_ms"] = 77.into()),
            "does not say what was there",
        ),
        (
            "a future format",
            head(&|h| h["format"] = (ARCHIVE_FORMAT + 1).into()),
            "use a newer daemon",
        ),
        (
            "a future manifest",
            head(&|h| h["manifest"]["format"] = (MANIFEST_FORMAT + 1).into()),
            "use a newer daemon",
        ),
        (
            "a manifest with something unknown beside it",
            head(&|h| h["more"] = 1.into()),
            "unknown field",
        ),
        (
            "a manifest that is none",
            head(&|h| h["manifest"]["id"] = "../x".into()),
            "not a whole one",
        ),
        (
            "another image than the manifest says",
            head(&|h| h["manifest"]["image"]["id"] = "sha256:00".into()),
            "does not say what was there",
        ),
    ];
    for (name, member, size) in [
        (
            "a chunk of impossible size",
            chunk,
            CHUNK_BYTES_MAX as u64 + 1,
        ),
        ("a manifest of impossible size", 0, 1 << 40),
        ("an end of impossible size", end, 1 << 30),
    ] {
        let oversized = with(&|m| m[member].size = Some(size));
        cases.push((name, oversized, "larger than"));
    }
    let huge = with(&|m| m[layer].size = Some(1 << 60));
    cases.push(("a layer larger than any disk", huge, "no room"));
    cases
}

/// What is no archive at all, or not all of one.
fn broken_bytes(archive: &[u8], sound: &[Raw]) -> Vec<Broken> {
    let mut flipped = archive.to_vec();
    flipped[archive.len() / 2] ^= 0x10;
    let followed = [archive, b"more"].concat();
    let frame = zstd::encode_all(&b"more"[..], 1).unwrap();
    let followed_by_frame = [archive, &frame[..]].concat();
    let mut bomb = zstd::stream::write::Encoder::new(Vec::new(), 1).unwrap();
    bomb.write_all(&tar(sound)).unwrap();
    for _ in 0..64 {
        bomb.write_all(&[0; 1 << 20]).unwrap();
    }
    let half_tar = tar(sound);
    let half_tar = zstd::encode_all(&half_tar[..half_tar.len() / 2], 1).unwrap();
    vec![
        ("nothing", Vec::new(), ""),
        ("no archive", b"what is this?".to_vec(), "not a whole one"),
        ("another archive", packed(&[]), "lacks"),
        ("the first half", archive[..archive.len() / 2].to_vec(), ""),
        (
            "all but the last byte",
            archive[..archive.len() - 1].to_vec(),
            "",
        ),
        ("half a tar, compressed whole", half_tar, ""),
        ("a bit that fell over", flipped, ""),
        ("something behind it", followed, "not a whole one"),
        ("a frame behind it", followed_by_frame, "something follows"),
        (
            "zeros without end",
            bomb.finish().unwrap(),
            "something follows",
        ),
    ]
}

#[tokio::test]
async fn whatever_is_no_whole_archive_is_refused_and_leaves_nothing() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let archive = here.export(&manifest).await;
    let sound = members(&archive);
    let there = place().await;
    let mut cases = broken_members(&sound);
    cases.extend(broken_bytes(&archive, &sound));
    for (name, broken, expected) in cases {
        let refused = there.import(&broken).await;
        let error = refused.expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(there.left().await, NOTHING, "{name}");
    }
    // What was packed here is an archive where nothing was changed.
    there.import(&packed(&sound)).await.unwrap();
    assert_eq!(there.left().await, (1, 1, 3));
}

/// An archive with this listing, whatever it is, and everything else right.
fn with_listing(sound: &[Raw], encoded: &[u8], entries: u64, bytes: u64) -> Vec<u8> {
    let mut members = sound.to_vec();
    let hash = ChunkHash::of(encoded);
    members[1] = Raw::new(Member::Chunk(hash).name(), encoded);
    let mut head: format::Head = serde_json::from_slice(&members[0].content).unwrap();
    let tree = VolumeTree {
        hash: TreeHash::of(encoded),
        listing: vec![hash],
        entries,
        bytes,
    };
    head.manifest["volumes"]["work"] = serde_json::to_value(tree).unwrap();
    members[0].content = serde_json::to_vec(&head).unwrap();
    let last = members.len() - 1;
    let mut end: End = serde_json::from_slice(&members[last].content).unwrap();
    end.head = ChunkHash::of(&members[0].content);
    members[last].content = serde_json::to_vec(&end).unwrap();
    packed(&members)
}

fn encoded(entries: &[TreeEntry]) -> Vec<u8> {
    let encode = |entry: &TreeEntry| entry.encode_length_delimited_to_vec();
    entries.iter().flat_map(encode).collect()
}

#[tokio::test]
async fn a_listing_that_no_capture_makes_is_refused_and_leaves_nothing() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let sound = members(&here.export(&manifest).await);
    let there = place().await;
    let bytes = manifest.volumes[&CapturedVolume::Work].bytes;
    let with = |change: &dyn Fn(&mut Vec<TreeEntry>)| {
        let mut entries = tree();
        change(&mut entries);
        let count = entries.len() as u64;
        with_listing(&sound, &encoded(&entries), count, bytes)
    };
    let at = |path: &'static str| with(&|e| e[5].path = Bytes::from_static(path.as_bytes()));
    let mut odd_form = encoded(&tree());
    // The same field once more.
    let last = tree().pop().unwrap().encode_to_vec();
    odd_form.truncate(odd_form.len() - last.len() - 1);
    let last = [&last[..], &last[..]].concat();
    prost::encoding::encode_varint(last.len() as u64, &mut odd_form);
    odd_form.extend(last);
    let cases: Vec<Broken> = vec![
        ("a way out", at("m/../../x"), "out of the volume"),
        ("a way out at once", at(".."), "out of the volume"),
        ("an absolute path", at("/x"), "absolute"),
        ("an empty name", at("x//y"), "empty name"),
        ("a zero byte", at("x\0y"), "zero byte"),
        ("below a file", at("d/c/x"), "no directory"),
        ("below nothing", at("x/y"), "no directory"),
        ("out of order", with(&|e| e.swap(1, 5)), "out of order"),
        (
            "a path twice",
            with(&|e| e[5].path = e[4].path.clone()),
            "twice",
        ),
        ("no root", with(&|e| drop(e.remove(0))), "not the root"),
        (
            "below a symbolic link",
            with(&|e| {
                e[5].path = Bytes::from_static(b"d2");
                e.push(entry("d2/x", TreeEntryKind::Fifo));
            }),
            "no directory",
        ),
        (
            "a hard link out of the volume",
            with(&|e| e[4].hard_link = Bytes::from_static(b"../a")),
            "hard link",
        ),
        (
            "a hard link to what comes later",
            with(&|e| e[4].hard_link = Bytes::from_static(b"link")),
            "hard link",
        ),
        (
            "a hard link with a mode",
            with(&|e| e[4].mode = 0o4755),
            "of its own",
        ),
        (
            "an impossible mode",
            with(&|e| e[3].mode = 0o10000),
            "its mode",
        ),
        (
            "an impossible time",
            with(&|e| e[3].mtime_ns = 1_000_000_000),
            "its time",
        ),
        ("no kind", with(&|e| e[3].kind = 0), "no known kind"),
        (
            "a kind that is none",
            with(&|e| e[3].kind = 77),
            "no known kind",
        ),
        (
            "a link to nowhere",
            with(&|e| e[5].link_target.clear()),
            "target",
        ),
        (
            "a directory with content",
            with(&|e| e[2].size_bytes = 1),
            "is no file",
        ),
        ("another size", with(&|e| e[3].size_bytes += 1), "add up"),
        (
            "an empty part",
            with(&|e| e[3].extents[0].length = 0),
            "impossible length",
        ),
        (
            "half a hash",
            with(&|e| e[3].extents[0].hash.truncate(16)),
            "hash of a chunk",
        ),
        (
            "another length of a chunk",
            with(&|e| {
                e[3].extents[0].length += 1;
                e[3].size_bytes += 1;
            }),
            "",
        ),
        (
            "an impossible size",
            with(&|e| {
                let hole = Extent {
                    length: u64::MAX,
                    hash: Bytes::new(),
                };
                e[3].extents.push(hole);
            }),
            "impossibly large",
        ),
        (
            "an attribute of the host",
            with(&|e| e[2].xattrs[0].name = Bytes::from_static(b"security.selinux")),
            "not content",
        ),
        (
            "a fifo with device numbers",
            with(&|e| {
                e[5] = TreeEntry {
                    device_major: 8,
                    ..entry("link", TreeEntryKind::Fifo)
                }
            }),
            "no device",
        ),
        (
            "another number of entries",
            with_listing(&sound, &encoded(&tree()), 7, bytes),
            "another number",
        ),
        (
            "another number of bytes",
            with_listing(&sound, &encoded(&tree()), 6, bytes + 1),
            "another number",
        ),
        (
            "an odd form",
            with_listing(&sound, &odd_form, 6, bytes),
            "not in the form",
        ),
        ("no listing", with_listing(&sound, b"", 0, 0), "empty"),
        ("noise", with_listing(&sound, b"\x05noise", 1, 0), ""),
    ];
    for (name, broken, expected) in cases {
        let refused = there.import(&broken).await;
        let error = refused.expect_err(name).to_string();
        assert!(error.contains(expected), "{name}: {error}");
        assert_eq!(there.left().await, NOTHING, "{name}");
    }
    let same = with_listing(&sound, &encoded(&tree()), 6, bytes);
    there.import(&same).await.unwrap();
}

#[tokio::test]
async fn an_import_without_room_or_engine_leaves_nothing_and_can_be_done_again() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let archive = here.export(&manifest).await;
    let there = place().await;
    there.world.chunks.fill_disk();
    assert!(there.import(&archive).await.is_err());
    there.world.chunks.free_disk();
    assert_eq!(there.left().await, NOTHING);
    there.world.runtime.take_down();
    assert!(there.import(&archive).await.is_err());
    there.world.runtime.answer_again();
    there.world.snapshots.settle().await.unwrap();
    assert_eq!(there.left().await, NOTHING);
    there.import(&archive).await.unwrap();
    let full = place().await;
    full.images.fill_disk();
    let refused = full.import(&archive).await;
    assert!(matches!(refused, Err(SnapshotsError::ImageLoad(_))));
    assert_eq!(full.left().await, NOTHING);
}

#[tokio::test]
async fn an_import_that_was_cut_off_is_gone_or_whole() {
    let here = place().await;
    let manifest = here.stored(&tree()).await;
    let archive = here.export(&manifest).await;
    for stored in [false, true] {
        let there = place().await;
        let world = &there.world;
        // As a kill leaves it: the image loaded, the chunks durable.
        let imported = there.import(&archive).await.unwrap().snapshot;
        world.store.remove_snapshot(&imported.id).await.unwrap();
        let step = match stored {
            true => ImportStep::Storing {
                manifest: Box::new(imported.clone()),
            },
            false => ImportStep::Begun,
        };
        let progress = Progress::Import {
            snapshot: imported.id.clone(),
            image: ImageRef::of(&imported.id),
            step,
        };
        world.cut_off(&imported.workspace, progress).await;
        world.snapshots.settle().await.unwrap();
        let expected = if stored { (1, 1, 3) } else { NOTHING };
        assert_eq!(there.left().await, expected);
    }
}

#[tokio::test]
async fn refusals_are_told_from_failures() {
    let there = place().await;
    let refused = there.import(b"no archive").await.unwrap_err();
    assert!(matches!(
        refused,
        SnapshotsError::Archive(ArchiveError::Broken(_))
    ));
}

/// An archive, as the tar in it: packed again, so that what is in it is reached;
/// with an odd first byte, as the packed bytes themselves.
#[test]
fn whatever_an_archive_holds_is_refused_or_comes_in_whole() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (here, archive) = runtime.block_on(async {
        let here = place().await;
        let manifest = here.stored(&tree()).await;
        let archive = here.export(&manifest).await;
        (here, archive)
    });
    drop(here);
    let sound = members(&archive);
    let of_tar = |members: &[Raw]| [&[0][..], &tar(members)].concat();
    let seeds = vec![
        of_tar(&sound),
        of_tar(&sound[..1]),
        of_tar(&sound[..3]),
        [&[1][..], &archive].concat(),
    ];
    let there = runtime.block_on(place());
    crate::fuzz::run_here("archive", seeds, |input| {
        let Some((kind, bytes)) = input.split_first() else {
            return String::new();
        };
        let archive = match kind % 2 {
            0 => zstd::encode_all(Cursor::new(repaired(bytes)), 1).unwrap(),
            _ => bytes.to_vec(),
        };
        runtime.block_on(async {
            match there.import(&archive).await {
                Ok(imported) => {
                    let id = &imported.snapshot.id;
                    there.world.snapshots.delete(id).await.unwrap();
                    assert_eq!(there.left().await, NOTHING);
                    "it comes in".to_owned()
                }
                Err(error) => {
                    assert_eq!(there.left().await, NOTHING, "{error}");
                    error.to_string()
                }
            }
        })
    });
}

/// A tar whose headers have the right checksums again.
fn repaired(bytes: &[u8]) -> Vec<u8> {
    let mut bytes = bytes.to_vec();
    let mut at = 0;
    while let Some(header) = bytes.get_mut(at..at + 512) {
        if header.iter().all(|byte| *byte == 0) {
            break;
        }
        let mut raw = tar::Header::new_old();
        raw.as_mut_bytes().copy_from_slice(header);
        raw.set_cksum();
        header.copy_from_slice(raw.as_bytes());
        let size = raw.size().unwrap_or(0);
        let size = usize::try_from(size).unwrap_or(usize::MAX);
        at = at
            .saturating_add(512)
            .saturating_add(size.saturating_add(511) / 512 * 512);
        if at > bytes.len() {
            break;
        }
    }
    bytes
}

#[tokio::test]
async fn an_image_with_volumes_of_its_own_does_not_come_in() {
    let (here, there) = (place().await, place().await);
    let manifest = here.stored(&tree()).await;
    let archive = here.export(&manifest).await;
    let image = ImageRef::of(&manifest.id);
    there.world.runtime.declare_volumes(&image.0, &["/data"]);
    let refused = there.import(&archive).await.unwrap_err();
    assert!(refused.to_string().contains("/data"), "{refused}");
    assert_eq!(there.left().await, NOTHING);
}
