//! Random batches, prunings and starts, against a set of numbers.

use std::collections::HashSet;

use proptest::prelude::*;

use super::*;
use crate::ports::chunks::PruneOptions;

/// Numbers of chunks: few, so that batches share them.
type Numbers = HashSet<u64>;

#[derive(Debug, Clone)]
enum Step {
    /// A batch, whose manifest is stored.
    Put(Numbers),
    /// A batch that is given up.
    Abandon(Numbers),
    /// Everything but these is garbage, while a batch with the others is open.
    Prune(Numbers, Numbers, u8),
    /// The daemon starts again.
    Open,
}

fn step() -> impl Strategy<Value = Step> {
    let numbers = || proptest::collection::hash_set(0..40_u64, 0..15);
    prop_oneof![
        4 => numbers().prop_map(Step::Put),
        1 => numbers().prop_map(Step::Abandon),
        2 => (numbers(), numbers(), prop_oneof![Just(0), Just(20), Just(100)])
            .prop_map(|(live, open, waste)| Step::Prune(live, open, waste)),
        1 => Just(Step::Open),
    ]
}

fn chunk_of(number: u64) -> Chunk {
    chunk(number, 8 + 200 * (number as usize % 7))
}

fn hashes(numbers: &Numbers) -> Vec<ChunkHash> {
    numbers
        .iter()
        .map(|number| chunk_of(*number).hash)
        .collect()
}

async fn play(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let mut chunks = open(dir.path());
    // What must be there. Garbage may be there too, until all of it is pruned.
    let mut model = Numbers::new();
    for step in steps {
        match &step {
            Step::Put(numbers) => {
                drop(
                    put(&chunks, numbers.iter().map(|n| chunk_of(*n)))
                        .await
                        .unwrap(),
                );
                model.extend(numbers);
            }
            Step::Abandon(numbers) => {
                let mut writer = chunks.writer().await.unwrap();
                for number in numbers {
                    writer.put(chunk_of(*number)).await.unwrap();
                }
            }
            Step::Prune(live, relied_on, waste_percent) => {
                let mut writer = chunks.writer().await.unwrap();
                let missing = writer.missing(hashes(relied_on)).await.unwrap();
                let relied_on: Numbers = (relied_on.iter().copied())
                    .filter(|number| !missing.contains(&chunk_of(*number).hash))
                    .collect();
                let options = |mode| PruneOptions {
                    mode,
                    waste_percent: *waste_percent,
                };
                let live_hashes = || hashes(live).into_iter().collect();
                let before = disk_bytes(dir.path());
                let measured = (chunks.prune().await)
                    .run(live_hashes(), options(PruneMode::Measure))
                    .await
                    .unwrap();
                assert_eq!(disk_bytes(dir.path()), before);
                let pruned = (chunks.prune().await)
                    .run(live_hashes(), options(PruneMode::Remove))
                    .await
                    .unwrap();
                assert_eq!(pruned, measured);
                assert_eq!(disk_bytes(dir.path()) + pruned.freed_bytes, before);
                drop(writer);
                model.retain(|number| live.contains(number) || relied_on.contains(number));
                if *waste_percent == 0 {
                    for number in 0..40 {
                        let there = is_there(&chunks, &chunk_of(number)).await;
                        let wanted = model.contains(&number) || relied_on.contains(&number);
                        assert!(there == wanted || live.contains(&number), "{number}");
                    }
                }
            }
            Step::Open => chunks = open(dir.path()),
        }
        for number in &model {
            assert!(
                is_there(&chunks, &chunk_of(*number)).await,
                "{number} after {step:?}"
            );
        }
        assert_eq!(unfinished(dir.path()), 0);
    }
    let live: Vec<_> = hashes(&model);
    prune(&chunks, live, PruneMode::Remove).await.unwrap();
    let stored: u64 = (model.iter())
        .map(|number| (record::HEADER_BYTES + chunk_of(*number).data.len()) as u64)
        .sum();
    let overhead = pack::overhead_bytes(model.len() as u64) * (1 + packs(dir.path()).len() as u64);
    assert!(
        disk_bytes(dir.path()) <= stored + overhead,
        "no garbage is left"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn whatever_happens_the_live_chunks_are_there(steps in proptest::collection::vec(step(), 1..25)) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(play(steps));
    }
}
