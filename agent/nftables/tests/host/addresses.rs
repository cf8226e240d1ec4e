//! Whose address a guest may send from: MAC, IPv6, IPv4, ARP.

use anyhow::{Result, ensure};
use ucloud_agent_core::firewall::{DeviceName, Guard};

use crate::{
    frames::{ARP, IPV4, IPV6, Path, arp, ethernet, ip, ipv4_udp, snap, tagged},
    lab::{Host, checked, guarded, network, pair, port},
};

#[tokio::test]
async fn a_spoofed_mac_address_passes_nowhere() -> Result<()> {
    let (host, one, two) = pair().await?;
    let path = one.path(&two);
    let spoofed = Path { mac: two.mac, ..path };
    one.cannot(&two, "another's MAC", &spoofed.udp(1, 2, b"spoofed"), &path.udp(1, 2, b"own"))?;

    // nor in a network without address management, where everything else does
    host.enforce(&guarded(&[&one, &two], &Guard::Mac)).await?;
    one.cannot(&two, "another's MAC", &spoofed.udp(1, 2, b"spoofed"), &path.udp(1, 2, b"own"))?;
    one.reaches(&two, &ethernet(one.mac, two.mac.octets(), 0x88b5, b"anything"))
}

#[tokio::test]
async fn a_bridge_does_not_learn_from_what_is_dropped() -> Result<()> {
    let (host, one, two) = pair().await?;
    let victim = "02:00:00:00:00:77";
    let learnt = |host: &Host| -> Result<String> { host.run("bridge fdb show br ucbr-1") };
    for destination in [two.mac.octets(), [0x01, 0x80, 0xc2, 0, 0, 0x0e], [0x01, 0x80, 0xc2, 0, 0, 0]] {
        let frame = ethernet(victim.parse()?, destination, 0x88cc, b"poison");
        one.send(&frame);
        one.reaches(&two, &one.path(&two).udp(1, 2, &destination))?;
        ensure!(!learnt(&host)?.contains(victim), "{}", learnt(&host)?);
    }
    // which it does where there is no filter
    host.run("nft delete table bridge ucloud")?;
    one.send(&ethernet(victim.parse()?, two.mac.octets(), 0x88cc, b"poison"));
    one.reaches(&two, &one.path(&two).udp(1, 2, b"behind it"))?;
    ensure!(learnt(&host)?.contains(victim), "{}", learnt(&host)?);
    Ok(())
}

#[tokio::test]
async fn ipv6_comes_from_own_and_free_addresses_alone() -> Result<()> {
    let (_host, one, two) = pair().await?;
    let path = one.path(&two);
    let attacks = [
        (two.address().to_string(), "another's address"),
        (two.link_local().to_string(), "another's link-local address"),
        ("fd00:1::1".to_owned(), "the gateway's address"),
        ("fe80::1".to_owned(), "the gateway's link-local address"),
        ("fd00:2::5".to_owned(), "another prefix"),
        ("2001:db8::5".to_owned(), "another prefix"),
        ("fe80:1::5".to_owned(), "link-local, outside of fe80::/64"),
        ("ff02::1".to_owned(), "multicast"),
        ("::1".to_owned(), "loopback"),
        ("::".to_owned(), "no address"),
    ];
    for (source, what) in attacks {
        one.cannot(&two, what, &path.from(&source).udp(1, 2, b"spoofed"), &path.udp(1, 2, source.as_bytes()))?;
    }
    for own in [path.source, one.link_local(), ip("fd00:1::abcd:1234"), ip("fe80::abcd:1234")] {
        one.reaches(&two, &path.from(&own.to_string()).udp(1, 2, b"own"))?;
    }
    Ok(())
}

#[tokio::test]
async fn declared_addresses_are_the_only_ones() -> Result<()> {
    let host = Host::new().await?;
    let (one, two) = (host.guest(1, "ucbr-1").await?, host.guest(2, "ucbr-1").await?);
    let mut rules = guarded(&[&one, &two], &checked());
    let bridge = DeviceName::new("ucbr-1").unwrap();
    rules.ports[0] = port(&one, Guard::Addresses { bridge, recorded_only: true });
    rules.networks[0].owners.retain(|(address, _)| address.is_unicast_link_local());
    rules.networks[0].owners.push((ip("fd00:1::5"), one.mac));
    rules.networks[0].owners.push((ip("fd00:1::6"), two.mac));
    host.enforce(&rules).await?;
    let path = one.path(&two);
    let declared = path.from("fd00:1::5");
    one.cannot(&two, "not declared", &path.from("fd00:1::7").udp(1, 2, b"free"), &declared.udp(1, 2, b"own"))?;
    one.cannot(&two, "another's", &path.from("fd00:1::6").udp(1, 2, b"its"), &declared.udp(1, 2, b"own, again"))?;
    // of which nothing is declared, and may have what is free
    let back = two.path(&one);
    two.cannot(&one, "another's", &back.from("fd00:1::5").udp(1, 2, b"its"), &back.from("fd00:1::7").udp(1, 2, b""))
}

#[tokio::test]
async fn ipv4_arp_and_other_frames_stay_out_of_networks_with_addresses() -> Result<()> {
    let (host, one, two) = pair().await?;
    let path = one.path(&two);
    let own = path.udp(1, 2, b"own");
    let [here, there] = [[10, 0, 0, 1], [10, 0, 0, 2]];
    let frame = |kind, payload: &[u8]| ethernet(one.mac, two.mac.octets(), kind, payload);
    let ipv4 = frame(IPV4, &ipv4_udp(here, there, [1, 2], b"ipv4"));
    let spoofed_arp = frame(ARP, &arp(2, (one.mac, there), here));
    let attacks = [
        (ipv4.clone(), "IPv4"),
        (spoofed_arp.clone(), "an ARP answer"),
        (frame(0x88b5, b"anything"), "another kind of frame"),
        (frame(IPV6, &[0x40; 60]), "what is no IPv6"),
        (frame(IPV6, &[0x60, 0, 0, 0, 0xff, 0xff, 17, 64]), "IPv6 cut short"),
        (tagged(&own, 0x8100, 5), "a VLAN tag"),
        (tagged(&own, 0x8100, 0), "a priority tag"),
        (tagged(&own, 0x88a8, 5), "a service tag"),
        (tagged(&tagged(&own, 0x8100, 5), 0x88a8, 6), "two tags"),
        (snap(&own), "LLC/SNAP"),
    ];
    for (attack, what) in attacks {
        one.cannot(&two, what, &attack, &path.udp(1, 2, what.as_bytes()))?;
    }

    // where a project manages its addresses itself, all of them pass
    host.enforce(&guarded(&[&one, &two], &Guard::Mac)).await?;
    for frame in [ipv4, spoofed_arp, tagged(&own, 0x8100, 5), snap(&own)] {
        one.reaches(&two, &frame)?;
    }
    Ok(())
}

#[tokio::test]
async fn a_tap_without_rules_is_closed() -> Result<()> {
    let (host, one, two) = pair().await?;
    let stranger = host.guest(9, "ucbr-1").await?;
    stranger.send(&stranger.path(&two).udp(1, 2, b"nobody knows me"));
    one.reaches(&two, &one.path(&two).udp(1, 2, b"known"))?;
    let received = {
        one.send(&one.path(&two).udp(1, 2, b"last"));
        two.receive(|frame| frame == one.path(&two).udp(1, 2, b"last"))?
    };
    ensure!(received.len() == 1, "{received:02x?}");
    let mut rules = guarded(&[&one, &two, &stranger], &checked());
    rules.networks = vec![network(&[&one, &two, &stranger])];
    host.enforce(&rules).await?;
    stranger.reaches(&two, &stranger.path(&two).udp(1, 2, b"now they do"))
}

#[tokio::test]
async fn port_security_off_opens_a_port() -> Result<()> {
    let (host, one, two) = pair().await?;
    let spoofed = Path { mac: "02:00:00:00:00:99".parse()?, ..one.path(&two) }.from("2001:db8::1").udp(1, 2, b"other");
    one.cannot(&two, "spoofed", &spoofed, &one.path(&two).udp(1, 2, b"own"))?;
    let mut rules = guarded(&[&one, &two], &checked());
    rules.ports[0] = port(&one, Guard::Router);
    host.enforce(&rules).await?;
    one.reaches(&two, &spoofed)?;
    rules.ports[0] = port(&one, Guard::Nothing);
    host.enforce(&rules).await?;
    one.reaches(&two, &spoofed)?;
    one.reaches(&two, &tagged(&spoofed, 0x8100, 7))
}
