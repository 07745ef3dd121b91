//! The load of the fault suite: jobs whose handlers write down what they did, and the receipts of who published what.
//!
//! Both are lines of files that outlive every process: one line is one write, so that those of several processes do not
//! mix, and a killed process loses none.

use std::{
    fmt::{self, Display},
    fs::File,
    io::{Read, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    str::FromStr,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::Context as _;
use leveret::{Batch, Context, Event, Job, JobError, JobOutput, JobResult};
use serde::{Deserialize, Serialize};

/// One job of the load.
#[derive(Clone, Debug, Serialize, Deserialize, PartialEq, Eq)]
pub struct Load {
    /// The time of its first publish, in microseconds since the epoch.
    pub made_us: u64,
    /// The duration of an attempt.
    pub work_ms: u64,
    /// The number of attempts that fail before the last one.
    pub fails: u32,
    pub end: End,
}

/// The end of the last attempt of a job.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub enum End {
    Done,
    /// It is dead-lettered at once.
    GivenUp,
    /// It crashes its process.
    Abort,
    /// It fails each time, and with it the whole batch that it is part of.
    Bad,
}

const NAME: &str = "test.load";

impl Job for Load {
    const NAME: &'static str = NAME;
    const QUEUE: &'static str = "load";
}

impl JobOutput for Load {
    /// The job's own id.
    type Output = String;
}

impl Event for Load {
    const TOPIC: &'static str = NAME;
}

/// An event of an attempt or a publish.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum What {
    /// An attempt began.
    Start,
    /// It did its work: the effect that must not be lost.
    Done,
    /// It failed, as its job requires.
    Fail,
    /// It was cut off.
    Cut,
    /// A publish was confirmed.
    Confirmed,
    /// A publish may or may not have arrived; its publisher repeats it with the same id.
    Uncertain,
    /// A publish was not sent or was refused; its publisher repeats it.
    Refused,
}

const WORDS: [(What, &str); 7] = [
    (What::Start, "start"),
    (What::Done, "done"),
    (What::Fail, "fail"),
    (What::Cut, "cut"),
    (What::Confirmed, "confirmed"),
    (What::Uncertain, "uncertain"),
    (What::Refused, "refused"),
];

/// One line of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// The time of the line, in microseconds since the epoch.
    pub at_us: u64,
    pub what: What,
    pub process: u32,
    pub attempt: u32,
    /// True if the broker had delivered the attempt before.
    pub redelivered: bool,
    pub made_us: u64,
    pub id: String,
}

impl Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = WORDS.iter().find(|(what, _)| *what == self.what).map_or("", |(_, word)| word);
        let Self { at_us, process, attempt, redelivered, made_us, id, .. } = self;
        write!(f, "{at_us} {word} {process} {attempt} {redelivered} {made_us} {id}")
    }
}

impl FromStr for Line {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let mut words = text.split(' ');
        let mut next = || words.next().context("a line that ends too early");
        let at_us = next()?.parse()?;
        let word = next()?;
        let what = WORDS.iter().find(|(_, known)| *known == word).context("an unknown word")?.0;
        let (process, attempt, redelivered) = (next()?.parse()?, next()?.parse()?, next()?.parse()?);
        let (made_us, id) = (next()?.parse()?, next()?.to_owned());
        Ok(Self { at_us, what, process, attempt, redelivered, made_us, id })
    }
}

/// The lines of a file that grows.
#[derive(Debug)]
pub struct Tail {
    path: PathBuf,
    read: u64,
}

impl Tail {
    #[must_use]
    pub fn new(path: PathBuf) -> Self {
        Self { path, read: 0 }
    }

    /// The lines since the last call; none while there is no file.
    ///
    /// # Errors
    ///
    /// If the file cannot be read, or has a line of another kind.
    pub fn lines(&mut self) -> anyhow::Result<Vec<Line>> {
        let Ok(mut file) = File::open(&self.path) else { return Ok(Vec::new()) };
        file.seek(SeekFrom::Start(self.read))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        self.read += whole as u64;
        text[..whole].lines().map(|line| line.parse().with_context(|| format!("line {line:?}"))).collect()
    }
}

/// A file that lines are appended to.
#[derive(Clone, Debug)]
pub struct Ledger {
    file: Arc<File>,
    /// For a subscription: the end of the ids of its copies.
    of: Arc<str>,
}

impl Ledger {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    ///
    /// If it cannot be opened.
    pub fn open(path: &Path) -> std::io::Result<Self> {
        File::options().create(true).append(true).open(path).map(|file| Self { file: Arc::new(file), of: "".into() })
    }

    /// The same file, for the copies of events in a subscription.
    #[must_use]
    pub fn of_subscription(&self, name: &str) -> Self {
        Self { file: Arc::clone(&self.file), of: format!("@{name}").into() }
    }

    /// Records the result of a publish.
    pub fn publish(&self, what: What, made_us: u64, id: &str) {
        let id = format!("{id}{}", self.of);
        let (at_us, process) = (now_us(), std::process::id());
        self.write(&Line { at_us, what, process, attempt: 1, redelivered: false, made_us, id });
    }

    fn write(&self, line: &Line) {
        (&*self.file).write_all(format!("{line}\n").as_bytes()).unwrap();
    }
}

/// An id that encodes how its job is to end, and whether it waits in the delay ladder first.
#[must_use]
pub fn job_id(end: End, delayed: bool, number: &str) -> String {
    let end = match end {
        End::Done => "done",
        End::GivenUp => "given_up",
        End::Abort => "abort",
        End::Bad => "bad",
    };
    let when = if delayed { DELAYED } else { "now" };
    format!("{end}.{when}.{number}")
}

/// The planned end of the job with this id.
#[must_use]
pub fn end_of(id: &str) -> &str {
    id.split('.').next().unwrap_or_default()
}

/// True if the job with this id waits in the delay ladder first.
#[must_use]
pub fn is_delayed(id: &str) -> bool {
    id.split('.').nth(1) == Some(DELAYED)
}

const DELAYED: &str = "delayed";

/// Microseconds since the epoch.
#[must_use]
pub fn now_us() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    u64::try_from(since.as_micros()).unwrap()
}

/// The handler of jobs, events and requests.
///
/// # Errors
///
/// Runs the job, whose fields decide how it ends.
pub async fn run(job: Load, ctx: Context<Ledger>) -> JobResult<String> {
    let mut attempt = Attempt::begin(&job, &ctx);
    tokio::time::sleep(Duration::from_millis(job.work_ms)).await;
    if ctx.attempt() <= job.fails {
        attempt.end(What::Fail);
        return Err("as its job says".into());
    }
    match job.end {
        End::Done => {
            attempt.end(What::Done);
            Ok(ctx.job_id().to_string())
        }
        End::GivenUp => {
            attempt.end(What::Fail);
            Err(JobError::permanent("as its job says"))
        }
        End::Bad => {
            attempt.end(What::Fail);
            Err("as its job says".into())
        }
        End::Abort => std::process::abort(),
    }
}

/// The handler of batches: it has the effect of all its jobs at once, or of none if one of them is bad.
///
/// # Errors
///
/// For a batch with a bad job.
pub async fn run_batch(batch: Batch<Load, Ledger>) -> JobResult {
    let mut attempts: Vec<_> = batch.iter().map(|job| Attempt::begin(job.payload(), job.context())).collect();
    let longest = batch.iter().map(|job| job.payload().work_ms).max().unwrap_or_default();
    tokio::time::sleep(Duration::from_millis(longest)).await;
    if batch.iter().any(|job| job.payload().end == End::Bad) {
        attempts.iter_mut().for_each(|attempt| attempt.end(What::Fail));
        return Err("one of the jobs violates a constraint".into());
    }
    for (job, attempt) in batch.iter().zip(&mut attempts) {
        if job.context().attempt() <= job.payload().fails {
            attempt.end(What::Fail);
            job.fail("as its job says");
            continue;
        }
        match job.payload().end {
            End::Done => attempt.end(What::Done),
            End::GivenUp | End::Bad => {
                attempt.end(What::Fail);
                job.fail(JobError::permanent("as its job says"));
            }
            End::Abort => std::process::abort(),
        }
    }
    Ok(())
}

/// An attempt that is written down as cut off if nothing else becomes of it.
struct Attempt {
    ledger: Ledger,
    line: Line,
}

impl Attempt {
    fn begin(job: &Load, ctx: &Context<Ledger>) -> Self {
        let line = Line {
            at_us: now_us(),
            what: What::Start,
            process: std::process::id(),
            attempt: ctx.attempt(),
            redelivered: ctx.is_redelivered(),
            made_us: job.made_us,
            id: format!("{}{}", ctx.job_id(), ctx.state().of),
        };
        ctx.state().write(&line);
        Self { ledger: ctx.state().clone(), line: Line { what: What::Cut, ..line } }
    }

    fn end(&mut self, what: What) {
        self.line.what = what;
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.line.at_us = now_us();
        self.ledger.write(&self.line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_reads_as_it_was_written() {
        for (what, _) in WORDS {
            let id = job_id(End::Done, true, "7");
            assert!(is_delayed(&id) && !is_delayed(&job_id(End::Done, false, "7")));
            let line = Line { at_us: 5, what, process: 6, attempt: 2, redelivered: true, made_us: 4, id };
            assert_eq!(line.to_string().parse::<Line>().unwrap(), line);
        }
        assert!("5 done 6".parse::<Line>().is_err());
    }
}
