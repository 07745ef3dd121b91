//! The signal that an orchestrator or a person stops a worker with.

/// Is ready at the first SIGTERM or Ctrl-C.
///
/// ```no_run
/// # async fn doc(worker: leveret::Worker<()>, broker: leveret::Broker) -> Result<(), leveret::Error> {
/// worker.run(&broker, leveret::shutdown_signal()).await
/// # }
/// ```
pub async fn shutdown_signal() {
    let interrupted = async {
        if let Err(error) = tokio::signal::ctrl_c().await {
            tracing::error!(%error, "cannot listen for Ctrl-C");
            std::future::pending::<()>().await;
        }
    };
    #[cfg(unix)]
    let terminated = async {
        match tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(error) => {
                tracing::error!(%error, "cannot listen for SIGTERM");
                std::future::pending::<()>().await;
            }
        }
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        () = interrupted => {}
        () = terminated => {}
    }
}
