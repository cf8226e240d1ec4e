//! What the server proves to clients, and which client certificates it accepts.

use std::sync::Arc;

use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem};
use rustls::server::{VerifierBuilderError, WebPkiClientVerifier};
use rustls::{RootCertStore, ServerConfig};

use super::{HTTP1, HTTP2};

/// Why TLS cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The server's certificates are not PEM.
    #[error("cannot read the server's certificate chain")]
    Chain(#[source] pem::Error),
    /// The server's key is not PEM.
    #[error("cannot read the server's private key")]
    Key(#[source] pem::Error),
    /// The client CA is not PEM.
    #[error("cannot read the client CA")]
    ClientCa(#[source] pem::Error),
    /// A certificate of the client CA cannot be used.
    #[error("cannot use the client CA")]
    ClientRoots(#[source] rustls::Error),
    /// No verifier can be made of the client CA.
    #[error("cannot verify clients by the client CA")]
    Verifier(#[from] VerifierBuilderError),
    /// Chain and key do not fit together, or cannot be used.
    #[error("cannot use the server's certificate and key")]
    Server(#[source] rustls::Error),
}

/// A server's TLS configuration.
#[derive(Clone)]
pub struct ServerTls {
    pub(super) config: Arc<ServerConfig>,
}

impl ServerTls {
    /// From PEM: the server's certificate chain and private key, and the CA whose client certificates are accepted.
    /// Clients may come without a certificate; they are then anonymous.
    pub fn from_pem(chain: &[u8], key: &[u8], client_ca: &[u8]) -> Result<Self, TlsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(TlsError::Chain)?;
        let key = PrivateKeyDer::from_pem_slice(key).map_err(TlsError::Key)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(client_ca) {
            roots.add(certificate.map_err(TlsError::ClientCa)?).map_err(TlsError::ClientRoots)?;
        }
        let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
            .allow_unauthenticated()
            .build()?;
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(TlsError::Server)?
            .with_client_cert_verifier(verifier)
            .with_single_cert(chain, key)
            .map_err(TlsError::Server)?;
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Ok(Self { config: Arc::new(config) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_refused() {
        assert!(matches!(ServerTls::from_pem(b"", b"", b""), Err(TlsError::Key(_))));
    }
}
