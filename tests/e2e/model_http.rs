//! Live models: the same job with a provider that answers over HTTP and checks
//! every request it gets.

use compyd::adapters::model::{
    fake_provider::{FakeProvider, WireDialect},
    scripted::Transcript,
};
use compyd_proto::v1::SessionState;
use compyd_tests::{
    daemon::{Daemon, Options},
    repository::{Repository, sample_script},
    sessions::{outline, request, story},
};

/// The settings that lead a daemon to a provider.
pub(crate) fn settings(provider: &FakeProvider, dialect: WireDialect) -> Options {
    let (url, key) = match dialect {
        WireDialect::OpenAi => ("model.openai_base_url", "OPENAI_API_KEY"),
        WireDialect::Anthropic => ("model.anthropic_base_url", "ANTHROPIC_API_KEY"),
    };
    Options::default()
        .set(url, provider.base_url())
        .env(key, "sk-test-0123456789abcdef")
}

/// The name of the model it serves.
pub(crate) fn model(dialect: WireDialect) -> &'static str {
    match dialect {
        WireDialect::OpenAi => "openai:gpt-test",
        WireDialect::Anthropic => "anthropic:claude-test",
    }
}

async fn the_main_job_over_http(dialect: WireDialect) {
    let transcript = Transcript::load(&sample_script()).unwrap();
    let turns = transcript.len();
    let provider = FakeProvider::playing(dialect, transcript).await;
    let Some(daemon) = Daemon::start(settings(&provider, dialect)).await else {
        return;
    };
    let repository = Repository::sample(daemon.directory().join("textkit"));
    daemon.workspace("w", &["--repo", repository.arg()]).await;
    let id = daemon.start_session(request("w", model(dialect))).await;
    let session = daemon.rested(&id).await;
    let events = daemon.events(&id, 0).await;
    assert_eq!(provider.violations(), Vec::<String>::new());
    assert_eq!(
        session.state(),
        SessionState::Verified,
        "{}\n{}",
        session.state_reason,
        story(&events)
    );
    // One request for each turn: nothing was asked twice, nothing beyond.
    assert_eq!(provider.requests().len(), turns);
    assert_eq!(session.model_calls as usize, turns);
    let tokens = session.tokens.unwrap();
    assert!(tokens.output > 0 && tokens.input_uncached > 0, "{tokens:?}");
    assert!(
        !daemon.log().contains("sk-test-0123456789abcdef"),
        "the key is in the log"
    );

    // What a scripted model does with the same transcript, event by event.
    let repository = Repository::sample(daemon.directory().join("again"));
    daemon
        .workspace("again", &["--repo", repository.arg()])
        .await;
    let scripted = format!("scripted:{}", sample_script().display());
    let again = daemon.start_session(request("again", &scripted)).await;
    daemon.verified(&again).await;
    assert_eq!(outline(&events), outline(&daemon.events(&again, 0).await));
}

#[tokio::test]
async fn an_openai_compatible_server_does_the_main_job() {
    the_main_job_over_http(WireDialect::OpenAi).await;
}

#[tokio::test]
async fn an_anthropic_server_does_the_main_job() {
    the_main_job_over_http(WireDialect::Anthropic).await;
}

#[tokio::test]
async fn a_recording_of_a_live_session_plays_the_same_session() {
    let transcript = Transcript::load(&sample_script()).unwrap();
    let provider = FakeProvider::playing(WireDialect::OpenAi, transcript).await;
    let recordings = tempfile::tempdir().unwrap();
    let options = settings(&provider, WireDialect::OpenAi)
        .set("model.record_dir", recordings.path().display().to_string());
    let Some(daemon) = Daemon::start(options).await else {
        return;
    };
    let mut outlines = Vec::new();
    let mut model = model(WireDialect::OpenAi).to_owned();
    for name in ["live", "played"] {
        let repository = Repository::sample(daemon.directory().join(name));
        daemon.workspace(name, &["--repo", repository.arg()]).await;
        let id = daemon.start_session(request(name, &model)).await;
        let session = daemon.rested(&id).await;
        assert_eq!(
            session.state(),
            SessionState::Verified,
            "{}",
            session.state_reason
        );
        outlines.push(outline(&daemon.events(&id, 0).await));
        let file = recordings.path().join(format!("{id}.jsonl"));
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(
            !text.contains("sk-test-0123456789abcdef"),
            "the key is in {text}"
        );
        model = format!("scripted:{}", file.display());
    }
    assert_eq!(outlines[0], outlines[1]);
}
