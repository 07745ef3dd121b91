//! The promises of the README, each as a test whose name is the promise.

mod contract;
