//! The contract of a forge, on the local one, and what only it promises.

use super::*;
use crate::{
    adapters::memory::MemoryStore,
    domain::{forge::ForgeCheckState, ids::WorkspaceId},
    service::testing::host_git,
};

struct Fixture {
    forge: LocalForge,
    repository: ForgeRepository,
    /// A repository of a person, the source of bundles.
    source: tempfile::TempDir,
    _directory: tempfile::TempDir,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let source = tempfile::tempdir().unwrap();
        let forge = LocalForge::new(directory.path().join("forge"), Arc::new(MemoryStore::new()));
        let repository = ForgeRepository {
            workspace: WorkspaceId::from_uuid(uuid::Uuid::now_v7()),
            repository: "app".parse().unwrap(),
        };
        let fixture = Self {
            forge,
            repository,
            source,
            _directory: directory,
        };
        fixture.git(&["init", "--quiet", "-b", "main"]);
        fixture.commit("base");
        fixture.git(&["checkout", "--quiet", "-b", "compy/fix"]);
        fixture
    }

    fn git(&self, arguments: &[&str]) -> String {
        host_git(self.source.path(), arguments)
    }

    fn commit(&self, text: &str) -> String {
        std::fs::write(self.source.path().join("file.txt"), text).unwrap();
        self.git(&["add", "-A"]);
        self.git(&["commit", "--quiet", "-m", text]);
        self.git(&["rev-parse", "HEAD"])
    }

    fn bundle(&self) -> PathBuf {
        let path = self.source.path().join(".git/out.bundle");
        let name = path.to_str().unwrap();
        self.git(&["update-ref", BUNDLED_BASE, "main"]);
        let create = ["bundle", "create", "--quiet", name];
        let references = ["main", "compy/fix", BUNDLED_BASE];
        self.git(&[&create[..], &references].concat());
        path
    }

    fn publication(&self, commit: &str) -> Publication {
        Publication {
            branch: "compy/fix".to_owned(),
            commit: commit.to_owned(),
            base_branch: "main".to_owned(),
            base_commit: self.git(&["rev-parse", "main"]),
        }
    }

    async fn publish(&self, commit: &str) -> Result<(), ForgeError> {
        self.publish_without(commit, &nothing()).await
    }

    async fn publish_without(&self, commit: &str, redactor: &Redactor) -> Result<(), ForgeError> {
        let bundle = self.bundle();
        let (repository, publication) = (&self.repository, self.publication(commit));
        self.forge
            .publish(repository, &publication, &bundle, redactor)
            .await
    }

    fn draft(&self) -> PullRequestDraft {
        PullRequestDraft {
            title: "Fix it".to_owned(),
            body: "Because.".to_owned(),
            head: "compy/fix".to_owned(),
            base: "main".to_owned(),
        }
    }

    fn check(&self, state: ForgeCheckState) -> ForgeCheck {
        ForgeCheck {
            name: "tests".to_owned(),
            state,
            summary: "1 passed".to_owned(),
        }
    }

    fn bare(&self, arguments: &[&str]) -> String {
        host_git(&self.forge.path(&self.repository), arguments)
    }
}

fn nothing() -> Redactor {
    Redactor::new([])
}

#[tokio::test]
async fn publishing_twice_is_accepted_and_brings_the_base() {
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    fixture.publish(&commit).await.unwrap();
    fixture.publish(&commit).await.unwrap();
    assert_eq!(fixture.bare(&["rev-parse", "refs/heads/compy/fix"]), commit);
    assert_eq!(
        fixture.bare(&["diff", "--name-only", "main...compy/fix"]),
        "file.txt"
    );
    assert_eq!(fixture.bare(&["for-each-ref", INCOMING]), "");
    let next = fixture.commit("two");
    fixture.publish(&next).await.unwrap();
    assert_eq!(fixture.bare(&["rev-parse", "refs/heads/compy/fix"]), next);
}

#[tokio::test]
async fn a_branch_that_would_lose_commits_is_rejected() {
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    fixture.publish(&commit).await.unwrap();
    fixture.git(&["reset", "--quiet", "--hard", "main"]);
    let other = fixture.commit("other");
    let refused = fixture.publish(&other).await;
    let branch = "compy/fix".to_owned();
    assert_eq!(refused, Err(ForgeError::PushRejected { branch }));
    assert_eq!(fixture.bare(&["rev-parse", "refs/heads/compy/fix"]), commit);
}

#[tokio::test]
async fn a_bundle_that_is_not_what_it_should_be_is_refused() {
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    let bundle = fixture.bundle();
    let forge = &fixture.forge;
    let repository = &fixture.repository;
    let good = fixture.publication(&commit);
    let other = || "0".repeat(40);
    for (publication, wanted) in [
        (
            fixture.publication(&other()),
            format!("its head ends at {commit}, not at 000"),
        ),
        (
            Publication {
                base_commit: other(),
                ..good.clone()
            },
            format!("its base ends at {}, not at 000", good.base_commit),
        ),
        (
            Publication {
                branch: "compy/other".to_owned(),
                ..good.clone()
            },
            "compy/other".to_owned(),
        ),
    ] {
        let refused = forge
            .publish(repository, &publication, &bundle, &nothing())
            .await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&wanted), "{refused}");
        assert_eq!(fixture.bare(&["for-each-ref"]), "");
    }
}

#[tokio::test]
async fn a_damaged_bundle_leaves_nothing() {
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    let bundle = fixture.bundle();
    let mut bytes = std::fs::read(&bundle).unwrap();
    let end = bytes.len() - 30;
    bytes[end] ^= 0xff;
    std::fs::write(&bundle, bytes).unwrap();
    let (forge, repository) = (&fixture.forge, &fixture.repository);
    let publication = fixture.publication(&commit);
    let damaged = forge
        .publish(repository, &publication, &bundle, &nothing())
        .await;
    assert!(
        matches!(damaged, Err(ForgeError::BundleInvalid { .. })),
        "{damaged:?}"
    );
    assert_eq!(fixture.bare(&["for-each-ref"]), "");
}

#[tokio::test]
async fn objects_that_would_escape_a_checkout_are_refused() {
    let fixture = Fixture::new();
    // A tree with an entry `.git`, as no git would make it by itself.
    let blob = fixture.git(&["rev-parse", "HEAD:file.txt"]);
    let mut tree = b"100644 .git\0".to_vec();
    for at in (0..40).step_by(2) {
        tree.push(u8::from_str_radix(&blob[at..at + 2], 16).unwrap());
    }
    std::fs::write(fixture.source.path().join("tree"), tree).unwrap();
    let tree = fixture.git(&["hash-object", "--literally", "-t", "tree", "-w", "tree"]);
    let commit = fixture.git(&["commit-tree", &tree, "-p", "HEAD", "-m", "evil"]);
    fixture.git(&["update-ref", "refs/heads/compy/fix", &commit]);
    let refused = fixture.publish(&commit).await.unwrap_err();
    assert!(
        matches!(&refused, ForgeError::BundleInvalid { message, .. } if message.contains("hasDotgit")),
        "{refused}"
    );
}

#[tokio::test]
async fn a_pull_request_is_opened_once_for_a_head() {
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    let forge = &fixture.forge;
    let missing = forge
        .open_pull_request(&fixture.repository, &fixture.draft())
        .await;
    assert!(matches!(missing, Err(ForgeError::Missing(_))));
    fixture.publish(&commit).await.unwrap();
    let opened = forge
        .open_pull_request(&fixture.repository, &fixture.draft())
        .await
        .unwrap();
    assert_eq!((opened.number, &opened.head_commit), (1, &commit));
    assert!(opened.url.ends_with("app.git#1"), "{}", opened.url);
    let running = fixture.check(ForgeCheckState::Running);
    forge
        .report_check(&fixture.repository, 1, &running)
        .await
        .unwrap();
    let passed = fixture.check(ForgeCheckState::Passed);
    let checked = forge
        .report_check(&fixture.repository, 1, &passed)
        .await
        .unwrap();
    assert_eq!(checked.checks, [passed]);

    let retitled = PullRequestDraft {
        title: "Fix it well".to_owned(),
        ..fixture.draft()
    };
    let again = forge
        .open_pull_request(&fixture.repository, &retitled)
        .await
        .unwrap();
    assert_eq!((again.number, again.checks.len()), (1, 1));
    assert_eq!(again.draft.title, "Fix it well");
    let found = forge
        .find_pull_request(&fixture.repository, "compy/fix")
        .await
        .unwrap();
    assert_eq!(found, Some(again));
    assert_eq!(
        forge
            .find_pull_request(&fixture.repository, "x")
            .await
            .unwrap(),
        None
    );

    // Checks belong to a commit: a new one has none.
    let next = fixture.commit("two");
    fixture.publish(&next).await.unwrap();
    let moved = forge
        .open_pull_request(&fixture.repository, &retitled)
        .await
        .unwrap();
    assert_eq!(
        (moved.number, moved.head_commit, moved.checks.len()),
        (1, next, 0)
    );
    let unknown = forge.report_check(&fixture.repository, 9, &running).await;
    assert_eq!(
        unknown,
        Err(ForgeError::Missing("pull request 9".to_owned()))
    );
}

#[tokio::test]
async fn a_branch_comes_out_as_it_went_in_and_alone() {
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    fixture.publish(&commit).await.unwrap();
    let target = fixture.source.path().join(".git/branch.bundle");
    fixture
        .forge
        .bundle(&fixture.repository, "compy/fix", &target)
        .await
        .unwrap();
    let heads = fixture.git(&["bundle", "list-heads", target.to_str().unwrap()]);
    assert_eq!(heads, format!("{commit} refs/heads/compy/fix"));
    let missing = fixture
        .forge
        .bundle(&fixture.repository, "nope", &target)
        .await;
    assert_eq!(missing, Err(ForgeError::Missing("branch nope".to_owned())));
}

#[tokio::test]
async fn of_a_bundle_the_branch_and_its_base_are_taken_alone() {
    let fixture = Fixture::new();
    let base = fixture.git(&["rev-parse", "main"]);
    let commit = fixture.commit("one");
    // Somebody has moved the base branch meanwhile.
    let publication = fixture.publication(&commit);
    fixture.git(&["branch", "--force", "main", "compy/fix"]);
    let bundle = fixture.bundle();
    fixture.git(&["update-ref", BUNDLED_BASE, &base]);
    let name = bundle.to_str().unwrap();
    fixture.git(&["bundle", "create", "--quiet", name, "--all"]);
    fixture
        .forge
        .publish(&fixture.repository, &publication, &bundle, &nothing())
        .await
        .unwrap();
    assert_eq!(
        fixture.bare(&["for-each-ref", "--format=%(refname) %(objectname)"]),
        format!("refs/heads/compy/fix {commit}\nrefs/heads/main {base}")
    );
}

#[tokio::test]
async fn a_branch_with_a_credential_in_any_commit_is_refused_and_leaves_nothing() {
    let redactor = Redactor::new([("npm", b"t0ken-of-npm".as_slice())]);
    type Leak = fn(&Fixture);
    let leaks: [(&str, Leak); 4] = [
        // In one commit, and taken out by the next.
        ("file.txt", |fixture| {
            let file = fixture.source.path().join("file.txt");
            std::fs::write(file, "x t0ken-of-npm").unwrap();
            fixture.git(&["commit", "--quiet", "--all", "-m", "raw"]);
        }),
        ("deep/auth", |fixture| {
            let directory = fixture.source.path().join("deep");
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join("auth"), "dDBrZW4tb2YtbnBt\n").unwrap();
            fixture.commit("encoded");
        }),
        ("the names of files", |fixture| {
            std::fs::write(fixture.source.path().join("t0ken-of-npm"), "").unwrap();
            fixture.commit("named");
        }),
        ("the message of commit", |fixture| {
            let words = [
                "commit",
                "--quiet",
                "--allow-empty",
                "-m",
                "use t0ken-of-npm",
            ];
            fixture.git(&words);
        }),
    ];
    for (wanted, leak) in leaks {
        let fixture = Fixture::new();
        leak(&fixture);
        let leaked = fixture.git(&["rev-parse", "HEAD"]);
        fixture.git(&["rm", "--quiet", "-r", "--force", "."]);
        let head = fixture.commit("clean");
        let refused = fixture.publish_without(&head, &redactor).await;
        let Err(ForgeError::HoldsCredential { place, marker, .. }) = &refused else {
            panic!("{wanted}: {refused:?}");
        };
        assert!(place.starts_with(wanted), "{place}");
        assert_eq!(marker, "[redacted:npm]");
        assert!(!refused.unwrap_err().to_string().contains("t0ken"));
        assert_eq!(fixture.bare(&["for-each-ref"]), "", "{wanted}");
        let objects = fixture.bare(&["cat-file", "--batch-all-objects", "--batch-check"]);
        assert_eq!(objects, "", "{wanted}: {leaked} is on the forge");

        // What the base has is no news.
        fixture.git(&["branch", "--force", "main", &leaked]);
        fixture.publish_without(&head, &redactor).await.unwrap();
    }
}

#[tokio::test]
async fn a_credential_in_what_a_known_base_goes_forward_by_is_found() {
    let redactor = Redactor::new([("npm", b"t0ken-of-npm".as_slice())]);
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    fixture.publish_without(&commit, &redactor).await.unwrap();
    let base = fixture.bare(&["rev-parse", "main"]);
    fixture.git(&["checkout", "--quiet", "main"]);
    let leaked = fixture.commit("t0ken-of-npm");
    fixture.git(&["checkout", "--quiet", "-B", "compy/fix"]);
    let head = fixture.commit("clean");
    let refused = fixture.publish_without(&head, &redactor).await;
    assert!(
        matches!(refused, Err(ForgeError::HoldsCredential { .. })),
        "{refused:?}"
    );
    assert_eq!(fixture.bare(&["rev-parse", "main"]), base, "not {leaked}");
}

#[tokio::test]
async fn a_search_that_cannot_be_made_is_no_clean_answer() {
    let fixture = Fixture::new();
    let commit = fixture.commit("one");
    fixture.publish(&commit).await.unwrap();
    let redactor = Redactor::new([("npm", b"t0ken-of-npm".as_slice())]);
    let path = fixture.forge.path(&fixture.repository);
    let base = fixture.git(&["rev-parse", "main"]);
    let search =
        async |base: &str| search::credential_between(&path, base, &commit, &redactor).await;
    assert_eq!(search(&base).await, Ok(None));
    let unknown = search(&"1".repeat(40)).await;
    assert!(
        matches!(unknown, Err(ForgeError::Failed { .. })),
        "{unknown:?}"
    );
    std::fs::remove_dir_all(path.join("objects/pack")).unwrap();
    let missing = search(&base).await;
    assert!(
        matches!(missing, Err(ForgeError::Failed { .. })),
        "{missing:?}"
    );
}
