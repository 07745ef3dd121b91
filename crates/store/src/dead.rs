//! Dead letters, ingested from the broker and kept with their history.
//!
//! * `letter`: the types. `fingerprint`: groups letters whose errors are alike. `base64`: bytes in JSON.
//! * In the order of a letter's life: `ingest`, `find`, `change` (edit, purge, restore), `replay`, `transfer` (export,
//!   import).

mod base64;
mod change;
mod find;
mod fingerprint;
mod ingest;
mod letter;
mod replay;
mod transfer;

pub use self::{
    fingerprint::fingerprint,
    letter::{
        DeadFilter, DeadGroup, DeadLetter, DeadSource, DeadState, HistoryEntry, NewDead, Selection, StoredDeadLetter,
    },
    replay::{Replay, ReplayLease},
};
