use uuid::Uuid;

use super::{
    seal::{MasterKey, OpenError},
    *,
};
use crate::{
    domain::{
        ssh::tests::{ED25519_KEY, ED25519_PUBLIC},
        workspace::{Provenance, Repository},
    },
    ports::contract::store::workspace,
};

fn new(name: &str, scope: CredentialScope) -> NewCredential {
    NewCredential {
        key: CredentialKey {
            scope,
            name: name.parse().unwrap(),
        },
        kind: CredentialKind::Value,
        environment: None,
        host: String::new(),
        host_keys: String::new(),
        tools: Vec::new(),
        expires_at_ms: None,
        value: b"t0ken-of-npm\n".to_vec(),
    }
}

fn accepted(name: &str, scope: CredentialScope) -> Credential {
    new(name, scope).accept(5, None).unwrap().0
}

#[test]
fn a_value_is_in_the_variable_that_its_name_says_without_the_line_end() {
    let (credential, value) = new("npm-token", CredentialScope::Global)
        .accept(5, None)
        .unwrap();
    assert_eq!(credential.environment.as_deref(), Some("NPM_TOKEN"));
    assert_eq!(value, b"t0ken-of-npm");
    let again = new("npm-token", CredentialScope::Global).accept(9, Some(&credential));
    let again = again.unwrap().0;
    assert_eq!((again.created_at_ms, again.updated_at_ms), (5, 9));
}

#[test]
fn a_file_is_kept_byte_by_byte() {
    let file = NewCredential {
        kind: CredentialKind::File,
        ..new("netrc", CredentialScope::Global)
    };
    let (credential, value) = file.accept(5, None).unwrap();
    assert_eq!(credential.environment, None);
    assert_eq!(value, b"t0ken-of-npm\n");
}

#[test]
fn what_cannot_be_a_credential_is_refused_with_the_reason() {
    let with = |change: &dyn Fn(&mut NewCredential)| {
        let mut new = new("a", CredentialScope::Global);
        change(&mut new);
        new.accept(5, None).unwrap_err().to_string()
    };
    assert!(with(&|new| new.value = b"short".to_vec()).contains("5 bytes"));
    assert!(with(&|new| new.value = vec![b'x'; MAX_VALUE_BYTES + 1]).contains("65537 bytes"));
    assert!(with(&|new| new.value = b"t0ken\0of-npm".to_vec()).contains("NUL"));
    for name in ["", "1A", "A-B", "PATH", "LD_PRELOAD", "A=B"] {
        let said = with(&|new| new.environment = Some(name.to_owned()));
        assert!(said.contains("variable"), "{name}: {said}");
    }
    let said = with(&|new| new.key.scope = CredentialScope::Project(" ".to_owned()));
    assert!(said.contains("URL"), "{said}");
}

fn ssh_key() -> NewCredential {
    NewCredential {
        kind: CredentialKind::SshKey,
        host: "git.example".to_owned(),
        host_keys: ED25519_PUBLIC.to_owned(),
        value: ED25519_KEY.as_bytes().to_vec(),
        ..new("deploy", CredentialScope::Global)
    }
}

fn git_login() -> NewCredential {
    NewCredential {
        kind: CredentialKind::Git,
        host: "git.example".to_owned(),
        ..new("forge", CredentialScope::Global)
    }
}

#[test]
fn a_login_and_a_key_are_for_a_host_and_in_no_variable() {
    let (login, value) = git_login().accept(5, None).unwrap();
    assert_eq!(login.host.unwrap().to_string(), "git.example:443");
    assert_eq!((login.environment, value), (None, b"t0ken-of-npm".to_vec()));
    assert_eq!(login.tools, AllowedTools::of(CommandTool::ALL.to_vec()));
    let (key, value) = ssh_key().accept(5, None).unwrap();
    assert_eq!(key.host.unwrap().to_string(), "git.example:22");
    assert_eq!(
        (key.host_keys.len(), value),
        (1, ED25519_KEY.as_bytes().to_vec())
    );

    let refused = |mut new: NewCredential, change: &dyn Fn(&mut NewCredential)| {
        change(&mut new);
        new.accept(5, None).unwrap_err().to_string()
    };
    let login = |change: &dyn Fn(&mut NewCredential)| refused(git_login(), change);
    let key = |change: &dyn Fn(&mut NewCredential)| refused(ssh_key(), change);
    let value =
        |change: &dyn Fn(&mut NewCredential)| refused(new("a", CredentialScope::Global), change);
    for (said, expected) in [
        (login(&|new| new.host.clear()), "--host"),
        (login(&|new| new.host = "a b".to_owned()), "a b"),
        (
            login(&|new| new.environment = Some("A".to_owned())),
            "--env",
        ),
        (login(&|new| new.tools = vec![CommandTool::Exec]), "--tool"),
        (key(&|new| new.tools = vec![CommandTool::Check]), "--tool"),
        (
            login(&|new| new.value = b"user:pass\r\nHost: evil".to_vec()),
            "one line",
        ),
        (
            login(&|new| new.host_keys = ED25519_PUBLIC.to_owned()),
            "--host-key",
        ),
        (key(&|new| new.host_keys.clear()), "--host-key"),
        (
            key(&|new| new.host_keys = format!("{ED25519_PUBLIC}\n").repeat(17)),
            "1 to 16",
        ),
        (
            key(&|new| new.value = b"no private key at all".to_vec()),
            "ssh-keygen",
        ),
        (value(&|new| new.host = "a.example".to_owned()), "--host"),
        (
            value(&|new| new.host_keys = ED25519_PUBLIC.to_owned()),
            "--host-key",
        ),
    ] {
        assert!(said.contains(expected), "{expected}: {said}");
    }
    let own = NewCredential {
        kind: CredentialKind::File,
        ..new("compy-ssh-config", CredentialScope::Global)
    };
    assert_eq!(own.accept(5, None), Err(CredentialRefused::OwnFile));
}

#[test]
fn tools_are_those_that_are_named_or_people_and_models() {
    let of = |tools: &[CommandTool]| AllowedTools::of(tools.to_vec());
    assert_eq!(of(&[]).names(), ["exec", "run_command"]);
    let both = of(&[CommandTool::Check, CommandTool::Setup, CommandTool::Check]);
    assert_eq!(both.names(), ["setup", "check"]);
    assert!(both.allow(Some(CommandTool::Setup)) && !both.allow(Some(CommandTool::Exec)));
    for tools in [of(&[]), both, of(&CommandTool::ALL)] {
        assert!(!tools.allow(None), "the daemon's own commands");
    }
    for tool in CommandTool::ALL {
        assert_eq!(CommandTool::named(tool.name()), Some(tool));
    }
}

#[test]
fn a_credential_of_before_hosts_and_tools_is_sealed_as_it_was() {
    let credential = accepted("a", CredentialScope::Global);
    let stored = serde_json::to_string(&credential).unwrap();
    let expected = r#"{"key":{"scope":"global","name":"a"},"kind":"value","environment":"A","expires_at_ms":null,"created_at_ms":5,"updated_at_ms":5}"#;
    assert_eq!(stored, expected);
    assert_eq!(
        serde_json::from_str::<Credential>(&stored).unwrap(),
        credential
    );
}

#[test]
fn a_scope_covers_what_it_names() {
    let mut here = workspace(1, "here");
    here.repositories = vec![Repository {
        name: "api".parse().unwrap(),
        source: "https://git.example/api.git".to_owned(),
        commit: String::new(),
        branch: String::new(),
        provenance: Provenance::Fetched,
    }];
    let there = workspace(2, "there");
    let project = CredentialScope::Project("https://git.example/api/".to_owned());
    let project = accepted("a", project);
    assert!(project.covers(&here) && !project.covers(&there));
    let own = accepted("a", CredentialScope::Workspace(here.id.clone()));
    assert!(own.covers(&here) && !own.covers(&there));
    let global = accepted("a", CredentialScope::Global);
    assert!(global.covers(&here) && global.covers(&there));
}

#[test]
fn a_project_has_the_repositories_whose_source_the_daemon_vouches_for() {
    let mut here = workspace(1, "here");
    for (source, named) in [
        ("https://git.example/api", "https://git.example/api"),
        ("/home/me/api", "/home/me/api"),
    ] {
        let project = accepted("a", CredentialScope::Project(named.to_owned()));
        for (provenance, expected) in [
            (Provenance::Unrecorded, false),
            (Provenance::Claimed, false),
            (Provenance::Fetched, true),
            (Provenance::Declared, true),
        ] {
            here.repositories = vec![Repository {
                name: "api".parse().unwrap(),
                source: source.to_owned(),
                commit: String::new(),
                branch: String::new(),
                provenance,
            }];
            assert_eq!(project.covers(&here), expected, "{provenance:?}");
        }
    }
    let old = r#"{"name":"api","source":"https://git.example/api","commit":"","branch":""}"#;
    let old: Repository = serde_json::from_str(old).unwrap();
    assert_eq!(old.vouched_source(), None);
}

#[test]
fn the_narrowest_scope_counts_and_an_expired_one_hides_the_wider() {
    let here = workspace(1, "here");
    let global = accepted("a", CredentialScope::Global);
    let mut own = accepted("a", CredentialScope::Workspace(here.id.clone()));
    own.expires_at_ms = Some(10);
    let other = accepted("b", CredentialScope::Global);
    let elsewhere = CredentialScope::Workspace(WorkspaceId::from_uuid(Uuid::from_u128(9)));
    let elsewhere = accepted("c", elsewhere);
    let all = [&global, &other, &own, &elsewhere];
    assert_eq!(in_force(all, &here, 9), [&own, &other]);
    assert_eq!(in_force(all, &here, 10), [&other]);
}

#[test]
fn a_seal_opens_with_its_key_for_its_record_only() {
    let key = MasterKey::new([7; 32]);
    let credential = accepted("a", CredentialScope::Global);
    let sealed = key.seal(credential, b"t0ken-of-npm", [1; 24]);
    assert!(!sealed.sealed.windows(5).any(|part| part == b"t0ken"));
    assert_eq!(key.open(&sealed), Ok(b"t0ken-of-npm".to_vec()));

    let other = MasterKey::new([8; 32]);
    let wrong = OpenError::WrongKey {
        sealed_with: key.id(),
        given: other.id(),
    };
    assert_eq!(other.open(&sealed), Err(wrong));
    let mut moved = sealed.clone();
    moved.credential.key.name = "b".parse().unwrap();
    assert_eq!(key.open(&moved), Err(OpenError::Tampered));
    let mut cut = sealed.clone();
    cut.nonce.pop();
    assert_eq!(key.open(&cut), Err(OpenError::Tampered));
    let mut changed = sealed;
    changed.sealed[0] ^= 1;
    assert_eq!(key.open(&changed), Err(OpenError::Tampered));
}

#[test]
fn a_key_is_64_hex_digits() {
    let key = MasterKey::new(std::array::from_fn(|n| n as u8 * 8));
    let read = MasterKey::parse(&format!("{}\n", key.expose())).unwrap();
    assert_eq!(read.id(), key.id());
    for wrong in ["", "00", &"g".repeat(64), &"0".repeat(63), &"ä".repeat(32)] {
        assert!(MasterKey::parse(wrong).is_err(), "{wrong}");
    }
}
