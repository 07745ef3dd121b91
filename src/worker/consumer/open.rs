//! The start of a consumer's session.

use std::time::Duration;

use crate::worker::consumer::Consumer;
use crate::{
    backoff::Backoff,
    error::Error,
    transport::session::{OpenError, Session},
};

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Retries until there is a session; `None` if the worker stops.
    pub(super) async fn open(&self, has_been_up: &mut bool) -> Result<Option<Session>, Error> {
        let mut backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1)).jitter();
        loop {
            let opened = tokio::select! {
                () = self.handlers.stop.drain.cancelled() => return Ok(None),
                opened = self.handlers.broker.transport().open(&self.handlers.queue, self.lane, self.prefetch) => opened,
            };
            let reason = match opened {
                Ok(session) => {
                    *has_been_up = true;
                    tracing::info!(queue = self.name, "consuming");
                    return Ok(Some(session));
                }
                Err(OpenError::Fatal(error)) if !*has_been_up => return Err(error),
                Err(error) => error.to_string(),
            };
            // The reason names the queue, and each attempt for one process has a new queue.
            let throttled = if self.handlers.queue.is_each_process() {
                self.name.clone()
            } else {
                format!("{}: {reason}", self.name)
            };
            self.handlers.broker.log_throttle().log(throttled, || {
                tracing::warn!(queue = self.name, error = reason, "cannot consume yet, retrying");
            });
            if self.handlers.stop.drain.run_until_cancelled(backoff.sleep()).await.is_none() {
                return Ok(None);
            }
        }
    }
}
