//! What must hold for every request, whatever the daemon is doing.
//!
//! - The body is JSON without a key given twice, and asks for a stream.
//! - The output cap is sent and above zero.
//! - Every tool call has its result right after it, in order, once, and no
//!   result is without its call; no call id occurs twice in a request.
//! - No text is empty where the provider would refuse it.
//! - A request that holds turns of the model extends an earlier one byte by
//!   byte, but for cache marks: same system prompt and tools, same keys in the
//!   same order, messages that only grow. A compaction alone begins anew, once.
//! - At most four cache marks.

use std::{collections::BTreeSet, fmt};

use serde::{
    Deserialize,
    de::{Deserializer, MapAccess, SeqAccess, Visitor},
};
use serde_json::Value;

use super::{RecordedRequest, WireDialect};
use crate::domain::compaction::EPOCH_BEGINS;

/// A cache mark as it stands in a request.
const CACHE_MARK: &str = ",\"cache_control\":{\"type\":\"ephemeral\"}";

/// The prefixes of every request so far.
#[derive(Debug)]
pub struct Conversations {
    dialect: WireDialect,
    prefixes: BTreeSet<String>,
}

impl Conversations {
    /// None yet.
    #[must_use]
    pub fn new(dialect: WireDialect) -> Self {
        Self {
            dialect,
            prefixes: BTreeSet::new(),
        }
    }

    /// Whether a compaction made the past of this request, and this is the first
    /// request after it: what comes before the briefing is what a conversation
    /// began with.
    fn begins_epoch(&self, prefix: &str) -> bool {
        let Some((before, briefing)) = epoch(prefix) else {
            return false;
        };
        let mut known = self.prefixes.iter();
        let is_new = !known.any(|known| known.contains(briefing));
        is_new && self.prefixes.iter().any(|known| known.starts_with(before))
    }

    fn admit(&mut self, request: &RecordedRequest) -> Option<String> {
        let Some(prefix) = prefix(&request.text) else {
            return Some("`messages` is not followed by the output cap".to_owned());
        };
        let opens = request.turns() == 0 || self.begins_epoch(&prefix);
        let extends = |known: &String| {
            prefix
                .strip_prefix(known.as_str())
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(','))
        };
        let known = opens || self.prefixes.iter().any(extends);
        self.prefixes.insert(prefix);
        (!known).then(|| {
            format!(
                "a {:?} request rewrites its past: {}",
                self.dialect, request.text
            )
        })
    }
}

/// A request from its start to the end of its last message, without cache
/// marks: what a provider can cache.
#[must_use]
pub fn prefix(text: &str) -> Option<String> {
    // A quote inside a text is escaped, so this cannot be found inside one.
    let end = text.rfind("],\"max_")?;
    Some(text[..end].replace(CACHE_MARK, ""))
}

/// Of a prefix with a briefing in it, what comes before that (model, tools, system
/// prompt and task), and the message that it is.
fn epoch(prefix: &str) -> Option<(&str, &str)> {
    // Quotes inside of texts are escaped.
    const MESSAGE: &str = "{\"role\":";
    let at = prefix.find(EPOCH_BEGINS)?;
    let start = prefix[..at].rfind(MESSAGE)?;
    let end = prefix[at..].find(MESSAGE);
    let end = end.map_or(prefix.len(), |end| at + end);
    Some((
        prefix[..start].trim_end_matches(','),
        prefix[start..end].trim_end_matches(','),
    ))
}

/// Every rule that a request breaks.
pub fn check(
    dialect: WireDialect,
    request: &RecordedRequest,
    conversations: &mut Conversations,
) -> Vec<String> {
    let mut broken = Vec::new();
    if let Err(error) = serde_json::from_str::<UniqueKeys>(&request.text) {
        return vec![format!("the body is no JSON or repeats a key: {error}")];
    }
    let body = &request.body;
    let path = match dialect {
        WireDialect::OpenAi => "/v1/chat/completions",
        WireDialect::Anthropic => "/v1/messages",
    };
    let mut rule = |holds: bool, text: &str| {
        if !holds {
            broken.push(text.to_owned());
        }
    };
    rule(request.path == path, "the path is wrong");
    rule(body["stream"] == true, "no stream is asked for");
    let cap = body["max_tokens"]
        .as_u64()
        .or(body["max_completion_tokens"].as_u64());
    rule(cap.is_some_and(|cap| cap > 0), "no output cap is sent");
    rule(
        body["model"]
            .as_str()
            .is_some_and(|model| !model.is_empty()),
        "no model is named",
    );
    rule(
        request.text.matches(CACHE_MARK).count() <= 4,
        "there are more than four cache marks",
    );
    match dialect {
        WireDialect::OpenAi => {
            rule(
                body["stream_options"]["include_usage"] == true,
                "usage is not asked for with the stream",
            );
            broken.extend(openai_messages(request.messages()));
        }
        WireDialect::Anthropic => {
            rule(
                request.headers.contains_key("anthropic-version"),
                "no version is named",
            );
            broken.extend(anthropic_messages(request.messages()));
        }
    }
    broken.extend(conversations.admit(request));
    broken
}

fn openai_messages(messages: &[Value]) -> Vec<String> {
    let mut pairs = Pairs::default();
    for (at, message) in messages.iter().enumerate() {
        match message["role"].as_str() {
            Some("tool") => pairs.result(at, &message["tool_call_id"]),
            role => {
                pairs.no_more_results(at);
                let calls = message["tool_calls"].as_array().into_iter().flatten();
                calls.for_each(|call| pairs.call(at, &call["id"]));
                if role == Some("system") && at != 0 {
                    pairs
                        .broken
                        .push(format!("messages.{at}: `system` is not the first"));
                }
            }
        }
    }
    pairs.finish(messages.len())
}

fn anthropic_messages(messages: &[Value]) -> Vec<String> {
    let mut pairs = Pairs::default();
    for (at, message) in messages.iter().enumerate() {
        let mut others = false;
        for block in message["content"].as_array().into_iter().flatten() {
            match block["type"].as_str() {
                Some("tool_result") => {
                    if others {
                        pairs
                            .broken
                            .push(format!("messages.{at}: results do not come first"));
                    }
                    pairs.result(at, &block["tool_use_id"]);
                }
                Some("tool_use") => {
                    pairs.call(at, &block["id"]);
                    if !block["input"].is_object() {
                        pairs
                            .broken
                            .push(format!("messages.{at}: `input` is no object"));
                    }
                }
                Some("text")
                    if block["text"]
                        .as_str()
                        .is_none_or(|text| text.trim().is_empty()) =>
                {
                    pairs.broken.push(format!("messages.{at}: a text is empty"));
                }
                _ => others = true,
            }
        }
        if message["role"] == "user" {
            pairs.no_more_results(at);
        }
    }
    if messages.first().is_none_or(|first| first["role"] != "user") {
        pairs
            .broken
            .push("messages.0: the first role is not `user`".to_owned());
    }
    pairs.finish(messages.len())
}

/// Matches calls and results.
#[derive(Debug, Default)]
struct Pairs {
    seen: BTreeSet<String>,
    /// Calls of the last turn that have no result yet, in order.
    open: Vec<String>,
    broken: Vec<String>,
}

impl Pairs {
    fn call(&mut self, at: usize, id: &Value) {
        let id = id.as_str().unwrap_or_default().to_owned();
        if id.is_empty() || !self.seen.insert(id.clone()) {
            self.broken.push(format!(
                "messages.{at}: call id `{id}` is empty or used before"
            ));
        }
        self.open.push(id);
    }

    fn result(&mut self, at: usize, id: &Value) {
        let id = id.as_str().unwrap_or_default();
        if self.open.first().is_some_and(|open| open == id) {
            self.open.remove(0);
        } else {
            self.broken.push(format!(
                "messages.{at}: result of `{id}` is not where it belongs"
            ));
        }
    }

    fn no_more_results(&mut self, at: usize) {
        for id in self.open.drain(..) {
            self.broken.push(format!(
                "messages.{at}: call `{id}` has no result before this"
            ));
        }
    }

    fn finish(mut self, end: usize) -> Vec<String> {
        self.no_more_results(end);
        self.broken
    }
}

/// Any JSON in which no object repeats a key.
struct UniqueKeys;

impl<'de> Deserialize<'de> for UniqueKeys {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(UniqueKeysVisitor)
    }
}

struct UniqueKeysVisitor;

impl<'de> Visitor<'de> for UniqueKeysVisitor {
    type Value = UniqueKeys;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_i64<E>(self, _: i64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_u64<E>(self, _: u64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_f64<E>(self, _: f64) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_str<E>(self, _: &str) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_unit<E>(self) -> Result<UniqueKeys, E> {
        Ok(UniqueKeys)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<UniqueKeys, A::Error> {
        while items.next_element::<UniqueKeys>()?.is_some() {}
        Ok(UniqueKeys)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<UniqueKeys, A::Error> {
        let mut keys = BTreeSet::new();
        while let Some((key, UniqueKeys)) = entries.next_entry::<String, UniqueKeys>()? {
            if !keys.insert(key.clone()) {
                return Err(serde::de::Error::custom(format!("key `{key}` comes twice")));
            }
        }
        Ok(UniqueKeys)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn openai(messages: &str) -> RecordedRequest {
        let text = format!(
            "{{\"model\":\"m\",\"messages\":[{messages}],\"max_tokens\":5,\"stream\":true,\
             \"stream_options\":{{\"include_usage\":true}}}}"
        );
        let body = serde_json::from_str(&text).unwrap_or(Value::Null);
        let path = "/v1/chat/completions".to_owned();
        RecordedRequest {
            headers: Default::default(),
            path,
            text,
            body,
        }
    }

    const USER: &str = r#"{"role":"user","content":"u"}"#;
    const CALL: &str = r#"{"role":"assistant","content":null,"tool_calls":[{"id":"a"}]}"#;
    const RESULT: &str = r#"{"role":"tool","tool_call_id":"a","content":"r"}"#;

    fn broken(requests: &[String]) -> Vec<String> {
        let mut conversations = Conversations::new(WireDialect::OpenAi);
        let check_one =
            |text: &String| check(WireDialect::OpenAi, &openai(text), &mut conversations);
        requests.iter().flat_map(check_one).collect()
    }

    #[test]
    fn a_sound_conversation_breaks_no_rule() {
        let grown = format!("{USER},{CALL},{RESULT}");
        // Asked, asked again, grown, and another one opened meanwhile.
        let requests = [USER.into(), USER.into(), USER.replace('u', "v"), grown];
        assert_eq!(broken(&requests), Vec::<String>::new());
    }

    #[test]
    fn an_epoch_begins_as_its_conversation_did_and_once() {
        let stage = USER.replace(":\"u\"", ":\"s\"");
        let asked = format!("{USER},{stage}");
        let begun = [asked.clone(), format!("{asked},{CALL},{RESULT}")];
        let epoch = |task: &str, kept: &str| {
            let briefing = format!("{{\"role\":\"user\",\"content\":\"{EPOCH_BEGINS}\"}}");
            format!("{task},{briefing},{kept}")
        };
        let turn = format!("{CALL},{RESULT}");
        let after = |requests: &[String]| broken(&[&begun[..], requests].concat()).join("; ");
        let sound = epoch(USER, &turn);
        assert_eq!(after(std::slice::from_ref(&sound)), "");
        let other_task = USER.replace(":\"u\"", ":\"v\"");
        let system = format!("{{\"role\":\"system\",\"content\":\"s\"}},{USER}");
        for opening in [other_task, system] {
            let broken = after(&[epoch(&opening, &turn)]);
            assert!(broken.contains("rewrites"), "{opening}: {broken}");
        }
        let said = "{\"role\":\"assistant\",\"content\":\"x\"}";
        let again = after(&[sound, epoch(USER, said)]);
        assert!(again.contains("rewrites"), "{again}");
    }

    #[test]
    fn each_rule_can_be_broken() {
        let cases = [
            (format!("{USER},{CALL}"), "has no result"),
            (format!("{USER},{RESULT}"), "not where it belongs"),
            (format!("{USER},{CALL},{USER},{RESULT}"), "has no result"),
            (
                format!("{USER},{CALL},{RESULT},{CALL},{RESULT}"),
                "used before",
            ),
            (
                format!("{USER},{{\"role\":\"assistant\",\"content\":\"x\"}},{USER}"),
                "rewrites",
            ),
            (
                "{\"role\":\"user\",\"role\":\"user\"}".into(),
                "comes twice",
            ),
        ];
        for (messages, rule) in cases {
            let broken = broken(&[USER.replace('u', "other"), messages.clone()]).join("; ");
            assert!(broken.contains(rule), "{messages}: {broken}");
        }
        let mut request = openai(USER);
        request.body["max_tokens"] = json!(0);
        request.body["stream"] = json!(false);
        let mut conversations = Conversations::new(WireDialect::OpenAi);
        let broken = check(WireDialect::OpenAi, &request, &mut conversations).join("; ");
        assert!(
            broken.contains("no output cap") && broken.contains("no stream"),
            "{broken}"
        );
    }
}
