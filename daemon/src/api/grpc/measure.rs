//! Counts every call by its method and the code that it ended with.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tonic::Code;
use tower::{Layer, Service};

use crate::metrics;

/// Measures what a server does.
#[derive(Debug, Clone, Copy)]
pub(super) struct Measure;

impl<S> Layer<S> for Measure {
    type Service = Measured<S>;

    fn layer(&self, inner: S) -> Measured<S> {
        Measured { inner }
    }
}

/// A server whose calls are counted.
#[derive(Debug, Clone)]
pub(super) struct Measured<S> {
    inner: S,
}

impl<S, B, C> Service<Request<B>> for Measured<S>
where
    S: Service<Request<B>, Response = Response<C>> + 'static,
    S::Future: Send + 'static,
    S::Error: 'static,
    B: 'static,
    C: Body<Data = Bytes> + Unpin + 'static,
{
    type Response = Response<CountedBody<C>>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Self::Response, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let call = Call {
            method: request.uri().path().to_owned(),
            code: None,
        };
        let answer = self.inner.call(request);
        Box::pin(async move {
            let (parts, body) = answer.await?.into_parts();
            let mut call = call;
            call.look(&parts.headers);
            Ok(Response::from_parts(parts, CountedBody { body, call }))
        })
    }
}

/// A call; counted when it is dropped.
struct Call {
    method: String,
    /// As far as it is known.
    code: Option<Code>,
}

impl Call {
    /// Takes the code from headers or trailers.
    fn look(&mut self, headers: &HeaderMap) {
        if let Some(code) = headers.get("grpc-status") {
            self.code = Some(Code::from_bytes(code.as_bytes()));
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // A client that has gone is told nothing.
        let code = self.code.unwrap_or(Code::Cancelled);
        // What is not served has a name of the client's choosing.
        let method = match code {
            Code::Unimplemented => "unknown",
            _ => &self.method,
        };
        metrics::grpc_called(method, &format!("{code:?}"));
    }
}

/// The answer of a call, with its code at the end.
pub(super) struct CountedBody<C> {
    body: C,
    call: Call,
}

impl<C: Body<Data = Bytes> + Unpin> Body for CountedBody<C> {
    type Data = Bytes;
    type Error = C::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, C::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(trailers) = frame.trailers_ref()
        {
            self.call.look(trailers);
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
    use futures_util::stream;
    use http_body_util::{BodyExt as _, StreamBody};

    use super::*;
    use crate::metrics::{Readings, encode, exposition};

    /// How often this was counted.
    fn counted(method: &str, code: &str) -> f64 {
        let families = exposition::parse(&encode(&Readings::default()).unwrap()).unwrap();
        let labels = [("method", method), ("code", code)];
        exposition::value(&families, "compy_grpc_calls_total", &labels).unwrap_or(0.)
    }

    async fn call(path: &str, headers: Option<&str>, trailers: Option<&str>) {
        let status = |code: &str| {
            let mut map = HeaderMap::new();
            map.insert("grpc-status", code.parse().unwrap());
            map
        };
        let frames = [
            Some(Frame::data(Bytes::from_static(b"data"))),
            trailers.map(|code| Frame::trailers(status(code))),
        ];
        let frames = frames.into_iter().flatten().map(Ok::<_, std::io::Error>);
        let mut response = Response::new(StreamBody::new(stream::iter(frames.collect::<Vec<_>>())));
        response
            .headers_mut()
            .extend(headers.map(status).unwrap_or_default());
        let mut response = Some(response);
        let inner = tower::service_fn(move |_: Request<()>| {
            let response = response.take().unwrap();
            async move { Ok::<_, std::convert::Infallible>(response) }
        });
        let request = Request::builder().uri(path).body(()).unwrap();
        let answer = Measure.layer(inner).call(request).await.unwrap();
        assert_eq!(counted(path, "Ok"), 0., "it has not ended");
        let body = answer.into_body().collect().await.unwrap();
        assert_eq!(body.to_bytes(), "data");
    }

    #[tokio::test]
    async fn a_call_is_counted_once_it_has_ended_by_the_code_wherever_that_is() {
        call("/compy.v1.S/Trailers", None, Some("0")).await;
        assert_eq!(counted("/compy.v1.S/Trailers", "Ok"), 1.);
        call("/compy.v1.S/Headers", Some("5"), None).await;
        assert_eq!(counted("/compy.v1.S/Headers", "NotFound"), 1.);
        call("/compy.v1.S/Cut", None, None).await;
        assert_eq!(counted("/compy.v1.S/Cut", "Cancelled"), 1.);
        call("/somebodys/choice", Some("12"), None).await;
        assert_eq!(counted("/somebodys/choice", "Unimplemented"), 0.);
        assert_eq!(counted("unknown", "Unimplemented"), 1.);
    }
}
