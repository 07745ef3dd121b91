//! The format of numbers in a data set, and the detection of numbers in other formats.

use crate::{decimal::Decimal, request::Dialect};

/// A format of numbers: decimal point, separator of thousands, currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NumberFormat {
    decimal: char,
    thousands: Option<char>,
    currency: Option<String>,
    /// True if `1.234` may mean 1234.
    is_point_ambiguous: bool,
}

/// Common formats: decimal point, separator of thousands.
const COMMON: [(char, char); 6] = [('.', ','), (',', '.'), (',', ' '), ('.', '\''), ('.', '’'), ('.', '_')];
const CURRENCY_SIGNS: &str = "$€£¥¢₹₽₩₺₪₫฿₴₦₱₡₲₸₼₾₿";
const CURRENCY_CODES: [&str; 31] = [
    "USD", "EUR", "GBP", "JPY", "CHF", "CNY", "INR", "AUD", "CAD", "SEK", "NOK", "DKK", "PLN", "CZK", "HUF", "RON",
    "BGN", "RUB", "UAH", "BRL", "MXN", "ZAR", "TRY", "KRW", "SGD", "HKD", "NZD", "kr", "zł", "Kč", "Rs",
];

impl NumberFormat {
    /// Numbers such as `1234.5`, as programs write them.
    pub(crate) const PLAIN: Self = Self { decimal: '.', thousands: None, currency: None, is_point_ambiguous: false };

    /// Creates the format that a request states, or returns what is wrong with it.
    ///
    /// Programs separate cells with semicolons or tabs in countries where the comma is the decimal point. In such a file
    /// `1.234` is not a number unless the request states the decimal point.
    pub(crate) fn new(dialect: &Dialect, delimiter: u8) -> Result<Self, &'static str> {
        let decimal = dialect.decimal.unwrap_or('.');
        if !matches!(decimal, '.' | ',') {
            return Err("`decimal` must be `.` or `,`");
        }
        if dialect
            .thousands
            .is_some_and(|thousands| !matches!(thousands, '.' | ',' | '\'' | '’' | '_') && !is_blank(thousands))
        {
            return Err("`thousands` must be `.`, `,`, `'`, `’`, `_` or a blank");
        }
        if dialect.thousands == Some(decimal) {
            return Err("`thousands` is the same as `decimal`");
        }
        let is_currency =
            |text: &str| !text.is_empty() && !text.contains(|c: char| c.is_ascii_digit() || "+-.,".contains(c));
        if dialect.currency.as_deref().is_some_and(|currency| !is_currency(currency.trim())) {
            return Err("`currency` must be a sign or a code such as `$` or `EUR`");
        }
        let currency = dialect.currency.as_deref().map(|currency| currency.trim().to_owned());
        let is_point_ambiguous =
            matches!(delimiter, b';' | b'\t') && dialect.decimal.is_none() && dialect.thousands.is_none();
        Ok(Self { decimal, thousands: dialect.thousands, currency, is_point_ambiguous })
    }

    /// Parses a cell; `None` if it is not a number in this format.
    pub(crate) fn number(&self, cell: &[u8]) -> Option<Decimal> {
        if self.decimal == '.' && self.thousands.is_none() && self.currency.is_none() {
            return if self.is_point_ambiguous && is_grouped_by_points(cell) { None } else { Decimal::parse(cell) };
        }
        let (sign, digits) = self.without_currency(std::str::from_utf8(cell).ok()?)?;
        if self.is_point_ambiguous && is_grouped_by_points(digits.as_bytes()) {
            return None;
        }
        let (whole, rest) = digits.split_at(digits.find([self.decimal, 'e', 'E']).unwrap_or(digits.len()));
        let mut plain = String::with_capacity(cell.len() + 1);
        plain.push_str(sign);
        self.push_whole(whole, &mut plain)?;
        match rest.strip_prefix(self.decimal) {
            // A point after the decimal comma belongs to another format.
            Some(fraction) if fraction.contains('.') => return None,
            Some(fraction) => plain.extend([".", fraction]),
            None => plain.push_str(rest),
        }
        Decimal::parse(plain.as_bytes())
    }

    /// Returns whether a text is a number in another format, or a number with too many digits.
    pub(crate) fn is_unreadable_number(&self, text: &str) -> bool {
        let is_unreadable_number = |text| is_number_in_another_format(text) || Decimal::is_written(text);
        is_unreadable_number(text)
            || self.without_currency(text).is_some_and(|(_, digits)| digits != text && is_unreadable_number(digits))
    }

    /// Returns the sign, and the text without sign, currency and blanks.
    fn without_currency<'t>(&self, text: &'t str) -> Option<(&'t str, &'t str)> {
        let (sign, text) = split_sign(text.trim());
        let Some(currency) = &self.currency else {
            return Some((sign, text));
        };
        if let Some(number) = text.strip_prefix(currency.as_str()) {
            let (inner, number) = split_sign(number.trim_start());
            return (sign.is_empty() || inner.is_empty())
                .then_some((if sign.is_empty() { inner } else { sign }, number));
        }
        Some((sign, text.strip_suffix(currency.as_str()).map_or(text, str::trim_end)))
    }

    /// Appends the digits before the point. Groups have three digits, or two before the last group, as in India.
    fn push_whole(&self, whole: &str, plain: &mut String) -> Option<()> {
        let mut groups = whole.split(|letter| self.separates(letter));
        let first = groups.next()?;
        let rest: Vec<_> = groups.collect();
        let (last, middle) = rest.split_last().map_or((None, &rest[..]), |(last, middle)| (Some(*last), middle));
        let is_grouped = last.is_none_or(|last| last.len() == 3)
            && middle.iter().all(|group| matches!(group.len(), 2 | 3))
            && (last.is_none() || matches!(first.len(), 1..=3));
        if !is_grouped || first.contains('.') {
            return None;
        }
        plain.push_str(first);
        plain.extend(rest);
        Some(())
    }

    fn separates(&self, letter: char) -> bool {
        self.thousands.is_some_and(|thousands| thousands == letter || is_blank(thousands) && is_blank(letter))
    }
}

/// Returns whether a text is a number in a common format: `1,234.50`, `$5`, `50 %`.
pub(crate) fn is_number_in_another_format(text: &str) -> bool {
    if !text.bytes().any(|byte| byte.is_ascii_digit()) {
        return false;
    }
    let ornament =
        |letter: char| letter.is_whitespace() || "+-−()%".contains(letter) || CURRENCY_SIGNS.contains(letter);
    let text = text.trim_matches(ornament);
    let code = |code: &&&str| text.starts_with(**code) || text.ends_with(**code);
    let text = CURRENCY_CODES.iter().find(code).map_or(text, |code| {
        text.strip_prefix(code).or_else(|| text.strip_suffix(code)).unwrap_or(text).trim_matches(ornament)
    });
    COMMON.into_iter().any(|(decimal, thousands)| {
        let number_format = NumberFormat { decimal, thousands: Some(thousands), ..NumberFormat::PLAIN };
        number_format.number(text.as_bytes()).is_some()
    })
}

/// Returns whether the points may separate thousands: true for `1.234`, false for `0.125` and `1.25`.
fn is_grouped_by_points(cell: &[u8]) -> bool {
    let cell = cell.trim_ascii();
    let digits = cell.strip_prefix(b"-").or_else(|| cell.strip_prefix(b"+")).unwrap_or(cell);
    let mut groups = digits.split(|byte| *byte == b'.');
    let is_first = groups.next().is_some_and(|first| matches!(first, [b'1'..=b'9', rest @ ..] if rest.len() < 3));
    is_first && digits.contains(&b'.') && groups.all(|group| group.len() == 3 && group.iter().all(u8::is_ascii_digit))
}

fn split_sign(text: &str) -> (&str, &str) {
    let (sign, rest) = text.split_at(text.len() - text.trim_start_matches(['+', '-']).len());
    if sign.len() > 1 { ("", text) } else { (sign, rest.trim_start()) }
}

/// Returns whether the letter is a blank within a line. Programs often write a no-break space.
fn is_blank(letter: char) -> bool {
    matches!(letter, ' ' | '\u{a0}' | '\u{2009}' | '\u{202f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_in_another_format_is_distinguished_from_text() {
        for text in [
            "1,234",
            "1.234,5",
            "$5",
            "5 €",
            "-5%",
            "(1,000.50)",
            "1 234",
            "USD 5",
            "5USD",
            "1'000",
            "−5",
            "12,5",
            "100 kr",
        ] {
            assert!(is_number_in_another_format(text), "{text}");
        }
        for text in
            ["N/A", "", "10.0.0.1", "1.2.10", "A-100", "2026-01-01", "12:30", "12o", "1/2", "SKU 100", "USD", "1,2,3"]
        {
            assert!(!is_number_in_another_format(text), "{text}");
        }
    }

    #[test]
    fn a_point_between_semicolons_is_no_decimal_point_where_it_may_separate_thousands() {
        let number_format = NumberFormat::new(&Dialect::default(), b';').unwrap();
        for text in ["1.234", "-12.500", " 999.000 ", "1.234.567"] {
            assert!(number_format.number(text.as_bytes()).is_none(), "{text}");
        }
        for text in ["0.125", "1.25", "1234.567", "1.2345", "1.234e1", ".125", "1000"] {
            assert!(number_format.number(text.as_bytes()).is_some(), "{text}");
        }
        assert!(NumberFormat::new(&Dialect::default(), b'\t').unwrap().number(b"1.234").is_none());
        let stated = Dialect { decimal: Some('.'), ..Dialect::default() };
        assert!(NumberFormat::new(&stated, b';').unwrap().number(b"1.234").is_some());
    }

    #[test]
    fn a_currency_does_not_make_a_decimal_point_of_an_ambiguous_one() {
        for (currency, delimiter) in [("€", b';'), ("€", b'\t'), ("Taler", b';')] {
            let dialect = Dialect { currency: Some(currency.into()), ..Dialect::default() };
            let number_format = NumberFormat::new(&dialect, delimiter).unwrap();
            for text in ["1.234 €", "€ 1.234", "€1.234", "-€ 1.234", "€ -1.234", "- 1.234", "1.234\u{a0}€", "1.234"]
            {
                let text = text.replace('€', currency);
                assert!(number_format.number(text.as_bytes()).is_none(), "{text}");
                assert!(number_format.is_unreadable_number(&text), "{text}");
            }
            for text in ["12.34 €", "€ 0.125", "- 1234.567"] {
                assert!(number_format.number(text.replace('€', currency).as_bytes()).is_some(), "{text}");
            }
            assert!(!number_format.is_unreadable_number("n/a"));
        }
    }

    #[test]
    fn a_sign_stands_once_before_or_after_the_currency() {
        let dialect = Dialect { currency: Some("$".into()), thousands: Some(','), ..Dialect::default() };
        let number_format = NumberFormat::new(&dialect, b',').unwrap();
        let read = |text: &str| number_format.number(text.as_bytes()).map(|number| number.to_string());
        for (text, number) in
            [("-$5", "-5"), ("$-5", "-5"), ("- $ 1,000", "-1000"), ("5 $", "5"), ("7", "7"), ("$1e3", "1000")]
        {
            assert_eq!(read(text).as_deref(), Some(number), "{text}");
        }
        for text in ["--5", "-$-5", "$", "$$5", "$5$", "($5)", "5-", ""] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
