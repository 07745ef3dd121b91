//! `leveret completions`: completion scripts for shells.

use clap::{Args, ValueEnum};
use clap_complete::aot::{self, generate};

use crate::output::{Exit, Failure, print};

/// Prints the script with which a shell completes commands and options
#[derive(Args)]
#[command(after_help = AFTER_HELP)]
pub(crate) struct Arguments {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  2  wrong usage
  4  an error of the program or its environment, such as a full disk

Examples:
  leveret completions bash > /etc/bash_completion.d/leveret
  leveret completions zsh > ~/.zfunc/_leveret
  leveret completions fish > ~/.config/fish/completions/leveret.fish";

/// Prints the script for `program`, the whole command line.
pub(super) fn run(arguments: &Arguments, mut program: clap::Command) -> Result<Exit, Failure> {
    let mut script = Vec::new();
    match arguments.shell {
        Shell::Bash => generate(aot::Bash, &mut program, "leveret", &mut script),
        Shell::Zsh => generate(aot::Zsh, &mut program, "leveret", &mut script),
        Shell::Fish => generate(aot::Fish, &mut program, "leveret", &mut script),
    }
    print(&String::from_utf8_lossy(&script))?;
    Ok(Exit::Success)
}
