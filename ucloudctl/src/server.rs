//! The API server as ucloudctl uses it: objects are plain JSON, so that every kind works, known or not.

use futures::{Stream, StreamExt as _};
use http::{HeaderName, Method, Request, Response, header};
use http_body_util::BodyExt as _;
use kube::{
    Client,
    client::Body,
    core::{Status, WatchEvent},
};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;

use crate::{
    cli::Apply,
    failure,
    resource::{Catalog, Resource},
};

/// Asks for the server's own tables.
const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";

/// The API server, and the namespace in which the command works.
pub struct Server {
    client: Client,
    url: String,
    /// The namespace of objects that name none.
    pub namespace: String,
}

/// The form in which objects are asked for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// As they are.
    Object,
    /// As rows of a table.
    Table,
}

impl Server {
    pub fn new(client: Client, url: String, namespace: String) -> Self {
        Self { client, url, namespace }
    }

    /// The same server, with another namespace to work in.
    pub fn within(&self, namespace: &str) -> Self {
        Self { client: self.client.clone(), url: self.url.clone(), namespace: namespace.to_owned() }
    }

    /// What kinds the server has.
    pub async fn catalog(&self) -> anyhow::Result<Catalog> {
        Catalog::fetch(&self.client).await.map_err(|e| self.explain(e))
    }

    /// The server's version.
    pub async fn version(&self) -> anyhow::Result<Value> {
        self.send(Method::GET, "/version", None, Form::Object).await
    }

    /// One object.
    pub async fn get(&self, resource: &Resource, namespace: &str, name: &str, form: Form) -> anyhow::Result<Value> {
        self.send(Method::GET, &resource.object_path(namespace, name), None, form).await
    }

    /// One object, or nothing where there is none.
    pub async fn find(&self, resource: &Resource, namespace: &str, name: &str) -> anyhow::Result<Option<Value>> {
        match self.get(resource, namespace, name, Form::Object).await {
            Err(e) if failure::exit_code(&e) == failure::NOT_FOUND => Ok(None),
            other => other.map(Some),
        }
    }

    /// All objects of a kind that the query selects.
    pub async fn list(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        query: &Query,
        form: Form,
    ) -> anyhow::Result<Value> {
        let path = format!("{}?{}", resource.collection_path(namespace), query.encode());
        self.send(Method::GET, &path, None, form).await
    }

    /// Makes an object that is not there yet; answers the object.
    pub async fn create(&self, resource: &Resource, namespace: &str, object: &Value) -> anyhow::Result<Value> {
        let path =
            format!("{}?fieldValidation=Strict&fieldManager=ucloudctl", resource.collection_path(Some(namespace)));
        self.send(Method::POST, &path, Some(("application/json", object)), Form::Object).await
    }

    /// Makes an object, or changes it, so that it is as `wanted` says (server-side apply); answers the object.
    pub async fn apply(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        wanted: &Value,
        options: &Apply,
    ) -> anyhow::Result<Value> {
        let force = if options.force_conflicts { "&force=true" } else { "" };
        let path = format!("{}?{}{force}", resource.object_path(namespace, name), write_options(options));
        self.send(Method::PATCH, &path, Some(("application/apply-patch+yaml", wanted)), Form::Object).await
    }

    /// Changes an object by a merge patch (RFC 7396).
    pub async fn merge(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        patch: &Value,
        options: &Apply,
    ) -> anyhow::Result<Value> {
        let path = format!("{}?{}", resource.object_path(namespace, name), write_options(options));
        self.send(Method::PATCH, &path, Some(("application/merge-patch+json", patch)), Form::Object).await
    }

    /// Changes an object by a merge patch (RFC 7396) because a command says so, and no file.
    pub async fn change(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        patch: &Value,
    ) -> anyhow::Result<Value> {
        let path = format!("{}?fieldValidation=Strict&fieldManager=ucloudctl", resource.object_path(namespace, name));
        self.send(Method::PATCH, &path, Some(("application/merge-patch+json", patch)), Form::Object).await
    }

    /// Posts to a subresource.
    pub async fn post(
        &self,
        resource: &Resource,
        (namespace, name): (&str, &str),
        subresource: &str,
        body: Option<&Value>,
    ) -> anyhow::Result<Value> {
        let path = format!("{}/{subresource}", resource.object_path(namespace, name));
        let body = body.map(|body| ("application/json", body));
        self.send(Method::POST, &path, body, Form::Object).await
    }

    /// Begins to delete the object with this UID, and no successor of the same name.
    pub async fn delete(&self, resource: &Resource, namespace: &str, name: &str, uid: &str) -> anyhow::Result<()> {
        let body = serde_json::json!({ "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": { "uid": uid } });
        let path = resource.object_path(namespace, name);
        self.send(Method::DELETE, &path, Some(("application/json", &body)), Form::Object).await.map(|_| ())
    }

    /// What happens to the objects that the query selects, from the resource version `after` on. Ends without
    /// an error when the server closes the watch.
    pub async fn watch(
        &self,
        resource: &Resource,
        namespace: Option<&str>,
        query: &Query,
        after: &str,
        form: Form,
    ) -> anyhow::Result<impl Stream<Item = anyhow::Result<Change>> + use<>> {
        let path = format!(
            "{}?watch=true&allowWatchBookmarks=true&resourceVersion={after}&{}",
            resource.collection_path(namespace),
            query.encode()
        );
        let request = Self::request(Method::GET, &path, None, form)?;
        let url = self.url.clone();
        let events = self.client.request_events::<Value>(request).await.map_err(|e| self.explain(e))?;
        Ok(events.map(move |event| match event {
            Ok(WatchEvent::Added(object) | WatchEvent::Modified(object)) => Ok(Change::Present(object)),
            Ok(WatchEvent::Deleted(object)) => Ok(Change::Gone(object)),
            Ok(WatchEvent::Bookmark(bookmark)) => Ok(Change::Until(bookmark.metadata.resource_version)),
            Ok(WatchEvent::Error(status)) => Err(failure::from_kube(kube::Error::Api(status), &url)),
            Err(e) => Err(failure::from_kube(e, &url)),
        }))
    }

    /// Sends a body and answers what comes back, whose body may be long, too. A refusal is an error.
    pub async fn exchange(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, &str)],
        body: Body,
    ) -> anyhow::Result<Response<Body>> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let answer = self.client.send(request.body(body)?).await.map_err(|e| self.explain(e))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let code = answer.status();
        let body = answer.into_body().collect().await.map_err(|e| self.explain(e))?.to_bytes();
        let status = serde_json::from_slice::<Status>(&body)
            .unwrap_or_else(|_| Status::failure(&format!("the server answers {code}"), "").with_code(code.as_u16()));
        Err(self.explain(kube::Error::Api(status.boxed())))
    }

    fn explain(&self, error: kube::Error) -> anyhow::Error {
        failure::from_kube(error, &self.url)
    }

    fn request(
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        form: Form,
    ) -> anyhow::Result<Request<Vec<u8>>> {
        let accept = match form {
            Form::Object => "application/json",
            Form::Table => TABLE,
        };
        let mut request = Request::builder().method(method).uri(path).header(header::ACCEPT, accept);
        let mut bytes = Vec::new();
        if let Some((content_type, body)) = body {
            request = request.header(header::CONTENT_TYPE, content_type);
            bytes = serde_json::to_vec(body)?;
        }
        Ok(request.body(bytes)?)
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Option<(&str, &Value)>,
        form: Form,
    ) -> anyhow::Result<Value> {
        let request = Self::request(method, path, body, form)?;
        self.client.request(request).await.map_err(|e| self.explain(e))
    }
}

/// What a watch tells.
pub enum Change {
    /// The object is there, and is so.
    Present(Value),
    /// The object is gone; this is what it last was.
    Gone(Value),
    /// All that happened up to this resource version was told.
    Until(String),
}

/// Which objects of a collection are meant.
#[derive(Clone, Debug, Default)]
pub struct Query {
    /// A label selector.
    pub labels: Option<String>,
    /// A field selector.
    pub fields: Option<String>,
}

impl Query {
    /// The one object with this name.
    pub fn named(name: &str) -> Self {
        Self { labels: None, fields: Some(format!("metadata.name={name}")) }
    }

    fn encode(&self) -> String {
        let mut parts = Vec::new();
        for (key, value) in [("labelSelector", &self.labels), ("fieldSelector", &self.fields)] {
            if let Some(value) = value {
                parts.push(format!("{key}={}", percent_encode(value)));
            }
        }
        parts.join("&")
    }
}

/// Unknown fields are errors: what a user writes is meant.
fn write_options(options: &Apply) -> String {
    let dry_run = if options.dry_run { "&dryRun=All" } else { "" };
    format!("fieldValidation=Strict&fieldManager={}{dry_run}", percent_encode(&options.field_manager))
}

/// Percent-encodes what may stand in a path's segment or a query's value.
pub fn percent_encode(text: &str) -> String {
    utf8_percent_encode(text, SET).to_string()
}

/// All but the unreserved characters (RFC 3986).
const SET: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_survive_the_query_string() {
        let query = Query { labels: Some("a in (b,c)".into()), fields: Some("metadata.name=x&y".into()) };
        assert_eq!(query.encode(), "labelSelector=a%20in%20%28b%2Cc%29&fieldSelector=metadata.name%3Dx%26y");
    }
}
