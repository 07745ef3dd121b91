//! The commands, one module each.

mod doctor;

use clap::Subcommand;

use crate::output::Exit;

#[derive(Subcommand)]
pub(crate) enum Command {
    Doctor(Box<doctor::Arguments>),
}

impl Command {
    /// Runs the command. An error is one of usage: a setting that cannot work.
    pub(crate) async fn run(self) -> anyhow::Result<Exit> {
        match self {
            Self::Doctor(arguments) => doctor::run(*arguments).await,
        }
    }
}
