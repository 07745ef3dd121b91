//! Applies the filters of a request to a row. The filter values are parsed once.

use std::cmp::Ordering;

use crate::{
    column::ColumnRef,
    dataset::CsvRow,
    date::{Date, is_local_date, is_padded},
    decimal::Decimal,
    error::{ReportError, shown},
    number_format::NumberFormat,
    request::{FilterOp, Scalar},
};

/// One filter on a column.
#[derive(Debug)]
pub(crate) struct Condition {
    column: ColumnRef,
    predicate: Predicate,
}

#[derive(Debug)]
enum Predicate {
    /// Compares for equality; `accepts` is false for `ne` and `not_in`.
    Equals {
        operands: Vec<Operand>,
        accepts: bool,
    },
    Order {
        operand: Operand,
        accepts: fn(Ordering) -> bool,
    },
    Contains(String),
    StartsWith(String),
}

/// A filter value, and the type as which it compares.
#[derive(Debug)]
struct Operand {
    text: String,
    kind: OperandKind,
}

#[derive(Debug)]
enum OperandKind {
    Number(Decimal),
    Date(Date),
    Text,
}

/// The type of cell that compares with a date, for error messages.
const COMPARABLE_DATE: &str = "a date such as 2026-11-21, with an offset from UTC if that one has it,";

/// Reason why a cell cannot be compared with a filter value.
#[derive(Debug, PartialEq, Eq)]
enum CompareError<'o> {
    NotUtf8,
    /// The cell has another type than the filter value.
    WrongType {
        expected: &'static str,
        operand: &'o str,
    },
}

impl Condition {
    /// Creates a condition with one value. An operation that requires a list is an error.
    pub(crate) fn with_value(
        column: ColumnRef,
        op: FilterOp,
        value: &Scalar,
        number_format: &NumberFormat,
    ) -> Result<Self, ReportError> {
        let operand = Operand::new(value, number_format)?;
        let predicate = match op {
            FilterOp::Eq => Predicate::Equals { operands: vec![operand], accepts: true },
            FilterOp::Ne => Predicate::Equals { operands: vec![operand], accepts: false },
            FilterOp::Lt => Predicate::order(operand, Ordering::is_lt, number_format)?,
            FilterOp::Le => Predicate::order(operand, Ordering::is_le, number_format)?,
            FilterOp::Gt => Predicate::order(operand, Ordering::is_gt, number_format)?,
            FilterOp::Ge => Predicate::order(operand, Ordering::is_ge, number_format)?,
            FilterOp::Contains => Predicate::Contains(operand.text),
            FilterOp::StartsWith => Predicate::StartsWith(operand.text),
            FilterOp::In | FilterOp::NotIn => return Err(refused("`in` and `not_in` require a list of values")),
        };
        Ok(Self { column, predicate })
    }

    /// Creates a condition with a list. An operation that requires one value is an error.
    pub(crate) fn with_list(
        column: ColumnRef,
        op: FilterOp,
        values: &[Scalar],
        number_format: &NumberFormat,
    ) -> Result<Self, ReportError> {
        let accepts = match op {
            FilterOp::In => true,
            FilterOp::NotIn => false,
            _ => return Err(refused("only `in` and `not_in` take a list of values")),
        };
        let operands = values.iter().map(|value| Operand::new(value, number_format)).collect::<Result<_, _>>()?;
        Ok(Self { column, predicate: Predicate::Equals { operands, accepts } })
    }

    /// Returns whether the row satisfies the condition.
    ///
    /// # Errors
    ///
    /// The cell cannot be compared with the filter value.
    pub(crate) fn accepts(&self, row: CsvRow<'_>, number_format: &NumberFormat) -> Result<bool, ReportError> {
        let cell = row.cell(self.column.position);
        self.predicate.accepts(cell, number_format).map_err(|error| {
            let (row, column, value) = (row.number(), self.column.name.clone(), shown(cell));
            match error {
                CompareError::NotUtf8 => ReportError::NotUtf8 { row, column, value },
                CompareError::WrongType { expected, operand } => {
                    ReportError::NotComparable { row, column, value, expected, operand: shown(operand.as_bytes()) }
                }
            }
        })
    }
}

impl Predicate {
    fn order(
        operand: Operand,
        accepts: fn(Ordering) -> bool,
        number_format: &NumberFormat,
    ) -> Result<Self, ReportError> {
        if matches!(operand.kind, OperandKind::Text) && is_local_date(&operand.text) {
            return Err(refused("a date to compare with must be written as 2026-11-21"));
        }
        if matches!(operand.kind, OperandKind::Text) && number_format.is_unreadable_number(&operand.text) {
            return Err(refused("a number to compare with must be plain, or be written as `dialect` says"));
        }
        Ok(Self::Order { operand, accepts })
    }

    fn accepts(&self, cell: &[u8], number_format: &NumberFormat) -> Result<bool, CompareError<'_>> {
        match self {
            Self::Equals { operands, accepts } => Ok(equals_any(operands, cell, number_format)? == *accepts),
            Self::Order { .. } if cell.trim_ascii().is_empty() => Ok(false),
            Self::Order { operand, accepts } => Ok(accepts(operand.order(cell, number_format)?)),
            Self::Contains(text) => Ok(read(cell)?.contains(text)),
            Self::StartsWith(text) => Ok(read(cell)?.starts_with(text)),
        }
    }
}

impl Operand {
    fn new(value: &Scalar, number_format: &NumberFormat) -> Result<Self, ReportError> {
        match value {
            Scalar::Number(number) => {
                let text = number.to_string();
                let exact = Decimal::parse(text.as_bytes()).filter(|_| !number.is_f64() || is_exact(&text));
                let number = exact.ok_or(refused("a number with more than 15 digits must be given as a text"))?;
                Ok(Self { text, kind: OperandKind::Number(number) })
            }
            Scalar::Text(text) => {
                let kind = match number_format.number(text.as_bytes()) {
                    Some(number) => OperandKind::Number(number),
                    None => Date::parse(text).map_or(OperandKind::Text, OperandKind::Date),
                };
                Ok(Self { text: text.clone(), kind })
            }
        }
    }

    /// Compares a cell that is not empty with this value.
    fn order(&self, cell: &[u8], number_format: &NumberFormat) -> Result<Ordering, CompareError<'_>> {
        let not = |expected| CompareError::WrongType { expected, operand: &self.text };
        match &self.kind {
            OperandKind::Number(number) => {
                number_format.number(cell).map(|cell| cell.cmp(number)).ok_or_else(|| not("a number"))
            }
            OperandKind::Date(date) => {
                let order = Date::parse(read(cell)?).and_then(|cell| cell.order(date));
                order.ok_or_else(|| not(COMPARABLE_DATE))
            }
            OperandKind::Text => {
                let text = read(cell)?;
                if is_local_date(text) || Date::parse(text).is_some() && !is_padded(text.trim_ascii()) {
                    return Err(not("a date such as 2026-11-21"));
                }
                if number_format.number(cell).is_some() || number_format.is_unreadable_number(text) {
                    return Err(not("text"));
                }
                Ok(text.cmp(&self.text))
            }
        }
    }
}

fn equals_any<'o>(
    operands: &'o [Operand],
    cell: &[u8],
    number_format: &NumberFormat,
) -> Result<bool, CompareError<'o>> {
    let numeric = operands.iter().find(|operand| matches!(operand.kind, OperandKind::Number(_)));
    if let Some(number) = numeric.and_then(|_| number_format.number(cell)) {
        let is_equal = |operand: &Operand| match &operand.kind {
            OperandKind::Number(operand) => *operand == number,
            OperandKind::Date(_) | OperandKind::Text => operand.text.as_bytes() == cell,
        };
        return Ok(operands.iter().any(is_equal));
    }
    let text = read(cell)?;
    if operands.iter().any(|operand| operand.text == text) {
        return Ok(true);
    }
    if let Some(operand) = numeric
        && number_format.is_unreadable_number(text)
    {
        return Err(CompareError::WrongType { expected: "a number", operand: &operand.text });
    }
    equals_date(operands, text)
}

/// Returns whether a text is the same moment as one of the operands that are dates.
fn equals_date<'o>(operands: &'o [Operand], text: &str) -> Result<bool, CompareError<'o>> {
    let mut dates = operands.iter().filter_map(|operand| match &operand.kind {
        OperandKind::Date(date) => Some((date, &operand.text)),
        OperandKind::Number(_) | OperandKind::Text => None,
    });
    let Some(first) = dates.next() else {
        return Ok(false);
    };
    let not = |operand| CompareError::WrongType { expected: COMPARABLE_DATE, operand };
    let Some(cell) = Date::parse(text) else {
        return if is_local_date(text) { Err(not(first.1)) } else { Ok(false) };
    };
    let mut error = None;
    for (date, operand) in std::iter::once(first).chain(dates) {
        match cell.order(date) {
            Some(Ordering::Equal) => return Ok(true),
            Some(_) => {}
            None => error = error.or(Some(not(operand))),
        }
    }
    error.map_or(Ok(false), Err)
}

fn read(cell: &[u8]) -> Result<&str, CompareError<'static>> {
    std::str::from_utf8(cell).map_err(|_| CompareError::NotUtf8)
}

/// Returns whether JSON keeps a number exactly: it has at most 15 digits.
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
        let condition = Condition::with_value(column(), op, value, &NumberFormat::PLAIN).unwrap();
        condition.predicate.accepts(cell.as_bytes(), &NumberFormat::PLAIN).unwrap()
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
                let condition = Condition::with_value(column(), op, &value, &NumberFormat::PLAIN).unwrap();
                let error = condition.predicate.accepts(cell.as_bytes(), &NumberFormat::PLAIN).unwrap_err();
                assert!(matches!(error, CompareError::WrongType { .. }), "{cell} {op} {value}: {error:?}");
            }
        }
        for value in ["21.11.2026", "$9", "1,000"] {
            assert!(
                Condition::with_value(column(), FilterOp::Lt, &text(value), &NumberFormat::PLAIN).is_err(),
                "{value}"
            );
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
                    Condition::with_list(column(), op, &[text("x"), text(value)], &NumberFormat::PLAIN).unwrap()
                } else {
                    Condition::with_value(column(), op, &text(value), &NumberFormat::PLAIN).unwrap()
                };
                let error = condition.predicate.accepts(cell.as_bytes(), &NumberFormat::PLAIN);
                assert!(matches!(error, Err(CompareError::WrongType { .. })), "{cell} {op} {value}: {error:?}");
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
            let condition = Condition::with_list(column(), op, &list, &NumberFormat::PLAIN).unwrap();
            condition.predicate.accepts(cell.as_bytes(), &NumberFormat::PLAIN).unwrap()
        };
        assert!(test(FilterOp::In, "1.0") && test(FilterOp::In, "a") && !test(FilterOp::In, "b"));
        assert!(!test(FilterOp::NotIn, "1") && test(FilterOp::NotIn, "b"));
        assert!(Condition::with_list(column(), FilterOp::Eq, &list, &NumberFormat::PLAIN).is_err());
        assert!(Condition::with_value(column(), FilterOp::In, &list[0], &NumberFormat::PLAIN).is_err());
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
