//! Sessions as users of workspaces: a workspace in use is not deleted unless
//! it is meant.

use async_trait::async_trait;

use super::{SessionError, Sessions};
use crate::{
    domain::ids::{SessionId, WorkspaceId},
    service::workspaces::{Need, WorkspaceUsers},
};

#[async_trait]
impl WorkspaceUsers for Sessions {
    async fn sessions_in(&self, workspace: &WorkspaceId) -> Vec<SessionId> {
        let live = self.live();
        let states = live
            .values()
            .map(|handle| handle.published.borrow().state.clone());
        states
            .filter(|state| state.created.workspace == *workspace && !state.condition.has_ended())
            .map(|state| state.id().clone())
            .collect()
    }

    async fn need_of(&self, session: &SessionId) -> Need {
        match self.listed(session).await {
            Ok(known) if known.state.condition.has_ended() => Need::Over,
            Err(SessionError::Unknown(_)) => Need::Unknown,
            // One whose log cannot be read may be mended.
            Ok(_) | Err(_) => Need::Needed,
        }
    }

    async fn cancel_sessions_in(&self, workspace: &WorkspaceId) {
        for session in self.sessions_in(workspace).await {
            let Some(handle) = self.handle(&session) else {
                continue;
            };
            if let Err(error) = self.cancel(&session, "its workspace is deleted").await {
                tracing::warn!(session_id = %session, %error, "session cannot be cancelled");
                continue;
            }
            let mut published = handle.published;
            // The sender is gone when the driver is: that is an end as well.
            let _ = published
                .wait_for(|now| now.state.condition.has_ended())
                .await;
        }
    }
}
