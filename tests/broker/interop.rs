//! Clients in other languages: the snippets of the book's page on the wire contract, unchanged.

use std::{
    process::{Command, Output},
    sync::{Arc, Mutex},
    time::Duration,
};

use leveret::{
    Broker, Config, Context, Job, JobError, JobResult, PublishError, Queue, RetryPolicy, TopologyMode, Worker, testing,
};
use leveret_harness::{Permissions, TestVhost, eventually, golang, javascript, python, shared_node, unique};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{
    readme::{ON_THE_BROKER, block},
    support::{LONG, broker},
};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct SendEmail {
    to: String,
    subject: String,
    text: String,
}

impl Job for SendEmail {
    const NAME: &'static str = "email.send";
    const QUEUE: &'static str = "email";
}

type Sent = Arc<Mutex<Vec<SendEmail>>>;

/// Sends at the second attempt only, which shows that the copy of a foreign message works too.
async fn send_email(job: SendEmail, ctx: Context<Sent>) -> JobResult {
    if job.to.is_empty() {
        return Err(JobError::permanent("no recipient"));
    }
    if ctx.attempt() == 1 {
        return Err("the server is busy".into());
    }
    ctx.state().lock().unwrap().push(job);
    Ok(())
}

fn mail(to: &str, text: &str) -> SendEmail {
    SendEmail { to: to.to_owned(), subject: "Hello".to_owned(), text: text.to_owned() }
}

/// The worker of the queue `email` while `during` runs.
async fn with_worker(broker: &Broker, during: impl AsyncFnOnce(Sent)) {
    let (sent, stop) = (Sent::default(), CancellationToken::new());
    let queue = Queue::new("email").retry(RetryPolicy::fixed(Duration::from_millis(100)));
    let worker = Worker::new(Arc::clone(&sent)).queue(queue).handle(send_email);
    let running = worker.run(broker, stop.cancelled());
    let during = async {
        during(sent).await;
        stop.cancel();
    };
    let (ended, ()) = tokio::join!(running, during);
    ended.unwrap();
}

async fn declared(broker: &Broker) {
    let probe = mail("probe@example.org", "is the queue there?");
    eventually("the queue is declared", LONG, async || broker.publisher().publish(&probe).await.is_ok()).await;
}

async fn output_of(mut program: Command, url: &str) -> Output {
    program.env("AMQP_URL", url);
    let output = tokio::task::spawn_blocking(move || program.output()).await.unwrap();
    output.expect("installed by `make setup`")
}

async fn run(program: Command, url: &str) {
    let output = output_of(program, url).await;
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

async fn python_snippet() -> Command {
    let mut python = python().await;
    python.args(["-c", block("python")]);
    python
}

async fn node_snippet() -> Command {
    let mut node = javascript().await;
    node.args(["-e", block("javascript")]);
    node
}

async fn go_snippet() -> Command {
    Command::new(golang(block("go")).await)
}

async fn arrives(sent: &Sent, text: &str) {
    let wanted = mail("ada@example.org", text);
    eventually(text, LONG, async || sent.lock().unwrap().contains(&wanted)).await;
}

/// Checks that the program publishes with only a name and a JSON body, and that the worker handles the message.
async fn is_handled(program: Command, text: &str) {
    let vhost = shared_node().await.vhost().await;
    let broker = broker(&vhost.url());
    with_worker(&broker, async |sent| {
        declared(&broker).await;
        run(program, &vhost.url()).await;
        arrives(&sent, text).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_of_a_python_client_is_handled() {
    is_handled(python_snippet().await, "from Python").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_of_a_node_client_is_handled() {
    is_handled(node_snippet().await, "from Node").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_of_a_go_client_is_handled() {
    is_handled(go_snippet().await, "from Go").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_message_of_a_shell_is_handled() {
    let mut shell = Command::new("sh");
    shell.args(["-c", block("sh")]);
    is_handled(shell, "from a shell").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_publish_to_an_undeclared_queue_fails() {
    let vhost = shared_node().await.vhost().await;
    let published = broker(&vhost.url()).publisher().publish(&mail("ada@example.org", "too early")).await;
    assert!(matches!(published, Err(PublishError::Unroutable { .. })));
    for snippet in [python_snippet().await, node_snippet().await, go_snippet().await] {
        let output = output_of(snippet, &vhost.url()).await;
        assert!(!output.status.success(), "{output:?}");
    }
}

/// Returns the address of a user of the book's `rabbitmqctl set_permissions`, with those permissions.
async fn user(vhost: &TestVhost, role: &str) -> String {
    let line =
        ON_THE_BROKER.lines().find(|line| line.starts_with(&format!("rabbitmqctl set_permissions -p / {role} ")));
    let mut quoted = line.unwrap().split('\'').skip(1).step_by(2);
    let mut next = || quoted.next().unwrap();
    let permissions = Permissions { configure: next(), write: next(), read: next() };
    let name = unique(role);
    vhost.node().add_user(&name, "secret", vhost.name(), permissions).await.unwrap();
    vhost.url_for(&name, "secret")
}

fn verifying(url: String) -> Broker {
    Broker::amqp(Config { amqp_url: vec![url], topology: TopologyMode::Verify, ..Config::default() }).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_privileges_of_the_readme_are_enough_for_each_of_its_users() {
    let vhost = shared_node().await.vhost().await;
    let owner = broker(&user(&vhost, "set-up").await);
    with_worker(&owner, async |_| declared(&owner).await).await;
    let worker = verifying(user(&vhost, "worker").await);
    let publisher = verifying(user(&vhost, "publisher").await).publisher();
    let foreign = user(&vhost, "foreign").await;
    let python = python_snippet().await;
    with_worker(&worker, async |sent| {
        publisher.publish(&mail("ada@example.org", "now")).await.unwrap();
        publisher.publish(&mail("ada@example.org", "later")).delay(Duration::from_millis(300)).await.unwrap();
        publisher.publish(&mail("", "ada")).await.unwrap();
        run(python, &foreign).await;
        for text in ["now", "later", "from Python"] {
            arrives(&sent, text).await;
        }
    })
    .await;
    let guest = broker(&vhost.url());
    let dead = async || testing::dead_letters(&guest, "email").await.map(|letters| letters.len());
    eventually("the dead letter is kept", LONG, async || dead().await.is_ok_and(|letters| letters == 1)).await;
}
