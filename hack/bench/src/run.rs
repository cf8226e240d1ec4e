//! A whole run: fills the server, goes through the steps round by round, and shows what came of it.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use http::StatusCode;
use jiff::Timestamp;

use crate::http::{Call, Connection, Protocol};
use crate::kind::{self, OBJECT_BYTES, Template};
use crate::load::{Limit, Usage, closed_loop, number, speed};
use crate::machine::Machine;
use crate::results::{Context, Figures, Metric, Results};
use crate::settings::Settings;
use crate::steps::{self, Step, Transport, Workload};
use crate::subject::Subject;
use crate::{lists, plot, raw, targets, terminal, watches};

/// Updates go round among so many objects, so that hardly two clients ever meet at one.
const UPDATED: u64 = 500;
/// For what is not measured itself.
const HELPERS: usize = 16;
/// Each loop runs before it is measured for this part of its duration.
const WARM_UP: u32 = 5;

/// Measures everything that `settings` ask for.
pub async fn run(settings: &Settings, subject: &mut Subject, start: Option<f64>) -> anyhow::Result<()> {
    let context = Context {
        date: Timestamp::now(),
        machine: Machine::here()?,
        server: subject.version().await?,
        etcd: subject.raw().map_or("unknown", |(_, version)| version).to_owned(),
        kind: settings.kind,
        object_bytes: OBJECT_BYTES,
        objects: settings.objects,
        rounds: settings.rounds,
        seconds: settings.duration.as_secs_f64(),
    };
    terminal::introduce(&context);
    let mut run = Run { settings, subject, results: Results::default(), next: settings.objects };
    run.memory(Workload::StartEmpty, start)?;
    run.fill().await?;
    run.memory(Workload::Filled, None)?;
    let steps = steps::of_round(settings);
    let all = steps.len() * settings.rounds as usize;
    for index in 0..all {
        let step = steps[index % steps.len()];
        let outcome = run.measure(step).await.with_context(|| format!("cannot measure {}", step.workload.name()))?;
        terminal::progress(index + 1, all, step, &outcome);
        match outcome {
            Outcome::Measured(figures) => run.results.record(step, &figures),
            Outcome::LeftOut(why) => {
                run.results.left_out.insert(step, why);
            }
        }
    }
    run.memory(Workload::End, None)?;

    let results = run.results;
    terminal::show(&results);
    terminal::show_targets(&targets::compare(&results, settings));
    save(&settings.json, &results.to_json(&context)?)?;
    save(&settings.plot, &plot::draw(&context, &results))?;
    eprintln!("\nfigures: {}\npicture: {}", settings.json.display(), settings.plot.display());
    Ok(())
}

fn save(path: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}

/// What became of a step.
pub enum Outcome {
    Measured(Figures),
    /// It cannot be measured with this server or kind, and why.
    LeftOut(String),
}

struct Run<'a> {
    settings: &'a Settings,
    subject: &'a mut Subject,
    results: Results,
    /// The number of the next object or change; none is used twice.
    next: u64,
}

impl Run<'_> {
    async fn measure(&mut self, step: Step) -> anyhow::Result<Outcome> {
        let updated = self.settings.objects.min(UPDATED);
        let object = self.settings.kind.object();
        let collection = self.settings.kind.collection();
        let path = |number: u64| format!("{collection}/{}", kind::name(number));
        Ok(Outcome::Measured(match step.workload {
            Workload::StartEmpty | Workload::Filled | Workload::End => {
                return Ok(Outcome::LeftOut("is measured once".to_owned()));
            }
            Workload::Start => {
                let time = self.subject.restart().await?;
                let mut figures = self.memory_figures()?;
                figures.add(Metric::Start, time.as_secs_f64() * 1e3);
                figures
            }
            Workload::RawEtcd => return self.raw(step).await,
            Workload::List => lists::measure(self.settings, self.subject, "").await?,
            Workload::ListCached => lists::measure(self.settings, self.subject, "?resourceVersion=0").await?,
            Workload::Watch => {
                // far above what there is time for
                let first = self.take(1_000_000);
                watches::measure(self.settings, self.subject, first).await?
            }
            Workload::Create => {
                let first = self.next;
                let mut figures = self
                    .looped(step, async |client, number| {
                        client.succeed(Call::post(&collection, object.body(number, number))).await?;
                        Ok(())
                    })
                    .await?;
                self.remove(first).await?;
                let raw = self.results.last(Step::new(Workload::RawEtcd, step.clients), Metric::Rate);
                if let (Some(rate), Some(raw)) = (figures.get(Metric::Rate), raw) {
                    figures.add(Metric::RateToRaw, rate / raw);
                }
                figures
            }
            Workload::UpdateStatus => {
                let Some(patch) = self.settings.kind.status() else {
                    return Ok(Outcome::LeftOut("the kind has no status".to_owned()));
                };
                self.looped(step, async |client, number| {
                    let object = number % updated;
                    let path = format!("{}/status", path(object));
                    client.succeed(Call::merge_patch(&path, patch.body(object, number))).await?;
                    Ok(())
                })
                .await?
            }
            Workload::ApplyChanged | Workload::ApplyUnchanged => {
                if !self.can_apply(&object).await? {
                    return Ok(Outcome::LeftOut("not supported by this server".to_owned()));
                }
                let changes = step.workload == Workload::ApplyChanged;
                if !changes {
                    self.apply_once(&object, updated).await?;
                }
                self.looped(step, async |client, number| {
                    let path = apply_path(&path(number % updated));
                    let body = object.body(number % updated, if changes { number } else { 0 });
                    client.succeed(Call::apply(&path, body)).await?;
                    Ok(())
                })
                .await?
            }
            Workload::Get | Workload::GetCached => {
                let query = if step.workload == Workload::GetCached { "?resourceVersion=0" } else { "" };
                let objects = self.settings.objects;
                self.looped(step, async |client, number| {
                    // all of them, in no order that a cache of a processor could foresee
                    let path = format!("{}{query}", path(number.wrapping_mul(7919) % objects));
                    client.succeed(Call::get(&path)).await?;
                    Ok(())
                })
                .await?
            }
        }))
    }

    fn object_path(&self, number: u64) -> String {
        format!("{}/{}", self.settings.kind.collection(), kind::name(number))
    }

    fn take(&mut self, numbers: u64) -> u64 {
        let first = self.next;
        self.next += numbers;
        first
    }

    /// A closed loop of requests, with what it took of CPU time and writes.
    async fn looped(
        &mut self,
        step: Step,
        operation: impl AsyncFn(&mut Connection, u64) -> anyhow::Result<()>,
    ) -> anyhow::Result<Figures> {
        let mut clients = connect(self.subject, step.transport, step.clients).await?;
        let duration = self.settings.duration;
        let first = self.next;
        let warm = closed_loop(&mut clients, Limit::time(duration / WARM_UP), async |client, n| {
            operation(client, first + n).await
        });
        let first = first + warm.await?.latencies.len() as u64;
        let mut figures = Figures::default();
        let revision = self.subject.revision().await?;
        let before = Usage::of(self.subject)?;
        let measured =
            closed_loop(&mut clients, Limit::time(duration), async |client, n| operation(client, first + n).await);
        let mut timed = measured.await?;
        let after = Usage::of(self.subject)?;
        let writes = self.subject.revision().await?.saturating_sub(revision);
        let operations = timed.latencies.len();
        self.next = first + operations as u64;
        before.until(&after, operations, &mut figures);
        figures.add(Metric::Writes, number(usize::try_from(writes)?) / number(operations.max(1)));
        speed(&mut timed, &mut figures);
        Ok(figures)
    }

    async fn raw(&mut self, step: Step) -> anyhow::Result<Outcome> {
        let first = self.next;
        let Some((client, _)) = self.subject.raw() else {
            return Ok(Outcome::LeftOut("needs --program, for the certificates of an etcd".to_owned()));
        };
        let duration = self.settings.duration;
        let warm = raw::transactions(client, step.clients, first, Limit::time(duration / WARM_UP)).await?;
        let first = first + warm.latencies.len() as u64;
        let mut figures = Figures::default();
        let before = Usage::new(None, self.subject.raw_process())?;
        let mut timed = raw::transactions(client, step.clients, first, Limit::time(duration)).await?;
        let after = Usage::new(None, self.subject.raw_process())?;
        before.until(&after, timed.latencies.len(), &mut figures);
        speed(&mut timed, &mut figures);
        raw::clear(client).await?;
        self.next = first + timed.latencies.len() as u64;
        Ok(Outcome::Measured(figures))
    }

    async fn fill(&mut self) -> anyhow::Result<()> {
        let (objects, collection, object) =
            (self.settings.objects, self.settings.kind.collection(), self.settings.kind.object());
        terminal::note(&format!("creating {objects} objects"));
        let mut clients = connect(self.subject, Transport::Http2, HELPERS).await?;
        closed_loop(&mut clients, Limit::operations(objects), async |client, number| {
            client.succeed(Call::post(&collection, object.body(number, number))).await?;
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Removes what was created from `first` on.
    async fn remove(&mut self, first: u64) -> anyhow::Result<()> {
        let mut clients = connect(self.subject, Transport::Http2, HELPERS).await?;
        closed_loop(&mut clients, Limit::operations(self.next - first), async |client, number| {
            client.succeed(Call::delete(&self.object_path(first + number))).await?;
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn can_apply(&self, object: &Template) -> anyhow::Result<bool> {
        let mut connection = self.subject.endpoint.connect(Protocol::Http2).await?;
        let path = apply_path(&self.object_path(0));
        match connection.ask(Call::apply(&path, object.body(0, 0))).await? {
            (code, _) if code.is_success() => Ok(true),
            (StatusCode::UNSUPPORTED_MEDIA_TYPE, _) => Ok(false),
            (code, body) => anyhow::bail!("apply: {code}: {}", String::from_utf8_lossy(&body)),
        }
    }

    /// Brings the objects into the state that applies without changes repeat.
    async fn apply_once(&self, object: &Template, updated: u64) -> anyhow::Result<()> {
        let mut clients = connect(self.subject, Transport::Http2, HELPERS).await?;
        closed_loop(&mut clients, Limit::operations(updated), async |client, number| {
            client.succeed(Call::apply(&apply_path(&self.object_path(number)), object.body(number, 0))).await?;
            Ok(())
        })
        .await?;
        Ok(())
    }

    fn memory_figures(&self) -> anyhow::Result<Figures> {
        let mut figures = Figures::default();
        for (metric, process) in [(Metric::ServerMemory, self.subject.server), (Metric::EtcdMemory, self.subject.etcd)]
        {
            if let Some(process) = process {
                figures.add(metric, process.memory()?);
            }
        }
        Ok(figures)
    }

    /// What is measured once: memory, and the time of a start.
    fn memory(&mut self, workload: Workload, start: Option<f64>) -> anyhow::Result<()> {
        let mut figures = self.memory_figures()?;
        if let Some(start) = start {
            figures.add(Metric::Start, start);
        }
        self.results.record(Step::new(workload, 0), &figures);
        Ok(())
    }
}

fn apply_path(object: &str) -> String {
    format!("{object}?fieldManager=ucloud-bench&force=true")
}

/// As many clients as told.
async fn connect(subject: &Subject, transport: Transport, clients: usize) -> anyhow::Result<Vec<Connection>> {
    let protocol = match transport {
        Transport::Http1 => Protocol::Http1,
        Transport::Http2 | Transport::Http2Shared => Protocol::Http2,
    };
    let mut connections: Vec<Connection> = Vec::with_capacity(clients);
    for _ in 0..clients {
        let shared = match transport {
            Transport::Http2Shared => connections.first().and_then(Connection::share),
            Transport::Http1 | Transport::Http2 => None,
        };
        connections.push(match shared {
            Some(shared) => shared,
            None => subject.endpoint.connect(protocol).await?,
        });
    }
    Ok(connections)
}
