use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};

use async_trait::async_trait;

use super::*;
use crate::{
    adapters::memory::{MemoryAudit, MemoryStore},
    domain::{
        audit::Kind,
        credential::{CommandTool, CredentialHost, CredentialKind, git},
        ids::ExecId,
        ssh::{
            agent::LoginToSign,
            tests::{ED25519_KEY, ED25519_PUBLIC},
        },
        workspace::NetworkMode,
    },
    ports::{
        command_secrets::{CommandSecrets, CommandSecretsPort as _, SecretFile},
        contract::store::workspace,
        host_credentials::HostCredentialsPort as _,
        master_key::KeysFound,
    },
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

fn exec() -> ExecId {
    "request-7".parse().unwrap()
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

/// A clock that a test pushes by days.
#[derive(Default)]
struct Days(AtomicI64);

impl ClockPort for Days {
    fn now_ms(&self) -> i64 {
        100 + self.0.load(Ordering::SeqCst) * 24 * 60 * 60 * 1_000
    }
}

#[derive(Clone, Default)]
struct Setting {
    store: Arc<MemoryStore>,
    keys: Arc<KeyFile>,
    redactions: Redactions,
    audit: Arc<MemoryAudit>,
    days: Arc<Days>,
}

impl Setting {
    /// A daemon that starts.
    async fn open(&self, lost: Lost) -> Result<Credentials, CredentialError> {
        Credentials::open(
            self.store.clone(),
            self.keys.clone(),
            self.days.clone(),
            Audit::new(self.audit.clone(), self.days.clone(), Redactions::default()),
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
        host: String::new(),
        host_keys: String::new(),
        tools: Vec::new(),
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
async fn a_replaced_or_deleted_value_is_looked_for_by_daemons_of_the_next_30_days() {
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
    let stored = setting.store.past_credentials().await.unwrap();
    let stored = serde_json::to_string(&stored).unwrap();
    assert!(!stored.contains("t0ken"), "{stored}");

    let next = Setting {
        redactions: Redactions::default(),
        ..setting
    };
    let credentials = next.started().await;
    assert_eq!(next.shown(both), "[redacted:npm] [redacted:npm]");
    // Sealed anew with all else, and nobody's any more.
    assert_eq!(credentials.list(), []);
    let (count, key_id) = credentials.rotate().await.unwrap();
    assert_eq!(count, 0);
    let past = next.store.past_credentials().await.unwrap();
    assert_eq!(past.len(), 2);
    assert!(past.iter().all(|one| one.sealed.key_id == key_id));
    for (days, expected) in [(29, "[redacted:npm] [redacted:npm]"), (31, both)] {
        next.days.0.store(days, Ordering::SeqCst);
        next.started().await;
        assert_eq!(next.shown(both), expected, "after {days} days");
    }
    assert_eq!(next.store.past_credentials().await, Ok(Vec::new()));
}

#[tokio::test]
async fn a_past_value_is_given_to_nobody() {
    let setting = Setting::default();
    let here = workspace(1, "here");
    setting.store.add_workspace(&here).await.unwrap();
    let credentials = setting.started().await;
    credentials.set(new("npm", "t0ken-number-1")).await.unwrap();
    credentials.delete(&key("npm")).await.unwrap();
    let credentials = setting.started().await;
    let given = credentials
        .of(&here.id, &exec(), Some(CommandTool::Exec))
        .await;
    assert!(given == Ok(CommandSecrets::default()));
}

#[tokio::test]
async fn a_past_value_that_does_not_open_waits_for_its_key_until_a_rotation() {
    let setting = Setting::default();
    let credentials = setting.started().await;
    credentials.set(new("npm", "t0ken-number-1")).await.unwrap();
    credentials.delete(&key("npm")).await.unwrap();
    let made = setting.keys.current.swap(77, Ordering::SeqCst);
    setting.started().await;
    assert_eq!(setting.store.past_credentials().await.unwrap().len(), 1);
    setting.keys.current.store(made, Ordering::SeqCst);
    setting.started().await;
    assert_eq!(setting.shown("t0ken-number-1"), "[redacted:npm]");
    setting.keys.current.store(77, Ordering::SeqCst);
    setting.started().await.rotate().await.unwrap();
    assert_eq!(setting.store.past_credentials().await, Ok(Vec::new()));
}

#[tokio::test]
async fn commands_are_given_what_is_in_force_where_they_run() {
    let setting = Setting::default();
    let (here, there) = (workspace(1, "here"), workspace(2, "there"));
    for known in [&here, &there] {
        setting.store.add_workspace(known).await.unwrap();
    }
    let credentials = setting.started().await;
    assert!(
        credentials
            .of(&here.id, &exec(), Some(CommandTool::Exec))
            .await
            == Ok(CommandSecrets::default())
    );
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
        kept_files: Vec::new(),
    };
    assert!(
        credentials
            .of(&here.id, &exec(), Some(CommandTool::Exec))
            .await
            == Ok(expected)
    );
    let expected = CommandSecrets {
        environment: vec![variable("t0ken-for-all")],
        ..CommandSecrets::default()
    };
    assert!(
        credentials
            .of(&there.id, &exec(), Some(CommandTool::Exec))
            .await
            == Ok(expected)
    );
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
    let entries = setting.audit.entries();
    let processes = entries.iter().filter_map(|entry| entry.process.as_deref());
    assert_eq!(processes.collect::<Vec<_>>(), ["request-7"; 2]);
    setting.audit.set_full(true);
    let refused = credentials
        .of(&there.id, &exec(), Some(CommandTool::Exec))
        .await;
    assert!(refused.is_err_and(|error| error.contains("not on record")));
    setting.audit.set_full(false);
    let unknown = workspace(3, "gone").id;
    assert!(
        credentials
            .of(&unknown, &exec(), Some(CommandTool::Exec))
            .await
            == Ok(CommandSecrets::default())
    );
}

fn git_login(name: &str, login: &str) -> NewCredential {
    NewCredential {
        kind: CredentialKind::Git,
        host: "git.example".to_owned(),
        ..new(name, login)
    }
}

fn ssh_key(name: &str) -> NewCredential {
    NewCredential {
        kind: CredentialKind::SshKey,
        host: "git.example:2222".to_owned(),
        host_keys: ED25519_PUBLIC.to_owned(),
        ..new(name, ED25519_KEY)
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[tokio::test]
async fn of_logins_and_keys_commands_learn_the_way_alone() {
    let setting = Setting::default();
    let here = workspace(1, "here");
    let mut bridged = workspace(2, "bridged");
    bridged.definition.network = NetworkMode::Bridge;
    for known in [&here, &bridged] {
        setting.store.add_workspace(known).await.unwrap();
    }
    let credentials = setting.started().await;
    credentials
        .set(git_login("forge", "me:t0ken-of-forge"))
        .await
        .unwrap();
    credentials.set(ssh_key("deploy")).await.unwrap();
    let given = credentials
        .of(&here.id, &exec(), Some(CommandTool::Exec))
        .await
        .unwrap();
    let variables: Vec<_> = (given.environment.iter())
        .map(|(name, value)| format!("{name}={}", text(value)))
        .collect();
    let key = "url.http://git.example.compy-git.internal:443/.insteadOf";
    assert_eq!(
        variables,
        [
            "GIT_CONFIG_COUNT=2".to_owned(),
            format!("GIT_CONFIG_KEY_0={key}"),
            "GIT_CONFIG_VALUE_0=https://git.example:443/".to_owned(),
            format!("GIT_CONFIG_KEY_1={key}"),
            "GIT_CONFIG_VALUE_1=https://git.example/".to_owned(),
            "SSH_AUTH_SOCK=/run/compy/ssh-agent.sock".to_owned(),
            "GIT_SSH_COMMAND=ssh -F \"$COMPY_SSH_CONFIG\"".to_owned(),
        ]
    );
    let files: Vec<_> = (given.files.iter())
        .map(|file| (file.name.as_str(), text(&file.content)))
        .collect();
    let [(config, says), (known, hosts)] = &files[..] else {
        panic!("two files");
    };
    assert_eq!(
        (*config, *known),
        ("compy-ssh-config", "compy-ssh-known-hosts")
    );
    for line in [
        "Host git.example\n",
        "Port 2222\n",
        "StrictHostKeyChecking yes\n",
        "compy-agent connect %h %p\n",
    ] {
        assert!(says.contains(line), "{line}: {says}");
    }
    let public = ED25519_PUBLIC.trim_end_matches(" test");
    assert_eq!(*hosts, format!("[git.example]:2222 {public}\n"));

    // Every tool's commands are told the same, as any of them can go that way.
    for tool in CommandTool::ALL {
        assert!(credentials.of(&here.id, &exec(), Some(tool)).await == Ok(given.clone()));
    }
    // The daemon's own commands have none of it, and leave the files of others.
    let own = credentials.of(&here.id, &exec(), None).await.unwrap();
    assert!(own.is_empty());
    assert_eq!(
        own.kept_files,
        ["compy-ssh-config", "compy-ssh-known-hosts"]
    );
    // On the bridge the way does not lead by the daemon.
    let given = credentials
        .of(&bridged.id, &exec(), Some(CommandTool::Exec))
        .await
        .unwrap();
    assert!(
        !given
            .environment
            .iter()
            .any(|(name, _)| name.starts_with("GIT_CONFIG"))
    );
    assert!(!text(&given.files[0].content).contains("ProxyCommand"));
    assert_eq!(setting.audit.entries(), [], "nothing was used yet");
}

#[tokio::test]
async fn a_login_or_a_signature_is_on_record_or_there_is_none() {
    let setting = Setting::default();
    let here = workspace(1, "here");
    setting.store.add_workspace(&here).await.unwrap();
    let credentials = setting.started().await;
    credentials
        .set(git_login("a-wide", "me:t0ken-for-all"))
        .await
        .unwrap();
    let mut own = git_login("narrow", "me:t0ken-for-here");
    own.key.scope = CredentialScope::Workspace(here.id.clone());
    credentials.set(own).await.unwrap();
    credentials.set(ssh_key("deploy")).await.unwrap();
    let host = |text| CredentialHost::parse(text, 443).unwrap();
    let request = git::GitRequest {
        repository: "/me/it.git".to_owned(),
    };
    let login = credentials
        .git_login(&here.id, &host("git.example"), &request)
        .await;
    assert_eq!(login, Ok(Some(git::authorization(b"me:t0ken-for-here"))));
    for (workspace, other) in [
        (&here.id, "other.example"),
        (&here.id, "git.example:8443"),
        (&workspace(3, "gone").id, "git.example"),
    ] {
        let none = credentials
            .git_login(workspace, &host(other), &request)
            .await;
        assert_eq!(none, Ok(None), "{other}");
    }
    let identities = credentials.ssh_identities(&here.id).await.unwrap();
    assert_eq!(
        (identities.len(), identities[0].name.as_str()),
        (1, "deploy")
    );
    let asked = LoginToSign {
        name: "deploy".to_owned(),
        user: "git".to_owned(),
        algorithm: identities[0].algorithms[0],
        data: b"data".to_vec(),
    };
    let signature = credentials.ssh_sign(&here.id, &asked).await;
    assert!(identities[0].host_keys[0].verifies(b"data", &signature.unwrap()));
    let details: Vec<_> = (setting.audit.entries().iter())
        .map(|entry| serde_json::to_string(&entry.detail).unwrap())
        .collect();
    let [login, signed] = &details[..] else {
        panic!("{details:?}");
    };
    for part in ["narrow", "git.example:443", "/me/it.git"] {
        assert!(login.contains(part), "{part}: {login}");
    }
    for part in ["deploy", "git.example:2222", "\"git\""] {
        assert!(signed.contains(part), "{part}: {signed}");
    }
    setting.audit.set_full(true);
    let refused = credentials
        .git_login(&here.id, &host("git.example"), &request)
        .await;
    assert!(refused.is_err_and(|error| error.contains("not on record")));
    let refused = credentials.ssh_sign(&here.id, &asked).await;
    assert!(refused.is_err_and(|error| error.contains("not on record")));
}

#[tokio::test]
async fn a_workspaces_own_credentials_end_with_it() {
    let setting = Setting::default();
    let credentials = setting.started().await;
    let (here, there) = (workspace(1, "here").id, workspace(2, "there").id);
    for (name, scope) in [
        ("own", CredentialScope::Workspace(here.clone())),
        ("other", CredentialScope::Workspace(there)),
        ("all", CredentialScope::Global),
    ] {
        let mut new = new(name, &format!("t0ken-of-{name}"));
        new.key.scope = scope;
        credentials.set(new).await.unwrap();
    }
    for _ in 0..2 {
        credentials.forget(&here).await.unwrap();
        let names = credentials.list().into_iter();
        let names: Vec<_> = names.map(|one| one.key.name.to_string()).collect();
        assert_eq!(names, ["all", "other"]);
    }
    assert_eq!(setting.store.credentials().await.unwrap().len(), 2);
    // What ran there may still print it.
    assert_eq!(setting.shown("t0ken-of-own"), "[redacted:own]");
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
    // Nobody knows whether a command had it.
    assert_eq!(setting.shown("t0ken-number-2"), "[redacted:npm]");
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
