//! `compy.agent.v1` on top of the exec table, the file tools and the trees:
//! decodes, calls, encodes. No decisions.

mod exec;
mod files;
mod trees;
pub(crate) mod tunnel;

use std::pin::Pin;

use compyd_proto::agent as wire;
use compyd_proto::agent::agent_server::Agent;
use compyd_proto::link::{MAX_CHUNK_BYTES, PROTOCOL_MAJOR, PROTOCOL_MINOR};
use futures_util::Stream;
use tonic::{Request, Response, Status, Streaming};

use crate::accounts::Account;
use crate::disk;
use crate::errors::{AgentError, Reason};
use crate::exec::table::ExecTable;
use crate::files::FileTools;

pub(crate) use trees::TreesService;

const MAX_WORKSPACE_ID_BYTES: usize = 64;

type Answer<T> = Result<Response<T>, Status>;
type Replies<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

pub(crate) struct AgentService {
    table: ExecTable,
    files: FileTools,
    default_user: wire::User,
    boot_id: String,
    proxy_port: u16,
    features: Vec<String>,
}

impl AgentService {
    pub(crate) fn new(
        table: ExecTable,
        files: FileTools,
        user: &Account,
        proxy_port: u16,
        features: &[&str],
    ) -> Self {
        Self {
            table,
            files,
            default_user: wire::User {
                name: user.name.clone(),
                uid: user.uid,
                gid: user.gid,
                home: user.home.to_string_lossy().into_owned(),
            },
            boot_id: random_id(),
            proxy_port,
            features: features.iter().map(|&feature| feature.to_owned()).collect(),
        }
    }
}

/// 32 hex digits.
fn random_id() -> String {
    use std::io::Read as _;
    let mut bytes = [0; 16];
    let read = std::fs::File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut bytes));
    if read.is_err() {
        // An image without devices: the clock and the pid still tell two
        // starts apart.
        let seed = format!("{}.{:?}", std::process::id(), std::time::Instant::now());
        bytes.copy_from_slice(&blake3::hash(seed.as_bytes()).as_bytes()[..16]);
    }
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn too_large(what: &str, bytes: usize, limit: usize) -> AgentError {
    AgentError::new(
        Reason::SpecInvalid,
        format!("{what} has {bytes} bytes and may have {limit}; send less at a time"),
    )
}

fn check_chunk(what: &str, data: &[u8]) -> Result<(), AgentError> {
    if data.len() > MAX_CHUNK_BYTES {
        return Err(too_large(what, data.len(), MAX_CHUNK_BYTES));
    }
    Ok(())
}

#[tonic::async_trait]
impl Agent for AgentService {
    async fn hello(&self, request: Request<wire::HelloRequest>) -> Answer<wire::HelloResponse> {
        let request = request.into_inner();
        let id = request.workspace_id;
        if id.len() > MAX_WORKSPACE_ID_BYTES {
            return Err(too_large("the workspace id", id.len(), MAX_WORKSPACE_ID_BYTES).into());
        }
        if let Some(limits) = request.spool_limits {
            self.table.limit_spools(&limits).await;
        }
        Ok(Response::new(wire::HelloResponse {
            version: Some(wire::ProtocolVersion {
                major: PROTOCOL_MAJOR,
                minor: PROTOCOL_MINOR,
            }),
            boot_id: self.boot_id.clone(),
            features: self.features.clone(),
            default_user: Some(self.default_user.clone()),
            resident_bytes: crate::serve::resident_bytes(),
            proxy_port: self.proxy_port.into(),
        }))
    }

    async fn ping(&self, request: Request<wire::PingRequest>) -> Answer<wire::PingResponse> {
        let payload = request.into_inner().payload;
        check_chunk("the payload", &payload)?;
        Ok(Response::new(wire::PingResponse { payload }))
    }

    async fn start_exec(
        &self,
        request: Request<wire::StartExecRequest>,
    ) -> Answer<wire::StartExecResponse> {
        exec::start(&self.table, request.into_inner()).await
    }

    type RunExecStream = Replies<wire::AttachExecResponse>;

    async fn run_exec(
        &self,
        request: Request<wire::StartExecRequest>,
    ) -> Answer<Self::RunExecStream> {
        exec::run(&self.table, request.into_inner()).await
    }

    type AttachExecStream = Replies<wire::AttachExecResponse>;

    async fn attach_exec(
        &self,
        request: Request<wire::AttachExecRequest>,
    ) -> Answer<Self::AttachExecStream> {
        exec::attach(&self.table, request.into_inner()).await
    }

    async fn write_stdin(
        &self,
        request: Request<Streaming<wire::WriteStdinRequest>>,
    ) -> Answer<wire::WriteStdinResponse> {
        exec::write_stdin(&self.table, request.into_inner()).await
    }

    async fn signal_exec(
        &self,
        request: Request<wire::SignalExecRequest>,
    ) -> Answer<wire::SignalExecResponse> {
        exec::signal(&self.table, request.into_inner()).await
    }

    async fn resize_exec(
        &self,
        request: Request<wire::ResizeExecRequest>,
    ) -> Answer<wire::ResizeExecResponse> {
        exec::resize(&self.table, request.into_inner()).await
    }

    async fn get_exec(
        &self,
        request: Request<wire::GetExecRequest>,
    ) -> Answer<wire::GetExecResponse> {
        let command = self.table.find(&request.into_inner().exec_id).await?;
        Ok(Response::new(wire::GetExecResponse {
            exec: Some(command.describe().await),
        }))
    }

    async fn list_execs(
        &self,
        request: Request<wire::ListExecsRequest>,
    ) -> Answer<wire::ListExecsResponse> {
        let execs = self.table.list(request.into_inner().running_only).await;
        Ok(Response::new(wire::ListExecsResponse { execs }))
    }

    async fn remove_exec(
        &self,
        request: Request<wire::RemoveExecRequest>,
    ) -> Answer<wire::RemoveExecResponse> {
        self.table.remove(&request.into_inner().exec_id).await?;
        Ok(Response::new(wire::RemoveExecResponse {}))
    }

    async fn read_file(
        &self,
        request: Request<wire::ReadFileRequest>,
    ) -> Answer<wire::ReadFileResponse> {
        let answer = self.files.read(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn write_file(
        &self,
        request: Request<wire::WriteFileRequest>,
    ) -> Answer<wire::WriteFileResponse> {
        let answer = self.files.write(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn edit_file(
        &self,
        request: Request<wire::EditFileRequest>,
    ) -> Answer<wire::EditFileResponse> {
        let answer = self.files.edit(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn change_files(
        &self,
        request: Request<wire::ChangeFilesRequest>,
    ) -> Answer<wire::ChangeFilesResponse> {
        let answer = self.files.change(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn list_directory(
        &self,
        request: Request<wire::ListDirectoryRequest>,
    ) -> Answer<wire::ListDirectoryResponse> {
        let answer = self.files.list(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn glob(&self, request: Request<wire::GlobRequest>) -> Answer<wire::GlobResponse> {
        let answer = self.files.glob(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn grep(&self, request: Request<wire::GrepRequest>) -> Answer<wire::GrepResponse> {
        let answer = self.files.grep(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn stat_file(
        &self,
        request: Request<wire::StatFileRequest>,
    ) -> Answer<wire::StatFileResponse> {
        let answer = self.files.stat(request.into_inner()).await?;
        Ok(Response::new(answer))
    }

    async fn upload(
        &self,
        request: Request<Streaming<wire::UploadRequest>>,
    ) -> Answer<wire::UploadResponse> {
        files::upload(&self.files, request.into_inner()).await
    }

    type DownloadStream = Replies<wire::DownloadResponse>;

    async fn download(
        &self,
        request: Request<wire::DownloadRequest>,
    ) -> Answer<Self::DownloadStream> {
        files::download(&self.files, request.into_inner()).await
    }

    async fn count_volumes(
        &self,
        _: Request<wire::CountVolumesRequest>,
    ) -> Answer<wire::CountVolumesResponse> {
        let counted = tokio::task::spawn_blocking(disk::count_volumes).await;
        let counted = counted.map_err(|error| {
            AgentError::new(Reason::Io, format!("the walk broke off: {error}"))
        })??;
        Ok(Response::new(wire::CountVolumesResponse {
            bytes: counted.bytes,
            entries: counted.entries,
        }))
    }

    async fn get_receipt(
        &self,
        request: Request<wire::GetReceiptRequest>,
    ) -> Answer<wire::GetReceiptResponse> {
        let answer = self.files.receipt(request.into_inner().step_id).await?;
        Ok(Response::new(answer))
    }
}
