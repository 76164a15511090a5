//! A disk that fills up: work stops, nothing that was acknowledged is lost, and
//! it goes on once there is room.

use std::{path::Path, time::Duration};

use compyd_proto::v1::{SessionState, session_event::Event};
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::{Repository, sample_script},
    script::Script,
    sessions::{request, story},
    skip::skip,
    small_disk::SmallDisk,
    wait,
};

async fn on_small_disk(low_water: &str) -> Option<(SmallDisk, Daemon)> {
    let disk = match SmallDisk::new("96m") {
        Ok(disk) => disk,
        Err(why) => {
            skip(why);
            return None;
        }
    };
    let data: &Path = &disk.path().join("data");
    let options = Options::default()
        .data_dir(data)
        .set("disk.low_water", low_water);
    let daemon = Daemon::start(options).await?;
    Some((disk, daemon))
}

async fn a_full_disk_halts_the_session(low_water: &str) {
    let Some((disk, mut daemon)) = on_small_disk(low_water).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    let model = Script::load(&sample_script())
        .slowed(200)
        .write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    daemon
        .event_when(&id, "the first tool", |event| {
            matches!(&event.event, Some(Event::ToolEnded(_)))
        })
        .await;
    disk.fill();
    let halted = daemon
        .session_when(&id, "halt", |session| {
            session.state() == SessionState::Paused
        })
        .await;
    let reason = halted.state_reason.to_lowercase();
    assert!(
        reason.contains("disk") || reason.contains("space"),
        "{reason}"
    );
    let acknowledged = daemon.events(&id, 0).await;
    assert_eq!(halted.last_sequence, acknowledged.len() as u64);
    // The daemon lives, and answers; it even survives its own end.
    let listed = daemon.compyctl(&["workspace", "list"]).await;
    assert_eq!(listed.code, 0, "{}", listed.stderr);
    disk.free();
    let session = daemon
        .session_when(&id, "go on", |session| {
            matches!(
                session.state(),
                SessionState::Verified | SessionState::Failed
            )
        })
        .await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}",
        story(&events)
    );
    assert_eq!(
        story(&acknowledged),
        story(&events[..acknowledged.len()]),
        "what was acknowledged is there"
    );
    daemon.restart().await;
    assert_eq!(daemon.events(&id, 0).await, events, "and after a restart");
}

#[tokio::test]
async fn a_session_halts_at_the_low_water_mark_and_goes_on() {
    a_full_disk_halts_the_session("16MiB").await;
}

#[tokio::test]
async fn a_session_halts_where_the_disk_itself_refuses_and_goes_on() {
    // A mark so low that the disk is full before it is reached.
    a_full_disk_halts_the_session("1B").await;
}

#[tokio::test]
async fn a_blob_that_finds_no_room_is_asked_for_again() {
    let Some((disk, daemon)) = on_small_disk("8MiB").await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    // Output larger than the disk: it cannot be kept, and halts the session
    // until somebody cancels it. Nothing of it is left behind.
    let model = Script::new()
        .tool(
            "run_command",
            serde_json::json!({"command": "head -c 150000000 /dev/zero | tr '\\0' x"}),
        )
        .write(daemon.directory());
    let id = daemon.start_session(request("w", &model)).await;
    let halted = daemon.rested(&id).await;
    assert_eq!(
        halted.state(),
        SessionState::Paused,
        "{}",
        halted.state_reason
    );
    let _ = daemon
        .compyctl(&["session", "cancel", &id])
        .await
        .expect_code(0);
    assert_eq!(daemon.rested(&id).await.state(), SessionState::Cancelled);
    wait::until(
        "the room is given back",
        Duration::from_secs(30),
        async || {
            let stat = nix::sys::statvfs::statvfs(disk.path()).unwrap();
            (stat.blocks_available() * stat.fragment_size() > 60 << 20).then_some(())
        },
    )
    .await;
}
