//! The start of a consumer's session.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};

use crate::worker::consumer::Consumer;
use crate::{
    error::Error,
    transport::session::{OpenError, Session},
};

impl<S: Send + Sync + 'static> Consumer<S> {
    /// Retries until there is a session; `None` if the worker stops.
    pub(super) async fn open(&self, has_been_up: &mut bool) -> Result<Option<Session>, Error> {
        let backoff = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(50))
            .with_max_delay(Duration::from_secs(1))
            .with_jitter()
            .without_max_times();
        let mut delays = backoff.build();
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
            if self.handlers.broker.log_throttle().should_log(format!("{}: {reason}", self.name)) {
                tracing::warn!(queue = self.name, error = reason, "cannot consume yet, retrying");
            }
            let delay = delays.next().unwrap_or(Duration::from_secs(1));
            if self.handlers.stop.drain.run_until_cancelled(tokio::time::sleep(delay)).await.is_none() {
                return Ok(None);
            }
        }
    }
}
