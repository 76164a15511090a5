//! Where log events go: standard error, as lines or as JSON, without the values
//! of credentials.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

use crate::{
    config::{LogFormat, LogSettings},
    service::redaction::Redactions,
};

/// Sends the process's log events to standard error, through the redactions of
/// the moment. Called once; a second call changes nothing.
pub fn install(settings: &LogSettings, redactions: Redactions) {
    let filter = EnvFilter::new(&settings.filter);
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none())
        // An event is written as a whole, so no value is cut in two.
        .with_writer(move || redactions.writer(io::stderr()));
    let installed = match settings.format {
        LogFormat::Text => builder.with_target(false).try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    // Somebody was first, as in tests.
    drop(installed);
}
