//! What sessions leave in the audit log.

use super::*;
use crate::domain::{
    audit::{Entry, Kind, Outcome, chain::Hash},
    ids::StepId,
};

fn of_kind(entries: &[Entry], kind: Kind) -> Vec<&Entry> {
    entries.iter().filter(|entry| entry.kind == kind).collect()
}

#[tokio::test]
async fn every_tool_call_is_on_record_with_its_step_arguments_and_result() {
    let fixture = Fixture::new().await;
    let daemon = fixture.daemon(honest());
    let started = daemon.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    let at_rest = |state: &SessionState| state.condition != Condition::Running;
    let state = daemon.wait_until(&id, at_rest).await;
    assert_eq!(state.condition, Condition::Verified);
    daemon.stop().await;
    let entries = fixture.audit.entries();
    let calls = of_kind(&entries, Kind::ToolCall).into_iter();
    let mut calls = calls.filter(|entry| entry.caller == "model");
    let mut ended = 0;
    for event in fixture.events(&id).await {
        let EventBody::ToolEnded(answer) = event.body else {
            continue;
        };
        ended += 1;
        let recorded = calls.next().expect("each is on record, in this order");
        assert_eq!(recorded.detail["call"], answer.call_id);
        assert_eq!(recorded.tool.as_ref(), Some(&answer.name));
        assert_eq!(recorded.session, Some(id.to_string()));
        assert_eq!(recorded.workspace, Some(fixture.workspace.id.to_string()));
        let step = answer
            .intent
            .map(|intent| StepId::of(&id, intent).to_string());
        assert_eq!(recorded.step, step);
        assert_eq!(recorded.process, step);
        let hash = Hash::of(answer.content.as_bytes()).to_string();
        assert_eq!(recorded.detail["result_sha256"], hash);
        assert!(recorded.detail["arguments"].is_object());
        if let Some(step) = step {
            let begun = of_kind(&entries, Kind::ToolStarted);
            let begun = begun
                .iter()
                .find(|entry| entry.step.as_ref() == Some(&step));
            assert_eq!(
                begun.unwrap().detail["arguments"],
                recorded.detail["arguments"]
            );
        }
    }
    assert!(ended > 8, "{ended}");
    assert_eq!(calls.next(), None);
    let pushes = of_kind(&entries, Kind::Push);
    assert_eq!(pushes.len(), 2, "before and after: {pushes:?}");
    assert_eq!(pushes[0].detail["event"], "begins");
    assert_eq!(pushes[0].outcome, None);
    assert_eq!(pushes[1].outcome, Some(Outcome::Ok));
    let conditions = of_kind(&entries, Kind::Session);
    assert_eq!(conditions.last().unwrap().detail["condition"], "verified");
}

#[tokio::test]
async fn a_push_that_cannot_be_recorded_is_not_made() {
    let fixture = Fixture::new().await;
    fixture.audit.set_full(true);
    let daemon = fixture.daemon(honest());
    let started = daemon.sessions.start(fixture.start(options())).await;
    let id = started.unwrap().state.id().clone();
    let halts = async {
        loop {
            let published = daemon.sessions.get(&id).await.unwrap();
            if published.halted.is_some() {
                return published;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let halted = tokio::time::timeout(Duration::from_secs(120), halts).await;
    let halted = halted.expect("the session halts before its push");
    assert!(halted.halted.unwrap().contains("audit log"));
    for owner in std::fs::read_dir(fixture.forge.path()).unwrap() {
        for repository in std::fs::read_dir(owner.unwrap().path()).unwrap() {
            let branches = git(&repository.unwrap().path(), &["for-each-ref"]);
            assert_eq!(branches, "", "nothing is on the forge");
        }
    }
    fixture.audit.set_full(false);
    let at_rest = |state: &SessionState| state.condition != Condition::Running;
    let state = daemon.wait_until(&id, at_rest).await;
    assert_eq!(state.condition, Condition::Verified);
    let pushes = fixture.audit.entries();
    let pushes = of_kind(&pushes, Kind::Push);
    assert_eq!(pushes.len(), 2, "{pushes:?}");
    daemon.stop().await;
}
