//! How fast Leveret is, next to consumers written by hand in the same run.

pub mod stub;
