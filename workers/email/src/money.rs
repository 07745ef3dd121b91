//! Amounts of money as whole numbers of a currency's smallest unit, without floating point.

/// An ISO 4217 currency code: three capital letters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Currency([u8; 3]);

impl Currency {
    /// The euro.
    pub const EUR: Self = Self(*b"EUR");

    /// Parses a code such as `EUR`; `None` if it is not three upper-case ASCII letters.
    #[must_use]
    pub fn parse(code: &str) -> Option<Self> {
        let letters: [u8; 3] = code.as_bytes().try_into().ok()?;
        letters.iter().all(u8::is_ascii_uppercase).then_some(Self(letters))
    }

    /// Returns the number of digits of the smallest unit by ISO 4217, 2 for an unknown currency.
    fn exponent(self) -> usize {
        match &self.0 {
            b"BIF" | b"CLP" | b"DJF" | b"GNF" | b"ISK" | b"JPY" | b"KMF" | b"KRW" | b"PYG" | b"RWF" | b"UGX"
            | b"UYI" | b"VND" | b"VUV" | b"XAF" | b"XOF" | b"XPF" => 0,
            b"BHD" | b"IQD" | b"JOD" | b"KWD" | b"LYD" | b"OMR" | b"TND" => 3,
            b"CLF" | b"UYW" => 4,
            _ => 2,
        }
    }

    /// Formats an amount of smallest units, such as `1,234.50 EUR`, `1,235 JPY` or `-0.005 BHD`.
    #[must_use]
    pub fn format(self, amount: i64) -> String {
        let exponent = self.exponent();
        let digits = format!("{:0>width$}", amount.unsigned_abs(), width = exponent + 1);
        let (whole, fraction) = digits.split_at(digits.len() - exponent);
        let sign = if amount < 0 { "-" } else { "" };
        let point = if exponent > 0 { "." } else { "" };
        let code: String = self.0.iter().copied().map(char::from).collect();
        format!("{sign}{}{point}{fraction} {code}", in_thousands(whole))
    }
}

fn in_thousands(digits: &str) -> String {
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::Currency;

    #[test]
    fn amounts_are_written_with_the_digits_of_their_currency() {
        let cases = [
            ("EUR", 0, "0.00 EUR"),
            ("EUR", 5, "0.05 EUR"),
            ("EUR", 123_450, "1,234.50 EUR"),
            ("USD", -99, "-0.99 USD"),
            ("JPY", 1_234_567, "1,234,567 JPY"),
            ("JPY", 999, "999 JPY"),
            ("BHD", 5, "0.005 BHD"),
            ("KWD", 1_000_000, "1,000.000 KWD"),
            ("CLF", 12_345, "1.2345 CLF"),
            ("XYZ", 100, "1.00 XYZ"),
            ("EUR", i64::MIN, "-92,233,720,368,547,758.08 EUR"),
            ("JPY", i64::MAX, "9,223,372,036,854,775,807 JPY"),
        ];
        for (code, amount, expected) in cases {
            assert_eq!(Currency::parse(code).unwrap().format(amount), expected);
        }
    }

    #[test]
    fn a_code_is_three_ascii_capitals() {
        for code in ["", "EU", "EURO", "eur", "E R", "€", "ÄBC", "E\nR"] {
            assert_eq!(Currency::parse(code), None, "{code}");
        }
    }
}
