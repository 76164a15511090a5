//! What every [`SnapshotRuntimePort`] must do.

use uuid::Uuid;

use crate::{
    domain::{
        ids::{SnapshotId, WorkspaceId},
        snapshot::{
            CapturedVolume,
            copies::VolumeRef,
            hash::TreeHash,
            journal::{ContainerRef, ImageRef},
        },
    },
    ports::{
        runtime::{ContainerId, ContainerPlan, ContainerStatus, RuntimeError, RuntimePort},
        snapshot_runtime::{
            CopyVolume, FileAccess, HelperPlan, ImageHelperPlan, NewVolume, SnapshotRuntimePort,
            VolumeAccess, helper_container,
        },
        trees::{TreeEntry, TreeEntryKind},
    },
};

const MISSING: &str = "compy/there-is-no-such-image:1";

/// Plays the life of images, helpers and copies of one workspace against an
/// engine that has the plan's image and nothing else of the workspace.
///
/// # Panics
/// The runtime breaks the contract.
pub async fn check<R: RuntimePort + SnapshotRuntimePort>(runtime: &R, plan: &ContainerPlan) {
    let container = runtime.create(plan).await.unwrap();
    runtime.start(&container).await.unwrap();
    pauses(runtime, plan, &container).await;
    let image = images(runtime, plan, &container).await;
    base(runtime, plan, &image).await;
    image_helper(runtime, plan, &image).await;
    volume_helper(runtime, plan).await;
    copies(runtime, plan).await;
    generations(runtime, plan, &container).await;
    runtime.remove_image(&image).await.unwrap();
    assert_eq!(ours(runtime, &[&image]).await, [] as [ImageRef; 0]);
}

fn new_snapshot() -> SnapshotId {
    SnapshotId::from_uuid(Uuid::now_v7())
}

fn new_helper() -> WorkspaceId {
    WorkspaceId::from_uuid(Uuid::now_v7())
}

/// Those of these images that the runtime says it has committed.
async fn ours<R: SnapshotRuntimePort>(runtime: &R, of: &[&ImageRef]) -> Vec<ImageRef> {
    let mut found = runtime.committed().await.unwrap();
    found.retain(|image| of.contains(&image));
    found.sort();
    found
}

async fn pauses<R: RuntimePort + SnapshotRuntimePort>(
    runtime: &R,
    plan: &ContainerPlan,
    container: &ContainerId,
) {
    let nobody = ContainerRef("compy-nobody".to_owned());
    assert_eq!(runtime.unpause(&nobody).await, Ok(()));
    let this = ContainerRef(container.0.clone());
    let status = async || (runtime.find(&plan.workspace).await.unwrap().unwrap()).status;
    runtime.unpause(&this).await.unwrap();
    assert_eq!(status().await, ContainerStatus::Running);
    runtime.pause(container).await.unwrap();
    runtime.unpause(&this).await.unwrap();
    assert_eq!(status().await, ContainerStatus::Running);
}

/// Commits, shares and tags. One image is left.
async fn images<R: RuntimePort + SnapshotRuntimePort>(
    runtime: &R,
    plan: &ContainerPlan,
    container: &ContainerId,
) -> ImageRef {
    let missing = || RuntimeError::ImageMissing(MISSING.to_owned());
    let nobody = ContainerId("0".repeat(64));
    let refused = runtime.commit(&nobody, &new_snapshot()).await;
    assert_eq!(
        refused,
        Err(RuntimeError::ContainerMissing(nobody.0.clone()))
    );
    assert_eq!(
        runtime.root_changes(&nobody).await,
        Err(RuntimeError::ContainerMissing(nobody.0.clone()))
    );

    let (first, second) = (new_snapshot(), new_snapshot());
    let (one, two) = (ImageRef::of(&first), ImageRef::of(&second));
    let committed = runtime.commit(container, &first).await.unwrap();
    assert!(committed.size_bytes >= committed.new_bytes);
    let found = runtime.image(&one.0).await.unwrap().unwrap();
    assert_eq!(found.id, committed.id);
    assert_eq!(ours(runtime, &[&one]).await, std::slice::from_ref(&one));
    let layers = runtime.layers(&one.0, plan.image()).await.unwrap();
    let base = layers.base.expect("it was begun with the plan's image");
    assert_eq!(base.count + 1, layers.count);
    assert_eq!(
        runtime.layers(MISSING, plan.image()).await,
        Err(missing()),
        "the layers of no image"
    );

    let none = ImageRef(MISSING.to_owned());
    assert_eq!(runtime.share(&none, &second).await, Err(missing()));
    let shared = runtime.share(&one, &second).await.unwrap();
    assert_eq!((shared.id, shared.new_bytes), (committed.id, 0));
    let mut both = [one.clone(), two.clone()];
    both.sort();
    assert_eq!(ours(runtime, &[&one, &two]).await, both);
    runtime.remove_image(&one).await.unwrap();
    assert_eq!(
        ours(runtime, &[&one, &two]).await,
        std::slice::from_ref(&two)
    );
    assert!(runtime.image(&two.0).await.unwrap().is_some());

    assert_eq!(runtime.tag(MISSING, &one).await, Ok(false));
    assert_eq!(runtime.tag(&two.0, &one).await, Ok(true));
    assert_eq!(ours(runtime, &[&one, &two]).await, both);
    runtime.remove_image(&one).await.unwrap();
    runtime.remove_image(&one).await.unwrap();
    two
}

/// An image that a container is made from stays as long as that.
async fn base<R: RuntimePort + SnapshotRuntimePort>(
    runtime: &R,
    plan: &ContainerPlan,
    image: &ImageRef,
) {
    let keeper = new_snapshot();
    let next = ContainerPlan {
        generation: plan.generation.next(),
        base: Some(ImageRef::of(&keeper)),
        ..plan.clone()
    };
    runtime.share(image, &keeper).await.unwrap();
    runtime.create(&next).await.unwrap();
    let keeper = ImageRef::of(&keeper);
    // The other name is not in its way.
    runtime.remove_image(image).await.unwrap();
    runtime.remove_image(&keeper).await.unwrap();
    assert_eq!(
        ours(runtime, &[image, &keeper]).await,
        std::slice::from_ref(&keeper)
    );
    runtime
        .remove_generation(&next.workspace, next.generation)
        .await
        .unwrap();
    assert_eq!(runtime.tag(&keeper.0, image).await, Ok(true));
    runtime.remove_image(&keeper).await.unwrap();
    assert_eq!(
        ours(runtime, &[image, &keeper]).await,
        std::slice::from_ref(image)
    );
}

async fn image_helper<R: RuntimePort + SnapshotRuntimePort>(
    runtime: &R,
    plan: &ContainerPlan,
    image: &ImageRef,
) {
    let helper = |image: &str| ImageHelperPlan {
        id: new_helper(),
        image: image.to_owned(),
        link_dir: plan.link_dir.clone(),
        access: FileAccess::Write,
    };
    let refused = runtime.create_image_helper(&helper(MISSING)).await;
    assert_eq!(refused, Err(RuntimeError::ImageMissing(MISSING.to_owned())));
    let sees = runtime.create_image_helper(&helper(&image.0)).await;
    let sees = sees.unwrap();
    let snapshot = new_snapshot();
    let committed = runtime.commit_like(&sees, image, &snapshot).await.unwrap();
    let made = ImageRef::of(&snapshot);
    let found = runtime.image(&made.0).await.unwrap().unwrap();
    assert_eq!(found.id, committed.id);
    // It hands on what its image was begun with.
    let below = runtime.layers(&image.0, plan.image()).await.unwrap();
    let above = runtime.layers(&made.0, plan.image()).await.unwrap();
    assert_eq!(above.base, below.base);
    // An engine may leave a layer out that is empty.
    assert!((below.count..=below.count + 1).contains(&above.count));
    runtime.remove(&sees).await.unwrap();
    runtime.remove_image(&made).await.unwrap();
    assert_eq!(ours(runtime, &[&made]).await, [] as [ImageRef; 0]);
}

async fn volume_helper<R: RuntimePort + SnapshotRuntimePort>(runtime: &R, plan: &ContainerPlan) {
    let helper = |image: &str| HelperPlan {
        id: new_helper(),
        of: plan.clone(),
        image: image.to_owned(),
        link_dir: plan.link_dir.clone(),
        access: VolumeAccess::Read,
        root: None,
    };
    let refused = runtime.create_helper(&helper(MISSING)).await;
    assert_eq!(refused, Err(RuntimeError::ImageMissing(MISSING.to_owned())));
    let helper = helper(plan.image());
    let reads = runtime.create_helper(&helper).await.unwrap();
    // Only those of processes that are gone are swept.
    runtime.sweep_helpers().await.unwrap();
    runtime.start(&reads).await.unwrap();
    // It is nobody's container, and goes by its name as well.
    let listed = runtime.list().await.unwrap();
    assert!(listed.iter().all(|state| state.id != reads));
    let by_name = ContainerId(helper_container(&helper.id).0);
    runtime.remove(&by_name).await.unwrap();
    let gone = runtime.start(&reads).await;
    assert!(
        matches!(gone, Err(RuntimeError::ContainerMissing(_))),
        "{gone:?}"
    );
}

/// The root of an empty volume.
fn new_volume(lower: Option<VolumeRef>) -> NewVolume {
    NewVolume {
        volume: CapturedVolume::Work,
        lower,
        root: TreeEntry {
            kind: TreeEntryKind::Directory.into(),
            mode: 0o755,
            ..TreeEntry::default()
        },
    }
}

async fn copies<R: RuntimePort + SnapshotRuntimePort>(runtime: &R, plan: &ContainerPlan) {
    let tree = TreeHash::of(Uuid::now_v7().as_bytes());
    let copy = runtime.create_copy(&tree).await.unwrap();
    let seen = async || {
        let mut copies = runtime.copies().await.unwrap();
        copies.retain(|found| found.volume == copy);
        copies
    };
    let there = |in_use| CopyVolume {
        volume: copy.clone(),
        in_use,
    };
    assert_eq!(seen().await, [there(false)]);

    let next = ContainerPlan {
        generation: plan.generation.next(),
        ..plan.clone()
    };
    let of_next = async || {
        runtime
            .captured_volumes(&next.workspace, next.generation)
            .await
            .unwrap()
    };
    let nothing = VolumeRef("compy-there-is-no-such-copy".to_owned());
    let over_nothing = [new_volume(Some(nothing))];
    let refused = runtime.create_volumes(&next, &over_nothing).await;
    assert!(refused.is_err());
    let over = [new_volume(Some(copy.clone()))];
    runtime.create_volumes(&next, &over).await.unwrap();
    assert_eq!(seen().await, [there(true)]);
    assert!(of_next().await.contains(&CapturedVolume::Work));
    // In place of what is there.
    let plain = [new_volume(None)];
    runtime.create_volumes(&next, &plain).await.unwrap();
    assert_eq!(seen().await, [there(false)]);
    runtime.create_volumes(&next, &over).await.unwrap();
    let (workspace, generation) = (&next.workspace, next.generation);
    for _ in 0..2 {
        let removed = runtime.remove_generation(workspace, generation).await;
        removed.unwrap();
        assert!(of_next().await.is_empty());
        assert_eq!(seen().await, [there(false)]);
    }
    for _ in 0..2 {
        runtime.remove_copy(&copy).await.unwrap();
        assert_eq!(seen().await, [] as [CopyVolume; 0]);
    }
}

/// One generation goes, and the other stays.
async fn generations<R: RuntimePort + SnapshotRuntimePort>(
    runtime: &R,
    plan: &ContainerPlan,
    container: &ContainerId,
) {
    let next = ContainerPlan {
        generation: plan.generation.next(),
        ..plan.clone()
    };
    let newer = runtime.create(&next).await.unwrap();
    assert_ne!(newer, *container);
    let found = async || runtime.find(&plan.workspace).await.unwrap();
    assert_eq!(found().await.map(|state| state.id), Some(newer));
    let workspace = &plan.workspace;
    let (old, new) = (plan.generation, next.generation);
    runtime.remove_generation(workspace, new).await.unwrap();
    assert_eq!(found().await.map(|state| state.id), Some(container.clone()));
    let left = runtime.captured_volumes(workspace, old).await.unwrap();
    assert!(left.contains(&CapturedVolume::Work));
    runtime.remove_generation(workspace, old).await.unwrap();
    assert_eq!(found().await, None);
    let left = runtime.captured_volumes(workspace, old).await.unwrap();
    assert!(left.is_empty(), "{left:?}");
}
