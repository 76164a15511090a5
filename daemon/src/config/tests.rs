//! Precedence, and mistakes found all at once.

use std::path::PathBuf;

use proptest::prelude::*;

use super::*;
use crate::domain::egress::PolicyKind;

fn surroundings() -> Surroundings {
    Surroundings {
        uid: 1000,
        program: PathBuf::from("/opt/compy/compyd"),
    }
}

fn environment(more: &[(&str, &str)]) -> Vec<(String, String)> {
    let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    let mut all = vec![own(&("HOME", "/home/u"))];
    all.extend(more.iter().map(own));
    all
}

fn file(text: &str) -> (tempfile::TempDir, Flags) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("compyd.toml");
    std::fs::write(&path, text).unwrap();
    let flags = Flags {
        config: Some(path),
        values: Vec::new(),
    };
    (dir, flags)
}

fn set(flags: &mut Flags, key: &str, value: &str) {
    flags
        .values
        .push(("--set".to_owned(), key.to_owned(), vec![value.to_owned()]));
}

#[test]
fn nothing_has_to_be_set() {
    let settings = load(&Flags::default(), environment(&[]), &surroundings()).unwrap();
    assert_eq!(
        settings.data_dir,
        PathBuf::from("/home/u/.local/share/compy")
    );
    assert_eq!(
        settings.listen,
        [ListenAddress::Unix("/tmp/compy-1000/compyd.sock".into())]
    );
    assert_eq!(
        settings.workspace.agent_file,
        PathBuf::from("/opt/compy/compy-agent")
    );
    assert_eq!(settings.workspace.limits.validate(), Ok(()));
    assert_eq!(settings.warnings, Vec::<String>::new());
}

#[test]
fn flags_win_over_the_environment_over_the_file_over_defaults() {
    let (_dir, mut flags) = file("[workspace]\npids = 100\ncpu = 1.5\nmemory = \"1GiB\"\n");
    let variables = environment(&[
        ("COMPY_WORKSPACE_PIDS", "200"),
        ("COMPY_WORKSPACE_CPU", "3"),
    ]);
    set(&mut flags, "workspace.pids", "300");
    let settings = load(&flags, variables, &surroundings()).unwrap();
    assert_eq!(settings.workspace.limits.pids, 300);
    assert_eq!(settings.workspace.limits.cpu_millis, 3_000);
    assert_eq!(settings.workspace.limits.memory_bytes, 1 << 30);
    assert_eq!(settings.workspace.image, "compy/base:latest");
    let shown = effective(&settings);
    assert!(shown.contains("pids = \"300\"  # flag --set"), "{shown}");
    assert!(
        shown.contains("cpu = \"3\"  # variable COMPY_WORKSPACE_CPU"),
        "{shown}"
    );
    assert!(shown.contains("image = \"compy/base:latest\"  # default"));
}

#[test]
fn the_base_url_variable_goes_to_the_default_models_provider() {
    let with = |model: &str| {
        let variables = [
            ("COMPY_MODEL", model),
            ("COMPY_MODEL_BASE_URL", "http://h:1/v1/"),
        ];
        let settings = load(&Flags::default(), environment(&variables), &surroundings());
        settings.unwrap().model
    };
    assert_eq!(
        with("openai:m").openai_base_url.as_deref(),
        Some("http://h:1/v1")
    );
    let model = with("anthropic:m");
    assert_eq!(model.anthropic_base_url.as_deref(), Some("http://h:1/v1"));
    assert_eq!(model.openai_base_url, None);
}

#[test]
fn docker_host_says_where_the_engine_is_unless_the_configuration_does() {
    let host = |variables: &[(&str, &str)], text: &str| {
        let (_dir, flags) = file(text);
        let settings = load(&flags, environment(variables), &surroundings());
        settings.unwrap().engine.host
    };
    let shell = ("DOCKER_HOST", "unix:///shell");
    assert_eq!(host(&[], ""), None);
    assert_eq!(host(&[shell], "").as_deref(), Some("unix:///shell"));
    let own = ("COMPY_ENGINE_HOST", "unix:///own");
    assert_eq!(host(&[shell, own], "").as_deref(), Some("unix:///own"));
    let text = "[engine]\nhost = \"unix:///file\"";
    assert_eq!(host(&[shell], text).as_deref(), Some("unix:///file"));
}

#[test]
fn the_master_key_has_one_place() {
    let settings = |text: &str| {
        let (_dir, flags) = file(&format!("data_dir = \"/d\"\n[credentials]\n{text}"));
        load(&flags, environment(&[]), &surroundings()).map(|settings| settings.credentials.key)
    };
    let beside = KeySource::File("/d/credentials.key".into());
    assert_eq!(settings("").unwrap(), beside);
    let command = vec!["pass".to_owned(), "show".to_owned(), "a b".to_owned()];
    assert_eq!(
        settings("key_command = \"pass show 'a b'\"").unwrap(),
        KeySource::Command(command)
    );
    let key = "0f".repeat(32);
    let given = KeySource::Given(Secret::new(&key));
    assert_eq!(settings(&format!("key = \"{key}\"")).unwrap(), given);
    let both = format!("key = \"{key}\"\nkey_file = \"/k\"");
    let error = settings(&both).unwrap_err().to_string();
    assert!(
        error.contains("one place") && !error.contains(&key),
        "{error}"
    );
}

#[test]
fn the_default_egress_is_a_policy_with_its_hosts() {
    let settings = |text: &str| {
        let (_dir, flags) = file(text);
        load(&flags, environment(&[]), &surroundings()).map(|settings| settings.egress)
    };
    assert_eq!(settings("").unwrap().default, Policy::None);
    let egress = settings(
        "[egress]\ndefault = \"allow\"\nallow = [\"a.example\", \"*.b.example:8080\"]\nallow_networks = [\"10.1.0.0/16\"]",
    );
    let expected = EgressSettings {
        default: Policy::new(PolicyKind::AllowList, &["a.example", "*.b.example:8080"]).unwrap(),
        allow_networks: vec!["10.1.0.0/16".parse().unwrap()],
    };
    assert_eq!(egress.unwrap(), expected);
    for wrong in [
        "default = \"allow\"",
        "default = \"open\"\nallow = [\"a.example\"]",
    ] {
        let error = settings(&format!("[egress]\n{wrong}"))
            .unwrap_err()
            .to_string();
        assert!(error.contains("egress.allow"), "{error}");
    }
}

#[test]
fn secrets_are_shown_nowhere() {
    let (_dir, flags) = file("[model]\nanthropic_api_key = \"sk-file\"\n");
    let variables = environment(&[("OPENAI_API_KEY", "sk-variable")]);
    let settings = load(&flags, variables, &surroundings()).unwrap();
    let key = settings.model.openai_api_key.clone().unwrap();
    assert_eq!(key.expose(), "sk-variable");
    let shown = format!("{}{settings:?}", effective(&settings));
    assert!(!shown.contains("sk-"), "{shown}");

    let (_dir, flags) = file("[model]\nanthropic_api_key = [\"sk-list\"]\n");
    let error = load(&flags, environment(&[]), &surroundings()).unwrap_err();
    assert!(!error.to_string().contains("sk-"), "{error}");
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_known_one() {
    for (text, nearest) in [
        ("dta_dir = \"/x\"", "data_dir"),
        ("[workspace]\nmemroy = 1", "workspace.memory"),
        ("[worksapce]\nmemory = 1", "workspace"),
        ("low_water = \"1GiB\"", "disk.low_water"),
    ] {
        let (_dir, flags) = file(text);
        let error = load(&flags, environment(&[]), &surroundings()).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&format!("did you mean {nearest}?")), "{said}");
        assert!(said.contains("compyd.toml"), "{said}");
    }
    let variables = environment(&[("COMPY_WORKSPACE_IMGE", "x"), ("COMPY_FOREIGN_THING", "y")]);
    let error = load(&Flags::default(), variables, &surroundings()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("COMPY_WORKSPACE_IMAGE"), "{said}");
    assert!(!said.contains("FOREIGN"), "{said}");
}

#[test]
fn a_foreign_variable_is_a_warning() {
    let variables = environment(&[("COMPY_FOREIGN_THING", "y"), ("COMPY_ENDPOINT", "z")]);
    let settings = load(&Flags::default(), variables, &surroundings()).unwrap();
    assert_eq!(settings.warnings.len(), 1, "{:?}", settings.warnings);
    assert!(settings.warnings[0].contains("COMPY_FOREIGN_THING"));
}

#[test]
fn a_file_that_was_asked_for_must_be_there_and_be_toml() {
    let flags = Flags {
        config: Some("/nonexistent/compyd.toml".into()),
        ..Flags::default()
    };
    let error = load(&flags, environment(&[]), &surroundings()).unwrap_err();
    assert!(error.to_string().contains("/nonexistent/compyd.toml"));
    let (_dir, flags) = file("data_dir = ");
    let error = load(&flags, environment(&[]), &surroundings()).unwrap_err();
    assert!(error.to_string().contains("line 1"), "{error}");
}

#[test]
fn the_sample_is_a_file_that_changes_nothing_and_names_every_key() {
    let (_dir, flags) = file(&sample());
    load(&flags, environment(&[]), &surroundings()).unwrap();
    for key in keys::KEYS {
        let name = key.name.rsplit('.').next().unwrap();
        assert!(sample().contains(&format!("\n#{name} = ")), "{name}");
    }
}

/// Keys with a value that each of them refuses.
const BAD: &[(&str, &str)] = &[
    ("data_dir", "relative"),
    ("listen", "tcp://0.0.0.0:1"),
    ("shutdown_grace", "soon"),
    ("log.filter", "compyd=loud"),
    ("log.format", "xml"),
    ("workspace.image", " "),
    ("workspace.cpu", "0"),
    ("workspace.memory", "1MiB"),
    ("workspace.pids", "3"),
    ("workspace.disk", "1KiB"),
    ("workspace.idle_stop", "soon"),
    ("workspace.network", "host"),
    ("workspace.extra_ca_file", "ca.pem"),
    ("workspace.agent_file", "agent"),
    ("exec.stream_quota", "1KiB"),
    ("exec.total_quota", "1MiB"),
    ("exec.output_age", "long"),
    ("egress.default", "all"),
    ("egress.allow", "*"),
    ("egress.allow_networks", "10.0.0.1/8"),
    ("engine.host", "tcp://h:1"),
    ("engine.labels", "=x"),
    ("model.default", "gpt"),
    ("model.openai_base_url", "ftp://x"),
    ("model.anthropic_base_url", "x"),
    ("model.openai_api_key", " "),
    ("model.anthropic_api_key", " "),
    ("model.idle_timeout", "5"),
    ("model.max_output_tokens", "0"),
    ("model.windows", "openai:x=10"),
    ("model.compact_at", "99"),
    ("model.retries", "-1"),
    ("model.edit_formats", "gpt-5=patch"),
    ("model.record_dir", "replies"),
    ("credentials.key_file", "key"),
    ("credentials.key", "00"),
    ("credentials.key_command", "'"),
    ("credentials.forget_lost", "maybe"),
    ("recovery.patterns_file", "patterns.toml"),
    ("policy.file", "policy.toml"),
    ("session.max_steps", "0"),
    ("session.max_time", "long"),
    ("session.rules_tokens", "all"),
    ("session.bundle_max", "much"),
    ("session.check_timeout", "long"),
    ("budget.tokens", "0"),
    ("budget.money", "5 dollars"),
    ("budget.day_tokens", "many"),
    ("budget.day_money", "-1"),
    ("budget.day_steps", "0"),
    ("budget.day_time", "long"),
    ("budget.warn_at", "0"),
    ("budget.pause_at", "101"),
    ("budget.prices", "openai:x=1"),
    ("snapshots.overlays", "maybe"),
    ("snapshots.copies_max", "plenty"),
    ("snapshots.layers_max", "91"),
    ("repository.allow_file_urls", "maybe"),
    ("disk.low_water", "some"),
    ("tls.names", "not a name"),
    ("remote.calls_per_second", "0"),
    ("remote.streams", "many"),
    ("remote.message_max", "1KiB"),
    ("remote.connections", "0"),
    ("remote.connections_per_address", "-1"),
    ("remote.connections_per_token", "0"),
    ("metrics.listen", "everywhere"),
    ("audit.keep", "forever"),
    ("audit.max", "plenty"),
    ("audit.checkpoint_every", "often"),
    ("gc.every", "often"),
    ("gc.grace", "long"),
    ("no_such_key", "1"),
];

#[test]
fn every_key_is_among_the_bad_ones() {
    for key in keys::KEYS {
        assert!(
            BAD.iter().any(|(name, _)| *name == key.name),
            "{}",
            key.name
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_subset_of_bad_keys_is_reported_key_by_key(
        chosen in proptest::sample::subsequence(BAD.to_vec(), 0..=BAD.len()),
        by in proptest::collection::vec(0..3_u8, BAD.len()),
    ) {
        let (dir, mut flags) = file("");
        let mut variables = environment(&[]);
        let mut text = String::new();
        for ((name, value), by) in chosen.iter().zip(by) {
            match (by, keys::find(name)) {
                (0, _) => set(&mut flags, name, value),
                (1, Some(key)) => variables.push((key.variable(), (*value).to_owned())),
                // Dotted keys stand for tables.
                _ => text.push_str(&format!("{name} = {}\n", toml::Value::String((*value).to_owned()))),
            }
        }
        std::fs::write(dir.path().join("compyd.toml"), text).unwrap();
        match load(&flags, variables, &surroundings()) {
            Ok(_) => prop_assert!(chosen.is_empty()),
            Err(ConfigError(mistakes)) => {
                prop_assert_eq!(mistakes.len(), chosen.len());
                let said = ConfigError(mistakes).to_string();
                for (name, _) in &chosen {
                    prop_assert!(said.contains(name), "{} is not in {}", name, said);
                }
            }
        }
    }
}
