//! Removes allocations that no network has any more: those of networks that are gone, and the losers where two
//! allocators made one each.
//!
//! Nothing is removed on the word of a cache. The network is read from the server, after the allocation was seen; as a
//! network is there before its allocation is made, an allocation that is just being made is never taken for a left-over.
//! And a VNI for which any host has devices is not freed.

use std::{collections::HashSet, sync::Arc};

use kube::{
    Client, ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use tracing::{info, warn};
use ucloud_types::{Host, Network, NetworkAllocation, NetworkAllocationSpec};

use super::usage::{given_up, hosts_with_devices};
use crate::runtime::{Cache, Change, Controller, Failure, Limits, Lists, Reconciler, Runtime, objects, uid_of};

const NAME: &str = "network-allocation";

/// Removes what is left over, for ever.
pub fn run(
    runtime: &Runtime,
    allocations: &Cache<NetworkAllocation>,
    networks: &Cache<Network>,
    (hosts, live_hosts): (&Cache<Host>, &Arc<Lists<Host>>),
) -> impl Future<Output = ()> + use<> {
    let (all, everything) = (allocations.clone(), allocations.clone());
    let controller = Controller::new(NAME, runtime, allocations)
        .watch(networks, move |change: &Change<Network>| {
            let decided = change.differs(|network| network.status.as_ref().and_then(|status| status.vni));
            let uid = change
                .object()
                .filter(|_| decided || change.new.is_none())
                .map(|network| uid_of(&**network).to_owned());
            let all = if uid.is_some() { all.all() } else { Vec::new() };
            all.into_iter()
                .filter(move |allocation| Some(&allocation.spec.network_uid) == uid.as_ref())
                .map(|allocation| ObjectRef::from_obj(&*allocation))
        })
        .watch(hosts, move |change: &Change<Host>| {
            let gone = given_up(change);
            let uids: HashSet<_> = gone.iter().map(|devices| devices.uid.as_str()).collect();
            let vnis: HashSet<_> = gone.iter().map(|devices| devices.vni).collect();
            let all = if gone.is_empty() { Vec::new() } else { everything.all() };
            let released = |allocation: &&Arc<NetworkAllocation>| {
                let NetworkAllocationSpec { vni, network_uid, .. } = &allocation.spec;
                vni.is_some_and(|vni| vnis.contains(&vni)) || uids.contains(network_uid.as_str())
            };
            all.iter().filter(released).map(|allocation| ObjectRef::from_obj(&**allocation)).collect::<Vec<_>>()
        });
    let reconciler = Allocations {
        client: runtime.client.clone(),
        networks: networks.clone(),
        hosts: hosts.clone(),
        live_hosts: Arc::clone(live_hosts),
    };
    controller.run(reconciler, Limits { concurrency: 4, ..Limits::default() })
}

struct Allocations {
    client: Client,
    networks: Cache<Network>,
    hosts: Cache<Host>,
    live_hosts: Arc<Lists<Host>>,
}

/// Whether the allocation is its network's, as far as this version of the network tells.
fn is_wanted(allocation: &NetworkAllocation, network: Option<&Network>) -> bool {
    let Some(network) = network.filter(|network| uid_of(*network) == allocation.spec.network_uid) else {
        return false;
    };
    let Some(vni) = allocation.spec.vni else { return network.spec.prefix == Some(allocation.spec.prefix) };
    // while the status names no VNI, the network is being given one
    network.status.as_ref().and_then(|status| status.vni).is_none_or(|named| named == vni)
}

impl Allocations {
    async fn is_in_use(&self, allocation: &NetworkAllocation) -> Result<bool, Failure> {
        // A network that has another VNI may use its devices; one whose prefix is given back may not
        let uid = allocation.spec.vni.is_none().then_some(allocation.spec.network_uid.as_str());
        let on = |hosts: &[Arc<Host>]| hosts_with_devices(hosts, uid, allocation.spec.vni.as_slice());
        let mut users = on(&self.hosts.all());
        if users.is_empty() {
            users = on(&self.live_hosts.fresh(None).await?);
        }
        if !users.is_empty() {
            warn!(allocation = allocation.name_any(), hosts = ?users, "left over, but hosts still have devices of it: kept");
        }
        Ok(!users.is_empty())
    }
}

impl Reconciler for Allocations {
    type Object = NetworkAllocation;

    async fn reconcile(&self, allocation: Arc<NetworkAllocation>) -> Result<Action, Failure> {
        let NetworkAllocationSpec { namespace, network, .. } = &allocation.spec;
        let cached = self.networks.get(Some(namespace), network);
        if is_wanted(&allocation, cached.as_deref()) {
            return Ok(Action::await_change());
        }
        let live: Option<Network> = objects::get(&self.client, Some(namespace), network).await?;
        if is_wanted(&allocation, live.as_ref()) || self.is_in_use(&allocation).await? {
            return Ok(Action::await_change());
        }
        info!(
            allocation = allocation.name_any(),
            network = format!("{namespace}/{network}"),
            "allocation belongs to no network, removing it"
        );
        objects::delete(&self.client, &*allocation).await?;
        Ok(Action::await_change())
    }

    async fn report_failure(
        &self,
        allocation: Arc<NetworkAllocation>,
        _: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        // an allocation has no status; the log and the metrics have to do
        warn!(allocation = allocation.name_any(), message, "cannot tell whether the allocation is left over");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::testing::{allocation, network, vni};

    #[test]
    fn wanted_is_what_the_network_with_that_uid_has_or_is_about_to_have() {
        let ours = allocation("default", 100, "uid-n");
        let mut network = network("n");
        assert!(is_wanted(&ours, Some(&network)), "pattern 8: it is being made");
        network.status.get_or_insert_default().vni = Some(vni(100));
        assert!(is_wanted(&ours, Some(&network)));
        network.status.get_or_insert_default().vni = Some(vni(101));
        assert!(!is_wanted(&ours, Some(&network)), "the network has another one");
        network.metadata.uid = Some("another".into());
        network.status.get_or_insert_default().vni = Some(vni(100));
        assert!(!is_wanted(&ours, Some(&network)), "pattern 4: made again under the same name");
        assert!(!is_wanted(&ours, None));

        let mut claim = allocation("default", 100, "another");
        claim.spec.vni = None;
        assert!(!is_wanted(&claim, Some(&network)), "the network has no prefix of its own");
        network.spec.prefix = Some(claim.spec.prefix);
        assert!(is_wanted(&claim, Some(&network)));
    }
}
