//! What guests reach of the host, and through it.
//!
//! On a host that routes a network, they reach the gateway by neighbour discovery and echo, and nothing else. On any other
//! they reach nothing: its bridges have no addresses, and what the host would take for itself all the same (IPv4 to an
//! address of another interface; frames to the addresses that bridges keep for themselves) is dropped.

use ucloud_agent_core::{
    firewall::Rules,
    net::{BRIDGE_PREFIX, ROUTER_LINK_LOCAL, VXLAN_PREFIX},
};

use super::{Chain, Content, Set, Table, any_tap};

pub(super) fn render_bridge(table: &mut Table) {
    let host = Chain::new("host")
        // IEEE 802.1D, 7.12.6: a bridge hands these to its host past all that is checked before (and some past this, too:
        // the host's own table drops them, and bridges do not learn from them)
        .rule("ether daddr & ff:ff:ff:ff:ff:f0 == 01:80:c2:00:00:00 drop")
        .rule("ether type != ip6 drop");
    let entry = Chain::base("to-host", "input priority filter")
        .rule(format!("iifname {} goto {}", any_tap(), host.name))
        .rule(format!("iifname \"{VXLAN_PREFIX}-*\" goto {}", host.name));
    table.chains.extend([host, entry]);
}

pub(super) fn render_inet(rules: &Rules, table: &mut Table) {
    let bridges = format!("\"{BRIDGE_PREFIX}-*\"");
    let gateways = rules.gateways.iter().flat_map(|gateway| {
        [gateway.address, ROUTER_LINK_LOCAL].map(|address| format!("\"{}\" . {address}", gateway.bridge))
    });
    let routed = rules.gateways.iter().map(|gateway| format!("\"{}\"", gateway.bridge));
    let within = routed.clone().map(|bridge| format!("{bridge} . {bridge}"));
    let elements =
        |name: &str, type_of, elements| Set { name: name.to_owned(), type_of, content: Content::Elements(elements) };
    table.sets.extend([
        elements("gateways", "iifname . ip6 daddr", gateways.collect()),
        elements("routed", "iifname", routed.collect()),
        elements("within", "iifname . oifname", within.collect()),
        Set {
            name: "protected".to_owned(),
            type_of: "ip6 daddr",
            content: Content::Prefixes(rules.protected.iter().map(ToString::to_string).collect()),
        },
    ]);
    let to_gateway = Chain::new("to-gateway")
        .rule(
            "icmpv6 type != { echo-request, echo-reply, nd-router-solicit, nd-neighbor-solicit, nd-neighbor-advert } drop",
        )
        .rule("meta l4proto != ipv6-icmp drop")
        .rule("iifname . ip6 daddr @gateways accept")
        // all nodes, all routers, solicited nodes (RFC 4291, 2.7.1)
        .rule("ip6 daddr { ff02::1, ff02::2, ff02::1:ff00:0/104 } accept")
        .rule("drop");
    let input = Chain::base("input", "input priority filter")
        .rule(format!("iifname {bridges} goto {}", to_gateway.name))
        .rule(format!("iifname {} drop", any_tap()));
    let through = Chain::new("through")
        // Where br_netfilter is on, the host's own rules see frames that stay within a bridge, and so do these. A bridge
        // without a gateway routes nothing
        .rule("iifname . oifname @within accept")
        .rule(format!("iifname != @routed oifname {bridges} accept"))
        .rule("iifname != @routed drop")
        .rule("meta nfproto != ipv6 drop")
        .rule("ip6 daddr @protected drop")
        // What comes from a network must have an address of it, whatever its own host let pass
        .rule("fib saddr . iif oif missing drop");
    let forward = Chain::base("forward", "forward priority filter")
        .rule(format!("iifname {bridges} goto {}", through.name))
        .rule(format!("iifname {} drop", any_tap()));
    table.chains.extend([to_gateway, input, through, forward]);
}
