//! What guests reach of a host, through it, and of other networks.

use std::net::UdpSocket;

use anyhow::{Context as _, Result, ensure};
use ucloud_agent_core::firewall::{DeviceName, Guard, LocalGateway, Rules};

use crate::{
    frames::{IPV4, IPV6, Path, TCP, UDP, ethernet, ip, ipv4_udp},
    lab::{Guest, Host, checked, guarded, port},
};

const BRIDGE_MAC: [u8; 6] = [0x02, 0, 0, 0, 0, 0xff];
const HOST_PORT: u16 = 9999;

/// A host whose underlay and uplink is `up0`, with something that listens on all its addresses.
struct Router {
    host: Host,
    guest: Guest,
    uplink: Guest,
    service: UdpSocket,
}

impl Router {
    async fn new() -> Result<Self> {
        let host = Host::new().await?;
        let uplink = host.wire("up0").await?;
        for line in [
            "sysctl -q -w net.ipv6.conf.all.forwarding=1 net.ipv4.conf.all.forwarding=1 net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.default.rp_filter=0",
            "sysctl -q -w net.ipv6.conf.up0.disable_ipv6=0",
            "ip addr add fd99::1/64 dev up0 nodad",
            "ip addr add 192.0.2.1/24 dev up0",
            "ip neigh add fd99::2 lladdr 02:00:00:00:00:bb dev up0",
            "ip neigh add 192.0.2.2 lladdr 02:00:00:00:00:bb dev up0",
            "ip route add default via fd99::2 dev up0",
            "ip route add default via 192.0.2.2 dev up0",
        ] {
            host.run(line)?;
        }
        let guest = host.guest(1, "ucbr-1").await?;
        let service = host.on(async |_| UdpSocket::bind(("::", HOST_PORT))).await?;
        service.set_nonblocking(true)?;
        Ok(Self { host, guest, uplink, service })
    }

    /// Makes it the router of the guest's network, and of another one.
    fn route(&self) -> Result<()> {
        self.host.bridge("ucbr-2")?;
        for line in [
            "sysctl -q -w net.ipv6.conf.ucbr-1.disable_ipv6=0 net.ipv6.conf.ucbr-2.disable_ipv6=0".to_owned(),
            "ip addr add fd00:1::1/64 dev ucbr-1 nodad".to_owned(),
            "ip addr add fe80::1/64 dev ucbr-1 nodad".to_owned(),
            "ip addr add fd00:2::1/64 dev ucbr-2 nodad".to_owned(),
            format!("ip neigh add {} lladdr {} dev ucbr-1", self.guest.address(), self.guest.mac),
        ] {
            self.host.run(&line)?;
        }
        Ok(())
    }

    fn rules(&self, guard: &Guard) -> Rules {
        let gateway = |bridge: &str, address| LocalGateway { bridge: DeviceName::new(bridge).unwrap(), address };
        Rules {
            gateways: vec![gateway("ucbr-1", ip("fd00:1::1")), gateway("ucbr-2", ip("fd00:2::1"))],
            protected: vec!["fd99::/64".parse().unwrap()],
            ..guarded(&[&self.guest], guard)
        }
    }

    /// From the guest to this address, by the host.
    fn path(&self, destination: &str) -> Path {
        Path { mac: self.guest.mac, to: BRIDGE_MAC, source: self.guest.address(), destination: ip(destination) }
    }

    /// The gateway answers an echo request; what the guest was sent until then.
    fn gateway_answers(&self, id: u8) -> Result<Vec<Vec<u8>>> {
        self.guest.send(&self.path("fd00:1::1").icmp(128, &[0, id, 0, 1]));
        self.guest
            .receive(|frame| is_echo_reply(frame) && frame[59] == id)
            .context("the gateway answers an echo request")
    }

    /// Whether something came to the host's service. What was sent before is there already.
    fn was_reached(&self) -> bool {
        self.service.recv(&mut [0; 100]).is_ok()
    }
}

fn is_echo_reply(frame: &[u8]) -> bool {
    frame.len() > 60 && frame[12..14] == IPV6.to_be_bytes() && frame[54] == 129
}

fn is_tcp(frame: &[u8]) -> bool {
    frame.len() > 54 && frame[12..14] == IPV6.to_be_bytes() && frame[20] == TCP
}

#[tokio::test]
async fn of_a_router_guests_reach_the_gateway_alone() -> Result<()> {
    let router = Router::new().await?;
    router.route()?;
    let addresses = ["fd00:1::1", "fd99::1", "fd00:2::1", "ff02::1"];
    // without rules they reach everything
    for address in addresses {
        router.guest.send(&router.path(address).udp(1, HOST_PORT, b"attack"));
        ensure!(router.was_reached(), "{address}");
    }
    router.host.enforce(&router.rules(&checked())).await?;
    for (index, address) in addresses.iter().enumerate() {
        router.guest.send(&router.path(address).udp(1, HOST_PORT, b"attack"));
        router.guest.send(&router.path(address).tcp(1, 22, 2));
        if *address != "fd00:1::1" {
            router.guest.send(&router.path(address).icmp(128, &[0, 200, 0, 1]));
        }
        let received = router.gateway_answers(u8::try_from(index)?)?;
        ensure!(!router.was_reached(), "{address}");
        let answers = received.iter().filter(|frame| is_echo_reply(frame) && frame[59] == 200 || is_tcp(frame));
        // the gateway, as all nodes
        let allowed = usize::from(*address == "ff02::1");
        ensure!(answers.count() == allowed, "{address} answers: {received:02x?}");
    }
    Ok(())
}

#[tokio::test]
async fn a_host_that_does_not_route_is_not_reached() -> Result<()> {
    let router = Router::new().await?;
    // as it is on taps that a hypervisor makes
    router.host.run("sysctl -q -w net.ipv6.conf.uctp-1.disable_ipv6=0")?;
    let guest = &router.guest;
    let ipv4 = ipv4_udp([192, 0, 2, 77], [192, 0, 2, 1], [1, HOST_PORT], b"attack");
    let ipv6 = router.path("fd99::1").packet(UDP, 64, &router.path("fd99::1").udp_message(1, HOST_PORT, b"attack"));
    let attacks = [
        ("IPv4 to the bridge", ethernet(guest.mac, BRIDGE_MAC, IPV4, &ipv4)),
        ("IPv4 by broadcast", ethernet(guest.mac, [0xff; 6], IPV4, &ipv4)),
        ("IPv6 to an address that bridges keep", ethernet(guest.mac, [0x01, 0x80, 0xc2, 0, 0, 0x0e], IPV6, &ipv6)),
    ];
    for (what, attack) in &attacks {
        guest.send(attack);
        ensure!(router.was_reached(), "without rules: {what}");
    }
    // in a network without address management, and even with port security off, where guests may send anything
    for guard in [Guard::Mac, Guard::Nothing] {
        router.host.enforce(&router.rules(&guard)).await?;
        for (what, attack) in &attacks {
            guest.send(attack);
            ensure!(!router.was_reached(), "{what}");
        }
    }
    router.host.run("nft delete table bridge ucloud")?;
    router.host.run("nft delete table inet ucloud")?;
    guest.send(&attacks[0].1);
    ensure!(router.was_reached(), "the host still listens");
    Ok(())
}

#[tokio::test]
async fn through_a_router_guests_reach_the_uplink_and_not_the_underlay() -> Result<()> {
    let router = Router::new().await?;
    router.route()?;
    let out = |path: Path| move |frame: &[u8]| frame.len() > 53 && frame[22..54] == path.packet(UDP, 1, b"")[8..40];
    let send = |path: Path| router.guest.send(&path.udp(1, 4789, b"packet"));
    let (underlay, outside) = (router.path("fd99::2"), router.path("2001:db8::5"));
    for path in [underlay, outside] {
        send(path);
        router.uplink.receive(out(path)).context("without rules")?;
    }
    router.host.enforce(&router.rules(&checked())).await?;
    let refused = |path: Path, what: &str| -> Result<()> {
        send(path);
        send(outside);
        let received = router.uplink.receive(out(outside)).context("the uplink is reached")?;
        ensure!(!received.iter().any(|frame| out(path)(frame)), "{what}");
        Ok(())
    };
    refused(underlay, "a host of the underlay")?;
    refused(router.path("fd99::dead"), "another address of the underlay")?;
    let group = Path { to: BRIDGE_MAC, destination: ip("ff05::64"), ..underlay };
    refused(group, "the multicast group of a VXLAN")?;

    // what has port security off still cannot speak for others beyond the gateway, or in IPv4
    router.host.enforce(&router.rules(&Guard::Nothing)).await?;
    refused(router.path("2001:db8::6").from("fd00:2::5"), "an address of another network")?;
    refused(router.path("2001:db8::7").from("2001:db8:7::7"), "an address of nobody's")?;
    let ipv4 = ipv4_udp([10, 0, 0, 1], [203, 0, 113, 5], [1, 2], b"packet");
    router.guest.send(&ethernet(router.guest.mac, BRIDGE_MAC, IPV4, &ipv4));
    send(outside);
    let received = router.uplink.receive(out(outside))?;
    ensure!(!received.iter().any(|frame| frame[12..14] == IPV4.to_be_bytes()), "IPv4 is routed: {received:02x?}");
    Ok(())
}

#[tokio::test]
async fn another_network_is_out_of_reach() -> Result<()> {
    let host = Host::new().await?;
    host.bridge("ucbr-2")?;
    let (here, there, beside) =
        (host.guest(1, "ucbr-1").await?, host.guest(2, "ucbr-2").await?, host.guest(3, "ucbr-2").await?);
    let ports = [&here, &there, &beside].map(|guest| port(guest, Guard::Nothing));
    host.enforce(&Rules { ports: ports.into(), ..Rules::default() }).await?;
    for to in [there.mac.octets(), [0xff; 6], [0x33, 0x33, 0, 0, 0, 1], BRIDGE_MAC] {
        here.send(&Path { to, ..here.path(&there) }.udp(1, 2, b"attack"));
        let last = beside.path(&there).udp(1, 2, &to);
        beside.send(&last);
        let received = there.receive(|frame| frame == last)?;
        ensure!(received.len() == 1, "{received:02x?}");
    }
    Ok(())
}

#[tokio::test]
async fn what_stays_within_a_bridge_is_not_taken_for_routed() -> Result<()> {
    let router = Router::new().await?;
    router.route()?;
    router.host.pass_bridged_frames_to_inet(true)?;
    let (one, other) = (router.host.guest(2, "ucbr-1").await?, router.host.guest(3, "ucbr-1").await?);
    let mut rules = router.rules(&checked());
    rules.ports.extend([port(&one, Guard::Mac), port(&other, Guard::Mac)]);
    for gateways in [rules.gateways.clone(), Vec::new()] {
        rules.gateways = gateways;
        router.host.enforce(&rules).await?;
        let path = one.path(&other);
        one.reaches(&other, &path.udp(1, 2, b"own"))?;
        one.reaches(&other, &path.from("2001:db8::1").to("fd99::2").udp(1, 2, b"anything"))?;
        one.reaches(
            &other,
            &ethernet(one.mac, other.mac.octets(), IPV4, &ipv4_udp([10, 0, 0, 1], [10, 0, 0, 2], [1, 2], &[4; 40])),
        )?;
    }
    Ok(())
}
