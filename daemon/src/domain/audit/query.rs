//! What is looked for in the log.

use serde_json::Value;

use super::{Entry, Kind, Outcome};

/// What a record has to be; everything that is given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Query {
    /// Who acted, exactly.
    pub caller: Option<String>,
    /// Id of the session.
    pub session: Option<String>,
    /// Id of the workspace.
    pub workspace: Option<String>,
    /// Name of the tool or method, exactly.
    pub tool: Option<String>,
    /// What it is about.
    pub kind: Option<Kind>,
    /// How it went.
    pub outcome: Option<Outcome>,
    /// A text within any value, in this case.
    pub text: Option<String>,
    /// Not before this time, in milliseconds since the Unix epoch.
    pub since_ms: Option<i64>,
    /// Before this time.
    pub until_ms: Option<i64>,
    /// Only records with a smaller number: for the page after a page.
    pub before_seq: Option<u64>,
    /// The most records, the newest ones.
    pub limit: usize,
}

impl Query {
    /// Whether a record is looked for. Does not count.
    #[must_use]
    pub fn matches(&self, seq: u64, entry: &Entry) -> bool {
        let same = |wanted: &Option<String>, found: Option<&String>| {
            wanted.is_none() || wanted.as_ref() == found
        };
        self.before_seq.is_none_or(|before| seq < before)
            && self.since_ms.is_none_or(|since| entry.at_ms >= since)
            && self.until_ms.is_none_or(|until| entry.at_ms < until)
            && self.kind.is_none_or(|kind| entry.kind == kind)
            && self
                .outcome
                .is_none_or(|outcome| entry.outcome == Some(outcome))
            && same(&self.caller, Some(&entry.caller))
            && same(&self.session, entry.session.as_ref())
            && same(&self.workspace, entry.workspace.as_ref())
            && same(&self.tool, entry.tool.as_ref())
            && self.text.as_ref().is_none_or(|text| has(entry, text))
    }

    /// Texts without which no line can match: how the values looked for are
    /// written in a line.
    #[must_use]
    pub fn needles(&self) -> Vec<String> {
        let field = |name: &str, value: &Option<String>| {
            let value = value.as_ref()?;
            Some(format!("\"{name}\":{}", written(value)))
        };
        let text = self.text.as_ref().filter(|text| !text.is_empty());
        let text = text.map(|text| {
            let quoted = written(text);
            quoted[1..quoted.len() - 1].to_owned()
        });
        let kind = self.kind.map(|kind| kind.name().to_owned());
        let outcome = self.outcome.map(|outcome| outcome.name().to_owned());
        [
            text,
            field("session", &self.session),
            field("tool", &self.tool),
            field("workspace", &self.workspace),
            field("kind", &kind),
            field("outcome", &outcome),
            field("caller", &self.caller),
        ]
        .into_iter()
        .flatten()
        .collect()
    }
}

/// A text as JSON.
fn written(text: &str) -> String {
    Value::String(text.to_owned()).to_string()
}

/// Whether a text is in any value of an entry.
fn has(entry: &Entry, text: &str) -> bool {
    any_text(entry, &mut |value| value.contains(text))
}

/// Whether any text that an entry is searched for is so: each of its values, and
/// the keys of its details. No text after it is asked.
pub fn any_text(entry: &Entry, is: &mut impl FnMut(&str) -> bool) -> bool {
    let Entry {
        at_ms: _,
        kind,
        caller,
        workspace,
        session,
        step,
        process,
        decision,
        tool,
        outcome,
        detail,
    } = entry;
    let texts = [workspace, session, step, process, decision, tool];
    is(caller)
        || is(kind.name())
        || outcome.is_some_and(|outcome| is(outcome.name()))
        || texts.into_iter().flatten().any(|value| is(value))
        || (detail.iter()).any(|(key, value)| is(key) || any_text_within(value, is))
}

fn any_text_within(value: &Value, is: &mut impl FnMut(&str) -> bool) -> bool {
    match value {
        Value::Null => false,
        Value::Bool(truth) => is(if *truth { "true" } else { "false" }),
        Value::Number(number) => is(&number.to_string()),
        Value::String(text) => is(text),
        Value::Array(values) => values.iter().any(|value| any_text_within(value, is)),
        Value::Object(fields) => {
            (fields.iter()).any(|(key, value)| is(key) || any_text_within(value, is))
        }
    }
}
