//! Services that subscribe to events, each in processes of its own: added, removed and deployed while the publisher goes on.

use std::{collections::BTreeSet, path::PathBuf, process::Command};

use leveret::testing::dead_letters;
use leveret_harness::{Process, eventually};

use crate::support::{LONG, Place};

/// The processes of one test, and the file that they write to.
struct Shop {
    place: Place,
    folder: tempfile::TempDir,
}

/// A line: the subscription or `emitted`, the process, the topic and the id.
#[derive(Clone, Debug)]
struct Line {
    what: String,
    process: u32,
    topic: String,
    id: u64,
}

impl Shop {
    async fn open(name: &str) -> Self {
        Self { place: Place::shared(name).await, folder: tempfile::tempdir().unwrap() }
    }

    /// A name that no other test uses, of a topic or a subscription.
    fn name(&self, of: &str) -> String {
        format!("{}-{of}", self.place.queue)
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("lines")
    }

    fn process(&self, role: &str, arguments: &[&str]) -> Process {
        let mut command = Command::new(env!("CARGO_BIN_EXE_events-process"));
        command.env("AMQP_URL", &self.place.url).env("RUST_LOG", "info,lapin=off");
        command.arg(role).arg("--lines").arg(self.file()).args(arguments);
        Process::spawn(&command)
    }

    /// A process of a service, once it consumes.
    async fn service(&self, name: &str, topics: &[&str]) -> Process {
        let name = self.name(name);
        let mut arguments = vec!["--name", &name];
        let topics: Vec<_> = topics.iter().map(|topic| self.name(topic)).collect();
        arguments.extend(topics.iter().flat_map(|topic| ["--topic", topic]));
        let service = self.process("subscribe", &arguments);
        service.wait_line("consuming", LONG).await;
        service
    }

    fn emitter(&self, topic: &str) -> Process {
        self.process("emit", &["--topic", &self.name(topic)])
    }

    fn lines(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.file()).unwrap_or_default();
        let parse = |line: &str| {
            let mut words = line.split(' ').map(str::to_owned);
            let mut next = || words.next().unwrap();
            let (what, process, topic) = (next(), next().parse().unwrap(), next());
            Line { what, process, topic, id: next().parse().unwrap() }
        };
        text.lines().map(parse).collect()
    }

    /// The events of a topic that a service has handled, or that were emitted.
    fn ids(&self, what: &str, topic: &str) -> BTreeSet<u64> {
        let (name, topic) = (self.name(what), self.name(topic));
        let of = |line: &Line| line.topic == topic && (line.what == what || line.what == name);
        self.lines().into_iter().filter(of).map(|line| line.id).collect()
    }

    async fn until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        eventually(what, LONG, async || holds(self)).await;
    }
}

async fn stop(process: &Process) {
    process.sigterm();
    let status = process.wait_exit(LONG).await;
    assert_eq!(status.code(), Some(0), "{:#?}", process.lines());
}

#[tokio::test]
async fn a_service_is_added_and_another_removed_while_the_publisher_knows_nothing_of_either() {
    let shop = Shop::open("services").await;
    let old = shop.service("old", &["placed"]).await;
    let emitter = shop.emitter("placed");
    shop.until("the old service gets events", |shop| shop.ids("old", "placed").len() > 20).await;
    let new = shop.service("new", &["placed"]).await;
    let since = *shop.ids("emitted", "placed").last().unwrap() + 1;
    shop.until("both get events", |shop| shop.ids("new", "placed").len() > 20).await;
    stop(&old).await;
    let raw = shop.place.raw().await;
    for suffix in ["", ".suspect", ".dead"] {
        raw.delete_queue(&format!("{}{suffix}", shop.name("old"))).await.unwrap();
    }
    let removed = *shop.ids("emitted", "placed").last().unwrap();
    shop.until("the new one goes on", |shop| shop.ids("new", "placed").range(removed + 20..).next().is_some()).await;
    stop(&emitter).await;
    let emitted = shop.ids("emitted", "placed");
    let all_since = |shop: &Shop| shop.ids("new", "placed").range(since..).eq(emitted.range(since..));
    shop.until("the new one has each event since it came", all_since).await;
    stop(&new).await;
    let first = *shop.ids("old", "placed").first().unwrap();
    let last = *shop.ids("old", "placed").last().unwrap();
    assert!(shop.ids("old", "placed").range(first..=last).eq(emitted.range(first..=last)), "the old one missed none");
    // Only the event that the broker was passing to the deleted queue may be uncertain, and it is emitted again.
    assert!(emitter.count("not confirmed") <= 1, "{:#?}", emitter.lines());
}

#[tokio::test]
async fn in_a_rolling_deploy_old_processes_leave_a_new_type_of_event_to_new_ones_and_none_is_dead_lettered() {
    let shop = Shop::open("rolling").await;
    let old = [shop.service("shop", &["placed"]).await, shop.service("shop", &["placed"]).await];
    let placed = shop.emitter("placed");
    shop.until("events flow", |shop| shop.ids("shop", "placed").len() > 20).await;
    // The first new process binds the new topic, and from then on old processes get its events too.
    let both = ["placed", "refunded"];
    let first = shop.service("shop", &both).await;
    let refunded = shop.emitter("refunded");
    let met = || old.iter().map(|old| old.count("kind=unknown_job")).sum::<usize>();
    shop.until("old processes meet the new type", |_| met() > 10).await;
    stop(&old[0]).await;
    let second = shop.service("shop", &both).await;
    stop(&old[1]).await;
    for emitter in [&placed, &refunded] {
        stop(emitter).await;
    }
    for topic in both {
        let emitted = shop.ids("emitted", topic);
        shop.until(&format!("all of {topic} are handled"), |shop| shop.ids("shop", topic) == emitted).await;
    }
    let news = [first.id(), second.id()];
    let is_of_new = |line: &Line| line.topic == shop.name("refunded") && line.what != "emitted";
    assert!(shop.lines().iter().filter(|line| is_of_new(line)).all(|line| news.contains(&line.process)));
    assert_eq!(dead_letters(&shop.place.broker, &shop.name("shop")).await.unwrap(), []);
    for process in [first, second] {
        stop(&process).await;
    }
}
