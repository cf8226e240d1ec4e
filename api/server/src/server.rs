//! The server put together: every kind with its strategy and its subresources, and the rules of who may do what.

use kube::CustomResourceExt as _;
use ucloud_machinery::{
    ApiServer, BuildError,
    registry::{DescriptionError, Resource},
    storage::Storage,
};
use ucloud_types::meta::{AGENTS_GROUP, CONTROLLERS_GROUP};
use ucloud_types::{
    File, Host, Image, Network, NetworkAllocation, NetworkPool, Orphan, SecurityGroup, Snapshot, SnapshotSchedule,
    StoragePool, VM, Volume, orphan::OwnerReview,
};

use crate::{
    agents::Agents,
    authorization::RoleAuthorizer,
    protection::NAMESPACES,
    strategy::{
        FileStrategy, HostStrategy, ImageStrategy, NetworkAllocationStrategy, NetworkPoolStrategy, NetworkStrategy,
        OrphanStrategy, SecurityGroupStrategy, SnapshotScheduleStrategy, SnapshotStrategy, StoragePoolStrategy,
        VmStrategy, VolumeStrategy,
    },
    subresources::{BindingHandler, Content, ContentHandler, OwnersHandler, PowerHandler, PowerVerb, RestoreHandler},
};

/// Why the server cannot be put together: a fault of this program.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// A kind cannot be served as it is described.
    #[error("cannot describe the kinds of ucloud")]
    Description(#[from] DescriptionError),
    /// The kinds do not go together.
    #[error("cannot put the API server together")]
    Build(#[from] BuildError),
}

/// The API server over `storage`, which reaches the bytes of Files, Images and Volumes by `agents`. Callers are recognised by their client
/// certificates; the namespaces that ucloud needs are made as soon as it serves. Needs a tokio runtime.
pub fn server(storage: impl Storage, agents: &Agents) -> Result<ApiServer, ServerError> {
    let mut builder =
        ApiServer::builder(storage, RoleAuthorizer).product(concat!("ucloud-", env!("CARGO_PKG_VERSION")));
    // what keeps VMs running does not wait behind users, whatever they do
    for group in [CONTROLLERS_GROUP, AGENTS_GROUP] {
        builder = builder.priority_group(group);
    }
    for resource in resources(agents)? {
        builder = builder.resource(resource);
    }
    for namespace in NAMESPACES {
        builder = builder.namespace(namespace);
    }
    Ok(builder.build()?)
}

fn resources(agents: &Agents) -> Result<Vec<Resource>, DescriptionError> {
    let mut vm = Resource::from_crd(&VM::crd())?.strategy(VmStrategy).subresource("binding", BindingHandler);
    for verb in [PowerVerb::Start, PowerVerb::Stop, PowerVerb::Restart] {
        vm = vm.subresource(verb.name(), PowerHandler(verb));
    }
    vm = vm.subresource("restore", RestoreHandler);
    let content = |of| ContentHandler(agents.clone(), of);
    Ok(vec![
        vm,
        Resource::from_crd(&File::crd())?.strategy(FileStrategy).stream("content", content(Content::File)),
        Resource::from_crd(&Host::crd())?.strategy(HostStrategy).subresource(OwnerReview::SUBRESOURCE, OwnersHandler),
        Resource::from_crd(&Image::crd())?.strategy(ImageStrategy).stream("content", content(Content::Image)),
        Resource::from_crd(&Network::crd())?.strategy(NetworkStrategy),
        Resource::from_crd(&NetworkAllocation::crd())?.strategy(NetworkAllocationStrategy),
        Resource::from_crd(&NetworkPool::crd())?.strategy(NetworkPoolStrategy),
        Resource::from_crd(&Orphan::crd())?.strategy(OrphanStrategy),
        Resource::from_crd(&SecurityGroup::crd())?.strategy(SecurityGroupStrategy),
        Resource::from_crd(&Snapshot::crd())?.strategy(SnapshotStrategy),
        Resource::from_crd(&SnapshotSchedule::crd())?.strategy(SnapshotScheduleStrategy),
        Resource::from_crd(&StoragePool::crd())?.strategy(StoragePoolStrategy),
        Resource::from_crd(&Volume::crd())?.strategy(VolumeStrategy).stream("content", content(Content::Volume)),
    ])
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::pki::{Authority, directory};

    #[test]
    fn every_kind_is_served() {
        let authority = Authority::generate("ca", SystemTime::now()).unwrap();
        let api = authority.issue(&directory::api(), SystemTime::now()).unwrap();
        let (certificate, key) = (api.certificate.as_bytes(), api.key.as_bytes());
        let agents = Agents::from_pem(certificate, key, authority.certificate().as_bytes()).unwrap();
        let mut served: Vec<String> =
            resources(&agents).unwrap().iter().map(|resource| resource.description().kind.clone()).collect();
        let mut defined: Vec<String> =
            ucloud_types::definitions().into_iter().map(|definition| definition.spec.names.kind).collect();
        served.sort();
        defined.sort();
        assert_eq!(served, defined);
    }
}
