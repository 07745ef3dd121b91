//! The commands, one module each.

mod doctor;

use clap::Subcommand;

use crate::output::{Exit, Failure};

#[derive(Subcommand)]
pub(crate) enum Command {
    Doctor(Box<doctor::Arguments>),
}

impl Command {
    /// Runs the command.
    pub(crate) async fn run(self) -> Result<Exit, Failure> {
        match self {
            Self::Doctor(arguments) => doctor::run(*arguments).await,
        }
    }
}
