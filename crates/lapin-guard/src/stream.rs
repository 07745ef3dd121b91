//! The stream between lapin and the socket.

use std::{
    io, mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_io::{AsyncRead, AsyncWrite};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use crate::{
    filter::{FRAME_START, FrameFilter, FrameStart},
    liveness::Liveness,
};

/// The most bytes that are read from the socket at once, and that are moved for a frame that is replaced.
const CHUNK: usize = 64 * 1024;

pub(crate) fn abandoned() -> io::Error {
    io::Error::new(io::ErrorKind::TimedOut, "the guard of this connection was dropped")
}

/// A stream whose incoming frames pass a [`FrameFilter`].
#[derive(Debug)]
pub(crate) struct GuardedStream<T> {
    inner: T,
    inbound: Inbound,
    liveness: Arc<Liveness>,
    /// Ready as soon as the guard is dropped.
    abandoned: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl<T> GuardedStream<T> {
    pub(crate) fn new(inner: T, filter: FrameFilter, liveness: Arc<Liveness>, abandoned: &CancellationToken) -> Self {
        let inbound = Inbound { filter, ..Inbound::default() };
        Self { inner, inbound, liveness, abandoned: Box::pin(abandoned.clone().cancelled_owned()) }
    }
}

/// The state between the socket and lapin. As long as frames arrive whole and sound, they are filtered in lapin's own
/// buffer, and nothing is held.
#[derive(Debug, Default)]
struct Inbound {
    filter: FrameFilter,
    /// The bytes that could not pass at once: the start of a frame that must be whole, or the bytes after a replaced frame.
    held: Vec<u8>,
    /// The number of bytes, held and to come, that may pass unchanged.
    cleared: usize,
}

/// The size of the next frame, which must not pass, and its replacement.
struct Replaced {
    frame: usize,
    by: Vec<u8>,
}

impl Inbound {
    /// Filters bytes received while nothing is held. Returns how many of them pass unchanged, and holds the rest.
    #[inline]
    fn pass(&mut self, received: &[u8]) -> usize {
        let replaced = self.clear(received);
        let passed = self.cleared.min(received.len());
        self.cleared -= passed;
        self.held.extend_from_slice(&received[passed..]);
        self.replace(replaced);
        passed
    }

    /// Clears the complete frames, up to one that must be replaced.
    #[inline]
    fn clear(&mut self, bytes: &[u8]) -> Option<Replaced> {
        while let Some(rest) = bytes.get(self.cleared..)
            && let Some(start) = FrameStart::read(rest)
        {
            if self.filter.must_be_whole(start)
                && let Some(by) = self.filter.replacement(rest.get(..start.whole)?)
            {
                return Some(Replaced { frame: start.whole, by });
            }
            self.cleared = self.cleared.saturating_add(start.whole);
        }
        None
    }

    /// Replaces a held frame, and each later one that must be replaced.
    fn replace(&mut self, mut replaced: Option<Replaced>) {
        while let Some(Replaced { frame, by }) = replaced {
            let start = self.cleared;
            self.cleared += by.len();
            drop(self.held.splice(start..start + frame, by));
            replaced = self.clear_held();
        }
    }

    fn clear_held(&mut self) -> Option<Replaced> {
        let held = mem::take(&mut self.held);
        let replaced = self.clear(&held);
        self.held = held;
        replaced
    }

    /// Passes as many held bytes as fit. Returns 0 if none may pass yet.
    #[inline]
    fn take(&mut self, into: &mut [u8]) -> usize {
        let count = self.cleared.min(self.held.len()).min(into.len());
        into[..count].copy_from_slice(&self.held[..count]);
        self.held.drain(..count);
        self.cleared -= count;
        if self.held.is_empty() {
            self.held = Vec::new();
        }
        count
    }

    /// Reads more of the held frame, but not past its end, so that nothing stays held after it.
    fn poll_hold(&mut self, cx: &mut Context<'_>, inner: Pin<&mut impl AsyncRead>) -> Poll<io::Result<usize>> {
        let before = self.held.len();
        let wanted = FrameStart::read(&self.held).map_or(FRAME_START, |start| start.whole);
        self.held.resize(wanted.min(before + CHUNK), 0);
        let read = inner.poll_read(cx, &mut self.held[before..]);
        let received = if let Poll::Ready(Ok(received)) = read { received } else { 0 };
        self.held.truncate(before + received);
        let replaced = self.clear_held();
        self.replace(replaced);
        read
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for GuardedStream<T> {
    #[inline]
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        let Self { inner, inbound, liveness, abandoned: end } = self.get_mut();
        if end.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(abandoned()));
        }
        let most = buffer.len().min(CHUNK);
        loop {
            let count = inbound.take(buffer);
            if count > 0 || buffer.is_empty() {
                return Poll::Ready(Ok(count));
            }
            let inner = Pin::new(&mut *inner);
            let (received, passed) = if inbound.held.is_empty() {
                let received = ready!(inner.poll_read(cx, &mut buffer[..most]))?;
                (received, inbound.pass(&buffer[..received]))
            } else {
                (ready!(inbound.poll_hold(cx, inner))?, 0)
            };
            if received == 0 {
                return Poll::Ready(Ok(0));
            }
            liveness.received();
            if passed > 0 {
                return Poll::Ready(Ok(passed));
            }
        }
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for GuardedStream<T> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, slices)
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
mod tests;
