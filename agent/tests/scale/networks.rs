//! Networks, each with a VM, come and go.

use std::collections::BTreeSet;

use kube::{Api, api::ListParams};
use tokio::time::{Instant, timeout};
use ucloud_types::{Host, Network, NetworkAllocation, VM, vm::VMPhase};

use crate::{ALONE, PATIENCE, costs::tell, installation::Installation, phase_of};

const HOSTS: usize = 40;
/// VMs that a host has room for.
const ROOM: u32 = 30;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_networks_leave_nothing_behind() {
    let count = crate::size("UCLOUD_SCALE_NETWORKS", 300);
    let _alone = ALONE.lock().await;
    let installation = timeout(PATIENCE, Installation::start(HOSTS, ROOM)).await.expect("all hosts get Ready");
    let begun = Instant::now();
    let running = installation.follow_vms(count, |vm| phase_of(vm) == Some(VMPhase::Running));
    let made = async { tokio::join!(installation.create_networks_with_vms(count), running) };
    timeout(PATIENCE, made).await.expect("all VMs run");
    tell(&format!("{count} networks with a VM each run after {:.1} s", begun.elapsed().as_secs_f64()));

    let networks = Api::<Network>::all(installation.admin.clone()).list(&ListParams::default()).await.unwrap().items;
    let vnis: BTreeSet<_> = networks.iter().filter_map(|network| network.status.as_ref()?.vni).collect();
    assert_eq!(vnis.len(), networks.len(), "each network has a VNI of its own");
    let prefixes: BTreeSet<_> = networks.iter().filter_map(|network| network.status.as_ref()?.prefix).collect();
    assert_eq!(prefixes.len(), networks.len(), "and a prefix of its own");
    let devices = || installation.hosts.values().map(|host| host.contents()[3]).sum::<usize>();
    assert!(devices() >= networks.len(), "each has devices at least on its router");

    let begun = Instant::now();
    installation.delete_all::<VM>().await;
    installation.delete_all::<Network>().await;
    let gone = installation.until(async || {
        let networks = Api::<Network>::all(installation.admin.clone()).list(&ListParams::default()).await.unwrap();
        networks.items.is_empty()
    });
    timeout(PATIENCE, gone).await.expect("all networks go");
    let given_back = installation.until(async || {
        let left = Api::<NetworkAllocation>::all(installation.admin.clone()).list(&ListParams::default()).await;
        left.unwrap().items.is_empty()
    });
    timeout(PATIENCE, given_back).await.expect("all allocations go");
    tell(&format!("they are gone after {:.1} s", begun.elapsed().as_secs_f64()));
    assert_eq!(devices(), 0, "a network is there until its last devices are gone");
    for (name, host) in &installation.hosts {
        assert_eq!(host.contents()[..2], [0, 0], "{name}");
        assert_eq!(host.violations(), [""; 0], "{name}");
    }
    let hosts = Api::<Host>::all(installation.admin.clone()).list(&ListParams::default()).await.unwrap().items;
    let reported: usize = hosts.iter().flat_map(|host| &host.status).map(|status| status.networks.len()).sum();
    assert_eq!(reported, 0);
}
