//! Random trees, with everything in them that a tree can have.
//!
//! A tree is captured, restored elsewhere and captured there; changed and
//! captured again, with and without what is remembered; and brought back by
//! what differs. The hash of the tree decides each time.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;

use crate::harness::*;
use crate::random_tree::{Seen, change, make, perform};
use crate::volume::*;

/// `make torture` plays more of them.
fn trees() -> usize {
    let torture = std::env::var_os("COMPY_TORTURE");
    if torture.is_some_and(|value| !value.is_empty() && value != "0") {
        500
    } else {
        30
    }
}

#[tokio::test]
async fn random_trees_survive_capture_restore_and_change() {
    if !nix::unistd::geteuid().is_root() {
        eprintln!("SKIPPED: trees of several owners need root");
        return;
    }
    let rig = Rig::start().await;
    let mut runner = TestRunner::deterministic();
    let strategy = (
        prop::collection::vec(make(), 30..80),
        prop::collection::vec(change(), 1..25),
    );
    let mut seen = Seen::default();
    for number in 0..trees() {
        let (makes, changes) = strategy.new_tree(&mut runner).unwrap().current();
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("from"), dir.path().join("to"));
        std::fs::create_dir(&from).unwrap();
        std::fs::create_dir(&to).unwrap();
        for operation in &makes {
            perform(&from, operation);
        }
        let what = format!("tree {number}: {makes:?}, then {changes:?}");
        let first = capture(&rig.trees(), &from, None).await.unwrap();
        seen.count(&first.entries);

        restore_whole(&rig.trees(), &to, &first).await;
        let copy = capture(&rig.trees(), &to, None).await.unwrap();
        assert_eq!(copy.entries, first.entries, "restored whole, {what}");
        assert_eq!(copy.hash(), first.hash());

        // In another order of events than the first, in the same directory.
        for operation in &changes {
            perform(&from, operation);
        }
        let changed = capture(&rig.trees(), &from, Some(&first)).await.unwrap();
        let fresh = capture(&rig.trees(), &from, None).await.unwrap();
        assert_eq!(changed.entries, fresh.entries, "captured again, {what}");

        let back = restore_delta(&rig.trees(), &from, &changed, &first).await;
        let restored = capture(&rig.trees(), &from, Some(&back)).await.unwrap();
        assert_eq!(restored.entries, first.entries, "brought back, {what}");
        assert_eq!(restored.hash(), first.hash());
    }
    seen.check();
}
