//! A circuit breaker for each provider, shared by all sessions: while a provider
//! is down, one call at a time asks whether it still is, and the others wait.
//!
//! ```text
//!   closed ── failures in a row ──> open ── its time is over: one probe ──> closed, or open again
//! ```

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

use crate::ports::model::ModelError;

/// Failures in a row, over all sessions, that open a breaker.
const FAILURES: u32 = 5;
/// How long an open breaker lets nobody through.
const OPEN: Duration = Duration::from_secs(20);

/// The breakers of all providers, by their address. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Breakers {
    /// Held for a look-up or an insert.
    known: Arc<Mutex<HashMap<String, Arc<Breaker>>>>,
}

impl Breakers {
    /// The one of a provider.
    pub(super) fn of(&self, provider: &str) -> Arc<Breaker> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.entry(provider.to_owned()).or_default().clone()
    }
}

/// What is known of one provider's health.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    /// Held for a look or a change, never over an await.
    health: Mutex<Health>,
}

#[derive(Debug, Default)]
struct Health {
    /// Failures since the last answer.
    failures: u32,
    /// Nobody is let through before.
    open_until: Option<Instant>,
}

impl Breaker {
    /// Lets a call through, or says how long it has to wait before it asks
    /// again. Who is let through after a wait is the probe: the others wait on
    /// until its outcome is recorded.
    pub(super) fn admit(&self) -> Result<(), Duration> {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        match health.open_until {
            None => Ok(()),
            Some(until) if until > now => Err(until - now),
            Some(_) => {
                health.open_until = Some(now + OPEN);
                Ok(())
            }
        }
    }

    /// Records how a call that was let through has ended.
    pub(super) fn record(&self, outcome: Result<(), &ModelError>) {
        let mut health = self.health.lock().unwrap_or_else(PoisonError::into_inner);
        let down = match outcome {
            Ok(()) => false,
            Err(ModelError::Cancelled) => return,
            Err(error) => match error {
                ModelError::Unreachable { .. }
                | ModelError::Cut { .. }
                | ModelError::Idle { .. }
                | ModelError::Server { .. } => true,
                // It answers, if only with a refusal.
                ModelError::Cancelled
                | ModelError::RateLimited { .. }
                | ModelError::Quota { .. }
                | ModelError::Auth { .. }
                | ModelError::ContextOverflow { .. }
                | ModelError::InvalidRequest { .. }
                | ModelError::Protocol { .. }
                | ModelError::Unusable { .. }
                | ModelError::Script { .. } => false,
            },
        };
        if !down {
            *health = Health::default();
            return;
        }
        health.failures = health.failures.saturating_add(1);
        if health.failures >= FAILURES {
            health.open_until = Some(Instant::now() + OPEN);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure() -> ModelError {
        ModelError::Server {
            provider: "p".into(),
            status: 503,
            message: "down".into(),
            retry_after: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_open_it_one_probe_goes_through_and_an_answer_closes_it() {
        let breakers = Breakers::default();
        let breaker = breakers.of("p");
        for _ in 0..FAILURES {
            assert_eq!(breaker.admit(), Ok(()));
            breaker.record(Err(&failure()));
        }
        // Every session of the provider sees it, and no other provider's.
        assert_eq!(breakers.of("p").admit(), Err(OPEN));
        assert_eq!(breakers.of("q").admit(), Ok(()));
        tokio::time::advance(OPEN).await;
        assert_eq!(breaker.admit(), Ok(()), "the probe");
        assert!(breaker.admit().is_err(), "the others wait for it");
        breaker.record(Err(&failure()));
        assert!(breaker.admit().is_err());
        tokio::time::advance(OPEN).await;
        assert_eq!(breaker.admit(), Ok(()));
        breaker.record(Ok(()));
        assert_eq!(breaker.admit(), Ok(()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_provider_that_answers_is_not_down() {
        let breaker = Breaker::default();
        let refusal = ModelError::InvalidRequest {
            provider: "p".into(),
            status: 400,
            message: "no".into(),
        };
        let down = failure();
        for round in 0..3 * FAILURES {
            let error = if round % FAILURES == 0 {
                &refusal
            } else {
                &down
            };
            breaker.record(Err(error));
            assert_eq!(breaker.admit(), Ok(()), "{round}");
        }
    }
}
