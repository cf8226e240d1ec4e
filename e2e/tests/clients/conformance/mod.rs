//! Those of Kubernetes' conformance tests that are about the API alone, written anew. docs/conformance.md names each with its
//! test here. They are about ucloud's own kinds, or standard kinds, where Kubernetes' are about Pods and Deployments.

mod chunking;
mod custom;
mod discovery;
mod field_validation;
mod garbage_collection;
mod namespaces;
mod resource_quota;
mod tables;
mod version;
mod watch;
mod wire;

use futures::future::BoxFuture;
use libtest_mimic::Trial;

use self::wire::Wire;
use crate::shared::Shared;

/// A test, and the name that docs/conformance.md gives it.
type Test = (&'static str, fn(&Wire) -> BoxFuture<'_, anyhow::Result<()>>);

/// Lists the async functions of a module as tests of these names.
macro_rules! tests {
    ($module:literal: $($test:ident),* $(,)?) => {
        pub const TESTS: &[super::Test] = &[$((concat!($module, "::", stringify!($test)), |wire| Box::pin($test(wire)))),*];
    };
}
use tests;

pub fn trials(shared: &Shared) -> Vec<Trial> {
    let modules = [
        watch::TESTS,
        field_validation::TESTS,
        garbage_collection::TESTS,
        chunking::TESTS,
        discovery::TESTS,
        tables::TESTS,
        version::TESTS,
        namespaces::TESTS,
        resource_quota::TESTS,
    ];
    let tests = modules.iter().flat_map(|tests| tests.iter());
    let trial = |(number, &(name, test)): (usize, &Test)| {
        let shared = shared.clone();
        crate::trial(&format!("conformance::{name}"), move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let namespace = format!("conformance-{number}");
            runtime.block_on(async { test(&Wire::new(shared.plane()?, &namespace).await?).await })
        })
    };
    let (name, alone) = chunking::ALONE;
    let alone = crate::trial(&format!("conformance::{name}"), alone);
    tests.enumerate().map(trial).chain([alone]).collect()
}
