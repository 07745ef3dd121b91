//! Workers whose clock is wrong.

use std::{path::Path, process::Command, time::Duration};

use leveret_harness::{Process, shared_node};
use leveret_tests::jobs::{Act, publish, script};

use crate::support::{LONG, Place, RunFile, labels};

/// Starts a worker process for which `faketime` sets another time than the machine's.
fn process_at(time: &str, place: &Place, file: &RunFile) -> Process {
    let library = ["x86_64-linux-gnu", "aarch64-linux-gnu"]
        .map(|triple| format!("/usr/lib/{triple}/faketime/libfaketimeMT.so.1"))
        .into_iter()
        .find(|path| Path::new(path).exists())
        .expect("make setup installs faketime");
    let mut command = Command::new(env!("CARGO_BIN_EXE_scripted-worker"));
    command
        .env("LD_PRELOAD", library)
        .env("FAKETIME", time)
        .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
        .env("AMQP_URL", &place.url)
        .env("LEVERET_HTTP_ADDR", "127.0.0.1:0")
        .args(["--queue", &place.queue, "--runs"])
        .arg(file.path());
    Process::spawn(&command)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_clock_is_wrong_says_so_and_neither_expires_nor_holds_back_sound_jobs() {
    // Before the release of this version, ahead, and behind.
    for time in ["@1970-01-02 00:00:00", "+10m", "-10m"] {
        let vhost = shared_node().await.vhost().await;
        let (place, file) = (Place::at(&vhost.url(), "clock"), RunFile::new());
        place.declare().await;
        let fresh = publish(&place.broker, &place.queue, &script("fresh", [Act::Succeed]));
        fresh.expires(Duration::from_secs(120)).await.unwrap();
        let late = publish(&place.broker, &place.queue, &script("late", [Act::Succeed]));
        late.delay(Duration::from_millis(1_500)).await.unwrap();
        let worker = process_at(time, &place, &file);
        worker.wait_line("clock differs from the broker's", LONG).await;
        file.until(&format!("both run at {time}"), |lines| labels(lines, "").is_superset(&["fresh", "late"].into()))
            .await;
    }
}
