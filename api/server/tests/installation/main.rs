//! The program as an operator runs it: certificates from `pki`, a real etcd, the server, and kubectl.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

mod processes;

use std::{fs, process::Command};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use processes::{Child, free_port, installed, output, until};

/// A folder with certificates, and the ports that they are for.
struct Installation {
    folder: tempfile::TempDir,
    api: u16,
    etcd: u16,
}

impl Installation {
    fn new() -> Self {
        let this = Self { folder: tempfile::tempdir().unwrap(), api: free_port(), etcd: free_port() };
        let out = output(this.pki("init").arg("--kubeconfig-dir").arg(this.folder.path()));
        assert!(out.contains("made ") && out.contains("admin.kubeconfig (ucloud:admin, valid until 20"), "{out}");
        this
    }

    fn path(&self, file: &str) -> String {
        self.folder.path().join(file).display().to_string()
    }

    fn pki(&self, command: &str) -> Command {
        let mut pki = program();
        pki.args(["pki", command, "--dir", &self.path("pki"), "--server", &format!("https://[::1]:{}", self.api)]);
        pki
    }

    fn start_etcd(&self) -> Child {
        let client = format!("https://[::1]:{}", self.etcd);
        let peer = format!("http://[::1]:{}", free_port());
        let pki = |file: &str| self.path(&format!("pki/etcd/{file}"));
        let mut etcd = Command::new("etcd");
        etcd.args(["--name", "etcd", "--data-dir", &self.path("etcd"), "--logger", "zap", "--log-level", "warn"])
            .args(["--listen-client-urls", &client, "--advertise-client-urls", &client])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("etcd={peer}"), "--client-cert-auth"])
            .args(["--trusted-ca-file", &pki("ca.crt"), "--cert-file", &pki("server.crt")])
            .args(["--key-file", &pki("server.key")]);
        Child::start(etcd, &self.path("etcd.log"))
    }

    fn start_api(&self) -> Child {
        let mut serve = program();
        serve.args(["serve", "--log-format", "text", "--listen", &format!("[::1]:{}", self.api)]).args([
            "--pki-dir",
            &self.path("pki"),
            "--etcd",
            &format!("https://[::1]:{}", self.etcd),
        ]);
        Child::start(serve, &self.path("api.log"))
    }

    fn kubectl(&self, kubeconfig: &str, args: &[&str]) -> Command {
        let mut kubectl = Command::new("kubectl");
        kubectl.arg("--kubeconfig").arg(self.path(kubeconfig)).arg("--cache-dir").arg(self.path("cache")).args(args);
        kubectl
    }

    fn admin(&self, args: &[&str]) -> String {
        output(&mut self.kubectl("admin.kubeconfig", args))
    }

    fn is_ready(&self) -> bool {
        installed(&mut self.kubectl("admin.kubeconfig", &["get", "--raw", "/readyz"])).status.success()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.path("api.log")).unwrap()
    }
}

fn program() -> Command {
    Command::new(env!("CARGO_BIN_EXE_ucloud-api"))
}

const MANIFEST: &str = "
apiVersion: ucloud.ungleich.ch/v1alpha1
kind: Network
metadata: {name: net, namespace: default}
spec: {}
---
apiVersion: ucloud.ungleich.ch/v1alpha1
kind: Image
metadata: {name: guest, namespace: images}
spec: {format: qcow2, source: {file: {name: guest.qcow2}}}
---
apiVersion: ucloud.ungleich.ch/v1alpha1
kind: VM
metadata: {name: web, namespace: default}
spec:
  cpus: 1
  memory: 256Mi
  disks: [{name: root, image: images/guest}]
  networks: [{name: eth0, network: net}]
";

#[test]
fn kubectl_works_against_the_real_thing() {
    let it = Installation::new();
    // the server may come first: it waits, and says so
    let api = it.start_api();
    until("the server says that etcd is away", || it.log().contains("etcd does not answer yet"));
    assert!(!it.is_ready(), "it cannot serve without etcd");
    let etcd = it.start_etcd();
    until("the server is ready", || it.is_ready());

    fs::write(it.path("web.yaml"), MANIFEST).unwrap();
    let created = it.admin(&["create", "--filename", &it.path("web.yaml")]);
    assert!(created.contains("vm.ucloud.ungleich.ch/web created"), "{created}");
    let listed = it.admin(&["get", "vms,networks,images,hosts", "--all-namespaces"]);
    for expected in [
        "PHASE",
        "vm.ucloud.ungleich.ch/web",
        "Pending",
        "network.ucloud.ungleich.ch/net",
        "image.ucloud.ungleich.ch/guest",
    ] {
        assert!(listed.contains(expected), "{expected} is not in:\n{listed}");
    }
    it.admin(&["label", "vm", "web", "tier=front"]);
    assert_eq!(it.admin(&["get", "vm", "-l", "tier=front", "-o", "name"]).trim(), "vm.ucloud.ungleich.ch/web");
    assert!(it.admin(&["explain", "vm.spec.disks"]).contains("image"));

    // everything is in etcd: another server finds it
    api.terminate();
    let api = it.start_api();
    until("the next server is ready", || it.is_ready());
    assert!(it.admin(&["delete", "vm", "web"]).contains("deleted"));
    assert_eq!(it.admin(&["get", "vms", "-o", "name"]), "");

    refuse_agents_elsewhere(&it);
    refuse_agents_in_etcd(&it);
    api.terminate();
    etcd.terminate();
    assert!(it.log().contains("stopped"), "{}", it.log());
    assert!(!it.log().contains('\u{1b}'), "no colours where nobody sees them: {}", it.log());
}

/// An agent's certificate does not open etcd: another authority signed it.
fn refuse_agents_in_etcd(it: &Installation) {
    for (field, file) in [("client-certificate-data", "h1.crt"), ("client-key-data", "h1.key")] {
        let path = format!("jsonpath={{.users[0].user.{field}}}");
        let encoded = output(&mut it.kubectl("h1.kubeconfig", &["config", "view", "--raw", "-o", &path]));
        fs::write(it.path(file), STANDARD.decode(encoded).unwrap()).unwrap();
    }
    let get = |certificate: &str, key: &str| {
        let mut etcdctl = Command::new("etcdctl");
        etcdctl
            .env("ETCDCTL_API", "3")
            .args(["--endpoints", &format!("https://[::1]:{}", it.etcd), "--command-timeout", "2s"])
            .args(["--cacert", &it.path("pki/etcd/ca.crt"), "--cert", &it.path(certificate), "--key", &it.path(key)])
            .args(["get", "--prefix", "--keys-only", "/registry/ucloud.ungleich.ch/networks/"]);
        installed(&mut etcdctl)
    };
    let own = get("pki/etcd/client.crt", "pki/etcd/client.key");
    assert!(String::from_utf8_lossy(&own.stdout).contains("/networks/default/net"), "{own:?}");
    assert!(!get("h1.crt", "h1.key").status.success());
}

fn refuse_agents_elsewhere(it: &Installation) {
    output(it.pki("agent").args(["--host", "h1", "--out", &it.path("h1.kubeconfig")]));
    let agent = |args: &[&str]| installed(&mut it.kubectl("h1.kubeconfig", args));
    let own = agent(&["get", "vms", "--all-namespaces", "--field-selector", "status.binding.host=h1"]);
    assert!(own.status.success(), "{own:?}");
    let all = agent(&["get", "vms", "--all-namespaces"]);
    let complaint = String::from_utf8_lossy(&all.stderr);
    assert!(complaint.contains("Error from server (Forbidden)"), "{complaint}");
}

#[test]
fn the_command_line_says_what_is_wrong() {
    let fails = |args: &[&str]| {
        let out = installed(program().args(args));
        assert!(!out.status.success(), "{args:?}");
        String::from_utf8(out.stderr).unwrap()
    };
    let folder = tempfile::tempdir().unwrap();
    let empty = folder.path().display().to_string();
    let missing = fails(&["serve", "--pki-dir", &empty, "--etcd", "https://[::1]:1"]);
    assert!(missing.contains("server.crt; `ucloud-api pki init` makes the certificates"), "{missing}");
    let url = fails(&["pki", "init", "--dir", &empty, "--kubeconfig-dir", &empty, "--server", "[::1]:6443"]);
    assert!(url.contains("write https://HOST:PORT"), "{url}");
    let host = fails(&["pki", "agent", "--dir", &empty, "--host", "../x", "--server", "https://[::1]:1", "--out", "x"]);
    assert!(host.contains("cannot be the name of a host"), "{host}");
    assert_eq!(output(program().arg("version")), format!("ucloud-api {}\n", env!("CARGO_PKG_VERSION")));
    assert!(output(program().args(["pki", "init", "--help"])).contains("Example:"));
}
