//! Tokens of callers on other machines: made, listed, revoked, and known again.
//!
//! All of them are in memory while the daemon runs, so that a call waits for no
//! disk. When one was used last goes to the store about once a minute.

pub mod subjects;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{
        Arc, PoisonError, RwLock,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use ring::rand::{SecureRandom as _, SystemRandom};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::{
    domain::{
        access::{Presented, Role, SECRET_BYTES, Scope, Token, key_for, mint},
        ids::{TokenName, WorkspaceId},
        secret::Secret,
    },
    ports::{
        clock::ClockPort,
        store::{StoreError, StorePort},
    },
};

/// How often the times of last use are written.
const KEEP_USES_EVERY: Duration = Duration::from_secs(60);
/// A token that was never used.
const NEVER: i64 = i64::MIN;

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Tokens {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn StorePort>,
    clock: Arc<dyn ClockPort>,
    /// By what names them in a token. Held for a look or an exchange.
    held: RwLock<HashMap<String, Arc<Held>>>,
    /// Held for the whole of a change of the store, so that a token that is
    /// revoked is not written again.
    changes: tokio::sync::Mutex<()>,
}

/// A token that is in force.
#[derive(Debug)]
pub struct Held {
    token: Token,
    scope: Scope,
    last_used_at_ms: AtomicI64,
    revoked: CancellationToken,
}

impl Held {
    /// Its record, as it was read or made.
    #[must_use]
    pub fn token(&self) -> &Token {
        &self.token
    }

    /// What it is for.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// Cancelled when it is revoked.
    #[must_use]
    pub fn revoked(&self) -> &CancellationToken {
        &self.revoked
    }

    fn new(token: Token) -> Arc<Self> {
        Arc::new(Self {
            scope: token.scope(),
            last_used_at_ms: AtomicI64::new(token.last_used_at_ms.unwrap_or(NEVER)),
            token,
            revoked: CancellationToken::new(),
        })
    }

    /// Its record with the last use of now.
    fn current(&self) -> Token {
        let at_ms = self.last_used_at_ms.load(Ordering::Relaxed);
        Token {
            last_used_at_ms: (at_ms != NEVER).then_some(at_ms),
            ..self.token.clone()
        }
    }
}

/// A token that is to be made.
#[derive(Debug, Clone)]
pub struct NewToken {
    /// A name that no token has.
    pub name: TokenName,
    /// What it may call.
    pub role: Role,
    /// The workspaces that it is for; empty means all.
    pub workspaces: Vec<WorkspaceId>,
    /// How long it is good for; `None` means for ever.
    pub expires_in: Option<Duration>,
}

/// Why a caller is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotKnown {
    /// There is no such token, or it was revoked.
    #[error("the token is not known")]
    Unknown,
    /// It was good once.
    #[error("the token has expired")]
    Expired,
}

/// Why tokens cannot be had or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TokensError {
    /// The name is taken.
    #[error("there is a token {0}")]
    Exists(TokenName),
    /// There is none of this name.
    #[error("there is no token {0}")]
    Unknown(TokenName),
    /// There are no random numbers.
    #[error("this machine gives no random numbers, so no token can be made")]
    NoRandomness,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Tokens {
    /// Reads every token there is.
    ///
    /// # Errors
    /// What the store fails with.
    pub async fn open(
        store: Arc<dyn StorePort>,
        clock: Arc<dyn ClockPort>,
    ) -> Result<Self, StoreError> {
        let all = store.tokens().await?.into_iter();
        let held = all.map(|token| (token.key.clone(), Held::new(token)));
        Ok(Self {
            inner: Arc::new(Inner {
                held: RwLock::new(held.collect()),
                store,
                clock,
                changes: tokio::sync::Mutex::new(()),
            }),
        })
    }

    /// Makes a token for the request of this id; durable when it returns. The secret
    /// is told here alone: the same request again, whose answer was lost, replaces
    /// it in a token that nobody has used.
    ///
    /// # Errors
    /// [`TokensError::Exists`], [`TokensError::NoRandomness`],
    /// [`TokensError::Store`].
    pub async fn create(
        &self,
        request: Uuid,
        new: NewToken,
    ) -> Result<(Token, Secret), TokensError> {
        let _changing = self.inner.changes.lock().await;
        let mut secret = [0; SECRET_BYTES];
        let filled = SystemRandom::new().fill(&mut secret);
        filled.map_err(|_| TokensError::NoRandomness)?;
        let (key, hash, secret) = mint(key_for(request), secret);
        let before = self.named(&new.name);
        if let Some(before) = &before
            && (before.token.key != key || before.current().last_used_at_ms.is_some())
        {
            return Err(TokensError::Exists(new.name));
        }
        let now_ms = self.inner.clock.now_ms();
        let token = Token {
            name: new.name,
            key,
            hash,
            role: new.role,
            workspaces: new.workspaces,
            created_at_ms: now_ms,
            expires_at_ms: new.expires_in.map(|after| {
                let after_ms = i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
                now_ms.saturating_add(after_ms)
            }),
            last_used_at_ms: None,
        };
        self.inner
            .store
            .put_tokens(std::slice::from_ref(&token))
            .await?;
        let held = Held::new(token.clone());
        self.write(|all| all.insert(token.key.clone(), held));
        if let Some(before) = before {
            before.revoked.cancel();
        }
        Ok((token, secret))
    }

    /// Every token by name, with its last use.
    #[must_use]
    pub fn list(&self) -> Vec<Token> {
        let mut all: Vec<Token> = self.read(|all| all.values().map(|it| it.current()).collect());
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// What tells the token that has a name from those that have it before or after.
    ///
    /// # Errors
    /// [`TokensError::Unknown`].
    pub fn key_of(&self, name: &TokenName) -> Result<String, TokensError> {
        let held = self.named(name);
        let held = held.ok_or_else(|| TokensError::Unknown(name.clone()))?;
        Ok(held.token.key.clone())
    }

    /// Ends the token that has a name; durable when it returns. Calls that are made
    /// with it are told.
    ///
    /// # Errors
    /// [`TokensError::Unknown`], [`TokensError::Store`]: it is in force still.
    pub async fn revoke(&self, name: &TokenName) -> Result<(), TokensError> {
        let key = self.key_of(name)?;
        self.revoke_this(name, &key).await
    }

    /// The same for the token of this name and key alone: where another has the name,
    /// there is none.
    ///
    /// # Errors
    /// As for [`revoke`](Self::revoke).
    pub async fn revoke_this(&self, name: &TokenName, key: &str) -> Result<(), TokensError> {
        let _changing = self.inner.changes.lock().await;
        let held = self.named(name).filter(|held| held.token.key == key);
        let held = held.ok_or_else(|| TokensError::Unknown(name.clone()))?;
        self.inner.store.remove_token(name).await?;
        self.write(|all| all.remove(&held.token.key));
        held.revoked.cancel();
        Ok(())
    }

    /// The token that a caller presents; it is used by that.
    ///
    /// # Errors
    /// See [`NotKnown`].
    pub fn know(&self, presented: &Presented) -> Result<Arc<Held>, NotKnown> {
        let held = self.read(|all| all.get(&presented.key).cloned());
        let held = held.filter(|held| held.token.is_of(presented));
        let held = held.ok_or(NotKnown::Unknown)?;
        let now_ms = self.inner.clock.now_ms();
        if held.token.has_expired(now_ms) {
            return Err(NotKnown::Expired);
        }
        held.last_used_at_ms.store(now_ms, Ordering::Relaxed);
        Ok(held)
    }

    /// How long a token is still good for; `None` means for ever.
    #[must_use]
    pub fn good_for(&self, token: &Token) -> Option<Duration> {
        let left_ms = token.expires_at_ms? - self.inner.clock.now_ms();
        Some(Duration::from_millis(u64::try_from(left_ms).unwrap_or(0)))
    }

    /// Writes from time to time, and at the end, when tokens were used last. A
    /// failure is logged and tried again.
    pub async fn run_upkeep(&self, stop: CancellationToken) {
        let mut every = tokio::time::interval(KEEP_USES_EVERY);
        loop {
            let stopping = tokio::select! {
                () = stop.cancelled() => true,
                _ = every.tick() => false,
            };
            if let Err(error) = self.keep_uses().await {
                tracing::warn!(%error, "when tokens were used last is not kept");
            }
            if stopping {
                return;
            }
        }
    }

    async fn keep_uses(&self) -> Result<(), StoreError> {
        let _changing = self.inner.changes.lock().await;
        let kept = self.inner.store.tokens().await?;
        let changed: Vec<Token> = self
            .list()
            .into_iter()
            .filter(|it| !kept.contains(it))
            .collect();
        match changed.is_empty() {
            true => Ok(()),
            false => self.inner.store.put_tokens(&changed).await,
        }
    }

    fn named(&self, name: &TokenName) -> Option<Arc<Held>> {
        self.read(|all| all.values().find(|held| held.token.name == *name).cloned())
    }

    fn read<T>(&self, look: impl FnOnce(&HashMap<String, Arc<Held>>) -> T) -> T {
        let held = self.inner.held.read();
        look(&held.unwrap_or_else(PoisonError::into_inner))
    }

    fn write<T>(&self, change: impl FnOnce(&mut HashMap<String, Arc<Held>>) -> T) -> T {
        let held = self.inner.held.write();
        change(&mut held.unwrap_or_else(PoisonError::into_inner))
    }
}
