//! The lease while it is held.

use tokio::{
    select,
    time::{Instant, sleep_until},
};

use super::{state::Ended, table::Table};

/// A lease that is renewed while its holder waits. Transactions of the holder renew it too.
#[derive(Debug)]
pub(super) struct Lease<'p> {
    table: &'p Table,
    pub(super) epoch: i64,
    renew_at: Instant,
}

impl<'p> Lease<'p> {
    pub(super) fn new(table: &'p Table, epoch: i64) -> Self {
        let mut lease = Self { table, epoch, renew_at: Instant::now() };
        lease.renewed();
        lease
    }

    /// Notes that a transaction renews the lease.
    pub(super) fn renewed(&mut self) {
        self.renew_at = Instant::now() + self.table.lease / 3;
    }

    /// Awaits `work`, and renews the lease in the meantime.
    pub(super) async fn holding<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Ended> {
        let mut work = std::pin::pin!(work);
        loop {
            select! {
                done = &mut work => return Ok(done),
                () = sleep_until(self.renew_at) => {
                    if !self.table.renew(self.epoch).await? {
                        return Err(Ended::Lost);
                    }
                    self.renewed();
                }
            }
        }
    }
}
