//! The jobs of this worker.

mod generate;

pub use generate::generate_report;
