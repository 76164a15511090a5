//! A model whose calls are counted.

use std::{sync::Arc, time::Instant};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{
    domain::model_name::ModelName,
    metrics,
    ports::model::{ModelError, ModelPort, ModelProgress, ModelReply, ModelRequest},
};

/// Counts what a model is asked and what it answers.
pub(super) struct MeteredModel {
    model: Arc<dyn ModelPort>,
    provider: &'static str,
}

impl MeteredModel {
    pub(super) fn new(model: Arc<dyn ModelPort>, name: &ModelName) -> Self {
        let provider = match name {
            ModelName::OpenAi(_) => "openai",
            ModelName::Anthropic(_) => "anthropic",
            ModelName::Scripted(_) => "scripted",
        };
        Self { model, provider }
    }
}

#[async_trait]
impl ModelPort for MeteredModel {
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        let begun = Instant::now();
        let replied = self.model.call(request, progress, cancel).await;
        let (result, usage) = match &replied {
            Ok(reply) => ("ok", reply.usage.as_ref()),
            Err(error) => (kind(error), None),
        };
        metrics::model_called(self.provider, result, usage, begun.elapsed());
        replied
    }
}

fn kind(error: &ModelError) -> &'static str {
    match error {
        ModelError::Cancelled => "cancelled",
        ModelError::Unreachable { .. } => "unreachable",
        ModelError::Cut { .. } => "cut",
        ModelError::Idle { .. } => "idle",
        ModelError::RateLimited { .. } => "rate_limited",
        ModelError::Server { .. } => "server",
        ModelError::Quota { .. } => "quota",
        ModelError::Auth { .. } => "auth",
        ModelError::ContextOverflow { .. } => "context_overflow",
        ModelError::InvalidRequest { .. } => "invalid_request",
        ModelError::Protocol { .. } => "protocol",
        ModelError::Unusable { .. } => "unusable",
        ModelError::Script { .. } => "script",
    }
}
