//! The security group controller: gathers the addresses of a group's members, for hosts to let in what comes from them.
//!
//! A host knows the addresses of its own VMs alone, and may see no others'. So what a rule says of a group's members is
//! resolved here, into the group's own status, which hosts may read.

mod plan;

use std::{collections::BTreeSet, sync::Arc};

use kube::{
    ResourceExt as _,
    runtime::{controller::Action, reflector::ObjectRef},
};
use ucloud_types::{SecurityGroup, VM, condition::READY};

use crate::runtime::{
    Cache, Change, Controller, Failure, Limits, Reconciler, Runtime,
    report::{Reports, Share},
};

const NAME: &str = "security-group";

/// Runs the controller for ever.
pub fn run(runtime: &Runtime, groups: &Cache<SecurityGroup>, vms: &Cache<VM>) -> impl Future<Output = ()> + use<> {
    let controller = Controller::new(NAME, runtime, groups).watch(vms, |change: &Change<VM>| {
        let namespace = change.object().and_then(|vm| vm.namespace()).unwrap_or_default();
        let affected = if change.differs(plan::memberships) {
            [&change.old, &change.new].into_iter().flatten().flat_map(|vm| plan::groups_of(vm)).collect()
        } else {
            BTreeSet::new()
        };
        affected.into_iter().map(move |name| ObjectRef::new(&name).within(&namespace)).collect::<Vec<_>>()
    });
    let reconciler = Groups { vms: vms.clone(), reports: Reports::new(runtime, NAME, Share::Whole) };
    controller.run(reconciler, Limits { concurrency: 4, ..Limits::default() })
}

struct Groups {
    vms: Cache<VM>,
    reports: Reports,
}

impl Reconciler for Groups {
    type Object = SecurityGroup;

    async fn reconcile(&self, group: Arc<SecurityGroup>) -> Result<Action, Failure> {
        self.reports.write(&*group, &plan::plan(&group, &self.vms.all())).await?;
        Ok(Action::await_change())
    }

    async fn report_failure(
        &self,
        group: Arc<SecurityGroup>,
        reason: &'static str,
        message: String,
    ) -> Result<(), Failure> {
        self.reports.write_failure(&*group, READY, reason, message).await
    }
}
