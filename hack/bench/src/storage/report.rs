//! The figures: ours beside the yardstick's, the ratio, and whether the target is met.

use std::{fs, path::Path};

use anyhow::Context as _;
use serde::Serialize;

use crate::{machine::Machine, targets::figure, terminal::print_table};

/// What a figure is measured in.
#[derive(Clone, Copy, Debug, Serialize)]
pub enum Unit {
    #[serde(rename = "ms")]
    Milliseconds,
    #[serde(rename = "s")]
    Seconds,
    #[serde(rename = "MiB/s")]
    Throughput,
}

impl Unit {
    const fn text(self) -> &'static str {
        match self {
            Self::Milliseconds => "ms",
            Self::Seconds => "s",
            Self::Throughput => "MiB/s",
        }
    }
}

/// Which figures are good: ours, divided by the yardstick's.
#[derive(Clone, Copy, Debug)]
pub enum Better {
    /// Small ones; at most this is the target.
    Less(Option<f64>),
    /// Great ones; at least this is the target.
    More(f64),
}

impl Better {
    fn target(self) -> String {
        match self {
            Self::Less(None) => String::new(),
            Self::Less(Some(most)) => format!("≤ {}", figure(most)),
            Self::More(least) => format!("≥ {}", figure(least)),
        }
    }

    fn is_met(self, ratio: f64) -> Option<bool> {
        match self {
            Self::Less(most) => most.map(|most| ratio <= most),
            Self::More(least) => Some(ratio >= least),
        }
    }
}

/// A line of the table.
#[derive(Debug, Serialize)]
pub struct Row {
    what: String,
    unit: Unit,
    ours: f64,
    yardstick: f64,
    ratio: f64,
    target: String,
    met: Option<bool>,
    /// Every single figure.
    all_ours: Vec<f64>,
    all_yardstick: Vec<f64>,
}

impl Row {
    fn new(what: &str, of: impl Fn(&[f64]) -> f64, all: [&[f64]; 2], unit: Unit, better: Better) -> Self {
        let [ours, yardstick] = all.map(of);
        let ratio = ours / yardstick;
        Self {
            what: what.to_owned(),
            unit,
            ours,
            yardstick,
            ratio,
            target: better.target(),
            met: better.is_met(ratio),
            all_ours: all[0].to_vec(),
            all_yardstick: all[1].to_vec(),
        }
    }

    /// The median of ours beside that of the yardstick's.
    pub fn of_medians(what: &str, ours: &[f64], yardstick: &[f64], unit: Unit, better: Better) -> Self {
        Self::new(what, median, [ours, yardstick], unit, better)
    }

    /// The longest time of ours beside that of the yardstick's.
    pub fn of_worst(what: &str, ours: &[f64], yardstick: &[f64], unit: Unit) -> Self {
        Self::new(what, greatest, [ours, yardstick], unit, Better::Less(None))
    }

    fn cells(&self) -> Vec<String> {
        let cell = |value| format!("{} {}", figure(value), self.unit.text());
        let verdict = match self.met {
            Some(true) => "met",
            Some(false) => "short of target",
            None => "",
        };
        vec![
            self.what.clone(),
            cell(self.ours),
            cell(self.yardstick),
            format!("{:.2}", self.ratio),
            self.target.clone(),
            verdict.to_owned(),
        ]
    }
}

/// The most memory that a process had meanwhile.
#[derive(Debug, Serialize)]
struct Memory {
    what: String,
    before_mib: f64,
    peak_mib: f64,
    /// Before and at most, each time.
    all_mib: Vec<(f64, f64)>,
}

/// All that was measured.
#[derive(Debug, Serialize)]
pub struct Report {
    machine: Machine,
    build: String,
    /// The machine's load before, over 1, 5 and 15 minutes.
    load: String,
    rows: Vec<Row>,
    memory: Vec<Memory>,
    notes: Vec<String>,
}

impl Report {
    pub fn new(machine: Machine, build: String) -> anyhow::Result<Self> {
        let load = fs::read_to_string("/proc/loadavg").context("cannot read /proc/loadavg")?;
        let load = load.split(' ').take(3).collect::<Vec<_>>().join(" ");
        Ok(Self { machine, build, load, rows: Vec::new(), memory: Vec::new(), notes: Vec::new() })
    }

    /// On what it is measured.
    pub fn introduce(&self) {
        let Machine { cpu, cores, memory_mib, .. } = &self.machine;
        eprintln!("{cores} cores of {cpu}, {memory_mib} MiB; load before: {}", self.load);
        eprintln!("ucloud's programs: {}", self.build);
    }

    /// What is done now.
    #[expect(clippy::unused_self, reason = "who tells the progress has the report")]
    pub fn step(&self, what: &str) {
        eprintln!("{what}");
    }

    pub fn add(&mut self, row: Row) {
        eprintln!("    {}", row.cells().join("  ").trim());
        self.rows.push(row);
    }

    /// What a process had of memory before, and at most meanwhile, each time, in MiB.
    pub fn memory(&mut self, what: &str, measured: &[(f64, f64)]) {
        let greatest = measured.iter().copied().max_by(|one, other| one.1.total_cmp(&other.1));
        let Some((before_mib, peak_mib)) = greatest else { return };
        self.memory.push(Memory { what: what.to_owned(), before_mib, peak_mib, all_mib: measured.to_vec() });
    }

    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    /// The table.
    pub fn show(&self) {
        let heading = ["", "ucloud", "yardstick", "ratio", "target", ""].map(str::to_owned).to_vec();
        let rows: Vec<_> = std::iter::once(heading).chain(self.rows.iter().map(Row::cells)).collect();
        println!();
        print_table(&rows);
        println!();
        for Memory { what, before_mib, peak_mib, .. } in &self.memory {
            println!("memory {what}: {} MiB at most (VmHWM), {} MiB before", figure(*peak_mib), figure(*before_mib));
        }
        for note in &self.notes {
            println!("{note}");
        }
        println!("ucloud's programs: {}; load before: {}", self.build, self.load);
    }

    /// Keeps all figures.
    pub fn save(&self, file: &Path) -> anyhow::Result<()> {
        let failed = || format!("cannot write {}", file.display());
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(failed)?;
        }
        fs::write(file, serde_json::to_vec_pretty(self)?).with_context(failed)?;
        println!("All figures: {}", file.display());
        Ok(())
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = |index: usize| sorted.get(index).copied().unwrap_or(f64::NAN);
    f64::midpoint(middle(sorted.len().saturating_sub(1) / 2), middle(sorted.len() / 2))
}

fn greatest(values: &[f64]) -> f64 {
    values.iter().copied().fold(f64::NAN, f64::max)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_honestly_what_is_short_of_its_target() {
        let verdict = |ours: &[f64], better| {
            Row::of_medians("a", ours, &[2.0, 2.0, 9.0], Unit::Throughput, better).cells()[1..].join(" | ")
        };
        assert_eq!(
            verdict(&[1.0, 1.5, 2.0], Better::More(0.8)),
            "1.50 MiB/s | 2 MiB/s | 0.75 | ≥ 0.80 | short of target"
        );
        assert_eq!(verdict(&[1.6], Better::More(0.8)), "1.60 MiB/s | 2 MiB/s | 0.80 | ≥ 0.80 | met");
        assert_eq!(
            verdict(&[3.0, 3.2], Better::Less(Some(1.5))),
            "3.10 MiB/s | 2 MiB/s | 1.55 | ≤ 1.50 | short of target"
        );
        assert_eq!(verdict(&[3.0], Better::Less(None)), "3 MiB/s | 2 MiB/s | 1.50 |  | ");
        let worst = Row::of_worst("a", &[1.0, 7.0, 2.0], &[2.0], Unit::Milliseconds);
        assert_eq!((worst.ours, worst.yardstick, worst.met), (7.0, 2.0, None));
    }
}
