//! The host's git against real repositories in temporary directories.

use std::process::Command as StdCommand;

use super::*;

fn git(dir: &Path, arguments: &[&str]) -> String {
    let output = StdCommand::new("git")
        .args([
            "-c",
            "user.name=t",
            "-c",
            "user.email=t@t",
            "-c",
            "protocol.file.allow=always",
        ])
        .args(arguments)
        .current_dir(dir)
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "git {arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// Two commits on `main`, a tag on the first, a branch `other`.
fn repository() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "-b", "main"]);
    std::fs::write(dir.path().join("a"), "1").unwrap();
    git(dir.path(), &["add", "a"]);
    git(dir.path(), &["commit", "-q", "-m", "one"]);
    git(dir.path(), &["tag", "v1"]);
    git(dir.path(), &["branch", "other"]);
    std::fs::write(dir.path().join("a"), "2").unwrap();
    git(dir.path(), &["commit", "-q", "-am", "two"]);
    git(dir.path(), &["tag", "v2"]);
    dir
}

fn source() -> GitSource {
    GitSource::new(GitSourceOptions {
        allow_file_urls: true,
        ..GitSourceOptions::default()
    })
}

fn wanted(reference: Option<&str>) -> Wanted<'_> {
    Wanted {
        reference,
        setup: WantedSetup::OwnFile,
    }
}

async fn fetch(dir: &Path, reference: Option<&str>) -> Result<FetchedBundle, GitSourceError> {
    let url = SourceUrl::parse(&format!("file://{}", dir.display()), true).unwrap();
    source().fetch_url(&url, wanted(reference)).await
}

fn refs_of(bundle: &FetchedBundle) -> Vec<String> {
    let text = git(
        Path::new("/"),
        &["bundle", "list-heads", bundle.path.to_str().unwrap()],
    );
    text.lines()
        .map(|line| line.split_once(' ').unwrap().1.to_owned())
        .collect()
}

#[tokio::test]
async fn head_is_fetched_with_its_branch_and_tags() {
    let dir = repository();
    let bundle = fetch(dir.path(), None).await.unwrap();
    assert_eq!(bundle.branch, "main");
    assert_eq!(bundle.commit, git(dir.path(), &["rev-parse", "main"]));
    assert_eq!(
        refs_of(&bundle),
        ["refs/heads/main", "refs/tags/v1", "refs/tags/v2"]
    );
    assert!(!bundle.has_submodules);
}

#[tokio::test]
async fn a_tag_brings_nothing_that_came_after_it() {
    let dir = repository();
    let bundle = fetch(dir.path(), Some("v1")).await.unwrap();
    let first = git(dir.path(), &["rev-parse", "v1"]);
    assert_eq!(bundle.commit, first);
    assert_eq!(bundle.branch, format!("at-{}", &first[..12]));
    assert_eq!(refs_of(&bundle).len(), 2);
    let later = git(dir.path(), &["rev-parse", "main"]);
    let copy = tempfile::tempdir().unwrap();
    git(
        copy.path(),
        &["clone", "-q", "--bare", bundle.path.to_str().unwrap(), "c"],
    );
    let has_later = StdCommand::new("git")
        .args([
            "-C",
            copy.path().join("c").to_str().unwrap(),
            "cat-file",
            "-e",
            &later,
        ])
        .output()
        .unwrap();
    assert!(!has_later.status.success());
}

#[tokio::test]
async fn branches_and_commits_are_references_too() {
    let dir = repository();
    let first = git(dir.path(), &["rev-parse", "v1"]);
    let bundle = fetch(dir.path(), Some("other")).await.unwrap();
    assert_eq!((bundle.branch.as_str(), &bundle.commit), ("other", &first));
    let bundle = fetch(dir.path(), Some(&first)).await.unwrap();
    assert_eq!(bundle.commit, first);
}

#[tokio::test]
async fn unknown_and_hostile_references_are_refused_by_name() {
    let dir = repository();
    for reference in [
        "nope",
        "-x",
        "--upload-pack=x",
        "a b",
        "v1..v2",
        "HEAD@{1}",
        "main~1",
        "",
    ] {
        let error = fetch(dir.path(), Some(reference)).await.unwrap_err();
        assert!(
            matches!(error, GitSourceError::ReferenceUnknown { .. }),
            "{reference}: {error}"
        );
    }
}

#[tokio::test]
async fn a_repository_that_is_not_there_is_unreachable() {
    let error = fetch(Path::new("/nonexistent/repo"), None)
        .await
        .unwrap_err();
    assert!(
        matches!(error, GitSourceError::Unreachable { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn an_empty_repository_says_so() {
    let dir = tempfile::tempdir().unwrap();
    git(dir.path(), &["init", "-q", "-b", "main"]);
    let error = fetch(dir.path(), None).await.unwrap_err();
    assert!(matches!(error, GitSourceError::Empty(_)), "{error}");
}

#[tokio::test]
async fn submodules_are_noticed() {
    let inner = repository();
    let dir = repository();
    let path = inner.path().display().to_string();
    git(dir.path(), &["submodule", "--quiet", "add", &path, "sub"]);
    git(dir.path(), &["commit", "-q", "-m", "with a submodule"]);
    assert!(fetch(dir.path(), None).await.unwrap().has_submodules);
}

#[tokio::test]
async fn hooks_and_configuration_of_the_source_are_not_run() {
    let dir = repository();
    let trap = dir.path().join("trap");
    let hook = dir.path().join(".git/hooks/post-checkout");
    std::fs::create_dir_all(hook.parent().unwrap()).unwrap();
    std::fs::write(&hook, format!("#!/bin/sh\ntouch {}\n", trap.display())).unwrap();
    StdCommand::new("chmod")
        .arg("+x")
        .arg(&hook)
        .status()
        .unwrap();
    fetch(dir.path(), None).await.unwrap();
    assert!(!trap.exists());
}

#[tokio::test]
async fn a_bundle_is_checked_and_bundled_again() {
    let dir = repository();
    let file = dir.path().join("x.bundle");
    git(
        dir.path(),
        &[
            "bundle",
            "create",
            "-q",
            file.to_str().unwrap(),
            "HEAD",
            "main",
        ],
    );
    let bundle = source()
        .fetch_bundle(&file, "~/x", wanted(None))
        .await
        .unwrap();
    assert_eq!(bundle.branch, "main");

    let mut broken = std::fs::read(&file).unwrap();
    let middle = broken.len() - 60;
    broken[middle] ^= 0xff;
    std::fs::write(&file, broken).unwrap();
    let error = source()
        .fetch_bundle(&file, "~/x", wanted(None))
        .await
        .unwrap_err();
    assert!(matches!(error, GitSourceError::BundleInvalid(_)), "{error}");

    std::fs::write(&file, "no bundle").unwrap();
    let error = source()
        .fetch_bundle(&file, "~/x", wanted(None))
        .await
        .unwrap_err();
    assert!(matches!(error, GitSourceError::BundleInvalid(_)), "{error}");
}

#[tokio::test]
async fn a_source_beyond_the_limit_is_given_up() {
    let dir = repository();
    let mut noise = vec![0_u8; 40 << 20];
    let mut seed = 1_u64;
    for chunk in noise.chunks_mut(8) {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        chunk.copy_from_slice(&seed.to_le_bytes()[..chunk.len()]);
    }
    std::fs::write(dir.path().join("noise"), noise).unwrap();
    git(dir.path(), &["add", "noise"]);
    git(dir.path(), &["commit", "-q", "-m", "large"]);
    let source = GitSource::new(GitSourceOptions {
        allow_file_urls: true,
        fetch_timeout: Duration::from_millis(1),
        ..GitSourceOptions::default()
    });
    let url = SourceUrl::parse(&format!("file://{}", dir.path().display()), true).unwrap();
    let error = source.fetch_url(&url, wanted(None)).await.unwrap_err();
    assert!(matches!(error, GitSourceError::GivenUp { .. }), "{error}");
}

#[test]
fn urls_are_checked_and_shown_without_credentials() {
    for (url, shown) in [
        ("https://me:secret@host/a.git", "https://host/a.git"),
        ("https://token@host/a", "https://host/a"),
        ("ssh://git:pw@host/a", "ssh://git@host/a"),
        ("https://host/a@b", "https://host/a@b"),
    ] {
        assert_eq!(SourceUrl::parse(url, false).unwrap().shown(), shown);
    }
    for url in [
        "",
        "host/a",
        "ext::sh -c x",
        "ftp://host/a",
        "file:///etc",
        "https://",
        "https:///a",
        "ssh://-oProxyCommand=x/a",
        "ssh://u@-oProxyCommand=x/a",
        "https://host/a b",
        "https://host/\na",
        "git@host:a",
        "/etc/passwd",
        "--upload-pack=x",
    ] {
        let error = SourceUrl::parse(url, false).unwrap_err();
        assert!(matches!(error, GitSourceError::UrlInvalid { .. }), "{url}");
    }
    let error = SourceUrl::parse("x://me:secret@host/", false).unwrap_err();
    assert!(!error.to_string().contains("secret"));
    // The cut falls into the middle of a character's bytes.
    let error = SourceUrl::parse(&format!("https://{}", "ä".repeat(300)), false).unwrap_err();
    assert!(
        matches!(error, GitSourceError::UrlInvalid { .. }),
        "{error}"
    );
}

/// A web server that knows one login and no repository. Returns its address,
/// and later the headers it was sent with the command lines of every process of
/// this machine at that moment.
async fn server_with_a_login() -> (
    std::net::SocketAddr,
    tokio::sync::mpsc::Receiver<(String, String)>,
) {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (seen, receive) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(client.read_u8().await.unwrap());
            }
            let head = String::from_utf8(head).unwrap();
            let status = if head.contains("uthorization: ") {
                "404 Not Found"
            } else {
                "401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"r\""
            };
            seen.send((head, command_lines())).await.unwrap();
            let answer =
                format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            client.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    (address, receive)
}

fn command_lines() -> String {
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes
        .filter_map(|process| std::fs::read(process.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .collect::<Vec<_>>()
        .join("\n")
}

#[tokio::test]
async fn a_password_reaches_the_server_and_no_command_line() {
    let (address, mut seen) = server_with_a_login().await;
    let url = format!("http://me:Pa55%40word@{address}/r.git");
    let url = SourceUrl::parse(&url, false).unwrap();
    let error = source().fetch_url(&url, wanted(None)).await.unwrap_err();
    assert!(
        matches!(error, GitSourceError::Unreachable { .. }),
        "{error}"
    );
    let mut authorized = false;
    while let Ok((head, lines)) = seen.try_recv() {
        // "me:Pa55@word" in base64.
        authorized |= head.contains("Basic bWU6UGE1NUB3b3Jk");
        assert!(lines.contains(&format!("{address}/r.git")), "{lines}");
        assert!(!lines.contains("Pa55"), "{lines}");
    }
    assert!(authorized);
}

#[test]
fn a_login_is_told_from_an_absent_host() {
    let fetch = Fetch {
        source: "https://h/r",
        shown: "https://h/r",
        login: None,
        protocols: "https",
    };
    for words in [
        "fatal: could not read Username for 'https://h': terminal prompts disabled",
        "remote: x; fatal: Authentication failed for 'https://h/r'",
        "git@h: Permission denied (publickey).",
    ] {
        let error = classify(&fetch, words);
        assert_eq!(error, GitSourceError::NeedsLogin("https://h/r".to_owned()));
    }
    let error = classify(
        &fetch,
        "fatal: unable to access 'https://h/r': Could not resolve host: h",
    );
    assert!(matches!(&error, GitSourceError::Unreachable { .. }));
}
