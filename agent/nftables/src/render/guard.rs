//! What a guest may send at all.
//!
//! In a network with addresses everything is dropped that is not known to be harmless: frames of other kinds (with them VLAN
//! tags, and IPv6 in LLC/SNAP), IPv6 from addresses that are not the guest's, packets whose chain of headers cannot be
//! followed to its end, messages of routers and of DHCP servers. Neighbour discovery must come without extension headers
//! (so unfragmented, RFC 6980), and with no option but the guest's own link-layer address, or a nonce (RFC 7527): where
//! there is one option only, no two can contradict each other.
//!
//! Fragments after the first pass: they are of no use to anybody who has not got the first, which is judged by all its
//! headers (RFC 7112, RFC 7113).

use std::collections::BTreeSet;

use ucloud_agent_core::{
    firewall::{DeviceName, Guard, NetworkAddresses, Port, Rules},
    net::ROUTER_LINK_LOCAL,
};
use ucloud_types::{Ipv6Prefix, MacAddr};

use super::{Chain, Content, Set, Table, any_tap, by_device, list};

/// ICMPv6 that is neither neighbour discovery nor for routers to say: errors, echo, and multicast listener reports
/// (RFC 2710, RFC 3810).
const HARMLESS: [u8; 9] = [1, 2, 3, 4, 128, 129, 131, 132, 143];
/// Multicast listener reports, which a guest sends before it has an address.
const LISTENER_REPORTS: [u8; 3] = [131, 132, 143];

/// The target of neighbour solicitations and advertisements, and their first option: type and length, then address.
const TARGET: &str = "@th,64,128";
const OPTION: &str = "@th,192,16";
const OPTION_ADDRESS: &str = "@th,208,48";
/// The first option of a router solicitation.
const RS_OPTION: &str = "@th,64,16";
const RS_OPTION_ADDRESS: &str = "@th,80,48";
/// Options of 8 bytes: source and target link-layer address (RFC 4861), nonce (RFC 3971).
const SOURCE_LINK: &str = "0x0101";
const TARGET_LINK: &str = "0x0201";
const NONCE: &str = "0x0e01";

pub(super) fn render(rules: &Rules, table: &mut Table) {
    let senders: BTreeSet<Sender<'_>> = rules.ports.iter().filter_map(Sender::of).collect();
    if !senders.is_empty() {
        table.sets.push(hardware(&rules.ports));
        table.chains.extend([discovery(), upper()]);
    }
    for network in &rules.networks {
        table.sets.extend(owners(network));
        for sender in senders.iter().filter(|sender| *sender.bridge == network.bridge) {
            table.chains.extend(sender.chains(network.prefix));
        }
    }
    if rules.ports.iter().any(|port| matches!(port.guard, Guard::Router | Guard::MacAndRouter)) {
        table.chains.push(guarded());
        if senders.is_empty() {
            table.chains.push(upper());
        }
    }
    let mut verdicts = Vec::new();
    for port in &rules.ports {
        match from(port) {
            Some(chain) => {
                verdicts.push((&port.tap, format!("goto {}", chain.name)));
                table.chains.push(chain);
            }
            None => verdicts.push((&port.tap, "accept".to_owned())),
        }
    }
    let entry = Chain::base("from-guests", "prerouting priority filter")
        .rules(by_device("iifname", &verdicts))
        // A tap that nothing is known of
        .rule(format!("iifname {} drop", any_tap()));
    table.chains.push(entry);
}

/// What comes from one tap. None where everything may.
fn from(port: &Port) -> Option<Chain> {
    let chain = Chain::new(format!("from-{}", port.tap));
    let own_mac = format!("ether saddr != {} drop", port.mac);
    Some(match &port.guard {
        Guard::Nothing => return None,
        Guard::Mac => chain.rule(own_mac),
        Guard::Router => chain.rule("goto guarded"),
        Guard::MacAndRouter => chain.rule(own_mac).rule("goto guarded"),
        Guard::Addresses { bridge, recorded_only } => chain
            .rule(own_mac)
            // Most of what guests send, in one step instead of ten: what is looked for there is never TCP
            .rule(format!("meta l4proto tcp ip6 saddr . ether saddr @own-addresses-{bridge} accept"))
            .rule(format!("goto {}", Sender { bridge, recorded_only: *recorded_only }.name("sender"))),
    })
}

/// Ports of one network that are checked in the same way.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Sender<'a> {
    bridge: &'a DeviceName,
    recorded_only: bool,
}

impl<'a> Sender<'a> {
    fn of(port: &'a Port) -> Option<Self> {
        match &port.guard {
            Guard::Addresses { bridge, recorded_only } => Some(Self { bridge, recorded_only: *recorded_only }),
            _ => None,
        }
    }

    fn name(&self, what: &str) -> String {
        format!("{what}-{}-{}", if self.recorded_only { "recorded" } else { "any" }, self.bridge)
    }

    fn chains(&self, prefix: Ipv6Prefix) -> [Chain; 4] {
        let [source, target] = [self.name("source"), self.name("target")];
        let probe = Chain::new(self.name("probe"))
            .rule(format!("icmpv6 type {} accept", list(LISTENER_REPORTS)))
            .rules(PLAIN_DISCOVERY)
            .rule("icmpv6 type nd-router-solicit ip6 length 8 accept")
            .rule("icmpv6 type != nd-neighbor-solicit drop")
            .rule(format!("jump {target}"))
            .rule("ip6 length 24 accept")
            .rule(format!("ip6 length 32 {OPTION} {NONCE} accept"))
            .rule("drop");
        let sender = Chain::new(self.name("sender"))
            .rule("ether type != ip6 drop")
            .rule(format!("ip6 saddr :: goto {}", probe.name))
            .rule(format!("jump {source}"))
            .rule("frag frag-off > 0 accept")
            .rule(format!("icmpv6 type nd-neighbor-advert jump {target}"))
            .rule("meta l4proto ipv6-icmp goto discovery")
            .rule("goto upper");
        [
            self.address_check(source, "ip6 saddr", "addresses", prefix),
            self.address_check(target, TARGET, "targets", prefix),
            probe,
            sender,
        ]
    }

    /// Returns for an address that the sender may use, and drops what is about any other.
    fn address_check(&self, name: String, field: &str, sets: &str, prefix: Ipv6Prefix) -> Chain {
        let Self { bridge, recorded_only } = self;
        let link_local = Ipv6Prefix::containing(ROUTER_LINK_LOCAL, 64);
        let free = link_local.into_iter().chain((!recorded_only).then_some(prefix));
        Chain::new(name)
            .rule(format!("{field} . ether saddr @own-{sets}-{bridge} return"))
            .rule(format!("{field} @taken-{sets}-{bridge} drop"))
            .rules(free.map(|prefix| match field {
                TARGET => format!("{} return", target_in(prefix)),
                field => format!("{field} {prefix} return"),
            }))
            .rule("drop")
    }
}

/// That the target's first bits are the prefix.
fn target_in(prefix: Ipv6Prefix) -> String {
    let bits = prefix.network().to_bits().checked_shr(128 - u32::from(prefix.length())).unwrap_or(0);
    format!("@th,64,{} {bits:#x}", prefix.length().max(1))
}

/// What no message of neighbour discovery may be without.
const PLAIN_DISCOVERY: [&str; 2] = ["ip6 nexthdr != ipv6-icmp drop", "ip6 hoplimit != 255 drop"];

/// ICMPv6 from an address of the guest's own.
fn discovery() -> Chain {
    let mut chain = Chain::new("discovery")
        .rule(format!("icmpv6 type {} accept", list(HARMLESS)))
        .rules(PLAIN_DISCOVERY)
        .rule("icmpv6 type nd-router-solicit ip6 length 8 accept")
        .rule(format!(
            "icmpv6 type nd-router-solicit ip6 length 16 {RS_OPTION} {SOURCE_LINK} ether saddr . {RS_OPTION_ADDRESS} @hardware accept"
        ));
    for (kind, option) in [("nd-neighbor-solicit", SOURCE_LINK), ("nd-neighbor-advert", TARGET_LINK)] {
        chain = chain.rule(format!("icmpv6 type {kind} ip6 length 24 accept")).rule(format!(
            "icmpv6 type {kind} ip6 length 32 {OPTION} {option} ether saddr . {OPTION_ADDRESS} @hardware accept"
        ));
    }
    chain.rule("drop")
}

/// Everything above IPv6 but ICMPv6. DHCPv6 servers send to port 546 (RFC 8415). A packet of which the protocol or the port
/// cannot be read does not match, and is dropped.
fn upper() -> Chain {
    Chain::new("upper").rule("udp dport != 546 accept").rule("meta l4proto != { udp, ipv6-icmp } accept").rule("drop")
}

/// Everything but what routers and DHCP servers say.
fn guarded() -> Chain {
    Chain::new("guarded")
        .rule("ether type arp accept")
        .rule("ether type ip udp dport 68 drop")
        .rule("ether type ip accept")
        .rule("ether type != ip6 drop")
        .rule("frag frag-off > 0 accept")
        .rule("icmpv6 type != { nd-router-advert, nd-redirect } accept")
        .rule("goto upper")
}

/// Each MAC address with itself as a number: nft compares two fields of a packet only by a set that holds both.
fn hardware(ports: &[Port]) -> Set {
    let checked = ports.iter().filter(|port| matches!(port.guard, Guard::Addresses { .. }));
    let macs: BTreeSet<MacAddr> = checked.map(|port| port.mac).collect();
    let number = |mac: MacAddr| mac.octets().into_iter().fold(0_u64, |number, byte| number << 8 | u64::from(byte));
    Set {
        name: "hardware".to_owned(),
        type_of: "ether saddr . @th,208,48",
        content: Content::Elements(macs.into_iter().map(|mac| format!("{mac} . {:#x}", number(mac))).collect()),
    }
}

/// Which addresses are whose, as addresses of packets and as targets of neighbour discovery.
fn owners(network: &NetworkAddresses) -> [Set; 4] {
    let NetworkAddresses { bridge, gateway, owners, .. } = network;
    let set = |name: &str, type_of, elements| Set {
        name: format!("{name}-{bridge}"),
        type_of,
        content: Content::Elements(elements),
    };
    let taken: BTreeSet<_> =
        owners.iter().map(|(address, _)| *address).chain(*gateway).chain([ROUTER_LINK_LOCAL]).collect();
    let number = |address: std::net::Ipv6Addr| format!("{:#x}", address.to_bits());
    [
        set(
            "own-addresses",
            "ip6 saddr . ether saddr",
            owners.iter().map(|(address, mac)| format!("{address} . {mac}")).collect(),
        ),
        set("taken-addresses", "ip6 saddr", taken.iter().map(ToString::to_string).collect()),
        set(
            "own-targets",
            "@th,64,128 . ether saddr",
            owners.iter().map(|(address, mac)| format!("{} . {mac}", number(*address))).collect(),
        ),
        set("taken-targets", "@th,64,128", taken.iter().map(|address| number(*address)).collect()),
    ]
}
