//! Streams that would never end by themselves end with the daemon: a client
//! that watches must not hold a shutdown for the whole grace.

use std::{future::Future as _, pin::Pin, task::Poll};

use futures_util::{Stream, StreamExt as _, stream};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::status::{Retry, refusal};

/// When the next daemon may be there.
const SOON: Retry = Retry::After(std::time::Duration::from_secs(1));

/// A stream that says why it ends when `stop` comes first.
pub(super) fn until<T: Send + 'static>(
    stop: &CancellationToken,
    items: impl Stream<Item = Result<T, Status>> + Send + 'static,
) -> Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>> {
    let mut stopped = Some(Box::pin(stop.clone().cancelled_owned()));
    let mut items = Box::pin(items);
    Box::pin(stream::poll_fn(move |cx| {
        let Some(stop) = &mut stopped else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(item) = items.poll_next_unpin(cx) {
            return Poll::Ready(item);
        }
        std::task::ready!(stop.as_mut().poll(cx));
        stopped = None;
        Poll::Ready(Some(Err(stopping())))
    }))
}

/// Why a call ends with the daemon.
pub(super) fn stopping() -> Status {
    refusal(
        Code::Unavailable,
        "DAEMON_STOPPING",
        "the daemon is shutting down",
        "call again when it is back",
        SOON,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_stream_ends_by_itself_or_says_that_the_daemon_stops() {
        let stop = CancellationToken::new();
        let short = stream::iter([Ok(1), Ok(2)]);
        let all: Vec<_> = until(&stop, short).map(Result::unwrap).collect().await;
        assert_eq!(all, [1, 2]);

        let endless = stream::iter([Ok(1)]).chain(stream::pending());
        let mut endless = until(&stop, endless);
        assert_eq!(endless.next().await.unwrap().unwrap(), 1);
        stop.cancel();
        let last = endless.next().await.unwrap().unwrap_err();
        assert_eq!(last.code(), Code::Unavailable);
        assert!(endless.next().await.is_none());
    }
}
