//! What an agent makes of what runs on its host when it starts: what must not go on.

use std::collections::BTreeMap;

use crate::hypervisor::{Domain, DomainState};

/// The UIDs of the domains that run under a binding that is over. They are destroyed before an agent that starts
/// does anything else. `epochs` has the epoch of each VM that is bound to this host, by UID; a domain of which
/// nothing is known there is left alone.
pub fn superseded(domains: &[Domain], epochs: &BTreeMap<String, u64>) -> Vec<String> {
    domains
        .iter()
        .filter(|domain| !matches!(domain.state, DomainState::Off(_)))
        .filter(|domain| epochs.get(&domain.spec.uid).is_some_and(|epoch| *epoch > domain.spec.epoch))
        .map(|domain| domain.spec.uid.clone())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hypervisor::{DomainSpec, StopReason};

    fn domain(uid: &str, epoch: u64, state: DomainState) -> Domain {
        let spec = DomainSpec {
            uid: uid.into(),
            namespace: "default".into(),
            name: "web".into(),
            epoch,
            power_request: 0,
            cpus: 1,
            memory: "1Gi".parse().unwrap(),
            disks: Vec::new(),
            interfaces: Vec::new(),
            standstill: false,
        };
        Domain { spec, state }
    }

    #[test]
    fn only_running_domains_of_known_vms_at_older_epochs_are_superseded() {
        let domains = [
            domain("old", 1, DomainState::Running),
            domain("paused", 1, DomainState::Paused),
            domain("off", 1, DomainState::Off(StopReason::Crashed)),
            domain("current", 2, DomainState::Running),
            domain("newer", 3, DomainState::Running),
            domain("unknown", 1, DomainState::Running),
        ];
        let epochs = ["old", "paused", "off", "current", "newer"].map(|uid| (uid.to_owned(), 2)).into();
        assert_eq!(superseded(&domains, &epochs), ["old", "paused"]);
        assert_eq!(superseded(&domains, &BTreeMap::new()), [""; 0], "an empty list stops nothing");
    }
}
