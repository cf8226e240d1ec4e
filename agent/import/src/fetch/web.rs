//! Sources on web servers. The URL and every redirect are users' or strangers' text: each hop is checked anew,
//! and a name is resolved by ourselves, so that the address that was checked is the one that is connected to.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client, Response, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::LOCATION,
    redirect,
};

use super::{FetchError, Origin, STALL, Source};
use crate::address::{AddressPolicy, Refused};

const MAX_REDIRECTS: usize = 5;
const CONNECT: Duration = Duration::from_secs(10);

/// Fetches from web servers.
pub struct Web {
    client: Client,
    policy: Arc<AddressPolicy>,
}

impl Web {
    /// A client that connects to what `policy` allows.
    pub fn new(policy: AddressPolicy) -> Result<Self, reqwest::Error> {
        // reqwest takes TLS's cryptography from the process' default; where another part of the process has
        // installed one, that one stays.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let policy = Arc::new(policy);
        let client = Client::builder()
            .user_agent(concat!("ucloud/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .dns_resolver(Arc::new(CheckedResolver(Arc::clone(&policy))))
            // A proxy would connect to addresses that nobody has checked.
            .no_proxy()
            .connect_timeout(CONNECT)
            .read_timeout(STALL)
            .pool_max_idle_per_host(0)
            .build()?;
        Ok(Self { client, policy })
    }

    /// Follows `url` to the answer that holds the bytes.
    pub async fn open(&self, url: &str) -> Result<Source, FetchError> {
        let invalid = || FetchError::Url { url: url.to_owned(), why: "it is no URL" };
        let mut url = Url::parse(url).map_err(|_| invalid())?;
        for _ in 0..=MAX_REDIRECTS {
            let host = self.check(&url)?;
            let answer = self.client.get(url.clone()).send().await.map_err(|error| failure(&host, error))?;
            match answer.status() {
                status if status.is_redirection() => url = redirected(&url, &answer, &host)?,
                reqwest::StatusCode::OK => {
                    return Ok(Source { size: answer.content_length(), name: host, bytes: Origin::Web(answer) });
                }
                status => return Err(FetchError::Status { host, status }),
            }
        }
        Err(FetchError::Redirects(MAX_REDIRECTS))
    }

    /// The host of a URL that may be asked. Names are checked when they are resolved; an address in the URL's
    /// text is never resolved, and so is checked here.
    fn check(&self, url: &Url) -> Result<String, FetchError> {
        let unusable = |why| FetchError::Url { url: shown(url), why };
        if !matches!(url.scheme(), "http" | "https") {
            return Err(unusable("only http and https are fetched"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(unusable("it holds a user name or password"));
        }
        let host = url.host_str().ok_or_else(|| unusable("it has no host"))?;
        if let Ok(address) = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>() {
            self.policy.check(address).map_err(|refused| FetchError::Address { host: host.to_owned(), refused })?;
        }
        Ok(host.to_owned())
    }
}

/// A URL without what nobody should read in a message.
fn shown(url: &Url) -> String {
    let mut url = url.clone();
    let _ = url.set_password(None);
    let _ = url.set_username("");
    url.to_string()
}

fn redirected(url: &Url, answer: &Response, host: &str) -> Result<Url, FetchError> {
    let location = answer.headers().get(LOCATION).and_then(|location| location.to_str().ok());
    location
        .and_then(|location| url.join(location).ok())
        .ok_or_else(|| FetchError::Status { host: host.to_owned(), status: answer.status() })
}

fn failure(host: &str, source: reqwest::Error) -> FetchError {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(&source);
    while let Some(error) = cause {
        if let Some(NoneAllowed(refused)) = error.downcast_ref() {
            return FetchError::Address { host: host.to_owned(), refused: refused.clone() };
        }
        cause = error.source();
    }
    FetchError::Transfer { host: host.to_owned(), source }
}

/// A name has no address that may be connected to.
#[derive(Debug, thiserror::Error)]
#[error("no address of the server may be connected to: {0}")]
struct NoneAllowed(Refused);

/// Resolves names to those of their addresses that may be connected to.
struct CheckedResolver(Arc<AddressPolicy>);

impl Resolve for CheckedResolver {
    fn resolve(&self, name: Name) -> Resolving {
        let policy = Arc::clone(&self.0);
        Box::pin(async move {
            let resolved: Vec<SocketAddr> = tokio::net::lookup_host((name.as_str(), 0)).await?.collect();
            let addresses = allowed(&policy, resolved)?;
            Ok(Box::new(addresses.into_iter()) as Addrs)
        })
    }
}

fn allowed(policy: &AddressPolicy, resolved: Vec<SocketAddr>) -> Result<Vec<SocketAddr>, NoneAllowed> {
    let mut refusal = None;
    let mut addresses = Vec::new();
    for address in resolved {
        match policy.check(address.ip()) {
            Ok(()) => addresses.push(address),
            Err(refused) => refusal = Some(refused),
        }
    }
    match refusal {
        Some(refused) if addresses.is_empty() => Err(NoneAllowed(refused)),
        _ => Ok(addresses),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn web() -> Web {
        Web::new(AddressPolicy::default()).unwrap()
    }

    async fn refusal(url: &str) -> String {
        match web().open(url).await {
            Err(error @ (FetchError::Address { .. } | FetchError::Url { .. })) => error.to_string(),
            Err(error) => panic!("{url}: {error:?}"),
            Ok(_) => panic!("{url}: fetched"),
        }
    }

    #[tokio::test]
    async fn addresses_are_refused_in_every_guise() {
        for url in [
            "http://127.0.0.1/",
            "http://127.1/",
            "http://2130706433/",
            "http://0x7f.1/",
            "http://0177.0.0.1/",
            "http://127.0.0.1./",
            "http://%31%32%37.0.0.1/",
            "http://１２７.0.0.1/",
            "https://[::1]/",
            "https://[::ffff:127.0.0.1]/",
            "http://[fe80::1]/",
            "http://[64:ff9b::7f00:1]/",
            "http://169.254.169.254/latest/meta-data",
            // By a name: /etc/hosts has this one everywhere.
            "http://localhost:1/",
        ] {
            let message = refusal(url).await;
            assert!(message.contains("public addresses only"), "{url}: {message}");
        }
    }

    #[tokio::test]
    async fn only_plain_web_urls_are_fetched() {
        for url in ["", "file:///etc/passwd", "ftp://example.org/", "http://", "/a", "http://user:secret@example.org/"]
        {
            let message = refusal(url).await;
            assert!(!message.contains("secret"), "{message}");
        }
    }

    #[test]
    fn of_a_names_addresses_those_allowed_are_left() {
        let policy = AddressPolicy::default();
        let address = |text: &str| SocketAddr::new(text.parse().unwrap(), 0);
        let mixed = vec![address("127.0.0.1"), address("8.8.8.8"), address("::1")];
        assert_eq!(allowed(&policy, mixed).unwrap(), [address("8.8.8.8")]);
        assert!(allowed(&policy, vec![address("127.0.0.1"), address("::1")]).is_err());
    }
}
