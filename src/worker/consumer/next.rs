//! The next wakeup of a consumer: a finished job, a delivery with a permit, or the end.
//!
//! A consumer with permits of its own takes a permit, then a delivery. A consumer that shares permits with other lanes
//! must not hold a permit for a delivery that may never come. So it takes the delivery first, and then waits for a
//! permit.

use std::sync::Arc;

use crate::worker::consumer::{Consumer, Wakeup};
use crate::{
    transport::session::{Delivery, Session},
    worker::fair_share::LaneShare,
};

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Returns a wakeup that has already occurred; does not check for a stop.
    pub(super) fn ready(&mut self, session: &mut Session) -> Option<Wakeup> {
        if let Some(done) = self.tasks.try_join_next() {
            return Some(Wakeup::Done(done));
        }
        if self.unacknowledged.len() >= self.most_unacknowledged {
            self.is_full = true;
            return None;
        }
        if self.shared.is_some() {
            return self.ready_shared(session);
        }
        let permit = self.permit.take().or_else(|| Arc::clone(&self.permits).try_acquire_owned().ok());
        let Some(permit) = permit else {
            self.is_full = true;
            return None;
        };
        match session.try_next() {
            Some(Ok(delivery)) => Some(Wakeup::Delivered(delivery, permit)),
            Some(Err(ended)) => Some(Wakeup::Lost(ended)),
            None => {
                self.permit = Some(permit);
                None
            }
        }
    }

    /// Waits for a wakeup.
    pub(super) async fn next_wakeup(&mut self, session: &mut Session) -> Wakeup {
        if self.shared.is_some() {
            return self.next_shared(session).await;
        }
        loop {
            let room = self.permit.is_some() && self.unacknowledged.len() < self.most_unacknowledged;
            tokio::select! {
                biased;
                () = self.handlers.stop.drain.cancelled() => return Wakeup::Stop,
                Some(done) = self.tasks.join_next() => return Wakeup::Done(done),
                acquired = Arc::clone(&self.permits).acquire_owned(), if self.permit.is_none() => {
                    self.permit = acquired.ok();
                }
                delivery = session.next_if(room) => match (delivery, self.permit.take()) {
                    (Ok(delivery), Some(permit)) => return Wakeup::Delivered(delivery, permit),
                    (Ok(_), None) => {}
                    (Err(ended), _) => return Wakeup::Lost(ended),
                },
            }
        }
    }

    /// Like [`ready`](Self::ready), for a consumer that shares its permits.
    fn ready_shared(&mut self, session: &mut Session) -> Option<Wakeup> {
        let share = self.shared.as_ref()?;
        if self.waiting.is_none() {
            match session.try_next() {
                Some(Ok(delivery)) => self.waiting = Some(delivery),
                Some(Err(ended)) => return Some(Wakeup::Lost(ended)),
                None => {
                    share.leave();
                    return None;
                }
            }
        }
        let Some(permit) = share.try_permit() else {
            self.is_full = true;
            return None;
        };
        Some(Wakeup::Delivered(self.waiting.take()?, permit))
    }

    /// Like [`next_wakeup`](Self::next_wakeup), for a consumer that shares its permits.
    async fn next_shared(&mut self, session: &mut Session) -> Wakeup {
        loop {
            let room = self.unacknowledged.len() < self.most_unacknowledged;
            let waits = self.waiting.is_some();
            if let Some(share) = self.shared.as_ref().filter(|_| !(room && waits)) {
                share.leave();
            }
            tokio::select! {
                biased;
                () = self.handlers.stop.drain.cancelled() => return Wakeup::Stop,
                Some(done) = self.tasks.join_next() => return Wakeup::Done(done),
                permit = shared_permit(self.shared.as_ref()), if room && waits => {
                    if let Some(delivery) = self.waiting.take() {
                        return Wakeup::Delivered(delivery, permit);
                    }
                }
                delivery = session.next_if(room && !waits) => match delivery {
                    Ok(delivery) => self.waiting = Some(delivery),
                    Err(ended) => return Wakeup::Lost(ended),
                },
            }
        }
    }

    /// Stops asking for a permit, and returns the delivery that waited for a permit.
    pub(super) fn take_waiting(&mut self) -> Option<Delivery> {
        if let Some(share) = &self.shared {
            share.leave();
        }
        self.waiting.take()
    }
}

async fn shared_permit(shared: Option<&LaneShare>) -> tokio::sync::OwnedSemaphorePermit {
    match shared {
        Some(share) => share.permit().await,
        None => std::future::pending().await,
    }
}
