//! Unique jobs: a key is taken in a store before the publish, and is freed when the job has ended.
//!
//! The key is taken for as long as a publish can last, and once the broker has confirmed the job, for its time to live.
//! Two events free it earlier. A publisher with the same store frees it when it cancels the job. `leveret serve` frees
//! keys in its own store when it records the end of a tracked job, or cancels one.
//!
//! **Limitations.** A key only states that a job is on its way. If a publisher crashes between the publish and its
//! confirm, the key stays taken for the rest of the publish and is free after it, though the job may be on its queue. A
//! job that outlives its time to live is no longer unique. A dead-lettered job frees its key, and does not take it
//! again when it is replayed. Like any job, a unique job may run twice: use an inbox for effects that must not happen
//! twice.

use std::{
    collections::HashMap,
    error::Error as StdError,
    fmt,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

use crate::{
    error::PublishError,
    job::JobId,
    publish::{new_job::NewJob, options::UniqueKey, publisher::Publisher},
    time::{at_unix_ms, millis, unix_ms},
};

/// Time beyond the publish timeout for which a key is taken until the publish is confirmed.
const MARGIN: Duration = Duration::from_secs(5);
/// Most changes of a key's owner during one replacement.
const TRIES: usize = 10;

/// The handling of a unique job whose key is taken.
///
/// ```
/// # use std::time::Duration;
/// # use leveret::{IfTaken, Publisher};
/// # async fn doc(publisher: Publisher, job: impl leveret::Job) -> Result<(), leveret::PublishError> {
/// let day = Duration::from_secs(24 * 3600);
/// let id = publisher.publish(&job).unique("customer-7", day).if_taken(IfTaken::Existing).await?;
/// # Ok(()) }
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum IfTaken {
    /// The job is not published: [`PublishError::NotUnique`].
    #[default]
    Refuse,
    /// The job is not published, and the returned id is that of the job that has the key.
    Existing,
    /// The job that has the key is cancelled ([`Publisher::cancel`]), and this one is published. A running job may
    /// still succeed.
    Replace,
}

/// A publish's request for its key.
#[derive(Clone, Copy, Debug)]
pub struct Claim<'a> {
    /// The key, prefixed with the name of its job.
    pub key: &'a str,
    /// The job that requests it.
    pub job_id: &'a JobId,
    /// The value that distinguishes that job from others with the same id
    /// ([`NewJob::origin`](crate::NewJob::origin)): only the job's own end frees the key early.
    pub origin: &'a str,
    /// The publisher's time, in whole milliseconds.
    pub now: SystemTime,
    /// The time until which the key is taken, by the same clock.
    pub until: SystemTime,
    /// A job that may be replaced.
    pub instead_of: Option<&'a JobId>,
}

/// The answer to a [`Claim`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Claimed {
    /// The job has the key now, or had it before.
    Taken,
    /// The job with this id has the key.
    By(JobId),
}

/// The future of a [`UniqueKeys`] store's answer.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn StdError + Send + Sync>>> + Send + 'a>>;

/// A store of unique keys: [`InMemory`] for one process, `leveret_store::Store` for several.
pub trait UniqueKeys: fmt::Debug + Send + Sync + 'static {
    /// Takes a key that is free or expired, or belongs to the job itself or to the job that it replaces; in one step.
    fn take<'a>(&'a self, claim: Claim<'a>) -> Answer<'a, Claimed>;

    /// Sets the end of a key that the job still has.
    fn keep<'a>(&'a self, key: &'a str, job_id: &'a JobId, until: SystemTime) -> Answer<'a, ()>;

    /// Frees a key that the job still has.
    fn free<'a>(&'a self, key: &'a str, job_id: &'a JobId) -> Answer<'a, ()>;

    /// Frees every key that the job still has.
    fn free_all<'a>(&'a self, job_id: &'a JobId) -> Answer<'a, ()>;
}

/// Unique keys of one process: for tests, and for programs that are the only publisher.
///
/// ```
/// use std::{sync::Arc, time::Duration};
/// use leveret::{Broker, Context, JobResult, PublishError, Worker, testing, unique::InMemory};
/// # use serde::{Deserialize, Serialize};
/// # #[derive(Serialize, Deserialize, leveret::Job)] #[job(name = "sync", queue = "sync")] struct Sync { account: u32 }
/// # async fn sync(_: Sync, _: Context<()>) -> JobResult { Ok(()) }
/// # #[tokio::main] async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let broker = Broker::memory();
/// let running = testing::start(Worker::new(()).handle(sync), &broker).await?;
/// let publisher = broker.publisher().unique_in(Arc::new(InMemory::default()));
/// let hour = Duration::from_secs(3600);
/// let first = publisher.publish(&Sync { account: 7 }).unique("7", hour).await?;
/// let second = publisher.publish(&Sync { account: 7 }).unique("7", hour).await;
/// assert!(matches!(second, Err(PublishError::NotUnique { id, .. }) if id == first));
/// # running.stop().await?;
/// # Ok(()) }
/// ```
#[derive(Debug, Default)]
pub struct InMemory {
    /// The owner and the end of each key.
    keys: Mutex<HashMap<String, (JobId, SystemTime)>>,
}

impl UniqueKeys for InMemory {
    fn take<'a>(&'a self, claim: Claim<'a>) -> Answer<'a, Claimed> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, (_, until)| *until > claim.now);
        let holder = keys.get(claim.key).map(|(holder, _)| holder.clone());
        let claimed = match holder {
            Some(holder) if holder != *claim.job_id && Some(&holder) != claim.instead_of => Claimed::By(holder),
            _ => {
                keys.insert(claim.key.to_owned(), (claim.job_id.clone(), claim.until));
                Claimed::Taken
            }
        };
        Box::pin(async { Ok(claimed) })
    }

    fn keep<'a>(&'a self, key: &'a str, job_id: &'a JobId, until: SystemTime) -> Answer<'a, ()> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, end)) = keys.get_mut(key).filter(|(holder, _)| holder == job_id) {
            *end = until;
        }
        Box::pin(async { Ok(()) })
    }

    fn free<'a>(&'a self, key: &'a str, job_id: &'a JobId) -> Answer<'a, ()> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        if keys.get(key).is_some_and(|(holder, _)| holder == job_id) {
            keys.remove(key);
        }
        Box::pin(async { Ok(()) })
    }

    fn free_all<'a>(&'a self, job_id: &'a JobId) -> Answer<'a, ()> {
        let mut keys = self.keys.lock().unwrap_or_else(PoisonError::into_inner);
        keys.retain(|_, (holder, _)| holder != job_id);
        Box::pin(async { Ok(()) })
    }
}

impl UniqueKey {
    /// Returns the publisher's store of keys.
    pub(super) fn store<'a>(&self, publisher: &'a Publisher) -> Result<&'a dyn UniqueKeys, PublishError> {
        publisher.unique_keys().ok_or_else(|| PublishError::Invalid {
            what: "unique key",
            value: self.key.clone(),
            reason: "no store of unique keys is set: set one with Publisher::unique_in, with Worker::unique_in for \
                     schedules and handlers, or with Relay::unique_in for an outbox",
        })
    }
}

/// Takes the key, publishes, and keeps the key if the job is or may be on its queue.
pub(super) async fn publish(publisher: &Publisher, unique: UniqueKey, new: NewJob) -> Result<JobId, PublishError> {
    let (job, if_taken) = (new.name.clone(), new.options.if_taken.unwrap_or_default());
    let keys = unique.store(publisher)?;
    let (id, target, message) = new.into_message(publisher.broker.config().payload_limit, publisher.now_ms())?;
    let (key, origin) = (format!("{job}/{}", unique.key), message.origin_digest());
    if let Claimed::By(id) = claim(publisher, keys, &key, (&id, &origin), if_taken).await? {
        return match if_taken {
            IfTaken::Existing => Ok(id),
            IfTaken::Refuse | IfTaken::Replace => Err(PublishError::NotUnique { key: unique.key, id }),
        };
    }
    let published = publisher.send_job(&job, target, id.clone(), (message, false)).await;
    let kept = match &published {
        Ok(_) | Err(PublishError::Uncertain { .. }) => {
            keys.keep(&key, &id, later(now(publisher), unique.time_to_live)).await
        }
        Err(_) => keys.free(&key, &id).await,
    };
    if let Err(error) = kept {
        tracing::warn!(
            error,
            job = &*job,
            key,
            "cannot update a unique key: it becomes free when its publish would have timed out"
        );
    }
    published
}

async fn claim(
    publisher: &Publisher,
    keys: &dyn UniqueKeys,
    key: &str,
    (id, origin): (&JobId, &str),
    if_taken: IfTaken,
) -> Result<Claimed, PublishError> {
    let mut holder: Option<JobId> = None;
    for _ in 0..TRIES {
        let now = now(publisher);
        let until = later(now, publisher.timeout() + MARGIN);
        let claim = Claim { key, job_id: id, origin, now, until, instead_of: holder.as_ref() };
        match keys.take(claim).await.map_err(PublishError::UniqueKeys)? {
            Claimed::By(other) if if_taken == IfTaken::Replace => {
                // The other job keeps the key until this one takes it, so no third job can take it in between.
                publisher.cancel_only(&other).await?;
                holder = Some(other);
            }
            claimed => return Ok(claimed),
        }
    }
    Ok(Claimed::By(holder.unwrap_or_else(|| id.clone())))
}

fn now(publisher: &Publisher) -> SystemTime {
    at_unix_ms(publisher.now_ms())
}

fn later(now: SystemTime, time_to_live: Duration) -> SystemTime {
    at_unix_ms(unix_ms(now).saturating_add(millis(time_to_live)))
}
