//! What is looked at, and when.

use uuid::Uuid;

use super::*;

fn id(number: u128) -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::from_u128(number))
}

#[test]
fn a_workspace_that_is_woken_while_it_is_settled_is_due_again_after() {
    let mut agenda = Agenda::default();
    agenda.due.insert(id(1));
    assert_eq!(agenda.take(), Some(id(1)));
    agenda.due.insert(id(1));
    assert_eq!(agenda.take(), None);
    settle_next(id(1), Ok(Settled::AsDesired), &mut agenda);
    assert_eq!(agenda.take(), Some(id(1)));
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_tried_again_after_longer_and_longer() {
    let mut agenda = Agenda::default();
    let failed = || {
        let error = WorkspacesError::Salvage("it fails".to_owned());
        Err::<Settled, _>(error)
    };
    let mut pauses = Vec::new();
    for _ in 0..8 {
        settle_next(id(1), failed(), &mut agenda);
        let now = Instant::now();
        let ripe = agenda.ripen(now).unwrap();
        pauses.push((ripe - now).as_secs());
        tokio::time::advance(ripe - now).await;
        assert_eq!(agenda.ripen(Instant::now()), None);
        assert_eq!(agenda.take(), Some(id(1)));
    }
    assert_eq!(pauses, [1, 2, 4, 8, 16, 30, 30, 30]);
    settle_next(id(1), Ok(Settled::AsDesired), &mut agenda);
    settle_next(id(1), failed(), &mut agenda);
    assert_eq!(agenda.later[&id(1)] - Instant::now(), SETTLE_RETRY.0);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_is_away_is_waited_for_and_not_asked() {
    let mut agenda = Agenda::default();
    let away = RuntimeError::Unavailable("it is down".to_owned());
    settle_next(id(1), Err(away.into()), &mut agenda);
    assert_eq!(agenda.ripen(Instant::now()), None);
    assert_eq!(agenda.take(), None);
}
