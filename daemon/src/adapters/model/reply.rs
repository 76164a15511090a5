//! What both providers' replies have in common: ids of tool calls, their
//! arguments, and how much of either is believed.

use std::collections::HashSet;

use serde_json::{Map, Value};

use crate::{
    domain::conversation::{Arguments, AssistantTurn, Message, StopReason, Usage},
    ports::model::ModelRequest,
};

/// Most tool calls in one reply.
pub(super) const MAX_CALLS: usize = 128;
/// Longest id or name taken from a provider, in bytes.
const MAX_WORD_BYTES: usize = 256;
/// Most tokens believed of one count, so that sums of them cannot overflow.
const MAX_TOKENS: u64 = 1 << 40;
/// Longest malformed text that is kept for the model to see, in bytes.
const MAX_MALFORMED_BYTES: usize = 64 * 1024;

/// A complete reply before the transport adds its request id.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Reply {
    pub(super) turn: AssistantTurn,
    pub(super) stop: StopReason,
    pub(super) usage: Option<Usage>,
}

/// Gives every call of a reply an id that is unique in its conversation.
///
/// A provider's id is kept when it is usable and new. Otherwise the id is made
/// from the number of the reply and the position of the call, so that the same
/// reply to the same request always gets the same ids.
#[derive(Debug)]
pub(super) struct CallIds {
    used: HashSet<String>,
    turn: usize,
}

impl CallIds {
    pub(super) fn after(request: &ModelRequest) -> Self {
        let turns = || {
            request.messages.iter().filter_map(|message| match message {
                Message::Assistant(turn) => Some(turn),
                Message::User { .. } | Message::ToolResults { .. } => None,
            })
        };
        Self {
            used: turns()
                .flat_map(|turn| &turn.tool_calls)
                .map(|call| call.id.clone())
                .collect(),
            turn: turns().count(),
        }
    }

    pub(super) fn assign(&mut self, offered: &str, position: usize) -> String {
        let usable = !offered.is_empty()
            && offered.len() <= MAX_WORD_BYTES
            && offered.bytes().all(|byte| byte.is_ascii_graphic());
        if usable && self.used.insert(offered.to_owned()) {
            return offered.to_owned();
        }
        let mut id = call_id(self.turn, position);
        while !self.used.insert(id.clone()) {
            id.push('_');
        }
        id
    }
}

/// The id of a call whose provider gave none.
pub(super) fn call_id(turn: usize, position: usize) -> String {
    format!("call_{turn}_{position}")
}

/// A tool's name as the provider sent it, within bounds.
pub(super) fn tool_name(name: &str) -> String {
    cut(name, MAX_WORD_BYTES).to_owned()
}

/// A count of tokens as the provider sent it, within bounds.
pub(super) fn token_count(value: &Value) -> Option<u64> {
    value.as_u64().map(|count| count.min(MAX_TOKENS))
}

/// Reads the arguments of a call: nothing (or `null`) is an empty object.
pub(super) fn arguments(raw: &str) -> Arguments {
    if raw.trim().is_empty() {
        return Arguments::Object(Map::new());
    }
    let error = match serde_json::from_str(raw) {
        Ok(Value::Object(object)) => return Arguments::Object(object),
        Ok(Value::Null) => return Arguments::Object(Map::new()),
        Ok(other) => format!("expected a JSON object, found {}", kind(&other)),
        Err(error) => format!("not valid JSON: {error}"),
    };
    Arguments::Malformed {
        raw: cut(raw, MAX_MALFORMED_BYTES).to_owned(),
        error,
    }
}

/// What goes back to a provider in place of arguments that were not an object:
/// an object that shows the model its own words, as servers refuse a history
/// with broken JSON in it.
pub(super) fn arguments_value(arguments: &Arguments) -> Map<String, Value> {
    match arguments {
        Arguments::Object(object) => object.clone(),
        Arguments::Malformed { raw, .. } => {
            Map::from_iter([("malformed_arguments".to_owned(), Value::String(raw.clone()))])
        }
    }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a boolean",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    }
}

/// The longest prefix of at most `limit_bytes` that ends between characters.
pub(super) fn cut(text: &str, limit_bytes: usize) -> &str {
    let end = (0..=limit_bytes.min(text.len()))
        .rev()
        .find(|&at| text.is_char_boundary(at));
    &text[..end.unwrap_or(0)]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::conversation::ToolCall;

    #[test]
    fn arguments_that_are_no_object_say_why_and_keep_the_words() {
        let cases = [
            ("{\"a\":", "not valid JSON: EOF"),
            ("[1]", "expected a JSON object, found an array"),
            ("\"x\"", "expected a JSON object, found a string"),
            ("{} {}", "not valid JSON: trailing characters"),
        ];
        for (raw, why) in cases {
            match arguments(raw) {
                Arguments::Malformed { raw: kept, error } => {
                    assert_eq!(kept, raw);
                    assert!(error.starts_with(why), "{error}");
                }
                Arguments::Object(object) => panic!("{raw} was read as {object:?}"),
            }
        }
    }

    #[test]
    fn no_arguments_are_an_empty_object() {
        for raw in ["", " \n", "null", "{}"] {
            assert_eq!(arguments(raw), Arguments::Object(Map::new()), "{raw:?}");
        }
    }

    #[test]
    fn malformed_arguments_are_cut_between_characters() {
        let raw = "\u{20ac}".repeat(MAX_MALFORMED_BYTES);
        let Arguments::Malformed { raw, .. } = arguments(&raw) else {
            panic!("not JSON")
        };
        assert_eq!(raw.len(), MAX_MALFORMED_BYTES - MAX_MALFORMED_BYTES % 3);
    }

    #[test]
    fn json_nested_too_deep_is_malformed_and_no_crash() {
        let raw = "{\"a\":".repeat(100_000);
        assert!(matches!(arguments(&raw), Arguments::Malformed { .. }));
    }

    fn asked(id: &str) -> ModelRequest {
        let call = ToolCall {
            id: id.into(),
            name: "read".into(),
            arguments: Arguments::Object(Map::new()),
        };
        ModelRequest {
            system: "s".into(),
            tools: Vec::new(),
            messages: vec![
                Message::User { text: "u".into() },
                Message::Assistant(AssistantTurn {
                    tool_calls: vec![call],
                    ..Default::default()
                }),
            ],
            max_output_tokens: 1,
            turns_left_out: 0,
        }
    }

    #[test]
    fn ids_missing_repeated_or_unusable_are_made_from_the_position() {
        let mut ids = CallIds::after(&asked("old"));
        assert_eq!(ids.assign("new", 0), "new");
        assert_eq!(ids.assign("new", 1), "call_1_1");
        assert_eq!(ids.assign("old", 2), "call_1_2");
        assert_eq!(ids.assign("", 3), "call_1_3");
        assert_eq!(ids.assign("with space", 4), "call_1_4");
        assert_eq!(ids.assign(&"x".repeat(300), 5), "call_1_5");
    }

    #[test]
    fn a_made_id_never_meets_one_of_the_provider() {
        let mut ids = CallIds::after(&asked("call_1_0"));
        assert_eq!(ids.assign("", 0), "call_1_0_");
    }
}
