//! Figures of the real daemon beside what a user would otherwise do, measured
//! in the same run, turn by turn. No test fails by them.

pub mod audit;
pub mod context;
pub mod create;
pub mod edits;
pub mod exec;
pub mod idle;
pub mod memory;
pub mod proof;
pub mod remote;
pub mod safety;
pub mod snapshots;
pub mod steps;
pub mod store;
pub mod streams;
pub mod tunnel;

use std::path::Path;

use serde::Serialize;

use crate::{daemon::Daemon, engine::Engine};

/// Everything a measurement needs.
pub struct Field {
    /// The daemon, its data on a real disk.
    pub daemon: Daemon,
    /// The engine it uses.
    pub engine: Engine,
    /// A directory on the same disk.
    pub directory: std::path::PathBuf,
}

/// What was measured, and what it should be.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// What was done.
    pub name: String,
    /// Unit of `ours` and `theirs`.
    pub unit: &'static str,
    /// The daemon's.
    pub ours: Distribution,
    /// What a user would otherwise do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub theirs: Option<Distribution>,
    /// How many times better ours is at the median; below 1 it is worse.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ratio: Option<f64>,
    /// What it should be, in words.
    pub aim: String,
    /// Whether it is.
    pub met: bool,
}

/// A set of measurements.
#[derive(Debug, Clone, Serialize)]
pub struct Distribution {
    /// The median.
    pub p50: f64,
    /// The 99th percentile, on the slow or poor side.
    pub p99: f64,
    /// How many.
    pub n: usize,
}

/// Which way is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Times and sizes.
    Less,
    /// Rates.
    More,
}

impl Distribution {
    /// Of these measurements; at least one.
    ///
    /// # Panics
    /// When there is none.
    #[must_use]
    pub fn of(mut values: Vec<f64>, better: Better) -> Self {
        assert!(!values.is_empty(), "nothing was measured");
        values.sort_by(f64::total_cmp);
        let n = values.len();
        let at = |share: f64| values[((n - 1) as f64 * share).round() as usize];
        let p99 = match better {
            Better::Less => at(0.99),
            Better::More => at(0.01),
        };
        Self {
            p50: at(0.5),
            p99,
            n,
        }
    }
}

/// Collects figures.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
}

/// A figure before it is judged.
#[derive(Debug)]
pub struct Measured {
    /// See [`Figure::name`].
    pub name: &'static str,
    /// See [`Figure::unit`].
    pub unit: &'static str,
    /// Which way is better.
    pub better: Better,
    /// The daemon's.
    pub ours: Vec<f64>,
    /// What a user would otherwise do; may be empty.
    pub theirs: Vec<f64>,
}

impl Report {
    /// Adds a figure; `holds` judges ours and the ratio (1 without theirs).
    pub fn add(
        &mut self,
        measured: Measured,
        aim: &str,
        holds: impl FnOnce(&Distribution, f64) -> bool,
    ) {
        let ours = Distribution::of(measured.ours, measured.better);
        let theirs = (!measured.theirs.is_empty())
            .then(|| Distribution::of(measured.theirs, measured.better));
        let ratio = theirs.as_ref().map(|theirs| match measured.better {
            Better::Less => theirs.p50 / ours.p50,
            Better::More => ours.p50 / theirs.p50,
        });
        let met = holds(&ours, ratio.unwrap_or(1.0));
        let figure = Figure {
            name: measured.name.to_owned(),
            unit: measured.unit,
            ours,
            theirs,
            ratio,
            aim: aim.to_owned(),
            met,
        };
        eprintln!("{}", row(&figure));
        self.figures.push(figure);
    }

    /// Writes the report and gives it as a table.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, file: &Path) -> std::io::Result<String> {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)?;
        }
        let mut text = serde_json::to_string_pretty(&self.figures)?;
        text.push('\n');
        std::fs::write(file, text)?;
        let mut table = format!(
            "{:<52} {:>10} {:>10} {:>10} {:>7}  {}\n",
            "FIGURE", "P50", "P99", "THEIRS", "RATIO", "AIM"
        );
        for figure in &self.figures {
            table.push_str(&row(figure));
            table.push('\n');
        }
        Ok(table)
    }
}

fn row(figure: &Figure) -> String {
    let number = |value: f64| match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    };
    let theirs = figure.theirs.as_ref();
    format!(
        "{:<52} {:>10} {:>10} {:>10} {:>7}  {} {}",
        format!("{} [{}]", figure.name, figure.unit),
        number(figure.ours.p50),
        number(figure.ours.p99),
        theirs.map_or_else(String::new, |theirs| number(theirs.p50)),
        figure.ratio.map_or_else(String::new, number),
        figure.aim,
        if figure.met { "- met" } else { "- MISSED" },
    )
}
