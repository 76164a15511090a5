//! What failed, and how often.

use std::collections::BTreeMap;

use super::{edits::edited_paths, shell::Line};
use crate::domain::{
    conversation::{Arguments, ToolCall},
    tools::Tool,
};

/// Calls that are kept, and approaches.
const KEPT_MAX: usize = 200;
/// What an edit fails with that no entry of the catalogue knows: it was refused.
const REFUSED_EDIT: &str = "refused edit";

/// Failures since the last edit. Looking elsewhere forgets none of them.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Tries {
    /// By tool and arguments.
    calls: BTreeMap<(String, String), Failed>,
    approaches: BTreeMap<Approach, Failed>,
}

/// The same tool on the same file, or the same program, and the same entry of
/// the catalogue of failures, or [`REFUSED_EDIT`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Approach {
    tool: String,
    about: String,
    failure: String,
}

/// How often something failed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Failed {
    pub(super) count: u32,
    /// Of these, before the last thought that counts.
    pub(super) reasoned: u32,
    /// The last time.
    pub(super) last: u64,
}

impl Tries {
    pub(super) fn failed(
        &mut self,
        at: u64,
        call: &ToolCall,
        line: Option<&Line>,
        failure: Option<&str>,
    ) {
        note(&mut self.calls, key(call), at);
        let edits = matches!(
            Tool::named(&call.name),
            Some(Tool::EditFile | Tool::WriteFile)
        );
        let failure = failure.filter(|failure| !failure.is_empty());
        // What no entry knows may be anything elsewhere.
        if let Some(failure) = failure.or(edits.then_some(REFUSED_EDIT)) {
            let approach = Approach {
                tool: call.name.clone(),
                about: about(call, line),
                failure: failure.to_owned(),
            };
            note(&mut self.approaches, approach, at);
        }
    }

    /// Forgets the failures of a call that went well, and of its approach.
    pub(super) fn succeeded(&mut self, call: &ToolCall, line: Option<&Line>) {
        if self.calls.remove(&key(call)).is_some() {
            let about = about(call, line);
            self.approaches
                .retain(|known, _| known.tool != call.name || known.about != about);
        }
    }

    pub(super) fn forget(&mut self) {
        *self = Self::default();
    }

    /// There was reasoning.
    pub(super) fn reason(&mut self) {
        for failed in self.approaches.values_mut() {
            failed.reasoned = failed.count;
        }
    }

    /// How often this very call failed.
    pub(super) fn of_call(&self, call: &ToolCall) -> Failed {
        self.calls.get(&key(call)).copied().unwrap_or_default()
    }

    /// How often the approach of a call failed in one way, and which that is.
    pub(super) fn of_approach(&self, call: &ToolCall, line: Option<&Line>) -> (Failed, &str) {
        let about = about(call, line);
        let mut same: Vec<(&Approach, &Failed)> = (self.approaches.iter())
            .filter(|(known, _)| known.tool == call.name && known.about == about)
            .collect();
        same.sort_by_key(|(_, failed)| failed.count - failed.reasoned);
        let worst = same.last();
        worst.map_or((Failed::default(), ""), |(known, failed)| {
            (**failed, known.failure.as_str())
        })
    }
}

fn note<K: Ord + Clone>(kept: &mut BTreeMap<K, Failed>, key: K, at: u64) {
    if kept.len() >= KEPT_MAX && !kept.contains_key(&key) {
        let oldest = kept.iter().min_by_key(|(_, failed)| failed.last);
        if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
            kept.remove(&oldest);
        }
    }
    let failed = kept.entry(key).or_default();
    failed.count += 1;
    failed.last = at;
}

fn key(call: &ToolCall) -> (String, String) {
    let arguments = match &call.arguments {
        Arguments::Object(object) => serde_json::to_string(object).unwrap_or_default(),
        Arguments::Malformed { raw, .. } => raw.clone(),
    };
    (call.name.clone(), arguments)
}

fn about(call: &ToolCall, line: Option<&Line>) -> String {
    if let Some(line) = line {
        return line.program().to_owned();
    }
    let path = match &call.arguments {
        Arguments::Object(arguments) => arguments.get("path").and_then(|path| path.as_str()),
        Arguments::Malformed { .. } => None,
    };
    // A patch names its files itself.
    let path = path.map(str::to_owned);
    path.or_else(|| edited_paths(call).into_iter().next())
        .unwrap_or_default()
}
