//! When a call has to end, whatever it does: at its caller's deadline, and when
//! the token expires or is revoked.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::HeaderMap;
use tonic::{Code, Status};

use super::{Caller, admit};
use crate::api::grpc::status::{Retry, refusal};

/// The transport answers CANCELLED at the deadline itself, without details, until
/// the answer has begun. Ours comes before.
const BEFORE_THE_DEADLINE: Duration = Duration::from_millis(3);

/// Ends with what the caller is told.
pub(super) struct Until(Pin<Box<dyn Future<Output = Status> + Send>>);

impl Until {
    /// For a call with these headers; `good_for` is how long its token still is.
    pub(super) fn of(headers: &HeaderMap, caller: &Caller, good_for: Option<Duration>) -> Self {
        let revoked = match caller {
            Caller::Owner { .. } => None,
            Caller::Token { held, .. } => Some(held.revoked().clone()),
        };
        let deadline = timeout(headers);
        Self(Box::pin(async move {
            tokio::select! {
                status = after(deadline, deadline_exceeded) => status,
                status = after(good_for, admit::expired) => status,
                status = async {
                    match revoked {
                        Some(revoked) => revoked.cancelled_owned().await,
                        None => std::future::pending().await,
                    }
                    admit::unknown()
                } => status,
            }
        }))
    }

    /// Whether it is time.
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        self.0.as_mut().poll(cx)
    }
}

impl Future for Until {
    type Output = Status;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Status> {
        Until::poll(&mut self, cx)
    }
}

async fn after(wait: Option<Duration>, status: fn() -> Status) -> Status {
    match wait {
        Some(wait) => tokio::time::sleep(wait).await,
        None => std::future::pending().await,
    }
    status()
}

fn deadline_exceeded() -> Status {
    refusal(
        Code::DeadlineExceeded,
        "DEADLINE_EXCEEDED",
        "the call did not end before its deadline",
        "ask what came of it before you do it again, or give it more time; what has a request_id goes on by itself and answers when it is sent again",
        Retry::No,
    )
}

/// What `grpc-timeout` says: up to eight digits and a unit.
fn timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let is_number = (1..=8).contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_digit());
    let count: u64 = is_number.then(|| digits.parse().ok())??;
    let timeout = match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    };
    Some(timeout.saturating_sub(BEFORE_THE_DEADLINE))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timeout_is_read_as_the_protocol_writes_it() {
        let read = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-timeout", text.parse().unwrap());
            timeout(&headers).map(|it| it + BEFORE_THE_DEADLINE)
        };
        assert_eq!(read("2H"), Some(Duration::from_secs(7_200)));
        assert_eq!(read("1M"), Some(Duration::from_secs(60)));
        assert_eq!(read("10S"), Some(Duration::from_secs(10)));
        assert_eq!(read("250m"), Some(Duration::from_millis(250)));
        assert_eq!(read("99999999u"), Some(Duration::from_micros(99_999_999)));
        for bad in ["", "S", "1", "-1S", "1x", "123456789S", "1 S", "é"] {
            assert_eq!(read(bad), None, "{bad}");
        }
        assert_eq!(timeout(&HeaderMap::new()), None);
    }
}
