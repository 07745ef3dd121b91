//! The lease of a replay: one process at a time runs it, however many servers and commands share a store. When a process
//! is killed or loses the store, its lease ends, and a server resumes the replay.

use std::time::Duration;

use leveret::time::{millis, now_ms};
use leveret_store::{Replay, ReplayLease, Store};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{error::Error, service::DeadLetterService};

/// Time for which a replay rests after its process crashed.
const LEASE: Duration = Duration::from_secs(20);
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Within this time a process notices that it lost its lease.
pub(super) const NOTICED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);

/// A replay that this process runs while the lease lasts.
#[derive(Debug)]
pub struct LeasedReplay {
    pub(super) replay: Replay,
    pub(crate) owner: String,
}

/// A replay that was taken from the process that ran it.
#[derive(Debug)]
pub(crate) struct SeizedReplay {
    pub(crate) lease: LeasedReplay,
    /// True if a process ran it until then.
    pub(super) was_running: bool,
}

/// A lease for a run that begins now.
pub(crate) fn new_lease(owner: &str) -> ReplayLease<'_> {
    ReplayLease { owner, until: now_ms().saturating_add(millis(LEASE)) }
}

pub(crate) fn new_owner() -> String {
    Uuid::now_v7().to_string()
}

impl LeasedReplay {
    /// The replay at the time of the lease.
    #[must_use]
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// Does `work` while the lease lasts; none if the lease is lost.
    pub(crate) async fn keep<T>(&self, store: &Store, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.until_lost(store) => None,
        }
    }

    /// Ends the lease early. If this fails, the lease ends by itself.
    pub(super) async fn release(&self, store: &Store) {
        let over = ReplayLease { owner: &self.owner, until: 0 };
        if let Err(error) = store.renew_replay(self.replay.id, over).await {
            tracing::debug!(
                replay = self.replay.id,
                error = leveret::text::error_chain(&error),
                "cannot release the lease of a replay: it ends by itself"
            );
        }
    }

    async fn until_lost(&self, store: &Store) {
        let mut end = Instant::now() + LEASE - RENEW_EVERY;
        loop {
            sleep(RENEW_EVERY).await;
            let renewed_at = Instant::now();
            match timeout_at(end, store.renew_replay(self.replay.id, new_lease(&self.owner))).await {
                Ok(Ok(true)) => end = renewed_at + LEASE - RENEW_EVERY,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(
                        replay = self.replay.id,
                        error = leveret::text::error_chain(&error),
                        "cannot renew the lease of a replay"
                    );
                }
            }
        }
    }
}

impl DeadLetterService {
    /// Leases an open replay, to [run](Self::run_leased) it.
    ///
    /// # Errors
    ///
    /// [`Error::NoReplay`], [`Error::Ended`], [`Error::Running`] if another process runs it, or did so until a moment ago;
    /// [`Error::Store`].
    pub async fn lease(&self, id: i64) -> Result<LeasedReplay, Error> {
        let owner = new_owner();
        let is_own = self.store.take_replay(id, new_lease(&owner), now_ms()).await?;
        self.leased(id, owner, is_own).await
    }

    /// Leases a replay to [end](Self::end) it, also while another process runs it. If this process is killed before that, the
    /// server that resumes the replay ends it.
    pub(crate) async fn lease_to_stop(&self, id: i64, actor: &str) -> Result<SeizedReplay, Error> {
        let before = self.store.replay(id).await?.ok_or(Error::NoReplay(id))?;
        let owner = new_owner();
        let is_own = self.store.stop_replay(id, new_lease(&owner), &format!("stopped by {actor}")).await?;
        let lease = self.leased(id, owner, is_own).await?;
        Ok(SeizedReplay { lease, was_running: before.leased_until > now_ms() })
    }

    async fn leased(&self, id: i64, owner: String, is_own: bool) -> Result<LeasedReplay, Error> {
        let replay = self.store.replay(id).await?.ok_or(Error::NoReplay(id))?;
        match (is_own, replay.finished_at) {
            (true, _) => Ok(LeasedReplay { replay, owner }),
            (false, Some(_)) => Err(Error::Ended(id)),
            (false, None) => Err(Error::Running(id)),
        }
    }

    /// Leases as [`lease`](Self::lease) does, but waits for the end of a killed process's lease. A lease that is
    /// renewed meanwhile is an error.
    pub(super) async fn lease_when_free(&self, id: i64) -> Result<LeasedReplay, Error> {
        let mut first = None;
        loop {
            match self.lease(id).await {
                Err(Error::Running(id)) => {
                    let until = self.store.replay(id).await?.map(|replay| replay.leased_until);
                    if *first.get_or_insert(until) != until {
                        return Err(Error::Running(id));
                    }
                }
                taken => return taken,
            }
            sleep(PAUSE).await;
        }
    }

    /// Resumes open replays without a lease, at once and until `stop`: their process was killed, or lost the broker.
    pub async fn resume_abandoned(&self, stop: CancellationToken) {
        let mut runs = JoinSet::new();
        let looking = async {
            loop {
                // An unreachable store is asked again in the next round.
                let open = self.store.open_replays().await.unwrap_or_default();
                for replay in open.into_iter().filter(|replay| replay.leased_until <= now_ms()) {
                    runs.spawn(self.clone().resume_one(replay));
                }
                while runs.try_join_next().is_some() {}
                sleep(LOOK_EVERY).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(looking).await;
    }

    async fn resume_one(self, replay: Replay) {
        match self.lease(replay.id).await {
            Ok(lease) => {
                tracing::info!(replay = replay.id, "resuming a replay whose process ended");
                lease.run(self, &replay.actor).await;
            }
            // Another server has leased it first.
            Err(error) => tracing::debug!(replay = replay.id, %error, "not resumed"),
        }
    }
}

impl LeasedReplay {
    /// Runs the replay, and logs the outcome.
    pub(crate) async fn run(self, dead: DeadLetterService, actor: &str) {
        let id = self.replay.id;
        match dead.run_leased(self, actor, |_| ()).await {
            Ok(summary) => tracing::info!(replay = id, outcome = summary.outcome, "replayed"),
            Err(error) => {
                tracing::warn!(
                    replay = id,
                    error = leveret::text::error_chain(&error),
                    "a replay was interrupted; a server resumes it"
                );
            }
        }
    }
}
