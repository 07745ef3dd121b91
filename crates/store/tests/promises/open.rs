//! Opens a database, and loses it.

use std::time::{Duration, Instant};

use leveret::status_update::Transition;
use leveret_harness::{Postgres, Proxy, eventually, shared_postgres};
use leveret_sql::Outbox;
use leveret_store::{Error, Store};
use sqlx::{ConnectOptions, Connection, PgConnection, sqlite::SqliteConnectOptions};

use crate::database::{ANNA, Database, NOW, OpenStore};
use crate::status::event;

leveret_harness::on_both_databases! {
    many_may_open_an_empty_database_at_once,
    tables_of_a_newer_leveret_are_left_alone,
    tables_of_others_are_left_alone,
}

async fn many_may_open_an_empty_database_at_once(database: Database) {
    let opening = (0..8).map(|_| {
        let url = database.url.clone();
        tokio::spawn(async move { Store::open(&url).await })
    });
    for opening in opening.collect::<Vec<_>>() {
        opening.await.unwrap().unwrap().ping().await.unwrap();
    }
}

async fn run(url: &str, sql: &'static str) {
    let sql = sqlx::raw_sql(sql);
    if let Some(path) = url.strip_prefix("sqlite:") {
        let options = SqliteConnectOptions::new().filename(path).busy_timeout(Duration::from_secs(30));
        sql.execute(&mut options.connect().await.unwrap()).await.unwrap();
    } else {
        sql.execute(&mut PgConnection::connect(url).await.unwrap()).await.unwrap();
    }
}

async fn tables_of_a_newer_leveret_are_left_alone(database: Database) {
    database.open().await.close().await;
    run(&database.url, "INSERT INTO leveret_migrations (version, applied_at) VALUES (99, 0)").await;
    let error = Store::open(&database.url).await.unwrap_err();
    assert!(matches!(error, Error::Newer { found: 99, .. }), "{error:?}");
    assert!(!error.is_unavailable());
}

async fn tables_of_others_are_left_alone(database: Database) {
    let store = database.open().await;
    run(&database.url, "CREATE TABLE jobs (id BIGINT); CREATE TABLE _sqlx_migrations (version BIGINT)").await;
    let outbox = Outbox::migrate(&Outbox::open(&database.url).await.unwrap()).await.unwrap();
    store.close().await;
    database.open().await.audit(ANNA, "look", &"around".into()).await.unwrap();
    assert_eq!(outbox.status().await.unwrap().pending, 0, "its tables stand beside those of the server");
}

#[tokio::test]
async fn a_wrong_address_is_refused_with_the_right_forms_and_without_the_password() {
    let error = Store::open("mysql://me:secret@localhost/db").await.unwrap_err().to_string();
    assert!(error.contains("sqlite:PATH") && error.contains("postgres://") && !error.contains("secret"), "{error}");
    let folder = Store::open("sqlite:/nowhere at all/leveret.db").await.unwrap_err();
    assert!(matches!(folder, Error::Folder { .. }), "{folder}");
}

#[tokio::test]
async fn no_file_is_created_under_a_name_with_a_password() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["host=h user=me password=secret", "me:secret@h", "'me:secret@h'", "leveret.db?password=secret"] {
        for scheme in ["", "sqlite:"] {
            let error = Store::open(&format!("{scheme}{}/{name}", folder.path().display())).await.unwrap_err();
            assert!(matches!(error, Error::Address), "{scheme}{name}: {error}");
        }
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().next().is_none());
}

#[tokio::test]
async fn a_file_is_created_where_its_path_says_and_found_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("odd name #1 50%.db");
    let store = Store::open(&path.display().to_string()).await.unwrap();
    store.heard(NOW).await.unwrap();
    store.close().await;
    assert!(path.exists());
    let again = Store::open(&format!("sqlite:{}", path.display())).await.unwrap();
    assert_eq!(again.heard_at().await.unwrap(), Some(NOW));
}

#[tokio::test]
async fn a_file_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.db").display().to_string();
    Store::open(&path).await.unwrap().heard(NOW).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let (file, mode) = file.map(|file| (file.path(), file.metadata().unwrap().permissions().mode())).unwrap();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_killed_postgres_is_unavailable_and_when_it_is_back_all_that_was_committed_is() {
    let postgres = Postgres::start().await;
    let store = Store::open(&postgres.database().await).await.unwrap();
    store.heard(NOW).await.unwrap();

    postgres.kill9().await;
    let error = store.heard(NOW + 1).await.unwrap_err();
    assert!(error.is_unavailable(), "{error:?}");
    postgres.restart().await;

    let back = async || store.heard_at().await.is_ok_and(|heard| heard == Some(NOW));
    eventually("the store answers again", Duration::from_secs(10), back).await;
    store.heard(NOW + 2).await.unwrap();
}

#[tokio::test]
async fn a_postgres_that_says_nothing_is_unavailable_in_time_and_connections_that_lead_nowhere_are_left() {
    let proxy = Proxy::start(&shared_postgres().await.database().await).await;
    let store = Store::open(proxy.url()).await.unwrap();
    store.heard(NOW).await.unwrap();

    proxy.freeze();
    let (began, started) = (Instant::now(), event("a", 0, 1, Transition::Started));
    let at_once = (store.heard_at(), store.job("a"), store.record(std::slice::from_ref(&started)), store.ping());
    let (heard, job, recorded, ping) = tokio::join!(at_once.0, at_once.1, at_once.2, at_once.3);
    let errors = [heard.unwrap_err(), job.unwrap_err(), recorded.unwrap_err(), ping.unwrap_err()];
    assert!(errors.iter().all(Error::is_unavailable), "{errors:?}");
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());

    // New connections work again, those of before do not.
    proxy.strand();
    proxy.thaw();
    let back = async || store.record(std::slice::from_ref(&started)).await.is_ok();
    eventually("the store writes again", Duration::from_secs(60), back).await;
    assert!(store.job("a").await.unwrap().is_some());
}

#[tokio::test]
async fn a_statement_without_an_answer_is_abandoned_and_rolled_back() {
    let postgres = shared_postgres().await;
    let url = postgres.database().await;
    let store = Store::open(&url).await.unwrap();
    store.heard(NOW).await.unwrap();
    let held = url.clone();
    let holder = tokio::spawn(async move {
        run(&held, "BEGIN; UPDATE leveret_facts SET value = value; SELECT pg_sleep(9); COMMIT").await;
    });
    eventually("the row is held", Duration::from_secs(10), async || {
        let name = url.rsplit('/').next().unwrap();
        let sleeping = "state = 'active' AND query LIKE 'BEGIN%'";
        let sql = format!("SELECT count(*) FROM pg_stat_activity WHERE datname = '{name}' AND {sleeping}");
        postgres.psql(&sql).await.unwrap() == "1"
    })
    .await;
    let began = Instant::now();
    let error = store.heard(NOW + 1).await.unwrap_err();
    assert!(error.is_unavailable() && began.elapsed() < Duration::from_secs(8), "{error:?}");
    holder.await.unwrap();
    assert_eq!(store.heard_at().await.unwrap(), Some(NOW));
    store.heard(NOW + 2).await.unwrap();
}
