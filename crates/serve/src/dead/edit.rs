//! Replaces the payload of a dead letter, and checks it against the schema of its job.

use std::{collections::HashSet, time::Duration};

use leveret::{catalogue::Catalogue, time::now_ms};
use leveret_store::{AuditStamp, DeadLetter, DeadState, time::to_rfc3339};
use serde::Serialize;
use tokio::time::timeout;
use utoipa::ToSchema;

use super::{error::Error, redact, service::DeadLetterService};
use crate::{
    field_error::FieldError,
    json,
    schema::{CheckBudget, MAX_FIELD_ERRORS, SchemaCheck, Schemas, checked},
};

/// The time limit for reading the catalogue.
const PATIENCE: Duration = Duration::from_secs(10);

/// The check that an edited payload passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum CheckedAgainst {
    /// The job's schema.
    Schema,
    /// JSON syntax only: the job's workers announced no schema or an unusable one, or the catalogue cannot be read.
    Nothing,
}

impl DeadLetterService {
    /// Replaces the payload of a dead letter. The original payload is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] if the payload is not JSON, does not fit the job's schema, or has `"***"` where a value was hidden;
    /// [`Error::NoLetter`], [`Error::NotDead`], [`Error::Store`].
    pub async fn edit(&self, id: i64, payload: &[u8], actor: &str) -> Result<CheckedAgainst, Error> {
        let letter = self.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
        let text = text(&letter.about.job, payload)?;
        let meant: HashSet<_> = [Some(&letter.payload), letter.original.as_ref()]
            .into_iter()
            .flatten()
            .filter_map(|known| json::text(known).ok())
            .flat_map(redact::masked)
            .collect();
        let lost = redact::masked_besides(text, &meant, MAX_FIELD_ERRORS);
        if !lost.is_empty() {
            let field_errors =
                lost.into_iter().map(|pointer| FieldError::new(format!("/payload{pointer}"), HIDDEN)).collect();
            return Err(Error::Payload { job: letter.about.job, field_errors });
        }
        let checked = check(&self.catalogue, &letter.about.job, &letter.about.queue, payload).await?;
        if self.store.edit(id, payload, AuditStamp { actor, at: now_ms() }).await? {
            return Ok(checked);
        }
        let letter = self.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
        Err(not_dead(&letter.about))
    }

    /// Restores the original payload of a dead letter.
    ///
    /// # Errors
    ///
    /// [`Error::NotEdited`], [`Error::NoLetter`], [`Error::NotDead`], [`Error::Store`].
    pub async fn revert(&self, id: i64, actor: &str) -> Result<(), Error> {
        if self.store.revert(id, AuditStamp { actor, at: now_ms() }).await? {
            return Ok(());
        }
        let letter = self.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
        Err(if letter.about.edited { not_dead(&letter.about) } else { Error::NotEdited(id) })
    }
}

/// The error of a change of a letter that was not dead.
fn not_dead(letter: &DeadLetter) -> Error {
    let at = to_rfc3339(letter.state_at);
    let fate = match letter.state {
        DeadState::Purged => format!("was purged at {at}: restore it first"),
        DeadState::Replayed => format!("was replayed at {at}: if its job fails again, edit the new dead letter"),
        DeadState::Replaying => format!("is in a replay since {at}: stop the replay first"),
        DeadState::Dead => format!("is a dead letter again since {at}: retry"),
    };
    Error::NotDead { id: letter.id, fate }
}

const HIDDEN: &str = "is \"***\", which stands for a value that was not shown: edit the payload as it is (`leveret dead show \
                      --raw`, GET /api/dead/{id}/payload)";

/// Checks a payload against the schema that a job's workers announced: for this queue, or else for any.
///
/// # Errors
///
/// [`Error::Payload`].
pub async fn check(catalogue: &Catalogue, job: &str, queue: &str, payload: &[u8]) -> Result<CheckedAgainst, Error> {
    let text = text(job, payload)?.to_owned();
    // Without a catalogue there is no schema, and the payload is accepted.
    drop(timeout(PATIENCE, catalogue.ready()).await);
    let entries = catalogue.entries();
    let of_queue = entries.into_iter().find(|entry| entry.job == job && entry.queue == queue);
    let entry = of_queue.or_else(|| catalogue.find(job)).filter(|entry| entry.schema.is_some());
    let Some(entry) = entry else { return Ok(CheckedAgainst::Nothing) };
    match checked(move || Schemas::default().check(&entry, &text, &mut CheckBudget::default())).await {
        Some(SchemaCheck::Valid) => Ok(CheckedAgainst::Schema),
        Some(SchemaCheck::Unchecked) | None => Ok(CheckedAgainst::Nothing),
        Some(SchemaCheck::Invalid(field_errors)) => Err(Error::Payload { job: job.to_owned(), field_errors }),
    }
}

fn text<'a>(job: &str, payload: &'a [u8]) -> Result<&'a str, Error> {
    json::text(payload).map_err(|reason| Error::Payload {
        job: job.to_owned(),
        field_errors: vec![FieldError::new("/payload", reason)],
    })
}
