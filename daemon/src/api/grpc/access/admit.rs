//! Who calls: the owner on the unix socket, whoever has a token elsewhere.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, header::AUTHORIZATION};
use http_body::{Body as HttpBody, Frame};
use tonic::{Code, Status, body::Body, transport::server::UdsConnectInfo};
use tower::{Layer, Service};

use super::{
    Caller, CallerLimits,
    failures::Failures,
    limits::{Limits, Permit},
};
use crate::{
    api::grpc::{
        connections::{Peer, Proof},
        status::{Retry, reason, refusal},
    },
    domain::{
        access::Presented,
        audit::{Kind, Outcome},
    },
    service::{
        access::{Held, NotKnown, Tokens},
        audit::Audit,
    },
};

/// Where a person finds what to do about a token.
const ASK: &str = "ask an admin for a token (`compyctl token create`) and log in with it (`compyctl login ENDPOINT`)";

/// Admits callers.
#[derive(Clone)]
pub(in super::super) struct Admit {
    shared: Arc<Shared>,
}

struct Shared {
    tokens: Tokens,
    audit: Audit,
    failures: Failures,
    limits: Arc<Limits>,
}

impl Admit {
    /// Admits whoever has one of these tokens, within limits.
    pub(in super::super) fn new(tokens: Tokens, audit: Audit, limits: CallerLimits) -> Self {
        Self {
            shared: Arc::new(Shared {
                tokens,
                failures: Failures::new(audit.clone()),
                audit,
                limits: Limits::new(limits),
            }),
        }
    }
}

impl Shared {
    /// Who makes a request, and what lets a caller from elsewhere make it.
    fn admit(&self, request: &Request<Body>) -> Result<(Caller, Option<Permit>), Box<Status>> {
        let extensions = request.extensions();
        if let Some(unix) = extensions.get::<UdsConnectInfo>() {
            let peer = unix.peer_cred.as_ref();
            let caller = Caller::Owner {
                uid: peer.map(tokio::net::unix::UCred::uid),
                pid: peer.and_then(tokio::net::unix::UCred::pid),
            };
            return Ok((caller, None));
        }
        let peer = extensions
            .get::<Peer>()
            .ok_or_else(|| Box::new(missing()))?;
        let method = request.uri().path().rsplit_once(".v1.");
        let method = method.map_or("unknown", |(_, method)| method);
        let held = self.known(request.headers()).inspect_err(|status| {
            self.failures.record(peer.address, method, &reason(status));
        })?;
        let key = &held.token().key;
        let permit = self.limits.begin(key)?;
        match peer.connection.prove(key) {
            Proof::Known => {}
            Proof::New => self.logged_in(&held, peer),
            Proof::TooMany { most } => return Err(Box::new(too_many_connections(most))),
        }
        let caller = Caller::Token {
            held,
            address: peer.address,
        };
        Ok((caller, Some(permit)))
    }

    fn known(&self, headers: &HeaderMap) -> Result<Arc<Held>, Box<Status>> {
        let presented = headers.get(AUTHORIZATION).ok_or_else(missing)?;
        let presented = presented.to_str().ok().and_then(|text| {
            let (scheme, token) = text.split_once(' ')?;
            (scheme.eq_ignore_ascii_case("bearer")).then(|| Presented::parse(token))?
        });
        let presented = presented.ok_or_else(unknown)?;
        self.tokens.know(&presented).map_err(|why| {
            Box::new(match why {
                NotKnown::Unknown => unknown(),
                NotKnown::Expired => expired(),
            })
        })
    }

    /// Somebody has proved on a connection who they are.
    fn logged_in(&self, held: &Held, peer: &Peer) {
        let token = held.token();
        let name = format!("token:{}", token.name);
        let entry = (self.audit.entry(Kind::Login, name))
            .with("role", token.role.name())
            .with("token", token.key.clone())
            .with("address", peer.address.ip().to_string())
            .with("tls", peer.tls)
            .with_outcome(Outcome::Ok);
        self.audit.record(entry);
    }
}

/// Nobody says who calls.
pub(in super::super) fn missing() -> Status {
    refusal(
        Code::Unauthenticated,
        "TOKEN_MISSING",
        "the call has no token",
        ASK,
        Retry::No,
    )
}

/// There is no such token any more, or never was.
pub(super) fn unknown() -> Status {
    let message = NotKnown::Unknown.to_string();
    refusal(
        Code::Unauthenticated,
        "TOKEN_UNKNOWN",
        message,
        ASK,
        Retry::No,
    )
}

/// The token was good once.
pub(super) fn expired() -> Status {
    let message = NotKnown::Expired.to_string();
    refusal(
        Code::Unauthenticated,
        "TOKEN_EXPIRED",
        message,
        ASK,
        Retry::No,
    )
}

fn too_many_connections(most: usize) -> Status {
    refusal(
        Code::ResourceExhausted,
        "CONNECTIONS_EXHAUSTED",
        format!("this token has {most} connections already"),
        "use fewer connections, each carries many calls; or raise remote.connections_per_token of the daemon",
        Retry::After(std::time::Duration::from_secs(1)),
    )
}

impl<S> Layer<S> for Admit {
    type Service = Admitted<S>;

    fn layer(&self, inner: S) -> Admitted<S> {
        Admitted {
            inner,
            shared: self.shared.clone(),
        }
    }
}

/// A server that knows its callers.
#[derive(Clone)]
pub(in super::super) struct Admitted<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S, C> Service<Request<Body>> for Admitted<S>
where
    S: Service<Request<Body>, Response = Response<C>> + 'static,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
    C: HttpBody<Data = Bytes, Error = Status> + Unpin + Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let permit = match self.shared.admit(&request) {
            Ok((caller, permit)) => {
                request.extensions_mut().insert(caller);
                permit
            }
            Err(status) => return Box::pin(async move { Ok(status.into_http()) }),
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let body = |body| {
                Body::new(AdmittedBody {
                    body,
                    _permit: permit,
                })
            };
            Ok(answer.await?.map(body))
        })
    }
}

/// An answer; its call is open until it is dropped.
struct AdmittedBody<C> {
    body: C,
    _permit: Option<Permit>,
}

impl<C: HttpBody<Data = Bytes, Error = Status> + Unpin> HttpBody for AdmittedBody<C> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
