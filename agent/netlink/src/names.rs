//! How the devices of a network are named, and how their network is read back from them.

use ucloud_agent_core::net::{BRIDGE_PREFIX, VXLAN_PREFIX, bridge_name, device_name};

const ALIAS_PREFIX: &str = "ucloud:network:";

/// The names of a network's devices, and the alias (`ip link`'s `alias`) that both carry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeviceNames {
    pub bridge: String,
    pub vxlan: String,
    pub alias: String,
}

impl DeviceNames {
    pub fn of(network_uid: &str) -> Self {
        Self {
            bridge: bridge_name(network_uid),
            vxlan: device_name(VXLAN_PREFIX, network_uid, ""),
            alias: format!("{ALIAS_PREFIX}{network_uid}"),
        }
    }
}

/// The UID of the network whose device carries this alias.
pub(crate) fn network_of_alias(alias: &str) -> Option<&str> {
    alias.strip_prefix(ALIAS_PREFIX).filter(|uid| !uid.is_empty())
}

/// Whether this is the name of a device that only this adapter makes.
pub(crate) fn is_network_device(name: &str) -> bool {
    [BRIDGE_PREFIX, VXLAN_PREFIX].iter().any(|prefix| {
        name.strip_prefix(prefix)
            .and_then(|rest| rest.strip_prefix('-'))
            .is_some_and(|digest| digest.len() == 10 && digest.bytes().all(|b| b.is_ascii_hexdigit()))
    })
}

/// Whether a device of this name or alias belongs to ucloud at all: those of networks, and the taps of VMs.
pub(crate) fn is_ours(name: &str, alias: Option<&str>) -> bool {
    name.starts_with("uc") || alias.is_some_and(|alias| alias.starts_with("ucloud:"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_network_is_read_back_from_its_devices() {
        let names = DeviceNames::of("0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11");
        assert_eq!(network_of_alias(&names.alias), Some("0b4ae8d6-6d2e-4c3b-9d0a-1f0a5f0c7a11"));
        assert!(is_network_device(&names.bridge) && is_network_device(&names.vxlan));
        assert!(is_ours(&names.bridge, None) && is_ours("renamed", Some(&names.alias)));
    }

    #[test]
    fn what_is_not_ours_is_not_taken_for_it() {
        for name in ["", "eth0", "ucbr-", "ucbr-uplink", "ucbr-0123456789a", "uctp-0123456789", "ucbr0123456789"] {
            assert!(!is_network_device(name), "{name}");
        }
        assert_eq!(network_of_alias("ucloud:network:"), None);
        assert_eq!(network_of_alias("uplink to the switch"), None);
        assert!(!is_ours("eth0", Some("uplink")));
    }
}
