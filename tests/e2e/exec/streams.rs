//! A flood of bytes over two streams, to a reader whose connection is cut over
//! and over, past a reader that stands still and a daemon that is killed.

use std::{
    path::PathBuf,
    process::Stdio,
    time::{Duration, Instant},
};

use compyd_proto::v1::{
    ExecResponse, GetExecRequest, exec_exit::How, exec_response::Event,
    workspace_service_client::WorkspaceServiceClient,
};
use compyd_tests::{
    daemon::{Daemon, Options, channel},
    exec::{attach, command, start},
    programs::torture,
};
use tokio::{
    io::AsyncWriteExt as _,
    process::{Child, Command},
};
use tokio_util::sync::CancellationToken;
use tonic::Streaming;

/// Bytes of each stream, and how often the connection is cut.
fn counts() -> (u64, u32) {
    if torture() {
        (512 << 20, 200)
    } else {
        (32 << 20, 20)
    }
}

/// What is to be hashed, by a program that knows nothing of ours.
struct Hash(Child);

impl Hash {
    fn new() -> Self {
        let mut command = Command::new("sha256sum");
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        Self(command.kill_on_drop(true).spawn().unwrap())
    }

    async fn add(&mut self, bytes: &[u8]) {
        let input = self.0.stdin.as_mut().unwrap();
        input.write_all(bytes).await.unwrap();
    }

    async fn text(self) -> String {
        let output = self.0.wait_with_output().await.unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        text.split(' ').next().unwrap().to_owned()
    }
}

/// One reader's way through both streams.
struct Reading {
    offsets: [u64; 2],
    hashes: [Hash; 2],
    exit: Option<How>,
}

impl Reading {
    fn new() -> Self {
        Self {
            offsets: [0, 0],
            hashes: [Hash::new(), Hash::new()],
            exit: None,
        }
    }

    /// Takes messages until there have been so many bytes, or the end of the
    /// connection.
    async fn take(&mut self, stream: &mut Streaming<ExecResponse>, at_most: u64) {
        let before: u64 = self.offsets.iter().sum();
        while self.exit.is_none() && self.offsets.iter().sum::<u64>() - before < at_most {
            let Ok(Some(message)) = stream.message().await else {
                return;
            };
            match message.event.unwrap() {
                Event::Attached(_) => {}
                Event::Stdout(output) => self.add(0, output.offset, &output.data).await,
                Event::Stderr(output) => self.add(1, output.offset, &output.data).await,
                Event::Gap(gap) => panic!("{gap:?} below every quota"),
                Event::Exit(exit) => self.exit = exit.how,
            }
        }
    }

    async fn add(&mut self, stream: usize, offset: u64, data: &[u8]) {
        assert_eq!(
            offset, self.offsets[stream],
            "bytes are missing or repeated"
        );
        self.offsets[stream] += data.len() as u64;
        self.hashes[stream].add(data).await;
    }

    /// Follows a command to its end, over daemons that come and go.
    async fn take_to_the_end(&mut self, daemon: &Daemon, id: &str) {
        while self.exit.is_none() {
            let [stdout, stderr] = self.offsets;
            let Ok(mut stream) = daemon.follow(attach("w", id, stdout, stderr)).await else {
                continue;
            };
            self.take(&mut stream, u64::MAX).await;
        }
    }

    async fn hashes(self) -> (String, String) {
        let [stdout, stderr] = self.hashes;
        (stdout.text().await, stderr.text().await)
    }
}

/// Another client, on a connection of its own, that asks the agent for something
/// small over and over until it is told to stop; how long each took.
async fn ping(socket: PathBuf, id: String, stop: CancellationToken) -> Vec<Duration> {
    let mut client = WorkspaceServiceClient::new(channel(&socket));
    let mut took = Vec::new();
    while !stop.is_cancelled() {
        let request = GetExecRequest {
            workspace: "w".to_owned(),
            exec_id: id.clone(),
        };
        let begun = Instant::now();
        // None answers while the daemon is dead.
        if client.get_exec(request).await.is_ok() {
            took.push(begun.elapsed());
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    took.sort();
    took
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn no_byte_is_lost_over_cut_connections_a_killed_daemon_and_a_reader_that_stands_still() {
    let Some(mut daemon) = Daemon::start(Options::default()).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let (bytes, cuts) = counts();
    let make = format!(
        "head -c {bytes} /dev/urandom > /tmp/a; head -c {bytes} /dev/urandom > /tmp/b; \
         sha256sum < /tmp/a; sha256sum < /tmp/b"
    );
    let made = daemon.shell("w", &make).await;
    let idle = made.info.exec_id.clone();
    let wanted: Vec<String> = made
        .text()
        .lines()
        .map(|line| line.split(' ').next().unwrap().to_owned())
        .collect();

    let flood = "cat /tmp/b >&2 & cat /tmp/a; wait; exit 77";
    let flood = command("w", &["sh", "-c", flood]);
    let id = flood.request_id.clone();
    let mut stalled = daemon.follow(start(flood)).await.unwrap();
    let mut slow = Reading::new();
    slow.take(&mut stalled, 1).await;

    let mut reading = Reading::new();
    let stop = CancellationToken::new();
    let pings = tokio::spawn(ping(daemon.socket(), idle, stop.clone()));
    let mut made_cuts = 0;
    while reading.exit.is_none() {
        let [stdout, stderr] = reading.offsets;
        let mut stream = match daemon.follow(attach("w", &id, stdout, stderr)).await {
            Ok(stream) => stream,
            Err(status) => panic!("attaching at {:?}: {status}", reading.offsets),
        };
        if made_cuts == cuts {
            reading.take(&mut stream, u64::MAX).await;
            continue;
        }
        // Twice the mean, so that all the cuts fall into the streams.
        let mean = (2 * bytes / u64::from(cuts + 1)).max(1);
        let piece = fastrand::u64(1..=mean);
        reading.take(&mut stream, piece).await;
        drop(stream);
        made_cuts += 1;
        if made_cuts == cuts / 2 {
            daemon.restart().await;
        }
    }
    stop.cancel();
    let pings = pings.await.unwrap();
    assert_eq!(reading.exit, Some(How::Code(77)));
    assert_eq!(reading.offsets, [bytes, bytes]);
    let got = reading.hashes().await;
    assert_eq!([got.0, got.1], wanted[..]);
    let least = if torture() { cuts } else { cuts / 2 };
    assert!(made_cuts >= least, "only {made_cuts} of {cuts} cuts");

    // The one that stood still has lost its daemon, and no byte.
    slow.take(&mut stalled, u64::MAX).await;
    slow.take_to_the_end(&daemon, &id).await;
    assert_eq!(slow.exit, Some(How::Code(77)));
    let got = slow.hashes().await;
    assert_eq!([got.0, got.1], wanted[..]);

    let p99 = pings[(pings.len() * 99 / 100).min(pings.len() - 1)];
    println!(
        "{made_cuts} cuts in 2 x {} MiB; {} pings of others: p50 {:?}, p99 {p99:?}",
        bytes >> 20,
        pings.len(),
        pings[pings.len() / 2]
    );
    if torture() {
        assert!(p99 < Duration::from_millis(10), "a ping took {p99:?}");
    }
}
