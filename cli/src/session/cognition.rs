//! `compyctl session cognition`.

use std::fmt::Write as _;

use clap::Args;
use compyd_proto::v1::{CognitionCount, GetSessionCognitionRequest, GetSessionCognitionResponse};
use serde::Serialize;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::session::stage_name;
use crate::output::table::Table;
use crate::output::{Format, print, print_json, time};

/// `compyctl session cognition ID`.
#[derive(Debug, Args)]
pub(crate) struct CognitionArguments {
    /// Session id.
    session: String,
}

impl CognitionArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let request = GetSessionCognitionRequest {
            session_id: self.session,
        };
        let found = daemon
            .call_for(crate::connection::RESTART_GRACE, || {
                let (mut client, request) = (daemon.sessions(), request.clone());
                async move { client.get_session_cognition(request).await }
            })
            .await?;
        let view = CognitionView::from(found);
        match context.format {
            Format::Json => print_json(&view)?,
            Format::Table => print(&detail(&view))?,
        }
        Ok(Exit::OK)
    }
}

/// A session's thinking in JSON.
#[derive(Debug, Serialize)]
struct CognitionView {
    /// Times the model reasoned.
    thoughts: u32,
    /// Of these, times that count as reasoning.
    thoughts_counted: u32,
    /// Over all points.
    compliance: ShareView,
    /// Over all temptations: met, and named afterwards.
    recognition: ShareView,
    /// Points at which reasoning is needed.
    points: Vec<PointView>,
    /// Temptations.
    temptations: Vec<TemptationView>,
    /// Reminders to think.
    hints: Vec<CountView>,
    /// Thoughts by what they were for.
    scenarios: Vec<CountView>,
    /// Everything in order.
    timeline: Vec<EntryView>,
}

/// A part of a whole.
#[derive(Debug, Serialize)]
struct ShareView {
    /// The part.
    count: u32,
    /// The whole.
    of: u32,
    /// Their ratio; nothing when the whole is nothing.
    rate: Option<f64>,
}

impl ShareView {
    fn of(parts: impl Iterator<Item = (u32, u32)>) -> Self {
        let (count, of) = parts.fold((0, 0), |(count, of), (part, whole)| {
            (count + part, of + whole)
        });
        let rate = (of > 0).then(|| f64::from(count) / f64::from(of));
        Self { count, of, rate }
    }

    fn text(&self) -> String {
        match self.rate {
            Some(rate) => format!("{} of {} ({:.0} %)", self.count, self.of, rate * 100.0),
            None => "none".to_owned(),
        }
    }
}

#[derive(Debug, Serialize)]
struct PointView {
    name: String,
    met: u32,
    reasoned: u32,
}

#[derive(Debug, Serialize)]
struct TemptationView {
    id: String,
    name: String,
    description: String,
    why: String,
    prevention: String,
    evidence: String,
    detected: bool,
    met: u32,
    recognised: u32,
    named: u32,
}

#[derive(Debug, Serialize)]
struct CountView {
    name: String,
    count: u32,
}

impl From<CognitionCount> for CountView {
    fn from(count: CognitionCount) -> Self {
        Self {
            name: count.name,
            count: count.count,
        }
    }
}

#[derive(Debug, Serialize)]
struct EntryView {
    sequence: u64,
    at: Option<String>,
    stage: String,
    kind: String,
    point: String,
    temptation: String,
    reasoned: bool,
    text: String,
}

impl From<GetSessionCognitionResponse> for CognitionView {
    fn from(found: GetSessionCognitionResponse) -> Self {
        let points = found.points.iter().map(|point| (point.reasoned, point.met));
        let temptations = found.temptations.iter();
        let entries = found.timeline.into_iter().map(|entry| {
            let stage = stage_name(entry.stage()).to_owned();
            let noted = entry.noted.unwrap_or_default();
            EntryView {
                sequence: entry.sequence,
                at: time(entry.at.as_ref()),
                stage,
                kind: noted.kind,
                point: noted.point,
                temptation: noted.temptation,
                reasoned: noted.reasoned,
                text: noted.text,
            }
        });
        Self {
            thoughts: found.thoughts,
            thoughts_counted: found.thoughts_counted,
            compliance: ShareView::of(points),
            recognition: ShareView::of(temptations.map(|each| (each.recognised, each.met))),
            timeline: entries.collect(),
            points: (found.points.into_iter())
                .map(|point| PointView {
                    name: point.name,
                    met: point.met,
                    reasoned: point.reasoned,
                })
                .collect(),
            temptations: (found.temptations.into_iter())
                .map(|each| TemptationView {
                    id: each.id,
                    name: each.name,
                    description: each.description,
                    why: each.why,
                    prevention: each.prevention,
                    evidence: each.evidence,
                    detected: each.detected,
                    met: each.met,
                    recognised: each.recognised,
                    named: each.named,
                })
                .collect(),
            hints: found.hints.into_iter().map(Into::into).collect(),
            scenarios: found.scenarios.into_iter().map(Into::into).collect(),
        }
    }
}

/// All of it, for people.
fn detail(view: &CognitionView) -> String {
    let mut facts = Table::plain();
    let counted = format!(
        "{}, {} of them count as reasoning",
        view.thoughts, view.thoughts_counted
    );
    facts.row(["thoughts", &counted]);
    facts.row(["reasoned where needed", &view.compliance.text()]);
    facts.row(["temptations recognised", &view.recognition.text()]);
    let mut points = Table::new(&["POINT", "CAME TO", "REASONED"]);
    for point in &view.points {
        points.row([
            &point.name,
            &point.met.to_string(),
            &point.reasoned.to_string(),
        ]);
    }
    let mut temptations = Table::new(&["TEMPTATION", "", "MET", "RECOGNISED", "NAMED"]);
    for each in &view.temptations {
        let met = match each.detected {
            true => each.met.to_string(),
            false => "not detected".to_owned(),
        };
        temptations.row([
            &each.id,
            &each.name,
            &met,
            &each.recognised.to_string(),
            &each.named.to_string(),
        ]);
    }
    let mut text = format!("{facts}\n{points}\n{temptations}");
    let lists = [
        ("THOUGHTS FOR", &view.scenarios),
        ("REMINDED OF", &view.hints),
    ];
    for (heading, counts) in lists {
        let mut table = Table::new(&[heading, "COUNT"]);
        for count in counts.iter().filter(|count| count.count > 0) {
            table.row([&count.name, &count.count.to_string()]);
        }
        let _ = write!(text, "\n{table}");
    }
    let mut timeline = Table::new(&["EVENT", "STAGE", "KIND", "", "WHAT"]);
    for entry in &view.timeline {
        let which = match (entry.point.as_str(), entry.temptation.as_str()) {
            ("", temptation) => temptation,
            (point, _) => point,
        };
        let refused = entry.kind == "decision_point" && !entry.reasoned;
        let what = match refused {
            true => format!("refused: {}", entry.text),
            false => entry.text.clone(),
        };
        let sequence = entry.sequence.to_string();
        timeline.row([&sequence, &entry.stage, &entry.kind, which, &what]);
    }
    let _ = write!(text, "\n{timeline}");
    text
}
