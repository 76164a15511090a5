//! Whether a caller may make a call, and how far it may go.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body as HttpBody, Frame};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service};

use super::{Caller, admit, subjects, until::Until};
use crate::{
    api::grpc::{
        methods::{Method, Methods},
        status::{Retry, refusal},
    },
    domain::access::{Reach, Scope},
    service::access::{Tokens, subjects::Subjects},
};

/// Bytes before a message: whether it is compressed, and its length.
const PREFIX_BYTES: usize = 5;

/// Guards what is served.
#[derive(Clone)]
pub(in super::super) struct Guard {
    shared: Arc<Shared>,
}

struct Shared {
    methods: Arc<Methods>,
    tokens: Tokens,
    subjects: Arc<dyn Subjects>,
    message_bytes: usize,
}

impl Guard {
    /// Guards these methods; callers from elsewhere send messages of at most
    /// `message_bytes`.
    pub(in super::super) fn new(
        methods: Arc<Methods>,
        tokens: Tokens,
        subjects: Arc<dyn Subjects>,
        message_bytes: usize,
    ) -> Self {
        Self {
            shared: Arc::new(Shared {
                methods,
                tokens,
                subjects,
                message_bytes,
            }),
        }
    }
}

impl Shared {
    /// Lets a request through as its handler is to have it.
    async fn pass(
        &self,
        caller: &Caller,
        mut request: Request<Body>,
    ) -> Result<Request<Body>, Status> {
        let scope = caller.scope().clone();
        request.extensions_mut().insert(scope.clone());
        if matches!(caller, Caller::Owner { .. }) {
            return Ok(request);
        }
        let most = self.message_bytes;
        let request = request.map(|body| Body::new(Measured::new(body, most)));
        let path = request.uri().path();
        // Health, reflection, and what is not served.
        let Some(method) = self.methods.get(path) else {
            return Ok(request);
        };
        if !method.access.allows(caller.role()) {
            return Err(role_refused(caller, method));
        }
        match (&scope, method.access.reach) {
            (Scope::All, _) | (_, Reach::Nothing | Reach::Filtered) => Ok(request),
            (Scope::Workspaces(_), Reach::Daemon) => Err(beyond_scope(caller, method)),
            (Scope::Workspaces(_), Reach::Named) => {
                self.pass_named(caller, &scope, method, request).await
            }
        }
    }

    async fn pass_named(
        &self,
        caller: &Caller,
        scope: &Scope,
        method: &Method,
        request: Request<Body>,
    ) -> Result<Request<Body>, Status> {
        let (parts, body) = request.into_parts();
        let (named, body) = subjects::of_first_message(&method.input, body).await?;
        if named.is_empty() {
            return Err(nothing_named(caller, method));
        }
        for subject in &named {
            let workspace = self.subjects.workspace_of(subject).await;
            // What is not there is told like what is another's.
            if !workspace.is_some_and(|workspace| scope.holds(&workspace)) {
                return Err(out_of_scope(caller));
            }
        }
        Ok(Request::from_parts(parts, body))
    }
}

fn role_refused(caller: &Caller, method: &Method) -> Status {
    let (role, name) = (caller.role(), &method.name);
    let roles: Vec<&str> = method.access.roles.iter().map(|role| role.name()).collect();
    let whose = match roles.as_slice() {
        ["admin"] => "admin".to_owned(),
        others => format!("{} or admin", others.join(", ")),
    };
    refusal(
        Code::PermissionDenied,
        "ROLE_INSUFFICIENT",
        format!(
            "{} has the role {role}, which may not call {name}",
            caller.name()
        ),
        format!("ask an admin for a token with the role {whose}"),
        Retry::No,
    )
}

fn beyond_scope(caller: &Caller, method: &Method) -> Status {
    let name = &method.name;
    refusal(
        Code::PermissionDenied,
        "SCOPE_INSUFFICIENT",
        format!(
            "{} is for some workspaces only, and {name} is about more",
            caller.name()
        ),
        "ask an admin for a token without --workspace",
        Retry::No,
    )
}

fn nothing_named(caller: &Caller, method: &Method) -> Status {
    let name = &method.name;
    refusal(
        Code::PermissionDenied,
        "SCOPE_INSUFFICIENT",
        format!(
            "{} is for some workspaces only, and this call of {name} names none",
            caller.name()
        ),
        "name one of the token's workspaces; `compyctl workspace list` shows them",
        Retry::No,
    )
}

fn out_of_scope(caller: &Caller) -> Status {
    refusal(
        Code::PermissionDenied,
        "OUT_OF_SCOPE",
        format!(
            "{} is not for what this call names, or there is no such thing",
            caller.name()
        ),
        "`compyctl workspace list` shows the workspaces that it is for; ask an admin for a token for others",
        Retry::No,
    )
}

fn too_large(length: usize, most: usize) -> Status {
    refusal(
        Code::ResourceExhausted,
        "MESSAGE_TOO_LARGE",
        format!("a message has {length} bytes, and {most} are taken of a token"),
        "send less at once, or raise remote.message_max of the daemon",
        Retry::No,
    )
}

impl<S> Layer<S> for Guard {
    type Service = Guarded<S>;

    fn layer(&self, inner: S) -> Guarded<S> {
        Guarded {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// A server that is guarded.
#[derive(Clone)]
pub(in super::super) struct Guarded<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Guarded<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>
        + Clone
        + Send
        + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        // The one that is ready is used, and the clone is asked anew.
        let next = self.inner.clone();
        let mut inner = std::mem::replace(&mut self.inner, next);
        let shared = self.shared.clone();
        Box::pin(async move {
            let Some(caller) = Caller::of(request.extensions()).cloned() else {
                return Ok(admit::missing().into_http());
            };
            let good_for = match &caller {
                Caller::Owner { .. } => None,
                Caller::Token { held, .. } => shared.tokens.good_for(held.token()),
            };
            let mut until = Until::of(request.headers(), &caller, good_for);
            let answer = async {
                match shared.pass(&caller, request).await {
                    Ok(request) => inner.call(request).await,
                    Err(status) => Ok(status.into_http()),
                }
            };
            tokio::select! {
                // What is done is told.
                biased;
                answer = answer => Ok(answer?.map(|body| Body::new(Ended::new(body, until)))),
                status = &mut until => Ok(status.into_http()),
            }
        })
    }
}

/// An answer that ends when it has to.
struct Ended {
    body: Body,
    /// Until it has said so.
    until: Option<Until>,
}

impl Ended {
    fn new(body: Body, until: Until) -> Self {
        Self {
            body,
            until: Some(until),
        }
    }
}

impl HttpBody for Ended {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let Some(until) = &mut self.until else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(status) = until.poll(cx) {
            // Whoever makes the answer is dropped with it.
            (self.until, self.body) = (None, Body::empty());
            let mut trailers = HeaderMap::new();
            status.add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.until.is_none() || self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}

/// A request of which no message may be too large. The transport bounds messages
/// as well, for everybody; this one is a caller's own.
struct Measured {
    body: Body,
    most: usize,
    /// Of the prefix of the next message, what has come.
    prefix: Vec<u8>,
    /// Bytes of the present message that are still to come.
    left: usize,
}

impl Measured {
    fn new(body: Body, most: usize) -> Self {
        Self {
            body,
            most,
            prefix: Vec::with_capacity(PREFIX_BYTES),
            left: 0,
        }
    }

    /// Takes in bytes.
    fn measure(&mut self, mut bytes: &[u8]) -> Result<(), Status> {
        while !bytes.is_empty() {
            if self.left > 0 {
                let here = self.left.min(bytes.len());
                self.left -= here;
                bytes = &bytes[here..];
                continue;
            }
            let here = (PREFIX_BYTES - self.prefix.len()).min(bytes.len());
            self.prefix.extend_from_slice(&bytes[..here]);
            bytes = &bytes[here..];
            if let [_, length @ ..] = self.prefix.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.left = u32::from_be_bytes(length) as usize;
                self.prefix.clear();
                if self.left > self.most {
                    return Err(too_large(self.left, self.most));
                }
            }
        }
        Ok(())
    }
}

impl HttpBody for Measured {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
            && let Err(status) = self.measure(data)
        {
            return Poll::Ready(Some(Err(status)));
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
    use super::*;

    #[test]
    fn a_message_is_measured_however_it_is_cut() {
        let message = |length: u32, sent: usize| {
            let mut bytes = vec![0];
            bytes.extend_from_slice(&length.to_be_bytes());
            bytes.extend(std::iter::repeat_n(7, sent));
            bytes
        };
        let good = [message(10, 10), message(0, 0), message(8, 8)].concat();
        let bad = [message(3, 3), message(11, 0)].concat();
        for piece in 1..=good.len() {
            let mut measured = Measured::new(Body::empty(), 10);
            assert!(good.chunks(piece).all(|it| measured.measure(it).is_ok()));
            let mut measured = Measured::new(Body::empty(), 10);
            let refused = bad.chunks(piece).find_map(|it| measured.measure(it).err());
            assert_eq!(refused.unwrap().code(), Code::ResourceExhausted, "{piece}");
        }
    }
}
