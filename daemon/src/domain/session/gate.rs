//! The one place that a tool call passes before it is made: the policy, the
//! session's level and autonomy, and what people have answered before.
//!
//! ```text
//!  call ──policy──> deny ──────────────────────────────> refused, with the reason
//!            │      ask ──answered before?── no ───────> a question; the session waits
//!            │                │ yes: denied ───────────> refused, with the person's words
//!            │                │ yes: approved
//!            v                v
//!          allow        high risk? a snapshot first ───> the call
//! ```

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    event::{ApprovalRequest, Question, QuestionAbout},
    options::VerifyMode,
    state::SessionState,
    work::Commit,
};
use crate::domain::{
    budget::Quantity,
    conversation::ToolCall,
    criteria::{self, Criterion},
    edits::Change,
    policy::{
        AskOnProof, Decision, FileChangeKind, FileUse, Policy, RiskKind, Session, Subject, Tier,
        Unjudged, Verdict, is_asked_each_time,
        shell::{self, absolute},
    },
    proof::{ChangedJudge, Proof, Risk},
    tools::{TodoAdd, Tool, ToolRequest, path_key, workspace_path},
};

/// Bytes of an act, and of its diff, that a person is asked to approve: all of it is
/// shown, so what is longer is refused.
const SHOWN_MAX_BYTES: usize = 64 << 10;

/// Characters of an act of medium risk that whoever merges is told.
const RISK_MAX_CHARS: usize = 200;

/// What the gate judges by, beside the session itself.
#[derive(Debug, Clone, Copy)]
pub struct Gate<'a> {
    /// The policy in use; `None` lets everything through.
    pub policy: Option<&'a Policy>,
    /// Classes that a person has approved for the whole project.
    pub project: &'a BTreeSet<String>,
    /// Now, in milliseconds since the Unix epoch: for when an approval expires.
    pub now_ms: i64,
}

/// What the gate says to a call.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Passage {
    /// It is made.
    Open,
    /// It is made, and whoever merges is told of these risks.
    Told(Vec<String>),
    /// It is made once a snapshot has been taken.
    AfterSnapshot,
    /// It is refused, in words for the model.
    Refused(String),
    /// A person is asked.
    Ask(Box<ApprovalRequest>),
}

impl Gate<'_> {
    /// A gate without a policy.
    #[must_use]
    pub fn open() -> Gate<'static> {
        static NONE: BTreeSet<String> = BTreeSet::new();
        Gate {
            policy: None,
            project: &NONE,
            now_ms: 0,
        }
    }

    /// What is said to a call that everything else lets through.
    pub(super) fn pass(
        &self,
        state: &SessionState,
        call: &ToolCall,
        request: &ToolRequest,
    ) -> Passage {
        let Some(policy) = self.policy else {
            return Passage::Open;
        };
        let options = &state.created.options;
        let repository = state.repository_dir();
        let session = Session {
            level: options.level,
            autonomy: options.autonomy,
            repository: &repository,
            unjudged: &state.unjudged,
        };
        let subject = subject(&repository, request);
        let verdict = policy.decide(request.tool(), &subject, session);
        match verdict.decision {
            Decision::Allow => match risks(&verdict) {
                risks if risks.is_empty() => Passage::Open,
                risks => Passage::Told(risks),
            },
            Decision::Deny => Passage::Refused(denied(&verdict)),
            Decision::Ask => self.ask(state, policy, call, request, &verdict, &subject),
        }
    }

    fn ask(
        &self,
        state: &SessionState,
        policy: &Policy,
        call: &ToolCall,
        request: &ToolRequest,
        verdict: &Verdict,
        subject: &Subject,
    ) -> Passage {
        if let Some(passage) = self.answered_before(state, &call.id, verdict) {
            return passage;
        }
        let directory = match subject {
            Subject::Line { directory, .. } | Subject::Argvs { directory, .. } => directory.clone(),
            Subject::Files { .. } | Subject::Nothing => state.repository_dir(),
        };
        let (act, diff) = (act_of(request), diff_of(state, request));
        let longest = act.len().max(diff.as_ref().map_or(0, String::len));
        if longest > SHOWN_MAX_BYTES {
            return Passage::Refused(too_long(verdict, longest));
        }
        let refusal =
            "the call is refused and the model is told why; the session goes on without it";
        let asked = self.request(policy, verdict);
        Passage::Ask(Box::new(ApprovalRequest {
            call: call.id.clone(),
            tool: request.tool(),
            act,
            directory,
            diff,
            refusal: refusal.to_owned(),
            ..asked
        }))
    }

    /// What is said to the publication of the session's branch, which is the
    /// workflow's own act unless a rule names it.
    pub(super) fn publication(&self, state: &SessionState, commit: &Commit) -> Passage {
        let Some(policy) = self.policy else {
            return Passage::Open;
        };
        let verdict = policy.publication(&commit.branch);
        match verdict.decision {
            Decision::Allow => Passage::Open,
            Decision::Deny => Passage::Refused(format!(
                "the policy does not let this session publish: {}",
                verdict.why()
            )),
            Decision::Ask => {
                let call = format!("publish {}", commit.commit);
                match self.answered_before(state, &call, &verdict) {
                    // The proof was made in a copy; nothing is at risk here.
                    Some(Passage::AfterSnapshot) => Passage::Open,
                    Some(passage) => passage,
                    None => Passage::Ask(Box::new(ApprovalRequest {
                        call,
                        act: format!("publish commit {} as branch {}", commit.commit, commit.branch),
                        directory: state.repository_dir(),
                        diff: Some(commit.changed_files.join("\n")),
                        refusal: "the session ends without a pull request; its commit stays in the workspace".to_owned(),
                        ..self.request(policy, &verdict)
                    })),
                }
            }
        }
    }

    /// What is said to the next model call of a session that has spent more than
    /// the policy lets it spend unasked. What is approved is approved up to the
    /// next multiple of that.
    pub(super) fn spending(&self, state: &SessionState) -> Passage {
        let Some(policy) = self.policy else {
            return Passage::Open;
        };
        let (above, spent) = (policy.ask_above(), state.spending.spent);
        let reached = [
            (Quantity::Tokens, above.tokens),
            (Quantity::Money, above.money.map(|money| money.0)),
        ];
        for (quantity, step) in reached {
            let Some(step) = step.filter(|step| *step > 0) else {
                continue;
            };
            let used = spent.of(quantity);
            let shown = |amount| match quantity {
                Quantity::Money => format!("{} of money", quantity.show(amount)),
                Quantity::Tokens | Quantity::Steps | Quantity::Time => quantity.show(amount),
            };
            let mark = used - used % step;
            let class = format!("{}: {}", RiskKind::Spending.name(), shown(mark));
            let approved = [&state.approvals.session, self.project];
            if mark == 0 || approved.iter().any(|classes| classes.contains(&class)) {
                continue;
            }
            let used = shown(used);
            if let Some(words) = state.approvals.refused.get(&class) {
                return Passage::Refused(format!("{used} are spent, and {words}"));
            }
            return Passage::Ask(Box::new(ApprovalRequest {
                call: ApprovalRequest::SPENDING.to_owned(),
                tool: Tool::Think,
                act: format!("ask the model again after {used}"),
                directory: state.repository_dir(),
                diff: None,
                hosts: Vec::new(),
                tier: RiskKind::Spending.tier(),
                classes: vec![class],
                why: format!(
                    "the policy lets a session spend {} before a person is asked, and as much again after each answer",
                    shown(step)
                ),
                refusal: "the session ends; what it has done stays in the workspace".to_owned(),
                expires_at_ms: self.expires_at_ms(policy),
            }));
        }
        Passage::Open
    }

    /// What a person is asked of a proof before the session goes on, as the ends
    /// of a sentence.
    pub(super) fn open_of_proof(&self, state: &SessionState, proof: &Proof) -> Vec<String> {
        let options = &state.created.options;
        let asks = self.policy.map(Policy::ask_on_proof);
        // Leave to change tests is none to change what runs them, and none of a
        // task's outweighs what the operator has said.
        let mut tests_may_change = false;
        let asks = match options.verify {
            VerifyMode::Manual => {
                let from = asks.and_then(|asks| asks.test_changes);
                AskOnProof {
                    test_changes: Some(from.unwrap_or(Risk::Medium).min(Risk::Medium)),
                    test_changes_given: true,
                    known_failures: true,
                }
            }
            VerifyMode::Auto => match asks {
                Some(asks) => {
                    tests_may_change = options.allow_test_changes && !asks.test_changes_given;
                    asks
                }
                None => return Vec::new(),
            },
        };
        let mut open = Vec::new();
        let judges = proof.changed_judges.iter();
        let judges = judges.filter(|judge| {
            asks.test_changes.is_some_and(|from| judge.risk >= from)
                && (judge.runs_tests || !tests_may_change)
        });
        let judges: Vec<String> = judges.map(ChangedJudge::describe).collect();
        if !judges.is_empty() {
            open.push(format!("it changes what judges it: {}", judges.join(", ")));
        }
        if asks.known_failures && !proof.known_failures.is_empty() {
            let still = proof.known_failures.join(", ");
            open.push(format!("tests that failed before fail still: {still}"));
        }
        open
    }

    /// When a question that is asked now counts as refused.
    fn expires_at_ms(&self, policy: &Policy) -> i64 {
        let timeout_ms = i64::try_from(policy.approval_timeout().as_millis()).unwrap_or(i64::MAX);
        self.now_ms.saturating_add(timeout_ms)
    }

    /// What follows from what a person has answered before; `None` where that is
    /// nothing.
    fn answered_before(
        &self,
        state: &SessionState,
        call: &str,
        verdict: &Verdict,
    ) -> Option<Passage> {
        let approvals = &state.approvals;
        let is_granted = |class: &String| {
            !is_asked_each_time(class)
                && (approvals.session.contains(class) || self.project.contains(class))
        };
        if approvals.once.as_deref() == Some(call) || verdict.classes.iter().all(is_granted) {
            let snapshotted = approvals.snapshotted.as_deref() == Some(call);
            return Some(match verdict.tier {
                Tier::High if !snapshotted => Passage::AfterSnapshot,
                Tier::High | Tier::Medium | Tier::Low => Passage::Open,
            });
        }
        let words = verdict
            .classes
            .iter()
            .find_map(|class| approvals.refused.get(class))?;
        Some(Passage::Refused(format!(
            "this was asked before in this session and is not asked again: {words}"
        )))
    }

    /// What every question says.
    fn request(&self, policy: &Policy, verdict: &Verdict) -> ApprovalRequest {
        let acts = verdict.rulings.iter();
        let hosts: BTreeSet<String> = acts
            .flat_map(|ruling| ruling.act.hosts.iter().cloned())
            .collect();
        ApprovalRequest {
            call: String::new(),
            tool: Tool::RunCommand,
            act: String::new(),
            directory: String::new(),
            diff: None,
            hosts: hosts.into_iter().collect(),
            tier: verdict.tier,
            classes: verdict.classes.clone(),
            why: verdict.why(),
            refusal: String::new(),
            expires_at_ms: self.expires_at_ms(policy),
        }
    }
}

/// What is of medium risk in a call that nobody is asked about.
fn risks(verdict: &Verdict) -> Vec<String> {
    let acts = verdict.rulings.iter().map(|ruling| &ruling.act);
    let risks = acts.flat_map(|act| {
        let of_act = act.findings.iter();
        let medium = of_act.filter(|finding| finding.kind.tier() == Tier::Medium);
        medium.map(|finding| {
            // It becomes a line of code in a text for people.
            let shown = act.shown().replace('`', "'");
            let words: Vec<&str> = shown.split_whitespace().collect();
            let words: String = words.join(" ").chars().take(RISK_MAX_CHARS).collect();
            format!("{}: {words}", finding.kind.name())
        })
    });
    let risks: BTreeSet<String> = risks.collect();
    risks.into_iter().collect()
}

/// What is said to the model of a call that the policy denies.
fn denied(verdict: &Verdict) -> String {
    format!(
        "the policy does not let this session do that: {}\nDo it another way, or do without it; \
         the same again is refused again.",
        verdict.why()
    )
}

/// What is said to the model of a call that is too long for a person to read.
fn too_long(verdict: &Verdict, bytes: usize) -> String {
    format!(
        "a person would have to approve this ({} risk: {}), and nobody is asked about {bytes} \
         bytes; up to {SHOWN_MAX_BYTES} can be shown. Do it in smaller steps, each of which a \
         person can read.",
        verdict.tier.name(),
        verdict.why()
    )
}

/// Notes which files a call that was made has written without their text having
/// been judged as a script.
pub(super) fn note_written(unjudged: &mut Unjudged, call: &ToolCall, repository: &str) {
    let Ok(request) = ToolRequest::parse(call) else {
        return;
    };
    let at = |path: &str| absolute(&workspace_path(repository, path), repository);
    match &request {
        ToolRequest::RunCommand(run) => {
            let directory = workspace_path(repository, run.cwd.as_deref().unwrap_or("."));
            unjudged.run(&run.command, &directory);
        }
        ToolRequest::WriteFile(write) => {
            unjudged.write(&at(&write.path), Some(&write.content));
        }
        ToolRequest::EditFile(edit) => {
            for change in edit.changes().unwrap_or_default() {
                let path = at(&change.path);
                match &change.change {
                    Change::Delete => unjudged.delete(&path),
                    Change::Create { content } => unjudged.write(&path, Some(content)),
                    Change::Modify { blocks, move_to } => {
                        let new: Vec<&str> = blocks.iter().map(|block| &*block.new).collect();
                        unjudged.change(&path, &new.join("\n"));
                        if let Some(to) = move_to {
                            unjudged.rename(&path, &at(to));
                        }
                    }
                }
            }
        }
        ToolRequest::Think(_)
        | ToolRequest::ReadFile(_)
        | ToolRequest::ListDirectory(_)
        | ToolRequest::Glob(_)
        | ToolRequest::Grep(_)
        | ToolRequest::TodoAdd(_)
        | ToolRequest::TodoStart(_)
        | ToolRequest::TodoClaim(_)
        | ToolRequest::Advance(_)
        | ToolRequest::AskPerson(_)
        | ToolRequest::ReportEnvironmentIssue(_) => {}
    }
}

/// What a request does, as the policy sees it.
pub(super) fn subject(repository: &str, request: &ToolRequest) -> Subject {
    let file = |path: &str, change| FileUse {
        path: workspace_path(repository, path),
        change,
        script: None,
    };
    let text = |path: &str, text: &str| FileUse {
        script: shell::is_script(path, text).then(|| text.to_owned()),
        ..file(path, FileChangeKind::Write)
    };
    let one = |path: Option<&str>, change| Subject::Files {
        paths: vec![file(path.unwrap_or("."), change)],
    };
    match request {
        ToolRequest::RunCommand(run) => Subject::Line {
            line: run.command.clone(),
            directory: workspace_path(repository, run.cwd.as_deref().unwrap_or(".")),
        },
        ToolRequest::ReadFile(read) => one(Some(&read.path), FileChangeKind::Read),
        ToolRequest::ListDirectory(list) => one(list.path.as_deref(), FileChangeKind::Read),
        ToolRequest::Glob(glob) => one(glob.path.as_deref(), FileChangeKind::Read),
        ToolRequest::Grep(grep) => one(grep.path.as_deref(), FileChangeKind::Read),
        ToolRequest::WriteFile(write) => Subject::Files {
            paths: vec![text(&write.path, &write.content)],
        },
        ToolRequest::EditFile(edit) => {
            let mut paths = Vec::new();
            // What cannot be read as an edit changes nothing; the tool says so.
            for change in edit.changes().unwrap_or_default() {
                let path = &change.path;
                let used = match &change.change {
                    Change::Delete => file(path, FileChangeKind::Delete),
                    Change::Create { content } => text(path, content),
                    Change::Modify { blocks, move_to } => {
                        paths.extend(move_to.iter().map(|to| file(to, FileChangeKind::Write)));
                        let new: Vec<&str> = blocks.iter().map(|block| &*block.new).collect();
                        let new = new.join("\n");
                        match shell::may_be_script(path) {
                            true => FileUse {
                                script: Some(new),
                                ..file(path, FileChangeKind::Write)
                            },
                            false => text(path, &new),
                        }
                    }
                };
                paths.push(used);
            }
            match paths.as_slice() {
                [] => one(Some(edit.named()), FileChangeKind::Write),
                _ => Subject::Files { paths },
            }
        }
        // The daemon runs what a todo's criteria name.
        ToolRequest::TodoAdd(add) => {
            let argvs = commands_of(add);
            match argvs.is_empty() {
                true => Subject::Nothing,
                false => Subject::Argvs {
                    argvs,
                    directory: repository.to_owned(),
                },
            }
        }
        ToolRequest::Think(_)
        | ToolRequest::TodoStart(_)
        | ToolRequest::TodoClaim(_)
        | ToolRequest::Advance(_)
        | ToolRequest::AskPerson(_)
        | ToolRequest::ReportEnvironmentIssue(_) => Subject::Nothing,
    }
}

/// The commands that checking new todos would run.
fn commands_of(add: &TodoAdd) -> Vec<Vec<String>> {
    let mut commands = Vec::new();
    for item in &add.items {
        let inferred;
        let criteria = match item.criteria.is_empty() {
            true => {
                inferred = criteria::infer(&item.text);
                &inferred
            }
            false => &item.criteria,
        };
        for criterion in criteria {
            match criterion {
                Criterion::CommandExits { argv, .. }
                | Criterion::CommandOutputMatches { argv, .. } => commands.push(argv.clone()),
                Criterion::TestsPass { argv } => commands.extend(argv.clone()),
                Criterion::FileExists { .. }
                | Criterion::FileMatches { .. }
                | Criterion::SyntaxValid { .. } => {}
            }
        }
    }
    commands
}

/// What would be done, exactly.
fn act_of(request: &ToolRequest) -> String {
    match request {
        ToolRequest::RunCommand(run) => run.command.clone(),
        ToolRequest::ReadFile(read) => format!("read_file {}", read.path),
        ToolRequest::ListDirectory(list) => {
            format!("list_directory {}", list.path.as_deref().unwrap_or("."))
        }
        ToolRequest::Glob(glob) => format!("glob {}", glob.pattern),
        ToolRequest::Grep(grep) => format!("grep {}", grep.pattern),
        ToolRequest::WriteFile(write) => format!("write_file {}", write.path),
        ToolRequest::EditFile(edit) => {
            let changes = edit.changes().unwrap_or_default();
            let paths: Vec<&str> = changes.iter().map(|change| change.path.as_str()).collect();
            format!("edit_file {}", paths.join(" "))
        }
        ToolRequest::TodoAdd(add) => {
            let commands = commands_of(add);
            let commands: Vec<String> = commands.iter().map(shell_words::join).collect();
            format!("todo_add with criteria that run: {}", commands.join("; "))
        }
        ToolRequest::Think(_)
        | ToolRequest::TodoStart(_)
        | ToolRequest::TodoClaim(_)
        | ToolRequest::Advance(_)
        | ToolRequest::AskPerson(_)
        | ToolRequest::ReportEnvironmentIssue(_) => request.tool().name().to_owned(),
    }
}

/// What would become of files, as a person reads it; `None` for what changes no
/// file by name.
fn diff_of(state: &SessionState, request: &ToolRequest) -> Option<String> {
    let mut diff = String::new();
    match request {
        ToolRequest::WriteFile(write) => {
            let path = workspace_path(&state.repository_dir(), &write.path);
            if state.files.contains_key(&path_key(&path)) {
                let _ = writeln!(diff, "--- {} (all that it holds now)", write.path);
            }
            let _ = writeln!(diff, "+++ {}", write.path);
            marked(&mut diff, '+', &write.content);
        }
        ToolRequest::EditFile(edit) => {
            for part in edit.replacements.iter().flatten() {
                marked(&mut diff, '-', &part.old_text);
                marked(&mut diff, '+', &part.new_text);
            }
            for text in [&edit.blocks, &edit.diff, &edit.patch]
                .into_iter()
                .flatten()
            {
                diff.push_str(text);
            }
        }
        ToolRequest::Think(_)
        | ToolRequest::ReadFile(_)
        | ToolRequest::ListDirectory(_)
        | ToolRequest::Glob(_)
        | ToolRequest::Grep(_)
        | ToolRequest::RunCommand(_)
        | ToolRequest::TodoAdd(_)
        | ToolRequest::TodoStart(_)
        | ToolRequest::TodoClaim(_)
        | ToolRequest::Advance(_)
        | ToolRequest::AskPerson(_)
        | ToolRequest::ReportEnvironmentIssue(_) => return None,
    }
    Some(diff)
}

fn marked(diff: &mut String, mark: char, text: &str) {
    for line in text.lines() {
        let _ = writeln!(diff, "{mark}{line}");
    }
}

/// The question that a person is asked.
pub(super) fn question(state: &SessionState, approval: Box<ApprovalRequest>) -> Question {
    let mut text = format!(
        "May this be done? ({} risk)\n  {}\n  in {}",
        approval.tier.name(),
        approval.act.replace('\n', "\n  "),
        approval.directory
    );
    if !approval.hosts.is_empty() {
        let _ = write!(text, "\n  hosts: {}", approval.hosts.join(", "));
    }
    if let Some(diff) = &approval.diff {
        let _ = write!(text, "\n{}", diff.trim_end());
    }
    let _ = write!(
        text,
        "\nWhy it is asked: {}\nIf refused: {}.",
        approval.why, approval.refusal
    );
    Question {
        id: format!("q{}", state.questions_asked + 1),
        text,
        about: QuestionAbout::Approval(approval),
    }
}
