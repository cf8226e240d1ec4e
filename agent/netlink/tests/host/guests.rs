//! What guests get from their networks, and what is learnt of them.

use std::net::Ipv6Addr;

use anyhow::{Result, ensure};
use ucloud_agent_core::Net as _;

use crate::lab::{Advertiser, Guest, Host, request, routed, wait_until};

const UID: &str = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";

async fn learns(host: &Host, uid: &str, guest: &Guest, address: &str) -> Result<()> {
    let address: Ipv6Addr = address.parse()?;
    wait_until(&format!("{address} is learnt"), || host.net().learnt(uid, guest.mac).contains(&address)).await
}

#[tokio::test]
async fn duplicate_address_detection_is_heard_where_the_host_has_no_ipv6() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let guest = host.guest(&bridge, 1)?;
    let mut changes = host.net().changes();
    guest.add("fd00:1::5")?;
    guest.add("2001:db8::7")?;
    learns(&host, UID, &guest, "fd00:1::5").await?;
    learns(&host, UID, &guest, "2001:db8::7").await?;
    ensure!(changes.has_changed()?);
    changes.mark_unchanged();
    // sorted, and without the link-local address that the guest has too
    let expected: [Ipv6Addr; 2] = ["2001:db8::7".parse()?, "fd00:1::5".parse()?];
    assert_eq!(host.net().learnt(UID, guest.mac), expected);

    host.remove(UID).await?;
    assert_eq!(host.net().learnt(UID, guest.mac), [] as [Ipv6Addr; 0]);
    Ok(())
}

#[tokio::test]
async fn what_was_missed_is_learnt_by_asking() -> Result<()> {
    let mut host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let guest = host.guest(&bridge, 1)?;
    guest.add("fd00:1::5")?;
    learns(&host, UID, &guest, "fd00:1::5").await?;

    host.restart_agent().await?;
    let address: Ipv6Addr = "fd00:1::5".parse()?;
    let error = host.on(async move |net| net.solicit(UID, address).await).await.unwrap_err();
    ensure!(error.message.contains(UID), "{error:?}");
    host.ensure(&request(UID, 100)).await?;
    assert_eq!(host.net().learnt(UID, guest.mac), [] as [Ipv6Addr; 0]);
    // the guest must be through with its detection, or it does not answer
    wait_until("the address is the guest's", || {
        guest.namespace.run("ip -o addr show dev eth0").is_ok_and(|addresses| !addresses.contains("tentative"))
    })
    .await?;
    host.on(async move |net| net.solicit(UID, address).await).await?;
    learns(&host, UID, &guest, "fd00:1::5").await
}

#[tokio::test]
async fn asking_does_not_make_a_guest_give_up_its_address() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let guest = host.guest(&bridge, 1)?;
    guest.namespace.sysctl("net.ipv6.conf.eth0.dad_transmits", 3)?;
    guest.add("fd00:1::5")?;
    let address: Ipv6Addr = "fd00:1::5".parse()?;
    let addresses = || guest.namespace.run("ip -o addr show dev eth0").unwrap_or_default();
    let (mut asked, mut tentative) = (0, true);
    while tentative {
        host.on(async move |net| net.solicit(UID, address).await).await?;
        asked += 1;
        tentative = addresses().lines().any(|line| line.contains("fd00:1::5") && line.contains("tentative"));
    }
    ensure!(asked > 3 && addresses().contains("fd00:1::5") && !addresses().contains("dadfailed"), "{}", addresses());
    Ok(())
}

#[tokio::test]
async fn a_bridge_that_was_made_again_is_listened_to_again() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let guest = host.guest(&bridge, 1)?;
    guest.add("fd00:1::5")?;
    learns(&host, UID, &guest, "fd00:1::5").await?;
    host.namespace.run(&format!("ip link del {bridge}"))?;
    host.ensure(&request(UID, 100)).await?;
    host.ensure_tap("tap1", &bridge).await?;
    guest.add("fd00:1::6")?;
    learns(&host, UID, &guest, "fd00:1::6").await?;
    assert_eq!(host.net().learnt(UID, guest.mac).len(), 2, "what was learnt before is still known");

    // and one that was only down for a while
    host.namespace.run(&format!("ip link set {bridge} down"))?;
    host.ensure(&request(UID, 100)).await?;
    guest.add("fd00:1::7")?;
    learns(&host, UID, &guest, "fd00:1::7").await
}

#[tokio::test]
async fn a_tap_that_was_taken_away_comes_back() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let (one, two) = (host.guest(&bridge, 1)?, host.guest(&bridge, 2)?);
    one.add("fd00:1::1")?;
    two.add("fd00:1::2")?;
    wait_until("guests reach each other", || one.pings("fd00:1::2")).await?;
    host.namespace.run("ip link add elsewhere type bridge")?;
    for damage in ["ip link set tap1 nomaster", "ip link set tap1 master elsewhere", "ip link set tap1 down"] {
        let mut changes = host.net().changes();
        host.namespace.run(damage)?;
        ensure!(!one.pings("fd00:1::2"), "{damage} has no effect");
        host.ensure_tap("tap1", &bridge).await?;
        wait_until("guests reach each other again", || one.pings("fd00:1::2")).await?;
        changes.mark_unchanged();
        // one that is right is left alone, and one that is gone is nobody's fault
        host.ensure_tap("tap1", &bridge).await?;
        host.ensure_tap("gone", &bridge).await?;
    }
    Ok(())
}

#[tokio::test]
async fn router_and_guest_reach_each_other() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&routed(UID, 100, "fd00:1::/64")).await?;
    let advertiser = Advertiser::start(&host, &bridge, "fd00:1::/64")?;
    let guest = host.guest(&bridge, 1)?;
    let address = guest.mac.slaac("fd00:1::/64".parse()?).unwrap().to_string();
    learns(&host, UID, &guest, &address).await?;
    wait_until("the guest pings its gateway", || guest.pings("fd00:1::1")).await?;
    wait_until("the host pings the guest", || host.namespace.run(&format!("ping -6 -n -c 1 -W 1 {address}")).is_ok())
        .await?;
    let route = guest.namespace.run("ip -6 route show default")?;
    ensure!(route.contains("via fe80::1 dev eth0"), "{route}");
    drop(advertiser);

    // when another host becomes the router, this one does not answer for the gateway any more
    host.ensure(&request(UID, 100)).await?;
    ensure!(!guest.pings("fd00:1::1"));
    Ok(())
}

#[tokio::test]
async fn a_network_spans_hosts() -> Result<()> {
    let (router, other) = Host::pair().await?;
    let bridge = router.ensure(&routed(UID, 100, "fd00:1::/64")).await?;
    let remote_bridge = other.ensure(&request(UID, 100)).await?;
    assert_eq!(bridge, remote_bridge);
    let address = |host: &Host| host.namespace.run(&format!("cat /sys/class/net/{bridge}/address"));
    assert_ne!(address(&router)?, address(&other)?);

    let _advertiser = Advertiser::start(&router, &bridge, "fd00:1::/64")?;
    let (here, there) = (router.guest(&bridge, 1)?, other.guest(&bridge, 2)?);
    let there_address = there.mac.slaac("fd00:1::/64".parse()?).unwrap().to_string();
    learns(&other, UID, &there, &there_address).await?;
    learns(&router, UID, &there, &there_address).await?;
    wait_until("guests on two hosts reach each other", || here.pings(&there_address)).await?;
    wait_until("the guest reaches the router", || there.pings("fd00:1::1")).await?;
    // packets as large as the network's MTU get through, and the underlay fragments none
    let full = format!("ping -6 -n -c 1 -W 2 -M do -s {} {there_address}", 1430 - 40 - 8);
    here.namespace.run("ip link set eth0 mtu 1430")?;
    here.namespace.run(&full)?;
    Ok(())
}

#[tokio::test]
async fn networks_are_apart() -> Result<()> {
    let host = Host::alone().await?;
    let (one, two) = (host.ensure(&request("one", 100)).await?, host.ensure(&request("two", 101)).await?);
    let (asks, same, other) = (host.guest(&one, 1)?, host.guest(&one, 2)?, host.guest(&two, 3)?);
    asks.add("fd00:1::1")?;
    same.add("fd00:1::2")?;
    // the same address in two networks
    other.add("fd00:1::2")?;
    for (uid, guest) in [("one", &same), ("two", &other)] {
        learns(&host, uid, guest, "fd00:1::2").await?;
    }
    assert_eq!(host.net().learnt("two", same.mac), [] as [Ipv6Addr; 0]);
    wait_until("guests of one network reach each other", || asks.pings("fd00:1::2")).await?;
    host.namespace.run("ip link del tap2")?;
    ensure!(!asks.pings("fd00:1::2"), "a guest of another network answered");
    Ok(())
}
