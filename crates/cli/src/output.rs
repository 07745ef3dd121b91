//! What all commands have in common towards the outside: the format of their data, their errors and their exit codes.

use std::{
    io::{self, ErrorKind, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
pub(crate) use leveret::text::one_line;
use leveret::{PublishError, text};

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
    Success,
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
            Exit::Success => 0,
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

impl From<PublishError> for Failure {
    fn from(error: PublishError) -> Self {
        match error {
            PublishError::Unroutable { .. } => Self::NotFound(error.into()),
            PublishError::Invalid { .. } | PublishError::TooLarge { .. } => Self::Usage(error.into()),
            PublishError::Unavailable { .. } | PublishError::Blocked { .. } | PublishError::Uncertain { .. } => {
                Self::Unreachable(error.into())
            }
            _ => Self::Other(error.into()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

/// Writes lines for people to standard output, with what could steer a terminal escaped.
pub(crate) fn print(lines: &str) -> anyhow::Result<()> {
    write(text::lines(lines).as_bytes())
}

/// Writes JSON, or what is made of it, for programs: of the same values, with what could steer a terminal escaped.
pub(crate) fn print_document(document: &str) -> anyhow::Result<()> {
    write(text::json(document).as_bytes())
}

/// Writes data as one JSON document.
pub(crate) fn print_json(data: &impl serde::Serialize) -> anyhow::Result<()> {
    let document = serde_json::to_string_pretty(data).context("the answer as JSON")?;
    print_document(&format!("{document}\n"))
}

/// Writes bytes as they are, but not to a terminal.
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { print(&String::from_utf8_lossy(bytes)) } else { write(bytes) }
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// What a write to standard output means: a reader that has seen enough is no error.
pub(crate) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.context("writing to standard output"),
    }
}

/// Says something on standard error, with what could steer a terminal escaped. Use [`notice!`].
pub(crate) fn write_notice(lines: &str) {
    // Whether anybody could read it does not matter to the work.
    drop(io::stderr().write_all(text::lines(&format!("{lines}\n")).as_bytes()));
}

/// As `eprintln!`, through [`write_notice`].
macro_rules! notice {
    ($($text:tt)*) => { $crate::output::write_notice(&format!($($text)*)) };
}
pub(crate) use notice;

/// A table without borders: two spaces between columns, nothing at the end of a line.
pub(crate) fn table<const N: usize>(heads: [&str; N], rows: &[[String; N]]) -> String {
    let mut table = Table::new();
    table.load_style(NOTHING).set_header(heads);
    table.add_rows(rows.iter().map(|row| row.each_ref().map(|cell| one_line(cell, usize::MAX))));
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    table.trim_fmt() + "\n"
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_aligns_its_columns_and_keeps_every_row_on_one_line() {
        let rows = [["1", "email", "a\nb"], ["20", "größe", ""]].map(|row| row.map(str::to_owned));
        let expected = "ID  QUEUE  ERROR\n1   email  a b\n20  größe\n";
        assert_eq!(table(["ID", "QUEUE", "ERROR"], &rows), expected);
        assert_eq!(table(["ID", "QUEUE"], &[]), "ID  QUEUE\n");
    }
}
