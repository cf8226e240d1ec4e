//! What is in our tables, as nft lists it.

use serde_json::Value;

use crate::{
    nft::{self, NftError},
    render::{FAMILIES, TABLE},
};

/// What is in our tables, without what changes by itself: handles, and what sets remember of connections.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Present {
    objects: Vec<Value>,
}

impl Present {
    /// Reads the tables.
    pub async fn read() -> Result<Self, NftError> {
        let mut objects = Vec::new();
        for family in FAMILIES {
            if let Some(mut listing) = nft::list(family, TABLE).await? {
                let Some(Value::Array(list)) = listing.get_mut("nftables").map(Value::take) else { continue };
                objects.extend(list.into_iter().filter(|object| object.get("metainfo").is_none()).map(stable));
            }
        }
        Ok(Self { objects })
    }

    /// The names of the objects of this kind (`chain`, `set`) in the bridge table.
    pub fn names<'a>(&'a self, kind: &'static str) -> impl Iterator<Item = &'a str> {
        let objects = self.objects.iter().filter_map(move |object| object.get(kind));
        objects.filter(|object| object["family"] == "bridge").filter_map(|object| object["name"].as_str())
    }
}

fn stable(mut object: Value) -> Value {
    if let Some(fields) = object.as_object_mut() {
        for field in fields.values_mut().filter_map(Value::as_object_mut) {
            field.remove("handle");
            if field.get("flags").is_some_and(|flags| flags.to_string().contains("timeout")) {
                field.remove("elem");
            }
        }
    }
    object
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_changes_by_itself_is_left_out() {
        let flows = |handle: u32, element: &str| json!({"set": {"family": "bridge", "name": "begun-a", "handle": handle, "flags": ["timeout"], "elem": [element]}});
        assert_eq!(stable(flows(1, "a")), stable(flows(2, "b")));
        let group =
            |element: &str| json!({"set": {"family": "bridge", "name": "group-a", "handle": 1, "elem": [element]}});
        assert_ne!(stable(group("a")), stable(group("b")));
    }
}
