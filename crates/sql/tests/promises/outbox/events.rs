//! Events through the outbox.

use std::time::Duration;

use leveret::NewEvent;
use leveret_harness::{
    Database, eventually_eq,
    lapin::{
        options::{QueueBindOptions, QueueDeclareOptions},
        types::{AMQPValue, FieldTable},
    },
    unique,
};
use leveret_sql::{Error, Outbox};

use super::stage::{LONG, Pool, Stage, run};

leveret_harness::on_both_databases! {
    an_event_is_emitted_if_and_only_if_its_transaction_commits,
    an_event_that_could_never_be_emitted_is_refused_in_the_transaction,
    an_event_that_one_subscription_refuses_counts_its_tries_and_is_set_aside,
}

/// Makes the queue of the stage a subscription.
async fn subscribe(stage: &Stage, topic: &str) {
    bind(stage, &stage.queue, topic).await;
}

async fn bind(stage: &Stage, queue: &str, topic: &str) {
    let bind = QueueBindOptions::default();
    let (queue, topics) = (queue.into(), "leveret.v1.topics".into());
    stage.raw.channel().queue_bind(queue, topics, topic.into(), bind, FieldTable::default()).await.unwrap();
}

/// Emits in a transaction, with the order key if there is one.
async fn emit(pool: &Pool, key: Option<&str>, event: NewEvent, commits: bool) -> leveret_sql::Result<leveret::JobId> {
    macro_rules! emit {
        ($pool:expr) => {{
            let mut tx = $pool.begin().await.unwrap();
            let id = match key {
                Some(key) => Outbox::emit_ordered(&mut tx, key, event).await,
                None => Outbox::emit(&mut tx, event).await,
            };
            if commits {
                tx.commit().await.unwrap();
            } else {
                tx.rollback().await.unwrap();
            }
            id
        }};
    }
    match pool {
        Pool::Postgres(pool) => emit!(pool),
        Pool::Sqlite(pool) => emit!(pool),
    }
}

async fn an_event_is_emitted_if_and_only_if_its_transaction_commits(database: Database) {
    let stage = Stage::new(database).await;
    let topic = format!("{}.Placed", unique("outbox").replace('.', "-"));
    subscribe(&stage, &topic).await;
    let event = |payload: &str| NewEvent::raw(topic.clone(), payload).header("tenant", "acme");
    emit(&stage.pool, Some("k"), event("0"), false).await.unwrap();
    let first = emit(&stage.pool, Some("k"), event("1").label("the first"), true).await.unwrap();
    let second = emit(&stage.pool, Some("k"), event("2").id("second").track(), true).await.unwrap();
    // It has no subscription, which is no error.
    emit(&stage.pool, None, NewEvent::raw(unique("none").replace('.', "-"), "3"), true).await.unwrap();
    let relay = run(stage.relay());
    for (id, payload) in [(first, "1"), (second, "2")] {
        let taken = stage.next().await;
        let properties = &taken.properties;
        assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id.as_str());
        assert_eq!(properties.kind().as_ref().unwrap().as_str(), topic);
        assert_eq!(taken.data, payload.as_bytes());
        assert!(properties.headers().as_ref().unwrap().inner().contains_key("tenant"));
    }
    stage.drained().await;
    relay.stop().await.unwrap();
    let status = stage.outbox.status().await.unwrap();
    assert_eq!((status.set_aside, stage.depth().await), (0, 0));
}

async fn an_event_that_could_never_be_emitted_is_refused_in_the_transaction(database: Database) {
    let stage = Stage::new(database).await;
    let event = || NewEvent::raw("order.placed", "{}");
    let long = "k".repeat(256);
    for (key, event, what) in [
        (None, NewEvent::raw("order.*", "{}"), "topic"),
        (None, NewEvent::raw("leveret.order", "{}"), "topic"),
        (None, event().id("i".repeat(129)), "event id"),
        (None, event().id("a\0b"), "event id"),
        (Some(""), event(), "order key"),
        (Some(&*long), event(), "order key"),
        (Some("a\0b"), event(), "order key"),
        (None, event().label("l".repeat(1025)), "label"),
        (None, event().correlation_id("c".repeat(256)), "correlation id"),
        (None, event().header("leveret-attempt", 1), "header"),
    ] {
        let error = emit(&stage.pool, key, event, true).await.unwrap_err();
        assert!(
            matches!(&error, Error::InvalidJob(leveret::PublishError::Invalid { what: of, .. }) if *of == what),
            "{error}"
        );
    }
    assert_eq!(stage.pending().await, 0);
}

async fn an_event_that_one_subscription_refuses_counts_its_tries_and_is_set_aside(database: Database) {
    let stage = Stage::new(database).await;
    let (topic, full) = (unique("outbox").replace('.', "-"), unique("full"));
    subscribe(&stage, &topic).await;
    let mut arguments = FieldTable::default();
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(1));
    arguments.insert("x-overflow".into(), AMQPValue::LongString("reject-publish".into()));
    let options = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    stage.raw.channel().queue_declare(full.as_str().into(), options, arguments).await.unwrap();
    stage.raw.publish("", &full, Default::default(), b"{}").await.unwrap();
    bind(&stage, &full, &topic).await;
    let id = emit(&stage.pool, None, NewEvent::raw(topic.clone(), "1"), true).await.unwrap();
    let relay = run(stage.relay().tries(3, Duration::from_millis(100)));
    let set_aside = async || stage.outbox.status().await.unwrap().set_aside;
    eventually_eq("it is set aside", LONG, 1, set_aside).await;
    relay.stop().await.unwrap();
    let row = stage.outbox.set_aside(0, 10).await.unwrap().remove(0);
    assert!(row.tries == 3 && row.id == id && row.reason.contains("not confirmed"), "{row:?}");
    for copy in stage.take(3).await {
        assert_eq!(copy, (id.to_string(), "1".to_owned()), "each try reaches the other subscription");
    }
    assert_eq!(stage.raw.depth(&full).await.unwrap(), Some(1));
    stage.raw.delete_queue(&full).await.unwrap();
}
