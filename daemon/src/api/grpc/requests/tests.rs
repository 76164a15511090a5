//! Requests made once, whatever their clients do.

use std::sync::atomic::{AtomicUsize, Ordering};

use compyd_proto::v1::{GetInfoRequest, GetInfoResponse, ListArtifactsRequest};
use tokio::sync::Notify;

use super::*;
use crate::{
    adapters::memory::{ManualClock, MemoryStore},
    api::grpc::status::reason,
};

struct Bench {
    store: Arc<MemoryStore>,
    tasks: TaskTracker,
    requests: Requests,
    /// How often the work ran.
    runs: Arc<AtomicUsize>,
    /// Told when the work has begun.
    begun: Arc<Notify>,
    /// Lets the work end.
    go_on: Arc<Notify>,
}

fn bench() -> Bench {
    let store = Arc::new(MemoryStore::new());
    let tasks = TaskTracker::new();
    let requests = Requests::new(
        store.clone(),
        Arc::new(ManualClock::default()),
        tasks.clone(),
    );
    Bench {
        store,
        tasks,
        requests,
        runs: Arc::default(),
        begun: Arc::default(),
        go_on: Arc::default(),
    }
}

impl Bench {
    /// A call whose work waits for `go_on` and answers with the number of its
    /// run.
    fn call(&self) -> tokio::task::JoinHandle<Result<GetInfoResponse, Status>> {
        let requests = self.requests.clone();
        let work = self.work();
        tokio::spawn(async move { requests.once("m", "r1", &GetInfoRequest {}, work).await })
    }

    fn work(
        &self,
    ) -> impl FnOnce() -> futures_util::future::BoxFuture<'static, Result<GetInfoResponse, Status>>
    + Send
    + 'static {
        let (runs, begun, go_on) = (self.runs.clone(), self.begun.clone(), self.go_on.clone());
        move || {
            Box::pin(async move {
                let run = runs.fetch_add(1, Ordering::SeqCst) + 1;
                begun.notify_one();
                go_on.notified().await;
                Ok(GetInfoResponse {
                    version: run.to_string(),
                    ..GetInfoResponse::default()
                })
            })
        }
    }

    /// A call whose work ends at once like this.
    async fn now(&self, outcome: Result<&'static str, Status>) -> Result<GetInfoResponse, Status> {
        let answer = outcome.map(|version| GetInfoResponse {
            version: version.to_owned(),
            ..GetInfoResponse::default()
        });
        self.requests
            .once("m", "r1", &GetInfoRequest {}, move || async move { answer })
            .await
    }
}

fn version(answer: Result<GetInfoResponse, Status>) -> String {
    answer.unwrap().version
}

#[tokio::test]
async fn a_retry_joins_the_call_that_runs() {
    let bench = bench();
    let first = bench.call();
    bench.begun.notified().await;
    let second = bench.call();
    // On this single thread one turn takes the second call to where it waits.
    tokio::task::yield_now().await;
    assert!(!second.is_finished());
    bench.go_on.notify_one();
    assert_eq!(version(first.await.unwrap()), "1");
    assert_eq!(version(second.await.unwrap()), "1");
    assert_eq!(bench.runs.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_retry_afterwards_gets_the_first_answer_also_from_another_daemon() {
    let bench = bench();
    assert_eq!(version(bench.now(Ok("first")).await), "first");
    assert_eq!(version(bench.now(Ok("second")).await), "first");
    let restarted = Requests::new(
        bench.store.clone(),
        Arc::new(ManualClock::default()),
        TaskTracker::new(),
    );
    let answer: Result<GetInfoResponse, _> = restarted
        .once("m", "r1", &GetInfoRequest {}, || async {
            panic!("the work was done before")
        })
        .await;
    assert_eq!(version(answer), "first");
}

#[tokio::test]
async fn the_same_id_with_other_parameters_is_a_conflict_while_running_and_after() {
    let bench = bench();
    let other = ListArtifactsRequest {
        stage: "PR".to_owned(),
        ..ListArtifactsRequest::default()
    };
    let conflict = async || {
        let never = || async { panic!("a conflict does no work") };
        let refused: Result<GetInfoResponse, _> =
            bench.requests.once("m", "r1", &other, never).await;
        let status = refused.unwrap_err();
        assert_eq!(status.code(), Code::AlreadyExists);
        assert_eq!(reason(&status), "REQUEST_CONFLICT");
    };
    let first = bench.call();
    bench.begun.notified().await;
    conflict().await;
    bench.go_on.notify_one();
    first.await.unwrap().unwrap();
    conflict().await;
    let other_method: Result<GetInfoResponse, _> = bench
        .requests
        .once("n", "r1", &GetInfoRequest {}, || async {
            panic!("a conflict does no work")
        })
        .await;
    assert_eq!(reason(&other_method.unwrap_err()), "REQUEST_CONFLICT");
}

#[tokio::test]
async fn an_error_is_forgotten_and_a_retry_tries_again() {
    let bench = bench();
    let failed = bench.now(Err(Status::unavailable("not now"))).await;
    assert_eq!(failed.unwrap_err().code(), Code::Unavailable);
    assert_eq!(version(bench.now(Ok("second try")).await), "second try");
}

#[tokio::test]
async fn work_goes_on_when_its_client_goes_away() {
    let bench = bench();
    let call = bench.call();
    bench.begun.notified().await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    bench.go_on.notify_one();
    bench.tasks.close();
    bench.tasks.wait().await;
    assert_eq!(version(bench.now(Ok("again")).await), "1");
}

#[tokio::test]
async fn a_panic_is_reported_to_the_caller_and_a_retry_tries_again() {
    let bench = bench();
    let failed: Result<GetInfoResponse, _> = bench
        .requests
        .once("m", "r1", &GetInfoRequest {}, || async {
            panic!("the work is broken")
        })
        .await;
    assert_eq!(failed.unwrap_err().code(), Code::Internal);
    assert_eq!(version(bench.now(Ok("sound")).await), "sound");
}

#[tokio::test]
async fn a_request_without_a_sound_id_is_refused() {
    let bench = bench();
    for id in ["", "a b", &"x".repeat(129)] {
        let refused: Result<GetInfoResponse, _> = bench
            .requests
            .once("m", id, &GetInfoRequest {}, || async { panic!("no work") })
            .await;
        assert_eq!(reason(&refused.unwrap_err()), "REQUEST_ID_INVALID");
    }
}

/// Calls that come just as the first one ends find either the call or its
/// answer, never neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_at_the_very_end_does_the_work_no_second_time() {
    for round in 0..200 {
        let bench = bench();
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..8 {
            let (requests, runs) = (bench.requests.clone(), bench.runs.clone());
            calls.spawn(async move {
                let work = move || async move {
                    runs.fetch_add(1, Ordering::SeqCst);
                    Ok(GetInfoResponse::default())
                };
                requests.once("m", "r1", &GetInfoRequest {}, work).await
            });
        }
        for answer in calls.join_all().await {
            answer.unwrap();
        }
        assert_eq!(bench.runs.load(Ordering::SeqCst), 1, "round {round}");
    }
}

/// What a work was told, and what is remembered, when the daemon is killed
/// before the answer is.
#[tokio::test]
async fn a_retry_after_a_kill_goes_on_under_the_same_id() {
    let bench = bench();
    let killed = Arc::new(std::sync::Mutex::new(Vec::new()));
    let call = async |answer: Option<&'static str>| {
        // Another daemon over the same store.
        let requests = Requests::new(
            bench.store.clone(),
            Arc::new(ManualClock::default()),
            TaskTracker::new(),
        );
        let told = killed.clone();
        let work = move |begun: Begun| async move {
            told.lock().unwrap().push(begun);
            let version = answer.expect("killed in the middle of the work");
            Ok(GetInfoResponse {
                version: version.to_owned(),
                ..GetInfoResponse::default()
            })
        };
        requests
            .once_begun("m", "r1", &GetInfoRequest {}, work)
            .await
    };
    call(None).await.unwrap_err();
    call(None).await.unwrap_err();
    assert_eq!(version(call(Some("done")).await), "done");
    assert_eq!(version(call(Some("again")).await), "done");
    let told = killed.lock().unwrap().clone();
    let id = told[0].id;
    let expected = [false, true, true].map(|before| Begun {
        id,
        about: String::new(),
        before,
    });
    assert_eq!(told, expected);
}

/// The work of a request that means something else each time it is looked at.
#[tokio::test]
async fn a_retry_after_a_kill_is_about_what_it_was_about_when_it_began() {
    let bench = bench();
    let told = Arc::new(std::sync::Mutex::new(Vec::new()));
    let call = async |about: Result<&'static str, Status>, answer: Option<&'static str>| {
        let told = told.clone();
        let work = move |begun: Begun| async move {
            told.lock().unwrap().push((begun.about, begun.before));
            let version = answer.expect("killed in the middle of the work");
            Ok(GetInfoResponse {
                version: version.to_owned(),
                ..GetInfoResponse::default()
            })
        };
        let about = async move { about.map(str::to_owned) };
        bench
            .requests
            .once_bound("m", "r1", &GetInfoRequest {}, about, work)
            .await
    };
    let refused = call(Err(Status::not_found("no such thing")), Some("x")).await;
    assert_eq!(refused.unwrap_err().code(), Code::NotFound);
    assert_eq!(bench.store.requests().await.unwrap(), [], "nothing began");
    call(Ok("q1"), None).await.unwrap_err();
    call(Err(Status::not_found("it is gone")), None)
        .await
        .unwrap_err();
    assert_eq!(version(call(Ok("q2"), Some("done")).await), "done");
    let told = told.lock().unwrap().clone();
    let expected = [false, true, true].map(|before| ("q1".to_owned(), before));
    assert_eq!(told, expected);
}

#[tokio::test]
async fn work_that_failed_is_no_work_that_was_cut_off() {
    let bench = bench();
    for answer in [Err(Status::not_found("no")), Ok(GetInfoResponse::default())] {
        let work = move |begun: Begun| async move {
            assert!(!begun.before);
            answer
        };
        let id = "r1";
        let _ = bench
            .requests
            .once_begun("m", id, &GetInfoRequest {}, work)
            .await;
    }
}

#[tokio::test]
async fn work_that_an_outage_cut_off_is_told_of_what_it_began() {
    let bench = bench();
    let ids = Arc::new(std::sync::Mutex::new(Vec::new()));
    for (before, answer) in [
        (false, Err(Status::unavailable("the engine is away"))),
        (true, Err(Status::unavailable("it is not back"))),
        (true, Err(Status::not_found("it is gone"))),
        (true, Ok(GetInfoResponse::default())),
    ] {
        let told = ids.clone();
        let work = move |begun: Begun| async move {
            assert_eq!(begun.before, before);
            told.lock().unwrap().push(begun.id);
            answer
        };
        let _ = bench
            .requests
            .once_begun("m", "r1", &GetInfoRequest {}, work)
            .await;
    }
    let mut ids = ids.lock().unwrap().clone();
    assert_eq!(ids.len(), 4);
    ids.dedup();
    assert_eq!(ids.len(), 1);
}

#[tokio::test]
async fn nothing_begins_that_cannot_be_written_down() {
    let bench = bench();
    bench.store.fill_disk();
    let work = |_| async { panic!("no work") };
    let refused: Result<GetInfoResponse, _> = bench
        .requests
        .once_begun("m", "r1", &GetInfoRequest {}, work)
        .await;
    assert_eq!(reason(&refused.unwrap_err()), "DISK_FULL");
}

#[tokio::test]
async fn what_runs_is_remembered_however_many_there_are_and_the_oldest_are_not() {
    let mut bench = bench();
    let inner = Arc::get_mut(&mut bench.requests.inner).unwrap();
    inner.bound = Bound { count: 0, bytes: 0 };
    let (begun, go_on) = (bench.begun.clone(), bench.go_on.clone());
    let requests = bench.requests.clone();
    let running = tokio::spawn(async move {
        let work = move |_| async move {
            begun.notify_one();
            go_on.notified().await;
            Ok(GetInfoResponse::default())
        };
        let request = GetInfoRequest {};
        requests.once_begun("m", "running", &request, work).await
    });
    bench.begun.notified().await;
    assert_eq!(version(bench.now(Ok("ended")).await), "ended");
    bench.requests.forget().await.unwrap();
    let known = async |id: &str| bench.store.request(&id.parse().unwrap()).await.unwrap();
    assert!(known("r1").await.is_none());
    assert!(known("running").await.is_some());
    bench.go_on.notify_one();
    running.await.unwrap().unwrap();
    bench.requests.forget().await.unwrap();
    assert!(known("running").await.is_none(), "it has ended");
}

#[tokio::test]
async fn the_bound_is_looked_at_by_itself_when_much_was_remembered() {
    let mut bench = bench();
    let inner = Arc::get_mut(&mut bench.requests.inner).unwrap();
    inner.bound.count = 10;
    for number in 0..LOOK_AFTER.count {
        let id = format!("r{number}");
        let work = || async { Ok(GetInfoResponse::default()) };
        let answer: Result<GetInfoResponse, _> = bench
            .requests
            .once("m", &id, &GetInfoRequest {}, work)
            .await;
        answer.unwrap();
    }
    bench.tasks.close();
    bench.tasks.wait().await;
    assert_eq!(bench.store.requests().await.unwrap().len(), 10);
}
