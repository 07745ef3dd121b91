//! The jobs of this worker, a file each, and what a mail that was not sent means for its job.

mod confirm_order;
mod send_email;

use std::{error::Error, time::Duration};

use leveret::{Context, JobError, JobResult};

pub use self::send_email::SendEmail;
pub(crate) use self::{confirm_order::confirm_order, send_email::send_email};
use crate::{
    compose::Draft,
    error::{Fault, MailError},
    mail::Mail,
};

/// The dependency whose circuit opens when the mail server refuses this worker, or cannot be reached.
pub(crate) const SMTP: &str = "smtp";

const PAUSE: Duration = Duration::from_secs(5 * 60);
const PAUSE_CAP: Duration = Duration::from_secs(60 * 60);
/// After so many attempts whose fate is unknown a job is given up: each may have delivered the mail.
const UNKNOWN_LIMIT: u32 = 3;
/// Begins the error text of a job with such attempts; the next attempt reads their number from it, in whatever process.
const UNKNOWN: &str = "may have been sent before, attempts without an answer: ";

async fn deliver(draft: Draft, ctx: &Context<Mail>) -> JobResult {
    // Cut off without a word, an attempt that may have sent the mail would not be counted.
    let sent = ctx.state().send_until(draft, ctx.job_id(), ctx.cancelled()).await;
    sent.map_err(|error| verdict(error, ctx.attempt(), unknown_before(ctx.last_error())))
}

/// What a mail that was not sent means for its job, of which `unknown` attempts before may have sent it.
fn verdict(error: MailError, attempt: u32, unknown: u32) -> JobError {
    let fault = error.fault();
    let unknown = unknown + u32::from(fault == Fault::Unknown);
    let error: Box<dyn Error + Send + Sync> =
        if unknown == 0 { error.into() } else { Doubtful { unknown, source: error }.into() };
    match fault {
        Fault::Job => JobError::permanent(error).blame(&[]),
        // Not a snooze: that shows no reason, and gives a job up a day after its first publish.
        Fault::Setup => JobError::retry_after(pause(attempt), error).blame(&[SMTP]),
        Fault::Server => JobError::from(error).blame(&[SMTP]),
        Fault::Passing => JobError::from(error).blame(&[]),
        Fault::Unknown if unknown >= UNKNOWN_LIMIT => JobError::permanent(error).blame(&[SMTP]),
        Fault::Unknown => JobError::retry_after(pause(unknown), error).blame(&[SMTP]),
    }
}

/// Somebody has to fix the set-up; until then the same answer, asked for too often, may lock the account.
fn pause(attempt: u32) -> Duration {
    let doubled = 2_u32.saturating_pow(attempt.saturating_sub(1));
    PAUSE.saturating_mul(doubled).min(PAUSE_CAP)
}

fn unknown_before(last_error: Option<&str>) -> u32 {
    let count = last_error.and_then(|text| text.strip_prefix(UNKNOWN)).and_then(|rest| rest.split(':').next());
    count.and_then(|count| count.parse().ok()).unwrap_or(0)
}

/// A failure of a job whose mail may have been delivered by an earlier attempt, or by this one.
#[derive(Debug, thiserror::Error)]
#[error("{UNKNOWN}{unknown}")]
struct Doubtful {
    unknown: u32,
    source: MailError,
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::{UNKNOWN_LIMIT, pause, unknown_before, verdict};
    use crate::error::{Fault, MailError, Step};

    fn unknown() -> MailError {
        MailError::Unknown { server: "s:25".to_owned(), to: "ann@example.org".to_owned(), answer: "hung up".to_owned() }
    }

    fn passing() -> MailError {
        let (server, to, answer) = ("s:25".to_owned(), "ann@example.org".to_owned(), "451 later".to_owned());
        MailError::Server { server, to, step: Step::Recipient, answer, fault: Fault::Passing }
    }

    #[test]
    fn a_wrong_set_up_is_looked_at_again_in_five_minutes_and_then_every_hour() {
        let minutes = |attempt| pause(attempt).as_secs() / 60;
        assert_eq!([1, 2, 3, 4, 5].map(minutes), [5, 10, 20, 40, 60]);
        assert_eq!(pause(u32::MAX), Duration::from_secs(3600));
    }

    #[test]
    fn a_mail_whose_fate_is_unknown_is_tried_a_few_times_whatever_fails_between() {
        let mut last: Option<String> = None;
        let (mut sent, mut outcomes) = (0, Vec::new());
        for attempt in 1.. {
            let error = if attempt % 2 == 1 { unknown() } else { passing() };
            sent += u32::from(error.fault() == Fault::Unknown);
            let verdict = verdict(error, attempt, unknown_before(last.as_deref()));
            outcomes.push(format!("{verdict:?}").contains("Permanent"));
            if outcomes.last() == Some(&true) {
                break;
            }
            last = Some(verdict.to_string());
        }
        assert_eq!((sent, outcomes), (UNKNOWN_LIMIT, vec![false, false, false, false, true]));
    }

    #[test]
    fn other_errors_count_as_known() {
        for text in
            [None, Some(""), Some("451 later"), Some("may have been sent before, attempts without an answer: x")]
        {
            assert_eq!(unknown_before(text), 0, "{text:?}");
        }
    }
}
