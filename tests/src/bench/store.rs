//! Events on disk, and back.

use std::{fs::File, io::Write, path::Path, sync::Arc, time::Instant};

use compyd::{
    adapters::sled::{SledOptions, SledStore},
    domain::ids::SessionId,
    ports::store::StorePort,
};
use compyd_proto::v1::{WatchSessionRequest, Workflow};
use futures_util::future::join_all;
use serde_json::json;

use super::{Better, Field, Measured, Report};
use crate::{repository::Repository, script::Script, sessions::request};

/// A usual event: a tool's answer.
const EVENT_BYTES: usize = 400;
const EVENTS: usize = 400;
const SESSIONS: usize = 32;
const ROUNDS: usize = 5;

/// Measures appends, one session and many, beside a bare loop; and replay.
pub async fn measure(field: &Field, report: &mut Report) {
    let (mut bare, mut one, mut many) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        let directory = field.directory.join(format!("store-{round}"));
        std::fs::create_dir_all(&directory).expect("there is room");
        bare.push(bare_loop(&directory));
        let options = SledOptions::in_dir(directory.join("store"));
        let store = tokio::task::spawn_blocking(move || SledStore::open(options))
            .await
            .expect("opening does not panic")
            .expect("the store opens");
        let store = Arc::new(store);
        one.push(sessions(&store, 1).await);
        many.push(sessions(&store, SESSIONS).await);
        store.close().await;
        let _ = std::fs::remove_dir_all(&directory);
    }
    report.add(
        Measured {
            name: "durable events, 1 session | append and fdatasync",
            unit: "1/s",
            better: Better::More,
            ours: one,
            theirs: bare.clone(),
        },
        "at least 60 %",
        |_, ratio| ratio >= 0.6,
    );
    report.add(
        Measured {
            name: "durable events, 32 sessions | append and fdatasync",
            unit: "1/s",
            better: Better::More,
            ours: many,
            theirs: bare,
        },
        "at least 8 times",
        |_, ratio| ratio >= 8.0,
    );
    replay(field, report).await;
}

/// Appends events one after the other, each on disk before the next.
async fn sessions(store: &Arc<SledStore>, count: usize) -> f64 {
    let begun = Instant::now();
    join_all((0..count).map(|_| {
        let store = store.clone();
        async move {
            let session = SessionId::from_uuid(uuid::Uuid::new_v4());
            for sequence in 1..=EVENTS as u64 {
                let event = vec![b'x'; EVENT_BYTES];
                let appended = store.append(&session, sequence, vec![event]).await;
                appended.expect("the event is kept");
            }
        }
    }))
    .await;
    (count * EVENTS) as f64 / begun.elapsed().as_secs_f64()
}

fn bare_loop(directory: &Path) -> f64 {
    let mut file = File::create(directory.join("bare")).expect("there is room");
    let event = vec![b'x'; EVENT_BYTES];
    let begun = Instant::now();
    for _ in 0..EVENTS {
        file.write_all(&event).expect("there is room");
        file.sync_data().expect("the disk takes it");
    }
    EVENTS as f64 / begun.elapsed().as_secs_f64()
}

/// A session of a thousand events, read from the first to the last.
async fn replay(field: &Field, report: &mut Report) {
    let daemon = &field.daemon;
    let repository = Repository::sample(field.directory.join("replayed"));
    daemon
        .workspace("replay", &["--repo", repository.arg()])
        .await;
    let mut script = Script::new();
    for turn in 0..400 {
        // Reasoning alone would be taken for a session that is stuck.
        script = match turn % 2 {
            0 => script.tool(
                "think",
                json!({"content": format!("thought {turn} of textkit/slug.py")}),
            ),
            _ => script.tool("glob", json!({"pattern": format!("*.{turn}")})),
        };
    }
    let mut start = request("replay", &script.write(&field.directory));
    if let Some(options) = &mut start.options {
        options.workflow = Workflow::None.into();
        options.max_steps = 10_000;
    }
    let id = daemon.start_session(start).await;
    daemon.rested(&id).await;
    let wanted = daemon.session(&id).await.last_sequence;
    let after_sequence = wanted.saturating_sub(1_000);
    let mut times = Vec::new();
    for _ in 0..40 {
        let watch = WatchSessionRequest {
            session_id: id.clone(),
            after_sequence,
            no_follow: true,
        };
        let begun = Instant::now();
        let answer = daemon.sessions().watch_session(watch).await;
        let mut stream = answer.expect("the log is there").into_inner();
        let mut events = 0;
        while stream
            .message()
            .await
            .expect("the log can be read")
            .is_some()
        {
            events += 1;
        }
        times.push(begun.elapsed().as_secs_f64() * 1e3);
        assert_eq!(events, 1_000.min(wanted), "every event is replayed");
    }
    report.add(
        Measured {
            name: "replay 1,000 events of a session to a client",
            unit: "ms",
            better: Better::Less,
            ours: times,
            theirs: Vec::new(),
        },
        "under 15 ms",
        |ours, _| ours.p50 < 15.0,
    );
}
