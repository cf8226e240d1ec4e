//! A watch over WebSocket (RFC 6455), as browsers read it: each event is a text message.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt as _, StreamExt as _};
use http::header::{CONNECTION, HeaderName, HeaderValue, UPGRADE};
use http::{HeaderMap, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::derive_accept_key;
use tokio_tungstenite::tungstenite::protocol::{Role, WebSocketConfig};
use tokio_tungstenite::tungstenite::{Error, Message, Utf8Bytes};

use super::respond::{self, Body};
use crate::status::ApiError;

const KEY: HeaderName = HeaderName::from_static("sec-websocket-key");
const VERSION: HeaderName = HeaderName::from_static("sec-websocket-version");
const ACCEPT: HeaderName = HeaderName::from_static("sec-websocket-accept");
const PROTOCOL: HeaderName = HeaderName::from_static("sec-websocket-protocol");
/// Subprotocols that begin so carry a bearer token, since browsers cannot set headers; they are never chosen.
const BEARER: &str = "base64url.bearer.authorization.k8s.io.";
/// Clients have nothing to say but pings and that they close.
const MAX_MESSAGE: usize = 4 * 1024;
/// So much may wait for a client that is slow, beside the event that is being sent.
const WRITE_BUFFER: usize = 64 * 1024;
/// A client that takes nothing for so long is gone.
const SEND_TIMEOUT: Duration = Duration::from_mins(1);

/// Whether the request wants to go on over WebSocket.
pub(super) fn is_asked_for(headers: &HeaderMap) -> bool {
    let has = |name: HeaderName, token: &str| {
        let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|text| text.split(',')).any(|given| given.trim().eq_ignore_ascii_case(token))
    };
    has(CONNECTION, "upgrade") && has(UPGRADE, "websocket")
}

/// The answer that changes the protocol.
pub(super) fn handshake(headers: &HeaderMap) -> Result<Response<Body>, ApiError> {
    if headers.get(VERSION).is_none_or(|version| version != "13") {
        return Err(ApiError::bad_request("Sec-WebSocket-Version must be 13"));
    }
    let key = headers.get(KEY).ok_or_else(|| ApiError::bad_request("Sec-WebSocket-Key is missing"))?;
    let accept = HeaderValue::from_str(&derive_accept_key(key.as_bytes())).map_err(ApiError::internal)?;
    let mut response = Response::new(respond::full(Bytes::new()));
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let own = response.headers_mut();
    own.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    own.insert(UPGRADE, HeaderValue::from_static("websocket"));
    own.insert(ACCEPT, accept);
    let offered = headers.get_all(PROTOCOL).iter().filter_map(|value| value.to_str().ok());
    let chosen = offered.flat_map(|text| text.split(',')).map(str::trim).find(|protocol| !protocol.starts_with(BEARER));
    if let Some(protocol) = chosen.and_then(|protocol| HeaderValue::from_str(protocol).ok()) {
        own.insert(PROTOCOL, protocol);
    }
    Ok(response)
}

/// Sends pieces of whole lines, each line as a message, until either side ends.
pub(super) async fn send(upgrade: OnUpgrade, pieces: impl futures::Stream<Item = Bytes> + Send) {
    let stream = match upgrade.await {
        Ok(upgraded) => TokioIo::new(upgraded),
        Err(error) => {
            tracing::debug!(%error, "a client did not go on over WebSocket");
            return;
        }
    };
    let config = WebSocketConfig::default()
        .max_message_size(Some(MAX_MESSAGE))
        .max_frame_size(Some(MAX_MESSAGE))
        .read_buffer_size(MAX_MESSAGE)
        .write_buffer_size(WRITE_BUFFER);
    let socket = WebSocketStream::from_raw_socket(stream, Role::Server, Some(config)).await;
    match exchange(socket, pieces).await {
        Ok(()) | Err(Error::ConnectionClosed) => {}
        Err(error) => tracing::debug!(%error, "a WebSocket ended with an error"),
    }
}

async fn exchange<S>(mut socket: WebSocketStream<S>, pieces: impl futures::Stream<Item = Bytes>) -> Result<(), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    let mut pieces = std::pin::pin!(pieces);
    loop {
        tokio::select! {
            piece = pieces.next() => {
                let Some(piece) = piece else { break };
                // a client that does not read makes it wait; how far it may then fall behind is bounded by the history
                match tokio::time::timeout(SEND_TIMEOUT, send_lines(&mut socket, &piece)).await {
                    Ok(sent) => sent?,
                    Err(_elapsed) => return Err(Error::ConnectionClosed),
                }
            }
            // pings are answered while reading
            message = socket.next() => match message {
                None | Some(Ok(Message::Close(_))) => break,
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
            },
        }
    }
    socket.close(None).await
}

async fn send_lines<S>(socket: &mut WebSocketStream<S>, piece: &Bytes) -> Result<(), Error>
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    for line in lines(piece) {
        let text = Utf8Bytes::try_from(line).map_err(io::Error::other)?;
        socket.feed(Message::Text(text)).await?;
    }
    socket.flush().await
}

/// The lines of a piece, without a copy.
fn lines(piece: &Bytes) -> impl Iterator<Item = Bytes> {
    let all = piece.clone();
    let parts = piece.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    parts.map(move |line| all.slice_ref(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_handshake_is_that_of_the_rfc() {
        let headers = HeaderMap::from_iter([
            (CONNECTION, HeaderValue::from_static("keep-alive, Upgrade")),
            (UPGRADE, HeaderValue::from_static("WebSocket")),
            (VERSION, HeaderValue::from_static("13")),
            (KEY, HeaderValue::from_static("dGhlIHNhbXBsZSBub25jZQ==")),
            (PROTOCOL, HeaderValue::from_static("base64url.bearer.authorization.k8s.io.dG9rZW4, events")),
        ]);
        assert!(is_asked_for(&headers));
        let response = handshake(&headers).unwrap();
        assert_eq!(response.headers()[ACCEPT], "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(response.headers()[PROTOCOL], "events", "a token is no protocol");
        assert!(!is_asked_for(&HeaderMap::new()));
        assert_eq!(handshake(&HeaderMap::new()).unwrap_err().code(), 400);
    }

    #[test]
    fn each_line_is_a_message() {
        let piece = Bytes::from_static(b"{\"a\":1}\n{\"b\":2}\n");
        assert_eq!(lines(&piece).collect::<Vec<_>>(), [&b"{\"a\":1}"[..], b"{\"b\":2}"]);
    }
}
