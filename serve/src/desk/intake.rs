//! Takes dead letters out of the broker: committed to the store, then acked. While the store is away they stay in the
//! broker, and while a letter is in neither it is in both.

use std::{collections::BTreeSet, time::Duration};

use leveret::{
    Broker,
    catalogue::Catalogue,
    feed::{Batch, Feed, Source},
};
use leveret_store::{DeadSource, Store};
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::letter;
use crate::time::now_ms;

/// What is in hand of each queue, at most. Nothing else bounds what a broker sends before it is asked: what workers find
/// too large lies in the dead letters as it is, and RabbitMQ takes 16 MiB from 4.0 on, 128 MiB before.
const AT_ONCE: u16 = 8;
/// How often the catalogue is asked for queues that are new.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Takes in what lies in the dead letters of every queue of the catalogue and of `queues`, and what is unrouted, until
/// `stop`. Several may do so at the same time.
///
/// ```no_run
/// # async fn doc(broker: leveret::Broker, store: leveret_store::Store) {
/// let (catalogue, stop) = (leveret::catalogue::Catalogue::follow(&broker), tokio_util::sync::CancellationToken::new());
/// leveret_serve::desk::intake::run(broker, store, catalogue, vec!["legacy".into()], stop).await;
/// # }
/// ```
pub async fn run(broker: Broker, store: Store, catalogue: Catalogue, queues: Vec<String>, stop: CancellationToken) {
    let mut tasks = JoinSet::new();
    let mut known = BTreeSet::new();
    let take = |source| take(broker.clone(), store.clone(), catalogue.clone(), source, stop.clone());
    tasks.spawn(take(Source::Unrouted));
    while !stop.is_cancelled() {
        let found = catalogue.entries().into_iter().map(|entry| entry.queue.clone()).chain(queues.iter().cloned());
        for queue in found {
            if known.insert(queue.clone()) {
                tasks.spawn(take(Source::DeadLetters(queue)));
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
}

async fn take(broker: Broker, store: Store, catalogue: Catalogue, source: Source, stop: CancellationToken) {
    let mut feed = Feed::new(&broker, source.clone(), AT_ONCE);
    while let Some(batch) = stop.run_until_cancelled(feed.next(AT_ONCE.into())).await {
        if stop.run_until_cancelled(keep(&store, &catalogue, &source, &batch)).await.is_none() {
            break;
        }
        feed.ack(batch);
    }
    feed.close().await;
}

/// Returns once the batch is in the store.
async fn keep(store: &Store, catalogue: &Catalogue, source: &Source, batch: &Batch) {
    let now = now_ms();
    let letters = batch.messages().iter().map(|taken| match source {
        Source::DeadLetters(queue) => letter::as_new(taken, DeadSource::Dead, queue),
        _ => {
            // Of a job that was delayed, only its workers know where it was to go.
            let job = taken.message().dead_letter().job.unwrap_or_default();
            let meant = || catalogue.find(&job).map(|entry| entry.queue.clone());
            let queue = taken.message().queue().map(str::to_owned).or_else(meant).unwrap_or_default();
            letter::as_new(taken, DeadSource::Unrouted, &queue)
        }
    });
    let letters: Vec<_> = letters.collect();
    let messages = batch.messages().iter().map(leveret::feed::Taken::message);
    let deaths: Vec<_> = messages.zip(&letters).filter_map(|(message, new)| letter::death(message, new, now)).collect();
    let mut pause = FIRST_PAUSE;
    loop {
        // The deaths first: they may be recorded twice, and letters that come again might be taken in twice.
        let kept = async {
            store.record(&deaths).await?;
            store.take_in(&letters, now).await
        };
        match kept.await {
            Ok(_) => return,
            Err(error) => tracing::warn!(%source, ?error, "dead letters wait in the broker: they cannot be kept"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}
