//! What came of faults, counted by the type of the failure.

use std::{collections::BTreeMap, fmt};

use compyd::domain::recovery::FailureType;

use super::{End, Outcome};

/// Share of the recoverable types that have to recover.
const RECOVERED_MIN: f64 = 0.6;

/// Outcomes of one type.
#[derive(Debug, Default)]
struct OfType {
    recoverable: usize,
    recovered: usize,
    escalated: usize,
    wrong: usize,
}

/// Outcomes of all of them; as text, a table.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<&'static str, OfType>);

impl Tally {
    /// Counts an outcome and says what it is: recovered, escalated or wrong.
    pub fn count(&mut self, outcome: &Outcome) -> &'static str {
        let of_type = self.0.entry(outcome.class).or_default();
        of_type.recoverable += usize::from(outcome.wanted == End::Recovered);
        match outcome.end.filter(|end| *end == outcome.wanted) {
            Some(End::Recovered) => {
                of_type.recovered += 1;
                "recovered"
            }
            Some(End::Escalated) => {
                of_type.escalated += 1;
                "escalated"
            }
            None => {
                of_type.wrong += 1;
                "wrong"
            }
        }
    }

    /// Whether every type was brought about, none came out wrong, and enough of the
    /// recoverable ones recovered.
    #[must_use]
    pub fn is_as_it_should(&self) -> bool {
        let (recovered, recoverable) = self.recovered();
        let share = recovered as f64 / recoverable.max(1) as f64;
        self.wrong() == 0 && self.missing().is_empty() && share >= RECOVERED_MIN
    }

    fn wrong(&self) -> usize {
        self.0.values().map(|of_type| of_type.wrong).sum()
    }

    /// Types of which every recoverable fault recovered, and all that have one.
    fn recovered(&self) -> (usize, usize) {
        let recoverable = || self.0.values().filter(|of_type| of_type.recoverable > 0);
        let recovered = recoverable().filter(|each| each.recovered == each.recoverable);
        (recovered.count(), recoverable().count())
    }

    fn missing(&self) -> Vec<&'static str> {
        let types = FailureType::ALL.into_iter().map(FailureType::name);
        types.filter(|name| !self.0.contains_key(name)).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<20} RECOVERED ESCALATED WRONG", "TYPE")?;
        for (name, of_type) in &self.0 {
            let OfType {
                recovered,
                escalated,
                wrong,
                recoverable: _,
            } = of_type;
            writeln!(f, "{name:<20} {recovered:>9} {escalated:>9} {wrong:>5}")?;
        }
        let (recovered, recoverable) = self.recovered();
        let missing = match self.missing() {
            missing if missing.is_empty() => "none".to_owned(),
            missing => missing.join(", "),
        };
        write!(
            f,
            "{} types: {recovered} of {recoverable} recoverable ones recovered ({:.0} %), {} wrong; not brought about: {missing}",
            self.0.len(),
            recovered as f64 / recoverable.max(1) as f64 * 100.0,
            self.wrong(),
        )
    }
}
