//! The promises of the HTTP API.
