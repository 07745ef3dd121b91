//! One consumer on a queue: its deliveries and their settlement.

use std::fmt;

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::transport::{amqp, memory};
use crate::{error::Error, message::Message};

/// One message delivered by a broker, to be settled through its session.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) message: Message,
}

/// The reason why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// Retrying cannot succeed before the cause is fixed.
    #[error(transparent)]
    Fatal(Error),
    /// The next attempt may succeed.
    #[error("{0}")]
    Passing(String),
}

impl OpenError {
    /// Returns the public error for the object `name`.
    pub(crate) fn of(self, name: &str) -> Error {
        match self {
            Self::Fatal(error) => error,
            Self::Passing(reason) => Error::unavailable(name, reason),
        }
    }
}

/// The reason why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Its connection was lost; the connection's own task logs that.
    Connection,
    /// Its channel was closed; holds the broker's text, if there is one.
    Channel(String),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connection => f.write_str("the connection was lost"),
            Self::Channel(reason) => f.write_str(reason),
        }
    }
}

/// One consumer on one channel: it delivers messages of one queue and accepts their settlement.
pub(crate) enum Session {
    Amqp(Box<amqp::AmqpSession>),
    Memory(memory::MemorySession),
}

impl Session {
    /// Waits for the next delivery. After its end, a session returns the end each time.
    ///
    /// # Cancel safety
    ///
    /// A delivery is either returned or stays with the session.
    pub(crate) async fn next(&mut self) -> Result<Delivery, Ended> {
        match self {
            Self::Amqp(session) => session.next().await,
            Self::Memory(session) => Ok(session.next().await),
        }
    }

    /// Returns a delivery that has already arrived, or the end of the session.
    pub(crate) fn try_next(&mut self) -> Option<Result<Delivery, Ended>> {
        match self {
            Self::Amqp(session) => session.try_next(),
            Self::Memory(session) => session.next().now_or_never().map(Ok),
        }
    }

    /// Like [`next`](Self::next) if a delivery is `wanted`; otherwise waits only for the session's end.
    ///
    /// # Cancel safety
    ///
    /// The same as for [`next`](Self::next).
    pub(crate) async fn next_if(&mut self, wanted: bool) -> Result<Delivery, Ended> {
        match self {
            Self::Amqp(session) if !wanted => Err(session.lost().await),
            Self::Memory(_) if !wanted => std::future::pending().await,
            Self::Amqp(_) | Self::Memory(_) => self.next().await,
        }
    }

    /// Acks the job behind `tag`. The ack is sent with the next flush, which happens at once if half the prefetch waits
    /// for acks. Returns the number of acks whose channel was lost.
    ///
    /// `patient` means that the unfinished jobs before these acks only wait for confirms. Those arrive soon, and then
    /// one ack covers all.
    pub(crate) fn ack(&mut self, tag: u64, patient: bool) -> u64 {
        match self {
            Self::Amqp(session) => session.ack(tag, patient),
            Self::Memory(session) => session.ack(tag),
        }
    }

    /// Sends the acks that should not wait while the worker is idle. Returns the number of acks whose channel was lost,
    /// and the time until which the others may wait, if there are any.
    pub(crate) fn flush_due(&mut self, patient: bool) -> (u64, Option<Instant>) {
        match self {
            Self::Amqp(session) => session.flush_due(patient),
            Self::Memory(_) => (0, None),
        }
    }

    /// Sends the waiting acks. Returns the number of acks whose channel was lost.
    pub(crate) fn flush(&mut self) -> u64 {
        match self {
            Self::Amqp(session) => session.flush(true),
            Self::Memory(_) => 0,
        }
    }

    /// Returns how many of this session's acks, counted from its first, have arrived. Only later ones may be lost with
    /// it.
    pub(crate) fn acks_arrived(&self) -> u64 {
        match self {
            Self::Amqp(session) => session.acks_arrived(),
            Self::Memory(_) => u64::MAX,
        }
    }

    /// Rejects the delivery to the dead-letter exchange, unchanged.
    pub(crate) fn reject(&mut self, tag: u64) {
        match self {
            Self::Amqp(session) => session.reject(tag, false),
            Self::Memory(session) => session.reject(tag),
        }
    }

    /// Requeues the delivery for another worker.
    pub(crate) fn requeue(&mut self, tag: u64) {
        match self {
            Self::Amqp(session) => session.reject(tag, true),
            Self::Memory(session) => session.requeue(tag),
        }
    }

    /// Stops new deliveries; those that have arrived are still returned.
    pub(crate) async fn pause(&mut self) {
        match self {
            Self::Amqp(session) => session.pause().await,
            Self::Memory(session) => session.stop(),
        }
    }

    /// Starts deliveries again after a [`pause`](Self::pause), with this prefetch.
    pub(crate) async fn resume(&mut self, prefetch: u16) -> Result<(), Ended> {
        match self {
            Self::Amqp(session) => session.resume(prefetch).await,
            Self::Memory(session) => {
                session.resume(prefetch);
                Ok(())
            }
        }
    }

    /// Stops new deliveries and requeues those that were not returned yet; the rest can still be settled.
    pub(crate) async fn stop(&mut self) {
        for delivery in self.withdraw().await {
            self.requeue(delivery.tag);
        }
    }

    /// Stops new deliveries and returns the remaining ones; all can still be settled.
    pub(crate) async fn withdraw(&mut self) -> Vec<Delivery> {
        match self {
            Self::Amqp(session) => session.withdraw().await,
            Self::Memory(session) => {
                session.stop();
                Vec::new()
            }
        }
    }

    /// Waits until the broker has handled all earlier commands of this session.
    pub(crate) async fn round_trip(&self) -> Result<(), Ended> {
        match self {
            Self::Amqp(session) => session.round_trip().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// Waits until the broker has processed the acks; call it before an orderly [`close`](Self::close).
    pub(crate) async fn settled(&mut self) {
        match self {
            Self::Amqp(session) => session.settled().await,
            Self::Memory(_) => {}
        }
    }

    /// Ends the session; unacknowledged messages are requeued. Returns the number of acks whose channel was lost.
    pub(crate) async fn close(self) -> u64 {
        match self {
            Self::Amqp(session) => session.close().await,
            Self::Memory(_) => 0,
        }
    }
}
