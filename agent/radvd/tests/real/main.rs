//! Real radvd on a bridge of a host that is a network namespace, with a guest in another.
//! Needs root, iproute2, radvd and rdisc6.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod lab;

use std::{os::unix::fs::MetadataExt as _, path::PathBuf, time::Duration};

use anyhow::{Result, ensure};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader, Lines},
    process::{Child, ChildStdout},
};
use ucloud_agent_core::net::Advertisement;
use ucloud_agent_radvd::Config;

use crate::lab::{Lab, PREFIX, advertisement, wait_until};

#[tokio::test]
async fn a_guest_gets_address_route_and_resolvers() -> Result<()> {
    let lab = Lab::new().await?;
    let all = Advertisement {
        dns_servers: (1..=4).map(|n| format!("2001:db8::{n}").parse().unwrap()).collect(),
        dns_search: vec!["lab.example.org".into(), "example.org".into()],
        ..advertisement(PREFIX)
    };
    lab.advertise(&[all]).await?;
    wait_until("the guest has an address", || lab.guest_has("fd00:1::")).await?;
    let route = lab.guest("ip -6 route show default")?;
    ensure!(route.contains("via fe80::1 dev eth0") && route.contains("mtu 1430"), "{route}");

    let mut heard = String::new();
    wait_until("the guest may ask", || lab.guest("rdisc6 -1 eth0").map(|answer| heard = answer).is_ok()).await?;
    let heard = heard.split_whitespace().collect::<Vec<_>>().join(" ");
    for expected in [
        "Prefix : fd00:1::/64",
        "MTU : 1430",
        "Router lifetime : 1800",
        "Recursive DNS server : 2001:db8::1",
        "Recursive DNS server : 2001:db8::4",
        "DNS search list : lab.example.org example.org",
        "from fe80::1",
    ] {
        ensure!(heard.contains(expected), "{expected:?} is not in {heard}");
    }
    Ok(())
}

#[tokio::test]
async fn a_change_is_taken_up_by_the_same_process() -> Result<()> {
    let lab = Lab::new().await?;
    lab.advertise(&[advertisement(PREFIX)]).await?;
    wait_until("the guest has an address", || lab.guest_has("fd00:1::")).await?;
    let pid = lab.pid()?;
    lab.advertise(&[advertisement("fd00:2::/64")]).await?;
    wait_until("the guest has an address of the new prefix", || lab.guest_has("fd00:2::")).await?;
    assert_eq!(lab.pid()?, pid);
    Ok(())
}

#[tokio::test]
async fn what_did_not_change_is_not_touched() -> Result<()> {
    let lab = Lab::new().await?;
    let other = Advertisement { bridge: "missing".into(), ..advertisement("fd00:3::/64") };
    lab.advertise(&[advertisement(PREFIX), other.clone()]).await?;
    let file = || std::fs::metadata(lab.file("radvd.conf")).map(|meta| (meta.ino(), meta.mtime_nsec()));
    let before = (lab.pid()?, file()?);
    for _ in 0..3 {
        lab.advertise(&[other.clone(), advertisement(PREFIX)]).await?;
    }
    assert_eq!((lab.pid()?, file()?), before);
    // a change is read, and nothing was before it
    lab.advertise(&[advertisement(PREFIX)]).await?;
    wait_until("the change is read", || lab.count_in_log("resuming normal operation") >= 1).await?;
    assert_eq!(lab.count_in_log("attempting to reread config file"), 1);
    Ok(())
}

#[tokio::test]
async fn with_nothing_to_advertise_guests_are_told_so() -> Result<()> {
    let lab = Lab::new().await?;
    lab.advertise(&[]).await?;
    lab.advertise(&[advertisement(PREFIX)]).await?;
    wait_until("the guest has a route", || lab.guest("ip -6 route show default").is_ok_and(|route| !route.is_empty()))
        .await?;
    lab.advertise(&[]).await?;
    assert_eq!(lab.processes()?, "");
    for file in ["radvd.conf", "radvd.conf.new", "radvd.pid"] {
        ensure!(!lab.file(file).exists(), "{file} is left");
    }
    wait_until("the guest's route is gone", || {
        lab.guest("ip -6 route show default").is_ok_and(|route| route.is_empty())
    })
    .await?;
    lab.advertise(&[]).await?;
    // and begins again
    lab.advertise(&[advertisement(PREFIX)]).await?;
    lab.pid()?;
    Ok(())
}

/// What becomes of a guest's routes from now on.
struct Routes {
    lines: Lines<BufReader<ChildStdout>>,
    _monitor: Child,
}

impl Routes {
    /// Comes back when it sees what happens.
    async fn watch(lab: &Lab) -> Result<Self> {
        let mut monitor = lab.start_in_guest("ip -6 monitor route")?;
        let mut lines = BufReader::new(monitor.stdout.take().unwrap()).lines();
        for n in 1.. {
            lab.guest(&format!("ip -6 route add fd00:99:{n:x}::/64 dev eth0"))?;
            if let Ok(line) = tokio::time::timeout(Duration::from_millis(100), lines.next_line()).await {
                ensure!(line?.is_some(), "ip monitor ended");
                break;
            }
        }
        lab.guest("ip -6 route flush root fd00:99::/32")?;
        Ok(Self { lines, _monitor: monitor })
    }

    /// All that has become of them until one with `marker` came.
    async fn until(mut self, marker: &str) -> Result<String> {
        let mut all = String::new();
        while let Some(line) = self.lines.next_line().await? {
            all += &line;
            all.push('\n');
            if line.contains(marker) {
                return Ok(all);
            }
        }
        anyhow::bail!("ip monitor ended: {all}")
    }
}

/// Another host advertises from the same address by then: a withdrawal would be its own.
#[tokio::test]
async fn a_network_that_moved_is_not_withdrawn() -> Result<()> {
    let lab = Lab::new().await?;
    // as the last one of this radvd, which ends, and as one of two
    let other = Advertisement { bridge: "missing".into(), ..advertisement("fd00:3::/64") };
    for (others, next) in [(vec![], "fd00:4::/64"), (vec![other], "fd00:5::/64")] {
        lab.advertise(&[vec![advertisement(PREFIX)], others.clone()].concat()).await?;
        wait_until("the guest has a route", || {
            lab.guest("ip -6 route show default").is_ok_and(|route| !route.is_empty())
        })
        .await?;
        let routes = Routes::watch(&lab).await?;
        lab.hand_over(&others, &["br0"]).await?;
        if others.is_empty() {
            assert_eq!(lab.processes()?, "");
        } else {
            wait_until("the change is read", || lab.count_in_log("resuming normal operation") >= 1).await?;
        }
        let route = lab.guest("ip -6 route show default")?;
        ensure!(route.contains("via fe80::1"), "the guest has lost its route: {route}");
        // it is advertised again, with another prefix: between the two there was nothing
        lab.advertise(&[advertisement(next)]).await?;
        let changes = routes.until(next).await?;
        ensure!(!changes.contains("Deleted default"), "{changes}");
        lab.hand_over(&[], &["br0"]).await?;
    }
    Ok(())
}

/// While radvd goes on for other networks.
#[tokio::test]
async fn a_network_that_has_no_router_any_more_is_told_so() -> Result<()> {
    let lab = Lab::new().await?;
    let other = Advertisement { bridge: "missing".into(), ..advertisement("fd00:3::/64") };
    lab.advertise(&[advertisement(PREFIX), other.clone()]).await?;
    wait_until("the guest has a route", || lab.guest("ip -6 route show default").is_ok_and(|route| !route.is_empty()))
        .await?;
    let pid = lab.pid()?;
    lab.advertise(&[other]).await?;
    wait_until("the guest's route is gone", || {
        lab.guest("ip -6 route show default").is_ok_and(|route| route.is_empty())
    })
    .await?;
    ensure!(lab.guest_has("fd00:1::"), "the address stays until it expires");
    assert_eq!(lab.pid()?, pid);
    Ok(())
}

#[tokio::test]
async fn a_radvd_that_dies_is_started_again() -> Result<()> {
    let lab = Lab::new().await?;
    lab.advertise(&[advertisement(PREFIX)]).await?;
    for _ in 0..2 {
        let pid = lab.pid()?;
        lab.host(&format!("kill -KILL {pid}"))?;
        wait_until("another runs", || lab.pid().is_ok_and(|now| now != pid)).await?;
        wait_until("it advertises", || lab.guest("rdisc6 -1 -q eth0").is_ok_and(|heard| heard.contains(PREFIX)))
            .await?;
    }
    // one that is not wanted any more is not
    lab.advertise(&[]).await?;
    assert_eq!(lab.processes()?, "");
    Ok(())
}

#[tokio::test]
async fn an_agent_that_ends_leaves_radvd_to_the_next() -> Result<()> {
    let mut lab = Lab::new().await?;
    lab.advertise(&[advertisement(PREFIX)]).await?;
    let pid = lab.pid()?;
    let session = lab.host(&format!("ps -o sid= -p {pid}"))?;
    assert_eq!(session.trim(), pid, "it would be hit by what ends the agent's session");

    lab.restart_agent().await?;
    assert_eq!(lab.pid()?, pid);
    lab.advertise(&[advertisement(PREFIX)]).await?;
    assert_eq!(lab.pid()?, pid);
    // it is supervised like one that this agent started
    lab.host(&format!("kill -KILL {pid}"))?;
    wait_until("another runs", || lab.pid().is_ok_and(|now| now != pid)).await?;

    lab.restart_agent().await?;
    lab.advertise(&[]).await?;
    assert_eq!(lab.processes()?, "");
    Ok(())
}

#[tokio::test]
async fn a_change_that_an_agent_did_not_finish_is_finished() -> Result<()> {
    let mut lab = Lab::new().await?;
    lab.advertise(&[advertisement("fd00:2::/64")]).await?;
    let (pid, wanted) = (lab.pid()?, std::fs::read_to_string(lab.file("radvd.conf"))?);
    lab.advertise(&[advertisement(PREFIX)]).await?;
    wait_until("the guest has an address", || lab.guest_has("fd00:1::")).await?;
    // the agent wrote the configuration, and was killed before it told radvd
    lab.restart_agent().await?;
    std::fs::write(lab.file("radvd.conf"), wanted)?;
    lab.advertise(&[advertisement("fd00:2::/64")]).await?;
    wait_until("radvd has read it", || lab.guest("rdisc6 -1 -q eth0").is_ok_and(|heard| heard.contains("fd00:2::/64")))
        .await?;
    assert_eq!(lab.pid()?, pid);
    Ok(())
}

#[tokio::test]
async fn others_with_our_configuration_are_ended() -> Result<()> {
    let mut lab = Lab::new().await?;
    lab.advertise(&[advertisement(PREFIX)]).await?;
    let pid = lab.pid()?;
    lab.restart_agent().await?;
    // the pid file is lost, so that the one that runs cannot be known any more; and another has other arguments
    std::fs::remove_file(lab.file("radvd.pid"))?;
    let directory = lab.file("");
    let _other = lab.start(&format!(
        "radvd -n -m none -C {0}/radvd.conf -p {0}/other.pid",
        directory.display().to_string().trim_end_matches('/')
    ))?;
    wait_until("the other runs", || lab.file("other.pid").exists()).await?;
    lab.advertise(&[advertisement(PREFIX)]).await?;
    let now = lab.pid()?;
    assert_ne!(now, pid);
    // one process and its child with privileges
    assert_eq!(lab.processes()?.lines().count(), 2, "{}", lab.processes()?);
    Ok(())
}

#[tokio::test]
async fn one_bad_network_does_not_stop_the_others() -> Result<()> {
    let lab = Lab::new().await?;
    let hostile = Advertisement {
        bridge: "ucbr-hostile".into(),
        // the first ends a statement, and the others are words of radvd's own
        dns_search: ["a { }; }; interface eth0 {", "on", "123", "1.5", "infinity"].map(Into::into).into(),
        ..advertisement("fd00:3::/64")
    };
    let error = lab.advertise(&[hostile, advertisement(PREFIX)]).await.unwrap_err();
    ensure!(error.terminal && error.message.contains("search domain"), "{error:?}");
    wait_until("the guest has an address", || lab.guest_has("fd00:1::")).await
}

#[tokio::test]
async fn a_configuration_that_radvd_refuses_does_not_replace_the_last() -> Result<()> {
    let mut lab = Lab::new().await?;
    // radvd itself, but one that finds fault with what the real one takes
    let picky = lab.file("picky");
    std::fs::write(
        &picky,
        r#"#!/bin/bash
if [[ "$*" == *--configtest* ]] && grep -q fd00:bad "${@: -1}"; then echo "line 7 is bad" >&2; exit 1; fi
exec -a "$0" radvd "$@"
"#,
    )?;
    lab.host(&format!("chmod 755 {}", picky.display()))?;
    lab.config.binary = picky;
    lab.restart_agent().await?;

    lab.advertise(&[advertisement(PREFIX)]).await?;
    let before = (lab.pid()?, std::fs::read_to_string(lab.file("radvd.conf"))?);
    let error = lab.advertise(&[advertisement("fd00:bad::/64")]).await.unwrap_err();
    ensure!(!error.terminal && error.message.contains("refuses its configuration: line 7 is bad"), "{error:?}");
    assert_eq!((lab.pid()?, std::fs::read_to_string(lab.file("radvd.conf"))?), before);
    wait_until("the guest has an address", || lab.guest_has("fd00:1::")).await
}

#[tokio::test]
async fn what_is_wrong_with_the_host_is_said() -> Result<()> {
    let mut lab = Lab::new().await?;
    let sound = lab.config.clone();
    let error_of = async |lab: &mut Lab, config: Config| -> Result<String> {
        lab.config = config;
        lab.restart_agent().await?;
        Ok(lab.advertise(&[advertisement(PREFIX)]).await.unwrap_err().message)
    };

    let missing = Config { binary: PathBuf::from("/nonexistent/radvd"), ..sound.clone() };
    let error = error_of(&mut lab, missing).await?;
    ensure!(error.contains("is the package radvd installed?"), "{error}");

    let nobody = Config { user: Some("no-such-user".into()), ..sound.clone() };
    let error = error_of(&mut lab, nobody).await?;
    ensure!(error.contains("it ended at once") && error.contains("exiting"), "{error}");

    let closed = sound.directory.join("closed");
    lab.host(&format!("mkdir -m 700 {}", closed.display()))?;
    let hidden = Config { directory: closed.join("radvd"), user: Some("radvd".into()), ..sound.clone() };
    let error = error_of(&mut lab, hidden).await?;
    ensure!(error.contains("closed; set mode 755"), "{error}");

    lab.config = sound;
    lab.restart_agent().await?;
    lab.advertise(&[advertisement(PREFIX)]).await?;
    Ok(())
}
