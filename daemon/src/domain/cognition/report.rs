//! What a session's log says of its thinking.

use std::collections::BTreeMap;

use super::{CognitiveEvent, Hint, Point, Temptation};
use crate::domain::{
    session::event::{Event, EventBody},
    stage::Stage,
};

/// How often a point was come to with reasoning.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Compliance {
    /// Times it was come to.
    pub met: u32,
    /// Of these, times with reasoning at the first asking.
    pub reasoned: u32,
}

impl Compliance {
    /// 0 to 1; `None` when the point was never come to.
    #[must_use]
    pub fn rate(self) -> Option<f64> {
        (self.met > 0).then(|| f64::from(self.reasoned) / f64::from(self.met))
    }
}

/// How often a temptation was met, and seen through.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TemptationCount {
    /// Times the log shows it.
    pub met: u32,
    /// Of these, times the model named it afterwards, before it was met again.
    pub recognised: u32,
    /// Times the model named it with nothing in the log to show it.
    pub named: u32,
}

/// An entry of the decision timeline.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineEntry {
    /// Its place in the log.
    pub sequence: u64,
    /// Milliseconds since the Unix epoch.
    pub at_ms: i64,
    /// Stage it happened in.
    pub stage: Stage,
    /// What it is.
    pub event: CognitiveEvent,
}

/// A session's thinking.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Report {
    /// By point; those that were never come to are there too.
    pub points: BTreeMap<Point, Compliance>,
    /// By temptation, every one.
    pub temptations: BTreeMap<Temptation, TemptationCount>,
    /// Reminders by what gave rise to them, every one.
    pub hints: BTreeMap<Hint, u32>,
    /// Thoughts by what they were for: the name of the point that they came
    /// before, "reflection", or "unprompted".
    pub scenarios: BTreeMap<&'static str, u32>,
    /// Thoughts, and those that count.
    pub thoughts: u32,
    /// Thoughts that count as reasoning.
    pub counted: u32,
    /// All of it, in order.
    pub timeline: Vec<TimelineEntry>,
}

impl Report {
    /// Over all points.
    #[must_use]
    pub fn compliance(&self) -> Compliance {
        let mut all = Compliance::default();
        for point in self.points.values() {
            all.met += point.met;
            all.reasoned += point.reasoned;
        }
        all
    }

    /// Share of the temptations met that were recognised; `None` when none was.
    #[must_use]
    pub fn recognition_rate(&self) -> Option<f64> {
        let counts = self.temptations.values();
        let (met, recognised) = counts.fold((0, 0), |(met, recognised), count| {
            (met + count.met, recognised + count.recognised)
        });
        (met > 0).then(|| f64::from(recognised) / f64::from(met))
    }
}

/// Reads a whole log.
#[must_use]
pub fn report<'a>(events: impl IntoIterator<Item = &'a Event>) -> Report {
    let mut report = Report {
        points: Point::ALL
            .map(|point| (point, Compliance::default()))
            .into(),
        temptations: Temptation::ALL
            .map(|t| (t, TemptationCount::default()))
            .into(),
        hints: Hint::ALL.map(|hint| (hint, 0)).into(),
        ..Report::default()
    };
    // The last thought that is for nothing yet, and what it is otherwise.
    let mut open: Option<&'static str> = None;
    let mut unseen: BTreeMap<Temptation, bool> = BTreeMap::new();
    for event in events {
        let EventBody::Cognition(cognitive) = &event.body else {
            continue;
        };
        report.timeline.push(TimelineEntry {
            sequence: event.sequence,
            at_ms: event.at_ms,
            stage: event.stage,
            event: cognitive.clone(),
        });
        match cognitive {
            CognitiveEvent::Think(thought) | CognitiveEvent::Reflection(thought) => {
                report.thoughts += 1;
                report.counted += u32::from(thought.counts);
                let otherwise = match cognitive {
                    CognitiveEvent::Reflection(_) => "reflection",
                    _ => "unprompted",
                };
                if let Some(before) = open.replace(otherwise) {
                    *report.scenarios.entry(before).or_default() += 1;
                }
            }
            CognitiveEvent::DecisionPoint {
                point, reasoned, ..
            } => {
                let compliance = report.points.entry(*point).or_default();
                compliance.met += 1;
                compliance.reasoned += u32::from(*reasoned);
                if *reasoned && open.take().is_some() {
                    *report.scenarios.entry(point.name()).or_default() += 1;
                }
            }
            CognitiveEvent::TemptationMet { temptation, .. } => {
                report.temptations.entry(*temptation).or_default().met += 1;
                unseen.insert(*temptation, true);
            }
            CognitiveEvent::TemptationRecognised { temptation } => {
                let count = report.temptations.entry(*temptation).or_default();
                match unseen.insert(*temptation, false) {
                    Some(true) => count.recognised += 1,
                    Some(false) | None => count.named += 1,
                }
            }
            CognitiveEvent::Hinted { hint } => *report.hints.entry(*hint).or_default() += 1,
        }
    }
    if let Some(last) = open {
        *report.scenarios.entry(last).or_default() += 1;
    }
    report
}
