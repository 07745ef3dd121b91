//! Private and shared nodes.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use leveret_harness::lapin::BasicProperties;
use leveret_harness::lapin::types::FieldTable;
use leveret_harness::{
    Node, NodeOptions, Permissions, Process, RawClient, eventually, eventually_eq, shared_node, unique,
};

use crate::SOON;

/// Set for this test binary when it is run again as a child, to the file that names the child's node.
const CHILD: &str = "LEVERET_HARNESS_CHILD";

#[tokio::test]
async fn a_node_keeps_a_confirmed_message_through_a_kill_and_leaves_nothing_behind() {
    let node = Node::start(NodeOptions::default().config("consumer_timeout = 2000")).await;
    let timeout = node.eval("application:get_env(rabbit, consumer_timeout).").await;
    assert_eq!(timeout.unwrap(), "{ok,2000}");
    let queue = unique("kept");
    let client = RawClient::connect(&node.url()).await.unwrap();
    client.declare_quorum(&queue, FieldTable::default()).await.unwrap();
    let durable = BasicProperties::default().with_delivery_mode(2);
    let confirmed = client.publish("", &queue, durable, b"still here").await;
    assert!(confirmed.unwrap().is_ack());
    node.sync().await.unwrap();

    node.kill9().await;
    assert!(RawClient::connect(&node.url()).await.is_err());
    node.restart().await;

    let client = RawClient::connect(&node.url()).await.unwrap();
    let kept = async || client.depth(&queue).await.unwrap();
    eventually_eq("the message is ready again", SOON, Some(1), kept).await;
    let message = client.take(&queue).await.unwrap().unwrap();
    assert_eq!(message.delivery.data, b"still here");

    let folder = node.folder().to_owned();
    assert!(running(&folder));
    drop(node);
    gone(&folder).await;
}

#[tokio::test]
async fn a_node_is_gone_when_its_test_process_is_killed() {
    let note = std::env::temp_dir().join(unique("leveret-child"));
    let child = Process::spawn(
        Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "node::child_with_a_node", "--nocapture"])
            .env(CHILD, &note),
    );
    let folder = async || PathBuf::from(std::fs::read_to_string(&note).unwrap_or_default());
    let started = async || folder().await.exists();
    eventually("the child's node is up", Duration::from_secs(120), started).await;
    let folder = folder().await;
    assert!(running(&folder), "a node in {}", folder.display());

    child.sigkill();

    gone(&folder).await;
    std::fs::remove_file(note).unwrap();
}

/// The body of the child in the test above; in an ordinary run it does nothing.
#[tokio::test]
async fn child_with_a_node() {
    let Some(note) = std::env::var_os(CHILD) else {
        return;
    };
    let node = Node::start(NodeOptions::default()).await;
    std::fs::write(note, node.folder().to_str().unwrap()).unwrap();
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn vhosts_of_the_shared_node_are_apart_and_keep_strangers_out() {
    let (one, other) = (shared_node().await.vhost().await, shared_node().await.vhost().await);
    let client = RawClient::connect(&one.url()).await.unwrap();
    client.declare_quorum("same", FieldTable::default()).await.unwrap();
    let stranger = RawClient::connect(&other.url()).await.unwrap();
    assert_eq!(stranger.depth("same").await.unwrap(), None);

    let reader = unique("reader");
    let permissions = Permissions { configure: "^$", write: "^$", read: "^same$" };
    one.node().add_user(&reader, "p@ss/word", one.name(), permissions).await.unwrap();
    let allowed = RawClient::connect(&one.url_for(&reader, "p@ss/word")).await;
    assert_eq!(allowed.unwrap().take("same").await.unwrap(), None);
    let refused = RawClient::connect(&other.url_for(&reader, "p@ss/word")).await;
    assert!(refused.is_err());
}

#[tokio::test]
async fn an_expression_that_fails_says_why_and_the_next_one_is_evaluated() {
    let node = shared_node().await.node().await;
    for (expression, why) in [("1 +", "syntax error"), ("1 / 0.", "badarith"), ("nowhere:at_all().", "undef")] {
        let error = node.eval(expression).await.unwrap_err().to_string();
        assert!(error.contains(why) && error.contains(expression), "{error}");
    }
    assert_eq!(node.eval("length(lists:seq(1, 100_000)).").await.unwrap(), "100000");
    let long = node.eval(&format!("\"{}\".", "x".repeat(100_000))).await.unwrap();
    assert_eq!(long.matches('x').count(), 100_000);
}

#[tokio::test]
async fn a_node_that_is_down_evaluates_nothing_until_it_is_back() {
    let node = Node::start(NodeOptions::default()).await;
    node.kill9().await;
    let error = node.eval("node().").await.unwrap_err().to_string();
    assert!(error.contains("nodedown"), "{error}");
    node.restart().await;
    assert_eq!(node.eval("node().").await.unwrap(), node.name());
}

#[tokio::test]
async fn a_failing_ctl_command_says_why() {
    let node = shared_node().await.node().await;
    let error = node.ctl(&["delete_vhost", "nowhere"]).await.unwrap_err();
    assert!(error.to_string().contains("does not exist"), "{error}");
}

#[tokio::test]
async fn a_node_knows_its_version() {
    let node = shared_node().await.node().await;
    let (major, minor) = node.version().await.unwrap();
    let full = node.ctl(&["version"]).await.unwrap();
    assert!(full.starts_with(&format!("{major}.{minor}.")), "{full}");
}

/// Waits until no process names `folder` and it is not there: the server, its epmd and their leashes.
async fn gone(folder: &Path) {
    let gone = async || !running(folder) && !folder.exists();
    eventually("no process and no folder of the node is left", SOON, gone).await;
}

/// True if a live process names `folder` in its environment or arguments, as the server and its leash do.
fn running(folder: &Path) -> bool {
    let name = folder.file_name().unwrap().to_str().unwrap();
    let processes = std::fs::read_dir("/proc").unwrap().flatten();
    processes.map(|entry| entry.path()).any(|process| {
        ["environ", "cmdline"]
            .map(|file| std::fs::read(process.join(file)).unwrap_or_default())
            .iter()
            .any(|bytes| String::from_utf8_lossy(bytes).contains(name))
    })
}
