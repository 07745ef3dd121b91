//! The ids of the events that were applied last, which drop the repeats of an emit.

use std::collections::{HashSet, VecDeque};

/// The ids of the last applied events: at least `most`, and whole transactions.
///
/// Only the holder of the lease reads and writes it. It is read from the database when the lease begins.
#[derive(Debug)]
pub(super) struct Window {
    most: u64,
    known: HashSet<Box<[u8]>>,
    /// The ids of each transaction, with the number of its last event.
    rows: VecDeque<(u64, Vec<u8>)>,
}

impl Window {
    pub(super) fn new(most: u64, rows: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Self {
        let mut window = Self { most, known: HashSet::new(), rows: VecDeque::new() };
        for (last, ids) in rows {
            window.push(last, ids);
        }
        window
    }

    pub(super) fn contains(&self, id: &str) -> bool {
        self.known.contains(id.as_bytes())
    }

    /// Adds the ids of a committed transaction.
    pub(super) fn push(&mut self, last: u64, ids: Vec<u8>) {
        self.known.extend(decode(&ids).map(Box::from));
        self.rows.push_back((last, ids));
        while self.rows.front().is_some_and(|(oldest, _)| oldest + self.most <= last) {
            for id in self.rows.pop_front().iter().flat_map(|(_, ids)| decode(ids)) {
                self.known.remove(id);
            }
        }
    }

    /// The number up to which rows are forgotten once event `last` is applied, if there are any.
    pub(super) fn forgets(&self, last: u64) -> Option<u64> {
        let (oldest, _) = self.rows.front()?;
        (oldest + self.most <= last).then(|| last - self.most)
    }
}

/// Appends an id to a row.
pub(super) fn encode(id: &str, row: &mut Vec<u8>) {
    // An id in AMQP has 255 bytes at most.
    let length = u8::try_from(id.len()).unwrap_or(u8::MAX);
    row.push(length);
    row.extend_from_slice(&id.as_bytes()[..usize::from(length)]);
}

fn decode(mut row: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let (length, rest) = row.split_first()?;
        let (id, rest) = rest.split_at_checked(usize::from(*length))?;
        row = rest;
        Some(id)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ids: &[&str]) -> Vec<u8> {
        let mut row = Vec::new();
        ids.iter().for_each(|id| encode(id, &mut row));
        row
    }

    #[test]
    fn the_last_ids_are_known_and_older_ones_are_forgotten_a_transaction_at_a_time() {
        let longest = "i".repeat(255);
        let mut window = Window::new(3, [(2, row(&["a", "b"])), (3, row(&[&longest]))]);
        assert!(["a", "b", &longest].iter().all(|id| window.contains(id)) && !window.contains("c"));
        assert_eq!((window.forgets(4), window.forgets(5)), (None, Some(2)));
        window.push(4, row(&["c"]));
        assert!(window.contains("a"));
        window.push(6, row(&["d", ""]));
        assert!(!window.contains("a") && !window.contains("b") && !window.contains(&longest));
        assert!(["c", "d", ""].iter().all(|id| window.contains(id)));
        assert_eq!(window.rows.len(), 2);
    }
}
