//! Commands in workspaces, by gRPC.

use compyd_proto::v1::{
    ExecAttach, ExecExit, ExecInfo, ExecInput, ExecRequest, ExecResponse, ExecStart,
    exec_exit::How, exec_request, exec_response::Event,
};
use tonic::{Status, Streaming};

use crate::{daemon::Daemon, request_id};

/// What a command left.
#[derive(Debug, Default)]
pub struct Done {
    /// What the daemon said first.
    pub info: ExecInfo,
    /// Standard output, whole.
    pub stdout: Vec<u8>,
    /// Standard error, whole.
    pub stderr: Vec<u8>,
    /// How it ended.
    pub exit: ExecExit,
}

impl Done {
    /// Its exit status, if it exited.
    #[must_use]
    pub fn code(&self) -> Option<u32> {
        match self.exit.how {
            Some(How::Code(code)) => Some(code),
            _ => None,
        }
    }

    /// Standard output as text, without white space around it.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).trim().to_owned()
    }
}

/// A command, not yet started.
#[must_use]
pub fn command(workspace: &str, argv: &[&str]) -> ExecStart {
    ExecStart {
        request_id: request_id(),
        workspace: workspace.to_owned(),
        argv: argv
            .iter()
            .map(|word| word.as_bytes().to_vec().into())
            .collect(),
        ..Default::default()
    }
}

/// Bytes for a command's standard input, split as the protocol asks.
#[must_use]
pub fn input(bytes: &[u8]) -> Vec<ExecRequest> {
    let mut parts = Vec::new();
    let mut offset = 0;
    for chunk in bytes.chunks(512 * 1024) {
        parts.push(part(offset, chunk, false));
        offset += chunk.len() as u64;
    }
    parts.push(part(offset, &[], true));
    parts
}

fn part(offset: u64, data: &[u8], eof: bool) -> ExecRequest {
    ExecRequest {
        part: Some(exec_request::Part::Input(ExecInput {
            offset,
            data: data.to_vec().into(),
            eof,
        })),
    }
}

/// The message that starts a command.
#[must_use]
pub fn start(start: ExecStart) -> ExecRequest {
    ExecRequest {
        part: Some(exec_request::Part::Start(start)),
    }
}

/// The message that attaches to a command from these bytes on.
#[must_use]
pub fn attach(workspace: &str, id: &str, stdout_offset: u64, stderr_offset: u64) -> ExecRequest {
    ExecRequest {
        part: Some(exec_request::Part::Attach(ExecAttach {
            workspace: workspace.to_owned(),
            exec_id: id.to_owned(),
            stdout_offset,
            stderr_offset,
            ..ExecAttach::default()
        })),
    }
}

/// Reads a command's answers to their end.
///
/// # Errors
/// What the daemon refused with.
///
/// # Panics
/// When bytes are missing, or the stream ends before the command has.
pub async fn collect(mut stream: Streaming<ExecResponse>) -> Result<Done, Status> {
    let mut done = Done::default();
    let mut ended = false;
    while let Some(message) = stream.message().await? {
        match message.event.expect("every message says something") {
            Event::Attached(info) => done.info = info,
            Event::Stdout(output) => {
                assert_eq!(output.offset, done.stdout.len() as u64, "a gap in stdout");
                done.stdout.extend(output.data);
            }
            Event::Stderr(output) => {
                assert_eq!(output.offset, done.stderr.len() as u64, "a gap in stderr");
                done.stderr.extend(output.data);
            }
            Event::Gap(gap) => panic!("output was dropped: {gap:?}"),
            Event::Exit(exit) => {
                done.exit = exit;
                ended = true;
            }
        }
    }
    assert!(ended, "the stream ended and the command had not: {done:?}");
    Ok(done)
}

impl Daemon {
    /// Runs a command in a workspace to its end.
    ///
    /// # Errors
    /// What the daemon refused with.
    pub async fn exec(&self, start_message: ExecStart) -> Result<Done, Status> {
        self.exec_with(start_message, Vec::new()).await
    }

    /// Runs a command and feeds it these messages.
    ///
    /// # Errors
    /// What the daemon refused with.
    pub async fn exec_with(
        &self,
        start_message: ExecStart,
        more: Vec<ExecRequest>,
    ) -> Result<Done, Status> {
        let mut messages = vec![start(start_message)];
        messages.extend(more);
        let stream = tokio_stream::iter(messages);
        let answer = self.workspaces().exec(stream).await?;
        collect(answer.into_inner()).await
    }

    /// Follows a command that is opened by this message, and feeds it nothing.
    ///
    /// # Errors
    /// What the daemon refused with.
    pub async fn follow(&self, first: ExecRequest) -> Result<Streaming<ExecResponse>, Status> {
        let stream = tokio_stream::once(first);
        Ok(self.workspaces().exec(stream).await?.into_inner())
    }

    /// Runs a shell script in a workspace and gives what it left.
    ///
    /// # Panics
    /// When the daemon refuses.
    pub async fn shell(&self, workspace: &str, script: &str) -> Done {
        self.exec(command(workspace, &["sh", "-c", script]))
            .await
            .unwrap_or_else(|status| panic!("{script}: {status}"))
    }
}
