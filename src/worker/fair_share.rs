//! Fair sharing of a queue's concurrency between its lanes. If several lanes have jobs, each gets permits in proportion
//! to its weight. A lane that has no competitor gets all of them.
//!
//! The algorithm is stride scheduling: each permit moves a lane's mark forward by one over its weight, and the lane
//! with the lowest mark is next. A lane that was idle starts at the current mark, so it has no credit. A lane that has
//! just got a permit is waited for until it reports whether it has another job. Otherwise the other lanes would get its
//! share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};

/// Divisible by every small weight.
const STRIDE: u64 = 720_720_000;

pub(crate) struct FairShare {
    permits: Arc<Semaphore>,
    state: Mutex<State>,
    handed: Notify,
}

struct State {
    lanes: Vec<Part>,
    /// Permits that wait until a lane has decided.
    spare: Vec<OwnedSemaphorePermit>,
    /// The mark, before its last permit, of the lane that got a permit last.
    now: u64,
}

struct Part {
    stride: u64,
    mark: u64,
    demand: Demand,
}

enum Demand {
    /// The lane has no job.
    Idle,
    /// The lane has got a permit and has not looked for another job yet.
    Deciding,
    /// The lane has a job.
    Waiting,
    /// A permit is ready for the lane.
    Handed(OwnedSemaphorePermit),
}

/// One lane's share of the permits.
pub(crate) struct LaneShare {
    fair_share: Arc<FairShare>,
    lane: usize,
}

impl FairShare {
    pub(crate) fn new(permits: u16, weights: &[u16]) -> Arc<Self> {
        let part = |weight: &u16| Part { stride: STRIDE / u64::from(*weight), mark: 0, demand: Demand::Idle };
        let lanes = weights.iter().map(part).collect();
        Arc::new(Self {
            permits: Arc::new(Semaphore::new(permits.into())),
            state: Mutex::new(State { lanes, spare: Vec::new(), now: 0 }),
            handed: Notify::new(),
        })
    }

    pub(crate) fn permits(&self) -> Arc<Semaphore> {
        Arc::clone(&self.permits)
    }

    pub(crate) fn share_of(self: &Arc<Self>, lane: usize) -> LaneShare {
        LaneShare { fair_share: Arc::clone(self), lane }
    }

    /// Changes the state, then gives the available permits to the lanes that are next.
    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let changed = change(&mut state);
        let State { lanes, spare, now } = &mut *state;
        while !spare.is_empty() {
            let asking = lanes.iter_mut().filter(|lane| !matches!(lane.demand, Demand::Idle));
            match asking.min_by_key(|lane| lane.mark) {
                None => spare.clear(),
                Some(Part { demand: Demand::Deciding | Demand::Handed(_), .. }) => break,
                Some(lane) => {
                    let Some(permit) = spare.pop() else { break };
                    *now = lane.mark;
                    lane.mark += lane.stride;
                    lane.demand = Demand::Handed(permit);
                    self.handed.notify_waiters();
                }
            }
        }
        changed
    }

    fn hand(&self, permit: OwnedSemaphorePermit) {
        self.change(|state| state.spare.push(permit));
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LaneShare {
    /// Waits for a permit for a waiting job.
    ///
    /// # Cancel safety
    ///
    /// The lane still asks for a permit until it calls this again, or [leaves](Self::leave).
    pub(crate) async fn permit(&self) -> OwnedSemaphorePermit {
        self.want();
        loop {
            let handed = self.fair_share.handed.notified();
            if let Some(permit) = self.take() {
                return permit;
            }
            tokio::select! {
                () = handed => {}
                Ok(permit) = self.fair_share.permits().acquire_owned() => self.fair_share.hand(permit),
            }
        }
    }

    /// Returns a permit if one is available now; see [`permit`](Self::permit).
    pub(crate) fn try_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.want();
        if let Some(permit) = self.take() {
            return Some(permit);
        }
        self.fair_share.hand(self.fair_share.permits().try_acquire_owned().ok()?);
        self.take()
    }

    /// Records that the lane has no more jobs.
    pub(crate) fn leave(&self) {
        self.fair_share.change(|state| {
            if let Demand::Handed(permit) = std::mem::replace(&mut state.lanes[self.lane].demand, Demand::Idle) {
                state.spare.push(permit);
            }
        });
    }

    fn want(&self) {
        self.fair_share.change(|state| {
            let lane = &mut state.lanes[self.lane];
            match lane.demand {
                Demand::Idle => lane.mark = lane.mark.max(state.now),
                Demand::Deciding => {}
                Demand::Waiting | Demand::Handed(_) => return,
            }
            lane.demand = Demand::Waiting;
        });
    }

    fn take(&self) -> Option<OwnedSemaphorePermit> {
        let lane = &mut self.fair_share.lock().lanes[self.lane];
        match std::mem::replace(&mut lane.demand, Demand::Deciding) {
            Demand::Handed(permit) => Some(permit),
            other => {
                lane.demand = other;
                None
            }
        }
    }
}

impl Drop for LaneShare {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::atomic::{AtomicUsize, Ordering},
        time::Duration,
    };

    use futures_util::FutureExt;

    use super::*;

    async fn take(share: LaneShare, counts: Arc<Vec<AtomicUsize>>, lane: usize) {
        loop {
            let permit = share.permit().await;
            counts[lane].fetch_add(1, Ordering::Relaxed);
            tokio::spawn(tokio::time::sleep(Duration::from_millis(10)).map(|()| drop(permit)));
        }
    }

    /// Lets lanes that always have a job take permits for a while, and returns each lane's number.
    async fn taken(fair_share: &Arc<FairShare>, lanes: &[usize]) -> Vec<usize> {
        let counts: Arc<Vec<AtomicUsize>> = Arc::new((0..3).map(|_| AtomicUsize::new(0)).collect());
        let tasks = lanes.iter().map(|lane| tokio::spawn(take(fair_share.share_of(*lane), Arc::clone(&counts), *lane)));
        let tasks: Vec<_> = tasks.collect();
        tokio::time::sleep(Duration::from_secs(10)).await;
        for task in tasks {
            task.abort();
            assert!(task.await.is_err());
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        counts.iter().map(|count| count.load(Ordering::Relaxed)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn places_are_shared_by_weight_and_a_lane_that_is_alone_has_all() {
        let fair_share = FairShare::new(4, &[6, 3, 1]);
        let shares = taken(&fair_share, &[0, 1, 2]).await;
        let all: usize = shares.iter().sum();
        assert!((3_500..=4_100).contains(&all), "no permit is idle: {shares:?}");
        for (share, weight) in shares.iter().zip([6, 3, 1]) {
            assert!(share.abs_diff(all * weight / 10) <= all / 20, "{shares:?}");
        }
        let alone = taken(&fair_share, &[2]).await;
        assert!(alone[2] >= 3_500, "{alone:?}");
        let again = taken(&fair_share, &[0, 2]).await;
        assert!(
            again[0] > again[2] * 5,
            "time without a competitor counts neither for nor against the lane: {again:?}"
        );
        assert!(again[2] > 400, "{again:?}");
        assert_eq!(fair_share.permits.available_permits(), 4);
    }
}
