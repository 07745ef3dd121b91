//! Output that cannot be written: every command against a closed pipe and a full disk.

use std::{
    fs::File,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

use leveret::{Context, JobResult, RawEvent, Subscription, Worker, testing::start};
use leveret_harness::eventually;
use leveret_tests::fires::Fires;
use sqlx::{Connection, SqliteConnection, sqlite::SqliteConnectOptions};

use crate::{
    post::{LONG, Post, QUEUE},
    schedules::yearly,
};

/// The arguments of each command, and the exit code of a run whose output is read. `#` is 1, and 2 the second time.
const RUNS: [(&str, &[&str], i32); 56] = [
    ("publish", &["test.script", "--queue", QUEUE, "--payload", r#"{"label": "p", "acts": ["succeed"]}"#], 0),
    ("queues", &[], 0),
    ("jobs list", &[], 0),
    ("jobs show", &["t1"], 0),
    ("jobs wait", &["t1"], 1),
    ("jobs cancel", &["d#"], 0),
    ("jobs retry", &["t#"], 0),
    ("workflows start", &["WORKFLOW"], 0),
    ("workflows list", &[], 0),
    ("workflows show", &["w1", "--format", "svg"], 0),
    ("workflows show", &["w1", "--output", "json"], 0),
    ("workflows wait", &["w1", "--timeout", "1s"], 124),
    ("workflows pause", &["w#"], 0),
    ("workflows resume", &["w#"], 0),
    ("workflows skip", &["f#"], 0),
    ("workflows retry", &["r#"], 0),
    ("workflows cancel", &["w#"], 0),
    ("dead list", &[], 0),
    ("dead show", &["1"], 0),
    ("dead groups", &[], 0),
    ("dead replays", &[], 0),
    ("dead edit", &["#", "--payload", "EDITED"], 0),
    ("dead export", &[], 0),
    ("dead import", &["LETTERS"], 0),
    ("dead purge", &["#", "--yes"], 0),
    ("dead restore", &["#"], 0),
    ("dead replay", &["#"], 0),
    ("schedule list", &[], 0),
    ("schedule run", &["close-year"], 0),
    ("events log", &[], 0),
    ("events emit", &["order.placed"], 0),
    ("events list", &[], 0),
    ("events tail", &["--from", "first", "--no-follow"], 0),
    ("events tail", &["--from", "first"], 0),
    ("events replay", &["--to", "a#", "--from", "first"], 0),
    ("events unbind", &["a#", "order.*"], 0),
    ("events unsubscribe", &["a#", "--discard"], 0),
    ("audit", &[], 0),
    ("serve", &["--listen", "127.0.0.1:0"], 0),
    ("outbox migrate", &["--database", "DATABASE"], 0),
    ("outbox relay", &["--database", "DATABASE", "--http-addr", "127.0.0.1:0"], 0),
    ("outbox status", &["--database", "DATABASE"], 0),
    ("outbox retry", &["--all", "--database", "DATABASE"], 0),
    ("outbox prune", &["--yes", "--database", "DATABASE"], 0),
    ("inbox migrate", &["--database", "DATABASE"], 0),
    ("inbox status", &["--database", "DATABASE"], 0),
    ("inbox prune", &["--yes", "--database", "DATABASE"], 0),
    ("projections migrate", &["--database", "DATABASE"], 0),
    ("projections list", &["--database", "DATABASE"], 0),
    ("projections skip", &["p#", "7", "--yes", "--database", "DATABASE"], 0),
    ("projections reset", &["p#", "--yes", "--database", "DATABASE"], 0),
    ("topology export", &["--queue", QUEUE], 0),
    ("healthcheck", &["SERVER"], 0),
    ("doctor", &["--queue", QUEUE, "--sample", "0"], 0),
    ("simulate", &["--rate", "100", "--p50", "10ms", "--for", "10s", "--workers", "2"], 0),
    ("completions", &["zsh"], 0),
];
/// Its figures take minutes.
const ELSEWHERE: &str = "bench";
/// These commands run until a signal stops them.
const ENDLESS: [&str; 2] = ["serve", "outbox relay"];

#[tokio::test]
async fn every_command_is_quiet_on_a_closed_pipe_and_fails_on_a_full_disk() {
    let post = Post::sqlite().await;
    let server = post.serve().await;
    let address = server.wait_line("/api", LONG).await;
    let address = address.trim_start_matches("http://").trim_end_matches("/api").to_owned();
    let fires = Fires::default();
    let _running = yearly(&post, &fires).await;
    prepare(&post).await;
    let commands = leaves(&post, "").await;
    for command in commands.iter().filter(|command| *command != ELSEWHERE) {
        assert!(RUNS.iter().any(|(known, ..)| known == command), "`leveret {command}` prints: add it to these runs");
    }
    for (command, arguments, code) in RUNS {
        let line = |number: &str| -> Vec<String> {
            let given = |argument: &&str| match *argument {
                "EDITED" => post.path("edited.json"),
                "LETTERS" => post.path("letters.jsonl"),
                "WORKFLOW" => post.path("workflow.json"),
                "DATABASE" => post.path("own.db"),
                "SERVER" => address.clone(),
                other if other.len() < 3 => other.replace('#', number),
                other => other.to_owned(),
            };
            command.split(' ').map(str::to_owned).chain(arguments.iter().map(given)).collect()
        };
        if !ENDLESS.contains(&command) {
            let (ended, said) = run(&post, &line("1"), closed()).await;
            assert_eq!((ended, said.contains("pipe")), (code, false), "leveret {command} on a closed pipe: {said}");
        }
        let (ended, said) = run(&post, &line("2"), full()).await;
        assert_eq!((ended, said.contains("No space left")), (4, true), "leveret {command} on a full disk: {said}");
    }
    for arguments in
        [vec!["--version"], vec!["--help"], vec!["dead", "show", "--help"], vec!["dead", "show", "2", "--raw"]]
    {
        let arguments: Vec<_> = arguments.into_iter().map(str::to_owned).collect();
        assert_eq!(run(&post, &arguments, closed()).await.0, 0, "{arguments:?}");
        assert_eq!(run(&post, &arguments, full()).await.0, 4, "{arguments:?}");
    }
}

#[tokio::test]
async fn a_tail_that_follows_ends_when_its_reader_is_gone_though_no_further_event_comes() {
    let post = Post::sqlite().await;
    post.run(&["events", "log"]).await.ends(0);
    post.run(&["events", "emit", "order.placed"]).await.ends(0);
    for output in ["table", "json"] {
        let mut command = post.command(&["events", "tail", "--from", "first", "--output", output]);
        let mut tail = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let mut reader = BufReader::new(tail.stdout.take().unwrap());
        let first = tokio::task::spawn_blocking(move || {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            line
        });
        assert!(first.await.unwrap().contains("order.placed"));
        eventually("it ends", LONG, async || tail.try_wait().unwrap().is_some()).await;
        assert_eq!(tail.wait().unwrap().code(), Some(0), "{output}");
    }
}

async fn ignore(_: RawEvent, _: Context<()>) -> JobResult {
    Ok(())
}

/// Prepares dead letters 1 to 4, failed tracked jobs t1 and t2, waiting jobs d1 and d2, subscriptions a1 and a2, and files.
async fn prepare(post: &Post) {
    let subscription = |name: &str| Subscription::new(name).pattern("order.*");
    let worker = Worker::new(()).subscribe(subscription("a1"), ignore).subscribe(subscription("a2"), ignore);
    let running = start(worker, &post.broker()).await.unwrap();
    eventually("the subscriptions are announced", LONG, async || {
        let list = post.run(&["events", "list", "--output", "json"]).await.ends(0).json();
        list.as_array().unwrap().len() == 2
    })
    .await;
    running.stop().await.unwrap();
    post.kill((0..4).map(|number| format!("no mailbox {number}"))).await;
    for number in 1..=2 {
        let (given_up, delayed) = (format!("t{number}"), format!("d{number}"));
        let payload = r#"{"label": "t", "acts": [{"give_up": "no"}]}"#;
        let publish = ["publish", "test.script", "--queue", QUEUE, "--track", "--payload", payload, "--id"];
        post.run(&[&publish[..], &[&given_up]].concat()).await.ends(0);
        // `publish --wait` records that the job is queued.
        post.run(&[&publish[..], &[&delayed, "--delay", "1h", "--wait", "1s"]].concat()).await.ends(124);
        post.run(&["jobs", "wait", &given_up]).await.ends(1);
    }
    let delayed = r#"{"name": "w", "id": "ID", "steps": {"a": {"job": "test.script", "queue": "mail", "delay": "1h",
        "payload": {"label": "w", "acts": ["succeed"]}}}}"#;
    let failing = r#"{"name": "w", "id": "ID", "steps": {"a": {"job": "test.script", "queue": "mail", "if_failed": "wait",
        "payload": {"label": "w", "acts": [{"give_up": "no"}]}}}}"#;
    for (id, definition) in
        [("w1", delayed), ("w2", delayed), ("f1", failing), ("f2", failing), ("r1", failing), ("r2", failing)]
    {
        post.run_with(&["workflows", "start", "-"], &definition.replace("ID", id)).await.ends(0);
    }
    std::fs::write(post.path("workflow.json"), delayed.replace(r#""id": "ID", "#, "")).unwrap();
    eventually("the workflows run and wait", LONG, async || {
        let list = post.run(&["workflows", "list", "--output", "json"]).await.ends(0).json();
        let count = |status: &str| {
            list["items"].as_array().unwrap().iter().filter(|workflow| workflow["status"] == status).count()
        };
        (count("Waiting"), count("Running")) == (4, 2)
    })
    .await;
    post.dead_in_store(10).await;
    std::fs::write(post.path("edited.json"), r#"{"label": "edited", "acts": ["succeed"]}"#).unwrap();
    post.run(&["dead", "export", "--file", &post.path("letters.jsonl")]).await.ends(0);
    for part in ["outbox", "inbox", "projections"] {
        post.run(&[part, "migrate", "--database", &post.path("own.db")]).await.ends(0);
    }
    projections(post).await;
}

/// Notes projections p1 and p2, which stand still at event 7.
async fn projections(post: &Post) {
    let own = SqliteConnectOptions::new().filename(post.path("own.db"));
    let sql = "INSERT INTO leveret_projections (name, position, event_id, failed_offset, error, failed_at)
               VALUES ('p1', 6, 'x', 7, 'no', 1000), ('p2', 6, 'x', 7, 'no', 1000)";
    let mut connection = SqliteConnection::connect_with(&own).await.unwrap();
    sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
}

/// The commands without subcommands, as their help lists them.
async fn leaves(post: &Post, command: &str) -> Vec<String> {
    let mut arguments: Vec<_> = command.split_whitespace().collect();
    arguments.push("--help");
    let help = post.run(&arguments).await.ends(0).stdout;
    let listed = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let named = listed.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut found = Vec::new();
    for name in named.filter_map(|line| line.split_whitespace().next()).filter(|name| *name != "help") {
        found.extend(Box::pin(leaves(post, format!("{command} {name}").trim_start())).await);
    }
    if found.is_empty() { vec![command.to_owned()] } else { found }
}

fn closed() -> Stdio {
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    writer.into()
}

fn full() -> Stdio {
    File::options().write(true).open("/dev/full").unwrap().into()
}

async fn run(post: &Post, arguments: &[String], stdout: Stdio) -> (i32, String) {
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let mut command: Command = post.command(&arguments);
    command.stdin(Stdio::null()).stdout(stdout).stderr(Stdio::piped());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code().unwrap(), String::from_utf8(output.stderr).unwrap())
}
