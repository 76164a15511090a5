//! Mutating requests happen once, whatever the network does to their answers.

use compyd_proto::v1::{
    CreateWorkspaceRequest, DeleteWorkspaceRequest, ListSessionsRequest, ListWorkspacesRequest,
    SessionState, StopWorkspaceRequest,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::{Repository, sample_script},
    request_id,
    sessions::request,
};
use tonic::Code;
use tonic_types::StatusExt;

fn reason(status: &tonic::Status) -> String {
    let info = status.get_details_error_info();
    info.map_or_else(|| format!("no reason in {status:?}"), |info| info.reason)
}

#[tokio::test]
async fn a_create_that_is_sent_again_joins_or_replays_the_first() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let create = CreateWorkspaceRequest {
        request_id: request_id(),
        name: "once".to_owned(),
        ..Default::default()
    };
    // Ten at once: one workspace, ten equal answers.
    let calls = (0..10).map(|_| {
        let (mut client, create) = (daemon.workspaces(), create.clone());
        async move { client.create_workspace(create).await }
    });
    let answers = futures_util::future::join_all(calls).await;
    let ids: Vec<String> = answers
        .into_iter()
        .map(|answer| answer.unwrap().into_inner().workspace.unwrap().id)
        .collect();
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    // Later: the first answer.
    let later = daemon
        .workspaces()
        .create_workspace(create.clone())
        .await
        .unwrap();
    assert_eq!(later.into_inner().workspace.unwrap().id, ids[0]);
    // The same id for something else is a conflict, and does nothing.
    let other = CreateWorkspaceRequest {
        name: "twice".to_owned(),
        ..create.clone()
    };
    let refused = daemon
        .workspaces()
        .create_workspace(other)
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "REQUEST_CONFLICT", "{refused:?}");
    // A new id for a name that is there.
    let taken = CreateWorkspaceRequest {
        request_id: request_id(),
        ..create
    };
    let refused = daemon
        .workspaces()
        .create_workspace(taken)
        .await
        .unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused).as_str()),
        (Code::AlreadyExists, "NAME_TAKEN")
    );
    let list = daemon
        .workspaces()
        .list_workspaces(ListWorkspacesRequest {})
        .await
        .unwrap();
    assert_eq!(list.into_inner().workspaces.len(), 1);
    let engine = daemon.engine().await;
    assert_eq!(engine.containers(Some(daemon.run_name())).await.len(), 1);

    let delete = DeleteWorkspaceRequest {
        request_id: request_id(),
        workspace: "once".to_owned(),
        force: false,
    };
    for _ in 0..2 {
        daemon
            .workspaces()
            .delete_workspace(delete.clone())
            .await
            .unwrap();
    }
    assert_eq!(engine.containers(Some(daemon.run_name())).await, []);
    assert!(engine.workspace_volumes(daemon.run_name()).await.is_empty());
}

#[tokio::test]
async fn a_start_that_is_sent_again_starts_no_second_session() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    let model = format!("scripted:{}", sample_script().display());
    let start = request("w", &model);
    let calls = (0..5).map(|_| daemon.start_session(start.clone()));
    let ids = futures_util::future::join_all(calls).await;
    assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    let mut other = start.clone();
    other.task.push('!');
    let refused = daemon.sessions().start_session(other).await.unwrap_err();
    assert_eq!(reason(&refused), "REQUEST_CONFLICT");
    // Another session on the same repository has to wait for its turn.
    let refused = daemon
        .sessions()
        .start_session(request("w", &model))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "SESSION_ACTIVE");
    assert_eq!(daemon.rested(&ids[0]).await.state(), SessionState::Verified);
    let list = daemon
        .sessions()
        .list_sessions(ListSessionsRequest::default())
        .await
        .unwrap();
    assert_eq!(list.into_inner().sessions.len(), 1);
}

#[tokio::test]
async fn a_request_without_a_usable_id_is_refused() {
    let daemon = Daemon::start_bare(Options::default()).await;
    for bad in [String::new(), "a b".to_owned(), "x".repeat(129)] {
        let create = CreateWorkspaceRequest {
            request_id: bad,
            name: "w".to_owned(),
            ..Default::default()
        };
        let refused = daemon
            .workspaces()
            .create_workspace(create)
            .await
            .unwrap_err();
        assert_eq!(reason(&refused), "REQUEST_ID_INVALID");
    }
}

#[tokio::test]
async fn a_retry_gets_its_answer_whoever_has_the_name_by_then() {
    let Some(daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    let first = daemon.workspace("w", &[]).await;
    let stop = StopWorkspaceRequest {
        request_id: request_id(),
        workspace: "w".to_owned(),
    };
    let stopped = async || {
        let answer = daemon.workspaces().stop_workspace(stop.clone()).await;
        answer.map(|answer| answer.into_inner().workspace.unwrap())
    };
    let answer = stopped().await.unwrap();
    assert_eq!(answer.id, first.id);
    let delete = ["workspace", "delete", "w", "--yes"];
    let _ = daemon.compyctl(&delete).await.expect_code(0);
    assert_eq!(stopped().await.unwrap(), answer, "the name is nobody's");
    let second = daemon.workspace("w", &[]).await;
    assert_eq!(stopped().await.unwrap(), answer, "the name is another's");
    let now = daemon.workspace_now("w").await;
    assert_eq!((now.id, now.state), (second.id, second.state));
}
