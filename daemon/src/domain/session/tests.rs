//! The session's rules, played out against a world of a few lines.

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    checkpoint::RollBackTo,
    decide::{Next, decide},
    event::{
        AfterModelFailure, Condition, Created, Event, EventBody, KnownFailure, ToolEffect,
        ToolOutcome,
    },
    gate::Gate,
    options::{Budget, RULES_TOKENS, SessionLimits, SessionOptions, VerifyMode, WorkflowKind},
    outcome::{self, NoReply, Outcome, Reply, ToolAnswer},
    request::{Answer, Request, RequestRefusal, Response, Scope, respond},
    state::{Effect, SessionState, StageInput},
    work::{
        Again, BaseRun, CiResult, Commit, OpenedPullRequest, TodoCheck, Validation, Work,
        WorkResult,
    },
};
use crate::domain::{
    changes::ChangeKind,
    checks::{CheckCommand, CheckKind, CheckPlan, CheckResult},
    cognition::Libraries,
    compaction::Window,
    context::Context,
    conversation::{Arguments, AssistantTurn, Message, StopReason, ToolCall},
    criteria::{Criterion, CriterionResult},
    edits::EditFormat,
    exec::{Exit, ExitStatus},
    forge::{ForgeCheck, ForgeCheckState, PullRequest, PullRequestDraft},
    ids::{SessionId, SnapshotId},
    policy::Policy,
    proof::{ChangedJudge, Proof, TestRun},
    recovery::{Failure, FailureType, RecoveryAction},
    report::RunVerdict,
    stage::Stage,
    todo::{Judge, Todo, TodoState},
    tools::{self, Tool},
};

mod approvals;
mod cognition;
mod compaction;
mod proofs;
mod rollback;
mod spent;

fn created(options: SessionOptions) -> Created {
    Created {
        session: SessionId::from_uuid(uuid::Uuid::from_u128(1)),
        task: "fix the sum".into(),
        workspace: "ws-00000000000000000000000000000001".parse().unwrap(),
        workspace_name: "sample".parse().unwrap(),
        repository: "repo".parse().unwrap(),
        system: crate::domain::prompts::system("fix the sum", "/workspace/repo", &options),
        tools: tools::definitions(EditFormat::Replace),
        options,
    }
}

fn options() -> SessionOptions {
    SessionOptions {
        edit_format: EditFormat::Replace,
        model: "scripted:/none".parse().unwrap(),
        workflow: WorkflowKind::Swe,
        test_command: Some(vec!["run-tests".into()]),
        lint_command: None,
        verify: VerifyMode::Auto,
        allow_test_changes: false,
        limits: SessionLimits::default(),
        budget: Budget::default(),
        prices: None,
        window: Window::default(),
        rules_tokens: RULES_TOKENS,
        level: Default::default(),
        autonomy: Default::default(),
    }
}

fn exit(code: u32) -> Exit {
    Exit {
        status: ExitStatus::Code(code),
        duration_ms: 1,
        leftover_processes: 0,
        out_of_memory: false,
    }
}

fn check(name: &str, kind: CheckKind, why: &str, passes: bool) -> CheckResult {
    CheckResult {
        command: CheckCommand {
            name: name.into(),
            kind,
            argv: vec![format!("run-{name}")],
            why: why.into(),
        },
        exit: exit(u32::from(!passes)),
        verdict: if passes {
            RunVerdict::Passed
        } else {
            RunVerdict::Failed
        },
        report: None,
        summary: if passes {
            "3 passed".into()
        } else {
            "1 failed".into()
        },
        view: format!("output of {name}"),
        artifact: None,
        reports: vec![],
    }
}

/// A world that answers every effect at once, by a few switches.
#[derive(Debug, Clone)]
struct World {
    /// The tree of the working copy; an edit makes another one.
    tree: u32,
    /// The trees that snapshots have.
    snapshots: Vec<(SnapshotId, u32)>,
    /// Whether validation passes, call by call; the last one stays.
    validations: Vec<bool>,
    /// Whether a todo's criteria hold, call by call; the last one stays.
    criteria: Vec<bool>,
    /// Whether proofs succeed, call by call; the last one stays.
    proofs: Vec<bool>,
    /// Whether CI passes, call by call; the last one stays.
    ci: Vec<bool>,
    /// Work that cannot be done.
    broken: Option<(Work, Again)>,
    /// What it is known by whatever fails.
    known: Vec<Failure>,
    changed_judges: Vec<ChangedJudge>,
    known_failures: Vec<String>,
    lint: Vec<CheckResult>,
    base_lint: Vec<CheckResult>,
    /// What a file shows that is read.
    shown: String,
    /// What commands fail with, when they do.
    commands_fail: Option<KnownFailure>,
    /// Whether no edit finds its place.
    edits_fail: bool,
    /// What the repository wants a model to know, as it is told.
    knowledge: Option<String>,
}

impl Default for World {
    fn default() -> Self {
        Self {
            tree: 1,
            snapshots: vec![],
            validations: vec![true],
            criteria: vec![true],
            proofs: vec![true],
            ci: vec![true],
            broken: None,
            known: vec![],
            changed_judges: vec![],
            known_failures: vec![],
            lint: vec![],
            base_lint: vec![],
            shown: "done".into(),
            commands_fail: None,
            edits_fail: false,
            knowledge: None,
        }
    }
}

fn take(answers: &mut Vec<bool>) -> bool {
    if answers.len() > 1 {
        return answers.remove(0);
    }
    answers[0]
}

impl World {
    fn tool(&mut self, call: &ToolCall) -> Outcome {
        let path = match &call.arguments {
            Arguments::Object(arguments) => arguments.get("path").and_then(Value::as_str),
            Arguments::Malformed { .. } => None,
        };
        let path = tools::workspace_path("/workspace/repo", path.unwrap_or("sum.py"));
        let before = self.tree;
        let tool = Tool::named(&call.name);
        let failure = match tool {
            Some(Tool::RunCommand) => self.commands_fail.clone(),
            _ => None,
        };
        let content = match tool {
            Some(Tool::ReadFile) => self.shown.clone(),
            _ => "done".to_owned(),
        };
        let effect = match tool {
            Some(Tool::EditFile | Tool::WriteFile) if self.edits_fail => {
                return Outcome::Tool(ToolAnswer {
                    outcome: ToolOutcome::Error,
                    content: "no place fits".into(),
                    artifact: None,
                    duration_ms: 1,
                    failure: None,
                    effect: ToolEffect::None,
                });
            }
            Some(Tool::ReadFile) => ToolEffect::FileSeen {
                path,
                hash: before.to_string(),
            },
            Some(Tool::EditFile | Tool::WriteFile) => {
                self.tree += 1;
                ToolEffect::FileChanged {
                    path,
                    before: Some(before.to_string()),
                    after: self.tree.to_string(),
                }
            }
            Some(_) => ToolEffect::CommandRan,
            None => panic!("unknown tools never get here"),
        };
        Outcome::Tool(ToolAnswer {
            outcome: match failure {
                Some(_) => ToolOutcome::Error,
                None => ToolOutcome::Ok,
            },
            content,
            artifact: None,
            duration_ms: 1,
            failure,
            effect,
        })
    }

    fn snapshot(&mut self) -> SnapshotId {
        let number = self.snapshots.len() as u128 + 1;
        let id = SnapshotId::from_uuid(uuid::Uuid::from_u128(number));
        self.snapshots.push((id.clone(), self.tree));
        id
    }

    /// What comes of a piece of work, with what is known of its failure.
    fn work(&mut self, state: &SessionState, work: &Work) -> Outcome {
        let mut outcome = self.come_of(state, work);
        let Outcome::Work {
            result, failures, ..
        } = &mut outcome
        else {
            return outcome;
        };
        let failed = match result {
            WorkResult::Validated(validation) => {
                validation.checks.iter().any(|check| !check.passed())
            }
            WorkResult::TodoChecked(check) => !check.holds,
            WorkResult::Proved(proof) => !proof.proved,
            WorkResult::CiEnded(ci) => !ci.passed,
            WorkResult::Failed { .. } => true,
            WorkResult::BaseRun(_)
            | WorkResult::StartSnapshot { .. }
            | WorkResult::StageSnapshot { .. }
            | WorkResult::ActSnapshot { .. }
            | WorkResult::RolledBack { .. }
            | WorkResult::Committed(_)
            | WorkResult::Published { .. }
            | WorkResult::PullRequestOpened(_) => false,
        };
        if failed {
            failures.clone_from(&self.known);
        }
        outcome
    }

    fn come_of(&mut self, state: &SessionState, work: &Work) -> Outcome {
        if let Some((broken, again)) = &self.broken
            && broken == work
        {
            let (error, again) = ("no way".to_owned(), *again);
            return done(WorkResult::Failed { error, again });
        }
        let tree = self.tree.to_string();
        let pull_request = |state: ForgeCheckState| PullRequest {
            number: 1,
            url: "/forge/1".into(),
            draft: PullRequestDraft {
                title: "t".into(),
                body: "b".into(),
                head: "compy/x".into(),
                base: "main".into(),
            },
            head_commit: "c".into(),
            checks: vec![ForgeCheck {
                name: "tests".into(),
                state,
                summary: "s".into(),
            }],
        };
        done(match work {
            Work::BaseRun => WorkResult::BaseRun(Box::new(BaseRun {
                commit: "base".into(),
                branch: "main".into(),
                tree,
                plan: CheckPlan::default(),
                tests: TestRun {
                    name: "base".into(),
                    argv: vec!["run-tests".into()],
                    cwd: "/workspace/repo".into(),
                    exit: exit(1),
                    report: None,
                    verdict: RunVerdict::Failed,
                    tree: "1".into(),
                    artifact: None,
                    reports: vec![],
                },
                others: self.base_lint.clone(),
                summary: "1 failed".into(),
                knowledge: self.knowledge.clone(),
                libraries: Libraries::default(),
            })),
            Work::SnapshotStart => WorkResult::StartSnapshot {
                snapshot: self.snapshot(),
            },
            Work::SnapshotAct => WorkResult::ActSnapshot {
                snapshot: self.snapshot(),
            },
            Work::SnapshotStage => WorkResult::StageSnapshot {
                snapshot: self.snapshot(),
            },
            Work::RollBack { snapshot, .. } => {
                let kept = self.snapshot();
                let known = self.snapshots.iter().find(|(id, _)| id == snapshot);
                self.tree = known.expect("it was taken").1;
                let to = snapshot.clone();
                WorkResult::RolledBack { to, kept }
            }
            Work::Validate => {
                let passes = take(&mut self.validations);
                let mut checks = self.lint.clone();
                checks.push(check("tests", CheckKind::Tests, "given", passes));
                let changed_files = match self.tree {
                    1 => vec![],
                    _ => vec!["sum.py".to_owned()],
                };
                WorkResult::Validated(Validation {
                    tree,
                    changed_files,
                    checks,
                })
            }
            Work::VerifyTodo { todo } => {
                let holds = take(&mut self.criteria);
                let criterion = Criterion::TestsPass { argv: None };
                WorkResult::TodoChecked(TodoCheck {
                    todo: *todo,
                    tree,
                    holds,
                    results: vec![CriterionResult {
                        criterion,
                        holds,
                        found: "seen".into(),
                    }],
                    artifact: None,
                })
            }
            Work::Commit => WorkResult::Committed(Commit {
                branch: "compy/x".into(),
                commit: format!("commit-of-{tree}"),
                subject: "fix the sum".into(),
                changed_files: vec!["sum.py".into()],
            }),
            Work::Prove => {
                let proved = take(&mut self.proofs);
                WorkResult::Proved(Box::new(Proof {
                    proved,
                    reason: if proved {
                        "all runs agree".into()
                    } else {
                        "tests were changed".into()
                    },
                    runs: vec![],
                    fail_to_pass: vec![],
                    pass_to_pass: vec![],
                    known_failures: self.known_failures.clone(),
                    changed_test_files: vec![],
                    changed_judges: self.changed_judges.clone(),
                    tree,
                    evidence: None,
                }))
            }
            Work::Publish => WorkResult::Published {
                commit: state.commit.as_ref().unwrap().commit.clone(),
            },
            Work::OpenPullRequest => WorkResult::PullRequestOpened(OpenedPullRequest {
                pull_request: pull_request(ForgeCheckState::Running),
                diff: None,
            }),
            Work::RunCi => {
                let passed = take(&mut self.ci);
                let state = if passed {
                    ForgeCheckState::Passed
                } else {
                    ForgeCheckState::Failed
                };
                WorkResult::CiEnded(CiResult {
                    pull_request: pull_request(state),
                    passed,
                    view: "ci output".into(),
                    artifacts: vec![],
                })
            }
        })
    }
}

fn done(result: WorkResult) -> Outcome {
    Outcome::Work {
        result,
        failures: vec![],
        artifacts: vec![],
    }
}

fn call(name: &str, arguments: Value) -> ToolCall {
    let Value::Object(object) = arguments else {
        panic!("arguments are an object")
    };
    ToolCall {
        id: format!("call-{name}"),
        name: name.into(),
        arguments: Arguments::Object(object),
    }
}

fn says(text: &str, tool_calls: Vec<ToolCall>) -> Outcome {
    Outcome::Reply(Reply {
        turn: AssistantTurn {
            text: text.into(),
            tool_calls,
            opaque: vec![],
        },
        stop: StopReason::ToolUse,
        usage: None,
        duration_ms: 1,
        provider_request: None,
    })
}

fn calls(tool_calls: Vec<ToolCall>) -> Outcome {
    says("", tool_calls)
}

fn read() -> ToolCall {
    call("read_file", json!({"path": "sum.py"}))
}

fn edit() -> ToolCall {
    let part = json!({"old_text": "-", "new_text": "+"});
    call(
        "edit_file",
        json!({"path": "sum.py", "replacements": [part]}),
    )
}

fn advance() -> ToolCall {
    call("advance", json!({"summary": "done here"}))
}

fn add_todo() -> ToolCall {
    call(
        "todo_add",
        json!({"items": [{"text": "make the sum right, so that the tests pass"}]}),
    )
}

/// Reasoning that names what every session here has.
fn think() -> ToolCall {
    call(
        "think",
        json!({"content": "run-tests fails as sum.py subtracts"}),
    )
}

/// A run of the tests and reasoning about it, before a claim.
fn look() -> [ToolCall; 2] {
    [
        call("run_command", json!({"command": "run-tests"})),
        think(),
    ]
}

fn claim() -> ToolCall {
    call("todo_claim", json!({"id": 1, "evidence": "ran the tests"}))
}

/// What a sensible model says in each stage.
fn honest(state: &SessionState) -> Outcome {
    calls(match state.stage {
        Stage::Understand => vec![read(), advance()],
        Stage::Plan => vec![add_todo(), advance()],
        Stage::Locate | Stage::Debug | Stage::Iterate => vec![read(), think(), advance()],
        Stage::Modify => {
            let [run, reason] = look();
            let open = state.todos.iter().any(|todo| !todo.is_verified());
            let last = if open { claim() } else { advance() };
            vec![think(), edit(), run, reason, last]
        }
        Stage::Validate | Stage::Pr | Stage::Ci | Stage::Complete | Stage::Failed => {
            panic!("the model is not asked in {}", state.stage)
        }
    })
}

/// A session played out; batches are kept apart, as the store keeps them.
struct Play {
    batches: Vec<Vec<Event>>,
    state: SessionState,
    context: Context,
    world: World,
    now_ms: i64,
    policy: Option<Policy>,
    project: BTreeSet<String>,
}

impl Play {
    fn new(options: SessionOptions, world: World) -> Self {
        let first = Event {
            sequence: 1,
            at_ms: 0,
            stage: Stage::Understand,
            body: EventBody::Created(Box::new(created(options))),
        };
        let state = SessionState::begin(&first).unwrap();
        let context = Context::begin(&state.created);
        Self {
            batches: vec![vec![first]],
            state,
            context,
            world,
            now_ms: 0,
            policy: None,
            project: BTreeSet::new(),
        }
    }

    fn append(&mut self, bodies: Vec<EventBody>) {
        self.now_ms += 10;
        let mut batch = Vec::new();
        for body in bodies {
            let event = Event {
                sequence: self.state.sequence + 1,
                at_ms: self.now_ms,
                stage: self.state.stage,
                body,
            };
            self.state.apply(&event);
            self.context.apply(&event);
            batch.push(event);
        }
        self.batches.push(batch);
    }

    fn ask(&mut self, request: Request) -> Result<(), RequestRefusal> {
        match respond(&self.state, &request, self.now_ms) {
            Response::Accepted(events) => self.append(events),
            Response::AlreadySo => {}
            Response::Refused(refusal) => return Err(refusal),
        }
        Ok(())
    }

    /// One step; `false` when nothing more happens by itself.
    fn step(&mut self, model: &mut dyn FnMut(&SessionState) -> Outcome) -> bool {
        let gate = Gate {
            policy: self.policy.as_ref(),
            project: &self.project,
            now_ms: self.now_ms,
        };
        match decide(&self.state, &gate) {
            Next::Record(events) => self.append(events),
            Next::Perform(open) => {
                let outcome = match &open.effect {
                    Effect::AskModel => model(&self.state),
                    Effect::RunTool { call, .. } => self.world.tool(call),
                    Effect::DoWork { work, .. } => self.world.work(&self.state, work),
                };
                let events = outcome::events(&self.state, &open, outcome);
                self.append(events);
            }
            Next::Wait | Next::End => return false,
        }
        true
    }

    fn run(&mut self, model: &mut dyn FnMut(&SessionState) -> Outcome) {
        let mut steps = 0;
        while self.step(model) {
            steps += 1;
            assert!(steps < 5_000, "the session does not end");
        }
    }

    fn stages(&self) -> Vec<Stage> {
        self.state
            .records
            .iter()
            .map(|record| record.stage)
            .collect()
    }

    fn events(&self) -> impl Iterator<Item = &Event> {
        self.batches.iter().flatten()
    }

    fn answers(&self) -> Vec<(&str, ToolOutcome, &str)> {
        self.events()
            .filter_map(|event| match &event.body {
                EventBody::ToolEnded(ended) => {
                    Some((ended.name.as_str(), ended.outcome, ended.content.as_str()))
                }
                _ => None,
            })
            .collect()
    }
}

fn play(options: SessionOptions, world: World) -> Play {
    let mut play = Play::new(options, world);
    play.run(&mut honest);
    play
}

/// Says these things in order, then what an honest model would say.
fn script(replies: Vec<Outcome>) -> impl FnMut(&SessionState) -> Outcome {
    let mut replies = replies.into_iter();
    move |state| replies.next().unwrap_or_else(|| honest(state))
}

#[test]
fn an_honest_run_goes_through_every_stage_and_ends_verified() {
    let play = play(options(), World::default());
    assert_eq!(
        play.stages(),
        [
            Stage::Understand,
            Stage::Plan,
            Stage::Locate,
            Stage::Modify,
            Stage::Validate,
            Stage::Pr,
            Stage::Ci,
            Stage::Complete,
        ]
    );
    assert_eq!(play.state.condition, Condition::Verified);
    assert!(play.state.todos[0].is_verified());
    assert_eq!(decide(&play.state, &Gate::open()), Next::End);
}

#[test]
fn without_a_pull_request_the_proof_is_the_end() {
    let free = SessionOptions {
        workflow: WorkflowKind::None,
        ..options()
    };
    let play = play(free, World::default());
    assert_eq!(
        play.stages(),
        [Stage::Modify, Stage::Validate, Stage::Pr, Stage::Complete]
    );
    assert_eq!(play.state.condition, Condition::Verified);
    assert!(play.state.pull_request.is_none() && play.state.proof.is_some());
}

#[test]
fn the_tests_run_on_the_base_before_the_models_first_word() {
    let play = play(options(), World::default());
    let first = |wanted: fn(&EventBody) -> bool| {
        play.events().position(|event| wanted(&event.body)).unwrap()
    };
    let base = first(|body| {
        matches!(
            body,
            EventBody::WorkEnded {
                work: Work::BaseRun,
                ..
            }
        )
    });
    let asked = first(|body| matches!(body, EventBody::ModelAsked));
    assert!(base < asked);
}

#[test]
fn a_claim_whose_criteria_fail_is_rejected_and_never_verified() {
    let world = World {
        criteria: vec![false],
        ..World::default()
    };
    let play = play(options(), world);
    // It makes the same edit again and again, until a person is asked.
    assert_eq!(play.state.condition, Condition::Waiting);
    assert!(matches!(
        play.state.todos[0].state,
        TodoState::Rejected { .. }
    ));
    assert!(!play.stages().contains(&Stage::Pr));
    let (_, outcome, content) = play
        .answers()
        .into_iter()
        .find(|a| a.0 == "todo_claim")
        .unwrap();
    assert_eq!(outcome, ToolOutcome::Error);
    assert!(
        content.contains("the session's tests pass FAILS"),
        "{content}"
    );
}

#[test]
fn a_session_that_changed_nothing_is_not_proved() {
    let mut play = Play::new(options(), World::default());
    play.run(&mut |state: &SessionState| match state.stage {
        Stage::Modify if state.todos[0].is_verified() => calls(vec![advance()]),
        Stage::Modify => {
            let [run, reason] = look();
            calls(vec![run, reason, claim()])
        }
        _ => honest(state),
    });
    assert_eq!(play.state.condition, Condition::Failed);
    assert!(
        play.state.reason.contains("nothing differs"),
        "{}",
        play.state.reason
    );
}

#[test]
fn failed_validation_leads_through_debug_and_the_output_goes_to_the_model() {
    let world = World {
        validations: vec![false, true],
        ..World::default()
    };
    let play = play(options(), world);
    assert_eq!(
        play.stages()[3..],
        [
            Stage::Modify,
            Stage::Validate,
            Stage::Debug,
            Stage::Modify,
            Stage::Validate,
            Stage::Pr,
            Stage::Ci,
            Stage::Complete,
        ]
    );
    let told = play.context.messages().iter().any(
        |message| matches!(message, Message::User { text } if text.contains("output of tests")),
    );
    assert!(told);
}

#[test]
fn what_a_failure_is_known_by_goes_to_the_model_with_it() {
    let known = |advice: &str| {
        vec![Failure {
            advice: advice.into(),
            ..Failure::of(FailureType::DiskFull)
        }]
    };
    for failing in [
        World {
            validations: vec![false, true],
            ..World::default()
        },
        World {
            criteria: vec![false, true],
            ..World::default()
        },
        World {
            proofs: vec![false, true],
            ..World::default()
        },
        World {
            ci: vec![false, true],
            ..World::default()
        },
    ] {
        let world = World {
            known: known("Make room."),
            ..failing
        };
        let play = play(options(), world);
        let told = serde_json::to_string(play.context.messages()).unwrap();
        assert_eq!(told.matches("[DISK_FULL: Make room. ").count(), 1, "{told}");
        let kept = play
            .events()
            .filter(|event| String::from_utf8_lossy(&event.encode()).contains("DISK_FULL"));
        assert!(kept.count() >= 1);
    }
    // What nobody knows anything of is recorded and not told.
    let world = World {
        validations: vec![false, true],
        known: known(""),
        ..World::default()
    };
    let play = play(options(), world);
    let told = serde_json::to_string(play.context.messages()).unwrap();
    assert!(!told.contains("DISK_FULL"), "{told}");
}

#[test]
fn what_only_a_person_can_mend_is_asked_for_at_once_with_all_that_is_known() {
    let world = World {
        broken: Some((Work::Publish, Again::NeedsPerson)),
        known: vec![Failure {
            advice: "Look at the branch.".into(),
            ..Failure::of(FailureType::PushRejected)
        }],
        ..World::default()
    };
    let mut play = play(options(), world);
    assert_eq!(play.state.condition, Condition::Paused);
    for part in ["no way", "[PUSH_REJECTED: Look at the branch. ", "resume"] {
        assert!(play.state.reason.contains(part), "{}", play.state.reason);
    }
    let tries = play.events().filter(|event| {
        matches!(
            event.body,
            EventBody::WorkStarted {
                work: Work::Publish,
                ..
            }
        )
    });
    assert_eq!(tries.count(), 1);
    play.world.broken = None;
    let reason = "mended".to_owned();
    play.ask(Request::Resume { reason }).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn a_check_that_fails_with_what_only_a_person_can_mend_waits_for_one_each_time() {
    let twice = || vec![false, false, true];
    for (failing, what) in [
        (
            World {
                validations: twice(),
                ..World::default()
            },
            "tests, lint and types",
        ),
        (
            World {
                criteria: twice(),
                ..World::default()
            },
            "criteria of todo 1",
        ),
        (
            World {
                proofs: twice(),
                ..World::default()
            },
            "proof",
        ),
        (
            World {
                ci: twice(),
                ..World::default()
            },
            "CI",
        ),
    ] {
        let world = World {
            known: vec![Failure {
                action: RecoveryAction::Escalate,
                advice: "Ask for the licence server.".into(),
                ..Failure::of(FailureType::NetworkError)
            }],
            ..failing
        };
        let mut play = Play::new(options(), world);
        for _ in 0..2 {
            play.run(&mut honest);
            assert_eq!(play.state.condition, Condition::Paused, "{what}");
            assert_eq!(
                play.state.reason,
                format!(
                    "{what}: [NETWORK_ERROR: Ask for the licence server. Only a person can mend \
                     this.]; resume when that is mended"
                )
            );
            assert_eq!(fold(&play.batches), play.state);
            let reason = "mended".to_owned();
            play.ask(Request::Resume { reason }).unwrap();
        }
        play.run(&mut honest);
        assert_eq!(play.state.condition, Condition::Verified, "{what}");
    }
}

#[test]
fn a_snapshot_that_a_session_goes_on_without_waits_for_nobody() {
    let world = World {
        broken: Some((Work::SnapshotStage, Again::MayHelp)),
        known: vec![Failure {
            action: RecoveryAction::Escalate,
            ..Failure::of(FailureType::DiskFull)
        }],
        ..World::default()
    };
    let play = play(options(), world);
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn evidence_older_than_the_last_edit_is_made_again() {
    // The honest model edits once more after its todo was verified.
    let mut verified = false;
    let mut play = Play::new(options(), World::default());
    play.run(&mut |state: &SessionState| {
        if state.stage == Stage::Modify && state.todos[0].is_verified() && !verified {
            verified = true;
            let [run, reason] = look();
            return calls(vec![edit(), run, reason, advance()]);
        }
        honest(state)
    });
    let checks = play
        .events()
        .filter(|event| {
            matches!(
                &event.body,
                EventBody::WorkStarted {
                    work: Work::VerifyTodo { .. },
                    ..
                }
            )
        })
        .count();
    assert_eq!(checks, 2);
    let evidence = play.state.todos[0].evidence().unwrap();
    assert_eq!(evidence.tree, play.world.tree.to_string());
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn a_refused_proof_and_failed_ci_lead_back_and_rounds_are_bounded() {
    let world = World {
        proofs: vec![false, true],
        ci: vec![false, true],
        ..World::default()
    };
    let back = play(options(), world);
    assert_eq!(back.state.condition, Condition::Verified);
    assert_eq!(back.state.attempts_at(Stage::Debug), 1);
    assert_eq!(back.state.attempts_at(Stage::Iterate), 1);

    let hopeless = World {
        proofs: vec![false],
        ..World::default()
    };
    let failed = play(options(), hopeless);
    assert_eq!(failed.state.condition, Condition::Failed);
    assert_eq!(failed.state.attempts_at(Stage::Debug), 5);
    let reason = &failed.state.reason;
    assert!(
        reason.contains("tests were changed") && reason.contains("5 rounds"),
        "{reason}"
    );
}

#[test]
fn detected_lint_blocks_only_when_the_base_passed_it() {
    let lint = |why, passes| check("lint", CheckKind::Lint, why, passes);
    for (base, now, ends) in [
        (
            lint("found", false),
            lint("found", false),
            Condition::Verified,
        ),
        (lint("found", true), lint("found", false), Condition::Failed),
        (
            lint("given", false),
            lint("given", false),
            Condition::Failed,
        ),
    ] {
        let world = World {
            base_lint: vec![base],
            lint: vec![now],
            ..World::default()
        };
        assert_eq!(play(options(), world).state.condition, ends);
    }
}

#[test]
fn calls_that_make_no_sense_are_answered_and_the_session_goes_on() {
    let malformed = ToolCall {
        id: "m".into(),
        name: "grep".into(),
        arguments: Arguments::Malformed {
            raw: "{".into(),
            error: "it ends too early".into(),
        },
    };
    let mut play = Play::new(options(), World::default());
    play.run(&mut script(vec![calls(vec![
        call("bash", json!({"command": "ls"})),
        malformed,
        edit(),
        call("todo_claim", json!({"id": "one"})),
        call("read_file", json!({"path": "sum.py", "lines": 3})),
        read(),
    ])]));
    let answers = play.answers();
    let refused = |index: usize, words: &str| {
        let (_, outcome, content) = answers[index];
        assert_eq!(outcome, ToolOutcome::Refused);
        assert!(content.contains(words), "{content}");
    };
    refused(0, "no tool `bash`");
    refused(1, "it ends too early");
    refused(2, "`edit_file` is not available in UNDERSTAND");
    refused(3, "`todo_claim` is not available in UNDERSTAND");
    refused(4, "`lines`");
    assert_eq!(answers[5].1, ToolOutcome::Ok);
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn that_a_file_exists_which_was_read_is_no_criterion_of_a_todo() {
    let items = json!([{"text": "Write sum.py"}, {"text": "Write product.py"}]);
    let add = call("todo_add", json!({"items": items}));
    let mut model = script(vec![calls(vec![read(), advance()]), calls(vec![add])]);
    let mut play = Play::new(options(), World::default());
    let mut goes_on = true;
    while goes_on && play.state.todos.is_empty() {
        goes_on = play.step(&mut model);
    }
    let todos = play.state.todos.iter();
    let inferred: Vec<Vec<String>> = todos
        .map(|todo| todo.criteria.iter().map(Criterion::describe).collect())
        .collect();
    assert_eq!(inferred, [vec![], vec!["product.py exists".to_owned()]]);
}

#[test]
fn nothing_runs_after_an_accepted_advance_in_the_same_reply() {
    let mut play = Play::new(options(), World::default());
    play.run(&mut script(vec![calls(vec![advance(), read()])]));
    let (_, outcome, content) = play.answers()[1];
    assert_eq!(outcome, ToolOutcome::Refused);
    assert!(content.contains("next stage"), "{content}");
}

#[test]
fn replies_without_a_tool_call_are_corrected_three_times() {
    for said in ["I am done!", ""] {
        let mut play = Play::new(options(), World::default());
        play.run(&mut |_: &SessionState| says(said, vec![]));
        assert_eq!(play.state.condition, Condition::Failed);
        assert_eq!(play.state.model_calls, 3);
        assert!(play.state.reason.contains("no tool in 3 replies"));
    }
    let mut patient = Play::new(options(), World::default());
    patient.run(&mut script(vec![says("hm", vec![]), says("", vec![])]));
    assert_eq!(patient.state.condition, Condition::Verified);
}

#[test]
fn a_reply_cut_at_the_cap_is_told_so() {
    let mut play = Play::new(options(), World::default());
    let Outcome::Reply(reply) = says("very long", vec![]) else {
        unreachable!("it is a reply")
    };
    let cut = Outcome::Reply(Reply {
        stop: StopReason::OutputCap,
        ..reply
    });
    play.run(&mut script(vec![cut]));
    let told = play.context.messages().iter().any(|message| {
        matches!(message, Message::User { text } if text.contains("cut at the limit of 16000"))
    });
    assert!(told);
}

#[test]
fn a_session_whose_todos_are_verified_ends_without_another_word() {
    let mut play = Play::new(options(), World::default());
    play.run(&mut |state: &SessionState| match state.stage {
        Stage::Modify if state.todos[0].is_verified() => says("all done", vec![]),
        _ => honest(state),
    });
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn gates_say_what_is_missing() {
    let mut play = Play::new(options(), World::default());
    play.run(&mut script(vec![
        calls(vec![advance()]),
        calls(vec![advance()]),
        calls(vec![add_todo(), advance()]),
        calls(vec![advance()]),
        calls(vec![read(), advance()]),
        calls(vec![advance()]),
    ]));
    let refused: Vec<_> = play
        .answers()
        .into_iter()
        .filter(|(name, outcome, _)| *name == "advance" && *outcome == ToolOutcome::Refused)
        .map(|(_, _, content)| content)
        .collect();
    assert_eq!(refused.len(), 3, "{refused:?}");
    assert!(refused[0].contains("at least one todo"));
    assert!(refused[1].contains("at least one file read"));
    assert!(refused[2].contains("todo 1 is pending"));
}

#[test]
fn a_todo_without_criteria_gets_the_sessions_tests() {
    let play = play(options(), World::default());
    assert_eq!(
        play.state.todos[0].criteria,
        [Criterion::TestsPass { argv: None }]
    );
}

#[test]
fn limits_end_a_session_with_the_reason() {
    for (limits, words) in [
        (
            SessionLimits {
                max_steps: 2,
                ..SessionLimits::default()
            },
            "2 steps",
        ),
        (
            SessionLimits {
                max_time_ms: 50,
                ..SessionLimits::default()
            },
            "time of 0 s",
        ),
    ] {
        let play = play(
            SessionOptions {
                limits,
                ..options()
            },
            World::default(),
        );
        assert_eq!(play.state.condition, Condition::Failed);
        assert!(play.state.reason.contains(words), "{}", play.state.reason);
    }
}

#[test]
fn reasoning_costs_no_step_of_the_stage() {
    // Something new is done now and then: reasoning alone would be a circle.
    let look = |n: u32| call("glob", json!({"pattern": format!("*.{n}")}));
    let thought = || call("think", json!({"content": "hm"}));
    let replies = (0..60).map(|n| match n % 5 {
        0 => calls(vec![look(n)]),
        _ => calls(vec![thought()]),
    });
    let mut play = Play::new(options(), World::default());
    play.run(&mut script(replies.collect()));
    assert_eq!(play.state.condition, Condition::Verified);
    let mut busy = Play::new(options(), World::default());
    busy.run(&mut script((0..60).map(|n| calls(vec![look(n)])).collect()));
    assert!(
        busy.state.reason.contains("UNDERSTAND took 40 replies"),
        "{}",
        busy.state.reason
    );
}

#[test]
fn work_that_cannot_be_done_is_tried_three_times_and_then_waits_for_a_person() {
    let world = World {
        broken: Some((Work::Publish, Again::MayHelp)),
        ..World::default()
    };
    let mut play = play(options(), world);
    assert_eq!(play.state.condition, Condition::Paused);
    assert!(
        play.state.reason.contains("3 tries: no way"),
        "{}",
        play.state.reason
    );
    play.world.broken = None;
    let reason = "mended".to_owned();
    play.ask(Request::Resume { reason }).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);

    // What the catalogue leaves to a person is not tried again.
    let escalated = World {
        broken: Some((Work::Publish, Again::MayHelp)),
        known: vec![Failure {
            action: RecoveryAction::Escalate,
            ..Failure::of(FailureType::AuthError)
        }],
        ..World::default()
    };
    let play = self::play(options(), escalated);
    assert_eq!(play.state.condition, Condition::Paused);
    assert!(
        play.state
            .reason
            .contains("publication of the branch: no way"),
        "{}",
        play.state.reason
    );

    let useless = World {
        broken: Some((Work::BaseRun, Again::IsUseless)),
        ..World::default()
    };
    let failed = self::play(options(), useless);
    assert_eq!(failed.state.condition, Condition::Failed);
    assert_eq!(failed.state.model_calls, 0);
}

#[test]
fn a_claim_whose_check_could_not_be_done_is_checked_after_resuming() {
    let world = World {
        broken: Some((Work::VerifyTodo { todo: 1 }, Again::MayHelp)),
        ..World::default()
    };
    let mut play = play(options(), world);
    assert_eq!(play.state.condition, Condition::Paused);
    play.world.broken = None;
    let reason = "mended".to_owned();
    play.ask(Request::Resume { reason }).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn outages_of_the_model_pause_and_wrong_requests_fail() {
    let no_reply = |then| {
        Outcome::NoReply(NoReply {
            error: "boom".into(),
            then,
            free: false,
            wait_ms: None,
        })
    };
    let mut paused = Play::new(options(), World::default());
    paused.run(&mut script(vec![no_reply(AfterModelFailure::Pause)]));
    assert_eq!(paused.state.condition, Condition::Paused);
    let reason = "mended".to_owned();
    paused.ask(Request::Resume { reason }).unwrap();
    paused.run(&mut honest);
    assert_eq!(paused.state.condition, Condition::Verified);

    let mut failed = Play::new(options(), World::default());
    failed.run(&mut script(vec![no_reply(AfterModelFailure::Fail)]));
    assert_eq!(
        (failed.state.condition, failed.state.stage),
        (Condition::Failed, Stage::Failed)
    );
    assert_eq!(failed.state.reason, "boom");
}

#[test]
fn what_a_provider_asks_to_wait_outlives_the_daemon_and_is_said_where_it_is_too_long() {
    let told_to_wait = |then| {
        Outcome::NoReply(NoReply {
            error: "boom".into(),
            then,
            free: false,
            wait_ms: Some(60_000),
        })
    };
    let mut play = Play::new(options(), World::default());
    let mut model = script(vec![told_to_wait(AfterModelFailure::AskAgain)]);
    while play.state.model_failures == 0 {
        assert!(play.step(&mut model));
    }
    let failed_ms = play.now_ms;
    let reason = || "restarted".to_owned();
    play.ask(Request::Interrupt { reason: reason() }).unwrap();
    play.ask(Request::Resume { reason: reason() }).unwrap();
    assert_eq!(play.state.model_failures, 0);
    assert_eq!(fold(&play.batches), play.state);
    let left = |at_ms| play.state.provider_wait(at_ms).as_millis();
    assert_eq!(left(failed_ms), 60_000);
    assert_eq!(left(failed_ms + 59_999), 1);
    assert_eq!(left(failed_ms + 61_000), 0);

    let mut paused = Play::new(options(), World::default());
    paused.run(&mut script(vec![told_to_wait(AfterModelFailure::Pause)]));
    assert_eq!(
        paused.state.reason,
        "boom; the provider asks to be left alone for 60 s; resume after that"
    );
    // The person who resumes it knows better.
    assert_eq!(paused.state.provider_wait(paused.now_ms).as_millis(), 0);
}

#[test]
fn a_person_is_asked_for_each_claim_when_a_person_verifies() {
    let manual = SessionOptions {
        verify: VerifyMode::Manual,
        ..options()
    };
    let mut play = play(manual, World::default());
    assert_eq!(play.state.condition, Condition::Waiting);
    assert_eq!(play.state.todo_in_question(), Some(1));
    // A verdict cannot be made up by resuming, nor given to another question.
    let reason = String::new();
    play.ask(Request::Resume { reason }).unwrap();
    assert_eq!(play.state.condition, Condition::Waiting);
    let answer = |question: Option<&str>, accepted, text: &str| {
        Request::Answer(Answer {
            question: question.map(Into::into),
            accepted,
            text: text.into(),
            scope: Scope::Once,
            by: None,
        })
    };
    assert!(matches!(
        play.ask(answer(Some("q7"), true, "")),
        Err(RequestRefusal::QuestionUnknown { .. })
    ));
    play.ask(answer(Some("q1"), false, "use the helper"))
        .unwrap();
    let (_, outcome, content) = *play.answers().last().unwrap();
    assert_eq!(outcome, ToolOutcome::Error);
    assert!(content.contains("use the helper"), "{content}");
    play.run(&mut honest);
    play.ask(answer(None, true, "")).unwrap();
    assert_eq!(
        play.ask(answer(None, true, "")),
        Err(RequestRefusal::NothingAsked)
    );
    // The honest model edits once more: nobody has accepted that.
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Waiting);
    assert_eq!(play.state.stage, Stage::Validate);
    let asked = &play.state.question.as_ref().unwrap().text;
    assert!(asked.contains("changed since it was accepted"), "{asked}");
    play.ask(answer(None, true, "")).unwrap();
    play.run(&mut honest);
    assert_eq!(play.state.condition, Condition::Verified);
    let evidence = play.state.todos[0].evidence().unwrap();
    assert_eq!(
        (&evidence.tree, evidence.judge),
        (&play.world.tree.to_string(), Judge::Person)
    );
}

#[test]
fn a_stages_record_says_what_it_was_entered_with() {
    let play = play(options(), World::default());
    let records = &play.state.records;
    assert_eq!(records[0].input.commit, None);
    assert!(records[0].input.briefing.is_some());
    let [validate, pr, ci] = [Stage::Validate, Stage::Pr, Stage::Ci].map(|stage| {
        let mut records = records.iter();
        records.find(|record| record.stage == stage).unwrap()
    });
    let input = |commit: &str, tree: &str| StageInput {
        commit: Some(commit.into()),
        tree: Some(tree.into()),
        briefing: None,
    };
    let tree = play.world.tree.to_string();
    assert_eq!(validate.input, input("base", "1"));
    assert_eq!(pr.input, input("base", &tree));
    assert_eq!(ci.input, input(&format!("commit-of-{tree}"), &tree));
}

#[test]
fn a_question_of_the_models_waits_for_its_answer() {
    let mut play = Play::new(options(), World::default());
    let question = call("ask_person", json!({"question": "which sum?"}));
    play.run(&mut script(vec![calls(vec![question, read()])]));
    assert_eq!(play.state.condition, Condition::Waiting);
    let answer = Answer {
        question: None,
        accepted: true,
        text: "the second".into(),
        scope: Scope::Once,
        by: None,
    };
    play.ask(Request::Answer(answer)).unwrap();
    play.run(&mut honest);
    assert_eq!(play.answers()[0].2, "The person answers: the second");
    assert_eq!(play.state.condition, Condition::Verified);
}

#[test]
fn every_request_is_answered_in_every_condition() {
    let every = [
        Condition::Running,
        Condition::Paused,
        Condition::Waiting,
        Condition::Interrupted,
        Condition::Failed,
        Condition::Verified,
        Condition::Cancelled,
    ];
    let reason = || "r".to_owned();
    let requests = [
        Request::Pause { reason: reason() },
        Request::Resume { reason: reason() },
        Request::Cancel { reason: reason() },
        Request::Interrupt { reason: reason() },
    ];
    let base = Play::new(options(), World::default()).state;
    let table: Vec<String> = every
        .into_iter()
        .map(|condition| {
            let mut state = base.clone();
            state.condition = condition;
            requests
                .iter()
                .map(|request| match respond(&state, request, 0) {
                    Response::Accepted(_) => 'A',
                    Response::AlreadySo => '=',
                    Response::Refused(_) => 'R',
                })
                .collect()
        })
        .collect();
    //                       pause, resume, cancel, interrupt
    assert_eq!(
        table,
        ["A=AA", "=AA=", "ARA=", "AAA=", "RR==", "RR==", "RR=="],
        "running, paused, waiting (for nothing), interrupted, failed, verified, cancelled"
    );
}

/// What is left of a log after a kill: any number of whole batches.
fn fold(batches: &[Vec<Event>]) -> SessionState {
    let mut events = batches.iter().flatten();
    let mut state = SessionState::begin(events.next().unwrap()).unwrap();
    events.for_each(|event| state.apply(event));
    state
}

#[test]
fn every_prefix_of_a_log_leads_on_the_same_way() {
    let world = World {
        validations: vec![false, true],
        proofs: vec![false, true],
        ci: vec![false, true],
        ..World::default()
    };
    let play = play(options(), world);
    assert!(play.batches.len() > 60);
    for kept in 1..play.batches.len() {
        let state = fold(&play.batches[..kept]);
        let first = &play.batches[kept][0];
        match decide(&state, &Gate::open()) {
            Next::Record(bodies) => {
                let recorded: Vec<_> = play.batches[kept]
                    .iter()
                    .map(|event| event.body.clone())
                    .collect();
                assert_eq!(bodies, recorded, "after {kept} batches");
            }
            Next::Perform(open) => {
                assert_eq!(Some(&open), state.open.as_ref());
                assert_eq!(open.intent + 1, first.sequence, "after {kept} batches");
            }
            Next::Wait | Next::End => panic!("the session stopped after {kept} batches"),
        }
    }
}

#[test]
fn events_survive_the_store() {
    let play = play(options(), World::default());
    for event in play.events() {
        assert_eq!(Event::decode(&event.encode()).as_ref(), Ok(event));
    }
}

#[test]
fn every_event_has_a_line_of_its_own() {
    let play = play(options(), World::default());
    for event in play.events() {
        let line = super::briefing::line(&event.body);
        assert!(!line.trim().is_empty() && !line.contains('\n'), "{line:?}");
    }
}

#[test]
fn the_line_of_a_change_says_what_changed_and_why() {
    let todo = play(options(), World::default()).state.todos[0].clone();
    let what = todo.text.clone();
    let todo = |state: TodoState| EventBody::TodoChanged {
        todo: Todo {
            state,
            ..todo.clone()
        },
    };
    let reason = || "1 failed\nin sum.py".to_owned();
    for (body, expected) in [
        (
            EventBody::StageEntered {
                to: Stage::Plan,
                attempt: 1,
                why: "the cause is found".into(),
            },
            "PLAN: the cause is found".to_owned(),
        ),
        (
            EventBody::StageEntered {
                to: Stage::Debug,
                attempt: 2,
                why: "tests fail".into(),
            },
            "DEBUG (attempt 2): tests fail".to_owned(),
        ),
        (
            EventBody::StageLeft {
                from: Stage::Validate,
                attempt: 2,
                next: Stage::Debug,
                why: "tests fail".into(),
            },
            "VALIDATE -> DEBUG: tests fail".to_owned(),
        ),
        (
            todo(TodoState::InProgress),
            format!("todo 1 in progress: {what}"),
        ),
        (
            todo(TodoState::Claimed {
                claim: "ran them\nall".into(),
            }),
            format!("todo 1 claimed: {what}: ran them"),
        ),
        (
            todo(TodoState::Rejected {
                reason: reason(),
                artifact: None,
            }),
            format!("todo 1 rejected: {what}: 1 failed in sum.py"),
        ),
        (
            EventBody::StateChanged {
                to: Condition::Paused,
                reason: reason(),
            },
            "paused: 1 failed in sum.py".to_owned(),
        ),
        (
            EventBody::StateChanged {
                to: Condition::Running,
                reason: String::new(),
            },
            "running".to_owned(),
        ),
    ] {
        assert_eq!(super::briefing::line(&body), expected);
    }
}

#[test]
fn changes_of_a_session_are_told_with_their_reasons() {
    let world = World {
        validations: vec![false, true],
        criteria: vec![false, true],
        proofs: vec![false, true],
        ci: vec![false, true],
        ..World::default()
    };
    let play = play(options(), world);
    let mut told = [0; 4];
    for event in play.events() {
        let (kind, what, why) = match &event.body {
            EventBody::StageEntered { to, why, .. } => (0, to.to_string(), why.as_str()),
            EventBody::StageLeft {
                from, next, why, ..
            } => (1, format!("{from} -> {next}"), why.as_str()),
            EventBody::TodoChanged { todo } => {
                let what = format!("todo {} {}", todo.id, todo.state.name());
                let why = match &todo.state {
                    TodoState::Rejected { reason, .. } => reason.as_str(),
                    TodoState::Verified(evidence) => evidence.summary.as_str(),
                    TodoState::Claimed { claim } => claim.as_str(),
                    TodoState::Pending | TodoState::InProgress | TodoState::Verifying { .. } => {
                        todo.text.as_str()
                    }
                };
                (2, what, why)
            }
            EventBody::StateChanged { to, reason } => (3, to.name().to_owned(), reason.as_str()),
            _ => continue,
        };
        told[kind] += 1;
        let line = super::briefing::line(&event.body);
        assert!(line.starts_with(&what), "{line}");
        // Long ones are cut.
        let first = why.trim().lines().next().unwrap_or_default();
        let why: Vec<&str> = first.split_whitespace().take(3).collect();
        assert!(!why.is_empty(), "nothing says why: {line}");
        assert!(line.contains(&why.join(" ")), "{why:?} is not in: {line}");
    }
    assert!(told.iter().all(|count| *count > 0), "{told:?}");
}

/// A model and people that do anything at all.
fn anything(rng: &mut fastrand::Rng, state: &SessionState) -> Outcome {
    match rng.u8(..10) {
        0 => return says("words", vec![]),
        1 => return says("", vec![]),
        2 => {
            let then = [
                AfterModelFailure::AskAgain,
                AfterModelFailure::Pause,
                AfterModelFailure::Fail,
            ][rng.usize(..3)];
            let error = "boom".into();
            let free = rng.bool();
            let wait_ms = rng.bool().then_some(700);
            return Outcome::NoReply(NoReply {
                error,
                then,
                free,
                wait_ms,
            });
        }
        3..=6 => return honest(state),
        _ => {}
    }
    let some = |rng: &mut fastrand::Rng| match rng.u8(..12) {
        0 => call("nonsense", json!({})),
        1 => call("read_file", json!({})),
        2 => edit(),
        3 => claim(),
        4 => advance(),
        5 => add_todo(),
        6 => call("todo_start", json!({"id": 1})),
        7 => call("ask_person", json!({"question": "what now?"})),
        8 => call("think", json!({"content": "hm"})),
        9 => call("run_command", json!({"command": "true"})),
        _ => read(),
    };
    let count = rng.usize(1..4);
    says("", (0..count).map(|_| some(rng)).collect())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever models and people do: contexts only grow, every call is
    /// answered right after it was made, and nothing unproved ends verified.
    #[test]
    fn any_session_keeps_the_rules(seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let flip = |rng: &mut fastrand::Rng| vec![rng.bool(), rng.bool(), rng.bool(), true];
        let world = World {
            validations: flip(&mut rng),
            criteria: flip(&mut rng),
            proofs: flip(&mut rng),
            ci: flip(&mut rng),
            ..World::default()
        };
        let verify = if rng.bool() { VerifyMode::Auto } else { VerifyMode::Manual };
        let mut play = Play::new(SessionOptions { verify, ..options() }, world);
        let mut told: Vec<Message> = vec![];
        let system = play.context.system().to_owned();
        for _ in 0..600 {
            let mut people = rng.fork();
            if people.u8(..20) == 0 {
                let reason = "person".to_owned();
                let back_to = |stage| Request::RollBack(RollBackTo { stage, attempt: None, since: None });
                let _ = play.ask(match people.u8(..6) {
                    0 => Request::Pause { reason },
                    1 => Request::Interrupt { reason },
                    2 => Request::Answer(Answer { question: None, accepted: true, text: String::new(), scope: Scope::Once, by: None }),
                    3 => back_to(Stage::Understand),
                    4 => back_to(Stage::Modify),
                    _ => Request::Resume { reason },
                });
            }
            let moved = play.step(&mut |state: &SessionState| anything(&mut rng, state));
            if !moved {
                if play.state.condition.has_ended() {
                    break;
                }
                let reason = "go on".to_owned();
                let _ = play.ask(Request::Resume { reason });
                let accepted = people.bool();
                let _ = play.ask(Request::Answer(Answer { question: None, accepted, text: "well".into(), scope: Scope::Once, by: None }));
            }
            let now = play.context.messages();
            prop_assert!(now.starts_with(&told), "the context changed what it had said");
            told = now.to_vec();
        }
        prop_assert_eq!(play.context.system(), &system);
        for pair in told.windows(2) {
            if let [Message::Assistant(turn), next] = pair && !turn.tool_calls.is_empty() {
                let Message::ToolResults { results } = next else {
                    return Err(TestCaseError::fail("calls without answers right after them"));
                };
                let asked: Vec<_> = turn.tool_calls.iter().map(|call| &call.id).collect();
                let answered: Vec<_> = results.iter().map(|result| &result.call_id).collect();
                prop_assert_eq!(asked, answered);
            }
        }
        prop_assert_eq!(&fold(&play.batches), &play.state);
        if play.state.condition == Condition::Verified {
            prop_assert!(play.state.proof.as_ref().is_some_and(|proof| proof.proved));
            prop_assert!(play.state.todos.iter().all(|todo| todo.is_verified()));
            prop_assert!(play.state.stage == Stage::Complete);
        }
    }
}
