//! The tables, as nft is given them.

use ucloud_agent_core::firewall::{
    DeviceName, GroupAddresses, GroupPeer, GroupRule, GroupRules, Guard, LocalGateway, NetworkAddresses, Port, Rules,
};
use ucloud_types::security_group::Protocol;

use super::render;

fn device(name: &str) -> DeviceName {
    DeviceName::new(name).unwrap()
}

fn port(number: u8, guard: Guard) -> Port {
    Port {
        tap: device(&format!("uctp-{number}")),
        mac: format!("02:00:00:00:00:0{number}").parse().unwrap(),
        guard,
        groups: None,
    }
}

fn network() -> NetworkAddresses {
    NetworkAddresses {
        bridge: device("ucbr-1"),
        prefix: "fd00:1::/64".parse().unwrap(),
        gateway: Some("fd00:1::1".parse().unwrap()),
        owners: vec![("fd00:1::5".parse().unwrap(), "02:00:00:00:00:01".parse().unwrap())],
    }
}

fn checked(recorded_only: bool) -> Guard {
    Guard::Addresses { bridge: device("ucbr-1"), recorded_only }
}

fn text(rules: &Rules) -> String {
    render(rules).script_anew()
}

#[test]
fn without_guests_nothing_of_ours_passes() {
    insta::assert_snapshot!(text(&Rules::default()));
}

#[test]
fn every_guard() {
    let ports = vec![
        port(1, checked(false)),
        port(2, checked(true)),
        port(3, Guard::Mac),
        port(4, Guard::Nothing),
        port(5, Guard::MacAndRouter),
    ];
    let gateways = vec![LocalGateway { bridge: device("ucbr-1"), address: "fd00:1::1".parse().unwrap() }];
    let protected = vec!["fd99::/64".parse().unwrap()];
    insta::assert_snapshot!(text(&Rules { ports, networks: vec![network()], gateways, protected, ..Rules::default() }));
}

#[test]
fn security_groups() {
    let rule = |peers, protocol, ports| GroupRule { peers, protocol, ports };
    let prefix = |text: &str| GroupPeer::Prefix(text.parse().unwrap());
    let ingress = vec![
        rule(Vec::new(), Some(Protocol::TCP), vec![(80, 80), (8000, 8100), (8050, 8200)]),
        rule(vec![prefix("fd00:2::/64"), prefix("fd00:2::/48"), GroupPeer::Group("uid-db".into())], None, Vec::new()),
        rule(Vec::new(), Some(Protocol::ICMPv6), Vec::new()),
    ];
    let egress = vec![rule(vec![prefix("fd00:3::/64")], Some(Protocol::UDP), vec![(53, 53)])];
    let open = Port { groups: Some(GroupRules { ingress: ingress.clone(), egress: None }), ..port(1, Guard::Mac) };
    let closed = Port { groups: Some(GroupRules { ingress, egress: Some(egress) }), ..port(2, Guard::Mac) };
    let groups = vec![GroupAddresses { uid: "uid-db".into(), addresses: vec!["fd00:1::7".parse().unwrap()] }];
    insta::assert_snapshot!(text(&Rules { ports: vec![open, closed], groups, ..Rules::default() }));
}
