//! What every [`StorePort`] must do.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
};

use tokio::task::JoinSet;
use uuid::Uuid;

use crate::{
    domain::{
        access::{Role, Token},
        artifact::{Artifact, ArtifactKind},
        credential::{
            AllowedTools, Credential, CredentialKey, CredentialKind, CredentialScope,
            CredentialsChange, PastCredential, SealedCredential,
        },
        egress::Policy,
        forge::{ForgeCheck, ForgeCheckState, PullRequest, PullRequestDraft},
        idle::IdleStop,
        ids::{
            ArtifactId, OperationId, RequestId, SessionId, SnapshotId, WorkspaceId, WorkspaceName,
        },
        setup::{SetupIngredients, SetupKey, SetupSource, WorkspaceSetup},
        snapshot::{
            CapturedState, CapturedVolume, ImageOrigin, MANIFEST_FORMAT, Snapshot, SnapshotImage,
            SnapshotReason, SnapshotSizes, VolumeTree,
            copies::{TreeCopy, VolumeRef},
            hash::{ChunkHash, TreeHash},
            journal::{ContainerRef, Generation, ImageRef, Operation, Progress, SnapshotStep},
        },
        stage::Stage,
        upkeep::Upkeep,
        workspace::{Desired, Limits, NetworkMode, Purpose, Workspace, WorkspaceDefinition},
        workspace_event::{Happening, WorkspaceEvent},
    },
    ports::store::{RequestOutcome, RequestProgress, RequestRecord, StoreError, StorePort},
};

/// Checks an empty store against the whole contract.
///
/// # Panics
/// The store breaks the contract.
pub async fn check(store: Arc<dyn StorePort>) {
    workspaces(&*store).await;
    logs(&*store).await;
    parallel_appends(store.clone()).await;
    artifacts(&*store).await;
    pull_requests(&*store).await;
    snapshots(&*store).await;
    baked_setups(&*store).await;
    operations(&*store).await;
    workspace_events(&*store).await;
    tree_copies(&*store).await;
    last_uses(&*store).await;
    credentials(&*store).await;
    tokens(&*store).await;
    requests(&*store).await;
}

/// A workspace like any other.
#[must_use]
pub fn workspace(number: u128, name: &str) -> Workspace {
    Workspace {
        egress: Policy::default(),
        id: WorkspaceId::from_uuid(Uuid::from_u128(number)),
        definition: WorkspaceDefinition {
            name: name.parse().unwrap(),
            image: "compy/base:latest".to_owned(),
            limits: Limits {
                cpu_millis: 2_000,
                memory_bytes: 4 << 30,
                pids: 4_096,
                disk_bytes: 0,
            },
            network: NetworkMode::None,
            user: None,
            purpose: Purpose::Project,
        },
        desired: Desired::Running,
        repositories: Vec::new(),
        created_at_ms: 1,
        generation: Generation::FIRST,
        base: None,
        snapshot: None,
        idle_stop: IdleStop::default(),
        stop_cause: None,
        setup: WorkspaceSetup::default(),
        upkeep: Upkeep::default(),
    }
}

/// A snapshot of a workspace, both with these numbers as ids.
#[must_use]
pub fn snapshot(number: u128, of: u128) -> Snapshot {
    let workspace = workspace(of, "api");
    let tree = VolumeTree {
        hash: TreeHash::of(b"tree"),
        listing: vec![ChunkHash::of(b"first half"), ChunkHash::of(b"second half")],
        entries: 3,
        bytes: 70_000,
    };
    Snapshot {
        format: MANIFEST_FORMAT,
        left_out: BTreeMap::new(),
        id: SnapshotId::from_uuid(Uuid::from_u128(number)),
        workspace: workspace.id,
        label: Some("before the upgrade".parse().unwrap()),
        parent: None,
        reason: SnapshotReason::Stage {
            session: session(1),
            stage: Stage::Modify,
        },
        created_at_ms: 5,
        workspace_state: CapturedState::Running,
        definition: workspace.definition,
        repositories: workspace.repositories,
        image: SnapshotImage {
            id: format!("sha256:{}", "ab".repeat(32)),
            origin: ImageOrigin::Committed,
            archived_id: None,
        },
        volumes: BTreeMap::from([(CapturedVolume::Work, tree)]),
        sizes: SnapshotSizes {
            bytes: 100_000,
            new_bytes: 40_000,
        },
        pause_ms: 12,
        root: None,
    }
}

/// An operation that has just begun on a workspace, both with these numbers as
/// ids.
#[must_use]
pub fn operation(number: u128, of: u128) -> Operation {
    Operation {
        id: OperationId::from_uuid(Uuid::from_u128(number)),
        workspace: WorkspaceId::from_uuid(Uuid::from_u128(of)),
        begun_at_ms: 5,
        progress: Progress::Snapshot {
            snapshot: SnapshotId::from_uuid(Uuid::from_u128(number)),
            helper: ContainerRef("helper".to_owned()),
            image: ImageRef("compy/snapshot:1".to_owned()),
            step: SnapshotStep::Begun,
        },
    }
}

fn session(number: u128) -> SessionId {
    SessionId::from_uuid(Uuid::from_u128(number))
}

async fn workspaces(store: &dyn StorePort) {
    assert_eq!(store.workspaces().await, Ok(Vec::new()));
    let first = workspace(1, "zebra");
    let mut second = workspace(2, "ant");
    store.add_workspace(&first).await.unwrap();
    store.add_workspace(&second).await.unwrap();
    let taken: WorkspaceName = "ant".parse().unwrap();
    assert_eq!(
        store.add_workspace(&workspace(3, "ant")).await,
        Err(StoreError::NameTaken(taken.clone()))
    );
    assert_eq!(
        store.workspaces().await,
        Ok(vec![second.clone(), first.clone()]),
        "listed by name, and a refused one is not there"
    );
    assert_eq!(
        store.workspace_named(&taken).await,
        Ok(Some(second.clone()))
    );

    second.desired = Desired::Stopped;
    second.definition.name = "bee".parse().unwrap();
    store.update_workspace(&second).await.unwrap();
    assert_eq!(store.workspace(&second.id).await, Ok(Some(second.clone())));
    assert_eq!(
        store.workspace_named(&taken).await,
        Ok(None),
        "the old name is free"
    );
    let clash = Workspace {
        definition: first.definition.clone(),
        ..second.clone()
    };
    assert_eq!(
        store.update_workspace(&clash).await,
        Err(StoreError::NameTaken(first.definition.name.clone()))
    );
    assert!(matches!(
        store.update_workspace(&workspace(9, "nobody")).await,
        Err(StoreError::Missing(_))
    ));

    store.remove_workspace(&second.id).await.unwrap();
    store
        .remove_workspace(&second.id)
        .await
        .expect("removing an unknown one is accepted");
    assert_eq!(store.workspace(&second.id).await, Ok(None));
    store.add_workspace(&workspace(4, "bee")).await.unwrap();
    assert_eq!(store.workspaces().await.unwrap().len(), 2);
}

async fn logs(store: &dyn StorePort) {
    let (log, other) = (session(1), session(2));
    assert_eq!(store.events(&log, 1, 10).await, Ok(Vec::new()));
    let event = |n: u8| vec![n; usize::from(n)];
    store.append(&log, 1, vec![event(1)]).await.unwrap();
    store
        .append(&log, 2, vec![event(2), event(3), event(0)])
        .await
        .unwrap();
    for given in [0, 1, 4, 6] {
        assert_eq!(
            store.append(&log, given, vec![event(9), event(9)]).await,
            Err(StoreError::WrongSequence {
                session: log.clone(),
                expected: 5,
                given
            })
        );
    }
    assert_eq!(
        store.events(&log, 1, usize::MAX).await,
        Ok(vec![event(1), event(2), event(3), event(0)])
    );
    assert_eq!(store.events(&log, 2, 2).await, Ok(vec![event(2), event(3)]));
    assert_eq!(store.events(&log, 5, 2).await, Ok(Vec::new()));
    assert_eq!(store.events(&log, 1, 0).await, Ok(Vec::new()));
    let large = vec![b'x'; 3 << 20];
    store.append(&other, 1, vec![large.clone()]).await.unwrap();
    assert_eq!(store.events(&other, 1, 9).await, Ok(vec![large]));
    store.append(&session(3), 1, Vec::new()).await.unwrap();
    assert_eq!(
        store.sessions().await,
        Ok(vec![other, log]),
        "newest first, none without an event"
    );
}

async fn parallel_appends(store: Arc<dyn StorePort>) {
    let mut writers = JoinSet::new();
    for number in 100..108 {
        let store = store.clone();
        writers.spawn(async move {
            for sequence in 1..=20_u64 {
                let event = sequence.to_be_bytes().to_vec();
                store
                    .append(&session(number), sequence, vec![event])
                    .await
                    .unwrap();
            }
        });
    }
    // Two who race for one log: one of each pair is refused.
    for _ in 0..2 {
        let store = store.clone();
        writers.spawn(async move {
            let mut next = 1;
            for _ in 0..20 {
                match store.append(&session(200), next, vec![vec![1]]).await {
                    Ok(()) => next += 1,
                    Err(StoreError::WrongSequence { expected, .. }) => next = expected,
                    Err(other) => panic!("{other}"),
                }
            }
        });
    }
    while let Some(done) = writers.join_next().await {
        done.unwrap();
    }
    for number in 100..108 {
        let events = store.events(&session(number), 1, 100).await.unwrap();
        let expected: Vec<_> = (1..=20_u64).map(|n| n.to_be_bytes().to_vec()).collect();
        assert_eq!(events, expected);
    }
    let raced = store.events(&session(200), 1, 100).await.unwrap().len();
    assert!((20..=40).contains(&raced), "{raced}");
}

async fn artifacts(store: &dyn StorePort) {
    let artifact = |number: u128, of: u128, title: &str| Artifact {
        id: ArtifactId::from_uuid(Uuid::from_u128(number)),
        session: session(of),
        stage: Stage::Validate,
        step: None,
        kind: ArtifactKind::TestReport,
        title: title.to_owned(),
        hash: format!("{number:064x}"),
        size_bytes: 3,
        media_type: "text/plain".to_owned(),
        created_at_ms: 5,
    };
    let (late, early, foreign) = (
        artifact(2, 1, "late"),
        artifact(1, 1, "early"),
        artifact(3, 2, "foreign"),
    );
    for one in [&late, &early, &foreign] {
        store.put_artifact(one).await.unwrap();
    }
    let replaced = Artifact {
        title: "replaced".to_owned(),
        ..late
    };
    store.put_artifact(&replaced).await.unwrap();
    assert_eq!(
        store.artifacts(&session(1)).await,
        Ok(vec![early.clone(), replaced])
    );
    assert_eq!(store.artifact(&early.id).await, Ok(Some(early)));
    let unknown = ArtifactId::from_uuid(Uuid::from_u128(99));
    assert_eq!(store.artifact(&unknown).await, Ok(None));
    assert_eq!(store.artifacts(&session(77)).await, Ok(Vec::new()));
    let hashes: HashSet<String> = (1..=3).map(|number| format!("{number:064x}")).collect();
    assert_eq!(store.artifact_hashes().await, Ok(hashes));
}

async fn pull_requests(store: &dyn StorePort) {
    let pull_request = |number: u64| PullRequest {
        number,
        url: format!("local/{number}"),
        draft: PullRequestDraft {
            title: "fix".to_owned(),
            body: String::new(),
            head: "compy/fix".to_owned(),
            base: "main".to_owned(),
        },
        head_commit: "ab".repeat(20),
        checks: Vec::new(),
    };
    for number in [300, 2, 1] {
        store
            .put_pull_request("lib", &pull_request(number))
            .await
            .unwrap();
    }
    store
        .put_pull_request("lib2", &pull_request(7))
        .await
        .unwrap();
    let mut second = pull_request(2);
    second.checks.push(ForgeCheck {
        name: "tests".to_owned(),
        state: ForgeCheckState::Passed,
        summary: "3 passed".to_owned(),
    });
    store.put_pull_request("lib", &second).await.unwrap();
    assert_eq!(
        store.pull_requests("lib").await,
        Ok(vec![pull_request(1), second, pull_request(300)])
    );
    assert_eq!(store.pull_requests("li").await, Ok(Vec::new()));
}

async fn snapshots(store: &dyn StorePort) {
    assert_eq!(store.snapshots(None).await, Ok(Vec::new()));
    let (late, early, foreign) = (snapshot(3, 1), snapshot(1, 1), snapshot(2, 2));
    for one in [&late, &early, &foreign] {
        store.put_snapshot(one).await.unwrap();
    }
    let replaced = Snapshot {
        label: None,
        ..late
    };
    store.put_snapshot(&replaced).await.unwrap();
    assert_eq!(
        store.snapshot(&replaced.id).await,
        Ok(Some(replaced.clone()))
    );
    assert_eq!(
        store.snapshots(Some(&early.workspace)).await,
        Ok(vec![early.clone(), replaced.clone()])
    );
    assert_eq!(
        store.snapshots(None).await,
        Ok(vec![early.clone(), foreign.clone(), replaced.clone()])
    );

    store.remove_snapshot(&early.id).await.unwrap();
    store
        .remove_snapshot(&early.id)
        .await
        .expect("removing an unknown one is accepted");
    assert_eq!(store.snapshot(&early.id).await, Ok(None));
    assert_eq!(
        store.snapshots(Some(&early.workspace)).await,
        Ok(vec![replaced.clone()])
    );
    assert_eq!(store.snapshots(None).await, Ok(vec![foreign, replaced]));
    let nobody = WorkspaceId::from_uuid(Uuid::from_u128(99));
    assert_eq!(store.snapshots(Some(&nobody)).await, Ok(Vec::new()));
}

async fn baked_setups(store: &dyn StorePort) {
    let key = |image_id: &str| {
        SetupKey::of(&SetupIngredients {
            image_id,
            user: None,
            source: SetupSource::Vouched("https://host/app"),
            repository: &"app".parse().unwrap(),
            initialize: &[],
            inputs: &[],
        })
    };
    let (one, other) = (snapshot(21, 7), snapshot(22, 7));
    for snapshot in [&one, &other] {
        store.put_snapshot(snapshot).await.unwrap();
    }
    assert_eq!(store.baked_setup(&key("a")).await, Ok(None));
    for (image, snapshot) in [("a", &other), ("a", &one), ("b", &one), ("c", &other)] {
        let baked = store.put_baked_setup(&key(image), &snapshot.id).await;
        baked.unwrap();
    }
    assert_eq!(store.baked_setup(&key("a")).await, Ok(Some(one.id.clone())));
    store.remove_snapshot(&one.id).await.unwrap();
    assert_eq!(store.baked_setup(&key("a")).await, Ok(None));
    assert_eq!(store.baked_setup(&key("b")).await, Ok(None));
    assert_eq!(
        store.baked_setup(&key("c")).await,
        Ok(Some(other.id.clone()))
    );
    store.remove_snapshot(&other.id).await.unwrap();
}

async fn operations(store: &dyn StorePort) {
    assert_eq!(store.operations().await, Ok(Vec::new()));
    let (late, early) = (operation(2, 1), operation(1, 2));
    store.put_operation(&late).await.unwrap();
    store.put_operation(&early).await.unwrap();
    let further = Operation {
        begun_at_ms: 6,
        ..late
    };
    store.put_operation(&further).await.unwrap();
    assert_eq!(
        store.operations().await,
        Ok(vec![early.clone(), further.clone()])
    );
    store.remove_operation(&early.id).await.unwrap();
    store
        .remove_operation(&early.id)
        .await
        .expect("removing an unknown one is accepted");
    assert_eq!(store.operations().await, Ok(vec![further]));
}

async fn workspace_events(store: &dyn StorePort) {
    assert_eq!(store.workspace_events(0, 10).await, Ok(Vec::new()));
    let event = |sequence: u64, what| WorkspaceEvent {
        sequence,
        previous: sequence - 1,
        at_ms: 5,
        workspace: WorkspaceId::from_uuid(Uuid::from_u128(1)),
        name: "api".parse().unwrap(),
        what,
    };
    // Beyond one byte, so that numbers and not their digits are in order.
    let all: Vec<_> = [1, 2, 255, 256, 70_000]
        .map(|n| event(n, Happening::Created))
        .into();
    store.put_workspace_events(&all[..2], &[]).await.unwrap();
    store.put_workspace_events(&all[2..], &[]).await.unwrap();
    assert_eq!(store.workspace_events(0, 10).await, Ok(all.clone()));
    assert_eq!(store.workspace_events(1, 2).await, Ok(all[1..3].to_vec()));
    assert_eq!(store.workspace_events(255, 10).await, Ok(all[3..].to_vec()));
    assert_eq!(store.workspace_events(70_000, 9).await, Ok(Vec::new()));
    assert_eq!(store.workspace_events(u64::MAX, 9).await, Ok(Vec::new()));
    let newest = event(70_001, Happening::Deleted);
    store
        .put_workspace_events(std::slice::from_ref(&newest), &[1, 256, 9_999])
        .await
        .unwrap();
    let left = vec![all[1].clone(), all[2].clone(), all[4].clone(), newest];
    assert_eq!(store.workspace_events(0, 10).await, Ok(left));
}

async fn tree_copies(store: &dyn StorePort) {
    assert_eq!(store.tree_copies().await, Ok(Vec::new()));
    let tree = &snapshot(1, 1).volumes[&CapturedVolume::Work];
    let copy = |name: &str| TreeCopy {
        volume: VolumeRef(name.to_owned()),
        tree: tree.clone(),
        used_at_ms: 5,
    };
    store.put_tree_copy(&copy("late")).await.unwrap();
    store.put_tree_copy(&copy("early")).await.unwrap();
    let used_again = TreeCopy {
        used_at_ms: 6,
        ..copy("late")
    };
    store.put_tree_copy(&used_again).await.unwrap();
    assert_eq!(
        store.tree_copies().await,
        Ok(vec![copy("early"), used_again.clone()])
    );
    let early = copy("early").volume;
    store.remove_tree_copy(&early).await.unwrap();
    store
        .remove_tree_copy(&early)
        .await
        .expect("removing an unknown one is accepted");
    assert_eq!(store.tree_copies().await, Ok(vec![used_again]));
}

async fn credentials(store: &dyn StorePort) {
    assert_eq!(store.credentials().await, Ok(Vec::new()));
    let sealed = |name: &str, scope: CredentialScope, byte: u8| SealedCredential {
        credential: Credential {
            key: CredentialKey {
                scope,
                name: name.parse().unwrap(),
            },
            kind: CredentialKind::Value,
            environment: Some("A".to_owned()),
            host: None,
            host_keys: Vec::new(),
            tools: AllowedTools::default(),
            expires_at_ms: None,
            created_at_ms: 1,
            updated_at_ms: 2,
        },
        key_id: "00".to_owned(),
        nonce: vec![byte; 24],
        sealed: vec![byte; 20],
    };
    let project = |url: &str| CredentialScope::Project(url.to_owned());
    let global = sealed("npm", CredentialScope::Global, 1);
    let one = sealed("npm", project("https://a/g"), 2);
    let other = sealed("npm", project("https://a"), 3);
    let all = [one.clone(), global.clone(), other.clone()];
    let put = |put: &[SealedCredential]| CredentialsChange {
        put: put.to_vec(),
        ..CredentialsChange::default()
    };
    store.change_credentials(put(&all)).await.unwrap();
    let expected = vec![global.clone(), other.clone(), one.clone()];
    assert_eq!(store.credentials().await, Ok(expected), "by scope and name");
    let rotated = [
        sealed("npm", CredentialScope::Global, 4),
        sealed("npm", project("https://a"), 5),
    ];
    store.change_credentials(put(&rotated)).await.unwrap();
    assert_eq!(store.past_credentials().await, Ok(Vec::new()));
    let past = |id: &str, ended_at_ms| PastCredential {
        id: id.to_owned(),
        ended_at_ms,
        sealed: one.clone(),
    };
    let ended = CredentialsChange {
        remove: vec![one.credential.key.clone()],
        put_past: vec![past("b", 1), past("a", 2)],
        ..CredentialsChange::default()
    };
    for _ in 0..2 {
        store
            .change_credentials(ended.clone())
            .await
            .expect("removing an unknown one is accepted");
        assert_eq!(store.credentials().await, Ok(rotated.to_vec()));
        let both = vec![past("a", 2), past("b", 1)];
        assert_eq!(store.past_credentials().await, Ok(both));
    }
    let change = CredentialsChange {
        put_past: vec![past("a", 3)],
        remove_past: vec!["b".to_owned(), "unknown".to_owned()],
        ..CredentialsChange::default()
    };
    store.change_credentials(change).await.unwrap();
    assert_eq!(store.past_credentials().await, Ok(vec![past("a", 3)]));
    assert_eq!(store.credentials().await, Ok(rotated.to_vec()));
}

async fn tokens(store: &dyn StorePort) {
    assert_eq!(store.tokens().await, Ok(Vec::new()));
    let token = |name: &str, last_used_at_ms| Token {
        name: name.parse().unwrap(),
        key: "00".to_owned(),
        hash: [7; 32],
        role: Role::Author,
        workspaces: vec![workspace(81, "scoped").id],
        created_at_ms: 1,
        expires_at_ms: Some(2),
        last_used_at_ms,
    };
    let all = [token("web", None), token("api", None)];
    store.put_tokens(&all).await.unwrap();
    store.put_tokens(&[token("web", Some(3))]).await.unwrap();
    let expected = vec![token("api", None), token("web", Some(3))];
    assert_eq!(store.tokens().await, Ok(expected), "by name");
    store.remove_token(&all[0].name).await.unwrap();
    let again = store.remove_token(&all[0].name).await;
    again.expect("removing an unknown one is accepted");
    assert_eq!(store.tokens().await, Ok(vec![token("api", None)]));
}

async fn last_uses(store: &dyn StorePort) {
    assert_eq!(store.last_uses().await, Ok(Vec::new()));
    let (api, web) = (workspace(71, "used-api"), workspace(72, "used-web"));
    for known in [&api, &web] {
        store.add_workspace(known).await.unwrap();
    }
    let uses = [(api.id.clone(), 5), (web.id.clone(), 6)];
    store.put_last_uses(&uses).await.unwrap();
    store.put_last_uses(&[(api.id.clone(), 7)]).await.unwrap();
    let expected = vec![(api.id.clone(), 7), (web.id.clone(), 6)];
    assert_eq!(store.last_uses().await, Ok(expected));
    store.remove_workspace(&api.id).await.unwrap();
    assert_eq!(store.last_uses().await, Ok(vec![(web.id.clone(), 6)]));
    store.remove_workspace(&web.id).await.unwrap();
}

async fn requests(store: &dyn StorePort) {
    let id = |name: &str| name.parse::<RequestId>().unwrap();
    let record = |at_ms: i64| RequestRecord {
        fingerprint: "f".repeat(64),
        outcome: RequestOutcome::Answered(vec![0, 255, 1]),
        at_ms,
    };
    let begun = |about: &str| RequestOutcome::Begun {
        id: uuid::Uuid::from_u128(7),
        about: about.to_owned(),
    };
    for outcome in [begun(""), begun("q1 +-"), RequestOutcome::Failed] {
        let record = RequestRecord {
            outcome,
            ..record(5)
        };
        store.put_request(&id("a"), &record).await.unwrap();
        assert_eq!(store.request(&id("a")).await, Ok(Some(record)));
    }
    store.put_request(&id("b"), &record(20)).await.unwrap();
    let begun = RequestRecord {
        outcome: begun("q2"),
        ..record(30)
    };
    store.put_request(&id("c"), &begun).await.unwrap();
    let mut entries = store.requests().await.unwrap();
    entries.sort_by(|a, b| a.id.cmp(&b.id));
    use RequestProgress::{Begun, Ended};
    let seen: Vec<_> = entries
        .iter()
        .map(|e| (e.id.as_str(), e.at_ms, e.progress))
        .collect();
    assert_eq!(seen, [("a", 5, Ended), ("b", 20, Ended), ("c", 30, Begun)]);
    assert!(entries[1].bytes >= 3, "its answer");
    // Remembered anew since it was listed.
    store.put_request(&id("b"), &record(21)).await.unwrap();
    store.forget_requests(&entries[..2]).await.unwrap();
    assert_eq!(store.request(&id("a")).await, Ok(None));
    assert_eq!(store.request(&id("b")).await, Ok(Some(record(21))));
    assert_eq!(store.request(&id("c")).await, Ok(Some(begun)));
    assert_eq!(store.forget_requests(&entries[..1]).await, Ok(()));
}
