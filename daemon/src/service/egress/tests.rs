use std::{collections::BTreeMap, sync::Mutex};

use async_trait::async_trait;
use futures_util::stream::BoxStream;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex},
    sync::oneshot,
};
use tokio_stream::wrappers::ReceiverStream;
use uuid::Uuid;

use super::*;
use crate::{
    adapters::memory::ManualClock,
    domain::{
        credential::{CredentialHost, git::GitRequest},
        egress::{Mismatch, PolicyKind, Protocol, Range},
        ssh::agent::{Identity, LoginToSign},
    },
    ports::{
        agent::AgentError,
        git_relay::{GitGate, GitRelayPort},
        host_credentials::HostCredentialsPort,
        tunnel::TunnelPort,
    },
};

const PATIENCE: Duration = Duration::from_secs(10);

/// A workspace's link whose programs are the test.
struct FakeTunnel {
    wanted: Mutex<Option<mpsc::Receiver<Result<Wanted, AgentError>>>>,
    /// Who waits for which verdict.
    programs: Mutex<HashMap<u64, oneshot::Sender<Verdict>>>,
}

type Verdict = Result<DuplexStream, Refusal>;

#[async_trait]
impl TunnelPort for FakeTunnel {
    async fn wanted(&self) -> Result<BoxStream<'static, Result<Wanted, AgentError>>, AgentError> {
        let wanted = self.wanted.lock().unwrap().take().unwrap();
        Ok(ReceiverStream::new(wanted).boxed())
    }

    async fn carry(&self, id: u64) -> Result<BoxedBytes, AgentError> {
        let (ours, theirs) = duplex(1 << 16);
        let program = self.programs.lock().unwrap().remove(&id).unwrap();
        match program.send(Ok(theirs)) {
            Ok(()) => Ok(Box::new(ours)),
            Err(_) => Err(AgentError::Refused {
                code: "CONNECTION_UNKNOWN".to_owned(),
                message: "it has gone".to_owned(),
            }),
        }
    }

    async fn refuse(&self, id: u64, refusal: Refusal) -> Result<(), AgentError> {
        let program = self.programs.lock().unwrap().remove(&id).unwrap();
        let _ = program.send(Err(refusal));
        Ok(())
    }

    async fn dial(&self, _: u16) -> Result<BoxedBytes, AgentError> {
        Err(AgentError::Unreachable("it is a fake".to_owned()))
    }
}

/// A world of names, and of one server that takes every connection.
#[derive(Default)]
struct FakeWorld {
    names: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    /// What names have after they were asked for once more.
    rebound: Mutex<BTreeMap<String, Vec<IpAddr>>>,
    /// What was dialled, in order.
    dialled: Mutex<Vec<SocketAddr>>,
    servers: Mutex<Vec<DuplexStream>>,
    dead: Mutex<Vec<IpAddr>>,
}

#[async_trait]
impl WorldPort for FakeWorld {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, WorldError> {
        let mut names = self.names.lock().unwrap();
        let found = match self.rebound.lock().unwrap().remove(name) {
            Some(later) => names.insert(name.to_owned(), later),
            None => names.get(name).cloned(),
        };
        found.ok_or_else(|| WorldError::Unresolved {
            name: name.to_owned(),
            message: "no such name".to_owned(),
        })
    }

    async fn dial(&self, address: SocketAddr) -> Result<BoxedBytes, WorldError> {
        self.dialled.lock().unwrap().push(address);
        if self.dead.lock().unwrap().contains(&address.ip()) {
            return Err(WorldError::Refused(address));
        }
        let (ours, theirs) = duplex(1 << 16);
        self.servers.lock().unwrap().push(theirs);
        Ok(Box::new(ours))
    }

    fn own_addresses(&self) -> Vec<IpAddr> {
        vec![IpAddr::from([8, 8, 4, 4])]
    }
}

#[derive(Default)]
struct FakeRules(Mutex<HashMap<WorkspaceId, Policy>>);

impl EgressRules for FakeRules {
    fn rules(&self, workspace: &WorkspaceId) -> Option<(Policy, String)> {
        let policy = self.0.lock().unwrap().get(workspace).cloned();
        policy.map(|policy| (policy, "api".to_owned()))
    }
}

struct Bench {
    egress: Egress,
    rules: Arc<FakeRules>,
    world: Arc<FakeWorld>,
    links: mpsc::Sender<Linked>,
    decisions: broadcast::Receiver<EgressDecision>,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// A workspace that is linked.
struct Programs {
    workspace: WorkspaceId,
    tunnel: Arc<FakeTunnel>,
    announce: mpsc::Sender<Result<Wanted, AgentError>>,
    next: AtomicU64,
}

impl Bench {
    fn new() -> Self {
        Self::with(EgressOptions::default())
    }

    fn with(options: EgressOptions) -> Self {
        let (rules, world) = (Arc::<FakeRules>::default(), Arc::<FakeWorld>::default());
        let (tasks, shutdown) = (TaskTracker::new(), CancellationToken::new());
        let clock = Arc::new(ManualClock::at(7));
        let egress = Egress::new(options, rules.clone(), world.clone(), clock, tasks.clone());
        let (links, receiver) = mpsc::channel(4);
        let (service, stop) = (egress.clone(), shutdown.clone());
        tasks.spawn(async move { service.run(receiver, stop).await });
        for (name, addresses) in [
            ("a.example", vec![[93, 184, 216, 34]]),
            ("b.example", vec![[93, 184, 216, 35], [93, 184, 216, 36]]),
            ("rebound.example", vec![[169, 254, 169, 254]]),
            ("host.example", vec![[8, 8, 4, 4]]),
        ] {
            let addresses = addresses.into_iter().map(IpAddr::from).collect();
            world
                .names
                .lock()
                .unwrap()
                .insert(name.to_owned(), addresses);
        }
        Self {
            decisions: egress.decisions(),
            egress,
            rules,
            world,
            links,
            shutdown,
            tasks,
        }
    }

    async fn workspace(&self, policy: Policy) -> Programs {
        let (announce, wanted) = mpsc::channel(4);
        let programs = Programs {
            workspace: WorkspaceId::from_uuid(Uuid::now_v7()),
            tunnel: Arc::new(FakeTunnel {
                wanted: Mutex::new(Some(wanted)),
                programs: Mutex::default(),
            }),
            announce,
            next: AtomicU64::new(1),
        };
        self.set(&programs, policy);
        let linked = Linked {
            workspace: programs.workspace.clone(),
            tunnel: programs.tunnel.clone(),
        };
        assert!(self.links.send(linked).await.is_ok());
        programs
    }

    fn set(&self, programs: &Programs, policy: Policy) {
        let mut rules = self.rules.0.lock().unwrap();
        rules.insert(programs.workspace.clone(), policy);
    }

    /// The name has its addresses once more, and this one from then on.
    fn rebind(&self, name: &str, address: IpAddr) {
        let mut rebound = self.world.rebound.lock().unwrap();
        rebound.insert(name.to_owned(), vec![address]);
    }

    fn dialled(&self) -> Vec<String> {
        let dialled = self.world.dialled.lock().unwrap();
        dialled.iter().map(ToString::to_string).collect()
    }

    fn server(&self) -> DuplexStream {
        self.world.servers.lock().unwrap().pop().unwrap()
    }

    async fn outcome(&mut self) -> EgressOutcome {
        let decision = tokio::time::timeout(PATIENCE, self.decisions.recv()).await;
        let decision = decision.expect("a decision is told").unwrap();
        assert_eq!((decision.at_ms, decision.protocol), (7, Protocol::Connect));
        decision.outcome
    }

    async fn denial(&mut self) -> Denial {
        match self.outcome().await {
            EgressOutcome::Denied(denial) => denial,
            other => panic!("{other:?}"),
        }
    }
}

impl Programs {
    async fn want(&self, host: &str, port: u16) -> Verdict {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (verdict, told) = oneshot::channel();
        self.tunnel.programs.lock().unwrap().insert(id, verdict);
        let wanted = Wanted {
            id,
            host: host.to_owned(),
            port,
            protocol: Protocol::Connect,
        };
        self.announce.send(Ok(wanted)).await.unwrap();
        let told = tokio::time::timeout(PATIENCE, told).await;
        told.expect("there is a verdict").unwrap()
    }
}

fn allow(hosts: &[&str]) -> Policy {
    Policy::new(PolicyKind::AllowList, hosts).unwrap()
}

async fn rest(mut stream: DuplexStream) -> Vec<u8> {
    let mut all = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all));
    reading.await.expect("it ends").unwrap();
    all
}

#[tokio::test]
async fn an_allowed_connection_carries_bytes_and_half_closes() {
    let mut bench = Bench::new();
    let programs = bench.workspace(allow(&["a.example"])).await;
    let mut program = programs.want("A.example.", 443).await.unwrap();
    let address = "93.184.216.34:443".parse().unwrap();
    assert_eq!(bench.outcome().await, EgressOutcome::Allowed(address));
    let mut server = bench.server();
    // The world may speak first.
    server.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    program.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    program.write_all(b"\0question").await.unwrap();
    program.shutdown().await.unwrap();
    let mut question = Vec::new();
    server.read_to_end(&mut question).await.unwrap();
    assert_eq!(question, b"\0question");
    server.write_all(b"answer").await.unwrap();
    drop(server);
    assert_eq!(rest(program).await, b"answer");
    assert_eq!(bench.dialled(), ["93.184.216.34:443"]);
}

#[tokio::test]
async fn what_is_refused_is_never_dialled_and_its_reason_is_told() {
    let mut bench = Bench::new();
    let closed = bench.workspace(Policy::None).await;
    let listed = bench
        .workspace(allow(&["a.example", "rebound.example"]))
        .await;
    let open = bench.workspace(Policy::Open).await;
    for (programs, host, port, code) in [
        (&closed, "a.example", 443, "NO_EGRESS"),
        (&listed, "b.example", 443, "NOT_LISTED"),
        (&listed, "a.example", 22, "NOT_LISTED"),
        (&listed, "93.184.216.34", 443, "NOT_LISTED"),
        (&listed, "rebound.example", 80, "ADDRESS_REFUSED"),
        (&open, "host.example", 80, "ADDRESS_REFUSED"),
        (&open, "10.0.0.1", 80, "ADDRESS_REFUSED"),
        (&open, "::ffff:127.0.0.1", 80, "ADDRESS_REFUSED"),
        (&open, "2130706433", 80, "HOST_INVALID"),
        (&open, "a.example", 25, "PORT_CLOSED"),
    ] {
        let Err(Refusal::Denied { denial, .. }) = programs.want(host, port).await else {
            panic!("{host}:{port} was not denied");
        };
        assert_eq!(denial.code(), code, "{host}:{port}");
        assert_eq!(bench.denial().await, denial);
    }
    assert_eq!(bench.dialled(), [""; 0]);
}

/// Public when it is decided on, private when it is asked for again.
#[tokio::test]
async fn a_name_that_turns_private_is_dialled_where_it_was_public_and_refused_from_then_on() {
    for private in [[169, 254, 169, 254], [127, 0, 0, 1], [8, 8, 4, 4]] {
        let mut bench = Bench::new();
        let programs = bench.workspace(allow(&["a.example"])).await;
        let private = IpAddr::from(private);
        bench.rebind("a.example", private);
        let mut program = programs.want("a.example", 443).await.unwrap();
        let public = "93.184.216.34:443".parse().unwrap();
        assert_eq!(bench.outcome().await, EgressOutcome::Allowed(public));
        let Err(Refusal::Denied { denial, .. }) = programs.want("a.example", 443).await else {
            panic!("{private} was not denied");
        };
        assert_eq!(denial.code(), "ADDRESS_REFUSED");
        assert!(
            denial.to_string().contains(&private.to_string()),
            "{denial}"
        );
        assert_eq!(bench.denial().await, denial);
        // What is open stays with whom it was opened to.
        program.write_all(b"\0still").await.unwrap();
        program.shutdown().await.unwrap();
        let (mut heard, mut server) = (Vec::new(), bench.server());
        server.read_to_end(&mut heard).await.unwrap();
        assert_eq!(heard, b"\0still");
        assert_eq!(bench.dialled(), ["93.184.216.34:443"]);
    }
}

#[tokio::test]
async fn a_name_without_an_address_is_a_failure_and_no_denial() {
    let mut bench = Bench::new();
    let programs = bench.workspace(Policy::Open).await;
    let refusal = programs.want("nowhere.example", 443).await.unwrap_err();
    assert!(
        matches!(refusal, Refusal::Failed(WorldError::Unresolved { .. })),
        "{refusal:?}"
    );
    assert!(matches!(bench.outcome().await, EgressOutcome::Failed(_)));
}

#[tokio::test]
async fn the_next_address_is_tried_when_one_is_dead() {
    let bench = Bench::new();
    let programs = bench.workspace(Policy::Open).await;
    let (first, second) = (
        IpAddr::from([93, 184, 216, 35]),
        IpAddr::from([93, 184, 216, 36]),
    );
    bench.world.dead.lock().unwrap().push(first);
    programs.want("b.example", 80).await.unwrap();
    assert_eq!(bench.dialled(), ["93.184.216.35:80", "93.184.216.36:80"]);
    bench.world.dead.lock().unwrap().push(second);
    let refusal = programs.want("b.example", 80).await.unwrap_err();
    let last = SocketAddr::new(second, 80);
    assert_eq!(refusal, Refusal::Failed(WorldError::Refused(last)));
}

#[tokio::test]
async fn allowed_networks_are_reached() {
    let mut bench = Bench::with(EgressOptions {
        allow_networks: vec!["169.254.169.0/24".parse().unwrap()],
        ..EgressOptions::default()
    });
    let programs = bench.workspace(allow(&["rebound.example"])).await;
    programs.want("rebound.example", 80).await.unwrap();
    let address = "169.254.169.254:80".parse().unwrap();
    assert_eq!(bench.outcome().await, EgressOutcome::Allowed(address));
}

#[tokio::test]
async fn new_rules_hold_for_open_connections_at_once() {
    let mut bench = Bench::new();
    let programs = bench.workspace(Policy::Open).await;
    let other = bench.workspace(Policy::Open).await;
    let cut = programs.want("a.example", 443).await.unwrap();
    let kept = programs.want("b.example", 443).await.unwrap();
    let foreign = other.want("a.example", 443).await.unwrap();
    for _ in 0..3 {
        assert!(matches!(bench.outcome().await, EgressOutcome::Allowed(_)));
    }
    bench.set(&programs, allow(&["b.example"]));
    assert_eq!(bench.egress.cut_refused(&programs.workspace), 1);
    assert_eq!(rest(cut).await, b"");
    assert_eq!(bench.denial().await.code(), "RULES_CHANGED");
    for mut alive in [kept, foreign] {
        alive.write_all(b"\0").await.unwrap();
    }
    let refusal = programs.want("a.example", 443).await.unwrap_err();
    assert!(matches!(refusal, Refusal::Denied { .. }), "{refusal:?}");
}

#[tokio::test]
async fn a_request_for_another_host_never_reaches_the_server() {
    let mut bench = Bench::new();
    let programs = bench.workspace(Policy::Open).await;
    let mut program = programs.want("a.example", 80).await.unwrap();
    assert!(matches!(bench.outcome().await, EgressOutcome::Allowed(_)));
    program
        .write_all(b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n")
        .await
        .unwrap();
    let answer = String::from_utf8(rest(program).await).unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    assert!(answer.contains("names evil.example"), "{answer}");
    let expected = Mismatch::Request("evil.example".to_owned());
    match bench.denial().await {
        Denial::Mismatch { mismatch, .. } => assert_eq!(mismatch, expected),
        other => panic!("{other:?}"),
    }
    assert_eq!(rest(bench.server()).await, b"");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_stands_still_is_cut() {
    let mut bench = Bench::new();
    let programs = bench.workspace(Policy::Open).await;
    let mut program = programs.want("a.example", 443).await.unwrap();
    assert!(matches!(bench.outcome().await, EgressOutcome::Allowed(_)));
    let limit = EgressOptions::default().idle_timeout;
    for _ in 0..3 {
        tokio::time::sleep(limit * 9 / 10).await;
        program.write_all(b"\0").await.unwrap();
    }
    let mut nothing = Vec::new();
    let started = tokio::time::Instant::now();
    program.read_to_end(&mut nothing).await.unwrap();
    let stood = started.elapsed();
    assert!(
        (limit..=limit * 2).contains(&(stood + Duration::from_secs(1))),
        "{stood:?}"
    );
}

#[tokio::test]
async fn shutdown_cuts_what_is_open() {
    let bench = Bench::new();
    let programs = bench.workspace(Policy::Open).await;
    let program = programs.want("a.example", 443).await.unwrap();
    bench.shutdown.cancel();
    assert_eq!(rest(program).await, b"");
    bench.tasks.close();
    let ended = tokio::time::timeout(PATIENCE, bench.tasks.wait());
    ended.await.expect("nothing is left");
}

#[tokio::test]
async fn a_denial_of_an_address_names_it() {
    let mut bench = Bench::new();
    let programs = bench.workspace(Policy::Open).await;
    let refusal = programs.want("rebound.example", 80).await.unwrap_err();
    let Refusal::Denied { denial, advice } = refusal else {
        panic!("{refusal:?}");
    };
    assert!(advice.contains("egress.allow_networks"), "{advice}");
    assert_eq!(bench.denial().await, denial);
    match denial {
        Denial::Address { address, range, .. } => {
            assert_eq!(address, IpAddr::from([169, 254, 169, 254]));
            assert_eq!(range, Range::Metadata);
        }
        other => panic!("{other:?}"),
    }
}

/// A relay that lets the gate decide on one request and says what came of it.
struct FakeRelay;

#[async_trait]
impl GitRelayPort for FakeRelay {
    async fn relay(
        &self,
        host: &CredentialHost,
        mut program: BoxedBytes,
        mut world: BoxedBytes,
        gate: Arc<dyn GitGate>,
    ) {
        let mut request = vec![0; 64 * 1024];
        let length = program.read(&mut request).await.unwrap();
        let request = String::from_utf8_lossy(&request[..length]).into_owned();
        let mut words = request.split(' ');
        let (method, url) = (words.next().unwrap(), words.next().unwrap());
        let (path, query) = match url.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (url, None),
        };
        let said = match gate.admit(method, path, query).await {
            Ok(login) => {
                world.write_all(login.as_bytes()).await.unwrap();
                format!("{host} was asked")
            }
            Err(why) => why,
        };
        program.write_all(said.as_bytes()).await.unwrap();
        program.shutdown().await.unwrap();
    }
}

/// Has a login for one host, in every workspace.
struct OneLogin;

#[async_trait]
impl HostCredentialsPort for OneLogin {
    async fn git_login(
        &self,
        _: &WorkspaceId,
        host: &CredentialHost,
        _: &GitRequest,
    ) -> Result<Option<String>, String> {
        let known = host.to_string() == "a.example:8443";
        Ok(known.then(|| "Basic eA==".to_owned()))
    }

    async fn ssh_identities(&self, _: &WorkspaceId) -> Result<Vec<Identity>, String> {
        Ok(Vec::new())
    }

    async fn ssh_sign(&self, _: &WorkspaceId, _: &LoginToSign) -> Result<Vec<u8>, String> {
        Err("there is no key".to_owned())
    }
}

fn with_hosts() -> Bench {
    let bench = Bench::new();
    bench.egress.set_hosts(HostAccess {
        credentials: Arc::new(OneLogin),
        git: Arc::new(FakeRelay),
    });
    bench
}

#[tokio::test]
async fn a_git_host_is_decided_on_dialled_and_told_by_its_own_name() {
    let mut bench = with_hosts();
    let programs = bench
        .workspace(allow(&["a.example:8443", "b.example"]))
        .await;
    let ask = async |host: &str, port: u16, line: &str| {
        let mut program = programs.want(host, port).await.unwrap();
        let request = format!("{line} HTTP/1.1\r\nHost: {host}:{port}\r\n\r\n");
        program.write_all(request.as_bytes()).await.unwrap();
        String::from_utf8(rest(program).await).unwrap()
    };
    let read = "GET /me/it.git/info/refs?service=git-upload-pack";
    let stand_in = "a.example.compy-git.internal";
    assert_eq!(ask(stand_in, 8443, read).await, "a.example:8443 was asked");
    let address = "93.184.216.34:8443".parse().unwrap();
    assert_eq!(bench.outcome().await, EgressOutcome::Allowed(address));
    assert_eq!(rest(bench.server()).await, b"Basic eA==");
    let refused = ask(stand_in, 8443, "POST /me/it.git/git-receive-pack").await;
    assert!(refused.contains("published by the daemon"), "{refused}");
    assert_eq!(rest(bench.server()).await, b"", "nothing came there");
    let none = ask("b.example.compy-git.internal", 443, read).await;
    assert!(none.contains("no login for b.example:443"), "{none}");
    // A request for another host than the connection is for.
    let mut program = programs.want(stand_in, 8443).await.unwrap();
    let other = format!("{read} HTTP/1.1\r\nHost: b.example.compy-git.internal\r\n\r\n");
    program.write_all(other.as_bytes()).await.unwrap();
    let said = rest(program).await;
    assert!(
        said.starts_with(b"HTTP/1.1 403"),
        "{}",
        String::from_utf8_lossy(&said)
    );
}

#[tokio::test]
async fn rules_hold_for_the_host_that_a_name_stands_for() {
    let mut bench = with_hosts();
    let stand_ins = ["a.example.compy-git.internal:8443"];
    let programs = bench.workspace(allow(&stand_ins)).await;
    let denied = programs.want("a.example.compy-git.internal", 8443).await;
    assert!(matches!(denied, Err(Refusal::Denied { .. })));
    assert!(bench.denial().await.to_string().contains("a.example:8443"));
    bench.set(&programs, Policy::Open);
    let inside = programs
        .want("rebound.example.compy-git.internal", 443)
        .await;
    assert!(matches!(inside, Err(Refusal::Denied { .. })));
    assert_eq!(bench.dialled(), [""; 0]);
}

#[tokio::test]
async fn an_ssh_client_is_answered_and_what_is_unsound_ends_it() {
    let bench = with_hosts();
    let programs = bench.workspace(Policy::None).await;
    let agent = compyd_proto::link::SSH_AGENT_HOST;
    let mut client = programs.want(agent, 1).await.unwrap();
    client
        .write_all(&[0, 0, 0, 1, 11, 0, 0, 0, 1, 19])
        .await
        .unwrap();
    let mut answers = [0; 14];
    client.read_exact(&mut answers).await.unwrap();
    assert_eq!(answers, [0, 0, 0, 5, 12, 0, 0, 0, 0, 0, 0, 0, 1, 5]);
    client.write_all(&[0, 0, 0, 0]).await.unwrap();
    assert_eq!(rest(client).await, b"");
    for unsound in [&[255, 255, 255, 255, 11][..], &[0, 0, 0, 9, 11]] {
        let mut client = programs.want(agent, 1).await.unwrap();
        client.write_all(unsound).await.unwrap();
        client.shutdown().await.unwrap();
        assert_eq!(rest(client).await, b"");
    }
    assert_eq!(bench.dialled(), [""; 0]);
}

#[tokio::test]
async fn a_fetch_for_others_goes_to_public_addresses_and_is_on_record() {
    use crate::{
        adapters::memory::MemoryAudit,
        domain::audit::{Kind, Outcome},
        service::{redaction::Redactions, workspaces::Fetches as _},
    };
    let bench = Bench::with(EgressOptions {
        allow_networks: vec!["10.1.0.0/16".parse().unwrap()],
        ..EgressOptions::default()
    });
    let log = Arc::new(MemoryAudit::default());
    let clock = Arc::new(ManualClock::at(7));
    (bench.egress).set_audit(Audit::new(log.clone(), clock, Redactions::default()));
    let workspace = WorkspaceId::from_uuid(Uuid::from_u128(1));
    let admit = async |host: &str| {
        let target = Target {
            host: Host::parse(host).unwrap(),
            port: 443,
        };
        bench.egress.admit(&workspace, &target).await
    };
    // What the workspace may reach is another matter: this one reaches nothing.
    let (public, named) = ([93, 184, 216, 34], [10, 1, 2, 3]);
    assert_eq!(admit("a.example").await, Ok(vec![IpAddr::from(public)]));
    assert_eq!(admit("10.1.2.3").await, Ok(vec![IpAddr::from(named)]));
    for host in [
        "rebound.example",
        "host.example",
        "127.0.0.1",
        "[::1]",
        "10.0.0.1",
        "169.254.169.254",
        "unknown.example",
    ] {
        assert!(admit(host).await.is_err(), "{host}");
    }
    bench.egress.with_account(&workspace, "ssh://git@box/a");
    let entries = log.entries();
    assert!(entries.iter().all(|entry| entry.kind == Kind::Network));
    let outcomes: Vec<_> = entries.iter().filter_map(|entry| entry.outcome).collect();
    let mut expected = vec![Outcome::Ok; 2];
    expected.extend([Outcome::Denied; 6]);
    expected.extend([Outcome::Failed, Outcome::Ok]);
    assert_eq!(outcomes, expected);
    assert_eq!(entries[2].detail["target"], "rebound.example:443");
    assert_eq!(entries[9].detail["rights"], "the daemon's account");
}
