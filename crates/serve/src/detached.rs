//! Work that outlives its request.

/// Runs work to its end, also if its request is dropped: a client may disconnect, and the work must not stop halfway.
///
/// # Panics
///
/// Panics if `work` panics.
pub(crate) async fn run_detached<T: Send + 'static>(work: impl Future<Output = T> + Send + 'static) -> T {
    tokio::spawn(work).await.unwrap_or_else(|failed| std::panic::resume_unwind(failed.into_panic()))
}
