//! Asking the model.

use std::time::Instant;

use tokio::sync::mpsc;

use super::{EffectContext, Trouble};
use crate::{
    domain::session::{
        event::AfterModelFailure,
        outcome::{Outcome, Reply},
    },
    ports::model::{ModelError, ModelProgress, ModelRequest},
    service::sessions::Progress,
};

/// Asks once; tries that may help have been made by the adapter.
pub(super) async fn ask(
    context: &EffectContext,
    request: &ModelRequest,
) -> Result<Outcome, Trouble> {
    let begun = Instant::now();
    let (sender, mut said) = mpsc::channel(256);
    let forward = async {
        while let Some(progress) = said.recv().await {
            let _ = context.progress.send(shown(progress));
        }
    };
    let call = async {
        let sender = sender;
        context.model.call(request, &sender, &context.cancel).await
    };
    let (reply, ()) = tokio::join!(call, forward);
    Ok(match reply {
        Ok(reply) => Outcome::Reply(Reply {
            turn: reply.turn,
            stop: reply.stop,
            usage: reply.usage,
            duration_ms: u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            provider_request: reply.provider_request_id,
        }),
        Err(error) => Outcome::NoReply {
            then: consequence(&error),
            error: error.to_string(),
        },
    })
}

/// What follows an error. Outages, limits and keys are for a person to mend;
/// a request or a reply that is wrong would be wrong again.
fn consequence(error: &ModelError) -> AfterModelFailure {
    match error {
        ModelError::Cancelled => AfterModelFailure::AskAgain,
        ModelError::Unreachable { .. }
        | ModelError::Cut { .. }
        | ModelError::Idle { .. }
        | ModelError::RateLimited { .. }
        | ModelError::Server { .. }
        | ModelError::Quota { .. }
        | ModelError::Unusable { .. }
        | ModelError::Auth { .. } => AfterModelFailure::Pause,
        ModelError::ContextOverflow { .. }
        | ModelError::InvalidRequest { .. }
        | ModelError::Protocol { .. }
        | ModelError::Script { .. } => AfterModelFailure::Fail,
    }
}

fn shown(progress: ModelProgress) -> Progress {
    match progress {
        ModelProgress::Text(text) => Progress::ModelText(text),
        ModelProgress::Reasoning(text) => Progress::ModelReasoning(text),
        ModelProgress::ToolCallStarted { name } => {
            Progress::Notice(format!("the model writes a call of {name}"))
        }
        ModelProgress::Retrying {
            attempt,
            wait,
            cause,
        } => Progress::Notice(format!(
            "try {attempt} failed, the next follows in {:.1} s: {cause}",
            wait.as_secs_f64()
        )),
    }
}
