//! Lines 1.1 to 1.8: chat completions.

use super::*;
use crate::domain::conversation::StopReason;

const DIALECT: WireDialect = WireDialect::OpenAi;

fn frame(value: Value) -> String {
    format!("data: {value}\n\n")
}

fn delta(delta: Value) -> String {
    frame(json!({"choices": [{"index": 0, "delta": delta, "finish_reason": null}]}))
}

fn finish(reason: &str) -> String {
    frame(json!({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]}))
}

const DONE: &str = "data: [DONE]\n\n";

fn call_delta(index: u64, id: Value, name: Value, arguments: &str) -> String {
    let function = json!({"name": name, "arguments": arguments});
    delta(json!({"tool_calls": [{"index": index, "id": id, "function": function}]}))
}

async fn stream(text: String) -> Outcome {
    answered(DIALECT, Answer::stream(text)).await
}

#[tokio::test]
async fn wire_1_1_frames_are_read_across_every_split() {
    let reply = in_all_splits(DIALECT, &fixture("openai/openai-tool-call.sse")).await;
    let expected = called("call_abc", "read", json!({"path": "src/caf\u{e9}.py"}));
    assert_eq!(reply.turn.tool_calls, [expected]);
}

#[tokio::test]
async fn wire_1_1_a_space_may_be_missing_and_event_lines_mean_nothing() {
    let reply = in_all_splits(DIALECT, &fixture("openai/vllm-text.sse")).await;
    assert_eq!(reply.turn.text, "Hello");
}

#[tokio::test]
async fn wire_1_1_comment_lines_are_skipped() {
    let reply = in_all_splits(DIALECT, &fixture("openai/openrouter-text.sse")).await;
    assert_eq!(reply.turn.text, "Paris: 22\u{b0}C \u{1f324}");
}

#[tokio::test]
async fn wire_1_2_arguments_are_joined_by_index_and_never_by_id() {
    // Two calls at once, their fragments interleaved and without ids.
    let text = call_delta(0, json!("a"), json!("read"), "")
        + &call_delta(1, json!("b"), json!("list"), "")
        + &call_delta(0, Value::Null, Value::Null, "{\"path\":")
        + &call_delta(1, Value::Null, Value::Null, "{\"path\":\"y")
        + &call_delta(0, Value::Null, Value::Null, "\"x\"}")
        + &call_delta(1, Value::Null, Value::Null, "\"}")
        + &finish("tool_calls")
        + DONE;
    let outcome = stream(text).await;
    let expected = [
        called("a", "read", json!({"path": "x"})),
        called("b", "list", json!({"path": "y"})),
    ];
    assert_eq!(outcome.reply().turn.tool_calls, expected);
    let started = |name: &str| ModelProgress::ToolCallStarted { name: name.into() };
    assert_eq!(outcome.progress, [started("read"), started("list")]);
}

#[tokio::test]
async fn wire_1_2_whole_calls_that_all_have_index_0_stay_apart() {
    let text = call_delta(0, json!("a"), json!("read"), "{\"path\":\"x\"}")
        + &call_delta(0, json!("b"), json!("read"), "{\"path\":\"y\"}")
        + &finish("tool_calls");
    let calls = &stream(text).await.reply.unwrap().turn.tool_calls;
    assert_eq!(calls.len(), 2);
    assert_eq!(calls[1], called("b", "read", json!({"path": "y"})));
}

#[tokio::test]
async fn wire_1_2_missing_and_repeated_ids_are_made_up_and_unique() {
    let text = call_delta(0, json!("a"), json!("read"), "{}")
        + &call_delta(1, json!("a"), json!("read"), "{}")
        + &call_delta(2, Value::Null, json!("read"), "{}")
        + &call_delta(3, json!("call_b"), json!("read"), "{}")
        + &finish("tool_calls");
    let past = request(long_conversation());
    let outcome = exchange(
        DIALECT,
        &request(vec![user("go")]),
        Answer::stream(text.clone()),
    )
    .await;
    let ids = |outcome: &Outcome| -> Vec<String> {
        outcome
            .reply()
            .turn
            .tool_calls
            .iter()
            .map(|call| call.id.clone())
            .collect()
    };
    assert_eq!(ids(&outcome), ["a", "call_0_1", "call_0_2", "call_b"]);
    // `call_b` is taken there, and three turns came before.
    let provider = FakeProvider::with_answers(
        DIALECT,
        vec![Answer::stream(finish("stop")), Answer::stream(text)],
    )
    .await;
    let model = model(DIALECT, &settings(&provider));
    let (progress, _watch) = mpsc::channel(100);
    let opening = request(past.messages[..1].to_vec());
    model
        .call(&opening, &progress, &CancellationToken::new())
        .await
        .unwrap();
    let reply = model
        .call(&past, &progress, &CancellationToken::new())
        .await
        .unwrap();
    let ids: Vec<_> = reply
        .turn
        .tool_calls
        .iter()
        .map(|call| call.id.as_str())
        .collect();
    assert_eq!(ids, ["a", "call_3_1", "call_3_2", "call_3_3"]);
    assert_eq!(provider.violations(), Vec::<String>::new());
}

#[tokio::test]
async fn wire_1_3_null_content_beside_calls_is_no_text() {
    let outcome = stream(fixture("openai/openai-tool-call.sse")).await;
    assert_eq!(outcome.reply().turn.text, "");
    assert_eq!(outcome.texts(), "");
}

#[tokio::test]
async fn wire_1_3_empty_arguments_are_an_empty_object() {
    let text = call_delta(0, json!("a"), json!("list"), "") + &finish("tool_calls") + DONE;
    let outcome = stream(text).await;
    assert_eq!(
        outcome.reply().turn.tool_calls,
        [called("a", "list", json!({}))]
    );
}

#[tokio::test]
async fn wire_1_3_broken_arguments_come_with_the_models_own_words() {
    let text = call_delta(0, json!("a"), json!("read"), "{\"path\":") + &finish("tool_calls");
    let reply = stream(text).await.reply.unwrap();
    let Arguments::Malformed { raw, error } = &reply.turn.tool_calls[0].arguments else {
        panic!("{reply:?}")
    };
    assert_eq!(raw, "{\"path\":");
    assert!(error.contains("EOF"), "{error}");
}

#[tokio::test]
async fn wire_1_3_whole_calls_in_one_delta_are_read() {
    let reply = in_all_splits(DIALECT, &fixture("openai/groq-tool-calls.sse")).await;
    let expected = [
        called("mcf2", "read", json!({"path": "a"})),
        called("mcf3", "list", json!({})),
    ];
    assert_eq!(reply.turn.tool_calls, expected);
}

#[tokio::test]
async fn wire_1_3_deltas_with_empty_content_and_null_names_go_to_their_call() {
    let reply = in_all_splits(DIALECT, &fixture("openai/litellm-tool-call.sse")).await;
    assert_eq!(
        reply.turn.tool_calls,
        [called("c1", "run", json!({"command": "ls"}))]
    );
    assert_eq!(reply.turn.text, "");
}

#[tokio::test]
async fn wire_1_4_calls_survive_a_finish_reason_of_stop() {
    let reply = stream(fixture("openai/openai-tool-call.sse"))
        .await
        .reply
        .unwrap();
    assert_eq!(
        (reply.turn.tool_calls.len(), reply.stop),
        (1, StopReason::ToolUse)
    );
}

#[tokio::test]
async fn wire_1_4_done_alone_and_a_finish_without_done_complete_a_reply() {
    let call = call_delta(0, json!("a"), json!("list"), "{}");
    for end in [
        DONE.to_owned(),
        finish("tool_calls"),
        "data: [DONE]".to_owned(),
    ] {
        let reply = stream(call.clone() + &end).await.reply.unwrap();
        assert_eq!(
            (reply.turn.tool_calls.len(), reply.stop),
            (1, StopReason::ToolUse),
            "{end}"
        );
    }
}

#[tokio::test]
async fn wire_1_4_an_end_without_finish_is_cut_and_may_be_tried_again() {
    let call = call_delta(0, json!("a"), json!("list"), "{}");
    let half = "data: {\"choices\":[{\"del".to_owned();
    for text in [call.clone(), call + &half, String::new(), half] {
        for answer in [
            Answer::stream(text.clone()),
            Answer::stream(text.clone()).then_cut(),
        ] {
            let outcome = answered(DIALECT, answer).await;
            assert!(
                matches!(outcome.error(), ModelError::Cut { .. }),
                "{text}: {:?}",
                outcome.reply
            );
            assert_eq!(
                outcome.error().retry(),
                crate::ports::model::RetryAdvice::Backoff
            );
        }
    }
}

#[tokio::test]
async fn wire_1_4_a_cut_after_the_finish_keeps_the_reply_without_usage() {
    let text = delta(json!({"content": "done"})) + &finish("stop");
    let outcome = answered(DIALECT, Answer::stream(text).then_cut()).await;
    assert_eq!(outcome.reply().turn.text, "done");
    assert_eq!(outcome.reply().usage, None);
}

#[tokio::test]
async fn wire_1_4_length_is_the_output_cap_with_or_without_calls() {
    let text = delta(json!({"content": "and then"})) + &finish("length") + DONE;
    assert_eq!(stream(text).await.reply().stop, StopReason::OutputCap);
    let text = call_delta(0, json!("a"), json!("read"), "{\"path\":\"x") + &finish("length");
    let reply = stream(text).await.reply.unwrap();
    assert_eq!(reply.stop, StopReason::OutputCap);
    assert!(matches!(
        reply.turn.tool_calls[0].arguments,
        Arguments::Malformed { .. }
    ));
}

#[tokio::test]
async fn wire_1_4_other_reasons_are_named() {
    let cases = [
        (finish("stop"), StopReason::EndTurn),
        (finish("content_filter"), StopReason::Refusal),
        (
            delta(json!({"refusal": "I will not."})) + &finish("stop"),
            StopReason::Refusal,
        ),
        (finish("eos"), StopReason::Other("eos".into())),
    ];
    for (text, stop) in cases {
        assert_eq!(
            stream(text.clone() + DONE).await.reply().stop,
            stop,
            "{text}"
        );
    }
}

#[tokio::test]
async fn wire_1_5_usage_is_asked_for_and_read_from_the_last_chunk() {
    let outcome = stream(fixture("openai/openai-tool-call.sse")).await;
    let body = &outcome.provider.requests()[0].body;
    assert_eq!(body["stream_options"], json!({"include_usage": true}));
    let expected = Usage {
        input_uncached: 7,
        input_cached: 60,
        output: 9,
        reasoning: 4,
        cache_written: 0,
    };
    assert_eq!(outcome.usage(), expected);
}

#[tokio::test]
async fn wire_1_5_choices_may_be_null_or_odd_beside_usage() {
    let vllm = stream(fixture("openai/vllm-text.sse")).await;
    assert_eq!(
        vllm.usage(),
        Usage {
            input_uncached: 4,
            output: 2,
            ..Usage::default()
        }
    );
    let litellm = stream(fixture("openai/litellm-tool-call.sse")).await;
    assert_eq!(
        litellm.usage(),
        Usage {
            input_uncached: 5,
            output: 3,
            ..Usage::default()
        }
    );
}

#[tokio::test]
async fn wire_1_5_usage_that_comes_twice_is_not_added_up() {
    let groq = stream(fixture("openai/groq-tool-calls.sse")).await;
    assert_eq!(
        groq.usage(),
        Usage {
            input_uncached: 249,
            output: 10,
            ..Usage::default()
        }
    );
}

#[tokio::test]
async fn wire_1_5_the_last_count_stands_when_later_chunks_have_none() {
    let count = |prompt: u64| {
        frame(json!({"choices": [], "usage": {"prompt_tokens": prompt, "completion_tokens": 1}}))
    };
    let silent = frame(json!({"choices": [], "usage": null}));
    let text = count(5) + &count(6) + &finish("stop") + &silent + DONE;
    let usage = stream(text).await.usage();
    assert_eq!(
        usage,
        Usage {
            input_uncached: 6,
            output: 1,
            ..Usage::default()
        }
    );
}

#[tokio::test]
async fn wire_1_5_without_usage_there_is_none_rather_than_zero() {
    let outcome = stream(delta(json!({"content": "x"})) + &finish("stop") + DONE).await;
    assert_eq!(outcome.reply().usage, None);
}

#[tokio::test]
async fn wire_1_6_cached_and_written_tokens_are_part_of_the_prompts() {
    let usage = stream(fixture("openai/openrouter-text.sse")).await.usage();
    let expected = Usage {
        input_uncached: 50,
        input_cached: 8,
        cache_written: 50,
        output: 12,
        reasoning: 0,
    };
    assert_eq!(usage, expected);
    assert_eq!(usage.total(), 120);
}

#[tokio::test]
async fn wire_1_6_reasoning_counted_beside_the_completion_is_output_too() {
    let counts = json!({"prompt_tokens": 26, "completion_tokens": 168, "total_tokens": 498,
        "completion_tokens_details": {"reasoning_tokens": 304}});
    let text = finish("stop") + &frame(json!({"choices": [], "usage": counts})) + DONE;
    let usage = stream(text).await.usage();
    assert_eq!(
        (usage.output, usage.reasoning, usage.total()),
        (472, 304, 498)
    );
}

#[tokio::test]
async fn wire_1_6_absurd_counts_cannot_overflow() {
    let counts = json!({"prompt_tokens": u64::MAX, "completion_tokens": u64::MAX,
        "prompt_tokens_details": {"cached_tokens": u64::MAX}});
    let text = finish("stop") + &frame(json!({"choices": [], "usage": counts})) + DONE;
    let usage = stream(text).await.usage();
    assert!(usage.total() < u64::MAX / 1000);
}

#[tokio::test]
async fn wire_1_6_reasoning_is_told_whatever_its_field_and_is_no_text() {
    let deltas = [
        json!({"reasoning_content": "hmm"}),
        json!({"reasoning": "hmm"}),
        json!({"reasoning": "hmm", "reasoning_details": [{"text": "hmm"}]}),
        json!({"reasoning_details": [{"type": "reasoning.summary", "summary": "hmm"}]}),
        json!({"content": "<think>hmm</think>\n\n"}),
    ];
    for reasoning in deltas {
        let text = delta(reasoning.clone()) + &delta(json!({"content": "so"})) + &finish("stop");
        let outcome = stream(text).await;
        assert_eq!(outcome.reply().turn.text, "so", "{reasoning}");
        assert_eq!(outcome.reasoning(), "hmm", "{reasoning}");
    }
}

#[tokio::test]
async fn wire_1_6_inline_thinking_may_be_split_anywhere() {
    let content = "\n<think>a < b</think>\nText with <think> in it.";
    for size in 1..12 {
        let characters: Vec<char> = content.chars().collect();
        let pieces = characters
            .chunks(size)
            .map(|piece| delta(json!({"content": piece.iter().collect::<String>()})));
        let outcome = stream(pieces.collect::<String>() + &finish("stop")).await;
        assert_eq!(outcome.reasoning(), "a < b", "{size}");
        assert_eq!(
            outcome.reply().turn.text,
            "Text with <think> in it.",
            "{size}"
        );
    }
}

#[tokio::test]
async fn wire_1_6_what_only_looks_like_thinking_stays_text() {
    for text in ["<thi", "<thing>", "  ", "x <think>y</think>"] {
        let outcome = stream(delta(json!({"content": text})) + &finish("stop")).await;
        assert_eq!(outcome.reply().turn.text, text);
    }
}

#[tokio::test]
async fn wire_1_7_errors_inside_a_stream_end_the_call() {
    let begun = delta(json!({"content": "I beg"}));
    for error in [
        json!({"error": {"message": "boom", "code": 502}}),
        json!({"object": "error", "message": "boom", "code": 500}),
        json!({"error": "boom"}),
    ] {
        let outcome = stream(begun.clone() + &frame(error.clone())).await;
        assert!(
            matches!(outcome.error(), ModelError::Server { status: 200, message, .. }
                if message.contains("boom")),
            "{error}: {:?}",
            outcome.reply
        );
    }
}

#[tokio::test]
async fn wire_1_7_an_error_in_place_of_a_stream_is_read() {
    let error = json!({"error": {"message": "boom", "code": "server_is_overloaded"}});
    let outcome = answered(DIALECT, Answer::json(200, &error)).await;
    assert!(matches!(
        outcome.error(),
        ModelError::Server { status: 200, .. }
    ));
}

#[tokio::test]
async fn wire_1_7_codes_decide_what_an_error_means() {
    let body = |code: &str, message: &str| json!({"error": {"message": message, "type": "t", "param": null, "code": code}});
    let long = "This model's maximum context length is 8192 tokens.";
    let in_stream = |value: Value| Answer::stream(frame(value));
    type Check = fn(&ModelError) -> bool;
    let cases: [(Answer, Check); 15] = [
        (
            Answer::json(400, &body("context_length_exceeded", "x")),
            |e| matches!(e, ModelError::ContextOverflow { .. }),
        ),
        (Answer::json(400, &body("", long)), |e| {
            matches!(e, ModelError::ContextOverflow { .. })
        }),
        (in_stream(body("context_length_exceeded", "x")), |e| {
            matches!(e, ModelError::ContextOverflow { .. })
        }),
        (Answer::json(413, &json!({})), |e| {
            matches!(e, ModelError::ContextOverflow { .. })
        }),
        (Answer::json(429, &body("insufficient_quota", "x")), |e| {
            matches!(e, ModelError::Quota { .. })
        }),
        (in_stream(body("insufficient_quota", "x")), |e| {
            matches!(e, ModelError::Quota { .. })
        }),
        (Answer::json(402, &json!({})), |e| {
            matches!(e, ModelError::Quota { .. })
        }),
        (
            Answer::json(429, &body("rate_limit_exceeded", "Slow down")),
            |e| {
                matches!(
                    e,
                    ModelError::RateLimited {
                        retry_after: None,
                        ..
                    }
                )
            },
        ),
        // A limit of rate may speak of tokens as an overflow does.
        (
            Answer::json(
                429,
                &body(
                    "",
                    "this request would exceed the context window limit per minute",
                ),
            ),
            |e| matches!(e, ModelError::RateLimited { .. }),
        ),
        (
            in_stream(body("rate_limit_exceeded", "Please try again in 1.5s.")),
            |e| {
                matches!(e, ModelError::RateLimited { retry_after: Some(wait), .. }
                if wait.as_millis() == 1500)
            },
        ),
        (Answer::json(503, &body("server_is_overloaded", "x")), |e| {
            matches!(e, ModelError::Server { status: 503, .. })
        }),
        (in_stream(body("slow_down", "x")), |e| {
            matches!(e, ModelError::Server { .. })
        }),
        (Answer::json(401, &body("invalid_api_key", "x")), |e| {
            matches!(e, ModelError::Auth { .. })
        }),
        (
            Answer::json(404, &body("model_not_found", "no such model")),
            |e| matches!(e, ModelError::InvalidRequest { status: 404, .. }),
        ),
        (Answer::json(400, &body("", "tools.0: bad")), |e| {
            matches!(e, ModelError::InvalidRequest { status: 400, message, .. }
                if message == "tools.0: bad")
        }),
    ];
    for (answer, holds) in cases {
        let outcome = answered(DIALECT, answer.clone()).await;
        assert!(holds(outcome.error()), "{answer:?}: {:?}", outcome.reply);
    }
}

#[tokio::test]
async fn wire_1_7_a_wait_in_words_is_understood() {
    for (words, millis) in [
        ("Please try again in 20s.", 20_000),
        ("try again in 250ms", 250),
        ("Try again in 1.5 seconds", 1500),
        ("Please try again in 6m0s. Visit", 360_000),
    ] {
        let body = json!({"error": {"message": words, "code": "rate_limit_exceeded"}});
        let outcome = answered(DIALECT, Answer::json(429, &body)).await;
        assert!(
            matches!(outcome.error(), ModelError::RateLimited { retry_after: Some(wait), .. }
                if wait.as_millis() == millis),
            "{words}: {:?}",
            outcome.reply
        );
    }
}

fn limited() -> Answer {
    Answer::json(
        429,
        &json!({"error": {"message": "limit", "code": "rate_limit_exceeded"}}),
    )
}

fn wait_of(error: &ModelError) -> Option<Duration> {
    match error {
        ModelError::RateLimited { retry_after, .. } | ModelError::Server { retry_after, .. } => {
            *retry_after
        }
        other => panic!("{other} names no wait"),
    }
}

#[tokio::test]
async fn wire_1_8_retry_after_is_seconds_or_a_date() {
    let outcome = answered(DIALECT, limited().header("retry-after", "7")).await;
    assert_eq!(wait_of(outcome.error()), Some(seconds(7)));
    let overloaded = Answer::json(503, &json!({})).header("retry-after", "0.5");
    let outcome = answered(DIALECT, overloaded).await;
    assert_eq!(wait_of(outcome.error()), Some(Duration::from_millis(500)));

    let at = std::time::SystemTime::now() + seconds(90);
    let date = httpdate::fmt_http_date(at);
    let outcome = answered(DIALECT, limited().header("retry-after", &date)).await;
    let wait = wait_of(outcome.error()).unwrap();
    assert!(wait > seconds(60) && wait <= seconds(90), "{wait:?}");

    let past = limited().header("retry-after", "Sun, 06 Nov 1994 08:49:37 GMT");
    assert_eq!(
        wait_of(answered(DIALECT, past).await.error()),
        Some(Duration::ZERO)
    );
}

#[tokio::test]
async fn wire_1_8_the_limit_that_is_used_up_names_the_wait() {
    let answer = limited()
        .header("x-ratelimit-remaining-requests", "59")
        .header("x-ratelimit-reset-requests", "1s")
        .header("x-ratelimit-remaining-tokens", "0")
        .header("x-ratelimit-reset-tokens", "6m0s");
    assert_eq!(
        wait_of(answered(DIALECT, answer).await.error()),
        Some(seconds(360))
    );
    let left = limited()
        .header("x-ratelimit-remaining-tokens", "100")
        .header("x-ratelimit-reset-tokens", "6m0s");
    assert_eq!(wait_of(answered(DIALECT, left).await.error()), None);
}

#[tokio::test]
async fn wire_1_8_the_request_id_is_kept() {
    let answer = Answer::stream(fixture("openai/vllm-text.sse")).header("x-request-id", "req_7");
    let outcome = answered(DIALECT, answer).await;
    assert_eq!(
        outcome.reply().provider_request_id.as_deref(),
        Some("req_7")
    );
}
