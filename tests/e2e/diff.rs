//! What differs between snapshots, and between a snapshot and now.

use serde_json::{Value, json as value};

use crate::snapshots::{bash, filled, id, json, leftovers, snapshot};

/// Change, volume and path of each.
fn told(diff: &Value) -> Vec<String> {
    let changes = diff["changes"].as_array().unwrap().iter();
    let text = |change: &Value, key: &str| change[key].as_str().unwrap().to_owned();
    changes
        .map(|c| {
            format!(
                "{} {}:{}",
                text(c, "change"),
                text(c, "volume"),
                text(c, "path")
            )
        })
        .collect()
}

#[tokio::test]
async fn a_diff_tells_each_path_that_differs_now_or_in_another_snapshot() {
    let Some(daemon) = filled().await else {
        return;
    };
    let first = id(&snapshot(&daemon, "w").await);
    let now = ["workspace", "diff", "w", &first];
    let none = json(&daemon, &now).await;
    assert_eq!(told(&none), [] as [String; 0]);
    assert_eq!(none["root"], "not-compared");

    let change = r"cd /workspace && rm -r empty && echo longer > large && chmod 0600 sparse &&
        rm pipe && mkdir pipe && echo new > $'new\377\033' && echo x >> ~/.dotfile";
    bash(&daemon, "w", change).await;
    let expected = [
        "removed work:empty",
        "content work:large",
        r"added work:new\xff\x1b",
        "type work:pipe",
        "metadata work:sparse",
        "content home:.dotfile",
    ];
    let differs = json(&daemon, &now).await;
    assert_eq!(told(&differs), expected);
    assert_eq!(
        differs["changes"][1],
        value!({
            "change": "content", "volume": "work", "path": "large",
            "before": { "type": "file", "size_bytes": 3_000_000 },
            "after": { "type": "file", "size_bytes": 7 },
        })
    );
    let second = id(&snapshot(&daemon, "w").await);
    let between = json(&daemon, &["workspace", "diff", "w", &first, &second]).await;
    assert_eq!(between["changes"], differs["changes"]);
    assert_ne!(between["root"], "not-compared");
    let back = json(&daemon, &["workspace", "diff", "w", &second, &first]).await;
    assert_eq!(told(&back).len(), expected.len());
    assert_eq!(told(&back)[0], "added work:empty");
    let _ = daemon
        .compyctl(&["workspace", "stop", "w"])
        .await
        .expect_code(0);
    assert_eq!(told(&json(&daemon, &now).await), expected);
    leftovers(&daemon, 1, 2).await;
}
