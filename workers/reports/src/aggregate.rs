//! Computes one figure of one group from its cells.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

use crate::{
    date::{Date, is_local_date},
    decimal::Decimal,
    number_format::NumberFormat,
    request::AggregateOp,
};

/// The running state of one figure of one group.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum Accumulator {
    Count(u64),
    Sum(Decimal),
    Mean {
        sum: Decimal,
        count: u64,
    },
    /// The least value.
    Min(Option<CellValue>),
    /// The greatest value.
    Max(Option<CellValue>),
}

/// A figure, or a cell value that a figure compares.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "SavedValue", try_from = "SavedValue")]
pub(crate) enum CellValue {
    Number(Decimal),
    /// A date, with the text of its cell.
    Date(Date, Box<str>),
    Text(Box<str>),
}

/// A cell value in the file of a paused report: a date is the text of its cell.
#[derive(Serialize, Deserialize)]
enum SavedValue {
    Number(Decimal),
    Date(Box<str>),
    Text(Box<str>),
}

/// The part of a cell that a figure uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum CellInput {
    /// The cell is empty.
    Empty,
    /// The cell is not empty, and its value does not matter.
    Present,
    Value(CellValue),
}

/// Reason why a figure cannot use a cell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CellError {
    NotANumber,
    NotUtf8,
    Overflow,
    /// A number or a date in a format that has no order.
    Unordered,
    Mixed {
        previous: ValueKind,
    },
}

/// Kind of the values in a column that is ordered. The first value of the column decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum ValueKind {
    Numbers,
    Dates {
        /// True if the dates state their offset from UTC. Dates with and without an offset have no common order.
        have_offset: bool,
    },
    Text,
}

impl Accumulator {
    pub(crate) fn new(op: AggregateOp) -> Self {
        match op {
            AggregateOp::Count => Self::Count(0),
            AggregateOp::Sum => Self::Sum(Decimal::ZERO),
            AggregateOp::Mean => Self::Mean { sum: Decimal::ZERO, count: 0 },
            AggregateOp::Min => Self::Min(None),
            AggregateOp::Max => Self::Max(None),
        }
    }

    /// Adds what [`read_cell`] found in a cell.
    pub(crate) fn add(&mut self, input: CellInput) -> Result<(), CellError> {
        match (self, input) {
            (_, CellInput::Empty) => {}
            (Self::Count(count), _) => *count += 1,
            (Self::Sum(sum), CellInput::Value(CellValue::Number(number))) => *sum = add_checked(*sum, number)?,
            (Self::Mean { sum, count }, CellInput::Value(CellValue::Number(number))) => {
                *sum = add_checked(*sum, number)?;
                *count += 1;
            }
            (Self::Min(best), CellInput::Value(value)) => keep_extreme(best, value, Ordering::Less),
            (Self::Max(best), CellInput::Value(value)) => keep_extreme(best, value, Ordering::Greater),
            // `read_cell` gives these operations a number or a value, or an error.
            (Self::Sum(_) | Self::Mean { .. } | Self::Min(_) | Self::Max(_), _) => return Err(CellError::NotANumber),
        }
        Ok(())
    }

    /// Merges two groups into one; `None` if the sum does not fit.
    pub(crate) fn merge(mut self, other: &Self) -> Option<Self> {
        match (&mut self, other) {
            (Self::Count(count), Self::Count(more)) => *count += more,
            (Self::Sum(sum), Self::Sum(more)) => *sum = sum.checked_add(*more)?,
            (Self::Mean { sum, count }, Self::Mean { sum: more, count: further }) => {
                *sum = sum.checked_add(*more)?;
                *count += further;
            }
            (Self::Min(best), Self::Min(Some(value))) => keep_extreme(best, value.clone(), Ordering::Less),
            (Self::Max(best), Self::Max(Some(value))) => keep_extreme(best, value.clone(), Ordering::Greater),
            _ => {}
        }
        Some(self)
    }

    /// Returns the figure; `None` if the group has no value for it.
    pub(crate) fn figure(&self) -> Option<CellValue> {
        match self {
            Self::Count(count) => Some(CellValue::Number(Decimal::from(*count))),
            Self::Sum(sum) => Some(CellValue::Number(*sum)),
            Self::Mean { sum, count } => sum.mean_of(*count).map(CellValue::Number),
            Self::Min(best) | Self::Max(best) => best.clone(),
        }
    }

    /// Returns the number of decimals of a sum or a mean, 0 for other operations.
    pub(crate) fn scale(&self) -> u8 {
        match self {
            Self::Sum(sum) | Self::Mean { sum, .. } => sum.scale(),
            Self::Count(_) | Self::Min(_) | Self::Max(_) => 0,
        }
    }

    /// Returns the bytes of text that this figure holds in memory.
    pub(crate) fn text_len(&self) -> usize {
        match self {
            Self::Min(Some(value)) | Self::Max(Some(value)) => value.text_len(),
            _ => 0,
        }
    }
}

/// Reads the part of a cell that the operation uses. `kind` is the kind of the column's earlier values, in any group.
pub(crate) fn read_cell(
    op: AggregateOp,
    cell: &[u8],
    kind: Option<ValueKind>,
    number_format: &NumberFormat,
) -> Result<CellInput, CellError> {
    if cell.trim_ascii().is_empty() {
        return Ok(CellInput::Empty);
    }
    match op {
        AggregateOp::Count => Ok(CellInput::Present),
        AggregateOp::Sum | AggregateOp::Mean => number_format
            .number(cell)
            .map(|number| CellInput::Value(CellValue::Number(number)))
            .ok_or(CellError::NotANumber),
        AggregateOp::Min | AggregateOp::Max => CellValue::read(cell, kind, number_format).map(CellInput::Value),
    }
}

impl CellValue {
    fn read(cell: &[u8], previous: Option<ValueKind>, number_format: &NumberFormat) -> Result<Self, CellError> {
        let mixed =
            |found| previous.filter(|previous| *previous != found).map(|previous| CellError::Mixed { previous });
        if let Some(number) = number_format.number(cell) {
            return mixed(ValueKind::Numbers).map_or(Ok(Self::Number(number)), Err);
        }
        let text = std::str::from_utf8(cell).map_err(|_| CellError::NotUtf8)?;
        if number_format.is_unreadable_number(text) || is_local_date(text) {
            return Err(CellError::Unordered);
        }
        let value = Date::parse(text).map_or_else(|| Self::Text(text.into()), |date| Self::Date(date, text.into()));
        mixed(value.kind()).map_or(Ok(value), Err)
    }

    fn text_len(&self) -> usize {
        match self {
            Self::Text(text) | Self::Date(_, text) => text.len(),
            Self::Number(_) => 0,
        }
    }

    pub(crate) fn kind(&self) -> ValueKind {
        match self {
            Self::Number(_) => ValueKind::Numbers,
            Self::Date(date, _) => ValueKind::Dates { have_offset: date.has_offset() },
            Self::Text(_) => ValueKind::Text,
        }
    }

    /// Compares two values of one kind. A column never holds values of two kinds.
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => Some(left.cmp(right)),
            // Equal moments are ordered by their text, so that the order of the rows does not change the figure.
            (Self::Date(left, text), Self::Date(right, other)) => {
                Some(left.order(right)?.then_with(|| text.cmp(other)))
            }
            (Self::Text(left), Self::Text(right)) => Some(left.cmp(right)),
            _ => None,
        }
    }
}

impl From<CellValue> for SavedValue {
    fn from(value: CellValue) -> Self {
        match value {
            CellValue::Number(number) => Self::Number(number),
            CellValue::Date(_, text) => Self::Date(text),
            CellValue::Text(text) => Self::Text(text),
        }
    }
}

impl TryFrom<SavedValue> for CellValue {
    type Error = &'static str;

    fn try_from(saved: SavedValue) -> Result<Self, &'static str> {
        Ok(match saved {
            SavedValue::Number(number) => Self::Number(number),
            SavedValue::Date(text) => Self::Date(Date::parse(&text).ok_or("it is not a date")?, text),
            SavedValue::Text(text) => Self::Text(text),
        })
    }
}

impl ValueKind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Numbers => "numbers",
            Self::Dates { have_offset: true } => "dates with an offset from UTC",
            Self::Dates { have_offset: false } => "dates without an offset from UTC",
            Self::Text => "text",
        }
    }
}

fn add_checked(sum: Decimal, number: Decimal) -> Result<Decimal, CellError> {
    sum.checked_add(number).ok_or(CellError::Overflow)
}

fn keep_extreme(best: &mut Option<CellValue>, value: CellValue, keep: Ordering) {
    let better = best.as_ref().is_none_or(|best| value.order(best) == Some(keep));
    if better {
        *best = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figure_of(op: AggregateOp, cells: &[&str]) -> Result<Option<String>, CellError> {
        let mut accumulator = Accumulator::new(op);
        let mut kind = None;
        for cell in cells {
            let input = read_cell(op, cell.as_bytes(), kind, &NumberFormat::PLAIN)?;
            if let CellInput::Value(value) = &input {
                kind = Some(value.kind());
            }
            accumulator.add(input)?;
        }
        Ok(accumulator.figure().map(|value| match value {
            CellValue::Number(number) => number.to_string(),
            CellValue::Text(text) | CellValue::Date(_, text) => text.into(),
        }))
    }

    #[test]
    fn each_operation_gives_its_figure() {
        for (op, cells, figure) in [
            (AggregateOp::Sum, &["0.1", "0.2", "-1"][..], Some("-0.7")),
            (AggregateOp::Sum, &[], Some("0")),
            (AggregateOp::Mean, &["1", "2"], Some("1.5")),
            (AggregateOp::Mean, &[], None),
            (AggregateOp::Count, &["a", "1"], Some("2")),
            (AggregateOp::Min, &["10", "9", "9.50"], Some("9")),
            (AggregateOp::Max, &["10", "9", "9.50"], Some("10")),
            (AggregateOp::Min, &["2026-03-01", "2025-12-31"], Some("2025-12-31")),
            (AggregateOp::Max, &["2026/9/30", "2026/11/1"], Some("2026/11/1")),
            (AggregateOp::Min, &["2026-10-1", "2026-9-30"], Some("2026-9-30")),
            (AggregateOp::Max, &["2026-11-21 9:00", "2026-11-21 10:00"], Some("2026-11-21 10:00")),
            (AggregateOp::Max, &["2026-11-21T10:00:00+02:00", "2026-11-21T09:00:00Z"], Some("2026-11-21T09:00:00Z")),
            (AggregateOp::Max, &["pear", "apple"], Some("pear")),
            (AggregateOp::Max, &[], None),
        ] {
            assert_eq!(figure_of(op, cells), Ok(figure.map(str::to_owned)), "{op} of {cells:?}");
        }
    }

    #[test]
    fn what_cannot_be_added_or_ordered_is_a_fault() {
        assert_eq!(figure_of(AggregateOp::Sum, &["1", "12o"]), Err(CellError::NotANumber));
        assert_eq!(figure_of(AggregateOp::Mean, &["n/a"]), Err(CellError::NotANumber));
        assert_eq!(figure_of(AggregateOp::Min, &["1", "n/a"]), Err(CellError::Mixed { previous: ValueKind::Numbers }));
        assert_eq!(figure_of(AggregateOp::Min, &["n/a", "1"]), Err(CellError::Mixed { previous: ValueKind::Text }));
        let nines = "9".repeat(38);
        assert_eq!(figure_of(AggregateOp::Sum, &[&nines, &nines]), Err(CellError::Overflow));
        assert_eq!(read_cell(AggregateOp::Min, b"\xff", None, &NumberFormat::PLAIN), Err(CellError::NotUtf8));
        let without = ValueKind::Dates { have_offset: false };
        for (cells, previous) in [
            (["2026-11-21", "n/a"], without),
            (["n/a", "2026-11-21"], ValueKind::Text),
            (["2026-11-21T10:00", "2026-11-21T10:00Z"], without),
            (["2026-11-21", "5"], without),
        ] {
            assert_eq!(figure_of(AggregateOp::Max, &cells), Err(CellError::Mixed { previous }), "{cells:?}");
        }
        for text in ["$5", "1,000", "21.11.2026", "2026-11-21 9:00 PM", "6.6e-34"] {
            assert_eq!(figure_of(AggregateOp::Max, &[text]), Err(CellError::Unordered), "{text}");
        }
    }

    #[test]
    fn merged_groups_give_the_figure_of_all_their_cells() {
        for op in [AggregateOp::Sum, AggregateOp::Mean, AggregateOp::Count, AggregateOp::Min, AggregateOp::Max] {
            let (mut left, mut right) = (Accumulator::new(op), Accumulator::new(op));
            let part = |cell: &str| read_cell(op, cell.as_bytes(), None, &NumberFormat::PLAIN).unwrap();
            left.add(part("1")).unwrap();
            right.add(part("2")).unwrap();
            right.add(part("6")).unwrap();
            let both = figure_of(op, &["1", "2", "6"]).unwrap().unwrap();
            let Some(CellValue::Number(merged)) = left.merge(&right).unwrap().figure() else { panic!("{op}") };
            assert_eq!(merged.to_string(), both, "{op}");
        }
    }
}
