//! The jobs of this worker, a file each.

mod place;

pub use place::place_order;
