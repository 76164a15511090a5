//! Trees out of a directory and into one: what survives, what is refused.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use compyd_proto::agent::restore_step::Step;
use compyd_proto::agent::*;
use tonic::Code;

use crate::harness::*;
use crate::volume::*;

/// An agent and a directory with two in it, one to capture and one to restore.
struct Pair {
    rig: Rig,
    _dir: tempfile::TempDir,
    from: PathBuf,
    to: PathBuf,
}

impl Pair {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        Self {
            rig: Rig::start().await,
            _dir: dir,
            from,
            to,
        }
    }

    async fn capture(&self, earlier: Option<&Captured>) -> Captured {
        capture(&self.rig.trees(), &self.from, earlier)
            .await
            .unwrap()
    }

    /// Sends steps that change the second directory.
    async fn delta(&self, steps: Vec<Step>) -> Result<RestoreSummary, tonic::Status> {
        let answer = restore(&self.rig.trees(), &self.to, RestoreMode::Delta, steps).await;
        answer.map(|(_, summary)| summary)
    }
}

fn entry(path: &str, kind: TreeEntryKind) -> TreeEntry {
    TreeEntry {
        path: Bytes::copy_from_slice(path.as_bytes()),
        kind: kind.into(),
        mode: 0o755,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        ..TreeEntry::default()
    }
}

fn file_of(path: &str, content: &[u8]) -> (TreeEntry, Step) {
    let extent = Extent {
        length: content.len() as u64,
        hash: Bytes::copy_from_slice(blake3::hash(content).as_bytes()),
    };
    let entry = TreeEntry {
        size_bytes: extent.length,
        extents: vec![extent],
        ..entry(path, TreeEntryKind::File)
    };
    let content = ChunkContent {
        encoding: ChunkEncoding::Raw.into(),
        data: Bytes::copy_from_slice(content),
    };
    (entry, Step::Content(content))
}

/// Waits until the clock that files are stamped with has moved on.
async fn next_tick() {
    tokio::time::sleep(Duration::from_millis(25)).await;
}

fn root_only() -> bool {
    let is_root = nix::unistd::geteuid().is_root();
    if !is_root {
        eprintln!("SKIPPED: owners, devices and capabilities need root");
    }
    is_root
}

#[tokio::test]
async fn an_agent_says_what_it_can_do() {
    let rig = Rig::start().await;
    let hello = rig.client.clone().hello(HelloRequest::default()).await;
    assert_eq!(
        hello.unwrap().into_inner().features,
        ["trees", "volumes", "changes", "secrets", "ssh-agent"]
    );
}

#[tokio::test]
async fn entries_come_in_walk_order_and_say_what_is_there() {
    let pair = Pair::start().await;
    std::fs::create_dir_all(pair.from.join("a/empty")).unwrap();
    std::fs::write(pair.from.join("a-b"), "one").unwrap();
    std::fs::write(pair.from.join("a/z"), "two").unwrap();
    std::fs::hard_link(pair.from.join("a/z"), pair.from.join("b")).unwrap();
    symlink("nowhere", pair.from.join("c")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(pair.from.join("d.sock")).unwrap();
    let captured = pair.capture(None).await;
    assert_eq!(
        captured.paths(),
        ["", "a", "a/empty", "a/z", "a-b", "b", "c"]
    );
    assert_eq!(captured.content("a/z"), b"two");
    assert_eq!(
        captured.entry("b"),
        &TreeEntry {
            path: Bytes::from_static(b"b"),
            kind: TreeEntryKind::File.into(),
            hard_link: Bytes::from_static(b"a/z"),
            ..TreeEntry::default()
        }
    );
    assert_eq!(captured.entry("c").link_target, "nowhere");
    let summary = captured.summary;
    assert_eq!(
        (
            summary.file_bytes,
            summary.chunk_bytes,
            summary.sockets_skipped
        ),
        (6, 6, 1)
    );
}

#[tokio::test]
async fn everything_that_root_may_set_survives() {
    if !root_only() {
        return;
    }
    let pair = Pair::start().await;
    let suid = pair.from.join("suid");
    std::fs::write(&suid, "x").unwrap();
    std::os::unix::fs::chown(&suid, Some(1234), Some(4321)).unwrap();
    std::fs::set_permissions(&suid, Permissions::from_mode(0o6755)).unwrap();
    // VFS_CAP_REVISION_2 with CAP_NET_BIND_SERVICE permitted.
    let capability = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let set = |path: &Path, name, value: &[u8]| {
        let flags = rustix::fs::XattrFlags::empty();
        rustix::fs::setxattr(path, name, value, flags).unwrap();
    };
    set(&suid, "security.capability", &capability);
    set(&suid, "trusted.not-ours", b"stays");
    let device = rustix::fs::makedev(1, 3);
    let (character, mode) = (
        rustix::fs::FileType::CharacterDevice,
        rustix::fs::Mode::RUSR,
    );
    let null = pair.from.join("null");
    rustix::fs::mknodat(rustix::fs::CWD, &null, character, mode, device).unwrap();
    symlink("null", pair.from.join("link")).unwrap();
    std::os::unix::fs::lchown(pair.from.join("link"), Some(7), Some(8)).unwrap();

    let captured = pair.capture(None).await;
    let suid = captured.entry("suid");
    assert_eq!((suid.mode, suid.uid, suid.gid), (0o6755, 1234, 4321));
    assert_eq!(
        suid.xattrs,
        [Xattr {
            name: Bytes::from_static(b"security.capability"),
            value: Bytes::copy_from_slice(&capability),
        }]
    );
    let null = captured.entry("null");
    assert_eq!(null.kind(), TreeEntryKind::CharacterDevice);
    assert_eq!((null.device_major, null.device_minor), (1, 3));
    assert_eq!(
        (captured.entry("link").uid, captured.entry("link").gid),
        (7, 8)
    );

    restore_whole(&pair.rig.trees(), &pair.to, &captured).await;
    let again = capture(&pair.rig.trees(), &pair.to, None).await.unwrap();
    assert_eq!(again.entries, captured.entries);
}

#[tokio::test]
async fn what_is_made_in_a_directory_does_not_inherit_its_default_acl() {
    let pair = Pair::start().await;
    // Version 2; user_obj rwx, group_obj r-x, other nothing.
    let acl: Vec<u8> = [
        &[2, 0, 0, 0][..],
        &acl_entry(1, 7),
        &acl_entry(4, 5),
        &acl_entry(32, 0),
    ]
    .concat();
    let flags = rustix::fs::XattrFlags::empty();
    let shared = pair.from.join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::create_dir(shared.join("plain")).unwrap();
    std::fs::write(shared.join("file"), "x").unwrap();
    rustix::fs::setxattr(&shared, "system.posix_acl_default", &acl, flags).unwrap();
    let captured = pair.capture(None).await;
    assert_eq!(captured.entry("shared").xattrs.len(), 1);
    assert_eq!(captured.entry("shared/plain").xattrs, []);

    restore_whole(&pair.rig.trees(), &pair.to, &captured).await;
    // Also where the directory has it already.
    std::fs::remove_dir(pair.to.join("shared/plain")).unwrap();
    std::fs::remove_file(pair.to.join("shared/file")).unwrap();
    let now = capture(&pair.rig.trees(), &pair.to, None).await.unwrap();
    restore_delta(&pair.rig.trees(), &pair.to, &now, &captured).await;
    let again = capture(&pair.rig.trees(), &pair.to, None).await.unwrap();
    assert_eq!(again.entries, captured.entries);
}

fn acl_entry(tag: u8, permissions: u8) -> [u8; 8] {
    [tag, 0, permissions, 0, 255, 255, 255, 255]
}

#[tokio::test]
async fn a_second_capture_reads_only_what_changed() {
    let pair = Pair::start().await;
    for name in ["kept", "touched", "rewritten"] {
        std::fs::write(pair.from.join(name), name).unwrap();
    }
    next_tick().await;
    let first = pair.capture(None).await;
    std::fs::write(pair.from.join("rewritten"), "REWRITTEN").unwrap();
    let times = std::fs::FileTimes::new().set_modified(std::time::SystemTime::UNIX_EPOCH);
    let touched = File::options().write(true).open(pair.from.join("touched"));
    touched.unwrap().set_times(times).unwrap();
    let second = pair.capture(Some(&first)).await;
    // A touched file is read; its chunk is sent, since each call stands alone.
    assert_eq!(second.summary.same_files, 1);
    assert_eq!(second.summary.chunk_bytes, 16);
    assert_eq!(second.content("rewritten"), b"REWRITTEN");
    assert_eq!(second.entries, pair.capture(None).await.entries);
}

#[tokio::test]
async fn the_keys_of_a_look_make_a_capture_read_what_came_after_it() {
    let pair = Pair::start().await;
    std::fs::write(pair.from.join("kept"), "kept").unwrap();
    std::fs::hard_link(pair.from.join("kept"), pair.from.join("other")).unwrap();
    next_tick().await;
    let looked = look(&pair.rig.trees(), &pair.from).await.unwrap();
    assert_eq!(looked.paths(), ["", "kept", "other"]);
    assert_eq!(looked.entry("kept").size_bytes, 4);
    assert_eq!(looked.entry("kept").extents, []);
    assert_eq!(looked.summary.chunk_bytes, 0);
    std::fs::write(pair.from.join("new"), "new").unwrap();
    let captured = pair.capture(Some(&looked)).await;
    assert_eq!(captured.summary.same_files, 1);
    assert_eq!(captured.summary.chunk_bytes, 3);
    assert_eq!(captured.content("new"), b"new");
}

/// A file of one page that is written through a mapping.
struct Mapped {
    page: *mut u8,
}

impl Mapped {
    const BYTES: usize = 4096;

    #[expect(unsafe_code, reason = "nothing else writes through a mapping")]
    fn of(path: &Path) -> Self {
        use rustix::mm::{MapFlags, ProtFlags, mmap};
        std::fs::write(path, [b'a'; Self::BYTES]).unwrap();
        let file = File::options().read(true).write(true).open(path).unwrap();
        let access = ProtFlags::READ | ProtFlags::WRITE;
        let at = std::ptr::null_mut();
        // SAFETY: The kernel chooses the place, where nothing else is, and the
        // file is as long as the mapping and stays so.
        let page = unsafe { mmap(at, Self::BYTES, access, MapFlags::SHARED, &file, 0) };
        Self {
            page: page.unwrap().cast(),
        }
    }

    #[expect(unsafe_code, reason = "nothing else writes through a mapping")]
    fn write(&self, at: usize, byte: u8) {
        assert!(at < Self::BYTES);
        // SAFETY: The mapping lives as long as the process, and the place is in it.
        unsafe { self.page.add(at).write_volatile(byte) }
    }
}

#[tokio::test]
async fn what_is_written_through_a_mapping_after_a_capture_is_read_by_the_next() {
    let pair = Pair::start().await;
    let mapped = Mapped::of(&pair.from.join("mapped"));
    std::fs::write(pair.from.join("kept"), "kept").unwrap();
    // The page is dirty when it is read, and its file is older than the capture.
    mapped.write(0, b'b');
    next_tick().await;
    let (trees, from) = (pair.rig.trees(), &pair.from);
    let first = capture_written_out(&trees, from, None).await.unwrap();
    assert_eq!(first.content("mapped")[..2], *b"ba");
    next_tick().await;
    mapped.write(1, b'c');
    let second = capture(&trees, from, Some(&first)).await.unwrap();
    assert_eq!(second.content("mapped")[..2], *b"bc");
    assert_eq!(second.summary.same_files, 1);

    // What the second read is remembered as of the first: the page got dirty
    // since, so it may be written again without a trace.
    next_tick().await;
    mapped.write(2, b'd');
    let remembered = Captured {
        summary: CaptureSummary {
            keys_as_of_ns: first.summary.keys_as_of_ns,
            ..second.summary
        },
        ..second
    };
    let third = capture_written_out(&trees, from, Some(&remembered)).await;
    let third = third.unwrap();
    assert_eq!(third.content("mapped")[..3], *b"bcd");
    assert_eq!(third.summary.same_files, 1);
}

#[tokio::test]
async fn a_key_as_young_as_its_capture_is_not_trusted() {
    let pair = Pair::start().await;
    let path = pair.from.join("racy");
    std::fs::write(&path, "before").unwrap();
    let mut first = pair.capture(None).await;
    // As if the change had come within the tick in which the file was read.
    std::fs::write(&path, "AFTER!").unwrap();
    let meta = std::fs::metadata(&path).unwrap();
    let nanoseconds = |seconds: i64, rest: i64| seconds * 1_000_000_000 + rest;
    let key = first.keys[0].key.as_mut().unwrap();
    key.mtime_ns = nanoseconds(meta.mtime(), meta.mtime_nsec());
    key.ctime_ns = nanoseconds(meta.ctime(), meta.ctime_nsec());
    first.summary.keys_as_of_ns = key.ctime_ns;
    let second = pair.capture(Some(&first)).await;
    assert_eq!(second.summary.same_files, 0);
    assert_eq!(second.content("racy"), b"AFTER!");
}

#[tokio::test]
async fn keys_of_a_restore_make_the_next_capture_read_nothing() {
    let pair = Pair::start().await;
    for number in 0..50 {
        std::fs::write(pair.from.join(number.to_string()), vec![number; 100]).unwrap();
    }
    let captured = pair.capture(None).await;
    let empty = capture(&pair.rig.trees(), &pair.to, None).await.unwrap();
    let seeded = restore_delta(&pair.rig.trees(), &pair.to, &empty, &captured).await;
    assert_eq!(seeded.keys.len(), 50);
    let again = capture(&pair.rig.trees(), &pair.to, Some(&seeded)).await;
    let again = again.unwrap();
    assert_eq!(again.entries, captured.entries);
    assert_eq!(
        (again.summary.same_files, again.summary.chunk_bytes),
        (50, 0)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_that_never_holds_still_is_flagged_and_one_that_does_is_not() {
    let pair = Pair::start().await;
    let busy = File::create(pair.from.join("busy")).unwrap();
    let block = vec![1; 1 << 20];
    for offset in 0..64 {
        busy.write_all_at(&block, offset << 20).unwrap();
    }
    std::fs::write(pair.from.join("calm"), "calm").unwrap();
    let stop = AtomicBool::new(false);
    let captured = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut round = 0_u64;
            while !stop.load(Ordering::Relaxed) {
                round += 1;
                busy.write_all_at(&round.to_le_bytes(), round % (64 << 20))
                    .unwrap();
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let runtime = tokio::runtime::Handle::current();
        let captured = tokio::task::block_in_place(|| runtime.block_on(pair.capture(None)));
        stop.store(true, Ordering::Relaxed);
        captured
    });
    assert_eq!(captured.torn, ["busy"]);
    assert_eq!(captured.entry("busy").size_bytes, 64 << 20);
    assert_eq!(captured.content("busy").len(), 64 << 20);
    let keyed: Vec<_> = captured.keys.iter().map(|file| &file.path[..]).collect();
    assert_eq!(keyed, [b"calm"]);
    assert_eq!(captured.summary.torn_files, 1);
}

#[tokio::test]
async fn other_mounts_are_neither_read_nor_emptied() {
    if !root_only() {
        return;
    }
    let pair = Pair::start().await;
    // The same device: only the number of the mount tells them apart.
    for directory in [&pair.from, &pair.to] {
        std::fs::create_dir(directory.join("mounted")).unwrap();
    }
    let elsewhere = tempfile::tempdir().unwrap();
    std::fs::write(elsewhere.path().join("foreign"), "x").unwrap();
    let mounted = Mounted::bind(elsewhere.path(), &pair.from.join("mounted"));
    let _other = Mounted::bind(elsewhere.path(), &pair.to.join("mounted"));
    if mounted.is_none() {
        return;
    }
    let captured = pair.capture(None).await;
    assert_eq!(captured.paths(), ["", "mounted"]);
    assert_eq!(captured.summary.mounts_skipped, 1);
    assert_eq!(captured.mounts, ["mounted"]);
    let steps = captured.steps(&[], &captured.entries);
    let refused = restore(&pair.rig.trees(), &pair.to, RestoreMode::Whole, steps).await;
    assert_eq!(reason(refused), "PATH_INVALID");
    let (inside, content) = file_of("mounted/foreign", b"y");
    let refused = pair.delta(vec![Step::Entry(inside), content]).await;
    assert_eq!(reason(refused), "PATH_INVALID");
    assert_eq!(
        std::fs::read(elsewhere.path().join("foreign")).unwrap(),
        b"x"
    );
}

/// A bind mount, for as long as it lives.
struct Mounted(PathBuf);

impl Mounted {
    fn bind(from: &Path, to: &Path) -> Option<Self> {
        use nix::mount::{MsFlags, mount};
        match mount(Some(from), to, None::<&str>, MsFlags::MS_BIND, None::<&str>) {
            Ok(()) => Some(Self(to.to_owned())),
            Err(errno) => {
                eprintln!("SKIPPED: nothing can be mounted here: {errno}");
                None
            }
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

#[tokio::test]
async fn a_root_that_is_none_is_refused() {
    let pair = Pair::start().await;
    std::fs::write(pair.from.join("file"), "").unwrap();
    for (directory, code, wanted) in [
        (pair.from.join("missing"), Code::NotFound, "NOT_FOUND"),
        (
            pair.from.join("file"),
            Code::FailedPrecondition,
            "NOT_A_DIRECTORY",
        ),
        (
            PathBuf::from("relative"),
            Code::InvalidArgument,
            "PATH_INVALID",
        ),
        (PathBuf::new(), Code::InvalidArgument, "PATH_INVALID"),
    ] {
        let wanted = (code, wanted.to_owned());
        let refused = capture(&pair.rig.trees(), &directory, None)
            .await
            .unwrap_err();
        assert_eq!(refusal(&refused), wanted);
        let mode = RestoreMode::Whole;
        let refused = restore(&pair.rig.trees(), &directory, mode, vec![]).await;
        assert_eq!(refusal(&refused.unwrap_err()), wanted);
    }
}

#[tokio::test]
async fn no_path_leads_out_of_the_root() {
    let pair = Pair::start().await;
    let outside = &pair.from;
    std::fs::write(outside.join("secret"), "untouched").unwrap();
    symlink(outside, pair.to.join("link")).unwrap();
    symlink("../from", pair.to.join("relative")).unwrap();
    std::fs::write(pair.to.join("plain"), "").unwrap();
    let absolute = outside.join("new").display().to_string();
    for (path, wanted) in [
        ("../from/new", "PATH_INVALID"),
        ("..", "PATH_INVALID"),
        ("a/../../from/new", "PATH_INVALID"),
        (absolute.as_str(), "PATH_INVALID"),
        ("./new", "PATH_INVALID"),
        ("a//b", "PATH_INVALID"),
        ("a\0b", "PATH_INVALID"),
        ("link/new", "NOT_A_DIRECTORY"),
        ("relative/new", "NOT_A_DIRECTORY"),
        ("plain/new", "NOT_A_DIRECTORY"),
        ("missing/new", "NOT_FOUND"),
    ] {
        let (file, content) = file_of(path, b"hostile");
        let refused = pair.delta(vec![Step::Entry(file), content]).await;
        assert_eq!(reason(refused), wanted, "{path}");
        let directory = entry(path, TreeEntryKind::Directory);
        let refused = pair.delta(vec![Step::Entry(directory)]).await;
        assert_eq!(reason(refused), wanted, "{path}");
        if wanted != "NOT_FOUND" {
            let path = Bytes::copy_from_slice(path.as_bytes());
            let refused = pair.delta(vec![Step::Remove(path.clone())]).await;
            assert_eq!(reason(refused), wanted, "{path:?}");
        }
    }
    for target in ["../from/secret", "link/secret"] {
        let link = TreeEntry {
            hard_link: Bytes::copy_from_slice(target.as_bytes()),
            ..entry("z", TreeEntryKind::File)
        };
        assert!(
            pair.delta(vec![Step::Entry(link)]).await.is_err(),
            "{target}"
        );
    }
    // A link in the way of a file is replaced, not followed.
    symlink(outside.join("secret"), pair.to.join("way")).unwrap();
    let (file, content) = file_of("way", b"inside");
    pair.delta(vec![Step::Entry(file), content]).await.unwrap();
    assert_eq!(std::fs::read(pair.to.join("way")).unwrap(), b"inside");
    let names: Vec<_> = std::fs::read_dir(outside).unwrap().collect();
    assert_eq!(names.len(), 1);
    assert_eq!(std::fs::read(outside.join("secret")).unwrap(), b"untouched");
    // The links themselves can be removed.
    let removes = ["link", "nothing/there", "relative"].map(|path| Step::Remove(path.into()));
    let summary = pair.delta(removes.to_vec()).await.unwrap();
    assert_eq!(summary.removed, 2);
}

#[tokio::test]
async fn content_that_is_not_what_its_entry_names_is_refused() {
    let pair = Pair::start().await;
    let (file, _) = file_of("f", b"the content");
    let content = |encoding: ChunkEncoding, data: &[u8]| {
        Step::Content(ChunkContent {
            encoding: encoding.into(),
            data: Bytes::copy_from_slice(data),
        })
    };
    let packed = |data: &[u8]| zstd::bulk::compress(data, 1).unwrap();
    for damaged in [
        content(ChunkEncoding::Raw, b"the CONTENT"),
        content(ChunkEncoding::Raw, b"the content and more"),
        content(ChunkEncoding::Raw, b""),
        content(ChunkEncoding::Zstd, b"the content"),
        content(ChunkEncoding::Zstd, &packed(b"the CONTENT")),
        content(ChunkEncoding::Zstd, &packed(&[0; 1 << 20])),
        content(ChunkEncoding::Unspecified, b"the content"),
    ] {
        let refused = pair.delta(vec![Step::Entry(file.clone()), damaged]).await;
        let wanted = (Code::DataLoss, "CHUNK_DAMAGED".to_owned());
        assert_eq!(refusal(&refused.unwrap_err()), wanted);
    }
    let sound = content(ChunkEncoding::Zstd, &packed(b"the content"));
    pair.delta(vec![Step::Entry(file), sound]).await.unwrap();
    assert_eq!(std::fs::read(pair.to.join("f")).unwrap(), b"the content");
}

#[tokio::test]
async fn steps_out_of_order_are_refused() {
    let pair = Pair::start().await;
    let (a, content) = file_of("a", b"x");
    let b = entry("b", TreeEntryKind::Directory);
    let (a, b) = (Step::Entry(a), Step::Entry(b));
    for steps in [
        vec![content.clone()],
        vec![a.clone()],
        vec![a.clone(), b.clone()],
        vec![a.clone(), content.clone(), content.clone()],
        vec![b.clone(), a],
        vec![b.clone(), b.clone()],
        vec![b, Step::Remove(Bytes::from_static(b"c"))],
    ] {
        assert_eq!(reason(pair.delta(steps).await), "SPEC_INVALID");
    }
    let refused = restore(
        &pair.rig.trees(),
        &pair.to,
        RestoreMode::Unspecified,
        vec![],
    )
    .await;
    assert_eq!(reason(refused), "SPEC_INVALID");
}

#[tokio::test]
async fn a_directory_in_the_way_of_a_file_takes_a_removal() {
    let pair = Pair::start().await;
    std::fs::create_dir_all(pair.to.join("a/deep")).unwrap();
    let (file, content) = file_of("a", b"x");
    let steps = vec![Step::Entry(file), content];
    assert_eq!(reason(pair.delta(steps.clone()).await), "NOT_A_FILE");
    let remove = Step::Remove(Bytes::from_static(b"a"));
    let all = [vec![remove], steps].concat();
    assert_eq!(pair.delta(all).await.unwrap().removed, 1);
    assert_eq!(std::fs::read(pair.to.join("a")).unwrap(), b"x");
}
