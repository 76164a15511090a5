//! Output beyond what may be kept: what goes, what stays, and that the command
//! never notices.

use std::os::unix::fs::MetadataExt as _;

use compyd_proto::agent::attach_exec_response::Event;
use compyd_proto::agent::exit::How;
use compyd_proto::agent::*;

use crate::harness::*;

const MIB: u64 = 1024 * 1024;
const LINE: u64 = 16;

/// A command that writes so many bytes in lines that say where they are.
fn flood(bytes: u64) -> String {
    format!("seq -f %015.0f 1 {}", bytes / LINE)
}

/// The same bytes.
fn flooded(from: u64, to: u64) -> Vec<u8> {
    let lines = from / LINE..to.div_ceil(LINE);
    let text: String = lines.map(|line| format!("{:015}\n", line + 1)).collect();
    let skip = usize::try_from(from % LINE).unwrap();
    text.as_bytes()[skip..skip + usize::try_from(to - from).unwrap()].to_vec()
}

/// What a reader got of one stream, byte for byte the flood's.
#[derive(Debug, Default, Clone, PartialEq)]
struct Seen {
    end: u64,
    gaps: Vec<(u64, u64)>,
    exit: Option<How>,
}

async fn read(rig: &Rig, id: &str, from: u64) -> Seen {
    let request = AttachExecRequest {
        exec_id: id.into(),
        stdout_offset: from,
        ..AttachExecRequest::default()
    };
    let mut stream = rig.attach(request).await;
    let mut seen = Seen {
        end: from,
        ..Seen::default()
    };
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Attached(_) => {}
            Event::Stdout(piece) => {
                assert_eq!(piece.offset, seen.end);
                let end = piece.offset + piece.data.len() as u64;
                assert!(
                    piece.data == flooded(piece.offset, end),
                    "{} to {end} is not what was written",
                    piece.offset
                );
                seen.end = end;
            }
            Event::Stderr(piece) => panic!("{piece:?}"),
            Event::Gap(gap) => {
                assert_eq!((gap.stream(), gap.from), (Stream::Stdout, seen.end));
                seen.gaps.push((gap.from, gap.to));
                seen.end = gap.to;
            }
            Event::Exit(exit) => seen.exit = exit.how,
        }
    }
    seen
}

/// Bytes that the spools take on the disk.
fn on_disk(rig: &Rig) -> u64 {
    std::fs::read_dir(rig.state().join("exec"))
        .unwrap()
        .flatten()
        .map(|entry| entry.metadata().unwrap().blocks() * 512)
        .sum()
}

fn limits(stream_bytes: u64, total_bytes: u64) -> SpoolLimits {
    SpoolLimits {
        stream_bytes,
        total_bytes,
        ended_ms: 0,
    }
}

/// Ids of the commands whose output is gone.
async fn without_output(rig: &Rig) -> Vec<String> {
    let mut client = rig.client.clone();
    let list = client.list_execs(ListExecsRequest::default()).await;
    let execs = list.unwrap().into_inner().execs;
    let gone = execs.into_iter().filter(|exec| {
        assert!(exec.exit.is_some(), "the record and the exit stay");
        let bytes = exec.stdout_bytes;
        exec.gaps.iter().any(|gap| (gap.from, gap.to) == (0, bytes))
    });
    gone.map(|exec| exec.exec_id).collect()
}

#[tokio::test]
async fn a_stream_beyond_its_quota_keeps_its_beginning_and_its_end() {
    let mut rig = Rig::start().await;
    rig.limit(limits(MIB, 64 * MIB)).await;
    // Nobody reads while it runs: a slow reader must not be what bounds it.
    rig.start_exec("big", sh(&format!("{}; exit 7", flood(20 * MIB))))
        .await;
    until("its end", async || rig.get("big").await.exit.is_some()).await;
    let seen = read(&rig, "big", 0).await;
    assert_eq!(seen.end, 20 * MIB);
    assert_eq!(seen.exit, Some(How::Code(7)));
    let [(from, to)] = seen.gaps[..] else {
        panic!("{seen:?}")
    };
    assert_eq!(from, MIB / 2, "half of the quota is the beginning");
    assert!((MIB / 16..=MIB / 2).contains(&(20 * MIB - to)), "{seen:?}");
    let gap = Gap {
        stream: Stream::Stdout.into(),
        from,
        to,
    };
    assert_eq!(rig.get("big").await.gaps, [gap]);
    let taken = on_disk(&rig);
    assert!(taken <= MIB + 64 * 1024, "{taken} bytes on the disk");
    // From within the gap, and behind it.
    assert_eq!(read(&rig, "big", from + 5).await.gaps, [(from + 5, to)]);
    assert_eq!(read(&rig, "big", to + 5).await.gaps, []);
    rig.restart_agent().await;
    assert_eq!(read(&rig, "big", 0).await, seen);
}

#[tokio::test]
async fn a_reader_that_keeps_up_is_given_what_is_not_kept() {
    let rig = Rig::start().await;
    rig.limit(limits(MIB, 64 * MIB)).await;
    // In steps that the reader follows, so that nothing is far behind.
    let script = "for i in $(seq 40); do head -c 100000 /dev/zero; read ok; done";
    let spec = ExecSpec {
        stdin: true,
        ..sh(script)
    };
    let mut stream = rig.open("live", spec).await;
    let (mut end, mut fed) = (0, 0);
    while let Some(message) = stream.message().await.unwrap() {
        match message.event.unwrap() {
            Event::Stdout(piece) => end += piece.data.len() as u64,
            Event::Gap(gap) => panic!("{gap:?}"),
            Event::Attached(_) | Event::Stderr(_) | Event::Exit(_) => {}
        }
        if end == (fed + 1) * 100_000 {
            let line = vec![(fed, b"\n".to_vec(), false)];
            rig.stdin("live", line).await.unwrap();
            fed += 1;
        }
    }
    assert_eq!(end, 40 * 100_000);
    assert_eq!(rig.get("live").await.gaps.len(), 1, "it is not all kept");
}

#[tokio::test]
async fn readers_of_a_flood_that_is_dropped_under_them_see_only_what_was_written() {
    let rig = Rig::start().await;
    rig.limit(limits(MIB, 64 * MIB)).await;
    rig.start_exec("flood", sh(&flood(150 * MIB))).await;
    let readers: Vec<Seen> =
        futures_util::future::join_all((0..4).map(|_| read(&rig, "flood", 0))).await;
    for seen in readers {
        assert_eq!((seen.end, seen.exit), (150 * MIB, Some(How::Code(0))));
    }
}

#[tokio::test]
async fn beyond_the_total_the_commands_that_ended_first_lose_their_output() {
    let mut rig = Rig::start().await;
    rig.limit(limits(MIB, 2 * MIB)).await;
    for id in ["first", "second", "third", "fourth"] {
        let outcome = rig.sh(id, &flood(800_000)).await;
        assert_eq!(outcome.stdout.len(), 800_000);
    }
    assert_eq!(without_output(&rig).await, ["second", "first"]);
    assert!(on_disk(&rig) <= 2 * MIB);
    let seen = read(&rig, "first", 0).await;
    assert_eq!(
        (seen.gaps, seen.exit),
        (vec![(0, 800_000)], Some(How::Code(0)))
    );
    assert_eq!(read(&rig, "fourth", 0).await.gaps, []);
    rig.restart_agent().await;
    assert_eq!(without_output(&rig).await, ["second", "first"]);
    // A limit that is lowered holds at once, and an age too.
    rig.limit(SpoolLimits {
        ended_ms: 1,
        ..limits(MIB, 2 * MIB)
    })
    .await;
    let gone = ["fourth", "third", "second", "first"];
    assert_eq!(without_output(&rig).await, gone);
    assert_eq!(on_disk(&rig), 0);
}

#[tokio::test]
async fn running_commands_share_the_total_and_none_is_held_up() {
    let rig = Rig::start().await;
    rig.limit(limits(16 * MIB, 2 * MIB)).await;
    let ids = ["a", "b", "c"];
    for id in ids {
        rig.start_exec(id, sh(&flood(20 * MIB))).await;
    }
    for id in ids {
        let seen = read(&rig, id, 0).await;
        assert_eq!((seen.end, seen.exit), (20 * MIB, Some(How::Code(0))));
    }
    let taken = on_disk(&rig);
    // Each may overshoot by the piece it holds.
    assert!(taken <= 3 * MIB, "{taken} bytes on the disk");
}

#[tokio::test]
async fn a_full_disk_costs_output_and_never_holds_a_command_up() {
    let Some(rig) = Rig::start_on_small_state("8m").await else {
        return;
    };
    rig.start_exec("before", sh(&flood(2 * MIB))).await;
    until("its end", async || rig.get("before").await.exit.is_some()).await;
    rig.start_exec("flood", sh(&format!("{}; exit 3", flood(60 * MIB))))
        .await;
    let seen = read(&rig, "flood", 0).await;
    assert_eq!(
        (seen.end, seen.exit.clone()),
        (60 * MIB, Some(How::Code(3)))
    );
    let kept = read(&rig, "flood", 0).await;
    assert!(!kept.gaps.is_empty(), "60 MiB do not fit into 8");
    assert!(kept.gaps[0].0 >= 4 * MIB, "the beginning is kept: {kept:?}");
    assert!(kept.gaps[0].1 < 60 * MIB, "so is the end: {kept:?}");
    // The older output went first, and others go on.
    assert_eq!(without_output(&rig).await, ["before"]);
    for number in 0..20 {
        let outcome = rig.sh(&format!("next-{number}"), "echo here").await;
        assert_eq!(outcome.how(), How::Code(0));
    }
}

#[tokio::test]
async fn a_gap_is_known_after_the_agent_was_killed_in_a_flood() {
    let mut rig = Rig::start().await;
    rig.limit(limits(MIB, 64 * MIB)).await;
    rig.start_exec("cut", sh(&format!("{}; sleep 100", flood(5 * MIB))))
        .await;
    until("the flood", async || {
        rig.get("cut").await.stdout_bytes == 5 * MIB
    })
    .await;
    let before = rig.get("cut").await.gaps;
    rig.restart_agent().await;
    let seen = read(&rig, "cut", 0).await;
    assert_eq!(seen.end, 5 * MIB);
    assert!(matches!(seen.exit, Some(How::Unknown(_))), "{seen:?}");
    let [(from, to)] = seen.gaps[..] else {
        panic!("{seen:?}")
    };
    // What is on disk may be a little more than what was promised.
    assert!(from >= before[0].from && to <= before[0].to, "{seen:?}");
}
