//! The fields that nobody owns: what names an object, and what the server alone writes.

use std::sync::LazyLock;

use super::element::{self, Element};
use super::set::{FieldSet, Node};

static SYSTEM: LazyLock<FieldSet> = LazyLock::new(|| {
    let metadata = [
        "clusterName",
        "creationTimestamp",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "resourceVersion",
        "selfLink",
        "uid",
    ];
    let fields = |names: &[&str]| -> Vec<(Element, Node)> {
        names.iter().map(|name| (element::field(name), Node::leaf())).collect()
    };
    let mut root = fields(&["apiVersion", "kind"]);
    root.push((element::field("metadata"), Node { member: true, below: FieldSet::from_nodes(fields(&metadata)) }));
    FieldSet::from_nodes(root)
});

/// The set without them.
pub(super) fn without_system(set: &FieldSet) -> FieldSet {
    set.difference(&SYSTEM)
}
