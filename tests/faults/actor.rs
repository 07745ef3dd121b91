//! A worker or a publisher process behind proxies of its own, with a watch on it.

use std::{net::Ipv4Addr, process::Command, sync::Arc, time::Duration};

use leveret_harness::{Cable, Process, Proxy};

use crate::watch::Watch;

const LOGGED: &str = "info,lapin=off";
const START_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) process: Arc<Process>,
    /// One for each address of the broker.
    proxies: Vec<Proxy>,
    pub(crate) watch: Watch,
}

impl Actor {
    /// Starts `load-process` with these arguments behind proxies to a broker's addresses.
    pub(crate) async fn start(urls: &[String], arguments: &[String]) -> Self {
        let mut proxies = Vec::new();
        for url in urls {
            proxies.push(Proxy::start(url).await);
        }
        let program = Command::new(env!("CARGO_BIN_EXE_load-process"));
        Self::spawn(program, Ipv4Addr::LOCALHOST, proxies, arguments).await
    }

    /// Starts it at the other end of a cable.
    pub(crate) async fn start_at(cable: &Cable, url: &str, arguments: &[String]) -> Self {
        let proxy = Proxy::start_on(cable.outside(), url).await;
        let program = cable.command(env!("CARGO_BIN_EXE_load-process"));
        Self::spawn(program, cable.inside(), vec![proxy], arguments).await
    }

    async fn spawn(mut command: Command, host: Ipv4Addr, proxies: Vec<Proxy>, arguments: &[String]) -> Self {
        let urls: Vec<_> = proxies.iter().map(Proxy::url).collect();
        command.env("AMQP_URL", urls.join(",")).env("LEVERET_HTTP_ADDR", format!("{host}:0")).env("RUST_LOG", LOGGED);
        command.args(arguments);
        let process = Arc::new(Process::spawn(&command));
        let line = process.wait_line("health at ", START_WITHIN).await;
        let address = line.rsplit(' ').next().unwrap_or_default().to_owned();
        let watch = Watch::start(Arc::clone(&process), address);
        Self { process, proxies, watch }
    }

    /// Does something to its way to the broker.
    pub(crate) fn network(&self, strike: impl Fn(&Proxy)) {
        self.proxies.iter().for_each(strike);
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}
