//! Nothing is ever stuck: many workspaces whose engine dies, whose daemon loses
//! its store, and both at once, on an engine of the test's own.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    process::Command,
    time::{Duration, Instant},
};

use bollard::{
    models::ContainerCreateBody,
    query_parameters::{CreateContainerOptions, RemoveContainerOptions, StartContainerOptions},
};
use compyd_proto::v1::{CreateWorkspaceRequest, ListWorkspacesRequest, StopWorkspaceRequest};
use compyd_tests::{
    daemon::{Daemon, Options},
    engine::{Engine, IMAGE, LABEL},
    programs::{Programs, torture},
    request_id,
    second_engine::SecondEngine,
    skip::skip,
    wait::{self, PATIENCE},
};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

/// What the issue allows until every workspace is as it should be.
const BOUND: Duration = Duration::from_secs(10);
/// What a loaded machine is given in `make test`.
const GENEROUS: Duration = Duration::from_secs(60);

/// A daemon, an engine of its own, and workspaces of which one in four is
/// stopped.
struct Fleet {
    daemon: Daemon,
    engine: SecondEngine,
    /// Names and the state that each is to be in.
    states: BTreeMap<String, &'static str>,
    /// Containers by workspace: none is to be made twice or lost.
    containers: BTreeMap<String, String>,
    /// Containers of somebody else and the state that each was left in.
    foreign: BTreeMap<String, String>,
}

impl Fleet {
    async fn new() -> Option<Self> {
        if Programs::beside_the_test().agent.is_none() {
            skip("there is no static agent: make agent");
            return None;
        }
        let mut engine = match SecondEngine::prepare().await {
            Ok(engine) => engine,
            Err(why) => {
                skip(why);
                return None;
            }
        };
        if let Err(why) = engine.start().await {
            skip(why);
            return None;
        }
        engine.load_image().await;
        let daemon = Daemon::start_bare(Options::default().engine(engine.host())).await;
        let count = if torture() { 40 } else { 6 };
        let names: Vec<String> = (0..count).map(|number| format!("w{number}")).collect();
        let begun = Instant::now();
        let made: Result<Vec<()>, tonic::Status> = stream::iter(&names)
            .map(|name| create(&daemon, name))
            .buffer_unordered(4)
            .try_collect()
            .await;
        made.unwrap();
        eprintln!("{count} workspaces made in {:?}", begun.elapsed());
        let mut states = BTreeMap::new();
        for (number, name) in names.into_iter().enumerate() {
            let stopped = number % 4 == 3;
            if stopped {
                let stop = StopWorkspaceRequest {
                    request_id: request_id(),
                    workspace: name.clone(),
                };
                daemon.workspaces().stop_workspace(stop).await.unwrap();
            }
            states.insert(name, if stopped { "STOPPED" } else { "RUNNING" });
        }
        let mut fleet = Self {
            daemon,
            engine,
            states,
            containers: BTreeMap::new(),
            foreign: BTreeMap::new(),
        };
        fleet.containers = fleet.containers_now().await;
        fleet.foreign = fleet.add_foreign().await;
        Some(fleet)
    }

    /// Containers that are none of ours: nobody's, and those of a daemon with
    /// other data that look like ours in all else.
    async fn add_foreign(&self) -> BTreeMap<String, String> {
        let engine = self.daemon.engine().await;
        let ours = &self.containers["w0"];
        let like_ours = engine.inspect(ours).await.config.unwrap().labels.unwrap();
        let test = HashMap::from([(LABEL.to_owned(), self.daemon.run_name().to_owned())]);
        let mut of_another = like_ours.clone();
        of_another.insert("compy.daemon".to_owned(), "0".repeat(32));
        let mut helper_of_another = test.clone();
        helper_of_another.insert("compy.daemon.helper".to_owned(), "0".repeat(32));
        let mut foreign = BTreeMap::new();
        for (name, labels, runs) in [
            ("foreign-plain", test, true),
            ("foreign-daemon", of_another.clone(), true),
            ("foreign-daemon-created", of_another, false),
            ("foreign-helper", helper_of_another, false),
        ] {
            let body = ContainerCreateBody {
                image: Some(IMAGE.to_owned()),
                entrypoint: Some(vec!["sleep".to_owned(), "100000".to_owned()]),
                labels: Some(labels),
                host_config: Some(bollard::models::HostConfig {
                    network_mode: Some("none".to_owned()),
                    ..Default::default()
                }),
                ..Default::default()
            };
            let options = CreateContainerOptions {
                name: Some(name.to_owned()),
                ..Default::default()
            };
            let docker = engine.docker();
            let id = docker
                .create_container(Some(options), body)
                .await
                .unwrap()
                .id;
            if runs {
                let start = None::<StartContainerOptions>;
                docker.start_container(&id, start).await.unwrap();
            }
            foreign.insert(id.clone(), state(&engine, &id).await);
        }
        foreign
    }

    async fn list(&self) -> Vec<compyd_proto::v1::Workspace> {
        let mut client = self.daemon.workspaces();
        let listed = client.list_workspaces(ListWorkspacesRequest {}).await;
        listed.unwrap().into_inner().workspaces
    }

    /// What the daemon says of every workspace.
    async fn states_now(&self) -> BTreeMap<String, String> {
        let of = |workspace: compyd_proto::v1::Workspace| {
            let state = workspace.state().as_str_name();
            let state = state.trim_start_matches("WORKSPACE_STATE_").to_owned();
            (workspace.name, state)
        };
        self.list().await.into_iter().map(of).collect()
    }

    async fn containers_now(&self) -> BTreeMap<String, String> {
        let listed = self.list().await;
        (listed.into_iter().map(|w| (w.name, w.container_id))).collect()
    }

    /// Waits until every workspace is in its state; says how long that took.
    async fn as_they_should_be(&self, since: Instant) -> Duration {
        let expected: BTreeMap<String, String> = (self.states.iter())
            .map(|(name, state)| (name.clone(), (*state).to_owned()))
            .collect();
        let mut seen = BTreeMap::new();
        let deadline = Instant::now() + PATIENCE;
        while seen != expected {
            assert!(Instant::now() < deadline, "they are {seen:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
            seen = self.states_now().await;
        }
        since.elapsed()
    }

    /// The engine has each workspace's container, the one it always had, and
    /// nothing else of ours; what is foreign is as it was left.
    async fn nothing_twice_and_nothing_lost(&self) {
        assert_eq!(self.containers_now().await, self.containers);
        let engine = self.daemon.engine().await;
        let there = engine.containers(Some(self.daemon.run_name())).await;
        let there: BTreeSet<String> = there.into_iter().map(|(id, _)| id).collect();
        let expected = self.containers.values().chain(self.foreign.keys());
        assert_eq!(there, expected.cloned().collect());
        for (id, before) in &self.foreign {
            assert_eq!(state(&engine, id).await, *before, "{id}");
        }
        let volumes = engine.workspace_volumes(self.daemon.run_name()).await;
        assert_eq!(volumes.len(), 6 * self.containers.len());
    }

    /// What each was given is still in it; one that is stopped starts for that.
    async fn hold_what_they_held(&self) {
        stream::iter(self.states.keys())
            .for_each_concurrent(4, |name| async move {
                let ran = self
                    .daemon
                    .shell(name, "cat /workspace/mark /opt/mark")
                    .await;
                assert_eq!(ran.text(), format!("{name}\n{name}"), "{ran:?}");
            })
            .await;
    }

    /// The engine dies with everything in it, and what it leaves of the foreign.
    async fn kill_engine(&mut self) {
        self.engine.kill().await;
        for state in self.foreign.values_mut() {
            if state == "running" {
                *state = "exited".to_owned();
            }
        }
    }

    fn lose_store(&self) {
        std::fs::remove_dir_all(self.daemon.data_dir().join("store")).unwrap();
    }
}

async fn create(daemon: &Daemon, name: &str) -> Result<(), tonic::Status> {
    let request = CreateWorkspaceRequest {
        request_id: request_id(),
        name: name.to_owned(),
        ..Default::default()
    };
    daemon.workspaces().create_workspace(request).await?;
    let script = format!("echo {name} > /workspace/mark; echo {name} > /opt/mark");
    let mut mark = compyd_tests::exec::command(name, &["sh", "-c", &script]);
    mark.user = "root".to_owned();
    assert_eq!(daemon.exec(mark).await?.code(), Some(0));
    Ok(())
}

async fn state(engine: &Engine, container: &str) -> String {
    let state = engine.inspect(container).await.state.unwrap().status;
    state.unwrap().to_string()
}

fn within_the_bound(what: &str, took: Duration) {
    eprintln!("{what}: every workspace as it should be after {took:?}");
    let bound = if torture() { BOUND } else { GENEROUS };
    assert!(took <= bound, "{what}: {took:?}");
}

#[tokio::test]
async fn an_engine_that_dies_and_a_store_that_is_lost_cost_nobody_a_command() {
    let Some(mut fleet) = Fleet::new().await else {
        return;
    };
    // The engine dies, twice in a row, and the store is intact.
    for round in ["the engine dies", "the engine dies again"] {
        fleet.kill_engine().await;
        fleet.engine.start().await.expect("it started before");
        let took = fleet.as_they_should_be(Instant::now()).await;
        within_the_bound(round, took);
        fleet.nothing_twice_and_nothing_lost().await;
    }

    // The store is lost, and the engine lives: each in the state it is in.
    fleet.daemon.kill().await;
    fleet.lose_store();
    let begun = Instant::now();
    fleet.daemon.restart().await;
    let took = fleet.as_they_should_be(begun).await;
    eprintln!("the store is lost: every workspace adopted after {took:?}");
    fleet.nothing_twice_and_nothing_lost().await;
    let adopted = fleet.daemon.workspace_now("w0").await;
    assert!(adopted.state_reason.contains("egress"), "{adopted:?}");

    // Both: they are stopped, and start when they are used.
    fleet.daemon.kill().await;
    fleet.lose_store();
    fleet.kill_engine().await;
    fleet.engine.start().await.expect("it started before");
    fleet.daemon.restart().await;
    for state in fleet.states.values_mut() {
        *state = "STOPPED";
    }
    let took = fleet.as_they_should_be(Instant::now()).await;
    eprintln!("both are lost: every workspace adopted after {took:?}");
    fleet.nothing_twice_and_nothing_lost().await;
    fleet.hold_what_they_held().await;
    for state in fleet.states.values_mut() {
        *state = "RUNNING";
    }
    fleet.as_they_should_be(Instant::now()).await;
    fleet.nothing_twice_and_nothing_lost().await;
    containers_in_odd_states(&mut fleet).await;
}

/// One that was made and never started, one that the engine could not remove,
/// and one that is gone.
async fn containers_in_odd_states(fleet: &mut Fleet) {
    fleet.daemon.kill().await;
    let engine = fleet.daemon.engine().await;
    let docker = engine.docker();
    let remove = || RemoveContainerOptions {
        force: true,
        ..Default::default()
    };
    let created = fleet.containers["w0"].clone();
    let before = engine.inspect(&created).await;
    docker
        .remove_container(&created, Some(remove()))
        .await
        .unwrap();
    let options = CreateContainerOptions {
        name: Some(before.name.unwrap().trim_start_matches('/').to_owned()),
        ..Default::default()
    };
    let mut body = serde_json::to_value(before.config.unwrap()).unwrap();
    body["HostConfig"] = serde_json::to_value(before.host_config.unwrap()).unwrap();
    let body: ContainerCreateBody = serde_json::from_value(body).unwrap();
    let made = docker.create_container(Some(options), body).await.unwrap();
    assert_eq!(state(&engine, &made.id).await, "created");

    let dead = fleet.containers["w1"].clone();
    let held = fleet.engine.container_dir(&dead).join("held");
    std::fs::create_dir(&held).unwrap();
    std::fs::write(held.join("file"), b"").unwrap();
    let immovable = chattr("+i", &held);
    let refused = docker.remove_container(&dead, Some(remove())).await;
    if immovable {
        assert!(refused.is_err(), "the engine cannot remove it");
        assert_eq!(state(&engine, &dead).await, "dead");
    } else {
        skip("the file system has no immovable files: no container is `dead`");
    }
    let gone = fleet.containers["w2"].clone();
    docker
        .remove_container(&gone, Some(remove()))
        .await
        .unwrap();

    fleet.daemon.restart().await;
    for name in ["w0", "w2"] {
        is_running(fleet, name).await;
    }
    chattr("-i", &held);
    is_running(fleet, "w1").await;
    fleet.as_they_should_be(Instant::now()).await;
    // What was in the root file system is gone with the container, and that is
    // said; volumes are kept.
    for name in ["w0", "w1", "w2"] {
        let ran = fleet
            .daemon
            .shell(name, "cat /workspace/mark; ls /opt")
            .await;
        assert_eq!(ran.text(), name);
    }
    for name in ["w1", "w2"] {
        let said = fleet.daemon.workspace_now(name).await.state_reason;
        assert!(said.contains("made again from its image"), "{said}");
    }
    for name in ["w0", "w1", "w2"] {
        let now = fleet.daemon.workspace_now(name).await.container_id;
        fleet.containers.insert(name.to_owned(), now);
    }
    assert_eq!(
        fleet.containers["w0"], made.id,
        "it was started, not made again"
    );
    fleet.nothing_twice_and_nothing_lost().await;
}

async fn is_running(fleet: &Fleet, name: &str) {
    wait::until(&format!("{name} to run"), PATIENCE, async || {
        (fleet.states_now().await[name] == "RUNNING").then_some(())
    })
    .await;
}

/// Whether the flag could be set.
fn chattr(flag: &str, directory: &std::path::Path) -> bool {
    let file = directory.join("file");
    if !file.exists() {
        return false;
    }
    let done = Command::new("chattr").arg(flag).arg(&file).status();
    done.is_ok_and(|status| status.success())
}
