//! What TLS adds to a call, beside the unix socket.

use std::time::Instant;

use compyd_proto::v1::{WhoAmIRequest, access_service_client::AccessServiceClient};

use super::{Better, Field, Measured, Report};
use crate::{
    daemon::Options,
    remote::{Remote, with_tls},
};

/// Calls, each of both kinds.
const CALLS: usize = 2_000;
/// Connections with a first call on each, of both kinds.
const CONNECTIONS: usize = 50;

/// What the daemon needs for this.
#[must_use]
pub fn options(options: Options) -> Options {
    with_tls(options.set("log.filter", "info")).set("remote.calls_per_second", "1000000")
}

/// Measures calls on one connection and on new ones, turn by turn.
///
/// # Panics
/// When a call fails.
pub async fn measure(field: &Field, report: &mut Report) {
    let remote = Remote::of(&field.daemon);
    let token = field.daemon.token("bench", "reader", &[]).await;
    let transport = remote.connect(&token).await.expect("the daemon serves TLS");
    let mut tls = AccessServiceClient::new(transport);
    let mut unix = AccessServiceClient::new(field.daemon.channel());
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..CALLS {
        let begun = Instant::now();
        unix.who_am_i(WhoAmIRequest {}).await.expect("an answer");
        theirs.push(begun.elapsed().as_secs_f64() * 1e3);
        let begun = Instant::now();
        tls.who_am_i(WhoAmIRequest {}).await.expect("an answer");
        ours.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    let median = |values: &[f64]| {
        let mut values = values.to_vec();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let unix_ms = median(&theirs);
    report.add(
        Measured {
            name: "a call over TLS with a token | over the unix socket",
            unit: "ms",
            better: Better::Less,
            ours,
            theirs,
        },
        "at most 1 ms more",
        |ours, _| ours.p50 - unix_ms <= 1.0,
    );
    let mut first = Vec::new();
    for _ in 0..CONNECTIONS {
        let begun = Instant::now();
        let transport = remote.connect(&token).await.expect("the daemon serves TLS");
        let mut tls = AccessServiceClient::new(transport);
        tls.who_am_i(WhoAmIRequest {}).await.expect("an answer");
        first.push(begun.elapsed().as_secs_f64() * 1e3);
    }
    report.add(
        Measured {
            name: "a new connection over TLS and its first call",
            unit: "ms",
            better: Better::Less,
            ours: first,
            theirs: Vec::new(),
        },
        "at most 50 ms",
        |ours, _| ours.p50 <= 50.0,
    );
}
