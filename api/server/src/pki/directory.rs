//! The folder that holds an installation's certificates, and how it gets complete.
//!
//! ```text
//! ca.crt ca.key          the main authority
//! server.crt server.key  the API server
//! agents.crt agents.key  the API server, as the agents' client
//! etcd/ca.crt ca.key     etcd's own authority
//! etcd/server.crt .key   etcd
//! etcd/client.crt .key   the API server, as etcd's client
//! ```
//!
//! The folder is its owner's alone. Clients' certificates are kept in their kubeconfigs alone. Whatever is there and good is left alone; the key is
//! written before the certificate, so that a stop in between leaves a pair that does not match and is made again.

use std::{
    path::{Path, PathBuf},
    time::SystemTime,
};

use rcgen::KeyPair;
use ucloud_types::{
    host::HostRole,
    meta::{
        ADMIN_GROUP, AGENT_DOMAIN, AGENT_USER_PREFIX, AGENTS_GROUP, AGENTS_WITH_ROLES_PREFIX, API_USER,
        CONTROLLERS_GROUP,
    },
};

use super::{
    PkiError,
    authority::{Authority, Identity, Subject},
    files::{self, Mode},
    inspect::{self, Flaw},
    kubeconfig,
    names::{AltName, HostName, ServerUrl},
};

/// A certificate that was made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The file that holds it.
    pub path: PathBuf,
    /// Whose it is.
    pub subject: String,
    /// What was wrong with the one that was there; `None` where there was none.
    pub replaced: Option<Flaw>,
    /// When it expires.
    pub expires: Option<SystemTime>,
}

/// The user of the admin kubeconfig.
pub fn admin() -> Subject {
    Subject::client("ucloud:admin", Some(ADMIN_GROUP))
}

/// The controllers' user.
pub fn controllers() -> Subject {
    Subject::client("ucloud:controllers", Some(CONTROLLERS_GROUP))
}

/// The API server's user, to agents.
pub fn api() -> Subject {
    Subject::client(API_USER, None)
}

/// The user of a host's agent, which the API server also reaches by the name in it. The roles are those that the host may have.
pub fn agent(host: &HostName, roles: &[HostRole]) -> Subject {
    // in one order, so that the same roles are the same subject
    let allowed = HostRole::ALL.into_iter().filter(|role| roles.contains(role));
    let names: Vec<&str> = allowed.map(HostRole::name).collect();
    let group = match names.as_slice() {
        [] => AGENTS_GROUP.to_owned(),
        names => format!("{AGENTS_WITH_ROLES_PREFIX}{}", names.join(",")),
    };
    let host = host.as_str();
    Subject::Client {
        user: format!("{AGENT_USER_PREFIX}{host}"),
        group: Some(group),
        serves: Some(AltName::Dns(format!("{host}{AGENT_DOMAIN}"))),
    }
}

/// Where a certificate and its key are.
struct Pair {
    certificate: PathBuf,
    key: PathBuf,
}

/// The folder, together with the present time, so that all that is made in one go has the same.
pub struct Directory {
    root: PathBuf,
    now: SystemTime,
}

impl Directory {
    /// The folder at `root`; it is made when the first file is.
    pub fn new(root: impl Into<PathBuf>, now: SystemTime) -> Self {
        Self { root: root.into(), now }
    }

    /// Makes what is missing of the authorities, the servers' certificates, and the kubeconfigs
    /// `admin.kubeconfig` and `controllers.kubeconfig` in `kubeconfigs`. `names` are added to what the servers are
    /// reached by: localhost, ::1, 127.0.0.1 and the host of `server`.
    pub fn init(&self, server: &ServerUrl, names: &[AltName], kubeconfigs: &Path) -> Result<Vec<Made>, PkiError> {
        files::make_private_folder(&self.root)?;
        let mut all = vec![
            AltName::Dns("localhost".to_owned()),
            AltName::Ip(std::net::Ipv6Addr::LOCALHOST.into()),
            AltName::Ip(std::net::Ipv4Addr::LOCALHOST.into()),
            server.host().clone(),
        ];
        all.extend(names.iter().cloned());
        all.sort();
        all.dedup();

        let mut made = Vec::new();
        let main = self.authority("ca", "ucloud CA", &mut made)?;
        self.pair("server", &main, &Subject::server("ucloud-api", all.clone()), &mut made)?;
        self.pair("agents", &main, &api(), &mut made)?;
        let etcd = self.authority("etcd/ca", "ucloud etcd CA", &mut made)?;
        let etcd_server = Subject::Server { name: "etcd".to_owned(), names: all, also_client: true };
        self.pair("etcd/server", &etcd, &etcd_server, &mut made)?;
        self.pair("etcd/client", &etcd, &Subject::client("ucloud-api", None), &mut made)?;
        for (file, subject) in [("admin.kubeconfig", admin()), ("controllers.kubeconfig", controllers())] {
            made.extend(self.kubeconfig(&kubeconfigs.join(file), &main, server, &subject)?);
        }
        Ok(made)
    }

    /// Makes the kubeconfig of a host's agent, where `out` does not hold a good one. The authority must be there.
    pub fn agent(
        &self,
        host: &HostName,
        roles: &[HostRole],
        server: &ServerUrl,
        out: &Path,
    ) -> Result<Vec<Made>, PkiError> {
        let files = self.pair_at("ca");
        if files::read(&files.certificate)?.is_none() && files::read(&files.key)?.is_none() {
            return Err(PkiError::NoAuthority { folder: self.root.clone() });
        }
        let mut made = Vec::new();
        let main = self.authority("ca", "ucloud CA", &mut made)?;
        made.extend(self.kubeconfig(out, &main, server, &agent(host, roles))?);
        Ok(made)
    }

    fn pair_at(&self, stem: &str) -> Pair {
        Pair { certificate: self.root.join(format!("{stem}.crt")), key: self.root.join(format!("{stem}.key")) }
    }

    fn authority(&self, stem: &str, name: &str, made: &mut Vec<Made>) -> Result<Authority, PkiError> {
        let files = self.pair_at(stem);
        let sign = |source| PkiError::Sign { subject: name.to_owned(), source };
        let present = files::read(&files.certificate)?;
        let Some(key) = files::read(&files.key)? else {
            if present.is_some() {
                return Err(PkiError::KeyMissing { certificate: files.certificate, key: files.key });
            }
            let authority = Authority::generate(name, self.now).map_err(sign)?;
            files::write(&files.key, &authority.key(), Mode::Secret)?;
            keep(&files.certificate, name, authority.certificate(), None, made)?;
            return Ok(authority);
        };
        let unusable = |reason: String| PkiError::AuthorityUnusable {
            certificate: files.certificate.clone(),
            key: files.key.clone(),
            reason,
        };
        let key = KeyPair::from_pem(&key).map_err(|error| unusable(error.to_string()))?;
        let flaw = match &present {
            Some(certificate) => inspect::authority_flaw(certificate, &key, self.now),
            None => None,
        };
        match (present, flaw) {
            (Some(certificate), None) => Authority::load(certificate, key).map_err(|error| unusable(error.to_string())),
            // nothing that clients trust is ever replaced by something that they do not
            (Some(_), Some(flaw)) if flaw != Flaw::Expires => Err(unusable(flaw.to_string())),
            (_, flaw) => {
                let authority = Authority::with_key(name, key, self.now).map_err(sign)?;
                keep(&files.certificate, name, authority.certificate(), flaw, made)?;
                Ok(authority)
            }
        }
    }

    fn pair(&self, stem: &str, authority: &Authority, subject: &Subject, made: &mut Vec<Made>) -> Result<(), PkiError> {
        let files = self.pair_at(stem);
        let present = match (files::read(&files.certificate)?, files::read(&files.key)?) {
            (Some(certificate), Some(key)) => Some(Identity { certificate, key }),
            _ => None,
        };
        let flaw = match &present {
            Some(identity) => match inspect::leaf_flaw(identity, subject, authority, self.now) {
                None => return Ok(()),
                flaw => flaw,
            },
            None => None,
        };
        let identity = self.issue(authority, subject)?;
        files::write(&files.key, &identity.key, Mode::Secret)?;
        keep(&files.certificate, subject.common_name(), &identity.certificate, flaw, made)
    }

    fn kubeconfig(
        &self,
        path: &Path,
        authority: &Authority,
        server: &ServerUrl,
        subject: &Subject,
    ) -> Result<Option<Made>, PkiError> {
        let flaw = match files::read(path)? {
            Some(yaml) => {
                let flaw = kubeconfig::identity(&yaml, server, authority)
                    .map_or_else(Some, |identity| inspect::leaf_flaw(&identity, subject, authority, self.now));
                if flaw.is_none() {
                    return Ok(None);
                }
                flaw
            }
            None => None,
        };
        let identity = self.issue(authority, subject)?;
        files::write(path, &kubeconfig::to_yaml(server, authority, subject, &identity)?, Mode::Secret)?;
        Ok(Some(Made {
            path: path.to_owned(),
            subject: subject.common_name().to_owned(),
            replaced: flaw,
            expires: inspect::expiry(&identity.certificate),
        }))
    }

    fn issue(&self, authority: &Authority, subject: &Subject) -> Result<Identity, PkiError> {
        authority
            .issue(subject, self.now)
            .map_err(|source| PkiError::Sign { subject: subject.common_name().to_owned(), source })
    }
}

/// Writes a certificate whose key is in its place already, and takes note of it.
fn keep(
    path: &Path,
    subject: &str,
    certificate: &str,
    replaced: Option<Flaw>,
    made: &mut Vec<Made>,
) -> Result<(), PkiError> {
    files::write(path, certificate, Mode::Public)?;
    let expires = inspect::expiry(certificate);
    made.push(Made { path: path.to_owned(), subject: subject.to_owned(), replaced, expires });
    Ok(())
}
