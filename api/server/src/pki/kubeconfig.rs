//! A client's identity as a kubeconfig that needs no other file: server, authority, certificate and key in one.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use super::{
    PkiError,
    authority::{Authority, Identity, Subject},
    inspect::Flaw,
    names::ServerUrl,
};

/// The name of the cluster and of the context.
const NAME: &str = "ucloud";

fn document(server: &ServerUrl, authority: &Authority, user: &str, identity: &Identity) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": NAME, "cluster": {
            "server": server.as_str(),
            "certificate-authority-data": STANDARD.encode(authority.certificate()),
        }}],
        "users": [{"name": user, "user": {
            "client-certificate-data": STANDARD.encode(&identity.certificate),
            "client-key-data": STANDARD.encode(&identity.key),
        }}],
        "contexts": [{"name": NAME, "context": {"cluster": NAME, "user": user}}],
        "current-context": NAME,
    })
}

/// The kubeconfig, for a client in this process.
pub fn build(
    server: &ServerUrl,
    authority: &Authority,
    subject: &Subject,
    identity: &Identity,
) -> Result<Kubeconfig, PkiError> {
    let user = subject.common_name();
    serde_json::from_value(document(server, authority, user, identity)).map_err(|error| unwritable(user, &error))
}

/// The kubeconfig as YAML.
pub fn to_yaml(
    server: &ServerUrl,
    authority: &Authority,
    subject: &Subject,
    identity: &Identity,
) -> Result<String, PkiError> {
    let user = subject.common_name();
    // each value on the line of its key, however long
    let options = serde_saphyr::ser_options! { prefer_block_scalars: false };
    serde_saphyr::to_string_with_options(&document(server, authority, user, identity), options)
        .map_err(|error| unwritable(user, &error))
}

fn unwritable(user: &str, error: &dyn std::fmt::Display) -> PkiError {
    PkiError::Kubeconfig { user: user.to_owned(), reason: error.to_string() }
}

/// Reads back the identity in a kubeconfig, provided that it is for this server and authority.
pub fn identity(yaml: &str, server: &ServerUrl, authority: &Authority) -> Result<Identity, Flaw> {
    let document: Value = serde_saphyr::from_str(yaml).map_err(|error| Flaw::Unreadable(error.to_string()))?;
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    let decoded = |pointer: &str| {
        let bytes = STANDARD.decode(text(pointer)).map_err(|error| Flaw::Unreadable(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| Flaw::Unreadable(error.to_string()))
    };
    if text("/clusters/0/cluster/server") != server.as_str()
        || decoded("/clusters/0/cluster/certificate-authority-data")? != authority.certificate()
    {
        return Err(Flaw::OtherServer);
    }
    Ok(Identity {
        certificate: decoded("/users/0/user/client-certificate-data")?,
        key: decoded("/users/0/user/client-key-data")?,
    })
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn what_is_written_reads_the_same() {
        let now = SystemTime::now();
        let authority = Authority::generate("ca", now).unwrap();
        let subject = Subject::client("ucloud:agent:h1", Some("ucloud:agents"));
        let made = authority.issue(&subject, now).unwrap();
        let server: ServerUrl = "https://[::1]:6443".parse().unwrap();
        let yaml = to_yaml(&server, &authority, &subject, &made).unwrap();
        assert_eq!(identity(&yaml, &server, &authority), Ok(made));
        let elsewhere = "https://[::1]:7443".parse().unwrap();
        assert_eq!(identity(&yaml, &elsewhere, &authority), Err(Flaw::OtherServer));
        assert!(matches!(identity(": [", &server, &authority), Err(Flaw::Unreadable(_))));
        let parsed = Kubeconfig::from_yaml(&yaml).unwrap();
        assert_eq!(parsed.current_context.as_deref(), Some("ucloud"));
    }
}
