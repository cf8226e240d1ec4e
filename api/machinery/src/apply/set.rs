//! A set of fields of an object, as a tree of path elements.
//!
//! A field may be in the set while what is below it is not, and the other way round: what owns the field `spec.cpus` does
//! not own `spec`. The operations are those of sets, field by field.

use std::cmp::Ordering;

use super::element::{self, Element};

/// A set of fields.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct FieldSet {
    /// In the order of their elements; none of them is empty.
    nodes: Vec<(Element, Node)>,
}

/// What the set holds of one field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Node {
    /// The field itself.
    pub(super) member: bool,
    /// What is below it.
    pub(super) below: FieldSet,
}

impl Node {
    /// The field alone.
    pub(super) fn leaf() -> Self {
        Self { member: true, below: FieldSet::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.member && self.below.is_empty()
    }
}

impl FieldSet {
    /// Of nodes in any order. Of one element that comes twice both nodes count.
    pub(super) fn from_nodes(mut nodes: Vec<(Element, Node)>) -> Self {
        nodes.retain(|(_, node)| !node.is_empty());
        if !nodes.is_sorted_by(|(a, _), (b, _)| a < b) {
            nodes.sort_by(|(a, _), (b, _)| a.cmp(b));
            nodes.dedup_by(|(later, from), (earlier, into)| {
                let same = later == earlier;
                if same {
                    into.member |= from.member;
                    into.below = into.below.union(&from.below);
                }
                same
            });
        }
        Self { nodes }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    pub(super) fn nodes(&self) -> &[(Element, Node)] {
        &self.nodes
    }

    pub(super) fn get(&self, element: &str) -> Option<&Node> {
        let index = self.nodes.binary_search_by(|(known, _)| (**known).cmp(element)).ok()?;
        self.nodes.get(index).map(|(_, node)| node)
    }

    /// What is in either.
    pub(super) fn union(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.combine(other, |mine, theirs| match (mine, theirs) {
            (Some(mine), Some(theirs)) => {
                Node { member: mine.member || theirs.member, below: mine.below.union(&theirs.below) }
            }
            (Some(one), None) | (None, Some(one)) => one.clone(),
            (None, None) => Node::default(),
        })
    }

    /// What is in both.
    pub(super) fn intersection(&self, other: &Self) -> Self {
        self.combine(other, |mine, theirs| match (mine, theirs) {
            (Some(mine), Some(theirs)) => {
                Node { member: mine.member && theirs.member, below: mine.below.intersection(&theirs.below) }
            }
            _ => Node::default(),
        })
    }

    /// What is in this one and not in the other.
    pub(super) fn difference(&self, other: &Self) -> Self {
        if other.is_empty() {
            return self.clone();
        }
        self.combine(other, |mine, theirs| match (mine, theirs) {
            (Some(mine), Some(theirs)) => {
                Node { member: mine.member && !theirs.member, below: mine.below.difference(&theirs.below) }
            }
            (Some(mine), None) => mine.clone(),
            (None, _) => Node::default(),
        })
    }

    /// Whether no field is in both.
    pub(super) fn is_disjoint(&self, other: &Self) -> bool {
        let mut theirs = other.nodes.iter().peekable();
        self.nodes.iter().all(|(element, mine)| {
            while theirs.next_if(|(candidate, _)| candidate < element).is_some() {}
            match theirs.peek() {
                Some((candidate, their)) if candidate == element => {
                    !(mine.member && their.member) && mine.below.is_disjoint(&their.below)
                }
                _ => true,
            }
        })
    }

    fn combine(&self, other: &Self, node: impl Fn(Option<&Node>, Option<&Node>) -> Node) -> Self {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let mut push = |element: &Element, node: Node| {
            if !node.is_empty() {
                nodes.push((element.clone(), node));
            }
        };
        let (mut mine, mut theirs) = (self.nodes.iter().peekable(), other.nodes.iter().peekable());
        loop {
            let order = match (mine.peek(), theirs.peek()) {
                (Some((a, _)), Some((b, _))) => a.cmp(b),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (None, None) => return Self { nodes },
            };
            let a = if order.is_le() { mine.next() } else { None };
            let b = if order.is_ge() { theirs.next() } else { None };
            if let Some((element, _)) = a.or(b) {
                push(element, node(a.map(|(_, node)| node), b.map(|(_, node)| node)));
            }
        }
    }

    /// How many fields the set holds.
    pub(super) fn len(&self) -> usize {
        self.nodes.iter().map(|(_, node)| usize::from(node.member) + node.below.len()).sum()
    }

    /// The paths of the first `most` fields as people read them, those of a map or list before what is below them.
    pub(super) fn paths(&self, most: usize) -> Vec<String> {
        let mut paths = Vec::new();
        self.add_paths("", most, &mut paths);
        paths
    }

    fn add_paths(&self, above: &str, most: usize, paths: &mut Vec<String>) {
        let path = |element: &str| {
            let mut path = above.to_owned();
            // what no object's path is need not be told whole
            if path.len() < crate::status::MAX_PATH {
                element::show(element, &mut path);
            }
            path
        };
        let members = self.nodes.iter().filter(|(_, node)| node.member);
        paths.extend(members.take(most.saturating_sub(paths.len())).map(|(element, _)| path(element)));
        for (element, node) in &self.nodes {
            if paths.len() >= most {
                return;
            }
            if !node.below.is_empty() {
                node.below.add_paths(&path(element), most, paths);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn set(value: &serde_json::Value) -> FieldSet {
        FieldSet::from_json(value).unwrap()
    }

    #[test]
    fn a_parent_and_its_children_are_told_apart() {
        let parent = set(&json!({"f:a": {}}));
        let child = set(&json!({"f:a": {"f:b": {}}}));
        let both = set(&json!({"f:a": {".": {}, "f:b": {}}}));
        assert_eq!(parent.union(&child), both);
        assert_eq!(both.difference(&child), parent);
        assert_eq!(both.difference(&parent), child);
        assert_eq!(parent.difference(&child), parent);
        assert_eq!(child.difference(&parent), child);
        assert_eq!(both.intersection(&child), child);
        assert!(parent.intersection(&child).is_empty() && parent.is_disjoint(&child) && !both.is_disjoint(&child));
        assert_eq!(both.len(), 2);
    }

    #[test]
    fn paths_are_those_of_kubernetes() {
        let set = set(&json!({
            "f:spec": {"f:disks": {".": {}, "k:{\"name\":\"a\"}": {".": {}, "f:size": {}}}, "f:cpus": {}},
            "f:metadata": {"f:finalizers": {"v:\"x/y\"": {}}},
        }));
        let paths = [
            r#".metadata.finalizers[="x/y"]"#,
            ".spec.cpus",
            ".spec.disks",
            r#".spec.disks[name="a"]"#,
            r#".spec.disks[name="a"].size"#,
        ];
        assert_eq!(set.paths(100), paths);
        assert_eq!(set.paths(3), paths[..3]);
    }
}
