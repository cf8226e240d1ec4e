//! Where a check of a value has come to. A path is a string that is built anew at each step, which a value without
//! errors would pay for at each of its fields; a place costs nothing until an error asks for its path.

use crate::status::FieldPath;

/// A field, by way of those that it is in.
#[derive(Clone, Copy)]
pub(super) enum Place<'a> {
    /// Where the check began.
    At(&'a FieldPath),
    Child(&'a Place<'a>, &'a str),
    Index(&'a Place<'a>, usize),
}

impl<'a> Place<'a> {
    /// The field `name` of this one.
    pub(super) fn child(&'a self, name: &'a str) -> Self {
        Self::Child(self, name)
    }

    /// The element `index` of this list.
    pub(super) fn index(&'a self, index: usize) -> Self {
        Self::Index(self, index)
    }

    /// Its path, for an error.
    pub(super) fn path(&self) -> FieldPath {
        match self {
            Self::At(path) => (*path).clone(),
            Self::Child(parent, name) => parent.path().child(name),
            Self::Index(list, index) => list.path().index(*index),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_the_path_that_was_walked() {
        let root = FieldPath::new("spec");
        let (start, disks) = (Place::At(&root), "disks");
        let list = start.child(disks);
        let disk = list.index(3);
        assert_eq!(disk.child("size").path(), root.child("disks").index(3).child("size"));
        assert_eq!(start.path(), root);
    }
}
