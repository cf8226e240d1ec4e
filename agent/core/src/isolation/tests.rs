//! What the rules of a host follow from.

use serde_json::{Value, json};
use ucloud_types::{VM, security_group::Protocol};

use super::*;
use crate::{
    firewall::{GroupAddresses, GroupPeer, GroupRule, GroupRules},
    hypervisor::DomainSpec,
};

fn network(name: &str, ipam: &str, status: &Value) -> Network {
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "Network",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"ipam": ipam}, "status": status
    }))
    .unwrap()
}

fn routed(name: &str, ipam: &str) -> Network {
    network(name, ipam, &json!({"vni": 100, "prefix": "fd00:1::/64", "gateway": "fd00:1::1", "router": "host-1"}))
}

fn group(name: &str, spec: &Value, addresses: &Value) -> SecurityGroup {
    serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "SecurityGroup",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": spec, "status": {"addresses": addresses}
    }))
    .unwrap()
}

fn vm(name: &str, interface: &Value) -> Desired {
    let vm: VM = serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
        "metadata": {"name": name, "namespace": "default", "uid": format!("uid-{name}")},
        "spec": {"cpus": 1, "memory": "1Gi", "disks": [], "networks": [interface]},
        "status": {"binding": {"host": "host-1", "epoch": 1}}
    }))
    .unwrap();
    Desired::of(&vm, "host-1").unwrap()
}

fn domain(vm: &Desired, mac: &str, bridge: &str) -> Domain {
    let interface = DomainInterface {
        name: "eth0".into(),
        mac: mac.parse().unwrap(),
        bridge: bridge.into(),
        tap: tap_name(&vm.uid, "eth0"),
        mtu: 1430,
    };
    let spec = DomainSpec {
        uid: vm.uid.clone(),
        namespace: vm.namespace.clone(),
        name: vm.name.clone(),
        epoch: 1,
        power_request: 0,
        cpus: 1,
        memory: "1Gi".parse().unwrap(),
        disks: Vec::new(),
        interfaces: vec![interface],
        standstill: false,
    };
    Domain { spec, state: DomainState::Running }
}

fn nothing_learnt(_: &str, _: MacAddr) -> Vec<Ipv6Addr> {
    Vec::new()
}

fn with<'a>(networks: &'a [&'a Network], vms: &'a [Desired]) -> Inputs<'a> {
    Inputs {
        host: "host-1",
        vms,
        domains: &[],
        networks,
        devices: &[],
        groups: &[],
        learnt: &nothing_learnt,
        underlay: &[],
    }
}

fn guard_in(network: &Network, interface: &Value) -> Option<Guard> {
    rules(&with(&[network], &[vm("a", interface)])).ports.pop().map(|port| port.guard)
}

#[test]
fn the_type_of_the_network_and_port_security_decide() {
    let bridge = DeviceName::new(&bridge_name("uid-lan")).unwrap();
    let checked = |recorded_only| Some(Guard::Addresses { bridge: bridge.clone(), recorded_only });
    let plain = json!({"name": "eth0", "network": "lan"});
    let open = json!({"name": "eth0", "network": "lan", "portSecurity": false});
    let declared = json!({"name": "eth0", "network": "lan", "addresses": ["fd00:1::5"]});
    let none = network("lan", "None", &json!({"vni": 100}));
    let (manual, automatic) = (routed("lan", "Manual"), routed("lan", "Automatic"));
    assert_eq!(guard_in(&none, &plain), Some(Guard::Mac));
    assert_eq!(guard_in(&none, &open), Some(Guard::Nothing));
    for network in [&manual, &automatic] {
        assert_eq!(guard_in(network, &plain), checked(false));
        assert_eq!(guard_in(network, &open), Some(Guard::Router));
    }
    assert_eq!(guard_in(&manual, &declared), checked(true));
    assert_eq!(guard_in(&automatic, &declared), checked(false), "it forms an address besides");
    assert_eq!(
        guard_in(&network("lan", "Automatic", &json!({"vni": 100})), &plain),
        None,
        "closed until it has a prefix"
    );
}

#[test]
fn an_address_has_one_owner() {
    let lan = routed("lan", "Automatic");
    let interface =
        |mac: &str, addresses: Value| json!({"name": "eth0", "network": "lan", "mac": mac, "addresses": addresses});
    let [one, two]: [MacAddr; 2] = ["02:00:00:00:00:01", "02:00:00:00:00:02"].map(|mac| mac.parse().unwrap());
    let vms = [
        vm("b", &interface("02:00:00:00:00:02", json!(["fd00:1::5", "fd00:1::1"]))),
        vm("a", &interface("02:00:00:00:00:01", json!(["fd00:2::5"]))),
    ];
    let learnt = |uid: &str, mac: MacAddr| -> Vec<Ipv6Addr> {
        assert_eq!(uid, "uid-lan");
        if mac == one { vec!["fd00:1::5".parse().unwrap(), "fd00:1::9".parse().unwrap()] } else { Vec::new() }
    };
    let networks = [&lan];
    let [found] = rules(&Inputs { learnt: &learnt, ..with(&networks, &vms) }).networks.try_into().unwrap();
    let expected: Vec<(Ipv6Addr, MacAddr)> = [
        ("fd00:1::5", two), // declared; the other was seen to use it
        ("fd00:1::9", one),
        ("fd00:1::ff:fe00:1", one),
        ("fd00:1::ff:fe00:2", two),
        ("fe80::ff:fe00:1", one),
        ("fe80::ff:fe00:2", two),
    ]
    .map(|(address, mac)| (address.parse().unwrap(), mac))
    .into();
    assert_eq!(found.owners, expected, "the gateway is nobody's, nor is what lies outside of the prefix");
}

#[test]
fn what_runs_is_judged_as_it_runs() {
    let (lan, other) = (routed("lan", "Automatic"), network("other", "None", &json!({"vni": 101})));
    let vms = [vm("a", &json!({"name": "eth0", "network": "lan", "mac": "02:00:00:00:00:01"}))];
    let domains = [domain(&vms[0], "02:00:00:00:00:09", &bridge_name("uid-other"))];
    let networks = [&lan, &other];
    let [port] = rules(&Inputs { domains: &domains, ..with(&networks, &vms) }).ports.try_into().unwrap();
    assert_eq!((port.mac.to_string().as_str(), port.guard), ("02:00:00:00:00:09", Guard::Mac));

    // an interface that is about to be plugged into a domain that runs
    let two: VM = serde_json::from_value(json!({
        "apiVersion": "ucloud.ungleich.ch/v1alpha1", "kind": "VM",
        "metadata": {"name": "a", "namespace": "default", "uid": "uid-a"},
        "spec": {"cpus": 1, "memory": "1Gi", "disks": [], "networks": [
            {"name": "eth0", "network": "lan"}, {"name": "eth1", "network": "lan"}]},
        "status": {"binding": {"host": "host-1", "epoch": 1}}
    }))
    .unwrap();
    let two = Desired::of(&two, "host-1").unwrap();
    let found = rules(&Inputs { domains: &domains, ..with(&networks, &[two]) });
    let guard_of = |name: &str| {
        let tap = tap_name("uid-a", name);
        found.ports.iter().find(|port| port.tap.as_str() == tap).map(|port| port.guard.clone())
    };
    assert_eq!(guard_of("eth0"), Some(Guard::Mac));
    assert!(matches!(guard_of("eth1"), Some(Guard::Addresses { .. })), "it is guarded before it is there");

    // an interface that is not wanted any more, and a domain that nobody knows
    let changed = vm("a", &json!({"name": "eth1", "network": "lan"}));
    let found = rules(&Inputs { domains: &domains, ..with(&networks, &[changed]) });
    assert!(found.ports.iter().all(|port| port.tap.as_str() != tap_name("uid-a", "eth0")), "it is closed");
    let [port] = rules(&Inputs { domains: &domains, ..with(&networks, &[]) }).ports.try_into().unwrap();
    assert_eq!(port.guard, Guard::MacAndRouter, "it is not cut off");
}

#[test]
fn groups_are_resolved() {
    let lan = network("lan", "None", &json!({"vni": 100}));
    let web = group(
        "web",
        &json!({"ingress": [
            {"from": [{"group": "web"}, {"prefix": "fd00:2::/64"}], "protocol": "TCP", "ports": [{"port": 80}, {"port": 1, "endPort": 9}]},
            {"from": [{"group": "gone"}], "protocol": "UDP"}
        ]}),
        &json!(["fd00:1::6", "fd00:1::5"]),
    );
    let out = group("out", &json!({"egress": [{"protocol": "ICMPv6"}]}), &json!([]));
    let networks = [&lan];
    let groups = [&web, &out];
    let of = |names: Value| {
        let vms = [vm("a", &json!({"name": "eth0", "network": "lan", "securityGroups": names}))];
        let mut found = rules(&Inputs { groups: &groups, ..with(&networks, &vms) });
        (found.ports.pop().unwrap().groups, found.groups)
    };
    assert_eq!(of(json!([])), (None, Vec::new()));
    let (rules, members) = of(json!(["web"]));
    let rules = rules.unwrap();
    let peers = vec![GroupPeer::Group("uid-web".into()), GroupPeer::Prefix("fd00:2::/64".parse().unwrap())];
    let expected = GroupRule { peers, protocol: Some(Protocol::TCP), ports: vec![(80, 80), (1, 9)] };
    assert_eq!(
        (rules.ingress, rules.egress),
        (vec![expected], None),
        "what names only what does not exist lets nothing in"
    );
    let addresses = ["fd00:1::5", "fd00:1::6"].map(|address| address.parse().unwrap()).into();
    assert_eq!(members, [GroupAddresses { uid: "uid-web".into(), addresses }]);
    let (rules, _) = of(json!(["web", "out"]));
    assert_eq!(rules.unwrap().egress.unwrap().len(), 1, "one group that restricts egress restricts it");
    assert_eq!(of(json!(["gone"])).0, Some(GroupRules::default()), "nothing comes in");
}

#[test]
fn gateways_and_the_underlay() {
    let (here, elsewhere) = (routed("here", "Manual"), {
        let mut network = routed("there", "Manual");
        network.status.as_mut().unwrap().router = Some("host-2".into());
        network
    });
    let underlay = ["fd99::1", "fd99::2", "192.0.2.1"].map(|address| address.parse().unwrap());
    let networks = [&here, &elsewhere];
    let found = rules(&Inputs { underlay: &underlay, ..with(&networks, &[]) });
    assert_eq!(found.gateways.len(), 1);
    assert_eq!(found.gateways[0].address, "fd00:1::1".parse::<Ipv6Addr>().unwrap());
    assert_eq!(found.protected, ["fd99::/64".parse().unwrap()]);

    // a router that has been told to go keeps the gateway until the next one has it
    let devices = NetworkDevices {
        uid: elsewhere.metadata.uid.clone().unwrap(),
        vni: elsewhere.status.as_ref().unwrap().vni.unwrap(),
        bridge: String::new(),
        mtu: 1430,
        routes: true,
    };
    let found = rules(&Inputs { devices: &[devices], ..with(&networks, &[]) });
    assert_eq!(found.gateways.len(), 2);
}
