//! Things that the Erlang nodes of a cluster share: installation, secret and port mapper (epmd).
//!
//! A node asks its own port mapper for the ports of its peers, so all of a cluster must have the same one, and it must
//! outlive each of them.

use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use super::installation::Installation;
use crate::leash::Leashed;
use crate::names::{free_port, secret};

#[derive(Debug)]
pub(crate) struct Distribution {
    pub(super) installation: Installation,
    /// Nodes with the same cookie trust each other.
    pub(super) cookie: String,
    pub(super) port: u16,
    _epmd: Leashed,
}

impl Distribution {
    /// Starts the port mapper; it answers soon.
    ///
    /// # Panics
    ///
    /// When no RabbitMQ is installed, or no process can be started.
    pub(crate) fn new() -> Self {
        let (installation, port) = (Installation::find(), free_port());
        let epmd = epmd(&installation, port).expect("epmd, which comes with Erlang, must start");
        Self { installation, cookie: secret(), port, _epmd: epmd }
    }

    /// One of RabbitMQ's programs, with the port of the port mapper in its environment.
    pub(super) fn rabbitmq(&self, program: &str) -> Command {
        let mut command = self.installation.rabbitmq(program);
        command.env("ERL_EPMD_PORT", self.port.to_string());
        command
    }
}

fn epmd(installation: &Installation, port: u16) -> io::Result<Leashed> {
    let mut command = installation.program(Path::new("epmd"));
    command.args(["-address", "127.0.0.1", "-port"]).arg(port.to_string());
    Leashed::spawn(&command, Stdio::null(), Stdio::null())
}
