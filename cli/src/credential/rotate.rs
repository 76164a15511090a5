//! `compyctl credential rotate`.

use compyd_proto::v1::RotateMasterKeyRequest;

use crate::command_line::Context;
use crate::connection::request_id;
use crate::exit::{Exit, Failure};
use crate::output::{Format, credential::RotationView, print_json};

pub(super) async fn run(context: &Context) -> Result<Exit, Failure> {
    let daemon = context.daemon().await?;
    let request = RotateMasterKeyRequest {
        request_id: request_id(),
    };
    let response = daemon
        .call(|| {
            let (mut client, request) = (daemon.credentials(), request.clone());
            async move { client.rotate_master_key(request).await }
        })
        .await?;
    let view = RotationView::from(response);
    match context.format {
        Format::Json => print_json(&view)?,
        Format::Table => eprintln!(
            "sealed {} credentials with master key {}",
            view.credentials, view.key_id
        ),
    }
    Ok(Exit::OK)
}
