//! A session's thinking on the wire.

use compyd_proto::v1 as wire;

use super::{super::time::timestamp, session::stage};
use crate::domain::cognition::{CognitiveEvent, Report};

/// One step of it.
#[must_use]
pub fn noted(event: &CognitiveEvent) -> wire::CognitionNoted {
    let (kind, point, temptation, reasoned, text) = match event {
        CognitiveEvent::Think(thought) => ("think", "", "", thought.counts, &thought.summary),
        CognitiveEvent::Reflection(thought) => {
            ("reflection", "", "", thought.counts, &thought.summary)
        }
        CognitiveEvent::TemptationMet {
            temptation,
            evidence,
        } => ("temptation_met", "", temptation.about().id, false, evidence),
        CognitiveEvent::TemptationRecognised { temptation } => {
            let id = temptation.about().id;
            ("temptation_recognised", "", id, true, &String::new())
        }
        CognitiveEvent::DecisionPoint {
            point,
            action,
            reasoned,
        } => ("decision_point", point.name(), "", *reasoned, action),
        CognitiveEvent::Hinted { hint } => ("hint", hint.name(), "", false, &String::new()),
    };
    wire::CognitionNoted {
        kind: kind.to_owned(),
        point: point.to_owned(),
        temptation: temptation.to_owned(),
        reasoned,
        text: text.clone(),
    }
}

/// All of it.
#[must_use]
pub fn report(report: &Report) -> wire::GetSessionCognitionResponse {
    let counted = |name: &str, count: u32| wire::CognitionCount {
        name: name.to_owned(),
        count,
    };
    let points = report.points.iter();
    let temptations = report.temptations.iter();
    let hints = report.hints.iter();
    let scenarios = report.scenarios.iter();
    let timeline = report.timeline.iter();
    wire::GetSessionCognitionResponse {
        thoughts: report.thoughts,
        thoughts_counted: report.counted,
        points: points
            .map(|(point, compliance)| wire::CognitionPoint {
                name: point.name().to_owned(),
                met: compliance.met,
                reasoned: compliance.reasoned,
            })
            .collect(),
        temptations: temptations
            .map(|(temptation, count)| {
                let about = temptation.about();
                wire::CognitionTemptation {
                    id: about.id.to_owned(),
                    name: about.name.to_owned(),
                    description: about.description.to_owned(),
                    why: about.why.to_owned(),
                    prevention: about.prevention.to_owned(),
                    evidence: about.evidence.to_owned(),
                    detected: about.detected,
                    met: count.met,
                    recognised: count.recognised,
                    named: count.named,
                }
            })
            .collect(),
        hints: hints
            .map(|(hint, count)| counted(hint.name(), *count))
            .collect(),
        scenarios: scenarios
            .map(|(name, count)| counted(name, *count))
            .collect(),
        timeline: timeline
            .map(|entry| wire::CognitionEntry {
                sequence: entry.sequence,
                at: Some(timestamp(entry.at_ms)),
                stage: stage(entry.stage).into(),
                noted: Some(noted(&entry.event)),
            })
            .collect(),
    }
}
