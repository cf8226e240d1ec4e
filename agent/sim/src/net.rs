//! The simulated networks and router advertisements.

use std::net::{IpAddr, Ipv6Addr};

use async_trait::async_trait;
use tokio::sync::watch;
use ucloud_agent_core::{
    HostError, Net, RouterAdvertiser,
    hypervisor::DomainState,
    net::{Advertisement, NetworkDevices, NetworkRequest, Tap, bridge_name},
};
use ucloud_types::MacAddr;

use crate::{Method, SimHost};

/// What the underlay leaves for guests.
const MTU: u32 = 1430;

#[async_trait]
impl Net for SimHost {
    async fn networks(&self) -> Result<Vec<NetworkDevices>, HostError> {
        self.call(Method::Networks, async || {
            Ok(self.state().networks.values().map(|(_, devices)| devices.clone()).collect())
        })
        .await
    }

    async fn ensure_network(&self, request: &NetworkRequest) -> Result<NetworkDevices, HostError> {
        self.call(Method::EnsureNetwork, async || {
            let devices = NetworkDevices {
                uid: request.uid.clone(),
                vni: request.vni,
                bridge: bridge_name(&request.uid),
                mtu: request.mtu.unwrap_or(MTU),
                routes: request.gateway.is_some(),
            };
            let mut state = self.state();
            let before = state.networks.insert(request.uid.clone(), (request.clone(), devices.clone()));
            let changed = before.as_ref().is_none_or(|(before, _)| before != request);
            if before.is_none() {
                state.count("make network");
            }
            drop(state);
            if changed {
                self.tell_networks();
            }
            Ok(devices)
        })
        .await
    }

    async fn remove_network(&self, network_uid: &str) -> Result<(), HostError> {
        self.call(Method::RemoveNetwork, async || {
            let mut state = self.state();
            let Some((_, devices)) = state.networks.remove(network_uid) else { return Ok(()) };
            let attached = state.domains.values().any(|domain| {
                domain.state == DomainState::Running
                    && domain.spec.interfaces.iter().any(|interface| interface.bridge == devices.bridge)
            });
            if attached {
                state.violations.push(format!("network {network_uid} was taken from a running VM"));
            }
            state.count("remove network");
            drop(state);
            self.tell_networks();
            Ok(())
        })
        .await
    }

    async fn ensure_taps(&self, _: &[Tap]) -> Result<(), HostError> {
        self.call(Method::EnsureTaps, async || Ok(())).await
    }

    fn learnt(&self, network_uid: &str, mac: MacAddr) -> Vec<Ipv6Addr> {
        let learnt = self.state().learnt.get(&(network_uid.to_owned(), mac)).cloned();
        learnt.into_iter().flatten().collect()
    }

    async fn solicit(&self, _: &str, _: Ipv6Addr) -> Result<(), HostError> {
        self.call(Method::Solicit, async || {
            let mut state = self.state();
            let before = state.learnt.clone();
            let uids: Vec<_> = state.domains.keys().cloned().collect();
            for uid in uids {
                self.speak(&mut state, &uid);
            }
            let changed = state.learnt != before;
            drop(state);
            if changed {
                self.tell_networks();
            }
            Ok(())
        })
        .await
    }

    async fn underlay_addresses(&self) -> Result<Vec<IpAddr>, HostError> {
        self.call(Method::UnderlayAddresses, async || Ok(vec![IpAddr::V6(Ipv6Addr::LOCALHOST)])).await
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.networks_changed.subscribe()
    }
}

#[async_trait]
impl RouterAdvertiser for SimHost {
    async fn advertise(&self, advertisements: &[Advertisement], _: &[String]) -> Result<(), HostError> {
        self.call(Method::Advertise, async || {
            let mut state = self.state();
            for advertisement in advertisements {
                if let Some((_, devices)) = state.networks.values().find(|(_, d)| d.bridge == advertisement.bridge) {
                    self.underlay.advertise(devices.vni, advertisement.prefix);
                }
            }
            if state.advertised != advertisements {
                state.advertised = advertisements.to_vec();
                state.count("advertise");
            }
            Ok(())
        })
        .await
    }
}
