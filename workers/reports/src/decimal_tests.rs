//! Tests of exact decimals.

use std::cmp::Ordering;

use proptest::prelude::*;

use crate::decimal::Decimal;

fn decimal(text: &str) -> Decimal {
    Decimal::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text} is a number"))
}

#[test]
fn a_number_is_read_and_printed_as_it_was_written() {
    for (written, printed) in [
        ("0", "0"),
        ("12.50", "12.50"),
        (" -7 ", "-7"),
        ("+3.1", "3.1"),
        (".5", "0.5"),
        ("5.", "5"),
        ("-0.05", "-0.05"),
        ("1e3", "1000"),
        ("12.5E-1", "1.25"),
        ("1.5e1", "15"),
        ("99999999999999999999999999999999999999", "99999999999999999999999999999999999999"),
        ("0.12500000000000000000000000", "0.12500000000000000000"),
        ("0e-300", "0.00000000000000000000"),
    ] {
        assert_eq!(decimal(written).to_string(), printed, "{written}");
    }
}

#[test]
fn what_is_not_a_number_is_refused() {
    for text in ["", " ", "-", ".", "1,234", "1 2", "NaN", "inf", "0x1f", "1e", "1e99", "1.2.3", "12o", "١"] {
        assert!(Decimal::parse(text.as_bytes()).is_none(), "{text:?}");
    }
    assert!(Decimal::parse("9".repeat(39).as_bytes()).is_none());
}

#[test]
fn a_number_that_does_not_fit_exactly_is_refused_and_still_known_as_one() {
    let nines = "9".repeat(39);
    for text in
        ["6.6e-34", "0.000000000000000000015", "-0.123456789012345678901", "1e-300", "1e99", &nines, "1e99999999999"]
    {
        assert!(Decimal::parse(text.as_bytes()).is_none(), "{text}");
        assert!(Decimal::is_written(text), "{text}");
    }
    for text in ["", "-", ".", "e5", "1e", "1,5", "12o", "1.2.3", "--1", "NaN"] {
        assert!(!Decimal::is_written(text), "{text}");
    }
}

#[test]
fn a_tenth_and_two_tenths_are_three_tenths() {
    assert_eq!(decimal("0.1").checked_add(decimal("0.2")).unwrap().to_string(), "0.3");
    assert_eq!(decimal("19.99").checked_add(decimal("0.01")).unwrap().to_string(), "20.00");
}

#[test]
fn a_mean_is_rounded_half_to_even_six_decimals_further() {
    for (sum, count, mean) in
        [("10", 4, "2.5"), ("10", 5, "2"), ("10.00", 5, "2.00"), ("1", 3, "0.333333"), ("-2", 3, "-0.666667")]
    {
        assert_eq!(decimal(sum).mean_of(count).unwrap().to_string(), mean, "{sum} / {count}");
    }
    assert!(decimal("1").mean_of(0).is_none());
}

#[test]
fn rounding_halves_goes_to_the_even_neighbour() {
    for (number, places, rounded) in [("2.5", 0, "2"), ("3.5", 0, "4"), ("-2.345", 2, "-2.34"), ("1.2", 5, "1.2")] {
        assert_eq!(decimal(number).round(places).to_string(), rounded, "{number}");
    }
}

#[test]
fn padding_adds_zeros_and_takes_nothing() {
    for (number, places, padded) in [("2", 2, "2.00"), ("2.5", 2, "2.50"), ("2.555", 2, "2.555"), ("2", 0, "2")] {
        assert_eq!(decimal(number).padded(places), padded);
    }
}

#[test]
fn numbers_compare_by_value_whatever_their_decimals() {
    assert_eq!(decimal("1.0"), decimal("1"));
    assert!(decimal("-0.01") < decimal("0"));
    let huge = decimal(&"9".repeat(38));
    let tiny = decimal("0.00000000000000000001");
    assert_eq!((huge.cmp(&tiny), tiny.cmp(&huge)), (Ordering::Greater, Ordering::Less));
    assert!(huge.checked_add(tiny).is_none(), "does not fit, and says so");
}

proptest! {
    #[test]
    fn sums_of_cents_are_exact(cents in prop::collection::vec(-1_000_000_000_i64..1_000_000_000, 0..200)) {
        let sum = cents.iter().fold(Decimal::ZERO, |sum, cents| {
            let sign = if *cents < 0 { "-" } else { "" };
            let text = format!("{sign}{}.{:02}", cents.abs() / 100, cents.abs() % 100);
            sum.checked_add(decimal(&text)).unwrap()
        });
        let total: i64 = cents.iter().sum();
        prop_assert_eq!(sum, decimal(&format!("{total}e-2")));
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        if let Some(number) = Decimal::parse(&bytes) {
            prop_assert_eq!(decimal(&number.to_string()), number);
        }
    }
}
