//! Programs under test, and conditions that never come.

use std::process::Command;
use std::time::Duration;

use leveret_harness::{Process, eventually_eq};

const SOON: Duration = Duration::from_secs(10);

fn shell(script: &str) -> Process {
    Process::spawn(Command::new("sh").args(["-c", script]))
}

#[tokio::test]
async fn a_process_shows_its_lines_and_its_exit_status_after_a_signal() {
    let process = shell("trap 'echo bye >&2; exit 3' TERM; echo ready; while :; do sleep 0.05; done");
    assert_eq!(process.wait_line("rea", SOON).await, "ready");
    process.sigterm();
    assert_eq!(process.wait_line("bye", SOON).await, "bye");
    assert_eq!(process.wait_exit(SOON).await.code(), Some(3));
    assert_eq!(process.lines(), ["ready", "bye"]);
}

#[tokio::test]
async fn a_stopped_process_is_silent_until_it_may_go_on() {
    let process = shell("while :; do echo tick; sleep 0.01; done");
    process.wait_line("tick", SOON).await;
    process.sigstop();
    let stat = format!("/proc/{}/stat", process.id());
    let state = async || std::fs::read_to_string(&stat).unwrap().contains(") T ");
    eventually_eq("it is stopped", SOON, true, state).await;
    process.sigcont();
    let seen = process.count("tick");
    let more = async || process.count("tick") > seen;
    eventually_eq("it ticks again", SOON, true, more).await;
}

#[tokio::test]
#[should_panic(expected = "ended without \"never\":\nall there is")]
async fn a_line_that_will_never_come_fails_at_once_with_what_did_come() {
    shell("echo all there is").wait_line("never", SOON).await;
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "not within 5s: two and two: expected 5, last saw 4")]
async fn a_condition_that_does_not_come_is_named_with_the_last_value() {
    eventually_eq("two and two", Duration::from_secs(5), 5, async || 2 + 2).await;
}
