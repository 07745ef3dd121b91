//! Options that all commands share, and text that must not reach a terminal.

use lapin::{
    BasicProperties,
    types::{AMQPValue, FieldTable},
};
use leveret::text::is_unsafe;
use leveret_harness::RawClient;

use crate::post::{Post, QUEUE};

#[tokio::test]
async fn the_broker_can_be_named_to_every_command_before_and_after_it() {
    let post = Post::sqlite().await;
    let (url, nowhere) = (post.vhost.url(), "amqp://127.0.0.1:1");
    let run = async |arguments: &[&str]| {
        let mut command = post.command(arguments);
        command.env("AMQP_URL", nowhere);
        crate::post::say(command, Vec::new()).await
    };
    for arguments in
        [["--amqp-url", &url, "queues", "--queue", QUEUE], ["queues", "--queue", QUEUE, "--amqp-url", &url]]
    {
        run(&arguments).await.ends(0);
    }
    run(&["--amqp-url", &url, "schedule", "list"]).await.ends(0);
    run(&["schedule", "list", "--amqp-url", &url]).await.ends(0);
    run(&["schedule", "--amqp-url", &url, "list"]).await.ends(0);
    run(&["queues", "--queue", QUEUE]).await.ends(3);
    // These commands accept the option and do not use it.
    run(&["dead", "import", "/dev/null", "--amqp-url", &url]).await.ends(0);
    for arguments in [["dead", "groups"], ["dead", "replays"], ["jobs", "list"], ["completions", "bash"]] {
        run(&[&arguments[..], &["--amqp-url", &url, "--namespace", "ns"]].concat()).await.ends(0);
    }
    run(&["audit", "--amqp-url", &url]).await.ends(0);
}

#[tokio::test]
async fn json_is_printed_wherever_the_output_format_stands() {
    let post = Post::sqlite().await;
    let _server = post.serve().await;
    let own = post.path("own.db");
    post.run(&["outbox", "migrate", "--database", &own]).await.ends(0);
    post.run(&["inbox", "--output", "json", "migrate", "--database", &own]).await.ends(0).json();
    for [group, command] in
        [["dead", "list"], ["jobs", "list"], ["workflows", "list"], ["outbox", "status"], ["inbox", "status"]]
    {
        let database = if command == "status" { vec!["--database", &own] } else { Vec::new() };
        let before = [&[group, "--output", "json", command][..], &database].concat();
        let after = [&[group, command, "--output", "json"][..], &database].concat();
        let printed = post.run(&before).await.ends(0).json();
        assert_eq!(printed, post.run(&after).await.ends(0).json(), "{group} {command}");
    }
}

#[tokio::test]
async fn a_shell_learns_every_command() {
    let post = Post::sqlite().await;
    for (shell, known) in [("bash", "complete -F"), ("zsh", "#compdef leveret"), ("fish", "complete -c leveret")] {
        let script = post.run(&["completions", shell]).await.ends(0).stdout;
        assert!(script.contains(known) && script.contains("replays") && script.contains("canary-timeout"), "{shell}");
    }
    post.run(&["completions", "powershell"]).await.ends(2);
}

#[tokio::test]
async fn no_name_error_or_payload_steers_a_terminal_and_all_times_are_rfc_3339() {
    let post = Post::sqlite().await;
    let _server = post.serve().await;
    let evil = "\x1b]0;gotcha\x07\u{9b}31m\u{202e}\u{200b}\nforged";
    let mut headers = FieldTable::default();
    let text = |text: &str| AMQPValue::LongString(text.into());
    for (name, value) in
        [("leveret-job", evil), ("leveret-error-kind", "permanent"), ("leveret-error", evil), (evil, evil)]
    {
        headers.insert(name.into(), text(value));
    }
    let raw = RawClient::connect(&post.vhost.url()).await.unwrap();
    let properties = BasicProperties::default().with_headers(headers).with_message_id(evil.into());
    let payload = serde_json::to_vec(&serde_json::json!({ evil: evil })).unwrap();
    raw.publish("leveret.v1.dead", QUEUE, properties, &payload).await.unwrap();
    post.dead_in_store(1).await;
    let list = post.run(&["dead", "list", "--output", "json"]).await.ends(0).json();
    let id = list["items"][0]["id"].to_string();
    for table in [
        vec!["dead", "list"],
        vec!["dead", "groups"],
        vec!["dead", "show", &id],
        vec!["dead", "export"],
        vec!["dead", "list", "--output", "json"],
        vec!["dead", "show", &id, "--output", "json"],
        vec!["dead", "groups", "--output", "json"],
        vec!["audit"],
        vec!["dead", "purge", "--all"],
    ] {
        let said = post.run(&table).await;
        for text in [&said.stdout, &said.stderr] {
            assert!(!text.chars().any(|letter| letter != '\n' && is_unsafe(letter)), "{table:?}: {text}");
            assert!(!text.lines().any(|line| line.starts_with("forged")), "{table:?}: {text}");
        }
    }
    let shown = post.run(&["dead", "show", &id, "--output", "json"]).await.ends(0).json();
    assert_eq!(shown["job_id"], evil, "the JSON value is unchanged");
    for time in ["failed_at", "taken_at", "state_at"] {
        assert!(shown[time].as_str().unwrap().parse::<jiff::Timestamp>().is_ok(), "{shown}");
    }
}
