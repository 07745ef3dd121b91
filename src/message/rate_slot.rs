//! A job's slot before a rate limit, stored in the header `leveret-slot` while the job waits in the broker.
//!
//! Publishers may write this header too. A slot of [`HandlerOptions::rate`](crate::HandlerOptions::rate) only sets when
//! the job is delivered again, so a forged slot gains nothing. A slot of a shared limit was leased from the store. It
//! has a proof, keyed with a secret that the store keeps beside the limit and that no publisher knows.

#[cfg(feature = "worker")]
use std::hash::Hasher;

use lapin::types::AMQPValue;
#[cfg(feature = "worker")]
use siphasher::sip::SipHasher24;

use crate::message::{Message, header, integer, text};

/// The secret of one shared limit.
pub(crate) type Secret = [u8; 16];

/// A reserved time slot before a rate limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateSlot {
    /// Its time, in ms since the epoch.
    pub(crate) at: u64,
    /// Proof that a shared limit gave the slot to this job.
    pub(crate) proof: Option<u64>,
}

impl RateSlot {
    /// Returns the slot of a message; `None` if the header is absent or invalid.
    pub(crate) fn of(message: &Message, now_ms: u64) -> Option<Self> {
        let proven = message.text(header::SLOT).and_then(|text| text.split_once(':'));
        if let Some((at, proof)) = proven {
            return Some(Self { at: at.parse().ok()?, proof: Some(u64::from_str_radix(proof, 16).ok()?) });
        }
        Some(Self { at: message.time(header::SLOT, now_ms).ok().flatten()?, proof: None })
    }

    pub(crate) fn to_header(self) -> AMQPValue {
        match self.proof {
            None => integer(self.at),
            Some(proof) => text(&format!("{}:{proof:016x}", self.at)),
        }
    }

    /// Returns the slot at `at` for a job, proven with the limit's secret.
    #[cfg(feature = "worker")]
    pub(crate) fn proven(at: u64, job_id: &str, secret: &Secret) -> Self {
        let mut hasher = SipHasher24::new_with_key(secret);
        hasher.write(&at.to_be_bytes());
        hasher.write(job_id.as_bytes());
        Self { at, proof: Some(hasher.finish()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobId;

    const NOW: u64 = 1_800_000_000_000;

    fn read(value: AMQPValue) -> Option<RateSlot> {
        let mut message = Message::new("j", &JobId::from("a"), Vec::new(), NOW);
        message.set_header(header::SLOT, value);
        RateSlot::of(&message, NOW)
    }

    #[test]
    fn a_slot_is_read_back_from_its_header_and_nonsense_is_not() {
        for slot in [
            RateSlot { at: NOW, proof: None },
            RateSlot { at: NOW, proof: Some(7) },
            RateSlot::proven(NOW, "a", &[7; 16]),
        ] {
            assert_eq!(read(slot.to_header()), Some(slot));
        }
        for nonsense in ["soon", ":", "1:", ":1", "1:x", "-1:1"] {
            assert_eq!(read(text(nonsense)), None, "{nonsense}");
        }
    }

    #[test]
    fn a_proof_is_valid_for_one_time_one_job_and_one_secret() {
        let of = |at, id, secret: u8| RateSlot::proven(at, id, &[secret; 16]).proof;
        assert_eq!(of(NOW, "a", 1), of(NOW, "a", 1));
        for other in [of(NOW + 1, "a", 1), of(NOW, "b", 1), of(NOW, "a", 2)] {
            assert_ne!(of(NOW, "a", 1), other);
        }
    }
}
