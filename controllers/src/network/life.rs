//! Which routers live, and whether the networks of one that does not are to move.
//!
//! A router renews its Lease every two seconds, and its Lease says for how long it holds. When it does not, by this
//! process' own clock since it last saw the Lease change, and the server has confirmed that, the router is dead and its
//! networks move. A process that has just started has seen nothing, and so moves nothing before a Lease's whole time is
//! over.
//!
//! Nothing moves where most routers are silent at once: then the trouble is more likely between them and the API server,
//! and they route on. What counts is who has missed a renewal by then, as routers that fall silent in one moment are not
//! found silent in one moment. Routers that were given up before, and carry nothing any more, do not count.
//!
//! The verdicts are kept in memory alone: they are found again by looking, and writing them would tell nobody anything
//! that the networks' conditions do not.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{
    ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use tracing::{info, warn};
use ucloud_types::{Host, Network};

use super::{
    needs_router,
    router::{self, is_router},
};
use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime,
    cache::object_ref,
    events::{EventType, Events},
    hearing::Hearing,
    queue::Requests,
};

const NAME: &str = "router";
/// With more than this share of routers silent, in percent, nothing moves.
const STORM_PERCENT: usize = 55;
/// When to look again whether the networks of a silent router may move.
const RECONSIDER: Duration = Duration::from_millis(500);

/// What is known of a router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It renews its Lease; or has not been watched for long enough to tell.
    Alive,
    /// It is silent, and so are most others: its networks stay.
    Held,
    /// It is silent: its networks move.
    Dead,
}

/// The lives of all routers. Cheap to clone.
#[derive(Clone, Default)]
pub struct Lives(Arc<Mutex<HashMap<String, Life>>>);

impl Lives {
    /// What is known of the host of this name.
    pub fn of(&self, host: &str) -> Life {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(host).copied().unwrap_or(Life::Alive)
    }

    /// Takes in what was found out, and tells whether it is news.
    fn set(&self, host: &str, life: Life) -> bool {
        let mut lives = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = match life {
            Life::Alive => lives.remove(host),
            _ => lives.insert(host.to_owned(), life),
        };
        before.unwrap_or(Life::Alive) != life
    }
}

/// How long routers may be silent.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// The shortest time that a Lease may say.
    pub least: Duration,
    /// The longest; also that of a Lease that says nothing.
    pub most: Duration,
}

impl Patience {
    fn with(self, lease: Option<&Lease>) -> Duration {
        let seconds = lease.and_then(|lease| lease.spec.as_ref()?.lease_duration_seconds);
        let said = seconds.and_then(|seconds| u64::try_from(seconds).ok()).map(Duration::from_secs);
        said.unwrap_or(self.most).clamp(self.least.min(self.most), self.most)
    }
}

/// Watches the routers for ever, and has `requests` look at the networks when there is news of one.
pub fn run(
    runtime: &Runtime,
    hosts: &Cache<Host>,
    leases: &Cache<Lease>,
    networks: &Cache<Network>,
    requests: Requests<Network>,
    (lives, patience): (Lives, Patience),
) -> impl Future<Output = ()> + use<> {
    let hearing = Hearing::new(&runtime.client, leases);
    let (known, gone, gone_lives) = (hosts.clone(), hearing.clone(), lives.clone());
    let controller = Controller::new(NAME, runtime, hosts)
        .watch(leases, move |change: &Change<Lease>| {
            let name = change.object().map(|lease| lease.name_any());
            let name = name.filter(|name| known.get(None, name).is_some_and(|host| is_router(&host)));
            name.map(|name| object_ref(None, &name))
        })
        .watch(hosts, move |change: &Change<Host>| {
            if let Change { old: Some(host), new: None } = change {
                gone.forget(&host.name_any());
                gone_lives.set(&host.name_any(), Life::Alive);
            }
            None
        });
    let reconciler = Routers {
        hosts: hosts.clone(),
        networks: networks.clone(),
        requests,
        hearing,
        lives,
        patience,
        events: runtime.events.clone(),
    };
    controller.run(reconciler, Limits { concurrency: 4, ..Limits::default() })
}

struct Routers {
    hosts: Cache<Host>,
    networks: Cache<Network>,
    requests: Requests<Network>,
    hearing: Hearing,
    lives: Lives,
    patience: Patience,
    events: Events,
}

impl Routers {
    /// Whether so many routers are late that nothing is to move.
    fn is_storm(&self) -> bool {
        let load = router::load(&self.networks.all());
        let hosts = self.hosts.all();
        is_storm(hosts.iter().filter(|host| is_router(host)).map(|host| {
            let name = host.name_any();
            Peer { late: self.hearing.is_late(&name), carries: load.get(&name).is_some_and(|count| *count > 0) }
        }))
    }

    fn conclude(&self, host: &Host, life: Life) {
        let name = host.name_any();
        if !self.lives.set(&name, life) {
            return;
        }
        let (type_, reason, note) = match life {
            Life::Alive => (EventType::Normal, "RouterBack", "the router renews its lease again"),
            Life::Held => (
                EventType::Warning,
                "RoutersSilent",
                "the router does not renew its lease, and neither do most others: no network is moved. See whether \
                 routers reach the API server",
            ),
            Life::Dead => {
                (EventType::Warning, "RouterSilent", "the router does not renew its lease: its networks are moved")
            }
        };
        if life == Life::Alive {
            info!(host = name, "{note}");
        } else {
            warn!(host = name, "{note}");
        }
        self.events.publish(NAME, host, type_, ("Route", reason), note);
        for network in self.networks.all().iter().filter(|network| needs_router(network)) {
            self.requests.request(ObjectRef::from_obj(&**network));
        }
    }
}

impl Reconciler for Routers {
    type Object = Host;

    async fn reconcile(&self, host: Arc<Host>) -> Result<Action, Failure> {
        let name = host.name_any();
        if !is_router(&host) {
            // another rule makes its networks leave it
            self.hearing.forget(&name);
            self.lives.set(&name, Life::Alive);
            return Ok(Action::await_change());
        }
        if let Some(left) = self.hearing.look(&host, |lease| self.patience.with(lease)).await? {
            self.conclude(&host, Life::Alive);
            return Ok(Action::requeue(left));
        }
        // once its networks move, they all do
        if self.lives.of(&name) != Life::Dead && self.is_storm() {
            self.conclude(&host, Life::Held);
            return Ok(Action::requeue(RECONSIDER));
        }
        self.conclude(&host, Life::Dead);
        Ok(Action::await_change())
    }

    async fn report_failure(&self, host: Arc<Host>, _: &'static str, message: String) -> Result<(), Failure> {
        // while nobody can tell, nothing moves; that is no news of the host
        warn!(host = host.name_any(), message, "cannot tell whether the router lives");
        Ok(())
    }
}

/// A router, when another is silent.
#[derive(Clone, Copy, Debug)]
struct Peer {
    /// It has missed a renewal.
    late: bool,
    /// It carries gateways.
    carries: bool,
}

fn is_storm(routers: impl IntoIterator<Item = Peer>) -> bool {
    let (mut late, mut all) = (0, 0);
    for router in routers.into_iter().filter(|router| router.carries || !router.late) {
        all += 1;
        late += usize::from(router.late);
    }
    late * 100 > all * STORM_PERCENT
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::coordination::v1::LeaseSpec;

    use super::*;

    #[test]
    fn one_of_two_may_fail_and_two_of_three_may_not_at_once() {
        let routers = |late: usize, all: usize| (0..all).map(move |n| Peer { late: n < late, carries: true });
        for (late, all) in [(0, 1), (1, 2), (1, 3), (2, 4), (5, 10)] {
            assert!(!is_storm(routers(late, all)), "{late} of {all}");
        }
        for (late, all) in [(1, 1), (2, 2), (2, 3), (3, 5), (6, 10)] {
            assert!(is_storm(routers(late, all)), "{late} of {all}");
        }
        assert!(!is_storm([]));
    }

    #[test]
    fn who_was_given_up_before_does_not_count() {
        let lost = Peer { late: true, carries: false };
        let silent = Peer { late: true, carries: true };
        let idle = Peer { late: false, carries: false };
        assert!(!is_storm([lost, silent, idle]), "one after the other, two of three may fail");
        assert!(is_storm([lost, silent]), "the last one has nobody to take over");
    }

    #[test]
    fn a_lease_says_how_long_it_holds_within_bounds() {
        let patience = Patience { least: Duration::from_secs(6), most: Duration::from_secs(40) };
        let with = |seconds| {
            let spec = LeaseSpec { lease_duration_seconds: seconds, ..LeaseSpec::default() };
            patience.with(Some(&Lease { spec: Some(spec), ..Lease::default() })).as_secs()
        };
        assert_eq!([Some(8), Some(1), Some(999), Some(-1), None].map(with), [8, 6, 40, 40, 40]);
        assert_eq!(patience.with(None).as_secs(), 40, "an agent of old renews it every 10 s");
    }

    #[test]
    fn only_changes_are_news() {
        let lives = Lives::default();
        assert!(!lives.set("h", Life::Alive));
        assert!(lives.set("h", Life::Held) && !lives.set("h", Life::Held));
        assert_eq!((lives.of("h"), lives.of("another")), (Life::Held, Life::Alive));
        assert!(lives.set("h", Life::Dead) && lives.set("h", Life::Alive));
    }
}
