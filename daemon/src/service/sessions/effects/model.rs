//! Asking the model.
//!
//! A call that certainly cost nothing is tried again by the adapter. One that
//! was taken up and then failed ends here, and is asked again as a call of its
//! own, with a reservation of its own.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::{EffectContext, Patience, Trouble};
use crate::{
    domain::{
        backoff::Backoff,
        recovery::{Catalogue, End, FoundIn, Signs},
        session::{
            event::AfterModelFailure,
            outcome::{NoReply, Outcome, Reply},
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
    // Whatever the clock did meanwhile.
    let asked = (context.state.provider_wait(context.open.since_ms))
        .min(context.patience.provider_wait_max);
    let wait = wait(failures, asked, context.patience.haste, fastrand::f64());
    if !wait.is_zero() {
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
        Err(error) => Outcome::NoReply(NoReply {
            then: consequence(&error, failures + 1, &context.patience),
            free: !error.may_have_cost(),
            wait_ms: match error.retry() {
                RetryAdvice::After(asked) => {
                    Some(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX))
                }
                RetryAdvice::Backoff | RetryAdvice::Never => None,
            },
            error: advised(&context.world.catalogue, &error),
        }),
    })
}

/// The wait before a call: our own after so many failures in a row, and never less
/// than what is left of the time for which the provider asks to be left alone.
/// `jitter` in `0.0..1.0` spreads that one by a tenth upwards only.
fn wait(failures: u32, asked: Duration, haste: u32, jitter: f64) -> Duration {
    let ours = match failures {
        0 => Duration::ZERO,
        failures => BACKOFF.wait(failures, jitter) / haste,
    };
    ours.max(asked.mul_f64(1.0 + 0.1 * jitter))
}

/// What follows an error. Outages, limits and keys are for a person to mend;
/// a request or a reply that is wrong would be wrong again.
fn consequence(error: &ModelError, failed: u32, patience: &Patience) -> AfterModelFailure {
    let soon = match error.retry() {
        RetryAdvice::Never => false,
        RetryAdvice::Backoff => true,
        RetryAdvice::After(asked) => asked <= patience.provider_wait_max,
    };
    match error {
        ModelError::Cancelled => AfterModelFailure::AskAgain,
        error if error.may_have_cost() && soon && failed < patience.model_tries => {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn overloaded(status: u16, asked: u64) -> ModelError {
        ModelError::Server {
            provider: "test".into(),
            status,
            message: "busy".into(),
            retry_after: Some(Duration::from_secs(asked)),
        }
    }

    #[test]
    fn the_longer_of_both_waits_counts_and_the_providers_is_never_cut_short() {
        let second = Duration::from_secs(1);
        assert_eq!(wait(0, Duration::ZERO, 1, 0.5), Duration::ZERO);
        assert_eq!(wait(1, Duration::ZERO, 1, 0.5), second);
        assert_eq!(wait(3, second, 1, 0.5), 4 * second);
        assert_eq!(wait(1, 60 * second, 1, 0.0), 60 * second);
        assert_eq!(wait(1, 60 * second, 1, 0.5), 63 * second);
        // Haste is for our own waits, and a restart forgets the failures alone.
        assert_eq!(wait(1, 60 * second, 200, 0.0), 60 * second);
        assert_eq!(wait(0, 60 * second, 1, 0.0), 60 * second);
    }

    #[test]
    fn a_wait_beyond_the_limit_is_for_a_person() {
        let patience = Patience::default();
        for status in [200, 408, 500, 502, 504] {
            let then = |asked| consequence(&overloaded(status, asked), 1, &patience);
            assert_eq!(then(300), AfterModelFailure::AskAgain, "{status}");
            assert_eq!(then(301), AfterModelFailure::Pause, "{status}");
        }
    }
}
