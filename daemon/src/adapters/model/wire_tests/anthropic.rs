//! Lines 2.1 to 2.8: the messages API.

use super::*;
use crate::domain::conversation::StopReason;

const DIALECT: WireDialect = WireDialect::Anthropic;

fn event(value: Value) -> String {
    format!(
        "event: {}\ndata: {value}\n\n",
        value["type"].as_str().unwrap()
    )
}

fn start() -> String {
    let usage = json!({"input_tokens": 3, "output_tokens": 1});
    event(json!({"type": "message_start", "message": {"usage": usage}}))
}

fn stop(reason: &str) -> String {
    event(
        json!({"type": "message_delta", "delta": {"stop_reason": reason},
        "usage": {"output_tokens": 5}}),
    ) + &event(json!({"type": "message_stop"}))
}

fn block(index: u64, block: Value, deltas: &[Value]) -> String {
    let deltas = deltas
        .iter()
        .map(|delta| event(json!({"type": "content_block_delta", "index": index, "delta": delta})));
    event(json!({"type": "content_block_start", "index": index, "content_block": block}))
        + &deltas.collect::<String>()
        + &event(json!({"type": "content_block_stop", "index": index}))
}

async fn stream(text: String) -> Outcome {
    answered(DIALECT, Answer::stream(text)).await
}

fn error(kind: &str, message: &str) -> Value {
    json!({"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})
}

#[tokio::test]
async fn wire_2_1_a_reply_is_read_across_every_split() {
    let reply = in_all_splits(DIALECT, &fixture("anthropic/thinking-and-two-calls.sse")).await;
    let expected = [
        called("toolu_1", "read", json!({"path": "caf\u{e9}.py"})),
        called("toolu_2", "list", json!({})),
    ];
    assert_eq!(reply.turn.tool_calls, expected);
    assert_eq!(reply.turn.text, "I read caf\u{e9}.py.");
    assert_eq!(reply.stop, StopReason::ToolUse);
}

#[tokio::test]
async fn wire_2_1_the_key_and_the_version_are_sent_as_headers() {
    let outcome = stream(fixture("anthropic/older-text.sse")).await;
    let request = &outcome.provider.requests()[0];
    assert_eq!(request.headers["x-api-key"], KEY);
    assert_eq!(request.headers["anthropic-version"], "2023-06-01");
    assert_eq!(request.headers.get("authorization"), None);
}

#[tokio::test]
async fn wire_2_1_pings_and_unknown_events_are_skipped_anywhere() {
    let ping = event(json!({"type": "ping"}));
    let news = event(json!({"type": "brand_new", "index": "x"}));
    let text = block(
        0,
        json!({"type": "text", "text": ""}),
        &[
            json!({"type": "text_delta", "text": "hi"}),
            json!({"type": "brand_new_delta", "x": 1}),
        ],
    );
    let unknown = block(
        1,
        json!({"type": "brand_new"}),
        &[json!({"type": "text_delta"})],
    );
    let text = format!(
        "{ping}{}{news}{text}{ping}{unknown}{}",
        start(),
        stop("end_turn")
    );
    assert_eq!(stream(text).await.reply().turn.text, "hi");
}

#[tokio::test]
async fn wire_2_1_an_error_in_the_middle_ends_the_call() {
    let text = start() + &event(error("overloaded_error", "Overloaded"));
    let outcome = stream(text).await;
    assert!(
        matches!(outcome.error(), ModelError::Server { status: 200, message, .. }
        if message == "Overloaded")
    );
}

#[tokio::test]
async fn wire_2_1_an_end_without_stop_is_cut_and_may_be_tried_again() {
    let text = start() + &block(0, json!({"type": "text", "text": "I beg"}), &[]);
    for answer in [
        Answer::stream(text.clone()),
        Answer::stream(text).then_cut(),
    ] {
        let outcome = answered(DIALECT, answer).await;
        assert!(
            matches!(outcome.error(), ModelError::Cut { .. }),
            "{:?}",
            outcome.reply
        );
    }
}

#[tokio::test]
async fn wire_2_2_input_that_is_empty_only_is_an_empty_object() {
    let start_block = json!({"type": "tool_use", "id": "t", "name": "list", "input": {}});
    let delta = json!({"type": "input_json_delta", "partial_json": ""});
    for deltas in [vec![], vec![delta.clone()], vec![delta.clone(), delta]] {
        let text = start() + &block(0, start_block.clone(), &deltas) + &stop("tool_use");
        let outcome = stream(text).await;
        assert_eq!(
            outcome.reply().turn.tool_calls,
            [called("t", "list", json!({}))]
        );
    }
}

#[tokio::test]
async fn wire_2_2_broken_input_comes_with_the_models_own_words() {
    let start_block = json!({"type": "tool_use", "id": "t", "name": "read", "input": {}});
    let delta = json!({"type": "input_json_delta", "partial_json": "{\"path\": \"x"});
    let reply = stream(start() + &block(0, start_block, &[delta]) + &stop("max_tokens")).await;
    let call = &reply.reply().turn.tool_calls[0];
    assert!(matches!(&call.arguments, Arguments::Malformed { raw, .. } if raw == "{\"path\": \"x"));
    assert_eq!(reply.reply().stop, StopReason::OutputCap);
}

#[tokio::test]
async fn wire_2_2_signed_thinking_goes_back_unchanged_and_first() {
    let outcome = stream(fixture("anthropic/thinking-and-two-calls.sse")).await;
    assert_eq!(outcome.reasoning(), "Look first.");
    let turn = outcome.reply().turn.clone();
    let thinking = json!({"type": "thinking", "thinking": "Look first.", "signature": "c2lnbmVk"});
    assert_eq!(turn.opaque, std::slice::from_ref(&thinking));

    let results = vec![result("toolu_1", "x"), result("toolu_2", "y")];
    let messages = vec![
        user("go"),
        Message::Assistant(turn),
        Message::ToolResults { results },
    ];
    let body = sent(DIALECT, &[request(vec![user("go")]), request(messages)]).await;
    let content = body["messages"][1]["content"].as_array().unwrap();
    assert_eq!(content[0], thinking);
    let kinds: Vec<_> = content
        .iter()
        .map(|block| block["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["thinking", "text", "tool_use", "tool_use"]);
}

#[tokio::test]
async fn wire_2_2_redacted_thinking_is_kept_as_it_came() {
    let redacted = json!({"type": "redacted_thinking", "data": "b3BhcXVl"});
    let text = start() + &block(0, redacted.clone(), &[]) + &stop("end_turn");
    assert_eq!(stream(text).await.reply().turn.opaque, [redacted]);
}

#[tokio::test]
async fn wire_2_2_results_of_parallel_calls_share_the_next_user_message() {
    let body = sent(DIALECT, &opening_and(long_conversation())).await;
    let results = &body["messages"][2];
    assert_eq!(results["role"], "user");
    let expected = json!([
        {"type": "tool_result", "tool_use_id": "call_a", "content": "(no output)"},
        {"type": "tool_result", "tool_use_id": "call_b", "content": "no such folder",
            "is_error": true},
    ]);
    assert_eq!(results["content"], expected);
}

#[tokio::test]
async fn wire_2_3_reasons_to_stop_are_mapped() {
    let cases = [
        ("end_turn", StopReason::EndTurn),
        ("tool_use", StopReason::Other("tool_use".into())),
        ("max_tokens", StopReason::OutputCap),
        ("refusal", StopReason::Refusal),
        ("stop_sequence", StopReason::Other("stop_sequence".into())),
        ("pause_turn", StopReason::Other("pause_turn".into())),
    ];
    for (word, expected) in cases {
        let text = block(0, json!({"type": "text", "text": "x"}), &[]);
        assert_eq!(
            stream(start() + &text + &stop(word)).await.reply().stop,
            expected,
            "{word}"
        );
    }
}

#[tokio::test]
async fn wire_2_4_input_excludes_the_cache() {
    let usage = stream(fixture("anthropic/thinking-and-two-calls.sse"))
        .await
        .usage();
    let expected = Usage {
        input_uncached: 12,
        input_cached: 4000,
        cache_written: 300,
        output: 66,
        reasoning: 0,
    };
    assert_eq!(usage, expected);
    assert_eq!(usage.total(), 4378);
}

#[tokio::test]
async fn wire_2_4_counts_that_are_missing_later_keep_their_start() {
    let usage = stream(fixture("anthropic/older-text.sse")).await.usage();
    let expected = Usage {
        input_uncached: 25,
        input_cached: 7,
        output: 15,
        ..Usage::default()
    };
    assert_eq!(usage, expected);
}

#[tokio::test]
async fn wire_2_4_later_counts_replace_earlier_ones_and_are_not_added() {
    let delta = |usage: Value| event(json!({"type": "message_delta", "delta": {}, "usage": usage}));
    let text = start()
        + &delta(json!({"input_tokens": 10, "cache_read_input_tokens": null, "output_tokens": 20}))
        + &delta(json!({"output_tokens": 30, "cache_read_input_tokens": 4}))
        + &event(json!({"type": "message_stop"}));
    let expected = Usage {
        input_uncached: 10,
        input_cached: 4,
        output: 30,
        ..Usage::default()
    };
    assert_eq!(stream(text).await.usage(), expected);
}

#[tokio::test]
async fn wire_2_5_the_four_cache_marks_are_where_they_pay() {
    let body = sent(DIALECT, &opening_and(long_conversation())).await;
    let mark = json!({"type": "ephemeral"});
    assert_eq!(body["system"][0]["cache_control"], mark);
    assert_eq!(body["tools"][1]["cache_control"], mark);
    assert_eq!(body["tools"][0].get("cache_control"), None);
    let marked = |message: &Value| {
        let blocks = message["content"].as_array().unwrap();
        let is_marked = |block: &Value| block.get("cache_control").is_some();
        assert!(!blocks[..blocks.len() - 1].iter().any(is_marked));
        is_marked(blocks.last().unwrap())
    };
    let marks: Vec<bool> = body["messages"]
        .as_array()
        .unwrap()
        .iter()
        .map(marked)
        .collect();
    assert_eq!(
        marks,
        [false, false, false, false, false, true, false, true]
    );
}

#[tokio::test]
async fn wire_2_5_a_request_without_tools_has_no_mark_for_them() {
    let request = ModelRequest {
        tools: Vec::new(),
        ..request(vec![user("go")])
    };
    let body = sent(DIALECT, &[request]).await;
    assert_eq!(body.get("tools"), None);
    assert_eq!(body.to_string().matches("cache_control").count(), 2);
}

#[tokio::test]
async fn wire_2_6_a_broken_history_is_the_requests_fault() {
    let message = "messages.1: `tool_use` ids were found without `tool_result` blocks \
        immediately after: call_1. Each `tool_use` block must have a corresponding \
        `tool_result` block in the next message.";
    let answer = Answer::json(400, &error("invalid_request_error", message));
    let outcome = answered(DIALECT, answer).await;
    assert!(
        matches!(outcome.error(), ModelError::InvalidRequest { status: 400, message, .. }
        if message.contains("call_1"))
    );
    assert_eq!(
        outcome.error().retry(),
        crate::ports::model::RetryAdvice::Never
    );
}

#[tokio::test]
async fn wire_2_7_each_status_has_its_meaning() {
    type Check = fn(&ModelError) -> bool;
    let limit = "You have reached your specified API usage limits. You will regain access on \
        2026-12-01 at 00:00 UTC.";
    let credit = "Your credit balance is too low to access the Anthropic API.";
    let long = "prompt is too long: 215000 tokens > 200000 maximum";
    let cases: [(u16, &str, &str, Check); 13] = [
        (400, "invalid_request_error", "bad", |e| {
            matches!(e, ModelError::InvalidRequest { status: 400, .. })
        }),
        (400, "invalid_request_error", limit, |e| {
            matches!(e, ModelError::Quota { .. })
        }),
        (400, "invalid_request_error", credit, |e| {
            matches!(e, ModelError::Quota { .. })
        }),
        (400, "invalid_request_error", long, |e| {
            matches!(e, ModelError::ContextOverflow { .. })
        }),
        (401, "authentication_error", "invalid x-api-key", |e| {
            matches!(e, ModelError::Auth { .. })
        }),
        (402, "billing_error", "pay", |e| {
            matches!(e, ModelError::Quota { .. })
        }),
        (403, "permission_error", "no", |e| {
            matches!(e, ModelError::Auth { .. })
        }),
        (404, "not_found_error", "model: x", |e| {
            matches!(e, ModelError::InvalidRequest { status: 404, .. })
        }),
        (409, "conflict_error", "again", |e| {
            matches!(e, ModelError::Server { status: 409, .. })
        }),
        (413, "request_too_large", "big", |e| {
            matches!(e, ModelError::ContextOverflow { .. })
        }),
        (500, "api_error", "oops", |e| {
            matches!(e, ModelError::Server { status: 500, .. })
        }),
        (502, "", "", |e| {
            matches!(e, ModelError::Server { status: 502, .. })
        }),
        (529, "overloaded_error", "Overloaded", |e| {
            matches!(
                e,
                ModelError::Server {
                    status: 529,
                    retry_after: None,
                    ..
                }
            )
        }),
    ];
    for (status, kind, message, holds) in cases {
        let outcome = answered(DIALECT, Answer::json(status, &error(kind, message))).await;
        assert!(
            holds(outcome.error()),
            "{status} {message}: {:?}",
            outcome.reply
        );
        let text = outcome.error().to_string();
        assert!(text.contains("anthropic at 127.0.0.1"), "{text}");
    }
}

#[tokio::test]
async fn wire_2_7_a_429_without_a_wait_is_a_spending_limit_and_final() {
    let body = json!({"type": "error", "error": {"type": "rate_limit_error", "message": "limit",
        "details": {"error_code": "enforced_spend_limit_reached"}}});
    for body in [body, error("rate_limit_error", "limit")] {
        let outcome = answered(DIALECT, Answer::json(429, &body)).await;
        assert!(
            matches!(outcome.error(), ModelError::Quota { .. }),
            "{:?}",
            outcome.reply
        );
        assert_eq!(
            outcome.error().retry(),
            crate::ports::model::RetryAdvice::Never
        );
    }
}

#[tokio::test]
async fn wire_2_7_errors_inside_a_stream_mean_what_their_status_would() {
    type Check = fn(&ModelError) -> bool;
    let cases: [(&str, &str, Check); 5] = [
        ("invalid_request_error", "bad", |e| {
            matches!(e, ModelError::InvalidRequest { status: 200, .. })
        }),
        ("authentication_error", "x", |e| {
            matches!(e, ModelError::Auth { .. })
        }),
        ("rate_limit_error", "x", |e| {
            matches!(e, ModelError::RateLimited { .. })
        }),
        ("api_error", "x", |e| {
            matches!(e, ModelError::Server { status: 200, .. })
        }),
        ("request_too_large", "x", |e| {
            matches!(e, ModelError::ContextOverflow { .. })
        }),
    ];
    for (kind, message, holds) in cases {
        let outcome = stream(start() + &event(error(kind, message))).await;
        assert!(holds(outcome.error()), "{kind}: {:?}", outcome.reply);
    }
}

fn limited() -> Answer {
    Answer::json(429, &error("rate_limit_error", "limit"))
}

#[tokio::test]
async fn wire_2_8_retry_after_comes_before_the_resets() {
    let answer = limited()
        .header("retry-after", "11")
        .header("anthropic-ratelimit-requests-remaining", "0")
        .header("anthropic-ratelimit-requests-reset", "2999-01-01T00:00:00Z");
    let outcome = answered(DIALECT, answer).await;
    assert!(matches!(outcome.error(),
        ModelError::RateLimited { retry_after: Some(wait), .. } if *wait == seconds(11)));
}

#[tokio::test]
async fn wire_2_8_the_limit_that_is_used_up_names_the_wait() {
    let at = |after: u64| {
        humantime::format_rfc3339_seconds(std::time::SystemTime::now() + seconds(after)).to_string()
    };
    let answer = limited()
        .header("anthropic-ratelimit-requests-remaining", "10")
        .header("anthropic-ratelimit-requests-reset", &at(900))
        .header("anthropic-ratelimit-output-tokens-remaining", "0")
        .header("anthropic-ratelimit-output-tokens-reset", &at(60));
    let outcome = answered(DIALECT, answer).await;
    let ModelError::RateLimited {
        retry_after: Some(wait),
        ..
    } = outcome.error()
    else {
        panic!("{:?}", outcome.reply)
    };
    assert!(*wait > seconds(30) && *wait <= seconds(60), "{wait:?}");
}

#[tokio::test]
async fn wire_2_8_the_request_id_is_kept() {
    let answer = Answer::stream(fixture("anthropic/older-text.sse")).header("request-id", "req_9");
    let outcome = answered(DIALECT, answer).await;
    assert_eq!(
        outcome.reply().provider_request_id.as_deref(),
        Some("req_9")
    );
}
