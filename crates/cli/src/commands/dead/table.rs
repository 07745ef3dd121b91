//! Dead letters as a table.

use leveret_store::DeadLetter;

use super::super::shared::time;
use crate::output::{one_line, table};

/// The longest error in a row, in characters.
pub(super) const ERROR: usize = 80;

/// A row for each dead letter.
pub(super) fn lines(letters: &[DeadLetter]) -> String {
    let row = |letter: &DeadLetter| {
        [
            letter.id.to_string(),
            time(letter.failed_at),
            one_line(&letter.queue, 32),
            one_line(&letter.job, 32),
            one_line(&letter.kind, 32),
            letter.attempt.to_string(),
            letter.state.as_str().to_owned(),
            one_line(&letter.error, ERROR),
        ]
    };
    let rows: Vec<_> = letters.iter().map(row).collect();
    table(["ID", "FAILED AT", "QUEUE", "JOB", "KIND", "ATTEMPT", "STATE", "ERROR"], &rows)
}
