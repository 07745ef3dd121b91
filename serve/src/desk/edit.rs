//! Another payload for a dead letter, checked against what its job takes.

use std::time::Duration;

use leveret_store::By;
use tokio::time::timeout;

use super::{Desk, Error, now_ms};

/// How long the catalogue may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an edited payload was checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checked {
    /// The job's schema allows it.
    Schema,
    /// Nothing: the job's workers announced no schema, or the catalogue cannot be read.
    Nothing,
}

impl Desk {
    /// Gives a dead letter another payload; the one it died with is kept.
    ///
    /// # Errors
    ///
    /// [`Error::Payload`] if the job's schema does not allow it, [`Error::NoLetter`], [`Error::Store`].
    pub async fn edit(&self, id: i64, payload: &[u8], actor: &str) -> Result<Checked, Error> {
        let letter = self.store.letter(id).await?.ok_or(Error::NoLetter(id))?;
        let checked = self.check(&letter.about.job, &letter.about.queue, payload).await?;
        let edited = self.store.edit(id, payload, By { actor, at: now_ms() }).await?;
        if edited { Ok(checked) } else { Err(Error::NoLetter(id)) }
    }

    async fn check(&self, job: &str, queue: &str, payload: &[u8]) -> Result<Checked, Error> {
        // A catalogue that cannot be read says of nothing what it should be like.
        drop(timeout(PATIENCE, self.catalogue.ready()).await);
        let entries = self.catalogue.entries();
        let of_queue = entries.iter().find(|entry| entry.job == job && entry.queue == queue).cloned();
        let entry = of_queue.or_else(|| self.catalogue.find(job));
        let Some(schema) = entry.as_ref().and_then(|entry| entry.schema.as_ref()) else { return Ok(Checked::Nothing) };
        let wrong = |errors| Error::Payload { job: job.to_owned(), errors };
        let value = serde_json::from_slice(payload);
        let value = value.map_err(|error| wrong(vec![(String::new(), format!("not JSON: {error}"))]))?;
        let Ok(validator) = jsonschema::validator_for(schema) else { return Ok(Checked::Nothing) };
        let errors = validator.iter_errors(&value);
        let errors: Vec<_> = errors.map(|error| (error.instance_path().to_string(), error.to_string())).collect();
        if errors.is_empty() { Ok(Checked::Schema) } else { Err(wrong(errors)) }
    }
}
