//! Whether a row counts: a request's filters, with their values read once.

use std::cmp::Ordering;

use crate::{
    dataset::Row,
    decimal::Decimal,
    request::{FilterOp, Scalar},
};

/// One condition on a column.
#[derive(Debug)]
pub(crate) struct Condition {
    column: usize,
    test: Test,
}

#[derive(Debug)]
enum Test {
    Compare { operand: Operand, accepts: fn(Ordering) -> bool },
    OneOf { operands: Vec<Operand>, wanted: bool },
    Order { operand: Operand, accepts: fn(Ordering) -> bool },
    Contains(String),
    StartsWith(String),
}

#[derive(Debug)]
struct Operand {
    text: String,
    number: Option<Decimal>,
}

impl Condition {
    /// A condition with one value; `None` for an operation that wants a list.
    pub(crate) fn with_value(column: usize, op: FilterOp, value: &Scalar) -> Option<Self> {
        let operand = Operand::new(value);
        let test = match op {
            FilterOp::Eq => Test::Compare { operand, accepts: Ordering::is_eq },
            FilterOp::Ne => Test::Compare { operand, accepts: Ordering::is_ne },
            FilterOp::Lt => Test::Order { operand, accepts: Ordering::is_lt },
            FilterOp::Le => Test::Order { operand, accepts: Ordering::is_le },
            FilterOp::Gt => Test::Order { operand, accepts: Ordering::is_gt },
            FilterOp::Ge => Test::Order { operand, accepts: Ordering::is_ge },
            FilterOp::Contains => Test::Contains(operand.text),
            FilterOp::StartsWith => Test::StartsWith(operand.text),
            FilterOp::In | FilterOp::NotIn => return None,
        };
        Some(Self { column, test })
    }

    /// A condition with a list; `None` for an operation that wants one value.
    pub(crate) fn with_list(column: usize, op: FilterOp, values: &[Scalar]) -> Option<Self> {
        let wanted = match op {
            FilterOp::In => true,
            FilterOp::NotIn => false,
            _ => return None,
        };
        let operands = values.iter().map(Operand::new).collect();
        Some(Self { column, test: Test::OneOf { operands, wanted } })
    }

    /// Whether the row satisfies the condition.
    pub(crate) fn accepts(&self, row: Row<'_>) -> bool {
        self.test.accepts(row.cell(self.column))
    }
}

impl Test {
    fn accepts(&self, cell: &[u8]) -> bool {
        match self {
            Self::Compare { operand, accepts } => accepts(operand.order(cell)),
            Self::Order { operand, accepts } => !cell.is_empty() && accepts(operand.order(cell)),
            Self::OneOf { operands, wanted } => operands.iter().any(|operand| operand.order(cell).is_eq()) == *wanted,
            Self::Contains(text) => text.is_empty() || cell.windows(text.len()).any(|part| part == text.as_bytes()),
            Self::StartsWith(text) => cell.starts_with(text.as_bytes()),
        }
    }
}

impl Operand {
    fn new(value: &Scalar) -> Self {
        let text = match value {
            Scalar::Number(number) => number.to_string(),
            Scalar::Text(text) => text.clone(),
        };
        Self { number: Decimal::parse(text.as_bytes()), text }
    }

    /// How the cell stands to this value: as a number when both are, else as text.
    fn order(&self, cell: &[u8]) -> Ordering {
        let cell_number = || Decimal::parse(cell);
        match self.number.and_then(|number| Some((cell_number()?, number))) {
            Some((cell, number)) => cell.cmp(&number),
            None => cell.cmp(self.text.as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> Scalar {
        Scalar::Text(value.to_owned())
    }

    fn accepts(op: FilterOp, value: &Scalar, cell: &str) -> bool {
        Condition::with_value(0, op, value).unwrap().test.accepts(cell.as_bytes())
    }

    #[test]
    fn numbers_compare_as_numbers_and_everything_else_as_text() {
        let nine = Scalar::Number(9.into());
        for (op, value, cell, accepted) in [
            (FilterOp::Lt, &nine, "10", false),
            (FilterOp::Gt, &nine, "10.0", true),
            (FilterOp::Eq, &nine, "9.00", true),
            (FilterOp::Ne, &nine, "9.00", false),
            (FilterOp::Le, &text("9"), "9", true),
            (FilterOp::Eq, &text("9"), "9.0", true),
            (FilterOp::Gt, &nine, "n/a", true),
            (FilterOp::Lt, &text("apple"), "Zebra", true),
            (FilterOp::Ge, &text("2026-11-21"), "2026-12-01", true),
            (FilterOp::Ge, &text("2026-11-21"), "2026-02-28", false),
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
    fn an_empty_cell_is_neither_less_nor_greater_but_can_be_asked_for() {
        for op in [FilterOp::Lt, FilterOp::Le, FilterOp::Gt, FilterOp::Ge] {
            assert!(!accepts(op, &Scalar::Number(0.into()), ""), "{op}");
            assert!(!accepts(op, &text(""), ""), "{op}");
        }
        assert!(accepts(FilterOp::Eq, &text(""), ""));
        assert!(accepts(FilterOp::Ne, &text(""), "x"));
        assert!(!accepts(FilterOp::Ne, &text(""), ""));
    }

    #[test]
    fn a_list_is_for_in_and_not_in_alone() {
        let list = [text("a"), Scalar::Number(1.into())];
        let test = |op, cell: &str| Condition::with_list(0, op, &list).unwrap().test.accepts(cell.as_bytes());
        assert!(test(FilterOp::In, "1.0") && test(FilterOp::In, "a") && !test(FilterOp::In, "b"));
        assert!(!test(FilterOp::NotIn, "1") && test(FilterOp::NotIn, "b"));
        assert!(Condition::with_list(0, FilterOp::Eq, &list).is_none());
        assert!(Condition::with_value(0, FilterOp::In, &list[0]).is_none());
    }
}
