//! A session's model calls, one by one: what each took, what it cost, and
//! whether the provider could use what it had seen before.

use super::event::{Event, EventBody, ModelAnswered};
use crate::domain::{
    budget::{Money, Prices},
    conversation::Usage,
    stage::Stage,
};

/// How long a provider keeps a prefix at least, in milliseconds: five minutes,
/// as Anthropic's and OpenAI's documentation say.
const CACHE_KEPT_MS: i64 = 5 * 60 * 1000;
/// The shortest prefix that is cached, in tokens, as both say.
const CACHED_AT_LEAST: u64 = 1_024;
/// How much of the conversation before counts as all of it: caches work in
/// blocks, and the last one is lost.
const WHOLE_PERCENT: u64 = 80;

/// One model call that was answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCall {
    /// Number of its intent in the log.
    pub sequence: u64,
    /// When it was answered, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Stage it was made in.
    pub stage: Stage,
    /// From request to reply.
    pub duration_ms: u64,
    /// Tokens; `None` where the provider did not tell.
    pub usage: Option<Usage>,
    /// What it cost; `None` without a price or without a count.
    pub cost: Option<Money>,
    /// What became of the prefix.
    pub prefix: Prefix,
}

/// What became of the part of a conversation that was sent before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// The provider read it from its cache.
    Kept,
    /// It was paid for again.
    Broken(Break),
    /// The provider does not tell what it cached.
    Unknown,
}

/// Why a prefix was paid for again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Break {
    /// Nothing was sent before.
    First,
    /// The conversation was compacted: a new epoch.
    Compaction,
    /// So long was nothing asked that the provider forgot it.
    Idle {
        /// Seconds since the call before.
        seconds: u64,
    },
    /// It is shorter than what providers cache.
    Short,
    /// The provider caches and did not have it, for reasons of its own: the same
    /// bytes were sent.
    Provider,
}

impl Break {
    /// For people.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::First => "first call".to_owned(),
            Self::Compaction => "compaction began a new conversation".to_owned(),
            Self::Idle { seconds } => format!("nothing was asked for {seconds} s"),
            Self::Short => "too short to be cached".to_owned(),
            Self::Provider => "the provider had not cached it".to_owned(),
        }
    }
}

/// The calls of a session, folded from its log.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    prices: Option<Prices>,
    calls: Vec<ModelCall>,
    /// When the last call was answered, and the tokens that it sent.
    before: Option<(i64, u64)>,
    compacted: bool,
    /// Whether the provider ever said that it read from a cache.
    caches: bool,
}

impl Calls {
    /// Folds in the next event.
    pub fn apply(&mut self, event: &Event) {
        match &event.body {
            EventBody::Created(created) => self.prices = created.options.prices,
            EventBody::Compacted { .. } => self.compacted = true,
            EventBody::ModelAnswered(answer) => self.answered(event, answer),
            _ => {}
        }
    }

    fn answered(&mut self, event: &Event, answer: &ModelAnswered) {
        let prefix = match &answer.usage {
            Some(usage) => self.prefix(event.at_ms, usage),
            None => Prefix::Unknown,
        };
        self.compacted = false;
        if let Some(usage) = &answer.usage {
            self.caches |= usage.input_cached > 0 || usage.cache_written > 0;
            self.before = Some((event.at_ms, input(usage)));
        }
        let cost = |usage| Some(self.prices?.cost(usage));
        self.calls.push(ModelCall {
            sequence: answer.intent,
            at_ms: event.at_ms,
            stage: event.stage,
            duration_ms: answer.duration_ms,
            usage: answer.usage,
            cost: answer.usage.as_ref().and_then(cost),
            prefix,
        });
    }

    fn prefix(&self, at_ms: i64, usage: &Usage) -> Prefix {
        let Some((last_ms, sent)) = self.before else {
            return Prefix::Broken(Break::First);
        };
        if self.compacted {
            return Prefix::Broken(Break::Compaction);
        }
        if usage.input_cached * 100 >= sent * WHOLE_PERCENT {
            return Prefix::Kept;
        }
        if sent < CACHED_AT_LEAST {
            return Prefix::Broken(Break::Short);
        }
        let idle_ms = at_ms.saturating_sub(last_ms);
        if idle_ms > CACHE_KEPT_MS {
            let seconds = u64::try_from(idle_ms / 1000).unwrap_or(0);
            return Prefix::Broken(Break::Idle { seconds });
        }
        if self.caches {
            Prefix::Broken(Break::Provider)
        } else {
            Prefix::Unknown
        }
    }

    /// The calls so far, in order.
    #[must_use]
    pub fn into_vec(self) -> Vec<ModelCall> {
        self.calls
    }
}

/// Tokens of a request.
fn input(usage: &Usage) -> u64 {
    usage.input_uncached + usage.input_cached + usage.cache_written
}

#[cfg(test)]
mod tests;
