//! Records every call of the API: who called what with which arguments, and how
//! that ended.
//!
//! A call that may change something, which has a `request_id`, is recorded as
//! soon as its first message is there, before its handler sees it; every call
//! is recorded when it has ended. Services that are not Compy's own, like
//! health, are not recorded.

mod arguments;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
    time::Instant,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use serde_json::Value;
use tonic::{Code, body::Body};
use tower::{Layer, Service};

use self::arguments::FirstMessage;
use super::{access::Caller, methods::Methods};
use crate::{
    domain::audit::{Entry, Kind, Outcome},
    service::audit::Audit,
};

/// Records what a server is asked.
#[derive(Clone)]
pub(super) struct Recorded {
    audit: Audit,
    methods: Arc<Methods>,
}

impl Recorded {
    /// Records calls of these methods in this log.
    pub(super) fn new(audit: Audit, methods: Arc<Methods>) -> Self {
        Self { audit, methods }
    }
}

impl<S> Layer<S> for Recorded {
    type Service = RecordedService<S>;

    fn layer(&self, inner: S) -> RecordedService<S> {
        RecordedService {
            inner,
            recorded: self.clone(),
        }
    }
}

/// A server whose calls are recorded.
#[derive(Clone)]
pub(super) struct RecordedService<S> {
    inner: S,
    recorded: Recorded,
}

impl<S, C> Service<Request<Body>> for RecordedService<S>
where
    S: Service<Request<Body>, Response = Response<C>> + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
    C: HttpBody<Data = Bytes> + Unpin + 'static,
{
    type Response = Response<RecordedBody<C>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path();
        let Some(method) = self.recorded.methods.get(path) else {
            let answer = self.inner.call(request);
            return Box::pin(async move {
                let (parts, body) = answer.await?.into_parts();
                Ok(Response::from_parts(
                    parts,
                    RecordedBody { body, ending: None },
                ))
            });
        };
        let call = Arc::new(Mutex::new(Call {
            audit: self.recorded.audit.clone(),
            method: method.name.clone(),
            caller: Caller::of(request.extensions()).cloned(),
            first: FirstMessage::of(method.input.clone()),
            code: None,
            begun: Instant::now(),
        }));
        let ending = Ending(call.clone());
        let request = request.map(|body| Body::new(Overheard { body, call }));
        let answer = self.inner.call(request);
        Box::pin(async move {
            let ending = ending;
            let (parts, body) = answer.await?.into_parts();
            ending.look(&parts.headers);
            let ending = Some(ending);
            Ok(Response::from_parts(parts, RecordedBody { body, ending }))
        })
    }
}

/// A call under way.
struct Call {
    audit: Audit,
    method: String,
    /// `None` where nobody asked who it is.
    caller: Option<Caller>,
    first: FirstMessage,
    /// As far as it is known.
    code: Option<Code>,
    begun: Instant,
}

impl Call {
    /// Takes in bytes of the request.
    fn hear(&mut self, bytes: &[u8]) {
        if !self.first.hear(bytes) {
            return;
        }
        let audit = &self.audit;
        self.first.shorten(|values| audit.shortened(values));
        if self.first.may_change_something() {
            let (entry, arguments) = self.entry(Kind::ApiStarted);
            self.audit.record_call(entry, arguments);
        }
    }

    /// An entry, and the arguments that belong to it.
    fn entry(&self, kind: Kind) -> (Entry, Value) {
        let caller = self.caller.as_ref();
        let name = caller.map_or_else(|| "?".to_owned(), Caller::name);
        let mut entry = self.audit.entry(kind, name).with_tool(&self.method);
        for (key, value) in caller.map(Caller::details).unwrap_or_default() {
            entry = entry.with(key, value);
        }
        let arguments = self.first.arguments();
        entry.workspace = arguments.workspace;
        entry.session = arguments.session;
        entry.process = arguments.process;
        (entry, arguments.values)
    }

    fn end(&self) {
        // A client that has gone is told nothing.
        let code = self.code.unwrap_or(Code::Cancelled);
        let duration_ms = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (entry, arguments) = self.entry(Kind::ApiCall);
        let entry = entry
            .with("code", format!("{code:?}"))
            .with("duration_ms", duration_ms);
        let entry = match code {
            Code::Ok => entry.with_outcome(Outcome::Ok),
            Code::PermissionDenied | Code::Unauthenticated => entry.with_outcome(Outcome::Denied),
            // Who watches something ends that.
            Code::Cancelled => entry,
            Code::Unknown
            | Code::InvalidArgument
            | Code::DeadlineExceeded
            | Code::NotFound
            | Code::AlreadyExists
            | Code::ResourceExhausted
            | Code::FailedPrecondition
            | Code::Aborted
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss => entry.with_outcome(Outcome::Failed),
        };
        self.audit.record_call(entry, arguments);
    }
}

/// The request and the answer of a call both tell it something.
type SharedCall = Arc<Mutex<Call>>;

fn lock(call: &SharedCall) -> MutexGuard<'_, Call> {
    call.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Records the end of a call when it is dropped.
struct Ending(SharedCall);

impl Ending {
    /// Takes the code from headers or trailers.
    fn look(&self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            lock(&self.0).code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Ending {
    fn drop(&mut self) {
        lock(&self.0).end();
    }
}

/// The request of a call, which its handler reads.
struct Overheard {
    body: Body,
    call: SharedCall,
}

impl HttpBody for Overheard {
    type Data = Bytes;
    type Error = tonic::Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, tonic::Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            lock(&self.call).hear(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// The answer of a call, with its code at the end.
pub(super) struct RecordedBody<C> {
    body: C,
    ending: Option<Ending>,
}

impl<C: HttpBody<Data = Bytes> + Unpin> HttpBody for RecordedBody<C> {
    type Data = Bytes;
    type Error = C::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, C::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
            && let Some(ending) = &self.ending
        {
            ending.look(trailers);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use compyd_proto::v1::{
        DeleteSnapshotRequest, EnvironmentVariable, ExecRequest, ExecStart, GetSessionRequest,
        exec_request::Part,
    };
    use http_body_util::{BodyExt as _, Full};
    use prost::Message;
    use serde_json::json;

    use super::*;
    use crate::{
        adapters::memory::{ManualClock, MemoryAudit},
        domain::audit::bounded,
        service::redaction::Redactions,
    };

    fn framed(message: &impl Message) -> Bytes {
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        [&[0], length.as_slice(), &message].concat().into()
    }

    /// What is recorded of a call that ends with this status, and what had been
    /// when its handler had the request.
    async fn recorded(path: &str, request: Bytes, status: &str) -> (Vec<Entry>, Vec<Entry>) {
        let log = Arc::new(MemoryAudit::default());
        let audit = Audit::new(
            log.clone(),
            Arc::new(ManualClock::default()),
            Redactions::default(),
        );
        let (seen, status) = (Arc::new(Mutex::new(Vec::new())), status.to_owned());
        let (at_handler, seen_by) = (log.clone(), seen.clone());
        let inner = tower::service_fn(move |request: Request<Body>| {
            let (log, seen, status) = (at_handler.clone(), seen_by.clone(), status.clone());
            async move {
                request.into_body().collect().await.unwrap();
                *seen.lock().unwrap() = log.entries();
                let answer = Response::builder().header("grpc-status", status);
                Ok::<_, Infallible>(answer.body(Full::new(Bytes::new())).unwrap())
            }
        });
        let request = Request::builder()
            .uri(path)
            .body(Body::new(Full::new(request)))
            .unwrap();
        let recorded = Recorded::new(audit, Arc::new(Methods::of_this_build()));
        let answer = recorded.layer(inner).call(request).await;
        answer.unwrap().into_body().collect().await.unwrap();
        let seen = seen.lock().unwrap().clone();
        (seen, log.entries())
    }

    #[tokio::test]
    async fn a_change_is_recorded_before_it_is_made_and_when_it_is() {
        let request = DeleteSnapshotRequest {
            request_id: "r".into(),
            snapshot: "sn-1".into(),
        };
        let path = "/compy.v1.SnapshotService/DeleteSnapshot";
        let (before, all) = recorded(path, framed(&request), "7").await;
        assert_eq!(before.len(), 1);
        assert_eq!(before[0].kind, Kind::ApiStarted);
        assert_eq!(
            before[0].tool.as_deref(),
            Some("SnapshotService/DeleteSnapshot")
        );
        let arguments = json!({"request_id": "r", "snapshot": "sn-1"});
        assert_eq!(before[0].detail["arguments"], arguments);
        assert_eq!(all.len(), 2);
        assert_eq!(all[1].kind, Kind::ApiCall);
        assert_eq!(all[1].outcome, Some(Outcome::Denied));
        assert_eq!(all[1].detail["code"], "PermissionDenied");
    }

    #[tokio::test]
    async fn a_look_is_recorded_once_with_its_links() {
        let request = GetSessionRequest {
            session_id: "se-1".into(),
        };
        let path = "/compy.v1.SessionService/GetSession";
        let (before, all) = recorded(path, framed(&request), "5").await;
        assert_eq!(before, []);
        assert_eq!(all.len(), 1);
        assert_eq!(all[0].session.as_deref(), Some("se-1"));
        assert_eq!(all[0].outcome, Some(Outcome::Failed));
    }

    #[tokio::test]
    async fn a_command_is_recorded_and_the_values_of_its_environment_are_not() {
        let start = ExecStart {
            workspace: "api".into(),
            argv: vec!["cat".into(), "x".into()],
            environment: vec![EnvironmentVariable {
                name: "TOKEN".into(),
                value: "s3cret".into(),
            }],
            ..ExecStart::default()
        };
        let request = ExecRequest {
            part: Some(Part::Start(start)),
        };
        let (_, all) = recorded("/compy.v1.WorkspaceService/Exec", framed(&request), "0").await;
        let last = all.last().unwrap();
        assert_eq!(last.workspace.as_deref(), Some("api"));
        let text = last.fields();
        assert!(text.contains(r#""argv":["cat","x"]"#), "{text}");
        assert!(text.contains("TOKEN") && !text.contains("s3cret"), "{text}");
    }

    #[tokio::test]
    async fn a_long_command_is_recorded_with_its_links_and_the_hash_of_what_is_cut() {
        let script = "x".repeat(70_000) + "; rm -rf /";
        let start = ExecStart {
            request_id: "request-7".into(),
            workspace: "api".into(),
            argv: vec!["sh".into(), "-c".into(), script.clone().into()],
            ..ExecStart::default()
        };
        let request = ExecRequest {
            part: Some(Part::Start(start)),
        };
        let (before, all) =
            recorded("/compy.v1.WorkspaceService/Exec", framed(&request), "0").await;
        assert_eq!((before.len(), all.len()), (1, 2));
        for entry in &all {
            assert_eq!(entry.workspace.as_deref(), Some("api"));
            assert_eq!(entry.process.as_deref(), Some("request-7"));
            let argv = &entry.detail["arguments"]["start"]["argv"];
            assert_eq!((&argv[0], &argv[1]), (&json!("sh"), &json!("-c")));
            assert_eq!(argv[2], bounded(&script));
            assert!(entry.fields().len() < 10_000);
        }
    }

    #[tokio::test]
    async fn bytes_that_are_no_message_are_said_to_be_and_health_is_left_out() {
        let path = "/compy.v1.SessionService/GetSession";
        let garbage = Bytes::from_static(b"\0\0\0\0\x02\xff\xff");
        let (_, all) = recorded(path, garbage, "13").await;
        assert_eq!(
            all[0].detail["arguments"],
            json!("not a message of this method")
        );
        let (_, cut) = recorded(path, Bytes::from_static(b"\0\0"), "13").await;
        assert_eq!(cut[0].detail["arguments"], json!(null));
        let (_, none) = recorded("/grpc.health.v1.Health/Check", Bytes::new(), "0").await;
        assert_eq!(none, []);
    }
}
