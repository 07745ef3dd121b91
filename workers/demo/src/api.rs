//! The job API beside the workers: tasks are submitted and followed over HTTP.

use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use anyhow::Context;
use leveret::{Broker, Job};
use leveret_serve::{Error, Options, Server, Services};
use leveret_store::Store;
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::task::Task;

/// The API, answering.
#[derive(Debug)]
pub struct Api {
    address: SocketAddr,
    store: Store,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), Error>>,
    /// What is kept of jobs that an in-memory broker forgets is forgotten with them.
    _forgotten: Option<TempDir>,
}

impl Api {
    /// Serves on this address, or on a free port if its own is taken. What is known of tasks is kept below `output`, or
    /// nowhere for an in-memory broker.
    ///
    /// # Errors
    ///
    /// The address cannot be had, or the store not be opened.
    pub async fn start(broker: &Broker, listen: SocketAddr, output: Option<&Path>) -> anyhow::Result<Self> {
        let (folder, forgotten): (PathBuf, _) = match output {
            Some(output) => {
                std::fs::create_dir_all(output).with_context(|| format!("making {}", output.display()))?;
                (output.to_owned(), None)
            }
            None => {
                let folder = tempfile::tempdir().context("making a folder for what is known of tasks")?;
                (folder.path().to_owned(), Some(folder))
            }
        };
        let store = Store::open(&folder.join("leveret.db").display().to_string()).await?;
        let services = Services::new(broker, store.clone());
        let options = |listen| Options { listen, default_job: Some(Task::NAME.to_owned()), ..Options::default() };
        let server = match Server::bind(services.clone(), options(listen)).await {
            Err(Error::Listen { source, .. }) if source.kind() == ErrorKind::AddrInUse => {
                let free = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 0);
                Server::bind(services, options(free)).await?
            }
            bound => bound?,
        };
        let (address, stop) = (server.address(), CancellationToken::new());
        let serving = tokio::spawn(server.run(stop.clone().cancelled_owned()));
        Ok(Self { address, store, stop, serving, _forgotten: forgotten })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Where it keeps what it knows.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Lets requests under way finish.
    ///
    /// # Errors
    ///
    /// It could not go on listening.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.serving.await??)
    }
}
