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
    let rights = FetchRights::Account;
    source().fetch_url(&url, wanted(reference), &rights).await
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
async fn what_prints_more_than_is_wanted_is_given_up() {
    let dir = repository();
    let git_dir = dir.path().join(".git");
    let git = Git {
        dir: Some(&git_dir),
        login: None,
        protocols: "",
        nobody: None,
    };
    let list = ["ls-tree", "-r", "-z", "--name-only", "HEAD"];
    let printed = git.must_within(&list, 2).await;
    assert_eq!(printed, Ok(Some("a\0".to_owned())));
    assert_eq!(git.must_within(&list, 1).await, Ok(None));
    let error = git.must_within(&["ls-tree", "none"], 1).await;
    assert!(matches!(error, Err(GitSourceError::Host(_))), "{error:?}");
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
    let error = source
        .fetch_url(&url, wanted(None), &FetchRights::Account)
        .await
        .unwrap_err();
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
    let error = source()
        .fetch_url(&url, wanted(None), &FetchRights::Account)
        .await
        .unwrap_err();
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
        rights: &FetchRights::Account,
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

#[test]
fn with_nobodys_rights_only_plain_hosts_are_gone_to() {
    let target = |url: &str| {
        let url = SourceUrl::parse(url, true).unwrap();
        url.target().map(|target| target.to_string())
    };
    for (url, expected) in [
        ("https://git.example/a", "git.example:443"),
        ("https://me:pw@Git.Example/a", "git.example:443"),
        ("http://git.example:8080?a", "git.example:8080"),
        ("http://192.0.2.7/a", "192.0.2.7:80"),
        ("https://[2001:db8::7]:8443/a", "[2001:db8::7]:8443"),
        ("https://[2001:db8::7]/a", "[2001:db8::7]:443"),
    ] {
        assert_eq!(target(url).as_deref(), Ok(expected), "{url}");
    }
    for url in [
        "ssh://git@git.example/a",
        "git://git.example/a",
        "file:///home/me/a",
        "https://2130706433/a",
        "https://0x7f.1/a",
        "https://127%2e0.0.1/a",
        "https://[::ffff:127.0.0.1]/a",
        "https://git.example./a",
        "https://git.example:0/a",
        "https://git.example:/a",
        "https://git.example:x/a",
    ] {
        let refused = target(url).unwrap_err();
        assert!(matches!(refused, GitSourceError::Forbidden { .. }), "{url}");
    }
}

#[test]
fn git_with_nobodys_rights_has_nothing_of_the_account() {
    let home = PathBuf::from("/scratch/home");
    let nobody = Nobody {
        home: home.clone(),
        resolved: Some("http.curloptResolve=a:443:192.0.2.1".to_owned()),
    };
    let environment = |nobody| {
        let git = Git {
            dir: None,
            login: None,
            protocols: "https:http",
            nobody,
        };
        let command = git.command(&["version"]);
        let command = command.as_std();
        let set = command.get_envs().filter_map(|(name, value)| {
            Some((name.to_str()?.to_owned(), value?.to_str()?.to_owned()))
        });
        let arguments = command
            .get_args()
            .map(|word| word.to_str().unwrap().to_owned());
        (
            set.collect::<std::collections::BTreeMap<_, _>>(),
            arguments.collect::<Vec<_>>(),
        )
    };
    let (set, arguments) = environment(Some(nobody));
    assert_eq!(set["HOME"], home.display().to_string());
    assert!(!set.contains_key("SSH_AUTH_SOCK"));
    assert!(
        !set.keys()
            .any(|name| name.to_lowercase().ends_with("_proxy"))
    );
    for setting in [
        "http.followRedirects=false",
        "http.emptyAuth=false",
        "http.curloptResolve=a:443:192.0.2.1",
    ] {
        assert!(arguments.iter().any(|word| word == setting), "{setting}");
    }
    let (_, arguments) = environment(None);
    assert!(
        !arguments
            .iter()
            .any(|word| word.contains("followRedirects"))
    );
}

#[tokio::test]
async fn with_nobodys_rights_a_name_is_where_it_was_found_and_leads_nowhere_else() {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let listen = || tokio::net::TcpListener::bind(("127.0.0.1", 0));
    let (front, behind) = (listen().await.unwrap(), listen().await.unwrap());
    let port = front.local_addr().unwrap().port();
    let elsewhere = behind.local_addr().unwrap();
    let asked = tokio::spawn(async move {
        let (mut connection, _) = front.accept().await.unwrap();
        let mut request = vec![0; 4_096];
        let read = connection.read(&mut request).await.unwrap();
        let answer = format!(
            "HTTP/1.1 302 Found\r\nLocation: http://{elsewhere}/info/refs\r\nContent-Length: 0\r\n\r\n"
        );
        connection.write_all(answer.as_bytes()).await.unwrap();
        String::from_utf8_lossy(&request[..read]).into_owned()
    });
    // No name server knows it.
    let url = SourceUrl::parse(&format!("http://git.invalid:{port}/a"), false).unwrap();
    let addresses = vec![IpAddr::from([127, 0, 0, 1])];
    let rights = FetchRights::Nobody(url.target().unwrap(), addresses);
    let fetched = source().fetch_url(&url, wanted(None), &rights).await;
    let error = fetched.unwrap_err();
    assert!(
        matches!(error, GitSourceError::Unreachable { .. }),
        "{error}"
    );
    let request = asked.await.unwrap();
    assert!(
        request.contains(&format!("Host: git.invalid:{port}")),
        "{request}"
    );
    let accepted = tokio::time::timeout(Duration::from_millis(1), behind.accept()).await;
    assert!(accepted.is_err(), "the redirect was followed");
}
