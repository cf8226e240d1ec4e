//! Closed loops: each client sends its next request when it has the answer to the one before.

use std::cell::{Cell, RefCell};
use std::time::{Duration, Instant};

use futures::future::try_join_all;

use crate::machine::{self, Process};
use crate::results::{Figures, Metric, milliseconds, percentile};
use crate::subject::Subject;

/// When a loop ends: after this time, or after so many operations.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    pub duration: Duration,
    pub operations: u64,
}

/// No loop makes more objects than this.
const MAX_OPERATIONS: u64 = 50_000;

impl Limit {
    pub fn time(duration: Duration) -> Self {
        Self { duration, operations: MAX_OPERATIONS }
    }

    /// So many operations, however long they take within reason.
    pub fn operations(operations: u64) -> Self {
        Self { duration: Duration::from_mins(10), operations }
    }
}

/// What a loop came to.
pub struct Timed {
    pub latencies: Vec<Duration>,
    pub elapsed: Duration,
}

/// Runs `operation` from all clients at once. Each call gets a number of its own, counted from 0.
pub async fn closed_loop<C>(
    clients: &mut [C],
    limit: Limit,
    operation: impl AsyncFn(&mut C, u64) -> anyhow::Result<()>,
) -> anyhow::Result<Timed> {
    let started = Instant::now();
    let next = Cell::new(0);
    let latencies = RefCell::new(Vec::new());
    let (next, latencies_of_all, operation) = (&next, &latencies, &operation);
    let loops = clients.iter_mut().map(async |client| {
        loop {
            let (begun, number) = (Instant::now(), next.get());
            if begun.duration_since(started) >= limit.duration || number >= limit.operations {
                return anyhow::Ok(());
            }
            next.set(number + 1);
            operation(client, number).await?;
            latencies_of_all.borrow_mut().push(begun.elapsed());
        }
    });
    try_join_all(loops).await?;
    Ok(Timed { latencies: latencies.into_inner(), elapsed: started.elapsed() })
}

/// The CPU time that everybody has taken so far.
pub struct Usage {
    server: Option<Duration>,
    etcd: Option<Duration>,
    own: Duration,
    busy: Duration,
    at: Instant,
}

impl Usage {
    pub fn of(subject: &Subject) -> anyhow::Result<Self> {
        Self::new(subject.server, subject.etcd)
    }

    pub fn new(server: Option<Process>, etcd: Option<Process>) -> anyhow::Result<Self> {
        let cpu = |process: Option<Process>| process.map(Process::cpu).transpose();
        Ok(Self {
            server: cpu(server)?,
            etcd: cpu(etcd)?,
            own: Process::own().cpu()?,
            busy: machine::busy()?,
            at: Instant::now(),
        })
    }

    /// The time between two moments.
    pub fn since(&self, earlier: &Self) -> Duration {
        self.at.duration_since(earlier.at)
    }

    /// What was taken between two moments, for each of so many operations. The kernel counts in steps of 10 ms.
    pub fn until(&self, end: &Self, operations: usize, figures: &mut Figures) {
        let spent = |before: Option<Duration>, after: Option<Duration>| Some(after?.saturating_sub(before?));
        let (server, etcd) = (spent(self.server, end.server), spent(self.etcd, end.etcd));
        let own = end.own.saturating_sub(self.own);
        let ours = own + server.unwrap_or_default() + etcd.unwrap_or_default();
        let others = end.busy.saturating_sub(self.busy).saturating_sub(ours);
        for (metric, spent) in [(Metric::ServerCpu, server), (Metric::EtcdCpu, etcd), (Metric::ClientCpu, Some(own))] {
            if let Some(spent) = spent {
                figures.add(metric, spent.as_secs_f64() * 1e6 / number(operations.max(1)));
            }
        }
        figures.add(Metric::OthersCpu, others.as_secs_f64() / end.since(self).as_secs_f64());
    }
}

/// A loop's speed and latencies.
pub fn speed(timed: &mut Timed, figures: &mut Figures) {
    timed.latencies.sort_unstable();
    figures.add(Metric::Rate, number(timed.latencies.len()) / timed.elapsed.as_secs_f64());
    figures.add(Metric::P50, milliseconds(percentile(&timed.latencies, 50)));
    figures.add(Metric::P99, milliseconds(percentile(&timed.latencies, 99)));
}

#[expect(clippy::cast_precision_loss, reason = "counts here are far from 2^52")]
pub fn number(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run<T>(future: impl Future<Output = T>) -> T {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
    }

    #[test]
    fn every_number_is_used_once_by_whichever_client() {
        let seen = RefCell::new(Vec::new());
        let mut clients = [0, 0, 0];
        let timed = run(closed_loop(&mut clients, Limit::operations(100), async |client, number| {
            *client += 1;
            seen.borrow_mut().push(number);
            tokio::task::yield_now().await;
            Ok(())
        }));
        assert_eq!(timed.unwrap().latencies.len(), 100);
        let mut seen = seen.into_inner();
        seen.sort_unstable();
        assert_eq!(seen, (0..100).collect::<Vec<u64>>());
        assert!(clients.iter().all(|count| *count > 0), "{clients:?}");
    }

    #[test]
    fn one_failure_ends_the_loop() {
        let outcome = run(closed_loop(&mut [(); 4], Limit::operations(100), async |(), number| {
            anyhow::ensure!(number < 10, "number {number}");
            Ok(())
        }));
        assert_eq!(outcome.err().unwrap().to_string(), "number 10");
    }
}
