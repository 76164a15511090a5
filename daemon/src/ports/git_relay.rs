//! Requests of git to a host, sent on over TLS with a login.

use std::sync::Arc;

use async_trait::async_trait;

use super::tunnel::BoxedBytes;
use crate::domain::credential::CredentialHost;

/// Who decides on a request and knows the login for it.
#[async_trait]
pub trait GitGate: Send + Sync {
    /// The value of the `Authorization` header, or why there is none, for a person.
    async fn admit(&self, method: &str, path: &str, query: Option<&str>) -> Result<String, String>;
}

/// Sends requests on.
#[async_trait]
pub trait GitRelayPort: Send + Sync {
    /// Answers the one request that comes from `program`: when `gate` admits it, with
    /// what `host` at the end of `world` says to it over TLS, and with the reason
    /// otherwise. Says nothing of the login, and follows no redirect.
    ///
    /// Cancel safety: dropped, both ends are cut.
    async fn relay(
        &self,
        host: &CredentialHost,
        program: BoxedBytes,
        world: BoxedBytes,
        gate: Arc<dyn GitGate>,
    );
}
