//! Orphan: its name follows from what it is, which never changes, and nothing is done to what a live object names.

use serde_json::Value;
use ucloud_machinery::{
    meta,
    status::{FieldError, FieldPath},
    strategy::{Context, Strategy},
};
use ucloud_types::{Orphan, OrphanSpec, orphan::OrphanKind};

use super::{check_immutable, check_name, status_errors, typed};
use crate::owners;

/// The rules of Orphans.
pub struct OrphanStrategy;

impl Strategy for OrphanStrategy {
    fn validate_create(&self, ctx: &Context<'_>, object: &Value) -> Vec<FieldError> {
        match typed::<Orphan>(object) {
            Ok(orphan) => {
                let owner = is_ordered(&orphan.spec).then(|| owners::find(&orphan.spec.uid, ctx.lister)).flatten();
                let mut errors = validate(meta::text(object, "name"), &orphan.spec);
                errors.extend(check_order(&orphan.spec, owner.as_deref()));
                errors
            }
            Err(error) => vec![error],
        }
    }

    fn validate_update(&self, ctx: &Context<'_>, new: &Value, old: &Value) -> Vec<FieldError> {
        match (typed::<Orphan>(new), typed::<Orphan>(old)) {
            (Ok(new), Ok(old)) => {
                let mut errors = Vec::new();
                let (old, new) = (&old.spec, &new.spec);
                let facts = |spec: &OrphanSpec| OrphanSpec { destroy: false, adopt: None, ..spec.clone() };
                check_immutable("spec", &facts(old), &facts(new), "only destroy and adopt can be changed", &mut errors);
                if (new.destroy, &new.adopt) != (old.destroy, &old.adopt) {
                    let owner = is_ordered(new).then(|| owners::find(&new.uid, ctx.lister)).flatten();
                    errors.extend(check_order(new, owner.as_deref()));
                }
                errors
            }
            (Err(error), _) | (_, Err(error)) => vec![error],
        }
    }

    fn validate_status_update(&self, _: &Context<'_>, new: &Value, _: &Value) -> Vec<FieldError> {
        status_errors::<Orphan>(new)
    }
}

/// Whether anything is to be done to it.
fn is_ordered(spec: &OrphanSpec) -> bool {
    spec.destroy || spec.adopt.is_some()
}

fn validate(name: &str, spec: &OrphanSpec) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let mut require = |field: &str, value: &Option<String>, wanted: bool| {
        if value.is_some() != wanted {
            let rule = format!("a {} has {}", spec.kind.word(), if wanted { "one" } else { "none" });
            let value = value.clone().unwrap_or_default();
            errors.push(FieldError::invalid(FieldPath::new(field), value, &rule));
        }
    };
    require("spec.name", &spec.name, spec.kind == OrphanKind::Disk);
    require("spec.pool", &spec.pool, spec.kind != OrphanKind::Domain);
    if spec.kind == OrphanKind::Domain {
        require("spec.host", &spec.host, true);
    }
    for (field, value) in [("spec.pool", &spec.pool), ("spec.host", &spec.host)] {
        if let Some(value) = value {
            check_name(FieldPath::new(field), value, &mut errors);
        }
    }
    // it is what makes two reports of one thing one object
    let expected = spec.object_name();
    if name != expected {
        let rule = format!("the Orphan of this {} is named {expected}", spec.kind.word());
        errors.push(FieldError::invalid(FieldPath::new("metadata.name"), name, &rule));
    }
    errors
}

/// What is to be done to it must be possible, and done to nothing that `owner`, which lives, names.
fn check_order(spec: &OrphanSpec, owner: Option<&str>) -> Vec<FieldError> {
    let mut errors = Vec::new();
    let field = if spec.destroy { "spec.destroy" } else { "spec.adopt" };
    let mut invalid = |field: &str, rule: &str| {
        errors.push(FieldError::invalid(FieldPath::new(field), spec.describe(), rule));
    };
    if let Some(owner) = owner {
        invalid(field, &format!("it belongs to {owner}, which is there: delete that instead"));
    }
    if let Some(adoption) = &spec.adopt {
        if spec.destroy {
            invalid("spec.adopt", "it is to be destroyed already: set spec.destroy to false first");
        }
        if spec.kind != OrphanKind::Disk {
            invalid(
                "spec.adopt",
                "only disks can be adopted; once a domain is destroyed, its disks are orphans of their own",
            );
        }
        check_name(FieldPath::new("spec.adopt.namespace"), &adoption.namespace, &mut errors);
        check_name(FieldPath::new("spec.adopt.volume"), &adoption.volume, &mut errors);
    }
    errors
}

#[cfg(test)]
mod tests {
    use ucloud_types::orphan::Adoption;

    use super::*;

    fn spec(kind: OrphanKind) -> OrphanSpec {
        OrphanSpec {
            kind,
            uid: "0b4ae8d6".into(),
            name: (kind == OrphanKind::Disk).then(|| "root".to_owned()),
            pool: (kind != OrphanKind::Domain).then(|| "default".to_owned()),
            host: Some("h1".into()),
            destroy: false,
            adopt: None,
        }
    }

    #[test]
    fn it_is_named_after_what_it_is() {
        for kind in [OrphanKind::Domain, OrphanKind::Disk, OrphanKind::Image, OrphanKind::File] {
            let good = spec(kind);
            assert_eq!(validate(&good.object_name(), &good), [], "{kind:?}");
            assert_eq!(validate("mine", &good).len(), 1);
        }
        let fields = |spec: OrphanSpec| -> Vec<_> {
            validate(&spec.object_name(), &spec).iter().map(|error| error.field.to_string()).collect()
        };
        assert_eq!(fields(OrphanSpec { name: None, ..spec(OrphanKind::Disk) }), ["spec.name"]);
        assert_eq!(fields(OrphanSpec { host: None, ..spec(OrphanKind::Domain) }), ["spec.host"]);
        assert_eq!(fields(OrphanSpec { pool: Some("../x".into()), ..spec(OrphanKind::File) }), ["spec.pool"]);
    }

    #[test]
    fn what_is_named_or_cannot_be_done_is_refused() {
        let adopt = Some(Adoption { namespace: "default".into(), volume: "data".into() });
        let destroyed = OrphanSpec { destroy: true, ..spec(OrphanKind::Disk) };
        assert_eq!(check_order(&destroyed, None), []);
        let named = check_order(&destroyed, Some("VM default/web"));
        assert!(named[0].body().contains("it belongs to VM default/web"), "{named:?}");
        assert_eq!(check_order(&OrphanSpec { adopt: adopt.clone(), ..spec(OrphanKind::Disk) }, None), []);
        for bad in [OrphanSpec { adopt: adopt.clone(), ..destroyed }, OrphanSpec { adopt, ..spec(OrphanKind::Domain) }]
        {
            assert_eq!(check_order(&bad, None).len(), 1, "{bad:?}");
        }
    }
}
