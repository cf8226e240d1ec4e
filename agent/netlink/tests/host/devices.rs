//! The devices of networks: made, repaired, found again and removed.

use anyhow::{Result, ensure};
use tokio::time::{Duration, timeout};
use ucloud_agent_core::{Net as _, net::NetworkDevices};
use ucloud_types::Vni;

use crate::lab::{Host, request, routed, wait_until};

const UID: &str = "0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11";

fn vxlan_of(bridge: &str) -> String {
    bridge.replace("ucbr", "ucvx")
}

/// All that is set on a network's devices, without what differs each time they are made.
fn settings(host: &Host, bridge: &str) -> Result<String> {
    let mut settings = String::new();
    for device in [vxlan_of(bridge), bridge.to_owned()] {
        let links = host.namespace.run(&format!("ip -d link show dev {device}"))?;
        let parameters = links.split_whitespace().filter(|word| !word.ends_with(':'));
        // timers count, and the VXLAN's own address is random
        let parameters = parameters.scan("", |before, word| {
            let kept = if before.ends_with("timer") || *before == "link/ether" { "" } else { word };
            *before = word;
            Some(kept)
        });
        settings.extend(parameters.flat_map(|word| [word, " "]));
        settings += &host.namespace.run(&format!("ip -o addr show dev {device}"))?.replace(char::is_numeric, "");
        for sysctl in ["disable_ipv6", "accept_ra", "forwarding", "addr_gen_mode"] {
            settings += &host.namespace.run(&format!("sysctl net.ipv6.conf.{device}.{sysctl}"))?;
        }
    }
    let mac = host.namespace.run(&format!("cat /sys/class/net/{bridge}/address"))?;
    Ok(settings + &mac)
}

#[tokio::test]
async fn a_network_is_a_vxlan_in_a_bridge_without_addresses() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let vxlan = vxlan_of(&bridge);

    let link = host.namespace.run(&format!("ip -d link show dev {vxlan}"))?;
    for expected in [
        "vxlan id 100 group ff05::64 dev up0",
        "dstport 4789",
        "ttl 64",
        "mtu 1430",
        &format!("master {bridge}"),
        &format!("alias ucloud:network:{UID}"),
        "addrgenmode none",
        "group 100",
        ",UP",
    ] {
        ensure!(link.contains(expected), "{expected:?} is not in {link}");
    }
    let link = host.namespace.run(&format!("ip -d link show dev {bridge}"))?;
    for expected in [
        "stp_state 0",
        "mcast_snooping 0",
        "mtu 1430",
        &format!("alias ucloud:network:{UID}"),
        "addrgenmode none",
        ",UP",
    ] {
        ensure!(link.contains(expected), "{expected:?} is not in {link}");
    }
    for device in [&bridge, &vxlan] {
        assert_eq!(host.namespace.run(&format!("ip -o addr show dev {device}"))?, "");
    }
    let vni = Vni::new(100).unwrap();
    assert_eq!(host.networks().await?, [NetworkDevices { uid: UID.into(), vni, bridge, mtu: 1430, routes: false }]);
    Ok(())
}

#[tokio::test]
async fn what_is_as_it_should_be_is_left_alone() -> Result<()> {
    let host = Host::alone().await?;
    for request in [request(UID, 100), routed("another", 101, "fd00:1::/64")] {
        host.ensure(&request).await?;
        let log = tempfile::NamedTempFile::new()?;
        let mut monitor = tokio::process::Command::new("ip");
        monitor.args(["netns", "exec", &host.namespace.name, "ip", "-o", "monitor", "link", "address"]);
        let _monitor = monitor.stdout(log.reopen()?).kill_on_drop(true).spawn()?;
        let heard = |name: &str| std::fs::read_to_string(log.path()).is_ok_and(|log| log.contains(name));
        // the monitor hears something before and after what is not to make a sound
        wait_until("the monitor listens", || {
            let _ = host.namespace.run("ip link add before type veth peer name before1");
            let _ = host.namespace.run("ip link del before");
            heard("before")
        })
        .await?;
        host.ensure(&request).await?;
        host.namespace.run("ip link add after type veth peer name after1")?;
        host.namespace.run("ip link del after")?;
        wait_until("the monitor has heard all", || heard("after")).await?;
        let log = std::fs::read_to_string(log.path())?;
        ensure!(!log.contains("ucbr") && !log.contains("ucvx"), "{log}");
    }
    Ok(())
}

#[tokio::test]
async fn what_was_changed_by_hand_is_repaired() -> Result<()> {
    let host = Host::alone().await?;
    let (plain, router) = (request(UID, 100), routed("another", 101, "fd00:1::/64"));
    for request in [&plain, &router] {
        let bridge = host.ensure(request).await?;
        let vxlan = vxlan_of(&bridge);
        let sound = settings(&host, &bridge)?;
        for damage in [
            format!("ip link del {vxlan}"),
            format!("ip link del {bridge}"),
            format!("ip link set {vxlan} nomaster"),
            format!("ip link set {vxlan} down"),
            format!("ip link set {bridge} down"),
            format!("ip link set {vxlan} mtu 1280"),
            format!("ip link set {bridge} mtu 1000"),
            format!("ip link set {bridge} address 02:00:00:00:00:99"),
            format!("ip link set {bridge} type bridge mcast_snooping 1 stp_state 1"),
            format!("ip link set {vxlan} type vxlan ttl 3"),
            format!("ip link set {bridge} addrgenmode eui64"),
            format!("ip link set {bridge} group 7"),
            format!("sysctl -w net.ipv6.conf.{bridge}.disable_ipv6=0"),
            format!("sysctl -w net.ipv6.conf.{bridge}.disable_ipv6=1"),
            format!("sysctl -w net.ipv6.conf.{vxlan}.disable_ipv6=0"),
            format!("sysctl -w net.ipv6.conf.{bridge}.accept_ra=1"),
            "sysctl -w net.ipv6.conf.all.forwarding=1".to_owned(),
            format!("ip addr add 10.0.0.1/24 dev {bridge}"),
            format!("ip addr flush dev {bridge}"),
        ] {
            host.namespace.run(&damage)?;
            host.ensure(request).await?;
            pretty(&settings(&host, &bridge)?, &sound, &damage)?;
        }
        // someone else's VXLAN in place of ours
        host.namespace.run(&format!("ip link del {vxlan}"))?;
        host.namespace.run(&format!("ip link add {vxlan} type vxlan id 9 dstport 4789 group ff05::9 dev up0"))?;
        host.ensure(request).await?;
        pretty(&settings(&host, &bridge)?, &sound, "a VXLAN with another VNI")?;
        // the underlay's removal takes the VXLANs with it
        host.namespace.run("ip link del up0")?;
        let error = host.ensure(request).await.unwrap_err();
        ensure!(error.to_string().contains("up0 does not exist"), "{error}");
        host.namespace.run("ip link add up0 address 02:00:00:00:00:01 type veth peer name switch0")?;
        host.namespace.run("ip link set up0 up")?;
        host.ensure(request).await?;
        host.namespace.run(&format!("ip link show dev {vxlan} master {bridge}"))?;
    }
    Ok(())
}

fn pretty(is: &str, should_be: &str, after: &str) -> Result<()> {
    ensure!(is == should_be, "after {after}:\n{is}\nand not:\n{should_be}");
    Ok(())
}

#[tokio::test]
async fn a_lone_address_of_ipv6_is_removed_from_a_host_that_does_not_route() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    host.namespace.sysctl(&format!("net.ipv6.conf.{bridge}.disable_ipv6"), 0)?;
    host.namespace.run(&format!("ip addr add fd00:1::99/64 dev {bridge}"))?;
    host.ensure(&request(UID, 100)).await?;
    assert_eq!(host.namespace.run(&format!("ip -o addr show dev {bridge}"))?, "");
    Ok(())
}

#[tokio::test]
async fn the_gateway_comes_and_goes_with_the_role() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let plain = settings(&host, &bridge)?;

    host.ensure(&routed(UID, 100, "fd00:1::/64")).await?;
    let addresses = host.namespace.run(&format!("ip -o addr show dev {bridge}"))?;
    ensure!(addresses.contains("fd00:1::1/64") && addresses.contains("fe80::1/64"), "{addresses}");
    ensure!(!addresses.contains("tentative") && addresses.lines().count() == 2, "{addresses}");
    assert_eq!(host.namespace.run(&format!("sysctl -n net.ipv6.conf.{bridge}.forwarding"))?, "1\n");

    host.ensure(&routed(UID, 100, "fd00:2::/64")).await?;
    let addresses = host.namespace.run(&format!("ip -o addr show dev {bridge}"))?;
    ensure!(addresses.contains("fd00:2::1/64") && !addresses.contains("fd00:1::1/64"), "{addresses}");

    host.ensure(&request(UID, 100)).await?;
    assert_eq!(settings(&host, &bridge)?, plain);
    Ok(())
}

#[tokio::test]
async fn what_an_agent_left_half_made_is_completed() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let (vxlan, sound) = (vxlan_of(&bridge), settings(&host, &bridge)?);
    let make_vxlan = format!("ip link add {vxlan} type vxlan id 100 dstport 4789 group ff05::64 ttl 64 dev up0");
    let set_alias = format!("ip link set {vxlan} alias ucloud:network:{UID}");
    let make_bridge = format!("ip link add {bridge} type bridge");
    for left in [&[&make_vxlan][..], &[&make_vxlan, &set_alias], &[&make_vxlan, &set_alias, &make_bridge]] {
        host.remove(UID).await?;
        for command in left {
            host.namespace.run(command)?;
        }
        host.ensure(&request(UID, 100)).await?;
        assert_eq!(settings(&host, &bridge)?, sound, "{left:?}");
    }
    Ok(())
}

#[tokio::test]
async fn an_agent_that_starts_clears_away_what_no_network_can_be_told_from() -> Result<()> {
    let mut host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    for command in [
        "ip link add ucvx-0123456789 type vxlan id 7 dstport 4789 group ff05::7 dev up0",
        "ip link add ucbr-0123456789 type bridge",
        "ip link add ucbr-uplink type bridge",
        // whose alias was removed by hand, with a guest in it
        "ip link add ucbr-abcdefabcd type bridge",
        "ip link add guest type veth peer name guest1",
        "ip link set guest master ucbr-abcdefabcd",
    ] {
        host.namespace.run(command)?;
    }
    host.restart_agent().await?;
    let links = host.namespace.run("ip -o link show")?;
    ensure!(!links.contains("0123456789"), "{links}");
    for kept in ["ucbr-uplink", "ucbr-abcdefabcd", &bridge] {
        ensure!(links.contains(kept), "{kept} is not in {links}");
    }
    Ok(())
}

#[tokio::test]
async fn removal_leaves_nothing_and_may_be_repeated() -> Result<()> {
    let host = Host::alone().await?;
    let before = host.namespace.run("ip -o link show")?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    host.remove(UID).await?;
    assert_eq!(host.namespace.run("ip -o link show")?, before);
    host.remove(UID).await?;

    // half of it was removed by hand, and the other half still tells its network and VNI
    for lost in [vxlan_of(&bridge), bridge.clone()] {
        host.ensure(&request(UID, 100)).await?;
        host.namespace.run(&format!("ip link del {lost}"))?;
        let found = host.networks().await?;
        assert_eq!((found.len(), found[0].uid.as_str(), found[0].vni.get()), (1, UID, 100));
        host.remove(UID).await?;
        assert_eq!(host.namespace.run("ip -o link show")?, before);
    }
    assert_eq!(host.networks().await?, []);
    Ok(())
}

#[tokio::test]
async fn foreign_devices_are_not_touched() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    host.remove(UID).await?;
    for foreign in [
        vec![format!("ip link add {bridge} type veth peer name other")],
        vec![format!("ip link add {bridge} type bridge"), format!("ip link set {bridge} alias backbone")],
    ] {
        for command in &foreign {
            host.namespace.run(command)?;
        }
        let before = host.namespace.run("ip -o link show")?;
        let error = host.ensure(&request(UID, 100)).await.unwrap_err();
        ensure!(error.to_string().contains(&bridge), "{error}");
        host.remove(UID).await?;
        assert_eq!(host.namespace.run("ip -o link show")?, before);
        assert_eq!(host.networks().await?, []);
        host.namespace.run(&format!("ip link del {bridge}"))?;
    }
    Ok(())
}

#[tokio::test]
async fn an_mtu_is_given_to_guests_only_if_it_fits() -> Result<()> {
    let host = Host::alone().await?;
    let mut wanted = request(UID, 100);
    wanted.mtu = Some(1431);
    let attempt = wanted.clone();
    let error = host.on(async move |net| net.ensure_network(&attempt).await).await.unwrap_err();
    ensure!(error.terminal && error.message.contains("ask for 1430 or less"), "{error:?}");
    assert_eq!(host.networks().await?, []);

    for (mtu, guest) in [(1400, 1), (1300, 2), (1430, 3)] {
        wanted.mtu = Some(mtu);
        let bridge = host.ensure(&wanted).await?;
        // guests cannot pull the bridge's MTU down
        let _guest = host.guest(&bridge, guest)?;
        host.namespace.run(&format!("ip link set tap{guest} mtu 1290"))?;
        for device in [&bridge, &vxlan_of(&bridge)] {
            assert_eq!(host.namespace.run(&format!("cat /sys/class/net/{device}/mtu"))?, format!("{mtu}\n"));
        }
    }
    Ok(())
}

#[tokio::test]
async fn the_host_has_no_address_on_taps() -> Result<()> {
    let host = Host::alone().await?;
    let bridge = host.ensure(&request(UID, 100)).await?;
    let _guest = host.guest(&bridge, 1)?;
    // as a hypervisor makes a tap: with what the kernel gives it
    host.namespace.run("ip link set tap1 down")?;
    host.namespace.run("ip link set tap1 addrgenmode eui64 up")?;
    let address = || host.namespace.run("ip -6 -brief address show dev tap1");
    wait_until("the kernel has given the tap an address", || address().is_ok_and(|said| said.contains("fe80:")))
        .await?;
    host.ensure_tap("tap1", &bridge).await?;
    ensure!(address()?.trim().is_empty(), "{}", address()?);
    // nor does it get one when it goes down and up
    host.namespace.run("ip link set tap1 down")?;
    host.namespace.run("ip link set tap1 up")?;
    ensure!(address()?.trim().is_empty(), "{}", address()?);
    Ok(())
}

#[tokio::test]
async fn an_underlay_that_is_down_is_named() -> Result<()> {
    let host = Host::alone().await?;
    host.namespace.run("ip link set up0 down")?;
    let error = host.on(async move |net| net.ensure_network(&request(UID, 100)).await).await.unwrap_err();
    ensure!(!error.terminal && error.message.contains("up0 is down"), "{error:?}");
    host.namespace.run("ip link set up0 up")?;
    host.namespace.run("ip addr add fd99::1/64 dev up0 nodad")?;
    host.namespace.run("ip addr add 192.0.2.1/24 dev up0")?;
    let addresses = host.on(async move |net| net.underlay_addresses().await).await?;
    assert_eq!(addresses.len(), 2, "{addresses:?}");
    ensure!(addresses.contains(&"fd99::1".parse()?) && addresses.contains(&"192.0.2.1".parse()?));
    Ok(())
}

#[tokio::test]
async fn a_vni_in_use_says_by_whom() -> Result<()> {
    let host = Host::alone().await?;
    host.ensure(&request("first", 100)).await?;
    let error = host.ensure(&request("second", 100)).await.unwrap_err().to_string();
    ensure!(error.contains("VNI 100 is used") && error.contains("of network first"), "{error}");
    host.remove("first").await?;
    host.ensure(&request("second", 100)).await?;
    Ok(())
}

#[tokio::test]
async fn changes_of_devices_are_told() -> Result<()> {
    let host = Host::alone().await?;
    let mut changes = host.net().changes();
    let bridge = host.ensure(&request(UID, 100)).await?;
    timeout(Duration::from_secs(10), changes.changed()).await??;
    // all that ensure did is told before what happens next
    host.namespace.run("ip link add uc-next type veth peer name next1")?;
    let mut last = *changes.borrow_and_update();
    host.namespace.run(&format!("ip link del {bridge}"))?;
    wait_until("the removal is told", || {
        let now = *changes.borrow_and_update();
        std::mem::replace(&mut last, now) != now
    })
    .await
}

#[tokio::test]
async fn fifty_networks_come_and_go() -> Result<()> {
    let host = Host::alone().await?;
    let before = host.namespace.run("ip -o link show")?;
    let uid = |number: u32| format!("network-{number}");
    let made = host.on(async move |net| {
        let requests: Vec<_> = (1..=50).map(|number| request(&uid(number), number)).collect();
        futures::future::try_join_all(requests.iter().map(|request| net.ensure_network(request))).await
    });
    assert_eq!(made.await?.len(), 50);
    assert_eq!(host.networks().await?.len(), 50);
    host.on(async move |net| {
        let uids: Vec<_> = (1..=50).map(uid).collect();
        futures::future::try_join_all(uids.iter().map(|uid| net.remove_network(uid))).await
    })
    .await?;
    assert_eq!(host.networks().await?, []);
    assert_eq!(host.namespace.run("ip -o link show")?, before);
    Ok(())
}
