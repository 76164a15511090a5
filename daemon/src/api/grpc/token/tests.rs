//! Requests that are made again after they were cut off by a store that failed.

use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    adapters::memory::{ManualClock, MemoryLinks, MemoryRuntime, MemoryStore},
    api::grpc::status::reason,
    domain::{
        access::Role,
        ids::RequestId,
        workspace::{Desired, Workspace},
    },
    ports::{
        contract,
        store::{RequestOutcome, StorePort as _},
    },
    service::workspaces::{WorkspacePorts, WorkspacesOptions},
};

struct Bench {
    store: Arc<MemoryStore>,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Self {
        Self {
            store: Arc::new(MemoryStore::new()),
            clock: Arc::new(ManualClock::default()),
        }
    }

    /// The next life of the daemon, with what is in the store.
    async fn api(&self) -> AccessApi {
        let runtime = Arc::new(MemoryRuntime::with_image("image"));
        let ports = WorkspacePorts {
            store: self.store.clone(),
            runtime: runtime.clone(),
            links: Arc::new(MemoryLinks::new(runtime)),
            clock: self.clock.clone(),
        };
        let tasks = TaskTracker::new();
        let options = WorkspacesOptions::default();
        let workspaces = Workspaces::open(options, ports, tasks.clone()).await;
        let tokens = Tokens::open(self.store.clone(), self.clock.clone()).await;
        AccessApi::new(
            tokens.unwrap(),
            workspaces.unwrap(),
            self.clock.clone(),
            Requests::new(self.store.clone(), self.clock.clone(), tasks),
        )
    }

    /// Makes the record of a workspace named `a`.
    async fn workspace(&self, number: u128) -> WorkspaceId {
        let record = Workspace {
            desired: Desired::Stopped,
            ..contract::store::workspace(number, "a")
        };
        self.store.add_workspace(&record).await.unwrap();
        record.id
    }

    /// Takes the answer of a request back, as the end of the daemon right before it
    /// was written down.
    async fn lose_answer(&self, request_id: &str, about: &str) {
        let id: RequestId = request_id.parse().unwrap();
        let mut record = self.store.request(&id).await.unwrap().unwrap();
        record.outcome = RequestOutcome::Begun {
            id: uuid::Uuid::from_u128(7),
            about: about.to_owned(),
        };
        self.store.put_request(&id, &record).await.unwrap();
    }
}

async fn create(
    api: &AccessApi,
    request_id: &str,
    workspaces: &[&str],
) -> Result<wire::Token, Status> {
    let request = wire::CreateTokenRequest {
        request_id: request_id.to_owned(),
        name: "ci".to_owned(),
        role: role_on_wire(Role::Author).into(),
        workspaces: workspaces.iter().map(ToString::to_string).collect(),
        expires_in_ms: 0,
    };
    let created = api.create_token(Request::new(request)).await?;
    Ok(created.into_inner().token.unwrap())
}

async fn revoke(api: &AccessApi) -> Result<(), Status> {
    let request = wire::RevokeTokenRequest {
        request_id: "revoke".to_owned(),
        name: "ci".to_owned(),
    };
    api.revoke_token(Request::new(request)).await.map(drop)
}

#[tokio::test]
async fn a_revocation_that_was_cut_off_revokes_no_later_token_of_the_name() {
    let bench = Bench::new();
    let api = bench.api().await;
    create(&api, "first", &[]).await.unwrap();
    let key = api.tokens.key_of(&"ci".parse().unwrap()).unwrap();
    revoke(&api).await.unwrap();
    create(&api, "second", &[]).await.unwrap();
    bench.lose_answer("revoke", &key).await;
    revoke(&bench.api().await).await.unwrap();
    assert_eq!(bench.store.tokens().await.unwrap().len(), 1);

    // An older daemon wrote nothing down of which it was.
    bench.lose_answer("revoke", "").await;
    revoke(&bench.api().await).await.unwrap();
    assert_eq!(bench.store.tokens().await.unwrap(), []);
    bench.lose_answer("revoke", "").await;
    revoke(&bench.api().await).await.unwrap();
}

#[tokio::test]
async fn a_revocation_is_bound_to_the_token_that_has_the_name() {
    let bench = Bench::new();
    let api = bench.api().await;
    assert_eq!(reason(&revoke(&api).await.unwrap_err()), "TOKEN_UNKNOWN");
    create(&api, "first", &[]).await.unwrap();
    revoke(&api).await.unwrap();
    create(&api, "second", &[]).await.unwrap();
    // The answer of the first call.
    revoke(&api).await.unwrap();
    assert_eq!(api.tokens.list().len(), 1);
}

#[tokio::test]
async fn a_token_that_is_made_again_is_for_the_workspaces_that_the_first_call_named() {
    let bench = Bench::new();
    let first = bench.workspace(1).await;
    let api = bench.api().await;
    let made = create(&api, "make", &["a"]).await.unwrap();
    assert_eq!(made.workspace_ids, [first.to_string()]);
    // Made, and not known to be: the name is another's by now.
    api.tokens.revoke(&"ci".parse().unwrap()).await.unwrap();
    bench.store.remove_workspace(&first).await.unwrap();
    let second = bench.workspace(2).await;
    bench.lose_answer("make", first.as_str()).await;
    let api = bench.api().await;
    let again = create(&api, "make", &["a"]).await.unwrap();
    assert_eq!(again.workspace_ids, [first.to_string()]);

    // An older daemon wrote nothing down of which they were.
    bench.lose_answer("make", "").await;
    let again = create(&bench.api().await, "make", &["a"]).await.unwrap();
    assert_eq!(again.workspace_ids, [second.to_string()]);
}

#[tokio::test]
async fn a_token_that_was_made_is_told_of_also_when_its_workspace_is_gone() {
    let bench = Bench::new();
    let gone = bench.workspace(1).await;
    let api = bench.api().await;
    let made = create(&api, "make", &["a"]).await.unwrap();
    api.workspaces.delete(&gone, false).await.unwrap();
    assert_eq!(create(&api, "make", &["a"]).await.unwrap(), made);
    let other = create(&api, "other", &["a"]).await.unwrap_err();
    assert_eq!(reason(&other), "WORKSPACE_UNKNOWN");
}

#[test]
fn workspaces_are_read_as_they_were_listed() {
    let ids = [1, 2].map(|number| WorkspaceId::from_uuid(uuid::Uuid::from_u128(number)));
    assert_eq!(unlisted(&listed(&ids)).unwrap(), ids);
    assert_eq!(unlisted(&listed(&ids[..1])).unwrap(), ids[..1]);
    assert_eq!(listed(&[]), "", "all workspaces");
    assert!(unlisted(",").is_err());
}
