//! A certificate authority and what it signs: ECDSA P-256 throughout, which every TLS stack in use reads.

use std::{
    fmt,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};

use super::names::AltName;

/// How long an authority's certificate is valid.
pub const AUTHORITY_VALIDITY: Duration = Duration::from_hours(3650 * 24);
/// How long a server's or client's certificate is valid.
pub const LEAF_VALIDITY: Duration = Duration::from_hours(365 * 24);
/// A certificate is valid from this long before it was made, for clients whose clocks are behind.
const BACKDATE: Duration = Duration::from_hours(1);

/// A certificate and its private key, both PEM.
#[derive(Clone, PartialEq, Eq)]
pub struct Identity {
    /// The certificate.
    pub certificate: String,
    /// The private key (PKCS #8).
    pub key: String,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // the key must not reach a log
        f.debug_struct("Identity").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// Whose certificate it is, and so what it may be used for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// A server.
    Server {
        /// The common name; clients look at `names` alone.
        name: String,
        /// By what clients reach it.
        names: Vec<AltName>,
        /// Whether it also presents the certificate as a client. etcd does, to itself.
        also_client: bool,
    },
    /// A client of the API server, or of etcd.
    Client {
        /// The user.
        user: String,
        /// The user's group. A certificate that is made here names one at most.
        group: Option<String>,
        /// The name by which the API server reaches it, where it does: an agent.
        serves: Option<AltName>,
    },
}

impl Subject {
    /// A server that clients reach by `names`.
    pub fn server(name: &str, names: impl IntoIterator<Item = AltName>) -> Self {
        Self::Server { name: name.to_owned(), names: names.into_iter().collect(), also_client: false }
    }

    /// A client.
    pub fn client(user: impl Into<String>, group: Option<&str>) -> Self {
        Self::Client { user: user.into(), group: group.map(str::to_owned), serves: None }
    }

    /// The common name.
    pub fn common_name(&self) -> &str {
        match self {
            Self::Server { name, .. } => name,
            Self::Client { user, .. } => user,
        }
    }

    /// The organisation.
    pub fn organization(&self) -> Option<&str> {
        match self {
            Self::Server { .. } => None,
            Self::Client { group, .. } => group.as_deref(),
        }
    }

    /// The subject alternative names.
    pub fn alt_names(&self) -> &[AltName] {
        match self {
            Self::Server { names, .. } => names,
            Self::Client { serves, .. } => serves.as_slice(),
        }
    }

    fn params(&self, now: SystemTime) -> Result<CertificateParams, rcgen::Error> {
        let mut params = params(self.common_name(), now, LEAF_VALIDITY);
        if let Some(organization) = self.organization() {
            params.distinguished_name.push(DnType::OrganizationName, organization);
        }
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match self {
            Self::Server { also_client: true, .. } | Self::Client { serves: Some(_), .. } => {
                vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth]
            }
            Self::Server { .. } => vec![ExtendedKeyUsagePurpose::ServerAuth],
            Self::Client { .. } => vec![ExtendedKeyUsagePurpose::ClientAuth],
        };
        for name in self.alt_names() {
            params.subject_alt_names.push(match name {
                AltName::Ip(address) => SanType::IpAddress(*address),
                AltName::Dns(name) => SanType::DnsName(name.as_str().try_into()?),
            });
        }
        params.use_authority_key_identifier_extension = true;
        Ok(params)
    }
}

/// A certificate authority that can sign.
pub struct Authority {
    certificate: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new authority with a new key.
    pub fn generate(name: &str, now: SystemTime) -> Result<Self, rcgen::Error> {
        Self::with_key(name, KeyPair::generate()?, now)
    }

    /// An authority with a new certificate for the key that it has: what it signed before stays good.
    pub fn with_key(name: &str, key: KeyPair, now: SystemTime) -> Result<Self, rcgen::Error> {
        let mut params = params(name, now, AUTHORITY_VALIDITY);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages =
            vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let certificate = params.self_signed(&key)?.pem();
        Ok(Self { certificate, issuer: Issuer::new(params, key) })
    }

    /// An authority that was made before. The certificate is not checked here; [`super::inspect`] does that.
    pub fn load(certificate: String, key: KeyPair) -> Result<Self, rcgen::Error> {
        let issuer = Issuer::from_ca_cert_pem(&certificate, key)?;
        Ok(Self { certificate, issuer })
    }

    /// The certificate, PEM.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// The private key, PEM.
    pub fn key(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// Makes a key and a certificate for `subject`.
    pub fn issue(&self, subject: &Subject, now: SystemTime) -> Result<Identity, rcgen::Error> {
        let key = KeyPair::generate()?;
        let certificate = subject.params(now)?.signed_by(&key, &self.issuer)?;
        Ok(Identity { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn params(common_name: &str, now: SystemTime, validity: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + validity).into();
    // random and positive (RFC 5280, 4.1.2.2): a renewed authority keeps its key and must not keep its number
    let mut serial: [u8; 16] = rand::random();
    serial[0] = serial[0] & 0x7f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}
