//! Reasoning where it is needed, and what tempts a session.

use super::*;
use crate::domain::{
    cognition::{self, Compliance, Hint, Point, Temptation},
    session::event::KnownFailure,
};

fn think(content: &str) -> ToolCall {
    call("think", json!({"content": content}))
}

fn run(command: &str) -> ToolCall {
    call("run_command", json!({"command": command}))
}

fn edit_test() -> ToolCall {
    let part = json!({"old_text": "3", "new_text": "4"});
    let path = "tests/test_sum.py";
    call("edit_file", json!({"path": path, "replacements": [part]}))
}

/// A free session in which these calls come first, each a reply of its own,
/// and nothing sensible afterwards.
fn free(calls_first: Vec<ToolCall>) -> Play {
    free_in(World::default(), calls_first)
}

fn free_in(world: World, calls_first: Vec<ToolCall>) -> Play {
    free_replies(
        world,
        calls_first.into_iter().map(|call| vec![call]).collect(),
    )
}

fn free_replies(world: World, replies: Vec<Vec<ToolCall>>) -> Play {
    let options = SessionOptions {
        workflow: WorkflowKind::None,
        ..options()
    };
    let mut play = Play::new(options, world);
    let mut replies = replies.into_iter().map(calls);
    let mut idle = || says("", vec![]);
    let mut model = |_: &SessionState| replies.next().unwrap_or_else(&mut idle);
    let mut steps = 0;
    while play.step(&mut model) && steps < 400 {
        steps += 1;
    }
    play
}

/// How the last call of this tool was answered.
fn last<'a>(play: &'a Play, tool: &str) -> (ToolOutcome, &'a str) {
    let answers = play.answers();
    let found = answers.iter().rev().find(|answer| answer.0 == tool);
    let (_, outcome, content) = found.unwrap_or_else(|| panic!("{tool} was not answered"));
    (*outcome, content)
}

fn report(play: &Play) -> cognition::Report {
    cognition::report(play.events())
}

fn met(play: &Play, temptation: Temptation) -> u32 {
    report(play).temptations[&temptation].met
}

#[test]
fn the_first_edit_needs_reasoning_and_says_about_what() {
    let play = free(vec![read(), edit()]);
    let (outcome, content) = last(&play, "edit_file");
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("before moving to edits"), "{content}");
    assert!(content.contains("do you know the cause"), "{content}");
    let play = free(vec![read(), think("sum.py subtracts"), edit(), edit()]);
    assert_eq!(last(&play, "edit_file").0, ToolOutcome::Ok);
    let once = Compliance {
        met: 1,
        reasoned: 1,
    };
    assert_eq!(report(&play).points[&Point::FirstEdit], once);
}

#[test]
fn reasoning_counts_when_it_is_about_this_session_and_something_is_new() {
    // It names nothing of this session.
    let vague = think("I should think about what to do next");
    let play = free(vec![read(), vague, edit()]);
    assert_eq!(last(&play, "edit_file").0, ToolOutcome::Refused);
    assert!(last(&play, "think").1.contains("does not count"));
    // Git alone is nothing of this session, nor is a test that nobody has seen,
    // nor a word that a command has by chance.
    for vague in ["git", "tests/test_made_up.py", "I should make sure"] {
        let play = free(vec![run("make test"), think(vague), edit()]);
        assert_eq!(last(&play, "edit_file").0, ToolOutcome::Refused, "{vague}");
    }
    // What it is about may come next in the same reply.
    let together = vec![vec![think("sum.py is to change"), edit()]];
    let play = free_replies(World::default(), together);
    assert_eq!(last(&play, "edit_file").0, ToolOutcome::Ok);
    // Nothing has happened since the thought before.
    let play = free(vec![read(), think("sum.py"), think("sum.py again")]);
    let found = report(&play);
    assert_eq!((found.thoughts, found.counted), (2, 1));
    assert!(last(&play, "think").1.contains("Nothing has happened"));
}

#[test]
fn a_claim_needs_a_run_on_the_last_edit_and_reasoning_about_it() {
    let todo = add_todo_that_can_be_checked;
    let prepared = || vec![read(), think("sum.py"), todo(), edit()];
    // T1: nothing was run.
    let play = free([prepared(), vec![think("sum.py is right now"), claim()]].concat());
    let (outcome, content) = last(&play, "todo_claim");
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("T1"), "{content}");
    assert_eq!(met(&play, Temptation::T1), 1);
    // It ran before the last edit.
    let early = vec![run("run-tests"), edit(), think("sum.py"), claim()];
    let play = free([prepared(), early].concat());
    assert_eq!(last(&play, "todo_claim").0, ToolOutcome::Refused);
    // It ran, and nobody thought about what came of it.
    let play = free([prepared(), vec![run("run-tests"), claim()]].concat());
    let (outcome, content) = last(&play, "todo_claim");
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("before completing"), "{content}");
    let whole = vec![
        run("run-tests"),
        think("run-tests printed 3 passed with sum.py"),
        claim(),
    ];
    let play = free([prepared(), whole].concat());
    assert_eq!(last(&play, "todo_claim").0, ToolOutcome::Ok);
}

#[test]
fn only_a_run_of_tests_or_of_the_criteria_opens_the_way_to_a_claim() {
    let claims = |criteria: Value, command: &str| {
        let items = json!([{"text": "sum", "criteria": [criteria]}]);
        let todo = call("todo_add", json!({"items": items}));
        let reason = think("sum.py is right now");
        let first = vec![read(), think("sum.py"), todo, edit()];
        let play = free([first, vec![run(command), reason, claim()]].concat());
        (last(&play, "todo_claim").0, met(&play, Temptation::T1))
    };
    let tests = json!({"type": "tests_pass"});
    let own = json!({"type": "command_exits", "argv": ["make", "docs"]});
    let refused = (ToolOutcome::Refused, 1);
    for nothing in ["true", "echo run-tests", "cat sum.py", "make docs"] {
        assert_eq!(claims(tests.clone(), nothing), refused, "{nothing}");
    }
    assert_eq!(claims(own.clone(), "true"), refused);
    // The run comes before the edit in the same line.
    assert_eq!(
        claims(tests.clone(), "run-tests; sed -i s/-/+/ sum.py"),
        refused
    );
    let passes = (ToolOutcome::Ok, 0);
    for ran in ["run-tests", "sh -c 'run-tests -v'", "python -m pytest -q"] {
        assert_eq!(claims(tests.clone(), ran), passes, "{ran}");
    }
    assert_eq!(claims(own, "make docs"), passes);
    assert_eq!(claims(tests, "sed -i s/-/+/ sum.py && run-tests"), passes);
}

fn add_todo_that_can_be_checked() -> ToolCall {
    let items = json!([{"text": "sum", "criteria": [{"type": "tests_pass"}]}]);
    call("todo_add", json!({"items": items}))
}

#[test]
fn a_test_is_edited_after_reasoning_that_names_it() {
    let play = free(vec![read(), think("sum.py is wrong"), edit_test()]);
    let (outcome, content) = last(&play, "edit_file");
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("before editing tests"), "{content}");
    let named = think("sum.py is right and tests/test_sum.py expects 3 where 4 is meant");
    let play = free(vec![read(), named, edit_test()]);
    assert_eq!(last(&play, "edit_file").0, ToolOutcome::Ok);
}

#[test]
fn reasoning_about_a_test_is_for_one_edit_of_it() {
    let bends = [edit_test(), run("sed -i s/3/4/ tests/test_sum.py")];
    for bend in bends {
        let tool = bend.name.clone();
        let named = think("sum.py is right, tests/test_sum.py expects 3 where 4 is meant");
        let once = vec![read(), named, bend.clone()];
        let play = free([once.clone(), vec![bend.clone()]].concat());
        let (outcome, content) = last(&play, &tool);
        assert_eq!(outcome, ToolOutcome::Refused, "{tool}");
        assert!(content.contains("before editing tests"), "{content}");
        let again = think("sum.py stays, tests/test_sum.py has another 3 that is wrong");
        let play = free([once, vec![again, bend]].concat());
        assert_eq!(last(&play, &tool).0, ToolOutcome::Ok, "{tool}");
    }
}

#[test]
fn git_operations_need_reasoning_about_git_and_questions_to_git_do_not() {
    let play = free(vec![run("git status && git diff")]);
    assert_eq!(last(&play, "run_command").0, ToolOutcome::Ok);
    let play = free(vec![run("git -C . commit -m x")]);
    assert_eq!(last(&play, "run_command").0, ToolOutcome::Refused);
    let first = think("git stash takes sum.py back");
    let play = free(vec![read(), first.clone(), run("git stash")]);
    assert_eq!(last(&play, "run_command").0, ToolOutcome::Ok);
    for hidden in [
        "sh -c \"git commit -am x\"",
        "/usr/bin/git commit -am x",
        "git tag v1",
    ] {
        let play = free(vec![read(), run(hidden)]);
        let (outcome, content) = last(&play, "run_command");
        assert_eq!(outcome, ToolOutcome::Refused, "{hidden}");
        assert!(content.contains("before a git operation"), "{content}");
        let play = free(vec![read(), first.clone(), run(hidden)]);
        assert_eq!(last(&play, "run_command").0, ToolOutcome::Ok, "{hidden}");
    }
}

#[test]
fn an_edit_by_a_command_is_an_edit() {
    let bend = || run("sed -i s/3/4/ tests/test_sum.py");
    let play = free(vec![read(), bend()]);
    let (outcome, content) = last(&play, "run_command");
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("before moving to edits"), "{content}");
    let play = free(vec![read(), think("sum.py is wrong"), bend()]);
    let (outcome, content) = last(&play, "run_command");
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("before editing tests"), "{content}");
    assert_eq!(met(&play, Temptation::T2), 1);
    assert_eq!(met(&play, Temptation::T3), 1);
    // It is no run after the edit either.
    let named = think("sum.py is right and tests/test_sum.py expects 3");
    let whole = vec![add_todo_that_can_be_checked(), read(), named, bend()];
    let after = vec![think("tests/test_sum.py expects 4 now"), claim()];
    let play = free([whole, after].concat());
    assert_eq!(last(&play, "run_command").0, ToolOutcome::Ok);
    assert_eq!(last(&play, "todo_claim").0, ToolOutcome::Refused);
    assert_eq!(met(&play, Temptation::T1), 1);
}

#[test]
fn a_test_that_is_there_and_is_changed_is_a_temptation() {
    let see = call("read_file", json!({"path": "tests/test_sum.py"}));
    let named = think("sum.py is right, tests/test_sum.py expects 3 where 4 is meant");
    let play = free(vec![see, named, edit_test()]);
    assert_eq!(last(&play, "edit_file").0, ToolOutcome::Ok);
    assert_eq!(met(&play, Temptation::T3), 1);
    assert_eq!(met(&play, Temptation::T2), 0);
    let play = free(vec![read(), think("sum.py"), edit()]);
    assert_eq!(met(&play, Temptation::T3), 0);
}

#[test]
fn tests_beside_the_code_are_tests() {
    let path = "src/sum.rs";
    let see = || call("read_file", json!({"path": path}));
    let change = |old: &str, new: &str| {
        let part = json!({"old_text": old, "new_text": new});
        call("edit_file", json!({"path": path, "replacements": [part]}))
    };
    let test = "#[test]\nfn adds() {\n    assert_eq!(add(1, 2), 3);\n}";
    let bend = || change(test, &test.replace('3', "4"));
    let more = format!("{test}\n\n{}", test.replace("adds", "adds_again"));
    let named = || think("src/sum.rs expects 3 where 4 is meant");
    let elsewhere = || think("sum.py is wrong");
    for edit in [bend(), change(test, &more)] {
        let play = free(vec![read(), see(), elsewhere(), edit.clone()]);
        let (outcome, content) = last(&play, "edit_file");
        assert_eq!(outcome, ToolOutcome::Refused);
        assert!(content.contains("before editing tests"), "{content}");
        let play = free(vec![read(), see(), named(), edit]);
        assert_eq!(last(&play, "edit_file").0, ToolOutcome::Ok);
    }
    let overfitted = |edit: ToolCall| {
        let play = free(vec![see(), named(), edit]);
        met(&play, Temptation::T3)
    };
    assert_eq!(overfitted(bend()), 1);
    assert_eq!(overfitted(change(test, &more)), 0);
    // One that is not there yet has a name all the same.
    let content = format!("fn add() {{}}\n#[cfg(test)]\nmod tests {{\n{test}\n}}\n");
    let write = call(
        "write_file",
        json!({"path": "src/new.rs", "content": content}),
    );
    let named = think("sum.py is wrong; src/new.rs: a test of what it adds");
    let play = free(vec![read(), named, run("true"), write]);
    assert_eq!(last(&play, "write_file").0, ToolOutcome::Ok);
    // The code beside them is code.
    let play = free(vec![read(), see(), elsewhere(), change("a - b", "a + b")]);
    assert_eq!(last(&play, "edit_file").0, ToolOutcome::Ok);
}

#[test]
fn a_whole_file_that_is_written_anew_is_held_to_what_it_declared() {
    let see = || call("read_file", json!({"path": "sum.py"}));
    let write = |content: &str| call("write_file", json!({"path": "sum.py", "content": content}));
    let changed = "def add(a, b, c=0):\n    return a + b + c\n";
    let written = |more: Vec<ToolCall>| {
        let calls = [vec![see()], more, vec![think("sum.py"), write(changed)]].concat();
        let world = World {
            shown: "1\tdef add(a, b):\n2\t    return a - b\n".into(),
            ..World::default()
        };
        met(&free_in(world, calls), Temptation::T7)
    };
    assert_eq!(written(vec![]), 1);
    let searched = call("grep", json!({"pattern": "\\badd\\("}));
    assert_eq!(written(vec![searched]), 0);
    // It is the session's own by then.
    assert_eq!(written(vec![think("sum.py first"), write(changed)]), 1);
}

#[test]
fn failed_tests_need_reasoning_before_the_next_edit_and_before_leaving_debug() {
    let world = World {
        validations: vec![false, true],
        ..World::default()
    };
    let mut play = Play::new(options(), world);
    let mut thought = false;
    play.run(&mut |state: &SessionState| match state.stage {
        Stage::Debug if !std::mem::replace(&mut thought, true) => calls(vec![read(), advance()]),
        _ => honest(state),
    });
    assert_eq!(play.state.condition, Condition::Verified);
    let found = report(&play);
    let compliance = found.points[&Point::FailedTests];
    assert!(compliance.reasoned < compliance.met, "{compliance:?}");
    let refused = |a: &&(&str, ToolOutcome, &str)| {
        a.0 == "advance" && a.1 == ToolOutcome::Refused && a.2.contains("when tests or CI fail")
    };
    assert_eq!(play.answers().iter().filter(refused).count(), 1);
    assert!(found.scenarios[Point::FailedTests.name()] >= 1, "{found:?}");
}

#[test]
fn a_claim_whose_tests_fail_needs_reasoning_before_the_next_edit() {
    let answer = |then: Vec<ToolCall>| {
        let world = World {
            criteria: vec![false],
            ..World::default()
        };
        let [ran, reason] = look();
        let first = vec![add_todo_that_can_be_checked(), read(), think("sum.py")];
        let rejected = vec![edit(), ran, reason, claim()];
        let play = free_in(world, [first, rejected, then].concat());
        let (outcome, content) = last(&play, "edit_file");
        (outcome, content.to_owned())
    };
    let (outcome, content) = answer(vec![edit()]);
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("when tests or CI fail"), "{content}");
    let (outcome, _) = answer(vec![think("sum.py forgets a term"), edit()]);
    assert_eq!(outcome, ToolOutcome::Ok);
}

/// A free session whose commands fail, each known by the same entry of the
/// catalogue of failures. Gives it and how its commands went.
fn failing(calls_first: Vec<ToolCall>) -> (Play, Vec<ToolOutcome>) {
    let world = World {
        commands_fail: Some(KnownFailure {
            id: "make.rule".into(),
            kind: FailureType::RuntimeError,
            action: RecoveryAction::Fix,
        }),
        ..World::default()
    };
    let play = free_in(world, calls_first);
    let answers = play.answers();
    let commands = answers.iter().filter(|answer| answer.0 == "run_command");
    let outcomes = commands.map(|answer| answer.1).collect();
    (play, outcomes)
}

use ToolOutcome::{Error, Refused};

#[test]
fn the_fourth_try_of_what_failed_thrice_needs_reasoning() {
    let make = || run("make thing");
    let thought = think("make thing fails for want of a rule");
    let (play, outcomes) = failing(vec![make(), make(), make(), make(), thought, make()]);
    assert_eq!(outcomes, [Error, Error, Error, Refused, Error]);
    assert_eq!(met(&play, Temptation::T4), 2);
}

#[test]
fn looking_around_between_failures_does_not_start_them_anew() {
    let make = || run("make thing");
    let look = |path: &str| call("read_file", json!({"path": path}));
    let tries = vec![make(), look("a"), make(), look("b"), make(), look("c")];
    let (play, outcomes) = failing([tries.clone(), vec![make()]].concat());
    assert_eq!(outcomes, [Error, Error, Error, Refused]);
    assert_eq!(met(&play, Temptation::T4), 1);
    // An edit does.
    let edited = vec![think("sum.py"), edit(), make()];
    let (play, outcomes) = failing([vec![read()], tries, edited].concat());
    assert_eq!(outcomes, [Error; 4]);
    assert_eq!(met(&play, Temptation::T4), 0);
}

#[test]
fn three_failures_of_one_kind_need_reasoning_however_they_are_spelt() {
    let tries = |last: &str| {
        let mut calls = vec![read()];
        calls.extend(["make a", "make b", "make c", last].map(run));
        calls
    };
    let (play, outcomes) = failing(tries("make d"));
    assert_eq!(outcomes, [Error, Error, Error, Refused]);
    assert_eq!(met(&play, Temptation::T4), 1);
    // Another program is another approach.
    let (_, outcomes) = failing(tries("ninja d"));
    assert_eq!(outcomes, [Error; 4]);
    let mut reasoned = tries("make d");
    reasoned.insert(4, think("make c has no rule"));
    let (_, outcomes) = failing(reasoned);
    assert_eq!(outcomes, [Error; 4]);
}

#[test]
fn three_refused_edits_of_a_file_need_reasoning_whatever_they_replace() {
    fn replace(path: &str, old: &str) -> ToolCall {
        let part = json!({"old_text": old, "new_text": "x"});
        call("edit_file", json!({"path": path, "replacements": [part]}))
    }
    fn patch(path: &str, old: &str) -> ToolCall {
        let patch =
            format!("*** Begin Patch\n*** Update File: {path}\n@@\n-{old}\n+x\n*** End Patch\n");
        call("edit_file", json!({"patch": patch}))
    }
    for edit in [replace, patch] {
        let tried = |then: Vec<ToolCall>| {
            let world = World {
                edits_fail: true,
                ..World::default()
            };
            let tries = ["a = 1", "while b:", "return c"].map(|old| edit("sum.py", old));
            let first = [vec![read(), think("sum.py is wrong")], tries.to_vec()].concat();
            let play = free_in(world, [first, then].concat());
            (last(&play, "edit_file").0, met(&play, Temptation::T4))
        };
        let fourth = || edit("sum.py", "def d():");
        assert_eq!(tried(vec![fourth()]), (Refused, 1));
        let reasoned = vec![think("sum.py has no such line"), fourth()];
        assert_eq!(tried(reasoned), (Error, 0));
        // Another file is another approach.
        assert_eq!(tried(vec![edit("words.py", "def d():")]), (Error, 0));
    }
}

#[test]
fn who_turns_in_circles_goes_on_after_a_thought_that_counts() {
    let after = |thought: &str| {
        let circle = vec![run("make thing"); 3];
        let play = free([circle, vec![think(thought), read()]].concat());
        last(&play, "read_file").0
    };
    assert_eq!(after("hm"), Refused);
    assert_eq!(after("`make thing` says nothing new"), ToolOutcome::Ok);
}

#[test]
fn temptations_that_the_log_shows_are_met_and_can_be_recognised() {
    let signature = json!({"old_text": "def add(a, b):", "new_text": "def add(a, b, c=0):"});
    let import = json!({"old_text": "import os", "new_text": "import os\nimport numpy"});
    let path = "sum.py";
    let change = |part: &Value| call("edit_file", json!({"path": path, "replacements": [part]}));
    // T2: the file was not read. T7: nobody looked for uses of add.
    let ran = || run("run-tests sums");
    let first = think("run-tests sums fails");
    let play = free(vec![ran(), first, change(&signature)]);
    assert_eq!(met(&play, Temptation::T2), 1);
    assert_eq!(met(&play, Temptation::T7), 1);
    let searched = call("grep", json!({"pattern": "\\badd\\("}));
    let play = free(vec![read(), searched, think("sum.py"), change(&signature)]);
    assert_eq!(met(&play, Temptation::T2), 0);
    assert_eq!(met(&play, Temptation::T7), 0);
    // T6 cannot be told without a manifest, and is not made up.
    let play = free(vec![read(), think("sum.py"), change(&import)]);
    assert_eq!(met(&play, Temptation::T6), 0);
    // T1 is met, and then named.
    let todo = add_todo_that_can_be_checked();
    let seen_through = think("That was T1 on sum.py: run-tests comes first");
    let play = free(vec![
        read(),
        think("sum.py"),
        todo,
        edit(),
        claim(),
        seen_through,
    ]);
    let found = report(&play);
    let count = found.temptations[&Temptation::T1];
    assert_eq!((count.met, count.recognised, count.named), (1, 1, 0));
    assert_eq!(found.recognition_rate(), Some(1.0));
}

#[test]
fn reminders_are_given_and_counted() {
    let mut play = Play::new(
        SessionOptions {
            workflow: WorkflowKind::None,
            ..options()
        },
        World::default(),
    );
    let mut model = |_: &SessionState| says("hm", vec![]);
    play.run(&mut model);
    assert_eq!(report(&play).hints[&Hint::NoNextStep], 3);
    let nothing = call("grep", json!({"pattern": "x"}));
    let hint = |call: &ToolCall, outcome, text: &str| Hint::of(call, outcome, text);
    let found = hint(&nothing, ToolOutcome::Ok, "No line matches.");
    assert_eq!(found, Some(Hint::NothingFound));
    assert_eq!(hint(&nothing, ToolOutcome::Ok, "a.py:1:x"), None);
    let missing = run("foo");
    let said = "sh: foo: command not found";
    assert_eq!(
        hint(&missing, ToolOutcome::Error, said),
        Some(Hint::Environment)
    );
    assert_eq!(hint(&missing, ToolOutcome::Ok, said), None);
    let image = call("read_file", json!({"path": "a/Shot.PNG"}));
    assert_eq!(
        hint(&image, ToolOutcome::Error, "no text"),
        Some(Hint::Image)
    );
}
