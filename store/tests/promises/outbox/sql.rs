//! `leveret_enqueue`, for whoever has no Rust.

use leveret_harness::lapin::types::AMQPValue;
use sqlx::Row;

use super::stage::{Pool, Stage, now_ms, run};
use crate::database::Database;

async fn call(stage: &Stage, arguments: &str) -> sqlx::Result<String> {
    let Pool::Postgres(pool) = &stage.pool else { unreachable!() };
    let text = format!("SELECT leveret_enqueue({arguments})");
    sqlx::query(sqlx::AssertSqlSafe(text)).fetch_one(pool).await?.try_get(0)
}

#[tokio::test]
async fn a_job_that_sql_enqueues_is_published_with_all_its_options() {
    let stage = Stage::new(Database::postgres().await).await;
    let before = now_ms();
    let arguments = r#"payload => '{"to": "ada"}', priority => 7, headers => '{"tenant": "acme", "copies": 2, "none": null}',
        correlation_id => 'cart', label => 'Ada', track => true, order_key => 'k', expires => '1 hour', due => now()"#;
    let id = call(&stage, &format!("'email.send', '{}', {arguments}", stage.queue)).await.unwrap();
    let relay = run(stage.relay());
    let message = stage.next().await;
    let properties = &message.delivery.properties;
    assert_eq!(properties.message_id().as_ref().unwrap().as_str(), id);
    assert_eq!(properties.kind().as_ref().unwrap().as_str(), "email.send");
    assert_eq!(properties.correlation_id().as_ref().unwrap().as_str(), "cart");
    assert_eq!(*properties.priority(), Some(7));
    let headers = properties.headers().as_ref().unwrap().inner();
    assert_eq!(headers["copies"], AMQPValue::LongLongInt(2));
    assert_eq!(headers["leveret-track"], AMQPValue::Boolean(true));
    assert!(headers.contains_key("tenant") && headers.contains_key("leveret-label") && !headers.contains_key("none"));
    assert!(
        matches!(headers["leveret-expires-at"], AMQPValue::LongLongInt(at) if at.abs_diff(before as i64 + 3_600_000) < 5_000)
    );
    assert_eq!(message.delivery.data, br#"{"to": "ada"}"#);

    let plain = call(&stage, &format!("'email.send', '{}', '[1]'", stage.queue)).await.unwrap();
    assert_eq!(stage.take(1).await, [(plain.clone(), "[1]".to_owned())]);
    let chosen =
        call(&stage, &format!("'email.send', '{}', '{{}}', id => 'mine', delay => '0.3 s'", stage.queue)).await;
    assert_eq!(stage.take(1).await[0].0, chosen.unwrap());
    relay.stop().await.unwrap();

    let minted = u64::from_str_radix(&plain.replace('-', "")[..12], 16).unwrap();
    assert!(
        minted.abs_diff(before) < 60_000 && plain.len() == 36 && plain.as_bytes()[14] == b'7',
        "{plain} is a UUIDv7"
    );
}

#[tokio::test]
async fn what_sql_could_never_publish_is_refused() {
    let stage = Stage::new(Database::postgres().await).await;
    for wrong in [
        "'Not A Name', 'q', '{}'",
        "'job', '', '{}'",
        "'job', 'q', NULL",
        "'job', 'q', '{}', priority => 32",
        "'job', 'q', '{}', label => repeat('x', 1025)",
        "'job', 'q', '{}', id => repeat('x', 256)",
        "'job', 'q', '{}', order_key => ''",
        "'job', 'q', '{}', delay => '3 s', expires => '1 s'",
        "'job', 'q', '{}', due => now() + interval '1 hour', expires => '59 minutes'",
        "'job', 'q', '{}', expires => '0 s'",
    ] {
        let error = call(&stage, wrong).await.expect_err(wrong);
        assert!(error.as_database_error().is_some(), "{wrong}: {error}");
    }
    assert_eq!(stage.pending().await, 0);
}
