//! What a compaction keeps.

use super::*;
use crate::domain::{
    compaction::{self, Cause, EPOCH_BEGINS},
    prompts,
};

/// A session of a repository with rules, after its first edit.
fn edited() -> Play {
    let world = World {
        knowledge: Some(prompts::knowledge("Sums are exact.", RULES_TOKENS)),
        ..World::default()
    };
    let mut play = Play::new(options(), world);
    while play.state.changed_files.is_empty() {
        assert!(play.step(&mut honest), "{}", play.state.reason);
    }
    play
}

#[test]
fn a_briefing_has_the_rules_the_plan_and_what_was_done() {
    let play = edited();
    let text = compaction::briefing(&play.state, &play.context, play.state.sequence + 1);
    for part in [
        EPOCH_BEGINS,
        "<project-notes>\nSums are exact.\n</project-notes>",
        "- PLAN: done here",
        "\n- todo 1 is ",
        ": make the sum right, so that the tests pass",
        "Files you changed:\n- /workspace/repo/sum.py",
        "- run-tests fails as sum.py subtracts",
        "You are in MODIFY.",
    ] {
        assert!(text.contains(part), "{part} is not in: {text}");
    }
}

#[test]
fn every_epoch_has_the_task_and_the_rules() {
    let mut play = edited();
    let task = play.context.messages()[0].clone();
    for _ in 0..2 {
        let keep_from = play.state.sequence + 1;
        let briefing = compaction::briefing(&play.state, &play.context, keep_from);
        play.append(vec![EventBody::Compacted {
            cause: Cause::Overflow,
            keep_from,
            left_out: 3,
            briefing,
        }]);
        let [first, Message::User { text }, ..] = play.context.messages() else {
            panic!("the task and a briefing")
        };
        assert_eq!(*first, task);
        assert_eq!(text.matches("Sums are exact.").count(), 1, "{text}");
    }
    assert_eq!(play.context.system(), play.state.created.system);
}
