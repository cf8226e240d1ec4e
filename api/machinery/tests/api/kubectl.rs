//! The real kubectl against the server. Skipped nowhere: without kubectl these tests fail and say what to install.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use crate::support::{Harness, PATIENCE, eventually};

const MANIFEST: &str = "apiVersion: test.example.com/v1
kind: Widget
metadata:
  name: web
spec:
  color: red
  parts:
  - size: 1
";

struct Kubectl {
    harness: Harness,
    kubeconfig: PathBuf,
}

struct Output {
    success: bool,
    stdout: String,
    stderr: String,
}

impl Kubectl {
    async fn start() -> Self {
        let harness = Harness::start().await;
        let kubeconfig = harness.dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, harness.kubeconfig("admin")).unwrap();
        Self { harness, kubeconfig }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("kubectl");
        command.args(args).env("KUBECONFIG", &self.kubeconfig).env("HOME", self.harness.dir.path());
        command.stdin(Stdio::null()).kill_on_drop(true);
        command
    }

    async fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output();
        let output = tokio::time::timeout(PATIENCE, output).await.unwrap_or_else(|_| panic!("{args:?} hangs"));
        let output = output.expect("kubectl must be installed: see kubernetes.io/docs/tasks/tools");
        Output {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// What a command prints; it must succeed.
    async fn ok(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(output.success, "kubectl {args:?}: {}{}", output.stdout, output.stderr);
        output.stdout
    }

    /// What a command complains of; it must fail.
    async fn fails(&self, args: &[&str]) -> String {
        let output = self.run(args).await;
        assert!(!output.success, "kubectl {args:?} succeeded: {}", output.stdout);
        output.stderr
    }

    fn file(&self, name: &str, text: &str) -> String {
        let path = self.harness.dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn apply_get_describe_delete() {
    let kubectl = Kubectl::start().await;
    let file = kubectl.file("web.yaml", MANIFEST);
    assert_eq!(kubectl.ok(&["apply", "-f", &file]).await, "widget.test.example.com/web created\n");
    assert_eq!(kubectl.ok(&["apply", "-f", &file]).await, "widget.test.example.com/web unchanged\n");
    let file = kubectl.file("web.yaml", &MANIFEST.replace("size: 1", "size: 2"));
    assert_eq!(kubectl.ok(&["apply", "-f", &file]).await, "widget.test.example.com/web configured\n");

    let table = kubectl.ok(&["get", "wd"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "COLOR", "READY", "AGE"]);
    assert_eq!(lines[1][..2], ["web", "red"]);
    assert!(kubectl.ok(&["get", "widgets", "-o", "wide"]).await.contains("HOST"));
    assert!(kubectl.ok(&["get", "toys"]).await.contains("web"));
    assert!(kubectl.ok(&["get", "widgets", "-A"]).await.contains("default"));
    assert_eq!(kubectl.ok(&["get", "widget", "web", "-o", "jsonpath={.spec.parts[0].size}"]).await, "2");
    assert!(kubectl.ok(&["get", "widgets", "--chunk-size=2", "-o", "yaml"]).await.contains("color: red"));
    assert_eq!(
        kubectl.ok(&["get", "widgets", "--field-selector", "spec.color=red", "-o", "name"]).await,
        "widget.test.example.com/web\n"
    );

    let described = kubectl.ok(&["describe", "widget", "web"]).await;
    assert!(described.contains("Color:  red") && described.contains("Events:"), "{described}");
    assert!(kubectl.ok(&["explain", "widget.spec"]).await.contains("The colour that it has."));
    assert!(kubectl.ok(&["diff", "-f", &file]).await.is_empty());

    assert_eq!(kubectl.ok(&["delete", "-f", &file]).await, "widget.test.example.com \"web\" deleted\n");
    assert!(kubectl.fails(&["get", "widget", "web"]).await.contains(r#"widgets.test.example.com "web" not found"#));
}

#[tokio::test]
async fn server_side_apply() {
    let kubectl = Kubectl::start().await;
    let file = kubectl.file("web.yaml", MANIFEST);
    let ssa = ["apply", "--server-side", "-f", &file];
    let applied = "widget.test.example.com/web serverside-applied\n";
    assert_eq!(kubectl.ok(&ssa).await, applied);
    let version = ["get", "wd", "web", "-o", "jsonpath={.metadata.resourceVersion}"];
    let before = kubectl.ok(&version).await;
    assert_eq!(kubectl.ok(&ssa).await, applied);
    assert_eq!(kubectl.ok(&version).await, before);
    assert!(kubectl.ok(&["diff", "--server-side", "-f", &file]).await.is_empty());

    // another took a field: a conflict, unless it is forced
    kubectl.ok(&["patch", "wd", "web", "--type=merge", "-p", r#"{"spec":{"parts":[{"size":9}]}}"#]).await;
    let complaint = kubectl.fails(&ssa).await;
    assert!(
        complaint.contains(r#"conflict with "kubectl-patch" using test.example.com/v1: .spec.parts"#),
        "{complaint}"
    );
    let changed = kubectl.run(&["diff", "--server-side", "--force-conflicts", "-f", &file]).await;
    assert!(!changed.success && changed.stdout.contains("size: 9"), "{}{}", changed.stdout, changed.stderr);
    kubectl.ok(&["apply", "--server-side", "--force-conflicts", "-f", &file]).await;
    assert_eq!(kubectl.ok(&["get", "wd", "web", "-o", "jsonpath={.spec.parts[0].size}"]).await, "1");
    let owners = kubectl.ok(&["get", "wd", "web", "--show-managed-fields", "-o", "yaml"]).await;
    assert!(owners.contains("operation: Apply") && !owners.contains("kubectl-patch"), "{owners}");
}

#[tokio::test]
async fn from_client_side_to_server_side_apply_and_back() {
    let kubectl = Kubectl::start().await;
    let labelled = MANIFEST.replace("  name: web\n", "  name: web\n  labels: {tier: x}\n");
    let file = kubectl.file("web.yaml", &labelled);
    kubectl.ok(&["apply", "-f", &file]).await;
    // what was applied by the client's own means is taken over without a conflict, changed or not
    let changed = kubectl.file("changed.yaml", &MANIFEST.replace("size: 1", "size: 2"));
    kubectl.ok(&["apply", "--server-side", "-f", &changed]).await;
    let managers = ["get", "wd", "web", "--show-managed-fields", "-o", "jsonpath={.metadata.managedFields[*].manager}"];
    assert!(!kubectl.ok(&managers).await.contains("client-side"));
    let seen = ["get", "wd", "web", "-o", "jsonpath={.spec.parts[0].size} {.metadata.labels}"];
    assert_eq!(kubectl.ok(&seen).await, "2 ");
    // and back: the annotation says what the server was told last
    let again = kubectl.file("again.yaml", &MANIFEST.replace("  parts:\n  - size: 1\n", ""));
    assert!(kubectl.ok(&["apply", "-f", &again]).await.contains("configured"));
    assert_eq!(kubectl.ok(&seen).await, " ");
}

#[tokio::test]
async fn the_server_validates_what_is_applied() {
    let kubectl = Kubectl::start().await;
    let file = kubectl.file("bad.yaml", &MANIFEST.replace("color", "colour"));
    let complaint = kubectl.fails(&["apply", "-f", &file]).await;
    assert!(complaint.contains(r#"strict decoding error: unknown field "spec.colour""#), "{complaint}");
    let file = kubectl.file("bad.yaml", &MANIFEST.replace("size: 1", "size: x"));
    let complaint = kubectl.fails(&["apply", "-f", &file]).await;
    assert!(complaint.contains("spec.parts[0].size"), "{complaint}");
    let file = kubectl.file("good.yaml", MANIFEST);
    assert!(kubectl.ok(&["apply", "--dry-run=server", "-f", &file]).await.contains("created (server dry run)"));
    kubectl.fails(&["get", "widget", "web"]).await;
}

#[tokio::test]
async fn label_annotate_patch_edit_replace() {
    let kubectl = Kubectl::start().await;
    let file = kubectl.file("web.yaml", MANIFEST);
    kubectl.ok(&["create", "-f", &file]).await;
    assert!(kubectl.fails(&["create", "-f", &file]).await.contains("AlreadyExists"));
    kubectl.ok(&["label", "widget", "web", "tier=x"]).await;
    kubectl.ok(&["annotate", "widget", "web", "note=hello"]).await;
    assert_eq!(kubectl.ok(&["get", "wd", "-l", "tier=x", "-o", "name"]).await, "widget.test.example.com/web\n");
    kubectl.ok(&["patch", "wd", "web", "--type=merge", "-p", r#"{"spec":{"count":3}}"#]).await;
    kubectl
        .ok(&["patch", "wd", "web", "--type=json", "-p", r#"[{"op":"replace","path":"/spec/count","value":4}]"#])
        .await;
    kubectl
        .ok(&["patch", "wd", "web", "--subresource=status", "--type=merge", "-p", r#"{"status":{"host":"h1"}}"#])
        .await;
    let seen = kubectl
        .ok(&["get", "wd", "web", "-o", "jsonpath={.spec.count} {.status.host} {.metadata.annotations.note}"])
        .await;
    assert_eq!(seen, "4 h1 hello");

    let editor = kubectl.file("editor.sh", "#!/bin/sh\nsed -i 's/count: 4/count: 5/' \"$1\"\n");
    let output = kubectl.command(&["edit", "wd", "web"]).env("EDITOR", format!("sh {editor}")).output();
    let output = tokio::time::timeout(PATIENCE, output).await.expect("edit ends").unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    assert_eq!(kubectl.ok(&["get", "wd", "web", "-o", "jsonpath={.spec.count}"]).await, "5");

    let replaced = kubectl.ok(&["get", "wd", "web", "-o", "yaml"]).await.replace("count: 5", "count: 6");
    let file = kubectl.file("replaced.yaml", &replaced);
    kubectl.ok(&["replace", "-f", &file]).await;
    assert!(kubectl.fails(&["replace", "-f", &file]).await.contains("the object has been modified"));
    kubectl.ok(&["delete", "widgets", "--all"]).await;
    assert_eq!(kubectl.ok(&["get", "widgets", "-o", "name"]).await, "");
}

#[tokio::test]
async fn get_watches() {
    let kubectl = Kubectl::start().await;
    let mut child = kubectl.command(&["get", "wd", "-w"]).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut line = async || {
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("a line in time");
        line.unwrap().expect("another line").split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let file = kubectl.file("web.yaml", MANIFEST);
    kubectl.ok(&["create", "-f", &file]).await;
    assert_eq!(line().await, ["NAME", "COLOR", "READY", "AGE"]);
    assert_eq!(line().await[..2], ["web", "red"]);
    let ready = r#"{"status":{"conditions":[{"type":"Ready","status":"True"}]}}"#;
    kubectl.ok(&["patch", "wd", "web", "--subresource=status", "--type=merge", "-p", ready]).await;
    assert_eq!(line().await[..3], ["web", "red", "True"]);
    kubectl.ok(&["wait", "--for=condition=Ready", "wd/web", "--timeout=15s"]).await;
    child.kill().await.unwrap();
}

#[tokio::test]
async fn delete_waits_for_finalizers() {
    let kubectl = Kubectl::start().await;
    let file = kubectl
        .file("web.yaml", &MANIFEST.replace("  name: web\n", "  name: web\n  finalizers: [test.example.com/hold]\n"));
    kubectl.ok(&["create", "-f", &file]).await;
    let mut waiting = kubectl.command(&["delete", "wd", "web"]).stdout(Stdio::piped()).spawn().unwrap();
    eventually("the deletion has begun", async || {
        !kubectl.ok(&["get", "wd", "web", "-o", "jsonpath={.metadata.deletionTimestamp}"]).await.is_empty()
    })
    .await;
    assert!(waiting.try_wait().unwrap().is_none(), "kubectl waits");
    kubectl.ok(&["patch", "wd", "web", "--type=merge", "-p", r#"{"metadata":{"finalizers":null}}"#]).await;
    let status = tokio::time::timeout(PATIENCE, waiting.wait()).await.expect("kubectl sees the end").unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn standard_kinds_and_discovery() {
    let kubectl = Kubectl::start().await;
    kubectl.ok(&["create", "namespace", "team"]).await;
    let table = kubectl.ok(&["get", "ns"]).await;
    assert!(table.lines().any(|line| line.starts_with("team") && line.contains("Active")), "{table}");
    kubectl.ok(&["label", "ns", "team", "x=y"]).await;
    let resources = kubectl.ok(&["api-resources"]).await;
    for expected in ["widgets", "namespaces", "events", "leases"] {
        assert!(resources.contains(expected), "{resources}");
    }
    assert!(kubectl.ok(&["version"]).await.contains("v1.33.0+test-1.0"));
    let event = "apiVersion: v1
kind: Event
metadata: {name: e, namespace: default}
involvedObject: {kind: Widget, name: web, namespace: default, apiVersion: test.example.com/v1}
reason: Started
message: it runs
type: Normal
lastTimestamp: 2026-01-01T00:00:00Z
";
    let file = kubectl.file("event.yaml", event);
    kubectl.ok(&["create", "-f", &file]).await;
    let events = kubectl.ok(&["get", "events"]).await;
    assert!(events.contains("LAST SEEN") && events.contains("widget/web"), "{events}");
    assert!(kubectl.ok(&["events", "--for", "Widget/web"]).await.contains("it runs"));
    let file = kubectl.file("web.yaml", MANIFEST);
    kubectl.ok(&["create", "-f", &file]).await;
    assert!(kubectl.ok(&["get", "--raw", "/readyz?verbose"]).await.contains("[+]storage ok"));
}

#[tokio::test]
async fn kinds_at_run_time() {
    let kubectl = Kubectl::start().await;
    let file = kubectl.file("crd.json", &crate::custom_kinds::gadgets().to_string());
    kubectl.ok(&["apply", "-f", &file]).await;
    kubectl.ok(&["wait", "--for=condition=Established", "crd/gadgets.shop.example.com", "--timeout=15s"]).await;
    let table = kubectl.ok(&["get", "crd"]).await;
    assert!(table.starts_with("NAME") && table.contains("CREATED AT") && table.contains("gadgets.shop"), "{table}");
    assert!(kubectl.ok(&["apply", "-f", &file]).await.contains("unchanged"));
    let object = "apiVersion: shop.example.com/v1\nkind: Gadget\nmetadata: {name: a}\nspec: {color: red}\n";
    let file = kubectl.file("gadget.yaml", object);
    kubectl.ok(&["apply", "-f", &file]).await;
    assert!(kubectl.ok(&["get", "gd"]).await.contains("red"));
    assert!(kubectl.ok(&["get", "wares", "-o", "wide"]).await.contains("SEEN"));
    assert!(kubectl.ok(&["explain", "gadget.spec.color"]).await.contains("Its colour."));
    assert!(kubectl.ok(&["scale", "gadget/a", "--replicas=3"]).await.contains("scaled"));
    assert_eq!(kubectl.ok(&["get", "gadget", "a", "-o", "jsonpath={.spec.replicas}"]).await, "3");
    assert!(
        kubectl
            .fails(&["scale", "gadget/a", "--replicas=4", "--current-replicas=9"])
            .await
            .contains("Expected replicas")
    );
    assert!(kubectl.ok(&["describe", "crd", "gadgets.shop.example.com"]).await.contains("NoConflicts"));
    kubectl.ok(&["delete", "crd", "gadgets.shop.example.com", "--timeout=15s"]).await;
    // kubectl remembers that there was such a kind, so it asks
    assert!(kubectl.fails(&["get", "gadgets"]).await.contains("could not find the requested resource"));
}

#[tokio::test]
async fn lists_in_chunks_and_schemas() {
    let kubectl = Kubectl::start().await;
    let names = ["a", "b", "c", "d", "e"];
    for name in names {
        let file = kubectl.file("widget.yaml", &MANIFEST.replace("name: web", &format!("name: {name}")));
        kubectl.ok(&["create", "--validate=true", "-f", &file]).await;
    }
    let listed = kubectl.ok(&["get", "widgets", "--chunk-size=2", "-o", "name"]).await;
    assert_eq!(listed.lines().collect::<Vec<_>>(), names.map(|name| format!("widget.test.example.com/{name}")));
    assert_eq!(kubectl.ok(&["get", "widgets", "--chunk-size=2"]).await.lines().count(), 1 + names.len());

    let explained = kubectl.ok(&["explain", "widget.spec.parts", "--recursive"]).await;
    assert!(explained.contains("Its parts.") && explained.contains("size"), "{explained}");
    let old = kubectl.ok(&["explain", "widget.spec", "--output=plaintext-openapiv2"]).await;
    assert!(old.contains("The colour that it has.") && old.contains("-required-"), "{old}");
    let categories = kubectl.ok(&["api-resources", "--categories=toys", "-o", "name"]).await;
    assert_eq!(categories, "widgets.test.example.com\n");
}

#[tokio::test]
async fn secrets_config_maps_quotas_and_reviews() {
    let kubectl = Kubectl::start().await;
    kubectl.ok(&["create", "secret", "generic", "s", "--from-literal=password=x", "--from-literal=user=y"]).await;
    kubectl.ok(&["create", "configmap", "c", "--from-literal=a=b"]).await;
    kubectl.ok(&["create", "quota", "q", "--hard=pods=5,count/widgets.test.example.com=3"]).await;
    assert_eq!(kubectl.ok(&["get", "secret", "s", "-o", "jsonpath={.data.password} {.type}"]).await, "eA== Opaque");
    assert_eq!(kubectl.ok(&["get", "cm", "c", "-o", "jsonpath={.data.a}"]).await, "b");
    let hard =
        kubectl.ok(&["get", "quota", "q", "-o", r"jsonpath={.spec.hard.count/widgets\.test\.example\.com}"]).await;
    assert_eq!(hard, "3");
    let table = kubectl.ok(&["get", "secrets"]).await;
    let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(lines[0], ["NAME", "TYPE", "DATA", "AGE"]);
    assert_eq!(lines[1][..3], ["s", "Opaque", "2"]);
    let described = kubectl.ok(&["describe", "secret", "s"]).await;
    assert!(described.contains("password:") && !described.contains("eA=="), "{described}");
    assert!(kubectl.ok(&["describe", "quota", "q"]).await.contains("Resource"));
    let map = "apiVersion: v1
kind: ConfigMap
metadata: {name: applied}
data: {a: b, c: d}
";
    let file = kubectl.file("map.yaml", map);
    assert_eq!(kubectl.ok(&["apply", "-f", &file]).await, "configmap/applied created\n");
    let file = kubectl.file("map.yaml", &map.replace(", c: d", ""));
    assert_eq!(kubectl.ok(&["apply", "-f", &file]).await, "configmap/applied configured\n");
    assert_eq!(kubectl.ok(&["get", "cm", "applied", "-o", "jsonpath={.data}"]).await, r#"{"a":"b"}"#);

    assert_eq!(kubectl.ok(&["auth", "can-i", "create", "widgets"]).await, "yes\n");
    assert_eq!(kubectl.ok(&["auth", "can-i", "get", "/metrics"]).await, "yes\n");
    kubectl.run(&["auth", "can-i", "--list"]).await;
    let me = kubectl.ok(&["auth", "whoami"]).await;
    assert!(me.contains("admin") && me.contains("masters"), "{me}");

    for (cascade, finalizer) in [("foreground", "foregroundDeletion"), ("orphan", "orphan")] {
        let name = format!("by-{cascade}");
        kubectl.ok(&["create", "configmap", &name]).await;
        kubectl.ok(&["delete", "cm", &name, &format!("--cascade={cascade}"), "--wait=false"]).await;
        let held = kubectl.ok(&["get", "cm", &name, "-o", "jsonpath={.metadata.finalizers[0]}"]).await;
        assert_eq!(held, finalizer);
        kubectl.ok(&["delete", "cm", &name, "--cascade=background"]).await;
    }
}
