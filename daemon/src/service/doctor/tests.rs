//! Each check, sound and broken.

use std::collections::BTreeSet;

use async_trait::async_trait;
use futures_util::stream::BoxStream;

use super::*;
use crate::{
    adapters::memory::ManualClock,
    domain::{
        ids::WorkspaceId,
        snapshot::{CapturedVolume, journal::Generation},
    },
    ports::runtime::{
        ContainerId, ContainerPlan, ContainerState, ContainerSummary, ContainerUsage, RuntimeChange,
    },
};

/// An engine that answers questions about itself and nothing else.
struct QuietEngine {
    engine: Result<EngineInfo, RuntimeError>,
    image: Option<ImageInfo>,
    overlays: OverlayVolumes,
}

#[async_trait]
impl RuntimePort for QuietEngine {
    async fn engine(&self) -> Result<EngineInfo, RuntimeError> {
        self.engine.clone()
    }
    async fn overlay_volumes(&self, _image: &str) -> Result<OverlayVolumes, RuntimeError> {
        self.engine.clone().map(|_| self.overlays.clone())
    }
    async fn image(&self, _reference: &str) -> Result<Option<ImageInfo>, RuntimeError> {
        self.engine.clone().map(|_| self.image.clone())
    }
    async fn foreign_volumes(
        &self,
        _image: &str,
        _user: Option<&str>,
    ) -> Result<Vec<String>, RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn create(&self, _plan: &ContainerPlan) -> Result<ContainerId, RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn start(&self, _id: &ContainerId) -> Result<(), RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn stop(&self, _id: &ContainerId, _grace_seconds: u32) -> Result<(), RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn pause(&self, _id: &ContainerId) -> Result<(), RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn usage(&self, _id: &ContainerId) -> Result<Option<ContainerUsage>, RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn root_bytes(&self, _id: &ContainerId) -> Result<u64, RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn remove(&self, _id: &ContainerId) -> Result<(), RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn remove_volumes(&self, _workspace: &WorkspaceId) -> Result<(), RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn captured_volumes(
        &self,
        _workspace: &WorkspaceId,
        _generation: Generation,
    ) -> Result<BTreeSet<CapturedVolume>, RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn find(&self, _workspace: &WorkspaceId) -> Result<Option<ContainerState>, RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn list(&self) -> Result<Vec<ContainerSummary>, RuntimeError> {
        panic!("a doctor only looks")
    }
    async fn changes(&self) -> Result<BoxStream<'static, RuntimeChange>, RuntimeError> {
        panic!("a doctor only looks")
    }
}

/// Sound surroundings that a test breaks in one place.
struct Surroundings {
    dir: tempfile::TempDir,
    engine: QuietEngine,
    subjects: Subjects,
    free_bytes: FreeBytes,
}

fn sound() -> Surroundings {
    let dir = tempfile::tempdir().unwrap();
    let agent_file = dir.path().join("compy-agent");
    std::fs::write(&agent_file, b"\x7fELF and so on").unwrap();
    let script = dir.path().join("script.jsonl");
    std::fs::write(&script, b"{}").unwrap();
    let engine = QuietEngine {
        engine: Ok(EngineInfo {
            version: "20.10.24".to_owned(),
            api_version: "1.41".to_owned(),
            root_dir: "/var/lib/docker".into(),
            storage_driver: "overlay2".to_owned(),
            cpus: 2,
            memory_bytes: 8 << 30,
        }),
        image: Some(ImageInfo {
            id: "sha256:1".to_owned(),
            size_bytes: 1 << 28,
            user: String::new(),
        }),
        overlays: OverlayVolumes::Work,
    };
    let subjects = Subjects {
        image: "compy/base:latest".to_owned(),
        agent_file,
        data_dir: dir.path().to_owned(),
        low_water_bytes: 1 << 20,
        config_warnings: Vec::new(),
        git: "git".into(),
        model: Some(ModelName::Scripted(script)),
        keys: Keys::default(),
    };
    Surroundings {
        dir,
        engine,
        subjects,
        free_bytes: |_| Ok(1 << 40),
    }
}

const NOW_MS: i64 = 1_780_000_000_000;

impl Surroundings {
    async fn examine(self, client_ms: Option<i64>) -> Vec<Check> {
        let doctor = Doctor::new(
            self.subjects,
            Arc::new(self.engine),
            Arc::new(ManualClock::at(NOW_MS)),
            self.free_bytes,
        );
        let checks = doctor.examine(client_ms).await;
        drop(self.dir);
        checks
    }

    /// The one check that is not well; every other one must be.
    async fn ailing(self, client_ms: Option<i64>) -> Check {
        let checks = self.examine(client_ms).await;
        let ill = checks
            .into_iter()
            .filter(|check| check.verdict != Verdict::Ok);
        let ill: Vec<_> = ill.collect();
        assert_eq!(ill.len(), 1, "{ill:?}");
        assert!(!ill[0].advice.is_empty());
        ill[0].clone()
    }
}

#[tokio::test]
async fn sound_surroundings_are_found_sound_in_a_fixed_order() {
    let checks = sound().examine(Some(NOW_MS + 4_000)).await;
    let names: Vec<_> = checks.iter().map(|check| check.name).collect();
    let all = [
        "engine",
        "engine-api",
        "image",
        "overlay-volumes",
        "agent",
        "disk",
        "configuration",
        "clock",
        "git",
        "model",
    ];
    assert_eq!(names, all);
    for check in checks {
        assert_eq!((check.verdict, check.advice.as_str()), (Verdict::Ok, ""));
    }
}

#[tokio::test]
async fn an_engine_that_is_down_fails_what_needs_it() {
    let mut broken = sound();
    broken.engine.engine = Err(RuntimeError::Unavailable("connection refused".to_owned()));
    let checks = broken.examine(None).await;
    for check in &checks[..3] {
        assert_eq!(check.verdict, Verdict::Failed, "{check:?}");
    }
    assert!(checks[0].found.contains("connection refused"));
    assert!(checks[3..].iter().all(|check| check.verdict == Verdict::Ok));
}

#[tokio::test]
async fn an_old_or_odd_engine_api_is_refused() {
    for version in ["1.40", "0.99", "one"] {
        let mut broken = sound();
        broken.engine.engine.as_mut().unwrap().api_version = version.to_owned();
        let check = broken.ailing(None).await;
        assert_eq!((check.name, check.verdict), ("engine-api", Verdict::Failed));
        assert!(check.found.contains(version));
    }
    let mut newer = sound();
    newer.engine.engine.as_mut().unwrap().api_version = "1.100".to_owned();
    assert_eq!(newer.examine(None).await[1].verdict, Verdict::Ok);
}

#[tokio::test]
async fn a_missing_image_says_how_to_make_it() {
    let mut broken = sound();
    broken.engine.image = None;
    let check = broken.ailing(None).await;
    assert_eq!((check.name, check.verdict), ("image", Verdict::Failed));
    assert!(check.advice.contains("make images"));
}

#[tokio::test]
async fn an_engine_without_overlay_volumes_says_what_that_costs() {
    let mut broken = sound();
    broken.engine.overlays = OverlayVolumes::Fail("operation not permitted".to_owned());
    let check = broken.ailing(None).await;
    let expected = ("overlay-volumes", Verdict::Warning);
    assert_eq!((check.name, check.verdict), expected);
    assert_eq!(check.found, "operation not permitted");
    assert!(check.advice.contains("copy whole volumes"));
}

#[tokio::test]
async fn a_missing_or_foreign_agent_is_found() {
    let missing = sound();
    std::fs::remove_file(&missing.subjects.agent_file).unwrap();
    assert_eq!(missing.ailing(None).await.name, "agent");
    let foreign = sound();
    std::fs::write(&foreign.subjects.agent_file, "#!/bin/sh").unwrap();
    let check = foreign.ailing(None).await;
    assert_eq!((check.name, check.verdict), ("agent", Verdict::Failed));
}

#[tokio::test]
async fn a_disk_below_low_water_fails_and_a_nearly_full_one_warns() {
    let verdict = async |free_bytes: FreeBytes| {
        let mut broken = sound();
        broken.free_bytes = free_bytes;
        let check = broken.ailing(None).await;
        assert_eq!(check.name, "disk");
        check.verdict
    };
    assert_eq!(verdict(|_| Ok((1 << 20) - 1)).await, Verdict::Failed);
    assert_eq!(verdict(|_| Ok(2 << 20)).await, Verdict::Warning);
    let gone = verdict(|_| Err(std::io::ErrorKind::NotFound.into())).await;
    assert_eq!(gone, Verdict::Failed);
}

#[tokio::test]
async fn warnings_of_the_configuration_are_passed_on() {
    let mut broken = sound();
    broken.subjects.config_warnings = vec!["variable COMPY_X means nothing".to_owned()];
    let check = broken.ailing(None).await;
    assert_eq!(
        (check.name, check.verdict),
        ("configuration", Verdict::Warning)
    );
    assert!(check.found.contains("COMPY_X"));
}

#[tokio::test]
async fn clocks_apart_are_found_in_both_directions() {
    for client_ms in [NOW_MS - 6_000, NOW_MS + 6_000] {
        let check = sound().ailing(Some(client_ms)).await;
        assert_eq!((check.name, check.verdict), ("clock", Verdict::Warning));
        assert!(check.found.contains("6 s"), "{}", check.found);
    }
    assert_eq!(judge_clock(0, None).verdict, Verdict::Failed);
}

#[tokio::test]
async fn a_missing_failing_or_old_git_is_found() {
    for git in ["/nonexistent/git", "false", "true"] {
        let mut broken = sound();
        broken.subjects.git = git.into();
        let check = broken.ailing(None).await;
        assert_eq!((check.name, check.verdict), ("git", Verdict::Failed));
    }
    let judged = |version: &str| judge_git(Path::new("git"), Ok(version.to_owned())).verdict;
    assert_eq!(judged("git version 2.29.9"), Verdict::Failed);
    assert_eq!(judged("git version 2.39.5 (Apple Git-154)"), Verdict::Ok);
    assert_eq!(judged("git version 3.0"), Verdict::Ok);
}

#[tokio::test]
async fn a_model_without_script_or_key_or_none_at_all_is_a_warning() {
    for (model, word) in [
        (None, "COMPY_MODEL"),
        (Some("scripted:/nonexistent/x.jsonl"), "path"),
        (Some("openai:m"), "OPENAI_API_KEY"),
        (Some("anthropic:m"), "ANTHROPIC_API_KEY"),
    ] {
        let mut broken = sound();
        broken.subjects.model = model.map(|name| name.parse().unwrap());
        let check = broken.ailing(None).await;
        assert_eq!((check.name, check.verdict), ("model", Verdict::Warning));
        assert!(check.advice.contains(word), "{}", check.advice);
    }
    let elsewhere = Keys {
        openai_elsewhere: true,
        ..Keys::default()
    };
    let judged = judge_model(Some(&ModelName::OpenAi("m".to_owned())), elsewhere);
    assert_eq!(judged.verdict, Verdict::Ok);
}

#[test]
fn resident_memory_is_known() {
    assert!(resident_bytes() > 1 << 20);
}
