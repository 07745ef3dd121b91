//! Frames as bytes, and the way out to a client.

use std::{
    io::Write,
    mem,
    net::{Shutdown, TcpStream},
    sync::{Mutex, MutexGuard, PoisonError},
};

use amq_protocol::{
    frame::{AMQPFrame, WriteContext, gen_frame, parse_frame},
    protocol::AMQPClass,
};

/// The largest frame, as told to every client.
pub(super) const FRAME_MAX: u32 = 131_072;
/// Type, channel and length before a frame's payload, and the octet after it.
pub(super) const FRAME_START: usize = 7;
pub(super) const FRAME_OVERHEAD: usize = 8;

/// A frame that a client has sent. Acks are apart: there are so many that they are not parsed in full.
#[derive(Debug)]
pub(super) enum Incoming {
    Ack { channel: u16, tag: u64, multiple: bool },
    Other(Box<AMQPFrame>),
}

/// The bytes are no frame of AMQP 0-9-1.
#[derive(Debug)]
pub(super) struct Malformed;

/// The frame that the bytes begin with and its length, if all of it is there.
pub(super) fn first_frame(bytes: &[u8]) -> Result<Option<(Incoming, usize)>, Malformed> {
    let whole = match bytes {
        [b'A', ..] => FRAME_OVERHEAD,
        [_, _, _, a, b, c, d, ..] => u32::from_be_bytes([*a, *b, *c, *d]) as usize + FRAME_OVERHEAD,
        _ => return Ok(None),
    };
    if whole > FRAME_MAX as usize {
        return Err(Malformed);
    }
    let Some(frame) = bytes.get(..whole) else { return Ok(None) };
    let incoming = match frame {
        // The method basic.ack.
        [1, high, low, 0, 0, 0, 13, 0, 60, 0, 80, tag @ .., multiple, 0xCE] => {
            let tag = u64::from_be_bytes(tag.try_into().map_err(|_| Malformed)?);
            Incoming::Ack { channel: u16::from_be_bytes([*high, *low]), tag, multiple: multiple & 1 == 1 }
        }
        frame => Incoming::Other(Box::new(parse_frame(frame).map_err(|_| Malformed)?.1)),
    };
    Ok(Some((incoming, whole)))
}

#[expect(clippy::expect_used, reason = "what is written into memory can be written")]
pub(super) fn push_frame(out: &mut Vec<u8>, frame: &AMQPFrame) {
    let written = gen_frame(frame)(WriteContext::from(mem::take(out)));
    *out = written.expect("a frame of our own is valid").into_inner().0;
}

pub(super) fn push_method(out: &mut Vec<u8>, channel: u16, method: AMQPClass) {
    push_frame(out, &AMQPFrame::Method(channel, method));
}

/// One client's socket and what is to be written to it.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    /// Filled under the lock of the state, so that it is in the order of what happens there.
    pub(super) pending: Mutex<Vec<u8>>,
    /// Held while it is written; else empty.
    sending: Mutex<Vec<u8>>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, pending: Mutex::default(), sending: Mutex::default() }
    }

    /// Writes what is pending, in one piece. A client that does not take it is cut off.
    pub(super) fn flush(&self) {
        let mut sending = lock(&self.sending);
        mem::swap(&mut *sending, &mut *lock(&self.pending));
        if (&self.stream).write_all(&sending).is_err() {
            self.cut();
        }
        sending.clear();
    }

    pub(super) fn cut(&self) {
        // Of a socket that is gone there is nothing to shut down.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// The lock, also after a panic: the thread that panicked is reported when it is joined.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
