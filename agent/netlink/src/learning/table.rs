//! Who uses which address in one network. Pure, and bounded, as guests fill it.
//!
//! An address belongs to whoever used it last. A probe (duplicate address detection) takes it only from nobody:
//! the owner may still object. An interface that takes more addresses than [`ADDRESSES_PER_MAC`] loses the one
//! it has not used for longest (privacy addresses come and go), and a network with more interfaces than
//! [`MACS`] the one that was silent for longest. Nothing expires by time: an idle guest keeps its addresses
//! without a word about them. What a deleted VM used stays until then, and is never asked for, since MACs are
//! derived from the VM's UID.

use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv6Addr,
};

use ucloud_types::MacAddr;

use super::nd::{Claim, Sighting};

/// How many addresses are kept for one interface.
const ADDRESSES_PER_MAC: usize = 16;
/// How many interfaces are kept for one network. With all their addresses they take about 4 MiB.
const MACS: usize = 4096;

/// The addresses that the interfaces of a network use.
#[derive(Debug, Default)]
pub(crate) struct Table {
    interfaces: HashMap<MacAddr, Interface>,
    owners: HashMap<Ipv6Addr, MacAddr>,
    /// Interfaces by the time at which they were heard last.
    heard: BTreeMap<u64, MacAddr>,
    clock: u64,
}

#[derive(Debug, Default)]
struct Interface {
    heard: u64,
    /// Those used last come last.
    addresses: Vec<Ipv6Addr>,
}

impl Table {
    /// The addresses that the interface with this MAC uses, sorted.
    pub fn addresses(&self, mac: MacAddr) -> Vec<Ipv6Addr> {
        let mut addresses = self.interfaces.get(&mac).map(|interface| interface.addresses.clone()).unwrap_or_default();
        addresses.sort_unstable();
        addresses
    }

    /// Takes in what was seen. Answers whether that changed anybody's addresses.
    pub fn hear(&mut self, sighting: Sighting) -> bool {
        let Sighting { mac, address, claim } = sighting;
        let owner = self.owners.get(&address).copied();
        if claim == Claim::Probe && owner.is_some_and(|owner| owner != mac) {
            return false;
        }
        self.touch(mac);
        if let Some(former) = owner.filter(|&owner| owner != mac) {
            self.forget_address(former, address);
        }
        let Some(interface) = self.interfaces.get_mut(&mac) else { return false };
        interface.addresses.retain(|&known| known != address);
        interface.addresses.push(address);
        if interface.addresses.len() > ADDRESSES_PER_MAC {
            let oldest = interface.addresses.remove(0);
            self.owners.remove(&oldest);
        }
        self.owners.insert(address, mac);
        if self.interfaces.len() > MACS {
            self.forget_most_silent();
        }
        owner != Some(mac)
    }

    fn touch(&mut self, mac: MacAddr) {
        self.clock += 1;
        let interface = self.interfaces.entry(mac).or_default();
        self.heard.remove(&interface.heard);
        interface.heard = self.clock;
        self.heard.insert(self.clock, mac);
    }

    fn forget_address(&mut self, mac: MacAddr, address: Ipv6Addr) {
        self.owners.remove(&address);
        if let Some(interface) = self.interfaces.get_mut(&mac) {
            interface.addresses.retain(|&known| known != address);
            if interface.addresses.is_empty() {
                self.heard.remove(&interface.heard);
                self.interfaces.remove(&mac);
            }
        }
    }

    fn forget_most_silent(&mut self) {
        let forgotten = self.heard.pop_first().and_then(|(_, mac)| self.interfaces.remove(&mac));
        for address in forgotten.into_iter().flat_map(|interface| interface.addresses) {
            self.owners.remove(&address);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mac(number: u32) -> MacAddr {
        let [a, b, c, d] = number.to_be_bytes();
        MacAddr::new([2, 0, a, b, c, d]).unwrap()
    }

    fn address(number: u128) -> Ipv6Addr {
        Ipv6Addr::from_bits((0xfd00 << 112) | number)
    }

    fn used(mac_number: u32, number: u128) -> Sighting {
        Sighting { mac: mac(mac_number), address: address(number), claim: Claim::Use }
    }

    fn probed(mac_number: u32, number: u128) -> Sighting {
        Sighting { claim: Claim::Probe, ..used(mac_number, number) }
    }

    #[test]
    fn addresses_are_learnt_once_and_sorted() {
        let mut table = Table::default();
        assert!(table.hear(used(1, 9)));
        assert!(table.hear(probed(1, 3)));
        assert!(!table.hear(used(1, 3)), "nothing new");
        assert_eq!(table.addresses(mac(1)), [address(3), address(9)]);
        assert!(table.addresses(mac(2)).is_empty());
    }

    #[test]
    fn an_address_belongs_to_whoever_used_it_last() {
        let mut table = Table::default();
        table.hear(used(1, 1));
        assert!(!table.hear(probed(2, 1)), "its owner may object");
        assert_eq!(table.addresses(mac(1)), [address(1)]);
        assert!(table.hear(used(2, 1)));
        assert!(table.addresses(mac(1)).is_empty());
        assert_eq!(table.addresses(mac(2)), [address(1)]);
    }

    #[test]
    fn a_greedy_guest_loses_what_it_used_least_recently() {
        let mut table = Table::default();
        for number in 0..100 {
            table.hear(used(1, number));
            table.hear(used(1, 0));
        }
        let kept = table.addresses(mac(1));
        assert_eq!(kept.len(), ADDRESSES_PER_MAC);
        assert_eq!((kept[0], kept[1]), (address(0), address(85)));
        assert_eq!(table.owners.len(), ADDRESSES_PER_MAC);
    }

    #[test]
    fn a_flood_of_macs_drops_the_silent_ones() {
        let mut table = Table::default();
        for number in 0..u32::try_from(MACS).unwrap() + 100 {
            table.hear(used(number + 1, u128::from(number)));
            table.hear(used(1, 0));
        }
        assert_eq!((table.interfaces.len(), table.owners.len(), table.heard.len()), (MACS, MACS, MACS));
        assert_eq!(table.addresses(mac(1)), [address(0)]);
        assert!(table.addresses(mac(2)).is_empty());
    }

    proptest! {
        #[test]
        fn its_indexes_agree(sightings in proptest::collection::vec((0..8_u32, 0..40_u128, any::<bool>()), 0..300)) {
            let mut table = Table::default();
            for (mac_number, number, probe) in sightings {
                let sighting = if probe { probed(mac_number, number) } else { used(mac_number, number) };
                let before = table.addresses(sighting.mac);
                let changed = table.hear(sighting);
                prop_assert!(changed || before == table.addresses(sighting.mac));
                prop_assert_eq!(table.interfaces.len(), table.heard.len());
                for (address, owner) in &table.owners {
                    prop_assert!(table.interfaces[owner].addresses.contains(address));
                }
                let total: usize = table.interfaces.values().map(|interface| interface.addresses.len()).sum();
                prop_assert_eq!(total, table.owners.len());
            }
        }
    }
}
