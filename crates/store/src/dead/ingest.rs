//! Ingests dead letters. The caller acks them to the broker after the commit, so that none is lost in between.

use std::collections::HashSet;

use leveret::reader::ERROR_TEXT_LIMIT;
use leveret_sql::{
    Result,
    db::{Arg, Sql, TimedConnection, chunks, text_list},
};
use sha2::{Digest, Sha256};

use super::{fingerprint::fingerprint, letter::NewDead};
use crate::open::{Store, WriteLock};

/// The bytes of messages above which each is written by a statement of its own.
const BYTES_AT_ONCE: usize = 8 << 20;
/// The longest class of an error, in bytes.
const LONGEST_KIND: usize = 255;

/// A letter that is to be written.
pub(super) struct IngestedLetter<'a> {
    pub(super) new: &'a NewDead,
    /// The class and the text of its error, cut to the length that workers write.
    pub(super) kind: &'a str,
    pub(super) error: &'a str,
    /// The payload that replaces the original one.
    pub(super) edited: Option<&'a [u8]>,
    pub(super) digest: Option<String>,
    pub(super) fingerprint: (String, String),
}

impl<'a> IngestedLetter<'a> {
    pub(super) fn new(new: &'a NewDead) -> Self {
        let kind = &new.kind[..new.kind.floor_char_boundary(LONGEST_KIND)];
        let error = &new.error[..new.error.floor_char_boundary(ERROR_TEXT_LIMIT)];
        let fingerprint = fingerprint(&new.job, kind, error);
        Self { new, kind, error, edited: None, digest: digest(new), fingerprint }
    }
}

impl Store {
    /// Ingests dead letters, all or none, and returns the numbers of the new ones.
    ///
    /// A letter that the store has already, in any state, is skipped: the broker redelivers what was not acked, and the
    /// answer to a commit can be lost. A letter without a job id cannot be recognised, and is stored twice. An error is
    /// cut to the length that workers write, [`ERROR_TEXT_LIMIT`].
    ///
    /// ```
    /// use leveret_store::{DeadFilter, DeadSource, NewDead, Store};
    ///
    /// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let folder = tempfile::tempdir()?;
    /// # let store = Store::open(&folder.path().join("leveret.db").display().to_string()).await?;
    /// let letter = NewDead {
    ///     source: DeadSource::Dead,
    ///     queue: "email".into(),
    ///     job_id: Some("order-17".into()),
    ///     job: "email.send".into(),
    ///     kind: "handler".into(),
    ///     error: "no mailbox 17".into(),
    ///     attempt: 5,
    ///     hop: 4,
    ///     failed_at: Some(1_800_000_000_000),
    ///     properties: Vec::new(),
    ///     payload: b"{}".to_vec(),
    /// };
    /// store.ingest(&[letter], 1_800_000_000_500).await?;
    /// assert_eq!(store.groups(&DeadFilter::default(), 10).await?[0].error, "no mailbox <n>");
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Database`](crate::Error::Database). Nothing was written then.
    pub async fn ingest(&self, letters: &[NewDead], now: u64) -> Result<Vec<i64>> {
        let letters = letters.iter().map(IngestedLetter::new).collect();
        let mut tx = self.write(WriteLock::Dead).await?;
        let fresh = self.fresh(&mut tx, letters).await?;
        let ids = insert(&mut tx, &fresh, now).await?;
        tx.commit().await?;
        Ok(ids)
    }

    /// Returns the letters that the store does not have, each once. The write lock keeps this true.
    pub(super) async fn fresh<'a>(
        &self,
        tx: &mut TimedConnection,
        mut letters: Vec<IngestedLetter<'a>>,
    ) -> Result<Vec<IngestedLetter<'a>>> {
        let digests = text_list(letters.iter().filter_map(|letter| letter.digest.as_deref()));
        let text = format!("SELECT digest FROM leveret_dead WHERE digest IN {}", self.dialect().list("$1"));
        let rows = Sql::new(text).arg(digests).rows(tx).await?;
        let mut known: HashSet<String> = rows.iter().map(|row| row.try_get("digest")).collect::<sqlx::Result<_>>()?;
        letters.retain(|letter| letter.digest.clone().is_none_or(|digest| known.insert(digest)));
        Ok(letters)
    }
}

pub(super) async fn insert(tx: &mut TimedConnection, letters: &[IngestedLetter<'_>], now: u64) -> Result<Vec<i64>> {
    let mut ids = Vec::with_capacity(letters.len());
    for chunk in chunks(letters) {
        let bytes: usize = chunk.iter().map(|letter| letter.new.payload.len() + letter.new.properties.len()).sum();
        let at_once = if bytes > BYTES_AT_ONCE { 1 } else { chunk.len() };
        for portion in chunk.chunks(at_once) {
            name_fingerprints(portion).execute(tx).await?;
            for row in insertion(portion, now).rows(tx).await? {
                ids.push(row.try_get("id")?);
            }
        }
    }
    Ok(ids)
}

/// `DO NOTHING` also allows a fingerprint twice in one statement.
fn name_fingerprints(letters: &[IngestedLetter<'_>]) -> Sql {
    let mut sql = Sql::new("INSERT INTO leveret_fingerprints (fingerprint, job, kind, masked) VALUES ");
    sql.values(letters.iter().map(|letter| {
        let (fingerprint, masked) = &letter.fingerprint;
        [fingerprint.as_str().into(), letter.new.job.as_str().into(), letter.kind.into(), masked.as_str().into()]
    }));
    sql.push(" ON CONFLICT (fingerprint) DO NOTHING");
    sql
}

fn insertion(letters: &[IngestedLetter<'_>], now: u64) -> Sql {
    let mut sql = Sql::new(
        "INSERT INTO leveret_dead (source, queue, job_id, job, kind, attempt, hop, failed_at, taken_at, state, state_at,
                                   fingerprint, digest, error, properties, payload, original) VALUES ",
    );
    sql.values(letters.iter().map(|letter| row(letter, now)));
    sql.push(" RETURNING id");
    sql
}

fn row(letter: &IngestedLetter<'_>, now: u64) -> [Arg; 17] {
    let new = letter.new;
    [
        new.source.as_str().into(),
        new.queue.as_str().into(),
        new.job_id.as_deref().into(),
        new.job.as_str().into(),
        letter.kind.into(),
        new.attempt.into(),
        new.hop.into(),
        new.failed_at.unwrap_or(now).into(),
        now.into(),
        "dead".into(),
        now.into(),
        letter.fingerprint.0.as_str().into(),
        letter.digest.as_deref().into(),
        letter.error.into(),
        new.properties.as_slice().into(),
        letter.edited.unwrap_or(&new.payload).into(),
        Arg::Bytes(letter.edited.map(|_| new.payload.clone())),
    ]
}

/// The digest that two deliveries of one message have in common, and no other message has.
fn digest(new: &NewDead) -> Option<String> {
    let id = new.job_id.as_ref()?;
    let mut digest = Sha256::new();
    for part in [new.queue.as_bytes(), id.as_bytes(), &new.payload, &new.properties] {
        digest.update((part.len() as u64).to_be_bytes());
        digest.update(part);
    }
    digest.update(new.hop.to_be_bytes());
    digest.update(new.attempt.to_be_bytes());
    Some(leveret::text::hex(&digest.finalize()[..16]))
}
