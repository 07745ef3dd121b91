//! `leveret_enqueue`, for programs without Rust.

use std::time::{Duration, SystemTime};

use leveret::NewJob;
use leveret_harness::lapin::types::AMQPValue;
use leveret_sql::Outbox;
use sqlx::Row;

use super::stage::{Pool, Stage, now_ms, run};
use leveret_harness::Database;

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
    stage.declare(&format!("{}.high", stage.queue)).await;
    let urgent = format!("'email.send', '{}', '{{}}', priority => 9, lanes => true", stage.queue);
    call(&stage, &urgent).await.unwrap();
    stage.drained().await;
    assert_eq!(stage.raw.depth(&format!("{}.high", stage.queue)).await.unwrap(), Some(1));
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

/// A job that is enqueued by the function and in Rust.
struct Case {
    what: &'static str,
    taken: bool,
    sql: &'static str,
    rust: NewJob,
    order_key: Option<String>,
}

fn case(what: &'static str, taken: bool, sql: &'static str, rust: NewJob) -> Case {
    Case { what, taken, sql, rust, order_key: None }
}

/// Makes a job with options.
fn with(options: impl FnOnce(NewJob) -> NewJob) -> NewJob {
    options(NewJob::raw("job", "q", "{}"))
}

fn options_that_are_refused() -> Vec<Case> {
    let refused = |what, sql, rust| case(what, false, sql, rust);
    vec![
        refused("no name", "'Not A Name', 'q', '{}'", NewJob::raw("Not A Name", "q", "{}")),
        refused("a name with a line break", "E'job\\n', 'q', '{}'", NewJob::raw("job\n", "q", "{}")),
        refused("a long name", "repeat('x', 129), 'q', '{}'", NewJob::raw("x".repeat(129), "q", "{}")),
        refused("no queue", "'job', '', '{}'", NewJob::raw("job", "", "{}")),
        refused("a long queue", "'job', repeat('é', 128), '{}'", NewJob::raw("job", "é".repeat(128), "{}")),
        refused("no id", "'job', 'q', '{}', id => ''", with(|entry| entry.id(""))),
        refused("a long id", "'job', 'q', '{}', id => repeat('x', 256)", with(|entry| entry.id("x".repeat(256)))),
        Case {
            order_key: Some(String::new()),
            ..refused("no order key", "'job', 'q', '{}', order_key => ''", with(|entry| entry))
        },
        Case {
            order_key: Some("x".repeat(256)),
            ..refused("a long order key", "'job', 'q', '{}', order_key => repeat('x', 256)", with(|entry| entry))
        },
        refused("a priority", "'job', 'q', '{}', priority => 32", with(|entry| entry.priority(32))),
    ]
}

fn texts_and_times_that_are_refused() -> Vec<Case> {
    let refused = |what, sql, rust| case(what, false, sql, rust);
    vec![
        refused(
            "a long label",
            "'job', 'q', '{}', label => repeat('x', 1025)",
            with(|entry| entry.label("x".repeat(1025))),
        ),
        refused(
            "a long correlation id",
            "'job', 'q', '{}', correlation_id => repeat('x', 256)",
            with(|entry| entry.correlation_id("x".repeat(256))),
        ),
        refused(
            "a header of Leveret's",
            "'job', 'q', '{}', headers => '{\"leveret-slot\": 1}'",
            with(|entry| entry.header("leveret-slot", 1)),
        ),
        refused(
            "a header of RabbitMQ's",
            "'job', 'q', '{}', headers => '{\"x-death\": 1}'",
            with(|entry| entry.header("x-death", 1)),
        ),
        refused(
            "a header without a name",
            "'job', 'q', '{}', headers => '{\"\": 1}'",
            with(|entry| entry.header("", 1)),
        ),
        refused(
            "a header that routes",
            "'job', 'q', '{}', headers => '{\"CC\": \"other\"}'",
            with(|entry| entry.header("CC", "other")),
        ),
        refused("a far delay", "'job', 'q', '{}', delay => '11 years'", with(|entry| entry.delay(11 * YEAR))),
        refused(
            "a far time",
            "'job', 'q', '{}', due => now() + interval '11 years'",
            with(|entry| entry.at(SystemTime::now() + 11 * YEAR)),
        ),
        refused("a far end", "'job', 'q', '{}', expires => '11 years'", with(|entry| entry.expires(11 * YEAR))),
        refused("an end at once", "'job', 'q', '{}', expires => '0 s'", with(|entry| entry.expires(Duration::ZERO))),
        refused("a queue with a line break", "'job', E'q\\n', '{}'", NewJob::raw("job", "q\n", "{}")),
        refused(
            "an end before its start",
            "'job', 'q', '{}', delay => '3 s', expires => '1 s'",
            with(|entry| entry.delay(Duration::from_secs(3)).expires(Duration::from_secs(1))),
        ),
    ]
}

fn names_headers_and_pairs_that_are_refused() -> Vec<Case> {
    let refused = |what, sql, rust| case(what, false, sql, rust);
    let queue = |name: &'static str| NewJob::raw("job", name, "{}");
    vec![
        refused("a queue with DEL", "'job', E'q\\x7f', '{}'", queue("q\u{7f}")),
        refused("a queue with a C1 control", "'job', E'q\\u0085', '{}'", queue("q\u{85}")),
        refused("the same under the C locale", "'job', E'q\\u0085' COLLATE \"C\", '{}'", queue("q\u{85}")),
        refused("the last C1 control", "'job', E'\\u009f' COLLATE \"C\", '{}'", queue("\u{9f}")),
        refused(
            "a delay and a time",
            "'job', 'q', '{}', delay => '0 s', due => now()",
            with(|entry| entry.delay(Duration::ZERO).at(SystemTime::now())),
        ),
        refused(
            "a long header",
            "'job', 'q', '{}', headers => jsonb_build_object('h', repeat('x', 115000))",
            with(|entry| entry.header("h", "x".repeat(115_000))),
        ),
        // As JSON they have 95 KB, and in a message 119 KB.
        refused(
            "many short headers",
            "'job', 'q', '{}', headers => (SELECT jsonb_object_agg('h' || n, 1) FROM generate_series(1, 8000) AS n)",
            with(|entry| (1..=8_000).fold(entry, |entry, n| entry.header(format!("h{n}"), 1))),
        ),
    ]
}

fn options_that_are_taken() -> Vec<Case> {
    let taken = |what, sql, rust| case(what, true, sql, rust);
    vec![
        taken("the least", "'job', 'q', '{}'", with(|entry| entry)),
        taken("the longest name", "repeat('x', 128), 'q', '{}'", NewJob::raw("x".repeat(128), "q", "{}")),
        taken(
            "a NUL in the payload",
            r#"'job', 'q', '{"a": "\u0000"}'"#,
            NewJob::raw("job", "q", r#"{"a": "\u0000"}"#),
        ),
        taken(
            "a number as it is written, and a name twice",
            r#"'job', 'q', '{"n":1.0e2,"n":123456789012345678901234567890}'"#,
            NewJob::raw("job", "q", r#"{"n":1.0e2,"n":123456789012345678901234567890}"#),
        ),
        taken("the longest id", "'job', 'q', '{}', id => repeat('é', 127)", with(|entry| entry.id("é".repeat(127)))),
        taken(
            "a time that is over",
            "'job', 'q', '{}', due => '1960-01-01'",
            with(|entry| entry.at(SystemTime::UNIX_EPOCH)),
        ),
        taken(
            "an endless past",
            "'job', 'q', '{}', due => '-infinity'",
            with(|entry| entry.at(SystemTime::UNIX_EPOCH)),
        ),
        taken(
            "headers",
            r#"'job', 'q', '{}', headers => '{"tenant": "acme", "n": -1, "b": false}'"#,
            with(|entry| entry.header("tenant", "acme").header("n", -1).header("b", false)),
        ),
        taken("a queue in another script", "'job', 'größe ß', '{}'", NewJob::raw("job", "größe ß", "{}")),
        taken(
            "the first letter after the controls",
            "'job', E'q\\u00a0' COLLATE \"C\", '{}'",
            NewJob::raw("job", "q\u{a0}", "{}"),
        ),
        taken(
            "the most headers, beside the longest texts",
            "'job', 'q', '{}', headers => jsonb_build_object('h', repeat('x', 112633), 'none', NULL),
             id => repeat('x', 255), correlation_id => repeat('x', 255), label => repeat('x', 1024)",
            with(|entry| {
                let entry = entry.id("x".repeat(255)).correlation_id("x".repeat(255)).label("x".repeat(1024));
                entry.header("h", "x".repeat(112_633))
            }),
        ),
    ]
}

fn all_cases() -> impl Iterator<Item = Case> {
    let refused =
        [options_that_are_refused(), texts_and_times_that_are_refused(), names_headers_and_pairs_that_are_refused()];
    refused.into_iter().flatten().chain(options_that_are_taken())
}

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

#[tokio::test]
async fn the_function_takes_and_refuses_what_rust_takes_and_refuses() {
    let stage = Stage::new(Database::postgres().await).await;
    let Pool::Postgres(pool) = &stage.pool else { unreachable!() };
    for Case { what, taken, sql, rust, order_key } in all_cases() {
        let (mut tx, before) = (pool.begin().await.unwrap(), stage.pending().await);
        let in_rust = match order_key {
            Some(order_key) => Outbox::enqueue_ordered(&mut tx, order_key, rust).await,
            None => Outbox::enqueue(&mut tx, rust).await,
        };
        tx.commit().await.unwrap();
        let in_sql = call(&stage, sql).await;
        assert_eq!((in_rust.is_ok(), in_sql.is_ok()), (taken, taken), "{what}: {in_rust:?}, {in_sql:?}");
        assert_eq!(stage.pending().await - before, if taken { 2 } else { 0 }, "{what}");
        if taken {
            let same = "SELECT count(DISTINCT (job, queue, payload)) FROM
                        (SELECT * FROM leveret_outbox ORDER BY seq DESC LIMIT 2) AS pair";
            let distinct: i64 = sqlx::query(same).fetch_one(pool).await.unwrap().get(0);
            assert_eq!(distinct, 1, "{what}");
        }
    }
}

#[tokio::test]
async fn what_only_sql_can_say_wrongly_is_refused_with_its_reason() {
    let stage = Stage::new(Database::postgres().await).await;
    for (wrong, reason) in [
        ("'job', 'q', NULL", "null"),
        ("NULL, 'q', '{}'", "null"),
        ("'job', 'q', 'not json'", "json"),
        ("'job', 'q', '{}', headers => '[1]'", "headers"),
        (r#"'job', 'q', '{}', headers => '{"a": [1]}'"#, "header"),
        (r#"'job', 'q', '{}', headers => '{"a": 0.5}'"#, "header"),
        (r#"'job', 'q', '{}', headers => '{"a": 9223372036854775808}'"#, "header"),
        ("'job', 'q', '{}', priority => -1", "priority"),
        ("'job', 'q', '{}', delay => '-1 s'", "delay"),
        ("'job', 'q', '{}', expires => '-1 s'", "expires"),
        ("'job', 'q', '{}', due => 'infinity'", "ten years"),
        ("'job', 'q', '{}', delay => '1 s', due => now()", "delay, due: set one of them"),
        ("'job', 'q', '{}', headers => jsonb_build_object('h', repeat('x', 112634))", "headers of 112641 bytes"),
    ] {
        let error = call(&stage, wrong).await.expect_err(wrong);
        let text = error.as_database_error().unwrap().message().to_lowercase();
        assert!(text.contains(reason), "{wrong}: {text}");
    }
    assert_eq!(stage.pending().await, 0);
}

#[tokio::test]
async fn the_function_works_under_any_search_path() {
    let stage = Stage::new(Database::postgres().await).await;
    let Pool::Postgres(pool) = &stage.pool else { unreachable!() };
    stage.pool.run("CREATE SCHEMA tenant; CREATE TABLE tenant.leveret_outbox (trap TEXT)").await;
    for path in ["tenant", "''", "tenant, public", "pg_temp, tenant"] {
        let mut tx = pool.begin().await.unwrap();
        sqlx::raw_sql(sqlx::AssertSqlSafe(format!("SET LOCAL search_path = {path}"))).execute(&mut *tx).await.unwrap();
        for arguments in ["'job', 'q', '{}'", "'job', 'q', '{}', order_key => 'k', delay => '1 s'"] {
            let text = format!("SELECT public.leveret_enqueue({arguments})");
            sqlx::raw_sql(sqlx::AssertSqlSafe(text)).execute(&mut *tx).await.unwrap();
        }
        tx.commit().await.unwrap();
    }
    assert_eq!(stage.pending().await, 8);
}

#[tokio::test]
async fn the_function_finds_its_table_in_whatever_schema_it_was_made() {
    let database = Database::postgres().await;
    let schema = r#""Odd""Name""#;
    let own = format!("{}?options=-c%20search_path%3D%22Odd%22%22Name%22", database.url);
    Pool::open(&database.url).await.run(&format!("CREATE SCHEMA {schema}")).await;
    Outbox::migrate(&Pool::open(&own).await.outbox()).await.unwrap();
    Pool::open(&database.url).await.run(&format!(r#"SELECT {schema}.leveret_enqueue('job', 'q', '{{}}')"#)).await;
    assert_eq!(Pool::open(&own).await.outbox().status().await.unwrap().pending, 1);
}
