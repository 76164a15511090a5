//! The file tools, their refusals, and their receipts.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;

use bytes::Bytes;
use compyd_proto::agent::*;
use tonic::{Code, Status};

use crate::harness::*;

fn hash(content: &[u8]) -> String {
    blake3::hash(content).to_hex().to_string()
}

fn write_request(step_id: &str, path: &str, content: &[u8]) -> WriteFileRequest {
    WriteFileRequest {
        step_id: step_id.into(),
        path: path.into(),
        content: Bytes::copy_from_slice(content),
        ..WriteFileRequest::default()
    }
}

fn edit_request(step_id: &str, path: &str, replacements: &[(&str, &str, bool)]) -> EditFileRequest {
    EditFileRequest {
        step_id: step_id.into(),
        path: path.into(),
        replacements: replacements
            .iter()
            .map(|(old, new, all)| Replacement {
                old_text: (*old).into(),
                new_text: (*new).into(),
                all: *all,
            })
            .collect(),
        expected_hash: String::new(),
    }
}

impl Rig {
    async fn write(&self, request: WriteFileRequest) -> Result<Receipt, Status> {
        let answer = self.client.clone().write_file(request).await?;
        Ok(answer.into_inner().receipt.unwrap())
    }

    async fn edit(&self, request: EditFileRequest) -> Result<EditFileResponse, Status> {
        Ok(self.client.clone().edit_file(request).await?.into_inner())
    }

    async fn read(&self, path: &str) -> Result<ReadFileResponse, Status> {
        let request = ReadFileRequest {
            path: path.into(),
            ..ReadFileRequest::default()
        };
        Ok(self.client.clone().read_file(request).await?.into_inner())
    }

    async fn receipt(&self, step_id: &str) -> Option<Receipt> {
        let request = GetReceiptRequest {
            step_id: step_id.into(),
        };
        self.client
            .clone()
            .get_receipt(request)
            .await
            .unwrap()
            .into_inner()
            .receipt
    }

    async fn upload(
        &self,
        directory: &str,
        step_id: &str,
        user: &str,
        archive: &[u8],
    ) -> Result<UploadResponse, Status> {
        let mut messages = vec![UploadRequest {
            directory: directory.into(),
            step_id: step_id.into(),
            user: user.into(),
            data: Bytes::new(),
        }];
        messages.extend(archive.chunks(700_000).map(|piece| UploadRequest {
            data: Bytes::copy_from_slice(piece),
            ..UploadRequest::default()
        }));
        let answer = self
            .client
            .clone()
            .upload(tokio_stream::iter(messages))
            .await?;
        Ok(answer.into_inner())
    }

    async fn download(&self, path: &str) -> Result<Vec<u8>, Status> {
        let request = DownloadRequest { path: path.into() };
        let mut stream = self.client.clone().download(request).await?.into_inner();
        let mut archive = Vec::new();
        while let Some(piece) = stream.message().await? {
            archive.extend_from_slice(&piece.data);
        }
        Ok(archive)
    }
}

#[tokio::test]
async fn a_file_is_read_by_lines_with_its_hash_and_sizes() {
    let rig = Rig::start().await;
    let content = "one\ntwo\nthree\n";
    std::fs::write(rig.work().join("f"), content).unwrap();
    let request = ReadFileRequest {
        path: "f".into(),
        first_line: 2,
        line_count: 1,
        max_bytes: 0,
    };
    let answer = rig
        .client
        .clone()
        .read_file(request)
        .await
        .unwrap()
        .into_inner();
    let expected = ReadFileResponse {
        content: "two\n".into(),
        first_line: 2,
        line_count: 1,
        total_lines: 3,
        total_bytes: 14,
        hash: hash(content.as_bytes()),
        truncated: true,
    };
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn files_that_cannot_be_read_are_refused_each_with_its_reason() {
    let rig = Rig::start().await;
    let work = rig.work();
    std::fs::create_dir(work.join("dir")).unwrap();
    std::fs::write(work.join("nul"), b"text\0more").unwrap();
    std::fs::write(work.join("latin"), b"caf\xe9\n").unwrap();
    std::fs::File::create(work.join("huge"))
        .unwrap()
        .set_len(65 * 1024 * 1024)
        .unwrap();
    nix::unistd::mkfifo(&work.join("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    symlink("/etc/passwd", work.join("escape")).unwrap();
    symlink("/etc", work.join("etc")).unwrap();
    for (path, expected) in [
        ("missing", "NOT_FOUND"),
        ("dir", "NOT_A_FILE"),
        ("fifo", "NOT_A_FILE"),
        ("nul", "BINARY_FILE"),
        ("latin", "BINARY_FILE"),
        ("huge", "FILE_TOO_LARGE"),
        ("nul/below", "NOT_A_DIRECTORY"),
        ("", "PATH_INVALID"),
        ("/etc/passwd", "PATH_OUTSIDE_ROOTS"),
        ("../../etc/passwd", "PATH_OUTSIDE_ROOTS"),
        ("escape", "PATH_OUTSIDE_ROOTS"),
        ("etc/passwd", "PATH_OUTSIDE_ROOTS"),
        ("etc/missing", "PATH_OUTSIDE_ROOTS"),
    ] {
        assert_eq!(reason(rig.read(path).await), expected, "{path:?}");
    }
    let status = rig.read("huge").await.unwrap_err();
    assert_eq!(fact(&status, "size_bytes"), (65 * 1024 * 1024).to_string());
}

#[tokio::test]
async fn a_write_is_whole_keeps_the_mode_and_leaves_no_temporary_file() {
    let rig = Rig::start().await;
    let path = rig.work().join("deep/er/f");
    let receipt = rig
        .write(write_request("s1", "deep/er/f", b"first"))
        .await
        .unwrap();
    assert_eq!(receipt.path, path.display().to_string());
    assert_eq!(receipt.hash_before, "");
    assert_eq!(receipt.hash_after, hash(b"first"));
    assert_eq!((receipt.size_bytes, receipt.replayed), (5, false));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o644);

    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o750)).unwrap();
    let mut held = std::fs::File::open(&path).unwrap();
    let receipt = rig
        .write(write_request("s2", "deep/er/f", b"second"))
        .await
        .unwrap();
    assert_eq!(receipt.hash_before, hash(b"first"));
    assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o7777, 0o750);
    assert_eq!(std::fs::read(&path).unwrap(), b"second");
    // Replaced, not written over: whoever has the old file open keeps it whole.
    let mut old = String::new();
    std::io::Read::read_to_string(&mut held, &mut old).unwrap();
    assert_eq!(old, "first");
    assert_eq!(
        std::fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1
    );

    let script = WriteFileRequest {
        mode: 0o755,
        ..write_request("s3", "run", b"#!/bin/sh\n")
    };
    rig.write(script).await.unwrap();
    assert_eq!(
        std::fs::metadata(rig.work().join("run")).unwrap().mode() & 0o7777,
        0o755
    );
}

#[tokio::test]
async fn nothing_is_changed_through_a_link_and_the_refusal_names_the_file_itself() {
    let rig = Rig::start().await;
    let work = rig.work().canonicalize().unwrap();
    std::fs::create_dir_all(work.join(".github/workflows")).unwrap();
    std::fs::write(work.join("real"), "old").unwrap();
    symlink("real", work.join("link")).unwrap();
    symlink(".github/workflows", work.join("w")).unwrap();
    let real = work.join("real").display().to_string();
    let ci = work.join(".github/workflows/ci.yml").display().to_string();
    for (path, wanted) in [("link", &real), ("w/ci.yml", &ci)] {
        let status = rig
            .write(write_request("s", path, b"new"))
            .await
            .unwrap_err();
        assert_eq!(
            refusal(&status),
            (Code::FailedPrecondition, "PATH_LINKED".into())
        );
        assert_eq!(&fact(&status, "path"), wanted);
        assert!(status.message().contains(wanted.as_str()), "{status}");
    }
    let edit = edit_request("s", "link", &[("old", "new", false)]);
    assert_eq!(reason(rig.edit(edit).await), "PATH_LINKED");
    let change = |path: &str, expected_hash: String, to| ChangeFilesRequest {
        step_id: "s".into(),
        changes: vec![FileChange {
            path: path.into(),
            expected_hash,
            to: Some(to),
            mode: 0,
        }],
    };
    let made = file_change::To::Content(Bytes::from_static(b"new"));
    for request in [
        change("w/ci.yml", String::new(), made),
        change("link", hash(b"old"), file_change::To::Removed(true)),
    ] {
        let answer = rig.client.clone().change_files(request).await;
        assert_eq!(reason(answer), "PATH_LINKED");
    }
    assert!(work.join("link").is_symlink() && !Path::new(&ci).exists());
    assert_eq!(std::fs::read(work.join("real")).unwrap(), b"old");
    // Under its own name it changes.
    rig.write(write_request("s", "real", b"new")).await.unwrap();
    assert_eq!(std::fs::read(work.join("real")).unwrap(), b"new");
}

#[tokio::test]
async fn writes_that_would_do_harm_are_refused_and_change_nothing() {
    let rig = Rig::start().await;
    std::fs::write(rig.work().join("f"), "present").unwrap();
    std::fs::create_dir(rig.work().join("dir")).unwrap();
    symlink("/etc", rig.work().join("etc")).unwrap();
    symlink("/root/new", rig.work().join("dangling")).unwrap();

    let stale = WriteFileRequest {
        expected_hash: hash(b"past"),
        ..write_request("s", "f", b"x")
    };
    let status = rig.write(stale).await.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::FailedPrecondition, "HASH_MISMATCH".into())
    );
    assert_eq!(fact(&status, "hash"), hash(b"present"));
    let missing = WriteFileRequest {
        expected_hash: hash(b"x"),
        ..write_request("s", "none", b"x")
    };
    assert_eq!(reason(rig.write(missing).await), "HASH_MISMATCH");
    let only_new = WriteFileRequest {
        create_only: true,
        ..write_request("s", "f", b"x")
    };
    assert_eq!(reason(rig.write(only_new).await), "ALREADY_EXISTS");
    assert_eq!(
        reason(rig.write(write_request("s", "dir", b"x")).await),
        "NOT_A_FILE"
    );
    assert_eq!(
        reason(rig.write(write_request("s", "f/below", b"x")).await),
        "NOT_A_DIRECTORY"
    );
    for path in ["etc/new", "/etc/new", "dangling", "../new"] {
        assert_eq!(
            reason(rig.write(write_request("s", path, b"x")).await),
            "PATH_OUTSIDE_ROOTS"
        );
    }
    let large = write_request("s", "large", &vec![b'x'; 16 * 1024 * 1024 + 1]);
    assert_eq!(reason(rig.write(large).await), "FILE_TOO_LARGE");
    for step in ["", "a/b"] {
        assert_eq!(
            reason(rig.write(write_request(step, "f", b"x")).await),
            "SPEC_INVALID"
        );
    }
    assert_eq!(std::fs::read(rig.work().join("f")).unwrap(), b"present");
    assert!(!Path::new("/etc/new").exists() && !Path::new("/root/new").exists());
    // A refused step was never begun: its id is free.
    assert!(rig.receipt("s").await.is_none());
    let right = WriteFileRequest {
        expected_hash: hash(b"present"),
        ..write_request("s", "f", b"y")
    };
    assert!(!rig.write(right).await.unwrap().replayed);
}

#[tokio::test]
async fn a_repeated_step_answers_what_was_done_and_does_nothing_even_after_a_kill() {
    let mut rig = Rig::start().await;
    let first = rig.write(write_request("s", "f", b"one")).await.unwrap();
    std::fs::write(rig.work().join("f"), "changed by hand").unwrap();
    rig.restart_agent().await;
    let again = rig.write(write_request("s", "f", b"two")).await.unwrap();
    assert_eq!(
        again,
        Receipt {
            replayed: true,
            ..first.clone()
        }
    );
    assert_eq!(
        rig.receipt("s").await,
        Some(Receipt {
            replayed: true,
            ..first
        })
    );
    assert_eq!(
        std::fs::read(rig.work().join("f")).unwrap(),
        b"changed by hand"
    );
    assert!(rig.receipt("never").await.is_none());
}

#[tokio::test]
async fn the_same_step_at_the_same_time_is_done_once() {
    let rig = Rig::start().await;
    std::fs::write(rig.work().join("f"), "x").unwrap();
    let edits = (0..8).map(|_| rig.edit(edit_request("s", "f", &[("x", "xx", false)])));
    let answers = futures_util::future::join_all(edits).await;
    let replayed = answers
        .iter()
        .filter(|answer| answer.as_ref().unwrap().receipt.as_ref().unwrap().replayed)
        .count();
    assert_eq!(replayed, 7);
    assert_eq!(std::fs::read(rig.work().join("f")).unwrap(), b"xx");
}

#[tokio::test]
async fn a_step_cut_short_is_settled_by_looking_at_the_file() {
    let mut rig = Rig::start().await;
    let receipts = rig.state().join("receipts");
    rig.write(write_request("s", "f", b"old")).await.unwrap();
    let cut_short = |id: &str| {
        // An intent is a receipt that was not renamed yet.
        std::fs::rename(
            receipts.join(format!("{id}.receipt")),
            receipts.join(format!("{id}.intent")),
        )
        .unwrap();
    };
    // Killed after the change: done.
    rig.edit(edit_request("done", "f", &[("old", "new", false)]))
        .await
        .unwrap();
    cut_short("done");
    // Killed before the change: not begun.
    rig.edit(edit_request("not", "f", &[("new", "newer", false)]))
        .await
        .unwrap();
    cut_short("not");
    std::fs::write(rig.work().join("f"), "new").unwrap();
    rig.restart_agent().await;

    let settled = rig.receipt("done").await.unwrap();
    assert_eq!((settled.hash_after, settled.replayed), (hash(b"new"), true));
    assert!(rig.receipt("not").await.is_none());
    let edited = rig
        .edit(edit_request("not", "f", &[("new", "newer", false)]))
        .await
        .unwrap();
    assert!(!edited.receipt.unwrap().replayed);

    // Neither before nor after: somebody has to look.
    cut_short("not");
    std::fs::write(rig.work().join("f"), "something else").unwrap();
    let unclear = rig
        .edit(edit_request("not", "f", &[("new", "newer", false)]))
        .await;
    assert_eq!(reason(unclear), "HASH_MISMATCH");
    assert_eq!(
        std::fs::read(rig.work().join("f")).unwrap(),
        b"something else"
    );
}

#[tokio::test]
async fn an_edit_replaces_exactly_what_it_names() {
    let rig = Rig::start().await;
    std::fs::write(rig.work().join("f"), "a\r\nb\nb\nc\n").unwrap();
    let request = edit_request("s", "f", &[("c\n", "see\n", false), ("b", "bee", true)]);
    let answer = rig.edit(request.clone()).await.unwrap();
    assert_eq!((answer.replaced, answer.first_changed_line), (3, 2));
    assert_eq!(
        std::fs::read(rig.work().join("f")).unwrap(),
        b"a\r\nbee\nbee\nsee\n"
    );
    let again = rig.edit(request).await.unwrap();
    assert_eq!((again.replaced, again.first_changed_line), (3, 2));
    assert!(again.receipt.unwrap().replayed);
}

#[tokio::test]
async fn an_edit_that_is_not_certain_changes_nothing_and_says_where() {
    let rig = Rig::start().await;
    let before = "one\ntwo\none\nthree one\n";
    std::fs::write(rig.work().join("f"), before).unwrap();
    std::fs::write(rig.work().join("bin"), b"a\0b").unwrap();
    let status = rig
        .edit(edit_request(
            "s",
            "f",
            &[("two", "2", false), ("one", "1", false)],
        ))
        .await
        .unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::FailedPrecondition, "MANY_MATCHES".into())
    );
    assert_eq!(fact(&status, "lines"), "1, 3, 4");
    for (path, replacements, expected) in [
        (
            "f",
            &[("two", "2", false), ("four", "4", false)][..],
            "NO_MATCH",
        ),
        ("f", &[("", "x", false)], "SPEC_INVALID"),
        ("f", &[("two", "two", false)], "SPEC_INVALID"),
        ("f", &[], "SPEC_INVALID"),
        ("bin", &[("a", "b", false)], "BINARY_FILE"),
        ("none", &[("a", "b", false)], "NOT_FOUND"),
        (
            "/etc/passwd",
            &[("root", "toor", true)],
            "PATH_OUTSIDE_ROOTS",
        ),
    ] {
        let result = rig.edit(edit_request("s", path, replacements)).await;
        assert_eq!(reason(result), expected, "{path} {replacements:?}");
    }
    let stale = EditFileRequest {
        expected_hash: hash(b"past"),
        ..edit_request("s", "f", &[("two", "2", false)])
    };
    assert_eq!(reason(rig.edit(stale).await), "HASH_MISMATCH");
    assert_eq!(
        std::fs::read_to_string(rig.work().join("f")).unwrap(),
        before
    );
}

#[tokio::test]
async fn the_tools_act_as_the_default_user_and_not_as_root() {
    let rig = Rig::start_with(&["--user", "daemon"]).await;
    // As the first use of a volume does it in a container.
    let open = |path: &Path| std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755));
    open(rig.work().parent().unwrap()).unwrap();
    std::os::unix::fs::chown(rig.work(), Some(1), Some(1)).unwrap();
    rig.write(write_request("s1", "dir/new", b"x"))
        .await
        .unwrap();
    for path in ["dir", "dir/new"] {
        let meta = std::fs::metadata(rig.work().join(path)).unwrap();
        assert_eq!((meta.uid(), meta.gid()), (1, 1), "{path}");
    }
    let private = rig.work().join("private");
    std::fs::write(&private, "roots own").unwrap();
    std::fs::set_permissions(&private, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(reason(rig.read("private").await), "PERMISSION");
    std::fs::create_dir(rig.work().join("roots")).unwrap();
    assert_eq!(
        reason(rig.write(write_request("s2", "roots/new", b"x")).await),
        "PERMISSION"
    );
    let made = rig.sh("who", "id -un; touch made; stat -c %U made").await;
    assert_eq!(made.text(), "daemon\ndaemon\n");
}

#[tokio::test]
async fn stat_shows_the_link_itself_and_list_is_sorted_and_cut() {
    let rig = Rig::start().await;
    let work = rig.work();
    std::fs::write(work.join("b"), "12345").unwrap();
    std::fs::create_dir(work.join("c")).unwrap();
    symlink("/etc/passwd", work.join("a")).unwrap();
    let mut client = rig.client.clone();
    let stat = |path: &str, with_hash| StatFileRequest {
        path: path.into(),
        with_hash,
    };
    let link = client
        .stat_file(stat("a", true))
        .await
        .unwrap()
        .into_inner();
    let info = link.info.unwrap();
    assert_eq!(
        (info.kind(), info.link_target.as_str()),
        (FileKind::Symlink, "/etc/passwd")
    );
    assert_eq!(link.hash, "");
    let file = client
        .stat_file(stat("b", true))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(file.hash, hash(b"12345"));
    let info = file.info.unwrap();
    assert_eq!((info.kind(), info.size_bytes), (FileKind::File, 5));
    assert_eq!(info.path, work.join("b").display().to_string());
    assert_eq!(
        reason(client.stat_file(stat("none", false)).await),
        "NOT_FOUND"
    );
    assert_eq!(
        reason(client.stat_file(stat("a/below", false)).await),
        "PATH_OUTSIDE_ROOTS"
    );

    let list = |path: &str, max_entries| ListDirectoryRequest {
        path: path.into(),
        max_entries,
    };
    let all = client
        .list_directory(list(".", 0))
        .await
        .unwrap()
        .into_inner();
    let names: Vec<_> = all
        .entries
        .iter()
        .map(|entry| (entry.path.as_str(), entry.kind()))
        .collect();
    assert_eq!(
        names,
        [
            ("a", FileKind::Symlink),
            ("b", FileKind::File),
            ("c", FileKind::Directory)
        ]
    );
    assert!(!all.truncated);
    let cut = client
        .list_directory(list(".", 2))
        .await
        .unwrap()
        .into_inner();
    assert_eq!((cut.entries.len(), cut.truncated), (2, true));
    assert_eq!(
        reason(client.list_directory(list("b", 0)).await),
        "NOT_A_DIRECTORY"
    );
    assert_eq!(
        reason(client.list_directory(list("none", 0)).await),
        "NOT_FOUND"
    );
}

#[tokio::test]
async fn glob_and_grep_search_below_the_first_root() {
    let rig = Rig::start().await;
    std::fs::create_dir(rig.work().join("src")).unwrap();
    std::fs::write(rig.work().join("src/a.py"), "x\nneedle\n").unwrap();
    let mut client = rig.client.clone();
    let glob = GlobRequest {
        pattern: "**/*.py".into(),
        ..GlobRequest::default()
    };
    let found = client.glob(glob).await.unwrap().into_inner();
    let path = rig.work().join("src/a.py").display().to_string();
    assert_eq!(
        found
            .files
            .iter()
            .map(|file| &file.path)
            .collect::<Vec<_>>(),
        [&path]
    );
    let grep = GrepRequest {
        pattern: "ne+dle".into(),
        ..GrepRequest::default()
    };
    let found = client.grep(grep).await.unwrap().into_inner();
    let expected = GrepLine {
        path,
        line: 2,
        text: "needle".into(),
        matched: true,
    };
    assert_eq!((found.lines, found.files_matched), (vec![expected], 1));
    let bad = GrepRequest {
        pattern: "(".into(),
        ..GrepRequest::default()
    };
    assert_eq!(reason(client.grep(bad).await), "PATTERN_INVALID");
    let outside = GrepRequest {
        pattern: "root".into(),
        path: "/etc".into(),
        ..GrepRequest::default()
    };
    assert_eq!(reason(client.grep(outside).await), "PATH_OUTSIDE_ROOTS");
    let outside = GlobRequest {
        pattern: "*".into(),
        path: "/etc".into(),
        ..GlobRequest::default()
    };
    assert_eq!(reason(client.glob(outside).await), "PATH_OUTSIDE_ROOTS");
}

#[tokio::test]
async fn what_is_downloaded_can_be_uploaded_and_is_the_same() {
    let rig = Rig::start().await;
    let from = rig.work().join("from");
    std::fs::create_dir_all(from.join("sub/empty")).unwrap();
    let big: Vec<u8> = (0..2_000_000u32).map(|n| (n % 253) as u8).collect();
    std::fs::write(from.join("sub/big"), &big).unwrap();
    std::fs::write(from.join("n".repeat(200)), "long name").unwrap();
    std::fs::write(from.join("run"), "#!/bin/sh\n").unwrap();
    std::fs::set_permissions(from.join("run"), std::fs::Permissions::from_mode(0o4755)).unwrap();
    std::fs::set_permissions(from.join("sub"), std::fs::Permissions::from_mode(0o2750)).unwrap();
    std::fs::hard_link(from.join("run"), from.join("same")).unwrap();
    symlink("/usr/bin/python3", from.join("python")).unwrap();
    let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    std::fs::File::open(from.join("sub"))
        .unwrap()
        .set_modified(old)
        .unwrap();
    std::fs::File::open(from.join("run"))
        .unwrap()
        .set_modified(old)
        .unwrap();

    let archive = rig.download("from").await.unwrap();
    let answer = rig.upload("into/new", "step", "", &archive).await.unwrap();
    assert_eq!((answer.entries, answer.replayed), (8, false));
    assert_eq!(answer.content_bytes, 2_000_000 + 9 + 10);
    let into = rig.work().join("into/new/from");
    assert!(std::fs::read(into.join("sub/big")).unwrap() == big);
    assert_eq!(
        std::fs::read(into.join("n".repeat(200))).unwrap(),
        b"long name"
    );
    let run = std::fs::metadata(into.join("run")).unwrap();
    assert_eq!(
        (run.mode() & 0o7777, run.mtime(), run.nlink()),
        (0o4755, 1_000_000_000, 2)
    );
    let sub = std::fs::metadata(into.join("sub")).unwrap();
    assert_eq!((sub.mode() & 0o7777, sub.mtime()), (0o2750, 1_000_000_000));
    assert!(into.join("sub/empty").is_dir());
    assert_eq!(
        std::fs::read_link(into.join("python")).unwrap(),
        Path::new("/usr/bin/python3")
    );

    std::fs::remove_file(into.join("run")).unwrap();
    let again = rig.upload("into/new", "step", "", &archive).await.unwrap();
    assert_eq!((again.entries, again.replayed), (8, true));
    assert!(!into.join("run").exists());
    let fresh = rig.upload("into/new", "other", "", &archive).await.unwrap();
    assert!(!fresh.replayed && into.join("run").exists());

    let single = rig.download("from/run").await.unwrap();
    rig.upload("single", "", "daemon", &single)
        .await
        .unwrap_err();
    std::fs::create_dir(rig.work().join("single")).unwrap();
    std::os::unix::fs::chown(rig.work().join("single"), Some(1), Some(1)).unwrap();
    std::fs::set_permissions(
        rig.work().parent().unwrap(),
        std::fs::Permissions::from_mode(0o755),
    )
    .unwrap();
    rig.upload("single", "", "daemon", &single).await.unwrap();
    assert_eq!(
        std::fs::metadata(rig.work().join("single/run"))
            .unwrap()
            .uid(),
        1
    );
    assert_eq!(reason(rig.download("none").await), "NOT_FOUND");
    assert_eq!(reason(rig.download("/etc").await), "PATH_OUTSIDE_ROOTS");
    assert_eq!(
        reason(rig.upload("/etc", "", "", &single).await),
        "PATH_OUTSIDE_ROOTS"
    );
    assert_eq!(
        reason(rig.upload("x", "", "no-one", &single).await),
        "USER_UNKNOWN"
    );
}

/// An archive with names and targets that tar's own builder would refuse.
fn hostile(entries: &[(tar::EntryType, &str, &str)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (kind, name, target) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(0o755);
        let content: &[u8] = if *kind == tar::EntryType::Regular {
            b"evil"
        } else {
            b""
        };
        header.set_size(content.len() as u64);
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        archive.append(&header, content).unwrap();
    }
    archive.into_inner().unwrap()
}

#[tokio::test]
async fn an_archive_cannot_leave_its_directory_by_name_or_by_link() {
    use tar::EntryType::{Directory, Link, Regular, Symlink};
    let rig = Rig::start().await;
    std::fs::write(rig.work().join("secret"), "secret").unwrap();
    std::fs::create_dir(rig.work().join("beside")).unwrap();
    let absolute = format!("{}/beside", rig.work().display());
    let attacks: Vec<Vec<(tar::EntryType, &str, &str)>> = vec![
        vec![(Regular, "../beside/evil", "")],
        vec![(Regular, "a/../../beside/evil", "")],
        vec![(Regular, "/beside/evil", "")],
        vec![(Directory, "..", "")],
        vec![(Symlink, "out", "../beside"), (Regular, "out/evil", "")],
        vec![(Symlink, "out", &absolute), (Regular, "out/evil", "")],
        vec![(Symlink, "out", &absolute), (Directory, "out/evil", "")],
        vec![
            (Symlink, "one", "two"),
            (Symlink, "two", ".."),
            (Regular, "one/beside/evil", ""),
        ],
        vec![(Symlink, "out", "../missing"), (Regular, "out/evil", "")],
        vec![(Link, "linked", "../secret")],
        vec![(Link, "linked", "/etc/passwd")],
        vec![(Symlink, "up", ".."), (Link, "linked", "up/secret")],
    ];
    for (n, entries) in attacks.iter().enumerate() {
        let mut archive = vec![(Regular, "before", "")];
        archive.extend(entries);
        archive.push((Regular, "after", ""));
        let directory = format!("into{n}");
        let status = rig
            .upload(&directory, "", "", &hostile(&archive))
            .await
            .unwrap_err();
        assert_eq!(
            refusal(&status),
            (Code::PermissionDenied, "PATH_OUTSIDE_ROOTS".into()),
            "{entries:?}"
        );
        // What came before stays, what would have come after does not.
        assert!(rig.work().join(&directory).join("before").exists());
        assert!(!rig.work().join(&directory).join("after").exists());
    }
    assert_eq!(
        std::fs::read_dir(rig.work().join("beside"))
            .unwrap()
            .count(),
        0
    );
    assert_eq!(
        std::fs::metadata(rig.work().join("secret"))
            .unwrap()
            .nlink(),
        1
    );

    // A file takes a link's place instead of going through it.
    let archive = hostile(&[(Symlink, "f", "../secret"), (Regular, "f", "")]);
    rig.upload("replace", "", "", &archive).await.unwrap();
    assert_eq!(std::fs::read(rig.work().join("secret")).unwrap(), b"secret");
    assert_eq!(
        std::fs::read(rig.work().join("replace/f")).unwrap(),
        b"evil"
    );
    // A link inside is a way like any other.
    let archive = hostile(&[
        (Directory, "dir", ""),
        (Symlink, "in", "dir"),
        (Regular, "in/f", ""),
        (Link, "hard", "in/f"),
    ]);
    rig.upload("inside", "", "", &archive).await.unwrap();
    assert_eq!(
        std::fs::read(rig.work().join("inside/dir/f")).unwrap(),
        b"evil"
    );
    assert_eq!(
        std::fs::metadata(rig.work().join("inside/hard"))
            .unwrap()
            .nlink(),
        2
    );
}

#[tokio::test]
async fn what_is_no_archive_is_refused_and_a_cut_one_leaves_no_receipt() {
    let rig = Rig::start().await;
    assert_eq!(reason(rig.upload("a", "", "", &[b'x'; 2048]).await), "IO");
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_gnu();
    header.set_size(100_000);
    header.set_mode(0o644);
    archive
        .append_data(&mut header, "f", &vec![b'x'; 100_000][..])
        .unwrap();
    let archive = archive.into_inner().unwrap();
    assert_eq!(
        reason(rig.upload("a", "cut", "", &archive[..50_000]).await),
        "IO"
    );
    assert!(rig.receipt("cut").await.is_none());
    assert!(!rig.upload("a", "cut", "", &archive).await.unwrap().replayed);
    assert_eq!(
        std::fs::metadata(rig.work().join("a/f")).unwrap().len(),
        100_000
    );
}

#[tokio::test]
async fn a_full_disk_is_named_and_nothing_is_lost() {
    let rig = Rig::start().await;
    let small = rig.work().join("small");
    std::fs::create_dir(&small).unwrap();
    let mounted = nix::mount::mount(
        Some("tmpfs"),
        &small,
        Some("tmpfs"),
        nix::mount::MsFlags::empty(),
        Some("size=64k"),
    );
    if let Err(error) = mounted {
        eprintln!("SKIPPED: cannot mount a small file system: {error}");
        return;
    }
    rig.write(write_request("fits", "small/f", b"fits"))
        .await
        .unwrap();
    let result = rig
        .write(write_request("no", "small/f", &vec![b'x'; 200_000]))
        .await;
    let now = std::fs::read(small.join("f"));
    let left = std::fs::read_dir(&small).unwrap().count();
    nix::mount::umount(&small).unwrap();
    let status = result.unwrap_err();
    assert_eq!(
        refusal(&status),
        (Code::ResourceExhausted, "DISK_FULL".into())
    );
    assert_eq!((now.unwrap().as_slice(), left), (b"fits".as_slice(), 1));
    assert!(rig.receipt("no").await.is_none());
}
