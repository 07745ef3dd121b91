//! The jobs of this worker.

mod place;

pub use place::place_order;
