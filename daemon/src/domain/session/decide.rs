//! What comes next in a session: a pure function of its state.
//!
//! The order of the questions is the policy: does it run at all; is an effect
//! under way; could a piece of work not be done, or did it fail with what only a
//! person can mend; is time left; does a tool call wait for its answer; and only
//! then what the stage wants.

use std::time::Duration;

use super::{
    event::{
        Condition, EventBody, Question, QuestionAbout, Speaker, ToolEffect, ToolEnded, ToolOutcome,
    },
    gate::{self, Gate, Passage},
    options::WorkflowKind,
    state::{FailedWork, Open, SessionState},
    work::{Again, Work},
};
use crate::domain::{
    cognition::{self, Examined},
    conversation::ToolCall,
    criteria::{self, Criterion},
    prompts,
    proof::Proof,
    recovery::stuck::Measure,
    stage::Stage,
    todo::{Todo, TodoState},
    tools::{
        AskPerson, TODOS_MAX, TodoAdd, TodoClaim, Tool, ToolRequest, path_key, tool_of,
        workspace_path,
    },
    workflow::{self, SILENT_REPLIES_MAX, Worker},
};

/// What comes next.
#[derive(Debug, Clone, PartialEq)]
pub enum Next {
    /// Append these, all or none. The last one may be an intent.
    Record(Vec<EventBody>),
    /// Bring about the effect whose intent is in the log, or find out what
    /// became of it, and append its outcome.
    Perform(Open),
    /// Only a person can go on.
    Wait,
    /// Nothing can follow.
    End,
}

/// What comes next in a session.
#[must_use]
pub fn decide(state: &SessionState, gate: &Gate<'_>) -> Next {
    match state.condition {
        Condition::Failed | Condition::Verified | Condition::Cancelled => Next::End,
        Condition::Paused | Condition::Waiting | Condition::Interrupted => Next::Wait,
        Condition::Running => go_on(state, gate),
    }
}

fn go_on(state: &SessionState, gate: &Gate<'_>) -> Next {
    if let Some(open) = &state.open {
        return Next::Perform(open.clone());
    }
    if state.records.is_empty() {
        let first = workflow::first_stage(state.created.options.workflow);
        return Next::Record(vec![entered(state, first, "the session starts")]);
    }
    match state.stage {
        Stage::Complete => {
            let proof = state.proof.as_ref().map_or("", |proof| &proof.reason);
            return change(Condition::Verified, proof.to_owned());
        }
        Stage::Failed => {
            let why = state.record().map_or("", |record| &record.why);
            return change(Condition::Failed, why.to_owned());
        }
        Stage::Understand
        | Stage::Plan
        | Stage::Locate
        | Stage::Modify
        | Stage::Validate
        | Stage::Debug
        | Stage::Pr
        | Stage::Ci
        | Stage::Iterate => {}
    }
    if let Some(failed) = &state.failed_work {
        return after_failed_work(state, failed);
    }
    if let Some(failure) = &state.escalated {
        let reason = format!("{failure}; resume when that is mended");
        return change(Condition::Paused, reason);
    }
    if time_left(state).is_zero() {
        return fail(state, &time_is_up(state));
    }
    if let Some(call) = state.calls.front() {
        return Next::Record(answer_call(state, call, gate));
    }
    if state.base.is_none() {
        return begin(state, Work::BaseRun);
    }
    // Later than this the snapshot would have the session's own doing in it.
    if state.start.is_none() && state.model_calls == 0 {
        return begin(state, Work::SnapshotStart);
    }
    if workflow::begins_with_snapshot(state.stage)
        && !state.attempt.snapshotted
        && !state.attempt.prompted
    {
        return begin(state, Work::SnapshotStage);
    }
    match state.stage {
        Stage::Understand
        | Stage::Plan
        | Stage::Locate
        | Stage::Modify
        | Stage::Debug
        | Stage::Iterate => model_stage(state, gate),
        Stage::Validate => validate(state),
        Stage::Pr => pull_request(state, gate),
        Stage::Ci => ci(state),
        Stage::Complete | Stage::Failed => Next::End,
    }
}

/// How long the session may still run, from its last event on. A step that
/// takes longer is ended.
#[must_use]
pub fn time_left(state: &SessionState) -> Duration {
    let limit_ms = state.created.options.limits.max_time_ms;
    Duration::from_millis(limit_ms.saturating_sub(state.active_ms))
}

/// Why a session without any time left ends.
#[must_use]
pub fn time_is_up(state: &SessionState) -> String {
    let seconds = state.created.options.limits.max_time_ms / 1000;
    format!("the session's time of {seconds} s is used up")
}

/// A stage in which the model works.
fn model_stage(state: &SessionState, gate: &Gate<'_>) -> Next {
    let Worker::Model { steps_max, next } = workflow::worker(state.stage) else {
        return fail(state, &format!("{} has no work for a model", state.stage));
    };
    if let Some(summary) = &state.attempt.done {
        return leave(state, next, summary);
    }
    if !state.attempt.prompted {
        let text = prompts::stage(state);
        let from = Speaker::Daemon;
        return Next::Record(vec![EventBody::MessageAdded { text, from }]);
    }
    if state.silent_replies > 0 && ends_by_itself(state) {
        return leave(state, next, "every todo is verified");
    }
    if state.silent_replies >= SILENT_REPLIES_MAX {
        return fail(
            state,
            &format!("the model called no tool in {SILENT_REPLIES_MAX} replies in a row"),
        );
    }
    if state.attempt.steps >= steps_max {
        return fail(
            state,
            &format!(
                "{} took {steps_max} replies and was not finished",
                state.stage
            ),
        );
    }
    let max_steps = state.created.options.limits.max_steps;
    if state.model_calls >= max_steps {
        return fail(
            state,
            &format!("the session's {max_steps} steps are used up"),
        );
    }
    let tries_max = workflow::retries(state.stage).tries_max;
    let escalation = state.trail.escalation(tries_max);
    if let Some(intervention) = escalation.or_else(|| state.trail.check()) {
        let text = intervention.text.clone();
        let stops = intervention.measure == Measure::Stop;
        let mut events = vec![EventBody::CircleFound(intervention)];
        if stops {
            events.extend(ask(state, text, QuestionAbout::Circle));
        }
        return Next::Record(events);
    }
    match gate.spending(state) {
        Passage::Open | Passage::Told(_) | Passage::AfterSnapshot => {
            Next::Record(vec![EventBody::ModelAsked])
        }
        Passage::Refused(why) => fail(state, &why),
        Passage::Ask(approval) => Next::Record(ask_with(gate::question(state, approval))),
    }
}

/// Whether the model need not say that it is done: the daemon has seen it, and
/// nothing was changed since the model last reasoned about it.
pub(super) fn ends_by_itself(state: &SessionState) -> bool {
    state.stage == Stage::Modify
        && !state.todos.is_empty()
        && state.cognition.has_reasoned_since_edit()
        && state.todos.iter().all(Todo::is_verified)
}

fn validate(state: &SessionState) -> Next {
    let (Some(base), Some(validation)) = (&state.base, &state.attempt.validation) else {
        return begin(state, Work::Validate);
    };
    if validation.changed_files.is_empty() {
        return debug(state, "nothing differs from the base commit");
    }
    let failed: Vec<String> = workflow::blocking(base, validation)
        .map(|check| format!("{}: {}", check.command.name, check.summary))
        .collect();
    if !failed.is_empty() {
        return debug(state, &failed.join("; "));
    }
    if let Some(todo) = workflow::stale(state, validation).next() {
        return begin(state, Work::VerifyTodo { todo: todo.id });
    }
    let rejected: Vec<String> = state
        .todos
        .iter()
        .filter(|todo| !todo.is_verified())
        .map(|todo| format!("todo {} no longer holds", todo.id))
        .collect();
    if !rejected.is_empty() {
        return debug(state, &rejected.join("; "));
    }
    let count = state.todos.len();
    leave(
        state,
        Stage::Pr,
        &format!("the checks pass and {count} of {count} todos are verified on this tree"),
    )
}

fn pull_request(state: &SessionState, gate: &Gate<'_>) -> Next {
    let Some(commit) = &state.attempt.commit else {
        return begin(state, Work::Commit);
    };
    let Some(proof) = &state.attempt.proof else {
        return begin(state, Work::Prove);
    };
    if !proof.proved {
        return debug(state, &format!("not proved: {}", proof.reason));
    }
    if let Some(next) = person_on_proof(state, gate, proof) {
        return next;
    }
    match state.created.options.workflow {
        WorkflowKind::None => leave(state, Stage::Complete, &proof.reason),
        WorkflowKind::Swe => {
            if state.attempt.published.is_none() {
                return match gate.publication(state, commit) {
                    Passage::Open | Passage::Told(_) | Passage::AfterSnapshot => {
                        begin(state, Work::Publish)
                    }
                    Passage::Refused(why) => fail(state, &why),
                    Passage::Ask(approval) => {
                        Next::Record(ask_with(gate::question(state, approval)))
                    }
                };
            }
            match &state.attempt.pull_request {
                None => begin(state, Work::OpenPullRequest),
                Some(opened) => {
                    let number = opened.pull_request.number;
                    leave(state, Stage::Ci, &format!("pull request {number} is open"))
                }
            }
        }
    }
}

/// A person's word on what a proof leaves to judge; `None` lets it go on.
fn person_on_proof(state: &SessionState, gate: &Gate<'_>, proof: &Proof) -> Option<Next> {
    let commit = &state.attempt.commit.as_ref()?.commit;
    let open = gate.open_of_proof(state, proof);
    if open.is_empty() {
        return None;
    }
    let open = open.join("; and ");
    match &state.attempt.accepted {
        Some((answered, true)) if answered == commit => None,
        Some((answered, false)) if answered == commit => Some(debug(
            state,
            &format!("a person does not accept that {open}"),
        )),
        Some(_) | None => {
            let text = format!("The change is proved, but {open}. Do you accept that?");
            let about = QuestionAbout::Proof {
                commit: commit.clone(),
            };
            Some(Next::Record(ask(state, text, about)))
        }
    }
}

fn ci(state: &SessionState) -> Next {
    match &state.attempt.ci {
        None => begin(state, Work::RunCi),
        Some(ci) if ci.passed => leave(state, Stage::Complete, "proved, and CI passed"),
        Some(ci) => {
            let failed: Vec<String> = ci
                .pull_request
                .checks
                .iter()
                .filter(|check| check.state != crate::domain::forge::ForgeCheckState::Passed)
                .map(|check| format!("{}: {}", check.name, check.summary))
                .collect();
            let rounds = state.created.options.limits.iterate_rounds;
            let why = format!("CI failed: {}", failed.join("; "));
            round(state, Stage::Iterate, rounds, &why)
        }
    }
}

fn debug(state: &SessionState, why: &str) -> Next {
    let rounds = state.created.options.limits.debug_rounds;
    round(state, Stage::Debug, rounds, why)
}

/// Enters a loop's stage, unless its rounds are used up.
fn round(state: &SessionState, stage: Stage, rounds: u32, why: &str) -> Next {
    if state.attempts_at(stage) >= rounds {
        return fail(
            state,
            &format!("{why}; {rounds} rounds of {stage} did not help"),
        );
    }
    leave(state, stage, why)
}

fn after_failed_work(state: &SessionState, failed: &FailedWork) -> Next {
    let what = failed.work.name();
    let error = &failed.error;
    if let Work::RollBack { .. } = failed.work {
        return change(
            Condition::Paused,
            format!(
                "{what} could not be done: {error}; the workspace is as it was: roll back again, or \
                 resume to go on with it"
            ),
        );
    }
    let tries_max = workflow::retries(state.stage).tries_max;
    match failed.again {
        Again::IsUseless => fail(state, &format!("{what}: {error}")),
        Again::NeedsPerson => change(
            Condition::Paused,
            format!("{what}: {error}; resume when that is mended"),
        ),
        Again::MayHelp if failed.attempt < tries_max => Next::Record(vec![started(
            state,
            failed.work.clone(),
            failed.attempt + 1,
        )]),
        Again::MayHelp => change(
            Condition::Paused,
            format!(
                "{what} could not be done in {tries_max} tries: {error}; resume when that is mended"
            ),
        ),
    }
}

/// Answers a tool call, or begins what will answer it.
fn answer_call(state: &SessionState, call: &ToolCall, gate: &Gate<'_>) -> Vec<EventBody> {
    let request = match ToolRequest::parse(call) {
        Ok(request) => request,
        Err(mistake) => {
            // A forbidden tool is refused as such even when its arguments are
            // wrong too: mending them would not help.
            let forbidden = tool_of(call)
                .ok()
                .filter(|tool| !workflow::allows(state.stage, *tool));
            let text = forbidden.map_or_else(
                || mistake.to_string(),
                |tool| workflow::mask_refusal(state.stage, tool),
            );
            return vec![refused(call, text)];
        }
    };
    if state.attempt.done.is_some() {
        let stage = state.stage;
        let text = format!(
            "you have left {stage} with the call before; call this again in the next stage"
        );
        return vec![refused(call, text)];
    }
    if !workflow::allows(state.stage, request.tool()) {
        let text = workflow::mask_refusal(state.stage, request.tool());
        return vec![refused(call, text)];
    }
    let Examined { events, refusal } = examine(state, call, &request);
    // Whoever turns in circles is told more.
    let refusal = state.trail.refusal(call).or(refusal);
    let mut events: Vec<EventBody> = events.into_iter().map(EventBody::Cognition).collect();
    if let Some(text) = refusal {
        events.push(refused(call, text));
        return events;
    }
    // What the reasoning was is recorded with the call, and the call is not made
    // before a person, or a snapshot, lets it.
    match gate.pass(state, call, &request) {
        Passage::Open => events.extend(answer_request(state, call, request)),
        Passage::Told(told) => {
            let answers = answer_request(state, call, request).into_iter();
            events.extend(answers.map(|event| with_risks(event, &told)));
        }
        Passage::Refused(text) => events.push(refused(call, text)),
        Passage::AfterSnapshot => return vec![started(state, Work::SnapshotAct, 1)],
        Passage::Ask(approval) => return ask_with(gate::question(state, approval)),
    }
    events
}

/// What the session's reasoning says to a call, once.
fn examine(state: &SessionState, call: &ToolCall, request: &ToolRequest) -> Examined {
    if let ToolRequest::TodoClaim(claim) = request
        && let Some(TodoState::Claimed { .. }) = state.todo(claim.id).map(|todo| &todo.state)
    {
        // It is this very call's, let through before; only its check is to be
        // done again.
        return Examined::default();
    }
    if let ToolRequest::Advance(_) = request
        && workflow::gate(state).is_err()
    {
        // What is missing is said first.
        return Examined::default();
    }
    cognition::examine(state, call, request)
}

/// Answers a call that may be made.
fn answer_request(state: &SessionState, call: &ToolCall, request: ToolRequest) -> Vec<EventBody> {
    match request {
        ToolRequest::Think(think) => {
            let (events, told) = cognition::think(state, &think.content);
            let events = events.into_iter().map(EventBody::Cognition);
            events.chain([accepted(call, told)]).collect()
        }
        ToolRequest::ReadFile(_)
        | ToolRequest::ListDirectory(_)
        | ToolRequest::Glob(_)
        | ToolRequest::Grep(_)
        | ToolRequest::RunCommand(_) => vec![tool_started(call, None)],
        ToolRequest::WriteFile(write) => {
            vec![tool_started(call, last_seen(state, &write.path))]
        }
        ToolRequest::EditFile(edit) => {
            let path = edit.path.as_deref();
            vec![tool_started(
                call,
                path.and_then(|path| last_seen(state, path)),
            )]
        }
        ToolRequest::TodoAdd(add) => add_todos(state, call, add),
        ToolRequest::TodoStart(start) => match state.todo(start.id) {
            None => vec![refused(call, unknown_todo(state, start.id))],
            Some(todo) => match todo.start() {
                Ok(todo) => {
                    let text = format!("Todo {} is in progress.", todo.id);
                    vec![EventBody::TodoChanged { todo }, accepted(call, text)]
                }
                Err(refusal) => vec![refused(call, refusal.to_string())],
            },
        },
        ToolRequest::TodoClaim(claim) => claim_todo(state, call, claim),
        ToolRequest::Advance(advance) => match workflow::gate(state) {
            Ok(()) => {
                let summary = match advance.summary.trim() {
                    "" => "the model finished it".to_owned(),
                    words => words.to_owned(),
                };
                let text = format!("{} is done.", state.stage);
                vec![answered(
                    call,
                    ToolOutcome::Ok,
                    text,
                    ToolEffect::StageDone { summary },
                )]
            }
            Err(missing) => vec![refused(call, missing)],
        },
        ToolRequest::AskPerson(AskPerson { question }) => {
            ask(state, question, QuestionAbout::Model)
        }
        ToolRequest::ReportEnvironmentIssue(issue) if issue.blocking => {
            ask(state, issue.question(), QuestionAbout::Model)
        }
        ToolRequest::ReportEnvironmentIssue(_) => vec![accepted(
            call,
            "Recorded; it is shown to people with the session. Go on without what is broken where you can.",
        )],
    }
}

fn add_todos(state: &SessionState, call: &ToolCall, add: TodoAdd) -> Vec<EventBody> {
    if state.todos.len() + add.items.len() > TODOS_MAX {
        let text = format!(
            "a session has at most {TODOS_MAX} todos and this one has {}: add fewer, larger ones",
            state.todos.len()
        );
        return vec![refused(call, text)];
    }
    let last = state.todos.iter().map(|todo| todo.id).max().unwrap_or(0);
    let mut events = Vec::with_capacity(add.items.len() + 1);
    let mut lines = Vec::with_capacity(add.items.len());
    for (id, item) in (last + 1..).zip(add.items) {
        let is_given = !item.criteria.is_empty();
        let criteria = match is_given {
            true => item.criteria,
            false => inferred(state, &item.text),
        };
        let note = match (is_given, criteria.as_slice()) {
            (true, _) => String::new(),
            (false, []) => "\nNothing in it says how it can be checked. When you claim it, say in \
                            `evidence` what shows that it is done: a person will verify it."
                .to_owned(),
            (false, inferred) => {
                let inferred: Vec<String> = inferred.iter().map(Criterion::describe).collect();
                format!("\nIts text says what must hold: {}.", inferred.join("; "))
            }
        };
        lines.push(format!("Todo {id} added: {}{note}", item.text.trim()));
        let todo = Todo::new(id, item.text.trim().to_owned(), criteria);
        events.push(EventBody::TodoChanged { todo });
    }
    events.push(accepted(call, lines.join("\n")));
    events
}

/// What a todo's text says must hold. That a file exists which the session has seen
/// says nothing of the todo.
fn inferred(state: &SessionState, text: &str) -> Vec<Criterion> {
    let repository = state.repository_dir();
    let mut criteria = criteria::infer(text);
    criteria.retain(|criterion| {
        let Criterion::FileExists { path } = criterion else {
            return true;
        };
        let key = path_key(&workspace_path(&repository, path));
        !state.files.contains_key(&key)
    });
    criteria
}

fn claim_todo(state: &SessionState, call: &ToolCall, claim: TodoClaim) -> Vec<EventBody> {
    let Some(todo) = state.todo(claim.id) else {
        return vec![refused(call, unknown_todo(state, claim.id))];
    };
    if todo.criteria.is_empty() && claim.evidence.trim().is_empty() {
        let text = format!(
            "todo {} has no criterion that the daemon could check: claim it with `evidence`, what you ran \
             and what it printed, for a person to verify",
            todo.id
        );
        return vec![refused(call, text)];
    }
    let verify = started(state, Work::VerifyTodo { todo: todo.id }, 1);
    // Calls are answered one by one, so a claim that stands is this very call's,
    // and its check could not be done before.
    if let TodoState::Claimed { .. } = &todo.state {
        return vec![verify];
    }
    match todo.claim(claim.evidence) {
        Ok(todo) => vec![EventBody::TodoChanged { todo }, verify],
        Err(refusal) => vec![refused(call, refusal.to_string())],
    }
}

/// A question to a person, and the session waiting for the answer.
pub(super) fn ask(state: &SessionState, text: String, about: QuestionAbout) -> Vec<EventBody> {
    let id = format!("q{}", state.questions_asked + 1);
    ask_with(Question { id, text, about })
}

fn ask_with(question: Question) -> Vec<EventBody> {
    let reason = format!("asks: {}", first_line(&question.text));
    vec![
        EventBody::QuestionAsked { question },
        EventBody::StateChanged {
            to: Condition::Waiting,
            reason,
        },
    ]
}

fn unknown_todo(state: &SessionState, id: u32) -> String {
    let known: Vec<String> = state.todos.iter().map(|todo| todo.id.to_string()).collect();
    match known.as_slice() {
        [] => format!("there is no todo {id}, there are none yet: add them with `todo_add`"),
        known => format!("there is no todo {id}; there are: {}", known.join(", ")),
    }
}

fn last_seen(state: &SessionState, path: &str) -> Option<String> {
    let path = workspace_path(&state.repository_dir(), path);
    state.files.get(&path_key(&path)).cloned()
}

fn tool_started(call: &ToolCall, expected_hash: Option<String>) -> EventBody {
    EventBody::ToolStarted {
        call: call.clone(),
        expected_hash,
        risks: Vec::new(),
    }
}

/// An event that begins a call, with what whoever merges is told of that.
fn with_risks(mut event: EventBody, told: &[String]) -> EventBody {
    if let EventBody::ToolStarted { risks, .. } = &mut event {
        *risks = told.to_vec();
    }
    event
}

/// The answer to a call that concerns the log alone.
pub(super) fn answered(
    call: &ToolCall,
    outcome: ToolOutcome,
    content: impl Into<String>,
    effect: ToolEffect,
) -> EventBody {
    EventBody::ToolEnded(Box::new(ToolEnded {
        intent: None,
        call_id: call.id.clone(),
        name: call.name.clone(),
        outcome,
        content: content.into(),
        artifact: None,
        duration_ms: 0,
        failure: None,
        effect,
    }))
}

fn accepted(call: &ToolCall, content: impl Into<String>) -> EventBody {
    answered(call, ToolOutcome::Ok, content, ToolEffect::None)
}

fn refused(call: &ToolCall, content: impl Into<String>) -> EventBody {
    answered(call, ToolOutcome::Refused, content, ToolEffect::None)
}

fn begin(state: &SessionState, work: Work) -> Next {
    Next::Record(vec![started(state, work, 1)])
}

fn started(state: &SessionState, work: Work, attempt: u32) -> EventBody {
    let given = state.created.options.test_command.clone();
    let tests = || {
        let found = state.base.as_ref().map(|base| base.tests.argv.clone());
        found.or(given.clone()).unwrap_or_default()
    };
    let argv = match &work {
        Work::BaseRun | Work::Validate | Work::Prove | Work::RunCi => tests(),
        Work::SnapshotStart
        | Work::SnapshotStage
        | Work::SnapshotAct
        | Work::RollBack { .. }
        | Work::VerifyTodo { .. }
        | Work::Commit
        | Work::Publish
        | Work::OpenPullRequest => Vec::new(),
    };
    EventBody::WorkStarted {
        work,
        attempt,
        argv,
    }
}

fn change(to: Condition, reason: String) -> Next {
    Next::Record(vec![EventBody::StateChanged { to, reason }])
}

fn fail(state: &SessionState, why: &str) -> Next {
    leave(state, Stage::Failed, why)
}

fn leave(state: &SessionState, next: Stage, why: &str) -> Next {
    Next::Record(leaving(state, next, why).into())
}

/// One stage left, the next one entered.
pub fn leaving(state: &SessionState, next: Stage, why: &str) -> [EventBody; 2] {
    let (from, attempt) = state
        .record()
        .map_or((state.stage, 1), |record| (record.stage, record.attempt));
    let why = why.to_owned();
    let left = EventBody::StageLeft {
        from,
        attempt,
        next,
        why: why.clone(),
    };
    [left, entered(state, next, &why)]
}

fn entered(state: &SessionState, stage: Stage, why: &str) -> EventBody {
    EventBody::StageEntered {
        to: stage,
        attempt: state.attempts_at(stage) + 1,
        why: why.to_owned(),
    }
}

/// The first line of a text, at most 200 characters of it.
pub(super) fn first_line(text: &str) -> String {
    const SHOWN: usize = 200;
    let line = text.trim().lines().next().unwrap_or_default().trim_end();
    if line.chars().count() <= SHOWN {
        return line.to_owned();
    }
    line.chars().take(SHOWN - 1).chain(['…']).collect()
}

/// Whether a tool acts on the workspace, so that a call of it has an intent.
#[must_use]
pub fn acts(tool: Tool) -> bool {
    match tool {
        Tool::ReadFile
        | Tool::WriteFile
        | Tool::EditFile
        | Tool::ListDirectory
        | Tool::Glob
        | Tool::Grep
        | Tool::RunCommand => true,
        Tool::Think
        | Tool::TodoAdd
        | Tool::TodoStart
        | Tool::TodoClaim
        | Tool::Advance
        | Tool::AskPerson
        | Tool::ReportEnvironmentIssue => false,
    }
}
