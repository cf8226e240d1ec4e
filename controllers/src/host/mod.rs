//! The host controller: says of a host that has been silent for too long that nobody knows how it is.
//!
//! A host's agent renews its Lease and owns its condition Ready while it is alive. When it is silent for longer than its
//! Lease holds, Ready becomes Unknown here, and the agent sets it back when it returns. Its VMs say the same ([`vms`]).
//! Nothing else follows in this place: VMs are never stopped, and never started elsewhere, because a host does not answer.

mod vms;

use std::{sync::Arc, time::Duration};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{ResourceExt as _, runtime::controller::Action};
use ucloud_types::{
    Host, HostStatus, VM,
    condition::{Finding, READY, Verdict},
};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime,
    cache::object_ref,
    hearing::{Hearing, LEASE_EXPIRED, ready},
    report::{Reports, Share, find, status_of},
};

const NAME: &str = "host";
/// Whether a silent host is Ready. When it is back, its agent takes the condition again.
const SHARE: Share = Share::Part { fields: &[], conditions: &[READY] };

/// Runs the controllers for ever. `leases` are those of the hosts; `lease_duration` is how long a host may be silent.
pub fn run(
    runtime: &Runtime,
    hosts: &Cache<Host>,
    leases: &Cache<Lease>,
    vms: &Cache<VM>,
    lease_duration: Duration,
) -> impl Future<Output = ()> + use<> {
    let hearing = Hearing::new(&runtime.client, leases);
    let gone = hearing.clone();
    let controller = Controller::new(NAME, runtime, hosts)
        .watch(leases, |change: &Change<Lease>| change.object().map(|lease| object_ref(None, &lease.name_any())))
        .watch(hosts, move |change: &Change<Host>| {
            if let Change { old: Some(host), new: None } = change {
                gone.forget(&host.name_any());
            }
            None
        });
    let reconciler = Hosts { lease_duration, hearing, reports: Reports::new(runtime, NAME, SHARE) };
    let hosts_run = controller.run(reconciler, Limits::default());
    let vms_run = vms::run(runtime, vms, hosts);
    async move {
        tokio::join!(hosts_run, vms_run);
    }
}

struct Hosts {
    lease_duration: Duration,
    hearing: Hearing,
    reports: Reports,
}

impl Reconciler for Hosts {
    type Object = Host;

    async fn reconcile(&self, host: Arc<Host>) -> Result<Action, Failure> {
        if let Some(left) = self.hearing.look(&host, |_| self.lease_duration).await? {
            return Ok(Action::requeue(left));
        }
        self.reports.write(&*host, &silent(&host, self.lease_duration)).await?;
        Ok(Action::await_change())
    }

    async fn report_failure(&self, _: Arc<Host>, _: &'static str, message: String) -> Result<(), Failure> {
        // a host's conditions are its agent's: that a status could not be written is no news of the host
        tracing::warn!(message, "cannot say that the host is silent");
        Ok(())
    }
}

/// The status of a host that is silent.
fn silent(host: &Host, lease_duration: Duration) -> HostStatus {
    let mut status = status_of(host);
    // what was said of a silent host before needs no second time, whatever its words were
    let said = ready(host).is_some_and(|ready| ready.reason == LEASE_EXPIRED);
    if !said {
        let message = format!(
            "the agent has not renewed its lease for {} s: it is down, or cannot reach the API. \
             Its VMs are left as they are. See to ucloud-agent on {}",
            lease_duration.as_secs(),
            host.name_any()
        );
        let finding = Finding::new(READY, Verdict::Unknown, LEASE_EXPIRED, message);
        find(host, &mut status, &finding);
    }
    status
}

#[cfg(test)]
mod tests {
    use k8s_openapi::jiff::Timestamp;
    use ucloud_types::condition::{self, Condition};

    use super::*;

    #[test]
    fn silence_is_said_once() {
        let mut host = Host::new("h1", ucloud_types::HostSpec::default());
        let status = silent(&host, Duration::from_secs(40));
        let ready = condition::get(&status.conditions, READY).unwrap();
        assert_eq!((ready.status.as_str(), ready.reason.as_str()), ("Unknown", LEASE_EXPIRED));
        host.status = Some(status.clone());
        host.metadata.generation = Some(7);
        assert_eq!(silent(&host, Duration::from_secs(40)), status);
    }

    #[test]
    fn what_the_agent_reported_stays() {
        let mut host = Host::new("h1", ucloud_types::HostSpec::default());
        let reported = HostStatus {
            boot_id: Some("b".into()),
            conditions: vec![Condition {
                type_: condition::ACCELERATED.into(),
                status: "True".into(),
                reason: "Kvm".into(),
                message: String::new(),
                observed_generation: None,
                last_transition_time: condition::Time(Timestamp::UNIX_EPOCH),
            }],
            ..HostStatus::default()
        };
        host.status = Some(reported.clone());
        let status = silent(&host, Duration::from_secs(40));
        assert_eq!(status.boot_id, reported.boot_id);
        assert_eq!(status.conditions[0], reported.conditions[0]);
    }
}
