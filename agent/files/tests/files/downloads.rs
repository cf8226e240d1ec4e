//! Importing images from web servers, good and bad, over the loopback.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use crate::pool::{Lab, MIB, Server, eventually, http, sha256};
use anyhow::Result;
use axum::{
    body::Body,
    http::{StatusCode, header},
    response::{IntoResponse as _, Redirect, Response},
};
use bytes::Bytes;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::watch,
};
use ucloud_agent_core::BlockStore as _;
use ucloud_types::image::ImageFormat::{Qcow2, Raw};

#[tokio::test]
async fn an_image_is_downloaded_with_progress_and_over_redirects() -> Result<()> {
    let lab = Lab::new()?;
    let source = lab.qcow2("disk", 4, &vec![b'x'; 65536])?;
    let body = Bytes::from(fs::read(&source)?);
    let server = Server::start(move |path| {
        let body = body.clone();
        async move {
            match path.strip_prefix('/').and_then(|hops| hops.parse::<u32>().ok()) {
                Some(0) | None => body.into_response(),
                Some(hops) => Redirect::temporary(&format!("/{}", hops - 1)).into_response(),
            }
        }
    })
    .await?;
    let percent = watch::Sender::new(0);
    let image = lab.files.import_image(&lab.request("a", http(&server.url("/5")), Qcow2), &percent).await?;
    assert_eq!((image.sha256, image.virtual_size.bytes()), (sha256(&source)?, 4 * MIB));
    assert_eq!((*percent.borrow(), server.requests()), (100, 6));
    let error = lab.import(&lab.request("b", http(&server.url("/6")), Qcow2)).await.unwrap_err();
    assert_eq!((error.reason, error.terminal), ("DownloadFailed", false), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_redirect_leads_to_no_forbidden_place() -> Result<()> {
    let lab = Lab::new()?;
    // On all of 127.0.0.0/8; but 127.0.0.1 alone is allowed.
    let inner = TcpListener::bind("127.0.0.2:0").await?;
    let inner_port = inner.local_addr()?.port();
    let reached = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&reached);
    let accepting = tokio::spawn(async move {
        let _ = inner.accept().await;
        told.store(true, Ordering::SeqCst);
    });
    for place in [
        format!("http://127.0.0.2:{inner_port}/"),
        format!("http://[::1]:{inner_port}/"),
        format!("http://[::ffff:7f00:2]:{inner_port}/"),
        format!("//127.0.0.2:{inner_port}/"),
        "file:///etc/passwd".to_owned(),
        "http://user:password@127.0.0.1/".to_owned(),
    ] {
        let location = place.clone();
        let server = Server::start(move |_| {
            let location = location.clone();
            async move { (StatusCode::FOUND, [(header::LOCATION, location)]).into_response() }
        })
        .await?;
        let error = lab.import(&lab.request("a", http(&server.url("/")), Raw)).await.unwrap_err();
        assert_eq!((error.reason, error.terminal), ("SourceRefused", true), "{place}: {error}");
    }
    assert!(!reached.load(Ordering::SeqCst), "the forbidden place was connected to");
    accepting.abort();
    Ok(())
}

#[tokio::test]
async fn a_name_that_leads_to_the_host_itself_is_refused() -> Result<()> {
    let lab = Lab::with(|config| config.allowed.clear())?;
    let server = Server::start(|_| async { "x".into_response() }).await?;
    let url = format!("http://localhost:{}/", server.address.port());
    let error = lab.import(&lab.request("a", http(&url), Raw)).await.unwrap_err();
    assert_eq!((error.reason, error.terminal, server.requests()), ("SourceRefused", true, 0), "{error}");
    Ok(())
}

#[tokio::test]
async fn a_failed_download_is_tried_again() -> Result<()> {
    let lab = Lab::new()?;
    let server = Server::start(|path| async move {
        match path.as_str() {
            "/404" => StatusCode::NOT_FOUND.into_response(),
            "/503" => StatusCode::SERVICE_UNAVAILABLE.into_response(),
            "/nowhere" => StatusCode::FOUND.into_response(),
            _ => StatusCode::NO_CONTENT.into_response(),
        }
    })
    .await?;
    for (path, word) in [("/404", "404"), ("/503", "503"), ("/nowhere", "302"), ("/204", "204")] {
        let error = lab.import(&lab.request("a", http(&server.url(path)), Raw)).await.unwrap_err();
        assert_eq!((error.reason, error.terminal), ("DownloadFailed", false), "{path}: {error}");
        assert!(error.message.contains(word), "{error}");
    }
    // Nobody listens; and somebody who hangs up before all has come.
    let closed = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
    let rude = TcpListener::bind("127.0.0.1:0").await?;
    let rude_address = rude.local_addr()?;
    tokio::spawn(async move {
        if let Ok((mut stream, _)) = rude.accept().await {
            let _ = stream.read(&mut [0; 4096]).await;
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbytes").await;
        }
    });
    for address in [closed, rude_address] {
        let error = lab.import(&lab.request("a", http(&format!("http://{address}/")), Raw)).await.unwrap_err();
        assert_eq!((error.reason, error.terminal), ("DownloadFailed", false), "{error}");
    }
    assert_eq!(lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn a_source_without_end_is_cut_off() -> Result<()> {
    let lab = Lab::with(|config| config.max_source = "1Mi".parse().unwrap())?;
    let server = Server::start(|path| async move {
        let chunk = Bytes::from(vec![0; 65536]);
        let endless = Body::from_stream(futures_stream(chunk));
        match path.as_str() {
            "/announced" => ([(header::CONTENT_LENGTH, "1048577")], endless).into_response(),
            _ => endless.into_response(),
        }
    })
    .await?;
    for path in ["/announced", "/endless"] {
        let error = lab.import(&lab.request("a", http(&server.url(path)), Raw)).await.unwrap_err();
        assert_eq!((error.reason, error.terminal), ("ImageTooLarge", true), "{path}: {error}");
    }
    assert_eq!(lab.contents()?, [""; 0]);
    Ok(())
}

#[tokio::test]
async fn two_imports_of_one_image_do_the_work_once() -> Result<()> {
    let lab = Lab::new()?;
    let server = Server::start(|_| async { vec![b'x'; 1 << 20].into_response() }).await?;
    let request = lab.request("a", http(&server.url("/")), Raw);
    let (first, second) = tokio::join!(lab.import(&request), lab.import(&request));
    assert_eq!(first?, second?);
    assert_eq!(server.requests(), 1);
    Ok(())
}

#[tokio::test]
async fn an_import_that_is_given_up_leaves_nothing_and_the_next_one_succeeds() -> Result<()> {
    let lab = Lab::new()?;
    let source = lab.qcow2("disk", 64, &vec![b'x'; 1 << 20])?;
    let body = Bytes::from(fs::read(&source)?);
    let server = Server::start(move |_| {
        let body = body.clone();
        async move { body.into_response() }
    })
    .await?;
    let request = lab.request("a", http(&server.url("/")), Qcow2);
    // Given up at ever later points, until it gets through.
    let mut given_up = 0;
    for milliseconds in 0.. {
        match tokio::time::timeout(Duration::from_millis(milliseconds), lab.import(&request)).await {
            Ok(image) => {
                image?;
                break;
            }
            Err(_) => given_up += 1,
        }
        eventually("nothing is left in the making", || {
            lab.contents().is_ok_and(|found| !found.iter().any(|path| path.starts_with("tmp/")))
        })
        .await?;
    }
    assert!(given_up > 5, "it was never given up");
    assert_eq!(lab.files.images(&lab.pool()).await?, ["a"]);
    assert_eq!(lab.contents()?.len(), 2);
    Ok(())
}

/// The same bytes, for ever.
fn futures_stream(chunk: Bytes) -> impl futures::Stream<Item = Result<Bytes, std::io::Error>> {
    futures::stream::repeat_with(move || Ok(chunk.clone()))
}

#[tokio::test]
async fn nothing_is_unpacked_on_the_way() -> Result<()> {
    // A server that says gzip where a bomb is: the bytes are taken as they are.
    let lab = Lab::new()?;
    let server = Server::start(|_| async {
        let headers = [(header::CONTENT_ENCODING, "gzip")];
        (headers, [&[0x1f, 0x8b, 8, 0][..], &[0; 1000]].concat()).into_response() as Response
    })
    .await?;
    let error = lab.import(&lab.request("a", http(&server.url("/")), Raw)).await.unwrap_err();
    assert_eq!(error.reason, "FormatMismatch", "{error}");
    Ok(())
}
