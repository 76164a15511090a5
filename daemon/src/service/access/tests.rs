use super::*;
use crate::adapters::memory::{ManualClock, MemoryStore};

async fn opened(store: &Arc<MemoryStore>, clock: &Arc<ManualClock>) -> Tokens {
    Tokens::open(store.clone(), clock.clone()).await.unwrap()
}

fn new(name: &str) -> NewToken {
    NewToken {
        name: name.parse().unwrap(),
        role: Role::Author,
        workspaces: Vec::new(),
        expires_in: Some(Duration::from_secs(60)),
    }
}

fn presented(secret: &Secret) -> Presented {
    Presented::parse(secret.expose()).unwrap()
}

#[tokio::test]
async fn a_token_is_known_until_it_expires_also_after_a_restart() {
    let (store, clock) = (
        Arc::new(MemoryStore::new()),
        Arc::new(ManualClock::at(1_000)),
    );
    let tokens = opened(&store, &clock).await;
    let (token, secret) = tokens.create(Uuid::now_v7(), new("ci")).await.unwrap();
    assert_eq!(tokens.list()[0].last_used_at_ms, None);
    clock.advance(Duration::from_secs(1));
    let held = tokens.know(&presented(&secret)).unwrap();
    assert_eq!(held.token(), &token);
    assert_eq!(tokens.list()[0].last_used_at_ms, Some(2_000));
    assert_eq!(store.tokens().await.unwrap()[0].last_used_at_ms, None);
    tokens.keep_uses().await.unwrap();
    let again = opened(&store, &clock).await;
    assert_eq!(again.list()[0].last_used_at_ms, Some(2_000));
    assert!(again.know(&presented(&secret)).is_ok());
    clock.advance(Duration::from_secs(59));
    let refused = again.know(&presented(&secret)).map(|_| ());
    assert_eq!(refused, Err(NotKnown::Expired));
}

#[tokio::test]
async fn a_revoked_token_is_not_known_and_does_not_come_back() {
    let (store, clock) = (
        Arc::new(MemoryStore::new()),
        Arc::new(ManualClock::default()),
    );
    let tokens = opened(&store, &clock).await;
    let (token, secret) = tokens.create(Uuid::now_v7(), new("ci")).await.unwrap();
    let held = tokens.know(&presented(&secret)).unwrap();
    tokens.revoke(&token.name).await.unwrap();
    assert!(held.revoked().is_cancelled());
    let refused = tokens.know(&presented(&secret)).map(|_| ());
    assert_eq!(refused, Err(NotKnown::Unknown));
    tokens.keep_uses().await.unwrap();
    assert_eq!(store.tokens().await.unwrap(), []);
    let unknown = tokens.revoke(&token.name).await;
    assert_eq!(unknown, Err(TokensError::Unknown(token.name)));
}

#[tokio::test]
async fn a_token_that_is_named_with_its_key_is_no_later_one_of_the_name() {
    let (store, clock) = (
        Arc::new(MemoryStore::new()),
        Arc::new(ManualClock::default()),
    );
    let tokens = opened(&store, &clock).await;
    let (first, _) = tokens.create(Uuid::now_v7(), new("ci")).await.unwrap();
    let key = tokens.key_of(&first.name).unwrap();
    assert_eq!(key, first.key);
    tokens.revoke_this(&first.name, &key).await.unwrap();
    let (second, _) = tokens.create(Uuid::now_v7(), new("ci")).await.unwrap();
    let unknown = tokens.revoke_this(&first.name, &key).await;
    assert_eq!(unknown, Err(TokensError::Unknown(first.name)));
    assert_eq!(tokens.list(), [second]);
}

#[tokio::test]
async fn a_name_is_given_once_and_a_wrong_secret_of_it_is_nobodys() {
    let (store, clock) = (
        Arc::new(MemoryStore::new()),
        Arc::new(ManualClock::default()),
    );
    let tokens = opened(&store, &clock).await;
    let (_, secret) = tokens.create(Uuid::now_v7(), new("ci")).await.unwrap();
    let again = tokens.create(Uuid::now_v7(), new("ci")).await.map(|_| ());
    assert_eq!(again, Err(TokensError::Exists("ci".parse().unwrap())));
    let last = if secret.expose().ends_with('0') {
        "1"
    } else {
        "0"
    };
    let text = secret.expose();
    let wrong = format!("{}{last}", &text[..text.len() - 1]);
    let refused = tokens.know(&Presented::parse(&wrong).unwrap()).map(|_| ());
    assert_eq!(refused, Err(NotKnown::Unknown));
    assert_eq!(
        tokens.list()[0].last_used_at_ms,
        None,
        "that was no use of it"
    );
}

#[tokio::test]
async fn a_token_whose_secret_was_lost_with_the_daemon_is_given_another_by_its_request() {
    let (store, clock) = (
        Arc::new(MemoryStore::new()),
        Arc::new(ManualClock::default()),
    );
    let request = Uuid::now_v7();
    let first = opened(&store, &clock).await;
    let (_, lost) = first.create(request, new("ci")).await.unwrap();
    let next = opened(&store, &clock).await;
    let held = next.named(&"ci".parse().unwrap()).unwrap();
    let (token, secret) = next.create(request, new("ci")).await.unwrap();
    assert!(held.revoked().is_cancelled());
    assert_eq!(next.list(), std::slice::from_ref(&token));
    assert_eq!(store.tokens().await.unwrap(), [token]);
    let refused = next.know(&presented(&lost)).map(|_| ());
    assert_eq!(refused, Err(NotKnown::Unknown));
    // Another request has no part in it, and one that was used was not lost.
    let exists = Err(TokensError::Exists("ci".parse().unwrap()));
    let other = next.create(Uuid::now_v7(), new("ci")).await;
    assert_eq!(other.map(|_| ()), exists);
    assert!(next.know(&presented(&secret)).is_ok());
    let again = next.create(request, new("ci")).await;
    assert_eq!(again.map(|_| ()), exists);
}

#[tokio::test]
async fn a_full_disk_makes_no_token_and_keeps_a_revoked_one_in_force() {
    let (store, clock) = (
        Arc::new(MemoryStore::new()),
        Arc::new(ManualClock::default()),
    );
    let tokens = opened(&store, &clock).await;
    let (token, secret) = tokens.create(Uuid::now_v7(), new("ci")).await.unwrap();
    store.fill_disk();
    assert!(matches!(
        tokens.create(Uuid::now_v7(), new("web")).await,
        Err(TokensError::Store(_))
    ));
    assert!(matches!(
        tokens.revoke(&token.name).await,
        Err(TokensError::Store(_))
    ));
    assert_eq!(tokens.list().len(), 1);
    assert!(tokens.know(&presented(&secret)).is_ok());
}
