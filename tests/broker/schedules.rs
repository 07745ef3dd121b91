//! Schedules on RabbitMQ: their leaders, and changes of leaders.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use leveret::{
    Broker, CatchUp, Config, TopologyMode,
    schedule::{Token, tokens},
    testing::{Running, start},
};
use leveret_harness::{Node, NodeOptions, Permissions, Process, Proxy, RawClient, eventually, shared_node, unique};
use leveret_tests::fires::{Fires, noting, schedule};
use tokio::time::Instant;

use crate::{
    readme::ON_THE_BROKER,
    support::{LONG, broker},
};

const EACH_SECOND: &str = "* * * * * *";
/// The heartbeat where a leader is to be silent.
const HEARTBEAT: Duration = Duration::from_secs(2);
/// RabbitMQ takes up to three heartbeats to detect a dead client. The rest is the takeover, and the polling of this
/// test.
const TAKEOVER: Duration = Duration::from_secs(1);

/// A schedule that fires each second, on a broker; its jobs run in this process.
pub(crate) struct Stage {
    pub(crate) url: String,
    pub(crate) broker: Broker,
    pub(crate) name: String,
    pub(crate) queue: String,
    pub(crate) fires: Fires,
    taking: Running,
}

impl Stage {
    pub(crate) async fn at(url: &str) -> Self {
        drop(tracing_subscriber::fmt().with_test_writer().with_env_filter("leveret=info").try_init());
        let (broker, name, fires) = (broker(url), unique("each-second"), Fires::default());
        let queue = format!("{name}-jobs");
        let taking = start(noting(&queue, &fires), &broker).await.unwrap();
        Self { url: url.to_owned(), broker, name, queue, fires, taking }
    }

    async fn shared() -> Self {
        Self::at(&shared_node().await.url()).await
    }

    pub(crate) fn process(&self, arguments: &[&str]) -> Process {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_scheduling-worker"));
        command.env("AMQP_URL", &self.url).env("RUST_LOG", "info,lapin=off");
        command.args(["--queue", &self.queue]).args(arguments);
        Process::spawn(&command)
    }

    /// A worker with the schedule, in this process, through that address.
    async fn worker(&self, url: &str, heartbeat: Duration) -> (Broker, Running) {
        let config = Config { amqp_url: vec![url.to_owned()], heartbeat, ..Config::default() };
        let broker = Broker::amqp(config).unwrap();
        let timed = schedule(&self.name, EACH_SECOND, &self.queue).catch_up(CatchUp::All);
        let own = format!("{}.own", self.queue);
        let running = start(noting(&own, &Fires::default()).schedule(timed), &broker).await.unwrap();
        (broker, running)
    }

    async fn raw(&self) -> RawClient {
        RawClient::connect(&self.url).await.unwrap()
    }

    /// Waits until the leader of that number or a later one has published this many times.
    async fn led(&self, epoch: u64, times: u64) -> Token {
        let mut found = None;
        let mut first = None;
        eventually(&format!("a leader number {epoch} publishes"), LONG, async || {
            let now = tokens(&self.broker).await.unwrap_or_default().into_iter();
            found = now.into_iter().find(|token| token.schedule == self.name && token.epoch >= epoch);
            let Some(last) = found.as_ref().and_then(|token| token.last_fire()) else { return false };
            last >= *first.get_or_insert(last) + Duration::from_secs(times)
        })
        .await;
        found.unwrap()
    }

    /// Waits until every job that the schedule has published by now has run, and checks that no second is missing.
    async fn nothing_is_lost(&self) -> usize {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        eventually("all up to now has run", LONG, async || {
            self.fires.all().iter().any(|fired| fired.schedule == self.name && fired.at >= now)
        })
        .await;
        self.fires.every_second(&self.name).doubled
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_workers_that_start_at_once_one_publishes_each_time_once() {
    let stage = Stage::shared().await;
    let heartbeat = Duration::from_secs(10);
    let other = start(noting(&format!("{}.other", stage.queue), &Fires::default()), &stage.broker).await.unwrap();
    let (a, b) = tokio::join!(stage.worker(&stage.url, heartbeat), stage.worker(&stage.url, heartbeat));
    let token = stage.led(1, 4).await;
    assert_eq!((token.epoch, token.zone.as_str(), token.job.as_str()), (1, "UTC", "test.fire"));
    assert_eq!(stage.nothing_is_lost().await, 0);
    // Orderly stops cause no duplicates either; a worker without the schedule does not publish it.
    for (_, running) in [a, b] {
        stage.led(1, 1).await;
        running.stop().await.unwrap();
    }
    let account = stage.fires.every_second(&stage.name);
    assert_eq!(account.doubled, 0, "{account:?}");
    let depth = async || stage.raw().await.depth(&format!("leveret.v1.schedule.{}", stage.name)).await.unwrap();
    eventually("the token waits in its queue", LONG, async || depth().await >= Some(1)).await;
    other.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_killed_another_takes_over_within_five_seconds() {
    let stage = Stage::shared().await;
    let arguments = ["--schedule", &stage.name];
    let leader = stage.process(&arguments);
    let epoch = stage.led(1, 1).await.epoch;
    let _next = stage.process(&arguments);
    let waiting = stage.process(&arguments);
    stage.led(epoch, 2).await;
    let killed = Instant::now();
    leader.sigkill();
    stage.led(epoch + 1, 0).await;
    let after = killed.elapsed();
    println!("another leads {after:?} after the kill");
    assert!(after < Duration::from_secs(5), "{after:?}");
    stage.nothing_is_lost().await;
    drop(waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_frozen_another_takes_over_within_three_heartbeats() {
    let stage = Stage::shared().await;
    let arguments = ["--schedule", &stage.name, "--heartbeat", "2s"];
    let leader = stage.process(&arguments);
    let epoch = stage.led(1, 1).await.epoch;
    let _next = stage.process(&arguments);
    stage.led(epoch, 2).await;
    let frozen = Instant::now();
    leader.sigstop();
    stage.led(epoch + 1, 0).await;
    let after = frozen.elapsed();
    println!("another leads {after:?} after the leader was frozen");
    assert!(after < 3 * HEARTBEAT + TAKEOVER, "{after:?}");
    leader.sigcont();
    stage.led(epoch + 1, 3).await;
    stage.nothing_is_lost().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_leader_is_cut_off_another_takes_over_within_three_heartbeats() {
    let stage = Stage::shared().await;
    let proxy = Proxy::start(&stage.url).await;
    let (_broker, leader) = stage.worker(proxy.url(), HEARTBEAT).await;
    let epoch = stage.led(1, 1).await.epoch;
    let (_other, next) = stage.worker(&stage.url, HEARTBEAT).await;
    stage.led(epoch, 2).await;
    let cut = Instant::now();
    proxy.freeze();
    stage.led(epoch + 1, 0).await;
    let after = cut.elapsed();
    println!("another leads {after:?} after the leader was cut off");
    assert!(after < 3 * HEARTBEAT + TAKEOVER, "{after:?}");
    proxy.thaw();
    stage.led(epoch + 1, 3).await;
    stage.nothing_is_lost().await;
    leader.stop().await.unwrap();
    next.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_that_is_deleted_with_its_queue_or_purged_is_made_anew_and_nothing_is_missed() {
    let stage = Stage::shared().await;
    let token_queue = format!("leveret.v1.schedule.{}", stage.name);
    let (raw, heartbeat) = (stage.raw().await, Duration::from_secs(10));
    let (_broker, running) = stage.worker(&stage.url, heartbeat).await;
    let epoch = stage.led(1, 1).await.epoch;
    raw.delete_queue(&token_queue).await.unwrap();
    let epoch = stage.led(epoch + 1, 1).await.epoch;
    running.stop().await.unwrap();
    // Without any worker, long enough that the next leader has missed times.
    eventually("the token waits", LONG, async || raw.depth(&token_queue).await.unwrap() >= Some(1)).await;
    raw.channel().queue_purge(token_queue.as_str().into(), Default::default()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let (_broker, running) = stage.worker(&stage.url, heartbeat).await;
    stage.led(epoch + 1, 1).await;
    stage.nothing_is_lost().await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_has_nothing_to_do_never_meets_the_consumer_timeout() {
    let node = Node::start(NodeOptions::default().config("consumer_timeout = 4000")).await;
    node.eval("application:set_env(rabbit, channel_tick_interval, 500).").await.unwrap();
    let config = Config { amqp_url: vec![node.url()], consumer_timeout: Duration::from_secs(4), ..Config::default() };
    let broker = Broker::amqp(config).unwrap();
    let queue = leveret::Queue::new("quiet-jobs").timeout(Duration::from_secs(1));
    let yearly = schedule("quiet", "@yearly", "quiet-jobs");
    let worker = noting("quiet-jobs", &Fires::default()).queue(queue).schedule(yearly);
    let running = start(worker, &broker).await.unwrap();
    let mut reported = std::collections::BTreeSet::new();
    eventually("the token is published again several times", LONG, async || {
        let quiet = tokens(&broker).await.unwrap_or_default().pop();
        reported.extend(quiet.as_ref().map(|token| token.told_at()));
        reported.len() > 6
    })
    .await;
    let token = tokens(&broker).await.unwrap().pop().unwrap();
    assert_eq!((token.epoch, token.last_fire()), (1, None), "it leads without a break");
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_rights_that_the_readme_names_are_enough_to_lead() {
    let vhost = shared_node().await.vhost().await;
    let stage = Stage::at(&vhost.url()).await;
    let (_broker, declaring) = stage.worker(&stage.url, HEARTBEAT).await;
    let epoch = stage.led(1, 0).await.epoch;
    declaring.stop().await.unwrap();
    let rights = ON_THE_BROKER.split_once("Workers with schedules also need the right to read `").unwrap().1;
    let read = format!(
        r"^({}(\.own)?(\.suspect)?|leveret\.v1\.(cancelled|catalogue)|{})$",
        stage.queue,
        rights.split('`').next().unwrap()
    );
    let worker =
        ON_THE_BROKER.lines().find(|line| line.starts_with("rabbitmqctl set_permissions -p / worker")).unwrap();
    let write = worker.split('\'').nth(3).unwrap();
    let user = unique("least");
    let permissions = Permissions { configure: "^$", write, read: &read };
    vhost.node().add_user(&user, "secret", vhost.name(), permissions).await.unwrap();
    let config =
        Config { amqp_url: vec![vhost.url_for(&user, "secret")], topology: TopologyMode::Verify, ..Config::default() };
    let broker = Broker::amqp(config).unwrap();
    let timed = schedule(&stage.name, EACH_SECOND, &stage.queue).catch_up(CatchUp::All);
    let own = format!("{}.own", stage.queue);
    let running = start(noting(&own, &Fires::default()).schedule(timed), &broker).await.unwrap();
    stage.led(epoch + 1, 1).await;
    stage.nothing_is_lost().await;
    running.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_the_broker_loses_no_time() {
    let node = Node::start(NodeOptions::default()).await;
    let stage = Stage::at(&node.url()).await;
    let heartbeat = Duration::from_secs(10);
    let (_a, leader) = stage.worker(&stage.url, heartbeat).await;
    let (_b, other) = stage.worker(&stage.url, heartbeat).await;
    let epoch = stage.led(1, 2).await.epoch;
    node.sync().await.unwrap();
    node.kill9().await;
    node.restart().await;
    stage.led(epoch + 1, 2).await;
    stage.nothing_is_lost().await;
    for running in [leader, other, stage.taking] {
        running.stop().await.unwrap();
    }
}

/// The log of a test that has only one thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(text)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn with(&self, part: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(part)).map(str::to_owned).collect()
    }
}

#[tokio::test(start_paused = true)]
async fn two_schedules_of_one_name_are_logged_by_both_workers_and_a_changed_one_takes_over() {
    let lines = Lines::default();
    let writer = lines.clone();
    let _logging = tracing::subscriber::set_default(
        tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish(),
    );
    let (broker, fires) = (Broker::memory(), Fires::default());
    let worker = |expression: &str, queue: &str| noting(queue, &fires).schedule(schedule("cleanup", expression, queue));
    let second = |seconds| tokio::time::sleep(Duration::from_secs(seconds));
    let first = start(worker("0 * * * *", "orders"), &broker).await.unwrap();
    second(5).await;
    // A deploy may change the expression.
    let deployed = start(worker("30 * * * *", "orders"), &broker).await.unwrap();
    second(5 * 60).await;
    first.stop().await.unwrap();
    second(2 * 3600).await;
    assert!(lines.with("WARN").is_empty(), "{:?}", lines.with("WARN"));
    let is_deployed = |token: &Token| token.expression == "30 * * * *" && token.rival.is_none();
    assert!(tokens(&broker).await.unwrap().iter().all(is_deployed));
    // Another queue makes it another schedule.
    let other = start(worker("30 * * * *", "carts"), &broker).await.unwrap();
    second(60).await;
    let warned = lines.with("two schedules have this name");
    let by = |own: &str, other: &str| {
        let says = [format!("queue=\"{own}\""), format!("other_queue=\"{other}\""), "WARN".into()];
        warned.iter().filter(|line| says.iter().all(|part| line.contains(part))).count()
    };
    assert_eq!((by("orders", "carts"), by("carts", "orders"), warned.len()), (1, 1, 2), "{warned:?}");
    let rival = tokens(&broker).await.unwrap().pop().unwrap().rival;
    assert_eq!(rival.map(|rival| rival.queue), Some("carts".to_owned()));
    other.stop().await.unwrap();
    second(3600).await;
    assert!(tokens(&broker).await.unwrap().pop().unwrap().rival.is_none(), "it is gone");
    deployed.stop().await.unwrap();
}
