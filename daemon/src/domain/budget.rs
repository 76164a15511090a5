//! What sessions may spend: tokens, money, steps and time, each for one session
//! and for all sessions of a day.
//!
//! Nothing is spent that was not reserved. A model call reserves the most that
//! it can cost before it is made ([`Bound`]), and is settled with what it did
//! cost; a call whose cost nobody knows is settled with all that was reserved.
//! So what is spent and reserved together never passes a limit, as long as the
//! provider honours the output cap that is sent with every call.

mod money;
mod prices;

use serde::{Deserialize, Serialize};

pub use self::{
    money::{Money, NotMoney},
    prices::{NotAPrice, PriceRule, Prices},
};

/// Tokens that a provider puts into a request by itself (its frame of the
/// conversation, its own prompt for the use of tools) at most. Anthropic's
/// documentation gives up to 700 for tools.
pub const PROVIDER_TOKENS: u64 = 2_048;
/// The most that a provider adds for one message.
pub const MESSAGE_TOKENS: u64 = 16;

/// What can run out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Quantity {
    /// Tokens, input and output.
    Tokens,
    /// Money, in the unit of the price table.
    Money,
    /// Model calls.
    Steps,
    /// Time in which sessions run.
    Time,
}

impl Quantity {
    /// All of them, in the order in which they are looked at.
    pub const ALL: [Self; 4] = [Self::Tokens, Self::Money, Self::Steps, Self::Time];

    /// Its name for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tokens => "tokens",
            Self::Money => "money",
            Self::Steps => "steps",
            Self::Time => "time",
        }
    }

    /// An amount of it for people: "12.50", "3000 tokens", "90 s".
    #[must_use]
    pub fn show(self, amount: u64) -> String {
        match self {
            Self::Tokens => format!("{amount} tokens"),
            Self::Money => Money(amount).to_string(),
            Self::Steps => format!("{amount} steps"),
            Self::Time => format!("{} s", amount / 1000),
        }
    }
}

/// An amount of each quantity.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Amounts {
    /// Tokens, input and output.
    pub tokens: u64,
    /// Money; zero where the model has no price.
    pub money: Money,
    /// Model calls.
    pub steps: u64,
    /// Milliseconds.
    pub time_ms: u64,
}

impl Amounts {
    /// How much there is of one quantity, in its smallest unit.
    #[must_use]
    pub fn of(&self, quantity: Quantity) -> u64 {
        match quantity {
            Quantity::Tokens => self.tokens,
            Quantity::Money => self.money.0,
            Quantity::Steps => self.steps,
            Quantity::Time => self.time_ms,
        }
    }

    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_add(other.tokens),
            money: Money(self.money.0.saturating_add(other.money.0)),
            steps: self.steps.saturating_add(other.steps),
            time_ms: self.time_ms.saturating_add(other.time_ms),
        }
    }

    /// This without the other, zero at least.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self {
            tokens: self.tokens.saturating_sub(other.tokens),
            money: Money(self.money.0.saturating_sub(other.money.0)),
            steps: self.steps.saturating_sub(other.steps),
            time_ms: self.time_ms.saturating_sub(other.time_ms),
        }
    }
}

/// What may be spent; `None` means as much as is wanted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Tokens, input and output.
    pub tokens: Option<u64>,
    /// Money.
    pub money: Option<Money>,
    /// Model calls.
    pub steps: Option<u64>,
    /// Milliseconds.
    pub time_ms: Option<u64>,
}

impl Limits {
    /// The limit of one quantity, in its smallest unit.
    #[must_use]
    pub fn of(&self, quantity: Quantity) -> Option<u64> {
        match quantity {
            Quantity::Tokens => self.tokens,
            Quantity::Money => self.money.map(|money| money.0),
            Quantity::Steps => self.steps,
            Quantity::Time => self.time_ms,
        }
    }
}

/// When people are told, and asked, before a limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Marks {
    /// From this share of a limit on a warning is given: 1 to 100 per cent.
    pub warn_percent: u8,
    /// From this share on the session pauses, once: 1 to 99 per cent. `None`
    /// means that it goes on up to the limit.
    pub pause_percent: Option<u8>,
}

impl Default for Marks {
    fn default() -> Self {
        Self {
            warn_percent: 80,
            pause_percent: None,
        }
    }
}

/// Whose limit it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// The session's own, with everything that it starts.
    Session,
    /// That of all sessions on a day.
    Day(Day),
}

/// A day of the calendar in UTC, counted from the Unix epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Day(pub i64);

impl Day {
    /// The day of a time in milliseconds since the Unix epoch.
    #[must_use]
    pub fn of(at_ms: i64) -> Self {
        Self(at_ms.div_euclid(24 * 60 * 60 * 1000))
    }
}

/// A limit and what has been used of it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Account {
    /// What may be spent.
    pub limits: Limits,
    /// What is spent for good.
    pub spent: Amounts,
    /// What calls under way may still cost.
    pub reserved: Amounts,
}

/// A limit that has no room for what is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Exhausted {
    /// Of what.
    pub quantity: Quantity,
    /// What is spent and reserved.
    pub used: u64,
    /// What was wanted.
    pub wanted: u64,
    /// The limit.
    pub limit: u64,
}

impl Account {
    /// What is spent and reserved.
    #[must_use]
    pub fn used(&self) -> Amounts {
        self.spent.plus(self.reserved)
    }

    /// Whether there is room for so much more.
    ///
    /// # Errors
    /// The first quantity without.
    pub fn has_room(&self, wanted: Amounts) -> Result<(), Exhausted> {
        let used = self.used();
        for quantity in Quantity::ALL {
            let Some(limit) = self.limits.of(quantity) else {
                continue;
            };
            let (used, wanted) = (used.of(quantity), wanted.of(quantity));
            if used.saturating_add(wanted) > limit {
                return Err(Exhausted {
                    quantity,
                    used,
                    wanted,
                    limit,
                });
            }
        }
        Ok(())
    }

    /// Sets so much aside; the caller has made sure that there is
    /// [room](Self::has_room).
    pub fn reserve(&mut self, wanted: Amounts) {
        self.reserved = self.reserved.plus(wanted);
    }

    /// A reservation becomes what was really spent.
    pub fn settle(&mut self, reserved: Amounts, spent: Amounts) {
        self.reserved = self.reserved.minus(reserved);
        self.spent = self.spent.plus(spent);
    }

    /// The quantities of which at least this share is used.
    pub fn beyond(&self, percent: u8) -> impl Iterator<Item = (Quantity, u64, u64)> {
        let used = self.used();
        let limits = self.limits;
        Quantity::ALL.into_iter().filter_map(move |quantity| {
            let (used, limit) = (used.of(quantity), limits.of(quantity)?);
            let reached = u128::from(used) * 100 >= u128::from(limit) * u128::from(percent);
            reached.then_some((quantity, used, limit))
        })
    }
}

/// The most that one model call can cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bound {
    /// Tokens of the request.
    pub input: u64,
    /// Tokens of the reply: the cap that is sent.
    pub output: u64,
}

/// A conversation as it is measured for a [`Bound`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Measured {
    /// Bytes of everything that is sent, as JSON.
    pub bytes: u64,
    /// Messages.
    pub messages: u64,
    /// What the provider counted at its last reply, that reply included where it
    /// goes back as it came, and what was measured then.
    pub counted: Option<Counted>,
}

/// What a provider counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Tokens of the request, and of its reply where that is included.
    pub tokens: u64,
    /// Bytes of them, as JSON.
    pub bytes: u64,
    /// Messages, likewise.
    pub messages: u64,
}

impl Bound {
    /// Of the next call in a conversation. A token is at least one byte, so what
    /// was added since the provider last counted cannot be more tokens than it
    /// has bytes.
    #[must_use]
    pub fn of(measured: Measured, output_cap: u32) -> Self {
        let (tokens, bytes, messages) = match measured.counted {
            Some(counted) => (
                counted.tokens,
                measured.bytes.saturating_sub(counted.bytes),
                measured.messages.saturating_sub(counted.messages),
            ),
            None => (PROVIDER_TOKENS, measured.bytes, measured.messages),
        };
        Self {
            input: tokens + bytes + messages * MESSAGE_TOKENS,
            output: u64::from(output_cap),
        }
    }

    /// What is reserved for it.
    #[must_use]
    pub fn amounts(self, prices: Option<&Prices>) -> Amounts {
        Amounts {
            tokens: self.input + self.output,
            money: prices.map_or(Money::default(), |prices| prices.most(self)),
            steps: 1,
            time_ms: 0,
        }
    }
}

#[cfg(test)]
mod tests;
