//! The email worker.

pub mod address;
pub mod compose;
mod eml;
pub mod error;
pub mod mail;
pub mod money;
pub mod name;
pub mod order;
mod smtp;
pub mod text;
