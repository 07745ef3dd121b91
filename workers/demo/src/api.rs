//! The job API: clients submit and follow tasks over HTTP.

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

/// A running API.
#[derive(Debug)]
pub struct JobApi {
    address: SocketAddr,
    store: Store,
    stop: CancellationToken,
    serving: JoinHandle<Result<(), Error>>,
    /// Folder of the store for an in-memory broker, deleted with the API.
    _temporary: Option<TempDir>,
}

impl JobApi {
    /// Serves on this address, or on a free port if the address is in use. The store is below `output`; `None` keeps it in a
    /// temporary folder.
    ///
    /// # Errors
    ///
    /// The server cannot listen on the address, or the store cannot be opened.
    pub async fn start(broker: &Broker, listen: SocketAddr, output: Option<&Path>) -> anyhow::Result<Self> {
        let (folder, temporary): (PathBuf, _) = match output {
            Some(output) => {
                std::fs::create_dir_all(output).with_context(|| format!("creating {}", output.display()))?;
                (output.to_owned(), None)
            }
            None => {
                let folder = tempfile::tempdir().context("creating a temporary folder for the store")?;
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
        Ok(Self { address, store, stop, serving, _temporary: temporary })
    }

    /// Returns the address of the server.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Returns the store of the server.
    #[must_use]
    pub fn store(&self) -> Store {
        self.store.clone()
    }

    /// Stops the server after its running requests.
    ///
    /// # Errors
    ///
    /// The server failed.
    pub async fn stop(self) -> anyhow::Result<()> {
        self.stop.cancel();
        Ok(self.serving.await??)
    }
}
