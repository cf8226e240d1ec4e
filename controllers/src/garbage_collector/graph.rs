//! Who owns whom: every object of every kind that the server serves, by UID. Pure.
//!
//! The graph decides nothing by itself. It tells which objects have to be looked at after a change; whoever looks asks the
//! server before anything is deleted. So a graph that is behind costs time, and never an object.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::{core::ObjectMeta, discovery::ApiResource};

/// The finalizer of an object that goes after its dependents.
pub const FOREGROUND: &str = "foregroundDeletion";
/// The finalizer of an object whose dependents are to be left without it.
pub const ORPHAN: &str = "orphan";

/// An object's UID.
pub type Uid = String;

/// How an object's deletion waits for the garbage collector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Waits {
    /// Until its dependents are gone.
    Foreground,
    /// Until its dependents do not name it any more.
    Orphan,
}

/// One object, as far as ownership goes.
#[derive(Clone, Debug)]
pub struct Node {
    /// Its kind.
    pub resource: Arc<ApiResource>,
    /// Its namespace; none if it is of the whole installation.
    pub namespace: Option<String>,
    /// Its name.
    pub name: String,
    /// Its UID.
    pub uid: Uid,
    /// Its owners.
    pub owners: Vec<OwnerReference>,
    /// Whether it is being deleted.
    pub deleting: bool,
    /// What its deletion waits for.
    pub waits: Option<Waits>,
}

impl Node {
    /// From an object's metadata; none if it has no name or UID.
    pub fn new(resource: &Arc<ApiResource>, meta: ObjectMeta) -> Option<Self> {
        let waits = waits(&meta);
        Some(Self {
            resource: Arc::clone(resource),
            namespace: meta.namespace,
            name: meta.name?,
            uid: meta.uid?,
            owners: meta.owner_references.unwrap_or_default(),
            deleting: meta.deletion_timestamp.is_some(),
            waits,
        })
    }

    fn deletes_dependents(&self) -> bool {
        self.deleting && self.waits == Some(Waits::Foreground)
    }

    /// Whether the object keeps its owner `uid` from going first.
    fn blocks(&self, uid: &str) -> bool {
        blocks(&self.owners, uid)
    }
}

/// What a deletion with these metadata waits for.
pub fn waits(meta: &ObjectMeta) -> Option<Waits> {
    meta.finalizers.iter().flatten().find_map(|finalizer| match finalizer.as_str() {
        FOREGROUND => Some(Waits::Foreground),
        ORPHAN => Some(Waits::Orphan),
        _ => None,
    })
}

/// Whether one of the references is to `uid`, and keeps that from going first.
pub fn blocks(owners: &[OwnerReference], uid: &str) -> bool {
    owners.iter().any(|owner| owner.uid == uid && owner.block_owner_deletion == Some(true))
}

/// All objects.
#[derive(Default)]
pub struct Graph {
    nodes: HashMap<Uid, Node>,
    /// By owner.
    dependents: HashMap<Uid, HashSet<Uid>>,
}

impl Graph {
    /// The object with this UID.
    pub fn get(&self, uid: &str) -> Option<&Node> {
        self.nodes.get(uid)
    }

    /// The objects of a kind.
    pub fn of_kind<'a>(&'a self, resource: &'a ApiResource) -> impl Iterator<Item = &'a Node> {
        self.nodes.values().filter(move |node| *node.resource == *resource)
    }

    /// The objects that name `uid` as their owner.
    pub fn dependents<'a>(&'a self, uid: &str) -> impl Iterator<Item = &'a Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(|dependent| self.nodes.get(dependent))
    }

    /// The dependents that the owner's deletion has to wait for.
    pub fn blockers(&self, uid: &str) -> Vec<&Node> {
        let Some(owner) = self.nodes.get(uid) else { return Vec::new() };
        // what is in another namespace cannot have this owner, whatever it says
        let near = |node: &&Node| owner.namespace.is_none() || owner.namespace == node.namespace;
        self.dependents(uid).filter(near).filter(|node| node.blocks(uid)).collect()
    }

    /// Whether a dependent of the object, too, waits for its own dependents: the two may wait for each other.
    pub fn is_in_circle(&self, uid: &str) -> bool {
        self.dependents(uid).any(Node::deletes_dependents)
    }

    /// Takes in an object as it is now, and tells which ones have to be looked at.
    pub fn observe(&mut self, node: Node) -> BTreeSet<Uid> {
        let uid = node.uid.clone();
        let mut look = BTreeSet::new();
        let old = self.nodes.insert(uid.clone(), node);
        let owners = |node: &Node| node.owners.iter().map(|owner| owner.uid.clone()).collect::<HashSet<_>>();
        let Some(new) = self.nodes.get(&uid) else { return look };
        let (before, after) = (old.as_ref().map(owners).unwrap_or_default(), owners(new));
        let begins = new.deletes_dependents() && !old.as_ref().is_some_and(Node::deletes_dependents);
        for gone in before.difference(&after) {
            self.forget_dependent(gone, &uid);
        }
        for owner in &after {
            self.dependents.entry(owner.clone()).or_default().insert(uid.clone());
        }
        // an owner that waited for this one may have to wait no more, or may learn that they wait for each other
        look.extend(before.iter().chain(&after).filter(|owner| self.deletes_dependents(owner)).cloned());
        if begins {
            look.extend(self.dependents.get(&uid).into_iter().flatten().cloned());
        }
        if self.is_suspicious(&uid) {
            look.insert(uid);
        }
        look
    }

    /// Takes an object out that is gone, and tells which ones have to be looked at.
    pub fn remove(&mut self, uid: &str) -> BTreeSet<Uid> {
        let Some(node) = self.nodes.remove(uid) else { return BTreeSet::new() };
        let mut look: BTreeSet<Uid> = self.dependents.get(uid).into_iter().flatten().cloned().collect();
        for owner in &node.owners {
            self.forget_dependent(&owner.uid, uid);
            if self.deletes_dependents(&owner.uid) {
                look.insert(owner.uid.clone());
            }
        }
        look
    }

    /// All objects that may have to go, or wait for something.
    pub fn suspicious(&self) -> Vec<Uid> {
        self.nodes.keys().filter(|uid| self.is_suspicious(uid)).cloned().collect()
    }

    fn is_suspicious(&self, uid: &str) -> bool {
        let Some(node) = self.nodes.get(uid) else { return false };
        if node.deleting {
            return node.waits.is_some();
        }
        node.owners.iter().any(|owner| match self.nodes.get(&owner.uid) {
            // it may be the graph that is behind, or the reference that is wrong
            None => true,
            Some(known) => known.deletes_dependents() || !is_meant(owner, node, known),
        })
    }

    fn deletes_dependents(&self, uid: &str) -> bool {
        self.nodes.get(uid).is_some_and(Node::deletes_dependents)
    }

    fn forget_dependent(&mut self, owner: &str, dependent: &str) {
        if let Some(dependents) = self.dependents.get_mut(owner) {
            dependents.remove(dependent);
            if dependents.is_empty() {
                self.dependents.remove(owner);
            }
        }
    }
}

/// Whether the reference names the object in every respect: a UID alone is no proof.
fn is_meant(reference: &OwnerReference, dependent: &Node, owner: &Node) -> bool {
    let group = |version: &str| version.split_once('/').map_or("", |(group, _)| group).to_owned();
    reference.name == owner.name
        && reference.kind == owner.resource.kind
        && group(&reference.api_version) == owner.resource.group
        && (owner.namespace.is_none() || owner.namespace == dependent.namespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(uid: &str, owners: &[&str]) -> Node {
        let resource = ApiResource {
            group: "g".to_owned(),
            version: "v1".to_owned(),
            api_version: "g/v1".to_owned(),
            kind: "Toy".to_owned(),
            plural: "toys".to_owned(),
        };
        let owner = |uid: &&str| OwnerReference {
            api_version: "g/v1".to_owned(),
            kind: "Toy".to_owned(),
            name: (*uid).to_owned(),
            uid: (*uid).to_owned(),
            block_owner_deletion: Some(true),
            controller: None,
        };
        Node {
            resource: Arc::new(resource),
            namespace: Some("n".to_owned()),
            name: uid.to_owned(),
            uid: uid.to_owned(),
            owners: owners.iter().map(owner).collect(),
            deleting: false,
            waits: None,
        }
    }

    fn look(uids: BTreeSet<Uid>) -> Vec<String> {
        uids.into_iter().collect()
    }

    fn in_foreground(node: Node) -> Node {
        Node { deleting: true, waits: Some(Waits::Foreground), ..node }
    }

    #[test]
    fn only_what_may_have_to_go_is_looked_at() {
        let mut graph = Graph::default();
        assert!(graph.observe(node("a", &[])).is_empty());
        assert!(graph.observe(node("b", &["a"])).is_empty());
        assert_eq!(look(graph.observe(node("c", &["unknown"]))), ["c"]);
        let mut astray = node("d", &["a"]);
        astray.namespace = Some("other".to_owned());
        assert_eq!(look(graph.observe(astray)), ["d"], "its owner is in another namespace");
        let mut wrong = node("e", &["a"]);
        wrong.owners[0].name = "other".to_owned();
        assert_eq!(look(graph.observe(wrong)), ["e"], "a UID alone is no proof");
        assert_eq!(look(graph.remove("a")), ["b", "d", "e"]);
        assert_eq!(graph.suspicious().len(), 4);
    }

    #[test]
    fn an_owner_waits_for_those_that_block_it() {
        let mut graph = Graph::default();
        graph.observe(node("a", &[]));
        graph.observe(node("b", &["a"]));
        graph.observe(node("c", &["a"]));
        let mut far = node("far", &["a"]);
        far.namespace = Some("other".to_owned());
        graph.observe(far);
        assert_eq!(look(graph.observe(in_foreground(node("a", &[])))), ["a", "b", "c", "far"]);
        let names = |graph: &Graph| {
            let mut names: Vec<_> = graph.blockers("a").into_iter().map(|node| node.name.clone()).collect();
            names.sort();
            names
        };
        assert_eq!(names(&graph), ["b", "c"], "nobody blocks from another namespace");
        assert_eq!(look(graph.remove("b")), ["a"]);
        assert_eq!(look(graph.observe(node("c", &[]))), ["a"], "it has another owner now, or none");
        assert!(graph.blockers("a").is_empty());
    }

    #[test]
    fn two_that_wait_for_each_other_are_seen() {
        let mut graph = Graph::default();
        graph.observe(node("a", &["b"]));
        graph.observe(node("b", &["a"]));
        assert!(!graph.is_in_circle("b"));
        graph.observe(in_foreground(node("a", &["b"])));
        assert!(graph.is_in_circle("b"));
    }
}
