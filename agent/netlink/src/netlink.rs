//! The adapter: [`Net`] on the kernel's own devices.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
};

use async_trait::async_trait;
use nix::libc;
use tokio::sync::{Mutex, watch};
use ucloud_agent_core::{
    HostError, Net,
    net::{NetworkDevices, NetworkRequest, Tap},
};
use ucloud_types::{MacAddr, Vni};

use crate::{
    change::LinkChange,
    changes::Changes,
    desired::Desired,
    execute::{ExecuteError, execute},
    forwarding::ensure_forwarding,
    learning::{Bridge, Learning},
    link::{Kind, Link},
    monitor::monitor,
    names::{DeviceNames, network_of_alias},
    plan::{Observed, half_made, plan, plan_taps},
    route::{InterfaceAddress, Route, RouteError},
    task::Task,
};

/// What [`Netlink`] has to know of its host.
#[derive(Clone, Debug)]
pub struct Config {
    /// The interface that carries the VXLANs to other hosts, such as `eth0`. It needs an IPv6 address.
    pub underlay: String,
    /// The interface that leads from the networks that this host routes to the outside. Where it is named, the host
    /// forwards as soon as it routes a network; else that is left as it is.
    pub uplink: Option<String>,
}

/// The networks of this host. It works in the network namespace of the process.
#[derive(Debug)]
pub struct Netlink {
    underlay: String,
    uplink: Option<String>,
    learning: Learning,
    changes: Changes,
    /// One change at a time: the kernel has one lock for all of them too.
    writing: Mutex<()>,
    _monitor: Task,
}

impl Netlink {
    /// Begins to watch the host's devices, and clears away those that an agent was making when it ended and that
    /// no network can be told from. Networks that are there are left alone; learning begins with
    /// [`Net::ensure_network`].
    ///
    /// Runs in a tokio runtime, and needs the capabilities `CAP_NET_ADMIN` and `CAP_NET_RAW`.
    pub async fn start(config: Config) -> Result<Self, HostError> {
        let Config { underlay, uplink } = config;
        let route = open()?;
        for device in half_made(&route.links().await.map_err(cannot_list)?) {
            let change = LinkChange::Remove { device };
            tracing::info!(%change, "clearing away what was half made");
            execute(&route, &change).await.map_err(|error| cannot("clear away what was half made", error))?;
        }
        let changes = Changes::new();
        Ok(Self {
            learning: Learning::new(changes.clone()),
            _monitor: Task::spawn(monitor(changes.clone(), underlay.clone())),
            changes,
            underlay,
            uplink,
            writing: Mutex::default(),
        })
    }

    async fn underlay(&self, route: &Route) -> Result<Link, HostError> {
        let name = &self.underlay;
        let unavailable = |problem| {
            HostError::retryable(
                "UnderlayUnavailable",
                format!(
                    "the underlay interface {name} {problem}; bring it up, or name another in the agent's configuration"
                ),
            )
        };
        let link = route.link(name).await.map_err(cannot_list)?.ok_or_else(|| unavailable("does not exist"))?;
        if link.up { Ok(link) } else { Err(unavailable("is down")) }
    }
}

fn cannot_forward(uplink: &str, error: std::io::Error) -> HostError {
    let message = match error.kind() {
        std::io::ErrorKind::NotFound => {
            format!("the uplink interface {uplink} does not exist; name another in the agent's configuration")
        }
        _ => "cannot have the kernel forward IPv6; it is tried again".to_owned(),
    };
    HostError::retryable("ForwardingFailed", message).caused_by(error)
}

/// The IPv6 addresses that these changes add, and those that they remove.
fn moved_addresses(changes: &[LinkChange]) -> (Vec<Ipv6Addr>, Vec<Ipv6Addr>) {
    let (mut added, mut removed) = (Vec::new(), Vec::new());
    for change in changes {
        match change {
            LinkChange::AddAddress { address: InterfaceAddress { address: IpAddr::V6(address), .. }, .. } => {
                added.push(*address);
            }
            LinkChange::RemoveAddress { address: InterfaceAddress { address: IpAddr::V6(address), .. }, .. } => {
                removed.push(*address);
            }
            _ => {}
        }
    }
    (added, removed)
}

#[async_trait]
impl Net for Netlink {
    async fn networks(&self) -> Result<Vec<NetworkDevices>, HostError> {
        let links = open()?.links().await.map_err(cannot_list)?;
        Ok(networks_of(&links))
    }

    async fn ensure_network(&self, request: &NetworkRequest) -> Result<NetworkDevices, HostError> {
        let _writing = self.writing.lock().await;
        let route = open()?;
        let desired = Desired::new(request, &self.underlay(&route).await?)?;
        if let (true, Some(uplink)) = (desired.routes(), &self.uplink) {
            ensure_forwarding(uplink).map_err(|error| cannot_forward(uplink, error))?;
        }
        let observed = observe(&route, &desired.names).await.map_err(cannot_list)?;
        let changes = plan(&observed, &desired).map_err(|error| {
            HostError::retryable("ForeignDevice", format!("network {} cannot be made here: {error}", request.uid))
        })?;
        for change in &changes {
            tracing::info!(network = request.uid, %change, "changing a device");
            if let Err(error) = execute(&route, change).await {
                return Err(explain(&route, &request.uid, change, error).await);
            }
        }

        let bridge = match observed.bridge {
            Some(bridge) => Some(bridge),
            None => route.link(&desired.names.bridge).await.map_err(cannot_list)?,
        };
        let Some(bridge) = bridge else {
            let error = ExecuteError::Gone(desired.names.bridge);
            return Err(cannot(&format!("make network {}", request.uid), error));
        };
        self.learning.ensure(&request.uid, Bridge { index: bridge.index, mac: desired.mac }).map_err(|error| {
            HostError::retryable(
                "CannotLearnAddresses",
                format!("cannot listen on the bridge of network {}; it is tried again", request.uid),
            )
            .caused_by(error)
        })?;
        let (added, removed) = moved_addresses(&changes);
        self.learning.announce(&request.uid, &added);
        self.learning.ask_anew(&request.uid, &removed);
        if request.advertised && changes.iter().any(|change| matches!(change, LinkChange::CreateVxlan { .. })) {
            self.learning.ask_for_router(&request.uid);
        }
        let routes = desired.routes();
        Ok(NetworkDevices {
            uid: request.uid.clone(),
            vni: request.vni,
            bridge: desired.names.bridge,
            mtu: desired.mtu,
            routes,
        })
    }

    async fn remove_network(&self, network_uid: &str) -> Result<(), HostError> {
        let _writing = self.writing.lock().await;
        let route = open()?;
        let alias = DeviceNames::of(network_uid).alias;
        let mut links = route.links().await.map_err(cannot_list)?;
        links.retain(|link| link.alias.as_ref() == Some(&alias) && link.kind != Kind::Other);
        // The VXLAN goes last. While it is there, the host says that it uses the VNI.
        links.sort_by_key(|link| matches!(link.kind, Kind::Vxlan(_)));
        for link in links {
            let change = LinkChange::Remove { device: link.name };
            tracing::info!(network = network_uid, %change, "changing a device");
            execute(&route, &change)
                .await
                .map_err(|error| cannot(&format!("{change} of network {network_uid}"), error))?;
        }
        self.learning.remove(network_uid);
        Ok(())
    }

    async fn ensure_taps(&self, taps: &[Tap]) -> Result<(), HostError> {
        let _writing = self.writing.lock().await;
        let route = open()?;
        for change in plan_taps(&route.links().await.map_err(cannot_list)?, taps) {
            tracing::info!(%change, "changing a device");
            match execute(&route, &change).await {
                // its VM, or its network, has ended meanwhile
                Err(ExecuteError::Gone(_)) => {}
                Err(error) if matches!(error.errno(), Some(libc::ENODEV | libc::ENOENT)) => {}
                result => result.map_err(|error| cannot(&change.to_string(), error))?,
            }
        }
        Ok(())
    }

    fn learnt(&self, network_uid: &str, mac: MacAddr) -> Vec<Ipv6Addr> {
        self.learning.learnt(network_uid, mac)
    }

    async fn solicit(&self, network_uid: &str, address: Ipv6Addr) -> Result<(), HostError> {
        let failed = |problem: &str| {
            HostError::retryable(
                "CannotSolicit",
                format!("cannot ask for {address} in network {network_uid}: {problem}"),
            )
        };
        match self.learning.solicit(network_uid, address).await {
            Ok(true) => Ok(()),
            Ok(false) => Err(failed("it has not been made on this host since the agent started")),
            Err(error) => Err(failed("its bridge does not send").caused_by(error)),
        }
    }

    async fn underlay_addresses(&self) -> Result<Vec<IpAddr>, HostError> {
        let route = open()?;
        let underlay = self.underlay(&route).await?;
        let addresses = route.addresses(underlay.index).await.map_err(cannot_list)?;
        Ok(addresses.into_iter().map(|address| address.address).filter(is_global).collect())
    }

    fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }
}

/// Whether other hosts can reach the address: neither link-local nor loopback.
fn is_global(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => !v4.is_link_local() && !v4.is_loopback(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local() && !v6.is_loopback(),
    }
}

async fn observe(route: &Route, names: &DeviceNames) -> Result<Observed, RouteError> {
    let (bridge, vxlan) = (route.link(&names.bridge).await?, route.link(&names.vxlan).await?);
    let addresses = match &bridge {
        Some(bridge) => match route.addresses(bridge.index).await {
            // removed since: the bridge that is made instead has none
            Err(error) if error.errno() == Some(libc::ENODEV) => Vec::new(),
            addresses => addresses?,
        },
        None => Vec::new(),
    };
    Ok(Observed { bridge, vxlan, addresses })
}

/// The networks whose devices, all or some, are among these links.
fn networks_of(links: &[Link]) -> Vec<NetworkDevices> {
    let mut networks: BTreeMap<&str, NetworkDevices> = BTreeMap::new();
    for link in links {
        let vni = match &link.kind {
            Kind::Bridge(_) => link.group,
            Kind::Vxlan(parameters) => parameters.vni,
            Kind::Other => continue,
        };
        let Some((uid, vni)) = link.alias.as_deref().and_then(network_of_alias).zip(Vni::new(vni)) else { continue };
        let network = networks.entry(uid).or_insert_with(|| NetworkDevices {
            uid: uid.to_owned(),
            vni,
            bridge: DeviceNames::of(uid).bridge,
            mtu: link.mtu,
            routes: false,
        });
        // where the two disagree: the guests' MTU is the bridge's, and the VNI in use is the VXLAN's
        match link.kind {
            Kind::Bridge(_) => {
                network.mtu = link.mtu;
                network.routes = link.up && link.ipv6.is_some_and(|ipv6| ipv6.forwarding && !ipv6.disabled);
            }
            _ => network.vni = vni,
        }
    }
    networks.into_values().collect()
}

fn open() -> Result<Route, HostError> {
    Route::open().map_err(cannot_list)
}

fn cannot_list(error: RouteError) -> HostError {
    HostError::retryable("NetlinkFailed", "cannot read the host's network devices; it is tried again").caused_by(error)
}

fn cannot(action: &str, error: ExecuteError) -> HostError {
    let hint = match error.errno() {
        Some(libc::EPERM | libc::EACCES) => "; the agent needs the capability CAP_NET_ADMIN",
        Some(libc::ENOMEM | libc::ENOBUFS) => "; raise net.core.optmem_max, which bounds multicast groups",
        _ => "; it is tried again",
    };
    HostError::retryable("NetworkDeviceFailed", format!("cannot {action}{hint}")).caused_by(error)
}

/// Says more about a change that failed, where more can be known.
async fn explain(route: &Route, network_uid: &str, change: &LinkChange, error: ExecuteError) -> HostError {
    if let (LinkChange::CreateVxlan { parameters, .. }, Some(libc::EEXIST)) = (change, error.errno())
        && let Ok(links) = route.links().await
        && let Some(holder) =
            links.iter().find(|link| matches!(link.kind, Kind::Vxlan(other) if other.vni == parameters.vni))
    {
        let whose = match holder.alias.as_deref().and_then(network_of_alias) {
            Some(uid) => format!("of network {uid}; it is tried again, until that one is removed from this host"),
            None => "which is no network's of ucloud; remove it, or leave its VNI out of the NetworkPool".to_owned(),
        };
        let message = format!(
            "network {network_uid} cannot be made here: VNI {} is used by the device {}, {whose}",
            parameters.vni, holder.name
        );
        return HostError::retryable("VniInUse", message).caused_by(error);
    }
    cannot(&format!("{change} for network {network_uid}"), error)
}
