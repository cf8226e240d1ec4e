//! The network side: TLS connections in, HTTP/1.1 and HTTP/2 on them, a graceful end.

mod tls;

use std::convert::Infallible;
use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::auth::PeerCertificate;
use crate::rest::Api;

pub use tls::{ServerTls, TlsError};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// HTTP/2 connections are pinged after so much silence, and closed if no answer comes.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(15);
const MAX_STREAMS: u32 = 1000;
/// Requests get so long to end when the server shuts down.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The pause after a failure to accept, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves connections from `listener` until `shutdown`; then ends watches, lets other requests finish, and returns.
pub(crate) async fn serve(api: Arc<Api>, listener: TcpListener, tls: ServerTls, shutdown: CancellationToken) {
    let acceptor = TlsAcceptor::from(tls.config);
    let connections = GracefulShutdown::new();
    let cut = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let connection = connection(api.clone(), stream, acceptor.clone(), connections.watcher());
                let connection = cut.clone().run_until_cancelled_owned(connection);
                tokio::spawn(async move {
                    if let Some(Err(error)) = connection.await {
                        tracing::debug!(%peer, error, "a connection ended with an error");
                    }
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
        api.writes.close();
        api.writes.wait().await;
    };
    if tokio::time::timeout(DRAIN_TIMEOUT, drained).await.is_err() {
        tracing::warn!("requests were cut off by the shutdown");
    }
    cut.cancel();
}

async fn connection(
    api: Arc<Api>,
    stream: TcpStream,
    acceptor: TlsAcceptor,
    watcher: Watcher,
) -> Result<(), Box<dyn Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, acceptor.accept(stream)).await??;
    let (_, session) = stream.get_ref();
    let peer = match session.peer_certificates().and_then(<[_]>::first) {
        Some(certificate) => Some(Arc::new(PeerCertificate::from_der(certificate)?)),
        None => None,
    };
    let service = service_fn(move |request: Request<Incoming>| {
        let (api, peer) = (api.clone(), peer.clone());
        async move { Ok::<_, Infallible>(api.handle(request, peer).await) }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(MAX_STREAMS)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT);
    watcher.watch(builder.serve_connection_with_upgrades(TokioIo::new(stream), service).into_owned()).await
}
