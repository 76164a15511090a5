//! The measured facts about providers' wire formats, each held by a test that
//! runs over real HTTP against the fake provider. Tests are named by section
//! and line of the list of facts:
//!
//! | line | fact | tests |
//! |---|---|---|
//! | 1.1 | frames `data: {json}`, `[DONE]`; missing space, comments, `event:` lines; bytes split anywhere | `wire_1_1_*` |
//! | 1.2 | only a call's first delta has an id; later ones are told apart by `index` | `wire_1_2_*` |
//! | 1.3 | `content: null` beside calls; no arguments are `{}`; whole calls in one delta; deltas without id and name | `wire_1_3_*` |
//! | 1.4 | `finish_reason` is not reliable; calls are kept on any of them, on `[DONE]` and at the end; `length` is the output cap; an end without a finish is incomplete | `wire_1_4_*` |
//! | 1.5 | usage is asked for, comes last, with `choices` empty, null or odd, or twice; the last one stands; an interrupted stream has none | `wire_1_5_*` |
//! | 1.6 | cached tokens are part of the prompt's; unknown fields; four ways to send reasoning | `wire_1_6_*` |
//! | 1.7 | errors inside a stream with status 200; codes that decide about a retry | `wire_1_7_*` |
//! | 1.8 | `retry-after`, `x-ratelimit-*`, `x-request-id` | `wire_1_8_*` |
//! | 2.1 | headers, events, pings, white space inside objects, new fields | `wire_2_1_*` |
//! | 2.2 | deltas; empty input; thinking goes back unchanged; results of parallel calls in one message | `wire_2_2_*` |
//! | 2.3 | reasons to stop | `wire_2_3_*` |
//! | 2.4 | usage excludes the cache; later counts replace earlier ones | `wire_2_4_*` |
//! | 2.5 | four cache marks: system, last tool, last two user messages | `wire_2_5_*` |
//! | 2.6 | the answer to a broken history, with its request id | `wire_2_6_*` |
//! | 2.7 | error bodies and statuses; a spending limit is a 429 without a wait | `wire_2_7_*` |
//! | 2.8 | rate-limit headers with RFC 3339 times, `request-id`, `retry-after` | `wire_2_8_*` |
//! | 3 | peers retry 3 to 10 times and most ignore `Retry-After`; we honour it | `wire_3_*`, and `retrying`'s own tests |

mod anthropic;
mod bounds;
mod lifecycle;
mod openai;
mod prefix;
mod streams;
mod tls;

use std::{sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    ModelSettings, RetryPolicy, build,
    fake_provider::{Answer, FakeProvider, WireDialect},
};
use crate::{
    domain::{
        conversation::{
            Arguments, AssistantTurn, Message, ToolCall, ToolDefinition, ToolResult, Usage,
        },
        model_name::ModelName,
        secret::Secret,
    },
    ports::model::{ModelError, ModelPort, ModelProgress, ModelReply, ModelRequest},
};

const KEY: &str = "the-key-in-use";

fn fixture(name: &str) -> String {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/model/");
    std::fs::read_to_string(format!("{folder}{name}")).unwrap()
}

/// Settings for a fake, without retries.
fn settings(provider: &FakeProvider) -> ModelSettings {
    let key = Some(Secret::new(KEY));
    ModelSettings {
        openai_base_url: Some(provider.base_url()),
        openai_api_key: key.clone(),
        anthropic_base_url: Some(provider.base_url()),
        anthropic_api_key: key,
        retry: RetryPolicy {
            max_tries: 1,
            ..RetryPolicy::default()
        },
        ..ModelSettings::default()
    }
}

fn model(dialect: WireDialect, settings: &ModelSettings) -> Arc<dyn ModelPort> {
    let name = match dialect {
        WireDialect::OpenAi => ModelName::OpenAi("m-2026".into()),
        WireDialect::Anthropic => ModelName::Anthropic("c-2026".into()),
    };
    build(&name, settings).unwrap()
}

fn user(text: &str) -> Message {
    Message::User { text: text.into() }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(object) => object,
        other => panic!("{other} is no object"),
    }
}

fn called(id: &str, name: &str, arguments: Value) -> ToolCall {
    ToolCall {
        id: id.into(),
        name: name.into(),
        arguments: Arguments::Object(object(arguments)),
    }
}

fn result(id: &str, content: &str) -> ToolResult {
    ToolResult {
        call_id: id.into(),
        content: content.into(),
        is_error: false,
    }
}

fn request(messages: Vec<Message>) -> ModelRequest {
    let tool = |name: &str| ToolDefinition {
        name: name.into(),
        description: format!("Does {name}."),
        parameters: json!({"type": "object", "properties": {"path": {"type": "string"}}}),
    };
    ModelRequest {
        system: "You are careful.".into(),
        tools: vec![tool("read"), tool("list")],
        messages,
        max_output_tokens: 512,
        turns_left_out: 0,
    }
}

/// A conversation with parallel calls, a failed one, malformed arguments and
/// an empty turn: what an encoder can get wrong.
fn long_conversation() -> Vec<Message> {
    let malformed = ToolCall {
        id: "call_c".into(),
        name: "read".into(),
        arguments: Arguments::Malformed {
            raw: "{\"path\":".into(),
            error: "EOF".into(),
        },
    };
    let calls = vec![
        called("call_a", "read", json!({"z": 1, "a": 2})),
        called("call_b", "list", json!({})),
    ];
    let failed = ToolResult {
        is_error: true,
        ..result("call_b", "no such folder")
    };
    vec![
        user("fix it"),
        Message::Assistant(AssistantTurn {
            tool_calls: calls,
            ..Default::default()
        }),
        Message::ToolResults {
            results: vec![result("call_a", ""), failed],
        },
        user("stage: PLAN"),
        Message::Assistant(AssistantTurn {
            text: "I try \"this\".".into(),
            tool_calls: vec![malformed],
            ..Default::default()
        }),
        Message::ToolResults {
            results: vec![result("call_c", "arguments: EOF")],
        },
        Message::Assistant(AssistantTurn::default()),
        user("go on"),
    ]
}

/// What one call brought.
struct Outcome {
    reply: Result<ModelReply, ModelError>,
    progress: Vec<ModelProgress>,
    provider: FakeProvider,
}

impl Outcome {
    fn reply(&self) -> &ModelReply {
        self.reply.as_ref().unwrap()
    }

    fn error(&self) -> &ModelError {
        self.reply.as_ref().unwrap_err()
    }

    fn usage(&self) -> Usage {
        self.reply().usage.unwrap()
    }

    fn texts(&self) -> String {
        let text = |event: &ModelProgress| match event {
            ModelProgress::Text(text) => Some(text.clone()),
            _ => None,
        };
        self.progress.iter().filter_map(text).collect()
    }

    fn reasoning(&self) -> String {
        let reasoning = |event: &ModelProgress| match event {
            ModelProgress::Reasoning(text) => Some(text.clone()),
            _ => None,
        };
        self.progress.iter().filter_map(reasoning).collect()
    }
}

async fn exchange(dialect: WireDialect, request: &ModelRequest, answer: Answer) -> Outcome {
    let provider = FakeProvider::with_answers(dialect, vec![answer]).await;
    let model = model(dialect, &settings(&provider));
    let (progress, mut watch) = mpsc::channel(10_000);
    let reply = model
        .call(request, &progress, &CancellationToken::new())
        .await;
    drop(progress);
    let mut events = Vec::new();
    while let Some(event) = watch.recv().await {
        events.push(event);
    }
    assert_eq!(provider.violations(), Vec::<String>::new());
    Outcome {
        reply,
        progress: events,
        provider,
    }
}

async fn answered(dialect: WireDialect, answer: Answer) -> Outcome {
    exchange(dialect, &request(vec![user("go")]), answer).await
}

/// The same stream whole and in every size of chunk gives the same reply.
async fn in_all_splits(dialect: WireDialect, stream: &str) -> ModelReply {
    let whole = answered(dialect, Answer::stream(stream.to_owned())).await;
    for bytes in [1, 2, 3, 7, 64] {
        let split = answered(
            dialect,
            Answer::stream(stream.to_owned()).split_every(bytes),
        )
        .await;
        assert_eq!(split.reply, whole.reply, "in chunks of {bytes}");
    }
    whole.reply.unwrap()
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

/// The requests that a conversation is made of, each longer than the one
/// before: one for every turn of the model, and one with all of it.
fn opening_and(messages: Vec<Message>) -> Vec<ModelRequest> {
    let turns = messages
        .iter()
        .enumerate()
        .filter_map(|(at, message)| match message {
            Message::Assistant(_) => Some(at),
            Message::User { .. } | Message::ToolResults { .. } => None,
        });
    let mut requests: Vec<_> = turns.map(|at| request(messages[..at].to_vec())).collect();
    requests.push(request(messages));
    requests
}

/// The bodies of requests as they arrive, none of which may break a rule.
async fn sent_texts(dialect: WireDialect, requests: &[ModelRequest]) -> Vec<String> {
    let answer = match dialect {
        WireDialect::OpenAi => fixture("openai/vllm-text.sse"),
        WireDialect::Anthropic => fixture("anthropic/older-text.sse"),
    };
    let answers = Box::new(move |_: &_| Answer::stream(answer.clone()));
    let provider = FakeProvider::start(dialect, answers).await;
    let model = model(dialect, &settings(&provider));
    let (progress, _watch) = mpsc::channel(1);
    for request in requests {
        model
            .call(request, &progress, &CancellationToken::new())
            .await
            .unwrap();
    }
    assert_eq!(provider.violations(), Vec::<String>::new());
    provider
        .requests()
        .into_iter()
        .map(|request| request.text)
        .collect()
}

/// The body of the last of these requests.
async fn sent(dialect: WireDialect, requests: &[ModelRequest]) -> Value {
    let texts = sent_texts(dialect, requests).await;
    serde_json::from_str(texts.last().unwrap()).unwrap()
}
