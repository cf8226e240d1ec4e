//! The objects that the load is made of: 1.5 KiB each, whatever their kind.

use bytes::Bytes;
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};

/// The bytes of an object as a client sends it.
pub const OBJECT_BYTES: usize = 1536;
/// The namespace of all objects of the load.
pub const NAMESPACE: &str = "ucloud-bench";

/// What stands in a template where a name goes; names have as many bytes.
const NAME: &str = "o-#########";
/// What stands in a template where a number goes.
const COUNT: &str = "n#########";

/// A kind that objects of the load can be of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// ucloud's VM, halted.
    Vm,
    /// Kubernetes' ConfigMap, which has no status.
    Configmap,
    /// A kind of this program's own, which it brings and takes away as a CustomResourceDefinition.
    Custom,
}

impl Kind {
    /// The path of all objects of the kind in the load's namespace.
    pub fn collection(self) -> String {
        let (api, plural) = match self {
            Self::Vm => ("/apis/ucloud.ungleich.ch/v1alpha1", "vms"),
            Self::Configmap => ("/api/v1", "configmaps"),
            Self::Custom => ("/apis/bench.ucloud.ungleich.ch/v1", "loads"),
        };
        format!("{api}/namespaces/{NAMESPACE}/{plural}")
    }

    /// The whole object.
    pub fn object(self) -> Template {
        let mut object = match self {
            Self::Vm => json!({
                "apiVersion": "ucloud.ungleich.ch/v1alpha1",
                "kind": "VM",
                "spec": {
                    "runStrategy": "Halted", "cpus": 2, "memory": "4Gi",
                    "disks": [
                        {"name": "root", "image": "images/debian-13", "size": "20Gi"},
                        {"name": "data", "image": "images/empty", "size": "100Gi", "pool": "fast"},
                    ],
                    "networks": [{"name": "eth0", "network": "front"}, {"name": "eth1", "network": "back"}],
                    "hostSelector": {"zone": "a"},
                },
            }),
            Self::Configmap => json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"a": "1", "b": "2", "c": "3"}}),
            Self::Custom => json!({
                "apiVersion": "bench.ucloud.ungleich.ch/v1",
                "kind": "Load",
                "spec": {"replicas": 2, "parts": [{"name": "a", "size": "1Gi"}, {"name": "b", "size": "2Gi"}]},
            }),
        };
        object["metadata"] = json!({
            "name": NAME,
            "labels": {"app.kubernetes.io/name": "load", "app.kubernetes.io/part-of": "bench", "tier": "back"},
            "annotations": {"bench.ucloud.ungleich.ch/count": COUNT, "bench.ucloud.ungleich.ch/text": ""},
        });
        let missing = OBJECT_BYTES.saturating_sub(object.to_string().len());
        let text: String = "the quick brown fox jumps over the lazy dog, ".chars().cycle().take(missing).collect();
        object["metadata"]["annotations"]["bench.ucloud.ungleich.ch/text"] = text.into();
        Template::new(&object)
    }

    /// A merge patch of the status; nothing for a kind that has none.
    pub fn status(self) -> Option<Template> {
        let condition = json!([{
            "type": "Ready", "status": "False", "reason": "Halted", "message": COUNT,
            "lastTransitionTime": "2026-01-01T00:00:00Z", "observedGeneration": 1,
        }]);
        match self {
            Self::Vm => Some(Template::new(&json!({"status": {"phase": "Stopped", "conditions": condition}}))),
            Self::Custom => Some(Template::new(&json!({"status": {"conditions": condition}}))),
            Self::Configmap => None,
        }
    }

    /// A merge patch of an annotation.
    pub fn annotation() -> Template {
        Template::new(&json!({"metadata": {"annotations": {"bench.ucloud.ungleich.ch/count": COUNT}}}))
    }

    /// The CustomResourceDefinition of the kind that is this program's own.
    pub fn definition() -> Value {
        let condition = json!({"type": "object", "properties": {
            "type": {"type": "string"}, "status": {"type": "string"}, "reason": {"type": "string"},
            "message": {"type": "string"}, "lastTransitionTime": {"type": "string", "format": "date-time"},
            "observedGeneration": {"type": "integer", "format": "int64"},
        }});
        let part = json!({"type": "object", "properties": {"name": {"type": "string"}, "size": {"type": "string"}}});
        let schema = json!({"type": "object", "properties": {
            "spec": {"type": "object", "properties": {
                "replicas": {"type": "integer"}, "parts": {"type": "array", "items": part},
            }},
            "status": {"type": "object", "properties": {"conditions": {"type": "array", "items": condition}}},
        }});
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "loads.bench.ucloud.ungleich.ch"},
            "spec": {
                "group": "bench.ucloud.ungleich.ch", "scope": "Namespaced",
                "names": {"plural": "loads", "singular": "load", "kind": "Load", "listKind": "LoadList"},
                "versions": [{
                    "name": "v1", "served": true, "storage": true, "subresources": {"status": {}},
                    "schema": {"openAPIV3Schema": schema},
                }],
            },
        })
    }
}

/// The name of the object with this number.
pub fn name(number: u64) -> String {
    format!("o-{number:09}")
}

/// The text that stands for this number in an object.
pub fn count(number: u64) -> String {
    format!("n{number:09}")
}

/// A body that is encoded once, and then copied with another name and number in it.
pub struct Template {
    bytes: Vec<u8>,
    name_at: Option<usize>,
    count_at: Option<usize>,
}

impl Template {
    fn new(value: &Value) -> Self {
        let text = value.to_string();
        Self { name_at: text.find(NAME), count_at: text.find(COUNT), bytes: text.into_bytes() }
    }

    /// The body for the object with this number, with `number` as what changes in it.
    pub fn body(&self, object: u64, number: u64) -> Bytes {
        let mut bytes = self.bytes.clone();
        for (at, text) in [(self.name_at, name(object)), (self.count_at, count(number))] {
            if let Some(at) = at {
                bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
            }
        }
        bytes.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_have_their_size_name_and_number() {
        for kind in [Kind::Vm, Kind::Configmap, Kind::Custom] {
            let body = kind.object().body(12, 345);
            assert_eq!(body.len(), OBJECT_BYTES, "{kind:?}");
            let object: Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(object["metadata"]["name"], "o-000000012");
            assert_eq!(object["metadata"]["annotations"]["bench.ucloud.ungleich.ch/count"], "n000000345");
        }
    }

    #[test]
    fn patches_hold_their_number_alone() {
        let patch: Value = serde_json::from_slice(&Kind::annotation().body(1, 7)).unwrap();
        assert_eq!(patch["metadata"]["annotations"]["bench.ucloud.ungleich.ch/count"], "n000000007");
        let patch: Value = serde_json::from_slice(&Kind::Vm.status().unwrap().body(1, 7)).unwrap();
        assert_eq!(patch["status"]["conditions"][0]["message"], "n000000007");
    }
}
