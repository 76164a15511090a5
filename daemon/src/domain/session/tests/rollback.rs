//! A session put back to one of its snapshots.

use std::collections::BTreeMap;

use super::*;

fn back_to(stage: Stage, attempt: Option<u32>) -> Request {
    let since = None;
    Request::RollBack(RollBackTo {
        stage,
        attempt,
        since,
    })
}

fn pause() -> Request {
    let reason = "a person paused it".to_owned();
    Request::Pause { reason }
}

/// An honest session after so many steps, paused.
fn paused_after(steps: usize) -> Option<Play> {
    let mut play = Play::new(options(), World::default());
    for _ in 0..steps {
        if !play.step(&mut honest) {
            return None;
        }
    }
    play.ask(pause()).ok()?;
    Some(play)
}

/// Intents without an outcome, and those with several.
fn unsettled(play: &Play) -> Vec<u64> {
    let mut outcomes = BTreeMap::new();
    for event in play.events() {
        match &event.body {
            EventBody::ToolStarted { .. }
            | EventBody::ModelAsked
            | EventBody::WorkStarted { .. } => {
                outcomes.insert(event.sequence, 0);
            }
            EventBody::ToolEnded(ended) => {
                if let Some(intent) = ended.intent {
                    *outcomes.entry(intent).or_default() += 1;
                }
            }
            EventBody::ModelFailed { intent, .. } | EventBody::WorkEnded { intent, .. } => {
                *outcomes.entry(*intent).or_default() += 1;
            }
            EventBody::ModelAnswered(answer) => *outcomes.entry(answer.intent).or_default() += 1,
            _ => {}
        }
    }
    let unsettled = outcomes.into_iter().filter(|(_, count)| *count != 1);
    unsettled.map(|(intent, _)| intent).collect()
}

#[test]
fn after_a_rollback_at_any_step_the_session_goes_on_and_leaves_nothing_open() {
    let mut rolled_back = 0;
    for steps in 1.. {
        let Some(mut play) = paused_after(steps) else {
            break;
        };
        let had = play
            .state
            .checkpoints
            .iter()
            .any(|c| c.stage == Stage::Modify);
        let answer = play.ask(back_to(Stage::Modify, None));
        match answer {
            Ok(()) => rolled_back += 1,
            Err(RequestRefusal::NoSnapshot { .. }) => {
                assert!(!had);
                continue;
            }
            Err(RequestRefusal::Published { .. }) => {
                assert!(play.state.publishing > 0);
                continue;
            }
            Err(refusal) => panic!("after {steps} steps: {refusal}"),
        }
        play.run(&mut honest);
        assert_eq!(play.state.condition, Condition::Verified, "{steps}");
        assert_eq!(unsettled(&play), Vec::<u64>::new(), "after {steps} steps");
        assert_eq!(play.state.attempts_at(Stage::Modify), 2);
    }
    assert!(rolled_back > 10, "{rolled_back}");
}

#[test]
fn what_was_known_since_the_snapshot_is_not_known_any_more_and_the_model_is_told() {
    let mut play = Play::new(options(), World::default());
    while !play
        .state
        .todos
        .first()
        .is_some_and(|todo| todo.is_verified())
    {
        assert!(play.step(&mut honest));
    }
    assert!(!play.state.changed_files.is_empty());
    let (cost, tree) = (play.state.model_calls, play.world.tree);
    play.ask(pause()).unwrap();
    play.ask(back_to(Stage::Modify, Some(1))).unwrap();
    while play.state.open.is_some() {
        assert!(play.step(&mut honest));
    }
    assert_eq!(play.state.todos[0].state, TodoState::Pending);
    assert!(play.state.changed_files.is_empty());
    assert_eq!((play.state.model_calls, play.world.tree), (cost, tree - 1));
    assert_eq!(play.state.stage, Stage::Modify);
    assert_eq!(play.state.record().unwrap().attempt, 2);
    let Some(Message::User { text }) = play.context.messages().last() else {
        panic!("{:?}", play.context.messages().last());
    };
    assert!(text.contains("rolled this session back"), "{text}");
}

#[test]
fn a_rollback_is_refused_with_the_reason() {
    let refusal = |play: &mut Play, stage, attempt| play.ask(back_to(stage, attempt)).unwrap_err();
    let mut running = Play::new(options(), World::default());
    while running.state.stage != Stage::Modify {
        running.step(&mut honest);
    }
    let why = refusal(&mut running, Stage::Modify, None);
    assert_eq!(why, RequestRefusal::Running);
    running.ask(pause()).unwrap();
    let why = refusal(&mut running, Stage::Validate, None);
    let known = vec!["UNDERSTAND#1".to_owned()];
    let asked = "VALIDATE".to_owned();
    assert_eq!(why, RequestRefusal::NoSnapshot { asked, known });
    let mut ended = play(options(), World::default());
    let why = refusal(&mut ended, Stage::Modify, None);
    assert_eq!(why, RequestRefusal::Ended(Condition::Verified));
}

#[test]
fn a_rollback_that_is_asked_for_again_is_done_once() {
    let mut play = paused_after(40).unwrap();
    let checkpoint = play.state.checkpoints.last().unwrap().clone();
    let stage = checkpoint.stage;
    let since = Some(play.state.sequence);
    let ask = |play: &mut Play, attempt, since| {
        let to = RollBackTo {
            stage,
            attempt,
            since,
        };
        let before = play.state.sequence;
        play.ask(Request::RollBack(to)).unwrap();
        play.state.sequence > before
    };
    assert!(ask(&mut play, None, since));
    // While it runs, and once it stands still again.
    assert!(!ask(&mut play, None, since));
    while play.state.open.is_some() {
        assert!(play.step(&mut honest));
    }
    play.ask(pause()).unwrap();
    for attempt in [None, Some(checkpoint.attempt)] {
        assert!(!ask(&mut play, attempt, since));
    }
    // Another request is another rollback.
    let now = Some(play.state.sequence);
    assert!(ask(&mut play, None, now));
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    assert!(!ask(&mut play, None, since), "it has ended since");
}

#[test]
fn what_the_forge_has_can_only_be_built_upon() {
    let world = World {
        ci: vec![false, true],
        ..World::default()
    };
    let mut play = Play::new(options(), world);
    while play.state.attempts_at(Stage::Modify) < 2 || !play.state.attempt.prompted {
        assert!(play.step(&mut honest));
    }
    play.ask(pause()).unwrap();
    let to = "MODIFY#1".to_owned();
    let why = play.ask(back_to(Stage::Modify, Some(1))).unwrap_err();
    assert_eq!(why, RequestRefusal::Published { to });
    // The later one has the published commit in it.
    play.ask(back_to(Stage::Modify, None)).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn a_rollback_that_cannot_be_done_leaves_the_session_paused_as_it_was() {
    let mut play = paused_after(40).unwrap();
    let checkpoint = play.state.checkpoints.last().unwrap().clone();
    let work = Work::RollBack {
        stage: checkpoint.stage,
        attempt: checkpoint.attempt,
        snapshot: checkpoint.snapshot.clone(),
    };
    play.world.broken = Some((work, Again::IsUseless));
    play.ask(back_to(checkpoint.stage, None)).unwrap();
    play.run(&mut honest);
    assert_eq!(
        play.state.condition,
        Condition::Paused,
        "{}",
        play.state.reason
    );
    assert!(
        play.state.reason.contains("no way"),
        "{}",
        play.state.reason
    );
    play.world.broken = None;
    let reason = String::new();
    play.ask(Request::Resume { reason }).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
}
