//! What a step costs beside the model: the daemon's own part of it.

use std::{
    collections::HashMap,
    io::Write as _,
    os::unix::fs::FileExt as _,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use compyd_proto::v1::Workflow;
use futures_util::future::join_all;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
    sync::watch,
};

use super::{Better, Field, Measured, Report};
use crate::{repository::Repository, sessions::request};

/// Sessions that work at once.
const MANY: usize = 20;
/// Steps of a session; a stage takes 80 that act.
const STEPS: usize = 70;
/// Times that the disk is measured by itself.
const WAITS: usize = 300;
/// A wait for the disk that is its own fault: virtual ones stand still for tenths of
/// a second now and then, with nothing to do but one small record.
const STALL: Duration = Duration::from_millis(10);
/// How often that is looked for; rarely, so that the look is no load.
const PROBE_EVERY: Duration = Duration::from_millis(50);
/// How long the model thinks, from and to: a quick one, so that the daemon has
/// much to do, and never twice as long, so that sessions do not march in step.
const THINKING_MS: std::ops::Range<u64> = 150..350;

/// A provider on this machine whose replies read one line of a file, and who
/// measures what passes between a reply and the next request of a session.
#[derive(Clone)]
pub struct Provider {
    port: u16,
    seen: Arc<Mutex<Seen>>,
    /// Sessions that have asked once; the first replies wait for all of them, so
    /// that no step is measured beside the start of a session.
    begun: watch::Sender<usize>,
    /// Sessions that have had their last reply. Who asked the daemon for that would
    /// be measured too.
    ended: watch::Sender<usize>,
}

#[derive(Default)]
struct Seen {
    /// For each session: its requests, and when it had its last reply.
    sessions: HashMap<String, (usize, Instant)>,
    between: Vec<(Instant, Duration)>,
    /// Sessions that are to be at once.
    together: usize,
}

impl Provider {
    /// Serves on a thread of its own until the program ends.
    ///
    /// # Panics
    /// When this machine has no port left.
    #[must_use]
    pub fn start() -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a free port");
        let port = listener.local_addr().expect("it is bound").port();
        let seen = Arc::<Mutex<Seen>>::default();
        let provider = Self {
            port,
            seen,
            begun: watch::Sender::new(0),
            ended: watch::Sender::new(0),
        };
        let serving = provider.clone();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime can be made");
            runtime.block_on(serving.serve(listener));
        });
        provider
    }

    /// Where it is, as `model.openai_base_url` has it.
    #[must_use]
    pub fn base_url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }

    async fn serve(self, listener: std::net::TcpListener) {
        listener.set_nonblocking(true).expect("sockets can");
        let listener = TcpListener::from_std(listener).expect("it is bound");
        while let Ok((connection, _)) = listener.accept().await {
            let provider = self.clone();
            tokio::spawn(async move { provider.answer_all(connection).await });
        }
    }

    /// Answers what comes over one connection, until it is closed.
    async fn answer_all(self, connection: TcpStream) -> std::io::Result<()> {
        connection.set_nodelay(true)?;
        let mut connection = BufReader::new(connection);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if connection.read_line(&mut line).await? == 0 {
                    return Ok(());
                }
                let line = line.trim().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap_or(0);
                }
                if line.is_empty() {
                    break;
                }
            }
            let mut body = vec![0; length];
            connection.read_exact(&mut body).await?;
            let asked_at = Instant::now();
            let body: Value = serde_json::from_slice(&body).unwrap_or_default();
            let model = body["model"].as_str().unwrap_or_default().to_owned();
            let number = self.asked(&model, asked_at);
            if number == 0 {
                let together = self.seen().together;
                self.begun.send_modify(|begun| *begun += 1);
                let all = |begun: &usize| *begun >= together;
                let _ = self.begun.subscribe().wait_for(all).await;
            }
            tokio::time::sleep(Duration::from_millis(fastrand::u64(THINKING_MS))).await;
            let reply = reply(number);
            let reply = format!(
                "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncontent-length: {}\r\n\r\n{reply}",
                reply.len()
            );
            connection.write_all(reply.as_bytes()).await?;
            if let Some(session) = self.seen().sessions.get_mut(&model) {
                session.1 = Instant::now();
            }
            if number == STEPS {
                self.ended.send_modify(|ended| *ended += 1);
            }
        }
    }

    /// Notes a request and gives its number.
    fn asked(&self, model: &str, at: Instant) -> usize {
        let mut seen = self.seen();
        let Some((requests, replied_at)) = seen.sessions.get_mut(model) else {
            seen.sessions.insert(model.to_owned(), (1, at));
            return 0;
        };
        let (number, since) = (*requests, *replied_at);
        *requests += 1;
        seen.between.push((since, at.duration_since(since)));
        number
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Measures so many sessions at once from now on.
    fn expect(&self, together: usize) {
        let _ = self.begun.send_replace(0);
        let _ = self.ended.send_replace(0);
        *self.seen() = Seen {
            together,
            ..Seen::default()
        };
    }

    /// Waits until all of them have had their last reply.
    async fn until_ended(&self) {
        let together = self.seen().together;
        let all = |ended: &usize| *ended >= together;
        let _ = self.ended.subscribe().wait_for(all).await;
    }

    /// What was measured since then: when each step began, and what it took.
    fn take(&self) -> Vec<(Instant, Duration)> {
        std::mem::take(&mut *self.seen()).between
    }
}

/// A reply that asks for one line of a file, and after the last step for
/// nothing.
fn reply(number: usize) -> String {
    let (delta, finish) = if number < STEPS {
        let arguments =
            json!({"path": "textkit/slug.py", "first_line": number + 1, "line_count": 1});
        let function = json!({"name": "read_file", "arguments": arguments.to_string()});
        let call = json!({"index": 0, "id": format!("call_{number}"), "type": "function", "function": function});
        (
            json!({"role": "assistant", "tool_calls": [call]}),
            "tool_calls",
        )
    } else {
        (
            json!({"role": "assistant", "content": "That is all."}),
            "stop",
        )
    };
    let choice = json!([{"index": 0, "delta": delta, "finish_reason": finish}]);
    let usage = json!({"prompt_tokens": 1000, "completion_tokens": 20, "total_tokens": 1020});
    format!(
        "data: {}\n\ndata: {}\n\ndata: [DONE]\n\n",
        json!({"choices": choice}),
        json!({"choices": [], "usage": usage})
    )
}

/// Measures steps of one session and of many, in a daemon that asks `provider`.
pub async fn measure(field: &Field, provider: &Provider, report: &mut Report) {
    let repository = Repository::sample(field.directory.join("textkit"));
    for (count, name, on_a_sound_disk) in [
        (
            1,
            "own part of a step, 1 session (it reads a line) | its waits for the disk",
            "the same, but for moments at which the disk alone took over 10 ms",
        ),
        (
            MANY,
            "own part of a step, 20 sessions at once | its waits for the disk",
            "the same, but for moments at which the disk alone took over 10 ms",
        ),
    ] {
        let sessions: Vec<(String, String)> = (0..count)
            .map(|index| {
                (
                    format!("step-{count}-{index}"),
                    format!("openai:{count}-{index}"),
                )
            })
            .collect();
        for (workspace, _) in &sessions {
            let daemon = &field.daemon;
            daemon
                .workspace(workspace, &["--repo", repository.arg()])
                .await;
        }
        provider.expect(count);
        let ids = join_all(sessions.iter().map(async |(workspace, model)| {
            let mut start = request(workspace, model);
            if let Some(options) = &mut start.options {
                options.workflow = Workflow::None.into();
            }
            field.daemon.start_session(start).await
        }))
        .await;
        let probe = Probe::start(&field.directory);
        provider.until_ended().await;
        let stalls = probe.stop();
        for id in &ids {
            field.daemon.rested(id).await;
        }
        let ours = provider.take();
        let theirs = waits_for_the_disk(&field.directory);
        assert!(ours.len() >= count * STEPS, "{} steps", ours.len());
        for (workspace, _) in &sessions {
            let delete = ["workspace", "delete", workspace, "--yes"];
            let _ = field.daemon.compyctl(&delete).await.expect_code(0);
        }
        let on_time: Vec<_> = (ours.iter().copied())
            .filter(|(begun, took)| !stalls.iter().any(|stall| stall.meets(*begun, *took)))
            .collect();
        let beside = ours.len() - on_time.len();
        let slowest = ours.iter().enumerate().max_by_key(|(_, (_, took))| *took);
        let slowest = slowest.map(|(number, (_, took))| (number + 1, *took));
        eprintln!(
            "steps: {beside} of {} beside {} waits of over {STALL:?} for the disk alone; \
             the slowest and its number: {slowest:?}",
            ours.len(),
            stalls.len()
        );
        for (name, steps) in [(name, ours), (on_a_sound_disk, on_time)] {
            let measured = Measured {
                name,
                unit: "ms",
                better: Better::Less,
                ours: (steps.iter())
                    .map(|(_, took)| took.as_secs_f64() * 1e3)
                    .collect(),
                theirs: theirs.clone(),
            };
            report.add(measured, "p50 under 3, p99 under 10 ms", |ours, _| {
                ours.p50 < 3.0 && ours.p99 < 10.0
            });
        }
    }
}

/// Looks how the disk does while others use it: a small record from time to time,
/// and a wait for it.
struct Probe {
    stop: Arc<AtomicBool>,
    looking: std::thread::JoinHandle<Vec<Stall>>,
}

/// A wait for the disk that is longer than any of a sound one.
#[derive(Debug, Clone, Copy)]
struct Stall {
    begun: Instant,
    ended: Instant,
}

impl Stall {
    fn meets(&self, begun: Instant, took: Duration) -> bool {
        begun < self.ended && self.begun < begun + took
    }
}

impl Probe {
    fn start(directory: &Path) -> Self {
        let file = tempfile::tempfile_in(directory).expect("there is room for a file");
        // Written in place, it waits for no journal and for nobody else's bytes.
        let write = move || {
            file.write_all_at(&[b'x'; 700], 0)
                .and_then(|()| file.sync_data())
                .expect("the disk takes it");
        };
        write();
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let looking = std::thread::spawn(move || {
            let mut stalls = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let begun = Instant::now();
                write();
                let ended = Instant::now();
                if ended - begun > STALL {
                    stalls.push(Stall { begun, ended });
                }
                std::thread::sleep(PROBE_EVERY);
            }
            stalls
        });
        Self { stop, looking }
    }

    fn stop(self) -> Vec<Stall> {
        self.stop.store(true, Ordering::Relaxed);
        self.looking.join().expect("the probe does not panic")
    }
}

/// What a step waits for the disk at least: two records that are durable one after
/// the other, on a disk with nothing else to do.
fn waits_for_the_disk(directory: &Path) -> Vec<f64> {
    let mut file = tempfile::tempfile_in(directory).expect("there is room for a file");
    (0..WAITS)
        .map(|_| {
            std::thread::sleep(Duration::from_millis(5));
            let begun = Instant::now();
            for _ in 0..2 {
                file.write_all(&[b'x'; 700])
                    .and_then(|()| file.sync_data())
                    .expect("the disk takes it");
            }
            begun.elapsed().as_secs_f64() * 1e3
        })
        .collect()
}
