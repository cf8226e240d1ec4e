//! Lists of all objects: the time to the last byte, and the memory that the server takes for it.

use std::time::Instant;

use crate::http::{Call, Protocol};
use crate::kind::Kind;
use crate::load::{Timed, Usage, number, speed};
use crate::results::{Figures, Metric};
use crate::settings::Settings;
use crate::subject::Subject;

/// Each round lists at least so often.
const LISTS: usize = 5;
const MAX_LISTS: usize = 1000;

/// Lists as often as there is time for.
pub async fn measure(settings: &Settings, subject: &Subject, query: &str) -> anyhow::Result<Figures> {
    let path = format!("{}{query}", Kind::collection(settings.kind));
    let mut connection = subject.endpoint.connect(Protocol::Http2).await?;
    let mut figures = Figures::default();
    let mut timed = Timed { latencies: Vec::new(), elapsed: settings.duration };
    let (mut extra, mut bytes) = (0_f64, 0);
    let (started, before) = (Instant::now(), Usage::of(subject)?);
    while timed.latencies.len() < LISTS || (started.elapsed() < settings.duration && timed.latencies.len() < MAX_LISTS)
    {
        let memory = match subject.server {
            Some(server) => {
                server.forget_peak()?;
                Some(server.memory()?)
            }
            None => None,
        };
        let begun = Instant::now();
        bytes = connection.succeed(Call::get(&path)).await?;
        timed.latencies.push(begun.elapsed());
        if let (Some(server), Some(memory)) = (subject.server, memory) {
            extra = extra.max(server.peak()? - memory);
        }
    }
    timed.elapsed = started.elapsed();
    let after = Usage::of(subject)?;
    before.until(&after, timed.latencies.len(), &mut figures);
    speed(&mut timed, &mut figures);
    figures.add(Metric::Answer, number(bytes) / f64::from(1 << 20));
    if subject.server.is_some() {
        figures.add(Metric::ExtraMemory, extra);
    }
    Ok(figures)
}
