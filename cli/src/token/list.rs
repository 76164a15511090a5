//! `compyctl token list`.

use compyd_proto::v1::ListTokensRequest;

use crate::command_line::Context;
use crate::exit::{Exit, Failure};
use crate::output::{
    Format, print, print_json,
    token::{TokenView, list_table},
};

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let response = daemon
        .call(|| {
            let mut client = daemon.access();
            async move { client.list_tokens(ListTokensRequest {}).await }
        })
        .await?;
    let views: Vec<TokenView> = response.tokens.into_iter().map(Into::into).collect();
    match context.format {
        Format::Json => print_json(&views)?,
        Format::Table if views.is_empty() => eprintln!("no tokens"),
        Format::Table => print(&list_table(&views).to_string())?,
    }
    Ok(Exit::OK)
}
