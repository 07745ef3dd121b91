//! The jobs of this worker, a file each, and what a mail that was not sent means for its job.

mod order_confirmation;
mod send;

use std::time::Duration;

use leveret::{Context, JobError, JobResult};

pub use self::send::SendEmail;
pub(crate) use self::{order_confirmation::confirm_order, send::send_email};
use crate::{
    compose::Draft,
    error::{Fault, MailError},
    mail::Mail,
};

const SETUP_PAUSE: Duration = Duration::from_secs(5 * 60);
const SETUP_PAUSE_CAP: Duration = Duration::from_secs(60 * 60);

async fn deliver(draft: Draft, ctx: &Context<Mail>) -> JobResult {
    let sent = ctx.state().send(draft, ctx.job_id()).await;
    sent.map_err(|error| verdict(error, ctx.attempt()))
}

fn verdict(error: MailError, attempt: u32) -> JobError {
    match error.fault() {
        Fault::Job => JobError::permanent(error),
        // Not a snooze: that shows no reason, and gives a job up a day after its first publish.
        Fault::Setup => JobError::retry_after(setup_pause(attempt), error),
        Fault::Passing => error.into(),
    }
}

/// Somebody has to mend the set-up; until then the same answer, asked for too often, may lock the account.
fn setup_pause(attempt: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
    SETUP_PAUSE.saturating_mul(doubled).min(SETUP_PAUSE_CAP)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::setup_pause;

    #[test]
    fn a_wrong_set_up_is_looked_at_again_in_five_minutes_and_then_every_hour() {
        let minutes = |attempt| setup_pause(attempt).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 5].map(minutes), [5, 10, 20, 40, 60]);
        assert_eq!(setup_pause(u32::MAX), Duration::from_secs(3600));
    }
}
