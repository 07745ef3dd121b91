//! Reads a stream of the broker from its first message on, for as long as the process lives.

use std::time::Duration;

use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};

use crate::{
    message::{Message, header},
    topology::Stream,
    transport::{
        Transport,
        session::{Delivery, Ended, Session},
    },
};

/// A stream from which nothing has come for so long, and then nothing within a round trip either, is read to its end.
/// What is read after that was appended later, or so shortly before that its writer cannot tell.
const QUIET: Duration = Duration::from_millis(50);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How far a reader is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Reading {
    /// There may be more than it has seen.
    #[default]
    Behind,
    CaughtUp,
    /// It cannot be read for now, and need not be waited for.
    Unreadable,
}

/// Shows each message of a stream to `seen`, in order, and says in `reading` how far it is; never ends.
pub(crate) async fn follow(
    transport: &Transport,
    stream: Stream,
    reading: &watch::Sender<Reading>,
    mut seen: impl FnMut(&Message),
) {
    let (mut next, mut pause) = (0, FIRST_PAUSE);
    loop {
        let opened = Instant::now();
        let reason = match transport.open_stream(stream, next).await {
            Ok(mut session) => match read(&mut session, &mut next, reading, &mut seen).await {
                // Told once by the connection, for all that lives on it.
                Ended::Connection => None,
                Ended::Channel(reason) => Some(reason),
            },
            Err(error) => Some(error.to_string()),
        };
        if reason.is_some() {
            // It may have been deleted and made anew, and then it counts anew. What is seen twice is known.
            next = 0;
        }
        // The broker's words begin with the name of its reply: it must not be read.
        let is_refused = reason.as_ref().is_some_and(|reason| reason.contains("ACCESS_REFUSED"));
        reading.send_if_modified(|reading| {
            let now = match *reading {
                _ if is_refused => Reading::Unreadable,
                Reading::CaughtUp => Reading::Behind,
                as_it_was => as_it_was,
            };
            std::mem::replace(reading, now) != now
        });
        if let Some(reason) = reason
            && transport.log_throttle().should_log(format!("{stream:?}: {reason}"))
        {
            tracing::warn!(stream = stream.name(), error = reason, "cannot read the stream, trying again");
        }
        pause = if opened.elapsed() > LONGEST_PAUSE { FIRST_PAUSE } else { (pause * 2).min(LONGEST_PAUSE) };
        sleep(pause).await;
    }
}

/// Reads on one session until that ends.
async fn read(
    session: &mut Session,
    next: &mut u64,
    reading: &watch::Sender<Reading>,
    seen: &mut impl FnMut(&Message),
) -> Ended {
    let mut take = |session: &mut Session, delivery: Delivery| {
        let offset = delivery.message.number(header::STREAM_OFFSET).and_then(Result::ok);
        // A stream that begins at an offset may hand out what came before in the same chunk.
        if let Some(offset) = offset.and_then(|offset| u64::try_from(offset).ok())
            && offset >= *next
        {
            seen(&delivery.message);
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
