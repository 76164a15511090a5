//! `compy.v1.SnapshotService`: decode, call the service, encode.

use std::io;

use bytes::Bytes;
use compyd_proto::v1::{
    self as wire, import_snapshot_request::Part as ImportPart,
    snapshot_service_server::SnapshotService,
};
use futures_util::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Request, Response, Status, Streaming};

use super::{
    convert::{diff, snapshot as convert, workspace, workspace_error},
    requests::{Begun, Requests},
    status::{internal, invalid, invalid_id},
};
use crate::{
    domain::{
        egress::Policy,
        idle::IdleStop,
        ids::{OperationId, SnapshotId, WorkspaceId},
        snapshot::{SnapshotReason, retention::Retention},
        workspace::Purpose,
    },
    ports::chunks::PruneMode,
    service::{
        snapshots::{
            Before, DiffRequest, DiffTo, Fork, ForkFrom, Prune, Restore, RunningSessions,
            Snapshots, SnapshotsError, archive::Archives,
        },
        workspaces::Workspaces,
    },
};

/// The service on the wire.
#[derive(Clone)]
pub struct SnapshotApi {
    snapshots: Snapshots,
    archives: Archives,
    workspaces: Workspaces,
    requests: Requests,
    tasks: TaskTracker,
}

impl SnapshotApi {
    /// Answers with `snapshots`; names are those of `workspaces`. What has to
    /// come to its end without its client runs on `tasks`.
    #[must_use]
    pub fn new(
        snapshots: Snapshots,
        archives: Archives,
        workspaces: Workspaces,
        requests: Requests,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            snapshots,
            archives,
            workspaces,
            requests,
            tasks,
        }
    }

    fn resolve(&self, name_or_id: &str) -> Result<WorkspaceId, Status> {
        let found = self.workspaces.resolve(name_or_id);
        found
            .map(|workspace| workspace.id.clone())
            .map_err(|error| workspace_error::error(&error))
    }

    /// The same where a workspace that is gone will do: snapshots outlive it,
    /// and its id still names them.
    fn resolve_past(&self, name_or_id: &str) -> Result<WorkspaceId, Status> {
        match (self.resolve(name_or_id), name_or_id.parse()) {
            (Ok(id), _) | (Err(_), Ok(id)) => Ok(id),
            (Err(status), Err(_)) => Err(status),
        }
    }

    /// The workspace that a request was about when it began. A daemon that wrote
    /// nothing down of that looked the name up at each retry.
    fn begun_with(&self, begun: &Begun, name_or_id: &str) -> Result<WorkspaceId, Status> {
        match begun.about.as_str() {
            "" => self.resolve(name_or_id),
            id => (id.parse::<WorkspaceId>()).map_err(|error| internal(&error)),
        }
    }

    /// What a request for a fork means now.
    fn origin(&self, snapshot: Option<SnapshotId>, workspace: &str) -> Result<ForkFrom, Status> {
        match (snapshot, workspace) {
            (None, workspace) => self.resolve(workspace).map(ForkFrom::Now),
            (Some(snapshot), "") => Ok(ForkFrom::Snapshot(snapshot)),
            (Some(snapshot), workspace) => {
                self.resolve_past(workspace)?;
                Ok(ForkFrom::Snapshot(snapshot))
            }
        }
    }
}

fn refused(error: impl Into<SnapshotsError>) -> Status {
    convert::error(&error.into())
}

#[tonic::async_trait]
impl SnapshotService for SnapshotApi {
    async fn create_snapshot(
        &self,
        request: Request<wire::CreateSnapshotRequest>,
    ) -> Result<Response<wire::CreateSnapshotResponse>, Status> {
        let request = request.into_inner();
        let label = convert::label(&request.label)?;
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        // By the time of a retry another workspace may have the name.
        let about = async move { api.resolve(&name_or_id).map(|id| id.to_string()) };
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move |begun: Begun| async move {
            let id = api.begun_with(&begun, &name_or_id)?;
            let new = SnapshotId::from_uuid(begun.id);
            let taken = api
                .snapshots
                .take_as(new, &id, label, SnapshotReason::Manual)
                .await;
            Ok(wire::CreateSnapshotResponse {
                snapshot: Some(convert::snapshot(&taken.map_err(refused)?)),
            })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_bound("CreateSnapshot", id, &request, about, work);
        answer.await.map(Response::new)
    }

    async fn get_snapshot(
        &self,
        request: Request<wire::GetSnapshotRequest>,
    ) -> Result<Response<wire::GetSnapshotResponse>, Status> {
        let id = convert::id(&request.get_ref().snapshot)?;
        let found = [self.snapshots.get(&id).await.map_err(refused)?];
        let missing = self.snapshots.without_image(&found).await;
        Ok(Response::new(wire::GetSnapshotResponse {
            snapshot: convert::snapshots(&found, &missing).pop(),
        }))
    }

    async fn list_snapshots(
        &self,
        request: Request<wire::ListSnapshotsRequest>,
    ) -> Result<Response<wire::ListSnapshotsResponse>, Status> {
        let id = self.resolve_past(&request.get_ref().workspace)?;
        let snapshots = self.snapshots.list(&id).await.map_err(refused)?;
        let missing = self.snapshots.without_image(&snapshots).await;
        Ok(Response::new(wire::ListSnapshotsResponse {
            snapshots: convert::snapshots(&snapshots, &missing),
        }))
    }

    async fn label_snapshot(
        &self,
        request: Request<wire::LabelSnapshotRequest>,
    ) -> Result<Response<wire::LabelSnapshotResponse>, Status> {
        let request = request.into_inner();
        let id = convert::id(&request.snapshot)?;
        let label = convert::label(&request.label)?;
        let snapshots = self.snapshots.clone();
        let work = move || async move {
            let labelled = snapshots.label(&id, label).await.map_err(refused)?;
            Ok(wire::LabelSnapshotResponse {
                snapshot: Some(convert::snapshot(&labelled)),
            })
        };
        let method = "LabelSnapshot";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn delete_snapshot(
        &self,
        request: Request<wire::DeleteSnapshotRequest>,
    ) -> Result<Response<wire::DeleteSnapshotResponse>, Status> {
        let request = request.into_inner();
        let id = convert::id(&request.snapshot)?;
        let snapshots = self.snapshots.clone();
        let work = move |begun: Begun| async move {
            match snapshots.delete(&id).await {
                // The daemon ended right after the deletion.
                Err(SnapshotsError::Unknown(_)) if begun.before => {}
                deleted => deleted.map_err(refused)?,
            }
            Ok(wire::DeleteSnapshotResponse {})
        };
        let method = "DeleteSnapshot";
        let answer = self
            .requests
            .once_begun(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn restore_workspace(
        &self,
        request: Request<wire::RestoreWorkspaceRequest>,
    ) -> Result<Response<wire::RestoreWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let snapshot = convert::id(&request.snapshot)?;
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        // By the time of a retry another workspace may have the name.
        let about = async move { api.resolve(&name_or_id).map(|id| id.to_string()) };
        let (api, of) = (self.clone(), request.clone());
        let work = move |begun: Begun| async move {
            let what = Restore {
                workspace: api.begun_with(&begun, &of.workspace)?,
                snapshot,
                before: match of.no_backup {
                    true => Before::Discard(OperationId::from_uuid(begun.id)),
                    false => Before::Snapshot(SnapshotId::from_uuid(begun.id)),
                },
                sessions: match of.force {
                    true => RunningSessions::Cancel,
                    false => RunningSessions::Refuse,
                },
            };
            let restored = api.snapshots.restore(what).await.map_err(refused)?;
            Ok(wire::RestoreWorkspaceResponse {
                workspace: Some(workspace::view(&restored.view)),
                backup_id: (restored.backup).map_or_else(String::new, |id| id.to_string()),
            })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_bound("RestoreWorkspace", id, &request, about, work);
        answer.await.map(Response::new)
    }

    async fn fork_workspace(
        &self,
        request: Request<wire::ForkWorkspaceRequest>,
    ) -> Result<Response<wire::ForkWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let name = (request.name.parse()).map_err(|error| invalid_id("NAME_INVALID", &error))?;
        let snapshot = match request.snapshot.as_str() {
            "" => None,
            id => Some(convert::id(id)?),
        };
        let (api, of, named) = (self.clone(), request.workspace.clone(), snapshot.clone());
        // By the time of a retry another workspace may have the name, or none.
        let about = async move {
            Ok(match api.origin(named, &of)? {
                ForkFrom::Now(workspace) => workspace.to_string(),
                ForkFrom::Snapshot(snapshot) => snapshot.to_string(),
            })
        };
        let (api, of) = (self.clone(), request.workspace.clone());
        let work = move |begun: Begun| async move {
            let from = match snapshot {
                Some(snapshot) if !begun.about.is_empty() => ForkFrom::Snapshot(snapshot),
                None => ForkFrom::Now(api.begun_with(&begun, &of)?),
                // Begun by a daemon that wrote nothing down of it.
                Some(snapshot) => api.origin(Some(snapshot), &of)?,
            };
            // What a workspace may reach is not of its files: it begins closed.
            let what = Fork {
                id: WorkspaceId::from_uuid(begun.id),
                from,
                name,
                new_snapshot: SnapshotId::from_uuid(begun.id),
                purpose: Purpose::Project,
                egress: Policy::None,
                idle_stop: IdleStop::default(),
            };
            let view = api.snapshots.fork(what).await.map_err(refused)?;
            Ok(wire::ForkWorkspaceResponse {
                workspace: Some(workspace::view(&view)),
            })
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_bound("ForkWorkspace", id, &request, about, work);
        answer.await.map(Response::new)
    }

    async fn prune_snapshots(
        &self,
        request: Request<wire::PruneSnapshotsRequest>,
    ) -> Result<Response<wire::PruneSnapshotsResponse>, Status> {
        let request = request.into_inner();
        let older_than_ms = (request.older_than_seconds)
            .saturating_mul(1_000)
            .try_into()
            .unwrap_or(i64::MAX);
        let mode = match request.dry_run {
            true => PruneMode::Measure,
            false => PruneMode::Remove,
        };
        let (api, of) = (self.clone(), request.clone());
        let work = move || async move {
            let retention = Retention {
                workspace: match of.workspace.as_str() {
                    "" => None,
                    given => Some(api.resolve_past(given)?),
                },
                keep_last: (of.keep_last > 0).then_some(of.keep_last),
                older_than_ms: (older_than_ms > 0).then_some(older_than_ms),
            };
            let what = Prune {
                retention,
                ..Prune::everything(mode)
            };
            let report = api.snapshots.prune(what).await.map_err(refused)?;
            Ok(convert::pruned(&report))
        };
        let method = "PruneSnapshots";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    type DiffWorkspaceStream = BoxStream<'static, Result<wire::DiffWorkspaceResponse, Status>>;

    async fn diff_workspace(
        &self,
        request: Request<wire::DiffWorkspaceRequest>,
    ) -> Result<Response<Self::DiffWorkspaceStream>, Status> {
        let request = request.get_ref();
        let what = DiffRequest {
            from: convert::id(&request.from)?,
            to: match request.to.as_str() {
                "" => DiffTo::Now(self.resolve(&request.workspace)?),
                snapshot => DiffTo::Snapshot(convert::id(snapshot)?),
            },
        };
        let snapshots = self.snapshots.clone();
        let gone = CancellationToken::new();
        let _answered = gone.clone().drop_guard();
        // On cancel: it stops looking and comes to its end, as it may have a
        // container to remove. On error: told to the client.
        let looking = (self.tasks).spawn(async move { snapshots.diff(what, &gone).await });
        let diff = looking.await.map_err(|error| internal(&error))?;
        let messages = diff::messages(diff.map_err(refused)?);
        Ok(Response::new(stream::iter(messages).map(Ok).boxed()))
    }

    type ExportSnapshotStream = BoxStream<'static, Result<wire::ExportSnapshotResponse, Status>>;

    async fn export_snapshot(
        &self,
        request: Request<wire::ExportSnapshotRequest>,
    ) -> Result<Response<Self::ExportSnapshotStream>, Status> {
        let id = convert::id(&request.get_ref().snapshot)?;
        let archive = self.archives.export(&id).await.map_err(refused)?;
        let pieces = archive.map(|piece| match piece {
            Ok(data) => Ok(wire::ExportSnapshotResponse { data }),
            Err(error) => Err(refused(error)),
        });
        Ok(Response::new(pieces.boxed()))
    }

    async fn import_snapshot(
        &self,
        request: Request<Streaming<wire::ImportSnapshotRequest>>,
    ) -> Result<Response<wire::ImportSnapshotResponse>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(ImportPart::Start(start)) = first else {
            return Err(invalid(
                "STREAM_INVALID",
                "the first message is not a start",
                "send a start, then data",
            ));
        };
        let archives = self.archives.clone();
        // A client that breaks off ends the work, which then leaves nothing.
        let work = move || async move {
            let imported = archives.import(archive(parts)).await.map_err(refused)?;
            Ok(wire::ImportSnapshotResponse {
                snapshot: Some(convert::snapshot(&imported.snapshot)),
                already: imported.already,
            })
        };
        let method = "ImportSnapshot";
        let answer = self.requests.once(method, &start.request_id, &start, work);
        answer.await.map(Response::new)
    }
}

/// The bytes of an archive as a client sends them.
fn archive(parts: Streaming<wire::ImportSnapshotRequest>) -> BoxStream<'static, io::Result<Bytes>> {
    parts
        .map(|message| match message {
            Ok(wire::ImportSnapshotRequest {
                part: Some(ImportPart::Data(data)),
            }) => Ok(data),
            Ok(_) => Err(io::Error::other(
                "the client sent a message that is no data",
            )),
            Err(_) => Err(io::Error::other("the client broke off")),
        })
        .boxed()
}

#[cfg(test)]
mod tests;
