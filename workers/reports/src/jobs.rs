//! The jobs of this worker.

mod invoice;
mod report;

pub use invoice::generate_invoice;
pub use report::generate_report;
