//! What a request's method and path ask for (Kubernetes' `RequestInfo`).

use http::Method;
use percent_encoding::percent_decode_str;

/// A path below `/api/v1` or `/apis/GROUP/VERSION` that names a resource. Texts are empty where the path has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ResourcePath {
    pub(crate) group: String,
    pub(crate) version: String,
    pub(crate) namespace: String,
    pub(crate) resource: String,
    pub(crate) name: String,
    pub(crate) subresource: String,
    /// It is the old form of a watch, `.../watch/...`, which may name a single object.
    pub(crate) watch: bool,
}

/// Reads a path; `None` if it is not one of a resource.
pub(crate) fn parse(path: &str) -> Option<ResourcePath> {
    let mut segments = Vec::new();
    for segment in path.strip_prefix('/')?.trim_end_matches('/').split('/') {
        segments.push(percent_decode_str(segment).decode_utf8().ok()?.into_owned());
    }
    let mut rest = segments.into_iter();
    let mut parsed = match rest.next()?.as_str() {
        "api" => ResourcePath { version: rest.next()?, ..ResourcePath::default() },
        "apis" => ResourcePath { group: rest.next()?, version: rest.next()?, ..ResourcePath::default() },
        _ => return None,
    };
    let mut rest: Vec<String> = rest.collect();
    if rest.first().is_some_and(|first| first == "watch") && rest.len() > 1 {
        parsed.watch = true;
        rest.remove(0);
    }
    // below a namespace stand its resources, except for the subresources of the namespace itself
    if rest.first().is_some_and(|first| first == "namespaces")
        && rest.get(2).is_some_and(|third| !matches!(third.as_str(), "status" | "finalize"))
    {
        parsed.namespace = rest.remove(1);
        rest.remove(0);
        if parsed.namespace.is_empty() {
            return None;
        }
    }
    let mut rest = rest.into_iter();
    parsed.resource = rest.next().filter(|resource| !resource.is_empty())?;
    parsed.name = rest.next().unwrap_or_default();
    parsed.subresource = rest.next().unwrap_or_default();
    rest.next().is_none().then_some(parsed)
}

/// What is to be done to a resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    DeleteCollection,
}

impl Verb {
    /// The verb of a request; `None` if the method has no meaning here.
    pub(crate) fn of(method: &Method, path: &ResourcePath, watch: bool) -> Option<Self> {
        let named = !path.name.is_empty();
        if path.watch {
            let reads = matches!(*method, Method::GET | Method::HEAD) && path.subresource.is_empty();
            return reads.then_some(Self::Watch);
        }
        Some(match method.as_str() {
            "GET" | "HEAD" if named => Self::Get,
            "GET" | "HEAD" if watch => Self::Watch,
            "GET" | "HEAD" => Self::List,
            "POST" if !named || !path.subresource.is_empty() => Self::Create,
            "PUT" if named => Self::Update,
            "PATCH" if named => Self::Patch,
            "DELETE" if named => Self::Delete,
            "DELETE" => Self::DeleteCollection,
            _ => return None,
        })
    }

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::List => "list",
            Self::Watch => "watch",
            Self::Create => "create",
            Self::Update => "update",
            Self::Patch => "patch",
            Self::Delete => "delete",
            Self::DeleteCollection => "deletecollection",
        }
    }

    /// Whether it changes anything.
    pub(crate) fn is_write(self) -> bool {
        !matches!(self, Self::Get | Self::List | Self::Watch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(path: &str) -> Option<[String; 6]> {
        parse(path).map(|p| [p.group, p.version, p.namespace, p.resource, p.name, p.subresource])
    }

    #[test]
    fn paths() {
        for (path, expected) in [
            ("/api/v1/namespaces", ["", "v1", "", "namespaces", "", ""]),
            ("/api/v1/namespaces/a", ["", "v1", "", "namespaces", "a", ""]),
            ("/api/v1/namespaces/a/status", ["", "v1", "", "namespaces", "a", "status"]),
            ("/api/v1/namespaces/a/finalize", ["", "v1", "", "namespaces", "a", "finalize"]),
            ("/api/v1/namespaces/a/events", ["", "v1", "a", "events", "", ""]),
            ("/api/v1/events", ["", "v1", "", "events", "", ""]),
            ("/apis/g/v2/namespaces/a/vms/x/binding", ["g", "v2", "a", "vms", "x", "binding"]),
            ("/apis/g/v2/hosts/x%3Ay", ["g", "v2", "", "hosts", "x:y", ""]),
        ] {
            assert_eq!(parts(path), Some(expected.map(str::to_owned)), "{path}");
        }
        for (path, watch) in [("/api/v1/watch/events", true), ("/api/v1/watch", false), ("/api/v1/events", false)] {
            assert_eq!(parse(path).unwrap().watch, watch, "{path}");
        }
        let single = parse("/apis/g/v2/watch/namespaces/a/vms/x").unwrap();
        assert_eq!((single.namespace.as_str(), single.name.as_str(), single.watch), ("a", "x", true));
        for none in ["/", "/api", "/api/v1", "/apis/g", "/apis/g/v1", "/healthz", "/api/v1/a/b/c/d", "/api/v1/%ff"] {
            assert_eq!(parts(none), None, "{none}");
        }
    }

    #[test]
    fn an_escaped_slash_stays_in_its_segment() {
        let path = parse("/api/v1/namespaces/a/events/..%2f..%2fx").unwrap();
        assert_eq!(path.name, "../../x");
    }

    #[test]
    fn verbs() {
        let collection = parse("/apis/g/v1/vms").unwrap();
        let named = parse("/apis/g/v1/namespaces/a/vms/x").unwrap();
        let subresource = parse("/apis/g/v1/namespaces/a/vms/x/start").unwrap();
        assert_eq!(Verb::of(&Method::GET, &collection, true), Some(Verb::Watch));
        assert_eq!(Verb::of(&Method::GET, &named, true), Some(Verb::Get));
        assert_eq!(Verb::of(&Method::POST, &named, false), None);
        let old = parse("/apis/g/v1/watch/namespaces/a/vms/x").unwrap();
        assert_eq!(Verb::of(&Method::GET, &old, false), Some(Verb::Watch));
        assert_eq!(Verb::of(&Method::DELETE, &old, false), None);
        assert_eq!(Verb::of(&Method::POST, &subresource, false), Some(Verb::Create));
        assert_eq!(Verb::of(&Method::DELETE, &collection, false), Some(Verb::DeleteCollection));
        assert_eq!(Verb::of(&Method::OPTIONS, &collection, false), None);
    }
}
