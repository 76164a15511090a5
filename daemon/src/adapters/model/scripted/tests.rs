use std::io::Write;

use serde_json::{Map, json};

use super::*;
use crate::domain::conversation::{Arguments, ToolDefinition, ToolResult};

fn model(text: &str) -> ScriptedModel {
    ScriptedModel::new("demo.jsonl".into(), Transcript::parse(text).unwrap())
}

fn request(messages: Vec<Message>) -> ModelRequest {
    let tool = ToolDefinition {
        name: "read".into(),
        description: "Reads.".into(),
        parameters: json!({"type": "object"}),
    };
    ModelRequest {
        system: "sys".into(),
        tools: vec![tool],
        messages,
        max_output_tokens: 100,
        turns_left_out: 0,
    }
}

fn user(text: &str) -> Message {
    Message::User { text: text.into() }
}

fn results(content: &str) -> Message {
    let result = ToolResult {
        call_id: "call_0_0".into(),
        content: content.into(),
        is_error: false,
    };
    Message::ToolResults {
        results: vec![result],
    }
}

async fn call(model: &ScriptedModel, request: &ModelRequest) -> Result<ModelReply, ModelError> {
    let (progress, _watch) = mpsc::channel(16);
    model
        .call(request, &progress, &CancellationToken::new())
        .await
}

const SCRIPT: &str = r#"
// A comment, and a blank line before it.
{"compy_transcript":1,"model":"scripted","note":"two turns"}

{"text":"one\ntwo","tool_calls":[{"name":"read","arguments":{"path":"a"}},{"name":"bad","arguments_raw":"{\"a\":"},{"name":"none"}]}
{"text":"done","usage":{"input_uncached":7,"output":2},"stop":"output_cap"}
"#;

#[tokio::test]
async fn a_turn_is_chosen_by_the_number_of_assistant_messages() {
    let model = model(SCRIPT);
    let first = call(&model, &request(vec![user("go")])).await.unwrap();
    let again = call(&model, &request(vec![user("go")])).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(first.turn.text, "one\ntwo");
    assert_eq!(first.stop, StopReason::ToolUse);
    let ids: Vec<_> = first
        .turn
        .tool_calls
        .iter()
        .map(|call| call.id.as_str())
        .collect();
    assert_eq!(ids, ["call_0_0", "call_0_1", "call_0_2"]);
    assert!(matches!(
        first.turn.tool_calls[1].arguments,
        Arguments::Malformed { .. }
    ));
    assert_eq!(
        first.turn.tool_calls[2].arguments,
        Arguments::Object(Map::new())
    );

    let grown = vec![user("go"), Message::Assistant(first.turn), results("text")];
    let second = call(&model, &request(grown)).await.unwrap();
    assert_eq!(second.turn.text, "done");
    assert_eq!(second.stop, StopReason::OutputCap);
    assert_eq!(
        second.usage,
        Some(Usage {
            input_uncached: 7,
            output: 2,
            ..Usage::default()
        })
    );
}

#[tokio::test]
async fn past_the_end_it_says_how_many_turns_it_had() {
    let script = "{\"compy_transcript\":1}\n{\"text\":\"only\"}";
    let said = Message::Assistant(AssistantTurn {
        text: "only".into(),
        ..Default::default()
    });
    let error = call(
        &model(script),
        &request(vec![user("go"), said, user("more")]),
    )
    .await;
    assert_eq!(
        error.unwrap_err().to_string(),
        "script demo.jsonl: has no more to say after 1 turns"
    );
}

#[tokio::test]
async fn an_expectation_that_is_not_met_shows_what_was_found() {
    let script =
        "{\"compy_transcript\":1}\n{\"text\":\"a\"}\n{\"text\":\"b\",\"expect\":\"def slug\"}";
    let said = Message::Assistant(AssistantTurn {
        text: "a".into(),
        ..Default::default()
    });
    let model = model(script);

    let met = vec![
        user("go"),
        said.clone(),
        results("def slugify():"),
        user("stage"),
    ];
    assert_eq!(call(&model, &request(met)).await.unwrap().turn.text, "b");

    // What was said before the last turn does not count.
    let unmet = vec![user("def slug"), said, results("no such file: slug.py")];
    let error = call(&model, &request(unmet)).await.unwrap_err().to_string();
    assert!(error.contains("turn 1 (line 3)"), "{error}");
    assert!(error.contains("`def slug`"), "{error}");
    assert!(error.contains("no such file: slug.py"), "{error}");
}

#[tokio::test]
async fn each_fault_happens_once_and_then_its_turn_is_played() {
    let model = model(
        "{\"compy_transcript\":1}\n{\"fault\":{\"status\":429,\"retry_after_s\":1.5}}\n\
         {\"fault\":\"cut\"}\n{\"fault\":{\"status\":529}}\n{\"text\":\"at last\"}\n\
         {\"fault\":{\"status\":401}}",
    );
    let request = request(vec![user("go")]);
    assert!(matches!(
        call(&model, &request).await,
        Err(ModelError::RateLimited { retry_after: Some(wait), .. }) if wait.as_millis() == 1500
    ));
    assert!(matches!(
        call(&model, &request).await,
        Err(ModelError::Cut { .. })
    ));
    assert!(matches!(
        call(&model, &request).await,
        Err(ModelError::Server {
            status: 529,
            retry_after: None,
            ..
        })
    ));
    assert_eq!(call(&model, &request).await.unwrap().turn.text, "at last");
}

#[tokio::test]
async fn a_hang_and_a_delay_end_with_their_cancellation() {
    let model = model(
        "{\"compy_transcript\":1}\n{\"fault\":\"hang\"}\n{\"text\":\"late\",\"delay_ms\":600000}",
    );
    let request = request(vec![user("go")]);
    for _ in 0..2 {
        let (progress, _watch) = mpsc::channel(1);
        let cancel = CancellationToken::new();
        let call = model.call(&request, &progress, &cancel);
        let (reply, ()) = tokio::join!(call, async {
            tokio::task::yield_now().await;
            cancel.cancel();
        });
        assert_eq!(reply, Err(ModelError::Cancelled));
    }
}

#[tokio::test]
async fn usage_is_estimated_and_what_was_sent_before_counts_as_cached() {
    let model = model("{\"compy_transcript\":1}\n{\"text\":\"12345678\"}\n{\"text\":\"1234\"}");
    let first = call(&model, &request(vec![user("12345678")]))
        .await
        .unwrap();
    // 3 (system) + 4 + 6 + 17 (tool) + 8 = 38 bytes in, 8 out.
    let expected = Usage {
        input_uncached: 10,
        output: 2,
        ..Usage::default()
    };
    assert_eq!(first.usage, Some(expected));
    let grown = vec![
        user("12345678"),
        Message::Assistant(first.turn),
        results("1234"),
    ];
    let second = call(&model, &request(grown)).await.unwrap();
    // Cached: the 38 of before; new: the 8 it said and the 4 of the result.
    let expected = Usage {
        input_uncached: 3,
        input_cached: 10,
        output: 1,
        ..Usage::default()
    };
    assert_eq!(second.usage, Some(expected));
}

#[test]
fn every_mistake_is_reported_with_its_line() {
    let script = r#"{"compy_transcript":2}
{"text":"fine"}
{"txt":"typo"}
{"text":"x","expect":"("}
not json
{"fault":"boom"}
{"fault":{"status":200}}
{"fault":"cut","text":"x"}
{}
{"tool_calls":[{"name":"","arguments":{},"arguments_raw":""}]}
{"text":"x","delay_ms":700000}
{"text":"x","turn":9}
"#;
    let error = Transcript::parse(script).unwrap_err();
    let TranscriptError::Mistakes(mistakes) = &error else {
        panic!("{error}")
    };
    let lines: Vec<_> = mistakes.iter().map(|mistake| mistake.line).collect();
    assert_eq!(lines, [1, 3, 4, 5, 6, 7, 8, 9, 10, 10, 11, 12]);
    let text = error.to_string();
    for part in [
        "line 1: format 2 is not known",
        "line 3: unknown field `txt`",
        "line 4: `expect` is no regular expression",
        "line 7: status 200",
        "line 12: turn 9 follows 5 turns",
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_file_without_a_header_says_what_one_looks_like() {
    for text in ["", "{\"text\":\"x\"}", "// only a comment"] {
        let error = Transcript::parse(text).unwrap_err().to_string();
        assert!(
            error.contains("header like") || error.contains("is empty"),
            "{error}"
        );
    }
}

#[test]
fn a_numbered_turn_that_comes_again_replaces_the_first() {
    let script = "{\"compy_transcript\":1}\n{\"turn\":0,\"text\":\"a\"}\n{\"turn\":1,\"text\":\"b\"}\n\
                  {\"turn\":1,\"text\":\"c\"}";
    let transcript = Transcript::parse(script).unwrap();
    assert_eq!(transcript.len(), 2);
    assert_eq!(transcript.turn(1).unwrap().text, "c");
}

#[test]
fn what_is_no_regular_file_is_not_opened() {
    let directory = tempfile::tempdir().unwrap();
    let missing = ScriptedModel::load(&directory.path().join("none"))
        .unwrap_err()
        .to_string();
    assert!(missing.contains("cannot be read"), "{missing}");
    let folder = ScriptedModel::load(directory.path())
        .unwrap_err()
        .to_string();
    assert!(folder.contains("not a regular file"), "{folder}");
    let device = ScriptedModel::load(Path::new("/dev/zero"))
        .unwrap_err()
        .to_string();
    assert!(device.contains("not a regular file"), "{device}");
}

#[test]
fn a_file_that_is_not_utf8_is_a_script_error() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"{\"compy_transcript\":1}\n\xff").unwrap();
    let error = ScriptedModel::load(file.path()).unwrap_err();
    assert!(matches!(error, ModelError::Script { .. }), "{error}");
}

#[test]
fn the_example_of_the_documentation_is_a_transcript() {
    let documentation = include_str!("../scripted.rs");
    let example = documentation
        .lines()
        .skip_while(|line| !line.starts_with("//! ```text"));
    let example = example
        .skip(1)
        .take_while(|line| !line.starts_with("//! ```"));
    let text: String = example.map(|line| format!("{}\n", &line[4..])).collect();
    let transcript = Transcript::parse(&text).unwrap();
    assert_eq!((transcript.len(), transcript.faults(1).len()), (2, 1));
}
