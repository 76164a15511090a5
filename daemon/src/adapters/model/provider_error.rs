//! What a provider's refusal means: its error bodies, its headers about
//! waiting, and the phrases by which servers of one protocol say the same
//! thing in different words.
//!
//! Pure: the time comes in as an argument.

use std::{
    sync::LazyLock,
    time::{Duration, SystemTime},
};

use http::HeaderMap;
use regex::Regex;
use serde_json::Value;

use crate::ports::model::ModelError;

/// An answer that is no reply.
#[derive(Debug)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    /// Cut by the transport.
    pub(super) body: String,
    pub(super) received_at: SystemTime,
}

/// The provider's words about an error, from a body or from inside a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct ErrorBody {
    pub(super) message: String,
    /// `error.type`.
    pub(super) kind: String,
    /// `error.code` or `error.details.error_code`; a number as its digits.
    pub(super) code: String,
}

impl ErrorBody {
    /// The error in a JSON value: `{"error": {..}}`, `{"error": ".."}`,
    /// `{"object": "error", ..}` or `{"type": "error", ..}`. `None` where the
    /// value is no error.
    pub(super) fn from_value(value: &Value) -> Option<Self> {
        match value.get("error") {
            Some(Value::Object(_)) => Some(Self::from_object(&value["error"])),
            Some(Value::String(message)) => Some(Self {
                message: message.clone(),
                ..Self::default()
            }),
            _ if value["object"] == "error" || value["type"] == "error" => {
                Some(Self::from_object(value))
            }
            _ => None,
        }
    }

    /// The error in the body of a refusal, which may be anything.
    pub(super) fn from_body(body: &str) -> Self {
        let value = serde_json::from_str::<Value>(body).unwrap_or(Value::Null);
        if let Some(error) = Self::from_value(&value).filter(|error| !error.message.is_empty()) {
            return error;
        }
        let message = ["message", "detail"]
            .iter()
            .find_map(|key| value[key].as_str());
        Self {
            message: message.unwrap_or(body).to_owned(),
            ..Self::default()
        }
    }

    fn from_object(error: &Value) -> Self {
        let word = |value: &Value| match value {
            Value::String(text) => text.clone(),
            Value::Number(number) => number.to_string(),
            _ => String::new(),
        };
        let code = match &error["code"] {
            Value::Null => word(&error["details"]["error_code"]),
            code => word(code),
        };
        Self {
            message: word(&error["message"]),
            kind: word(&error["type"]),
            code,
        }
    }

    fn says(&self, words: &[&str]) -> bool {
        words
            .iter()
            .any(|word| self.code == *word || self.kind == *word)
    }

    /// The message in one bounded line, with the code where it adds something.
    fn words(&self) -> String {
        let line = self
            .message
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        let line = super::reply::cut(&line, 600);
        match (line.is_empty(), self.code.is_empty()) {
            (true, true) => "no reason given".to_owned(),
            (true, false) => self.code.clone(),
            (false, false) if !line.contains(&self.code) => format!("{line} ({})", self.code),
            (false, _) => line.to_owned(),
        }
    }

    fn is_context_overflow(&self) -> bool {
        self.says(&["context_length_exceeded", "exceed_context_size_error"])
            || CONTEXT_OVERFLOW.is_match(&self.message)
    }

    fn names_a_spending_limit(&self) -> bool {
        self.says(&[
            "insufficient_quota",
            "billing_error",
            "billing_hard_limit_reached",
            "credit_balance_exhausted",
            "enforced_spend_limit_reached",
            "organization_spend_limit_exceeded",
            "organization_usage_limit_exceeded",
            "project_spend_limit_exceeded",
        ])
    }
}

/// Ways to say that the conversation is too long, over a dozen servers.
static CONTEXT_OVERFLOW: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?ix) maximum\ (context|prompt)\ length
        | context[_\ ]length[_\ ]exceeded
        | (exceed|fit|longer|larger|greater)[^.]{0,60}\ context\ (window|length|limit|size)
        | (context|token)\ (window|limit)\ (exceeds|exceeded)
        | (prompt|input)\ (is\ )?too\ long
        | available\ context\ size
        | reduce\ the\ length\ of\ the\ messages
        | input\ token\ count[^.]{0,60}\ exceeds",
    )
    .expect("the pattern is constant and tested")
});

/// Ways to say that money, not time, is what lacks.
static NO_CREDIT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r"(?ix) credit\ balance | insufficient[_\ ](balance|quota|credits?|funds)
        | specified\ (workspace\ )?api\ usage\ limits | exceeded\ your\ current\ quota
        | spend(ing)?\ limit",
    )
    .expect("the pattern is constant and tested")
});

/// What a 429 without any word about waiting means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SilentLimit {
    /// A limit of rate that the server did not describe.
    Rate,
    /// A limit of spending, which waiting does not lift: Anthropic sends a
    /// wait with every limit of rate and none with this one.
    Spending,
}

/// An error and where it was seen.
#[derive(Debug)]
pub(super) struct Seen<'a> {
    pub(super) provider: &'a str,
    /// Status of the answer; 200 for an error inside a stream.
    pub(super) status: u16,
    /// The status that the error stands for; differs inside a stream.
    pub(super) meaning: u16,
    pub(super) error: ErrorBody,
    /// How long the provider asks to wait.
    pub(super) wait: Option<Duration>,
    pub(super) silent_limit: SilentLimit,
}

impl Seen<'_> {
    /// The port's word for it.
    pub(super) fn classify(self) -> ModelError {
        let Self {
            status,
            meaning,
            wait,
            ..
        } = self;
        let provider = self.provider.to_owned();
        let message = self.error.words();
        let refused = (400..500).contains(&meaning);
        let in_credit_words = NO_CREDIT.is_match(&self.error.message);
        let for_want_of_credit = meaning == 402
            || self.error.names_a_spending_limit()
            || (refused && in_credit_words && wait.is_none())
            || (meaning == 429 && wait.is_none() && self.silent_limit == SilentLimit::Spending);
        if for_want_of_credit {
            return ModelError::Quota { provider, message };
        }
        if meaning == 413 || (meaning != 429 && self.error.is_context_overflow()) {
            return ModelError::ContextOverflow { provider, message };
        }
        match meaning {
            401 | 403 => ModelError::Auth { provider, message },
            429 => ModelError::RateLimited {
                provider,
                message,
                retry_after: wait,
            },
            408 | 409 | 500.. => ModelError::Server {
                provider,
                status,
                message,
                retry_after: wait,
            },
            _ => ModelError::InvalidRequest {
                provider,
                status,
                message,
            },
        }
    }
}

/// `retry-after`, as seconds or as an HTTP date.
pub(super) fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = header(headers, "retry-after")?;
    if let Ok(seconds) = text.parse::<f64>() {
        return Duration::try_from_secs_f64(seconds).ok();
    }
    let at = httpdate::parse_http_date(text).ok()?;
    Some(at.duration_since(now).unwrap_or(Duration::ZERO))
}

/// The wait named in a message: `try again in 1.5s`.
pub(super) fn wait_in_words(message: &str) -> Option<Duration> {
    static TRY_AGAIN: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?i)try again in\s+((?:\d+(?:\.\d+)?\s*(?:ms|seconds?|minutes?|h|m|s)\s*)+)")
            .expect("the pattern is constant and tested")
    });
    parse_duration(TRY_AGAIN.captures(message)?[1].trim())
}

/// Until the limits that are used up are full again, by OpenAI's headers.
pub(super) fn openai_reset(headers: &HeaderMap) -> Option<Duration> {
    ["requests", "tokens"]
        .iter()
        .filter(|what| header(headers, &format!("x-ratelimit-remaining-{what}")) == Some("0"))
        .filter_map(|what| parse_duration(header(headers, &format!("x-ratelimit-reset-{what}"))?))
        .max()
}

/// Until the limits that are used up are full again, by Anthropic's headers.
pub(super) fn anthropic_reset(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    ["requests", "tokens", "input-tokens", "output-tokens"]
        .iter()
        .filter(|what| {
            header(headers, &format!("anthropic-ratelimit-{what}-remaining")) == Some("0")
        })
        .filter_map(|what| {
            let reset = header(headers, &format!("anthropic-ratelimit-{what}-reset"))?;
            let at = humantime::parse_rfc3339(reset).ok()?;
            Some(at.duration_since(now).unwrap_or(Duration::ZERO))
        })
        .max()
}

/// Durations as providers write them: `1s`, `6m0s`, `7.66s`, `120ms`.
fn parse_duration(text: &str) -> Option<Duration> {
    static PART: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"^(\d+(?:\.\d+)?)\s*(ms|seconds?|minutes?|h|m|s)\s*")
            .expect("the pattern is constant and tested")
    });
    let mut rest = text;
    let mut total = Duration::ZERO;
    while let Some(part) = PART.captures(rest) {
        let number: f64 = part[1].parse().ok()?;
        let seconds = match &part[2] {
            "ms" => number / 1000.0,
            "h" => number * 3600.0,
            "m" | "minute" | "minutes" => number * 60.0,
            _ => number,
        };
        total = total.checked_add(Duration::try_from_secs_f64(seconds).ok()?)?;
        rest = &rest[part[0].len()..];
    }
    (rest.is_empty() && !text.is_empty()).then_some(total)
}

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok().map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_providers_write_them() {
        let cases = [
            ("1s", Some(1000)),
            ("6m0s", Some(360_000)),
            ("7.66s", Some(7660)),
            ("120ms", Some(120)),
            ("1h2m3s", Some(3_723_000)),
            ("2 seconds", Some(2000)),
            ("", None),
            ("soon", None),
            ("1s?", None),
            ("99999999999999999999999h", None),
        ];
        for (text, millis) in cases {
            assert_eq!(
                parse_duration(text),
                millis.map(Duration::from_millis),
                "{text}"
            );
        }
    }

    #[test]
    fn overflow_phrases_of_a_dozen_servers_are_known_and_others_are_not() {
        let overflows = [
            "This model's maximum context length is 8192 tokens. However, you requested 9100 tokens",
            "prompt is too long: 215000 tokens > 200000 maximum",
            "input length and `max_tokens` exceed context limit: 199000 + 8192 > 200000",
            "the request exceeds the available context size, try increasing it",
            "This model's maximum prompt length is 131072 but the request contains 537812 tokens.",
            "Please reduce the length of the messages or completion.",
            "The input token count (1196265) exceeds the maximum number of tokens allowed (1048575).",
            "Your input exceeds the context window of this model.",
            "Requested token count exceeds the model's context length",
            "Input is too long for requested model.",
        ];
        for message in overflows {
            assert!(CONTEXT_OVERFLOW.is_match(message), "{message}");
        }
        let others = [
            "max_tokens: 100000 > 64000, which is the maximum allowed number of output tokens",
            "messages: at least one message is required",
            "Unsupported parameter: 'max_tokens'",
            "Rate limit reached: Limit 10000, Used 9000, Requested 2000",
        ];
        for message in others {
            assert!(!CONTEXT_OVERFLOW.is_match(message), "{message}");
        }
    }

    #[test]
    fn a_body_that_is_no_json_is_its_own_message_in_one_line() {
        let error = ErrorBody::from_body("<html>\n  <h1>502 Bad Gateway</h1>\n");
        assert_eq!(error.words(), "<html> <h1>502 Bad Gateway</h1>");
        assert_eq!(ErrorBody::from_body("").words(), "no reason given");
    }
}
