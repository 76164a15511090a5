//! The file format of transcripts; described in the parent module.

use std::{collections::BTreeMap, fmt, fs::File, io::Read, path::Path, time::Duration};

use regex::Regex;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    adapters::model::reply,
    domain::conversation::{Arguments, StopReason, Usage},
};

/// The version that the header names.
const FORMAT: u32 = 1;
/// Largest transcript that is read, in bytes.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;

/// The first line.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::adapters::model) struct Header {
    pub(in crate::adapters::model) compy_transcript: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) model: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) note: Option<String>,
    /// Which conversation a recording is of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) conversation: Option<String>,
}

impl Header {
    pub(in crate::adapters::model) fn new(model: String, note: &str, conversation: String) -> Self {
        Self {
            compy_transcript: FORMAT,
            model: Some(model),
            note: Some(note.to_owned()),
            conversation: Some(conversation),
        }
    }
}

/// Any line after the first.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::adapters::model) struct TurnLine {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) turn: Option<usize>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) text: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) tool_calls: Option<Vec<CallLine>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) usage: Option<UsageLine>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) stop: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) expect: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) delay_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) fault: Option<FaultLine>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(in crate::adapters::model) struct CallLine {
    pub(in crate::adapters::model) name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) arguments: Option<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(in crate::adapters::model) arguments_raw: Option<String>,
}

/// [`Usage`], of which a writer may leave out what is zero.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(in crate::adapters::model) struct UsageLine {
    input_uncached: u64,
    input_cached: u64,
    cache_written: u64,
    output: u64,
    reasoning: u64,
}

impl From<Usage> for UsageLine {
    fn from(usage: Usage) -> Self {
        let Usage {
            input_uncached,
            input_cached,
            cache_written,
            output,
            reasoning,
        } = usage;
        Self {
            input_uncached,
            input_cached,
            cache_written,
            output,
            reasoning,
        }
    }
}

impl From<UsageLine> for Usage {
    fn from(line: UsageLine) -> Self {
        let UsageLine {
            input_uncached,
            input_cached,
            cache_written,
            output,
            reasoning,
        } = line;
        Self {
            input_uncached,
            input_cached,
            cache_written,
            output,
            reasoning,
        }
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
pub(in crate::adapters::model) enum FaultLine {
    Word(String),
    Status {
        status: u16,
        #[serde(default)]
        retry_after_s: Option<f64>,
    },
}

/// A try that fails.
#[derive(Debug, Clone, PartialEq)]
pub enum Fault {
    /// The provider answers with this status.
    Status {
        /// 400 to 599.
        status: u16,
        /// How long it asks to wait, where it says.
        retry_after: Option<Duration>,
    },
    /// The reply breaks off.
    Cut,
    /// No reply ever comes.
    Hang,
}

/// One reply of a transcript.
#[derive(Debug, Clone)]
pub struct Turn {
    /// Where it is in the file, from 1.
    pub line: usize,
    /// What the model says; may be empty.
    pub text: String,
    /// Names and arguments of the tools that it asks for; may be empty.
    pub calls: Vec<(String, Arguments)>,
    /// Tokens, where the transcript says.
    pub usage: Option<Usage>,
    /// Why it stopped, where the transcript says.
    pub stop: Option<StopReason>,
    /// What it must have been told.
    pub expect: Option<Regex>,
    /// Time before the reply.
    pub delay: Duration,
}

impl Turn {
    /// Gives back what the model was told if it is not what it expects.
    ///
    /// # Errors
    /// `told`, where it does not match.
    pub fn check<'a>(&self, told: &'a str) -> Result<(), &'a str> {
        match &self.expect {
            Some(expect) if !expect.is_match(told) => Err(told),
            Some(_) | None => Ok(()),
        }
    }
}

/// A transcript without mistakes.
#[derive(Debug, Clone, Default)]
pub struct Transcript {
    turns: Vec<Turn>,
    /// By the number of the turn they come before.
    faults: BTreeMap<usize, Vec<Fault>>,
}

/// Every mistake of a transcript.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TranscriptError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Unreadable(String),
    /// Its content is wrong.
    #[error("{}", MistakeList(.0))]
    Mistakes(Vec<Mistake>),
}

/// One thing that is wrong with a transcript.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// From 1.
    pub line: usize,
    /// What is wrong with it.
    pub message: String,
}

struct MistakeList<'a>(&'a [Mistake]);

impl fmt::Display for MistakeList<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, Mistake { line, message }) in self.0.iter().enumerate() {
            let separator = if position == 0 { "" } else { "; " };
            write!(f, "{separator}line {line}: {message}")?;
        }
        Ok(())
    }
}

impl Transcript {
    /// Reads a regular file of bounded size.
    ///
    /// # Errors
    /// Every mistake, or why it cannot be read.
    pub fn load(file: &Path) -> Result<Self, TranscriptError> {
        let unreadable = |why: &dyn fmt::Display| TranscriptError::Unreadable(why.to_string());
        // Looked at before it is opened: opening a pipe would wait for a writer.
        let metadata = std::fs::metadata(file).map_err(|error| unreadable(&error))?;
        if !metadata.is_file() {
            return Err(unreadable(&"it is not a regular file"));
        }
        let mut text = String::new();
        let read = File::open(file)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text));
        read.map_err(|error| unreadable(&error))?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(unreadable(&format!(
                "it is larger than {MAX_FILE_BYTES} bytes"
            )));
        }
        Self::parse(&text)
    }

    /// Reads the text of a transcript.
    ///
    /// # Errors
    /// Every mistake in it.
    pub fn parse(text: &str) -> Result<Self, TranscriptError> {
        let mut transcript = Self::default();
        let mut mistakes = Vec::new();
        let mut lines = text
            .trim_start_matches('\u{feff}')
            .lines()
            .zip(1..)
            .map(|(text, line)| (text.trim(), line))
            .filter(|(text, _)| !text.is_empty() && !text.starts_with("//"));
        let header = lines.next();
        if let Err(message) = check_header(header.map(|(text, _)| text)) {
            mistakes.push(Mistake {
                line: header.map_or(1, |(_, line)| line),
                message,
            });
        }
        for (text, line) in lines {
            if let Err(messages) = transcript.add(line, text) {
                mistakes.extend(
                    messages
                        .into_iter()
                        .map(|message| Mistake { line, message }),
                );
            }
        }
        match mistakes.is_empty() {
            true => Ok(transcript),
            false => Err(TranscriptError::Mistakes(mistakes)),
        }
    }

    /// Number of turns.
    #[must_use]
    pub fn len(&self) -> usize {
        self.turns.len()
    }

    /// Whether it says nothing at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// A turn by its number, from 0.
    #[must_use]
    pub fn turn(&self, number: usize) -> Option<&Turn> {
        self.turns.get(number)
    }

    /// The faults that happen before a turn, in order.
    #[must_use]
    pub fn faults(&self, number: usize) -> &[Fault] {
        self.faults.get(&number).map_or(&[], Vec::as_slice)
    }

    fn add(&mut self, line: usize, text: &str) -> Result<(), Vec<String>> {
        let parsed: TurnLine =
            serde_json::from_str(text).map_err(|error| vec![json_mistake(&error)])?;
        if let Some(fault) = &parsed.fault {
            let fault = read_fault(fault, &parsed).map_err(|message| vec![message])?;
            self.faults.entry(self.turns.len()).or_default().push(fault);
            return Ok(());
        }
        let number = parsed.turn.unwrap_or(self.turns.len());
        // A turn with mistakes keeps its place, so that the numbers of those
        // after it are not called wrong.
        let (turn, mut mistakes) = read_turn(line, parsed);
        let known = self.turns.len();
        match self.turns.get_mut(number) {
            Some(place) => *place = turn,
            None if number == known => self.turns.push(turn),
            None => mistakes.push(format!("turn {number} follows {known} turns")),
        }
        if mistakes.is_empty() {
            Ok(())
        } else {
            Err(mistakes)
        }
    }
}

fn check_header(text: Option<&str>) -> Result<(), String> {
    let header = text.map(serde_json::from_str::<Header>);
    match header {
        Some(Ok(Header {
            compy_transcript: FORMAT,
            ..
        })) => Ok(()),
        Some(Ok(Header {
            compy_transcript, ..
        })) => Err(format!(
            "format {compy_transcript} is not known, only {FORMAT} is"
        )),
        Some(Err(error)) => Err(format!(
            "the first line must be a header like {{\"compy_transcript\":{FORMAT}}}: {}",
            json_mistake(&error)
        )),
        None => Err("the file is empty".to_owned()),
    }
}

fn read_fault(fault: &FaultLine, line: &TurnLine) -> Result<Fault, String> {
    let says_more = line.text.is_some()
        || line.tool_calls.is_some()
        || line.usage.is_some()
        || line.stop.is_some()
        || line.expect.is_some()
        || line.delay_ms.is_some()
        || line.turn.is_some();
    if says_more {
        return Err("`fault` stands alone on its line".to_owned());
    }
    match fault {
        FaultLine::Word(word) if word == "cut" => Ok(Fault::Cut),
        FaultLine::Word(word) if word == "hang" => Ok(Fault::Hang),
        FaultLine::Word(word) => Err(format!(
            "`{word}` is no fault: use \"cut\", \"hang\" or {{\"status\":N}}"
        )),
        FaultLine::Status {
            status,
            retry_after_s,
        } => {
            if !(400..600).contains(status) {
                return Err(format!(
                    "status {status} of a fault is not between 400 and 599"
                ));
            }
            let retry_after = retry_after_s
                .map(Duration::try_from_secs_f64)
                .transpose()
                .map_err(|error| format!("`retry_after_s`: {error}"))?;
            Ok(Fault::Status {
                status: *status,
                retry_after,
            })
        }
    }
}

fn read_turn(line: usize, parsed: TurnLine) -> (Turn, Vec<String>) {
    let mut mistakes = Vec::new();
    if parsed.text.is_none() && parsed.tool_calls.is_none() {
        mistakes.push("a turn has `text` or `tool_calls` or both".to_owned());
    }
    let mut calls = Vec::new();
    for CallLine {
        name,
        arguments,
        arguments_raw,
    } in parsed.tool_calls.unwrap_or_default()
    {
        if name.is_empty() {
            mistakes.push("a tool call has an empty `name`".to_owned());
        }
        let arguments = match (arguments, arguments_raw) {
            (Some(_), Some(_)) => {
                mistakes.push(format!(
                    "the call of `{name}` has both `arguments` and `arguments_raw`"
                ));
                continue;
            }
            (arguments, None) => Arguments::Object(arguments.unwrap_or_default()),
            (None, Some(raw)) => reply::arguments(&raw),
        };
        calls.push((name, arguments));
    }
    let expect = parsed
        .expect
        .as_deref()
        .map(Regex::new)
        .transpose()
        .unwrap_or_else(|error| {
            mistakes.push(format!("`expect` is no regular expression: {error}"));
            None
        });
    let delay = Duration::from_millis(parsed.delay_ms.unwrap_or(0));
    if delay > super::MAX_DELAY {
        mistakes.push(format!(
            "`delay_ms` is above {}",
            super::MAX_DELAY.as_millis()
        ));
    }
    let turn = Turn {
        line,
        text: parsed.text.unwrap_or_default(),
        calls,
        usage: parsed.usage.map(Usage::from),
        stop: parsed.stop.map(stop_reason),
        expect,
        delay,
    };
    (turn, mistakes)
}

fn stop_reason(word: String) -> StopReason {
    match word.as_str() {
        "end_turn" => StopReason::EndTurn,
        "tool_use" => StopReason::ToolUse,
        "output_cap" => StopReason::OutputCap,
        "refusal" => StopReason::Refusal,
        _ => StopReason::Other(word),
    }
}

/// The word for a reason, as transcripts have it.
pub(in crate::adapters::model) fn stop_word(stop: &StopReason) -> &str {
    match stop {
        StopReason::EndTurn => "end_turn",
        StopReason::ToolUse => "tool_use",
        StopReason::OutputCap => "output_cap",
        StopReason::Refusal => "refusal",
        StopReason::Other(word) => word,
    }
}

/// `serde_json` counts lines of its own; only the column helps here.
fn json_mistake(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let what = text.split(" at line ").next().unwrap_or(&text);
    format!("{what} (column {})", error.column())
}
