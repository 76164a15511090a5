//! Where tests hold an operation: at a step that is in the journal and whose
//! work has not begun. Only with the feature `test-util`, which the programs
//! that users get are built without.

use std::{path::Path, time::Duration};

use crate::domain::snapshot::point::Point;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits as long as the file is there and names this step.
pub(super) async fn at(file: Option<&Path>, point: Point) {
    let Some(file) = file else { return };
    let mut held = false;
    while std::fs::read_to_string(file).is_ok_and(|name| name == point.name()) {
        if !held {
            tracing::warn!(%point, "an operation is held for a test");
            held = true;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
