//! Who is in a group, and by which addresses. Pure.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv6Addr,
    sync::Arc,
};

use kube::ResourceExt as _;
use ucloud_types::{
    SecurityGroup, SecurityGroupStatus, VM,
    condition::{Finding, READY, Verdict},
};

use crate::runtime::report::{find, status_of};

/// The groups of an interface, and its addresses.
type Membership = (BTreeSet<String>, BTreeSet<Ipv6Addr>);

/// What of a VM matters to groups: its project, and its interfaces by name.
pub fn memberships(vm: &VM) -> (Option<String>, BTreeMap<String, Membership>) {
    let interfaces = vm.spec.networks.iter().map(|interface| {
        let reported = vm.status.iter().flat_map(|status| &status.interfaces);
        let reported =
            reported.filter(|reported| reported.name == interface.name && reported.network == interface.network);
        let seen = reported.flat_map(|reported| &reported.addresses).map(|known| known.address);
        let addresses = seen.chain(interface.addresses.iter().copied()).collect();
        (interface.name.clone(), (interface.security_groups.iter().cloned().collect(), addresses))
    });
    (vm.namespace(), interfaces.collect())
}

/// The names of the groups that the VM's interfaces are in.
pub fn groups_of(vm: &VM) -> BTreeSet<String> {
    vm.spec.networks.iter().flat_map(|interface| &interface.security_groups).cloned().collect()
}

/// The group's status.
pub fn plan(group: &SecurityGroup, vms: &[Arc<VM>]) -> SecurityGroupStatus {
    let mut status = status_of(group);
    let name = group.name_any();
    let in_project = vms.iter().filter(|vm| vm.namespace() == group.namespace());
    let members: Vec<_> = in_project
        .flat_map(|vm| memberships(vm).1.into_values())
        .filter(|(groups, _)| groups.contains(&name))
        .map(|(_, addresses)| addresses)
        .collect();
    status.members = Some(u32::try_from(members.len()).unwrap_or(u32::MAX));
    status.addresses = members.into_iter().flatten().collect::<BTreeSet<_>>().into_iter().collect();
    status.observed_generation = group.metadata.generation;
    find(group, &mut status, &Finding::new(READY, Verdict::True, "Resolved", "hosts know the members' addresses"));
    status
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn group(name: &str) -> SecurityGroup {
        serde_json::from_value(json!({
            "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "SecurityGroup",
            "metadata": {"name": name, "namespace": "default", "generation": 1}, "spec": {},
        }))
        .unwrap()
    }

    fn vm(name: &str, namespace: &str, groups: &[&str], declared: &[&str], seen: &str) -> Arc<VM> {
        let interface = json!({"name": "eth0", "network": "lan", "securityGroups": groups, "addresses": declared});
        let reported = json!({"name": "eth0", "network": "lan", "mac": "02:00:00:00:00:01",
            "addresses": [{"address": seen, "source": "Learnt"}]});
        Arc::new(
            serde_json::from_value(json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
                "metadata": {"name": name, "namespace": namespace},
                "spec": {"cpus": 1, "memory": "1Gi", "disks": [], "networks": [interface]},
                "status": {"interfaces": [reported]},
            }))
            .unwrap(),
        )
    }

    #[test]
    fn members_are_those_of_the_project_that_name_the_group() {
        let vms = [
            vm("a", "default", &["web", "db"], &["fd00::5"], "fd00::a"),
            vm("b", "default", &["web"], &[], "fd00::9"),
            vm("c", "default", &["db"], &[], "fd00::c"),
            vm("d", "other", &["web"], &[], "fd00::d"),
        ];
        let status = plan(&group("web"), &vms);
        assert_eq!(status.members, Some(2));
        let expected: Vec<Ipv6Addr> = ["fd00::5", "fd00::9", "fd00::a"].map(|address| address.parse().unwrap()).into();
        assert_eq!(status.addresses, expected);
        let mut again = group("web");
        again.status = Some(status.clone());
        assert_eq!(plan(&again, &vms), status, "nothing new, nothing to write");
        assert_eq!(plan(&group("nobody"), &vms).members, Some(0));
    }
}
