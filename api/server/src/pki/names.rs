//! What may stand in a certificate, a kubeconfig or a path: parsed here, before it gets there.

use std::{fmt, net::IpAddr, str::FromStr};

use ucloud_machinery::meta::names::dns1123_subdomain;

/// Why a text is not a name that can be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum ParseNameError {
    /// Not a host's name.
    #[error("{text:?} cannot be the name of a host: {rule}")]
    Host {
        /// What was given.
        text: String,
        /// The rule for names.
        rule: String,
    },
    /// Neither an address nor a DNS name.
    #[error("{text:?} is neither an IP address nor a DNS name: {rule}")]
    AltName {
        /// What was given.
        text: String,
        /// The rule for names.
        rule: String,
    },
    /// Not the URL of an API server.
    #[error("{text:?} is not the URL of an API server; write https://HOST:PORT, such as https://[::1]:6443")]
    ServerUrl {
        /// What was given.
        text: String,
    },
}

/// The name of a Host: a DNS-1123 subdomain, and so safe in a certificate, in a path and as an object's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostName(String);

impl HostName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for HostName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        dns1123_subdomain(text).map_err(|rule| ParseNameError::Host { text: text.to_owned(), rule })?;
        Ok(Self(text.to_owned()))
    }
}

/// A name or an address by which clients reach a server: a subject alternative name (RFC 5280, 4.2.1.6).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum AltName {
    /// An IP address.
    Ip(IpAddr),
    /// A DNS name, in lower case.
    Dns(String),
}

impl fmt::Display for AltName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ip(address) => address.fmt(f),
            Self::Dns(name) => f.write_str(name),
        }
    }
}

impl FromStr for AltName {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(address) = text.parse() {
            return Ok(Self::Ip(address));
        }
        let name = text.to_ascii_lowercase();
        dns1123_subdomain(&name).map_err(|rule| ParseNameError::AltName { text: text.to_owned(), rule })?;
        Ok(Self::Dns(name))
    }
}

/// Where clients reach the API server: `https://HOST[:PORT]`, without a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerUrl {
    url: String,
    host: AltName,
}

impl ServerUrl {
    /// The URL, without a slash at its end.
    pub fn as_str(&self) -> &str {
        &self.url
    }

    /// The name or address that the server's certificate has to carry.
    pub fn host(&self) -> &AltName {
        &self.host
    }
}

impl FromStr for ServerUrl {
    type Err = ParseNameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let refused = || ParseNameError::ServerUrl { text: text.to_owned() };
        let uri: http::Uri = text.parse().map_err(|_| refused())?;
        let host = uri.host().ok_or_else(refused)?;
        // what the authority holds besides host and port: a user name, or a port that is no number
        let plain = match uri.port_u16() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let bare = uri.authority().is_some_and(|authority| authority.as_str() == plain);
        if uri.scheme_str() != Some("https") || !bare || uri.path() != "/" || uri.query().is_some() {
            return Err(refused());
        }
        let name = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        Ok(Self { url: format!("https://{plain}"), host: name.parse().map_err(|_| refused())? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_name_is_never_a_path_or_two_names() {
        for good in ["h1", "h1.example.com", "0"] {
            assert!(good.parse::<HostName>().is_ok(), "{good}");
        }
        for bad in ["", "..", "../h1", "h1/x", "h1,O=system:masters", "H1", "h1 ", "h_1", "-h1"] {
            assert!(bad.parse::<HostName>().is_err(), "{bad}");
        }
    }

    #[test]
    fn a_server_url_names_host_and_port_alone() {
        let url: ServerUrl = "https://[::1]:6443/".parse().unwrap();
        assert_eq!((url.as_str(), url.host()), ("https://[::1]:6443", &AltName::Ip("::1".parse().unwrap())));
        let url: ServerUrl = "https://API.example.com".parse().unwrap();
        assert_eq!(url.host(), &AltName::Dns("api.example.com".into()));
        for bad in [
            "",
            "[::1]:6443",
            "http://[::1]:6443",
            "https://",
            "https://u@h:1",
            "https://h:99999",
            "https://h/x",
            "https://h?x=1",
        ] {
            assert!(bad.parse::<ServerUrl>().is_err(), "{bad}");
        }
    }
}
