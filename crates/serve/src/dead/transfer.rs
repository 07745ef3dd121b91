//! Exports and imports dead letters: one line of JSON each, with the message byte for byte in base64.

use std::pin::pin;

use futures_util::{Stream, StreamExt, TryStreamExt, stream::unfold};
use leveret::{reader::RawMessage, text, time::now_ms};
use leveret_store::{AuditStamp, DeadFilter, Store, StoredDeadLetter};
use serde::Serialize;
use tokio::{
    io::{AsyncBufRead, AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    sync::mpsc,
};
use utoipa::ToSchema;

use super::error::Error;

/// The largest message that a broker accepts is 512 MiB, and base64 makes it longer by a third.
const LONGEST_LINE: u64 = 768 << 20;
const LETTERS_AT_ONCE: usize = 256;
const BYTES_AT_ONCE: usize = 8 << 20;
/// Further bad lines are counted only.
const BAD_SHOWN: usize = 100;

/// The result of an import.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct Imported {
    /// The number of new letters.
    pub imported: u64,
    /// The number of letters that the store had already.
    pub known: u64,
    /// The number of lines that are not dead letters.
    pub bad: u64,
    /// The first hundred bad lines.
    #[schema(max_items = 100)]
    pub bad_lines: Vec<BadLine>,
}

/// A line that is not a dead letter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub struct BadLine {
    /// The line's number, from 1.
    #[schema(minimum = 1)]
    pub line: u64,
    /// The reason.
    pub reason: String,
}

/// The lines of the letters that match the filter, as a stream that owns its reader.
pub fn lines(store: Store, filter: DeadFilter) -> impl Stream<Item = Result<Vec<u8>, Error>> + Send {
    let (sender, receiver) = mpsc::channel(1);
    // The stream cannot borrow from the store that it owns, so a task reads. It ends when the stream is dropped.
    tokio::spawn(async move {
        let mut letters = pin!(store.export(&filter));
        while let Some(letter) = letters.next().await {
            let line = letter.map_err(Error::from).and_then(|letter| line(&letter));
            if sender.send(line).await.is_err() {
                return;
            }
        }
    });
    unfold(receiver, async |mut receiver| Some((receiver.recv().await?, receiver)))
}

/// Returns one letter as a line.
///
/// # Errors
///
/// None: every letter can be serialized.
pub fn line(letter: &StoredDeadLetter) -> Result<Vec<u8>, Error> {
    let line = serde_json::to_string(letter).map_err(std::io::Error::from)?;
    // The line may be shown on a terminal, so control characters are escaped.
    let mut line = text::json(&line).into_owned().into_bytes();
    line.push(b'\n');
    Ok(line)
}

/// Writes the letters that match the filter, and returns their number.
///
/// # Errors
///
/// [`Error::Store`], [`Error::Io`].
pub async fn export(store: &Store, filter: &DeadFilter, mut out: impl AsyncWrite + Unpin) -> Result<u64, Error> {
    let mut letters = pin!(store.export(filter));
    let mut count = 0;
    while let Some(letter) = letters.try_next().await? {
        out.write_all(&line(&letter)?).await?;
        count += 1;
    }
    out.flush().await?;
    Ok(count)
}

/// Imports the lines of an [`export`]. Lines that are not dead letters are reported by number. A letter that the store has
/// already is not imported again.
///
/// # Errors
///
/// [`Error::Store`], [`Error::Io`]; the letters read before may be in the store then.
pub async fn import(store: &Store, mut from: impl AsyncBufRead + Unpin, actor: &str) -> Result<Imported, Error> {
    let mut import = Import { store, actor, held: Vec::new(), bytes: 0, done: Imported::default() };
    let mut line = Vec::new();
    for number in 1.. {
        line.clear();
        if (&mut from).take(LONGEST_LINE).read_until(b'\n', &mut line).await? == 0 {
            break;
        }
        if !line.trim_ascii().is_empty() {
            import.take(number, &line).await?;
        }
    }
    import.keep().await?;
    Ok(import.done)
}

struct Import<'a> {
    store: &'a Store,
    actor: &'a str,
    held: Vec<StoredDeadLetter>,
    bytes: usize,
    done: Imported,
}

impl Import<'_> {
    async fn take(&mut self, number: u64, line: &[u8]) -> Result<(), Error> {
        match read(line) {
            Ok(letter) => {
                self.held.push(letter);
                self.bytes += line.len();
            }
            Err(reason) => {
                self.done.bad += 1;
                if self.done.bad_lines.len() < BAD_SHOWN {
                    self.done.bad_lines.push(BadLine { line: number, reason });
                }
            }
        }
        if self.held.len() >= LETTERS_AT_ONCE || self.bytes >= BYTES_AT_ONCE { self.keep().await } else { Ok(()) }
    }

    async fn keep(&mut self) -> Result<(), Error> {
        if self.held.is_empty() {
            return Ok(());
        }
        let imported = self.store.import(&self.held, AuditStamp { actor: self.actor, at: now_ms() }).await?;
        self.done.imported += imported;
        self.done.known += (self.held.len() as u64).saturating_sub(imported);
        self.held.clear();
        self.bytes = 0;
        Ok(())
    }
}

fn read(line: &[u8]) -> Result<StoredDeadLetter, String> {
    let letter: StoredDeadLetter =
        serde_json::from_slice(leveret::without_bom(line)).map_err(|error| error.to_string())?;
    RawMessage::from_parts(&letter.properties, Vec::new()).map_err(|error| error.to_string())?;
    Ok(letter)
}
