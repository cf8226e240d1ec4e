//! The control plane that all tests share which leave it in peace. It is started by the first that needs it, and ends with the last.

use std::sync::{Arc, LazyLock};

use ucloud_e2e::{ControlPlane, Program};

/// A handle on it.
#[derive(Clone)]
pub struct Shared(Arc<LazyLock<Result<ControlPlane, String>>>);

impl Shared {
    pub fn new() -> Self {
        Self(Arc::new(LazyLock::new(start)))
    }

    /// The control plane, once it runs.
    pub fn plane(&self) -> anyhow::Result<&ControlPlane> {
        match &**self.0 {
            Ok(plane) => Ok(plane),
            Err(error) => anyhow::bail!("there is no control plane: {error}"),
        }
    }
}

fn start() -> Result<ControlPlane, String> {
    ControlPlane::start(&[Program::Etcd, Program::Api, Program::Controllers]).map_err(|error| format!("{error:?}"))
}
