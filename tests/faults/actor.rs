//! A worker or a publisher process behind a proxy of its own, with a watch on it.

use std::{process::Command, sync::Arc, time::Duration};

use leveret_harness::{Process, Proxy};

use crate::watch::Watch;

/// Its logs without those of single jobs, which a load has thousands of.
const LOGGED: &str = "load_process=info,leveret=info,leveret::task=off,lapin=off";
const START_WITHIN: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub(crate) struct Actor {
    pub(crate) process: Arc<Process>,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) watch: Watch,
}

impl Actor {
    /// Starts `load-process` with these arguments behind a proxy to `url`.
    pub(crate) async fn start(url: &str, arguments: &[String]) -> Self {
        Self::behind(Arc::new(Proxy::start(url).await), arguments).await
    }

    /// Starts it behind a proxy that there is.
    pub(crate) async fn behind(proxy: Arc<Proxy>, arguments: &[String]) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_load-process"));
        command.env("AMQP_URL", proxy.url()).env("LEVERET_HTTP_ADDR", "127.0.0.1:0").env("RUST_LOG", LOGGED);
        command.args(arguments);
        let process = Arc::new(Process::spawn(&command));
        let line = process.wait_line("health at ", START_WITHIN).await;
        let address = line.rsplit(' ').next().unwrap_or_default().to_owned();
        let watch = Watch::start(Arc::clone(&process), address);
        Self { process, proxy, watch }
    }

    pub(crate) fn id(&self) -> u32 {
        self.process.id()
    }
}
