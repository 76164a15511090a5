//! Anthropic's messages API.
//!
//! Every request marks four places for the provider's cache, as many as it
//! allows: the system prompt, the last tool and the last two user messages.
//! Signed thinking goes back exactly as it came, before the rest of its turn.

mod request;
mod stream;

use http::{HeaderMap, HeaderValue};

use self::stream::AnthropicReader;
use super::{
    ModelSettings, key_header, missing_key,
    provider_error::{self, ErrorBody, Refusal, Seen, SilentLimit},
    transport::{Dialect, Endpoint, HttpModel, endpoint_url},
};
use crate::ports::model::{ModelError, ModelRequest};

const DEFAULT_BASE_URL: &str = "https://api.anthropic.com";
const PROVIDER: &str = "anthropic";
const KEY_VARIABLE: &str = "ANTHROPIC_API_KEY";
const API_VERSION: &str = "2023-06-01";

/// The dialect; see the module.
pub(super) struct Anthropic {
    model: String,
    provider: String,
}

/// A model behind the messages API.
pub(super) fn connect(
    model: &str,
    settings: &ModelSettings,
) -> Result<HttpModel<Anthropic>, ModelError> {
    let base = settings.anthropic_base_url.as_deref();
    // Both `https://host` and `https://host/v1` are in use as base URLs.
    let root = base
        .unwrap_or(DEFAULT_BASE_URL)
        .trim()
        .trim_end_matches('/');
    let root = root.strip_suffix("/v1").unwrap_or(root);
    let (url, provider) = endpoint_url(PROVIDER, root, "/v1/messages")?;
    let key = settings
        .anthropic_api_key
        .clone()
        .filter(|key| !key.is_empty());
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("anthropic-version", HeaderValue::from_static(API_VERSION));
    match &key {
        Some(key) => {
            headers.insert(
                "x-api-key",
                key_header(&provider, KEY_VARIABLE, key.expose())?,
            );
        }
        None if base.is_none() => return Err(missing_key(&provider, KEY_VARIABLE)),
        None => {}
    }
    let dialect = Anthropic {
        model: model.to_owned(),
        provider: provider.clone(),
    };
    HttpModel::new(
        dialect,
        Endpoint {
            provider,
            url,
            headers,
            key,
        },
        settings,
    )
}

#[cfg(test)]
impl Anthropic {
    /// The dialect of nobody.
    pub(super) fn unconnected() -> Self {
        Self {
            model: "m".to_owned(),
            provider: PROVIDER.to_owned(),
        }
    }
}

impl Dialect for Anthropic {
    type Reader = AnthropicReader;

    fn encode(&self, request: &ModelRequest) -> Vec<u8> {
        request::encode(&self.model, request)
    }

    fn reader(&self, request: &ModelRequest) -> AnthropicReader {
        AnthropicReader::new(self.provider.clone(), request)
    }

    fn refusal(&self, refusal: &Refusal) -> ModelError {
        let error = ErrorBody::from_body(&refusal.body);
        let now = refusal.received_at;
        let meaning = match refusal.status {
            200 => stream::meaning(&error),
            status => status,
        };
        Seen {
            provider: &self.provider,
            status: refusal.status,
            meaning,
            wait: provider_error::retry_after(&refusal.headers, now)
                .or_else(|| provider_error::anthropic_reset(&refusal.headers, now)),
            error,
            silent_limit: SilentLimit::Spending,
        }
        .classify()
    }

    fn request_id_header(&self) -> &'static str {
        "request-id"
    }
}
