//! Sends the mail of a job, and turns a failure into the outcome of the job.

use std::{error::Error, time::Duration};

use leveret::{Context, JobError, JobResult};

use crate::{
    compose::MailDraft,
    error::{FailureKind, MailError},
    mail::Mail,
};

/// Name of the circuit that opens when the mail server refuses this worker or is unreachable.
pub(crate) const SMTP: &str = "smtp";

const RETRY_DELAY: Duration = Duration::from_secs(5 * 60);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60 * 60);
/// Maximum unconfirmed attempts of a job; each may have delivered the mail.
const UNCONFIRMED_LIMIT: u32 = 3;
/// Prefix of the error of a job with unconfirmed attempts. The next attempt, in any process, reads their number from it.
const UNCONFIRMED_PREFIX: &str = "may have been sent before, attempts without an answer: ";

/// Sends the mail of a job. A job without a valid mail is a dead letter.
pub(super) async fn deliver<E>(draft: Result<MailDraft, E>, ctx: &Context<Mail>) -> JobResult
where
    E: Error + Send + Sync + 'static,
{
    let draft = draft.map_err(|error| {
        ctx.skip_circuit(SMTP);
        JobError::permanent(error)
    })?;
    // A cancelled attempt must still report an error, so that the next attempt counts it as unconfirmed.
    let sent = ctx.state().send_until(draft, ctx.job_id(), ctx.cancelled()).await;
    sent.map_err(|error| {
        if !error.is_of_the_server() {
            ctx.skip_circuit(SMTP);
        }
        job_error(error, ctx.attempt(), unconfirmed_before(ctx.last_error()))
    })
}

/// Returns the error of a job, of which `unconfirmed` earlier attempts may have sent the mail.
fn job_error(error: MailError, attempt: u32, unconfirmed: u32) -> JobError {
    let kind = error.kind();
    let unconfirmed = unconfirmed + u32::from(kind == FailureKind::Unconfirmed);
    let error: Box<dyn Error + Send + Sync> =
        if unconfirmed == 0 { error.into() } else { MaybeSent { unconfirmed, source: error }.into() };
    match kind {
        FailureKind::Permanent => JobError::permanent(error).blame(&[]),
        // A snooze would show no reason, and would dead-letter the job a day after its first publish.
        FailureKind::Configuration => JobError::retry_after(retry_delay(attempt), error).blame(&[SMTP]),
        FailureKind::ServerUnavailable => JobError::from(error).blame(&[SMTP]),
        FailureKind::Transient => JobError::from(error).blame(&[]),
        FailureKind::Unconfirmed if unconfirmed >= UNCONFIRMED_LIMIT => JobError::permanent(error).blame(&[SMTP]),
        FailureKind::Unconfirmed => JobError::retry_after(retry_delay(unconfirmed), error).blame(&[SMTP]),
    }
}

/// Returns the delay of the next attempt. Until the configuration is fixed, frequent attempts may lock the account.
fn retry_delay(attempt: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
    RETRY_DELAY.saturating_mul(doubled).min(MAX_RETRY_DELAY)
}

fn unconfirmed_before(last_error: Option<&str>) -> u32 {
    let count =
        last_error.and_then(|text| text.strip_prefix(UNCONFIRMED_PREFIX)).and_then(|rest| rest.split(':').next());
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// Failure of a job whose mail an earlier attempt, or this one, may have delivered.
#[derive(Debug, thiserror::Error)]
#[error("{UNCONFIRMED_PREFIX}{unconfirmed}")]
struct MaybeSent {
    unconfirmed: u32,
    source: MailError,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{UNCONFIRMED_LIMIT, job_error, retry_delay, unconfirmed_before};
    use crate::error::{FailureKind, MailError, SmtpStep};

    fn unconfirmed() -> MailError {
        MailError::Unconfirmed {
            server: "s:25".to_owned(),
            to: "ann@example.org".to_owned(),
            answer: "hung up".to_owned(),
        }
    }

    fn transient() -> MailError {
        let (server, to, answer) = ("s:25".to_owned(), "ann@example.org".to_owned(), "451 later".to_owned());
        MailError::Server { server, to, step: SmtpStep::Recipient, answer, kind: FailureKind::Transient }
    }

    #[test]
    fn a_wrong_configuration_is_retried_in_five_minutes_and_then_every_hour() {
        let minutes = |attempt| retry_delay(attempt).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 5].map(minutes), [5, 10, 20, 40, 60]);
        assert_eq!(retry_delay(u32::MAX), Duration::from_secs(3600));
    }

    #[test]
    fn an_unconfirmed_mail_is_tried_a_few_times_whatever_fails_between() {
        let mut last: Option<String> = None;
        let (mut sent, mut outcomes) = (0, Vec::new());
        for attempt in 1.. {
            let error = if attempt % 2 == 1 { unconfirmed() } else { transient() };
            sent += u32::from(error.kind() == FailureKind::Unconfirmed);
            let failed = job_error(error, attempt, unconfirmed_before(last.as_deref()));
            outcomes.push(format!("{failed:?}").contains("Permanent"));
            if outcomes.last() == Some(&true) {
                break;
            }
            last = Some(failed.to_string());
        }
        assert_eq!((sent, outcomes), (UNCONFIRMED_LIMIT, vec![false, false, false, false, true]));
    }

    #[test]
    fn other_errors_count_as_known() {
        for text in
            [None, Some(""), Some("451 later"), Some("may have been sent before, attempts without an answer: x")]
        {
            assert_eq!(unconfirmed_before(text), 0, "{text:?}");
        }
    }
}
