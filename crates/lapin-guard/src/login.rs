//! The login, written into the handshake below lapin.
//!
//! lapin logs the frames that it sends at level `trace`, with the password. So lapin sends an empty login here, and this
//! stream writes the real one into that frame on its way to the socket.

use std::{
    io, mem,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures_io::{AsyncRead, AsyncWrite};
use lapin::{auth::AuthProvider, types::ShortString, uri::SASLMechanism};

use crate::filter::{FRAME_OVERHEAD, FRAME_START, FrameStart};

/// The size of `AMQP` and the version before the first frame.
const PROTOCOL_HEADER: usize = 8;
const START_OK: [u8; 4] = [0, 10, 0, 11];

/// The login that lapin sends: a mechanism without credentials.
#[derive(Debug)]
pub(crate) struct NoSecrets(pub(crate) SASLMechanism);

impl AuthProvider for NoSecrets {
    fn mechanism(&self) -> ShortString {
        self.0.name().into()
    }
}

/// A stream that completes the login.
pub(crate) struct Login<T> {
    inner: T,
    state: State,
}

enum State {
    /// The protocol header: the number of its bytes still to write, and the login.
    Header(usize, Vec<u8>),
    /// The login, and the received part of its frame.
    Frame(Vec<u8>, Vec<u8>),
    /// The unwritten part of the completed frame.
    Completed(Vec<u8>),
    Done,
}

impl<T> std::fmt::Debug for Login<T> {
    /// Hides the login.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login").finish_non_exhaustive()
    }
}

impl<T> Login<T> {
    pub(crate) fn new(inner: T, login: Vec<u8>) -> Self {
        let state = if login.is_empty() { State::Done } else { State::Header(PROTOCOL_HEADER, login) };
        Self { inner, state }
    }
}

impl<T: AsyncWrite + Unpin> Login<T> {
    /// Writes the rest of the completed frame.
    fn poll_completed(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let State::Completed(frame) = &mut self.state {
            while !frame.is_empty() {
                let written = ready!(Pin::new(&mut self.inner).poll_write(cx, frame))?;
                if written == 0 {
                    return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
                }
                frame.drain(..written);
            }
            self.state = State::Done;
        }
        Poll::Ready(Ok(()))
    }

    fn poll_login(&mut self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match &mut self.state {
            State::Header(left, login) => {
                let most = bytes.len().min(*left);
                let written = ready!(Pin::new(&mut self.inner).poll_write(cx, &bytes[..most]))?;
                *left -= written;
                if *left == 0 {
                    self.state = State::Frame(mem::take(login), Vec::new());
                }
                Poll::Ready(Ok(written))
            }
            State::Frame(login, frame) => {
                frame.extend_from_slice(bytes);
                if FrameStart::read(frame).is_some_and(|start| start.whole <= frame.len()) {
                    let other = || {
                        io::Error::other(
                            "connection.start-ok without an empty login: this lapin version is not supported",
                        )
                    };
                    self.state = State::Completed(completed(frame, login).ok_or_else(other)?);
                    // lapin flushes after each write, which writes the rest.
                    if let Poll::Ready(written) = self.poll_completed(cx) {
                        written?;
                    }
                }
                Poll::Ready(Ok(bytes.len()))
            }
            State::Completed(_) | State::Done => {
                ready!(self.poll_completed(cx))?;
                Pin::new(&mut self.inner).poll_write(cx, bytes)
            }
        }
    }
}

/// The frame with the login, and the bytes after the frame. `None` if it is not `connection.start-ok` with an empty
/// login.
fn completed(bytes: &[u8], login: &[u8]) -> Option<Vec<u8>> {
    let whole = FrameStart::read(bytes)?.whole;
    let payload = bytes.get(FRAME_START..whole - 1)?;
    let properties = usize::try_from(u32::from_be_bytes(*payload.strip_prefix(&START_OK)?.first_chunk()?)).ok()?;
    let mechanism = START_OK.len() + 4 + properties;
    let response = mechanism + 1 + usize::from(*payload.get(mechanism)?);
    let (before, after) = payload.split_at_checked(response)?;
    let after = after.strip_prefix(&[0; 4])?;
    let length = |length: usize| u32::try_from(length).ok().map(u32::to_be_bytes);
    let size = whole - FRAME_OVERHEAD + login.len();
    Some([&bytes[..3], &length(size)?, before, &length(login.len())?, login, after, &bytes[whole - 1..]].concat())
}

impl<T: AsyncRead + Unpin> AsyncRead for Login<T> {
    #[inline]
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, into: &mut [u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_read(cx, into)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Login<T> {
    #[inline]
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        match self.state {
            State::Done => Pin::new(&mut self.inner).poll_write(cx, bytes),
            _ => self.poll_login(cx, bytes),
        }
    }

    #[inline]
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.state {
            State::Done => Pin::new(&mut self.inner).poll_write_vectored(cx, slices),
            _ => self.poll_login(cx, slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |slice| slice)),
        }
    }

    #[inline]
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_completed(cx))?;
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    #[inline]
    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}

#[cfg(test)]
mod tests {
    use amq_protocol::{
        frame::{AMQPFrame, gen_frame, parse_frame},
        protocol::{AMQPClass, connection},
        types::FieldTable,
    };
    use futures_util::{FutureExt, future::poll_fn};

    use super::*;

    /// A stream that takes some bytes at a time, and none at every other call.
    #[derive(Default)]
    struct Slow {
        written: Vec<u8>,
        at_once: usize,
        waits: bool,
    }

    impl AsyncWrite for Slow {
        fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.waits = !self.waits;
            if self.waits {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let taken = bytes.len().min(self.at_once);
            self.written.extend_from_slice(&bytes[..taken]);
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    fn start_ok(response: &str) -> Vec<u8> {
        let mut client_properties = FieldTable::default();
        client_properties.insert("product".into(), true.into());
        let (mechanism, locale) = ("PLAIN".into(), "en_US".into());
        let method = connection::StartOk { client_properties, mechanism, response: response.into(), locale };
        let method = AMQPClass::Connection(connection::AMQPMethod::StartOk(method));
        gen_frame(&AMQPFrame::Method(0, method))(Vec::new().into()).unwrap().into_inner().0
    }

    #[tokio::test]
    async fn the_login_is_written_into_the_handshake_however_the_bytes_arrive() {
        let rest = b"what follows";
        let sent = [b"AMQP\0\0\x09\x01".as_slice(), &start_ok(""), rest].concat();
        let wanted = [b"AMQP\0\0\x09\x01".as_slice(), &start_ok("\0anna\0secret"), rest].concat();
        assert!(parse_frame(&wanted[8..]).is_ok());
        for (at_once, chunk) in [(1, 1), (1, 1_000), (3, 7), (1_000, 1_000), (7, 3)] {
            let mut stream = Login::new(Slow { at_once, ..Slow::default() }, b"\0anna\0secret".to_vec());
            let mut left = sent.as_slice();
            while !left.is_empty() {
                let most = left.len().min(chunk);
                let taken = poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, &left[..most])).await.unwrap();
                left = &left[taken..];
            }
            poll_fn(|cx| Pin::new(&mut stream).poll_flush(cx)).await.unwrap();
            assert_eq!(stream.inner.written, wanted, "{at_once} {chunk}");
        }
    }

    #[test]
    fn a_handshake_without_an_empty_login_is_not_sent() {
        let mut stream = Login::new(Slow { at_once: 1_000, waits: true, ..Slow::default() }, b"secret".to_vec());
        let mut write = |bytes: &[u8]| {
            stream.inner.waits = true;
            poll_fn(|cx| Pin::new(&mut stream).poll_write(cx, bytes)).now_or_never().unwrap()
        };
        assert_eq!(write(b"AMQP\0\0\x09\x01").unwrap(), 8);
        assert!(write(&start_ok("something")).is_err());
    }
}
