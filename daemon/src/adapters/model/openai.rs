//! Chat completions as OpenAI defined them and many servers speak them:
//! Ollama, vLLM, Groq, DeepSeek, OpenRouter, Together, xAI, Venice.
//!
//! Servers differ in what they leave out or repeat. The reader believes the
//! frames it gets, not the order or the completeness that the reference
//! promises; each oddity has a test in `wire_tests`.
//!
//! Reasoning is shown to those who watch and not sent back: there is no
//! agreement between servers on how.

mod request;
mod stream;

use http::{HeaderMap, HeaderValue, header::AUTHORIZATION};

use self::stream::OpenAiReader;
use super::{
    ModelSettings, key_header, missing_key,
    provider_error::{self, ErrorBody, Refusal, Seen, SilentLimit},
    transport::{Dialect, Endpoint, HttpModel, endpoint_url},
};
use crate::ports::model::{ModelError, ModelRequest};

const DEFAULT_BASE_URL: &str = "https://api.openai.com/v1";
const PROVIDER: &str = "openai";
const KEY_VARIABLE: &str = "OPENAI_API_KEY";

/// The dialect; see the module.
pub(super) struct OpenAi {
    model: String,
    provider: String,
    output_cap: OutputCap,
}

/// The name of the field for the output cap: OpenAI's newer models refuse the
/// old one, and most other servers know only the old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OutputCap {
    MaxTokens,
    MaxCompletionTokens,
}

impl OutputCap {
    fn of_host(host: Option<&str>) -> Self {
        match host {
            Some("api.openai.com") => Self::MaxCompletionTokens,
            Some(_) | None => Self::MaxTokens,
        }
    }
}

/// A model behind chat completions.
pub(super) fn connect(
    model: &str,
    settings: &ModelSettings,
) -> Result<HttpModel<OpenAi>, ModelError> {
    let base = settings.openai_base_url.as_deref();
    let (url, provider) = endpoint_url(
        PROVIDER,
        base.unwrap_or(DEFAULT_BASE_URL),
        "/chat/completions",
    )?;
    let key = settings
        .openai_api_key
        .clone()
        .filter(|key| !key.is_empty());
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    match &key {
        Some(key) => {
            let value = key_header(&provider, KEY_VARIABLE, &format!("Bearer {}", key.expose()))?;
            headers.insert(AUTHORIZATION, value);
        }
        None if base.is_none() => return Err(missing_key(&provider, KEY_VARIABLE)),
        None => {}
    }
    let output_cap = OutputCap::of_host(url.host_str());
    let dialect = OpenAi {
        model: model.to_owned(),
        provider: provider.clone(),
        output_cap,
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
impl OpenAi {
    /// The dialect of nobody.
    pub(super) fn unconnected() -> Self {
        Self {
            model: "m".to_owned(),
            provider: PROVIDER.to_owned(),
            output_cap: OutputCap::MaxTokens,
        }
    }
}

impl Dialect for OpenAi {
    type Reader = OpenAiReader;

    fn encode(&self, request: &ModelRequest) -> Vec<u8> {
        request::encode(&self.model, self.output_cap, request)
    }

    fn reader(&self, request: &ModelRequest) -> OpenAiReader {
        OpenAiReader::new(self.provider.clone(), request)
    }

    fn refusal(&self, refusal: &Refusal) -> ModelError {
        let error = ErrorBody::from_body(&refusal.body);
        let wait = provider_error::retry_after(&refusal.headers, refusal.received_at)
            .or_else(|| provider_error::wait_in_words(&error.message))
            .or_else(|| provider_error::openai_reset(&refusal.headers));
        let meaning = match refusal.status {
            200 => stream::meaning(&error),
            status => status,
        };
        Seen {
            provider: &self.provider,
            status: refusal.status,
            meaning,
            error,
            wait,
            silent_limit: SilentLimit::Rate,
        }
        .classify()
    }

    fn request_id_header(&self) -> &'static str {
        "x-request-id"
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::domain::conversation::Message;

    #[test]
    fn the_output_cap_has_the_name_that_its_host_knows() {
        let request = ModelRequest {
            system: "s".into(),
            tools: Vec::new(),
            messages: vec![Message::User { text: "u".into() }],
            max_output_tokens: 512,
            turns_left_out: 0,
        };
        let hosts = [
            ("api.openai.com", "max_completion_tokens", "max_tokens"),
            ("localhost", "max_tokens", "max_completion_tokens"),
        ];
        for (host, there, absent) in hosts {
            let body = request::encode("m", OutputCap::of_host(Some(host)), &request);
            let body: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(body[there], 512, "{host}");
            assert_eq!(body.get(absent), None, "{host}");
        }
    }
}
