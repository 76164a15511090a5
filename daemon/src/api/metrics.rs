//! `GET /metrics`: what operators watch, for Prometheus. Nothing else is served
//! there, and nothing of it is secret or writes.

use std::{convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{metrics, service::observation::Observation};

/// Connections at once; others wait.
const CONNECTIONS: usize = 8;
/// How long a client may take to say what it wants.
const ASKING_TIMEOUT: Duration = Duration::from_secs(10);
/// After the kernel had no connection to give.
const AFTER_A_FAILURE: Duration = Duration::from_millis(100);

/// Serves until `stop`, on `tasks`. What is being answered then is cut.
pub async fn serve(
    listener: TcpListener,
    observation: Observation,
    tasks: TaskTracker,
    stop: CancellationToken,
) {
    let permits = std::sync::Arc::new(Semaphore::new(CONNECTIONS));
    let accept = async {
        loop {
            let Ok(permit) = permits.clone().acquire_owned().await else {
                return;
            };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "metrics: accept failed");
                    tokio::time::sleep(AFTER_A_FAILURE).await;
                    continue;
                }
            };
            let observation = observation.clone();
            let stop = stop.clone();
            // On cancel: dropped. On error: the client asks again.
            tasks.spawn(async move {
                let _permit = permit;
                let answer = service_fn(|request| {
                    let observation = observation.clone();
                    async move { Ok::<_, Infallible>(answer(request, &observation).await) }
                });
                let connection = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(ASKING_TIMEOUT)
                    .serve_connection(TokioIo::new(stream), answer);
                stop.run_until_cancelled(connection).await
            });
        }
    };
    stop.run_until_cancelled(accept).await;
}

async fn answer(request: Request<Incoming>, observation: &Observation) -> Response<Full<Bytes>> {
    match (request.uri().path(), request.method()) {
        ("/metrics", &Method::GET | &Method::HEAD) => {
            let readings = observation.read().await;
            match metrics::encode(&readings) {
                Ok(text) => say(StatusCode::OK, metrics::MEDIA_TYPE, text),
                Err(error) => {
                    tracing::error!(%error, "metrics cannot be told");
                    plain(StatusCode::INTERNAL_SERVER_ERROR, error)
                }
            }
        }
        ("/metrics", _) => plain(StatusCode::METHOD_NOT_ALLOWED, "only GET\n".to_owned()),
        _ => plain(StatusCode::NOT_FOUND, "only /metrics is here\n".to_owned()),
    }
}

fn plain(status: StatusCode, text: String) -> Response<Full<Bytes>> {
    say(status, "text/plain; charset=utf-8", text)
}

fn say(status: StatusCode, media_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let media_type = header::HeaderValue::from_static(media_type);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, media_type);
    response
}
