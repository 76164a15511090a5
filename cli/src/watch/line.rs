//! Events as lines: `[mm:ss] STAGE  summary`. Pure.

use std::time::Duration;

use compyd_proto::v1::{Session, SessionEvent};

use crate::output::session::{is_scripted, stage_name};
use crate::output::{between, clock};

/// What is said before the first event. A scripted model is said loudly.
pub(super) fn banner(session: &Session) -> Vec<String> {
    let model = session
        .options
        .as_ref()
        .map_or("", |options| &options.model);
    let mut lines = vec![format!(
        "session {} in workspace {}, model {}",
        session.id,
        session.workspace_name,
        if model.is_empty() { "not named" } else { model }
    )];
    if is_scripted(model) {
        lines.push("*** THE MODEL IS SCRIPTED: it plays back written replies. No language model is at work. ***".into());
    }
    lines
}

/// One line, or more where the daemon's summary has more.
pub(super) fn of_event(
    event: &SessionEvent,
    started_at: Option<&prost_types::Timestamp>,
) -> Vec<String> {
    let since = match (started_at, &event.time) {
        (Some(start), Some(time)) => between(start, time),
        _ => Duration::ZERO,
    };
    let head = format!("[{}] {:<10}", clock(since), stage_name(event.stage()));
    let mut lines = event.summary.lines();
    let first = format!("{head}  {}", lines.next().unwrap_or_default());
    let indent = " ".repeat(head.chars().count() + 2);
    std::iter::once(first.trim_end().to_owned())
        .chain(lines.map(|line| format!("{indent}{line}")))
        .collect()
}

#[cfg(test)]
mod tests {
    use compyd_proto::v1::{SessionOptions, Stage};

    use super::*;

    fn at(seconds: i64) -> prost_types::Timestamp {
        prost_types::Timestamp { seconds, nanos: 0 }
    }

    #[test]
    fn an_event_is_a_line_with_time_and_stage() {
        let event = SessionEvent {
            sequence: 1,
            time: Some(at(165)),
            stage: Stage::Validate.into(),
            summary: "2 failed, 11 passed\ntest_a\n".into(),
            event: None,
        };
        assert_eq!(
            of_event(&event, Some(&at(100))),
            [
                "[01:05] VALIDATE    2 failed, 11 passed",
                "                    test_a"
            ]
        );
    }

    #[test]
    fn a_scripted_model_is_announced_loudly() {
        let banner_of = |model: &str| {
            banner(&Session {
                options: Some(SessionOptions {
                    model: model.into(),
                    ..SessionOptions::default()
                }),
                ..Session::default()
            })
            .join("\n")
        };
        assert!(banner_of("scripted:demo.json").contains("THE MODEL IS SCRIPTED"));
        assert!(!banner_of("openai:gpt-5").contains("SCRIPTED"));
    }
}
