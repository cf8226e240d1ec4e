//! The certificates' folder: complete after one run, untouched by the next, repaired where something is wrong.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use ucloud_api::pki::{Directory, Made, PkiError, inspect::Flaw};
use ucloud_types::host::HostRole;

const DAY: Duration = Duration::from_hours(24);

struct Installation {
    folder: tempfile::TempDir,
    server: &'static str,
    names: Vec<&'static str>,
}

impl Installation {
    fn new() -> Self {
        Self { folder: tempfile::tempdir().unwrap(), server: "https://[::1]:6443", names: Vec::new() }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.folder.path().join(file)
    }

    fn init(&self, after: Duration) -> Result<Vec<Made>, PkiError> {
        let names: Vec<_> = self.names.iter().map(|name| name.parse().unwrap()).collect();
        let directory = Directory::new(self.path("pki"), SystemTime::now() + after);
        directory.init(&self.server.parse().unwrap(), &names, self.folder.path())
    }

    /// What a run makes, as file names with the reasons.
    fn made(&self, after: Duration) -> Vec<(String, Option<Flaw>)> {
        let name = |path: &Path| path.strip_prefix(self.folder.path()).unwrap().display().to_string();
        self.init(after).unwrap().into_iter().map(|made| (name(&made.path), made.replaced)).collect()
    }
}

const ALL: [&str; 8] = [
    "pki/ca.crt",
    "pki/server.crt",
    "pki/agents.crt",
    "pki/etcd/ca.crt",
    "pki/etcd/server.crt",
    "pki/etcd/client.crt",
    "admin.kubeconfig",
    "controllers.kubeconfig",
];

fn names(made: &[(String, Option<Flaw>)]) -> Vec<&str> {
    made.iter().map(|(name, _)| name.as_str()).collect()
}

#[test]
fn the_second_run_changes_nothing() {
    let it = Installation::new();
    let made = it.made(Duration::ZERO);
    assert_eq!(names(&made), ALL);
    assert!(made.iter().all(|(_, replaced)| replaced.is_none()));
    assert_eq!(it.made(Duration::ZERO), []);
    for secret in [
        "pki/ca.key",
        "pki/server.key",
        "pki/agents.key",
        "pki/etcd/ca.key",
        "pki/etcd/server.key",
        "pki/etcd/client.key",
        "admin.kubeconfig",
        "controllers.kubeconfig",
    ] {
        let mode = fs::metadata(it.path(secret)).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o600, "{secret}");
    }
    let mode = fs::metadata(it.path("pki")).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o700, "nobody else looks into the folder");
}

#[test]
fn what_is_about_to_expire_is_renewed() {
    let it = Installation::new();
    it.made(Duration::ZERO);
    let made = it.made(340 * DAY);
    assert_eq!(
        names(&made),
        ["pki/server.crt", "pki/agents.crt", "pki/etcd/server.crt", "pki/etcd/client.crt", ALL[6], ALL[7]]
    );
    assert!(made.iter().all(|(_, replaced)| *replaced == Some(Flaw::Expires)), "{made:?}");
    assert_eq!(it.made(340 * DAY), []);
    let made = it.made(3300 * DAY);
    assert_eq!(names(&made), ALL, "an authority outlives what it signs");
}

#[test]
fn a_name_that_is_missing_is_added() {
    let mut it = Installation::new();
    it.made(Duration::ZERO);
    it.names = vec!["api.example.com"];
    let missing = Some(Flaw::NameMissing("api.example.com".parse().unwrap()));
    let expected = ["pki/server.crt", "pki/etcd/server.crt"].map(|name| (name.to_owned(), missing.clone()));
    assert_eq!(it.made(Duration::ZERO), expected);
    it.names.clear();
    assert_eq!(it.made(Duration::ZERO), [], "a name too many does no harm");
    it.server = "https://[fd00::1]:6443";
    let made = it.made(Duration::ZERO);
    assert_eq!(names(&made), ["pki/server.crt", "pki/etcd/server.crt", ALL[6], ALL[7]]);
    assert_eq!(made[2].1, Some(Flaw::OtherServer));
}

#[test]
fn what_was_half_written_is_made_again() {
    let it = Installation::new();
    it.made(Duration::ZERO);
    // a stop between key and certificate
    fs::copy(it.path("pki/etcd/client.key"), it.path("pki/server.key")).unwrap();
    assert_eq!(it.made(Duration::ZERO), [("pki/server.crt".to_owned(), Some(Flaw::OtherKey))]);
    fs::remove_file(it.path("pki/etcd/server.crt")).unwrap();
    assert_eq!(it.made(Duration::ZERO), [("pki/etcd/server.crt".to_owned(), None)]);
    // an authority whose certificate is gone keeps its key, and what it signed stays good but for the kubeconfigs
    fs::remove_file(it.path("pki/ca.crt")).unwrap();
    assert_eq!(names(&it.made(Duration::ZERO)), ["pki/ca.crt", ALL[6], ALL[7]]);
    assert_eq!(it.made(Duration::ZERO), []);
}

#[test]
fn an_authority_is_never_replaced() {
    let it = Installation::new();
    it.made(Duration::ZERO);
    let (key, other) = (it.path("pki/ca.key"), it.path("pki/etcd/ca.key"));
    let kept = fs::read(&key).unwrap();
    fs::copy(other, &key).unwrap();
    assert!(matches!(it.init(Duration::ZERO), Err(PkiError::AuthorityUnusable { .. })));
    fs::remove_file(&key).unwrap();
    let error = it.init(Duration::ZERO).unwrap_err();
    assert!(matches!(error, PkiError::KeyMissing { .. }), "{error}");
    fs::write(&key, kept).unwrap();
    assert_eq!(it.made(Duration::ZERO), []);
}

#[test]
fn an_agent_gets_its_kubeconfig_once() {
    let it = Installation::new();
    it.made(Duration::ZERO);
    let directory = Directory::new(it.path("pki"), SystemTime::now());
    let server = it.server.parse().unwrap();
    let out = it.path("agents/h1.kubeconfig");
    let agent = |host: &str| directory.agent(&host.parse().unwrap(), &HostRole::ALL, &server, &out);
    let [made] = agent("h1").unwrap().try_into().unwrap();
    assert_eq!((made.subject.as_str(), made.replaced), ("ucloud:agent:h1", None));
    assert_eq!(agent("h1").unwrap(), []);
    assert_eq!(agent("h2").unwrap()[0].replaced, Some(Flaw::OtherSubject));
    // in the wrong folder, no second authority comes up that nobody trusts
    let elsewhere = Directory::new(it.path("elsewhere"), SystemTime::now());
    let error = elsewhere.agent(&"h1".parse().unwrap(), &HostRole::ALL, &server, &out).unwrap_err();
    assert!(matches!(error, PkiError::NoAuthority { .. }), "{error}");
    assert!(!it.path("elsewhere").exists());
}
