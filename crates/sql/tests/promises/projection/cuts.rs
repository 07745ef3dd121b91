//! The database is lost between any two statements, each in turn.
//!
//! On PostgreSQL a proxy cuts all connections at the n-th statement, before the server gets it, or after that and before its
//! answer. On SQLite the n-th report of progress interrupts the statement that runs.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering::SeqCst},
    },
    time::Duration,
};

use futures_util::future::join_all;
use leveret::Broker;
use leveret_harness::{Database, eventually, shared_postgres};
use sqlx::{
    SqlitePool,
    postgres::PgPoolOptions,
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use super::stage::{LONG, Set, Stage, of, run, view};
use crate::outbox::stage::Pool;

const EVENTS: i64 = 7;
/// Statements of a run, at least: the lease, the view's emptying, and four batches of two.
const LEAST: i64 = 25;

/// Runs at the same time.
const AT_ONCE: usize = 4;

/// The statements until the cut; negative after it.
type Left = Arc<AtomicI64>;

/// Runs a projection of a new name through its cut, and compares its view with the log.
async fn run_through(pool: &Pool, plain: &Pool, broker: &Broker, number: i64) {
    let name = Box::leak(format!("cut-{number}").into_boxed_str());
    let expected = of(0..EVENTS);
    let set = Set { name, batch: 2, lease: Duration::from_secs(1), ..Set::default() };
    let mut running = run(pool, broker, set);
    eventually("the view is complete", LONG, async || {
        if running.task.is_finished() {
            // Its process starts it again.
            running = run(pool, broker, set);
        }
        let applied = super::stage::projections(plain).list().await.unwrap();
        let is_done = applied.iter().any(|status| status.name == *name && status.position == Some(EVENTS as u64));
        is_done && view(plain).await == expected
    })
    .await;
    drop(running.stop().await);
    assert_eq!(view(plain).await, expected);
}

/// Emits the events, one of them twice.
async fn emit(stage: &Stage) {
    stage.emit_all(0..4).await;
    stage.emit_all([2]).await;
    stage.emit_all(4..EVENTS).await;
}

/// Passes connections on to PostgreSQL, and cuts all of them at one statement.
async fn proxy(upstream: String, left: Left, after: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let (upstream, left) = (upstream.clone(), Arc::clone(&left));
            tokio::spawn(async move {
                // Whatever ends it, both ends are closed.
                drop(pass(client, TcpStream::connect(&upstream).await?, &left, after).await);
                std::io::Result::Ok(())
            });
        }
    });
    port
}

async fn pass(mut client: TcpStream, mut server: TcpStream, left: &Left, after: bool) -> std::io::Result<()> {
    let (mut from_client, mut to_client) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let is_lost = std::sync::atomic::AtomicBool::new(false);
    let requests = async {
        let mut is_started = false;
        loop {
            let kind = if is_started { from_client.read_u8().await? } else { 0 };
            let length = from_client.read_u32().await?;
            let mut body = vec![0; length as usize - 4];
            from_client.read_exact(&mut body).await?;
            // A query, or the Sync behind a prepared one.
            let is_cut = matches!(kind, b'Q' | b'S') && left.fetch_sub(1, SeqCst) == 1;
            let mut message = if is_started { vec![kind] } else { Vec::new() };
            // The request for TLS comes before the start, and has this code.
            is_started |= body.get(..4) != Some(80_877_103_u32.to_be_bytes().as_slice());
            message.extend(length.to_be_bytes());
            message.extend(body);
            if is_cut && !after {
                return std::io::Result::Ok(());
            }
            is_lost.fetch_or(is_cut, SeqCst);
            to_server.write_all(&message).await?;
        }
    };
    let answers = async {
        let mut buffer = vec![0; 16 * 1024];
        loop {
            let count = from_server.read(&mut buffer).await?;
            if count == 0 || is_lost.load(SeqCst) {
                return std::io::Result::Ok(());
            }
            to_client.write_all(&buffer[..count]).await?;
        }
    };
    tokio::select! { ended = requests => ended, ended = answers => ended }
}

/// Cuts each statement in turn, until a run ends without a cut. Returns their number.
async fn cut_each_statement(after: bool) -> i64 {
    let cut = join_all((1..=AT_ONCE as i64).map(|first| cut_every_fourth(first, after))).await;
    cut.into_iter().max().unwrap()
}

/// Cuts every fourth statement, on a database of its own.
async fn cut_every_fourth(first: i64, after: bool) -> i64 {
    let postgres = shared_postgres().await;
    let stage = Stage::new(Database::at(postgres.database().await)).await;
    emit(&stage).await;
    let left = Left::default();
    let upstream = stage.database.url.split('@').nth(1).unwrap().split('/').next().unwrap();
    let port = proxy(upstream.to_owned(), Arc::clone(&left), after).await;
    let url = stage.database.url.replace(upstream, &format!("127.0.0.1:{port}"));
    for number in (first..).step_by(AT_ONCE) {
        left.store(i64::MAX, SeqCst);
        let options = PgPoolOptions::new().max_connections(3);
        let pool = Pool::Postgres(options.connect(&url).await.unwrap());
        left.store(number, SeqCst);
        run_through(&pool, &stage.pool, &stage.broker, number).await;
        if left.load(SeqCst) > 0 {
            return number;
        }
    }
    unreachable!("it is endless")
}

#[tokio::test]
async fn each_event_has_its_effect_once_though_any_statement_does_not_reach_postgresql() {
    let statements = cut_each_statement(false).await;
    eprintln!("{statements} statements cut");
    assert!(statements > LEAST, "only {statements}");
}

#[tokio::test]
async fn each_event_has_its_effect_once_though_the_answer_of_any_statement_is_lost() {
    let statements = cut_each_statement(true).await;
    eprintln!("{statements} answers cut");
    assert!(statements > LEAST, "only {statements}");
}

/// The steps of SQLite's machine between two reports.
const STEPS: i32 = 3;
/// Reports between two interruptions that are tried.
const STRIDE: usize = 5;

async fn interrupted(file: &str, left: Left) -> SqlitePool {
    let options = SqliteConnectOptions::new().filename(file).journal_mode(SqliteJournalMode::Wal);
    let options = options.busy_timeout(Duration::from_secs(30));
    let pool = SqlitePoolOptions::new().max_connections(3).after_connect(move |connection, _| {
        let left = Arc::clone(&left);
        Box::pin(async move {
            let mut handle = connection.lock_handle().await?;
            handle.set_progress_handler(STEPS, move || left.fetch_sub(1, SeqCst) != 1);
            Ok(())
        })
    });
    pool.connect_with(options).await.unwrap()
}

#[tokio::test]
async fn each_event_has_its_effect_once_though_sqlite_fails_at_any_step() {
    let stage = Stage::new(Database::sqlite()).await;
    emit(&stage).await;
    let left = Left::default();
    let file = stage.database.url.trim_start_matches("sqlite:");
    let mut interruptions = 0;
    for number in (1..).step_by(STRIDE) {
        left.store(i64::MAX, SeqCst);
        let pool = Pool::Sqlite(interrupted(file, Arc::clone(&left)).await);
        left.store(number, SeqCst);
        run_through(&pool, &stage.pool, &stage.broker, number).await;
        if left.load(SeqCst) > 0 {
            break;
        }
        interruptions += 1;
    }
    eprintln!("{interruptions} interruptions");
    assert!(interruptions > LEAST, "only {interruptions}");
}
