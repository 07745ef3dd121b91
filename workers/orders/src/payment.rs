//! The payloads of `payment.charge` and `payment.refund`. Customers pay from a credit that the shop keeps for them.

use leveret::Job;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Takes money from the credit of a customer.
///
/// ```
/// let charge: leveret_orders::ChargePayment =
///     serde_json::from_str(r#"{"customer": "Ann <ann@example.org>", "cents": 1780}"#)?;
/// assert_eq!(charge.cents, 1780);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "payment.charge", queue = "orders", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Takes money from the credit of a customer.")]
pub struct ChargePayment {
    /// `ann@example.org` or `Ann <ann@example.org>`.
    pub customer: String,
    /// Amount in euro cents.
    #[schemars(range(min = 0))]
    #[serde(deserialize_with = "not_negative")]
    pub cents: i64,
}

/// Gives the money of a charge back, unless it has paid an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema, Job)]
#[job(name = "payment.refund", queue = "orders", schema)]
#[serde(deny_unknown_fields)]
#[schemars(description = "Gives the money of a charge back, unless it has paid an order.")]
pub struct RefundPayment {
    /// Id of the job that charged it.
    pub charge_id: String,
}

/// The result of a charge.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// Number of the payment.
    pub number: i64,
    /// Amount in euro cents.
    pub cents: i64,
}

/// A negative charge would be a gift.
fn not_negative<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    let cents = i64::deserialize(from)?;
    if cents < 0 { Err(serde::de::Error::custom("a charge cannot be negative")) } else { Ok(cents) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_charge_is_not_negative() {
        let read =
            |cents| serde_json::from_str::<ChargePayment>(&format!(r#"{{"customer": "a@b.c", "cents": {cents}}}"#));
        assert_eq!(read(0).unwrap().cents, 0);
        assert!(read(-1).unwrap_err().to_string().contains("cannot be negative"));
    }
}
