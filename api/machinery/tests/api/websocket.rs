//! Watches over WebSocket.

use std::sync::Arc;

use base64::Engine as _;
use futures::{SinkExt as _, StreamExt as _};
use kube::api::PostParams;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::{Bytes, Error, Message};

use crate::support::{Harness, PATIENCE, widget};

const PATH: &str = "/apis/test.example.com/v1/namespaces/default/widgets";

type Socket = WebSocketStream<TlsStream<TcpStream>>;

/// Opens a WebSocket as `admin`, with subprotocols to choose from.
async fn open(harness: &Harness, path: &str, protocols: &str) -> Result<(Socket, http::HeaderMap), Error> {
    let kubeconfig: Value = serde_json::from_str(&harness.kubeconfig("admin")).unwrap();
    let pem = |value: &Value| base64::engine::general_purpose::STANDARD.decode(value.as_str().unwrap()).unwrap();
    let user = &kubeconfig["users"][0]["user"];
    let certificate = CertificateDer::from_pem_slice(&pem(&user["client-certificate-data"])).unwrap();
    let key = PrivateKeyDer::from_pem_slice(&pem(&user["client-key-data"])).unwrap();
    let ca = pem(&kubeconfig["clusters"][0]["cluster"]["certificate-authority-data"]);
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(&ca).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_client_auth_cert(vec![certificate], key)
        .unwrap();
    tls.alpn_protocols = vec![b"http/1.1".to_vec()];
    let stream = TcpStream::connect(harness.address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream).await.unwrap();
    let mut request = format!("wss://localhost{path}").into_client_request().unwrap();
    if !protocols.is_empty() {
        request.headers_mut().insert("sec-websocket-protocol", protocols.parse().unwrap());
    }
    let (socket, response) = tokio_tungstenite::client_async(request, stream).await?;
    Ok((socket, response.headers().clone()))
}

/// The next event's type and the name of its object, bookmarks left out.
async fn change(socket: &mut Socket) -> (String, String) {
    loop {
        let message = tokio::time::timeout(PATIENCE, socket.next()).await.expect("an event in time").unwrap().unwrap();
        let Message::Text(text) = message else { continue };
        let event: Value = serde_json::from_str(&text).expect("each message is one event");
        if event["type"] != "BOOKMARK" {
            let name = event["object"]["metadata"]["name"].as_str().unwrap_or_default();
            return (event["type"].as_str().unwrap().to_owned(), name.to_owned());
        }
    }
}

fn added(name: &str) -> (String, String) {
    ("ADDED".to_owned(), name.to_owned())
}

#[tokio::test]
async fn each_event_is_a_message() {
    let harness = Harness::start().await;
    let widgets = harness.widgets().await;
    for name in ["a", "b"] {
        widgets.create(&PostParams::default(), &widget(name, "red")).await.unwrap();
    }
    let (mut socket, headers) = open(&harness, &format!("{PATH}?watch=true"), "events, other").await.unwrap();
    assert_eq!(headers["sec-websocket-protocol"], "events");
    assert_eq!((change(&mut socket).await, change(&mut socket).await), (added("a"), added("b")));
    widgets.create(&PostParams::default(), &widget("c", "red")).await.unwrap();
    assert_eq!(change(&mut socket).await, added("c"));

    socket.send(Message::Ping(Bytes::from_static(b"there?"))).await.unwrap();
    loop {
        match tokio::time::timeout(PATIENCE, socket.next()).await.expect("a pong").unwrap().unwrap() {
            Message::Pong(payload) => {
                assert_eq!(&*payload, b"there?");
                break;
            }
            other => assert!(other.is_text(), "{other:?}"),
        }
    }
    socket.close(None).await.unwrap();
    let end = async { while socket.next().await.is_some_and(|message| message.is_ok()) {} };
    tokio::time::timeout(PATIENCE, end).await.expect("the server closes too");
}

#[tokio::test]
async fn a_watch_over_websocket_ends_with_the_server() {
    let mut harness = Harness::start().await;
    let (mut socket, headers) = open(&harness, &format!("{PATH}?watch=true&resourceVersion=0"), "").await.unwrap();
    assert!(!headers.contains_key("sec-websocket-protocol"));
    harness.stop().await;
    let end = async {
        loop {
            match socket.next().await {
                Some(Ok(Message::Close(_))) => return,
                Some(Ok(_)) => {}
                other => panic!("no clean end: {other:?}"),
            }
        }
    };
    tokio::time::timeout(PATIENCE, end).await.expect("an end");
}

#[tokio::test]
async fn what_is_no_watch_stays_http() {
    let harness = Harness::start().await;
    assert!(matches!(open(&harness, PATH, "").await, Err(Error::Http(answer)) if answer.status() == 200));
    let bad = format!("{PATH}?watch=true&resourceVersion=x");
    assert!(matches!(open(&harness, &bad, "").await, Err(Error::Http(answer)) if answer.status() == 400));
}
