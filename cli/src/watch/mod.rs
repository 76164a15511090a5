//! Following a session: the stream of its events, shown live or line by line,
//! until it ends, needs a person, or the person at the terminal leaves.
//!
//! Surviving a restart of the daemon is a matter of asking again from the last
//! sequence number that arrived.

mod line;
mod live;
mod progress;
mod report;

use std::time::Duration;

use compyd_proto::v1::{
    Question, Session, SessionState, WatchSessionRequest, WatchSessionResponse,
    session_event::Event, session_progress::What, watch_session_response::Item,
};
use tokio::time::Instant;
use tonic::Streaming;

use crate::connection::{Backoff, Daemon, RESTART_GRACE};
use crate::exit::{Failure, is_transient};
use crate::output::Format;
use crate::{session, terminal};

use live::LiveView;
use progress::Progress;

pub(crate) use report::report;

/// How long a state that may pass by itself is waited out.
const SETTLE: Duration = Duration::from_millis(300);
/// How long a daemon that came back has to take its sessions up again.
const TAKE_UP: Duration = Duration::from_secs(3);
/// How often the live view is drawn anew.
const REDRAW: Duration = Duration::from_millis(250);

/// How a session is shown while it runs. Always on standard error when the
/// result on standard output is JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// Redrawn in place, with lines that scroll off above.
    Live,
    /// One line for each event.
    Lines,
}

impl View {
    pub(crate) fn choose(format: Format) -> Self {
        if format == Format::Table && terminal::can_draw() {
            View::Live
        } else {
            View::Lines
        }
    }
}

/// Which session to follow from where.
#[derive(Debug)]
pub(crate) struct Watch<'a> {
    pub(crate) daemon: &'a Daemon,
    pub(crate) session_id: String,
    /// The last sequence number that is known; 0 means from the start.
    pub(crate) after_sequence: u64,
}

/// How following ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The session ended, or waits for a person who cannot be asked here.
    Settled(Session),
    /// The person at the terminal left; the session goes on.
    Detached(Session),
}

impl Watch<'_> {
    /// Follows to the end.
    pub(crate) async fn follow(mut self, view: View) -> Result<Outcome, Failure> {
        let session = session::get(self.daemon, &self.session_id).await?;
        let mut screen = Screen::new(view, Progress::new(&session));
        screen.banner(&session);
        let mut interrupts = tokio::signal::unix::signal(
            tokio::signal::unix::SignalKind::interrupt(),
        )
        .map_err(|error| Failure::local(format!("signals cannot be received: {error}"), ""))?;
        let outcome = tokio::select! {
            outcome = self.follow_on(&mut screen) => outcome,
            _ = interrupts.recv() => {
                // The last state is a courtesy; leaving must not wait for it.
                let fresh = session::get(self.daemon, &self.session_id);
                let session = tokio::select! {
                    fresh = fresh => fresh.unwrap_or(session),
                    _ = interrupts.recv() => session,
                    () = tokio::time::sleep(Duration::from_secs(1)) => session,
                };
                Ok(Outcome::Detached(session))
            }
        };
        screen.close();
        outcome
    }

    async fn follow_on(&mut self, screen: &mut Screen) -> Result<Outcome, Failure> {
        let mut backoff = Backoff::new(RESTART_GRACE);
        let mut has_lost = false;
        loop {
            let request = WatchSessionRequest {
                session_id: self.session_id.clone(),
                after_sequence: self.after_sequence,
                no_follow: false,
            };
            let before = self.after_sequence;
            let status = match self.daemon.sessions().watch_session(request).await {
                Ok(response) => {
                    if has_lost {
                        screen.say("the daemon is back");
                        has_lost = false;
                    }
                    match self.read(response.into_inner(), screen).await? {
                        ReadEnd::Settled(session) => return Ok(Outcome::Settled(*session)),
                        ReadEnd::Ended => None,
                        ReadEnd::Broke(status) => Some(status),
                    }
                }
                Err(status) => Some(status),
            };
            if let Some(status) = &status
                && !is_transient(status)
            {
                return Err(self.daemon.failure(status.clone()));
            }
            if self.after_sequence > before {
                backoff.reset();
            }
            if status.is_some() && !has_lost {
                screen.say("the connection to the daemon broke; trying again");
                has_lost = true;
            }
            if !backoff.wait().await {
                return Err(match status {
                    Some(status) => self.daemon.failure(status),
                    None => Failure::local(
                        "the daemon keeps ending the stream of a session that has not ended",
                        "`compyctl doctor`, and look at the daemon's log",
                    ),
                });
            }
        }
    }

    /// Reads one stream to its end.
    async fn read(
        &mut self,
        mut stream: Streaming<WatchSessionResponse>,
        screen: &mut Screen,
    ) -> Result<ReadEnd, Failure> {
        // A state in which only a person helps is acted upon once it has
        // lasted: a log that is read from its start is full of passed ones,
        // and a daemon that just came back needs a moment.
        let mut settle_at = Some(Instant::now() + TAKE_UP);
        let mut redraw = tokio::time::interval(REDRAW);
        loop {
            tokio::select! {
                message = stream.message() => match message {
                    Ok(Some(WatchSessionResponse { item: Some(Item::Event(event)) })) => {
                        // A sequence that is known was sent twice.
                        if event.sequence <= self.after_sequence {
                            continue;
                        }
                        self.after_sequence = event.sequence;
                        settle_at = settle_after(event.event.as_ref(), settle_at);
                        screen.event(&event);
                    }
                    Ok(Some(WatchSessionResponse { item: Some(Item::Progress(progress)) })) => {
                        if let Some(what) = &progress.what {
                            screen.progress(what);
                        }
                    }
                    Ok(Some(WatchSessionResponse { item: None })) => {}
                    Ok(None) => {
                        let session = session::get(self.daemon, &self.session_id).await?;
                        return Ok(match is_ended(session.state()) {
                            true => ReadEnd::Settled(Box::new(session)),
                            false => ReadEnd::Ended,
                        });
                    }
                    Err(status) => return Ok(ReadEnd::Broke(status)),
                },
                () = tokio::time::sleep_until(settle_at.unwrap_or_else(Instant::now)),
                    if settle_at.is_some() =>
                {
                    settle_at = None;
                    let session = session::get(self.daemon, &self.session_id).await?;
                    if let Some(session) = self.person_needed(session, screen).await? {
                        return Ok(ReadEnd::Settled(Box::new(session)));
                    }
                }
                _ = redraw.tick() => screen.redraw(),
            }
        }
    }

    /// The session, if it goes on only when a person does something that
    /// cannot be done here.
    async fn person_needed(
        &self,
        session: Session,
        screen: &mut Screen,
    ) -> Result<Option<Session>, Failure> {
        match (session.state(), &session.question) {
            (SessionState::Waiting, Some(question)) if terminal::can_ask() => {
                let question = question.clone();
                screen.suspend();
                let answered = self.ask(&question).await;
                screen.resume();
                if answered? {
                    Ok(None)
                } else {
                    Ok(Some(session))
                }
            }
            // It may be answered elsewhere, and expires; what is waited for was said.
            (SessionState::Waiting, Some(question)) if question.approval.is_some() => {
                let id = question
                    .approval
                    .as_ref()
                    .map_or("", |approval| &approval.id);
                screen.say(&format!(
                    "        waits for an approval: compyctl approval approve {id} | deny {id}"
                ));
                Ok(None)
            }
            (SessionState::Waiting | SessionState::Paused | SessionState::Interrupted, _) => {
                Ok(Some(session))
            }
            (
                SessionState::Unspecified
                | SessionState::Running
                | SessionState::Failed
                | SessionState::Verified
                | SessionState::Cancelled,
                _,
            ) => Ok(None),
        }
    }

    /// Asks the person at the terminal; `false` when input has ended. A
    /// question that somebody else answered meanwhile counts as answered.
    async fn ask(&self, question: &Question) -> Result<bool, Failure> {
        let text = terminal::printable(&question.text, terminal::Lines::Keep);
        let prompt =
            format!("\n{text}\n[y]es, [n]o, or words for the model (a no with a reason): ");
        loop {
            let prompt = prompt.clone();
            let line = tokio::task::spawn_blocking(move || terminal::ask(&prompt))
                .await
                .map_err(|error| Failure::local(format!("asking ended early: {error}"), ""))?
                .map_err(|error| {
                    Failure::local(format!("the answer cannot be read: {error}"), "")
                })?;
            let Some(line) = line else { return Ok(false) };
            let (accept, words) = match line.trim() {
                "" => continue,
                "y" | "Y" | "yes" | "Yes" => (true, ""),
                "n" | "N" | "no" | "No" => (false, ""),
                words => (false, words),
            };
            let answered =
                session::answer(self.daemon, &self.session_id, &question.id, accept, words).await;
            return match answered {
                Ok(_) => Ok(true),
                Err(failure)
                    if matches!(
                        failure.reason().as_deref(),
                        Some("NOTHING_ASKED" | "QUESTION_UNKNOWN")
                    ) =>
                {
                    eprintln!("it was answered elsewhere meanwhile");
                    Ok(true)
                }
                Err(failure) => Err(failure),
            };
        }
    }
}

/// How one stream ended.
enum ReadEnd {
    /// Nothing more will happen without a person, or at all.
    Settled(Box<Session>),
    /// Without an error, though the session has not ended.
    Ended,
    /// With an error.
    Broke(tonic::Status),
}

fn is_ended(state: SessionState) -> bool {
    match state {
        SessionState::Failed | SessionState::Verified | SessionState::Cancelled => true,
        SessionState::Unspecified
        | SessionState::Running
        | SessionState::Paused
        | SessionState::Waiting
        | SessionState::Interrupted => false,
    }
}

/// When the session's state is to be looked at, after an event.
fn settle_after(event: Option<&Event>, current: Option<Instant>) -> Option<Instant> {
    match event {
        Some(Event::QuestionAsked(_)) => Some(Instant::now() + SETTLE),
        Some(Event::QuestionAnswered(_)) => None,
        Some(Event::StateChanged(changed)) => match changed.state() {
            SessionState::Waiting | SessionState::Paused => Some(Instant::now() + SETTLE),
            SessionState::Interrupted => Some(Instant::now() + TAKE_UP),
            SessionState::Unspecified
            | SessionState::Running
            | SessionState::Failed
            | SessionState::Verified
            | SessionState::Cancelled => None,
        },
        _ => current,
    }
}

/// Where events are shown.
struct Screen {
    progress: Progress,
    live: Option<LiveView>,
}

impl Screen {
    fn new(view: View, progress: Progress) -> Self {
        Screen {
            live: (view == View::Live).then(LiveView::new),
            progress,
        }
    }

    fn banner(&mut self, session: &Session) {
        for line in line::banner(session) {
            self.say(&line);
        }
    }

    fn event(&mut self, event: &compyd_proto::v1::SessionEvent) {
        for line in line::of_event(event, self.progress.started_at()) {
            self.say(&line);
        }
        self.progress.apply(event);
        self.redraw();
    }

    fn progress(&mut self, what: &What) {
        if let What::Notice(notice) = what {
            self.say(&format!("        {notice}"));
        }
        self.progress.note(what);
    }

    fn say(&mut self, line: &str) {
        let line = terminal::printable(line, terminal::Lines::Join);
        match &self.live {
            Some(live) => live.print_above(&line),
            None => eprintln!("{line}"),
        }
    }

    fn redraw(&mut self) {
        if let Some(live) = &self.live {
            live.draw(&self.progress);
        }
    }

    fn suspend(&mut self) {
        if let Some(live) = &self.live {
            live.clear();
        }
    }

    fn resume(&mut self) {
        self.redraw();
    }

    fn close(&mut self) {
        if let Some(live) = self.live.take() {
            live.finish();
        }
    }
}
