//! Shows the progress on stderr: a bar on a terminal, plain lines elsewhere.

use std::{
    collections::HashSet,
    io::{self, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{task::JoinHandle, time::Instant};

use crate::ledger::{JobRecord, JobRecords, Ledger};

const REFRESH: Duration = Duration::from_millis(100);
/// Interval of the progress lines without a bar.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Time without progress after which a hint is shown; longer than any planned wait.
const STANDSTILL: Duration = Duration::from_secs(20);
const HINT: &str = "No progress for 20 seconds. Does another worker consume from these queues and subscriptions?";

/// The display of one run, which follows the ledger until it is finished or dropped.
#[derive(Debug)]
pub struct Progress {
    display: ProgressDisplay,
    ledger: Ledger,
    task: JoinHandle<()>,
}

/// Writes lines above the bar.
#[derive(Clone, Debug)]
pub struct ProgressDisplay {
    bar: ProgressBar,
}

impl Default for ProgressDisplay {
    fn default() -> Self {
        let bar = ProgressBar::with_draw_target(Some(0), ProgressDrawTarget::stderr());
        let template = "{bar:30} {pos}/{len} jobs settled, {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style.progress_chars("=> "));
        }
        Self { bar }
    }
}

impl Progress {
    /// Starts a task that follows the ledger.
    #[must_use]
    pub fn start(display: ProgressDisplay, ledger: &Ledger) -> Self {
        let task = tokio::spawn(follow(display.clone(), ledger.clone()));
        Self { display, ledger: ledger.clone(), task }
    }

    /// Writes a line.
    pub fn note(&self, line: &str) {
        self.display.note(line);
    }

    /// Writes the final figures, and removes the bar.
    pub fn finish(self) {
        self.task.abort();
        self.ledger.read(|records| self.display.note(&figures(records)));
        self.display.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.display.bar.finish_and_clear();
    }
}

impl ProgressDisplay {
    fn note(&self, line: &str) {
        self.write_line(line.as_bytes());
    }

    fn write_line(&self, line: &[u8]) {
        self.bar.suspend(|| {
            // Without stderr there is no reader of an error.
            drop(io::stderr().write_all(&[line, b"\n"].concat()));
        });
    }

    fn draw(&self, records: &JobRecords) {
        self.bar.set_length(records.all().len() as u64);
        self.bar.set_position(settled(records) as u64);
        self.bar.set_message(format!(
            "{} retried, {} dead",
            records.count(JobRecord::is_retried),
            records.count(JobRecord::is_dead)
        ));
        self.bar.tick();
    }
}

/// Writes log lines above the bar.
impl Write for ProgressDisplay {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.bar.suspend(|| io::stderr().write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

async fn follow(display: ProgressDisplay, ledger: Ledger) {
    let mut state = ProgressState { display, announced: HashSet::new(), figures: String::new(), moved: Instant::now() };
    let (mut hinted, mut unreported, mut reported_at) = (false, false, Instant::now());
    loop {
        tokio::time::sleep(REFRESH).await;
        unreported |= ledger.read(|records| state.update(records));
        if unreported && state.display.bar.is_hidden() && reported_at.elapsed() >= LINE_EVERY {
            (unreported, reported_at) = (false, Instant::now());
            state.display.note(&state.figures);
        }
        if !hinted && state.moved.elapsed() >= STANDSTILL {
            hinted = true;
            state.display.note(HINT);
        }
    }
}

/// State of the display.
struct ProgressState {
    display: ProgressDisplay,
    announced: HashSet<String>,
    figures: String,
    moved: Instant,
}

impl ProgressState {
    /// Draws the bar, writes a line for each new dead letter, and returns whether there is progress.
    fn update(&mut self, records: &JobRecords) -> bool {
        self.display.draw(records);
        for line in records.all().iter().filter_map(dead_letter_line) {
            if self.announced.insert(line.clone()) {
                self.display.note(&line);
            }
        }
        let figures = figures(records);
        if figures == self.figures {
            return false;
        }
        self.figures = figures;
        self.moved = Instant::now();
        true
    }
}

fn dead_letter_line(record: &JobRecord) -> Option<String> {
    record.is_dead().then(|| format!("Dead letter: {} {}", record.job, record.label))
}

fn figures(records: &JobRecords) -> String {
    format!(
        "{} of {} jobs settled, {} retried, {} dead",
        settled(records),
        records.all().len(),
        records.count(JobRecord::is_retried),
        records.count(JobRecord::is_dead)
    )
}

fn settled(records: &JobRecords) -> usize {
    records.count(|record| !record.is_open())
}
