//! Money, exactly.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// Nanos in one unit of the currency.
const UNIT: u64 = 1_000_000_000;
/// Digits after the point.
const DIGITS: usize = 9;

/// An amount of money in billionths of the currency that prices are given in.
/// At most eighteen billion units.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Money(pub u64);

/// A text that is no amount of money.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "\"{0}\" is no amount of money: give a number like 5 or 0.25, with at most nine digits after the point"
)]
pub struct NotMoney(pub String);

impl FromStr for Money {
    type Err = NotMoney;

    fn from_str(text: &str) -> Result<Self, NotMoney> {
        let wrong = || NotMoney(text.to_owned());
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let dangling = text.ends_with('.') || whole.is_empty();
        if dangling || !digits(whole) || !digits(part) || part.len() > DIGITS {
            return Err(wrong());
        }
        let whole: u64 = whole.parse().map_err(|_| wrong())?;
        let part: u64 = format!("{part:0<DIGITS$}").parse().map_err(|_| wrong())?;
        whole
            .checked_mul(UNIT)
            .and_then(|whole| whole.checked_add(part))
            .map(Self)
            .ok_or_else(wrong)
    }
}

impl fmt::Display for Money {
    /// At least two digits after the point, and no more than it takes.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = format!("{:0DIGITS$}", self.0 % UNIT);
        let shown = part.trim_end_matches('0').len().max(2);
        write!(f, "{}.{}", self.0 / UNIT, &part[..shown])
    }
}

impl std::iter::Sum for Money {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        Self(all.fold(0, |sum, money| sum.saturating_add(money.0)))
    }
}
