//! What `leveret serve` does, as a library.

pub mod desk;
