//! The rows of a view.

use std::time::Duration;

use leveret_harness::{Database, eventually, eventually_eq};
use leveret_sql::{Error, Projection};
use sqlx::SqliteConnection;

use super::stage::{LONG, Placed, Set, Stage, of, of_sqlite, placed};
use crate::outbox::stage::Pool;

leveret_harness::on_both_databases! {
    each_event_is_applied_once_in_the_order_of_the_log_and_repeats_are_dropped,
    a_repeat_is_dropped_as_long_as_its_id_is_remembered,
    the_projection_goes_on_after_a_stop_where_it_was,
    a_failing_handler_keeps_the_position_before_its_event_until_it_succeeds,
    a_handler_that_hides_an_error_does_not_move_the_position_without_its_effects,
    of_several_processes_one_applies_events_and_another_follows_it,
    a_holder_that_lost_its_lease_cannot_commit,
}

async fn each_event_is_applied_once_in_the_order_of_the_log_and_repeats_are_dropped(database: Database) {
    let (stage, _) = Stage::on_rabbitmq(database).await;
    stage.emit_all(0..40).await;
    // Repeats, other topics, and an event without an id.
    stage.emit_all([39, 3]).await;
    stage.broker.publisher().emit_raw("order.sent", r#"{"number": 7}"#).await.unwrap();
    stage.broker.publisher().emit_raw("mail.sent", "no json").await.unwrap();
    let running = stage.run(Set { batch: 7, ..Set::default() });
    stage.shows(0..40).await;
    stage.emit_all([5, 40, 40, 41]).await;
    stage.shows(0..42).await;
    let noted = "SELECT count(*) FROM others WHERE topic = 'order.sent' AND number = 7";
    assert_eq!(count(&stage.pool, noted).await, 1);
    eventually_eq("the lag is measured", LONG, true, async || {
        stage.metric(r#"leveret_projection_lag{projection="revenue"} 0"#)
    })
    .await;
    let status = stage.status().await;
    assert_eq!((status.position, status.applied, status.failure), (Some(47), 43, None));
    assert!(status.holder.unwrap().ends_with(&format!(":{}", std::process::id())));
    for line in [
        r#"leveret_projection_events_total{outcome="applied",projection="revenue"} 43"#,
        r#"leveret_projection_events_total{outcome="repeated",projection="revenue"} 4"#,
        r#"leveret_projection_position{projection="revenue"} 47"#,
        r#"leveret_projection_leading{projection="revenue"} 1"#,
        r#"leveret_projection_failing{projection="revenue"} 0"#,
    ] {
        assert!(stage.metric(line), "{line} in {}", stage.broker.metrics_text());
    }
    running.stop().await.unwrap();
    assert_eq!(stage.status().await.holder, None);
}

async fn count(pool: &Pool, text: &'static str) -> i64 {
    match pool {
        Pool::Postgres(pool) => sqlx::query_scalar(text).fetch_one(pool).await.unwrap(),
        Pool::Sqlite(pool) => sqlx::query_scalar(text).fetch_one(pool).await.unwrap(),
    }
}

async fn a_repeat_is_dropped_as_long_as_its_id_is_remembered(database: Database) {
    let stage = Stage::new(database).await;
    let set = Set { batch: 2, remember: 4, ..Set::default() };
    stage.emit_all(0..6).await;
    let running = stage.run(set);
    stage.shows(0..6).await;
    running.stop().await.unwrap();
    // The ids of 2 to 5 are remembered by the next process too.
    stage.emit_all([2, 0]).await;
    let running = stage.run(set);
    stage.shows((0..6).chain([0])).await;
    running.stop().await.unwrap();
    assert!(count(&stage.pool, "SELECT count(*) FROM leveret_projection_ids").await <= 4);
}

async fn the_projection_goes_on_after_a_stop_where_it_was(database: Database) {
    let (stage, _) = Stage::on_rabbitmq(database).await;
    for round in 0..4 {
        stage.emit_all(round * 10..round * 10 + 10).await;
        let running = stage.run(Set { batch: 3, ..Set::default() });
        stage.shows(0..round * 10 + 10).await;
        running.stop().await.unwrap();
    }
}

async fn a_failing_handler_keeps_the_position_before_its_event_until_it_succeeds(database: Database) {
    let stage = Stage::new(database).await;
    stage.pool.run("INSERT INTO faults VALUES (3)").await;
    stage.emit_all(0..3).await;
    stage.emit(&Placed { act: "fault".into(), ..placed(3) }).await;
    stage.emit_all(4..6).await;
    let running = stage.run(Set::default());
    let status = stage.stands_at(3).await;
    let failure = status.failure.unwrap();
    assert_eq!((status.position, failure.error.as_str()), (Some(2), "order 3 has a fault"));
    assert_eq!(stage.view().await, of(0..3));
    assert!(stage.metric(r#"leveret_projection_failing{projection="revenue"} 1"#));
    eventually("it is retried", LONG, async || stage.status().await.failure.is_some_and(|failure| failure.tries > 1))
        .await;
    stage.pool.run("DELETE FROM faults").await;
    stage.shows(0..6).await;
    eventually("it has recovered", LONG, async || {
        stage.metric(r#"leveret_projection_failing{projection="revenue"} 0"#)
    })
    .await;
    assert_eq!(stage.status().await.failure, None);
    for (act, reason) in [("panic", "the handler panicked: no such customer"), ("halt", "did not end within 200ms")] {
        let number = if act == "panic" { 6 } else { 7 };
        stage.emit(&Placed { act: act.into(), ..placed(number) }).await;
        let set = Set { timeout: Duration::from_millis(200), name: "other", ..Set::default() };
        let other = stage.run(set);
        eventually("the failure is recorded", LONG, async || {
            let projections = stage.projections.list().await.unwrap();
            let other = projections.into_iter().find(|status| status.name == "other");
            other.and_then(|status| status.failure).is_some_and(|failure| failure.error.contains(reason))
        })
        .await;
        let at = stage.projections.list().await.unwrap()[0].failure.clone().unwrap().offset.unwrap();
        stage.projections.skip("other", at).await.unwrap();
        eventually("it is skipped", LONG, async || stage.projections.list().await.unwrap()[0].failure.is_none()).await;
        other.stop().await.unwrap();
    }
    running.stop().await.unwrap();
}

async fn a_handler_that_hides_an_error_does_not_move_the_position_without_its_effects(database: Database) {
    let is_postgres = database.url.starts_with("postgres");
    let stage = Stage::new(database).await;
    stage.emit_all(0..2).await;
    stage.emit(&Placed { act: "hide".into(), ..placed(2) }).await;
    stage.emit_all(3..8).await;
    let running = stage.run(Set::default());
    if is_postgres {
        // PostgreSQL has ended the transaction, and would commit nothing without an error.
        let status = stage.stands_at(2).await;
        assert!(status.failure.unwrap().error.contains("hid an error"));
        assert_eq!((status.position, stage.view().await), (Some(1), of(0..2)));
        stage.projections.skip("revenue", 2).await.unwrap();
    }
    // SQLite undoes the statement alone.
    stage.shows((0..2).chain(3..8)).await;
    running.stop().await.unwrap();
}

async fn of_several_processes_one_applies_events_and_another_follows_it(database: Database) {
    let stage = Stage::new(database).await;
    let set = Set { lease: Duration::from_secs(1), ..Set::default() };
    let first = stage.run(set);
    stage.emit_all(0..5).await;
    stage.shows(0..5).await;
    let others: Vec<_> = (0..3).map(|_| stage.run(set)).collect();
    // Longer than the lease: it is renewed without events too.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(epoch(&stage.pool).await, 1);
    stage.emit_all(5..10).await;
    stage.shows(0..10).await;
    first.stop().await.unwrap();
    stage.emit_all(10..15).await;
    stage.shows(0..15).await;
    assert_eq!(epoch(&stage.pool).await, 2);
    for other in others {
        other.stop().await.unwrap();
    }
}

async fn epoch(pool: &Pool) -> i64 {
    count(pool, "SELECT epoch FROM leveret_projections").await
}

async fn a_holder_that_lost_its_lease_cannot_commit(database: Database) {
    let stage = Stage::new(database).await;
    // Two that both believe to lead: each steal makes one of them a former holder that does not know it.
    let set = Set { lease: Duration::from_secs(1), ..Set::default() };
    let (one, other) = (stage.run(Set { batch: 3, ..set }), stage.run(Set { batch: 4, ..set }));
    eventually("one leads", LONG, async || count(&stage.pool, "SELECT count(*) FROM leveret_projections").await == 1)
        .await;
    for round in 0..20 {
        let before = epoch(&stage.pool).await;
        stage.pool.run("UPDATE leveret_projections SET leased_until = 0").await;
        stage.emit_all(round * 10..round * 10 + 10).await;
        eventually("another lease begins", LONG, async || {
            stage.pool.run("UPDATE leveret_projections SET leased_until = 0").await;
            epoch(&stage.pool).await > before
        })
        .await;
    }
    stage.shows(0..200).await;
    for running in [one, other] {
        running.stop().await.unwrap();
    }
    assert_eq!(stage.view().await, of(0..200));
}

#[tokio::test]
async fn a_projection_that_cannot_run_says_what_is_wrong() {
    let stage = Stage::new(Database::sqlite()).await;
    let Pool::Sqlite(pool) = &stage.pool else { unreachable!("it is SQLite") };
    let built = || of_sqlite::projection(Set::default());
    async fn note(_: leveret::event_log::LoggedEvent, _: &mut SqliteConnection) -> sqlx::Result<()> {
        Ok(())
    }
    async fn empty(_: &mut SqliteConnection) -> sqlx::Result<()> {
        Ok(())
    }
    let table: [(Projection<SqliteConnection>, &[&str]); 7] = [
        (built().batch(0), &["Projection::batch", "0", "at least 1"]),
        (built().remember(0), &["Projection::remember", "at least 1"]),
        (built().lease(Duration::from_millis(999)), &["Projection::lease", "999", "at least 1000 ms"]),
        (Projection::new("a", empty), &["\"a\"", "no handler", "Projection::on"]),
        (Projection::new("", empty).on_pattern("a", note), &["1 to 128 bytes"]),
        (Projection::new("a", empty).on_pattern("a*", note), &["a*", "* (one word)"]),
        (Projection::new("a", empty).on_pattern("a.*", note).on_pattern("*.b", note), &["a.*", "*.b", "more specific"]),
    ];
    for (projection, parts) in table {
        let error = projection.run(&stage.broker, pool, std::future::pending()).await.unwrap_err().to_string();
        assert!(parts.iter().all(|part| error.contains(part)), "{error}");
    }
    let empty_database = Database::sqlite();
    let Pool::Sqlite(pool) = Pool::open(&empty_database.url).await else { unreachable!("it is SQLite") };
    let error = built().run(&stage.broker, &pool, std::future::pending()).await.unwrap_err();
    assert!(matches!(error, Error::NoTables { part: "projections" }), "{error:?}");
    assert!(error.to_string().contains("leveret projections migrate"));
}
