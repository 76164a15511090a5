//! What a person is asked about a change that is proved.

use super::*;
use crate::domain::judges::Inside;

/// A session that a person verifies, and whose proved commit changes this test.
fn with_changed_test(change: ChangeKind) -> Play {
    let judge = ChangedJudge::new("tests/test_sum.py".into(), change, false);
    let world = World {
        changed_judges: vec![judge],
        ..World::default()
    };
    let manual = SessionOptions {
        verify: VerifyMode::Manual,
        ..options()
    };
    let mut play = Play::new(manual, world);
    while play.state.proof.is_none() {
        play.run(&mut honest);
        if play.state.proof.is_none() {
            play.ask(Request::Answer(yes())).unwrap();
        }
    }
    play
}

fn yes() -> Answer {
    Answer {
        question: None,
        accepted: true,
        text: String::new(),
        scope: Scope::Once,
        by: None,
    }
}

#[test]
fn a_person_is_asked_about_changed_tests_and_not_about_new_ones() {
    let mut play = with_changed_test(ChangeKind::Modified);
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Waiting);
    let question = play.state.question.clone().unwrap();
    assert!(question.text.contains("medium risk"), "{}", question.text);
    // Nobody makes the verdict up.
    let reason = String::new();
    play.ask(Request::Resume { reason }).unwrap();
    assert_eq!(play.state.condition, Condition::Waiting);
    play.ask(Request::Answer(yes())).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    let mut play = with_changed_test(ChangeKind::Added);
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn changed_tests_that_a_person_does_not_accept_lead_to_debug() {
    let mut play = with_changed_test(ChangeKind::Deleted);
    play.run(&mut honest);
    let no = Answer {
        accepted: false,
        ..yes()
    };
    play.ask(Request::Answer(no)).unwrap();
    play.run(&mut honest);
    assert!(play.stages().contains(&Stage::Debug), "{:?}", play.stages());
    assert_ne!(play.state.condition, Condition::Verified);
}

/// A session under a policy of this text, whose proof leaves this to judge.
fn under(policy: &str, options: SessionOptions, judges: &[ChangeKind], known: &[&str]) -> Play {
    let judge = |change: &ChangeKind| ChangedJudge::new("test_sum.py".into(), *change, false);
    let world = World {
        changed_judges: judges.iter().map(judge).collect(),
        known_failures: known.iter().map(|name| (*name).to_owned()).collect(),
        ..World::default()
    };
    let mut play = Play::new(options, world);
    play.policy = Some(Policy::read(policy, "a test").unwrap());
    play.run(&mut honest);
    play
}

#[test]
fn the_policy_says_from_which_risk_on_a_person_is_asked() {
    let [added, modified, deleted] = [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted];
    for (policy, asks) in [
        ("", [false, false, true]),
        ("ask_on_test_changes = \"low\"", [true, true, true]),
        ("ask_on_test_changes = \"medium\"", [false, true, true]),
        ("ask_on_test_changes = \"never\"", [false, false, false]),
    ] {
        for (change, asks) in [added, modified, deleted].into_iter().zip(asks) {
            let play = under(policy, options(), &[change], &[]);
            let expected = if asks {
                Condition::Waiting
            } else {
                Condition::Verified
            };
            assert_eq!(play.state.condition, expected, "{policy} {change:?}");
        }
    }
    let allowed = SessionOptions {
        allow_test_changes: true,
        ..options()
    };
    let play = under("", allowed, &[deleted], &[]);
    assert_eq!(
        play.state.condition,
        Condition::Verified,
        "the task allows it"
    );
}

#[test]
fn a_task_allows_no_test_changes_that_the_operator_wants_to_see() {
    let [added, modified, deleted] = [ChangeKind::Added, ChangeKind::Modified, ChangeKind::Deleted];
    let given = |risk: &str| format!("ask_on_test_changes = \"{risk}\"");
    for (policy, change, asks) in [
        (given("low"), added, true),
        (given("medium"), added, false),
        (given("medium"), modified, true),
        (given("high"), deleted, true),
        (given("never"), deleted, false),
        // What is said of something else leaves the default as it is.
        ("ask_on_known_failures = false".to_owned(), deleted, false),
    ] {
        let allowed = SessionOptions {
            allow_test_changes: true,
            ..options()
        };
        let play = under(&policy, allowed, &[change], &[]);
        let waits = play.state.condition == Condition::Waiting;
        assert_eq!(waits, asks, "{policy} {change:?}");
    }
}

#[test]
fn leave_to_change_tests_covers_nothing_that_runs_them() {
    let tests = ChangedJudge::inside("src/a.rs", ChangeKind::Modified, &Inside::TestsChanged);
    let patch = Inside::Runner("_pytest");
    let patch = ChangedJudge::inside("app/a.py", ChangeKind::Modified, &patch);
    let hook = ChangedJudge::new("conftest.py".into(), ChangeKind::Added, true);
    for (judge, may_change_tests, asks) in [
        (&tests, false, true),
        (&tests, true, false),
        (&patch, true, true),
        (&hook, true, true),
    ] {
        let world = World {
            changed_judges: vec![judge.clone()],
            ..World::default()
        };
        let options = SessionOptions {
            allow_test_changes: may_change_tests,
            ..options()
        };
        let mut play = Play::new(options, world);
        play.policy = Some(Policy::read("", "a test").unwrap());
        play.run(&mut honest);
        let waits = play.state.condition == Condition::Waiting;
        assert_eq!(waits, asks, "{} {may_change_tests}", judge.describe());
    }
}

#[test]
fn a_person_is_asked_about_tests_that_failed_before_and_fail_still() {
    let mut play = under("", options(), &[ChangeKind::Deleted], &["test_other"]);
    assert_eq!(play.state.condition, Condition::Waiting);
    let question = play.state.question.clone().unwrap().text;
    for part in ["test_other", "test_sum.py (deleted, high risk)"] {
        assert!(question.contains(part), "it asks once: {question}");
    }
    play.ask(Request::Answer(yes())).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    let unasked = under(
        "ask_on_known_failures = false",
        options(),
        &[],
        &["test_other"],
    );
    assert_eq!(unasked.state.condition, Condition::Verified);
}
