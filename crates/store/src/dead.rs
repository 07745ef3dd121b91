//! Dead letters, taken out of the broker and kept with their history.
//!
//! * `letter`: the types. `fingerprint`: groups letters whose errors are alike. `base64`: bytes in JSON.
//! * In the order of a letter's life: `take_in`, `find`, `change` (edit, purge, restore), `replay`, `transfer` (export,
//!   import).

mod base64;
mod change;
mod find;
mod fingerprint;
mod letter;
mod replay;
mod take_in;
mod transfer;

pub use self::{
    fingerprint::fingerprint,
    letter::{DeadFilter, DeadLetter, DeadSource, DeadState, Group, HistoryEntry, Letter, NewDead, Selection},
    replay::{Lease, Replay},
};
