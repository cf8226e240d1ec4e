//! An administrator's connection: requests as they are sent, answers as they come.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use futures::{AsyncBufReadExt as _, StreamExt as _, TryStreamExt as _, stream::BoxStream};
use http::{
    HeaderMap, Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};
use tokio::time::timeout;
use ucloud_e2e::ControlPlane;

/// What is waited for comes within this time.
pub const PATIENCE: Duration = Duration::from_mins(1);

pub const JSON: &str = "application/json";
pub const MERGE_PATCH: &str = "application/merge-patch+json";

/// A connection, and a namespace for one test.
pub struct Wire {
    client: Client,
    pub namespace: String,
}

/// An answer.
#[derive(Debug)]
pub struct Answer {
    pub code: u16,
    pub headers: HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The body, if it succeeded.
    pub fn ok(self) -> anyhow::Result<Value> {
        ensure!((200..300).contains(&self.code), "{} {}", self.code, self.body);
        Ok(self.body)
    }

    /// It failed with this code, and its message holds all of this.
    pub fn failed(self, code: u16, said: &[&str]) -> anyhow::Result<()> {
        ensure!(self.code == code, "{} and not {code}: {}", self.code, self.body);
        let message = self.body["message"].as_str().unwrap_or_default();
        for word in said {
            ensure!(message.contains(word), "{word:?} is not in: {message}");
        }
        Ok(())
    }
}

impl Wire {
    /// Connects, and makes the namespace.
    pub async fn new(plane: &ControlPlane, namespace: &str) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read_from(plane.kubeconfig())?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        // a test sees the first answer
        config.default_retry = false;
        let this = Self { client: Client::try_from(config)?, namespace: namespace.to_owned() };
        this.post("/api/v1/namespaces", &json!({"metadata": {"name": namespace}})).await?.ok()?;
        Ok(this)
    }

    /// The path of a kind in the test's namespace, such as of `/apis/coordination.k8s.io/v1` and `leases`.
    pub fn path(&self, version: &str, resource: &str) -> String {
        format!("{version}/namespaces/{}/{resource}", self.namespace)
    }

    pub async fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> anyhow::Result<Answer> {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::from(body.as_bytes().to_vec()))?;
        let response = timeout(PATIENCE, self.client.send(request)).await.context("no answer")??;
        let (head, body) = response.into_parts();
        let body = timeout(PATIENCE, body.collect_bytes()).await.context("no whole answer")??;
        let body = serde_json::from_slice(&body)
            .unwrap_or_else(|_| Value::String(String::from_utf8_lossy(&body).into_owned()));
        Ok(Answer { code: head.status.as_u16(), headers: head.headers, body })
    }

    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        self.get_as(path, JSON).await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> anyhow::Result<Answer> {
        self.send("GET", path, &[(ACCEPT.as_str(), accept)], "").await
    }

    pub async fn post(&self, path: &str, object: &Value) -> anyhow::Result<Answer> {
        self.send("POST", path, &[(CONTENT_TYPE.as_str(), JSON)], &object.to_string()).await
    }

    pub async fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Answer> {
        self.send("PATCH", path, &[(CONTENT_TYPE.as_str(), MERGE_PATCH)], &patch.to_string()).await
    }

    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        self.send("DELETE", path, &[], "").await
    }

    /// Begins to watch; `query` may be empty.
    pub async fn watch(&self, path: &str, query: &str) -> anyhow::Result<Watch> {
        let request = Request::get(format!("{path}?watch=true&{query}")).body(Vec::new())?;
        let stream = timeout(PATIENCE, self.client.request_stream(request)).await.context("no answer")??;
        Ok(Watch(stream.lines().boxed()))
    }
}

/// A watch.
pub struct Watch(BoxStream<'static, std::io::Result<String>>);

/// An event: its type and the object.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    pub change: String,
    pub object: Value,
}

impl Event {
    pub fn name(&self) -> &str {
        self.object["metadata"]["name"].as_str().unwrap_or_default()
    }

    pub fn version(&self) -> &str {
        version(&self.object)
    }
}

/// An object's resourceVersion.
pub fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap_or_default()
}

impl Watch {
    /// The next event.
    pub async fn next(&mut self) -> anyhow::Result<Event> {
        let line = timeout(PATIENCE, self.0.try_next()).await.context("no event came")??.context("the watch ended")?;
        let event: Value = serde_json::from_str(&line).context("an event is no JSON")?;
        Ok(Event { change: event["type"].as_str().unwrap_or_default().to_owned(), object: event["object"].clone() })
    }

    /// The next event is this.
    pub async fn sees(&mut self, change: &str, name: &str) -> anyhow::Result<Event> {
        let event = self.next().await?;
        ensure!((event.change.as_str(), event.name()) == (change, name), "{event:?} and not {change} {name}");
        Ok(event)
    }
}
