//! Proofs that are cut off: by a kill, by a cancellation.

use std::time::Duration;

use super::*;
use crate::ports::agent::AgentPort as _;

#[tokio::test]
async fn what_a_proof_that_was_cut_off_changed_can_be_put_back() {
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", TESTS)]).await;
    case.bench.write("slug.py", FIXED);
    case.bench
        .write("test_slug.py", &TESTS.replace("test_empty", "test_nothing"));
    case.bench.write("tests/new.txt", "new\n");
    let plan = case.plan(true).await;
    let git = case.bench.git();
    let paths = [b"test_slug.py".to_vec(), b"tests/new.txt".to_vec()];
    let tree = git
        .mixed_tree(&plan.head, &plan.base, &paths)
        .await
        .unwrap();
    git.arrange(&tree).await.unwrap();
    assert_eq!(case.bench.read("test_slug.py"), TESTS);
    assert!(!case.bench.app.join("tests/new.txt").exists());
    // The crash also left a lock, and a person has written a note meanwhile.
    case.bench.write(".git/index.lock", "");
    case.bench.write("note.txt", "mine\n");
    git.disarrange().await.unwrap();
    git.disarrange().await.unwrap();
    assert_eq!(case.bench.status(), "?? note.txt");
    assert!(case.bench.read("test_slug.py").contains("test_nothing"));
    assert_eq!(case.bench.read("tests/new.txt"), "new\n");
}

#[tokio::test]
async fn a_proof_that_goes_on_after_a_restart_runs_nothing_twice() {
    let slow = TESTS.replace(
        "import unittest\n",
        "import unittest, time\ntime.sleep(0.5)\n",
    );
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", &slow)]).await;
    case.bench.write("slug.py", FIXED);
    case.bench
        .write("test_slug.py", &format!("{slow}\n# more\n"));
    let plan = case.plan(false).await;
    let (site, step) = (&case.bench.site, case.bench.step(3));
    let agent = case.bench.agent();
    let restored = step.exec(&exec_name(run_name::BRANCH_WITH_BASE_TESTS));
    {
        // The daemon dies while the third run is under way.
        let proof = case.prover.prove(site, &step, &plan);
        tokio::pin!(proof);
        let begun = async {
            while agent.get(&restored).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            _ = &mut proof => panic!("the proof ended before it was cut off"),
            () = begun => {}
        }
    }
    let runs = |execs: Vec<crate::domain::exec::Exec>| {
        let tests = execs
            .iter()
            .filter(|exec| exec.spec.argv.contains(&b"-m".to_vec()));
        tests.count()
    };
    let before = runs(agent.list(false).await.unwrap());
    let proof = case.prover.prove(site, &step, &plan).await.unwrap();
    assert!(proof.proved, "{}", proof.reason);
    let after = runs(agent.list(false).await.unwrap());
    assert_eq!((before, after), (3, 3));
    assert_eq!(case.bench.status(), "");
}

#[tokio::test]
async fn cancelling_a_proof_puts_the_files_back() {
    let slow = TESTS.replace(
        "import unittest\n",
        "import unittest, time\ntime.sleep(1)\n",
    );
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", &slow)]).await;
    case.bench.write("slug.py", FIXED);
    case.bench
        .write("test_slug.py", &format!("{slow}\n# more\n"));
    let plan = case.plan(false).await;
    let step = case.bench.step(3);
    let agent = case.bench.agent();
    let restored = step.exec(&exec_name(run_name::BRANCH_WITH_BASE_TESTS));
    let cancel = async {
        while agent.get(&restored).await.unwrap().is_none() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        step.cancel.cancel();
    };
    let (proof, ()) = tokio::join!(case.prover.prove(&case.bench.site, &step, &plan), cancel);
    assert!(proof.unwrap_err().is_cancelled());
    assert_eq!(case.bench.status(), "");
    assert!(case.bench.read("test_slug.py").contains("# more"));
}

#[tokio::test]
async fn a_resumed_proof_leaves_the_files_of_the_run_under_way_alone() {
    // The base passes, so a fourth run follows: the base with the branch's tests.
    let easy = TESTS.replace("slug('abcdef', 3), 'abc'", "slug('', 3), ''");
    let case = Case::new(&[("slug.py", BUGGY), ("test_slug.py", &easy)]).await;
    case.bench.write("slug.py", FIXED);
    let slow = "import time\ntime.sleep(1)\n";
    case.bench.write("test_slug.py", &format!("{slow}{TESTS}"));
    let plan = case.plan(false).await;
    let (site, step) = (&case.bench.site, case.bench.step(3));
    let agent = case.bench.agent();
    let transplanted = step.exec(&exec_name(run_name::BASE_WITH_BRANCH_TESTS));
    {
        let proof = case.prover.prove(site, &step, &plan);
        tokio::pin!(proof);
        let begun = async {
            while agent.get(&transplanted).await.unwrap().is_none() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            _ = &mut proof => panic!("the proof ended before it was cut off"),
            () = begun => {}
        }
    }
    let proof = case.prover.prove(site, &step, &plan).await.unwrap();
    assert!(proof.proved, "{}", proof.reason);
    assert_eq!(proof.runs[3].verdict, RunVerdict::Failed);
    assert_eq!(case.bench.status(), "");
}
