//! Settings and their bounds.

use serde::{Deserialize, Serialize};

use crate::dead::error::Error;

/// The settings of a replay.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayOptions {
    /// Letters per second; unlimited if none.
    pub rate: Option<f64>,
    /// The number of letters that are published first, tracked. If one of them fails, the others are not published.
    pub canary: Option<u32>,
    /// Time to wait for the outcomes of the canaries, in seconds.
    pub canary_timeout: u64,
    /// Another queue than the one that each letter came from.
    pub queue: Option<String>,
    /// Makes all jobs tracked.
    pub track: bool,
}

/// The accepted rates, in letters per second.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

impl ReplayOptions {
    /// Checks the bounds.
    ///
    /// # Errors
    ///
    /// [`Error::Options`].
    pub fn check(&self) -> Result<(), Error> {
        match self.rate {
            Some(rate) if !RATES.contains(&rate) => Err(Error::Options(format!(
                "rate: {rate:?} must be from {:?} to 1000000 letters a second",
                RATES.start()
            ))),
            _ => Ok(()),
        }
    }
}

impl Default for ReplayOptions {
    fn default() -> Self {
        Self { rate: None, canary: None, canary_timeout: 300, queue: None, track: false }
    }
}
