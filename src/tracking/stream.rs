//! Reads a stream of the broker from its first message, for the lifetime of the process.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, timeout},
};

use crate::{
    backoff::Backoff,
    message::{Message, header},
    topology::Stream,
    transport::{
        Transport,
        session::{Delivery, Ended, Session},
    },
};

/// Silence after which a stream counts as read to its end, if a round trip yields nothing either. Messages read later
/// were appended later, or so shortly before that their writer cannot distinguish it.
const QUIET: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// The progress of a stream reader.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    /// The stream may have unread messages.
    #[default]
    Behind,
    CaughtUp,
    /// The stream is unreadable for now, and jobs need not wait for it.
    Unreadable,
}

/// Passes each message of a stream to `on_message`, in order, and publishes the progress in `reading`; never returns.
pub(crate) async fn follow(
    transport: &Transport,
    stream: Stream,
    reading: &watch::Sender<Reading>,
    mut on_message: impl FnMut(&Message),
) {
    let (mut next, mut backoff) = (0, Backoff::new(FIRST_PAUSE, LONGEST_PAUSE));
    loop {
        let opened = Instant::now();
        let reason = match transport.open_stream(stream, next).await {
            Ok(mut session) => match read(&mut session, &mut next, reading, &mut on_message).await {
                // The connection logs its loss once, for all sessions on it.
                Ended::Connection => None,
                Ended::Channel(reason) => Some(reason),
            },
            Err(error) => Some(error.to_string()),
        };
        if reason.is_some() {
            // The stream may have been deleted and declared again, which restarts its offsets. Repeated messages are
            // harmless.
            next = 0;
        }
        // The broker's text begins with the name of its reply: this user has no read permission.
        let is_refused = reason.as_ref().is_some_and(|reason| reason.contains("ACCESS_REFUSED"));
        reading.send_if_modified(|reading| {
            let now = match *reading {
                _ if is_refused => Reading::Unreadable,
                Reading::CaughtUp => Reading::Behind,
                as_it_was => as_it_was,
            };
            std::mem::replace(reading, now) != now
        });
        if let Some(reason) = reason {
            transport.log_throttle().log(format!("{stream:?}: {reason}"), || {
                tracing::warn!(stream = stream.name(), error = reason, "cannot read the stream, retrying");
            });
        }
        if opened.elapsed() > LONGEST_PAUSE {
            backoff.reset();
        }
        backoff.sleep().await;
    }
}

/// Reads on one session until it ends.
async fn read(
    session: &mut Session,
    next: &mut u64,
    reading: &watch::Sender<Reading>,
    on_message: &mut impl FnMut(&Message),
) -> Ended {
    let mut take = |session: &mut Session, delivery: Delivery| {
        let offset = delivery.message.number(header::STREAM_OFFSET).and_then(Result::ok);
        // A stream that starts at an offset may deliver earlier messages of the same chunk.
        if let Some(offset) = offset.and_then(|offset| u64::try_from(offset).ok())
            && offset >= *next
        {
            on_message(&delivery.message);
            *next = offset + 1;
        }
        session.ack(delivery.tag, false);
    };
    loop {
        let is_caught_up = *reading.borrow() == Reading::CaughtUp;
        let wait = if is_caught_up { Duration::MAX } else { QUIET };
        match timeout(wait, session.next()).await {
            Ok(Ok(delivery)) => take(session, delivery),
            Ok(Err(ended)) => return ended,
            Err(_) => {
                if let Err(ended) = session.round_trip().await {
                    return ended;
                }
                match session.try_next() {
                    None => drop(reading.send_replace(Reading::CaughtUp)),
                    Some(Ok(delivery)) => take(session, delivery),
                    Some(Err(ended)) => return ended,
                }
            }
        }
        while let Some(delivered) = session.try_next() {
            match delivered {
                Ok(delivery) => take(session, delivery),
                Err(ended) => return ended,
            }
        }
        session.flush();
    }
}
