//! A broker that does nothing but deliver, so that only the worker is measured.
//!
//! The stub speaks the part of AMQP 0-9-1 that workers use, on a port of its own. The jobs of its one queue are encoded
//! once, and only the delivery tag and the message id are written into each delivery. The stub confirms publishes and drops
//! the messages. It is strict about acks: an ack of a tag that is not open is a [`ClientFault`], which every later call returns.
//!
//! Like a classic queue it redelivers the unacknowledged jobs of a lost channel first, without a delivery count.

mod client;
mod commands;
mod delivery;
mod jobs;
mod shared;
mod state;
#[cfg(test)]
mod tests;
mod wire;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream},
    sync::{Arc, atomic::Ordering},
    thread::{self, JoinHandle},
};

use self::{client::StubClient, shared::StubShared, state::StubState};
pub use self::{
    delivery::{Feed, job_number, message_id},
    shared::ClientFault,
    state::Counts,
};

/// A running stub. Dropping it ends its threads and sockets.
#[derive(Debug)]
pub struct Stub {
    address: SocketAddr,
    shared: Arc<StubShared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Stub {
    /// Starts a stub on a free port of 127.0.0.1.
    ///
    /// # Errors
    ///
    /// If no port or no thread is available.
    pub fn start(feed: Feed) -> io::Result<Self> {
        Self::observed(feed, |_| {})
    }

    /// Like [`start`](Self::start). `on_ack` is called with the number of each job that an ack covers, before it counts.
    /// It must not call the stub.
    ///
    /// # Errors
    ///
    /// As [`start`](Self::start).
    pub fn observed(feed: Feed, on_ack: impl FnMut(u64) + Send + 'static) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let address = listener.local_addr()?;
        let state = StubState::new(feed.jobs, Box::new(on_ack));
        let shared = Arc::new(StubShared::new(feed, state));
        let accepting = Arc::clone(&shared);
        let acceptor = thread::Builder::new().name("stub".to_owned()).spawn(move || accept(&listener, &accepting))?;
        Ok(Self { address, shared, acceptor: Some(acceptor) })
    }

    /// The address for clients.
    #[must_use]
    pub fn url(&self) -> String {
        format!("amqp://guest:guest@{}/%2f", self.address)
    }

    /// The number of acked jobs. The call is cheap.
    ///
    /// # Errors
    ///
    /// The first [`ClientFault`] of a client, once there is one.
    pub fn acked(&self) -> Result<u64, ClientFault> {
        self.check()?;
        Ok(self.shared.acked.load(Ordering::Acquire))
    }

    /// Closes every channel that consumes the queue with a channel error. Returns their number.
    pub fn close_channels(&self) -> usize {
        let closed = self.shared.state().close_consuming_channels();
        self.shared.deliver();
        closed
    }

    /// Cuts every connection that consumes the queue. Returns their number.
    pub fn cut(&self) -> usize {
        self.shared.state().cut_consuming_connections()
    }

    /// Ends the stub and returns its counts.
    ///
    /// # Errors
    ///
    /// The first [`ClientFault`] of a client, if there was one.
    pub fn finish(mut self) -> Result<Counts, ClientFault> {
        self.end();
        self.check()?;
        Ok(self.shared.state().counts)
    }

    fn check(&self) -> Result<(), ClientFault> {
        self.shared.fault.get().cloned().map_or(Ok(()), Err)
    }

    fn end(&mut self) {
        let Some(acceptor) = self.acceptor.take() else { return };
        self.shared.state().stop();
        // Wakes the acceptor. An error means that it has ended already.
        drop(TcpStream::connect(self.address));
        if acceptor.join().is_err() {
            tracing::error!("a thread of the stub has panicked");
        }
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.end();
    }
}

/// Serves clients until the stub ends. Returns once their threads have ended.
fn accept(listener: &TcpListener, shared: &Arc<StubShared>) {
    let mut clients = Vec::new();
    for stream in listener.incoming() {
        let started = stream.and_then(|stream| StubClient::start(stream, Arc::clone(shared)));
        match started {
            Ok(Some(client)) => clients.push(client),
            Ok(None) => break,
            Err(error) => tracing::warn!(%error, "cannot serve a client"),
        }
    }
    for client in clients {
        if client.join().is_err() {
            tracing::error!("a thread of the stub has panicked");
        }
    }
}
