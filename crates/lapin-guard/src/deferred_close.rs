//! Defers a reset of the connection until the broker's last bytes are read.

use std::{
    io,
    pin::Pin,
    sync::{Arc, OnceLock},
    task::{Context, Poll, ready},
};

use futures_io::{AsyncRead, AsyncWrite};

use crate::server::ServerProperties;

/// A socket that reports a reset to the reader after the last received byte, instead of to the writer at once. With TLS it
/// does so until the broker's greeting.
///
/// A broker that refuses a client certificate sends the reason and resets the connection while the client still writes.
/// The failed write would hide the reason.
#[derive(Debug)]
pub(crate) struct DeferredClose<T> {
    inner: T,
    /// Set by the greeting. `None` without TLS.
    greeting: Option<Arc<OnceLock<ServerProperties>>>,
    end: Option<io::ErrorKind>,
}

impl<T> DeferredClose<T> {
    pub(crate) fn new(inner: T, greeting: Option<Arc<OnceLock<ServerProperties>>>) -> Self {
        Self { inner, greeting, end: None }
    }

    #[inline]
    fn is_greeted(&self) -> bool {
        self.greeting.as_ref().is_none_or(|greeting| greeting.get().is_some())
    }

    /// Counts bytes as written that met the end.
    #[inline]
    fn written(&mut self, length: usize, written: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        match written {
            Poll::Ready(Err(error))
                if matches!(error.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) && !self.is_greeted() =>
            {
                self.end.get_or_insert(error.kind());
                Poll::Ready(Ok(length))
            }
            other => other,
        }
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for DeferredClose<T> {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        let read = ready!(Pin::new(&mut self.inner).poll_read(cx, into));
        match (read, self.end) {
            (Ok(0), Some(end)) if !into.is_empty() => Poll::Ready(Err(end.into())),
            (read, _) => Poll::Ready(read),
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for DeferredClose<T> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write(cx, bytes);
        self.written(bytes.len(), written)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, slices);
        self.written(slices.iter().map(|slice| slice.len()).sum(), written)
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    #[inline]
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use futures_util::{FutureExt, future::poll_fn};

    use super::*;

    /// A stream that was reset, with this much left to read.
    struct Reset(&'static [u8]);

    impl AsyncRead for Reset {
        fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
            Pin::new(&mut self.0).poll_read(cx, into)
        }
    }

    impl AsyncWrite for Reset {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[test]
    fn the_last_bytes_before_a_reset_are_read_before_the_reset_is_reported() {
        let greeting = Arc::new(OnceLock::new());
        let (mut socket, mut buffer) = (DeferredClose::new(Reset(b"no"), Some(Arc::clone(&greeting))), [0; 8]);
        assert_eq!(write(&mut socket).unwrap(), 5);
        let mut read = || poll_fn(|cx| Pin::new(&mut socket).poll_read(cx, &mut buffer)).now_or_never().unwrap();
        assert_eq!(read().unwrap(), 2);
        assert_eq!(read().unwrap_err().kind(), io::ErrorKind::ConnectionReset);
        greeting.set(ServerProperties::default()).unwrap();
        assert_eq!(write(&mut socket).unwrap_err().kind(), io::ErrorKind::ConnectionReset);
    }

    #[test]
    fn without_tls_a_reset_is_reported_at_once() {
        write(&mut DeferredClose::new(Reset(b"no"), None)).unwrap_err();
    }

    fn write(socket: &mut DeferredClose<Reset>) -> io::Result<usize> {
        poll_fn(|cx| Pin::new(&mut *socket).poll_write(cx, b"hello")).now_or_never().unwrap()
    }
}
