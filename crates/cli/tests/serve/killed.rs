//! Server, database and broker are killed while tasks are submitted. Accepted tasks complete, and the server knows it.

use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use leveret::TopologyMode;
use leveret_harness::{Node, NodeOptions, Postgres, eventually};
use serde_json::json;

use crate::{
    client::Client,
    stage::{LONG, ServerSetup, work},
};

const SUBMITTERS: usize = 4;

/// Threads that submit tasks one after another, and remember which were accepted.
struct Load {
    stop: Arc<AtomicBool>,
    seen: Arc<Seen>,
    threads: Vec<JoinHandle<()>>,
}

#[derive(Default)]
struct Seen {
    accepted: Mutex<BTreeSet<String>>,
    refused: AtomicUsize,
}

impl Load {
    fn start(client: &Client) -> Self {
        let (stop, seen) = (Arc::<AtomicBool>::default(), Arc::<Seen>::default());
        let submit = |_| {
            let (client, stop, seen) = (client.clone(), Arc::clone(&stop), Arc::clone(&seen));
            thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    submit(&client, &seen);
                }
            })
        };
        let threads = (0..SUBMITTERS).map(submit).collect();
        Self { stop, seen, threads }
    }

    fn count(&self) -> usize {
        self.seen.accepted.lock().unwrap().len()
    }

    /// Waits until tasks are accepted as they were before.
    async fn goes_on(&self) {
        let before = self.count();
        eventually("tasks are accepted again", LONG, async || self.count() >= before + 50).await;
    }

    /// Waits until a task is not accepted.
    async fn is_refused(&self) {
        let before = self.seen.refused.load(Ordering::SeqCst);
        eventually("a task is refused", LONG, async || self.seen.refused.load(Ordering::SeqCst) > before).await;
    }

    fn finish(self) -> BTreeSet<String> {
        self.stop.store(true, Ordering::SeqCst);
        for thread in self.threads {
            thread.join().unwrap();
        }
        std::mem::take(&mut *self.seen.accepted.lock().unwrap())
    }
}

fn submit(client: &Client, seen: &Seen) {
    match client.post("/api/tasks", &json!({"name": "moment"})) {
        Some((202, answer)) => {
            let id = answer["task_id"].as_str().unwrap().to_owned();
            seen.accepted.lock().unwrap().insert(id);
        }
        // The client repeats a task that was not accepted.
        Some((503, _)) | None => {
            seen.refused.fetch_add(1, Ordering::SeqCst);
            thread::sleep(Duration::from_millis(50));
        }
        Some(other) => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_accepted_task_is_done_and_known_to_be_whatever_is_killed() {
    let (node, postgres) = tokio::join!(Node::start(NodeOptions::default()), Postgres::start());
    let (running, done) = work(&node.url(), TopologyMode::Declare).await;
    let place = ServerSetup::new(node.url(), postgres.database().await);
    let server = place.serve().await;
    let load = Load::start(&place.client());
    load.goes_on().await;

    server.sigkill();
    let server = place.serve().await;
    load.goes_on().await;

    postgres.kill9().await;
    load.is_refused().await;
    postgres.restart().await;
    load.goes_on().await;

    node.kill9().await;
    node.restart().await;
    load.goes_on().await;

    let accepted = load.finish();
    let client = place.client();
    let mut open = accepted.clone();
    let completed = async || {
        let (client, asked) = (client.clone(), open.clone());
        let left = move || asked.into_iter().filter(|id| !is_completed(&client, id)).collect();
        open = tokio::task::spawn_blocking(left).await.unwrap();
        open.is_empty()
    };
    eventually("every accepted task is known to be done", LONG, completed).await;
    assert!(done.load(Ordering::SeqCst) >= accepted.len(), "and was");
    eprintln!("{} accepted, {} runs", accepted.len(), done.load(Ordering::SeqCst));
    drop(server);
    running.stop().await.unwrap();
}

fn is_completed(client: &Client, id: &str) -> bool {
    client.get(&format!("/api/tasks/{id}")).is_some_and(|(status, task)| status == 200 && task["status"] == "Completed")
}
