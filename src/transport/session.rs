//! One consumer on a queue: what it is handed, and how that is settled.

use std::fmt;

use futures_util::FutureExt;
use tokio::time::Instant;

use crate::transport::{amqp, memory};
use crate::{error::Error, message::Message};

/// One message handed over by a broker, to be settled through the session it came from.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub(crate) tag: u64,
    pub(crate) redelivered: bool,
    pub(crate) message: Message,
}

/// Why a session could not be opened.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    /// No use trying again before somebody has mended it.
    #[error(transparent)]
    Fatal(Error),
    /// It may work the next time.
    #[error("{0}")]
    Passing(String),
}

/// Why a session ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Its connection was lost, which the connection's own task tells.
    Connection,
    /// In the broker's words, if it had any.
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

/// One consumer's life on one channel: it delivers messages of one queue and takes their settlement.
pub(crate) enum Session {
    Amqp(Box<amqp::Session>),
    Memory(memory::Session),
}

impl Session {
    /// Waits for the next delivery. The end of a session is told each time.
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

    /// A delivery that is there already, if there is one, or the end of the session.
    pub(crate) fn try_next(&mut self) -> Option<Result<Delivery, Ended>> {
        match self {
            Self::Amqp(session) => session.try_next(),
            Self::Memory(session) => session.next().now_or_never().map(Ok),
        }
    }

    /// As [`next`](Self::next) if a delivery is `wanted`; else waits for the session's end alone.
    ///
    /// # Cancel safety
    ///
    /// As that of [`next`](Self::next).
    pub(crate) async fn next_if(&mut self, wanted: bool) -> Result<Delivery, Ended> {
        match self {
            Self::Amqp(session) if !wanted => Err(session.lost().await),
            Self::Memory(_) if !wanted => std::future::pending().await,
            Self::Amqp(_) | Self::Memory(_) => self.next().await,
        }
    }

    /// Notes that the job behind `tag` is done with. The ack leaves with the next flush, which is now if half the prefetch
    /// waits. Returns how many acks turned out to have no channel any more.
    ///
    /// `patient` says that jobs in hand, which acks are behind, only wait for confirms. Those come soon, and then one ack
    /// does for all.
    pub(crate) fn ack(&mut self, tag: u64, patient: bool) -> u64 {
        match self {
            Self::Amqp(session) => session.ack(tag, patient),
            Self::Memory(session) => session.ack(tag),
        }
    }

    /// Sends the acks that should not wait while nothing else is to be done. Returns how many acks had no channel any
    /// more, and until when the others may wait, if any do.
    pub(crate) fn flush_due(&mut self, patient: bool) -> (u64, Option<Instant>) {
        match self {
            Self::Amqp(session) => session.flush_due(patient),
            Self::Memory(_) => (0, None),
        }
    }

    /// Sends the acks that wait. Returns how many of them had no channel any more.
    pub(crate) fn flush(&mut self) -> u64 {
        match self {
            Self::Amqp(session) => session.flush(true),
            Self::Memory(_) => 0,
        }
    }

    /// How many of this session's acks, counted from its first, have arrived: only the others may be lost with it.
    pub(crate) fn acks_taken(&self) -> u64 {
        match self {
            Self::Amqp(session) => session.acks_taken(),
            Self::Memory(_) => u64::MAX,
        }
    }

    /// Gives the delivery to the dead-letter exchange as it is.
    pub(crate) fn reject(&mut self, tag: u64) {
        match self {
            Self::Amqp(session) => session.reject(tag, false),
            Self::Memory(session) => session.reject(tag),
        }
    }

    /// Hands the delivery back for another worker.
    pub(crate) fn requeue(&mut self, tag: u64) {
        match self {
            Self::Amqp(session) => session.reject(tag, true),
            Self::Memory(session) => session.requeue(tag),
        }
    }

    /// Stops the flow of deliveries; those that are here already are still to be taken.
    pub(crate) async fn pause(&mut self) {
        match self {
            Self::Amqp(session) => session.pause().await,
            Self::Memory(session) => session.stop(),
        }
    }

    /// Lets deliveries flow again after a [`pause`](Self::pause), with so many in hand.
    pub(crate) async fn resume(&mut self, prefetch: u16) -> Result<(), Ended> {
        match self {
            Self::Amqp(session) => session.resume(prefetch).await,
            Self::Memory(session) => {
                session.resume(prefetch);
                Ok(())
            }
        }
    }

    /// Stops the flow of deliveries and hands back those that were never taken; the rest can still be settled.
    pub(crate) async fn stop(&mut self) {
        for delivery in self.withdraw().await {
            self.requeue(delivery.tag);
        }
    }

    /// Stops the flow of deliveries and returns those that were never taken; all can still be settled.
    pub(crate) async fn withdraw(&mut self) -> Vec<Delivery> {
        match self {
            Self::Amqp(session) => session.withdraw().await,
            Self::Memory(session) => {
                session.stop();
                Vec::new()
            }
        }
    }

    /// Waits until the broker has done what it was told on this session before.
    pub(crate) async fn round_trip(&self) -> Result<(), Ended> {
        match self {
            Self::Amqp(session) => session.round_trip().await,
            Self::Memory(_) => Ok(()),
        }
    }

    /// Waits until the broker has taken in what was acked; to be done before an orderly [`close`](Self::close).
    pub(crate) async fn settled(&mut self) {
        match self {
            Self::Amqp(session) => session.settled().await,
            Self::Memory(_) => {}
        }
    }

    /// Ends the session; what is not settled goes back to the queue. Returns how many acks had no channel any more.
    pub(crate) async fn close(self) -> u64 {
        match self {
            Self::Amqp(session) => session.close().await,
            Self::Memory(_) => 0,
        }
    }
}
