//! Applies events in one transaction with the position behind them.

use std::{collections::HashSet, time::Duration};

use tokio::time::timeout;

use super::{
    handler::{BoxError, Emptying, Erased, ProjectionConnection, Typed, caught},
    log::Entry,
    metrics::Metrics,
    state::Ended,
    table::{Place, Table},
    window::{Window, encode},
};
use crate::{Error, db::TimedConnection};

/// The reason why a transaction was rolled back.
pub(super) enum RolledBack {
    /// The handler of the event with this number in the batch failed.
    Handler(usize, BoxError),
    Ended(Ended),
}

impl<E: Into<Ended>> From<E> for RolledBack {
    fn from(ended: E) -> Self {
        Self::Ended(ended.into())
    }
}

impl RolledBack {
    /// Distinguishes a handler that failed from a database that became unreachable under it.
    fn by_handler(number: usize, error: BoxError) -> Self {
        match error.downcast::<sqlx::Error>() {
            Ok(error) => {
                let error = Error::from(*error);
                if error.is_unavailable() { error.into() } else { Self::Handler(number, error.into()) }
            }
            Err(error) => Self::Handler(number, error),
        }
    }
}

/// Applies batches of events for the holder of the lease.
pub(super) struct Applier<'p, C> {
    pub(super) table: &'p Table,
    pub(super) handlers: &'p [Erased<C>],
    pub(super) timeout: Duration,
    pub(super) metrics: &'p Metrics,
    pub(super) epoch: i64,
    /// The position in the database.
    pub(super) place: Option<Place>,
    pub(super) applied: u64,
    pub(super) window: Window,
}

impl<C: ProjectionConnection> Applier<'_, C> {
    /// Empties the view and records that, in one transaction.
    pub(super) async fn empty(&mut self, empty: &Emptying<C>) -> Result<(), RolledBack> {
        let mut tx = self.table.begin().await?;
        if !self.table.emptied(&mut tx, self.epoch).await? {
            return Err(Ended::Lost.into());
        }
        self.run(empty(of_user(&mut tx)?)).await.map_err(|error| RolledBack::Handler(0, error))?;
        Ok(tx.commit().await?)
    }

    /// Applies events, and moves the position to `to`, in one transaction. Events that were applied before are dropped.
    pub(super) async fn apply(&mut self, entries: &[Entry], to: &Place) -> Result<(), RolledBack> {
        let (chosen, ids) = self.choose(entries);
        let (repeated, last) = (entries.len() - chosen.len(), self.applied + chosen.len() as u64);
        let mut tx = self.table.begin().await?;
        let from = self.place.as_ref();
        // First, because it locks the row: another holder waits here, and finds a later epoch.
        if !self.table.advance(&mut tx, self.epoch, (from, to), chosen.len() as u64).await? {
            return Err(Ended::Lost.into());
        }
        for (number, entry) in chosen.iter().filter(|(_, entry)| !entry.is_skipped) {
            let handler = &self.handlers[entry.handler];
            let applied = self.run(handler(&entry.event, of_user(&mut tx)?)).await;
            applied.map_err(|error| RolledBack::by_handler(*number, error))?;
        }
        if !chosen.is_empty() {
            // Last, because it finds out whether a handler hid an error that has ended the transaction.
            match self.table.remember(&mut tx, self.epoch, to, (last, &ids)).await {
                Ok(true) => {}
                Ok(false) => return Err(ended(entries)),
                Err(error) if error.is_aborted_transaction() => return Err(ended(entries)),
                Err(error) => return Err(error.into()),
            }
            if let Some(until) = self.window.forgets(last) {
                self.table.forget(&mut tx, until).await?;
            }
        }
        tx.commit().await?;
        let skipped = chosen.iter().filter(|(_, entry)| entry.is_skipped).count();
        self.committed(to, last, ids, [chosen.len() - skipped, repeated, skipped]);
        Ok(())
    }

    /// The events that were not applied before, with their numbers, and their ids.
    fn choose<'e>(&self, entries: &'e [Entry]) -> (Vec<(usize, &'e Entry)>, Vec<u8>) {
        let (mut fresh, mut ids, mut chosen) = (HashSet::new(), Vec::new(), Vec::new());
        for (number, entry) in entries.iter().enumerate() {
            let Some(id) = entry.event.id() else {
                chosen.push((number, entry));
                continue;
            };
            if !self.window.contains(id) && fresh.insert(id) {
                encode(id, &mut ids);
                chosen.push((number, entry));
            }
        }
        (chosen, ids)
    }

    async fn run(&self, handler: futures_util::future::BoxFuture<'_, Result<(), BoxError>>) -> Result<(), BoxError> {
        let limit = self.timeout;
        let ran = timeout(limit, caught(handler)).await;
        ran.unwrap_or_else(|_| Err(format!("the handler did not end within {limit:?} (Projection::timeout)").into()))
    }

    fn committed(&mut self, to: &Place, last: u64, ids: Vec<u8>, counts: [usize; 3]) {
        self.place = Some(to.clone());
        if last > self.applied {
            self.applied = last;
            self.window.push(last, ids);
        }
        self.metrics.at(to.offset);
        let outcomes = [&self.metrics.applied, &self.metrics.repeated, &self.metrics.skipped];
        outcomes.iter().zip(counts).for_each(|(outcome, count)| outcome.inc_by(count as u64));
    }
}

/// The failure of a transaction that has ended before its commit. The failing event is unknown, so the next transaction
/// applies half of the events.
fn ended(entries: &[Entry]) -> RolledBack {
    let reason =
        "the handler hid an error of the database, or ended the transaction: return the error, and do not commit";
    RolledBack::Handler(entries.len() / 2, reason.into())
}

/// The user's connection of a transaction.
fn of_user<C: Typed>(tx: &mut TimedConnection) -> Result<&mut C, Error> {
    // The type of the projection's pool makes this the same database.
    C::of(tx.of_user()).ok_or(Error::Database(sqlx::Error::WorkerCrashed))
}
