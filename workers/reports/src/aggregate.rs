//! One figure in the making: cells go in one by one, a figure comes out.

use std::cmp::Ordering;

use crate::{
    date::{Date, is_local_date},
    decimal::Decimal,
    number_format::Notation,
    request::AggregateOp,
};

/// What has been seen so far for one figure of one group.
#[derive(Debug, Clone)]
pub(crate) enum Accumulator {
    Count(u64),
    Sum(Decimal),
    Mean {
        sum: Decimal,
        count: u64,
    },
    /// The value that stands to all others as `wanted` says.
    Extreme {
        best: Option<Value>,
        wanted: Ordering,
    },
}

/// A figure, or a value that was compared for one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Number(Decimal),
    /// A date, and how the cell writes it.
    Date(Date, Box<str>),
    Text(Box<str>),
}

/// What a figure takes of a cell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Share {
    /// Nothing: the cell is empty.
    Nothing,
    /// That it is there.
    Presence,
    Value(Value),
}

/// Why a cell could not be taken in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    NotANumber,
    NotUtf8,
    Overflow,
    /// A number or a date in a notation whose texts have no order.
    Unordered,
    Mixed {
        so_far: Kind,
    },
}

/// What a column whose values are ordered holds; its first value decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Numbers,
    Dates {
        /// Whether they say their offset from UTC. Dates that do have no order among dates that do not.
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
            AggregateOp::Min => Self::Extreme { best: None, wanted: Ordering::Less },
            AggregateOp::Max => Self::Extreme { best: None, wanted: Ordering::Greater },
        }
    }

    /// Takes in what [`share`] found in a cell.
    pub(crate) fn add(&mut self, share: Share) -> Result<(), Fault> {
        match (self, share) {
            (_, Share::Nothing) => {}
            (Self::Count(count), _) => *count += 1,
            (Self::Sum(sum), Share::Value(Value::Number(number))) => *sum = plus(*sum, number)?,
            (Self::Mean { sum, count }, Share::Value(Value::Number(number))) => {
                *sum = plus(*sum, number)?;
                *count += 1;
            }
            (Self::Extreme { best, wanted }, Share::Value(value)) => offer(best, value, *wanted),
            // `share` has found a number or a value for these.
            (Self::Sum(_) | Self::Mean { .. } | Self::Extreme { .. }, _) => return Err(Fault::NotANumber),
        }
        Ok(())
    }

    /// The figure over both groups together; `None` when it does not fit.
    pub(crate) fn merge(mut self, other: &Self) -> Option<Self> {
        match (&mut self, other) {
            (Self::Count(count), Self::Count(more)) => *count += more,
            (Self::Sum(sum), Self::Sum(more)) => *sum = sum.checked_add(*more)?,
            (Self::Mean { sum, count }, Self::Mean { sum: more, count: further }) => {
                *sum = sum.checked_add(*more)?;
                *count += further;
            }
            (Self::Extreme { best, wanted }, Self::Extreme { best: Some(value), .. }) => {
                offer(best, value.clone(), *wanted);
            }
            _ => {}
        }
        Some(self)
    }

    /// What came out; `None` when there was nothing to take in.
    pub(crate) fn figure(&self) -> Option<Value> {
        match self {
            Self::Count(count) => Some(Value::Number(Decimal::from(*count))),
            Self::Sum(sum) => Some(Value::Number(*sum)),
            Self::Mean { sum, count } => sum.mean_of(*count).map(Value::Number),
            Self::Extreme { best, .. } => best.clone(),
        }
    }

    /// The decimals of the numbers that were taken in, where they are added up.
    pub(crate) fn scale(&self) -> u8 {
        match self {
            Self::Sum(sum) | Self::Mean { sum, .. } => sum.scale(),
            Self::Count(_) | Self::Extreme { .. } => 0,
        }
    }

    /// The bytes of text that are kept.
    pub(crate) fn text_len(&self) -> usize {
        match self {
            Self::Extreme { best: Some(Value::Text(text) | Value::Date(_, text)), .. } => text.len(),
            _ => 0,
        }
    }
}

/// What a figure of this kind takes of a cell; `kind` is what the column has held so far, in any group.
pub(crate) fn share(op: AggregateOp, cell: &[u8], kind: Option<Kind>, notation: &Notation) -> Result<Share, Fault> {
    if cell.trim_ascii().is_empty() {
        return Ok(Share::Nothing);
    }
    match op {
        AggregateOp::Count => Ok(Share::Presence),
        AggregateOp::Sum | AggregateOp::Mean => {
            notation.number(cell).map(|number| Share::Value(Value::Number(number))).ok_or(Fault::NotANumber)
        }
        AggregateOp::Min | AggregateOp::Max => Value::read(cell, kind, notation).map(Share::Value),
    }
}

impl Value {
    fn read(cell: &[u8], so_far: Option<Kind>, notation: &Notation) -> Result<Self, Fault> {
        let mixed = |found| so_far.filter(|so_far| *so_far != found).map(|so_far| Fault::Mixed { so_far });
        if let Some(number) = notation.number(cell) {
            return mixed(Kind::Numbers).map_or(Ok(Self::Number(number)), Err);
        }
        let text = std::str::from_utf8(cell).map_err(|_| Fault::NotUtf8)?;
        if notation.is_dressed(text) || is_local_date(text) {
            return Err(Fault::Unordered);
        }
        let value = Date::parse(text).map_or_else(|| Self::Text(text.into()), |date| Self::Date(date, text.into()));
        mixed(value.kind()).map_or(Ok(value), Err)
    }

    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Number(_) => Kind::Numbers,
            Self::Date(date, _) => Kind::Dates { have_offset: date.has_offset() },
            Self::Text(_) => Kind::Text,
        }
    }

    /// How this value stands to another of its kind; values of two kinds never meet in one column.
    fn order(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Number(left), Self::Number(right)) => Some(left.cmp(right)),
            // Of equal moments, the one whose text is less: the figure does not depend on the order of the rows.
            (Self::Date(left, text), Self::Date(right, other)) => {
                Some(left.order(right)?.then_with(|| text.cmp(other)))
            }
            (Self::Text(left), Self::Text(right)) => Some(left.cmp(right)),
            _ => None,
        }
    }
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Numbers => "numbers",
            Self::Dates { have_offset: true } => "dates with an offset from UTC",
            Self::Dates { have_offset: false } => "dates without an offset from UTC",
            Self::Text => "text",
        }
    }
}

fn plus(sum: Decimal, number: Decimal) -> Result<Decimal, Fault> {
    sum.checked_add(number).ok_or(Fault::Overflow)
}

fn offer(best: &mut Option<Value>, value: Value, wanted: Ordering) {
    let better = best.as_ref().is_none_or(|best| value.order(best) == Some(wanted));
    if better {
        *best = Some(value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take_in(op: AggregateOp, cells: &[&str]) -> Result<Option<String>, Fault> {
        let mut accumulator = Accumulator::new(op);
        let mut kind = None;
        for cell in cells {
            let share = share(op, cell.as_bytes(), kind, &Notation::PLAIN)?;
            if let Share::Value(value) = &share {
                kind = Some(value.kind());
            }
            accumulator.add(share)?;
        }
        Ok(accumulator.figure().map(|value| match value {
            Value::Number(number) => number.to_string(),
            Value::Text(text) | Value::Date(_, text) => text.into(),
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
            assert_eq!(take_in(op, cells), Ok(figure.map(str::to_owned)), "{op} of {cells:?}");
        }
    }

    #[test]
    fn what_cannot_be_added_or_ordered_is_a_fault() {
        assert_eq!(take_in(AggregateOp::Sum, &["1", "12o"]), Err(Fault::NotANumber));
        assert_eq!(take_in(AggregateOp::Mean, &["n/a"]), Err(Fault::NotANumber));
        assert_eq!(take_in(AggregateOp::Min, &["1", "n/a"]), Err(Fault::Mixed { so_far: Kind::Numbers }));
        assert_eq!(take_in(AggregateOp::Min, &["n/a", "1"]), Err(Fault::Mixed { so_far: Kind::Text }));
        let nines = "9".repeat(38);
        assert_eq!(take_in(AggregateOp::Sum, &[&nines, &nines]), Err(Fault::Overflow));
        assert_eq!(share(AggregateOp::Min, b"\xff", None, &Notation::PLAIN), Err(Fault::NotUtf8));
        let without = Kind::Dates { have_offset: false };
        for (cells, so_far) in [
            (["2026-11-21", "n/a"], without),
            (["n/a", "2026-11-21"], Kind::Text),
            (["2026-11-21T10:00", "2026-11-21T10:00Z"], without),
            (["2026-11-21", "5"], without),
        ] {
            assert_eq!(take_in(AggregateOp::Max, &cells), Err(Fault::Mixed { so_far }), "{cells:?}");
        }
        for text in ["$5", "1,000", "21.11.2026", "2026-11-21 9:00 PM", "6.6e-34"] {
            assert_eq!(take_in(AggregateOp::Max, &[text]), Err(Fault::Unordered), "{text}");
        }
    }

    #[test]
    fn merged_groups_give_the_figure_of_all_their_cells() {
        for op in [AggregateOp::Sum, AggregateOp::Mean, AggregateOp::Count, AggregateOp::Min, AggregateOp::Max] {
            let (mut left, mut right) = (Accumulator::new(op), Accumulator::new(op));
            let part = |cell: &str| share(op, cell.as_bytes(), None, &Notation::PLAIN).unwrap();
            left.add(part("1")).unwrap();
            right.add(part("2")).unwrap();
            right.add(part("6")).unwrap();
            let both = take_in(op, &["1", "2", "6"]).unwrap().unwrap();
            let Some(Value::Number(merged)) = left.merge(&right).unwrap().figure() else { panic!("{op}") };
            assert_eq!(merged.to_string(), both, "{op}");
        }
    }
}
