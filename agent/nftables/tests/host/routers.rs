//! What only routers and DHCP servers may say, in every disguise.

use anyhow::Result;
use ucloud_agent_core::firewall::Guard;

use crate::{
    frames::{
        DESTINATION, FRAGMENT, HOP_BY_HOP, ICMPV6, IPV4, Path, ROUTING, UDP, ethernet, fragment, ipv4_udp,
        long_options, options, routing, snap, tagged,
    },
    lab::{Guest, checked, guarded, pair},
};

const RA: u8 = 134;
const REDIRECT: u8 = 137;

/// A router advertisement without options, with a lifetime.
const ADVERTISEMENT: [u8; 12] = [64, 0, 7, 8, 0, 0, 0, 0, 0, 0, 0, 0];

/// Everything by which a guest could pass a message for a router's or a DHCPv6 server's.
fn disguises(path: Path) -> Vec<(Vec<u8>, String)> {
    let redirect = [&[0; 4], &path.source.octets()[..], &path.destination.octets()].concat();
    let ra = path.to("ff02::1");
    let messages = [
        ("an advertisement", ra, ICMPV6, ra.icmp_message(RA, &ADVERTISEMENT)),
        ("a redirect", path, ICMPV6, path.icmp_message(REDIRECT, &redirect)),
        ("a DHCPv6 reply", path, UDP, path.udp_message(547, 546, b"\x07\x01\x02\x03")),
        ("a DHCPv6 reply from another port", path, UDP, path.udp_message(1000, 546, b"\x07\x01\x02\x03")),
    ];
    let mut all = Vec::new();
    for (what, path, protocol, message) in messages {
        let behind =
            |first: u8, headers: &[Vec<u8>]| path.frame(first, 255, &[headers.concat(), message.clone()].concat());
        let plain = path.frame(protocol, 255, &message);
        let forms = [
            ("plain", plain.clone()),
            ("behind destination options", behind(DESTINATION, &[options(protocol)])),
            ("behind hop-by-hop options", behind(HOP_BY_HOP, &[options(protocol)])),
            ("behind a routing header", behind(ROUTING, &[routing(protocol)])),
            ("behind three headers", behind(HOP_BY_HOP, &[options(DESTINATION), options(ROUTING), routing(protocol)])),
            ("as a first fragment", behind(FRAGMENT, &[fragment(protocol, 0, true)])),
            ("as an atomic fragment", behind(FRAGMENT, &[fragment(protocol, 0, false)])),
            (
                "behind options in a first fragment",
                behind(FRAGMENT, &[fragment(DESTINATION, 0, true), options(protocol)]),
            ),
            (
                "behind two fragment headers",
                behind(FRAGMENT, &[fragment(FRAGMENT, 0, false), fragment(protocol, 0, true)]),
            ),
            (
                "of a first fragment that ends within its headers",
                path.frame(FRAGMENT, 255, &[fragment(DESTINATION, 0, true), long_options(protocol, 9)].concat()),
            ),
            (
                "of a first fragment without any of it",
                path.frame(FRAGMENT, 255, &[fragment(DESTINATION, 0, true), options(protocol)].concat()),
            ),
            ("in a VLAN", tagged(&plain, 0x8100, 5)),
            ("with a priority tag", tagged(&plain, 0x8100, 0)),
            ("in a service VLAN", tagged(&plain, 0x88a8, 5)),
            ("in two VLANs", tagged(&tagged(&plain, 0x8100, 0), 0x8100, 0)),
            ("in LLC/SNAP", snap(&plain)),
        ];
        all.extend(forms.into_iter().map(|(form, frame)| (frame, format!("{what} {form}"))));
    }
    all
}

fn all_are_refused(one: &Guest, two: &Guest) -> Result<()> {
    let path = one.path(two);
    for (attack, what) in disguises(path) {
        one.cannot(two, &what, &attack, &path.udp(1, 2, what.as_bytes()))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_guest_is_no_router_and_no_dhcp_server() -> Result<()> {
    let (_host, one, two) = pair().await?;
    all_are_refused(&one, &two)?;
    let path = one.path(&two);
    // the same headers before something harmless
    let echo = path.icmp_message(128, &[0, 1, 0, 1, 5, 5, 5, 5, 5, 5, 5, 5]);
    one.reaches(&two, &path.frame(DESTINATION, 64, &[options(ICMPV6), echo.clone()].concat()))?;
    one.reaches(&two, &path.frame(FRAGMENT, 64, &[fragment(ICMPV6, 0, true), echo].concat()))?;
    one.reaches(&two, &path.frame(FRAGMENT, 64, &[fragment(ICMPV6, 2, false), vec![9; 40]].concat()))?;
    // a DHCPv6 client
    one.reaches(&two, &path.from(&one.link_local().to_string()).to("ff02::1:2").udp(546, 547, b"\x01\x01\x02\x03"))
}

#[tokio::test]
async fn nor_with_port_security_off() -> Result<()> {
    let (host, one, two) = pair().await?;
    for guard in [Guard::Router, Guard::MacAndRouter] {
        host.enforce(&guarded(&[&one, &two], &guard)).await?;
        all_are_refused(&one, &two)?;
        let ipv4 = |ports, data: &[u8]| {
            ethernet(one.mac, two.mac.octets(), IPV4, &ipv4_udp([10, 0, 0, 1], [10, 0, 0, 2], ports, data))
        };
        one.cannot(&two, "a DHCP offer", &ipv4([67, 68], b"offer"), &ipv4([68, 67], b"discover"))?;
        one.cannot(&two, "a DHCP offer from another port", &ipv4([1000, 68], b"offer"), &ipv4([68, 67], b"again"))?;
    }
    Ok(())
}

#[tokio::test]
async fn a_project_runs_its_own_router_where_it_manages_the_addresses() -> Result<()> {
    let (host, one, two) = pair().await?;
    host.enforce(&guarded(&[&one, &two], &Guard::Mac)).await?;
    for (frame, _) in disguises(one.path(&two)) {
        one.reaches(&two, &frame)?;
    }
    host.enforce(&guarded(&[&one, &two], &checked())).await?;
    all_are_refused(&one, &two)
}
