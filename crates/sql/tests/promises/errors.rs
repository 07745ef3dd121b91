//! The errors of a database have a cause, a code and no password.

use leveret::NewJob;
use leveret_harness::{Postgres, shared_postgres};
use leveret_sql::{Error, Inbox, Outbox, Relay};
use sqlx::PgPool;

use crate::outbox::stage::Pool;

/// Asserts the message and the log text of an error, and whether it may pass by itself.
fn reported(error: &Error, word: &str, code: &str, passes: bool) {
    let text = leveret::text::error_chain(error);
    assert!(text.contains(word) && text.contains(code), "{text:?} lacks {word:?} or {code:?}");
    assert_eq!(error.is_unavailable(), passes, "{text}");
    assert!(!text.contains("S3cret") && !text.contains("migrate"), "{text}");
}

async fn refused_to_open(url: &str, word: &str, code: &str) {
    reported(&Outbox::open(url).await.unwrap_err(), word, code, false);
}

#[tokio::test]
async fn an_open_error_has_its_code_and_no_password() {
    let url = shared_postgres().await.database().await.replace("postgres@", "postgres:S3cret@");
    refused_to_open(&format!("{url}_not_there"), "the database does not exist", "3D000").await;
    refused_to_open(&url.replace("postgres:S3cret", "stranger:S3cret"), "refused the login", "28000").await;
    let closed = url.split('@').next().unwrap().to_owned() + "@127.0.0.1:1/x";
    reported(&Outbox::open(&closed).await.unwrap_err(), "cannot reach the database", "", true);
}

#[tokio::test]
async fn a_missing_right_a_read_only_database_and_a_cancelled_statement_are_no_missing_tables() {
    let postgres = shared_postgres().await;
    let url = postgres.database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    for outbox in [Outbox::migrate(&pool).await.unwrap(), Outbox::new(&pool)] {
        outbox.status().await.unwrap();
    }
    Inbox::migrate(&pool).await.unwrap();
    let role = leveret_harness::unique("guest").replace('-', "_");
    Pool::Postgres(pool.clone()).run(&format!("CREATE ROLE {role} LOGIN")).await;
    let guest = PgPool::connect(&url.replace("postgres@", &format!("{role}@"))).await.unwrap();
    reported(&Outbox::new(&guest).status().await.unwrap_err(), "lacks a privilege", "42501", false);
    reported(&Inbox::new(&guest).status().await.unwrap_err(), "lacks a privilege", "42501", false);
    let relay = Relay::new(&guest, &leveret::Broker::memory());
    reported(&relay.run(std::future::pending()).await.unwrap_err(), "lacks a privilege", "42501", false);
    let mut tx = guest.begin().await.unwrap();
    let error = Outbox::enqueue(&mut tx, NewJob::raw("job", "q", "{}")).await.unwrap_err();
    reported(&error, "lacks a privilege", "42501", false);

    let reading = PgPool::connect(&format!("{url}?options=-c%20default_transaction_read_only=on")).await.unwrap();
    let error = Outbox::new(&reading).discard(&leveret_sql::SetAsideSelection::All).await.unwrap_err();
    reported(&error, "read-only", "25006", true);
    let hasty = PgPool::connect(&format!("{url}?options=-c%20statement_timeout=1")).await.unwrap();
    let mut busy = pool.begin().await.unwrap();
    sqlx::raw_sql("LOCK TABLE leveret_outbox").execute(&mut *busy).await.unwrap();
    reported(&Outbox::new(&hasty).status().await.unwrap_err(), "cancelled the statement", "57014", true);
}

#[tokio::test]
async fn a_search_path_that_does_not_lead_to_the_tables_is_reported() {
    let url = shared_postgres().await.database().await;
    let pool = PgPool::connect(&url).await.unwrap();
    Outbox::migrate(&pool).await.unwrap();
    Pool::Postgres(pool).run("CREATE SCHEMA elsewhere").await;
    let elsewhere = PgPool::connect(&format!("{url}?options=-c%20search_path=elsewhere")).await.unwrap();
    let mut tx = elsewhere.begin().await.unwrap();
    let error = Outbox::enqueue(&mut tx, NewJob::raw("job", "q", "{}")).await.unwrap_err();
    for error in [error, Outbox::new(&elsewhere).status().await.unwrap_err()] {
        assert!(matches!(error, Error::NoTables { part: "outbox" }), "{error:?}");
        assert!(error.to_string().contains("search_path"), "{error}");
    }
}

#[tokio::test]
async fn a_file_is_for_its_user_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbox.db").display().to_string();
    Outbox::migrate(&Outbox::open(&path).await.unwrap()).await.unwrap();
    for file in std::fs::read_dir(folder.path()).unwrap() {
        let (file, mode) = file.map(|file| (file.path(), file.metadata().unwrap().permissions().mode())).unwrap();
        assert_eq!(mode & 0o777, 0o600, "{}", file.display());
    }
}

#[tokio::test]
async fn a_file_that_is_no_database_is_reported_as_such() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notes.txt");
    std::fs::write(
        &path,
        "no database at all, but a text that is long enough to be taken for a header of one, and more of it",
    )
    .unwrap();
    reported(&Outbox::open(&path.display().to_string()).await.unwrap_err(), "not an SQLite database", "26", false);
}

#[tokio::test]
async fn a_server_that_accepts_no_more_connections_is_reported_as_such() {
    let postgres = Postgres::start().await;
    let url = postgres.database().await;
    postgres.psql("ALTER ROLE postgres CONNECTION LIMIT 0").await.unwrap();
    let role = "CREATE ROLE crowd LOGIN CONNECTION LIMIT 0";
    postgres.psql(role).await.unwrap();
    let error = Outbox::open(&url.replace("postgres@", "crowd@")).await.unwrap_err();
    reported(&error, "no free connection", "53300", true);
}
