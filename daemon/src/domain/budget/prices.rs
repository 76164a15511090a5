//! What models cost.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use super::{Bound, Money};
use crate::domain::{
    conversation::Usage,
    model_name::{ModelName, ModelPattern},
};

/// Tokens that a price is for.
const PER: u64 = 1_000_000;

/// What a million tokens of a model cost.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prices {
    /// Of input that is not cached.
    pub input: Money,
    /// Of input that the provider read from its cache.
    pub cached: Money,
    /// Of input that it wrote to its cache.
    pub written: Money,
    /// Of output.
    pub output: Money,
}

impl Prices {
    /// What a call cost, rounded up for each kind of token.
    #[must_use]
    pub fn cost(&self, usage: &Usage) -> Money {
        [
            (self.input, usage.input_uncached),
            (self.cached, usage.input_cached),
            (self.written, usage.cache_written),
            (self.output, usage.output),
        ]
        .into_iter()
        .map(|(price, tokens)| times(price, tokens))
        .sum()
    }

    /// The most that a call can cost: all of its input at the highest price for
    /// input.
    #[must_use]
    pub fn most(&self, bound: Bound) -> Money {
        let input = self.input.max(self.cached).max(self.written);
        // Each kind of token is rounded up by itself.
        let rounding = Money(3);
        [
            times(input, bound.input),
            times(self.output, bound.output),
            rounding,
        ]
        .into_iter()
        .sum()
    }
}

fn times(price: Money, tokens: u64) -> Money {
    let nanos = (u128::from(price.0) * u128::from(tokens)).div_ceil(u128::from(PER));
    Money(u64::try_from(nanos).unwrap_or(u64::MAX))
}

/// A line of the price table: `MODEL=INPUT/CACHED/WRITTEN/OUTPUT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PriceRule {
    /// Which models it is for.
    pub models: ModelPattern,
    /// What they cost.
    pub prices: Prices,
}

impl PriceRule {
    /// The prices of a model: those of the first rule that is for it.
    #[must_use]
    pub fn find(rules: &[Self], model: &ModelName) -> Option<Prices> {
        let mut rules = rules.iter();
        rules
            .find(|rule| rule.models.matches(model))
            .map(|rule| rule.prices)
    }
}

impl fmt::Display for PriceRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Prices {
            input,
            cached,
            written,
            output,
        } = self.prices;
        let models = &self.models;
        write!(f, "{models}={input}/{cached}/{written}/{output}")
    }
}

/// A text that is no line of a price table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "give MODEL=INPUT/CACHED/WRITTEN/OUTPUT, prices of a million tokens, where MODEL may end in *: openai:name-*=1.25/0.125/1.25/10"
)]
pub struct NotAPrice;

impl FromStr for PriceRule {
    type Err = NotAPrice;

    fn from_str(text: &str) -> Result<Self, NotAPrice> {
        let (models, prices) = text.rsplit_once('=').ok_or(NotAPrice)?;
        let models = models.trim().parse().map_err(|_| NotAPrice)?;
        let prices: Vec<Money> = prices
            .split('/')
            .map(|price| price.trim().parse().map_err(|_| NotAPrice))
            .collect::<Result<_, _>>()?;
        let [input, cached, written, output] = prices[..] else {
            return Err(NotAPrice);
        };
        Ok(Self {
            models,
            prices: Prices {
                input,
                cached,
                written,
                output,
            },
        })
    }
}
