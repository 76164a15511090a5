//! A provider for tests, at the level of HTTP: it speaks either dialect,
//! records every request and checks what must hold for each of them.
//!
//! A request that breaks a rule is answered with status 400 and the rule, so
//! that a run against the fake fails loudly, and is listed by
//! [`FakeProvider::violations`]. The rules are in [`invariants`].
//!
//! Answers come from a closure over the request ([`FakeProvider::start`]),
//! from a list ([`FakeProvider::with_answers`]) or from a transcript
//! ([`FakeProvider::playing`]). An [`Answer`] is bytes with a status and
//! headers, split where the test wants, and ends well, cut, or not at all.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, StreamBody, combinators::BoxBody};
use hyper::{
    body::{Frame, Incoming},
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};

use super::scripted::{Fault, Transcript};

pub mod invariants;
pub mod wire;

use invariants::Conversations;

/// Which protocol is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WireDialect {
    /// Chat completions.
    OpenAi,
    /// Messages.
    Anthropic,
}

/// A request as it arrived.
#[derive(Debug, Clone)]
pub struct RecordedRequest {
    /// Its headers.
    pub headers: HeaderMap,
    /// Its path.
    pub path: String,
    /// Its body, byte by byte.
    pub text: String,
    /// Its body; null where it is not JSON.
    pub body: Value,
}

impl RecordedRequest {
    /// How many turns of the model it holds.
    #[must_use]
    pub fn turns(&self) -> usize {
        self.messages()
            .iter()
            .filter(|message| message["role"] == "assistant")
            .count()
    }

    /// What the model was told since its last turn, joined by line feeds.
    #[must_use]
    pub fn told(&self) -> String {
        let messages = self.messages();
        let last_turn = messages
            .iter()
            .rposition(|message| message["role"] == "assistant");
        let since = &messages[last_turn.map_or(0, |at| at + 1)..];
        let texts = since.iter().flat_map(|message| match &message["content"] {
            Value::String(text) => vec![text.clone()],
            Value::Array(blocks) => blocks.iter().filter_map(block_text).collect(),
            _ => Vec::new(),
        });
        texts.collect::<Vec<_>>().join("\n")
    }

    fn messages(&self) -> &[Value] {
        self.body["messages"].as_array().map_or(&[], Vec::as_slice)
    }
}

fn block_text(block: &Value) -> Option<String> {
    block["text"]
        .as_str()
        .or(block["content"].as_str())
        .map(str::to_owned)
}

/// How an answer ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    Well,
    Cut,
    Hang,
}

/// What is sent back.
#[derive(Debug, Clone)]
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    chunks: Vec<Bytes>,
    ending: Ending,
    /// Not even a status is sent.
    silent: bool,
    /// Waited before each chunk.
    pace: Duration,
    /// The rule that the request broke, where this refuses it.
    violation: Option<String>,
}

impl Answer {
    /// A stream of events, given as it goes over the wire.
    #[must_use]
    pub fn stream(text: impl Into<Bytes>) -> Self {
        Self::bytes(200, "text/event-stream", text.into())
    }

    /// A JSON document, as errors are.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        Self::bytes(status, "application/json", body.to_string().into())
    }

    /// Anything.
    #[must_use]
    pub fn bytes(status: u16, content_type: &str, body: Bytes) -> Self {
        Self {
            status,
            headers: vec![("content-type".to_owned(), content_type.to_owned())],
            chunks: vec![body],
            ending: Ending::Well,
            silent: false,
            pace: Duration::ZERO,
            violation: None,
        }
    }

    /// Nothing at all, for ever.
    #[must_use]
    pub fn silence() -> Self {
        Self {
            silent: true,
            ..Self::stream("")
        }
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// In chunks of this many bytes, wherever that splits the text.
    #[must_use]
    pub fn split_every(mut self, bytes: usize) -> Self {
        let whole: Vec<u8> = self.chunks.concat();
        self.chunks = whole
            .chunks(bytes.max(1))
            .map(Bytes::copy_from_slice)
            .collect();
        self
    }

    /// With this wait before each chunk.
    #[must_use]
    pub fn paced(mut self, pace: Duration) -> Self {
        self.pace = pace;
        self
    }

    /// The connection breaks after the last chunk.
    #[must_use]
    pub fn then_cut(mut self) -> Self {
        self.ending = Ending::Cut;
        self
    }

    /// Nothing follows the last chunk, and the connection stays.
    #[must_use]
    pub fn then_hang(mut self) -> Self {
        self.ending = Ending::Hang;
        self
    }
}

/// Gives the answer to each request.
pub type Answers = Box<dyn FnMut(&RecordedRequest) -> Answer + Send>;

/// The server. It ends when it is dropped.
pub struct FakeProvider {
    dialect: WireDialect,
    address: SocketAddr,
    shared: Arc<Shared>,
    server: JoinHandle<()>,
}

struct Shared {
    dialect: WireDialect,
    /// Held for one request at a time, so that answers come in order.
    state: Mutex<State>,
    /// Number of requests so far.
    arrived: watch::Sender<usize>,
    /// Number of answers whose reader went away before their end.
    abandoned: watch::Sender<usize>,
    open: AtomicUsize,
}

struct State {
    answers: Answers,
    requests: Vec<RecordedRequest>,
    conversations: Conversations,
    violations: Vec<String>,
    /// Broken rules that nobody has asked for.
    unseen: usize,
}

impl FakeProvider {
    /// Serves on a port of the kernel's choice on loopback.
    ///
    /// # Panics
    /// When no port can be bound.
    pub async fn start(dialect: WireDialect, answers: Answers) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0")
            .await
            .expect("loopback has free ports");
        let address = listener
            .local_addr()
            .expect("a bound socket has an address");
        let state = State {
            answers,
            requests: Vec::new(),
            conversations: Conversations::new(dialect),
            violations: Vec::new(),
            unseen: 0,
        };
        let shared = Arc::new(Shared {
            dialect,
            state: Mutex::new(state),
            arrived: watch::Sender::new(0),
            abandoned: watch::Sender::new(0),
            open: AtomicUsize::new(0),
        });
        // On drop it is aborted, and its connections with it.
        let server = tokio::spawn(serve(listener, Arc::clone(&shared)));
        Self {
            dialect,
            address,
            shared,
            server,
        }
    }

    /// Gives these answers in turn; a request beyond them is a violation.
    pub async fn with_answers(dialect: WireDialect, answers: Vec<Answer>) -> Self {
        let mut answers = VecDeque::from(answers);
        let next = move |_: &RecordedRequest| {
            answers
                .pop_front()
                .unwrap_or_else(|| refuse("the fake has no more answers"))
        };
        Self::start(dialect, Box::new(next)).await
    }

    /// Plays a transcript over the wire, as `scripted` plays it in the daemon.
    /// Ids of calls are the provider's own (`toolu_` or `call_` and numbers).
    pub async fn playing(dialect: WireDialect, transcript: Transcript) -> Self {
        let mut faults_spent = std::collections::HashMap::<usize, usize>::new();
        let next = move |request: &RecordedRequest| {
            let number = request.turns();
            let spent = faults_spent.entry(number).or_default();
            if let Some(fault) = transcript.faults(number).get(*spent) {
                *spent += 1;
                return fault_answer(dialect, fault);
            }
            let Some(turn) = transcript.turn(number) else {
                return refuse(&format!(
                    "the transcript ends after {} turns",
                    transcript.len()
                ));
            };
            match turn.check(&request.told()) {
                Ok(()) => Answer::stream(wire::turn(dialect, number, turn, request.text.len()))
                    .paced(turn.delay),
                Err(told) => refuse(&format!(
                    "turn {number} (line {}) expects something else than: {told}",
                    turn.line
                )),
            }
        };
        Self::start(dialect, Box::new(next)).await
    }

    /// The base URL to configure.
    #[must_use]
    pub fn base_url(&self) -> String {
        match self.dialect {
            WireDialect::OpenAi => format!("http://{}/v1", self.address),
            WireDialect::Anthropic => format!("http://{}", self.address),
        }
    }

    /// Every request so far.
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.shared.state().requests.clone()
    }

    /// Every broken rule so far. One that nobody asks for fails the test when
    /// the provider is dropped.
    #[must_use]
    pub fn violations(&self) -> Vec<String> {
        let mut state = self.shared.state();
        state.unseen = 0;
        state.violations.clone()
    }

    /// Waits until this many requests have arrived in all.
    ///
    /// # Panics
    /// When they have not after 20 s.
    pub async fn wait_for_requests(&self, count: usize) {
        wait_until(self.shared.arrived.subscribe(), count, "requests").await;
    }

    /// Waits until this many answers were abandoned by their reader: the
    /// connection was closed before the end.
    ///
    /// # Panics
    /// When they were not after 20 s.
    pub async fn wait_for_abandoned(&self, count: usize) {
        wait_until(
            self.shared.abandoned.subscribe(),
            count,
            "abandoned answers",
        )
        .await;
    }

    /// Number of answers that are being sent now.
    #[must_use]
    pub fn open_answers(&self) -> usize {
        self.shared.open.load(Ordering::SeqCst)
    }
}

impl Drop for FakeProvider {
    fn drop(&mut self) {
        self.server.abort();
        let state = self.shared.state();
        if state.unseen > 0 && !std::thread::panicking() {
            let violations = state.violations.join("; ");
            drop(state);
            panic!("requests broke the rules: {violations}");
        }
    }
}

impl Shared {
    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn wait_until(mut count: watch::Receiver<usize>, wanted: usize, what: &str) {
    let reached = count.wait_for(|count| *count >= wanted);
    match tokio::time::timeout(Duration::from_secs(20), reached).await {
        Ok(reached) => drop(reached.expect("the fake holds the sender")),
        Err(_) => panic!("there are no {wanted} {what} after 20 s"),
    }
}

/// The answer to a request that breaks a rule: it is listed, and the caller's
/// run fails.
fn refuse(rule: &str) -> Answer {
    let message = format!("fake provider: {rule}");
    let body = json!({"error": {"type": "invalid_request_error", "message": message}});
    Answer {
        violation: Some(rule.to_owned()),
        ..Answer::json(400, &body)
    }
}

fn fault_answer(dialect: WireDialect, fault: &Fault) -> Answer {
    match fault {
        Fault::Hang => Answer::silence(),
        Fault::Cut => Answer::stream(wire::opening(dialect)).then_cut(),
        Fault::Status {
            status,
            retry_after,
        } => {
            let body = json!({"error": {"type": "fault", "message": "a fault of the transcript"}});
            let answer = Answer::json(*status, &body);
            match retry_after {
                Some(wait) => answer.header("retry-after", &wait.as_secs_f64().to_string()),
                None => answer,
            }
        }
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        // A listener that fails ends the fake, and with it the test.
        let Ok((stream, _)) = listener.accept().await else {
            return;
        };
        while connections.try_join_next().is_some() {}
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(move |request| answer(Arc::clone(&shared), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            // It breaks whenever a test cuts it.
            let _ = connection.await;
        });
    }
}

type Body = BoxBody<Bytes, std::io::Error>;

async fn answer(
    shared: Arc<Shared>,
    request: Request<Incoming>,
) -> Result<Response<Body>, Infallible> {
    let (head, body) = request.into_parts();
    let bytes = body
        .collect()
        .await
        .map(|body| body.to_bytes())
        .unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_str(&text).unwrap_or(Value::Null);
    let path = head.uri.path().to_owned();
    let recorded = RecordedRequest {
        headers: head.headers,
        path,
        text,
        body,
    };
    let answer = shared.next_answer(recorded);
    let open = Open::new(&shared);
    shared.arrived.send_modify(|count| *count += 1);
    if answer.silent {
        let _held = open;
        return std::future::pending().await;
    }
    let mut response = Response::builder().status(answer.status);
    for (name, value) in &answer.headers {
        response = response.header(name, value);
    }
    let body = BodyExt::boxed(StreamBody::new(frames(answer, open)));
    Ok(response.body(body).expect("tests give valid headers"))
}

impl Shared {
    fn next_answer(&self, request: RecordedRequest) -> Answer {
        let mut state = self.state();
        let broken = invariants::check(self.dialect, &request, &mut state.conversations);
        let answer = match broken.is_empty() {
            true => (state.answers)(&request),
            false => refuse(&broken.join("; ")),
        };
        state.unseen += usize::from(answer.violation.is_some());
        state.violations.extend(answer.violation.clone());
        state.requests.push(request);
        answer
    }
}

/// Counts an answer as open, and as abandoned when it is dropped before its
/// end.
struct Open {
    shared: Arc<Shared>,
    ended: bool,
}

impl Open {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.open.fetch_add(1, Ordering::SeqCst);
        Self {
            shared: Arc::clone(shared),
            ended: false,
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.open.fetch_sub(1, Ordering::SeqCst);
        if !self.ended {
            self.shared.abandoned.send_modify(|count| *count += 1);
        }
    }
}

fn frames(
    answer: Answer,
    open: Open,
) -> impl Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + Sync {
    let Answer {
        chunks,
        ending,
        pace,
        ..
    } = answer;
    let chunks = stream::iter(chunks).then(move |chunk| async move {
        // Yielding lets each chunk go out by itself.
        match pace.is_zero() {
            true => tokio::task::yield_now().await,
            false => tokio::time::sleep(pace).await,
        }
        Ok(Frame::data(chunk))
    });
    let end = stream::once(async move {
        let mut open = open;
        // What was sent so far goes out before the connection breaks.
        tokio::task::yield_now().await;
        match ending {
            Ending::Hang => std::future::pending::<()>().await,
            Ending::Well | Ending::Cut => open.ended = true,
        }
        ending
    });
    chunks.chain(end.filter_map(|ending| async move {
        (ending == Ending::Cut).then(|| Err(std::io::Error::other("cut by the test")))
    }))
}
