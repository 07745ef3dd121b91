//! Workflows: started, run, shown, cancelled and retried.

pub mod drawing;
