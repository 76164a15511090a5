//! Writing what a scripted model says.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// One call of a tool.
#[must_use]
pub fn call(name: &str, arguments: Value) -> Value {
    json!({"name": name, "arguments": arguments})
}

/// A transcript being written. Each method adds a line.
#[derive(Debug, Clone)]
pub struct Script {
    lines: Vec<Value>,
}

impl Default for Script {
    fn default() -> Self {
        Self::new()
    }
}

impl Script {
    /// A script without a turn.
    #[must_use]
    pub fn new() -> Self {
        Self {
            lines: vec![json!({"compy_transcript": 1, "model": "scripted", "note": "a test"})],
        }
    }

    /// A transcript that is there already.
    ///
    /// # Panics
    /// When it cannot be read.
    #[must_use]
    pub fn load(file: &Path) -> Self {
        let text = std::fs::read_to_string(file)
            .unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        let lines = text
            .lines()
            .filter(|line| !line.trim().is_empty() && !line.starts_with("//"));
        Self {
            lines: lines
                .map(|line| serde_json::from_str(line).expect("transcripts are JSON lines"))
                .collect(),
        }
    }

    /// A turn that calls tools.
    #[must_use]
    pub fn calls(self, calls: impl IntoIterator<Item = Value>) -> Self {
        let calls: Vec<Value> = calls.into_iter().collect();
        self.line(json!({"tool_calls": calls}))
    }

    /// A turn that calls one tool.
    #[must_use]
    pub fn tool(self, name: &str, arguments: Value) -> Self {
        self.calls([call(name, arguments)])
    }

    /// A turn that says something and calls nothing.
    #[must_use]
    pub fn says(self, text: &str) -> Self {
        self.line(json!({"text": text}))
    }

    /// A turn or a fault, as the format has it.
    #[must_use]
    pub fn line(mut self, line: Value) -> Self {
        self.lines.push(line);
        self
    }

    /// The turn at this place (0 is the first) with something before it.
    #[must_use]
    pub fn before_turn(mut self, turn: usize, line: Value) -> Self {
        let mut turns = 0;
        let at = self.lines.iter().skip(1).position(|line| {
            let is_turn = line.get("fault").is_none();
            turns += usize::from(is_turn);
            is_turn && turns == turn + 1
        });
        let at = at.map_or(self.lines.len(), |at| at + 1);
        self.lines.insert(at, line);
        self
    }

    /// Every turn with this wait before it.
    #[must_use]
    pub fn slowed(mut self, delay_ms: u64) -> Self {
        for line in self.lines.iter_mut().skip(1) {
            if line.get("fault").is_none() {
                line["delay_ms"] = delay_ms.into();
            }
        }
        self
    }

    /// Number of turns.
    #[must_use]
    pub fn turns(&self) -> usize {
        let turns = self.lines.iter().skip(1);
        turns.filter(|line| line.get("fault").is_none()).count()
    }

    /// Names of the tools that it calls, in order.
    #[must_use]
    pub fn call_names(&self) -> Vec<String> {
        let calls = self
            .lines
            .iter()
            .filter_map(|line| line["tool_calls"].as_array());
        let names = calls.flatten().filter_map(|call| call["name"].as_str());
        names.map(str::to_owned).collect()
    }

    /// The transcript as text.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }

    /// Writes it, and gives the name of the model that plays it.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn write(&self, directory: &Path) -> String {
        let file: PathBuf = directory.join(format!("script-{:08x}.jsonl", fastrand::u32(..)));
        std::fs::write(&file, self.text()).expect("the script can be written");
        format!("scripted:{}", file.display())
    }
}

/// A call that adds one todo with these criteria.
#[must_use]
pub fn todo(text: &str, criteria: Value) -> Value {
    call(
        "todo_add",
        json!({"items": [{"text": text, "criteria": criteria}]}),
    )
}
