//! Asking the model.
//!
//! A call that certainly cost nothing is tried again by the adapter. One that
//! was taken up and then failed ends here, and is asked again as a call of its
//! own, with a reservation of its own.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{EffectContext, Trouble};
use crate::{
    domain::{
        backoff::Backoff,
        recovery::{Catalogue, End, FoundIn, Signs},
        session::{
            event::AfterModelFailure,
            outcome::{Outcome, Reply},
        },
    },
    ports::model::{ModelError, ModelProgress, ModelRequest, RetryAdvice},
    service::sessions::Progress,
};

/// Waits between calls that failed in a row.
const BACKOFF: Backoff = Backoff {
    first: Duration::from_secs(1),
    longest: Duration::from_secs(30),
};

/// Asks once.
pub(super) async fn ask(
    context: &EffectContext,
    request: &ModelRequest,
) -> Result<Outcome, Trouble> {
    let failures = context.state.model_failures;
    if failures > 0 {
        let wait = BACKOFF.wait(failures, fastrand::f64()) / context.patience.haste;
        let notice = format!("asking again in {:.1} s", wait.as_secs_f64());
        let _ = context.progress.send(Progress::Notice(notice));
        tokio::select! {
            () = context.cancel.cancelled() => return Err(Trouble::Stopped),
            () = tokio::time::sleep(wait) => {}
        }
    }
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
            then: consequence(&error, failures + 1, context.patience.model_tries),
            free: !error.may_have_cost(),
            error: advised(&context.world.catalogue, &error),
        },
    })
}

/// What follows an error. Outages, limits and keys are for a person to mend;
/// a request or a reply that is wrong would be wrong again.
fn consequence(error: &ModelError, failed: u32, tries: u32) -> AfterModelFailure {
    match error {
        ModelError::Cancelled => AfterModelFailure::AskAgain,
        error if error.may_have_cost() && error.retry() != RetryAdvice::Never && failed < tries => {
            AfterModelFailure::AskAgain
        }
        ModelError::Unreachable { .. }
        | ModelError::Cut { .. }
        | ModelError::Idle { .. }
        | ModelError::RateLimited { .. }
        | ModelError::Server { .. }
        | ModelError::Quota { .. }
        | ModelError::Unusable { .. }
        | ModelError::Auth { .. } => AfterModelFailure::Pause,
        ModelError::ContextOverflow { .. } => AfterModelFailure::Compact,
        ModelError::InvalidRequest { .. }
        | ModelError::Protocol { .. }
        | ModelError::Script { .. } => AfterModelFailure::Fail,
    }
}

/// An error with what is known of its kind and what to do, for a person.
fn advised(catalogue: &Catalogue, error: &ModelError) -> String {
    let said = error.to_string();
    let signs = Signs {
        found_in: FoundIn::Model,
        end: End::Failed,
        output: said.as_bytes(),
    };
    match catalogue.detect(&signs) {
        Some(failure) => format!("{said} ({}: {})", failure.kind.name(), failure.advice),
        None => said,
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
