//! Starts, resumes, stops and ends replays.

use leveret::time::now_ms;
use leveret_store::{AuditStamp, Replay, Selection};
use tokio::time::sleep;

use super::{
    options::ReplayOptions,
    progress::{ReplayProgress, ReplaySummary},
    run::ReplayRun,
};
use crate::dead::{
    error::Error,
    lease::{self, LeasedReplay, SeizedReplay},
    service::DeadLetterService,
    throttle::Throttle,
};

impl DeadLetterService {
    /// Replays letters. See [`dead`](crate::dead) for an example.
    ///
    /// # Errors
    ///
    /// [`Error::Interrupted`] if the broker is unreachable for long, [`Error::Store`]. The replay is open then, and a server
    /// resumes it.
    pub async fn replay(
        &self,
        selection: &Selection,
        options: &ReplayOptions,
        actor: &str,
        progress: impl FnMut(&ReplayProgress) + Send,
    ) -> Result<ReplaySummary, Error> {
        let lease = self.start(selection, options, actor).await?;
        self.run_leased(lease, actor, progress).await
    }

    /// Opens and leases a replay without running it: [`run_leased`](Self::run_leased) does.
    ///
    /// # Errors
    ///
    /// [`Error::Options`]; [`Error::Store`]: the replay may be open then, and a server resumes it.
    pub async fn start(
        &self,
        selection: &Selection,
        options: &ReplayOptions,
        actor: &str,
    ) -> Result<LeasedReplay, Error> {
        options.check()?;
        let (kept, owner) = (serde_json::to_value(options).unwrap_or_default(), lease::new_owner());
        let by = AuditStamp { actor, at: now_ms() };
        let replay = self.store.start_replay(selection, &kept, by, lease::new_lease(&owner)).await?;
        // With very many letters the start takes longer than the lease.
        if !self.store.renew_replay(replay.id, lease::new_lease(&owner)).await? {
            return Err(Error::Running(replay.id));
        }
        Ok(LeasedReplay { replay, owner })
    }

    /// Resumes an interrupted replay. If its process was killed, this waits until the lease ends, up to 20 s.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay) and [`lease`](Self::lease).
    pub async fn resume(
        &self,
        replay: i64,
        actor: &str,
        progress: impl FnMut(&ReplayProgress) + Send,
    ) -> Result<ReplaySummary, Error> {
        self.run_leased(self.lease_when_free(replay).await?, actor, progress).await
    }

    /// Ends a replay, also one that another process runs: letters that are not published by then are dead again. If the
    /// replay runs, this takes some seconds, until its process has noticed and marked the letters under way.
    ///
    /// # Errors
    ///
    /// [`Error::NoReplay`], [`Error::Ended`], [`Error::Store`].
    pub async fn stop(&self, id: i64, actor: &str) -> Result<Replay, Error> {
        let seized = self.lease_to_stop(id, actor).await?;
        self.end(seized, actor).await
    }

    /// Ends a replay that was taken from the process that ran it.
    pub(crate) async fn end(
        &self,
        SeizedReplay { lease, was_running }: SeizedReplay,
        actor: &str,
    ) -> Result<Replay, Error> {
        if was_running {
            sleep(lease::NOTICED_WITHIN).await;
        }
        let (id, by, outcome) = (lease.replay.id, AuditStamp { actor, at: now_ms() }, format!("stopped by {actor}"));
        self.store.finish_replay(id, &lease.owner, &outcome, by).await?.ok_or(Error::Ended(id))?;
        self.store.replay(id).await?.ok_or(Error::NoReplay(id))
    }

    /// Runs a leased replay.
    ///
    /// # Errors
    ///
    /// As [`replay`](Self::replay); [`Error::Running`] if the store was unreachable for so long that another process
    /// has the lease.
    pub async fn run_leased(
        &self,
        lease: LeasedReplay,
        actor: &str,
        progress: impl FnMut(&ReplayProgress) + Send,
    ) -> Result<ReplaySummary, Error> {
        let replay = lease.replay();
        let options: ReplayOptions = serde_json::from_value(replay.options.clone()).unwrap_or_default();
        let done = ReplayProgress {
            replay: replay.id,
            total: replay.total,
            replayed: replay.replayed,
            failed: 0,
            waiting: false,
        };
        let throttle = Throttle::new(options.rate);
        let mut run = ReplayRun { dead: self, options, actor, progress, throttle, done, failed: Vec::new(), after: 0 };
        let work = async {
            // The process that stopped the replay was killed before it could end it.
            if let Some(stopped) = &replay.outcome {
                return Ok(stopped.clone());
            }
            run.all(replay.judged).await
        };
        let outcome = match lease.keep(&self.store, work).await {
            Some(Ok(outcome)) => outcome,
            Some(Err(error)) => {
                lease.release(&self.store).await;
                return Err(error);
            }
            None => return Err(Error::Running(replay.id)),
        };
        let returned = self.store.finish_replay(replay.id, &lease.owner, &outcome, run.by()).await?;
        let returned = returned.ok_or(Error::Running(replay.id))?;
        let ReplayRun { done: ReplayProgress { replay, total, replayed, .. }, failed, .. } = run;
        Ok(ReplaySummary { replay, total, replayed, returned, failed, outcome })
    }
}
