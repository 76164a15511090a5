//! Bytes of one connection, both ways, until it ends.

use std::{
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, split};

use super::totals::Counters;
use crate::{
    domain::egress::{Denial, Inspection, Mismatch, TLS_UNRECOGNIZED_NAME, Target, inspect},
    ports::tunnel::BoxedBytes,
};

/// Bytes that one direction buffers.
const COPY_BYTES: usize = 64 * 1024;

/// For a program to hear why it was denied.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// How a connection ended.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ended {
    /// Both directions have ended, or either side has broken off.
    Closed(Traffic),
    /// Nothing moved for too long.
    Idle,
    /// Its first bytes are for somebody else.
    Denied(Denial),
}

/// What was carried.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Traffic {
    /// Bytes to the world.
    pub(super) sent: u64,
    /// Bytes from the world.
    pub(super) received: u64,
}

/// Why a direction ended early.
enum Broken {
    Io,
    Mismatch(Mismatch),
}

impl From<io::Error> for Broken {
    fn from(_: io::Error) -> Self {
        Self::Io
    }
}

/// Carries a connection. What a program sends first is held back until it is
/// clear that it is for the target; what the world sends is not, because in
/// some protocols it speaks first.
///
/// One that stands still is cut after `idle_timeout`, at most twice that.
///
/// Cancel safety: dropped, the connection is cut.
pub(super) async fn carry(
    target: &Target,
    program: BoxedBytes,
    world: BoxedBytes,
    idle_timeout: Duration,
    counters: &Counters,
) -> Ended {
    let meter = Meter::default();
    let (mut from_program, mut to_program) = split(program);
    let (mut from_world, mut to_world) = split(world);
    let up = async {
        let first = read_first(target, &mut from_program).await?;
        to_world.write_all(&first).await?;
        let sent = |bytes| {
            Meter::add(&meter.sent, bytes);
            counters.sent(bytes);
        };
        sent(first.len());
        copy(&mut from_program, &mut to_world, sent).await
    };
    let down = copy(&mut from_world, &mut to_program, |bytes| {
        Meter::add(&meter.received, bytes);
        counters.received(bytes);
    });
    let both = async { tokio::try_join!(up, down) };
    let ended = tokio::select! {
        ended = both => ended,
        () = meter.stands_still(idle_timeout) => return Ended::Idle,
    };
    match ended {
        Ok(_) | Err(Broken::Io) => Ended::Closed(meter.traffic()),
        Err(Broken::Mismatch(mismatch)) => {
            let answer = answer_to(&mismatch, target);
            let told = async {
                to_program.write_all(&answer).await?;
                to_program.shutdown().await?;
                // A link's stream that is dropped takes along what it has not
                // delivered yet: wait for the program to hang up.
                tokio::io::copy(&mut from_program, &mut tokio::io::sink()).await
            };
            // The program may have gone; it need not hear.
            let _ = tokio::time::timeout(LAST_WORDS, told).await;
            Ended::Denied(Denial::Mismatch {
                target: target.clone(),
                mismatch,
            })
        }
    }
}

/// The first bytes, once they are clear; empty when a program sends none.
async fn read_first(
    target: &Target,
    program: &mut (impl AsyncRead + Unpin),
) -> Result<Vec<u8>, Broken> {
    let mut bytes = Vec::new();
    loop {
        if program.read_buf(&mut bytes).await? == 0 {
            return Ok(bytes);
        }
        match inspect(target, &bytes) {
            Inspection::More => {}
            Inspection::Clear => return Ok(bytes),
            Inspection::Mismatch(mismatch) => return Err(Broken::Mismatch(mismatch)),
        }
    }
}

/// One direction to its end, which is passed on.
async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    carried: impl Fn(usize),
) -> Result<(), Broken> {
    let mut buffer = vec![0; COPY_BYTES];
    loop {
        let length = from.read(&mut buffer).await?;
        if length == 0 {
            return Ok(to.shutdown().await?);
        }
        to.write_all(&buffer[..length]).await?;
        carried(length);
    }
}

/// What a program is told, in the words of its own protocol.
fn answer_to(mismatch: &Mismatch, target: &Target) -> Vec<u8> {
    match mismatch {
        Mismatch::Sni(_) => TLS_UNRECOGNIZED_NAME.to_vec(),
        Mismatch::Request(host) => {
            let body = format!(
                "compy: this connection is to {target}, the request names {}\n",
                host.escape_debug()
            );
            let length = body.len();
            format!(
                "HTTP/1.1 403 The request names another host\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            )
            .into_bytes()
        }
        Mismatch::Unsound => Vec::new(),
    }
}

/// Counts what was carried.
#[derive(Default)]
struct Meter {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Meter {
    fn add(counter: &AtomicU64, bytes: usize) {
        counter.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn traffic(&self) -> Traffic {
        Traffic {
            sent: self.sent.load(Ordering::Relaxed),
            received: self.received.load(Ordering::Relaxed),
        }
    }

    /// Waits until nothing was carried for a whole period.
    async fn stands_still(&self, period: Duration) {
        let mut before = self.traffic();
        loop {
            tokio::time::sleep(period).await;
            let now = self.traffic();
            if now == before {
                return;
            }
            before = now;
        }
    }
}
