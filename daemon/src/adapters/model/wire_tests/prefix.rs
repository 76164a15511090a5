//! What providers can cache: equal requests are equal bytes, and a grown
//! conversation begins with the bytes of the shorter one.

use proptest::prelude::*;

use super::*;
use crate::adapters::model::fake_provider::invariants::prefix;

const DIALECTS: [WireDialect; 2] = [WireDialect::OpenAi, WireDialect::Anthropic];

#[tokio::test]
async fn the_same_request_gives_the_same_bytes_from_any_instance() {
    for dialect in DIALECTS {
        let requests = opening_and(long_conversation());
        let first = sent_texts(dialect, &requests).await;
        let second = sent_texts(dialect, &requests).await;
        assert_eq!(first, second);
    }
}

#[tokio::test]
async fn a_grown_conversation_keeps_the_bytes_of_its_past() {
    for dialect in DIALECTS {
        let texts = sent_texts(dialect, &opening_and(long_conversation())).await;
        assert_eq!(texts.len(), 4);
        for pair in texts.windows(2) {
            let (shorter, longer) = (prefix(&pair[0]).unwrap(), prefix(&pair[1]).unwrap());
            assert!(
                longer.starts_with(&shorter),
                "{longer}\ndoes not begin with\n{shorter}"
            );
            assert!(longer.len() > shorter.len());
        }
    }
}

#[tokio::test]
async fn another_output_cap_leaves_the_prefix_as_it_is() {
    for dialect in DIALECTS {
        let small = ModelRequest {
            max_output_tokens: 7,
            ..request(vec![user("go")])
        };
        let texts = sent_texts(dialect, &[request(vec![user("go")]), small]).await;
        assert_ne!(texts[0], texts[1]);
        assert_eq!(prefix(&texts[0]), prefix(&texts[1]));
    }
}

#[tokio::test]
async fn the_bytes_of_a_chat_completion_are_these() {
    let tool = ToolDefinition {
        name: "read".into(),
        description: "Reads.".into(),
        parameters: json!({"type": "object", "additionalProperties": false}),
    };
    let messages = long_conversation()[..3].to_vec();
    let whole = ModelRequest {
        tools: vec![tool],
        ..request(messages)
    };
    let opening = ModelRequest {
        messages: whole.messages[..1].to_vec(),
        ..whole.clone()
    };
    let texts = sent_texts(WireDialect::OpenAi, &[opening, whole]).await;
    let expected = concat!(
        r#"{"model":"m-2026","tools":[{"type":"function","function":{"name":"read","#,
        r#""description":"Reads.","parameters":{"additionalProperties":false,"type":"object"}}}],"#,
        r#""messages":[{"role":"system","content":"You are careful."},"#,
        r#"{"role":"user","content":"fix it"},"#,
        r#"{"role":"assistant","content":null,"tool_calls":["#,
        r#"{"id":"call_a","type":"function","function":{"name":"read","arguments":"{\"a\":2,\"z\":1}"}},"#,
        r#"{"id":"call_b","type":"function","function":{"name":"list","arguments":"{}"}}]},"#,
        r#"{"role":"tool","tool_call_id":"call_a","content":""},"#,
        r#"{"role":"tool","tool_call_id":"call_b","content":"[failed] no such folder"}],"#,
        r#""max_tokens":512,"stream":true,"stream_options":{"include_usage":true}}"#,
    );
    assert_eq!(texts[1], expected);
}

#[tokio::test]
async fn the_bytes_of_a_message_are_these() {
    let whole = ModelRequest {
        tools: Vec::new(),
        ..request(long_conversation()[..3].to_vec())
    };
    let opening = ModelRequest {
        messages: whole.messages[..1].to_vec(),
        ..whole.clone()
    };
    let texts = sent_texts(WireDialect::Anthropic, &[opening, whole]).await;
    let expected = concat!(
        r#"{"model":"c-2026","system":[{"type":"text","text":"You are careful.","#,
        r#""cache_control":{"type":"ephemeral"}}],"messages":["#,
        r#"{"role":"user","content":[{"type":"text","text":"fix it","#,
        r#""cache_control":{"type":"ephemeral"}}]},"#,
        r#"{"role":"assistant","content":["#,
        r#"{"type":"tool_use","id":"call_a","name":"read","input":{"a":2,"z":1}},"#,
        r#"{"type":"tool_use","id":"call_b","name":"list","input":{}}]},"#,
        r#"{"role":"user","content":["#,
        r#"{"type":"tool_result","tool_use_id":"call_a","content":"(no output)"},"#,
        r#"{"type":"tool_result","tool_use_id":"call_b","content":"no such folder","is_error":true,"#,
        r#""cache_control":{"type":"ephemeral"}}]}],"max_tokens":512,"stream":true}"#,
    );
    assert_eq!(texts[1], expected);
}

/// Turns of a made-up conversation: texts, numbers of calls, failures.
fn conversation() -> impl Strategy<Value = Vec<Message>> {
    let text = prop_oneof![
        Just(String::new()),
        Just("],\"max_tokens\":1".to_owned()),
        Just(",\"cache_control\":{\"type\":\"ephemeral\"}".to_owned()),
        "\\PC{0,12}",
    ];
    let turn = (
        text.clone(),
        proptest::collection::vec((text.clone(), any::<bool>()), 0..3),
        text,
    );
    proptest::collection::vec(turn, 1..6).prop_map(|turns| {
        let mut messages = vec![user("start")];
        for (number, (said, results, told)) in turns.into_iter().enumerate() {
            let id = |at: usize| format!("id_{number}_{at}");
            let calls = (0..results.len()).map(|at| called(&id(at), "read", json!({"a": said})));
            let tool_calls: Vec<_> = calls.collect();
            messages.push(Message::Assistant(AssistantTurn {
                text: said.clone(),
                tool_calls,
                ..Default::default()
            }));
            if results.is_empty() {
                messages.push(user(&format!("told {told}")));
                continue;
            }
            let results = results
                .into_iter()
                .enumerate()
                .map(|(at, (content, is_error))| ToolResult {
                    is_error,
                    ..result(&id(at), &content)
                });
            messages.push(Message::ToolResults {
                results: results.collect(),
            });
        }
        messages
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    /// Each request is checked by the fake: sound, and an extension of the
    /// one before.
    #[test]
    fn every_conversation_grows_at_its_end_only(messages in conversation()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            for dialect in DIALECTS {
                sent_texts(dialect, &opening_and(messages.clone())).await;
            }
        });
    }
}
