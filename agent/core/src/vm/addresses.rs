//! The addresses that are reported of an interface, and how each is known.

use std::{collections::BTreeMap, net::Ipv6Addr};

use ucloud_types::{
    Ipv6Prefix,
    vm::{AddressSource, InterfaceAddress, InterfaceStatus},
};

/// What is known of an interface's addresses.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Known<'a> {
    /// Those that the guest was seen to use.
    pub learnt: &'a [Ipv6Addr],
    /// What was reported last, if what was learnt then still counts.
    pub believed: Option<&'a InterfaceStatus>,
    /// Those that the spec declares.
    pub declared: &'a [Ipv6Addr],
    /// The one that stateless autoconfiguration gives.
    pub computed: Option<Ipv6Addr>,
}

/// The addresses of an interface, sorted, each once.
pub(super) fn addresses(known: &Known<'_>) -> Vec<InterfaceAddress> {
    let believed = known.believed.iter().flat_map(|reported| &reported.addresses);
    let believed = believed.filter(|known| known.source == AddressSource::Learnt).map(|known| known.address);
    let mut all: BTreeMap<Ipv6Addr, AddressSource> =
        known.learnt.iter().copied().chain(believed).map(|address| (address, AddressSource::Learnt)).collect();
    // A guest that was seen to form an address in the prefix has said itself how it forms them
    let computed = known.computed.filter(|computed| {
        let prefix = Ipv6Prefix::containing(*computed, 64);
        let formed = |address: &Ipv6Addr| {
            prefix.is_some_and(|prefix| prefix.contains(*address)) && !known.declared.contains(address)
        };
        !all.keys().any(formed)
    });
    for address in known.declared {
        all.entry(*address).or_insert(AddressSource::Declared);
    }
    if let Some(address) = computed {
        all.entry(address).or_insert(AddressSource::Computed);
    }
    all.into_iter().map(|(address, source)| InterfaceAddress { address, source }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> Ipv6Addr {
        text.parse().unwrap()
    }

    fn told(known: &Known<'_>) -> Vec<String> {
        addresses(known).iter().map(|known| format!("{} {:?}", known.address, known.source)).collect()
    }

    #[test]
    fn what_was_seen_counts_most() {
        let (declared, computed) = ([ip("fd00::5")], Some(ip("fd00::ff")));
        let known = Known { declared: &declared, computed, ..Known::default() };
        assert_eq!(told(&known), ["fd00::5 Declared", "fd00::ff Computed"]);
        let learnt = [ip("fd00::5")];
        assert_eq!(told(&Known { learnt: &learnt, ..known }), ["fd00::5 Learnt", "fd00::ff Computed"]);
        let learnt = [ip("fd00::5"), ip("fd00::ff")];
        assert_eq!(told(&Known { learnt: &learnt, ..known }), ["fd00::5 Learnt", "fd00::ff Learnt"]);
    }

    #[test]
    fn a_guest_that_forms_its_addresses_otherwise_has_no_computed_one() {
        let computed = Some(ip("fd00::ff"));
        let (private, other) = ([ip("fd00::1234")], [ip("2001:db8::1")]);
        assert_eq!(told(&Known { learnt: &private, computed, ..Known::default() }), ["fd00::1234 Learnt"]);
        let known = Known { learnt: &other, computed, ..Known::default() };
        assert_eq!(told(&known), ["2001:db8::1 Learnt", "fd00::ff Computed"]);
    }

    #[test]
    fn only_what_was_learnt_is_believed() {
        let reported = |source| InterfaceStatus {
            name: "eth0".into(),
            network: "lan".into(),
            mac: "02:00:00:00:00:01".parse().unwrap(),
            addresses: vec![InterfaceAddress { address: ip("fd00::9"), source }],
        };
        for (source, expected) in [
            (AddressSource::Learnt, vec!["fd00::9 Learnt"]),
            (AddressSource::Declared, vec![]),
            (AddressSource::Computed, vec![]),
        ] {
            assert_eq!(told(&Known { believed: Some(&reported(source)), ..Known::default() }), expected);
        }
    }
}
