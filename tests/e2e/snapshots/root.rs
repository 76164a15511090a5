//! The root file system of a workspace: committed when it changed, and only
//! then.

use serde_json::Value;

use super::*;

fn image(snapshot: &Value) -> &str {
    snapshot["image_id"].as_str().unwrap()
}

async fn act(daemon: &Daemon, action: &str, name: &str) {
    let _ = daemon
        .compyctl(&["workspace", action, name])
        .await
        .expect_code(0);
}

async fn delete(daemon: &Daemon, snapshot: &Value) {
    let _ = daemon
        .compyctl(&["snapshot", "delete", &id(snapshot), "--yes"])
        .await
        .expect_code(0);
}

async fn restore(daemon: &Daemon, name: &str, snapshot: &Value) {
    let snapshot = id(snapshot);
    let args = [
        "workspace",
        "restore",
        name,
        &snapshot,
        "--no-backup",
        "--yes",
    ];
    let _ = daemon.compyctl(&args).await.expect_code(0);
}

#[tokio::test]
async fn a_root_file_system_that_did_not_change_is_not_committed_again() {
    let Some(daemon) = filled().await else {
        return;
    };
    let first = snapshot(&daemon, "w").await;
    bash(&daemon, "w", "echo more > /workspace/more").await;
    let second = snapshot(&daemon, "w").await;
    assert_eq!(image(&second), image(&first));
    assert_ne!(second["volumes"], first["volumes"]);
    // Stopped and started, nothing has changed either.
    act(&daemon, "stop", "w").await;
    assert_eq!(image(&snapshot(&daemon, "w").await), image(&first));
    act(&daemon, "start", "w").await;
    let third = snapshot(&daemon, "w").await;
    assert_eq!(image(&third), image(&first));

    // A change that neither sizes nor times tell.
    let change = r#"time=$(stat -c %y /opt/installed); echo two > /opt/installed
        touch -d "$time" /opt/installed"#;
    root(&daemon, "w", change).await;
    let changed = snapshot(&daemon, "w").await;
    assert_ne!(image(&changed), image(&first));

    // Every snapshot has its image, whichever other one is deleted.
    delete(&daemon, &first).await;
    delete(&daemon, &second).await;
    restore(&daemon, "w", &third).await;
    assert_eq!(bash(&daemon, "w", "cat /opt/installed").await, "one");
    // What was only restored is what it was restored from.
    let restored = snapshot(&daemon, "w").await;
    assert_eq!(image(&restored), image(&third));
    delete(&daemon, &third).await;
    let fork = ["workspace", "fork", "w", "f", "--snapshot", &id(&restored)];
    let _ = daemon.compyctl(&fork).await.expect_code(0);
    assert_eq!(bash(&daemon, "f", "cat /opt/installed").await, "one");
    restore(&daemon, "w", &changed).await;
    assert_eq!(bash(&daemon, "w", "cat /opt/installed").await, "two");
}

/// Writes a file twice and keeps it open; the second time when it is told to.
const HOLD: &str = r#"
import os, time
held = os.open("/opt/held", os.O_RDWR | os.O_CREAT)
os.pwrite(held, b"one", 0)
open("/workspace/written", "w").close()
while not os.path.exists("/workspace/go"):
    time.sleep(0.01)
os.pwrite(held, b"two", 0)
open("/workspace/again", "w").close()
time.sleep(600)
"#;

#[tokio::test]
async fn what_is_written_and_not_closed_is_a_change() {
    let Some(daemon) = filled().await else {
        return;
    };
    let start =
        format!("cat > /hold.py <<'END'\n{HOLD}\nEND\n(setsid python3 /hold.py &) >/dev/null 2>&1");
    root(&daemon, "w", &start).await;
    let until = "until [ -e /workspace/FILE ]; do sleep 0.05; done";
    bash(&daemon, "w", &until.replace("FILE", "written")).await;
    let first = snapshot(&daemon, "w").await;
    let go = format!("touch /workspace/go; {}", until.replace("FILE", "again"));
    bash(&daemon, "w", &go).await;
    let second = snapshot(&daemon, "w").await;
    assert_ne!(image(&second), image(&first));
    for (snapshot, expected) in [(&first, "one"), (&second, "two")] {
        restore(&daemon, "w", snapshot).await;
        assert_eq!(bash(&daemon, "w", "cat /opt/held").await, expected);
    }
}

/// Writes a file twice through a mapping, the second time when it is told to.
const MAP: &str = r#"
import mmap, os, time
maps = []
for path in ["/opt/mapped", "/workspace/mapped"]:
    with open(path, "w+b") as file:
        file.truncate(4096)
        maps.append(mmap.mmap(file.fileno(), 4096))
for mapped in maps:
    mapped[0:3] = b"one"
open("/workspace/written", "w").close()
while not os.path.exists("/workspace/go"):
    time.sleep(0.01)
for mapped in maps:
    mapped[0:3] = b"two"
open("/workspace/again", "w").close()
time.sleep(600)
"#;

/// The kernel says so in the times of a file only at the first write to a page
/// that is written out.
#[tokio::test]
async fn what_is_written_through_a_mapping_is_a_change_each_time() {
    let Some(daemon) = filled().await else {
        return;
    };
    let start =
        format!("cat > /map.py <<'END'\n{MAP}\nEND\n(setsid python3 /map.py &) >/dev/null 2>&1");
    root(&daemon, "w", &start).await;
    let until = "until [ -e /workspace/FILE ]; do sleep 0.05; done";
    bash(&daemon, "w", &until.replace("FILE", "written")).await;
    let first = snapshot(&daemon, "w").await;
    let go = format!("touch /workspace/go; {}", until.replace("FILE", "again"));
    bash(&daemon, "w", &go).await;
    let second = snapshot(&daemon, "w").await;
    for (snapshot, expected) in [(&first, "oneone"), (&second, "twotwo")] {
        restore(&daemon, "w", snapshot).await;
        let look = "head -c 3 /opt/mapped; head -c 3 /workspace/mapped";
        assert_eq!(bash(&daemon, "w", look).await, expected);
    }
}
