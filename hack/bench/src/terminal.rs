//! What the user sees: progress while it goes on (stderr), tables at the end (stdout).

use crate::results::{Context, Metric, Results};
use crate::run::Outcome;
use crate::steps::{Step, Transport, Workload};
use crate::targets::{Comparison, figure};

/// What is measured, and on what.
pub fn introduce(context: &Context) {
    let Context { machine, server, etcd, kind, objects, rounds, seconds, .. } = context;
    eprintln!("server {server}, etcd {etcd}; {} cores of {}, {} MiB", machine.cores, machine.cpu, machine.memory_mib);
    eprintln!("{objects} objects of kind {kind:?}, {rounds} rounds, {seconds} s for each measurement");
}

pub fn note(text: &str) {
    eprintln!("{text}");
}

/// One step is done.
pub fn progress(index: usize, all: usize, step: Step, outcome: &Outcome) {
    let text = match outcome {
        Outcome::LeftOut(why) => why.clone(),
        Outcome::Measured(figures) => [(Metric::Rate, "/s"), (Metric::P99, " ms p99"), (Metric::Start, " ms")]
            .into_iter()
            .filter_map(|(metric, unit)| Some(format!("{}{unit}", figure(figures.get(metric)?))))
            .collect::<Vec<_>>()
            .join(", "),
    };
    eprintln!("[{index}/{all}] {}: {text}", label(step));
}

/// A step in words.
pub fn label(step: Step) -> String {
    let transport = match step.transport {
        Transport::Http2 => "",
        Transport::Http2Shared => ", one HTTP/2 connection",
        Transport::Http1 => ", HTTP/1.1",
    };
    let clients = match (step.workload, step.clients) {
        (_, 0) => String::new(),
        (Workload::Watch, watchers) => format!(", {watchers} watchers"),
        (_, 1) => ", 1 client".to_owned(),
        (_, clients) => format!(", {clients} clients"),
    };
    format!("{}{clients}{transport}", step.workload.name())
}

/// The figures of the steps, medians over the rounds.
pub fn show(results: &Results) {
    const COLUMNS: [(Metric, &str); 9] = [
        (Metric::P50, "p50 ms"),
        (Metric::P99, "p99 ms"),
        (Metric::ServerCpu, "server µs"),
        (Metric::EtcdCpu, "etcd µs"),
        (Metric::ClientCpu, "load µs"),
        (Metric::Writes, "writes"),
        (Metric::OthersCpu, "others"),
        (Metric::ServerMemory, "MiB"),
        (Metric::Start, "start ms"),
    ];
    let mut rows = vec![vec![String::new(), "per second".to_owned(), "min..max".to_owned()]];
    rows[0].extend(COLUMNS.map(|(_, heading)| heading.to_owned()));
    for step in results.steps() {
        let mut row = vec![label(*step)];
        match results.series(*step, Metric::Rate) {
            Some(rate) => row.extend([figure(rate.median), format!("{}..{}", figure(rate.min), figure(rate.max))]),
            None => row.extend([String::new(), String::new()]),
        }
        row.extend(COLUMNS.map(|(metric, _)| results.median(*step, metric).map_or_else(String::new, figure)));
        rows.push(row);
    }
    println!();
    print_table(&rows);
    for (step, why) in &results.left_out {
        println!("{}: {why}", label(*step));
    }
    println!(
        "µs: CPU time per operation; writes: of the store, per operation; others: cores that other programs kept busy"
    );
}

/// The targets.
pub fn show_targets(comparisons: &[Comparison]) {
    let mut rows = vec![["target", "", "measured", ""].map(str::to_owned).to_vec()];
    for Comparison { what, target, measured, met } in comparisons {
        let verdict = match met {
            Some(true) => "met",
            Some(false) => "MISSED",
            None => "",
        };
        let measured = measured.clone().unwrap_or_else(|| "not measured".to_owned());
        rows.push(vec![(*what).to_owned(), target.clone(), measured, verdict.to_owned()]);
    }
    println!();
    print_table(&rows);
}

/// The first column is of words, the others of figures.
pub fn print_table(rows: &[Vec<String>]) {
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    for row in rows {
        let cells = row.iter().enumerate().map(|(column, cell)| match column {
            0 => format!("{cell:<width$}", width = width(column)),
            _ => format!("{cell:>width$}", width = width(column)),
        });
        println!("{}", cells.collect::<Vec<_>>().join("  ").trim_end());
    }
}
