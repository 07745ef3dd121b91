//! What the promises are tried with: a job that does what its payload says, in this process or in one of its own.

pub mod jobs;
