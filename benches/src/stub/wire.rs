//! Frames as bytes, and the socket of a client.

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

/// The largest frame, as announced to every client.
pub(super) const FRAME_MAX: u32 = 131_072;
/// The bytes before the payload of a frame (type, channel, length), and the total overhead with the end octet.
pub(super) const FRAME_START: usize = 7;
pub(super) const FRAME_OVERHEAD: usize = 8;

/// A frame of a client. Acks are so frequent that they are not parsed in full.
#[derive(Debug)]
pub(super) enum Incoming {
    Ack { channel: u16, tag: u64, multiple: bool },
    Other(Box<AMQPFrame>),
}

/// The bytes are not a frame of AMQP 0-9-1.
#[derive(Debug)]
pub(super) struct Malformed;

/// The first frame in the bytes and its length, if it is complete.
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

#[expect(clippy::expect_used, reason = "writing to memory does not fail")]
pub(super) fn push_frame(out: &mut Vec<u8>, frame: &AMQPFrame) {
    let written = gen_frame(frame)(WriteContext::from(mem::take(out)));
    *out = written.expect("a frame of the stub is valid").into_inner().0;
}

pub(super) fn push_method(out: &mut Vec<u8>, channel: u16, method: AMQPClass) {
    push_frame(out, &AMQPFrame::Method(channel, method));
}

/// The socket of a client with its pending output.
#[derive(Debug)]
pub(super) struct Wire {
    pub(super) stream: TcpStream,
    /// The pending output, filled under the lock of the state to keep the order of events.
    pub(super) pending: Mutex<Vec<u8>>,
    /// The output that is being written. Empty otherwise.
    sending: Mutex<Vec<u8>>,
}

impl Wire {
    pub(super) fn new(stream: TcpStream) -> Self {
        Self { stream, pending: Mutex::default(), sending: Mutex::default() }
    }

    /// Writes the pending output in one piece. A failed write cuts the connection.
    pub(super) fn flush(&self) {
        let mut sending = lock(&self.sending);
        mem::swap(&mut *sending, &mut *lock(&self.pending));
        if (&self.stream).write_all(&sending).is_err() {
            self.cut();
        }
        sending.clear();
    }

    pub(super) fn cut(&self) {
        // A closed socket cannot be shut down, and need not be.
        drop(self.stream.shutdown(Shutdown::Both));
    }
}

/// Locks, also after a panic. The panic is reported when its thread is joined.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
