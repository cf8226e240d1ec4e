//! HTTP/1.1 and HTTP/2 to the server, with as little work per request as there can be: bodies come prebuilt, and answers
//! are read and thrown away unless somebody wants them.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use kube::client::ConfigExt as _;
use rustls::pki_types::ServerName;
use secrecy::ExposeSecret as _;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The flow control of Go's HTTP/2 client, with which kubectl and most controllers come.
const STREAM_WINDOW: u32 = 4 << 20;
const CONNECTION_WINDOW: u32 = 1 << 30;

/// The protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
}

/// Where the server is, and how to prove to it who we are.
pub struct Endpoint {
    address: SocketAddr,
    authority: String,
    name: ServerName<'static>,
    http1: TlsConnector,
    http2: TlsConnector,
    authorization: Option<HeaderValue>,
}

impl Endpoint {
    /// From a client's configuration. Client certificates and tokens are supported.
    pub async fn new(config: &kube::Config) -> anyhow::Result<Self> {
        let url = &config.cluster_url;
        let authority = url.authority().with_context(|| format!("{url} has no host"))?;
        anyhow::ensure!(url.scheme_str() == Some("https"), "{url}: only https is supported");
        anyhow::ensure!(matches!(url.path(), "" | "/"), "{url}: a server below a path is not supported");
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let address = tokio::net::lookup_host((host.as_str(), authority.port_u16().unwrap_or(443)))
            .await
            .with_context(|| format!("cannot resolve {host}"))?
            .next()
            .with_context(|| format!("{host} has no address"))?;
        let name = config.tls_server_name.clone().unwrap_or(host);
        let mut tls = config.rustls_client_config().context("cannot use the certificates of the kubeconfig")?;
        let mut connector = |protocol: &[u8]| {
            tls.alpn_protocols = vec![protocol.to_vec()];
            TlsConnector::from(Arc::new(tls.clone()))
        };
        let authorization = match &config.auth_info.token {
            Some(token) => {
                let bearer = format!("Bearer {}", token.expose_secret());
                Some(HeaderValue::from_str(&bearer).context("cannot use the kubeconfig's token")?)
            }
            None => None,
        };
        Ok(Self {
            address,
            authority: authority.to_string(),
            name: ServerName::try_from(name).context("cannot verify the server by its name")?,
            http1: connector(b"http/1.1"),
            http2: connector(b"h2"),
            authorization,
        })
    }

    /// Opens a connection.
    pub async fn connect(self: &Arc<Self>, protocol: Protocol) -> anyhow::Result<Connection> {
        let stream =
            TcpStream::connect(self.address).await.with_context(|| format!("cannot connect to {}", self.address))?;
        stream.set_nodelay(true).context("cannot set TCP_NODELAY")?;
        let connector = match protocol {
            Protocol::Http1 => &self.http1,
            Protocol::Http2 => &self.http2,
        };
        let stream = connector.connect(self.name.clone(), stream).await.context("the TLS handshake has failed")?;
        let io = TokioIo::new(stream);
        let sender = match protocol {
            Protocol::Http1 => {
                let (sender, connection) = http1::handshake(io).await?;
                tokio::spawn(connection);
                Sender::Http1(sender)
            }
            Protocol::Http2 => {
                let (sender, connection) = http2::Builder::new(TokioExecutor::new())
                    .initial_stream_window_size(STREAM_WINDOW)
                    .initial_connection_window_size(CONNECTION_WINDOW)
                    .handshake(io)
                    .await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        Ok(Connection { endpoint: self.clone(), sender })
    }
}

enum Sender {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

/// A connection to the server.
pub struct Connection {
    endpoint: Arc<Endpoint>,
    sender: Sender,
}

/// A request without what the connection adds.
pub struct Call<'a> {
    pub method: Method,
    pub path: &'a str,
    /// Media type and bytes.
    pub body: Option<(&'static str, Bytes)>,
}

impl<'a> Call<'a> {
    pub fn get(path: &'a str) -> Self {
        Self { method: Method::GET, path, body: None }
    }

    pub fn delete(path: &'a str) -> Self {
        Self { method: Method::DELETE, path, body: None }
    }

    pub fn post(path: &'a str, body: Bytes) -> Self {
        Self { method: Method::POST, path, body: Some(("application/json", body)) }
    }

    pub fn merge_patch(path: &'a str, body: Bytes) -> Self {
        Self { method: Method::PATCH, path, body: Some(("application/merge-patch+json", body)) }
    }

    /// Server-side apply. JSON is YAML, and what kube-rs and kubectl send.
    pub fn apply(path: &'a str, body: Bytes) -> Self {
        Self { method: Method::PATCH, path, body: Some(("application/apply-patch+yaml", body)) }
    }
}

impl Connection {
    /// A second user of the same connection; HTTP/1.1 serves one at a time and has none.
    pub fn share(&self) -> Option<Self> {
        match &self.sender {
            Sender::Http1(_) => None,
            Sender::Http2(sender) => {
                Some(Self { endpoint: self.endpoint.clone(), sender: Sender::Http2(sender.clone()) })
            }
        }
    }

    /// Sends a request and gives the answer as it begins.
    pub async fn send(&mut self, call: Call<'_>) -> anyhow::Result<Response<Incoming>> {
        let mut request = Request::new(Full::default());
        *request.method_mut() = call.method;
        let headers = request.headers_mut();
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        if let Some(authorization) = &self.endpoint.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if let Some((media_type, bytes)) = call.body {
            headers.insert(CONTENT_TYPE, HeaderValue::from_static(media_type));
            *request.body_mut() = Full::new(bytes);
        }
        let answer = match &mut self.sender {
            Sender::Http1(sender) => {
                request.headers_mut().insert(HOST, HeaderValue::from_str(&self.endpoint.authority)?);
                *request.uri_mut() = call.path.parse()?;
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Http2(sender) => {
                let authority = self.endpoint.authority.as_str();
                *request.uri_mut() =
                    Uri::builder().scheme("https").authority(authority).path_and_query(call.path).build()?;
                sender.ready().await?;
                sender.send_request(request).await
            }
        };
        answer.with_context(|| format!("no answer for {}", call.path))
    }

    /// Sends a request and gives the code and the bytes of the answer.
    pub async fn ask(&mut self, call: Call<'_>) -> anyhow::Result<(StatusCode, Bytes)> {
        let answer = self.send(call).await?;
        let code = answer.status();
        let mut body = answer.into_body();
        let mut bytes = BytesMut::new();
        while let Some(frame) = body.frame().await {
            if let Some(data) = frame?.data_ref() {
                bytes.extend_from_slice(data);
            }
        }
        Ok((code, bytes.freeze()))
    }

    /// Sends a request that has to succeed, and gives the number of bytes that came back.
    pub async fn succeed(&mut self, call: Call<'_>) -> anyhow::Result<usize> {
        let answer = self.send(call).await?;
        if !answer.status().is_success() {
            return Err(refusal(answer).await);
        }
        let mut body = answer.into_body();
        let mut length = 0;
        while let Some(frame) = body.frame().await {
            length += frame?.data_ref().map_or(0, Bytes::len);
        }
        Ok(length)
    }
}

/// The error of an answer that is no success.
pub async fn refusal(answer: Response<Incoming>) -> anyhow::Error {
    let code = answer.status();
    let text = match answer.into_body().collect().await {
        Ok(body) => String::from_utf8_lossy(&body.to_bytes()).chars().take(400).collect(),
        Err(error) => error.to_string(),
    };
    anyhow::anyhow!("the server answered {code}: {text}")
}
