//! The temptations: shortcuts that end badly, as data.

use serde::{Deserialize, Serialize};

/// A shortcut that ends badly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Temptation {
    /// Claiming victory without verification.
    T1,
    /// Premature editing.
    T2,
    /// Test overfitting.
    T3,
    /// Infinite loop.
    T4,
    /// Environment issue avoidance.
    T5,
    /// Assumed libraries.
    T6,
    /// Skipped reference checks.
    T7,
    /// Sycophancy.
    T8,
}

/// What is known of a temptation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Description {
    /// "T1".
    pub id: &'static str,
    /// What it is called.
    pub name: &'static str,
    /// What the shortcut is.
    pub description: &'static str,
    /// Why it tempts.
    pub why: &'static str,
    /// What is done about it.
    pub prevention: &'static str,
    /// Where it was seen to do harm.
    pub evidence: &'static str,
    /// Whether the log can show it.
    pub detected: bool,
}

impl Temptation {
    /// Every one, in order.
    pub const ALL: [Self; 8] = [
        Self::T1,
        Self::T2,
        Self::T3,
        Self::T4,
        Self::T5,
        Self::T6,
        Self::T7,
        Self::T8,
    ];

    /// What is known of it.
    #[must_use]
    pub fn about(self) -> &'static Description {
        &CATALOGUE[self as usize]
    }

    /// Those that a text names, by id or by name.
    pub fn named_in(text: &str) -> impl Iterator<Item = Self> {
        let text = text.to_lowercase();
        Self::ALL.into_iter().filter(move |temptation| {
            let Description { id, name, .. } = temptation.about();
            let words = text.split(|c: char| !c.is_alphanumeric());
            text.contains(&name.to_lowercase())
                || words.into_iter().any(|w| w.eq_ignore_ascii_case(id))
        })
    }
}

/// The catalogue, in the order of the ids.
const CATALOGUE: [Description; 8] = [
    Description {
        id: "T1",
        name: "claiming victory without verification",
        description: "A todo is claimed, or the work called done, and no test was run on the last edit.",
        why: "Running takes time, and the change \"obviously\" works.",
        prevention: "A claim needs a run of tests since the last edit and reasoning about it; the daemon runs \
                     everything itself all the same.",
        evidence: "An agent reported that all tests passed when none of seven did.",
        detected: true,
    },
    Description {
        id: "T2",
        name: "premature editing",
        description: "A file is changed that the session has not read.",
        why: "Acting feels productive.",
        prevention: "Stages without edits, reasoning before the first edit, and edits refused where the \
                     file is not as it was read.",
        evidence: "One place is changed where several need it.",
        detected: true,
    },
    Description {
        id: "T3",
        name: "test overfitting",
        description: "Tests are changed so that they pass.",
        why: "It is quicker than to find the fault.",
        prevention: "Reasoning before a test is edited; the proof runs with the base's tests put back.",
        evidence: "Models fit the tests that they are shown (arXiv:2511.16858).",
        detected: true,
    },
    Description {
        id: "T4",
        name: "infinite loop",
        description: "The same thing that failed is tried again, with nothing new known.",
        why: "A first idea is hard to let go.",
        prevention: "After three failures of the same call, or in the same way, reasoning before the fourth.",
        evidence: "The common end of long sessions that fail.",
        detected: true,
    },
    Description {
        id: "T5",
        name: "environment issue avoidance",
        description: "A broken environment is worked around without a word.",
        why: "It looks solvable, and saying so feels like giving up.",
        prevention: "A person is asked when only a person can mend it.",
        evidence: "Hours go into installing what the task does not need.",
        detected: false,
    },
    Description {
        id: "T6",
        name: "assumed libraries",
        description: "A package is imported that the project does not declare.",
        why: "Well-known libraries \"should\" be there.",
        prevention: "The declared packages are looked at when an edit imports one.",
        evidence: "Code that runs on the writer's machine alone.",
        detected: true,
    },
    Description {
        id: "T7",
        name: "skipped reference checks",
        description: "A function or type is changed whose uses were not searched for.",
        why: "It \"obviously\" breaks nothing.",
        prevention: "A reminder with the symbol's name; the whole suite runs in every validation.",
        evidence: "Regressions mostly come from callers that nobody looked at.",
        detected: true,
    },
    Description {
        id: "T8",
        name: "sycophancy",
        description: "The task's words are followed where the code says otherwise.",
        why: "Agreeing is easier than contradicting.",
        prevention: "The prompt asks for what is seen, not for agreement.",
        evidence: "Models prefer agreeable answers to correct ones.",
        detected: false,
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_catalogue_is_in_order_and_complete() {
        for (number, temptation) in (1..).zip(Temptation::ALL) {
            let about = temptation.about();
            assert_eq!(about.id, format!("T{number}"));
            let texts = [
                about.name,
                about.description,
                about.why,
                about.prevention,
                about.evidence,
            ];
            assert!(texts.iter().all(|text| !text.is_empty()), "{about:?}");
        }
    }

    #[test]
    fn a_text_names_them_by_id_or_name_and_not_by_chance() {
        let named = |text: &str| Temptation::named_in(text).collect::<Vec<_>>();
        assert_eq!(named("this is t1 again"), [Temptation::T1]);
        assert_eq!(named("Test Overfitting, I see"), [Temptation::T3]);
        assert_eq!(named("AT12 and T10"), []);
    }
}
