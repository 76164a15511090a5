//! What a session does not let out of stored credentials.

use super::*;
use crate::domain::redaction::Redactor;

#[tokio::test]
async fn a_credential_that_is_stored_in_the_middle_is_in_no_text_on_the_forge() {
    let fixture = Fixture::new().await;
    let (redactions, honest) = (fixture.redactions.clone(), honest());
    // A part of the task, which is in the log by then.
    let value = "subtracts; make it";
    let stored: Script = Arc::new(move |spoken, request| {
        if spoken == 3 {
            redactions.replace(Redactor::new([("npm", value.as_bytes())]));
        }
        honest(spoken, request)
    });
    let state = fixture.play(stored, options()).await;
    assert_eq!(state.condition, Condition::Verified, "{}", state.reason);
    assert!(state.created.task.contains(value));
    let marker = "[redacted:npm]";
    let opened = &state.pull_request.as_ref().unwrap().pull_request;
    let message = git(&fixture.repository(), &["log", "-1", "--format=%B"]);
    for text in [&opened.draft.title, &opened.draft.body, &message] {
        assert!(text.contains(marker) && !text.contains(value), "{text}");
    }
    assert!(!opened.draft.head.contains("subtracts"), "{opened:?}");
}

#[tokio::test]
async fn a_branch_with_a_credential_is_not_published_and_the_log_says_where_it_is() {
    let fixture = Fixture::new().await;
    let value = "t0ken-of-npm";
    let credential = Redactor::new([("npm", value.as_bytes())]);
    fixture.redactions.replace(credential);
    let leak = "printf '# t0ken%s\\n' -of-npm >> sums.py";
    let leaks = script(whole(vec![
        vec![fix(), run(leak)],
        look_and_claim(),
        vec![advance()],
    ]));
    let state = fixture.play(leaks, options()).await;
    assert_ne!(state.condition, Condition::Verified);
    assert!(state.pull_request.is_none());
    let why = "sums.py holds the credential [redacted:npm]";
    let told = fixture.events(state.id()).await.into_iter().any(|event| {
        matches!(event.body, EventBody::WorkEnded {
            work: Work::Publish,
            result: WorkResult::Failed { error, again: Again::IsUseless },
            ..
        } if error.contains(why))
    });
    assert!(told, "{}", state.reason);
}
