//! Values that were replaced or deleted. Nobody is given them and no list shows
//! them; what is written is searched for them, also by a daemon that was started
//! since, for [`KEPT_DAYS`] days.

use super::{CredentialError, Held, Inner, Values, held, nonce};
use crate::{
    domain::credential::{
        CredentialsChange, PastCredential,
        seal::{MasterKey, NONCE_BYTES},
    },
    ports::store::StoreError,
};

/// How long a past value is looked for.
const KEPT_DAYS: i64 = 30;
/// Past values that are looked for; the oldest go beyond it.
const MOST: usize = 256;

/// A value that is not in use any more.
#[derive(Clone)]
pub(super) struct Past {
    id: String,
    ended_at_ms: i64,
    pub(super) held: Held,
}

impl Past {
    fn sealed(&self, key: &MasterKey, nonce: [u8; NONCE_BYTES]) -> PastCredential {
        PastCredential {
            id: self.id.clone(),
            ended_at_ms: self.ended_at_ms,
            sealed: key.seal(self.held.credential.clone(), &self.held.value, nonce),
        }
    }
}

impl Values {
    /// Takes in past values as they were stored. One that does not open is left
    /// where it is: another key may come back, and a rotation drops it.
    pub(super) fn open_past(&mut self, key: &MasterKey, stored: Vec<PastCredential>) {
        for one in stored {
            match held(key, &one.sealed) {
                Ok(held) => self.past.push(Past {
                    id: one.id,
                    ended_at_ms: one.ended_at_ms,
                    held,
                }),
                Err(error) => {
                    tracing::warn!(%error, "a past value of a credential is not looked for");
                    self.closed.push(one.id);
                }
            }
        }
    }

    /// The ids of those that are not kept any longer, once one more has come.
    pub(super) fn overdue(&self, now_ms: i64) -> Vec<String> {
        const DAY_MS: i64 = 24 * 60 * 60 * 1_000;
        let since_ms = now_ms.saturating_sub(KEPT_DAYS * DAY_MS);
        let mut by_age: Vec<&Past> = self.past.iter().collect();
        by_age.sort_by_key(|past| past.ended_at_ms);
        let beyond = by_age.len().saturating_sub(MOST - 1);
        let overdue = (by_age.into_iter().enumerate())
            .filter(|(place, past)| *place < beyond || past.ended_at_ms < since_ms);
        overdue.map(|(_, past)| past.id.clone()).collect()
    }

    /// Stops looking for those of these ids.
    pub(super) fn forget(&mut self, ids: &[String]) {
        self.past.retain(|past| !ids.contains(&past.id));
        self.closed.retain(|id| !ids.contains(id));
    }
}

impl Inner {
    /// A value whose use ends now, and how it is stored. It is looked for even
    /// where it cannot be.
    pub(super) fn ended(&self, key: &MasterKey, held: Held) -> (Past, Option<PastCredential>) {
        let nonce = nonce();
        let id = nonce.as_ref().map_or_else(
            |_| uuid::Uuid::now_v7().simple().to_string(),
            |nonce| nonce.iter().map(|byte| format!("{byte:02x}")).collect(),
        );
        let past = Past {
            id,
            ended_at_ms: self.clock.now_ms(),
            held,
        };
        let stored = nonce.map(|nonce| past.sealed(key, nonce));
        if let Err(error) = &stored {
            tracing::warn!(%error, "a past value is looked for until the daemon ends");
        }
        (past, stored.ok())
    }

    /// Deletes a credential and keeps what it was for the search.
    pub(super) async fn end(&self, key: &MasterKey, held: Held) -> Result<(), StoreError> {
        let of = held.credential.key.clone();
        let (past, stored) = self.ended(key, held);
        let change = CredentialsChange {
            remove: vec![of.clone()],
            put_past: stored.into_iter().collect(),
            remove_past: self.values().overdue(past.ended_at_ms),
            ..CredentialsChange::default()
        };
        let forgotten = change.remove_past.clone();
        self.store.change_credentials(change).await?;
        self.change(|values| {
            values.remove(&of);
            values.forget(&forgotten);
            values.past.push(past);
        });
        Ok(())
    }

    /// Everything sealed with another key, without what cannot be.
    pub(super) fn sealed_with(
        &self,
        key: &MasterKey,
    ) -> Result<CredentialsChange, CredentialError> {
        let values = self.values();
        let current = values.current.iter().map(|held| {
            let nonce = nonce()?;
            Ok(key.seal(held.credential.clone(), &held.value, nonce))
        });
        let past = values
            .past
            .iter()
            .map(|past| Ok(past.sealed(key, nonce()?)));
        Ok(CredentialsChange {
            put: current.collect::<Result<_, CredentialError>>()?,
            put_past: past.collect::<Result<_, CredentialError>>()?,
            remove_past: values.closed.clone(),
            ..CredentialsChange::default()
        })
    }

    /// Removes past values from the store. A full disk leaves them for the next
    /// start.
    pub(super) async fn forget_stored(&self, ids: Vec<String>) {
        if ids.is_empty() {
            return;
        }
        let change = CredentialsChange {
            remove_past: ids,
            ..CredentialsChange::default()
        };
        if let Err(error) = self.store.change_credentials(change).await {
            tracing::warn!(%error, "past values of credentials are not removed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::credential::{
        AllowedTools, Credential, CredentialKey, CredentialKind, CredentialScope,
    };

    #[test]
    fn the_oldest_go_beyond_the_limit_and_all_beyond_their_age() {
        let past = |number: i64| Past {
            id: number.to_string(),
            ended_at_ms: number,
            held: Held {
                credential: Credential {
                    key: CredentialKey {
                        scope: CredentialScope::Global,
                        name: "npm".parse().unwrap(),
                    },
                    kind: CredentialKind::Value,
                    environment: None,
                    host: None,
                    host_keys: Vec::new(),
                    tools: AllowedTools::default(),
                    expires_at_ms: None,
                    created_at_ms: 0,
                    updated_at_ms: 0,
                },
                value: Vec::new(),
            },
        };
        let most = i64::try_from(MOST).unwrap();
        let mut values = Values {
            past: (0..=most).rev().map(past).collect(),
            ..Values::default()
        };
        assert_eq!(
            values.overdue(most),
            ["0", "1"],
            "there is room for one more"
        );
        values.forget(&["0".to_owned(), "1".to_owned()]);
        assert_eq!(values.overdue(most), Vec::<String>::new());
        let age_ms = KEPT_DAYS * 24 * 60 * 60 * 1_000;
        assert_eq!(values.overdue(age_ms + 4), ["2", "3"]);
    }
}
