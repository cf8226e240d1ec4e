//! Security groups: what they let in and out, and what they remember.

use anyhow::Result;
use ucloud_agent_core::firewall::{GroupAddresses, GroupPeer, GroupRule, GroupRules, Guard};
use ucloud_types::security_group::Protocol;

use crate::{
    frames::{FRAGMENT, IPV4, TCP, about, ethernet, fragment, ipv4_udp, link},
    lab::{Guest, Host, checked, grouped, guarded},
};

const SYN: u8 = 2;
const SYN_ACK: u8 = 18;
const ACK: u8 = 16;
const RST: u8 = 4;

fn rule(peers: Vec<GroupPeer>, protocol: Option<Protocol>, ports: &[(u16, u16)]) -> GroupRule {
    GroupRule { peers, protocol, ports: ports.to_vec() }
}

/// Two guests of one network, of which the second is in groups with these rules.
async fn with(groups: GroupRules) -> Result<(Host, Guest, Guest)> {
    let host = Host::new().await?;
    let (one, two) = (host.guest(1, "ucbr-1").await?, host.guest(2, "ucbr-1").await?);
    host.enforce(&grouped(&[&one, &two], &checked(), groups)).await?;
    Ok((host, one, two))
}

fn web() -> GroupRules {
    GroupRules { ingress: vec![rule(Vec::new(), Some(Protocol::TCP), &[(80, 80), (8000, 8010)])], egress: None }
}

#[tokio::test]
async fn only_what_a_rule_lets_in_comes_in() -> Result<()> {
    let (_host, one, two) = with(web()).await?;
    let path = one.path(&two);
    let allowed = path.tcp(5000, 80, SYN);
    for (attack, what) in [
        (path.tcp(5000, 22, SYN), "another port"),
        (path.tcp(5000, 7999, SYN), "below the range"),
        (path.tcp(5000, 8011, SYN), "above the range"),
        (path.tcp(80, 5000, SYN_ACK), "an answer to nothing"),
        (path.tcp(5000, 22, ACK), "the middle of nothing"),
        (path.tcp(5000, 22, RST), "the end of nothing"),
        (path.udp(5000, 80, b"x"), "another protocol"),
        (path.icmp(128, &[0, 1, 0, 1]), "an echo request"),
        (path.icmp(129, &[0, 1, 0, 1]), "an echo reply to nothing"),
        (
            path.frame(FRAGMENT, 64, &[fragment(TCP, 0, true), vec![0x13, 0x88, 0, 22, 0, 0, 0, 1]].concat()),
            "a fragment",
        ),
    ] {
        one.cannot(&two, what, &attack, &allowed)?;
    }
    one.reaches(&two, &path.tcp(5000, 8005, SYN))?;
    // without which nothing works
    one.reaches(&two, &path.icmp(135, &about(&two.address().to_string(), &link(1, one.mac))))?;
    one.reaches(&two, &path.icmp(136, &about(&one.address().to_string(), &link(2, one.mac))))?;
    one.reaches(&two, &path.icmp(2, &[0, 0, 5, 0]))?;
    // the other guest is in no group
    two.reaches(&one, &two.path(&one).tcp(5000, 22, SYN))
}

#[tokio::test]
async fn answers_to_what_the_guest_begins_come_in() -> Result<()> {
    let (host, one, two) = with(web()).await?;
    let (to, from) = (one.path(&two), two.path(&one));
    let allowed = to.tcp(5000, 80, SYN);
    let conversations = [
        (from.tcp(4000, 443, SYN), to.tcp(443, 4000, SYN_ACK), to.tcp(443, 4001, SYN_ACK)),
        (from.udp(4000, 53, b"question"), to.udp(53, 4000, b"answer"), to.udp(54, 4000, b"answer")),
        (from.icmp(128, &[0, 7, 0, 1]), to.icmp(129, &[0, 7, 0, 1]), to.icmp(129, &[0, 8, 0, 1])),
    ];
    for (question, answer, other) in &conversations {
        one.cannot(&two, "an answer before the question", answer, &allowed)?;
        two.reaches(&one, question)?;
        one.reaches(&two, answer)?;
        one.cannot(&two, "an answer to another question", other, &allowed)?;
    }
    // and go on to, when rules change
    let third = host.guest(3, "ucbr-1").await?;
    let mut rules = grouped(&[&one, &two, &third], &checked(), web());
    host.enforce(&rules).await?;
    for (_, answer, _) in &conversations {
        one.reaches(&two, answer)?;
    }
    // nobody answers for somebody else
    third.cannot(
        &two,
        "another's answer",
        &third.path(&two).tcp(443, 4000, SYN_ACK),
        &third.path(&two).tcp(1, 80, SYN),
    )?;
    // what no rule is about any more is forgotten with the interface
    rules.ports[1].groups = None;
    host.enforce(&rules).await?;
    rules.ports[1].groups = Some(web());
    host.enforce(&rules).await?;
    one.cannot(&two, "an answer to what was forgotten", &conversations[1].1, &allowed)
}

#[tokio::test]
async fn peers_are_prefixes_and_groups() -> Result<()> {
    let peers = |peers| GroupRules { ingress: vec![rule(peers, Some(Protocol::UDP), &[(53, 53)])], egress: None };
    let (host, one, two) = with(peers(vec![GroupPeer::Prefix("fd00:1::a:0/112".parse()?)])).await?;
    let path = one.path(&two);
    let (inside, outside) = (path.from("fd00:1::a:5"), path.from("fd00:1::b:5"));
    one.cannot(&two, "outside of the prefix", &outside.udp(1, 53, b"x"), &inside.udp(1, 53, b"y"))?;

    let mut rules = grouped(&[&one, &two], &checked(), peers(vec![GroupPeer::Group("uid-web".into())]));
    let members = |list: &[&str]| {
        vec![GroupAddresses { uid: "uid-web".into(), addresses: list.iter().map(|a| a.parse().unwrap()).collect() }]
    };
    rules.groups = members(&["fd00:1::b:5"]);
    host.enforce(&rules).await?;
    one.cannot(&two, "no member", &inside.udp(1, 53, b"x"), &outside.udp(1, 53, b"y"))?;
    rules.groups = members(&["fd00:1::a:5"]);
    host.enforce(&rules).await?;
    one.cannot(&two, "no member any more", &outside.udp(1, 53, b"x"), &inside.udp(1, 53, b"y"))
}

#[tokio::test]
async fn egress_is_restricted_once_there_is_a_rule_about_it() -> Result<()> {
    let egress = vec![rule(vec![GroupPeer::Prefix("fd00:1::/64".parse()?)], Some(Protocol::UDP), &[(53, 53)])];
    let mut ingress = web().ingress;
    ingress.push(rule(Vec::new(), Some(Protocol::UDP), &[(123, 123)]));
    ingress.push(rule(Vec::new(), Some(Protocol::ICMPv6), &[]));
    let (_host, one, two) = with(GroupRules { ingress, egress: Some(egress) }).await?;
    let (to, from) = (one.path(&two), two.path(&one));
    let allowed = from.udp(4000, 53, b"question");
    for (attack, what) in [
        (from.udp(4000, 54, b"x"), "another port"),
        (from.tcp(4000, 53, SYN), "another protocol"),
        (from.tcp(80, 5000, SYN), "a beginning from a port that is let in"),
        (from.udp(123, 5000, b"x"), "an answer to nothing"),
        (from.icmp(128, &[0, 1, 0, 1]), "an echo request"),
        (from.icmp(129, &[0, 9, 0, 1]), "an echo reply to nothing"),
    ] {
        two.cannot(&one, what, &attack, &allowed)?;
    }
    one.reaches(&two, &to.udp(53, 4000, b"answer"))?;
    one.reaches(&two, &to.tcp(5000, 80, SYN))?;
    two.reaches(&one, &from.tcp(80, 5000, SYN_ACK))?;
    one.reaches(&two, &to.udp(5000, 123, b"question"))?;
    two.reaches(&one, &from.udp(123, 5000, b"answer"))?;
    one.reaches(&two, &to.icmp(128, &[0, 9, 0, 1]))?;
    two.reaches(&one, &from.icmp(129, &[0, 9, 0, 1]))?;
    two.reaches(&one, &from.icmp(136, &about(&two.address().to_string(), &link(2, two.mac))))
}

#[tokio::test]
async fn other_frames_than_ipv6_stay_out_of_groups() -> Result<()> {
    let host = Host::new().await?;
    let (one, two) = (host.guest(1, "ucbr-1").await?, host.guest(2, "ucbr-1").await?);
    host.enforce(&grouped(&[&one, &two], &Guard::Mac, web())).await?;
    let ipv4 = ethernet(one.mac, two.mac.octets(), IPV4, &ipv4_udp([10, 0, 0, 1], [10, 0, 0, 2], [1, 80], b"x"));
    let other = ethernet(one.mac, two.mac.octets(), 0x88b5, b"anything");
    let allowed = one.path(&two).tcp(5000, 80, SYN);
    one.cannot(&two, "IPv4", &ipv4, &allowed)?;
    one.cannot(&two, "another kind of frame", &other, &allowed)?;
    host.enforce(&guarded(&[&one, &two], &Guard::Mac)).await?;
    one.reaches(&two, &ipv4)?;
    one.reaches(&two, &other)
}
