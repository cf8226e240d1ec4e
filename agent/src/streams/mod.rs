//! The stream service: HTTP/1.1 over TLS, by which the API server takes and gives the bytes of Files, and gives those of Images
//! and Volumes.
//!
//! Nobody else is served. Whoever connects has to show a certificate of the installation's authority in the API server's
//! name; what users may do was decided there.

mod content;
mod disk;
mod part;
mod refusal;
mod tls;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    io::BufReader,
    net::{TcpListener, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;
use tracing::{debug, warn};

use crate::shared::Shared;

pub use tls::{StreamTls, TlsError};

const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The head of a request has to come within this time.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);
/// No more connections than this are served at once; others wait.
const MAX_CONNECTIONS: usize = 128;
/// So much is read at once. TLS asks for 4 KiB at a time, which would be most of what an upload costs.
const AHEAD: usize = 64 << 10;
/// The pause after a failure to accept, e.g. for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How long an object that the API server knows already may be unknown here.
const NEWS: Duration = Duration::from_secs(5);
/// How long a sender may send nothing, or a receiver take nothing, before it is given up.
const STALL: Duration = Duration::from_secs(30);

/// What `look` finds in a cache, as soon as it is there.
async fn awaited<T>(mut changes: watch::Receiver<u64>, look: impl Fn() -> Option<T>) -> Option<T> {
    let found = async {
        loop {
            if let Some(found) = look() {
                return Some(found);
            }
            changes.changed().await.ok()?;
        }
    };
    timeout(NEWS, found).await.ok().flatten()
}

/// Where streams are served, and how.
pub struct Streams {
    listener: TcpListener,
    port: u16,
    tls: TlsAcceptor,
}

impl Streams {
    /// Listens, for connections that are served once the agent runs.
    ///
    /// # Errors
    ///
    /// When the address cannot be listened on.
    pub async fn bind(address: SocketAddr, tls: StreamTls) -> io::Result<Self> {
        let listener = TcpListener::bind(address).await?;
        let port = listener.local_addr()?.port();
        Ok(Self { listener, port, tls: TlsAcceptor::from(tls.0) })
    }

    /// The port.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Serves streams, as long as the agent runs.
pub async fn serve(shared: Arc<Shared>, streams: Streams) {
    let Streams { listener, tls, .. } = streams;
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    // All of them end with this set
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await.map_err(io::Error::other)?;
            listener.accept().await.map(|accepted| (place, accepted))
        };
        tokio::select! {
            accepted = accepted => match accepted {
                Ok((place, (stream, peer))) => {
                    let connection = connection(Arc::clone(&shared), stream, tls.clone());
                    connections.spawn(async move {
                        if let Err(error) = connection.await {
                            debug!(%peer, error, "a stream ended with an error");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    shared: Arc<Shared>,
    stream: TcpStream,
    tls: TlsAcceptor,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    stream.set_nodelay(true)?;
    let stream = timeout(HANDSHAKE_TIMEOUT, tls.accept(BufReader::with_capacity(AHEAD, stream))).await??;
    let certificates = stream.get_ref().1.peer_certificates();
    tls::check_api_server(certificates.and_then(<[_]>::first))?;
    let service = TowerToHyperService::new(content::router().merge(disk::router()).with_state(shared));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    builder.serve_connection(TokioIo::new(stream), service).await?;
    Ok(())
}
