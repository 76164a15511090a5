//! What every [`RuntimePort`] must do.

use std::{path::Path, sync::Arc, time::Duration};

use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::time::timeout;
use uuid::Uuid;

use crate::{
    domain::{
        ids::WorkspaceId,
        snapshot::journal::Generation,
        workspace::{Limits, NetworkMode, Purpose, WorkspaceDefinition},
    },
    ports::runtime::{
        ChangeKind, ContainerId, ContainerPlan, ContainerStatus, RuntimeChange, RuntimeError,
        RuntimePort,
    },
};

/// A plan for a small workspace.
#[must_use]
pub fn plan(image: &str, link_dir: &Path) -> ContainerPlan {
    let id = WorkspaceId::from_uuid(Uuid::now_v7());
    let name = format!("contract-{}", &id.as_str()[id.as_str().len() - 8..]);
    ContainerPlan {
        definition: WorkspaceDefinition {
            name: name.parse().unwrap(),
            image: image.to_owned(),
            limits: Limits {
                cpu_millis: 500,
                memory_bytes: 128 << 20,
                pids: 64,
                disk_bytes: 0,
            },
            network: NetworkMode::None,
            user: None,
            purpose: Purpose::Project,
        },
        workspace: id,
        generation: Generation::FIRST,
        base: None,
        link_dir: link_dir.to_owned(),
        extra_ca_file: None,
    }
}

/// Plays the life of the containers of two workspaces against an engine that
/// has `image` and none of their containers.
///
/// # Panics
/// The runtime breaks the contract.
pub async fn check(runtime: Arc<dyn RuntimePort>, first: ContainerPlan, second: ContainerPlan) {
    images(&*runtime, &first).await;
    absent_things(&*runtime, &first).await;
    life(&*runtime, &first, &second).await;
}

async fn images(runtime: &dyn RuntimePort, plan: &ContainerPlan) {
    assert!(!runtime.engine().await.unwrap().version.is_empty());
    let image = &plan.definition.image;
    assert!(!runtime.image(image).await.unwrap().unwrap().id.is_empty());
    assert_eq!(runtime.foreign_volumes(image, None).await, Ok(vec![]));
    let missing = "compy/there-is-no-such-image:1";
    assert_eq!(
        runtime.foreign_volumes(missing, None).await,
        Err(RuntimeError::ImageMissing(missing.to_owned()))
    );
    assert_eq!(runtime.image(missing).await, Ok(None));
    let mut plan = plan.clone();
    plan.definition.image = missing.to_owned();
    let refused = runtime.create(&plan).await;
    assert_eq!(refused, Err(RuntimeError::ImageMissing(missing.to_owned())));
    assert_eq!(runtime.find(&plan.workspace).await, Ok(None));
}

async fn absent_things(runtime: &dyn RuntimePort, plan: &ContainerPlan) {
    let nobody = ContainerId("0".repeat(64));
    let missing = RuntimeError::ContainerMissing(nobody.0.clone());
    assert_eq!(runtime.start(&nobody).await, Err(missing.clone()));
    assert_eq!(runtime.pause(&nobody).await, Err(missing.clone()));
    assert_eq!(runtime.usage(&nobody).await, Err(missing.clone()));
    assert_eq!(runtime.stop(&nobody, 1).await, Err(missing));
    assert_eq!(runtime.remove(&nobody).await, Ok(()));
    assert_eq!(runtime.remove_volumes(&plan.workspace).await, Ok(()));
}

async fn life(runtime: &dyn RuntimePort, first: &ContainerPlan, second: &ContainerPlan) {
    // From the beginning: an engine remembers a few hundred changes, and others
    // make some too.
    let changes = runtime.changes().await.unwrap();
    let heard = tokio::spawn(heard(changes, first.workspace.clone()));
    let id = runtime.create(first).await.unwrap();
    assert_eq!(runtime.create(first).await, Ok(id.clone()), "made once");
    let other = runtime.create(second).await.unwrap();
    assert_ne!(id, other);

    let seen = runtime.find(&first.workspace).await.unwrap().unwrap();
    assert_eq!(seen.id, id);
    assert_eq!(seen.workspace, first.workspace);
    assert_eq!(seen.definition.as_ref(), Some(&first.definition));
    assert_eq!((seen.status, seen.pid), (ContainerStatus::Created, 0));

    runtime.start(&id).await.unwrap();
    runtime.start(&id).await.unwrap();
    let seen = runtime.find(&first.workspace).await.unwrap().unwrap();
    assert_eq!(seen.status, ContainerStatus::Running);
    assert_ne!(seen.pid, 0);

    let used = runtime.usage(&id).await.unwrap().expect("it has processes");
    assert!(used.pids > 0 && used.memory_bytes > 0, "{used:?}");
    runtime.root_bytes(&id).await.unwrap();
    runtime.pause(&id).await.unwrap();
    runtime.pause(&id).await.unwrap();
    let seen = runtime.find(&first.workspace).await.unwrap().unwrap();
    assert_eq!(seen.status, ContainerStatus::Paused);
    let frozen = runtime
        .usage(&id)
        .await
        .unwrap()
        .expect("it keeps its memory");
    assert!(frozen.cpu_ns >= used.cpu_ns, "{frozen:?} after {used:?}");
    runtime.start(&id).await.unwrap();
    let seen = runtime.find(&first.workspace).await.unwrap().unwrap();
    assert_eq!(seen.status, ContainerStatus::Running);

    let mut listed: Vec<_> = runtime.list().await.unwrap();
    listed.retain(|state| [&first.workspace, &second.workspace].contains(&&state.workspace));
    assert_eq!(listed.len(), 2);

    runtime.stop(&id, 2).await.unwrap();
    runtime.stop(&id, 2).await.unwrap();
    let seen = runtime.find(&first.workspace).await.unwrap().unwrap();
    assert_eq!((seen.status, seen.pid), (ContainerStatus::Exited, 0));
    assert_eq!(runtime.usage(&id).await, Ok(None));
    runtime.start(&id).await.unwrap();

    runtime.remove(&id).await.unwrap();
    runtime.remove(&id).await.unwrap();
    assert_eq!(runtime.find(&first.workspace).await, Ok(None));
    runtime.remove_volumes(&first.workspace).await.unwrap();
    runtime.remove_volumes(&first.workspace).await.unwrap();
    runtime.remove(&other).await.unwrap();
    runtime.remove_volumes(&second.workspace).await.unwrap();
    heard.await.unwrap();
}

/// How long the engine may take for the next thing that is done to it.
const HEARD_MAX: Duration = Duration::from_secs(120);

/// What [`life`] did to the first workspace, among what else happened.
async fn heard(mut changes: BoxStream<'static, RuntimeChange>, workspace: WorkspaceId) {
    let expected = [
        ChangeKind::Started,
        ChangeKind::Ended,
        ChangeKind::Started,
        ChangeKind::ContainerRemoved,
        ChangeKind::VolumeRemoved,
    ];
    let mut expected = expected.into_iter().peekable();
    while let Some(next) = expected.peek() {
        let change = timeout(HEARD_MAX, changes.next()).await;
        let change = change.unwrap_or_else(|_| panic!("{next:?} is not heard of"));
        let change = change.expect("the engine goes on");
        if change.workspace == workspace && change.kind == *next {
            expected.next();
        }
    }
}
