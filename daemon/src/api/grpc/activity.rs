//! `compy.v1.ActivityService`: decode, call the services, encode.

use std::{pin::Pin, time::Duration};

use compyd_proto::v1::{self as wire, activity_service_server::ActivityService};
use futures_util::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};

use super::{
    access::scope_of,
    convert::{activity as convert, workspace_error},
    shutdown::until,
    status::invalid,
};
use crate::{
    domain::ids::WorkspaceId,
    service::{
        events::{EventQuery, Following},
        stats::Stats,
        workspaces::{Change, Workspaces},
    },
};

/// Between two readings when nobody says otherwise.
const INTERVAL_MS: u32 = 2_000;
/// Between two readings, at least and at most.
const INTERVALS_MS: std::ops::RangeInclusive<u32> = 200..=3_600_000;

type ServerStream<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service on the wire.
#[derive(Clone)]
pub struct ActivityApi {
    workspaces: Workspaces,
    stats: Stats,
    stop: CancellationToken,
}

impl ActivityApi {
    /// Answers with `workspaces` and their `stats`; streams end with `stop`.
    #[must_use]
    pub fn new(workspaces: Workspaces, stats: Stats, stop: CancellationToken) -> Self {
        Self {
            workspaces,
            stats,
            stop,
        }
    }

    fn resolve(&self, name_or_id: &str) -> Result<WorkspaceId, Status> {
        let found = self.workspaces.resolve(name_or_id);
        found
            .map(|workspace| workspace.id.clone())
            .map_err(|error| workspace_error::error(&error))
    }
}

#[tonic::async_trait]
impl ActivityService for ActivityApi {
    type WatchWorkspacesStream = ServerStream<wire::WatchWorkspacesResponse>;

    async fn watch_workspaces(
        &self,
        request: Request<wire::WatchWorkspacesRequest>,
    ) -> Result<Response<Self::WatchWorkspacesStream>, Status> {
        let scope = scope_of(&request);
        let changes = self.workspaces.watch().filter(move |change| {
            std::future::ready(match change {
                Change::Changed(view) => scope.holds(&view.workspace.id),
                Change::Removed(id) => scope.holds(id),
                Change::AllSent => true,
            })
        });
        let changes = changes.map(convert::change).map(Ok);
        Ok(Response::new(until(&self.stop, changes.boxed())))
    }

    type ReadEventsStream = ServerStream<wire::ReadEventsResponse>;

    async fn read_events(
        &self,
        request: Request<wire::ReadEventsRequest>,
    ) -> Result<Response<Self::ReadEventsStream>, Status> {
        let request = request.into_inner();
        let workspace = match request.workspace.as_str() {
            "" => None,
            // What happened to one that is gone is found by its id.
            given => Some(match self.resolve(given) {
                Ok(id) => id,
                Err(unknown) => given.parse().map_err(|_| unknown)?,
            }),
        };
        let query = EventQuery {
            workspace,
            after: request.after_sequence,
            since_ms: request.since.as_ref().map(super::time::millis),
            following: match request.follow {
                true => Following::Yes,
                false => Following::No,
            },
        };
        let items = self.workspaces.events().read(query);
        let items = items.map(|item| {
            item.map(convert::event_item)
                .map_err(|error| workspace_error::error(&error.into()))
        });
        Ok(Response::new(until(&self.stop, items.boxed())))
    }

    type WatchStatsStream = ServerStream<wire::WatchStatsResponse>;

    async fn watch_stats(
        &self,
        request: Request<wire::WatchStatsRequest>,
    ) -> Result<Response<Self::WatchStatsStream>, Status> {
        let request = request.into_inner();
        let id = self.resolve(&request.workspace)?;
        let interval_ms = match request.interval_ms {
            0 => INTERVAL_MS,
            given if INTERVALS_MS.contains(&given) => given,
            given => {
                return Err(invalid(
                    "INTERVAL_INVALID",
                    format!("readings every {given} ms are not possible"),
                    "give 200 to 3600000 milliseconds, or 0 for 2000",
                ));
            }
        };
        let interval = Duration::from_millis(interval_ms.into());
        let readings = self.stats.watch(&id, interval).map(|reading| {
            reading
                .map(|reading| convert::reading(&reading))
                .map_err(|error| workspace_error::error(&error))
        });
        let readings = match request.once {
            true => readings.take(1).boxed(),
            false => readings.boxed(),
        };
        Ok(Response::new(until(&self.stop, readings)))
    }
}
