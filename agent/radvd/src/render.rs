//! radvd.conf(5) of what is to be advertised. Pure.
//!
//! Whatever a user wrote reaches radvd only as an address, a number, or a name of known letters: nothing in it
//! can end one statement and begin another.

use std::fmt::Write as _;

use ucloud_agent_core::net::Advertisement;

/// Seconds between unsolicited advertisements, at most. Guests that start ask by themselves, and are answered at once.
const MAX_INTERVAL: u32 = 30;
const MIN_INTERVAL: u32 = 10;

/// Seconds between any two advertisements, at least. RFC 4861 has 3, which is long for a guest that starts, and radvd 2.19
/// does not make up for it: who asks too early is not answered later either. RFC 6275 allows as little as this where the
/// interval is told in an option (7.5).
const MIN_DELAY: &str = "0.03";

/// Seconds for which guests rely on the router and its resolvers. It may be long: the router's link-local address is the
/// same on every host that may become the router, so a default route never points to a host that is none any
/// more; and guests stay connected while radvd or its agent is being replaced.
const ROUTER_LIFETIME: u32 = 1800;

/// How many resolvers radvd takes in one RDNSS statement.
const SERVERS_PER_STATEMENT: usize = 3;

/// Why something is left out of the configuration.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum LeftOut {
    #[error("{0:?} is not the name of an interface")]
    Interface(String),
    #[error("{0} is to be advertised twice")]
    Duplicate(String),
    #[error("the prefix of {bridge} has {length} bits, and guests form addresses only in one of 64")]
    PrefixLength { bridge: String, length: u8 },
    #[error("the search domain {domain:?} of {bridge} is not a domain name in lower case, such as lab.example.org")]
    SearchDomain { bridge: String, domain: String },
}

/// A configuration, and what it lacks. One network's fault must not keep others from being advertised.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// None where there is nothing to advertise.
    pub text: Option<String>,
    pub left_out: Vec<LeftOut>,
}

/// The configuration for these advertisements, the same whatever their order.
pub(crate) fn render(advertisements: &[Advertisement]) -> Rendered {
    let mut sorted: Vec<_> = advertisements.iter().collect();
    sorted.sort_by(|a, b| a.bridge.cmp(&b.bridge));
    let (mut blocks, mut left_out) = (String::new(), Vec::new());
    let mut last = None;
    for advertisement in sorted {
        let bridge = &advertisement.bridge;
        let length = advertisement.prefix.length();
        if !is_interface_name(bridge) {
            left_out.push(LeftOut::Interface(bridge.clone()));
        } else if last == Some(bridge) {
            left_out.push(LeftOut::Duplicate(bridge.clone()));
        } else if length != 64 {
            left_out.push(LeftOut::PrefixLength { bridge: bridge.clone(), length });
        } else {
            blocks += &interface(advertisement, &mut left_out);
            last = Some(bridge);
        }
    }
    let text = format!("# Written by ucloud-agent. What is changed here is overwritten.\n{blocks}");
    Rendered { text: last.is_some().then_some(text), left_out }
}

fn interface(advertisement: &Advertisement, left_out: &mut Vec<LeftOut>) -> String {
    let Advertisement { bridge, prefix, mtu, dns_servers, dns_search } = advertisement;
    let mut block = format!(
        "
interface {bridge} {{
    IgnoreIfMissing on;
    AdvSendAdvert on;
    MinRtrAdvInterval {MIN_INTERVAL};
    MaxRtrAdvInterval {MAX_INTERVAL};
    MinDelayBetweenRAs {MIN_DELAY};
    AdvIntervalOpt on;
    AdvDefaultLifetime {ROUTER_LIFETIME};
    AdvLinkMTU {mtu};
    prefix {prefix} {{
        AdvOnLink on;
        AdvAutonomous on;
    }};
"
    );
    // writing into a String cannot fail
    for servers in dns_servers.chunks(SERVERS_PER_STATEMENT) {
        let servers = servers.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        let _ = writeln!(block, "    RDNSS {servers} {{\n        AdvRDNSSLifetime {ROUTER_LIFETIME};\n    }};");
    }
    let (domains, bad): (Vec<_>, Vec<_>) = dns_search.iter().partition(|domain| is_domain(domain));
    left_out
        .extend(bad.into_iter().map(|domain| LeftOut::SearchDomain { bridge: bridge.clone(), domain: domain.clone() }));
    if !domains.is_empty() {
        // the final dot tells them from radvd's own words: "on" or "123" is a domain too
        let domains = domains.iter().map(|domain| format!("{domain}.")).collect::<Vec<_>>().join(" ");
        let _ = writeln!(block, "    DNSSL {domains} {{\n        AdvDNSSLLifetime {ROUTER_LIFETIME};\n    }};");
    }
    block += "};\n";
    block
}

/// The interfaces in a configuration that was written here.
pub(crate) fn interfaces(text: &str) -> Vec<&str> {
    let names = text.lines().filter_map(|line| line.strip_prefix("interface ")?.strip_suffix(" {"));
    names.filter(|name| is_interface_name(name)).collect()
}

fn is_interface_name(name: &str) -> bool {
    (1..=15).contains(&name.len())
        && name.starts_with(|first: char| first.is_ascii_alphanumeric())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
}

/// Letters, digits and inner hyphens, in labels of at most 63 (RFC 1123), 253 in all.
fn is_domain(domain: &str) -> bool {
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
    };
    domain.len() <= 253 && domain.split('.').all(is_label)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn advertisement(bridge: &str) -> Advertisement {
        Advertisement {
            bridge: bridge.into(),
            prefix: "fd00:1::/64".parse().unwrap(),
            mtu: 1430,
            dns_servers: vec![],
            dns_search: vec![],
        }
    }

    #[test]
    fn everything_that_can_be_advertised() {
        let full = Advertisement {
            dns_servers: (1..=4).map(|n| format!("2001:db8::{n}").parse().unwrap()).collect(),
            dns_search: vec!["lab.example.org".into(), "example.org".into()],
            ..advertisement("ucbr-1111111111")
        };
        insta::assert_snapshot!(render(&[advertisement("ucbr-2222222222"), full]).text.unwrap());
    }

    #[test]
    fn order_does_not_matter_and_nothing_is_nothing() {
        let (a, b) = (advertisement("ucbr-1111111111"), advertisement("ucbr-2222222222"));
        assert_eq!(render(&[a.clone(), b.clone()]), render(&[b, a]));
        assert_eq!(render(&[]), Rendered { text: None, left_out: vec![] });
        let text = render(&[advertisement("ucbr-1111111111"), advertisement("ucbr-2222222222")]).text.unwrap();
        assert_eq!(interfaces(&text), ["ucbr-1111111111", "ucbr-2222222222"]);
    }

    #[test]
    fn what_radvd_might_misread_is_left_out_and_nothing_else() {
        let sound = advertisement("ucbr-1111111111");
        let with = |bad: Advertisement| {
            let rendered = render(&[sound.clone(), bad]);
            (rendered.text, rendered.left_out)
        };
        let alone = render(std::slice::from_ref(&sound)).text;
        for bridge in ["", "a b", "eth0{", "ucbr;", "0123456789abcdef", "../conf", "-x", "a\nb"] {
            assert_eq!(with(advertisement(bridge)), (alone.clone(), vec![LeftOut::Interface(bridge.into())]));
        }
        let wide = Advertisement { prefix: "fd00::/48".parse().unwrap(), ..advertisement("br0") };
        let left_out = LeftOut::PrefixLength { bridge: "br0".into(), length: 48 };
        assert_eq!(with(wide), (alone.clone(), vec![left_out]));
        let again = Advertisement { prefix: "fd00:2::/64".parse().unwrap(), ..sound.clone() };
        assert_eq!(with(again), (alone, vec![LeftOut::Duplicate("ucbr-1111111111".into())]));
    }

    #[test]
    fn a_bad_search_domain_leaves_the_good_ones() {
        for domain in ["", ".", "a..b", "-a", "a-", "A", "a b", "a;", "a{", "a\n};", "a/b", "é", &"a".repeat(64)] {
            let list = |domains: &[&str]| Advertisement {
                dns_search: domains.iter().map(ToString::to_string).collect(),
                ..advertisement("br0")
            };
            let rendered = render(&[list(&["on", domain, "123"])]);
            assert_eq!(rendered.text, render(&[list(&["on", "123"])]).text);
            assert_eq!(rendered.left_out, [LeftOut::SearchDomain { bridge: "br0".into(), domain: domain.into() }]);
        }
    }

    proptest! {
        #[test]
        fn no_text_can_add_a_statement(bridge: String, domain: String) {
            let hostile = Advertisement { dns_search: vec![domain, "a".into()], ..advertisement(&bridge) };
            let Rendered { text, left_out } = render(&[hostile.clone(), Advertisement { bridge: "br0".into(), ..hostile }]);
            let text = text.unwrap();
            let interfaces = 2 - left_out.iter().filter(|left| !matches!(left, LeftOut::SearchDomain { .. })).count();
            prop_assert_eq!(text.matches(['{', '}']).count(), 6 * interfaces);
            prop_assert_eq!(text.matches(';').count(), 14 * interfaces);
        }
    }
}
