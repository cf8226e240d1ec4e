//! Which addresses the guests of this host's networks use, learnt from neighbour discovery on the bridges.

mod nd;
mod socket;
mod table;

use std::{
    collections::HashMap,
    io,
    net::Ipv6Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ucloud_types::MacAddr;

use self::{socket::DiscoverySocket, table::Table};
use crate::{changes::Changes, task::Task};

/// When a new router tells a network of itself again, and a new host asks for the router again, after the time before. A
/// bridge that was made just now sends nothing before the kernel has taken note of its carrier, which is soon, but not at
/// once. RFC 4861 (7.2.6) allows no more than three advertisements.
const REPETITIONS: [Duration; 2] = [Duration::from_millis(100), Duration::from_secs(2)];

/// The tables of all networks, and the tasks that fill them.
#[derive(Debug)]
pub(crate) struct Learning {
    networks: Mutex<HashMap<String, Listener>>,
    changes: Changes,
}

/// What listens on the bridge of one network.
#[derive(Debug)]
struct Listener {
    bridge: Bridge,
    table: Arc<Mutex<Table>>,
    socket: Arc<DiscoverySocket>,
    task: Task,
    /// What it tells the network.
    speaker: Option<Task>,
}

/// The bridge to listen on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    /// Its interface index.
    pub index: u32,
    /// Its own address.
    pub mac: MacAddr,
}

impl Learning {
    pub fn new(changes: Changes) -> Self {
        Self { networks: Mutex::default(), changes }
    }

    /// Listens on the bridge of a network. What was learnt on an earlier bridge of the same network is kept.
    pub fn ensure(&self, network_uid: &str, bridge: Bridge) -> io::Result<()> {
        let mut networks = locked(&self.networks);
        let current = networks.get(network_uid);
        if current.is_some_and(|listener| listener.bridge == bridge && !listener.task.is_finished()) {
            return Ok(());
        }
        let table = current.map(|listener| listener.table.clone()).unwrap_or_default();
        let socket = Arc::new(DiscoverySocket::open(bridge.index)?);
        let task = Task::spawn(listen(socket.clone(), table.clone(), self.changes.clone()));
        networks.insert(network_uid.to_owned(), Listener { bridge, table, socket, task, speaker: None });
        Ok(())
    }

    /// Stops listening, and forgets what was learnt.
    pub fn remove(&self, network_uid: &str) {
        locked(&self.networks).remove(network_uid);
    }

    /// The addresses that this interface was seen to use, sorted.
    pub fn learnt(&self, network_uid: &str, mac: MacAddr) -> Vec<Ipv6Addr> {
        let table = locked(&self.networks).get(network_uid).map(|listener| listener.table.clone());
        table.map(|table| locked(&table).addresses(mac)).unwrap_or_default()
    }

    /// Tells the network that its router has these addresses now: at once, and again, as a frame may get lost, and
    /// multicast needs a moment to find its way to a host that is new to the network.
    pub fn announce(&self, network_uid: &str, addresses: &[Ipv6Addr]) {
        self.say(network_uid, &REPETITIONS, |mac| addresses.iter().map(|a| nd::announcement(mac, *a)).collect());
    }

    /// Has whoever has these addresses tell the network so.
    pub fn ask_anew(&self, network_uid: &str, addresses: &[Ipv6Addr]) {
        self.say(network_uid, &[], |mac| addresses.iter().map(|address| nd::probe(mac, *address)).collect());
    }

    /// Has the network's router advertise: at once, and again, for the same reasons.
    pub fn ask_for_router(&self, network_uid: &str) {
        self.say(network_uid, &REPETITIONS, |mac| vec![nd::router_solicitation(mac)]);
    }

    /// Sends frames from the bridge's address on the network's bridge, and again after each pause, as long as its router
    /// stays what it is.
    fn say(&self, network_uid: &str, pauses: &'static [Duration], frames: impl FnOnce(MacAddr) -> Vec<Vec<u8>>) {
        if let Some(listener) = locked(&self.networks).get_mut(network_uid) {
            let frames = frames(listener.bridge.mac);
            if !frames.is_empty() {
                listener.speaker = Some(Task::spawn(speak(listener.socket.clone(), frames, pauses)));
            }
        }
    }

    /// Asks who has `address`. `Ok(false)` if there is nobody listening on the network.
    pub async fn solicit(&self, network_uid: &str, address: Ipv6Addr) -> io::Result<bool> {
        let listener = locked(&self.networks)
            .get(network_uid)
            .map(|listener| (listener.socket.clone(), nd::solicitation(listener.bridge.mac, address)));
        let Some((socket, frame)) = listener else { return Ok(false) };
        socket.send(&frame).await?;
        Ok(true)
    }
}

/// Sends the frames at once, and again after each pause.
async fn speak(socket: Arc<DiscoverySocket>, frames: Vec<Vec<u8>>, pauses: &'static [Duration]) {
    for pause in [None].into_iter().chain(pauses.iter().map(Some)) {
        if let Some(pause) = pause {
            tokio::time::sleep(*pause).await;
        }
        for frame in &frames {
            if let Err(error) = socket.send(frame).await {
                tracing::warn!(%error, "cannot tell a network who its router is, or ask it");
            }
        }
    }
}

/// Fills the table until the socket fails. [`Learning::ensure`] then begins again.
async fn listen(socket: Arc<DiscoverySocket>, table: Arc<Mutex<Table>>, changes: Changes) {
    let mut buffer = socket::frame_buffer();
    loop {
        match socket.receive(&mut buffer).await {
            Ok(frame) => {
                if let Some(sighting) = nd::sighting(frame)
                    && locked(&table).hear(sighting)
                {
                    changes.tick();
                }
            }
            // said once when the bridge goes down; it may come up again
            Err(error) if error.kind() == io::ErrorKind::NetworkDown => {}
            Err(error) => {
                tracing::warn!(%error, "cannot listen for neighbour discovery any longer");
                return;
            }
        }
    }
}

/// Nothing that holds one of these locks can leave its value half changed.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
