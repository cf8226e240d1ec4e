//! Watches: the time from the moment at which a write is sent until the last of many watchers has its event.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::BytesMut;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::http::{Call, Protocol, refusal};
use crate::kind::{self, Kind};
use crate::load::{Timed, Usage, speed};
use crate::results::{Figures, Metric};
use crate::settings::Settings;
use crate::subject::Subject;

/// The pause between two writes: 20 events a second.
const INTERVAL: Duration = Duration::from_millis(50);
/// The writes go on for so many times the duration of the other measurements, since there are so few in a second.
const LENGTH: u32 = 5;
/// How long the last event may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// A watcher has got the event of the write with this number.
struct Seen {
    number: u64,
    at: Instant,
}

/// Watches and writes. Numbers of writes begin at `first`.
pub async fn measure(settings: &Settings, subject: &Subject, first: u64) -> anyhow::Result<Figures> {
    let collection = settings.kind.collection();
    let watch = format!("{collection}?watch=true&resourceVersion={}", subject.revision().await?);
    let (sender, mut receiver) = unbounded_channel();
    // ended when they are dropped
    let mut watchers = JoinSet::new();
    for _ in 0..settings.watchers {
        let mut connection = subject.endpoint.connect(Protocol::Http2).await?;
        let answer = connection.send(Call::get(&watch)).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let sender = sender.clone();
        // the connection lives as long as its sender
        watchers.spawn(async move {
            let end = follow(answer.into_body(), &sender).await;
            drop(connection);
            end
        });
    }
    drop(sender);

    let before = Usage::of(subject)?;
    let sent = write(settings, subject, first).await?;
    let arrivals = tokio::time::timeout(PATIENCE, last_arrivals(&mut receiver, sent.len(), settings.watchers));
    let arrivals = match arrivals.await {
        Ok(arrivals) => arrivals?,
        Err(_) => anyhow::bail!("some watcher has not got all events {PATIENCE:?} after the last write"),
    };
    let after = Usage::of(subject)?;

    let latency = |(number, at): (&u64, &Instant)| Some(arrivals.get(number)?.duration_since(*at));
    let mut timed = Timed { latencies: sent.iter().filter_map(latency).collect(), elapsed: after.since(&before) };
    let mut figures = Figures::default();
    before.until(&after, sent.len() * settings.watchers, &mut figures);
    speed(&mut timed, &mut figures);
    if let Some(server) = subject.server {
        figures.add(Metric::ServerMemory, server.memory()?);
    }
    Ok(figures)
}

/// Changes one object after the other, and tells when each write was sent.
async fn write(settings: &Settings, subject: &Subject, first: u64) -> anyhow::Result<BTreeMap<u64, Instant>> {
    let (collection, patch) = (settings.kind.collection(), Kind::annotation());
    let mut connection = subject.endpoint.connect(Protocol::Http2).await?;
    let mut ticks = tokio::time::interval(INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut sent = BTreeMap::new();
    let started = Instant::now();
    for number in first.. {
        ticks.tick().await;
        if started.elapsed() > settings.duration * LENGTH {
            break;
        }
        let object = number % settings.objects;
        let path = format!("{collection}/{}", kind::name(object));
        sent.insert(number, Instant::now());
        connection.succeed(Call::merge_patch(&path, patch.body(object, number))).await?;
    }
    Ok(sent)
}

/// When the last of the watchers got each of the events.
async fn last_arrivals(
    receiver: &mut UnboundedReceiver<Seen>,
    events: usize,
    watchers: usize,
) -> anyhow::Result<BTreeMap<u64, Instant>> {
    let mut arrivals: BTreeMap<u64, Instant> = BTreeMap::new();
    for _ in 0..events * watchers {
        let Seen { number, at } = receiver.recv().await.context("all watches have ended")?;
        let last = arrivals.entry(number).or_insert(at);
        *last = at.max(*last);
    }
    anyhow::ensure!(arrivals.len() == events, "{} writes made events of {} numbers", events, arrivals.len());
    Ok(arrivals)
}

/// Reads one watch.
async fn follow(mut body: Incoming, sender: &UnboundedSender<Seen>) -> anyhow::Result<()> {
    let mut pending = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame?;
        let Some(data) = frame.data_ref() else { continue };
        let at = Instant::now();
        pending.extend_from_slice(data);
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line = pending.split_to(end + 1);
            if let Some(number) = number_of(&line) {
                sender.send(Seen { number, at })?;
            }
        }
    }
    Ok(())
}

/// The number of the write that an event is of.
fn number_of(line: &[u8]) -> Option<u64> {
    const MARK: &[u8] = b"\"bench.ucloud.ungleich.ch/count\":\"n";
    let at = line.windows(MARK.len()).position(|window| window == MARK)? + MARK.len();
    let digits = line[at..].iter().take_while(|byte| byte.is_ascii_digit());
    Some(digits.fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_tells_its_number() {
        let event = br#"{"type":"MODIFIED","object":{"metadata":{"annotations":{"bench.ucloud.ungleich.ch/count":"n000000042","x":"1"}}}}"#;
        assert_eq!(number_of(event), Some(42));
        assert_eq!(number_of(br#"{"type":"BOOKMARK"}"#), None);
    }
}
