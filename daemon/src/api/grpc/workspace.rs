//! `compy.v1.WorkspaceService`: decode, call the service, encode.

use std::{future::Future as _, pin::Pin, time::Duration};

use bytes::Bytes;
use compyd_proto::pipe::{Piece as _, Pipe};
use compyd_proto::v1::{
    self as wire, add_repository_request::Part as AddPart, exec_request::Part as ExecPart,
    port_forward_request::Part as ForwardPart, upload_request::Part as UploadPart,
    workspace_service_server::WorkspaceService,
};
use futures_util::{Stream, StreamExt as _, stream, stream::BoxStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Request, Response, Status, Streaming};

use super::{
    access::{asker_of, scope_of},
    convert::{exec, workspace as convert, workspace_error},
    requests::{Begun, Requests},
    shutdown::until,
    status::{Retry, invalid, invalid_id, refusal},
};
use crate::{
    domain::{
        exec::SignalTarget,
        ids::{ExecId, WorkspaceId},
    },
    service::egress::Egress,
    service::policies::Policies,
    service::workspaces::{
        AddRepository, Follow, OverLimit, RepositoryOrigin, SetupChoice, Workspaces,
        WorkspacesError,
    },
};

type ServerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service on the wire.
#[derive(Clone)]
pub struct WorkspaceApi {
    workspaces: Workspaces,
    egress: Egress,
    policies: Policies,
    requests: Requests,
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl WorkspaceApi {
    /// Answers with `workspaces` and their `egress`, and runs no command that the
    /// rules of `policies` deny; what feeds a command's
    /// input and what carries a forwarded port runs on `tasks`. What has no end
    /// of its own ends with `stop`.
    #[must_use]
    pub fn new(
        workspaces: Workspaces,
        egress: Egress,
        policies: Policies,
        requests: Requests,
        tasks: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        Self {
            workspaces,
            egress,
            policies,
            requests,
            tasks,
            stop,
        }
    }

    /// The workspace of a name. Where a request is remembered this is a part of
    /// its work, so that a retry finds the answer of the first call, whatever
    /// has the name by then.
    fn resolve(&self, name_or_id: &str) -> Result<WorkspaceId, Status> {
        let found = self.workspaces.resolve(name_or_id);
        found.map(|w| w.id.clone()).map_err(refused)
    }
}

fn refused(error: impl Into<WorkspacesError>) -> Status {
    workspace_error::error(&error.into())
}

/// A command that a rule denies to everybody.
fn denied_by_rule(why: &str) -> Status {
    refusal(
        Code::PermissionDenied,
        "POLICY_DENIED",
        format!("the policy lets nobody run that in a workspace: {why}"),
        "do it another way, or change the rule; `compyctl policy explain` says what the rules say",
        Retry::No,
    )
}

/// A client stream that does not begin as the contract says.
fn wrong_first(expected: &str) -> Status {
    invalid(
        "STREAM_INVALID",
        format!("the first message must be {expected}"),
        "send it first, once, and then the rest",
    )
}

#[tonic::async_trait]
impl WorkspaceService for WorkspaceApi {
    async fn create_workspace(
        &self,
        request: Request<wire::CreateWorkspaceRequest>,
    ) -> Result<Response<wire::CreateWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let create = convert::create(&request)?;
        let workspaces = self.workspaces.clone();
        let work = move |begun: Begun| async move {
            let create = create(WorkspaceId::from_uuid(begun.id));
            let view = workspaces.create(create).await.map_err(refused)?;
            Ok(wire::CreateWorkspaceResponse {
                workspace: Some(convert::view(&view)),
            })
        };
        let method = "CreateWorkspace";
        let answer = self
            .requests
            .once_begun(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn get_workspace(
        &self,
        request: Request<wire::GetWorkspaceRequest>,
    ) -> Result<Response<wire::GetWorkspaceResponse>, Status> {
        let id = self.resolve(&request.get_ref().workspace)?;
        let view = self.workspaces.get(&id).await.map_err(refused)?;
        Ok(Response::new(wire::GetWorkspaceResponse {
            workspace: Some(convert::view(&view)),
        }))
    }

    async fn list_workspaces(
        &self,
        request: Request<wire::ListWorkspacesRequest>,
    ) -> Result<Response<wire::ListWorkspacesResponse>, Status> {
        let scope = scope_of(&request);
        let mut views = self.workspaces.list().await;
        views.retain(|view| scope.holds(&view.workspace.id));
        Ok(Response::new(wire::ListWorkspacesResponse {
            workspaces: views.iter().map(convert::view).collect(),
        }))
    }

    async fn start_workspace(
        &self,
        request: Request<wire::StartWorkspaceRequest>,
    ) -> Result<Response<wire::StartWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move || async move {
            let id = api.resolve(&name_or_id)?;
            let view = api.workspaces.start(&id).await.map_err(refused)?;
            Ok(wire::StartWorkspaceResponse {
                workspace: Some(convert::view(&view)),
            })
        };
        let method = "StartWorkspace";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn stop_workspace(
        &self,
        request: Request<wire::StopWorkspaceRequest>,
    ) -> Result<Response<wire::StopWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move || async move {
            let id = api.resolve(&name_or_id)?;
            let view = api.workspaces.stop(&id).await.map_err(refused)?;
            Ok(wire::StopWorkspaceResponse {
                workspace: Some(convert::view(&view)),
            })
        };
        let method = "StopWorkspace";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn pause_workspace(
        &self,
        request: Request<wire::PauseWorkspaceRequest>,
    ) -> Result<Response<wire::PauseWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move || async move {
            let id = api.resolve(&name_or_id)?;
            let view = api.workspaces.pause(&id).await.map_err(refused)?;
            Ok(wire::PauseWorkspaceResponse {
                workspace: Some(convert::view(&view)),
            })
        };
        let method = "PauseWorkspace";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn resume_workspace(
        &self,
        request: Request<wire::ResumeWorkspaceRequest>,
    ) -> Result<Response<wire::ResumeWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move || async move {
            let id = api.resolve(&name_or_id)?;
            let view = api.workspaces.resume(&id).await.map_err(refused)?;
            Ok(wire::ResumeWorkspaceResponse {
                workspace: Some(convert::view(&view)),
            })
        };
        let method = "ResumeWorkspace";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn update_workspace(
        &self,
        request: Request<wire::UpdateWorkspaceRequest>,
    ) -> Result<Response<wire::UpdateWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let update = convert::update(&request)?;
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move || async move {
            let id = api.resolve(&name_or_id)?;
            let view = api.workspaces.update(&id, update).await.map_err(refused)?;
            Ok(wire::UpdateWorkspaceResponse {
                workspace: Some(convert::view(&view)),
            })
        };
        let method = "UpdateWorkspace";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn delete_workspace(
        &self,
        request: Request<wire::DeleteWorkspaceRequest>,
    ) -> Result<Response<wire::DeleteWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let (workspaces, force) = (self.workspaces.clone(), request.force);
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        // By the time of a retry another workspace may have the name.
        let about = async move { api.resolve(&name_or_id).map(|id| id.to_string()) };
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move |begun: Begun| async move {
            let id: WorkspaceId = match begun.about.as_str() {
                // Begun by a daemon that wrote nothing down of it.
                "" => match api.resolve(&name_or_id) {
                    Err(_) if begun.before => return Ok(wire::DeleteWorkspaceResponse {}),
                    found => found?,
                },
                id => (id.parse::<WorkspaceId>())
                    .map_err(|error| invalid_id("WORKSPACE_UNKNOWN", &error))?,
            };
            match workspaces.delete(&id, force).await {
                // The daemon ended right after the deletion, or the reconciler
                // finished it once the engine was back.
                Err(WorkspacesError::Unknown(_)) if begun.before => {}
                deleted => deleted.map_err(refused)?,
            }
            Ok(wire::DeleteWorkspaceResponse {})
        };
        let id = &request.request_id;
        let answer = self
            .requests
            .once_bound("DeleteWorkspace", id, &request, about, work);
        answer.await.map(Response::new)
    }

    async fn add_repository(
        &self,
        request: Request<Streaming<wire::AddRepositoryRequest>>,
    ) -> Result<Response<wire::AddRepositoryResponse>, Status> {
        let asker = asker_of(&request);
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(AddPart::Start(start)) = first else {
            return Err(wrong_first("a start"));
        };
        let name = match start.name.as_str() {
            "" => None,
            name => Some(
                name.parse()
                    .map_err(|error| invalid_id("NAME_INVALID", &error))?,
            ),
        };
        let origin = if start.url.is_empty() {
            RepositoryOrigin::Stream {
                source: start.bundle_source.chars().take(1024).collect(),
                bundle: bundle(parts),
            }
        } else {
            RepositoryOrigin::Url(start.url.clone())
        };
        let add = AddRepository {
            key: start.request_id.clone(),
            asker,
            name,
            reference: (!start.reference.is_empty()).then(|| start.reference.clone()),
            setup: match start.no_setup {
                true => SetupChoice::Skip,
                false => SetupChoice::OwnFile,
            },
            origin,
        };
        let (api, name_or_id) = (self.clone(), start.workspace.clone());
        let work = move || async move {
            let (id, workspaces) = (api.resolve(&name_or_id)?, &api.workspaces);
            let admitted = workspaces.admit(&id, None, OverLimit::Refused).await;
            admitted.map_err(refused)?;
            let _in_use = workspaces.use_of(&id);
            let added = workspaces.add_repository(&id, add).await.map_err(refused)?;
            Ok(wire::AddRepositoryResponse {
                repository: Some(convert::repository(&added.repository)),
                notes: added.notes,
            })
        };
        let method = "AddRepository";
        let answer = self.requests.once(method, &start.request_id, &start, work);
        answer.await.map(Response::new)
    }

    type ExecStream = ServerStream<wire::ExecResponse>;

    async fn exec(
        &self,
        request: Request<Streaming<wire::ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let mut over_limit = OverLimit::Refused;
        let (name_or_id, follow) = match first {
            Some(ExecPart::Start(start)) => {
                if start.over_limit {
                    over_limit = OverLimit::Allowed;
                }
                (start.workspace.clone(), exec::start(start)?)
            }
            Some(ExecPart::Attach(attach)) => {
                let follow = exec::attach(&attach)?;
                (attach.workspace, follow)
            }
            Some(ExecPart::Input(_) | ExecPart::Resize(_) | ExecPart::Signal(_)) | None => {
                return Err(wrong_first("a start or an attach"));
            }
        };
        let workspace = self.resolve(&name_or_id)?;
        let exec = match &follow {
            Follow::Run(exec, _) | Follow::Attach(exec, ..) => exec.clone(),
        };
        if let Follow::Run(_, spec) = &follow {
            if let Some(why) = self.policies.refuses(&spec.argv, spec.cwd.as_deref()) {
                return Err(denied_by_rule(&why));
            }
            let admitted = self.workspaces.admit(&workspace, Some(&exec), over_limit);
            admitted.await.map_err(refused)?;
        }
        let events = self.workspaces.follow(&workspace, follow).await;
        let mut events = events.map_err(refused)?;
        // There is a command once it is attached to: what feeds it must not
        // come to the agent before what starts it.
        let attached = match events.next().await {
            Some(Ok(attached)) => attached,
            Some(Err(error)) => return Err(refused(error)),
            None => {
                return Err(Status::internal(
                    "the command ended before it was attached to",
                ));
            }
        };

        // The feeder lives as long as the answer: a client that goes away
        // detaches, and standard input stays open for the next one.
        let gone = CancellationToken::new();
        let feeder = Feeder {
            workspaces: self.workspaces.clone(),
            workspace,
            exec,
        };
        let (gone_for_feeder, guard) = (gone.clone(), gone.drop_guard());
        let (tell, mut told) = tokio::sync::oneshot::channel();
        // On cancel: dropped between two messages. On error: tells the client.
        self.tasks.spawn(async move {
            let feeding = gone_for_feeder.run_until_cancelled(feeder.run(parts));
            if let Some(Err(status)) = feeding.await {
                // The client has gone when nobody listens.
                let _ = tell.send(status);
            }
        });
        let mut events = stream::iter([Ok(attached)]).chain(events);
        let mut guard = Some(guard);
        let mut feeding = true;
        let answers = stream::poll_fn(move |cx| {
            use std::task::Poll;
            if guard.is_none() {
                return Poll::Ready(None);
            }
            if feeding {
                match Pin::new(&mut told).poll(cx) {
                    Poll::Ready(Ok(status)) => {
                        guard = None;
                        return Poll::Ready(Some(Err(status)));
                    }
                    Poll::Ready(Err(_)) => feeding = false,
                    Poll::Pending => {}
                }
            }
            let event = std::task::ready!(events.poll_next_unpin(cx));
            if !matches!(event, Some(Ok(_))) {
                guard = None;
            }
            Poll::Ready(event.map(|event| event.map(exec::event).map_err(refused)))
        });
        Ok(Response::new(until(&self.stop, answers)))
    }

    async fn get_exec(
        &self,
        request: Request<wire::GetExecRequest>,
    ) -> Result<Response<wire::GetExecResponse>, Status> {
        let request = request.into_inner();
        let id = self.resolve(&request.workspace)?;
        let exec_id = exec::id(&request.exec_id)?;
        let exec = self.workspaces.exec(&id, &exec_id).await.map_err(refused)?;
        Ok(Response::new(wire::GetExecResponse {
            exec: Some(exec::info(exec)),
        }))
    }

    async fn list_execs(
        &self,
        request: Request<wire::ListExecsRequest>,
    ) -> Result<Response<wire::ListExecsResponse>, Status> {
        let request = request.into_inner();
        let id = self.resolve(&request.workspace)?;
        let agent = self.workspaces.agent(&id).await.map_err(refused)?;
        let execs = agent.list(request.running_only).await.map_err(refused)?;
        Ok(Response::new(wire::ListExecsResponse {
            execs: execs.into_iter().map(exec::info).collect(),
        }))
    }

    async fn signal_exec(
        &self,
        request: Request<wire::SignalExecRequest>,
    ) -> Result<Response<wire::SignalExecResponse>, Status> {
        let request = request.into_inner();
        let exec = exec::id(&request.exec_id)?;
        let target = exec::signal(request.what)?;
        // The agent knows a request again that was cut off after the signal.
        let step = exec::step_id(&request.request_id)?;
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move || async move {
            let id = api.resolve(&name_or_id)?;
            let agent = api.workspaces.agent(&id).await.map_err(refused)?;
            let signalled = agent.signal(&exec, Some(&step), target).await;
            signalled.map_err(refused)?;
            Ok(wire::SignalExecResponse {})
        };
        let method = "SignalExec";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    async fn upload(
        &self,
        request: Request<Streaming<wire::UploadRequest>>,
    ) -> Result<Response<wire::UploadResponse>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(UploadPart::Start(start)) = first else {
            return Err(wrong_first("a start"));
        };
        let id = self.resolve(&start.workspace)?;
        // The agent keeps a receipt under the request's id: that is what makes
        // a repeated upload harmless.
        let step = exec::step_id(&start.request_id)?;
        let admitted = self.workspaces.admit(&id, None, OverLimit::Refused);
        admitted.await.map_err(refused)?;
        let agent = self.workspaces.agent(&id).await.map_err(refused)?;
        let archive = stream::unfold(parts, |mut parts| async move {
            match parts.message().await {
                Ok(Some(wire::UploadRequest {
                    part: Some(UploadPart::Data(data)),
                })) => Some((data, parts)),
                // A client that breaks off cuts the archive short, which the
                // agent refuses.
                Ok(_) | Err(_) => None,
            }
        })
        .boxed();
        let _in_use = self.workspaces.use_of(&id);
        let uploaded = agent.upload(&start.directory, Some(&step), archive).await;
        let uploaded = uploaded.map_err(refused)?;
        Ok(Response::new(wire::UploadResponse {
            entries: uploaded.entries,
            content_bytes: uploaded.content_bytes,
        }))
    }

    type DownloadStream = ServerStream<wire::DownloadResponse>;

    async fn download(
        &self,
        request: Request<wire::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let id = self.resolve(&request.workspace)?;
        let agent = self.workspaces.agent(&id).await.map_err(refused)?;
        let in_use = self.workspaces.use_of(&id);
        let pieces = agent.download(&request.path).map(move |piece| {
            let _in_use = &in_use;
            match piece {
                Ok(data) => Ok(wire::DownloadResponse { data }),
                Err(error) => Err(refused(error)),
            }
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    async fn set_workspace_egress(
        &self,
        request: Request<wire::SetWorkspaceEgressRequest>,
    ) -> Result<Response<wire::SetWorkspaceEgressResponse>, Status> {
        let request = request.into_inner();
        let policy = convert::egress(request.egress.as_ref())?;
        let (api, name_or_id) = (self.clone(), request.workspace.clone());
        let work = move || async move {
            let id = api.resolve(&name_or_id)?;
            let view = api.workspaces.set_egress(&id, policy).await;
            let view = view.map_err(refused)?;
            let cut = api.egress.cut_refused(&id);
            Ok(wire::SetWorkspaceEgressResponse {
                workspace: Some(convert::view(&view)),
                connections_cut: u32::try_from(cut).unwrap_or(u32::MAX),
            })
        };
        let method = "SetWorkspaceEgress";
        let answer = self
            .requests
            .once(method, &request.request_id, &request, work);
        answer.await.map(Response::new)
    }

    type PortForwardStream = ServerStream<wire::PortForwardResponse>;

    async fn port_forward(
        &self,
        request: Request<Streaming<wire::PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(ForwardPart::Start(start)) = first else {
            return Err(wrong_first("a start"));
        };
        let id = self.resolve(&start.workspace)?;
        let port = convert::port(start.port)?;
        let mut inside = self.workspaces.dial(&id, port).await.map_err(refused)?;
        let (mut client, outgoing) = Pipe::new(parts);
        let (in_use, stop) = (self.workspaces.use_of(&id), self.stop.clone());
        // An answer that is dropped, as at a deadline or with a token that is revoked,
        // cuts both directions, whoever goes on sending.
        let gone = CancellationToken::new();
        let mut guard = Some(gone.clone().drop_guard());
        // On cancel: dropped, which cuts both; a shutdown does not wait for it.
        // On error: either side has closed, which closes the other.
        self.tasks.spawn(async move {
            let _in_use = in_use;
            tokio::select! {
                _ = tokio::io::copy_bidirectional(&mut client, &mut inside) => {}
                () = gone.cancelled() => {}
                () = stop.cancelled() => {}
            }
        });
        let stands = wire::PortForwardResponse::new(Bytes::new(), false);
        let pieces = stream::once(async { stands }).chain(ReceiverStream::new(outgoing));
        let mut pieces = pieces.boxed();
        let answers = stream::poll_fn(move |cx| {
            let piece = std::task::ready!(pieces.poll_next_unpin(cx));
            if piece.is_none()
                && let Some(guard) = guard.take()
            {
                // Both have ended: what is still under way comes to its end.
                drop(guard.disarm());
            }
            std::task::Poll::Ready(piece.map(Ok::<_, Status>))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// The pieces of a bundle; ends at the first message that is none.
fn bundle(
    parts: Streaming<wire::AddRepositoryRequest>,
) -> BoxStream<'static, Result<Bytes, String>> {
    parts
        .map(|message| match message {
            Ok(wire::AddRepositoryRequest {
                part: Some(AddPart::Bundle(data)),
            }) => Ok(data),
            Ok(_) => Err("a message of its stream is no piece of it".to_owned()),
            Err(status) => Err(format!("it was cut short: {}", status.message())),
        })
        .boxed()
}

/// Passes a client's input, signals and sizes on to a command.
struct Feeder {
    workspaces: Workspaces,
    workspace: WorkspaceId,
    exec: ExecId,
}

impl Feeder {
    async fn run(&self, mut parts: Streaming<wire::ExecRequest>) -> Result<(), Status> {
        // A client stream that ends or breaks is a client that has nothing
        // more to say; closing standard input is explicit.
        while let Ok(Some(message)) = parts.message().await {
            match message.part {
                Some(ExecPart::Input(input)) => self.feed(input).await?,
                Some(ExecPart::Resize(size)) => {
                    let size = exec::terminal_size(size)?;
                    let agent = self.workspaces.agent_again(&self.workspace).await;
                    let resized = agent.map_err(refused)?.resize(&self.exec, size).await;
                    resized.map_err(refused)?;
                }
                Some(ExecPart::Signal(signal)) => {
                    let target = SignalTarget::Group(exec::signal_number(signal)?);
                    let agent = self.workspaces.agent_again(&self.workspace).await;
                    let agent = agent.map_err(refused)?;
                    let signalled = agent.signal(&self.exec, None, target).await;
                    signalled.map_err(refused)?;
                }
                Some(ExecPart::Start(_) | ExecPart::Attach(_)) | None => {
                    return Err(wrong_first("a start or an attach, once"));
                }
            }
        }
        Ok(())
    }

    /// Standard input by offset: a piece that is sent again over a new link is
    /// taken once. A command that has closed its input ends the feeding, not
    /// the following.
    async fn feed(&self, input: wire::ExecInput) -> Result<(), Status> {
        const PAUSE: Duration = Duration::from_millis(20);
        loop {
            let agent = self.workspaces.agent_again(&self.workspace).await;
            let written = agent
                .map_err(refused)?
                .write_stdin(&self.exec, input.offset, input.data.clone(), input.eof)
                .await;
            match written {
                Ok(_) => return Ok(()),
                Err(error) if error.code() == Some("STDIN_CLOSED") => return Ok(()),
                Err(error) if error.is_transient() => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(refused(error)),
            }
        }
    }
}

#[cfg(test)]
mod tests;
