//! A session's model calls, one by one: what each took, what it cost, and
//! whether the provider could use what it had seen before. Together they cost what
//! the session has spent.

use super::{
    event::{Event, EventBody, ModelAnswered},
    spending::Reserved,
};
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

/// One model call that was answered, or that may have cost something.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModelCall {
    /// Number of its intent in the log.
    pub sequence: u64,
    /// When it ended, in milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Stage it was made in.
    pub stage: Stage,
    /// From request to reply; of a call without one, until that was known.
    pub duration_ms: u64,
    /// Tokens; `None` where the provider did not tell.
    pub usage: Option<Usage>,
    /// Tokens that count as spent: all that was set aside where nobody counted.
    pub tokens: u64,
    /// What it cost, likewise; `None` without a price.
    pub cost: Option<Money>,
    /// Why no answer came; `None` where one did.
    pub error: Option<String>,
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
    /// What is set aside for the call under way.
    reserved: Option<Reserved>,
    /// When that was made.
    asked_at_ms: i64,
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
            EventBody::BudgetReserved(reserved) => self.reserved = Some(*reserved),
            EventBody::ModelAsked => self.asked_at_ms = event.at_ms,
            EventBody::ModelAnswered(answer) => self.answered(event, answer),
            EventBody::ModelFailed { free: true, .. } => self.reserved = None,
            EventBody::ModelFailed { intent, error, .. } => self.failed(event, *intent, error),
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
        let (tokens, cost) = self.spent(answer.usage.as_ref());
        self.calls.push(ModelCall {
            sequence: answer.intent,
            at_ms: event.at_ms,
            stage: event.stage,
            duration_ms: answer.duration_ms,
            usage: answer.usage,
            tokens,
            cost,
            error: None,
            prefix,
        });
    }

    /// A call that nobody counted: what the provider has cached since, nobody knows
    /// either.
    fn failed(&mut self, event: &Event, intent: u64, error: &str) {
        let (tokens, cost) = self.spent(None);
        let duration_ms = event.at_ms.saturating_sub(self.asked_at_ms);
        self.calls.push(ModelCall {
            sequence: intent,
            at_ms: event.at_ms,
            stage: event.stage,
            duration_ms: u64::try_from(duration_ms).unwrap_or(0),
            usage: None,
            tokens,
            cost,
            error: Some(error.to_owned()),
            prefix: Prefix::Unknown,
        });
    }

    /// What the call that has ended counts as: what the provider said, else what was
    /// set aside for it.
    fn spent(&mut self, usage: Option<&Usage>) -> (u64, Option<Money>) {
        let reserved = self.reserved.take().map(|reserved| reserved.amounts);
        let reserved = reserved.unwrap_or_default();
        let (tokens, cost) = match usage {
            Some(usage) => (usage.total(), self.prices.map(|prices| prices.cost(usage))),
            None => (reserved.tokens, self.prices.map(|_| reserved.money)),
        };
        (tokens, cost)
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
