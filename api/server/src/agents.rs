//! The way from the API server to the agents of hosts: one connection for each request, by which bytes stream both ways.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem, pem::PemObject as _},
};
use socket2::{SockRef, TcpKeepalive};
use tokio::{io::BufReader, net::TcpStream, time::timeout};
use tokio_rustls::TlsConnector;
use ucloud_machinery::strategy::ByteStream;
use ucloud_types::{Host, meta::AGENT_DOMAIN};

/// So much is read at once. TLS asks for 4 KiB at a time, which would be most of what a download costs.
const AHEAD: usize = 64 << 10;
/// An address that has not answered for so long does not.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// A connection is asked after so much silence whether it lives.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// One that does not, or takes no byte, for so long is given up. An agent may have to read again what it has of a file
/// before it takes more.
const DEAD: Duration = Duration::from_mins(2);

/// Why the way to the agents cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum AgentsError {
    /// The API server's certificate for agents is not PEM.
    #[error("cannot read the certificate for agents")]
    Certificate(#[source] pem::Error),
    /// Its key is not PEM.
    #[error("cannot read the key of the certificate for agents")]
    Key(#[source] pem::Error),
    /// The authority is not PEM.
    #[error("cannot read the authority of agents")]
    Authority(#[source] pem::Error),
    /// They do not fit together, or cannot be used.
    #[error("cannot use the certificate for agents, its key and the authority")]
    Unusable(#[from] rustls::Error),
}

/// Why an agent does not answer.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// It says nowhere that it can be reached.
    #[error("its agent takes no streams: start ucloud-agent with --streams there")]
    NoStreams,
    /// Its host's name fits into no certificate.
    #[error("its name is too long to be reached by TLS")]
    Name,
    /// None of its addresses answers.
    #[error("its agent does not answer ({0}): see to the host, and to port {1} on the way to it")]
    Silent(String, u16),
    /// The connection broke before there was an answer.
    #[error("the connection to its agent broke off: {0}")]
    Broken(#[from] hyper::Error),
}

/// The way to the agents.
#[derive(Clone)]
pub struct Agents {
    tls: TlsConnector,
}

impl Agents {
    /// From PEM: the API server's certificate and key as it shows them to agents, and the authority of theirs.
    pub fn from_pem(certificate: &[u8], key: &[u8], authority: &[u8]) -> Result<Self, AgentsError> {
        let chain = CertificateDer::pem_slice_iter(certificate).collect::<Result<Vec<_>, _>>();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(AgentsError::Key)?;
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(authority) {
            roots.add(certificate.map_err(AgentsError::Authority)?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_client_auth_cert(chain.map_err(AgentsError::Certificate)?, key)?;
        Ok(Self { tls: TlsConnector::from(Arc::new(config)) })
    }

    /// What the agent of the host answers. Its certificate must be that of this host's agent.
    pub async fn send(&self, host: &Host, request: Request<ByteStream>) -> Result<Response<Incoming>, Unreachable> {
        let name = host.metadata.name.as_deref().unwrap_or_default();
        let status = host.status.as_ref();
        let port = status.and_then(|status| status.stream_port).ok_or(Unreachable::NoStreams)?;
        let server = ServerName::try_from(format!("{name}{AGENT_DOMAIN}")).map_err(|_| Unreachable::Name)?;
        let mut silent = "it has no address".to_owned();
        for address in status.iter().flat_map(|status| &status.addresses) {
            match timeout(CONNECT_TIMEOUT, self.connect(*address, port, server.clone())).await {
                Ok(Ok(stream)) => {
                    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
                    // it ends with the answer's body
                    tokio::spawn(connection);
                    return Ok(sender.send_request(request).await?);
                }
                Ok(Err(error)) => silent = format!("{address}: {error}"),
                Err(_) => silent = format!("{address}: no answer within {} s", CONNECT_TIMEOUT.as_secs()),
            }
        }
        Err(Unreachable::Silent(silent, port))
    }

    async fn connect(
        &self,
        address: IpAddr,
        port: u16,
        server: ServerName<'static>,
    ) -> std::io::Result<tokio_rustls::client::TlsStream<BufReader<TcpStream>>> {
        let stream = TcpStream::connect(SocketAddr::new(address, port)).await?;
        stream.set_nodelay(true)?;
        let socket = SockRef::from(&stream);
        socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
        socket.set_tcp_user_timeout(Some(DEAD))?;
        self.tls.connect(server, BufReader::with_capacity(AHEAD, stream)).await
    }
}
