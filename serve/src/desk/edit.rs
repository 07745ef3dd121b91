//! Another payload for a dead letter, checked against what its job takes.

use std::time::Duration;

use leveret::catalogue::Catalogue;
use leveret_store::By;
use serde::Serialize;
use tokio::time::timeout;

use super::{Desk, Error};
use crate::{
    jobs::{Flaw, Schemas},
    time::now_ms,
};

/// How long the catalogue may take to be read.
const PATIENCE: Duration = Duration::from_secs(10);

/// What an edited payload was checked against.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
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
        let checked = check(&self.catalogue, &letter.about.job, &letter.about.queue, payload).await?;
        let edited = self.store.edit(id, payload, By { actor, at: now_ms() }).await?;
        if edited { Ok(checked) } else { Err(Error::NoLetter(id)) }
    }
}

/// Checks a payload against the schema that the workers of a job on a queue announced, or on any queue.
///
/// # Errors
///
/// [`Error::Payload`].
pub async fn check(catalogue: &Catalogue, job: &str, queue: &str, payload: &[u8]) -> Result<Checked, Error> {
    // A catalogue that cannot be read says of nothing what it should be like.
    drop(timeout(PATIENCE, catalogue.ready()).await);
    let entries = catalogue.entries();
    let of_queue = entries.into_iter().find(|entry| entry.job == job && entry.queue == queue);
    let entry = of_queue.or_else(|| catalogue.find(job)).filter(|entry| entry.schema.is_some());
    let Some(entry) = entry else { return Ok(Checked::Nothing) };
    let flaws = match std::str::from_utf8(payload) {
        Ok(payload) => Schemas::default().check(&entry, payload),
        Err(error) => vec![Flaw::new("/payload", error.to_string())],
    };
    if flaws.is_empty() { Ok(Checked::Schema) } else { Err(Error::Payload { job: job.to_owned(), flaws }) }
}
