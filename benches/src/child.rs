//! A child process: its work, and the handle with which its parent starts it and reads its messages.

use std::{io, path::Path, process::Stdio, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader, Lines},
    process::{ChildStdout, Command},
    task::JoinHandle,
    time::timeout,
};

use crate::{
    assignment::{Assignment, ChildMessage, Consumer, Publisher},
    baseline, emitting, inserting,
    meter::Meter,
    requesting, worker,
};

/// The longest silence of a child before it counts as stuck.
const SILENCE: Duration = Duration::from_secs(180);

/// Runs the assignment of a child.
pub(crate) async fn work(assignment: &str) -> Result<()> {
    let assignment = serde_json::from_str(assignment).context("--child")?;
    let meter = match &assignment {
        Assignment::Consume(consume) => Meter::new(consume.jobs, consume.latency),
        Assignment::Publish(publish) => Meter::new(publish.jobs, false),
        Assignment::Insert(insert) => Meter::new(insert.jobs, false),
        Assignment::Emit(emit) => Meter::new(emit.jobs, false),
        Assignment::Request(request) => Meter::new(request.jobs, true),
        Assignment::Respond(_) => Meter::new(0, false),
    };
    let meter = Arc::new(meter);
    match assignment {
        Assignment::Consume(consume) => match consume.consumer {
            Consumer::Leveret | Consumer::LeveretLogging => worker::consume(consume, Arc::clone(&meter)).await?,
            Consumer::Awaited | Consumer::Coalesced => baseline::consume(consume, Arc::clone(&meter)).await?,
        },
        Assignment::Insert(insert) => inserting::insert(insert, Arc::clone(&meter)).await?,
        Assignment::Emit(emit) => emitting::emit(emit, &meter).await?,
        Assignment::Request(request) => requesting::request(request, &meter).await?,
        Assignment::Respond(respond) => requesting::respond(respond).await?,
        Assignment::Publish(publish) => match publish.publisher {
            Publisher::LapinAwaited | Publisher::LapinPipelined => baseline::publish(publish, &meter).await?,
            Publisher::LeveretAwaited | Publisher::LeveretPipelined | Publisher::LeveretAll => {
                worker::publish(publish, &meter).await?;
            }
        },
    }
    meter.end();
    Ok(())
}

/// A child process. It ends with its parent.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    lines: Lines<BufReader<ChildStdout>>,
    /// Read continuously, because a child blocks once its log fills the pipe.
    errors: JoinHandle<io::Result<String>>,
}

impl Child {
    /// Starts this program as a child, through the command `before` if it is not empty.
    pub(crate) fn start(assignment: &Assignment, before: &[&str]) -> Result<Self> {
        Self::start_program(&std::env::current_exe()?, assignment, before)
    }

    /// Starts another program that understands the assignment.
    pub(crate) fn start_program(program: &Path, assignment: &Assignment, before: &[&str]) -> Result<Self> {
        let mut command = match before {
            [] => Command::new(program),
            [tool, arguments @ ..] => {
                let mut command = Command::new(tool);
                command.args(arguments).arg(program);
                command
            }
        };
        command.args(["--child", &serde_json::to_string(assignment)?]);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().context("starting a child process")?;
        let output = process.stdout.take().context("the child's output")?;
        let mut errors = process.stderr.take().context("the child's errors")?;
        let errors = tokio::spawn(async move {
            let mut text = String::new();
            errors.read_to_string(&mut text).await.map(|_| text)
        });
        Ok(Self { process, lines: BufReader::new(output).lines(), errors })
    }

    /// The process id, `None` once the child has ended.
    pub(crate) fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// The next message.
    pub(crate) async fn next(&mut self) -> Result<ChildMessage> {
        match timeout(SILENCE, self.lines.next_line()).await {
            Ok(line) => match line? {
                Some(line) => Ok(serde_json::from_str(&line)?),
                None => bail!("a child process ended before its work was done:\n{}", self.end().await?),
            },
            Err(_) => bail!("a child process was silent for {SILENCE:?}"),
        }
    }

    /// Waits for the end of the child, and returns its standard error.
    pub(crate) async fn end(&mut self) -> Result<String> {
        let text = (&mut self.errors).await??;
        let status = self.process.wait().await?;
        if !status.success() {
            bail!("a child process ended with {status}:\n{text}");
        }
        Ok(text)
    }
}
