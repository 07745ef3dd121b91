//! The jobs of this worker: what each is called, and what its errors mean to the queue.

mod generate;

pub use generate::generate_report;
