//! The way to the task of the server process that publishes the jobs of workflows.

use std::sync::{Arc, Mutex, PoisonError};

use leveret_store::WorkflowMessage;
use tokio::sync::mpsc;

/// The way to the task that publishes, while a server runs on these services.
#[derive(Clone, Debug, Default)]
pub(crate) struct PublisherTask(Arc<Mutex<Option<mpsc::WeakSender<WorkflowMessage>>>>);

impl PublisherTask {
    pub(crate) fn set(&self, sender: &mpsc::Sender<WorkflowMessage>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender.downgrade());
    }

    pub(crate) fn sender(&self) -> Option<mpsc::Sender<WorkflowMessage>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).as_ref()?.upgrade()
    }
}
