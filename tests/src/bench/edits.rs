//! Where an edit lands in a long file, and what a long output is known by.

use std::time::Instant;

use compyd::domain::{
    edits::{self, Block},
    recovery::{Catalogue, End, FoundIn, Signs},
};

use super::{Better, Measured, Report};

const LINES: usize = 10_000;
const ROUNDS: usize = 200;
/// Bytes of the output that is looked through.
const OUTPUT_BYTES: usize = 1 << 20;

/// Measures both; needs no daemon.
pub fn measure(report: &mut Report) {
    let text: String = (0..LINES)
        .map(|line| {
            format!(
                "    result[{line}] = compute({line}, other)  # step {}\n",
                line % 97
            )
        })
        .collect();
    let find = |line: usize| {
        format!(
            "result[{line}] = compute({line}, other)  # step {}\n",
            line % 97
        )
    };
    // Indented less, with white space at its end: every tolerance is tried.
    let old = format!("{}{}", find(9_000).replace('\n', "  \n"), find(9_001));
    let tolerant = [Block::lines(old, "result = None\n")];
    let exact = [Block::lines(
        format!("    {}", find(9_000)),
        "    result = None\n",
    )];
    let absent = [Block::lines(
        format!("{}{}", find(9_000), find(9_002)),
        "result = None\n",
    )];
    for (name, blocks, fits) in [
        ("edit matched exactly in 10,000 lines", &exact, true),
        (
            "edit matched with every tolerance in 10,000 lines",
            &tolerant,
            true,
        ),
        (
            "edit refused in 10,000 lines, nearest place shown",
            &absent,
            false,
        ),
    ] {
        let times = (0..ROUNDS).map(|_| {
            let begun = Instant::now();
            let planned = edits::plan("f", &text, blocks);
            let took = begun.elapsed().as_secs_f64() * 1e3;
            assert_eq!(planned.is_ok(), fits, "{name}");
            took
        });
        let measured = Measured {
            name,
            unit: "ms",
            better: Better::Less,
            ours: times.collect(),
            theirs: Vec::new(),
        };
        report.add(measured, "under 5 ms", |ours, _| ours.p99 < 5.0);
    }
    recovery(report);
}

fn recovery(report: &mut Report) {
    let catalogue = Catalogue::with(None).expect("the built-in catalogue is sound");
    let mut output = String::with_capacity(OUTPUT_BYTES + 128);
    let mut line = 0;
    while output.len() < OUTPUT_BYTES - 128 {
        line += 1;
        output.push_str(&format!(
            "tests/test_module_{line}.py::test_case[{line}-error] PASSED [ {}%] in 0.{line}s\n",
            line % 100
        ));
    }
    output.push_str("OSError: [Errno 98] Address already in use\n");
    let times = (0..ROUNDS).map(|_| {
        let signs = Signs {
            found_in: FoundIn::Command,
            end: End::Exit(1),
            output: output.as_bytes(),
        };
        let begun = Instant::now();
        let found = catalogue.detect(&signs);
        let took = begun.elapsed().as_secs_f64() * 1e3;
        assert_eq!(found.map(|found| found.id).as_deref(), Some("port.in-use"));
        took
    });
    let measured = Measured {
        name: "failure recognised in 1 MiB of output",
        unit: "ms",
        better: Better::Less,
        ours: times.collect(),
        theirs: Vec::new(),
    };
    report.add(measured, "under 5 ms", |ours, _| ours.p99 < 5.0);
}
