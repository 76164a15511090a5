//! Redaction of JSON before it becomes text: an escape could hide a value
//! afterwards.

use serde_json::{Map, Value};

use super::Redactor;

impl Redactor {
    /// A value without credentials, in its keys and at every depth.
    #[must_use]
    pub fn json(&self, value: Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.text(&text).into_owned()),
            Value::Array(items) => items.into_iter().map(|item| self.json(item)).collect(),
            Value::Object(object) => Value::Object(self.json_object(object)),
            // A number that is a credential: its kind cannot be kept.
            Value::Number(number) => match self.text(&number.to_string()) {
                std::borrow::Cow::Borrowed(_) => Value::Number(number),
                std::borrow::Cow::Owned(text) => Value::String(text),
            },
            Value::Null | Value::Bool(_) => value,
        }
    }

    /// The same for an object.
    #[must_use]
    pub fn json_object(&self, object: Map<String, Value>) -> Map<String, Value> {
        let entries = object.into_iter();
        entries
            .map(|(key, value)| (self.text(&key).into_owned(), self.json(value)))
            .collect()
    }
}
