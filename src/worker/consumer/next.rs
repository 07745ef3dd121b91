//! The next event of a consumer: a finished job, a delivery with a permit, or the end.
//!
//! A consumer with permits of its own takes a permit, then a delivery. A consumer that shares permits with other lanes
//! must not hold a permit for a delivery that may never come. So it takes the delivery first, and then waits for a
//! permit.

use std::sync::Arc;

use crate::worker::consumer::{Consumer, Event};
use crate::{
    transport::session::{Delivery, Session},
    worker::fair_share::LaneShare,
};

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Returns an event that has already occurred; does not check for a stop.
    pub(super) fn ready(&mut self, session: &mut Session) -> Option<Event> {
        if let Some(done) = self.tasks.try_join_next() {
            return Some(Event::Done(done));
        }
        if self.in_hand.len() >= self.most_in_hand {
            self.is_full = true;
            return None;
        }
        if self.shared.is_some() {
            return self.ready_in_turn(session);
        }
        let permit = self.permit.take().or_else(|| Arc::clone(&self.permits).try_acquire_owned().ok());
        let Some(permit) = permit else {
            self.is_full = true;
            return None;
        };
        match session.try_next() {
            Some(Ok(delivery)) => Some(Event::Delivered(delivery, permit)),
            Some(Err(ended)) => Some(Event::Lost(ended)),
            None => {
                self.permit = Some(permit);
                None
            }
        }
    }

    /// Waits for an event.
    pub(super) async fn next_event(&mut self, session: &mut Session) -> Event {
        if self.shared.is_some() {
            return self.next_in_turn(session).await;
        }
        loop {
            let room = self.permit.is_some() && self.in_hand.len() < self.most_in_hand;
            tokio::select! {
                biased;
                () = self.handlers.stop.drain.cancelled() => return Event::Stop,
                Some(done) = self.tasks.join_next() => return Event::Done(done),
                acquired = Arc::clone(&self.permits).acquire_owned(), if self.permit.is_none() => {
                    self.permit = acquired.ok();
                }
                delivery = session.next_if(room) => match (delivery, self.permit.take()) {
                    (Ok(delivery), Some(permit)) => return Event::Delivered(delivery, permit),
                    (Ok(_), None) => {}
                    (Err(ended), _) => return Event::Lost(ended),
                },
            }
        }
    }

    /// Like [`ready`](Self::ready), for a consumer that shares its permits.
    fn ready_in_turn(&mut self, session: &mut Session) -> Option<Event> {
        let turn = self.shared.as_ref()?;
        if self.waiting.is_none() {
            match session.try_next() {
                Some(Ok(delivery)) => self.waiting = Some(delivery),
                Some(Err(ended)) => return Some(Event::Lost(ended)),
                None => {
                    turn.leave();
                    return None;
                }
            }
        }
        let Some(permit) = turn.try_permit() else {
            self.is_full = true;
            return None;
        };
        Some(Event::Delivered(self.waiting.take()?, permit))
    }

    /// Like [`next_event`](Self::next_event), for a consumer that shares its permits.
    async fn next_in_turn(&mut self, session: &mut Session) -> Event {
        loop {
            let room = self.in_hand.len() < self.most_in_hand;
            let waits = self.waiting.is_some();
            if let Some(turn) = self.shared.as_ref().filter(|_| !(room && waits)) {
                turn.leave();
            }
            tokio::select! {
                biased;
                () = self.handlers.stop.drain.cancelled() => return Event::Stop,
                Some(done) = self.tasks.join_next() => return Event::Done(done),
                permit = turn(self.shared.as_ref()), if room && waits => {
                    if let Some(delivery) = self.waiting.take() {
                        return Event::Delivered(delivery, permit);
                    }
                }
                delivery = session.next_if(room && !waits) => match delivery {
                    Ok(delivery) => self.waiting = Some(delivery),
                    Err(ended) => return Event::Lost(ended),
                },
            }
        }
    }

    /// Leaves the turn, and returns the delivery that waited for it.
    pub(super) fn none_waits(&mut self) -> Option<Delivery> {
        if let Some(turn) = &self.shared {
            turn.leave();
        }
        self.waiting.take()
    }
}

async fn turn(shared: Option<&LaneShare>) -> tokio::sync::OwnedSemaphorePermit {
    match shared {
        Some(turn) => turn.permit().await,
        None => std::future::pending().await,
    }
}
