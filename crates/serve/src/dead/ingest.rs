//! Moves dead letters from the broker into the store. A letter is committed, then acked: while the store is unreachable it
//! stays in the broker, and a crash between the two steps leaves it in both.

use std::{collections::BTreeSet, mem, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use leveret::{
    Broker, Error,
    backoff::Backoff,
    catalogue::Catalogue,
    reader::{Batch, QueueReader, Source},
    status_update::StatusUpdate,
    time::now_ms,
    workflow::StepEnd,
};
use leveret_store::{DeadSource, NewDead, Store};
use tokio::{sync::Mutex, task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::letter;

/// The prefetch of each queue. It alone bounds the memory for deliveries: a dead letter that is too large for workers
/// has its whole payload, up to 16 MiB from RabbitMQ 4.0 on and 128 MiB before.
const AT_ONCE: u16 = 4;
/// Interval of searches of the catalogue for new queues.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Lets workflows go on after steps that have become dead letters.
pub type ReportEnds = Arc<dyn Fn(Vec<StepEnd>) -> BoxFuture<'static, Result<(), leveret_store::Error>> + Send + Sync>;

/// Ingests the dead letters of every queue in the catalogue and in `queues`, and unrouted messages, until `stop`. Several
/// processes may ingest at the same time. `report` gets the ends of steps before their dead letters are stored.
///
/// ```no_run
/// # async fn doc(broker: leveret::Broker, store: leveret_store::Store) -> Result<(), leveret::Error> {
/// let report = std::sync::Arc::new(|_| -> futures_util::future::BoxFuture<'static, _> { Box::pin(async { Ok(()) }) });
/// let (catalogue, stop) = (leveret::catalogue::Catalogue::follow(&broker), tokio_util::sync::CancellationToken::new());
/// leveret_serve::dead::ingest::run((broker, store, catalogue), vec!["legacy".into()], report, stop).await
/// # }
/// ```
///
/// # Errors
///
/// [`leveret::Error::Setting`] if a reader cannot be set up. It waits for an unreachable broker or store.
pub async fn run(
    (broker, store, catalogue): (Broker, Store, Catalogue),
    queues: Vec<String>,
    report: ReportEnds,
    stop: CancellationToken,
) -> Result<(), Error> {
    // A batch has several copies in memory while it is stored, so only one batch is stored at a time.
    let (mut tasks, turn) = (JoinSet::new(), Arc::new(Mutex::new(())));
    let mut known = BTreeSet::new();
    let take = |source: Source| {
        let feed = QueueReader::new(&broker, source.clone(), AT_ONCE)?;
        let store = (store.clone(), Arc::clone(&report), Arc::clone(&turn));
        Ok::<_, Error>(take(feed, store, catalogue.clone(), source, stop.clone()))
    };
    tasks.spawn(take(Source::Unrouted)?);
    while !stop.is_cancelled() {
        let found = catalogue.entries().into_iter().map(|entry| entry.queue.clone()).chain(queues.iter().cloned());
        for queue in found {
            if known.insert(queue.clone()) {
                tasks.spawn(take(Source::DeadLetters(queue))?);
            }
        }
        tokio::select! {
            () = sleep(LOOK_EVERY) => {}
            () = stop.cancelled() => {}
        }
    }
    while tasks.join_next().await.is_some() {}
    Ok(())
}

async fn take(
    mut feed: QueueReader,
    (store, report, turn): (Store, ReportEnds, Arc<Mutex<()>>),
    catalogue: Catalogue,
    source: Source,
    stop: CancellationToken,
) {
    while let Some(batch) = stop.run_until_cancelled(feed.next(AT_ONCE.into())).await {
        let kept = async {
            let _turn = turn.lock().await;
            keep((&store, &report), &catalogue, &source, &batch).await;
        };
        if stop.run_until_cancelled(kept).await.is_none() {
            break;
        }
        feed.ack(batch);
    }
    feed.close().await;
}

/// Returns once the batch is in the store.
async fn keep((store, report): (&Store, &ReportEnds), catalogue: &Catalogue, source: &Source, batch: &Batch) {
    let now = now_ms();
    let letters = batch.messages().iter().map(|taken| match source {
        Source::DeadLetters(queue) => letter::as_new(taken, DeadSource::Dead, queue),
        _ => {
            // The message of a delayed job does not name its queue; the catalogue does.
            let job = taken.message().dead_letter().job.unwrap_or_default();
            let meant = || catalogue.find(&job).map(|entry| entry.queue.clone());
            let queue = taken.message().queue().map(str::to_owned).or_else(meant).unwrap_or_default();
            letter::as_new(taken, DeadSource::Unrouted, &queue)
        }
    });
    let letters: Vec<_> = letters.collect();
    let messages = || batch.messages().iter().map(leveret::reader::ReadMessage::message).zip(&letters);
    let deaths: Vec<_> = messages().map(|(message, new)| letter::death(message, new, now)).collect();
    let ends: Vec<_> = messages().filter_map(|(message, new)| letter::step_end(message, new, now)).collect();
    report_ends(report, source, ends).await;
    commit(store, source, &letters, &deaths, now).await;
}

/// Tries until the store is reachable. An end that it refuses is left to an operator, who sees the dead letter.
async fn report_ends(report: &ReportEnds, source: &Source, ends: Vec<StepEnd>) {
    if ends.is_empty() {
        return;
    }
    let (mut backoff, mut is_logged) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), false);
    while let Err(error) = report(ends.clone()).await {
        let is_passing = error.is_unavailable();
        // A refusal after an outage is another fault.
        if !mem::replace(&mut is_logged, true) || !is_passing {
            let error = leveret::text::error_chain(&error);
            tracing::warn!(%source, error, "cannot end the steps of workflows that are dead letters");
        }
        if !is_passing {
            return;
        }
        backoff.sleep().await;
    }
}

/// Tries until the store has all letters. A refused batch is halved until the refused letter is alone.
async fn commit(store: &Store, source: &Source, letters: &[NewDead], deaths: &[Option<StatusUpdate>], now: u64) {
    let updates: Vec<_> = deaths.iter().flatten().cloned().collect();
    let (mut backoff, mut is_logged) = (Backoff::new(FIRST_PAUSE, LONGEST_PAUSE), false);
    loop {
        // Status updates first: an operator who finds a letter must find its job dead.
        let kept = async {
            store.record(&updates).await?;
            store.ingest(letters, now).await
        };
        let Err(error) = kept.await else { return };
        if letters.len() > 1 && !error.is_unavailable() {
            let (first, second) = letters.split_at(letters.len() / 2);
            let (of_first, of_second) = deaths.split_at(first.len());
            Box::pin(commit(store, source, first, of_first, now)).await;
            return Box::pin(commit(store, source, second, of_second, now)).await;
        }
        if let [letter] = letters
            && error.is_refusal()
            && alone(store, source, letter, &error, now).await
        {
            return;
        }
        if !mem::replace(&mut is_logged, true) {
            let error = leveret::text::error_chain(&error);
            tracing::warn!(%source, error, "cannot store dead letters: they wait in the broker");
        }
        backoff.sleep().await;
    }
}

/// Stores a letter that the store refuses, or whose status it refuses: as it is if possible, else without its fields.
async fn alone(store: &Store, source: &Source, letter: &NewDead, error: &leveret_store::Error, now: u64) -> bool {
    tracing::error!(%source, error = leveret::text::error_chain(&error), job_id = letter.job_id, "kept a dead letter without the fields that the store refuses");
    if store.ingest(std::slice::from_ref(letter), now).await.is_ok() {
        return true;
    }
    let reason = std::error::Error::source(error).map(ToString::to_string).unwrap_or_default();
    store.ingest(&[letter::unreadable(letter, &reason)], now).await.is_ok()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use leveret_harness::shared_postgres;
    use leveret_store::DeadFilter;

    use super::*;

    /// Fails as an unreachable store does, then as one that refuses, and then no longer.
    fn failing(unreachable: u32, refusing: u32) -> ReportEnds {
        let tries = AtomicU32::new(0);
        Arc::new(move |_: Vec<StepEnd>| -> BoxFuture<'static, Result<(), leveret_store::Error>> {
            let tried = tries.fetch_add(1, Ordering::Relaxed);
            let result = if tried < unreachable {
                Err(leveret_store::Error::Silent)
            } else if tried < unreachable + refusing {
                Err(leveret_store::Error::Address)
            } else {
                Ok(())
            };
            Box::pin(async move { result })
        })
    }

    #[tokio::test(start_paused = true)]
    async fn ends_that_an_unreachable_store_does_not_take_are_logged_once_and_a_refusal_of_them_too() {
        let end: StepEnd = serde_json::from_str(
            r#"{"workflow": "order-17", "step": "charge", "life": 1, "origin": "6f1c", "attempt": 2,
                "at": 1800000000000, "outcome": "completed", "result": 17}"#,
        )
        .unwrap();
        for (unreachable, refusing, logged) in [(0, 0, 0), (9, 0, 1), (0, 1, 1), (9, 1, 2)] {
            let log = tempfile::NamedTempFile::new().unwrap();
            let subscriber = tracing_subscriber::fmt().with_writer(log.reopen().unwrap()).finish();
            let _logging = tracing::subscriber::set_default(subscriber);
            let source = Source::DeadLetters("money".into());
            report_ends(&failing(unreachable, refusing), &source, vec![end.clone()]).await;
            let lines = std::fs::read_to_string(log.path()).unwrap();
            let found = lines.matches("cannot end the steps of workflows").count();
            assert_eq!(found, logged, "{unreachable} times unreachable, {refusing} refused: {lines}");
        }
    }

    #[tokio::test]
    async fn a_letter_that_the_store_refuses_is_kept_without_its_fields_and_delays_no_other() {
        let store = Store::open(&shared_postgres().await.database().await).await.unwrap();
        let letter = |job: &str, payload: &[u8]| NewDead {
            source: DeadSource::Dead,
            queue: "money".into(),
            job_id: Some("c1".into()),
            job: job.into(),
            kind: "permanent".into(),
            error: "no".into(),
            attempt: 1,
            hop: 0,
            failed_at: None,
            properties: vec![7],
            payload: payload.to_vec(),
        };
        // Longer than a row of an index, and no shorter by compression.
        let long: String = (0..2_000).map(|_| uuid::Uuid::now_v7().simple().to_string()).collect();
        let letters = [letter("charge", b"1"), letter(&long, b"2"), letter("charge", b"3")];
        commit(&store, &Source::DeadLetters("money".into()), &letters, &[None, None, None], 5).await;
        let kept = store.dead_letters(&DeadFilter::default(), None, 10).await.unwrap().items;
        assert_eq!(kept.iter().map(|letter| letter.job.as_str()).collect::<Vec<_>>(), ["charge", "", "charge"]);
        assert!(kept[1].error.contains("index row"), "{}", kept[1].error);
        assert_eq!(store.letter(kept[1].id).await.unwrap().unwrap().payload, b"2");
    }
}
