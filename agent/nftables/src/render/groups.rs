//! What security groups let through.
//!
//! Which connections a guest has begun is remembered in sets of its own, so that no guest can fill those of another: by the
//! guest's address, the other's, the protocol and both ports. What belongs to one of them is let in. A connection is
//! forgotten two hours after the last data, a minute after its end, two minutes after a beginning that nobody answered; UDP
//! is forgotten after three minutes, an echo request after one.
//!
//! Answers to what a rule lets in are let out by the same rule read backwards, so that they take up no memory that others
//! could fill. Where egress is restricted, that goes for TCP, where an answer is told from a beginning by its flags; UDP and
//! echo are remembered.

use std::hash::Hasher as _;

use fnv::FnvHasher;
use ucloud_agent_core::firewall::{DeviceName, GroupPeer, GroupRule, GroupRules, Rules};
use ucloud_types::{Ipv6Prefix, security_group::Protocol};

use super::{Chain, Content, Set, Table, by_device, list};

/// How many connections are remembered for an interface, and how many echo requests.
const CONNECTIONS: u32 = 65_536;
const ECHOES: u32 = 4096;

/// A connection of the guest's, in what it sends and in what it is sent.
const SENT: &str = "ip6 saddr . ip6 daddr . meta l4proto . th sport . th dport";
const RECEIVED: &str = "ip6 daddr . ip6 saddr . meta l4proto . th dport . th sport";
const ECHO_SENT: &str = "ip6 saddr . ip6 daddr . icmpv6 id";
const ECHO_RECEIVED: &str = "ip6 daddr . ip6 saddr . icmpv6 id";

/// Errors, multicast listener discovery, neighbour discovery (RFC 4443, 2710, 3810, 4861): no connection works without.
const ALWAYS: [u8; 13] = [1, 2, 3, 4, 130, 131, 132, 133, 134, 135, 136, 137, 143];

pub(super) fn render(rules: &Rules, table: &mut Table) {
    for group in &rules.groups {
        table.sets.push(Set {
            name: set_of(&group.uid),
            type_of: "ip6 saddr",
            content: Content::Elements(group.addresses.iter().map(ToString::to_string).collect()),
        });
    }
    let (mut leaving, mut arriving) = (Vec::new(), Vec::new());
    for (tap, groups) in rules.ports.iter().filter_map(|port| Some((&port.tap, port.groups.as_ref()?))) {
        let filter = Filter { tap, groups };
        table.sets.extend(filter.sets());
        table.chains.extend(filter.chains());
        leaving.push((tap, format!("goto {}", filter.name("out"))));
        arriving.push((tap, format!("goto {}", filter.name("in"))));
    }
    // Behind the chain that judges what the guest may send at all. Without guests that are in groups there are no such
    // chains: every frame of every network would go through them for nothing.
    let leaving = by_device("iifname", &leaving).map(|rule| ("leaving-guests", "prerouting priority filter + 1", rule));
    let arriving = by_device("oifname", &arriving).map(|rule| ("to-guests", "postrouting priority filter", rule));
    table
        .chains
        .extend([leaving, arriving].into_iter().flatten().map(|(name, hook, rule)| Chain::base(name, hook).rule(rule)));
}

/// The name of the set of a group's members.
fn set_of(uid: &str) -> String {
    let mut hasher = FnvHasher::default();
    hasher.write(uid.as_bytes());
    format!("group-{:016x}", hasher.finish())
}

struct Filter<'a> {
    tap: &'a DeviceName,
    groups: &'a GroupRules,
}

impl Filter<'_> {
    fn name(&self, what: &str) -> String {
        format!("{what}-{}", self.tap)
    }

    fn sets(&self) -> Vec<Set> {
        let memory = |what, type_of, size| Set { name: self.name(what), type_of, content: Content::Memory(size) };
        let mut sets = vec![memory("begun", SENT, CONNECTIONS), memory("pinged", ECHO_SENT, ECHOES)];
        if self.groups.egress.is_some() {
            sets.extend([memory("answers", SENT, CONNECTIONS), memory("pongs", ECHO_SENT, ECHOES)]);
        }
        sets
    }

    fn chains(&self) -> Vec<Chain> {
        let mut chains = vec![self.begin(), self.go_on(), self.out(), self.into()];
        chains.extend(self.groups.egress.is_some().then(|| self.answer()));
        chains
    }

    /// From the guest.
    fn out(&self) -> Chain {
        let chain = Chain::new(self.name("out"));
        let ingress = &self.groups.ingress;
        let Some(egress) = &self.groups.egress else {
            return chain
                .rule("ether type != ip6 accept")
                .rule("frag frag-off > 0 accept")
                .rules(ingress.iter().flat_map(|rule| matches(rule, Side::Answer)).map(|m| format!("{m} accept")))
                .rule(format!("goto {}", self.name("begin")));
        };
        let tcp = ingress.iter().filter_map(|rule| match rule.protocol {
            None | Some(Protocol::TCP) => Some(GroupRule { protocol: Some(Protocol::TCP), ..rule.clone() }),
            Some(Protocol::UDP | Protocol::ICMPv6) => None,
        });
        let answers: Vec<_> = tcp
            .flat_map(|rule| matches(&rule, Side::Answer))
            .map(|m| format!("tcp flags & (syn | ack) != syn {m} accept"))
            .collect();
        chain
            .rule("ether type arp accept")
            .rule("ether type != ip6 drop")
            .rule(format!("icmpv6 type {} accept", list(ALWAYS)))
            .rule("frag frag-off > 0 accept")
            .rules(answers)
            .rule(format!("{SENT} @{} accept", self.name("answers")))
            .rule(format!("icmpv6 type echo-reply {ECHO_SENT} @{} accept", self.name("pongs")))
            .rules(
                egress
                    .iter()
                    .flat_map(|rule| matches(rule, Side::Sent))
                    .map(|m| format!("{m} goto {}", self.name("begin"))),
            )
            .rule("drop")
    }

    /// To the guest.
    fn into(&self) -> Chain {
        let verdict = match self.groups.egress {
            None => "accept".to_owned(),
            Some(_) => format!("goto {}", self.name("answer")),
        };
        let let_in = self.groups.ingress.iter().flat_map(|rule| matches(rule, Side::Received));
        Chain::new(self.name("in"))
            .rule("ether type arp accept")
            .rule("ether type != ip6 drop")
            .rule(format!("icmpv6 type {} accept", list(ALWAYS)))
            .rule("frag frag-off > 0 accept")
            .rule(format!("{RECEIVED} @{} goto {}", self.name("begun"), self.name("go-on")))
            .rule(format!("icmpv6 type echo-reply {ECHO_RECEIVED} @{} accept", self.name("pinged")))
            .rules(let_in.map(|m| format!("{m} {verdict}")))
            .rule("drop")
    }

    /// Remembers what the guest begins, and goes on with.
    fn begin(&self) -> Chain {
        let begun = self.name("begun");
        Chain::new(self.name("begin"))
            .rule(format!("tcp flags & (fin | rst) != 0 update @{begun} {{ {SENT} timeout 1m }} accept"))
            .rule(format!("tcp flags & psh == psh update @{begun} {{ {SENT} timeout 2h }} accept"))
            .rule(format!("meta l4proto tcp add @{begun} {{ {SENT} timeout 2m }} accept"))
            .rule(format!("meta l4proto udp update @{begun} {{ {SENT} timeout 3m }} accept"))
            .rule(format!(
                "icmpv6 type echo-request update @{} {{ {ECHO_SENT} timeout 1m }} accept",
                self.name("pinged")
            ))
            // also where there is no room to remember it
            .rule("accept")
    }

    /// Goes on with what the guest has begun.
    fn go_on(&self) -> Chain {
        let begun = self.name("begun");
        Chain::new(self.name("go-on"))
            .rule(format!("tcp flags & (fin | rst) != 0 update @{begun} {{ {RECEIVED} timeout 1m }} accept"))
            .rule(format!("tcp flags & psh == psh update @{begun} {{ {RECEIVED} timeout 2h }} accept"))
            .rule(format!("meta l4proto udp update @{begun} {{ {RECEIVED} timeout 3m }} accept"))
            .rule("accept")
    }

    /// Remembers what the guest may answer.
    fn answer(&self) -> Chain {
        Chain::new(self.name("answer"))
            .rule(format!("meta l4proto udp update @{} {{ {RECEIVED} timeout 3m }} accept", self.name("answers")))
            .rule(format!(
                "icmpv6 type echo-request update @{} {{ {ECHO_RECEIVED} timeout 1m }} accept",
                self.name("pongs")
            ))
            .rule("accept")
    }
}

/// How a rule is read.
#[derive(Clone, Copy)]
enum Side {
    /// About what the guest is sent.
    Received,
    /// About what the guest sends.
    Sent,
    /// Backwards: about what the guest answers to what it was sent.
    Answer,
}

/// The packets that a rule is about: any of these matches.
fn matches(rule: &GroupRule, side: Side) -> Vec<String> {
    let (peer, port) = match side {
        Side::Received => ("ip6 saddr", "dport"),
        Side::Sent => ("ip6 daddr", "dport"),
        Side::Answer => ("ip6 daddr", "sport"),
    };
    let range = |(first, last): (u16, u16)| if first == last { first.to_string() } else { format!("{first}-{last}") };
    let ports = list(merged(&rule.ports).into_iter().map(range));
    let protocol = match (rule.protocol, rule.ports.is_empty()) {
        (None, true) => String::new(),
        (None, false) => format!("meta l4proto {{ tcp, udp }} th {port} {ports}"),
        (Some(Protocol::TCP), true) => "meta l4proto tcp".to_owned(),
        (Some(Protocol::TCP), false) => format!("tcp {port} {ports}"),
        (Some(Protocol::UDP), true) => "meta l4proto udp".to_owned(),
        (Some(Protocol::UDP), false) => format!("udp {port} {ports}"),
        (Some(Protocol::ICMPv6), _) => "meta l4proto ipv6-icmp".to_owned(),
    };
    if rule.peers.is_empty() {
        return vec![protocol];
    }
    let prefixes: Vec<Ipv6Prefix> = rule
        .peers
        .iter()
        .filter_map(|p| if let GroupPeer::Prefix(prefix) = p { Some(*prefix) } else { None })
        .collect();
    let outer = outermost(&prefixes);
    let by_prefix = (!outer.is_empty()).then(|| format!("{peer} {} {protocol}", list(&outer)));
    let by_group = rule.peers.iter().filter_map(|p| match p {
        GroupPeer::Group(uid) => Some(format!("{peer} @{} {protocol}", set_of(uid))),
        GroupPeer::Prefix(_) => None,
    });
    by_prefix.into_iter().chain(by_group).map(|m| m.trim_end().to_owned()).collect()
}

/// The prefixes that lie in no other: nft takes none that overlap.
fn outermost(prefixes: &[Ipv6Prefix]) -> Vec<Ipv6Prefix> {
    let mut outer: Vec<Ipv6Prefix> = Vec::new();
    let mut sorted = prefixes.to_vec();
    sorted.sort_unstable_by_key(|prefix| (prefix.length(), prefix.network()));
    for prefix in sorted {
        if !outer.iter().any(|wider| wider.overlaps(prefix)) {
            outer.push(prefix);
        }
    }
    outer
}

/// The same ports, in ranges that do not overlap.
fn merged(ranges: &[(u16, u16)]) -> Vec<(u16, u16)> {
    let mut sorted = ranges.to_vec();
    sorted.sort_unstable();
    let mut merged: Vec<(u16, u16)> = Vec::new();
    for (first, last) in sorted {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = (*end).max(last),
            _ => merged.push((first, last)),
        }
    }
    merged
}
