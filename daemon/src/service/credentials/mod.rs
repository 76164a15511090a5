//! Credentials: set, listed, deleted, sealed anew, and given to those who may use
//! them.
//!
//! Values are in memory while the daemon runs, because everything that it writes
//! is searched for them. A value that was replaced or deleted is searched for
//! until the daemon ends: commands that were given it may still print it.
//!
//! ```text
//! rotate:  next key on disk -> every value sealed with it, in one write -> next
//!          key in force
//! start:   all sealed with the next key -> put it in force
//!          none is                      -> forget it
//! ```

mod given;
mod hosts;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use ring::rand::{SecureRandom as _, SystemRandom};

use super::{audit::Audit, redaction::Redactions, workspaces::WorkspaceCredentials};
use crate::{
    domain::{
        credential::{
            Credential, CredentialKey, CredentialRefused, CredentialScope, NewCredential,
            SealedCredential, in_force,
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
    /// Replaced or deleted since the daemon started.
    past: Vec<Held>,
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
        let found = keys.load().await?;
        let key = match (found.current, found.next) {
            (_, Some(next)) if sealed.iter().any(|one| one.key_id == next.id()) => {
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
                    store.remove_credential(&one.credential.key).await?;
                }
            }
            sealed = store.credentials().await?;
        }
        let current = sealed.iter().map(|one| held(&key, one));
        let values = Values {
            current: current.collect::<Result<_, _>>()?,
            past: Vec::new(),
        };
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
        inner.change(|values| {
            values.remove(&credential.key);
            values.current.push(Held {
                credential: credential.clone(),
                value,
            });
        });
        if let Err(error) = inner.store.put_credentials(&[sealed]).await {
            inner.change(|values| {
                values.remove(&credential.key);
                values.current.extend(before);
            });
            return Err(error.into());
        }
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
        let _one_by_one = inner.key.lock().await;
        if inner.values().find(key).is_none() {
            return Err(CredentialError::Unknown(key.name.to_string()));
        }
        inner.store.remove_credential(key).await?;
        inner.change(|values| values.remove(key));
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
        let all = inner.values().current.clone();
        let sealed = all.into_iter().map(|held| {
            let nonce = nonce()?;
            Ok(next.seal(held.credential, &held.value, nonce))
        });
        let sealed: Vec<SealedCredential> = sealed.collect::<Result<_, CredentialError>>()?;
        if let Err(error) = inner.store.put_credentials(&sealed).await {
            inner.keys.discard_next().await?;
            return Err(error.into());
        }
        *key = next;
        inner.keys.commit_next().await?;
        tracing::info!(credentials = sealed.len(), key = %key.id(), "master key rotated");
        Ok((sealed.len(), key.id()))
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
        let _one_by_one = self.inner.key.lock().await;
        for credential in self.list() {
            let key = credential.key;
            if key.scope == scope {
                self.inner.store.remove_credential(&key).await?;
                self.inner.change(|values| values.remove(&key));
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
        let all = values.current.iter().chain(&values.past);
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
        let (removed, kept) = std::mem::take(&mut self.current)
            .into_iter()
            .partition(|held: &Held| held.credential.key == *key);
        self.current = kept;
        self.past.extend::<Vec<_>>(removed);
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

fn nonce() -> Result<[u8; NONCE_BYTES], CredentialError> {
    let mut nonce = [0; NONCE_BYTES];
    let filled = SystemRandom::new().fill(&mut nonce);
    filled.map_err(|_| CredentialError::NoRandomness)?;
    Ok(nonce)
}
