//! `compyctl credential list`.

use compyd_proto::v1::ListCredentialsRequest;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format,
    credential::{CredentialView, list_table},
    print, print_json,
};

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let response = daemon
        .call(|| {
            let mut client = daemon.credentials();
            async move { client.list_credentials(ListCredentialsRequest {}).await }
        })
        .await?;
    let views: Vec<CredentialView> = response.credentials.into_iter().map(Into::into).collect();
    match context.format {
        Format::Json => print_json(&views)?,
        Format::Table if views.is_empty() => eprintln!("no credentials"),
        Format::Table => print(&list_table(&views).to_string())?,
    }
    Ok(Exit::OK)
}
