//! What the agent proves to the API server, and whom it lets in.

use std::sync::Arc;

use base64::{Engine as _, engine::general_purpose::STANDARD};
use kube::config::Kubeconfig;
use rustls::{
    RootCertStore, ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem, pem::PemObject as _},
    server::{VerifierBuilderError, WebPkiClientVerifier},
};
use secrecy::ExposeSecret;
use ucloud_types::meta::API_USER;
use x509_parser::prelude::{FromDer as _, X509Certificate};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// There is no identity in the kubeconfig.
    #[error("the kubeconfig holds no {0}; `ucloud-api pki agent` makes one that does")]
    Missing(&'static str),
    /// It is not encoded as it should be.
    #[error("cannot decode the {0} in the kubeconfig")]
    Decode(&'static str, #[source] base64::DecodeError),
    /// It is not PEM.
    #[error("cannot read the {0} in the kubeconfig")]
    Read(&'static str, #[source] pem::Error),
    /// The authority's certificate cannot be used.
    #[error("cannot use the authority in the kubeconfig")]
    Authority(#[source] rustls::Error),
    /// No verifier can be made of it.
    #[error("cannot verify clients by the authority in the kubeconfig")]
    Verifier(#[from] VerifierBuilderError),
    /// Certificate and key do not fit together, or cannot be used.
    #[error("cannot use the certificate and key in the kubeconfig")]
    Identity(#[source] rustls::Error),
}

/// Whoever has connected is not the API server.
#[derive(Debug, thiserror::Error)]
#[error("the client's certificate is not the API server's ({API_USER})")]
pub struct NotTheApiServer;

/// The TLS of the stream service.
pub struct StreamTls(pub(super) Arc<ServerConfig>);

impl StreamTls {
    /// With the identity by which the agent is known to the API server, and the authority that it trusts.
    pub fn from_kubeconfig(kubeconfig: &Kubeconfig) -> Result<Self, TlsError> {
        const CERTIFICATE: &str = "client certificate";
        const KEY: &str = "client key";
        const AUTHORITY: &str = "certificate authority";
        let user = kubeconfig.auth_infos.first().and_then(|user| user.auth_info.as_ref());
        let cluster = kubeconfig.clusters.first().and_then(|cluster| cluster.cluster.as_ref());
        let certificate = user.and_then(|user| user.client_certificate_data.as_deref());
        let key = user.and_then(|user| user.client_key_data.as_ref()).map(ExposeSecret::expose_secret);
        let authority = cluster.and_then(|cluster| cluster.certificate_authority_data.as_deref());
        let decoded = |what: &'static str, data: Option<&str>| {
            STANDARD.decode(data.ok_or(TlsError::Missing(what))?).map_err(|error| TlsError::Decode(what, error))
        };
        let certificates = |what: &'static str, pem: &[u8]| {
            let read = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
            read.map_err(|error| TlsError::Read(what, error))
        };
        let chain = certificates(CERTIFICATE, &decoded(CERTIFICATE, certificate)?)?;
        let key = PrivateKeyDer::from_pem_slice(&decoded(KEY, key)?).map_err(|error| TlsError::Read(KEY, error))?;
        let mut roots = RootCertStore::empty();
        for certificate in certificates(AUTHORITY, &decoded(AUTHORITY, authority)?)? {
            roots.add(certificate).map_err(TlsError::Authority)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Identity)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(TlsError::Identity)?;
        Ok(Self(Arc::new(config)))
    }
}

/// The authority signs users' certificates as well: the name decides.
pub fn check_api_server(certificate: Option<&CertificateDer<'_>>) -> Result<(), NotTheApiServer> {
    let parsed = certificate.and_then(|der| X509Certificate::from_der(der).ok());
    let is_api = parsed.is_some_and(|(_, certificate)| {
        let mut names = certificate.subject().iter_common_name();
        names.next().and_then(|name| name.as_str().ok()) == Some(API_USER) && names.next().is_none()
    });
    if is_api { Ok(()) } else { Err(NotTheApiServer) }
}
