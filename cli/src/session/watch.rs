//! `compyctl session watch`.

use clap::Args;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::watch::{View, Watch, report};

/// `compyctl session watch ID`.
#[derive(Debug, Args)]
pub(crate) struct WatchArguments {
    /// Session id.
    session: String,
    /// Leave out events up to this sequence number.
    #[arg(long, default_value_t = 0, value_name = "N")]
    after: u64,
}

impl WatchArguments {
    pub(crate) async fn run(self, context: &Context) -> Result<Exit, Failure> {
        let daemon = context.daemon().await?;
        let watch = Watch {
            daemon: &daemon,
            session_id: self.session,
            after_sequence: self.after,
        };
        let outcome = watch.follow(View::choose(context.format)).await?;
        report(context.format, &outcome)
    }
}
