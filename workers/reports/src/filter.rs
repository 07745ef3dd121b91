//! Whether a row counts: a request's filters, with their values read once.

use std::cmp::Ordering;

use crate::{
    dataset::Row,
    date::{Date, is_local_date, is_padded},
    decimal::Decimal,
    error::{ReportError, shown},
    number_format::Notation,
    plan::ColumnRef,
    request::{FilterOp, Scalar},
};

/// One condition on a column.
#[derive(Debug)]
pub(crate) struct Condition {
    column: ColumnRef,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Equals { operands: Vec<Operand>, wanted: bool },
    Order { operand: Operand, accepts: fn(Ordering) -> bool },
    Contains(String),
    StartsWith(String),
}

/// A value to compare with, and as what.
#[derive(Debug)]
struct Operand {
    text: String,
    kind: Kind,
}

#[derive(Debug)]
enum Kind {
    Number(Decimal),
    Date(Date),
    Text,
}

/// What a cell has to be in order to be compared with a date.
const COMPARABLE_DATE: &str = "a date such as 2026-11-21, with an offset from UTC if that one has it,";

/// Why a cell cannot be compared.
#[derive(Debug, PartialEq, Eq)]
enum Fault<'o> {
    NotUtf8,
    /// The cell is of another kind than the value.
    Not {
        expected: &'static str,
        operand: &'o str,
    },
}

impl Condition {
    /// A condition with one value; an error for an operation that wants a list.
    pub(crate) fn with_value(
        column: ColumnRef,
        op: FilterOp,
        value: &Scalar,
        notation: &Notation,
    ) -> Result<Self, ReportError> {
        let operand = Operand::new(value, notation)?;
        let test = match op {
            FilterOp::Eq => Test::Equals { operands: vec![operand], wanted: true },
            FilterOp::Ne => Test::Equals { operands: vec![operand], wanted: false },
            FilterOp::Lt => Test::order(operand, Ordering::is_lt, notation)?,
            FilterOp::Le => Test::order(operand, Ordering::is_le, notation)?,
            FilterOp::Gt => Test::order(operand, Ordering::is_gt, notation)?,
            FilterOp::Ge => Test::order(operand, Ordering::is_ge, notation)?,
            FilterOp::Contains => Test::Contains(operand.text),
            FilterOp::StartsWith => Test::StartsWith(operand.text),
            FilterOp::In | FilterOp::NotIn => return Err(refused("`in` and `not_in` want a list of values")),
        };
        Ok(Self { column, test })
    }

    /// A condition with a list; an error for an operation that wants one value.
    pub(crate) fn with_list(
        column: ColumnRef,
        op: FilterOp,
        values: &[Scalar],
        notation: &Notation,
    ) -> Result<Self, ReportError> {
        let wanted = match op {
            FilterOp::In => true,
            FilterOp::NotIn => false,
            _ => return Err(refused("only `in` and `not_in` take a list of values")),
        };
        let operands = values.iter().map(|value| Operand::new(value, notation)).collect::<Result<_, _>>()?;
        Ok(Self { column, test: Test::Equals { operands, wanted } })
    }

    /// Whether the row satisfies the condition, or which of its cells cannot be compared.
    pub(crate) fn accepts(&self, row: Row<'_>, notation: &Notation) -> Result<bool, ReportError> {
        let cell = row.cell(self.column.position);
        self.test.accepts(cell, notation).map_err(|fault| {
            let (row, column, value) = (row.number(), self.column.name.clone(), shown(cell));
            match fault {
                Fault::NotUtf8 => ReportError::NotUtf8 { row, column, value },
                Fault::Not { expected, operand } => {
                    ReportError::NotComparable { row, column, value, expected, operand: shown(operand.as_bytes()) }
                }
            }
        })
    }
}

impl Test {
    fn order(operand: Operand, accepts: fn(Ordering) -> bool, notation: &Notation) -> Result<Self, ReportError> {
        if matches!(operand.kind, Kind::Text) && is_local_date(&operand.text) {
            return Err(refused("a date to compare with must be written as 2026-11-21"));
        }
        if matches!(operand.kind, Kind::Text) && notation.is_dressed(&operand.text) {
            return Err(refused("a number to compare with must be plain, or be written as `dialect` says"));
        }
        Ok(Self::Order { operand, accepts })
    }

    fn accepts(&self, cell: &[u8], notation: &Notation) -> Result<bool, Fault<'_>> {
        match self {
            Self::Equals { operands, wanted } => Ok(equals_any(operands, cell, notation)? == *wanted),
            Self::Order { .. } if cell.trim_ascii().is_empty() => Ok(false),
            Self::Order { operand, accepts } => Ok(accepts(operand.order(cell, notation)?)),
            Self::Contains(text) => Ok(read(cell)?.contains(text)),
            Self::StartsWith(text) => Ok(read(cell)?.starts_with(text)),
        }
    }
}

impl Operand {
    fn new(value: &Scalar, notation: &Notation) -> Result<Self, ReportError> {
        match value {
            Scalar::Number(number) => {
                let text = number.to_string();
                let exact = Decimal::parse(text.as_bytes()).filter(|_| !number.is_f64() || is_exact(&text));
                let number = exact.ok_or(refused("a number of so many digits must be given as a text"))?;
                Ok(Self { text, kind: Kind::Number(number) })
            }
            Scalar::Text(text) => {
                let kind = match notation.number(text.as_bytes()) {
                    Some(number) => Kind::Number(number),
                    None => Date::parse(text).map_or(Kind::Text, Kind::Date),
                };
                Ok(Self { text: text.clone(), kind })
            }
        }
    }

    /// How the cell, which is not empty, stands to this value.
    fn order(&self, cell: &[u8], notation: &Notation) -> Result<Ordering, Fault<'_>> {
        let not = |expected| Fault::Not { expected, operand: &self.text };
        match &self.kind {
            Kind::Number(number) => notation.number(cell).map(|cell| cell.cmp(number)).ok_or_else(|| not("a number")),
            Kind::Date(date) => {
                let order = Date::parse(read(cell)?).and_then(|cell| cell.order(date));
                order.ok_or_else(|| not(COMPARABLE_DATE))
            }
            Kind::Text => {
                let text = read(cell)?;
                if is_local_date(text) || Date::parse(text).is_some() && !is_padded(text.trim_ascii()) {
                    return Err(not("a date such as 2026-11-21"));
                }
                if notation.number(cell).is_some() || notation.is_dressed(text) {
                    return Err(not("text"));
                }
                Ok(text.cmp(&self.text))
            }
        }
    }
}

fn equals_any<'o>(operands: &'o [Operand], cell: &[u8], notation: &Notation) -> Result<bool, Fault<'o>> {
    let numeric = operands.iter().find(|operand| matches!(operand.kind, Kind::Number(_)));
    if let Some(number) = numeric.and_then(|_| notation.number(cell)) {
        let is_equal = |operand: &Operand| match &operand.kind {
            Kind::Number(operand) => *operand == number,
            Kind::Date(_) | Kind::Text => operand.text.as_bytes() == cell,
        };
        return Ok(operands.iter().any(is_equal));
    }
    let text = read(cell)?;
    if operands.iter().any(|operand| operand.text == text) {
        return Ok(true);
    }
    if let Some(operand) = numeric
        && notation.is_dressed(text)
    {
        return Err(Fault::Not { expected: "a number", operand: &operand.text });
    }
    equals_date(operands, text)
}

/// Whether a text is the moment of an operand that is a date.
fn equals_date<'o>(operands: &'o [Operand], text: &str) -> Result<bool, Fault<'o>> {
    let mut dates = operands.iter().filter_map(|operand| match &operand.kind {
        Kind::Date(date) => Some((date, &operand.text)),
        Kind::Number(_) | Kind::Text => None,
    });
    let Some(first) = dates.next() else {
        return Ok(false);
    };
    let not = |operand| Fault::Not { expected: COMPARABLE_DATE, operand };
    let Some(cell) = Date::parse(text) else {
        return if is_local_date(text) { Err(not(first.1)) } else { Ok(false) };
    };
    let mut fault = None;
    for (date, operand) in std::iter::once(first).chain(dates) {
        match cell.order(date) {
            Some(Ordering::Equal) => return Ok(true),
            Some(_) => {}
            None => fault = fault.or(Some(not(operand))),
        }
    }
    fault.map_or(Ok(false), Err)
}

fn read(cell: &[u8]) -> Result<&str, Fault<'static>> {
    std::str::from_utf8(cell).map_err(|_| Fault::NotUtf8)
}

/// Whether a binary number is surely the one that was written: it has at most 15 digits.
fn is_exact(number: &str) -> bool {
    let digits = number.split(['e', 'E']).next().unwrap_or_default().bytes().filter(u8::is_ascii_digit);
    let written: Vec<_> = digits.skip_while(|digit| *digit == b'0').collect();
    written.iter().rposition(|digit| *digit != b'0').is_none_or(|last| last < 15)
}

fn refused(reason: &'static str) -> ReportError {
    ReportError::Request { field: "filters", reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.to_owned())
    }

    fn column() -> ColumnRef {
        ColumnRef { position: 0, name: "a".to_owned() }
    }

    fn accepts(op: FilterOp, value: &Scalar, cell: &str) -> bool {
        let condition = Condition::with_value(column(), op, value, &Notation::PLAIN).unwrap();
        condition.test.accepts(cell.as_bytes(), &Notation::PLAIN).unwrap()
    }

    #[test]
    fn a_value_compares_with_cells_of_its_kind() {
        let nine = Scalar::Number(9.into());
        for (op, value, cell, accepted) in [
            (FilterOp::Lt, &nine, "10", false),
            (FilterOp::Gt, &nine, "10.0", true),
            (FilterOp::Eq, &nine, "9.00", true),
            (FilterOp::Ne, &nine, "9.00", false),
            (FilterOp::Eq, &nine, "n/a", false),
            (FilterOp::Ne, &nine, "n/a", true),
            (FilterOp::Le, &text("9"), "9", true),
            (FilterOp::Eq, &text("9"), "9.0", true),
            (FilterOp::Lt, &text("apple"), "Zebra", true),
            (FilterOp::Ge, &text("2026-11-21"), "2026-12-01", true),
            (FilterOp::Ge, &text("2026-11-21"), "2026-02-28", false),
            (FilterOp::Lt, &text("2026/10/1"), "2026/9/30", true),
            (FilterOp::Lt, &text("2026-11-21 10:00"), "2026-11-21 9:00", true),
            (FilterOp::Eq, &text("2026-11-21"), "2026/11/21", true),
            (FilterOp::Ne, &text("2026-9-1"), "2026-09-01", false),
            (FilterOp::Eq, &text("2026-11-21"), "2026-11-21T00:00:00", true),
            (FilterOp::Eq, &text("2026-11-21"), "2026-11-21 10:00", false),
            (FilterOp::Eq, &text("2026-11-21T10:00Z"), "2026-11-21T12:00:00+02:00", true),
            (FilterOp::Eq, &text("2026-11-21"), "soon", false),
            (FilterOp::Ne, &text("2026-11-21"), "", true),
            (FilterOp::Ne, &text("2026-11-21"), "5", true),
            (FilterOp::Eq, &text("21.11.2026"), "21.11.2026", true),
            (FilterOp::Eq, &text("north"), "North", false),
            (FilterOp::Contains, &text("ort"), "North", true),
            (FilterOp::Contains, &text("north"), "North", false),
            (FilterOp::StartsWith, &text("No"), "North", true),
            (FilterOp::StartsWith, &text("or"), "North", false),
            (FilterOp::StartsWith, &Scalar::Number(20.into()), "2026", true),
        ] {
            assert_eq!(accepts(op, value, cell), accepted, "{cell} {op} {value}");
        }
    }

    #[test]
    fn an_ordered_comparison_with_a_cell_of_another_kind_is_a_fault() {
        for (value, cell) in [
            (Scalar::Number(9.into()), "n/a"),
            (text("9"), "n/a"),
            (text("apple"), "9"),
            (text("apple"), "$9"),
            (text("2026-11-21"), "9"),
            (text("2026-11"), "21.11.2026"),
            (text("2026-11"), "2026-9-1"),
            (text("2026-11"), "2026/11/21"),
            (Scalar::Number(0.into()), "6.6e-34"),
            (text("2026-11-21"), "2026-11-21 9:00 PM"),
        ] {
            for op in [FilterOp::Lt, FilterOp::Le, FilterOp::Gt, FilterOp::Ge] {
                let condition = Condition::with_value(column(), op, &value, &Notation::PLAIN).unwrap();
                let fault = condition.test.accepts(cell.as_bytes(), &Notation::PLAIN).unwrap_err();
                assert!(matches!(fault, Fault::Not { .. }), "{cell} {op} {value}: {fault:?}");
            }
        }
        for value in ["21.11.2026", "$9", "1,000"] {
            assert!(Condition::with_value(column(), FilterOp::Lt, &text(value), &Notation::PLAIN).is_err(), "{value}");
        }
    }

    #[test]
    fn a_date_that_cannot_be_compared_is_never_merely_unequal() {
        for (value, cell) in [
            ("2026-11-21", "21.11.2026"),
            ("2026-11-21", "11/21/2026"),
            ("2026-11-21", "2026-11-21 9:00 PM"),
            ("2026-11-21T10:00Z", "2026-11-21T10:00"),
        ] {
            for (op, list) in
                [(FilterOp::Eq, false), (FilterOp::Ne, false), (FilterOp::In, true), (FilterOp::NotIn, true)]
            {
                let condition = if list {
                    Condition::with_list(column(), op, &[text("x"), text(value)], &Notation::PLAIN).unwrap()
                } else {
                    Condition::with_value(column(), op, &text(value), &Notation::PLAIN).unwrap()
                };
                let fault = condition.test.accepts(cell.as_bytes(), &Notation::PLAIN);
                assert!(matches!(fault, Err(Fault::Not { .. })), "{cell} {op} {value}: {fault:?}");
            }
        }
    }

    #[test]
    fn an_empty_cell_is_neither_less_nor_greater_but_can_be_asked_for() {
        for op in [FilterOp::Lt, FilterOp::Le, FilterOp::Gt, FilterOp::Ge] {
            assert!(!accepts(op, &Scalar::Number(0.into()), ""), "{op}");
            assert!(!accepts(op, &text(""), " "), "{op}");
        }
        assert!(accepts(FilterOp::Eq, &text(""), ""));
        assert!(accepts(FilterOp::Ne, &text(""), "x"));
        assert!(!accepts(FilterOp::Ne, &text(""), ""));
    }

    #[test]
    fn a_list_is_for_in_and_not_in_alone() {
        let list = [text("a"), Scalar::Number(1.into())];
        let test = |op, cell: &str| {
            let condition = Condition::with_list(column(), op, &list, &Notation::PLAIN).unwrap();
            condition.test.accepts(cell.as_bytes(), &Notation::PLAIN).unwrap()
        };
        assert!(test(FilterOp::In, "1.0") && test(FilterOp::In, "a") && !test(FilterOp::In, "b"));
        assert!(!test(FilterOp::NotIn, "1") && test(FilterOp::NotIn, "b"));
        assert!(Condition::with_list(column(), FilterOp::Eq, &list, &Notation::PLAIN).is_err());
        assert!(Condition::with_value(column(), FilterOp::In, &list[0], &Notation::PLAIN).is_err());
    }

    #[test]
    fn a_binary_number_is_exact_up_to_fifteen_digits() {
        for text in ["0.1", "123456789012345.0", "1e22", "0.000123456789012345", "0.0", "-1200000000000000000.0"] {
            assert!(is_exact(text), "{text}");
        }
        for text in ["0.30000000000000004", "1.2345678901234568e22"] {
            assert!(!is_exact(text), "{text}");
        }
    }
}
