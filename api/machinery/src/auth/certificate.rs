//! Identity from a TLS client certificate, as Kubernetes reads it: the common name is the user, the organisations are
//! the groups. TLS has verified the chain against the client CA before any of this runs.

use async_trait::async_trait;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::{AuthenticationError, Authenticator, Credentials, UserInfo};

/// The subject of a verified client certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// The subject's common name (CN).
    pub common_name: String,
    /// The subject's organisations (O), in order.
    pub organizations: Vec<String>,
}

/// A certificate that cannot be read, although TLS accepted it.
#[derive(Debug, thiserror::Error)]
#[error("cannot read the client certificate: {0}")]
pub struct CertificateError(String);

impl PeerCertificate {
    /// Reads the subject of a DER certificate.
    pub fn from_der(der: &[u8]) -> Result<Self, CertificateError> {
        let (_, certificate) = X509Certificate::from_der(der).map_err(|error| CertificateError(error.to_string()))?;
        let subject = certificate.subject();
        let common_name =
            subject.iter_common_name().find_map(|attribute| attribute.as_str().ok()).unwrap_or_default().to_owned();
        let organizations =
            subject.iter_organization().filter_map(|attribute| attribute.as_str().ok()).map(str::to_owned).collect();
        Ok(Self { common_name, organizations })
    }
}

/// Recognises callers by their client certificate alone.
#[derive(Debug, Default, Clone, Copy)]
pub struct CertificateAuthenticator;

#[async_trait]
impl Authenticator for CertificateAuthenticator {
    async fn authenticate(&self, credentials: Credentials<'_>) -> Result<Option<UserInfo>, AuthenticationError> {
        let Some(certificate) = credentials.certificate else {
            return Ok(None);
        };
        if certificate.common_name.is_empty() {
            return Err(AuthenticationError::Rejected("the client certificate has no common name".to_owned()));
        }
        Ok(Some(UserInfo::new(certificate.common_name.clone(), certificate.organizations.iter().cloned())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, DnType, KeyPair};

    #[tokio::test]
    async fn the_subject_names_user_and_groups() {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "admin");
        params.distinguished_name.push(DnType::OrganizationName, "ops");
        let key = KeyPair::generate().unwrap();
        let certificate = params.self_signed(&key).unwrap();
        let peer = PeerCertificate::from_der(certificate.der()).unwrap();
        let headers = http::HeaderMap::new();
        let user = CertificateAuthenticator
            .authenticate(Credentials { certificate: Some(&peer), headers: &headers })
            .await
            .unwrap()
            .unwrap();
        assert_eq!(user.name, "admin");
        assert!(user.in_group("ops") && user.in_group(super::super::AUTHENTICATED));
    }

    #[test]
    fn rubbish_is_refused() {
        assert!(PeerCertificate::from_der(b"not a certificate").is_err());
    }
}
