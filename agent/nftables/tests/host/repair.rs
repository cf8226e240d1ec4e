//! The tables as such: written when something changed, found again, and put right.

use std::{future::ready, time::Duration};

use anyhow::{Context as _, Result, ensure};
use ucloud_agent_core::{Firewall as _, firewall::Guard};
use ucloud_agent_nftables::Nftables;

use crate::{
    frames::Path,
    lab::{Guest, Host, checked, guarded, pair},
};

fn spoofing_is_refused(one: &Guest, two: &Guest) -> Result<()> {
    let path = one.path(two);
    let spoofed = Path { mac: two.mac, ..path };
    one.cannot(two, "another's MAC", &spoofed.udp(1, 2, b"spoofed"), &path.udp(1, 2, b"own"))
}

/// The rules with their handles, which tell whether they were written anew.
fn handles(host: &Host) -> Result<String> {
    host.run("nft -a list ruleset")
}

#[tokio::test]
async fn nothing_is_written_when_nothing_changed() -> Result<()> {
    let (host, one, two) = pair().await?;
    let before = handles(&host)?;
    for _ in 0..3 {
        host.enforce(&guarded(&[&one, &two], &checked())).await?;
    }
    ensure!(handles(&host)? == before);
    host.enforce(&guarded(&[&one, &two], &Guard::Mac)).await?;
    ensure!(handles(&host)? != before, "handles tell");
    Ok(())
}

#[tokio::test]
async fn what_somebody_changed_by_hand_is_put_right() -> Result<()> {
    let (host, one, two) = pair().await?;
    let rules = guarded(&[&one, &two], &checked());
    let whole = host.run("nft list ruleset")?;
    for damage in [
        "flush ruleset",
        "flush table bridge ucloud",
        "delete table inet ucloud",
        "insert rule bridge ucloud from-guests accept",
        "flush chain bridge ucloud from-uctp-1",
        "add element bridge ucloud own-addresses-ucbr-1 { fd00:1::1 . 02:00:00:00:00:01 }",
        "add chain inet ucloud mine",
    ] {
        let mut changes = host.firewall().changes();
        changes.mark_unchanged();
        host.run(&format!("nft {damage}"))?;
        let heard = tokio::time::timeout(Duration::from_secs(20), changes.changed()).await;
        heard.with_context(|| format!("nobody told of {damage}"))??;
        host.enforce(&rules).await?;
        ensure!(host.run("nft list ruleset")? == whole, "after {damage}");
        spoofing_is_refused(&one, &two)?;
    }
    Ok(())
}

#[tokio::test]
async fn rules_of_others_are_left_alone() -> Result<()> {
    let (host, one, two) = pair().await?;
    host.run("nft add table bridge mine")?;
    host.run("nft add chain bridge mine forward { type filter hook forward priority 0; }")?;
    host.run("nft add rule bridge mine forward counter")?;
    let theirs = || host.run("nft -a -s list table bridge mine");
    let before = theirs()?;
    host.enforce(&guarded(&[&one, &two], &Guard::Mac)).await?;
    host.run("nft flush table bridge ucloud")?;
    host.enforce(&guarded(&[&one], &checked())).await?;
    ensure!(theirs()? == before);
    Ok(())
}

#[tokio::test]
async fn a_new_adapter_takes_over() -> Result<()> {
    let (host, one, two) = pair().await?;
    let whole = host.run("nft list ruleset")?;
    let rules = guarded(&[&one, &two], &checked());
    host.on(async move |_| Nftables::start().enforce(&rules).await).await?;
    ensure!(host.run("nft list ruleset")? == whole);
    spoofing_is_refused(&one, &two)?;
    // and clears away what is not wanted any more
    let none = guarded(&[], &checked());
    host.on(async move |_| Nftables::start().enforce(&none).await).await?;
    let left = host.run("nft list ruleset")?;
    ensure!(!left.contains("uctp-1"), "{left}");
    Ok(())
}

#[tokio::test]
async fn at_no_moment_is_a_guest_without_rules() -> Result<()> {
    let (host, one, two) = pair().await?;
    let [some, other] = [checked(), Guard::Mac].map(|guard| guarded(&[&one, &two], &guard));
    let spoofed = Path { mac: two.mac, ..one.path(&two) }.udp(1, 2, b"spoofed");
    let changing = host.on(move |firewall| {
        ready(tokio::spawn(async move {
            for _ in 0..20 {
                firewall.enforce(&other).await?;
                firewall.enforce(&some).await?;
            }
            Ok::<_, ucloud_agent_core::HostError>(())
        }))
    });
    let changing = changing.await;
    let mut sent = 0_u32;
    while !changing.is_finished() {
        one.send(&spoofed);
        sent += 1;
    }
    changing.await??;
    let last = one.path(&two).udp(1, 2, b"last");
    one.send(&last);
    let received = two.receive(|frame| frame == last)?;
    ensure!(sent > 100 && received.len() == 1, "{sent} were sent, and these passed: {received:02x?}");
    Ok(())
}
