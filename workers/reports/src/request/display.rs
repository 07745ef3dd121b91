//! Text of a request: the titles of figures, and filters as people read them.

use std::fmt;

use super::{Aggregate, AggregateOp, FilterOp, FilterValue, RowFilter, Scalar};

impl fmt::Display for Aggregate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", self.op, self.column)
    }
}

impl fmt::Display for AggregateOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sum => "sum",
            Self::Mean => "mean",
            Self::Count => "count",
            Self::Min => "min",
            Self::Max => "max",
        })
    }
}

impl fmt::Display for RowFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} ", self.column, self.op)?;
        match &self.value {
            FilterValue::One(value) => write!(f, "{value}"),
            FilterValue::Many(values) => {
                let values: Vec<_> = values.iter().map(Scalar::to_string).collect();
                f.write_str(&values.join(", "))
            }
        }
    }
}

impl fmt::Display for FilterOp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Eq => "is",
            Self::Ne => "is not",
            Self::Lt => "is below",
            Self::Le => "is at most",
            Self::Gt => "is above",
            Self::Ge => "is at least",
            Self::In => "is one of",
            Self::NotIn => "is none of",
            Self::Contains => "contains",
            Self::StartsWith => "starts with",
        })
    }
}

impl fmt::Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Number(number) => write!(f, "{number}"),
            Self::Text(text) if text.is_empty() => f.write_str("(empty)"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_reads_as_a_person_would_say_it() {
        let filter: RowFilter =
            serde_json::from_str(r#"{"column": "a", "op": "in", "value": [1.50, "x", ""]}"#).unwrap();
        assert_eq!(filter.to_string(), "a is one of 1.5, x, (empty)");
    }
}
