//! The snapshot-schedule controller: makes Snapshots at the moments of a schedule, and deletes those that are too many.
//!
//! A Snapshot is named after its schedule and its moment, so one that was made before a crash is found again and not made
//! twice. Snapshots are known by labels and not by an owner, for they are to stay when their schedule is deleted: nobody's
//! backups go because of what made them. Where nothing comes of a moment that is said, and the next one is waited for.

mod plan;

use std::{sync::Arc, time::Duration};

use k8s_openapi::jiff::{Timestamp, tz::TimeZone};
use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{Recurrence, Snapshot, SnapshotSchedule, VM, Volume, condition::READY, meta::SCHEDULE_LABEL};

use crate::runtime::{
    Cache, Change, Clock, Controller, Failure, Kind, Limits, Reconciler, Runtime,
    failure::{ApiError, is_refusal},
    is_deleting, objects,
    report::{Reports, Share},
    uid_of,
};
use plan::{Outcome, Turn};

const NAME: &str = "snapshot-schedule";

/// The longest sleep before a moment: a clock that is set is noticed after this long.
const LONGEST_SLEEP: Duration = Duration::from_mins(1);

/// Too many requests: the one refusal that passes.
const TOO_MANY_REQUESTS: u16 = 429;

/// What the controller reads.
#[derive(Clone)]
pub struct Caches {
    /// Schedules.
    pub schedules: Cache<SnapshotSchedule>,
    /// Snapshots, theirs among them.
    pub snapshots: Cache<Snapshot>,
    /// What they are of.
    pub vms: Cache<VM>,
    /// What others are of.
    pub volumes: Cache<Volume>,
}

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, caches: &Caches) -> impl Future<Output = ()> + use<> {
    let controller =
        Controller::new(NAME, runtime, &caches.schedules).watch(&caches.snapshots, move |change: &Change<Snapshot>| {
            let snapshot = change.object()?;
            let schedule = snapshot.labels().get(SCHEDULE_LABEL)?;
            Some(ObjectRef::new(schedule).within(snapshot.metadata.namespace.as_deref()?))
        });
    let reconciler = SnapshotSchedules {
        client: runtime.client.clone(),
        clock: Arc::clone(&runtime.clock),
        caches: caches.clone(),
        reports: Reports::new(runtime, NAME, Share::Whole),
    };
    controller.run(reconciler, Limits::default())
}

struct SnapshotSchedules {
    client: Client,
    clock: Clock,
    caches: Caches,
    reports: Reports,
}

impl SnapshotSchedules {
    /// The snapshots of the schedule, as the cache knows them.
    fn made(&self, schedule: &SnapshotSchedule) -> Vec<Arc<Snapshot>> {
        let mut all = self.caches.snapshots.all();
        all.retain(|snapshot| plan::is_of(schedule, snapshot));
        all
    }

    /// Makes the snapshot of a moment, as far as that can be.
    async fn take(&self, schedule: &SnapshotSchedule, moment: Timestamp) -> Result<Outcome, Failure> {
        let missing = match (&schedule.spec.snapshot.vm, &schedule.spec.snapshot.volume) {
            (Some(vm), _) => self.missing(schedule, &self.caches.vms, vm).await?,
            (None, Some(volume)) => self.missing(schedule, &self.caches.volumes, volume).await?,
            (None, None) => Some("spec.snapshot names nothing".to_owned()),
        };
        if let Some(message) = missing {
            return Ok(Outcome::Nothing { moment, reason: "SourceNotFound", message });
        }
        let snapshot = plan::snapshot(schedule, moment);
        match objects::create(&self.client, &snapshot).await {
            Ok(_) => Ok(Outcome::Made(moment)),
            Err(Failure::Conflict { doing }) => {
                let namespace = schedule.metadata.namespace.as_deref();
                match objects::get::<Snapshot>(&self.client, namespace, &snapshot.name_any()).await? {
                    // a reply was lost, or the cache is behind
                    Some(found) if plan::is_of(schedule, &found) => Ok(Outcome::Made(moment)),
                    Some(found) => {
                        let message = format!("Snapshot {} exists and is not of this schedule", found.name_any());
                        Ok(Outcome::Nothing { moment, reason: "NameTaken", message })
                    }
                    None => Err(Failure::Conflict { doing }),
                }
            }
            // a quota, most of all
            Err(Failure::Api { source: ApiError::Refused(status), .. })
                if is_refusal(&status) && status.code != TOO_MANY_REQUESTS =>
            {
                Ok(Outcome::Nothing { moment, reason: "Refused", message: status.message })
            }
            Err(Failure::Terminal { reason, message }) => Ok(Outcome::Nothing { moment, reason, message }),
            Err(failure) => Err(failure),
        }
    }

    /// Why there is nothing of that name to take.
    async fn missing<K: Kind>(
        &self,
        schedule: &SnapshotSchedule,
        cache: &Cache<K>,
        name: &str,
    ) -> Result<Option<String>, Failure> {
        let namespace = schedule.metadata.namespace.as_deref();
        let mut source = cache.get(namespace, name);
        if source.is_none() {
            // a cache is no proof of absence
            source = objects::get(&self.client, namespace, name).await?.map(Arc::new);
        }
        let kind = K::kind(&());
        Ok(match source {
            None => Some(format!("{kind} {name} does not exist: create it, or delete the schedule")),
            Some(source) if is_deleting(&*source) => Some(format!("{kind} {name} is being deleted")),
            Some(_) => None,
        })
    }

    /// The schedule as the server has it, unless it goes.
    async fn present(&self, schedule: &SnapshotSchedule) -> Result<Option<SnapshotSchedule>, Failure> {
        let (namespace, uid) = (schedule.metadata.namespace.as_deref(), uid_of(schedule));
        let present = objects::get::<SnapshotSchedule>(&self.client, namespace, &schedule.name_any()).await?;
        Ok(present.filter(|present| uid_of(present) == uid && !is_deleting(present)))
    }

    /// Deletes what is too many. What that is, is decided on what the server has.
    async fn delete_surplus(&self, schedule: &SnapshotSchedule) -> Result<(), Failure> {
        let namespace = schedule.metadata.namespace.as_deref();
        let Some(schedule) = self.present(schedule).await? else { return Ok(()) };
        let mut made: Vec<Snapshot> = objects::list(&self.client, namespace, None).await?;
        made.retain(|snapshot| plan::is_of(&schedule, snapshot));
        let made: Vec<_> = made.into_iter().map(Arc::new).collect();
        for snapshot in plan::surplus(&schedule, &made) {
            objects::delete(&self.client, &*snapshot).await?;
        }
        Ok(())
    }
}

impl Reconciler for SnapshotSchedules {
    type Object = SnapshotSchedule;

    async fn reconcile(&self, mut schedule: Arc<SnapshotSchedule>) -> Result<Action, Failure> {
        if is_deleting(&*schedule) {
            return Ok(Action::await_change());
        }
        let recurrence = match recurrence(&schedule) {
            Ok(recurrence) => recurrence,
            Err(message) => {
                self.reports.write(&*schedule, &plan::unreadable(&schedule, message)).await?;
                return Ok(Action::await_change());
            }
        };
        let now = (self.clock)();
        let made = self.made(&schedule);
        let mut turn = plan::turn(&schedule, &recurrence, &made, now);
        if matches!(turn, Turn::Due(_)) {
            // What was tried is not tried again because the cache does not know of it yet
            let present = self.present(&schedule).await?;
            let Some(present) = present.filter(|is| is.metadata.generation == schedule.metadata.generation) else {
                return Ok(Action::await_change());
            };
            schedule = Arc::new(present);
            turn = plan::turn(&schedule, &recurrence, &made, now);
        }
        let outcome = match turn {
            Turn::Due(moment) => self.take(&schedule, moment).await?,
            Turn::Settled(outcome) => outcome,
        };
        let status = plan::status(&schedule, &recurrence, &made, &outcome, now);
        self.reports.write(&*schedule, &status).await?;
        if !plan::surplus(&schedule, &made).is_empty() {
            self.delete_surplus(&schedule).await?;
        }
        let wait = status.next_time.and_then(|next| Duration::try_from(next.0.duration_since(now)).ok());
        Ok(Action::requeue(wait.map_or(LONGEST_SLEEP, |wait| wait.min(LONGEST_SLEEP))))
    }

    async fn report_failure(
        &self,
        schedule: Arc<SnapshotSchedule>,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        self.reports.write_failure(&*schedule, READY, reason, message).await
    }
}

/// The moments of the schedule. The API server has checked them by its own tz database.
fn recurrence(schedule: &SnapshotSchedule) -> Result<Recurrence, String> {
    let name = schedule.spec.effective_time_zone();
    let zone = TimeZone::get(name).map_err(|_| {
        format!("the tz database where ucloud-controllers runs has no time zone {name}: install it there (tzdata)")
    })?;
    Recurrence::parse(&schedule.spec.schedule, zone).map_err(|error| format!("spec.schedule: {error}"))
}
