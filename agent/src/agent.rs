//! An agent from its start to its end.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use jiff::Timestamp;
use kube::Client;
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};
use ucloud_agent_core::{HostError, adopt, vm::Desired};

use crate::{
    Config, Machine,
    api::ApiServer,
    cache::Caches,
    events::Events,
    files, host, images,
    isolation::{self, Isolation},
    limit::limited,
    metrics::Metrics,
    networks::{self, Networks},
    orphans::{self, Orphans},
    shared::Shared,
    snapshots::{self, Snapshots},
    streams::{self, Streams},
    triggers::{self, Wake},
    vm::{self, Memories},
    volumes::{self, Volumes},
};

/// How long what is under way may take to come to its next report when the agent is to end.
const FAREWELL: Duration = Duration::from_secs(3);

/// A part of the agent ended without being told to: a fault of the agent itself.
#[derive(Debug, thiserror::Error)]
#[error("a part of the agent has ended")]
pub struct PartEnded(#[source] Option<JoinError>);

/// An agent.
pub struct Agent {
    config: Config,
    client: Client,
    machine: Machine,
    metrics: Metrics,
    streams: Option<Streams>,
}

impl Agent {
    /// An agent for this host, which speaks to the API server by `client`.
    pub fn new(config: Config, client: Client, machine: Machine) -> Self {
        Self { config, client, machine, metrics: Metrics::default(), streams: None }
    }

    /// Takes and gives the bytes of Files there, and gives those of Images and Volumes.
    #[must_use]
    pub fn with_streams(self, streams: Streams) -> Self {
        Self { streams: Some(streams), ..self }
    }

    /// What it counts.
    pub fn metrics(&self) -> Metrics {
        self.metrics.clone()
    }

    /// Runs until `end`, and leaves the VMs running. To drop the future ends the agent at once, as if it was killed.
    ///
    /// # Errors
    ///
    /// When a part of it ends without being told to. The agent is to be started again then: half an agent is worse
    /// than none.
    pub async fn run(self, end: CancellationToken) -> Result<(), PartEnded> {
        tokio::select! {
            result = self.work(end.clone()) => result,
            () = async { end.cancelled().await; tokio::time::sleep(FAREWELL).await } => {
                warn!("what was under way did not end in time: it is left to the next agent");
                Ok(())
            }
        }
    }

    async fn work(self, end: CancellationToken) -> Result<(), PartEnded> {
        let Self { config, client, machine, metrics, streams } = self;
        // All of them end with this set
        let mut tasks = JoinSet::new();
        let api = ApiServer::new(client.clone(), config.timing.call);
        let registered = tokio::select! {
            host = host::register(&api, &config) => host,
            () = end.cancelled() => return Ok(()),
        };
        let (routes, role) = watch::channel(host::is_router(&registered));
        let (look_anew, anew) = watch::channel(0);
        tasks.spawn(host::heartbeat(api.clone(), Arc::new(config.clone()), role, look_anew));
        let (wake, woken) = Wake::channel();
        let networks = Networks::default();
        let caches = Caches::start(&mut tasks, &client, &config.host, &wake, &anew, networks.present());
        let (events, publish) = Events::start(client, &config.host, config.timing.call);
        tasks.spawn(publish);
        let shared = Arc::new(Shared {
            config,
            machine,
            api,
            caches,
            wake,
            memories: Memories::default(),
            networks,
            images: images::Images::default(),
            files: files::Files::default(),
            volumes: Volumes::default(),
            snapshots: Snapshots::default(),
            orphans: Orphans::default(),
            stream_port: streams.as_ref().map(Streams::port),
            isolation: Isolation::default(),
            events,
            metrics,
            started: Timestamp::now(),
        });
        tokio::select! {
            synced = shared.caches.synced() => synced.map_err(|_| PartEnded(None))?,
            () = end.cancelled() => return Ok(()),
        }
        tasks.spawn(host::follow_role(Arc::clone(&shared), routes));
        tasks.spawn(host::run(Arc::clone(&shared)));
        tokio::select! {
            () = fence(&shared) => {}
            () = end.cancelled() => return Ok(()),
        }
        info!(host = shared.config.host, "at work");
        tasks.spawn(networks::run(Arc::clone(&shared)));
        tasks.spawn(isolation::run(Arc::clone(&shared)));
        tasks.spawn(images::run(Arc::clone(&shared)));
        tasks.spawn(files::run(Arc::clone(&shared)));
        tasks.spawn(volumes::run(Arc::clone(&shared)));
        tasks.spawn(snapshots::run(Arc::clone(&shared)));
        tasks.spawn(orphans::run(Arc::clone(&shared)));
        if let Some(streams) = streams {
            tasks.spawn(streams::serve(Arc::clone(&shared), streams));
        }
        tasks.spawn(triggers::follow_domains(Arc::clone(&shared)));
        tasks.spawn(triggers::follow_addresses(Arc::clone(&shared)));
        tokio::select! {
            () = vm::run(shared, woken, end) => Ok(()),
            ended = tasks.join_next() => Err(PartEnded(ended.and_then(Result::err))),
        }
    }
}

/// Destroys what runs under bindings that are over: before anything else is done, and for as long as it takes.
async fn fence(shared: &Shared) {
    let mut failures = 0;
    while let Err(error) = fence_once(shared).await {
        failures += 1;
        warn!(
            failures,
            reason = error.reason,
            error = &error as &dyn std::error::Error,
            "cannot look for domains of older epochs"
        );
        tokio::time::sleep(shared.config.timing.retry(failures)).await;
    }
}

async fn fence_once(shared: &Shared) -> Result<(), HostError> {
    let limit = shared.config.timing.step;
    let hypervisor = &shared.machine.hypervisor;
    let domains = limited(limit, "list its domains", hypervisor.domains()).await?;
    let vms = shared.caches.vms.all();
    let bound = vms.iter().filter_map(|vm| Desired::of(vm, &shared.config.host).ok());
    let epochs: BTreeMap<_, _> = bound.map(|vm| (vm.uid, vm.epoch)).collect();
    for uid in adopt::superseded(&domains, &epochs) {
        warn!(uid, "switching off what runs under a binding that is over");
        limited(limit, "switch a VM off", hypervisor.destroy(&uid)).await?;
    }
    Ok(())
}
