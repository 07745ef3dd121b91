//! Logs that were cut by retention, or deleted and made anew.

use leveret::event_log;
use leveret_harness::{Database, RawClient, eventually, shared_node};
use leveret_sql::Error;

use super::stage::{LONG, Placed, Set, Stage, of, placed};

leveret_harness::on_both_databases! {
    a_log_that_was_made_anew_stops_the_projection_whatever_it_has,
    a_log_that_retention_cut_behind_the_position_stops_the_projection,
    a_log_that_retention_cuts_before_a_projection_that_stands_still_stops_it,
    an_event_that_does_not_decode_stops_the_projection_until_an_operator_skips_it,
}

const LOG: &str = "leveret.v1.event-log";

async fn a_log_that_was_made_anew_stops_the_projection_whatever_it_has(database: Database) {
    let (stage, url) = Stage::on_rabbitmq(database).await;
    let raw = RawClient::connect(&url).await.unwrap();
    stage.emit_all(0..5).await;
    let running = stage.run(Set::default());
    stage.shows(0..5).await;
    // While it runs.
    raw.delete_queue(LOG).await.unwrap();
    let error = running.ended().await;
    assert!(matches!(&error, Error::LogChanged { found: None, .. }), "{error:?}");
    let text = error.to_string();
    for part in [r#""revenue""#, "event 4 (id order-4)", "the log is empty", "leveret projections reset revenue"] {
        assert!(text.contains(part), "{text}");
    }
    let failure = stage.status().await.failure.unwrap();
    assert_eq!(failure.error, text);
    // With fewer events, with as many, with more: none is taken for the former ones.
    for (emitted, found) in [(vec![10, 11], 1), (vec![12, 13, 14], 4), (vec![15, 16], 4)] {
        stage.emit_all(emitted).await;
        let Error::LogChanged { expected, found: Some(other), .. } = stage.run(Set::default()).ended().await else {
            panic!("it is another error")
        };
        assert_eq!((expected.offset, expected.id.as_str(), other.offset), (4, "order-4", found));
    }
    assert_eq!(stage.view().await, of(0..5));
    stage.projections.reset("revenue", &stage.broker, false).await.unwrap();
    let running = stage.run(Set::default());
    stage.shows(10..17).await;
    running.stop().await.unwrap();
}

/// A stage whose log keeps some ten kilobytes.
async fn with_small_log(database: Database) -> Stage {
    let vhost = shared_node().await.vhost().await;
    let policy = r#"{"max-length-bytes": 20000, "stream-max-segment-size-bytes": 10000}"#;
    vhost.node().set_policy(vhost.name(), "small", "event-log", policy).await.unwrap();
    Stage::at(database, &vhost.url()).await
}

/// Fills the log until it begins behind an event.
async fn fill(stage: &Stage, event: u64) {
    let padding = "p".repeat(2000);
    eventually("retention removes the first events", LONG, async || {
        for _ in 0..20 {
            stage.broker.publisher().emit_raw("filler", format!("\"{padding}\"")).await.unwrap();
        }
        event_log::oldest(&stage.broker).await.unwrap() > Some(event)
    })
    .await;
}

async fn a_log_that_retention_cuts_before_a_projection_that_stands_still_stops_it(database: Database) {
    let stage = with_small_log(database).await;
    stage.pool.run("INSERT INTO faults VALUES (3)").await;
    stage.emit_all(0..3).await;
    stage.emit(&Placed { act: "fault".into(), ..placed(3) }).await;
    let running = stage.run(Set::default());
    stage.stands_at(3).await;
    // More than the reader has in its memory. It goes on with a log whose next events are gone.
    fill(&stage, 600).await;
    stage.emit_all(4..6).await;
    stage.pool.run("DELETE FROM faults").await;
    let error = running.ended().await;
    let Error::LogChanged { found: Some(found), .. } = &error else { panic!("{error:?}") };
    assert!(found.offset > 600, "{error}");
    assert_eq!(stage.view().await, of(0..4));
}

async fn a_log_that_retention_cut_behind_the_position_stops_the_projection(database: Database) {
    let stage = with_small_log(database).await;
    stage.emit_all(0..5).await;
    let running = stage.run(Set::default());
    stage.shows(0..5).await;
    running.stop().await.unwrap();
    fill(&stage, 4).await;
    let error = stage.run(Set::default()).ended().await;
    let Error::LogChanged { expected, found: Some(found), .. } = &error else { panic!("{error:?}") };
    assert_eq!((expected.offset, expected.id.as_str()), (4, "order-4"));
    assert!(found.offset > 4, "{error}");
    // The view could not be rebuilt either, unless an operator accepts that.
    let error = stage.projections.reset("revenue", &stage.broker, false).await.unwrap_err();
    let Error::LogTruncated { first, .. } = &error else { panic!("{error:?}") };
    assert!(*first > 4 && error.to_string().contains("--allow-truncated"), "{error}");
    assert_eq!(stage.view().await, of(0..5));
    let truncated = stage.run(Set { name: "second", ..Set::default() }).ended().await;
    assert!(matches!(truncated, Error::LogTruncated { .. }), "{truncated:?}");
    stage.projections.reset("revenue", &stage.broker, true).await.unwrap();
    let running = stage.run(Set::default());
    stage.emit_all([100, 101]).await;
    stage.shows([100, 101]).await;
    running.stop().await.unwrap();
}

async fn an_event_that_does_not_decode_stops_the_projection_until_an_operator_skips_it(database: Database) {
    let (stage, _) = Stage::on_rabbitmq(database).await;
    stage.emit_all(0..3).await;
    let bad = stage.broker.publisher().emit_raw("order.placed", r#"{"number": "S3cret"}"#);
    bad.id("bad").await.unwrap();
    stage.emit_all(4..6).await;
    for _ in 0..2 {
        let error = stage.run(Set::default()).ended().await;
        assert!(matches!(error, Error::Undecodable { .. }), "{error:?}");
        let text = leveret::text::error_chain(&error);
        for part in
            ["revenue", "event 3 ", "order.placed", "invalid type: string", "leveret projections skip revenue 3"]
        {
            assert!(text.contains(part) && !text.contains("S3cret"), "{text}");
        }
    }
    let status = stage.status().await;
    assert_eq!((status.position, stage.view().await, status.holder), (Some(2), of(0..3), None));
    let error = stage.projections.skip("revenue", 4).await.unwrap_err().to_string();
    assert!(error.contains("event 4") && error.contains("it does at event 3"), "{error}");
    stage.projections.skip("revenue", 3).await.unwrap();
    let running = stage.run(Set::default());
    stage.shows((0..3).chain(4..6)).await;
    assert!(stage.metric(r#"leveret_projection_events_total{outcome="skipped",projection="revenue"} 1"#));
    // A repeat of the skipped event is dropped too.
    let again = stage.broker.publisher().emit_raw("order.placed", r#"{"number": "S3cret"}"#);
    again.id("bad").await.unwrap();
    stage.emit(&placed(6)).await;
    stage.shows((0..3).chain(4..7)).await;
    running.stop().await.unwrap();
}
