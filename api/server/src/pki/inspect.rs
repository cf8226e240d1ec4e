//! Whether a certificate that exists is still good: a pure decision about its text, its key and the clock.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use rcgen::{KeyPair, PublicKeyData as _};
use x509_parser::{
    certificate::X509Certificate,
    extensions::{GeneralName, ParsedExtension},
    pem::Pem,
};

use super::{
    authority::{Authority, Identity, LEAF_VALIDITY, Subject},
    names::AltName,
};

/// A server's or client's certificate is renewed when it has less than this left.
const LEAF_MARGIN: Duration = Duration::from_hours(30 * 24);
/// An authority's certificate is renewed when it does not outlive what it would sign now.
const AUTHORITY_MARGIN: Duration = Duration::from_secs(LEAF_VALIDITY.as_secs() + LEAF_MARGIN.as_secs());

/// Why a certificate has to be made anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flaw {
    /// It cannot be read.
    Unreadable(String),
    /// It belongs to another key.
    OtherKey,
    /// It has expired, or will soon.
    Expires,
    /// Another authority signed it.
    OtherAuthority,
    /// It is somebody else's, or is for another use.
    OtherSubject,
    /// A name or an address is not in it.
    NameMissing(AltName),
    /// The kubeconfig around it names another server or authority.
    OtherServer,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(reason) => write!(f, "the old one could not be read: {reason}"),
            Self::OtherKey => f.write_str("the old one belonged to another key"),
            Self::Expires => f.write_str("the old one was about to expire"),
            Self::OtherAuthority => f.write_str("another authority had signed the old one"),
            Self::OtherSubject => f.write_str("the old one was for another subject"),
            Self::NameMissing(name) => write!(f, "the old one lacked {name}"),
            Self::OtherServer => f.write_str("the old one was for another server"),
        }
    }
}

/// What is wrong with the certificate of `subject`, if anything.
pub fn leaf_flaw(identity: &Identity, subject: &Subject, authority: &Authority, now: SystemTime) -> Option<Flaw> {
    let check = || {
        let pem = decode(&identity.certificate)?;
        let certificate = pem.parse_x509().map_err(|error| Flaw::Unreadable(error.to_string()))?;
        check_key(&certificate, &identity.key)?;
        check_expiry(&certificate, LEAF_MARGIN, now)?;
        check_issuer(&certificate, authority)?;
        check_subject(&certificate, subject)
    };
    check().err()
}

/// What is wrong with an authority's certificate, given its key, if anything.
pub fn authority_flaw(certificate: &str, key: &KeyPair, now: SystemTime) -> Option<Flaw> {
    let check = || {
        let pem = decode(certificate)?;
        let certificate = pem.parse_x509().map_err(|error| Flaw::Unreadable(error.to_string()))?;
        if certificate.public_key().raw != key.subject_public_key_info() {
            return Err(Flaw::OtherKey);
        }
        if !certificate.is_ca() {
            return Err(Flaw::OtherSubject);
        }
        check_expiry(&certificate, AUTHORITY_MARGIN, now)
    };
    check().err()
}

/// When a certificate expires.
pub fn expiry(certificate: &str) -> Option<SystemTime> {
    let pem = decode(certificate).ok()?;
    pem.parse_x509().ok().and_then(|certificate| not_after(&certificate))
}

fn decode(certificate: &str) -> Result<Pem, Flaw> {
    match Pem::iter_from_buffer(certificate.as_bytes()).next() {
        Some(Ok(pem)) => Ok(pem),
        Some(Err(error)) => Err(Flaw::Unreadable(error.to_string())),
        None => Err(Flaw::Unreadable("it holds no PEM block".to_owned())),
    }
}

fn not_after(certificate: &X509Certificate<'_>) -> Option<SystemTime> {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

fn check_key(certificate: &X509Certificate<'_>, key: &str) -> Result<(), Flaw> {
    let key = KeyPair::from_pem(key).map_err(|error| Flaw::Unreadable(error.to_string()))?;
    if certificate.public_key().raw == key.subject_public_key_info() { Ok(()) } else { Err(Flaw::OtherKey) }
}

fn check_expiry(certificate: &X509Certificate<'_>, margin: Duration, now: SystemTime) -> Result<(), Flaw> {
    match not_after(certificate) {
        Some(end) if end > now + margin => Ok(()),
        _ => Err(Flaw::Expires),
    }
}

/// The key identifiers tell, and not the names: all authorities of all installations have the same names.
fn check_issuer(certificate: &X509Certificate<'_>, authority: &Authority) -> Result<(), Flaw> {
    let pem = decode(authority.certificate())?;
    let issuer = pem.parse_x509().map_err(|error| Flaw::Unreadable(error.to_string()))?;
    let issuer_id = issuer.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    });
    let signer_id = certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0.to_vec()),
        _ => None,
    });
    if issuer_id.is_some() && issuer_id == signer_id { Ok(()) } else { Err(Flaw::OtherAuthority) }
}

fn check_subject(certificate: &X509Certificate<'_>, subject: &Subject) -> Result<(), Flaw> {
    let name = certificate.subject().iter_common_name().find_map(|attribute| attribute.as_str().ok());
    let groups: Vec<&str> =
        certificate.subject().iter_organization().filter_map(|attribute| attribute.as_str().ok()).collect();
    let usage = certificate.extended_key_usage().ok().flatten().map(|extension| extension.value);
    let usable = usage.is_some_and(|usage| match subject {
        Subject::Server { also_client, .. } => usage.server_auth && (usage.client_auth || !also_client),
        Subject::Client { serves, .. } => usage.client_auth && usage.server_auth == serves.is_some(),
    });
    if name != Some(subject.common_name()) || groups != Vec::from_iter(subject.organization()) || !usable {
        return Err(Flaw::OtherSubject);
    }
    let present = alt_names(certificate);
    match subject.alt_names().iter().find(|name| !present.contains(name)) {
        Some(missing) => Err(Flaw::NameMissing(missing.clone())),
        None => Ok(()),
    }
}

fn alt_names(certificate: &X509Certificate<'_>) -> Vec<AltName> {
    let extension = certificate.subject_alternative_name().ok().flatten();
    let names = extension.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    names.iter().filter_map(alt_name).collect()
}

fn alt_name(name: &GeneralName<'_>) -> Option<AltName> {
    match name {
        GeneralName::DNSName(name) => Some(AltName::Dns((*name).to_owned())),
        GeneralName::IPAddress(bytes) => <[u8; 4]>::try_from(*bytes)
            .map(IpAddr::from)
            .or_else(|_| <[u8; 16]>::try_from(*bytes).map(IpAddr::from))
            .ok()
            .map(AltName::Ip),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_hours(24);

    fn server(names: &[&str]) -> Subject {
        Subject::server("api", names.iter().map(|name| name.parse().unwrap()))
    }

    #[test]
    fn a_good_certificate_is_kept_until_thirty_days_before_its_end() {
        let now = SystemTime::now();
        let authority = Authority::generate("ca", now).unwrap();
        let subject = server(&["::1", "127.0.0.1", "localhost"]);
        let identity = authority.issue(&subject, now).unwrap();
        assert_eq!(leaf_flaw(&identity, &subject, &authority, now), None);
        assert_eq!(leaf_flaw(&identity, &subject, &authority, now + 334 * DAY), None);
        assert_eq!(leaf_flaw(&identity, &subject, &authority, now + 336 * DAY), Some(Flaw::Expires));
    }

    #[test]
    fn each_flaw_is_found() {
        let now = SystemTime::now();
        let (authority, other) = (Authority::generate("ca", now).unwrap(), Authority::generate("ca", now).unwrap());
        let subject = server(&["::1"]);
        let identity = authority.issue(&subject, now).unwrap();
        assert_eq!(leaf_flaw(&identity, &subject, &other, now), Some(Flaw::OtherAuthority));
        let more = server(&["::1", "api.example.com"]);
        let missing = Flaw::NameMissing("api.example.com".parse().unwrap());
        assert_eq!(leaf_flaw(&identity, &more, &authority, now), Some(missing));
        let client = Subject::client("api", None);
        assert_eq!(leaf_flaw(&identity, &client, &authority, now), Some(Flaw::OtherSubject));
        let foreign_key = Identity { key: other.key(), ..identity.clone() };
        assert_eq!(leaf_flaw(&foreign_key, &subject, &authority, now), Some(Flaw::OtherKey));
        let rubbish = Identity { certificate: "x".into(), ..identity };
        assert!(matches!(leaf_flaw(&rubbish, &subject, &authority, now), Some(Flaw::Unreadable(_))));
    }

    #[test]
    fn an_authority_renewed_with_its_key_still_stands_for_what_it_signed() {
        let now = SystemTime::now();
        let authority = Authority::generate("ca", now).unwrap();
        let subject = Subject::client("u", Some("g"));
        let identity = authority.issue(&subject, now).unwrap();
        let key = KeyPair::from_pem(&authority.key()).unwrap();
        assert_eq!(authority_flaw(authority.certificate(), &key, now), None);
        assert_eq!(authority_flaw(authority.certificate(), &key, now + 3300 * DAY), Some(Flaw::Expires));
        let renewed = Authority::with_key("ca", key, now).unwrap();
        assert_ne!(renewed.certificate(), authority.certificate());
        assert_eq!(leaf_flaw(&identity, &subject, &renewed, now), None);
    }

    #[test]
    fn an_agents_old_certificate_by_which_it_cannot_be_reached_is_made_anew() {
        let now = SystemTime::now();
        let authority = Authority::generate("ca", now).unwrap();
        let agent = crate::pki::directory::agent(&"h1".parse().unwrap(), &[]);
        let identity = authority.issue(&agent, now).unwrap();
        assert_eq!(leaf_flaw(&identity, &agent, &authority, now), None);
        let old = Subject::client("ucloud:agent:h1", Some("ucloud:agents"));
        let identity = authority.issue(&old, now).unwrap();
        assert_eq!(leaf_flaw(&identity, &agent, &authority, now), Some(Flaw::OtherSubject));
    }

    #[test]
    fn the_group_is_part_of_the_subject() {
        let now = SystemTime::now();
        let authority = Authority::generate("ca", now).unwrap();
        let identity = authority.issue(&Subject::client("u", Some("g")), now).unwrap();
        for other in [Some("system:masters"), None] {
            let other = Subject::client("u", other);
            assert_eq!(leaf_flaw(&identity, &other, &authority, now), Some(Flaw::OtherSubject));
        }
    }
}
