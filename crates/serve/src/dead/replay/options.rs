//! The settings of a replay.

use serde::{Deserialize, Serialize};

use crate::dead::error::Error;

/// How a replay goes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ReplayOptions {
    /// Letters per second; as fast as the broker confirms, if none.
    pub rate: Option<f64>,
    /// So many go first, tracked, and if one of them fails the rest stays.
    pub canary: Option<u32>,
    /// How long to wait for their outcomes, in seconds.
    pub canary_timeout: u64,
    /// Another queue than the one each came from.
    pub queue: Option<String>,
    /// Has all of them tracked.
    pub track: bool,
}

/// Letters per second that a replay may be asked for.
const RATES: std::ops::RangeInclusive<f64> = 0.001..=1_000_000.0;

impl ReplayOptions {
    /// Whether a replay can go so.
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
