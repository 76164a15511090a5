//! Asks again where that can help.
//!
//! Waits double from try to try, with jitter so that sessions that failed
//! together do not come back together. A provider's own wait is never cut
//! short: where it is longer than the policy allows, the error goes to the
//! caller at once. So does a failure that may have cost something: whoever holds
//! the budget decides whether to pay for another try.

use std::{fmt, sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::breaker::Breaker;
use crate::{
    domain::backoff::{Backoff, PROVIDER_WAIT_MAX},
    ports::model::{ModelError, ModelPort, ModelProgress, ModelReply, ModelRequest, RetryAdvice},
};

/// When a failed call is tried again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries in all, the first included; 0 counts as 1.
    pub max_tries: u32,
    /// Our own waits.
    pub backoff: Backoff,
    /// Longest wait that a provider may ask for; beyond it the call fails.
    pub max_provider_wait: Duration,
}

impl Default for RetryPolicy {
    /// Three tries, and caps in the middle of what peers have (30 to 64 s).
    fn default() -> Self {
        Self {
            max_tries: 3,
            backoff: Backoff {
                first: Duration::from_secs(1),
                longest: Duration::from_secs(30),
            },
            max_provider_wait: PROVIDER_WAIT_MAX,
        }
    }
}

impl RetryPolicy {
    /// The wait after the `failed`th try (from 1), or `None` to give up.
    /// `jitter` in `0.0..1.0` spreads a provider's own wait by a tenth upwards
    /// only.
    fn wait(&self, failed: u32, advice: RetryAdvice, jitter: f64) -> Option<Duration> {
        if failed >= self.max_tries {
            return None;
        }
        match advice {
            RetryAdvice::Never => None,
            RetryAdvice::Backoff => Some(self.backoff.wait(failed, jitter)),
            RetryAdvice::After(asked) if asked > self.max_provider_wait => None,
            RetryAdvice::After(asked) => Some(asked.mul_f64(1.0 + 0.1 * jitter)),
        }
    }
}

/// Gives numbers in `0.0..1.0`.
type Jitter = Arc<dyn Fn() -> f64 + Send + Sync>;

/// A model that is asked again when a failure may pass.
pub(super) struct RetryingModel {
    inner: Arc<dyn ModelPort>,
    policy: RetryPolicy,
    breaker: Arc<Breaker>,
    jitter: Jitter,
}

impl fmt::Debug for RetryingModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetryingModel")
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl RetryingModel {
    pub(super) fn new(
        inner: Arc<dyn ModelPort>,
        policy: RetryPolicy,
        breaker: Arc<Breaker>,
    ) -> Self {
        Self {
            inner,
            policy,
            breaker,
            jitter: Arc::new(fastrand::f64),
        }
    }
}

impl RetryingModel {
    /// Waits until the provider may be asked: while it is down for others, too,
    /// it is asked by one at a time.
    async fn admitted(
        &self,
        attempt: u32,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<(), ModelError> {
        while let Err(wait) = self.breaker.admit() {
            let cause = "the provider failed many times in a row".to_owned();
            let _ = progress.try_send(ModelProgress::Retrying {
                attempt,
                wait,
                cause,
            });
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(ModelError::Cancelled),
                () = tokio::time::sleep(wait) => {}
            }
        }
        Ok(())
    }
}

#[async_trait]
impl ModelPort for RetryingModel {
    /// Progress of a failed try has been sent by then: a watcher drops it when
    /// [`ModelProgress::Retrying`] arrives. Cancel safety: as the inner model;
    /// a wait ends at once.
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let mut attempt = 1;
        loop {
            self.admitted(attempt, progress, cancel).await?;
            let answer = self.inner.call(request, progress, cancel).await;
            self.breaker.record(answer.as_ref().map(drop));
            let error = match answer {
                Ok(reply) => return Ok(reply),
                Err(error) if error.may_have_cost() => return Err(error),
                Err(error) => error,
            };
            let Some(wait) = self.policy.wait(attempt, error.retry(), (self.jitter)()) else {
                return Err(error);
            };
            let cause = error.to_string();
            tracing::info!(
                attempt,
                ?wait,
                cause,
                "a model call failed and is tried again"
            );
            let _ = progress.try_send(ModelProgress::Retrying {
                attempt,
                wait,
                cause,
            });
            tokio::select! {
                biased;
                () = cancel.cancelled() => return Err(ModelError::Cancelled),
                () = tokio::time::sleep(wait) => {}
            }
            attempt += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;
    use crate::{
        adapters::model::scripted::{ScriptedModel, Transcript},
        domain::conversation::Message,
    };

    fn model(faults: &str, policy: RetryPolicy) -> RetryingModel {
        let script = format!("{{\"compy_transcript\":1}}\n{faults}\n{{\"text\":\"ok\"}}");
        let inner = ScriptedModel::new("x".into(), Transcript::parse(&script).unwrap());
        RetryingModel {
            inner: Arc::new(inner),
            policy,
            breaker: Arc::default(),
            jitter: Arc::new(|| 0.5),
        }
    }

    fn request() -> ModelRequest {
        ModelRequest {
            system: "s".into(),
            tools: Vec::new(),
            messages: vec![Message::User { text: "u".into() }],
            max_output_tokens: 1,
            turns_left_out: 0,
        }
    }

    /// Calls on a paused clock: the outcome, the waits told, the time it took.
    async fn call(
        model: &RetryingModel,
    ) -> (Result<ModelReply, ModelError>, Vec<Duration>, Duration) {
        let (progress, mut watch) = mpsc::channel(16);
        let start = Instant::now();
        let outcome = model
            .call(&request(), &progress, &CancellationToken::new())
            .await;
        drop(progress);
        let mut waits = Vec::new();
        while let Some(event) = watch.recv().await {
            if let ModelProgress::Retrying { attempt, wait, .. } = event {
                waits.push(wait);
                assert_eq!(attempt as usize, waits.len());
            }
        }
        (outcome, waits, start.elapsed())
    }

    const fn millis(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[tokio::test(start_paused = true)]
    async fn waits_double_up_to_the_cap_and_are_told() {
        let policy = RetryPolicy {
            max_tries: 5,
            backoff: Backoff {
                first: Duration::from_secs(1),
                longest: Duration::from_secs(3),
            },
            ..RetryPolicy::default()
        };
        let faults = ["{\"fault\":{\"status\":529}}"; 4].join("\n");
        let (outcome, waits, took) = call(&model(&faults, policy)).await;
        assert_eq!(outcome.unwrap().turn.text, "ok");
        assert_eq!(
            waits,
            [millis(1000), millis(2000), millis(3000), millis(3000)]
        );
        assert!(took >= millis(9000) && took < millis(9100), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_error_is_given_when_the_tries_are_used_up() {
        let policy = RetryPolicy {
            max_tries: 2,
            ..RetryPolicy::default()
        };
        let faults = "{\"fault\":{\"status\":529}}\n{\"fault\":{\"status\":503}}";
        let (outcome, waits, _) = call(&model(faults, policy)).await;
        assert!(matches!(
            outcome,
            Err(ModelError::Server { status: 503, .. })
        ));
        assert_eq!(waits.len(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn what_may_have_cost_something_is_left_to_the_caller() {
        let faults = "{\"fault\":\"cut\"}";
        let (outcome, waits, _) = call(&model(faults, RetryPolicy::default())).await;
        assert!(matches!(outcome, Err(ModelError::Cut { .. })));
        assert!(waits.is_empty(), "{waits:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_the_provider_asks_for_is_never_cut_short() {
        let faults = "{\"fault\":{\"status\":429,\"retry_after_s\":40}}";
        let (outcome, waits, _) = call(&model(faults, RetryPolicy::default())).await;
        assert!(outcome.is_ok());
        // Longer than our own cap, and jitter only adds.
        assert_eq!(waits, [millis(42_000)]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_beyond_the_limit_gives_up_at_once() {
        let faults = "{\"fault\":{\"status\":429,\"retry_after_s\":3600}}";
        let (outcome, waits, took) = call(&model(faults, RetryPolicy::default())).await;
        assert!(matches!(outcome, Err(ModelError::RateLimited { .. })));
        assert_eq!((waits.len(), took), (0, Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_pass_is_not_tried_again() {
        for status in [400, 401, 402, 413] {
            let fault = format!("{{\"fault\":{{\"status\":{status}}}}}");
            let (outcome, waits, _) = call(&model(&fault, RetryPolicy::default())).await;
            assert!(outcome.is_err() && waits.is_empty(), "{status}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_ends_when_the_call_is_cancelled() {
        let model = model("{\"fault\":{\"status\":529}}", RetryPolicy::default());
        let (progress, mut watch) = mpsc::channel(16);
        let cancel = CancellationToken::new();
        let start = Instant::now();
        let request = request();
        let (outcome, ()) = tokio::join!(model.call(&request, &progress, &cancel), async {
            watch.recv().await;
            cancel.cancel();
        });
        assert_eq!(outcome, Err(ModelError::Cancelled));
        assert_eq!(start.elapsed(), Duration::ZERO);
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        let policy = RetryPolicy::default();
        let second = Duration::from_secs(1);
        for jitter in [0.0, 0.999] {
            let own = policy.wait(1, RetryAdvice::Backoff, jitter).unwrap();
            assert!(own >= millis(900) && own <= millis(1100), "{own:?}");
            let asked = policy.wait(1, RetryAdvice::After(second), jitter).unwrap();
            assert!(asked >= second && asked <= millis(1100), "{asked:?}");
        }
    }

    #[test]
    fn no_number_of_tries_overflows() {
        let policy = RetryPolicy {
            max_tries: u32::MAX,
            ..RetryPolicy::default()
        };
        let wait = policy.wait(u32::MAX - 1, RetryAdvice::Backoff, 0.5);
        assert_eq!(wait, Some(policy.backoff.longest));
    }
}
