//! Two programs, or two versions of one, that use one name with different topics.

use std::time::Duration;

use leveret_harness::{Database, eventually};
use leveret_sql::Error;
use tempfile::NamedTempFile;
use tracing::subscriber::DefaultGuard;

use super::stage::{LONG, Set, Stage, of};
use crate::outbox::stage::Pool;

leveret_harness::on_both_databases! {
    another_program_with_the_name_of_a_projection_gets_an_error_and_changes_nothing,
    a_version_that_adds_a_topic_waits_for_the_old_one_which_does_not_take_the_projection_back,
    a_version_with_other_topics_takes_over_once_the_old_one_has_stopped,
}

const WAITS: &str = "the projection has other topics in another process: this process waits";
const LACKS: &str = "its view lacks the earlier events of new topics";
const OLD: &str = "order.#, order.placed";

/// The log of a test, which has only one thread.
struct Log {
    file: NamedTempFile,
    _logging: DefaultGuard,
}

impl Log {
    fn new() -> Self {
        let file = NamedTempFile::new().unwrap();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(file.reopen().unwrap()).finish();
        Self { file, _logging: tracing::subscriber::set_default(subscriber) }
    }

    fn count(&self, text: &str) -> usize {
        std::fs::read_to_string(self.file.path()).unwrap().matches(text).count()
    }
}

/// The number of leases so far, and the topics of the last one.
async fn row(stage: &Stage) -> (i64, Option<String>) {
    let text = "SELECT epoch, topics FROM leveret_projections";
    match &stage.pool {
        Pool::Postgres(pool) => sqlx::query_as(text).fetch_one(pool).await.unwrap(),
        Pool::Sqlite(pool) => sqlx::query_as(text).fetch_one(pool).await.unwrap(),
    }
}

async fn another_program_with_the_name_of_a_projection_gets_an_error_and_changes_nothing(database: Database) {
    let stage = Stage::new(database).await;
    stage.emit_all(0..3).await;
    let first = stage.run(Set::default());
    stage.shows(0..3).await;
    let others: [(&'static [&'static str], &str); 2] =
        [(&["cart.#"], "its topics are cart.#, order.placed,"), (&[], "its topics are order.placed,")];
    for (patterns, own) in others {
        let error = stage.run(Set { patterns, ..Set::default() }).ended().await;
        assert!(matches!(error, Error::OtherTopics { .. }), "{error:?}");
        let text = error.to_string();
        let process = format!(":{} runs one", std::process::id());
        for part in ["\"revenue\"", own, &process, "the topics order.#, order.placed.", "another name", "stop"] {
            assert!(text.contains(part), "{part}: {text}");
        }
    }
    stage.emit_all(3..6).await;
    stage.shows(0..6).await;
    assert_eq!(row(&stage).await, (1, Some(OLD.to_owned())));
    first.stop().await.unwrap();
}

async fn a_version_that_adds_a_topic_waits_for_the_old_one_which_does_not_take_the_projection_back(database: Database) {
    let log = Log::new();
    let stage = Stage::new(database).await;
    let old = Set { lease: Duration::from_secs(1), ..Set::default() };
    let new = Set { patterns: &["order.#", "cart.#"], ..old };
    stage.emit_all(0..3).await;
    let leftover = stage.run(old);
    stage.shows(0..3).await;
    let first = stage.run(new);
    eventually("the new version waits", LONG, async || log.count(WAITS) == 1).await;
    stage.emit_all(3..6).await;
    stage.shows(0..6).await;
    assert_eq!((row(&stage).await, log.count(LACKS)), ((1, Some(OLD.to_owned())), 0));

    // The old version loses its lease, and still runs.
    let added = "cart.#, order.#, order.placed";
    eventually("the new version takes over", LONG, async || {
        stage.pool.run("UPDATE leveret_projections SET leased_until = 0 WHERE topics = 'order.#, order.placed'").await;
        row(&stage).await.1.as_deref() == Some(added)
    })
    .await;
    eventually("the old version waits", LONG, async || (log.count(WAITS), log.count(LACKS)) == (2, 1)).await;
    stage.emit_all(6..9).await;
    stage.shows(0..9).await;
    let again = stage.run(old).ended().await;
    assert!(matches!(again, Error::OtherTopics { .. }), "{again:?}");

    let epoch = row(&stage).await.0;
    first.stop().await.unwrap();
    let second = stage.run(new);
    eventually("another process of the new version continues", LONG, async || row(&stage).await.0 > epoch).await;
    assert_eq!(row(&stage).await.1.as_deref(), Some(added));
    second.stop().await.unwrap();
    // A reset is for any version.
    stage.projections.reset("revenue", &stage.broker, false).await.unwrap();
    eventually("the old version computes the view again", LONG, async || stage.status().await.applied == 9).await;
    assert_eq!(row(&stage).await.1.as_deref(), Some(OLD));
    leftover.stop().await.unwrap();
    assert_eq!((stage.view().await, log.count(LACKS)), (of(0..9), 1));
}

async fn a_version_with_other_topics_takes_over_once_the_old_one_has_stopped(database: Database) {
    let log = Log::new();
    let stage = Stage::new(database).await;
    stage.emit_all(0..3).await;
    let old = stage.run(Set::default());
    stage.shows(0..3).await;
    old.stop().await.unwrap();
    let new = stage.run(Set { patterns: &["cart.#"], ..Set::default() });
    stage.emit_all(3..6).await;
    stage.shows(0..6).await;
    assert_eq!(row(&stage).await, (2, Some("cart.#, order.placed".to_owned())));
    assert_eq!((log.count(LACKS), log.count(WAITS)), (1, 0));
    let error = stage.run(Set::default()).ended().await;
    assert!(matches!(error, Error::OtherTopics { .. }), "{error:?}");
    new.stop().await.unwrap();
}
