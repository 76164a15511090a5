//! Credentials: set, listed, deleted, sealed anew, and given to those who may use
//! them.
//!
//! Values are in memory while the daemon runs, because everything that it writes
//! is searched for them. A value that was replaced or deleted is searched for as
//! well, for [a time](past): commands that were given it may still print it, and
//! files may hold it.
//!
//! ```text
//! rotate:  next key on disk -> every value sealed with it, in one write -> next
//!          key in force
//! start:   all sealed with the next key -> put it in force
//!          none is                      -> forget it
//! ```

mod given;
mod hosts;
mod past;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ring::rand::{SecureRandom as _, SystemRandom};

use self::past::Past;
use super::{audit::Audit, redaction::Redactions, workspaces::WorkspaceCredentials};
use crate::{
    domain::{
        credential::{
            Credential, CredentialKey, CredentialRefused, CredentialScope, CredentialsChange,
            NewCredential, PastCredential, SealedCredential, in_force,
            seal::{MasterKey, NONCE_BYTES, OpenError},
        },
        ids::WorkspaceId,
        redaction::Redactor,
        workspace::Workspace,
    },
    ports::{
        clock::ClockPort,
        master_key::{MasterKeyError, MasterKeyPort},
        store::{StoreError, StorePort},
    },
};

/// The service; a cheap handle.
#[derive(Clone)]
pub struct Credentials {
    inner: Arc<Inner>,
}

struct Inner {
    store: Arc<dyn StorePort>,
    keys: Arc<dyn MasterKeyPort>,
    clock: Arc<dyn ClockPort>,
    audit: Audit,
    redactions: Redactions,
    /// The key in force. Held for the whole of a change, so that changes come one
    /// after the other.
    key: tokio::sync::Mutex<MasterKey>,
    /// Held for a look or an exchange.
    values: Mutex<Values>,
}

#[derive(Default)]
struct Values {
    current: Vec<Held>,
    /// Replaced or deleted.
    past: Vec<Past>,
    /// Ids of past values that this master key does not open.
    closed: Vec<String>,
}

#[derive(Clone)]
struct Held {
    credential: Credential,
    value: Vec<u8>,
}

/// What becomes of credentials whose master key is lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lost {
    /// Nothing: the daemon does not start, as it could not keep them out of
    /// anything.
    Refuse,
    /// They are deleted.
    Forget,
}

/// Why credentials cannot be had or changed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The credential is not accepted.
    #[error("credential {name} is not accepted: {refused}")]
    Refused {
        /// Its name.
        name: String,
        /// Why.
        refused: CredentialRefused,
    },
    /// There is none of this name in this scope.
    #[error("there is no credential {0} in this scope")]
    Unknown(String),
    /// The master key.
    #[error(transparent)]
    Key(#[from] MasterKeyError),
    /// The key does not fit what is stored.
    #[error(
        "credential {name} cannot be opened: {cause}; put the master key back that it was sealed with. When that is lost, start once with credentials.forget_lost = true, which deletes what does not open, and set it anew"
    )]
    Sealed {
        /// Its name.
        name: String,
        /// Why.
        cause: OpenError,
    },
    /// The source of the key gives the one in force.
    #[error(
        "the master key is still {0}: let its source give another one first, then rotate again"
    )]
    SameKey(String),
    /// There are no random numbers.
    #[error("this machine gives no random numbers, so nothing can be sealed")]
    NoRandomness,
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl Credentials {
    /// Opens every credential there is, and has `redactions` look for their
    /// values from now on. Finishes or takes back a rotation that a kill cut off.
    ///
    /// # Errors
    /// A key that is missing, exposed or wrong, unless what it sealed is lost and
    /// may be forgotten; or the store.
    pub async fn open(
        store: Arc<dyn StorePort>,
        keys: Arc<dyn MasterKeyPort>,
        clock: Arc<dyn ClockPort>,
        audit: Audit,
        redactions: Redactions,
        lost: Lost,
    ) -> Result<Self, CredentialError> {
        let mut sealed = store.credentials().await?;
        let past = store.past_credentials().await?;
        let found = keys.load().await?;
        let key = match (found.current, found.next) {
            (_, Some(next)) if is_in_use(&next, &sealed, &past) => {
                keys.commit_next().await?;
                next
            }
            (Some(current), next) => {
                if next.is_some() {
                    keys.discard_next().await?;
                }
                current
            }
            (None, _) => {
                if lost == Lost::Refuse && !sealed.is_empty() {
                    let count = sealed.len();
                    let what = format!("{count} credentials are stored");
                    return Err(MasterKeyError::Missing(what).into());
                }
                keys.create().await?
            }
        };
        if lost == Lost::Forget {
            for one in &sealed {
                if let Err(cause) = key.open(one) {
                    let name = &one.credential.key.name;
                    tracing::warn!(credential = %name, %cause, "a lost credential is forgotten");
                    let change = CredentialsChange {
                        remove: vec![one.credential.key.clone()],
                        ..CredentialsChange::default()
                    };
                    store.change_credentials(change).await?;
                }
            }
            sealed = store.credentials().await?;
        }
        let current = sealed.iter().map(|one| held(&key, one));
        let mut values = Values {
            current: current.collect::<Result<_, _>>()?,
            ..Values::default()
        };
        values.open_past(&key, past);
        let forgotten = values.overdue(clock.now_ms());
        values.forget(&forgotten);
        let service = Self {
            inner: Arc::new(Inner {
                store,
                keys,
                clock,
                audit,
                redactions,
                key: tokio::sync::Mutex::new(key),
                values: Mutex::new(values),
            }),
        };
        service.inner.redact(&service.inner.values());
        service.inner.forget_stored(forgotten).await;
        Ok(service)
    }

    /// Adds or replaces a credential; durable when it returns, and looked for
    /// before it can be used.
    ///
    /// # Errors
    /// [`CredentialError::Refused`], [`CredentialError::NoRandomness`],
    /// [`CredentialError::Store`].
    pub async fn set(&self, new: NewCredential) -> Result<Credential, CredentialError> {
        let inner = &self.inner;
        let name = new.key.name.to_string();
        let key = inner.key.lock().await;
        let now_ms = inner.clock.now_ms();
        let accept = |before: Option<&Credential>| {
            let refused = |refused| CredentialError::Refused {
                name: name.clone(),
                refused,
            };
            new.clone().accept(now_ms, before).map_err(refused)
        };
        let (first, _) = accept(None)?;
        // The scope is in its one form by now.
        let before = inner.values().find(&first.key);
        let (credential, value) = accept(before.as_ref().map(|held| &held.credential))?;
        let sealed = key.seal(credential.clone(), &value, nonce()?);
        let new = Held {
            credential: credential.clone(),
            value,
        };
        let ended = before.clone().map(|before| inner.ended(&key, before));
        let (ended, put_past) = ended.unzip();
        let change = CredentialsChange {
            put: vec![sealed],
            put_past: put_past.flatten().into_iter().collect(),
            remove_past: inner.values().overdue(now_ms),
            ..CredentialsChange::default()
        };
        let forgotten = change.remove_past.clone();
        inner.change(|values| {
            values.remove(&credential.key);
            values.current.push(new.clone());
            values.past.extend(ended);
        });
        if let Err(error) = inner.store.change_credentials(change).await {
            // It may have been given to a command meanwhile.
            let (ended, _) = inner.ended(&key, new);
            inner.change(|values| {
                values.remove(&credential.key);
                values.current.extend(before);
                values.past.push(ended);
            });
            return Err(error.into());
        }
        inner.change(|values| values.forget(&forgotten));
        tracing::info!(credential = %credential.key.name, scope = ?credential.key.scope, "credential set");
        Ok(credential)
    }

    /// Every credential, by scope and name.
    #[must_use]
    pub fn list(&self) -> Vec<Credential> {
        let values = self.inner.values();
        let mut all: Vec<_> = (values.current.iter())
            .map(|held| held.credential.clone())
            .collect();
        all.sort_by(|a, b| a.key.cmp(&b.key));
        all
    }

    /// Forgets a credential. Commands that were given it keep it.
    ///
    /// # Errors
    /// [`CredentialError::Unknown`], [`CredentialError::Store`].
    pub async fn delete(&self, key: &CredentialKey) -> Result<(), CredentialError> {
        let inner = &self.inner;
        let master = inner.key.lock().await;
        let Some(held) = inner.values().find(key) else {
            return Err(CredentialError::Unknown(key.name.to_string()));
        };
        inner.end(&master, held).await?;
        tracing::info!(credential = %key.name, scope = ?key.scope, "credential deleted");
        Ok(())
    }

    /// Seals every value with another master key, all or none; says how many and
    /// which key.
    ///
    /// # Errors
    /// [`CredentialError::Key`], [`CredentialError::SameKey`],
    /// [`CredentialError::Store`]; the key in force is then the one before.
    pub async fn rotate(&self) -> Result<(usize, String), CredentialError> {
        let inner = &self.inner;
        let mut key = inner.key.lock().await;
        // The last rotation may have come as far as the store and no further.
        let found = inner.keys.load().await?;
        if found.next.is_some_and(|next| next.id() == key.id()) {
            inner.keys.commit_next().await?;
        }
        let next = inner.keys.next().await?;
        if next.id() == key.id() {
            return Err(CredentialError::SameKey(key.id()));
        }
        let change = inner.sealed_with(&next)?;
        let (count, forgotten) = (change.put.len(), change.remove_past.clone());
        if let Err(error) = inner.store.change_credentials(change).await {
            inner.keys.discard_next().await?;
            return Err(error.into());
        }
        inner.change(|values| values.forget(&forgotten));
        *key = next;
        inner.keys.commit_next().await?;
        tracing::info!(credentials = count, key = %key.id(), "master key rotated");
        Ok((count, key.id()))
    }
}

impl Credentials {
    /// A workspace's record; an error is for a person.
    async fn workspace(&self, id: &WorkspaceId) -> Result<Option<Workspace>, String> {
        let found = self.inner.store.workspace(id).await;
        found.map_err(|error| format!("the credentials of {id} cannot be told: {error}"))
    }

    /// Those that a workspace may use now, in the order of their names.
    fn in_force(&self, workspace: &Workspace) -> Vec<Held> {
        let now_ms = self.inner.clock.now_ms();
        let values = self.inner.values();
        let all = values.current.iter().map(|held| &held.credential);
        let used = in_force(all, workspace, now_ms).into_iter();
        used.filter_map(|credential| values.find(&credential.key))
            .collect()
    }
}

#[async_trait]
impl WorkspaceCredentials for Credentials {
    async fn forget(&self, workspace: &WorkspaceId) -> Result<(), StoreError> {
        let scope = CredentialScope::Workspace(workspace.clone());
        let master = self.inner.key.lock().await;
        for credential in self.list() {
            let key = credential.key;
            let held = self.inner.values().find(&key);
            if let Some(held) = held.filter(|_| key.scope == scope) {
                self.inner.end(&master, held).await?;
                tracing::info!(credential = %key.name, workspace_id = %workspace,
                    "credential deleted with its workspace");
            }
        }
        Ok(())
    }
}

impl Inner {
    fn values(&self) -> MutexGuard<'_, Values> {
        self.values.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes what is held and what is looked for together.
    fn change(&self, change: impl FnOnce(&mut Values)) {
        let mut values = self.values();
        change(&mut values);
        self.redact(&values);
    }

    fn redact(&self, values: &Values) {
        let past = values.past.iter().map(|past| &past.held);
        let all = values.current.iter().chain(past);
        let named = all.flat_map(|held| {
            let secrets = held.credential.secrets(&held.value).into_iter();
            secrets.map(|secret| (held.credential.key.name.as_str(), secret))
        });
        let named: Vec<_> = named.collect();
        let named = named
            .iter()
            .map(|(name, secret)| (*name, secret.as_slice()));
        self.redactions.replace(Redactor::new(named));
    }
}

impl Values {
    fn find(&self, key: &CredentialKey) -> Option<Held> {
        let found = self.current.iter().find(|held| held.credential.key == *key);
        found.cloned()
    }

    fn remove(&mut self, key: &CredentialKey) {
        self.current.retain(|held| held.credential.key != *key);
    }
}

fn held(key: &MasterKey, sealed: &SealedCredential) -> Result<Held, CredentialError> {
    let value = key.open(sealed).map_err(|cause| CredentialError::Sealed {
        name: sealed.credential.key.name.to_string(),
        cause,
    })?;
    Ok(Held {
        credential: sealed.credential.clone(),
        value,
    })
}

/// Whether something is sealed with a key.
fn is_in_use(key: &MasterKey, sealed: &[SealedCredential], past: &[PastCredential]) -> bool {
    let past = past.iter().map(|one| &one.sealed);
    let mut all = sealed.iter().chain(past);
    all.any(|one| one.key_id == key.id())
}

fn nonce() -> Result<[u8; NONCE_BYTES], CredentialError> {
    let mut nonce = [0; NONCE_BYTES];
    let filled = SystemRandom::new().fill(&mut nonce);
    filled.map_err(|_| CredentialError::NoRandomness)?;
    Ok(nonce)
}
