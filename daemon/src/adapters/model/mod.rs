//! Language models: two families of HTTP servers, and a transcript that is
//! played back.
//!
//! Owns everything that is particular to a provider: formats, oddities, error
//! texts, retry headers. It refuses to know sessions, budgets and tools; a
//! call goes in by [`ModelPort`] and a reply or a typed error comes out.
//!
//! ```text
//! build ─> RecordingModel ─> MeteredModel ─> RetryingModel ─┬─> HttpModel<OpenAi>    ─ sse ─ openai/
//!          (where asked)                                    ├─> HttpModel<Anthropic> ─ sse ─ anthropic/
//!                                                           └─> ScriptedModel        ─ transcript
//! ```
//!
//! What a provider sends is untrusted: the size of an event, of a reply, of
//! arguments and of words, and the number of calls are bounded, and a broken
//! reply is an error that says so, never a panic.

use std::{path::PathBuf, sync::Arc, time::Duration};

use http::HeaderValue;

pub use self::{breaker::Breakers, redaction::StoredCredentials, retrying::RetryPolicy};
use self::{
    metered::MeteredModel, recording::RecordingModel, retrying::RetryingModel,
    scripted::ScriptedModel,
};
use crate::{
    domain::{model_name::ModelName, secret::Secret},
    ports::model::{ModelError, ModelPort},
};

mod anthropic;
mod breaker;
#[cfg(any(test, feature = "test-util"))]
pub mod fake_provider;

mod metered;
mod openai;
mod provider_error;
mod recording;
mod redaction;
mod reply;
mod retrying;
pub mod scripted;
mod sse;
mod transport;
#[cfg(test)]
mod wire_tests;

/// What [`build`] needs beside a name.
#[derive(Debug, Clone)]
pub struct ModelSettings {
    /// Base URL of a server that speaks chat completions, `/v1` included;
    /// `None` for OpenAI's own. With one, the key is optional.
    pub openai_base_url: Option<String>,
    /// `OPENAI_API_KEY`.
    pub openai_api_key: Option<Secret>,
    /// Base URL of a server that speaks Anthropic's messages, with or without
    /// `/v1`; `None` for Anthropic's own. With one, the key is optional.
    pub anthropic_base_url: Option<String>,
    /// `ANTHROPIC_API_KEY`.
    pub anthropic_api_key: Option<Secret>,
    /// Longest silence of a provider, before its first byte too; above zero.
    pub idle_timeout: Duration,
    /// Longest time to connect, TLS included; above zero.
    pub connect_timeout: Duration,
    /// Longest time for one try, however busy its stream; above zero.
    pub call_timeout: Duration,
    /// When a failed call is tried again.
    pub retry: RetryPolicy,
    /// What is known of providers that are down; shared by every model.
    pub breakers: Breakers,
    /// PEM bundle of authorities that are trusted beside the system's.
    pub extra_ca_file: Option<PathBuf>,
    /// File to append each reply to, as a transcript for `scripted:FILE`.
    pub record: Option<PathBuf>,
    /// What is taken out of it beside keys.
    pub stored: StoredCredentials,
}

impl Default for ModelSettings {
    fn default() -> Self {
        Self {
            openai_base_url: None,
            openai_api_key: None,
            anthropic_base_url: None,
            anthropic_api_key: None,
            idle_timeout: Duration::from_secs(300),
            connect_timeout: Duration::from_secs(20),
            call_timeout: Duration::from_secs(30 * 60),
            retry: RetryPolicy::default(),
            breakers: Breakers::default(),
            extra_ca_file: None,
            record: None,
            stored: StoredCredentials::default(),
        }
    }
}

/// Makes a model by its name, with retries, and with recording where asked.
/// Reads files and touches no network; cheap enough to do once a session.
///
/// # Errors
/// [`ModelError::Auth`] when a provider's own endpoint has no key, naming the
/// variable; [`ModelError::Unreachable`] when a base URL or the CA bundle is
/// unusable; [`ModelError::Script`] with every mistake of a transcript.
pub fn build(name: &ModelName, settings: &ModelSettings) -> Result<Arc<dyn ModelPort>, ModelError> {
    let (model, provider): (Arc<dyn ModelPort>, _) = match name {
        ModelName::OpenAi(model) => (
            Arc::new(openai::connect(model, settings)?),
            format!("openai {:?}", settings.openai_base_url),
        ),
        ModelName::Anthropic(model) => (
            Arc::new(anthropic::connect(model, settings)?),
            format!("anthropic {:?}", settings.anthropic_base_url),
        ),
        // A transcript is nobody else's.
        ModelName::Scripted(file) => (Arc::new(ScriptedModel::load(file)?), String::new()),
    };
    let breaker = match name {
        ModelName::OpenAi(_) | ModelName::Anthropic(_) => settings.breakers.of(&provider),
        ModelName::Scripted(_) => Arc::default(),
    };
    let model = RetryingModel::new(model, settings.retry.clone(), breaker);
    let model: Arc<dyn ModelPort> = Arc::new(model);
    let model: Arc<dyn ModelPort> = Arc::new(MeteredModel::new(model, name));
    Ok(match &settings.record {
        None => model,
        Some(file) => {
            let keys = [&settings.openai_api_key, &settings.anthropic_api_key];
            let keys: Vec<Secret> = keys.into_iter().flatten().cloned().collect();
            Arc::new(RecordingModel::new(
                model,
                name.to_string(),
                file.clone(),
                &keys,
                settings.stored.clone(),
            ))
        }
    })
}

fn missing_key(provider: &str, variable: &str) -> ModelError {
    ModelError::Auth {
        provider: provider.to_owned(),
        message: format!("there is none; set {variable} for the daemon"),
    }
}

/// A header that holds a key and is kept out of logs.
fn key_header(provider: &str, variable: &str, value: &str) -> Result<HeaderValue, ModelError> {
    let mut value = HeaderValue::from_str(value).map_err(|_| ModelError::Auth {
        provider: provider.to_owned(),
        message: format!("{variable} holds characters that no key has"),
    })?;
    value.set_sensitive(true);
    Ok(value)
}
