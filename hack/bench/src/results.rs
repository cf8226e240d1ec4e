//! Every figure that was measured, once a round, and what is made of them: medians and spread.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use serde::Serialize;

use crate::kind::Kind;
use crate::machine::Machine;
use crate::steps::Step;

/// What a figure tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Operations per second.
    #[serde(rename = "operations_per_second")]
    Rate,
    /// Half of the operations took no longer, in ms.
    #[serde(rename = "p50_ms")]
    P50,
    /// 99 of 100 operations took no longer, in ms.
    #[serde(rename = "p99_ms")]
    P99,
    /// CPU time of the server per operation, in µs.
    #[serde(rename = "server_cpu_us_per_operation")]
    ServerCpu,
    /// CPU time of etcd per operation, in µs.
    #[serde(rename = "etcd_cpu_us_per_operation")]
    EtcdCpu,
    /// CPU time of this program per operation, in µs.
    #[serde(rename = "client_cpu_us_per_operation")]
    ClientCpu,
    /// How many cores other programs of the machine kept busy meanwhile.
    #[serde(rename = "cores_busy_with_others")]
    OthersCpu,
    /// By how much the store's revision grew, per operation.
    #[serde(rename = "store_writes_per_operation")]
    Writes,
    /// The rate divided by that of raw etcd with as many clients in the same round.
    #[serde(rename = "rate_to_raw_etcd")]
    RateToRaw,
    /// The most memory that the server had, less what it had before, in MiB.
    #[serde(rename = "extra_memory_mib")]
    ExtraMemory,
    /// Memory of the server, in MiB.
    #[serde(rename = "server_memory_mib")]
    ServerMemory,
    /// Memory of etcd, in MiB.
    #[serde(rename = "etcd_memory_mib")]
    EtcdMemory,
    /// From the server's start to its readiness, in ms.
    #[serde(rename = "start_ms")]
    Start,
    /// Bytes of an answer, in MiB.
    #[serde(rename = "answer_mib")]
    Answer,
}

/// What one measurement came to.
#[derive(Debug, Default)]
pub struct Figures(Vec<(Metric, f64)>);

impl Figures {
    pub fn add(&mut self, metric: Metric, value: f64) {
        self.0.push((metric, value));
    }

    pub fn get(&self, metric: Metric) -> Option<f64> {
        self.0.iter().find_map(|(known, value)| (*known == metric).then_some(*value))
    }
}

/// The same figure of all rounds.
#[derive(Debug, Serialize)]
pub struct Series {
    pub median: f64,
    pub min: f64,
    pub max: f64,
    rounds: Vec<f64>,
}

impl Series {
    fn new(rounds: Vec<f64>) -> Self {
        let mut sorted = rounds.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        let median = if sorted.len().is_multiple_of(2) {
            f64::midpoint(sorted[middle - 1], sorted[middle])
        } else {
            sorted[middle]
        };
        Self { median, min: sorted[0], max: sorted[sorted.len() - 1], rounds }
    }
}

/// What was measured, and on what.
#[derive(Debug, Serialize)]
pub struct Context {
    pub date: Timestamp,
    pub machine: Machine,
    /// What the server says of itself at /version.
    pub server: String,
    /// Of the etcd that the figures of raw etcd come from; the server's own one is the same.
    pub etcd: String,
    pub kind: Kind,
    pub object_bytes: usize,
    pub objects: u64,
    pub rounds: u32,
    pub seconds: f64,
}

/// All figures of a run.
#[derive(Debug, Default)]
pub struct Results {
    steps: Vec<Step>,
    values: BTreeMap<(Step, Metric), Vec<f64>>,
    /// What could not be measured, and why.
    pub left_out: BTreeMap<Step, String>,
}

impl Results {
    /// Takes in what one step of one round came to.
    pub fn record(&mut self, step: Step, figures: &Figures) {
        if !self.steps.contains(&step) {
            self.steps.push(step);
        }
        for (metric, value) in &figures.0 {
            self.values.entry((step, *metric)).or_default().push(*value);
        }
    }

    /// The steps in the order in which they were measured.
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// A figure of a step.
    pub fn series(&self, step: Step, metric: Metric) -> Option<Series> {
        self.values.get(&(step, metric)).map(|rounds| Series::new(rounds.clone()))
    }

    /// The median of a figure.
    pub fn median(&self, step: Step, metric: Metric) -> Option<f64> {
        self.series(step, metric).map(|series| series.median)
    }

    /// A figure of the latest round.
    pub fn last(&self, step: Step, metric: Metric) -> Option<f64> {
        self.values.get(&(step, metric))?.last().copied()
    }

    /// Everything as JSON.
    pub fn to_json(&self, context: &Context) -> serde_json::Result<String> {
        #[derive(Serialize)]
        struct Entry {
            #[serde(flatten)]
            step: Step,
            #[serde(flatten)]
            figures: BTreeMap<Metric, Series>,
        }
        #[derive(Serialize)]
        struct LeftOut<'a> {
            #[serde(flatten)]
            step: Step,
            why: &'a str,
        }
        #[derive(Serialize)]
        struct Document<'a> {
            #[serde(flatten)]
            context: &'a Context,
            figures: Vec<Entry>,
            left_out: Vec<LeftOut<'a>>,
        }
        let of_step = |step: &Step| {
            let all = self.values.range((*step, Metric::Rate)..=(*step, Metric::Answer));
            all.map(|((_, metric), rounds)| (*metric, Series::new(rounds.clone()))).collect()
        };
        serde_json::to_string_pretty(&Document {
            context,
            figures: self.steps.iter().map(|step| Entry { step: *step, figures: of_step(step) }).collect(),
            left_out: self.left_out.iter().map(|(step, why)| LeftOut { step: *step, why }).collect(),
        })
    }
}

/// Of sorted times, the one that so many of 100 do not exceed; 0 of none.
pub fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(rank - 1).copied().unwrap_or_default()
}

pub fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::steps::Workload;

    #[test]
    fn percentiles_are_of_what_was_measured() {
        let times: Vec<Duration> = (1..=200).map(Duration::from_millis).collect();
        assert_eq!(percentile(&times, 50), Duration::from_millis(100));
        assert_eq!(percentile(&times, 99), Duration::from_millis(198));
        assert_eq!(percentile(&times[..1], 99), Duration::from_millis(1));
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn rounds_become_a_median_and_a_spread() {
        let mut results = Results::default();
        let step = Step::new(Workload::Create, 16);
        for rate in [30.0, 10.0, 20.0, 90.0] {
            let mut figures = Figures::default();
            figures.add(Metric::Rate, rate);
            results.record(step, &figures);
        }
        let series = results.series(step, Metric::Rate).unwrap();
        assert_eq!((series.median, series.min, series.max), (25.0, 10.0, 90.0));
        assert!(results.series(step, Metric::P99).is_none());
        assert_eq!(results.steps(), [step]);
    }
}
