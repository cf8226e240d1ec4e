//! The VMs that are bound to this host: a queue of reconciles, one at a time for each VM.
//!
//! A reconcile observes, asks the core for the next step, carries it out, and does so again until there is no step
//! left; then it reports. It takes no event as input: whatever woke it, it looks at everything.

mod addresses;
mod backoff;
mod disks;
mod memory;
mod observe;
mod reconcile;
mod restore;
mod steps;

use std::{convert::Infallible, sync::Arc};

use futures::{StreamExt as _, channel::mpsc};
use kube::runtime::{
    applier,
    controller::{self, Action},
    reflector::ObjectRef,
};
use tokio_util::sync::CancellationToken;
use ucloud_types::VM;

use crate::shared::Shared;

pub use memory::{Memories, revision};
pub use observe::pools;
pub use restore::replace;
pub use steps::NO_IMAGE;

/// Works on VMs as they are woken, until `end`; what is being worked on then is brought to its next report.
pub async fn run(shared: Arc<Shared>, woken: mpsc::UnboundedReceiver<ObjectRef<VM>>, end: CancellationToken) {
    let queue = woken.take_until(end.cancelled_owned()).map(Ok::<_, Infallible>);
    let config = controller::Config::default().concurrency(shared.config.concurrency);
    let store = shared.caches.vms.store();
    applier(
        |vm, shared: Arc<Shared>| {
            Box::pin(async move { Ok::<_, Infallible>(reconcile::reconcile(&shared, &vm).await) })
        },
        |_, _, _| Action::await_change(),
        shared,
        store,
        queue,
        config,
    )
    // A VM that is gone before its turn came is nobody's business any more
    .for_each(|_| std::future::ready(()))
    .await;
}
