//! Work that outlives its request.

/// Runs to its end also if nobody waits for it any more: a client may go, and what has begun must not stop halfway.
///
/// # Panics
///
/// With the panic of `work`.
pub(crate) async fn run_detached<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
}
