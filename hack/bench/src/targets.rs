//! What the server is meant to reach on two cores that it shares with etcd and the load.

use crate::results::{Metric, Results};
use crate::settings::Settings;
use crate::steps::{Step, Workload};

/// At this number of clients the targets are stated.
const CLIENTS: usize = 16;

/// A target beside what was measured.
#[derive(Debug)]
pub struct Comparison {
    pub what: &'static str,
    pub target: String,
    /// Nothing if it was not measured.
    pub measured: Option<String>,
    pub met: Option<bool>,
}

enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

struct Target {
    what: &'static str,
    workload: Workload,
    clients: usize,
    metric: Metric,
    bound: Bound,
    unit: &'static str,
}

fn targets(watchers: usize) -> Vec<Target> {
    use Bound::{AtLeast, AtMost};
    let target = |what, workload, clients, metric, bound, unit| Target { what, workload, clients, metric, bound, unit };
    vec![
        target("creates to raw etcd", Workload::Create, CLIENTS, Metric::RateToRaw, AtLeast(0.5), ""),
        target("server's CPU for a create", Workload::Create, CLIENTS, Metric::ServerCpu, AtMost(200.0), " µs"),
        target("applies without a change", Workload::ApplyUnchanged, CLIENTS, Metric::Rate, AtLeast(4000.0), "/s"),
        target("writes of such an apply", Workload::ApplyUnchanged, CLIENTS, Metric::Writes, AtMost(0.0), ""),
        target("gets, consistent", Workload::Get, CLIENTS, Metric::Rate, AtLeast(10_000.0), "/s"),
        target("gets, cached", Workload::GetCached, CLIENTS, Metric::Rate, AtLeast(10_000.0), "/s"),
        target("consistent list of all, p50", Workload::List, 1, Metric::P50, AtMost(150.0), " ms"),
        target("extra memory of such a list", Workload::List, 1, Metric::ExtraMemory, AtMost(16.0), " MiB"),
        target("last watcher's event, p99", Workload::Watch, watchers, Metric::P99, AtMost(20.0), " ms"),
        target("memory, objects just created", Workload::Filled, 0, Metric::ServerMemory, AtMost(60.0), " MiB"),
        target("memory, started with objects", Workload::Start, 0, Metric::ServerMemory, AtMost(60.0), " MiB"),
        target("ready after an empty start", Workload::StartEmpty, 0, Metric::Start, AtMost(300.0), " ms"),
        target("ready after a start with objects", Workload::Start, 0, Metric::Start, AtMost(300.0), " ms"),
    ]
}

/// All targets with what was measured.
pub fn compare(results: &Results, settings: &Settings) -> Vec<Comparison> {
    let compare = |target: Target| {
        let measured = results.median(Step::new(target.workload, target.clients), target.metric);
        let (sign, value) = match target.bound {
            Bound::AtLeast(value) => ("≥", value),
            Bound::AtMost(value) => ("≤", value),
        };
        Comparison {
            what: target.what,
            target: format!("{sign} {}{}", figure(value), target.unit),
            measured: measured.map(|value| format!("{}{}", figure(value), target.unit)),
            met: measured.map(|measured| match target.bound {
                Bound::AtLeast(value) => measured >= value,
                Bound::AtMost(value) => measured <= value,
            }),
        }
    };
    targets(settings.watchers).into_iter().map(compare).collect()
}

/// A figure with as many digits as it is worth.
pub fn figure(value: f64) -> String {
    let rounded = value.round();
    if value >= 100.0 {
        let digits = format!("{rounded:.0}");
        let groups: Vec<&str> =
            digits.as_bytes().rchunks(3).rev().filter_map(|group| str::from_utf8(group).ok()).collect();
        groups.join(",")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else if (value - rounded).abs() < 0.005 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_readable() {
        let cases = [(0.0, "0"), (0.5, "0.50"), (1.234, "1.23"), (45.67, "45.7"), (150.0, "150"), (12_345.6, "12,346")];
        for (value, text) in cases {
            assert_eq!(figure(value), text);
        }
    }
}
