//! What a policy asks of people, and what comes of their answers.

use super::*;
use crate::domain::{
    conversation::Usage,
    policy::{Autonomy, Level, Tier},
    session::{audited, decide::answered, event::ApprovalVerdict, gate::Passage},
    tools::ToolRequest,
};

const PUSH: &str = "git push origin work";

fn run(command: &str) -> ToolCall {
    call("run_command", json!({"command": command}))
}

fn thought() -> ToolCall {
    call(
        "think",
        json!({"content": "git push origin work sends the branch out, and sum.py with it"}),
    )
}

/// A session under the daemon's own policy whose model does this first.
fn begun(first: Vec<ToolCall>, options: SessionOptions) -> Play {
    let mut play = Play::new(options, World::default());
    play.policy = Some(Policy::built_in());
    let mut model = script(vec![calls(first)]);
    play.run(&mut model);
    play
}

fn answer(play: &mut Play, accepted: bool, scope: Scope, text: &str) -> Result<(), RequestRefusal> {
    let answer = Answer {
        question: None,
        accepted,
        text: text.to_owned(),
        scope,
        by: None,
    };
    play.ask(Request::Answer(answer))
}

fn outcomes(play: &Play, name: &str) -> Vec<(ToolOutcome, String)> {
    let answers = play
        .answers()
        .into_iter()
        .filter(|(tool, _, _)| *tool == name);
    answers
        .map(|(_, outcome, text)| (outcome, text.to_owned()))
        .collect()
}

fn questions(play: &Play) -> usize {
    let asked = |event: &&Event| matches!(event.body, EventBody::QuestionAsked { .. });
    play.events().filter(asked).count()
}

#[test]
fn what_is_risky_waits_for_a_person_and_says_exactly_what_it_is() {
    let play = begun(vec![thought(), run(PUSH)], options());
    assert_eq!(play.state.condition, Condition::Waiting);
    let (question, approval) = play.state.approval_in_question().unwrap();
    assert_eq!(approval.act, PUSH);
    assert_eq!(approval.directory, "/workspace/repo");
    assert_eq!(approval.tier, Tier::High);
    assert_eq!(approval.classes, ["push: origin work"]);
    assert_eq!(approval.expires_at_ms, play.now_ms - 10 + 3_600_000);
    for part in [PUSH, "/workspace/repo", "high risk", "If refused"] {
        assert!(question.text.contains(part), "{part}: {}", question.text);
    }
    assert!(outcomes(&play, "run_command").is_empty());
}

#[test]
fn a_long_act_is_shown_whole_and_one_that_nobody_could_read_is_refused() {
    let pushed = |words: usize| format!("echo {} && {PUSH}", "word ".repeat(words));
    let long = pushed(10_000);
    let play = begun(vec![thought(), run(&long)], options());
    let (question, approval) = play.state.approval_in_question().unwrap();
    assert_eq!(approval.act, long);
    assert!(question.text.contains(&long));
    let calls = vec![run("cat sum.py"), thought(), run(&pushed(14_000))];
    let play = begun(calls, options());
    let ran = outcomes(&play, "run_command");
    let (outcome, told) = &ran[1];
    assert_eq!(*outcome, ToolOutcome::Refused, "{told}");
    for part in ["high risk", "smaller steps", "65536"] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert_eq!(questions(&play), 0);
}

#[test]
fn the_whole_text_of_a_file_is_shown_and_whether_it_replaces_one() {
    let gated = |state: &SessionState, content: &str| {
        let call = call(
            "write_file",
            json!({"path": "Cargo.toml", "content": content}),
        );
        let request = ToolRequest::parse(&call).unwrap();
        let policy = Policy::built_in();
        let gate = Gate {
            policy: Some(&policy),
            project: &BTreeSet::new(),
            now_ms: 0,
        };
        gate.pass(state, &call, &request)
    };
    let diff = |state: &SessionState, content: &str| match gated(state, content) {
        Passage::Ask(approval) => approval.diff.unwrap(),
        other => panic!("{other:?}"),
    };
    let mut state = Play::new(options(), World::default()).state;
    let lines: String = (0..5_000).map(|n| format!("line {n}\n")).collect();
    let new = diff(&state, &lines);
    assert!(
        new.starts_with("+++ Cargo.toml\n+line 0\n"),
        "{}",
        &new[..60]
    );
    assert!(new.ends_with("+line 4999\n"));
    let seen = "/workspace/repo/Cargo.toml".to_owned();
    state.files.insert(seen, "a hash".to_owned());
    let over = diff(&state, "x\n");
    assert_eq!(
        over,
        "--- Cargo.toml (all that it holds now)\n+++ Cargo.toml\n+x\n"
    );
    let long = gated(&state, &"word\n".repeat(14_000));
    assert!(matches!(long, Passage::Refused(_)), "{long:?}");
}

#[test]
fn an_approved_call_is_made_once_after_a_snapshot() {
    let mut play = begun(vec![thought(), run(PUSH), thought(), run(PUSH)], options());
    answer(&mut play, true, Scope::Once, "").unwrap();
    play.run(&mut honest);
    // The second one is asked again.
    assert_eq!(play.state.condition, Condition::Waiting);
    let bodies: Vec<&EventBody> = play.events().map(|event| &event.body).collect();
    let snapshot = bodies.iter().position(|body| {
        matches!(
            body,
            EventBody::WorkEnded {
                work: Work::SnapshotAct,
                result: WorkResult::ActSnapshot { .. },
                ..
            }
        )
    });
    let call = bodies
        .iter()
        .position(|body| matches!(body, EventBody::ToolStarted { .. }));
    assert!(snapshot.unwrap() < call.unwrap());
    assert_eq!(questions(&play), 2);
    answer(&mut play, true, Scope::Session, "").unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn what_is_approved_for_the_session_is_asked_once() {
    let mut play = begun(
        vec![
            thought(),
            run(PUSH),
            thought(),
            run("sh -c \"git push origin work\""),
        ],
        options(),
    );
    answer(&mut play, true, Scope::Session, "").unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    assert_eq!(questions(&play), 1);
    assert!(play.state.approvals.project.is_empty());
}

#[test]
fn what_is_approved_for_the_project_is_not_asked_in_its_next_session() {
    let mut first = begun(vec![thought(), run(PUSH)], options());
    answer(&mut first, true, Scope::Project, "").unwrap();
    first.run(&mut honest);
    let mut second = Play::new(options(), World::default());
    second.policy = Some(Policy::built_in());
    second.project = first.state.approvals.project.clone();
    second.run(&mut script(vec![calls(vec![thought(), run(PUSH)])]));
    assert_eq!(
        (second.state.condition, questions(&second)),
        (Condition::Verified, 0)
    );
}

#[test]
fn a_merge_is_approved_once_and_nothing_else() {
    let merge = "git push origin main";
    let thought = || {
        let content = format!("{merge} brings sum.py to everybody");
        call("think", json!({"content": content}))
    };
    let mut play = begun(
        vec![thought(), run(merge), thought(), run(merge)],
        options(),
    );
    for scope in [Scope::Session, Scope::Project] {
        let refused = answer(&mut play, true, scope, "").unwrap_err();
        assert!(
            matches!(&refused, RequestRefusal::OnceOnly { what } if what == "merge: git push origin main"),
            "{refused}"
        );
    }
    answer(&mut play, true, Scope::Once, "").unwrap();
    // What an older daemon wrote down for the project does not count either.
    let known = ["merge: git push origin main", "push: origin main"];
    play.project = known.map(str::to_owned).into();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Waiting);
    assert_eq!(questions(&play), 2);
}

#[test]
fn a_shell_script_that_is_written_is_judged_as_what_it_will_do() {
    let write = |path: &str| {
        let arguments = json!({"path": path, "content": "git push -f origin work"});
        call("write_file", arguments)
    };
    let asked = |call: &ToolCall| {
        let state = Play::new(options(), World::default()).state;
        let policy = Policy::built_in();
        let gate = Gate {
            policy: Some(&policy),
            project: &BTreeSet::new(),
            now_ms: 0,
        };
        gate.pass(&state, call, &ToolRequest::parse(call).unwrap())
    };
    assert!(matches!(asked(&write("p.sh")), Passage::Ask(_)));
    assert_eq!(asked(&write("notes.md")), Passage::Open);
    let part = |text: &str| json!([{"old_text": "a", "new_text": text}]);
    let edit = |path: &str, text: &str| {
        call(
            "edit_file",
            json!({"path": path, "replacements": part(text)}),
        )
    };
    assert!(matches!(
        asked(&edit("p.sh", "rm -rf ~/data")),
        Passage::Ask(_)
    ));
    // Nothing says what this one is.
    assert!(matches!(
        asked(&edit("bin/p", "rm -rf ~/data")),
        Passage::Ask(_)
    ));
    assert_eq!(asked(&edit("bin/p", "    return total")), Passage::Open);
    for written in [
        "cat > p.sh <<'EOF'\ngit push -f origin work\nEOF",
        "cat <<< 'git push -f origin work' > p.sh",
        "echo 'git push -f origin work' > p.sh",
        "printf '#!/bin/sh\\ngit push -f origin work\\n' | tee p",
    ] {
        assert!(matches!(asked(&run(written)), Passage::Ask(_)), "{written}");
    }
    assert_eq!(asked(&run("echo 'cargo test' > p.sh")), Passage::Open);
    let deep = (0..900).fold("ls".to_owned(), |text, at| {
        format!("cat > p.sh <<'E{at}'\n{text}\nE{at}\n")
    });
    assert!(matches!(asked(&run(&deep)), Passage::Ask(_)));
}

#[test]
fn a_file_that_the_session_wrote_unjudged_is_not_run_by_a_shell_unasked() {
    let policy = Policy::built_in();
    let gate = Gate {
        policy: Some(&policy),
        project: &BTreeSet::new(),
        now_ms: 0,
    };
    let after = |first: &ToolCall, outcome: ToolOutcome| {
        let mut state = Play::new(options(), World::default()).state;
        state.calls = [first.clone()].into();
        let ended = answered(first, outcome, "done", ToolEffect::None);
        state.apply(&Event {
            sequence: state.sequence + 1,
            at_ms: 1,
            stage: state.stage,
            body: ended,
        });
        state
    };
    let asked_of = |state: &SessionState, then: &str| {
        let call = run(then);
        match gate.pass(state, &call, &ToolRequest::parse(&call).unwrap()) {
            Passage::Ask(request) => Some(request.why),
            Passage::Open => None,
            other => panic!("{then}: {other:?}"),
        }
    };
    let asked = |first: ToolCall, then: &str| asked_of(&after(&first, ToolOutcome::Ok), then);
    let write =
        |path: &str, content: &str| call("write_file", json!({"path": path, "content": content}));
    for (first, then) in [
        (write("notes.md", "rm -rf ~/data"), "sh notes.md"),
        (write("notes.md", "ls"), "cd . && . ./notes.md"),
        (write("notes.md", "ls"), "source notes.md"),
        (write("notes.md", "ls"), "bash < notes.md"),
        (write("notes.md", "ls"), "chmod +x notes.md && ./notes.md"),
        (write("tool.py", "ls"), "bash tool.py"),
        (run("sort x > run.sh"), "timeout 5 bash -x run.sh"),
        (run("echo ls > a; mv a b"), "sh b"),
    ] {
        let shown = first.arguments.clone();
        let text = asked(first, then).unwrap_or_else(|| panic!("{shown:?}, {then}"));
        assert!(text.contains("this session wrote "), "{text}");
        assert!(
            text.contains("its text was not judged as a script"),
            "{text}"
        );
    }
    for (first, then) in [
        (write("notes.sh", "ls"), "sh notes.sh"),
        (write("run", "#!/bin/sh\nls\n"), "./run"),
        (
            write("tool", "#!/usr/bin/env python3\nprint(1)\n"),
            "./tool",
        ),
        (write("notes.md", "ls"), "sh other.sh"),
        (run("cat > x.sh <<'EOF'\nls\nEOF"), "sh x.sh"),
        (run("pytest > out.txt"), "cat out.txt"),
    ] {
        assert_eq!(asked(first, then), None, "{then}");
    }
    // What was refused has written nothing; what failed may have.
    let write = write("notes.md", "ls");
    let refused = after(&write, ToolOutcome::Refused);
    assert_eq!(asked_of(&refused, "sh notes.md"), None);
    let failed = after(&write, ToolOutcome::Error);
    assert!(asked_of(&failed, "sh notes.md").is_some());
}

#[test]
fn a_refusal_goes_to_the_model_and_holds_for_the_session() {
    let mut play = begun(vec![thought(), run(PUSH), thought(), run(PUSH)], options());
    answer(&mut play, false, Scope::Once, "push nothing here").unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    let outcomes = outcomes(&play, "run_command");
    assert_eq!(outcomes[0].0, ToolOutcome::Refused);
    assert!(outcomes[0].1.contains("push nothing here"), "{outcomes:?}");
    assert_eq!(outcomes[1].0, ToolOutcome::Refused);
    assert!(outcomes[1].1.contains("not asked again"), "{outcomes:?}");
    assert_eq!(questions(&play), 1);
}

#[test]
fn what_nobody_answers_is_refused_and_resuming_approves_nothing() {
    let mut play = begun(vec![thought(), run(PUSH)], options());
    let reason = String::new();
    play.ask(Request::Resume { reason }).unwrap();
    assert_eq!(play.state.condition, Condition::Waiting);
    let expire = |question: &str| Request::Expire {
        question: question.into(),
    };
    play.ask(expire("q9")).unwrap();
    assert_eq!(play.state.condition, Condition::Waiting);
    play.ask(expire("q1")).unwrap();
    play.ask(expire("q1")).unwrap();
    assert_eq!(play.state.approvals.expired, 1);
    let verdicts = play.events().filter_map(|event| match &event.body {
        EventBody::QuestionAnswered { verdict, .. } => Some(*verdict),
        _ => None,
    });
    assert_eq!(
        verdicts.collect::<Vec<_>>(),
        [Some(ApprovalVerdict::Expired)]
    );
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    assert!(
        outcomes(&play, "run_command")[0]
            .1
            .contains("nobody answered in time")
    );
}

#[test]
fn an_approval_holds_no_longer_than_its_time_though_the_session_was_paused() {
    let reason = || "a break".to_owned();
    let paused = |before_ms: i64| {
        let mut play = begun(vec![thought(), run(PUSH)], options());
        let (_, approval) = play.state.approval_in_question().unwrap();
        let expires_at_ms = approval.expires_at_ms;
        play.ask(Request::Pause { reason: reason() }).unwrap();
        play.now_ms = expires_at_ms - before_ms;
        play
    };
    let mut in_time = paused(1);
    answer(&mut in_time, true, Scope::Once, "").unwrap();
    assert_eq!(in_time.state.condition, Condition::Running);

    let mut play = paused(0);
    for accepted in [true, false] {
        for scope in [Scope::Once, Scope::Project] {
            let refused = answer(&mut play, accepted, scope, "").unwrap_err();
            let question = "q1".to_owned();
            assert_eq!(refused, RequestRefusal::Expired { question });
        }
    }
    assert_eq!(play.state.condition, Condition::Paused);
    play.ask(Request::Resume { reason: reason() }).unwrap();
    assert_eq!(play.state.condition, Condition::Waiting);
    let refused = answer(&mut play, true, Scope::Once, "").unwrap_err();
    assert!(
        matches!(refused, RequestRefusal::Expired { .. }),
        "{refused}"
    );
    let question = "q1".to_owned();
    play.ask(Request::Expire { question }).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    let ran = outcomes(&play, "run_command");
    assert_eq!(ran[0].0, ToolOutcome::Refused);
}

#[test]
fn a_rule_that_denies_refuses_with_its_reason() {
    let play = begun(vec![run("shutdown -h now")], options());
    assert_eq!(play.state.condition, Condition::Verified);
    let outcomes = outcomes(&play, "run_command");
    assert_eq!(outcomes[0].0, ToolOutcome::Refused);
    assert!(outcomes[0].1.contains("rule `machine`"), "{outcomes:?}");
    assert!(
        outcomes[0].1.contains("belongs to the person who runs it"),
        "{outcomes:?}"
    );
}

#[test]
fn a_level_is_held_for_every_tool() {
    let options = SessionOptions {
        level: Level::Read,
        workflow: WorkflowKind::None,
        ..options()
    };
    let mut play = Play::new(options, World::default());
    play.policy = Some(Policy::built_in());
    let mut replies = vec![calls(vec![
        read(),
        run("ls"),
        think(),
        edit(),
        run("run-tests"),
    ])]
    .into_iter();
    while play.step(&mut |state: &SessionState| replies.next().unwrap_or_else(|| honest(state))) {
        if replies.len() == 0 && outcomes(&play, "run_command").len() == 2 {
            break;
        }
    }
    assert_eq!(outcomes(&play, "read_file")[0].0, ToolOutcome::Ok);
    let commands = outcomes(&play, "run_command");
    assert_eq!(
        (commands[0].0, commands[1].0),
        (ToolOutcome::Ok, ToolOutcome::Refused)
    );
    let edits = outcomes(&play, "edit_file");
    assert_eq!(edits[0].0, ToolOutcome::Refused);
    assert!(edits[0].1.contains("runs at read"), "{edits:?}");
}

#[test]
fn a_manual_session_asks_before_each_act_and_thinks_alone() {
    let options = SessionOptions {
        autonomy: Autonomy::Manual,
        ..options()
    };
    let play = begun(vec![think(), read()], options);
    assert_eq!(play.state.condition, Condition::Waiting);
    assert_eq!(outcomes(&play, "think")[0].0, ToolOutcome::Ok);
    assert_eq!(
        play.state.approval_in_question().unwrap().1.act,
        "read_file sum.py"
    );
}

#[test]
fn the_commands_of_a_todos_criteria_pass_the_gate_too() {
    let criteria = json!([{"type": "command_exits", "argv": ["sh", "-c", "rm -rf ~/data"]}]);
    let add = call(
        "todo_add",
        json!({"items": [{"text": "tidy", "criteria": criteria}]}),
    );
    let mut play = Play::new(options(), World::default());
    play.policy = Some(Policy::built_in());
    play.run(&mut script(vec![
        calls(vec![read(), advance()]),
        calls(vec![add]),
    ]));
    assert_eq!(play.state.condition, Condition::Waiting);
    let approval = play.state.approval_in_question().unwrap().1;
    assert_eq!(approval.classes, ["delete-outside: ~/data"]);
    assert!(play.state.todos.is_empty());
}

/// A policy with one rule on publications.
fn publications(decision: &str) -> Policy {
    let rule = format!(
        "[[rule]]\nname = \"publish\"\ndecision = \"{decision}\"\nargv = [\"compy publish\"]\nreason = \"not on Fridays\"\n\
         matches = [\"compy publish\"]\nmisses = [\"git push\"]\n"
    );
    Policy::read(&rule, "policy.toml").unwrap()
}

#[test]
fn publishing_is_the_workflows_own_unless_a_rule_names_it() {
    let published = |play: &Play| {
        play.events().any(|event| {
            matches!(
                event.body,
                EventBody::WorkStarted {
                    work: Work::Publish,
                    ..
                }
            )
        })
    };
    let under = |policy: Policy| {
        let mut play = Play::new(options(), World::default());
        play.policy = Some(policy);
        play.run(&mut honest);
        play
    };
    let alone = under(Policy::built_in());
    assert_eq!(
        (alone.state.condition, questions(&alone)),
        (Condition::Verified, 0)
    );
    let denied = under(publications("deny"));
    assert_eq!(
        (denied.state.condition, published(&denied)),
        (Condition::Failed, false)
    );
    assert!(
        denied.state.reason.contains("not on Fridays"),
        "{}",
        denied.state.reason
    );
    for accepted in [true, false] {
        let mut asked = under(publications("ask"));
        assert_eq!(
            (asked.state.condition, published(&asked)),
            (Condition::Waiting, false)
        );
        answer(&mut asked, accepted, Scope::Once, "").unwrap();
        asked.run(&mut honest);
        let wanted = if accepted {
            Condition::Verified
        } else {
            Condition::Failed
        };
        assert_eq!(
            (asked.state.condition, published(&asked)),
            (wanted, accepted)
        );
    }
}

/// Does what is to be done, for 300 tokens each time.
fn paid(state: &SessionState) -> Outcome {
    let mut outcome = honest(state);
    if let Outcome::Reply(reply) = &mut outcome {
        reply.usage = Some(Usage {
            input_uncached: 200,
            output: 100,
            ..Usage::default()
        });
    }
    outcome
}

/// A session whose policy asks when so many tokens are spent.
fn spending(above: u64) -> Play {
    let mut play = Play::new(options(), World::default());
    let policy = Policy::read(&format!("ask_above_tokens = {above}\n"), "a test");
    play.policy = Some(policy.unwrap());
    play.run(&mut paid);
    play
}

#[test]
fn a_session_that_has_spent_much_asks_before_it_goes_on_and_once_for_each_mark() {
    let whole = spending(u64::MAX).state;
    assert_eq!(whole.condition, Condition::Verified);
    let total = whole.spending.spent.tokens;
    let step = total / 3;
    let mut play = spending(step);
    let mut asked = Vec::new();
    while play.state.condition == Condition::Waiting {
        let (_, approval) = play.state.approval_in_question().unwrap();
        assert_eq!((approval.tier, &*approval.call), (Tier::High, "spend"));
        assert!(play.state.spending.spent.tokens >= step);
        asked.push(approval.classes.clone());
        answer(&mut play, true, Scope::Once, "").unwrap();
        play.run(&mut paid);
    }
    assert_eq!(play.state.condition, Condition::Verified);
    let mut once = asked.clone();
    once.dedup();
    assert_eq!(once, asked, "each is asked once");
    assert!((1..=3).contains(&asked.len()), "{asked:?}");
    assert!(asked[0][0].starts_with("spending: "), "{asked:?}");
}

#[test]
fn a_session_that_may_not_spend_more_ends() {
    let step = spending(u64::MAX).state.spending.spent.tokens / 3;
    let mut denied = spending(step);
    let calls = denied.state.model_calls;
    answer(&mut denied, false, Scope::Once, "that is enough").unwrap();
    denied.run(&mut paid);
    assert_eq!(denied.state.condition, Condition::Failed);
    assert!(
        denied.state.reason.contains("that is enough"),
        "{}",
        denied.state.reason
    );
    assert_eq!(denied.state.model_calls, calls, "nothing more is spent");

    let mut expired = spending(step);
    let (question, _) = expired.state.approval_in_question().unwrap();
    let question = question.id.clone();
    expired.ask(Request::Expire { question }).unwrap();
    expired.run(&mut paid);
    assert_eq!(
        (expired.state.condition, expired.state.approvals.expired),
        (Condition::Failed, 1)
    );
}

/// The tiers that a person sees before anything is done.
#[test]
fn everything_of_high_risk_waits_for_a_person() {
    let edit = |path: &str| {
        let arguments = json!({"path": path, "content": "x"});
        call("write_file", arguments)
    };
    for (risk, risky) in [
        ("delete-outside", run("rm -rf /workspace/other")),
        ("force-push", run("git push --force origin work")),
        ("push", run(PUSH)),
        ("merge", run("gh pr merge 7")),
        ("deploy", run("kubectl apply -f deploy.yaml")),
        ("deploy", run("npm publish")),
        ("migration-file", edit("migrations/0007_add.sql")),
        ("migration-file", edit("schema.sql")),
        ("database", run("psql -c 'drop table users'")),
        ("ci-file", edit(".github/workflows/ci.yml")),
        ("dependency-file", edit("Cargo.toml")),
        ("dependency-file", edit("package.json")),
        ("credentials", run("cat ~/.ssh/id_ed25519")),
        ("egress", run("compyctl workspace egress w --mode open")),
        ("spending", run("aws ec2 run-instances --image-id ami-1")),
    ] {
        let state = Play::new(options(), World::default()).state;
        let request = ToolRequest::parse(&risky).unwrap();
        let policy = Policy::built_in();
        let gate = Gate {
            policy: Some(&policy),
            project: &BTreeSet::new(),
            now_ms: 0,
        };
        let Passage::Ask(approval) = gate.pass(&state, &risky, &request) else {
            panic!("{risk} is not asked: {risky:?}");
        };
        assert_eq!(approval.tier, Tier::High, "{risky:?}");
        assert!(
            approval.why.contains(&format!("({risk},")),
            "{risk}: {}",
            approval.why
        );
    }
}

#[test]
fn who_answers_is_kept_and_goes_on_record() {
    let mut play = begun(vec![thought(), run(PUSH)], options());
    let before = play.state.clone();
    let answer = Answer {
        question: None,
        accepted: true,
        text: String::new(),
        scope: Scope::Once,
        by: Some("token:ci".to_owned()),
    };
    play.ask(Request::Answer(answer)).unwrap();
    let answered = play.events().map(|event| event.body.clone());
    let answered: Vec<EventBody> = answered
        .filter(|body| matches!(body, EventBody::QuestionAnswered { .. }))
        .collect();
    let json = serde_json::to_value(&answered[0]).unwrap();
    assert!(json.to_string().contains("token:ci"), "{json}");
    let entries = audited::entries(&before, 1, &answered);
    assert_eq!(entries[0].caller, "token:ci");
    // What an older daemon wrote says nobody.
    let old = json.to_string().replace(r#""by":"token:ci","#, "");
    assert!(!old.contains("token:ci"), "{old}");
    let old: EventBody = serde_json::from_str(&old).unwrap();
    assert_eq!(audited::entries(&before, 1, &[old])[0].caller, "person");
}

#[test]
fn a_push_is_on_record_before_it_is_made_whoever_let_it() {
    let state = Play::new(options(), World::default()).state;
    let comes_first = |command: &str| {
        let started = EventBody::ToolStarted {
            call: run(command),
            expected_hash: None,
            risks: Vec::new(),
        };
        let entries = audited::entries(&state, 1, &[started]);
        entries.iter().all(audited::comes_first)
    };
    for command in [
        PUSH,
        "sh -c 'git push -f'",
        "gh pr merge 3",
        "git checkout main && git merge work",
    ] {
        assert!(comes_first(command), "{command}");
    }
    for command in ["git status", "cargo test", "rm -rf ~/data"] {
        assert!(!comes_first(command), "{command}");
    }
}

#[test]
fn whoever_merges_is_told_what_of_medium_risk_went_on_alone() {
    let install = || run("pip install -r `cat name`.txt\n");
    let mut play = begun(vec![run("cat sum.py"), install(), install()], options());
    assert_eq!(questions(&play), 0);
    let risk = "install: pip install -r 'cat name'.txt";
    assert_eq!(play.state.risks, [risk]);
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    let body = crate::domain::session::pull_request::draft(&play.state)
        .unwrap()
        .body;
    assert!(
        body.contains("look at it before you merge:\n- `install: pip"),
        "{body}"
    );
}
