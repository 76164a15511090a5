//! `compyctl version`.

use compyd_proto::v1::GetInfoRequest;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{Format, print, print_json, system::VersionView};

/// Prints both versions; a daemon that does not answer is not an error here.
pub(crate) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = match context.daemon().await {
        Ok(daemon) => Some(
            daemon
                .call(|| {
                    let mut client = daemon.system();
                    async move { client.get_info(GetInfoRequest {}).await }
                })
                .await?
                .into(),
        ),
        Err(failure) => {
            eprintln!("note: {failure}");
            None
        }
    };
    let view = VersionView {
        client: env!("CARGO_PKG_VERSION").to_owned(),
        daemon,
    };
    match context.format {
        Format::Json => print_json(&view)?,
        Format::Table => {
            let daemon = view.daemon.as_ref().map_or_else(
                || "compyd not reached".to_owned(),
                |daemon| {
                    format!(
                        "compyd {} (pid {}, data in {})",
                        daemon.version, daemon.pid, daemon.data_dir
                    )
                },
            );
            print(&format!("compyctl {}\n{daemon}\n", view.client))?;
        }
    }
    Ok(Exit::OK)
}
