//! The server put together: every kind with its strategy and its subresources, and the rules of who may do what.

use kube::CustomResourceExt as _;
use ucloud_machinery::{
    ApiServer, BuildError,
    registry::{DescriptionError, Resource},
    storage::Storage,
};
use ucloud_types::meta::{AGENTS_GROUP, CONTROLLERS_GROUP};
use ucloud_types::{Host, Image, Network, NetworkAllocation, NetworkPool, SecurityGroup, StoragePool, VM};

use crate::{
    authorization::RoleAuthorizer,
    protection::NAMESPACES,
    strategy::{
        HostStrategy, ImageStrategy, NetworkAllocationStrategy, NetworkPoolStrategy, NetworkStrategy,
        SecurityGroupStrategy, StoragePoolStrategy, VmStrategy,
    },
    subresources::{BindingHandler, PowerHandler, PowerVerb},
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

/// The API server over `storage`. Callers are recognised by their client certificates; the namespaces that ucloud needs
/// are made as soon as it serves. Needs a tokio runtime.
pub fn server(storage: impl Storage) -> Result<ApiServer, ServerError> {
    let mut builder =
        ApiServer::builder(storage, RoleAuthorizer).product(concat!("ucloud-", env!("CARGO_PKG_VERSION")));
    // what keeps VMs running does not wait behind users, whatever they do
    for group in [CONTROLLERS_GROUP, AGENTS_GROUP] {
        builder = builder.priority_group(group);
    }
    for resource in resources()? {
        builder = builder.resource(resource);
    }
    for namespace in NAMESPACES {
        builder = builder.namespace(namespace);
    }
    Ok(builder.build()?)
}

fn resources() -> Result<Vec<Resource>, DescriptionError> {
    let mut vm = Resource::from_crd(&VM::crd())?.strategy(VmStrategy).subresource("binding", BindingHandler);
    for verb in [PowerVerb::Start, PowerVerb::Stop, PowerVerb::Restart] {
        vm = vm.subresource(verb.name(), PowerHandler(verb));
    }
    Ok(vec![
        vm,
        Resource::from_crd(&Host::crd())?.strategy(HostStrategy),
        Resource::from_crd(&Image::crd())?.strategy(ImageStrategy),
        Resource::from_crd(&Network::crd())?.strategy(NetworkStrategy),
        Resource::from_crd(&NetworkAllocation::crd())?.strategy(NetworkAllocationStrategy),
        Resource::from_crd(&NetworkPool::crd())?.strategy(NetworkPoolStrategy),
        Resource::from_crd(&SecurityGroup::crd())?.strategy(SecurityGroupStrategy),
        Resource::from_crd(&StoragePool::crd())?.strategy(StoragePoolStrategy),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_served() {
        let mut served: Vec<String> =
            resources().unwrap().iter().map(|resource| resource.description().kind.clone()).collect();
        let mut defined: Vec<String> =
            ucloud_types::definitions().into_iter().map(|definition| definition.spec.names.kind).collect();
        served.sort();
        defined.sort();
        assert_eq!(served, defined);
    }
}
