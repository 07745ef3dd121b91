//! What is happening, on stderr: a bar where somebody watches, plain lines elsewhere.

use std::{
    collections::HashSet,
    io::{self, Write},
    time::Duration,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::{task::JoinHandle, time::Instant};

use crate::ledger::{Book, Entry, Ledger};

const REFRESH: Duration = Duration::from_millis(100);
/// How often the figures are said where there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(1);
/// Longer than any wait that the demo plans.
const STANDSTILL: Duration = Duration::from_secs(20);
const HINT: &str = "Nothing has moved for 20 seconds. Does another worker take jobs from our queues?";

/// The display of one run; it follows the ledger until this is finished or dropped.
#[derive(Debug)]
pub struct Progress {
    display: Display,
    ledger: Ledger,
    task: JoinHandle<()>,
}

/// Where lines go without tearing the bar apart.
#[derive(Clone, Debug)]
pub struct Display {
    bar: ProgressBar,
}

impl Default for Display {
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
    /// Follows the ledger.
    #[must_use]
    pub fn start(display: Display, ledger: &Ledger) -> Self {
        let task = tokio::spawn(follow(display.clone(), ledger.clone()));
        Self { display, ledger: ledger.clone(), task }
    }

    /// Says a line.
    pub fn note(&self, line: &str) {
        self.display.note(line);
    }

    /// Shows the final figures, and takes the bar away.
    pub fn finish(self) {
        self.task.abort();
        self.ledger.read(|book| self.display.note(&figures(book)));
        self.display.bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.task.abort();
        self.display.bar.finish_and_clear();
    }
}

impl Display {
    fn note(&self, line: &str) {
        self.write_line(line.as_bytes());
    }

    fn write_line(&self, line: &[u8]) {
        self.bar.suspend(|| {
            // With stderr gone there is nobody to tell.
            drop(io::stderr().write_all(&[line, b"\n"].concat()));
        });
    }

    fn draw(&self, book: &Book) {
        self.bar.set_length(book.entries().len() as u64);
        self.bar.set_position(settled(book) as u64);
        self.bar.set_message(format!("{} retried, {} dead", book.count(Entry::is_retried), book.count(Entry::is_dead)));
        self.bar.tick();
    }
}

/// Lets log lines pass above the bar.
impl Write for Display {
    fn write(&mut self, buffer: &[u8]) -> io::Result<usize> {
        self.bar.suspend(|| io::stderr().write(buffer))
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

async fn follow(display: Display, ledger: Ledger) {
    let mut reporter = Reporter { display, announced: HashSet::new(), figures: String::new(), moved: Instant::now() };
    let (mut hinted, mut unsaid, mut said) = (false, false, Instant::now());
    loop {
        tokio::time::sleep(REFRESH).await;
        unsaid |= ledger.read(|book| reporter.look(book));
        if unsaid && reporter.display.bar.is_hidden() && said.elapsed() >= LINE_EVERY {
            (unsaid, said) = (false, Instant::now());
            reporter.display.note(&reporter.figures);
        }
        if !hinted && reporter.moved.elapsed() >= STANDSTILL {
            hinted = true;
            reporter.display.note(HINT);
        }
    }
}

/// What has been shown so far.
struct Reporter {
    display: Display,
    announced: HashSet<String>,
    figures: String,
    moved: Instant,
}

impl Reporter {
    /// Draws the bar, announces who has died since, and tells whether anything has moved.
    fn look(&mut self, book: &Book) -> bool {
        self.display.draw(book);
        for line in book.entries().iter().filter_map(obituary) {
            if self.announced.insert(line.clone()) {
                self.display.note(&line);
            }
        }
        let figures = figures(book);
        if figures == self.figures {
            return false;
        }
        self.figures = figures;
        self.moved = Instant::now();
        true
    }
}

fn obituary(entry: &Entry) -> Option<String> {
    entry.is_dead().then(|| format!("Given up: {} {}", entry.job, entry.label))
}

fn figures(book: &Book) -> String {
    format!(
        "{} of {} jobs settled, {} retried, {} dead",
        settled(book),
        book.entries().len(),
        book.count(Entry::is_retried),
        book.count(Entry::is_dead)
    )
}

fn settled(book: &Book) -> usize {
    book.count(|entry| !entry.is_open())
}
