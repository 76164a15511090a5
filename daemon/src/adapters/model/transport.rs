//! The transport that both providers share: one POST, one stream of events.
//!
//! Owns connections, deadlines, cancellation and bounds. What the bytes mean
//! is a [`Dialect`]'s business; whether to ask again is `retrying`'s.

use std::{
    error::Error as _,
    future::Future,
    path::Path,
    time::{Duration, SystemTime},
};

use async_trait::async_trait;
use http::{HeaderMap, header::CONTENT_TYPE};
use reqwest::{Certificate, Client, Response, Url, redirect::Policy};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    ModelSettings,
    provider_error::{ErrorBody, Refusal},
    reply::Reply,
    sse::SseDecoder,
};
use crate::{
    domain::secret::Secret,
    ports::model::{ModelError, ModelPort, ModelProgress, ModelReply, ModelRequest},
};

/// Most bytes of one streamed reply. Frames cost about 300 bytes a token, so
/// this is far above any output cap.
const MAX_REPLY_BYTES: usize = 128 * 1024 * 1024;
/// Most bytes read of an answer that is no stream.
const MAX_REFUSAL_BYTES: usize = 64 * 1024;
/// Longest wait for the end of a stream whose reply is complete, so that its
/// connection can be used again. The end is on its way then, if it comes.
const LINGER: Duration = Duration::from_millis(50);

/// A provider's language over HTTP.
pub(super) trait Dialect: Send + Sync {
    type Reader: ReplyReader;

    /// The body of the request; equal requests give equal bytes.
    fn encode(&self, request: &ModelRequest) -> Vec<u8>;
    /// A reader for the reply to this request.
    fn reader(&self, request: &ModelRequest) -> Self::Reader;
    /// What an answer that is no reply means.
    fn refusal(&self, refusal: &Refusal) -> ModelError;
    /// The header that carries the provider's id of a request.
    fn request_id_header(&self) -> &'static str;
}

/// Reads one streamed reply, event by event.
pub(super) trait ReplyReader: Send {
    /// Takes the data of one event.
    fn event(
        &mut self,
        data: &str,
        progress: &mut (dyn FnMut(ModelProgress) + Send),
    ) -> Result<Next, ModelError>;

    /// Whether the reply would be complete if nothing more came.
    fn is_complete(&self) -> bool;

    /// The reply, or [`ModelError::Cut`] where [`ReplyReader::is_complete`]
    /// says no. `why` is what ended the stream.
    fn end(self, why: &str) -> Result<Reply, ModelError>;
}

/// Whether a stream has more to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    More,
    Done,
}

/// Where a provider is and how to get in.
pub(super) struct Endpoint {
    /// Provider and host, for messages.
    pub(super) provider: String,
    pub(super) url: Url,
    pub(super) headers: HeaderMap,
    /// The key in `headers`, to be taken out of whatever the provider says.
    pub(super) key: Option<Secret>,
}

/// A model behind HTTP.
pub(super) struct HttpModel<D> {
    dialect: D,
    endpoint: Endpoint,
    client: Client,
    idle_timeout: Duration,
    call_timeout: Duration,
}

impl<D: Dialect> HttpModel<D> {
    pub(super) fn new(
        dialect: D,
        endpoint: Endpoint,
        settings: &ModelSettings,
    ) -> Result<Self, ModelError> {
        if endpoint.url.scheme() == "http" && endpoint.key.is_some() && !is_loopback(&endpoint.url)
        {
            tracing::warn!(
                provider = endpoint.provider,
                "the key travels in clear text; use https"
            );
        }
        let client = client(&endpoint, settings).map_err(|message| ModelError::Unreachable {
            provider: endpoint.provider.clone(),
            message,
        })?;
        Ok(Self {
            dialect,
            endpoint,
            client,
            idle_timeout: settings.idle_timeout,
            call_timeout: settings.call_timeout,
        })
    }

    async fn exchange(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
    ) -> Result<ModelReply, ModelError> {
        let sending = self
            .client
            .post(self.endpoint.url.clone())
            .headers(self.endpoint.headers.clone())
            .body(self.dialect.encode(request))
            .send();
        let response = self
            .within_idle(sending)
            .await?
            .map_err(|error| self.not_answered(error))?;
        if response.status() != 200 || !may_be_a_stream(response.headers()) {
            return Err(self.refused(response).await);
        }
        let provider_request_id = response
            .headers()
            .get(self.dialect.request_id_header())
            .and_then(|id| id.to_str().ok())
            .map(str::to_owned);
        let reader = self.dialect.reader(request);
        let Reply { turn, stop, usage } = self.read_stream(response, reader, progress).await?;
        Ok(ModelReply {
            turn,
            stop,
            usage,
            provider_request_id,
        })
    }

    /// A request without an answer: one that was sent may have been worked on.
    fn not_answered(&self, error: reqwest::Error) -> ModelError {
        let (was_sent, provider) = (!error.is_connect(), self.provider());
        let message = causes(error);
        match was_sent {
            true => ModelError::Cut { provider, message },
            false => ModelError::Unreachable { provider, message },
        }
    }

    async fn read_stream(
        &self,
        mut response: Response,
        mut reader: D::Reader,
        progress: &mpsc::Sender<ModelProgress>,
    ) -> Result<Reply, ModelError> {
        // A slow watcher loses progress; it never slows the call.
        let mut tell = |event| drop(progress.try_send(event));
        let mut decoder = SseDecoder::default();
        let mut events = Vec::new();
        let mut received_bytes = 0;
        let why = loop {
            let chunk = match self.within_idle(response.chunk()).await {
                Ok(Ok(Some(chunk))) => chunk,
                Ok(Ok(None)) => break "the stream ended early".to_owned(),
                Ok(Err(error)) => break causes(error),
                Err(_) if reader.is_complete() => break "it fell silent".to_owned(),
                Err(idle) => return Err(idle),
            };
            received_bytes += chunk.len();
            if received_bytes > MAX_REPLY_BYTES {
                return Err(self.protocol(format!("it is larger than {MAX_REPLY_BYTES} bytes")));
            }
            decoder
                .push(&chunk, &mut events)
                .map_err(|error| self.protocol(error.to_string()))?;
            for data in events.drain(..) {
                if reader.event(&data, &mut tell)? == Next::Done {
                    let _ = timeout(LINGER, response.chunk()).await;
                    return reader.end("");
                }
            }
        };
        // The last event may lack its blank line. Where it is broken, the cut
        // is what matters, not the broken event.
        if let Some(data) = decoder.finish() {
            match reader.event(&data, &mut tell) {
                Ok(_) | Err(ModelError::Protocol { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        reader.end(&why)
    }

    /// Reads an answer that is no stream of events.
    async fn refused(&self, mut response: Response) -> ModelError {
        let status = response.status().as_u16();
        let headers = response.headers().clone();
        let mut body = Vec::new();
        // Whatever part of the body arrives will do.
        while let Ok(Ok(Some(chunk))) = self.within_idle(response.chunk()).await {
            body.extend_from_slice(&chunk);
            if body.len() >= MAX_REFUSAL_BYTES {
                body.truncate(MAX_REFUSAL_BYTES);
                break;
            }
        }
        let body = String::from_utf8_lossy(&body).into_owned();
        let value = serde_json::from_str(&body).unwrap_or_default();
        if status == 200 && ErrorBody::from_value(&value).is_none() {
            let sent = headers
                .get(CONTENT_TYPE)
                .and_then(|kind| kind.to_str().ok());
            return self.protocol(format!(
                "it sent {} although a stream of events was asked for; is the base URL right?",
                sent.unwrap_or("something else")
            ));
        }
        self.dialect.refusal(&Refusal {
            status,
            headers,
            body,
            received_at: SystemTime::now(),
        })
    }

    async fn within_idle<F: Future>(&self, future: F) -> Result<F::Output, ModelError> {
        timeout(self.idle_timeout, future)
            .await
            .map_err(|_| ModelError::Idle {
                provider: self.provider(),
                idle: self.idle_timeout,
            })
    }

    fn protocol(&self, message: String) -> ModelError {
        ModelError::Protocol {
            provider: self.provider(),
            message,
        }
    }

    fn provider(&self) -> String {
        self.endpoint.provider.clone()
    }

    /// Takes the key out of what the provider said: some answer a wrong key by
    /// repeating it.
    fn without_key(&self, mut error: ModelError) -> ModelError {
        let Some(key) = &self.endpoint.key else {
            return error;
        };
        match &mut error {
            ModelError::Unreachable { message, .. }
            | ModelError::Cut { message, .. }
            | ModelError::RateLimited { message, .. }
            | ModelError::Server { message, .. }
            | ModelError::Quota { message, .. }
            | ModelError::Auth { message, .. }
            | ModelError::ContextOverflow { message, .. }
            | ModelError::InvalidRequest { message, .. }
            | ModelError::Protocol { message, .. }
            | ModelError::Unusable { message, .. }
            | ModelError::Script { message, .. } => {
                *message = message.replace(key.expose(), "***");
            }
            ModelError::Cancelled | ModelError::Idle { .. } => {}
        }
        error
    }
}

#[async_trait]
impl<D: Dialect> ModelPort for HttpModel<D> {
    /// Cancel safety: dropping the future closes the connection, or resets the
    /// stream on HTTP/2; nothing else outlives it.
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let exchange = timeout(self.call_timeout, self.exchange(request, progress));
        let outcome = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(ModelError::Cancelled),
            outcome = exchange => outcome,
        };
        let too_long = || ModelError::Cut {
            provider: self.provider(),
            message: format!("it was not complete after {:?}", self.call_timeout),
        };
        outcome
            .unwrap_or_else(|_| Err(too_long()))
            .map_err(|error| self.without_key(error))
    }
}

/// Servers are lax about the type of a stream; these two are surely none.
fn may_be_a_stream(headers: &HeaderMap) -> bool {
    let kind = headers
        .get(CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    !kind.starts_with("application/json") && !kind.starts_with("text/html")
}

fn client(endpoint: &Endpoint, settings: &ModelSettings) -> Result<Client, String> {
    // `reqwest` takes the process's provider. Another part may have installed
    // one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = Client::builder()
        .user_agent(concat!("compyd/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(settings.connect_timeout)
        // A redirect would carry the key to another host.
        .redirect(Policy::none());
    if is_loopback(&endpoint.url) {
        builder = builder.no_proxy();
    }
    if let Some(file) = &settings.extra_ca_file {
        builder = builder.tls_certs_merge(certificates(file)?);
    }
    builder.build().map_err(causes)
}

fn certificates(file: &Path) -> Result<Vec<Certificate>, String> {
    let pem = std::fs::read(file)
        .map_err(|error| format!("cannot read the CA bundle {}: {error}", file.display()))?;
    let certificates = Certificate::from_pem_bundle(&pem).map_err(causes)?;
    if certificates.is_empty() {
        return Err(format!(
            "the CA bundle {} holds no PEM certificate",
            file.display()
        ));
    }
    Ok(certificates)
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost"
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|address| address.is_loopback())
}

/// The address of `path` below a base URL, and the host for messages.
pub(super) fn endpoint_url(
    provider: &str,
    base: &str,
    path: &str,
) -> Result<(Url, String), ModelError> {
    let wrong = |why: &str| ModelError::Unreachable {
        provider: provider.to_owned(),
        message: format!("the base URL {why}; it looks like https://host/v1"),
    };
    let base = Url::parse(base.trim()).map_err(|error| wrong(&format!("is wrong: {error}")))?;
    if !matches!(base.scheme(), "http" | "https") {
        return Err(wrong(&format!("has the scheme `{}`", base.scheme())));
    }
    if !base.username().is_empty() || base.password().is_some() {
        return Err(wrong(
            "holds a user or a password, which would show in messages",
        ));
    }
    if base.query().is_some() || base.fragment().is_some() {
        return Err(wrong("holds a query or a fragment"));
    }
    let mut url = base;
    let full = format!("{}{path}", url.path().trim_end_matches('/'));
    url.set_path(&full);
    let host = url.host_str().unwrap_or_default();
    let host = url
        .port()
        .map_or(host.to_owned(), |port| format!("{host}:{port}"));
    Ok((url, format!("{provider} at {host}")))
}

/// An error of `reqwest` with its causes and without the URL.
fn causes(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.ends_with(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        source = cause.source();
    }
    text
}
