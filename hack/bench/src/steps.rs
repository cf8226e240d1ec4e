//! What is measured, and in which order.

use clap::ValueEnum;
use serde::Serialize;

use crate::settings::{Server, Settings};

/// One thing to measure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Workload {
    /// From the server's first start to its readiness, and its memory then.
    StartEmpty,
    /// The memory after all objects were created.
    Filled,
    /// From a start with all objects in the store to readiness, and the memory then.
    Start,
    /// Transactions of etcd alone, each of which compares and puts 1.5 KiB.
    RawEtcd,
    /// Creating an object.
    Create,
    /// A merge patch of an object's status.
    UpdateStatus,
    /// Server-side apply of an object that differs in one annotation.
    ApplyChanged,
    /// Server-side apply of an object as it is.
    ApplyUnchanged,
    /// Get of an object; consistent, as without a resourceVersion.
    Get,
    /// Get with resourceVersion=0: what the server has at hand.
    GetCached,
    /// The list of all objects; consistent.
    List,
    /// The list with resourceVersion=0.
    ListCached,
    /// From a write to the last of many watchers.
    Watch,
    /// The memory after everything else.
    End,
}

impl Workload {
    /// The word for it in tables and plots.
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }
}

/// How clients are connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// Each client has an HTTP/2 connection of its own, as so many programs written in Go.
    Http2,
    /// All clients share one HTTP/2 connection, as the threads of one program written in Go.
    Http2Shared,
    /// Each client has an HTTP/1.1 connection of its own, as with kube-rs and the Python and JavaScript clients.
    Http1,
}

/// What a figure belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Step {
    pub workload: Workload,
    pub clients: usize,
    pub transport: Transport,
}

impl Step {
    /// With a connection per client.
    pub fn new(workload: Workload, clients: usize) -> Self {
        Self { workload, clients, transport: Transport::Http2 }
    }
}

/// The closed loops, which run at each number of clients. Raw etcd stands beside the creates that are compared with it.
const LOOPS: [Workload; 7] = [
    Workload::RawEtcd,
    Workload::Create,
    Workload::UpdateStatus,
    Workload::ApplyChanged,
    Workload::ApplyUnchanged,
    Workload::Get,
    Workload::GetCached,
];

/// The number of clients at which the other transports are measured too.
const TRANSPORT_CLIENTS: usize = 16;

/// The steps of one round.
pub fn of_round(settings: &Settings) -> Vec<Step> {
    let mut steps = Vec::new();
    if matches!(settings.server, Server::Own(_)) {
        steps.push(Step::new(Workload::Start, 0));
    }
    steps.extend([Workload::List, Workload::ListCached].map(|workload| Step::new(workload, 1)));
    steps.push(Step::new(Workload::Watch, settings.watchers));
    for clients in &settings.clients {
        steps.extend(LOOPS.map(|workload| Step::new(workload, *clients)));
    }
    if settings.clients.contains(&TRANSPORT_CLIENTS) {
        for transport in [Transport::Http2Shared, Transport::Http1] {
            steps.extend([Workload::Create, Workload::Get].map(|workload| Step {
                workload,
                clients: TRANSPORT_CLIENTS,
                transport,
            }));
        }
    }
    steps.retain(|step| settings.only.is_empty() || settings.only.contains(&step.workload));
    steps
}
