//! A network link between a process and this machine that can be cut: packets vanish, and nothing is reset.
//!
//! It is a network namespace with one pair of virtual interfaces, so only root can lay one.

use std::io;
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::Command;

use crate::leash::Leash;
use crate::names::small_number;

const REMOVE: &str = r#"read -r end; ip netns delete "$1""#;

/// A namespace and the way to it. Dropped, both are removed; the same happens when the process ends.
#[derive(Debug)]
pub struct Cable {
    namespace: String,
    interface: String,
    outside: Ipv4Addr,
    inside: Ipv4Addr,
    leash: Option<Leash>,
}

impl Cable {
    /// True if this process may create links.
    pub fn is_possible() -> bool {
        rustix::process::geteuid().is_root()
    }

    /// Lays a cable, plugged in.
    ///
    /// # Errors
    ///
    /// The error of `ip`: it is missing, or this process is not root.
    pub fn lay() -> io::Result<Self> {
        let number = small_number();
        let namespace = format!("leveret{number}");
        // Four addresses for each, of those that no router knows.
        let address = |end| Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 231, 0, 0)) + u32::from(number) * 4 + end);
        ip(&["netns", "add", &namespace])?;
        let leash = Some(Leash::new(REMOVE, &namespace)?);
        let cable =
            Self { interface: format!("lv{number}a"), namespace, outside: address(1), inside: address(2), leash };
        cable.connect(&format!("lv{number}b"))?;
        Ok(cable)
    }

    fn connect(&self, inner: &str) -> io::Result<()> {
        let (outer, namespace) = (self.interface.as_str(), self.namespace.as_str());
        let (outside, inside) = (format!("{}/30", self.outside), format!("{}/30", self.inside));
        ip(&["link", "add", outer, "type", "veth", "peer", "name", inner, "netns", namespace])?;
        ip(&["address", "add", &outside, "dev", outer])?;
        ip(&["-n", namespace, "address", "add", &inside, "dev", inner])?;
        ip(&["-n", namespace, "link", "set", inner, "up"])?;
        ip(&["-n", namespace, "link", "set", "lo", "up"])?;
        self.plug()
    }

    /// The address of this machine, seen from the other end.
    pub fn outside(&self) -> Ipv4Addr {
        self.outside
    }

    /// The address of the other end, seen from this machine.
    pub fn inside(&self) -> Ipv4Addr {
        self.inside
    }

    /// A command that runs at the other end.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.namespace]).arg(program.as_ref());
        command
    }

    /// Pulls it out.
    ///
    /// # Errors
    ///
    /// The error of `ip`.
    pub fn unplug(&self) -> io::Result<()> {
        ip(&["link", "set", &self.interface, "down"])
    }

    /// Plugs it in again.
    ///
    /// # Errors
    ///
    /// The error of `ip`.
    pub fn plug(&self) -> io::Result<()> {
        ip(&["link", "set", &self.interface, "up"])
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        match ip(&["netns", "delete", &self.namespace]) {
            Ok(()) => self.leash = None,
            Err(error) => eprintln!("{} was not removed: {error}", self.namespace),
        }
    }
}

fn ip(arguments: &[&str]) -> io::Result<()> {
    let output = Command::new("ip").args(arguments).output()?;
    if output.status.success() {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {}: {}", arguments.join(" "), complaint.trim())))
}
