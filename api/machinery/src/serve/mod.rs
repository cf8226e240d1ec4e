//! The network side: TLS connections in, HTTP/1.1 and HTTP/2 on them, a graceful end.

mod read_ahead;
mod tls;

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;
use std::{future, io};

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::PeerCertificate;
use crate::rest::Api;

use read_ahead::ReadAhead;

pub use tls::{ServerTls, TlsError};

/// The protocols' names in TLS (ALPN).
const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request has to come within this time; so has the first request of a connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// No more connections than this are served at once; others wait.
const MAX_CONNECTIONS: usize = 16 * 1024;
/// Of these, so many may be of clients without a certificate, who can ask for health alone: strangers must not take the
/// places of those who have one.
const MAX_ANONYMOUS: usize = 256;
/// HTTP/2 connections are pinged after so much silence, and closed if no answer comes.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_STREAMS: u32 = 250;
/// Requests get so long to end when the server shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failure to accept, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections from `listener` until `shutdown`; then ends watches, lets other requests finish, and returns.
pub(crate) async fn serve(api: Arc<Api>, listener: TcpListener, tls: ServerTls, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls.config);
    let connections = GracefulShutdown::new();
    let cut = CancellationToken::new();
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let anonymous = Arc::new(Semaphore::new(MAX_ANONYMOUS));
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|accepted| (place, accepted))
        };
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accepted => accepted,
        };
        match accepted {
            Ok((place, (stream, peer))) => {
                let nodelay = stream.set_nodelay(true);
                let (acceptor, anonymous) = (acceptor.clone(), anonymous.clone());
                let connection = connection(api.clone(), stream, acceptor, anonymous, connections.watcher());
                let connection = cut.clone().run_until_cancelled_owned(connection);
                tokio::spawn(async move {
                    if let (Ok(()), Some(Err(error))) = (nodelay, connection.await) {
                        tracing::debug!(%peer, error, "a connection ended with an error");
                    }
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    api.shutdown.cancel();
    let drained = async {
        connections.shutdown().await;
        // those whose clients have gone
        api.tasks.close();
        api.tasks.wait().await;
    };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!("requests were cut off by the shutdown");
    }
    cut.cancel();
}

async fn connection(
    api: Arc<Api>,
    stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
    acceptor: TlsAcceptor,
    anonymous: Arc<Semaphore>,
    watcher: Watcher,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(ReadAhead::new(stream))).await??;
    let (_, session) = stream.get_ref();
    let peer = match session.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => Some(Arc::new(PeerCertificate::from_der(certificate)?)),
        None => None,
    };
    let _place = if peer.is_none() { Some(anonymous.try_acquire()?) } else { None };
    let is_http2 = session.alpn_protocol() == Some(HTTP2);
    let begun = CancellationToken::new();
    let first = begun.clone();
    let service = service_fn(move |request: Request<Incoming>| {
        first.cancel();
        let (api, peer) = (api.clone(), peer.clone());
        async move { Ok::<_, Infallible>(api.handle(request, peer).await) }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // not guessed from the first bytes, for which a client could let us wait
    let mut builder = if is_http2 { builder.http2_only() } else { builder.http1_only() };
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    let serving = watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned());
    let silence = async {
        if tokio::time::timeout(HEADER_TIMEOUT, begun.cancelled()).await.is_ok() {
            future::pending::<()>().await;
        }
    };
    tokio::select! {
        end = serving => end,
        () = silence => Err("no request came".into()),
    }
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, KeyPair};
    use rustls::pki_types::ServerName;
    use tokio::io::AsyncReadExt as _;
    use tokio_rustls::TlsConnector;

    use super::*;
    use crate::auth::{Attributes, Authorizer, Decision};
    use crate::server::ApiServer;
    use crate::storage::MemoryStorage;
    use crate::strategy::Lister;

    struct Nothing;

    impl Authorizer for Nothing {
        fn authorize(&self, _: &Attributes<'_>, _: &dyn Lister) -> Decision {
            Decision::Deny(String::new())
        }
    }

    /// A server's TLS, and a client's that trusts it and speaks `protocol`.
    fn tls(protocol: &[u8]) -> (TlsAcceptor, TlsConnector) {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new(["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
        let pem = certificate.pem();
        let server = ServerTls::from_pem(pem.as_bytes(), key.serialize_pem().as_bytes(), pem.as_bytes()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let client = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let mut client = client.unwrap().with_root_certificates(roots).with_no_client_auth();
        client.alpn_protocols = vec![protocol.to_vec()];
        (TlsAcceptor::from(server.config), TlsConnector::from(Arc::new(client)))
    }

    /// What becomes of a connection whose client does what `client` does, and then nothing.
    async fn outcome(
        protocol: &[u8],
        places: usize,
        client: impl AsyncFnOnce(tokio::io::DuplexStream, TlsConnector),
    ) -> String {
        let api = ApiServer::builder(MemoryStorage::new(), Nothing).build().unwrap().api;
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        let (acceptor, connector) = tls(protocol);
        let connections = GracefulShutdown::new();
        let anonymous = Arc::new(Semaphore::new(places));
        let serving = connection(api, ours, acceptor, anonymous, connections.watcher());
        let (end, ()) = tokio::join!(serving, client(theirs, connector));
        end.err().map_or_else(|| "a good end".to_owned(), |error| error.to_string())
    }

    async fn handshake(stream: tokio::io::DuplexStream, connector: TlsConnector) {
        let name = ServerName::try_from("localhost").unwrap();
        let mut stream = connector.connect(name, stream).await.unwrap();
        // until the server hangs up, or says something and then hangs up
        let _ = stream.read_to_end(&mut Vec::new()).await;
    }

    #[tokio::test(start_paused = true)]
    async fn silent_clients_are_sent_away() {
        let silent = async |mut stream: tokio::io::DuplexStream, _: TlsConnector| {
            let _ = stream.read_to_end(&mut Vec::new()).await;
        };
        assert_eq!(outcome(HTTP2, 1, silent).await, "deadline has elapsed");
        for protocol in [HTTP2, HTTP1] {
            let end = outcome(protocol, 1, handshake).await;
            // of HTTP/1's two limits, which are as long, either may be the first to be noticed
            let known = ["no request came", "read header from client timeout"];
            assert!(known.contains(&end.as_str()), "{}: {end}", String::from_utf8_lossy(protocol));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn strangers_do_not_take_all_places() {
        assert_eq!(outcome(HTTP2, 0, handshake).await, "no permits available");
    }
}
