//! Kinds that are made at run time, for the tests that need one.

use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::wire::{Answer, PATIENCE, Wire};

const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A kind of one test, cluster-wide, with the group of its name.
pub struct Custom {
    pub group: String,
}

impl Custom {
    /// Makes it and waits until it is served.
    pub async fn create(wire: &Wire, schema: &Value) -> anyhow::Result<Self> {
        let group = format!("{}.example.com", wire.namespace);
        let definition = json!({
            "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
            "metadata": {"name": format!("noxus.{group}")},
            "spec": {
                "group": group, "scope": "Cluster",
                "names": {"plural": "noxus", "singular": "noxu", "kind": "Noxu", "listKind": "NoxuList"},
                "versions": [{"name": "v1", "served": true, "storage": true, "schema": {"openAPIV3Schema": schema}}],
            },
        });
        wire.post(DEFINITIONS, &definition).await?.ok()?;
        let this = Self { group };
        let deadline = Instant::now() + PATIENCE;
        while wire.get(&this.path()).await?.code != 200 {
            ensure!(Instant::now() < deadline, "it is not served");
            sleep(Duration::from_millis(50)).await;
        }
        Ok(this)
    }

    pub fn path(&self) -> String {
        format!("/apis/{}/v1/noxus", self.group)
    }

    /// Applies an object called `mytest`, strictly. `rest` is YAML.
    pub async fn apply_object(&self, wire: &Wire, rest: &str) -> anyhow::Result<Answer> {
        let object = format!("apiVersion: {}/v1\nkind: Noxu\n{rest}", self.group);
        let path = format!("{}/mytest?fieldManager=field_validation_mgr&fieldValidation=Strict", self.path());
        wire.send("PATCH", &path, &[("content-type", "application/apply-patch+yaml")], &object).await
    }

    /// Deletes it, and with it all of its objects.
    pub async fn delete(self, wire: &Wire) -> anyhow::Result<()> {
        wire.delete(&format!("{DEFINITIONS}/noxus.{}", self.group)).await?.ok().map(|_| ())
    }
}
