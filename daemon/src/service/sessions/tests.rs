//! Sessions driven for real: git, files and test runs in a directory of this
//! machine, a model of a few lines, everything else in memory.

mod audit;
mod budgets;
mod cognition;
mod compaction;
mod credentials;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use compyd_proto::v1::{self as wire, session_service_server::SessionService as _};
use serde_json::{Value, json};
use tokio::sync::{Notify, mpsc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::*;
use crate::{
    adapters::{
        forge::local::LocalForge,
        local_agent::LocalMachine,
        memory::{ManualClock, MemoryAudit, MemoryBlobs, MemoryStore},
    },
    api::grpc::{
        requests::Requests,
        session::{SessionApi, SessionDefaults},
    },
    domain::{
        access::Token,
        artifact::{Artifact, ArtifactKind},
        budget::Limits,
        compaction::Window,
        conversation::{Arguments, AssistantTurn, Message, StopReason, ToolCall, Usage},
        credential::{CredentialsChange, PastCredential, SealedCredential},
        edits::EditFormat,
        forge::PullRequest,
        ids::{ArtifactId, OperationId, RequestId, SnapshotId, TokenName, WorkspaceName},
        recovery::Catalogue,
        session::{
            event::{Event, ToolOutcome},
            options::{Budget, RULES_TOKENS, SessionLimits, VerifyMode, WorkflowKind},
            state::{Effect, SessionState},
            work::{Again, Work, WorkResult},
        },
        setup::SetupKey,
        snapshot::{
            Snapshot,
            copies::{TreeCopy, VolumeRef},
            journal::Operation,
        },
        stage::Stage,
        todo::TodoState,
        workspace_event::WorkspaceEvent,
    },
    ports::{
        agent::AgentPort as _,
        model::{ModelProgress, ModelReply, ModelRequest},
        store::{EventBytes, RequestEntry, RequestRecord, StoreError},
        workspaces::{CleanRepository, WorkspacesPort},
    },
    service::{
        artifacts::Artifacts, audit::Audit, ci::LocalCi, commands::Commands, git::BundleSpace,
        policies::Policies, proof::Prover, redaction::Redactions,
    },
};

const BROKEN: &str = "def add(a, b):\n    return a - b\n";
const TESTS: &str = "import unittest\n\nfrom sums import add\n\n\nclass Sums(unittest.TestCase):\n    def test_add(self):\n        self.assertEqual(add(1, 2), 3)\n\n    def test_zero(self):\n        self.assertEqual(add(0, 0), 0)\n";

const UNITTEST: &str = "python3 -m unittest -v";
/// Leaves a line for each time it really ran, outside of the repository.
const RUN_ONCE: &str = "echo ran >> ../effects.log; python3 -m unittest";

/// The replies of a model, by how often it has spoken before. A function of the
/// request alone, so that a call asked again is answered the same.
type Script = Arc<dyn Fn(usize, &ModelRequest) -> Result<Vec<ToolCall>, ModelError> + Send + Sync>;

struct ScriptedModel {
    script: Script,
    /// Requests seen, for the rules that every one must keep.
    seen: Arc<Mutex<Vec<ModelRequest>>>,
    /// When set, calls wait until they are cancelled.
    hang: bool,
}

#[async_trait]
impl ModelPort for ScriptedModel {
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        self.seen.lock().unwrap().push(request.clone());
        if self.hang {
            cancel.cancelled().await;
            return Err(ModelError::Cancelled);
        }
        let _ = progress.try_send(ModelProgress::Text("thinking aloud".into()));
        let in_it = request
            .messages
            .iter()
            .filter(|message| matches!(message, Message::Assistant(_)))
            .count();
        let spoken = request.turns_left_out + in_it;
        let tool_calls = (self.script)(spoken, request)?;
        Ok(ModelReply {
            turn: AssistantTurn {
                text: format!("step {spoken}"),
                tool_calls,
                opaque: vec![],
            },
            stop: StopReason::ToolUse,
            usage: Some(Usage {
                input_uncached: 10,
                output: 2,
                ..Usage::default()
            }),
            provider_request_id: None,
        })
    }
}

fn call(name: &str, arguments: Value) -> ToolCall {
    let Value::Object(object) = arguments else {
        panic!("arguments are an object")
    };
    ToolCall {
        id: format!("call_{name}"),
        name: name.into(),
        arguments: Arguments::Object(object),
    }
}

fn read() -> ToolCall {
    call("read_file", json!({"path": "sums.py"}))
}

fn replace(path: &str, old: &str, new: &str) -> ToolCall {
    let part = json!({"old_text": old, "new_text": new});
    call("edit_file", json!({"path": path, "replacements": [part]}))
}

fn fix() -> ToolCall {
    replace("sums.py", "a - b", "a + b")
}

fn run(command: &str) -> ToolCall {
    call("run_command", json!({"command": command}))
}

fn advance() -> ToolCall {
    call("advance", json!({"summary": "done"}))
}

/// Reasoning that counts.
fn reason() -> ToolCall {
    let content = "sums.py subtracts, and test_sums.py shows it";
    call("think", json!({"content": content}))
}

/// A claim after a run and reasoning about it.
fn look_and_claim() -> Vec<ToolCall> {
    vec![run(UNITTEST), reason(), claim()]
}

fn todo(criteria: Value) -> ToolCall {
    let text = "make add() add, so that its tests pass";
    let items = json!([{"text": text, "criteria": criteria}]);
    call("todo_add", json!({"items": items}))
}

fn claim() -> ToolCall {
    call("todo_claim", json!({"id": 1, "evidence": "ran the tests"}))
}

/// Says these replies in order, and nothing that makes sense afterwards.
fn script(replies: Vec<Vec<ToolCall>>) -> Script {
    Arc::new(move |spoken, _| {
        Ok(replies
            .get(spoken)
            .cloned()
            .unwrap_or_else(|| vec![call("think", json!({"content": "what else?"}))]))
    })
}

/// Through every stage of the whole workflow.
fn whole(modify: Vec<Vec<ToolCall>>) -> Vec<Vec<ToolCall>> {
    let mut replies = vec![
        vec![read(), advance()],
        vec![todo(json!([])), advance()],
        vec![call("grep", json!({"pattern": "add"})), reason(), advance()],
    ];
    replies.extend(modify);
    replies
}

fn honest() -> Script {
    script(whole(vec![
        vec![fix(), run(RUN_ONCE)],
        vec![reason(), claim()],
        vec![advance()],
    ]))
}

fn git(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("git")
        .current_dir(directory)
        .args(["-c", "user.name=t", "-c", "user.email=t@example.invalid"])
        .args(arguments)
        .output()
        .unwrap();
    assert!(output.status.success(), "git {arguments:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A machine with one workspace that holds the sample repository.
struct Fixture {
    machine: LocalMachine,
    workspace: Workspace,
    root: PathBuf,
    store: Arc<MemoryStore>,
    blobs: Arc<MemoryBlobs>,
    forge: tempfile::TempDir,
    seen: Arc<Mutex<Vec<ModelRequest>>>,
    audit: Arc<MemoryAudit>,
    redactions: Redactions,
    clock: Arc<ManualClock>,
}

impl Fixture {
    async fn new() -> Self {
        let machine = LocalMachine::new();
        let (id, root) = machine.add_workspace().unwrap();
        let repository = root.join("repo");
        std::fs::create_dir(&repository).unwrap();
        git(&repository, &["init", "--quiet", "--initial-branch=main"]);
        std::fs::write(repository.join("sums.py"), BROKEN).unwrap();
        std::fs::write(repository.join("test_sums.py"), TESTS).unwrap();
        std::fs::write(repository.join(".gitignore"), "__pycache__/\n").unwrap();
        git(&repository, &["add", "."]);
        git(&repository, &["commit", "--quiet", "-m", "begin"]);
        let workspace = machine.get(&id).await.unwrap();
        Self {
            machine,
            workspace,
            root,
            store: Arc::new(MemoryStore::new()),
            blobs: Arc::new(MemoryBlobs::new()),
            forge: tempfile::tempdir().unwrap(),
            seen: Arc::default(),
            audit: Arc::default(),
            redactions: Redactions::default(),
            clock: Arc::default(),
        }
    }

    fn repository(&self) -> PathBuf {
        self.root.join("repo")
    }

    /// A daemon's sessions over what the fixture has; each call is a new life.
    fn daemon(&self, script: Script) -> Daemon {
        self.daemon_with(self.store.clone(), script, false)
    }

    fn daemon_with(&self, store: Arc<dyn StorePort>, script: Script, hang: bool) -> Daemon {
        let seen = self.seen.clone();
        let models: ModelFactory = Arc::new(move |_, _| {
            let (script, seen) = (script.clone(), seen.clone());
            Ok(Arc::new(ScriptedModel { script, seen, hang }))
        });
        self.daemon_of(store, models)
    }

    fn daemon_of(&self, store: Arc<dyn StorePort>, models: ModelFactory) -> Daemon {
        self.daemon_within(store, models, Limits::default())
    }

    fn daemon_within(
        &self,
        store: Arc<dyn StorePort>,
        models: ModelFactory,
        of_a_day: Limits,
    ) -> Daemon {
        let clock = self.clock.clone();
        let artifacts = Artifacts::new(store.clone(), self.blobs.clone(), clock.clone());
        let artifacts = artifacts.with_redactions(self.redactions.clone());
        let commands = Commands::new(Arc::new(self.machine.clone()), artifacts);
        let forge: Arc<LocalForge> =
            Arc::new(LocalForge::new(self.forge.path().to_owned(), store.clone()));
        let world = World {
            store,
            prover: Prover::new(commands.clone()),
            ci: LocalCi::new(commands.clone(), forge.clone(), self.bundles()),
            bundles: self.bundles(),
            commands,
            forge,
            catalogue: Arc::new(Catalogue::with(None).unwrap()),
            audit: Audit::new(self.audit.clone(), clock.clone(), Redactions::default()),
            gatekeeper: Gatekeeper::new(Policies::open(None).unwrap()),
        };
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let settings = SessionSettings {
            auto_resume: true,
            patience: Patience {
                outage: Duration::from_secs(5),
                haste: 200,
                model_tries: 3,
                ..Patience::default()
            },
            of_a_day,
        };
        let (tracker, token) = (tasks.clone(), shutdown.clone());
        let sessions = Sessions::new(clock, world, models, settings, tracker, token);
        Daemon {
            sessions,
            tasks,
            shutdown,
        }
    }

    fn bundles(&self) -> BundleSpace {
        BundleSpace {
            parent: self.forge.path().join("scratch"),
            max_bytes: 1 << 20,
        }
    }

    fn start(&self, options: SessionOptions) -> StartSession {
        StartSession {
            id: SessionId::from_uuid(uuid::Uuid::now_v7()),
            task: "add() subtracts; make it add".into(),
            workspace: self.workspace.clone(),
            repository: None,
            options,
        }
    }

    async fn events(&self, session: &SessionId) -> Vec<Event> {
        let pages = self.store.events(session, 1, 10_000).await.unwrap();
        pages
            .iter()
            .map(|bytes| Event::decode(bytes).unwrap())
            .collect()
    }

    async fn play(&self, script: Script, options: SessionOptions) -> Arc<SessionState> {
        let daemon = self.daemon(script);
        let started = daemon.sessions.start(self.start(options)).await.unwrap();
        daemon
            .wait_until(started.state.id(), |state| {
                state.condition != Condition::Running
            })
            .await
    }
}

struct Daemon {
    sessions: Sessions,
    tasks: TaskTracker,
    shutdown: CancellationToken,
}

impl Daemon {
    async fn wait_until(
        &self,
        session: &SessionId,
        holds: impl Fn(&SessionState) -> bool,
    ) -> Arc<SessionState> {
        let waiting = async {
            loop {
                let state = self.sessions.get(session).await.unwrap().state;
                if holds(&state) {
                    return state;
                }
                let Some(mut handle) = self.sessions.handle(session) else {
                    return state;
                };
                let seen = state.sequence;
                let _ = handle
                    .published
                    .wait_for(|published| published.state.sequence > seen)
                    .await;
            }
        };
        tokio::time::timeout(Duration::from_secs(120), waiting)
            .await
            .expect("the session gets there in time")
    }

    async fn stop(self) {
        self.end().await;
    }

    /// Ends it; whoever asks it then is told to try again.
    async fn end(&self) {
        self.shutdown.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// The way to its sessions, with what is remembered of requests in a store.
    fn api(&self, store: Arc<MemoryStore>) -> SessionApi {
        let clock = Arc::new(ManualClock::default());
        let requests = Requests::new(store.clone(), clock, TaskTracker::new());
        let defaults = SessionDefaults::default();
        SessionApi::new(self.sessions.clone(), store, requests, defaults)
    }
}

fn options() -> SessionOptions {
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    SessionOptions {
        edit_format: EditFormat::Replace,
        model: "scripted:/none".parse().unwrap(),
        workflow: WorkflowKind::Swe,
        test_command: Some(words("python3 -m unittest -v")),
        lint_command: None,
        verify: VerifyMode::Auto,
        allow_test_changes: false,
        limits: SessionLimits {
            max_steps: 40,
            debug_rounds: 2,
            ..SessionLimits::default()
        },
        budget: Budget::default(),
        prices: None,
        window: Window::default(),
        rules_tokens: RULES_TOKENS,
        level: Default::default(),
        autonomy: Default::default(),
    }
}

fn stages(state: &SessionState) -> Vec<Stage> {
    state.records.iter().map(|record| record.stage).collect()
}

const HAPPY: [Stage; 8] = [
    Stage::Understand,
    Stage::Plan,
    Stage::Locate,
    Stage::Modify,
    Stage::Validate,
    Stage::Pr,
    Stage::Ci,
    Stage::Complete,
];

#[tokio::test]
async fn an_honest_run_ends_with_a_proved_pull_request() {
    let fixture = Fixture::new().await;
    let state = fixture.play(honest(), options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    assert_eq!(stages(&state), HAPPY);
    let proof = state.proof.as_ref().unwrap();
    assert!(proof.proved && proof.fail_to_pass.len() == 1, "{proof:?}");
    let opened = state.pull_request.as_ref().unwrap();
    assert_eq!(opened.pull_request.draft.base, "main");
    assert!(opened.pull_request.draft.body.contains("sums.py"));
    assert_eq!(
        git(
            &fixture.repository(),
            &["rev-list", "--count", "main..HEAD"]
        ),
        "1"
    );
    assert!(fixture.machine.clean_workspaces() == 0);
}

#[tokio::test]
async fn requests_to_the_model_share_one_growing_prefix() {
    let fixture = Fixture::new().await;
    fixture.play(honest(), options()).await;
    let seen = fixture.seen.lock().unwrap();
    assert!(seen.len() > 5);
    for pair in seen.windows(2) {
        assert_eq!(pair[0].system, pair[1].system);
        assert_eq!(pair[0].tools, pair[1].tools);
        assert!(pair[1].messages.starts_with(&pair[0].messages));
        assert_eq!(pair[1].max_output_tokens, 16_000);
    }
}

#[tokio::test]
async fn sessions_of_a_repository_share_system_prompt_and_tools() {
    let fixture = Fixture::new().await;
    fixture.play(honest(), options()).await;
    let first = fixture.seen.lock().unwrap().len();
    // Another day, another id, another commit.
    fixture.clock.advance(Duration::from_secs(40 * 24 * 3600));
    fixture.play(script(vec![]), options()).await;
    let seen = fixture.seen.lock().unwrap();
    assert!(first > 0 && seen.len() > first);
    for request in seen.iter() {
        assert_eq!(request.system, seen[0].system);
        assert_eq!(request.tools, seen[0].tools);
        assert_eq!(request.messages[0], seen[0].messages[0], "the task");
    }
}

#[tokio::test]
async fn rules_that_are_too_long_are_cut_to_their_room_and_say_so() {
    let fixture = Fixture::new().await;
    let repository = fixture.repository();
    let rules = format!("Sums are exact.\n{}", "And short.\n".repeat(10_000));
    std::fs::write(repository.join("AGENTS.md"), &rules).unwrap();
    git(&repository, &["add", "."]);
    git(&repository, &["commit", "--quiet", "-m", "rules"]);
    fixture.play(script(vec![]), options()).await;
    let seen = fixture.seen.lock().unwrap();
    let told = serde_json::to_string(&seen[0].messages).unwrap();
    let cut = format!("[cut: AGENTS.md has {} bytes; read the rest]", rules.len());
    for part in ["Sums are exact.", "bytes left out]", &cut] {
        assert!(told.contains(part), "{part}");
    }
    assert!(told.len() < rules.len() / 2, "{}", told.len());
}

#[tokio::test]
async fn a_claim_without_a_fix_is_never_verified() {
    let fixture = Fixture::new().await;
    let lies = script(whole(vec![look_and_claim(), vec![claim(), advance()]]));
    let state = fixture.play(lies, options()).await;
    // It knows nothing else to do, so a person is asked.
    assert_eq!(state.condition, Condition::Waiting, "{}", state.reason);
    assert!(matches!(state.todos[0].state, TodoState::Rejected { .. }));
    assert!(state.commit.is_none() && state.pull_request.is_none());
}

#[tokio::test]
async fn an_edited_test_is_never_verified() {
    let fixture = Fixture::new().await;
    let bend = replace("test_sums.py", "add(1, 2), 3", "add(1, 2), -1");
    let mut replies = whole(vec![
        vec![call("read_file", json!({"path": "test_sums.py"})), bend],
        look_and_claim(),
        vec![advance()],
    ]);
    replies.extend(vec![vec![advance()]; 10]);
    let state = fixture.play(script(replies), options()).await;
    // It knows nothing else to do, so a person is asked.
    assert_eq!(state.condition, Condition::Waiting, "{}", state.reason);
    assert!(state.proof.as_ref().is_some_and(|proof| !proof.proved));
    assert!(state.pull_request.is_none());
}

#[tokio::test]
async fn a_fix_on_the_second_try_goes_through_debug() {
    let fixture = Fixture::new().await;
    // Its own criterion holds, the session's tests do not.
    let mut replies = whole(vec![
        [vec![replace("sums.py", "a - b", "a * b")], look_and_claim()].concat(),
        vec![advance()],
        vec![read(), reason(), advance()],
        vec![replace("sums.py", "a * b", "a + b")],
        vec![run(UNITTEST), reason(), advance()],
    ]);
    replies[1] = vec![
        todo(json!([{"type": "file_exists", "path": "sums.py"}])),
        advance(),
    ];
    let state = fixture.play(script(replies), options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    assert_eq!(state.attempts_at(Stage::Debug), 1);
    assert_eq!(state.attempts_at(Stage::Validate), 2);
    let tree = &state.validation.as_ref().unwrap().tree;
    assert_eq!(&state.todos[0].evidence().unwrap().tree, tree);
}

#[tokio::test]
async fn odd_calls_are_answered_and_a_stale_write_is_refused() {
    let fixture = Fixture::new().await;
    let write = |content: &str| call("write_file", json!({"path": "sums.py", "content": content}));
    let good = "def add(a, b):\n    return a + b\n";
    let replies = whole(vec![
        vec![
            run("echo '# changed' >> sums.py; exit 3"),
            replace("sums.py", "a - b", "a + b"),
            write(good),
        ],
        vec![
            read(),
            write(good),
            call("read_file", json!({"path": "missing.py"})),
        ],
        vec![call(
            "write_file",
            json!({"path": "test_sums.py", "content": "x"}),
        )],
        look_and_claim(),
        vec![advance()],
    ]);
    let state = fixture.play(script(replies), options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let answers: Vec<_> = fixture
        .events(state.id())
        .await
        .into_iter()
        .filter_map(|event| match event.body {
            EventBody::ToolEnded(ended) => Some((ended.name, ended.outcome, ended.content)),
            _ => None,
        })
        .skip(7)
        .collect();
    assert!(answers[0].2.contains("[exit 3"), "{answers:?}");
    assert_eq!(answers[1].1, ToolOutcome::Error);
    assert!(
        answers[1].2.contains("has changed since you last saw it"),
        "its text is there still: {answers:?}"
    );
    assert_eq!(answers[2].1, ToolOutcome::Error);
    assert!(answers[2].2.contains("read it again"), "{answers:?}");
    assert_eq!(answers[4].1, ToolOutcome::Ok);
    assert_eq!(answers[5].1, ToolOutcome::Error);
    assert!(
        answers[6].2.contains("read it before you replace it"),
        "{answers:?}"
    );
}

#[tokio::test]
async fn one_session_at_a_time_works_on_a_repository() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon_with(fixture.store.clone(), honest(), true);
    let first = daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    let second = daemon.sessions.start(fixture.start(options())).await;
    assert!(
        matches!(second, Err(SessionError::Active { .. })),
        "{second:?}"
    );
    daemon.sessions.cancel(first.state.id(), "").await.unwrap();
    daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    daemon.stop().await;
}

#[tokio::test]
async fn starts_that_make_no_sense_are_refused() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon(honest());
    for task in ["", " \n ", &"x".repeat(TASK_MAX_BYTES + 1)] {
        let mut start = fixture.start(options());
        start.task = task.to_owned();
        let refused = daemon.sessions.start(start).await;
        assert!(matches!(refused, Err(SessionError::TaskInvalid(_))));
    }
    let mut start = fixture.start(options());
    start.repository = Some("other".parse().unwrap());
    let refused = daemon.sessions.start(start).await.unwrap_err();
    assert!(refused.to_string().contains("it has: repo"), "{refused}");
}

#[tokio::test]
async fn a_cancelled_session_ends_what_it_runs() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon(script(vec![vec![run("sleep 600")]]));
    let started = daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    let id = started.state.id().clone();
    daemon
        .wait_until(&id, |state| {
            matches!(
                state.open.as_ref().map(|open| &open.effect),
                Some(Effect::RunTool { .. })
            )
        })
        .await;
    let cancelled = daemon.sessions.cancel(&id, "wrong task").await.unwrap();
    assert_eq!(cancelled.state.condition, Condition::Cancelled);
    assert!(cancelled.state.reason.contains("wrong task"));
    // Once more is harmless; going on is not possible.
    daemon.sessions.cancel(&id, "").await.unwrap();
    assert!(matches!(
        daemon.sessions.resume(&id).await,
        Err(SessionError::Refused(RequestRefusal::Ended(
            Condition::Cancelled
        )))
    ));
    let agent = fixture.machine.local_agent(&fixture.workspace.id).unwrap();
    assert!(agent.list(true).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_paused_session_stays_paused_over_a_restart_and_goes_on_when_told() {
    let fixture = Fixture::new().await;
    let reached = Arc::new(Notify::new());
    let inner = honest();
    let signal = reached.clone();
    let slow: Script = Arc::new(move |spoken, request| {
        if spoken == 2 {
            signal.notify_one();
        }
        inner(spoken, request)
    });
    let daemon = fixture.daemon(slow);
    let started = daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    let id = started.state.id().clone();
    reached.notified().await;
    daemon.sessions.pause(&id).await.unwrap();
    daemon.stop().await;

    let next = fixture.daemon(honest());
    next.sessions.resume_all().await.unwrap();
    let paused = next.sessions.get(&id).await.unwrap();
    assert_eq!(paused.state.condition, Condition::Paused);
    next.sessions.resume(&id).await.unwrap();
    let state = next
        .wait_until(&id, |state| state.condition.has_ended())
        .await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
}

#[tokio::test]
async fn a_session_without_a_key_pauses_and_one_with_a_broken_script_fails() {
    let auth: Script = Arc::new(|_, _| {
        Err(ModelError::Auth {
            provider: "p".into(),
            message: "no key".into(),
        })
    });
    let fixture = Fixture::new().await;
    let state = fixture.play(auth, options()).await;
    assert_eq!(state.condition, Condition::Paused);
    assert!(state.reason.contains("no key"), "{}", state.reason);

    let broken: Script = Arc::new(|_, _| {
        Err(ModelError::Script {
            file: "f".into(),
            message: "nothing more to say".into(),
        })
    });
    let fixture = Fixture::new().await;
    let state = fixture.play(broken, options()).await;
    assert_eq!(state.condition, Condition::Failed);
}

#[tokio::test]
async fn a_defect_of_the_daemon_interrupts_the_session_that_met_it() {
    let fixture = Fixture::new().await;
    let (inner, defects) = (honest(), AtomicU64::new(1));
    let defective: Script = Arc::new(move |spoken, request| {
        let is_due = spoken == 2 && defects.swap(0, Ordering::SeqCst) == 1;
        assert!(!is_due, "a defect, on purpose");
        inner(spoken, request)
    });
    let daemon = fixture.daemon(defective);
    let started = daemon.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    let interrupted = async {
        loop {
            let state = daemon.sessions.get(&id).await.unwrap().state;
            if state.condition == Condition::Interrupted {
                return state.reason.clone();
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let reason = tokio::time::timeout(Duration::from_secs(60), interrupted).await;
    assert!(reason.unwrap().contains("a defect of the daemon"));
    let _ = daemon.sessions.resume(&id).await.unwrap();
    let ended = |state: &SessionState| state.condition.has_ended();
    let state = daemon.wait_until(&id, ended).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
}

#[tokio::test]
async fn lost_links_cost_a_session_nothing() {
    let fixture = Fixture::new().await;
    let agent = fixture.machine.local_agent(&fixture.workspace.id).unwrap();
    let inner = honest();
    let cutting: Script = Arc::new(move |spoken, request| {
        agent.cut_links(3);
        inner(spoken, request)
    });
    let state = fixture.play(cutting, options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
}

#[tokio::test]
async fn a_full_disk_halts_a_session_and_loses_nothing() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon_with(fixture.store.clone(), honest(), true);
    let started = daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    let id = started.state.id().clone();
    daemon.wait_until(&id, |state| state.model_calls == 1).await;
    let before = fixture.events(&id).await.len();
    fixture.store.fill_disk();
    let refused = daemon.sessions.pause(&id).await;
    assert!(is_disk_full(&refused), "{refused:?}");
    fixture.store.free_disk();
    let paused = daemon.sessions.pause(&id).await.unwrap();
    assert_eq!(paused.state.condition, Condition::Paused);
    assert_eq!(fixture.events(&id).await.len(), before + 1);
    daemon.stop().await;
}

fn is_disk_full(answer: &Result<Published, SessionError>) -> bool {
    matches!(
        answer,
        Err(SessionError::Log(LogError::Store(StoreError::DiskFull(_))))
    )
}

#[tokio::test]
async fn a_session_that_waits_for_space_answers_and_goes_on() {
    let fixture = Fixture::new().await;
    let (inner, store) = (honest(), fixture.store.clone());
    let filling: Script = Arc::new(move |spoken, request| {
        if spoken == 1 {
            store.fill_disk();
        }
        inner(spoken, request)
    });
    let daemon = fixture.daemon(filling);
    let started = daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    let id = started.state.id().clone();
    let mut handle = daemon.sessions.handle(&id).unwrap();
    let halted = handle
        .published
        .wait_for(|published| published.halted.is_some())
        .await;
    assert!(halted.unwrap().halted.as_ref().unwrap().contains("full"));
    for _ in 0..2 {
        let pausing = daemon.sessions.pause(&id);
        let refused = tokio::time::timeout(Duration::from_secs(20), pausing).await;
        assert!(is_disk_full(&refused.unwrap()));
    }
    fixture.store.free_disk();
    let state = daemon
        .wait_until(&id, |state| state.condition.has_ended())
        .await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
}

#[tokio::test]
async fn a_session_whose_model_cannot_be_made_is_paused_and_obeys() {
    let fixture = Fixture::new().await;
    let first = fixture.daemon_with(fixture.store.clone(), honest(), true);
    let started = first.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    first.wait_until(&id, |state| state.model_calls == 1).await;
    first.stop().await;

    let broken = Arc::new(std::sync::atomic::AtomicBool::new(true));
    let (switch, seen) = (broken.clone(), fixture.seen.clone());
    let models: ModelFactory = Arc::new(move |_, _| {
        if switch.load(Ordering::SeqCst) {
            return Err(ModelError::Script {
                file: "f".into(),
                message: "cannot be read".into(),
            });
        }
        let (script, seen, hang) = (honest(), seen.clone(), false);
        Ok(Arc::new(ScriptedModel { script, seen, hang }))
    });
    let next = fixture.daemon_of(fixture.store.clone(), models);
    next.sessions.resume_all().await.unwrap();
    let paused = next.sessions.get(&id).await.unwrap().state;
    assert_eq!(paused.condition, Condition::Paused);
    assert!(
        paused.reason.contains("cannot be read"),
        "{}",
        paused.reason
    );
    let second = next.sessions.start(fixture.start(options())).await;
    assert!(matches!(second, Err(SessionError::Active { .. })));

    next.sessions.resume(&id).await.unwrap();
    let again = next
        .wait_until(&id, |state| state.condition != Condition::Running)
        .await;
    assert_eq!(again.condition, Condition::Paused, "{}", again.reason);
    broken.store(false, Ordering::SeqCst);
    next.sessions.resume(&id).await.unwrap();
    let state = next
        .wait_until(&id, |state| state.condition.has_ended())
        .await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
}

/// A session whose command runs, paused, and its daemon killed.
async fn paused_in_a_command(fixture: &Fixture) -> SessionId {
    let daemon = fixture.daemon(script(vec![vec![run("sleep 600")]]));
    let started = daemon.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    let agent = fixture.machine.local_agent(&fixture.workspace.id).unwrap();
    while !agent.list(true).await.unwrap().iter().any(|exec| {
        exec.spec
            .argv
            .last()
            .is_some_and(|word| word == b"sleep 600")
    }) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    daemon.sessions.pause(&id).await.unwrap();
    daemon.stop().await;
    id
}

#[tokio::test]
async fn a_cancel_ends_what_an_earlier_life_left_running() {
    let fixture = Fixture::new().await;
    let id = paused_in_a_command(&fixture).await;
    let agent = fixture.machine.local_agent(&fixture.workspace.id).unwrap();
    assert_eq!(agent.list(true).await.unwrap().len(), 1);
    let next = fixture.daemon(honest());
    next.sessions.resume_all().await.unwrap();
    let cancelled = next.sessions.cancel(&id, "").await.unwrap();
    assert_eq!(cancelled.state.condition, Condition::Cancelled);
    assert!(agent.list(true).await.unwrap().is_empty());
}

#[tokio::test]
async fn clean_workspaces_that_no_session_uses_go_at_the_next_start() {
    let fixture = Fixture::new().await;
    let bundle = fixture.root.join("b.bundle");
    let path = bundle.display().to_string();
    git(
        &fixture.repository(),
        &["bundle", "create", "-q", &path, "main"],
    );
    let name = "repo".parse().unwrap();
    let made = fixture
        .machine
        .create_clean(
            &fixture.workspace.id,
            "key",
            &CleanRepository {
                name: &name,
                bundle: &bundle,
                branch: "main",
                setup_at: "main",
            },
        )
        .await;
    made.unwrap();
    let daemon = fixture.daemon(honest());
    daemon.sessions.resume_all().await.unwrap();
    daemon.stop().await;
    assert_eq!(fixture.machine.clean_workspaces(), 0);
}

#[tokio::test]
async fn a_step_that_takes_longer_than_the_session_may_is_ended() {
    let fixture = Fixture::new().await;
    let mut options = options();
    options.limits.max_time_ms = 3_000;
    let state = fixture
        .play(script(vec![vec![run("sleep 600")]]), options)
        .await;
    assert_eq!(state.condition, Condition::Failed);
    assert_eq!(state.reason, "the session's time of 3 s is used up");
    let agent = fixture.machine.local_agent(&fixture.workspace.id).unwrap();
    assert!(agent.list(true).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_start_with_the_same_id_finds_the_session_that_was_started() {
    let fixture = Fixture::new().await;
    let start = fixture.start(options());
    let first = fixture.daemon_with(fixture.store.clone(), honest(), true);
    let started = first.sessions.start(start.clone()).await.unwrap();
    let again = first.sessions.start(start.clone()).await.unwrap();
    assert_eq!(again.state.created, started.state.created);
    first.stop().await;
    let next = fixture.daemon(honest());
    let again = next.sessions.start(start).await.unwrap();
    assert_eq!(again.state.created, started.state.created);
    assert_eq!(fixture.store.sessions().await.unwrap().len(), 1);
}

/// A model that asks a person, and then once more.
fn asks_twice() -> Script {
    let ask = |question: &str| vec![call("ask_person", json!({"question": question}))];
    script(vec![ask("which sum?"), ask("which sign?")])
}

fn asks(state: &SessionState, question: &str) -> bool {
    let open = state.question.as_ref();
    state.condition == Condition::Waiting && open.is_some_and(|open| open.id == question)
}

#[tokio::test]
async fn a_rollback_that_was_cut_off_is_done_once_however_often_it_is_asked_for() {
    let fixture = Fixture::new().await;
    let first = fixture.daemon(asks_twice());
    let started = first.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    first.wait_until(&id, |state| asks(state, "q1")).await;
    let roll_back = async |daemon: &Daemon| {
        let request = wire::RollbackSessionRequest {
            request_id: "roll-back".to_owned(),
            session_id: id.to_string(),
            stage: wire::Stage::Understand.into(),
            ..Default::default()
        };
        let api = daemon.api(fixture.store.clone());
        api.rollback_session(tonic::Request::new(request)).await
    };
    first.end().await;
    let cut_off = roll_back(&first).await.unwrap_err();
    assert_eq!(cut_off.code(), tonic::Code::Unavailable);

    let next = fixture.daemon(asks_twice());
    next.sessions.resume_all().await.unwrap();
    // What the first call would have come to, had the daemon ended a moment later.
    let to = RollBackTo {
        stage: Stage::Understand,
        attempt: None,
        since: None,
    };
    next.sessions.roll_back(&id, to).await.unwrap();
    next.wait_until(&id, |state| asks(state, "q2")).await;
    let answer = roll_back(&next).await.unwrap().into_inner();
    assert_eq!(answer.session.unwrap().id, id.to_string());
    let state = next.sessions.get(&id).await.unwrap().state;
    assert!(asks(&state, "q2"), "{}", state.reason);
    next.stop().await;
    let events = fixture.events(&id).await;
    let rollbacks = events.iter().filter(|event| {
        let body = &event.body;
        matches!(
            body,
            EventBody::WorkStarted {
                work: Work::RollBack { .. },
                ..
            }
        )
    });
    assert_eq!(rollbacks.count(), 1);
}

#[tokio::test]
async fn an_answer_that_was_cut_off_goes_to_no_later_question() {
    let fixture = Fixture::new().await;
    let first = fixture.daemon(asks_twice());
    let started = first.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    first.wait_until(&id, |state| asks(state, "q1")).await;
    let answer = async |daemon: &Daemon| {
        let request = wire::AnswerSessionRequest {
            request_id: "answer".to_owned(),
            session_id: id.to_string(),
            accept: true,
            text: "the first".to_owned(),
            ..Default::default()
        };
        let api = daemon.api(fixture.store.clone());
        api.answer_session(tonic::Request::new(request)).await
    };
    first.end().await;
    let cut_off = answer(&first).await.unwrap_err();
    assert_eq!(cut_off.code(), tonic::Code::Unavailable);

    let next = fixture.daemon(asks_twice());
    next.sessions.resume_all().await.unwrap();
    // Somebody else answers, and the session asks again.
    let given = Answer {
        question: None,
        accepted: true,
        text: "the second".to_owned(),
        scope: Default::default(),
        by: None,
    };
    next.sessions.answer(&id, given).await.unwrap();
    next.wait_until(&id, |state| asks(state, "q2")).await;
    let answered = answer(&next).await.unwrap().into_inner();
    assert_eq!(answered.session.unwrap().id, id.to_string());
    let state = next.sessions.get(&id).await.unwrap().state;
    assert!(asks(&state, "q2"), "{}", state.reason);
    next.stop().await;
}

/// An answer that an older daemon began, which wrote nothing down of what it was about.
#[tokio::test]
async fn an_answer_that_an_older_daemon_began_goes_to_what_it_names_or_what_is_open() {
    for named in ["", "q1"] {
        let fixture = Fixture::new().await;
        let first = fixture.daemon(asks_twice());
        let started = first.sessions.start(fixture.start(options())).await;
        let id = started.unwrap().state.id().clone();
        first.wait_until(&id, |state| asks(state, "q1")).await;
        let answer = async |daemon: &Daemon| {
            let request = wire::AnswerSessionRequest {
                request_id: "answer".to_owned(),
                session_id: id.to_string(),
                question_id: named.to_owned(),
                accept: true,
                text: "the first".to_owned(),
            };
            let api = daemon.api(fixture.store.clone());
            api.answer_session(tonic::Request::new(request)).await
        };
        first.end().await;
        let cut_off = answer(&first).await.unwrap_err();
        assert_eq!(cut_off.code(), tonic::Code::Unavailable);
        fixture.store.forget_what_requests_are_about();

        let next = fixture.daemon(asks_twice());
        next.sessions.resume_all().await.unwrap();
        answer(&next).await.unwrap();
        next.wait_until(&id, |state| asks(state, "q2")).await;
        next.stop().await;
    }
}

#[tokio::test]
async fn a_rollback_that_an_older_daemon_began_is_taken_for_what_runs() {
    let fixture = Fixture::new().await;
    let first = fixture.daemon(asks_twice());
    let started = first.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    first.wait_until(&id, |state| asks(state, "q1")).await;
    let roll_back = async |daemon: &Daemon| {
        let request = wire::RollbackSessionRequest {
            request_id: "roll-back".to_owned(),
            session_id: id.to_string(),
            stage: wire::Stage::Understand.into(),
            ..Default::default()
        };
        let api = daemon.api(fixture.store.clone());
        api.rollback_session(tonic::Request::new(request)).await
    };
    first.end().await;
    let cut_off = roll_back(&first).await.unwrap_err();
    assert_eq!(cut_off.code(), tonic::Code::Unavailable);
    fixture.store.forget_what_requests_are_about();

    // The model never answers: what somebody's answer lets go on runs.
    let next = fixture.daemon_with(fixture.store.clone(), asks_twice(), true);
    next.sessions.resume_all().await.unwrap();
    let given = Answer {
        question: None,
        accepted: true,
        text: "the second".to_owned(),
        scope: Default::default(),
        by: None,
    };
    next.sessions.answer(&id, given).await.unwrap();
    next.wait_until(&id, |state| state.condition == Condition::Running)
        .await;
    let answer = roll_back(&next).await.unwrap().into_inner();
    assert_eq!(answer.session.unwrap().id, id.to_string());
    let state = next.sessions.get(&id).await.unwrap().state;
    assert_eq!(state.rolled_back, None);
    next.stop().await;
}

#[tokio::test]
async fn a_list_shows_ended_sessions_without_reading_their_logs_again() {
    let fixture = Fixture::new().await;
    let state = fixture.play(honest(), options()).await;
    let daemon = fixture.daemon(honest());
    daemon.sessions.resume_all().await.unwrap();
    let listed = daemon.sessions.list().await.unwrap();
    assert_eq!(*listed[0].state, state.listed());
    assert_eq!(daemon.sessions.ended().len(), 1);
    let whole = daemon.sessions.get(state.id()).await.unwrap();
    assert_eq!(*whole.state, *state);
}

#[tokio::test]
async fn a_watcher_sees_every_event_once_wherever_it_begins() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon(honest());
    let started = daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    let id = started.state.id().clone();
    let collect = async |mut watching: Watching| {
        let (mut sequences, mut progress) = (vec![], 0);
        while let Some(item) = watching.recv().await {
            match item.unwrap() {
                WatchItem::Event(event) => sequences.push(event.sequence),
                WatchItem::Progress(_) => progress += 1,
            }
        }
        (sequences, progress)
    };
    let live = daemon.sessions.watch(&id, 0, true).await.unwrap();
    let (sequences, progress) = collect(live).await;
    let last = *sequences.last().unwrap();
    assert_eq!(sequences, (1..=last).collect::<Vec<_>>());
    assert!(progress > 0);
    let state = daemon.sessions.get(&id).await.unwrap().state;
    assert_eq!(
        (state.sequence, state.condition),
        (last, Condition::Verified)
    );
    let again = daemon.sessions.watch(&id, last - 3, true).await.unwrap();
    assert_eq!(collect(again).await.0, [last - 2, last - 1, last]);
    let unknown = SessionId::from_uuid(uuid::Uuid::from_u128(9));
    assert!(matches!(
        daemon.sessions.watch(&unknown, 0, true).await,
        Err(SessionError::Unknown(_))
    ));
}

#[tokio::test]
async fn commits_of_the_model_on_main_do_not_reach_the_forges_main() {
    let fixture = Fixture::new().await;
    let base = git(&fixture.repository(), &["rev-parse", "main"]);
    let commit = "git -c user.name=m -c user.email=m@m commit -qam sneaked";
    let sneaky = script(whole(vec![
        vec![
            fix(),
            call("think", json!({"content": "git commit keeps sums.py"})),
            run(commit),
        ],
        look_and_claim(),
        vec![advance()],
    ]));
    let state = fixture.play(sneaky, options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    assert_ne!(git(&fixture.repository(), &["rev-parse", "main"]), base);
    let forge = fixture.forge.path().join(fixture.workspace.id.as_str());
    assert_eq!(git(&forge.join("repo.git"), &["rev-parse", "main"]), base);
}

#[tokio::test]
async fn what_a_linter_mends_in_the_base_run_is_taken_back() {
    let fixture = Fixture::new().await;
    let words = |text: &str| text.split(' ').map(str::to_owned).collect();
    let options = SessionOptions {
        lint_command: Some(words(
            "sed -i s/assertEqual/assertAlmostEqual/ test_sums.py",
        )),
        ..options()
    };
    let daemon = fixture.daemon_with(fixture.store.clone(), honest(), true);
    let started = daemon.sessions.start(fixture.start(options)).await.unwrap();
    let id = started.state.id().clone();
    daemon.wait_until(&id, |state| state.base.is_some()).await;
    assert_eq!(git(&fixture.repository(), &["status", "--porcelain"]), "");
    daemon.stop().await;
}

#[tokio::test]
async fn the_reports_of_test_runs_are_kept_with_their_stage() {
    let fixture = Fixture::new().await;
    let state = fixture.play(honest(), options()).await;
    let all = fixture.store.artifacts(state.id()).await.unwrap();
    let reports: Vec<_> = all
        .iter()
        .filter(|artifact| artifact.kind == ArtifactKind::TestReport)
        .filter(|artifact| artifact.stage == Stage::Validate)
        .collect();
    assert_eq!(reports.len(), 1);
    let record = state
        .records
        .iter()
        .find(|each| each.stage == Stage::Validate);
    assert!(record.unwrap().artifacts.contains(&reports[0].id));
}

#[tokio::test]
async fn a_long_answer_of_a_tool_is_kept_whole_and_pointed_to() {
    let fixture = Fixture::new().await;
    let lines: String = (0..300).map(|at| format!("line {at}\n")).collect();
    std::fs::write(fixture.root.join("long.txt"), &lines).unwrap();
    let search = json!({"pattern": "line", "path": "/workspace/long.txt"});
    let model = script(vec![vec![call("grep", search)]]);
    let daemon = fixture.daemon(model);
    let started = daemon
        .sessions
        .start(fixture.start(options()))
        .await
        .unwrap();
    let id = started.state.id().clone();
    daemon.wait_until(&id, |state| state.tool_calls >= 1).await;
    let answer = fixture
        .events(&id)
        .await
        .into_iter()
        .find_map(|event| match event.body {
            EventBody::ToolEnded(ended) => Some(ended),
            _ => None,
        });
    let answer = answer.unwrap();
    let artifact = answer.artifact.expect("the whole answer is kept");
    assert!(
        answer.content.contains(artifact.as_str()),
        "{}",
        answer.content
    );
    assert!(!answer.content.contains("line 299"));
    let record = fixture.store.artifact(&artifact).await.unwrap().unwrap();
    assert_eq!(record.title, "grep line");
    assert!(record.size_bytes > lines.len() as u64);
    daemon.stop().await;
}

#[tokio::test]
async fn a_test_run_that_nobody_knows_the_end_of_is_made_anew() {
    let fixture = Fixture::new().await;
    let slow = ["sh", "-c", "sleep 0.5; exec python3 -m unittest -v"];
    let options = SessionOptions {
        test_command: Some(slow.map(str::to_owned).to_vec()),
        ..options()
    };
    let daemon = fixture.daemon(honest());
    let started = daemon.sessions.start(fixture.start(options)).await.unwrap();
    let id = started.state.id().clone();
    let agent = fixture.machine.local_agent(&fixture.workspace.id).unwrap();
    use crate::ports::agent::AgentPort as _;
    // The container is started anew under the base run.
    let is_test =
        |exec: &crate::domain::exec::Exec| exec.spec.argv[0] == b"sh" && exec.spec.argv.len() == 3;
    let exec = loop {
        let running = agent.list(true).await.unwrap();
        match running.into_iter().find(is_test) {
            Some(exec) if exec.spec.argv[2].starts_with(b"sleep") => break exec,
            _ => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    };
    agent.remove(&exec.id).await.unwrap();
    agent.cut_links(1);
    let state = daemon
        .wait_until(&id, |state| state.condition.has_ended())
        .await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    let ended: Vec<_> = fixture
        .events(&id)
        .await
        .into_iter()
        .filter_map(|event| match event.body {
            EventBody::WorkEnded {
                work: Work::BaseRun,
                result,
                ..
            } => Some(result),
            _ => None,
        })
        .collect();
    assert!(
        matches!(
            ended.as_slice(),
            [
                WorkResult::Failed {
                    again: Again::MayHelp,
                    ..
                },
                WorkResult::BaseRun(_)
            ]
        ),
        "{ended:?}"
    );
}

#[tokio::test]
async fn a_test_program_that_is_not_there_ends_a_session_at_once() {
    let fixture = Fixture::new().await;
    let options = SessionOptions {
        test_command: Some(vec!["no-such-program".to_owned()]),
        ..options()
    };
    let state = fixture.play(honest(), options).await;
    assert_eq!(state.condition, Condition::Failed);
    assert!(
        state.reason.contains("`no-such-program` cannot be started"),
        "{}",
        state.reason
    );
    assert_eq!(state.model_calls, 0);
}

/// Where a life of the daemon ends.
#[derive(Debug, Clone, Copy)]
enum Death {
    /// The append is on disk, and nothing that it announces has begun.
    AfterAppend,
    /// What came before the append has happened, and is not on disk.
    BeforeAppend,
}

/// A store whose daemon dies at one append.
struct MortalStore {
    inner: Arc<MemoryStore>,
    appends: AtomicU64,
    at: u64,
    death: Death,
}

impl MortalStore {
    fn dead() -> StoreError {
        StoreError::Failed {
            action: "append",
            message: "the daemon was killed".into(),
        }
    }
}

#[async_trait]
impl StorePort for MortalStore {
    async fn append(
        &self,
        session: &SessionId,
        next: u64,
        events: Vec<EventBytes>,
    ) -> Result<(), StoreError> {
        let count = self.appends.fetch_add(1, Ordering::SeqCst) + 1;
        if count > self.at || (count == self.at && matches!(self.death, Death::BeforeAppend)) {
            return Err(Self::dead());
        }
        self.inner.append(session, next, events).await?;
        if count == self.at {
            return Err(Self::dead());
        }
        Ok(())
    }

    async fn change_credentials(&self, change: CredentialsChange) -> Result<(), StoreError> {
        self.inner.change_credentials(change).await
    }
    async fn credentials(&self) -> Result<Vec<SealedCredential>, StoreError> {
        self.inner.credentials().await
    }
    async fn past_credentials(&self) -> Result<Vec<PastCredential>, StoreError> {
        self.inner.past_credentials().await
    }
    async fn put_tokens(&self, tokens: &[Token]) -> Result<(), StoreError> {
        self.inner.put_tokens(tokens).await
    }
    async fn tokens(&self) -> Result<Vec<Token>, StoreError> {
        self.inner.tokens().await
    }
    async fn remove_token(&self, name: &TokenName) -> Result<(), StoreError> {
        self.inner.remove_token(name).await
    }
    async fn put_last_uses(&self, uses: &[(WorkspaceId, i64)]) -> Result<(), StoreError> {
        self.inner.put_last_uses(uses).await
    }
    async fn last_uses(&self) -> Result<Vec<(WorkspaceId, i64)>, StoreError> {
        self.inner.last_uses().await
    }
    async fn put_workspace_events(
        &self,
        new: &[WorkspaceEvent],
        forgotten: &[u64],
    ) -> Result<(), StoreError> {
        self.inner.put_workspace_events(new, forgotten).await
    }
    async fn workspace_events(
        &self,
        after: u64,
        limit: usize,
    ) -> Result<Vec<WorkspaceEvent>, StoreError> {
        self.inner.workspace_events(after, limit).await
    }
    async fn add_workspace(&self, workspace: &Workspace) -> Result<(), StoreError> {
        self.inner.add_workspace(workspace).await
    }
    async fn update_workspace(&self, workspace: &Workspace) -> Result<(), StoreError> {
        self.inner.update_workspace(workspace).await
    }
    async fn remove_workspace(&self, id: &WorkspaceId) -> Result<(), StoreError> {
        self.inner.remove_workspace(id).await
    }
    async fn workspace(&self, id: &WorkspaceId) -> Result<Option<Workspace>, StoreError> {
        self.inner.workspace(id).await
    }
    async fn workspace_named(&self, name: &WorkspaceName) -> Result<Option<Workspace>, StoreError> {
        self.inner.workspace_named(name).await
    }
    async fn workspaces(&self) -> Result<Vec<Workspace>, StoreError> {
        self.inner.workspaces().await
    }
    async fn events(
        &self,
        session: &SessionId,
        from: u64,
        limit: usize,
    ) -> Result<Vec<EventBytes>, StoreError> {
        self.inner.events(session, from, limit).await
    }
    async fn sessions(&self) -> Result<Vec<SessionId>, StoreError> {
        self.inner.sessions().await
    }
    async fn put_artifact(&self, artifact: &Artifact) -> Result<(), StoreError> {
        self.inner.put_artifact(artifact).await
    }
    async fn artifact(&self, id: &ArtifactId) -> Result<Option<Artifact>, StoreError> {
        self.inner.artifact(id).await
    }
    async fn artifact_hashes(&self) -> Result<HashSet<String>, StoreError> {
        self.inner.artifact_hashes().await
    }
    async fn artifacts(&self, session: &SessionId) -> Result<Vec<Artifact>, StoreError> {
        self.inner.artifacts(session).await
    }
    async fn put_pull_request(
        &self,
        repository: &str,
        pull_request: &PullRequest,
    ) -> Result<(), StoreError> {
        self.inner.put_pull_request(repository, pull_request).await
    }
    async fn pull_requests(&self, repository: &str) -> Result<Vec<PullRequest>, StoreError> {
        self.inner.pull_requests(repository).await
    }
    async fn put_snapshot(&self, snapshot: &Snapshot) -> Result<(), StoreError> {
        self.inner.put_snapshot(snapshot).await
    }
    async fn snapshot(&self, id: &SnapshotId) -> Result<Option<Snapshot>, StoreError> {
        self.inner.snapshot(id).await
    }
    async fn snapshots(&self, of: Option<&WorkspaceId>) -> Result<Vec<Snapshot>, StoreError> {
        self.inner.snapshots(of).await
    }
    async fn remove_snapshot(&self, id: &SnapshotId) -> Result<(), StoreError> {
        self.inner.remove_snapshot(id).await
    }
    async fn put_baked_setup(
        &self,
        key: &SetupKey,
        snapshot: &SnapshotId,
    ) -> Result<(), StoreError> {
        self.inner.put_baked_setup(key, snapshot).await
    }
    async fn baked_setup(&self, key: &SetupKey) -> Result<Option<SnapshotId>, StoreError> {
        self.inner.baked_setup(key).await
    }
    async fn put_operation(&self, operation: &Operation) -> Result<(), StoreError> {
        self.inner.put_operation(operation).await
    }
    async fn operations(&self) -> Result<Vec<Operation>, StoreError> {
        self.inner.operations().await
    }
    async fn remove_operation(&self, id: &OperationId) -> Result<(), StoreError> {
        self.inner.remove_operation(id).await
    }
    async fn put_tree_copy(&self, copy: &TreeCopy) -> Result<(), StoreError> {
        self.inner.put_tree_copy(copy).await
    }
    async fn tree_copies(&self) -> Result<Vec<TreeCopy>, StoreError> {
        self.inner.tree_copies().await
    }
    async fn remove_tree_copy(&self, volume: &VolumeRef) -> Result<(), StoreError> {
        self.inner.remove_tree_copy(volume).await
    }
    async fn request(&self, id: &RequestId) -> Result<Option<RequestRecord>, StoreError> {
        self.inner.request(id).await
    }
    async fn put_request(&self, id: &RequestId, record: &RequestRecord) -> Result<(), StoreError> {
        self.inner.put_request(id, record).await
    }
    async fn requests(&self) -> Result<Vec<RequestEntry>, StoreError> {
        self.inner.requests().await
    }
    async fn forget_requests(&self, entries: &[RequestEntry]) -> Result<(), StoreError> {
        self.inner.forget_requests(entries).await
    }
}

/// What a session leaves in the world.
#[derive(Debug, PartialEq)]
struct Left {
    condition: Condition,
    stages: Vec<Stage>,
    todos: Vec<(u32, &'static str)>,
    commits: String,
    sums: String,
    effects: String,
    pull_requests: usize,
    clean_workspaces: usize,
}

async fn left(fixture: &Fixture, state: &SessionState) -> Left {
    let repository = fixture.repository();
    let forge = state
        .pull_request
        .as_ref()
        .map(|opened| opened.pull_request.number);
    Left {
        condition: state.condition,
        stages: stages(state),
        todos: state
            .todos
            .iter()
            .map(|todo| (todo.id, todo.state.name()))
            .collect(),
        commits: git(&repository, &["rev-list", "--count", "main..HEAD"]),
        sums: std::fs::read_to_string(repository.join("sums.py")).unwrap(),
        effects: std::fs::read_to_string(fixture.root.join("effects.log")).unwrap(),
        pull_requests: forge.map_or(0, |number| number as usize),
        clean_workspaces: fixture.machine.clean_workspaces(),
    }
}

/// One life that ends at an append, and a second one that goes on; `None` when
/// the session ended before.
async fn killed(at: u64, death: Death) -> Option<Left> {
    let fixture = Fixture::new().await;
    let mortal = Arc::new(MortalStore {
        inner: fixture.store.clone(),
        appends: AtomicU64::new(0),
        at,
        death,
    });
    let first = fixture.daemon_with(mortal.clone(), honest(), false);
    let started = first.sessions.start(fixture.start(options())).await;
    first.tasks.close();
    first.tasks.wait().await;
    if mortal.appends.load(Ordering::SeqCst) < at {
        return None;
    }
    let Some(id) = fixture.store.sessions().await.unwrap().pop() else {
        // Killed before the session was acknowledged: it was never there.
        assert!(started.is_err());
        let state = fixture.play(honest(), options()).await;
        return Some(left(&fixture, &state).await);
    };
    let second = fixture.daemon(honest());
    second.sessions.resume_all().await.unwrap();
    let state = second
        .wait_until(&id, |state| state.condition.has_ended())
        .await;
    Some(left(&fixture, &state).await)
}

/// Kills a daemon at every `stride`-th append, in both ways, and checks the end
/// that the session reaches. Returns how often it did.
async fn kill_at_every(stride: u64) -> usize {
    let expected = Left {
        condition: Condition::Verified,
        stages: HAPPY.to_vec(),
        todos: vec![(1, "verified")],
        commits: "1".into(),
        sums: BROKEN.replace('-', "+"),
        effects: "ran\n".into(),
        pull_requests: 1,
        clean_workspaces: 0,
    };
    let mut deaths = 0;
    let mut at = 1;
    loop {
        let mut lives = tokio::task::JoinSet::new();
        for turn in 0..4 {
            let at = at + turn * stride;
            for death in [Death::AfterAppend, Death::BeforeAppend] {
                lives.spawn(async move { (at, death, killed(at, death).await) });
            }
        }
        at += 4 * stride;
        let mut ended = false;
        while let Some(life) = lives.join_next().await {
            let (at, death, left) = life.unwrap();
            match left {
                Some(left) => {
                    assert_eq!(left, expected, "killed at append {at}, {death:?}");
                    deaths += 1;
                }
                None => ended = true,
            }
        }
        if ended {
            return deaths;
        }
    }
}

/// At every append, which takes minutes, under `COMPY_TORTURE`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_daemon_reaches_the_same_end_and_does_nothing_twice() {
    let torture = std::env::var_os("COMPY_TORTURE");
    let thorough = torture.is_some_and(|value| !value.is_empty() && value != "0");
    let (stride, least) = if thorough { (1, 80) } else { (20, 4) };
    let deaths = kill_at_every(stride).await;
    assert!(deaths >= least, "only {deaths} deaths were tried");
}
