use std::sync::atomic::{AtomicU8, Ordering};

use async_trait::async_trait;

use super::*;
use crate::{
    adapters::memory::{MemoryAudit, MemoryStore},
    domain::credential::{CredentialKind, CredentialScope},
    ports::{contract::store::workspace, master_key::KeysFound},
};

/// A key file in memory: which key is in force, and which comes next; 0 is none.
#[derive(Default)]
struct KeyFile {
    current: AtomicU8,
    next: AtomicU8,
    /// The key that is drawn next.
    drawn: AtomicU8,
    /// Whether commits fail.
    stuck: AtomicU8,
}

fn master_key(number: u8) -> Option<MasterKey> {
    (number > 0).then(|| MasterKey::new([number; 32]))
}

#[async_trait]
impl MasterKeyPort for KeyFile {
    async fn load(&self) -> Result<KeysFound, MasterKeyError> {
        Ok(KeysFound {
            current: master_key(self.current.load(Ordering::SeqCst)),
            next: master_key(self.next.load(Ordering::SeqCst)),
        })
    }
    async fn create(&self) -> Result<MasterKey, MasterKeyError> {
        let drawn = self.drawn.fetch_add(1, Ordering::SeqCst) + 1;
        self.current.store(drawn, Ordering::SeqCst);
        Ok(master_key(drawn).expect("it counts from 1"))
    }
    async fn next(&self) -> Result<MasterKey, MasterKeyError> {
        let drawn = self.drawn.fetch_add(1, Ordering::SeqCst) + 1;
        self.next.store(drawn, Ordering::SeqCst);
        Ok(master_key(drawn).expect("it counts from 1"))
    }
    async fn commit_next(&self) -> Result<(), MasterKeyError> {
        if self.stuck.load(Ordering::SeqCst) > 0 {
            return Err(MasterKeyError::Io {
                action: "put in force",
                source_name: "the file".to_owned(),
                message: "no".to_owned(),
            });
        }
        let next = self.next.swap(0, Ordering::SeqCst);
        self.current.store(next, Ordering::SeqCst);
        Ok(())
    }
    async fn discard_next(&self) -> Result<(), MasterKeyError> {
        self.next.store(0, Ordering::SeqCst);
        Ok(())
    }
}

struct FixedClock;

impl ClockPort for FixedClock {
    fn now_ms(&self) -> i64 {
        100
    }
}

#[derive(Clone, Default)]
struct Setting {
    store: Arc<MemoryStore>,
    keys: Arc<KeyFile>,
    redactions: Redactions,
    audit: Arc<MemoryAudit>,
}

impl Setting {
    /// A daemon that starts.
    async fn open(&self, lost: Lost) -> Result<Credentials, CredentialError> {
        Credentials::open(
            self.store.clone(),
            self.keys.clone(),
            Arc::new(FixedClock),
            Audit::new(
                self.audit.clone(),
                Arc::new(FixedClock),
                Redactions::default(),
            ),
            self.redactions.clone(),
            lost,
        )
        .await
    }

    async fn started(&self) -> Credentials {
        let opened = self.open(Lost::Refuse).await;
        opened.unwrap_or_else(|error| panic!("{error}"))
    }

    fn shown(&self, text: &str) -> String {
        self.redactions.current().text(text).into_owned()
    }
}

fn new(name: &str, value: &str) -> NewCredential {
    NewCredential {
        key: key(name),
        kind: CredentialKind::Value,
        environment: None,
        expires_at_ms: None,
        value: value.as_bytes().to_vec(),
    }
}

fn key(name: &str) -> CredentialKey {
    CredentialKey {
        scope: CredentialScope::Global,
        name: name.parse().unwrap(),
    }
}

#[tokio::test]
async fn a_value_is_sealed_and_looked_for_from_the_moment_it_is_set() {
    let setting = Setting::default();
    let credentials = setting.started().await;
    credentials.set(new("npm", "t0ken-of-npm")).await.unwrap();
    assert_eq!(setting.shown("a t0ken-of-npm"), "a [redacted:npm]");
    let stored = setting.store.credentials().await.unwrap();
    let stored = serde_json::to_string(&stored).unwrap();
    assert!(!stored.contains("t0ken"), "{stored}");

    let again = Setting {
        redactions: Redactions::default(),
        ..setting
    };
    let credentials = again.started().await;
    assert_eq!(again.shown("a t0ken-of-npm"), "a [redacted:npm]");
    assert_eq!(credentials.list().len(), 1);
}

#[tokio::test]
async fn a_replaced_or_deleted_value_is_looked_for_until_the_daemon_ends() {
    let setting = Setting::default();
    let credentials = setting.started().await;
    credentials.set(new("npm", "t0ken-number-1")).await.unwrap();
    credentials.set(new("npm", "t0ken-number-2")).await.unwrap();
    let both = "t0ken-number-1 t0ken-number-2";
    assert_eq!(setting.shown(both), "[redacted:npm] [redacted:npm]");
    assert_eq!(credentials.list().len(), 1);
    credentials.delete(&key("npm")).await.unwrap();
    assert_eq!(setting.shown(both), "[redacted:npm] [redacted:npm]");
    assert_eq!(credentials.list(), []);
    let unknown = CredentialError::Unknown("npm".to_owned());
    assert_eq!(credentials.delete(&key("npm")).await, Err(unknown));
    setting.started().await;
    assert_eq!(setting.shown(both), both);
}

#[tokio::test]
async fn commands_are_given_what_is_in_force_where_they_run() {
    let setting = Setting::default();
    let (here, there) = (workspace(1, "here"), workspace(2, "there"));
    for known in [&here, &there] {
        setting.store.add_workspace(known).await.unwrap();
    }
    let credentials = setting.started().await;
    assert!(credentials.of(&here.id).await == Ok(CommandSecrets::default()));
    let own = |new: NewCredential| NewCredential {
        key: CredentialKey {
            scope: CredentialScope::Workspace(here.id.clone()),
            ..new.key
        },
        ..new
    };
    let expired = NewCredential {
        expires_at_ms: Some(100),
        ..new("old", "t0ken-that-was")
    };
    let file = NewCredential {
        kind: CredentialKind::File,
        environment: Some("NETRC".to_owned()),
        ..own(new("netrc", "machine a\nlogin b\n"))
    };
    for new in [
        new("npm", "t0ken-for-all"),
        own(new("npm", "t0ken-for-here")),
        expired,
        file,
    ] {
        credentials.set(new).await.unwrap();
    }
    let variable = |value: &str| ("NPM".to_owned(), value.as_bytes().to_vec());
    let expected = CommandSecrets {
        environment: vec![variable("t0ken-for-here")],
        files: vec![SecretFile {
            name: "netrc".to_owned(),
            content: b"machine a\nlogin b\n".to_vec(),
            variable: Some("NETRC".to_owned()),
        }],
    };
    assert!(credentials.of(&here.id).await == Ok(expected));
    let expected = CommandSecrets {
        environment: vec![variable("t0ken-for-all")],
        files: Vec::new(),
    };
    assert!(credentials.of(&there.id).await == Ok(expected));
    // Each use was on record before; without a record there is none.
    let uses = setting.audit.entries();
    let uses: Vec<_> = uses
        .iter()
        .filter(|entry| entry.kind == Kind::CredentialUse)
        .map(|entry| (entry.workspace.clone(), entry.detail["credentials"].clone()))
        .collect();
    let of = |id: &WorkspaceId, names: &[&str]| (Some(id.to_string()), names.into());
    assert_eq!(uses.len(), 2);
    assert!(uses[0].0 == Some(here.id.to_string()));
    assert_eq!(uses[1], of(&there.id, &["npm"]));
    setting.audit.set_full(true);
    let refused = credentials.of(&there.id).await;
    assert!(refused.is_err_and(|error| error.contains("not on record")));
    setting.audit.set_full(false);
    let unknown = workspace(3, "gone").id;
    assert!(credentials.of(&unknown).await == Ok(CommandSecrets::default()));
}

#[tokio::test]
async fn a_full_disk_leaves_the_credential_as_it_was() {
    let setting = Setting::default();
    let credentials = setting.started().await;
    let first = credentials.set(new("npm", "t0ken-number-1")).await.unwrap();
    setting.store.fill_disk();
    let refused = credentials.set(new("npm", "t0ken-number-2")).await;
    assert!(matches!(
        refused,
        Err(CredentialError::Store(StoreError::DiskFull(_)))
    ));
    setting.store.free_disk();
    assert_eq!(credentials.list(), [first]);
    credentials.rotate().await.unwrap();
    setting.started().await;
    assert_eq!(setting.shown("t0ken-number-1"), "[redacted:npm]");
    assert_eq!(setting.shown("t0ken-number-2"), "t0ken-number-2");
}

#[tokio::test]
async fn a_rotation_seals_everything_anew() {
    let setting = Setting::default();
    let credentials = setting.started().await;
    for name in ["a", "b"] {
        let value = format!("t0ken-of-{name}");
        credentials.set(new(name, &value)).await.unwrap();
    }
    let before = setting.store.credentials().await.unwrap();
    let (count, key_id) = credentials.rotate().await.unwrap();
    assert_eq!(count, 2);
    let after = setting.store.credentials().await.unwrap();
    assert!(after.iter().all(|one| one.key_id == key_id));
    assert!(before.iter().all(|one| one.key_id != key_id));
    credentials.set(new("c", "t0ken-of-c")).await.unwrap();
    assert_eq!(setting.started().await.list().len(), 3);
}

#[tokio::test]
async fn a_rotation_that_was_cut_off_is_finished_or_taken_back() {
    // After the key was made and before anything was sealed with it.
    let setting = Setting::default();
    let credentials = setting.started().await;
    credentials.set(new("npm", "t0ken-of-npm")).await.unwrap();
    setting.store.fill_disk();
    setting.keys.next().await.ok().unwrap();
    setting.started().await;
    assert_eq!(setting.keys.next.load(Ordering::SeqCst), 0);
    setting.store.free_disk();

    // After everything was sealed and before the key was in force.
    setting.keys.stuck.store(1, Ordering::SeqCst);
    let credentials = setting.started().await;
    assert!(matches!(
        credentials.rotate().await,
        Err(CredentialError::Key(_))
    ));
    credentials
        .set(new("later", "t0ken-of-later"))
        .await
        .unwrap();
    setting.keys.stuck.store(0, Ordering::SeqCst);
    let next = setting.keys.next.load(Ordering::SeqCst);
    assert_eq!(setting.started().await.list().len(), 2);
    assert_eq!(setting.keys.current.load(Ordering::SeqCst), next);
}

#[tokio::test]
async fn without_the_right_key_the_daemon_says_what_to_do_and_forgets_when_told() {
    let setting = Setting::default();
    let credentials = setting.started().await;
    credentials.set(new("npm", "t0ken-of-npm")).await.unwrap();
    let made = setting.keys.current.swap(0, Ordering::SeqCst);
    let Err(missing) = setting.open(Lost::Refuse).await else {
        panic!("there is no key");
    };
    assert!(missing.to_string().contains("forget_lost"), "{missing}");
    assert_eq!(
        setting.keys.current.load(Ordering::SeqCst),
        0,
        "none is made"
    );

    setting.keys.current.store(made + 5, Ordering::SeqCst);
    let Err(wrong) = setting.open(Lost::Refuse).await else {
        panic!("it is another key");
    };
    assert!(wrong.to_string().contains("npm"), "{wrong}");
    let opened = setting.open(Lost::Forget).await.ok().unwrap();
    assert_eq!(opened.list(), []);
    assert_eq!(setting.store.credentials().await, Ok(Vec::new()));
}
