//! Reads from a connection all that has come, and hands it on as it is asked for. TLS asks for 4 KiB at a time, which would be most of
//! what an upload costs. Who waits for more holds no memory.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, BytesMut};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::io::poll_read_buf;

/// So much is read at once.
const AHEAD: usize = 64 << 10;

/// A connection.
pub struct ReadAhead<S> {
    connection: S,
    ahead: BytesMut,
}

impl<S> ReadAhead<S> {
    pub fn new(connection: S) -> Self {
        Self { connection, ahead: BytesMut::new() }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ReadAhead<S> {
    fn poll_read(mut self: Pin<&mut Self>, task: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.ahead.is_empty() {
            let mut ahead = BytesMut::with_capacity(AHEAD);
            ready!(poll_read_buf(Pin::new(&mut self.connection), task, &mut ahead))?;
            self.ahead = ahead;
        }
        let length = self.ahead.len().min(into.remaining());
        into.put_slice(&self.ahead[..length]);
        self.ahead.advance(length);
        if self.ahead.is_empty() {
            self.ahead = BytesMut::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ReadAhead<S> {
    fn poll_write(mut self: Pin<&mut Self>, task: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write(task, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.connection).poll_write_vectored(task, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.connection.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_flush(task)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.connection).poll_shutdown(task)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[tokio::test]
    async fn nothing_is_lost_or_held_whatever_is_asked_for() {
        let (mut client, server) = duplex(3 * AHEAD);
        let mut server = ReadAhead::new(server);
        let sent: Vec<u8> = (0..2 * AHEAD + 7).map(|n| u8::try_from(n % 251).unwrap()).collect();
        client.write_all(&sent).await.unwrap();
        let mut read = vec![0; 5];
        server.read_exact(&mut read).await.unwrap();
        assert_eq!(server.ahead.len(), AHEAD - 5);
        let mut rest = vec![0; sent.len() - 5];
        server.read_exact(&mut rest).await.unwrap();
        read.append(&mut rest);
        assert!(read == sent);
        assert_eq!(server.ahead.capacity(), 0);

        server.write_all(b"answer").await.unwrap();
        let mut answer = [0; 6];
        client.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"answer");
        drop(client);
        assert_eq!(server.read(&mut answer).await.unwrap(), 0, "its end is told");
    }
}
