//! What all commands have in common towards the outside: the format of their data, their errors and their exit codes.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::ValueEnum;

/// How data is written to standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    Table,
    /// One JSON document for programs
    Json,
}

/// How a command ended. The codes are documented in each command's help.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Well,
    /// The command did its work and found problems.
    Problems,
    /// A flag, a variable or a setting that cannot work; clap exits with the same.
    Usage,
    /// There was no way to the broker.
    Unreachable,
    /// An error of the program or its surroundings.
    Failed,
    /// What was asked for is not there.
    NotFound,
    /// What was waited for did not come in time; timeout(1) exits with the same.
    TimedOut,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(match exit {
            Exit::Well => 0,
            Exit::Problems => 1,
            Exit::Usage => 2,
            Exit::Unreachable => 3,
            Exit::Failed => 4,
            Exit::NotFound => 5,
            Exit::TimedOut => 124,
        })
    }
}

/// Why a command could not do its work.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A flag, a variable or a setting that cannot work.
    Usage(anyhow::Error),
    /// There was no way to the broker.
    Unreachable(anyhow::Error),
    /// What was asked for is not there.
    NotFound(anyhow::Error),
    /// Anything else, such as a full disk.
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn error(&self) -> &anyhow::Error {
        let (Self::Usage(error) | Self::Unreachable(error) | Self::NotFound(error) | Self::Other(error)) = self;
        error
    }

    /// The same failure, with what it was about before it.
    pub(crate) fn context(self, about: impl FnOnce() -> String) -> Self {
        match self {
            Self::Usage(error) => Self::Usage(error.context(about())),
            Self::Unreachable(error) => Self::Unreachable(error.context(about())),
            Self::NotFound(error) => Self::NotFound(error.context(about())),
            Self::Other(error) => Self::Other(error.context(about())),
        }
    }

    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Usage(_) => Exit::Usage,
            Self::Unreachable(_) => Exit::Unreachable,
            Self::NotFound(_) => Exit::NotFound,
            Self::Other(_) => Exit::Failed,
        }
    }
}

impl From<leveret_store::Error> for Failure {
    fn from(error: leveret_store::Error) -> Self {
        match error {
            leveret_store::Error::Address | leveret_store::Error::Cursor => Self::Usage(error.into()),
            leveret_store::Error::NoTables { .. } => Self::NotFound(error.into()),
            _ => Self::Other(error.into()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Writes `data` to standard output. A reader that has seen enough is no error.
pub(crate) fn print(data: &str) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(data.as_bytes()).and_then(|()| stdout.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

/// Writes data as one JSON document.
pub(crate) fn print_json(data: &impl serde::Serialize) -> anyhow::Result<()> {
    let document = serde_json::to_string_pretty(data).context("the answer as JSON")?;
    print(&format!("{document}\n"))
}

/// Lines with columns, each as wide as its widest cell; the last is as long as it is.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let width = |column: usize| {
        let cells = rows.iter().map(|row| row[column].chars().count());
        cells.chain([heads[column].len()]).max().unwrap_or(0)
    };
    let widths: Vec<_> = (0..N).map(width).collect();
    let mut lines = String::new();
    for row in [heads.map(str::to_owned)].iter().chain(rows) {
        let cells: Vec<_> = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        lines.push_str(cells.join("  ").trim_end());
        lines.push('\n');
    }
    lines
}

/// Text in one line, without what could steer a terminal, and not too long.
pub(crate) fn one_line(text: &str, longest: usize) -> String {
    let line: String =
        text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(longest).collect();
    if text.chars().count() > longest { format!("{line}…") } else { line }
}

/// A line on standard error that says what goes on, and is gone afterwards; nothing if nobody watches.
pub(crate) struct Progress {
    watched: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { watched: io::stderr().is_terminal() }
    }

    /// Says what goes on now.
    pub(crate) fn show(&self, what: &str) {
        self.write(&format!("\r\x1b[K{what} …"));
    }

    fn write(&self, text: &str) {
        if self.watched {
            // Whether anybody could read it does not matter to the work.
            drop(io::stderr().write_all(text.as_bytes()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.write("\r\x1b[K");
    }
}
