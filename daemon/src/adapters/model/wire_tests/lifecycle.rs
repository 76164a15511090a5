//! Line 3 and what happens around a reply: retries, cancellation, silence,
//! bounds, keys, and hosts that are not what they should be.

use std::path::PathBuf;

use super::*;
use crate::{
    adapters::model::{fake_provider::Answers, reply, scripted::Transcript},
    domain::backoff::Backoff,
};

const DIALECTS: [WireDialect; 2] = [WireDialect::OpenAi, WireDialect::Anthropic];

fn good(dialect: WireDialect) -> Answer {
    Answer::stream(match dialect {
        WireDialect::OpenAi => fixture("openai/openai-tool-call.sse"),
        WireDialect::Anthropic => fixture("anthropic/thinking-and-two-calls.sse"),
    })
}

/// The first half of a reply.
fn half(dialect: WireDialect) -> Answer {
    let text = match dialect {
        WireDialect::OpenAi => fixture("openai/openrouter-text.sse"),
        WireDialect::Anthropic => fixture("anthropic/thinking-and-two-calls.sse"),
    };
    Answer::stream(reply::cut(&text, text.len() / 2).to_owned())
}

async fn call(model: &dyn ModelPort) -> (Result<ModelReply, ModelError>, Vec<ModelProgress>) {
    let (progress, mut watch) = mpsc::channel(1000);
    let reply = model
        .call(
            &request(vec![user("go")]),
            &progress,
            &CancellationToken::new(),
        )
        .await;
    drop(progress);
    let mut events = Vec::new();
    while let Some(event) = watch.recv().await {
        events.push(event);
    }
    (reply, events)
}

#[tokio::test]
async fn wire_3_refusals_are_tried_again_until_the_reply_and_a_cut_is_the_callers() {
    for dialect in DIALECTS {
        let limited = Answer::json(429, &json!({"error": {"message": "slow"}}));
        let answers = vec![
            Answer::json(529, &json!({})),
            limited.header("retry-after", "0"),
            half(dialect).then_cut(),
            good(dialect),
        ];
        let provider = FakeProvider::with_answers(dialect, answers).await;
        let retry = RetryPolicy {
            backoff: Backoff {
                first: Duration::from_millis(1),
                longest: Duration::from_secs(30),
            },
            ..RetryPolicy::default()
        };
        let model = model(
            dialect,
            &ModelSettings {
                retry,
                ..settings(&provider)
            },
        );
        let (reply, events) = call(&*model).await;
        let error = reply.unwrap_err();
        assert!(
            matches!(error, ModelError::Cut { .. }) && error.may_have_cost(),
            "{error}"
        );
        let (reply, _) = call(&*model).await;
        assert!(!reply.unwrap().turn.tool_calls.is_empty());
        let causes = events.iter().filter_map(|event| match event {
            ModelProgress::Retrying { cause, .. } => Some(cause.as_str()),
            _ => None,
        });
        let causes: Vec<_> = causes.collect();
        assert_eq!(causes.len(), 2);
        for (cause, part) in causes.iter().zip(["529", "limits the rate"]) {
            assert!(cause.contains(part), "{cause}");
        }
        let requests = provider.requests();
        assert_eq!(requests.len(), 4);
        assert!(
            requests
                .iter()
                .all(|request| request.text == requests[0].text)
        );
        assert_eq!(provider.violations(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn wire_3_retry_after_is_honoured_over_our_own_backoff() {
    let limited = Answer::json(429, &json!({"error": {"message": "slow"}}));
    let answers = vec![
        limited.header("retry-after", "1"),
        good(WireDialect::OpenAi),
    ];
    let provider = FakeProvider::with_answers(WireDialect::OpenAi, answers).await;
    let retry = RetryPolicy {
        backoff: Backoff {
            first: Duration::from_millis(1),
            longest: Duration::from_secs(30),
        },
        ..RetryPolicy::default()
    };
    let model = model(
        WireDialect::OpenAi,
        &ModelSettings {
            retry,
            ..settings(&provider)
        },
    );
    let start = std::time::Instant::now();
    let (reply, _) = call(&*model).await;
    assert!(reply.is_ok());
    assert!(start.elapsed() >= seconds(1));
}

#[tokio::test]
async fn wire_3_what_is_wrong_for_good_is_asked_once() {
    for dialect in DIALECTS {
        for status in [400, 401, 402, 403, 404, 413] {
            let answer = Answer::json(status, &json!({"error": {"message": "no"}}));
            let provider = FakeProvider::with_answers(dialect, vec![answer]).await;
            let retry = RetryPolicy::default();
            let model = model(
                dialect,
                &ModelSettings {
                    retry,
                    ..settings(&provider)
                },
            );
            assert!(call(&*model).await.0.is_err());
            assert_eq!(provider.requests().len(), 1, "{status}");
        }
    }
}

#[tokio::test]
async fn a_call_cancelled_in_the_middle_of_its_stream_closes_the_connection() {
    for dialect in DIALECTS {
        let answers = vec![half(dialect).split_every(40).then_hang()];
        let provider = FakeProvider::with_answers(dialect, answers).await;
        let model = model(dialect, &settings(&provider));
        let (progress, mut watch) = mpsc::channel(1000);
        let cancel = CancellationToken::new();
        let request = request(vec![user("go")]);
        let (reply, ()) = tokio::join!(model.call(&request, &progress, &cancel), async {
            // The reply has begun when it is cancelled.
            watch.recv().await.unwrap();
            assert_eq!(provider.open_answers(), 1);
            cancel.cancel();
        });
        assert_eq!(reply, Err(ModelError::Cancelled));
        provider.wait_for_abandoned(1).await;
        assert_eq!(provider.open_answers(), 0);
    }
}

#[tokio::test]
async fn a_call_cancelled_before_any_answer_closes_the_connection() {
    let provider = FakeProvider::with_answers(WireDialect::OpenAi, vec![Answer::silence()]).await;
    let model = model(WireDialect::OpenAi, &settings(&provider));
    let (progress, _watch) = mpsc::channel(1);
    let cancel = CancellationToken::new();
    let request = request(vec![user("go")]);
    let (reply, ()) = tokio::join!(model.call(&request, &progress, &cancel), async {
        provider.wait_for_requests(1).await;
        cancel.cancel();
    });
    assert_eq!(reply, Err(ModelError::Cancelled));
    provider.wait_for_abandoned(1).await;
}

#[tokio::test]
async fn silence_before_and_inside_a_reply_is_noticed() {
    for dialect in DIALECTS {
        for answer in [Answer::silence(), half(dialect).then_hang()] {
            let provider = FakeProvider::with_answers(dialect, vec![answer]).await;
            let idle_timeout = Duration::from_millis(200);
            let model = model(
                dialect,
                &ModelSettings {
                    idle_timeout,
                    ..settings(&provider)
                },
            );
            let error = call(&*model).await.0.unwrap_err();
            assert!(matches!(error, ModelError::Idle { idle, .. } if idle == idle_timeout));
        }
    }
}

#[tokio::test]
async fn a_reply_that_never_ends_is_given_up_however_busy_it_is() {
    let busy = Answer::stream(": still here\n\n".repeat(10_000)).split_every(14);
    let busy = busy.paced(Duration::from_millis(5));
    let provider = FakeProvider::with_answers(WireDialect::OpenAi, vec![busy]).await;
    let call_timeout = Duration::from_millis(300);
    let settings = ModelSettings {
        call_timeout,
        ..settings(&provider)
    };
    let error = call(&*model(WireDialect::OpenAi, &settings))
        .await
        .0
        .unwrap_err();
    assert!(
        matches!(&error, ModelError::Cut { message, .. } if message.contains("300ms")),
        "{error}"
    );
}

#[tokio::test]
async fn a_silent_end_after_the_finish_keeps_the_reply() {
    let text =
        "data: {\"choices\":[{\"delta\":{\"content\":\"x\"},\"finish_reason\":\"stop\"}]}\n\n";
    let answer = Answer::stream(text).then_hang();
    let provider = FakeProvider::with_answers(WireDialect::OpenAi, vec![answer]).await;
    let idle_timeout = Duration::from_secs(3);
    let settings = ModelSettings {
        idle_timeout,
        ..settings(&provider)
    };
    let (reply, _) = call(&*model(WireDialect::OpenAi, &settings)).await;
    assert_eq!(reply.unwrap().turn.text, "x");
}

#[tokio::test]
async fn nonsense_in_place_of_a_reply_is_an_error_that_says_so() {
    let html = Answer::bytes(200, "text/html; charset=utf-8", "<html>".into());
    let whole = Answer::json(200, &json!({"choices": [{"message": {"content": "x"}}]}));
    let broken = Answer::stream("data: {nonsense}\n\n");
    let endless = "data: ".to_owned() + &"x".repeat(17 * 1024 * 1024);
    for dialect in DIALECTS {
        for answer in [
            html.clone(),
            whole.clone(),
            broken.clone(),
            Answer::stream(endless.clone()),
        ] {
            let outcome = answered(dialect, answer).await;
            assert!(
                matches!(outcome.error(), ModelError::Protocol { .. }),
                "{:?}",
                outcome.reply
            );
        }
    }
    let outcome = answered(WireDialect::OpenAi, html).await;
    assert!(
        outcome.error().to_string().contains("base URL"),
        "{}",
        outcome.error()
    );
}

#[tokio::test]
async fn events_of_the_wrong_shape_are_an_error_or_nothing_and_never_a_panic() {
    let shapes = [
        "null",
        "1",
        "[]",
        "\"x\"",
        "{}",
        r#"{"choices":7}"#,
        r#"{"choices":[7]}"#,
        r#"{"choices":[{"delta":{"tool_calls":[7,{"index":-1},{"function":"x"}]}}]}"#,
        r#"{"type":7}"#,
        r#"{"type":"content_block_start"}"#,
        r#"{"type":"content_block_delta","index":9,"delta":{}}"#,
        r#"{"type":"content_block_start","index":18446744073709551615,"content_block":[]}"#,
        r#"{"type":"message_delta","delta":[],"usage":7}"#,
        r#"{"type":"error"}"#,
        r#"{"error":null}"#,
        r#"{"error":{"message":{}}}"#,
        r#"{"usage":{"prompt_tokens":-1}}"#,
    ];
    for dialect in DIALECTS {
        for shape in shapes {
            let outcome = answered(dialect, Answer::stream(format!("data: {shape}\n\n"))).await;
            assert!(outcome.reply.is_err(), "{shape}: {:?}", outcome.reply);
        }
    }
}

#[tokio::test]
async fn more_calls_than_anyone_needs_are_refused() {
    let openai: String = (0..200)
        .map(|index| {
            let call = json!({"index": index, "id": format!("c{index}"),
                "function": {"name": "read", "arguments": "{}"}});
            format!(
                "data: {}\n\n",
                json!({"choices": [{"delta": {"tool_calls": [call]}}]})
            )
        })
        .collect();
    let anthropic: String = (0..200)
        .map(|index| {
            let block = json!({"type": "tool_use", "id": format!("c{index}"), "name": "read"});
            let event =
                json!({"type": "content_block_start", "index": index, "content_block": block});
            format!("data: {event}\n\n")
        })
        .collect();
    let anthropic = anthropic + "data: {\"type\":\"message_stop\"}\n\n";
    for (dialect, text) in DIALECTS.into_iter().zip([openai, anthropic]) {
        let outcome = answered(dialect, Answer::stream(text)).await;
        assert!(
            matches!(outcome.error(), ModelError::Protocol { message, .. }
                if message.contains("more than 128 tools")),
            "{:?}",
            outcome.reply
        );
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_slows_nothing() {
    let provider =
        FakeProvider::with_answers(WireDialect::Anthropic, vec![good(WireDialect::Anthropic)])
            .await;
    let model = model(WireDialect::Anthropic, &settings(&provider));
    let (progress, _unread) = mpsc::channel(1);
    let reply = model
        .call(
            &request(vec![user("go")]),
            &progress,
            &CancellationToken::new(),
        )
        .await;
    assert_eq!(reply.unwrap().turn.tool_calls.len(), 2);
}

#[tokio::test]
async fn a_key_that_the_provider_repeats_is_taken_out() {
    for dialect in DIALECTS {
        let words = format!("Incorrect API key provided: {KEY}. Find yours there.");
        let answer = Answer::json(401, &json!({"error": {"message": words, "type": "x"}}));
        let outcome = answered(dialect, answer).await;
        let text = outcome.error().to_string();
        assert!(matches!(outcome.error(), ModelError::Auth { .. }));
        assert!(
            text.contains("provided: ***.") && !text.contains(KEY),
            "{text}"
        );
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let target =
        FakeProvider::with_answers(WireDialect::OpenAi, vec![good(WireDialect::OpenAi)]).await;
    let away = Answer::bytes(307, "text/plain", "".into()).header(
        "location",
        &format!("{}/chat/completions", target.base_url()),
    );
    let outcome = answered(WireDialect::OpenAi, away).await;
    assert!(matches!(
        outcome.error(),
        ModelError::InvalidRequest { status: 307, .. }
    ));
    assert_eq!(target.requests().len(), 0);
}

#[tokio::test]
async fn nobody_there_is_unreachable_and_names_the_host() {
    // A port that was just free.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let settings = ModelSettings {
        openai_base_url: Some(format!("http://{address}/v1")),
        retry: RetryPolicy {
            max_tries: 1,
            ..RetryPolicy::default()
        },
        ..ModelSettings::default()
    };
    let error = call(&*model(WireDialect::OpenAi, &settings))
        .await
        .0
        .unwrap_err();
    assert!(matches!(error, ModelError::Unreachable { .. }));
    let text = error.to_string();
    assert!(
        text.contains(&address.to_string()) && text.contains("refused"),
        "{text}"
    );
}

fn refusal(name: &str, settings: &ModelSettings) -> ModelError {
    match build(&name.parse().unwrap(), settings) {
        Ok(_) => panic!("{name} is built with {settings:?}"),
        Err(error) => error,
    }
}

#[test]
fn a_provider_of_its_own_needs_a_key_and_says_which() {
    let empty = Some(Secret::new(" "));
    let settings = ModelSettings {
        openai_api_key: empty,
        ..ModelSettings::default()
    };
    for (name, variable) in [
        ("openai:m", "OPENAI_API_KEY"),
        ("anthropic:c", "ANTHROPIC_API_KEY"),
    ] {
        let error = refusal(name, &settings);
        assert!(matches!(error, ModelError::Auth { .. }));
        assert!(error.to_string().contains(variable), "{error}");
    }
}

#[tokio::test]
async fn a_server_of_ones_own_needs_no_key() {
    for dialect in DIALECTS {
        let provider = FakeProvider::with_answers(dialect, vec![good(dialect)]).await;
        let keyless = ModelSettings {
            openai_api_key: None,
            anthropic_api_key: None,
            // `/v1` and a slash at the end may be there or not.
            anthropic_base_url: Some(format!("{}/v1/", provider.base_url())),
            ..settings(&provider)
        };
        assert!(call(&*model(dialect, &keyless)).await.0.is_ok());
        let headers = &provider.requests()[0].headers;
        assert!(!headers.contains_key("authorization") && !headers.contains_key("x-api-key"));
    }
}

#[test]
fn settings_that_cannot_work_are_refused_when_the_model_is_built() {
    let base = |url: &str| ModelSettings {
        openai_base_url: Some(url.into()),
        ..ModelSettings::default()
    };
    for (url, part) in [
        ("localhost:11434", "scheme `localhost`"),
        ("ftp://host/v1", "scheme `ftp`"),
        ("nonsense", "is wrong"),
        ("https://me:pw@host/v1", "user or a password"),
        ("https://host/v1?x=1", "query"),
    ] {
        let error = refusal("openai:m", &base(url)).to_string();
        assert!(error.contains(part) && !error.contains("pw@"), "{error}");
    }
    let bundle = |file: PathBuf| ModelSettings {
        extra_ca_file: Some(file),
        ..base("https://host/v1")
    };
    let missing = refusal("openai:m", &bundle("/nonexistent.pem".into())).to_string();
    assert!(missing.contains("/nonexistent.pem"), "{missing}");
    let empty = tempfile::NamedTempFile::new().unwrap();
    let error = refusal("openai:m", &bundle(empty.path().into())).to_string();
    assert!(error.contains("no PEM certificate"), "{error}");
    let key = Some(Secret::new("a\nb"));
    let settings = ModelSettings {
        openai_api_key: key,
        ..base("https://host/v1")
    };
    assert!(
        refusal("openai:m", &settings)
            .to_string()
            .contains("OPENAI_API_KEY")
    );
}

#[test]
fn settings_show_no_key_when_they_are_logged() {
    let settings = ModelSettings {
        openai_api_key: Some(Secret::new(KEY)),
        ..ModelSettings::default()
    };
    assert!(!format!("{settings:?}").contains(KEY));
}

/// The same transcript played in the daemon and over the wire says the same.
#[tokio::test]
async fn a_transcript_says_the_same_in_the_daemon_and_over_the_wire() {
    let script = r#"{"compy_transcript":1}
{"fault":{"status":529}}
{"fault":{"status":429,"retry_after_s":0}}
{"text":"I look at caf\u00e9.py first.","tool_calls":[{"name":"read","arguments":{"path":"a b","n":1}},{"name":"list"}],"usage":{"input_uncached":9,"output":4}}
{"text":"","expect":"def slug","tool_calls":[{"name":"read","arguments_raw":"{\"path\":"}],"usage":{"input_cached":9,"output":1}}
{"text":"Done.","stop":"output_cap","usage":{"input_uncached":1,"output":1}}
"#;
    let retry = RetryPolicy {
        backoff: Backoff {
            first: Duration::from_millis(1),
            longest: Duration::from_secs(30),
        },
        ..RetryPolicy::default()
    };
    for dialect in DIALECTS {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), script).unwrap();
        let scripted = build(
            &ModelName::Scripted(file.path().into()),
            &ModelSettings {
                retry: retry.clone(),
                ..ModelSettings::default()
            },
        )
        .unwrap();
        let provider = FakeProvider::playing(dialect, Transcript::parse(script).unwrap()).await;
        let live = model(
            dialect,
            &ModelSettings {
                retry: retry.clone(),
                ..settings(&provider)
            },
        );

        let there = conversation(&*live).await;
        let here = conversation(&*scripted).await;
        assert_eq!(there, here);
        assert_eq!(here.len(), 3);
        assert_eq!(provider.requests().len(), 5);
        assert_eq!(provider.violations(), Vec::<String>::new());
    }
}

/// Plays three turns; ids of calls and of requests differ and are left out.
async fn conversation(model: &dyn ModelPort) -> Vec<ModelReply> {
    let mut messages = vec![user("go")];
    let mut replies = Vec::new();
    for _ in 0..3 {
        let (progress, _watch) = mpsc::channel(1);
        let asked = request(messages.clone());
        let mut reply = model
            .call(&asked, &progress, &CancellationToken::new())
            .await
            .unwrap();
        messages.push(Message::Assistant(reply.turn.clone()));
        let answers = reply
            .turn
            .tool_calls
            .iter()
            .map(|call| result(&call.id, "def slug():"));
        messages.push(Message::ToolResults {
            results: answers.collect(),
        });
        reply.provider_request_id = None;
        for call in &mut reply.turn.tool_calls {
            call.id.clear();
        }
        replies.push(reply);
    }
    replies
}

#[tokio::test]
async fn a_transcript_over_the_wire_fails_when_the_world_differs() {
    let script = "{\"compy_transcript\":1}\n{\"text\":\"x\",\"expect\":\"something else\"}";
    let provider =
        FakeProvider::playing(WireDialect::OpenAi, Transcript::parse(script).unwrap()).await;
    let error = call(&*model(WireDialect::OpenAi, &settings(&provider)))
        .await
        .0
        .unwrap_err();
    assert!(error.to_string().contains("line 2"), "{error}");
    assert_eq!(provider.violations().len(), 1);
}

#[tokio::test]
async fn the_fake_refuses_a_conversation_that_was_rewritten() {
    let answers: Answers = Box::new(|_| good(WireDialect::OpenAi));
    let provider = FakeProvider::start(WireDialect::OpenAi, answers).await;
    let model = model(WireDialect::OpenAi, &settings(&provider));
    let (progress, _watch) = mpsc::channel(100);
    let mut requests = opening_and(long_conversation());
    requests.truncate(2);
    requests[1].messages[0] = user("fix something else");
    let first = model
        .call(&requests[0], &progress, &CancellationToken::new())
        .await;
    assert!(first.is_ok());
    let second = model
        .call(&requests[1], &progress, &CancellationToken::new())
        .await;
    let error = second.unwrap_err().to_string();
    assert!(error.contains("rewrites its past"), "{error}");
    assert_eq!(provider.violations().len(), 1);
}
