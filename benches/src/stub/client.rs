//! The thread of one client: reads its frames and answers.

use std::{
    io::{self, ErrorKind, Read},
    net::TcpStream,
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use amq_protocol::frame::AMQPFrame;

use super::{
    shared::{ClientFault, StubShared},
    state::StubState,
    wire::{FRAME_MAX, Incoming, Wire, first_frame, lock, push_frame},
};

/// The reason for the end of a client.
#[derive(Debug)]
pub(super) enum ClientEnd {
    /// The client closed the connection.
    Goodbye,
    Fault(ClientFault),
}

impl ClientEnd {
    pub(super) fn unsupported(what: impl Into<String>) -> Self {
        Self::Fault(ClientFault::Unsupported { what: what.into() })
    }
}

pub(super) struct StubClient {
    pub(super) shared: Arc<StubShared>,
    pub(super) wire: Arc<Wire>,
    /// The number of the connection.
    pub(super) number: u64,
    /// The negotiated heartbeat, zero for none.
    pub(super) heartbeat: Duration,
}

impl StubClient {
    /// Starts the thread of a client. `None` if the stub ends.
    pub(super) fn start(stream: TcpStream, shared: Arc<StubShared>) -> io::Result<Option<JoinHandle<()>>> {
        stream.set_nodelay(true)?;
        let wire = Arc::new(Wire::new(stream));
        let Some(number) = shared.state().connected(Arc::clone(&wire)) else { return Ok(None) };
        let mut client = Self { shared, wire, number, heartbeat: Duration::ZERO };
        let run = move || {
            client.run();
            client.shared.state().disconnected(number);
            client.shared.deliver();
        };
        thread::Builder::new().name(format!("stub-{number}")).spawn(run).map(Some)
    }

    fn run(&mut self) {
        let mut buffer = vec![0; 2 * FRAME_MAX as usize];
        let (mut filled, mut last_sent) = (0, Instant::now());
        while let Some(read) = self.read(&mut buffer[filled..]) {
            filled += read;
            match self.handle_frames(&buffer[..filled]) {
                Ok(used) => {
                    buffer.copy_within(used..filled, 0);
                    filled -= used;
                }
                Err(end) => return self.end(end),
            }
            if !self.heartbeat.is_zero() && last_sent.elapsed() >= self.heartbeat / 2 {
                push_frame(&mut lock(&self.wire.pending), &AMQPFrame::Heartbeat);
                last_sent = Instant::now();
            }
            self.shared.deliver();
        }
    }

    /// Reads bytes: their number, 0 when a heartbeat is due, `None` when the client has disconnected.
    fn read(&self, buffer: &mut [u8]) -> Option<usize> {
        match (&self.wire.stream).read(buffer) {
            Ok(0) => None,
            Ok(read) => Some(read),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => Some(0),
                _ => None,
            },
        }
    }

    /// Handles the complete frames in the buffer. Returns their length.
    fn handle_frames(&mut self, buffer: &[u8]) -> Result<usize, ClientEnd> {
        let shared = Arc::clone(&self.shared);
        let mut state = shared.state();
        state.counts.reads += u64::from(!buffer.is_empty());
        let (mut used, before) = (0, state.counts.acked);
        let end = loop {
            match first_frame(&buffer[used..]) {
                Ok(Some((incoming, length))) => {
                    used += length;
                    if let Err(end) = self.handle(&mut state, incoming) {
                        break Err(end);
                    }
                }
                Ok(None) => break Ok(used),
                Err(_) => break Err(ClientEnd::unsupported("bytes that are no frame")),
            }
        };
        // Updated once for all frames, because other threads read the counter while this one is busiest.
        shared.acked.fetch_add(state.counts.acked - before, Ordering::Release);
        end
    }

    fn handle(&mut self, state: &mut StubState, incoming: Incoming) -> Result<(), ClientEnd> {
        let frame = match incoming {
            Incoming::Ack { channel, tag, multiple } => return self.ack(state, channel, tag, multiple),
            Incoming::Other(frame) => *frame,
        };
        match frame {
            AMQPFrame::Method(channel, method) => self.command(state, channel, method),
            AMQPFrame::Header(channel, header) => self.content(state, channel, header.body_size, true),
            AMQPFrame::Body(channel, part) => self.content(state, channel, part.len() as u64, false),
            AMQPFrame::ProtocolHeader(_) => self.greet(),
            AMQPFrame::Heartbeat | AMQPFrame::InvalidHeartbeat(_) => Ok(()),
        }
    }

    fn end(&self, end: ClientEnd) {
        if let ClientEnd::Fault(fault) = end {
            tracing::error!(%fault, "ending a connection");
            self.refuse(&fault);
            // Only the first fault is kept.
            drop(self.shared.fault.set(fault));
        }
        self.wire.flush();
        self.wire.cut();
    }
}
