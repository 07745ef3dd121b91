//! The output of all commands: formats, tables, notices, progress, errors and exit codes.

use std::{
    future::pending,
    io::{self, ErrorKind, IsTerminal, Write},
    process::ExitCode,
};

use anyhow::Context;
use clap::ValueEnum;
use comfy_table::{Table, presets::NOTHING};
pub(crate) use leveret::text::one_line;
use leveret::{PublishError, text};
use tokio::sync::SetOnce;

/// Set by the first write after the reader of standard output closed the pipe.
static IS_CLOSED: SetOnce<()> = SetOnce::const_new();

/// The format of data on standard output.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// Lines for people
    Table,
    /// One JSON document for programs
    Json,
}

/// The end of a command. The help of each command documents its exit codes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The command did its work.
    Success,
    /// The command did its work and found problems.
    Problems,
    /// A flag, a variable or a setting is invalid. clap uses the same code.
    Usage,
    /// The broker is unreachable.
    Unreachable,
    /// An error of the program or its environment.
    Failed,
    /// The requested thing does not exist.
    NotFound,
    /// The awaited event did not happen in time. timeout(1) uses the same code.
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

/// An error that stopped a command, by exit code.
#[derive(Debug)]
pub(crate) enum Failure {
    /// A flag, a variable or a setting is invalid.
    Usage(anyhow::Error),
    /// The broker is unreachable.
    Unreachable(anyhow::Error),
    /// The requested thing does not exist.
    NotFound(anyhow::Error),
    /// Any other error, such as a full disk.
    Other(anyhow::Error),
}

impl Failure {
    pub(crate) fn error(&self) -> &anyhow::Error {
        let (Self::Usage(error) | Self::Unreachable(error) | Self::NotFound(error) | Self::Other(error)) = self;
        error
    }

    /// Adds context before the error.
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

impl From<leveret_sql::Error> for Failure {
    fn from(error: leveret_sql::Error) -> Self {
        match error {
            leveret_sql::Error::Address => Self::Usage(error.into()),
            leveret_sql::Error::NoTables { .. } => Self::NotFound(error.into()),
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

/// Writes lines for people to standard output. Terminal control characters are escaped.
pub(crate) fn print(lines: &str) -> anyhow::Result<()> {
    write(text::lines(lines).as_bytes())
}

/// Writes JSON or YAML for programs to standard output. Terminal control characters are escaped, the values stay the same.
pub(crate) fn print_document(document: &str) -> anyhow::Result<()> {
    write(text::json(document).as_bytes())
}

/// Writes data as one JSON document.
pub(crate) fn print_json(data: &impl serde::Serialize) -> anyhow::Result<()> {
    let document = serde_json::to_string_pretty(data).context("encoding the answer as JSON")?;
    print_document(&format!("{document}\n"))
}

/// Writes bytes unchanged, except to a terminal.
pub(crate) fn print_bytes(bytes: &[u8]) -> anyhow::Result<()> {
    if io::stdout().is_terminal() { print(&String::from_utf8_lossy(bytes)) } else { write(bytes) }
}

fn write(bytes: &[u8]) -> anyhow::Result<()> {
    let mut stdout = io::stdout().lock();
    written(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// The result of a write to standard output. A reader that closed the pipe early is not an error: what the command does
/// beside its output goes on. A command that only prints, and does not end by itself, waits for [`closed`].
pub(crate) fn written(result: io::Result<()>) -> anyhow::Result<()> {
    match result {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => {
            // It stays set.
            drop(IS_CLOSED.set(()));
            Ok(())
        }
        written => written.context("writing to standard output"),
    }
}

/// Waits until the reader of standard output has closed the pipe, also while nothing is written.
pub(crate) async fn closed() {
    tokio::select! {
        () = pipe_broken() => {}
        _ = IS_CLOSED.wait() => {}
    }
}

/// Waits for the error that the system reports for a pipe without a reader. For a file it reports none.
#[cfg(unix)]
async fn pipe_broken() {
    use std::os::fd::AsFd;

    use tokio::{io::Interest, net::unix::pipe::Sender};

    let stdout = io::stdout().as_fd().try_clone_to_owned().and_then(Sender::from_owned_fd_unchecked);
    let Ok(stdout) = stdout else { return pending().await };
    if stdout.ready(Interest::ERROR).await.is_err() {
        pending::<()>().await;
    }
}

/// Without such a report, the next write finds that the pipe is closed.
#[cfg(not(unix))]
async fn pipe_broken() {
    pending::<()>().await;
}

/// Writes lines to standard error. Terminal control characters are escaped. Use [`notice!`].
pub(crate) fn write_notice(lines: &str) {
    // A closed standard error must not stop the command.
    drop(io::stderr().write_all(text::lines(&format!("{lines}\n")).as_bytes()));
}

/// Like `eprintln!`, through [`write_notice`].
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

/// A progress line on standard error, erased at the end. Nothing is written unless standard error is a terminal.
pub(crate) struct Progress {
    is_terminal: bool,
}

impl Progress {
    pub(crate) fn new() -> Self {
        Self { is_terminal: io::stderr().is_terminal() }
    }

    /// Shows the current activity.
    pub(crate) fn show(&self, what: &str) {
        self.write(&format!("\r\x1b[K{what} …"));
    }

    fn write(&self, text: &str) {
        if self.is_terminal {
            // A closed standard error must not stop the command.
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
