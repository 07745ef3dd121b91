//! The keys of unique jobs. The record of a job's end or cancellation frees its key.

use std::time::SystemTime;

use leveret::{
    JobId,
    time::unix_ms,
    unique::{Answer, Claim, Claimed, UniqueKeys},
};
use leveret_sql::{
    Result,
    db::{Sql, TimedConnection, text_list},
};

use crate::open::Store;

/// Takes a key if it is free. It is one statement, so that one of two publishers sees the other's claim.
const CLAIM: &str = "INSERT INTO leveret_unique (key, job_id, until, origin) VALUES ($1, $2, $3, $6)
    ON CONFLICT (key) DO UPDATE SET job_id = excluded.job_id, until = excluded.until, origin = excluded.origin
    WHERE leveret_unique.until <= $4 OR leveret_unique.job_id IN ($2, $5)";

impl UniqueKeys for Store {
    fn take<'a>(&'a self, claim: Claim<'a>) -> Answer<'a, Claimed> {
        Box::pin(async move { Ok(self.take_unique(claim).await?) })
    }

    fn keep<'a>(&'a self, key: &'a str, job_id: &'a JobId, until: SystemTime) -> Answer<'a, ()> {
        let text = "UPDATE leveret_unique SET until = $1 WHERE key = $2 AND job_id = $3";
        let sql = Sql::new(text).arg(unix_ms(until)).arg(key).arg(job_id.as_str());
        Box::pin(async move { Ok(sql.execute(&mut self.writer().await?).await.map(drop)?) })
    }

    fn free<'a>(&'a self, key: &'a str, job_id: &'a JobId) -> Answer<'a, ()> {
        let sql = Sql::new("DELETE FROM leveret_unique WHERE key = $1 AND job_id = $2").arg(key).arg(job_id.as_str());
        Box::pin(async move { Ok(sql.execute(&mut self.writer().await?).await.map(drop)?) })
    }

    fn free_all<'a>(&'a self, job_id: &'a JobId) -> Answer<'a, ()> {
        let sql = Sql::new("DELETE FROM leveret_unique WHERE job_id = $1").arg(job_id.as_str());
        Box::pin(async move { Ok(sql.execute(&mut self.writer().await?).await.map(drop)?) })
    }
}

impl Store {
    async fn take_unique(&self, claim: Claim<'_>) -> Result<Claimed> {
        let Claim { key, job_id, origin, now, until, instead_of } = claim;
        let (job_id, instead_of, now, until) =
            (job_id.as_str(), instead_of.map(JobId::as_str), unix_ms(now), unix_ms(until));
        loop {
            let sql = Sql::new(CLAIM).arg(key).arg(job_id).arg(until).arg(now).arg(instead_of).arg(origin);
            if sql.execute(&mut self.writer().await?).await? > 0 {
                return Ok(Claimed::Taken);
            }
            let holder = Sql::new("SELECT job_id FROM leveret_unique WHERE key = $1").arg(key);
            if let Some(row) = holder.rows(&mut self.writer().await?).await?.first() {
                return Ok(Claimed::By(JobId::from(row.try_get::<String>(0)?)));
            }
            // The key was freed in between.
        }
    }
}

/// A job whose key is free: its id, and its origin if that is known.
pub(crate) type Done<'a> = (&'a str, Option<&'a str>);

/// Frees the keys of jobs that have ended or were cancelled.
///
/// A key is freed only under the origin of the job that has it. The server does not know the origin of a job whose
/// status updates it has not received: the cancellation of such a job applies to every job of that id. `list` makes a list of a
/// placeholder. Ids and origins need not be matched in pairs, because origins are random.
pub(crate) async fn free_done(
    on: &mut TimedConnection,
    done: &[Done<'_>],
    list: impl Fn(&str) -> String,
) -> Result<()> {
    if done.is_empty() {
        return Ok(());
    }
    let (ids, origins, all) = (list("$1"), list("$2"), list("$3"));
    let text = format!("DELETE FROM leveret_unique WHERE job_id IN {ids} AND origin IN {origins} OR job_id IN {all}");
    let known = || done.iter().filter_map(|(id, origin)| origin.map(|origin| (*id, origin)));
    let (ids, origins) = (text_list(known().map(|(id, _)| id)), text_list(known().map(|(_, origin)| origin)));
    let unknown = text_list(done.iter().filter(|(_, origin)| origin.is_none()).map(|(id, _)| *id));
    Sql::new(text).arg(ids).arg(origins).arg(unknown).execute(on).await.map(drop)
}
