//! Who runs a replay: one process at a time, however many servers and commands share a store. Whoever is killed, or loses
//! the store, loses its replays to the others when its lease has run out; servers take them up.

use std::time::Duration;

use leveret_store::{Lease, Replay, Store};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout_at},
};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use super::{error::Error, service::DeadLetterService};
use crate::time::{millis, now_ms};

/// How long a replay rests when whoever ran it was killed.
const LEASE: Duration = Duration::from_secs(20);
const RENEW_EVERY: Duration = Duration::from_secs(4);
/// Whoever runs a replay has noticed by then that it is another's.
pub(super) const NOTICED_WITHIN: Duration = Duration::from_secs(5);
const LOOK_EVERY: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(250);

/// A replay that is ours, as long as the lease lasts.
#[derive(Debug)]
pub struct ReplayLease {
    pub(super) replay: Replay,
    pub(crate) owner: String,
}

/// A replay that was taken from whoever ran it.
#[derive(Debug)]
pub(crate) struct SeizedReplay {
    pub(crate) held: ReplayLease,
    /// Whether somebody ran it until then.
    pub(super) was_running: bool,
}

/// A lease of a run that begins now.
pub(crate) fn lease(owner: &str) -> Lease<'_> {
    Lease { owner, until: now_ms().saturating_add(millis(LEASE)) }
}

pub(crate) fn new_owner() -> String {
    Uuid::now_v7().to_string()
}

impl ReplayLease {
    /// The replay as it was when it was taken.
    #[must_use]
    pub fn replay(&self) -> &Replay {
        &self.replay
    }

    /// Does `work` as long as the replay is ours; none if it is not any more.
    pub(crate) async fn keep<T>(&self, store: &Store, work: impl Future<Output = T>) -> Option<T> {
        tokio::select! {
            done = work => Some(done),
            () = self.until_lost(store) => None,
        }
    }

    /// Lets others have it. If this fails they have it soon all the same.
    pub(super) async fn release(&self, store: &Store) {
        let over = Lease { owner: &self.owner, until: 0 };
        if let Err(error) = store.renew_replay(self.replay.id, over).await {
            tracing::debug!(replay = self.replay.id, error = leveret_store::chain(&error), "a lease ends by itself");
        }
    }

    async fn until_lost(&self, store: &Store) {
        let mut end = Instant::now() + LEASE - RENEW_EVERY;
        loop {
            sleep(RENEW_EVERY).await;
            let renewed_at = Instant::now();
            match timeout_at(end, store.renew_replay(self.replay.id, lease(&self.owner))).await {
                Ok(Ok(true)) => end = renewed_at + LEASE - RENEW_EVERY,
                Ok(Ok(false)) | Err(_) => return,
                Ok(Err(error)) => {
                    tracing::warn!(
                        replay = self.replay.id,
                        error = leveret_store::chain(&error),
                        "a lease could not be put off"
                    );
                }
            }
        }
    }
}

impl DeadLetterService {
    /// Takes an open replay, to [go on](Self::go_on) with it.
    ///
    /// # Errors
    ///
    /// [`Error::NoReplay`], [`Error::Ended`], [`Error::Running`] if somebody runs it, or did so until a moment ago;
    /// [`Error::Store`].
    pub async fn take(&self, id: i64) -> Result<ReplayLease, Error> {
        let owner = new_owner();
        let is_ours = self.store.take_replay(id, lease(&owner), now_ms()).await?;
        self.held(id, owner, is_ours).await
    }

    /// As [`take`](Self::take), also from whoever runs it, to [end](Self::end) it. If this process is killed before that,
    /// whoever takes the replay up ends it.
    pub(crate) async fn seize(&self, id: i64, actor: &str) -> Result<SeizedReplay, Error> {
        let before = self.store.replay(id).await?.ok_or(Error::NoReplay(id))?;
        let owner = new_owner();
        let is_ours = self.store.stop_replay(id, lease(&owner), &format!("stopped by {actor}")).await?;
        let held = self.held(id, owner, is_ours).await?;
        Ok(SeizedReplay { held, was_running: before.leased_until > now_ms() })
    }

    async fn held(&self, id: i64, owner: String, is_ours: bool) -> Result<ReplayLease, Error> {
        let replay = self.store.replay(id).await?.ok_or(Error::NoReplay(id))?;
        match (is_ours, replay.finished_at) {
            (true, _) => Ok(ReplayLease { replay, owner }),
            (false, Some(_)) => Err(Error::Ended(id)),
            (false, None) => Err(Error::Running(id)),
        }
    }

    /// As [`take`](Self::take), but waits for the lease of whoever was killed; not for one that is put off meanwhile.
    pub(super) async fn take_when_free(&self, id: i64) -> Result<ReplayLease, Error> {
        let mut first = None;
        loop {
            match self.take(id).await {
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

    /// Goes on with replays that nobody runs any more, from the first moment on and until `stop`: whoever ran them was
    /// killed, or could not reach the broker.
    pub async fn take_up(&self, stop: CancellationToken) {
        let mut runs = JoinSet::new();
        let looking = async {
            loop {
                // While the store is away, later.
                let open = self.store.open_replays().await.unwrap_or_default();
                for replay in open.into_iter().filter(|replay| replay.leased_until <= now_ms()) {
                    runs.spawn(self.clone().take_one_up(replay));
                }
                while runs.try_join_next().is_some() {}
                sleep(LOOK_EVERY).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(looking).await;
    }

    async fn take_one_up(self, replay: Replay) {
        match self.take(replay.id).await {
            Ok(held) => {
                tracing::info!(replay = replay.id, "nobody runs this replay any more: going on with it");
                held.run(self, &replay.actor).await;
            }
            // Another server was faster.
            Err(error) => tracing::debug!(replay = replay.id, %error, "not taken up"),
        }
    }
}

impl ReplayLease {
    /// Carries it out, and tells nobody but the log how it ended.
    pub(crate) async fn run(self, dead: DeadLetterService, actor: &str) {
        let id = self.replay.id;
        match dead.go_on(self, actor, |_| ()).await {
            Ok(summary) => tracing::info!(replay = id, outcome = summary.outcome, "replayed"),
            Err(error) => {
                tracing::warn!(
                    replay = id,
                    error = leveret_store::chain(&error),
                    "a replay is interrupted; it is taken up again"
                );
            }
        }
    }
}
