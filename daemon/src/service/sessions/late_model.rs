//! A model that could not be made when its session was brought back.

use std::sync::{Arc, Mutex, PoisonError};

use async_trait::async_trait;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::ModelFactory;
use crate::{
    domain::{ids::SessionId, model_name::ModelName},
    ports::model::{ModelError, ModelPort, ModelProgress, ModelReply, ModelRequest},
};

/// Tries to make the model at each call, until it is there. Until then calls
/// fail with [`ModelError::Unusable`].
pub(super) struct LateModel {
    models: ModelFactory,
    name: ModelName,
    session: SessionId,
    /// The model, once it could be made; held for a look, never over an await.
    made: Mutex<Option<Arc<dyn ModelPort>>>,
}

impl LateModel {
    pub(super) fn new(models: ModelFactory, name: ModelName, session: SessionId) -> Self {
        Self {
            models,
            name,
            session,
            made: Mutex::new(None),
        }
    }

    fn model(&self) -> Result<Arc<dyn ModelPort>, ModelError> {
        let mut made = self.made.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(model) = made.as_ref() {
            return Ok(model.clone());
        }
        let model = (self.models)(&self.name, &self.session);
        let model = model.map_err(|error| ModelError::Unusable {
            name: self.name.to_string(),
            message: error.to_string(),
        })?;
        Ok(made.insert(model).clone())
    }
}

#[async_trait]
impl ModelPort for LateModel {
    async fn call(
        &self,
        request: &ModelRequest,
        progress: &mpsc::Sender<ModelProgress>,
        cancel: &CancellationToken,
    ) -> Result<ModelReply, ModelError> {
        self.model()?.call(request, progress, cancel).await
    }
}
