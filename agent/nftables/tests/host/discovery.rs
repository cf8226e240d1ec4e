//! Neighbour discovery: about whom a guest may speak, and in what form.

use anyhow::Result;

use crate::{
    frames::{DESTINATION, FRAGMENT, HOP_BY_HOP, ICMPV6, about, fragment, link, options},
    lab::pair,
};

const NS: u8 = 135;
const NA: u8 = 136;
const RS: u8 = 133;

#[tokio::test]
async fn an_advertisement_is_about_the_guest_itself() -> Result<()> {
    let (_host, one, two) = pair().await?;
    let path = one.path(&two).to("ff02::1");
    let own = path.source.to_string();
    let good = link(2, one.mac);
    for (target, what) in [
        (two.address().to_string(), "another's address"),
        (two.link_local().to_string(), "another's link-local address"),
        ("fd00:1::1".into(), "the gateway's address"),
        ("fe80::1".into(), "the gateway's link-local address"),
        ("fd00:2::1".into(), "an address of another network"),
    ] {
        one.cannot(&two, what, &path.icmp(NA, &about(&target, &good)), &path.icmp(NA, &about(&own, &good)))?;
    }
    let message = |options: &[u8]| path.icmp_message(NA, &about(&own, options));
    let long = message(&good);
    let forms = [
        (path.icmp(NA, &about(&own, &link(2, two.mac))), "another's link-layer address"),
        (path.icmp(NA, &about(&own, &[link(2, one.mac), link(2, two.mac)].concat())), "two link-layer addresses"),
        (path.icmp(NA, &about(&own, &link(1, one.mac))), "the option of solicitations"),
        (path.icmp(NA, &about(&own, &[2, 0, 0, 0, 0, 0, 0, 0])), "an option without length"),
        (path.frame(ICMPV6, 64, &long), "from beyond a router"),
        (path.frame(DESTINATION, 255, &[options(ICMPV6), long.clone()].concat()), "behind destination options"),
        (path.frame(HOP_BY_HOP, 255, &[options(ICMPV6), long.clone()].concat()), "behind hop-by-hop options"),
        (path.frame(FRAGMENT, 255, &[fragment(ICMPV6, 0, true), long.clone()].concat()), "as a first fragment"),
        (path.frame(FRAGMENT, 255, &[fragment(ICMPV6, 0, false), long].concat()), "as an atomic fragment"),
    ];
    for (index, (attack, what)) in forms.iter().enumerate() {
        // a legitimate one each time, told from the others by its flags
        let mut body = about(&own, &good);
        body[0] = u8::try_from(index)? << 3;
        one.cannot(&two, what, attack, &path.icmp(NA, &body))?;
    }
    one.reaches(&two, &one.path(&two).icmp(NA, &about(&own, &[])))?;
    // of a free address: one that it is about to use
    one.reaches(&two, &path.icmp(NA, &about("fd00:1::1234", &good)))
}

#[tokio::test]
async fn a_solicitation_tells_the_guests_own_link_layer_address() -> Result<()> {
    let (_host, one, two) = pair().await?;
    let path = one.path(&two);
    let target = two.address().to_string();
    let asks = |options: &[u8]| path.icmp(NS, &about(&target, options));
    let legitimate = asks(&link(1, one.mac));
    one.cannot(&two, "another's link-layer address", &asks(&link(1, two.mac)), &legitimate)?;
    let two_options = [link(1, one.mac), link(1, two.mac)].concat();
    one.cannot(&two, "two link-layer addresses", &asks(&two_options), &legitimate)?;
    let spoofed = path.from(&two.address().to_string()).icmp(NS, &about(&target, &link(1, one.mac)));
    one.cannot(&two, "from another's address", &spoofed, &legitimate)?;
    one.reaches(&two, &asks(&[]))?;

    let solicits = |mac| path.to("ff02::2").icmp(RS, &[&[0; 4][..], &link(1, mac)].concat());
    one.cannot(&two, "RS with another's link-layer address", &solicits(two.mac), &solicits(one.mac))?;
    one.reaches(&two, &path.to("ff02::2").icmp(RS, &[0; 4]))
}

#[tokio::test]
async fn duplicate_address_detection_passes_for_what_may_be_the_guests() -> Result<()> {
    let (_host, one, two) = pair().await?;
    let path = one.path(&two).from("::").to("ff02::1:ff00:2");
    let nonce = [14, 1, 1, 2, 3, 4, 5, 6];
    let own = one.address().to_string();
    let legitimate = path.icmp(NS, &about(&own, &nonce));
    for target in [two.address().to_string(), "fd00:1::1".into(), "fe80::1".into(), "fd00:2::9".into()] {
        one.cannot(&two, "for another's address", &path.icmp(NS, &about(&target, &nonce)), &legitimate)?;
    }
    let with_link = path.icmp(NS, &about(&own, &link(1, one.mac)));
    one.cannot(&two, "with a link-layer address (RFC 4861, 4.3)", &with_link, &legitimate)?;
    one.cannot(&two, "an advertisement", &path.icmp(NA, &about(&own, &[])), &legitimate)?;
    one.cannot(&two, "an echo request", &path.icmp(128, &[0; 4]), &legitimate)?;
    one.reaches(&two, &path.icmp(NS, &about("fd00:1::77", &[])))?;
    one.reaches(&two, &path.to("ff02::2").icmp(RS, &[0; 4]))
}

#[tokio::test]
async fn multicast_listeners_report() -> Result<()> {
    let (_host, one, two) = pair().await?;
    // hop-by-hop options with a router alert (RFC 2711), and one record
    let alert = |next| vec![next, 0, 5, 2, 0, 0, 1, 0];
    let record = [&[0, 0, 0, 1, 4, 0, 0, 0][..], &crate::frames::ip("ff02::fb").octets()].concat();
    for source in ["::".to_owned(), one.link_local().to_string()] {
        let path = one.path(&two).from(&source).to("ff02::16");
        let report = path.frame(HOP_BY_HOP, 1, &[alert(ICMPV6), path.icmp_message(143, &record)].concat());
        let query = path.frame(HOP_BY_HOP, 1, &[alert(ICMPV6), path.icmp_message(130, &record)].concat());
        one.cannot(&two, "a query is for routers", &query, &report)?;
    }
    Ok(())
}
