//! A program under test as a process of its own: its lines, its signals, its exit status.

use std::io::{BufRead, BufReader, Read};
use std::process::{Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustix::process::Signal;
use tokio::time::{Instant, sleep};

use crate::leash::Leashed;

const POLL: Duration = Duration::from_millis(5);

/// A running program. Dropped, it is killed; the same happens when the test process ends.
#[derive(Debug)]
pub struct Process {
    leashed: Mutex<Leashed>,
    lines: Arc<Mutex<Vec<String>>>,
}

impl Process {
    /// Starts the program, arguments, environment and folder of `command`, with no standard input and both
    /// outputs captured.
    ///
    /// # Panics
    ///
    /// When no process can be started. A program that does not exist exits with status 127.
    pub fn spawn(command: &Command) -> Self {
        let mut leashed = Leashed::spawn(command, Stdio::piped(), Stdio::piped()).expect("a process must start");
        let lines = Arc::new(Mutex::new(Vec::new()));
        let child = leashed.child_mut();
        if let Some(output) = child.stdout.take() {
            collect(output, Arc::clone(&lines));
        }
        if let Some(errors) = child.stderr.take() {
            collect(errors, Arc::clone(&lines));
        }
        Self { leashed: Mutex::new(leashed), lines }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.leashed().id()
    }

    /// The lines of both outputs so far, in their order.
    pub fn lines(&self) -> Vec<String> {
        self.written().clone()
    }

    /// The number of lines so far that contain `text`.
    pub fn count(&self, text: &str) -> usize {
        self.written().iter().filter(|line| line.contains(text)).count()
    }

    /// The number of lines so far that do not contain `text`.
    pub fn lines_without(&self, text: &str) -> usize {
        self.written().iter().filter(|line| !line.contains(text)).count()
    }

    /// Waits for a line that contains `text`, also one written before, and returns the first.
    ///
    /// # Panics
    ///
    /// When none came `within` the time or the process ended without it; the message holds all its lines.
    pub async fn wait_line(&self, text: &str, within: Duration) -> String {
        let deadline = Instant::now() + within;
        loop {
            // Asked first: whatever an ended process wrote is in the pipes by then, and read in the next round.
            let over = self.status().is_some() && Arc::strong_count(&self.lines) == 1;
            let found = self.written().iter().find(|line| line.contains(text)).cloned();
            if let Some(line) = found {
                return line;
            }
            assert!(!over, "ended without {text:?}:\n{}", self.transcript());
            assert!(Instant::now() < deadline, "no {text:?} within {within:?}:\n{}", self.transcript());
            sleep(POLL).await;
        }
    }

    /// True once it has ended.
    pub fn has_ended(&self) -> bool {
        self.status().is_some()
    }

    /// Waits until it ends.
    ///
    /// # Panics
    ///
    /// When it still runs after the time; the message holds all its lines.
    pub async fn wait_exit(&self, within: Duration) -> ExitStatus {
        let deadline = Instant::now() + within;
        loop {
            if let Some(status) = self.status() {
                return status;
            }
            assert!(Instant::now() < deadline, "still running after {within:?}:\n{}", self.transcript());
            sleep(POLL).await;
        }
    }

    /// Asks it to end, as an orchestrator does.
    pub fn sigterm(&self) {
        self.signal(Signal::TERM);
    }

    /// Ends it as a crash does.
    pub fn sigkill(&self) {
        self.signal(Signal::KILL);
    }

    /// Halts it until [`Self::sigcont`]: alive, but silent.
    pub fn sigstop(&self) {
        self.signal(Signal::STOP);
    }

    /// Lets it continue after [`Self::sigstop`].
    pub fn sigcont(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        self.leashed().signal(signal).expect("the process is a child of this one");
    }

    fn status(&self) -> Option<ExitStatus> {
        self.leashed().try_wait().expect("the process is a child of this one")
    }

    fn transcript(&self) -> String {
        self.written().join("\n")
    }

    fn leashed(&self) -> MutexGuard<'_, Leashed> {
        self.leashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn written(&self) -> MutexGuard<'_, Vec<String>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Appends lines as they come. A thread, because the process outlives no runtime it does not know of.
fn collect(output: impl Read + Send + 'static, lines: Arc<Mutex<Vec<String>>>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            lines.lock().unwrap_or_else(PoisonError::into_inner).push(String::from_utf8_lossy(&line).into_owned());
        }
    });
}
