//! The exec methods: from messages to the table and back.

use std::time::Duration;

use compyd_proto::agent as wire;
use compyd_proto::agent::signal_exec_request::What;
use futures_util::StreamExt as _;
use tonic::{Response, Status, Streaming};

use super::{Answer, Replies, check_chunk};
use crate::errors::{AgentError, Reason};
use crate::exec::attach::Wish;
use crate::exec::table::{CommandHandle, ExecTable};

/// How long the first answer to RunExec may wait for a short command's whole
/// story. Told apart, its beginning wakes the daemon and the client while the
/// command wants the CPU. One that is fed must be told of at once.
const FIRST_WORD_WITHIN: Duration = Duration::from_millis(4);

pub(super) async fn start(
    table: &ExecTable,
    request: wire::StartExecRequest,
) -> Answer<wire::StartExecResponse> {
    let spec = request.spec.unwrap_or_default();
    let (command, started) = table.start(request.exec_id, spec, request.secrets).await?;
    Ok(Response::new(wire::StartExecResponse {
        exec: Some(command.describe().await),
        started,
    }))
}

pub(super) async fn run(
    table: &ExecTable,
    request: wire::StartExecRequest,
) -> Answer<Replies<wire::AttachExecResponse>> {
    let spec = request.spec.unwrap_or_default();
    let is_fed = spec.stdin || spec.pty.is_some();
    let (command, started) = table.start(request.exec_id, spec, request.secrets).await?;
    if started && !is_fed {
        command.has_news(FIRST_WORD_WITHIN).await;
    }
    events(&command, Wish::default()).await
}

pub(super) async fn attach(
    table: &ExecTable,
    request: wire::AttachExecRequest,
) -> Answer<Replies<wire::AttachExecResponse>> {
    let command = table.find(&request.exec_id).await?;
    let wish = Wish {
        stdout_offset: request.stdout_offset,
        stderr_offset: request.stderr_offset,
        exit_only: request.exit_only,
        no_follow: request.no_follow,
    };
    events(&command, wish).await
}

async fn events(command: &CommandHandle, wish: Wish) -> Answer<Replies<wire::AttachExecResponse>> {
    let events = command.attach(wish).await?;
    let replies: Replies<_> = Box::pin(events.map(|event| event.map_err(Status::from)));
    Ok(Response::new(replies))
}

pub(super) async fn write_stdin(
    table: &ExecTable,
    mut requests: Streaming<wire::WriteStdinRequest>,
) -> Answer<wire::WriteStdinResponse> {
    let Some(first) = requests.message().await? else {
        return Err(AgentError::new(
            Reason::SpecInvalid,
            "the stream of standard input ended before it named a command",
        )
        .into());
    };
    let command = table.find(&first.exec_id).await?;
    let mut next = Some(first);
    let mut accepted_bytes = 0;
    while let Some(message) = next {
        check_chunk("a piece of standard input", &message.data)?;
        accepted_bytes = command
            .write_stdin(message.offset, &message.data, message.eof)
            .await?;
        next = requests.message().await?;
    }
    Ok(Response::new(wire::WriteStdinResponse { accepted_bytes }))
}

pub(super) async fn signal(
    table: &ExecTable,
    request: wire::SignalExecRequest,
) -> Answer<wire::SignalExecResponse> {
    let command = table.find(&request.exec_id).await?;
    let step_id = request.step_id;
    if !step_id.is_empty() && command.was_signalled_by(&step_id) {
        return Ok(Response::new(wire::SignalExecResponse {}));
    }
    match request.what {
        Some(What::Group(signal)) => command.signal_group(signal).await?,
        Some(What::Tree(signal)) => command.signal_tree(signal).await?,
        Some(What::EndAfterGraceMs(grace_ms)) => command.end(grace_ms).await,
        None => {
            return Err(AgentError::new(
                Reason::SignalInvalid,
                "the request names no signal and no end",
            )
            .into());
        }
    }
    // After the signal: a call that is dropped before has sent none.
    if !step_id.is_empty() {
        command.signalled_by(step_id);
    }
    Ok(Response::new(wire::SignalExecResponse {}))
}

pub(super) async fn resize(
    table: &ExecTable,
    request: wire::ResizeExecRequest,
) -> Answer<wire::ResizeExecResponse> {
    let command = table.find(&request.exec_id).await?;
    command.resize(&request.size.unwrap_or_default()).await?;
    Ok(Response::new(wire::ResizeExecResponse {}))
}
