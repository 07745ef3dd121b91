//! A statement with its values.

/// A statement that writes many rows writes one of these numbers of them, so that a connection keeps few statements
/// prepared.
const ROWS_AT_ONCE: [usize; 4] = [64, 16, 4, 1];

/// A statement with placeholders such as `$1`, which both databases read, and the values of its placeholders.
///
/// The text never holds a value that a user gave: such values always go to a placeholder.
#[derive(Clone, Debug)]
pub struct Sql {
    text: String,
    args: Vec<Arg>,
    is_slow: bool,
}

/// The value of a placeholder. A NULL has a type too, because PostgreSQL requires one.
#[derive(Clone, Debug)]
pub enum Arg {
    /// A whole number.
    Int(Option<i64>),
    /// A floating-point number.
    Real(Option<f64>),
    /// A text.
    Text(Option<String>),
    /// Bytes.
    Bytes(Option<Vec<u8>>),
}

impl Sql {
    /// Makes a statement of a text.
    pub fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), args: Vec::new(), is_slow: false }
    }

    /// Marks a statement that may read or write all rows: it gets a longer time limit.
    #[must_use]
    pub fn slow(mut self) -> Self {
        self.is_slow = true;
        self
    }

    /// Gives the next placeholder of the text its value.
    #[must_use]
    pub fn arg(mut self, value: impl Into<Arg>) -> Self {
        self.args.push(value.into());
        self
    }

    /// Appends to the text.
    pub fn push(&mut self, text: &str) -> &mut Self {
        self.text.push_str(text);
        self
    }

    /// Appends a placeholder with its value.
    pub fn bind(&mut self, value: impl Into<Arg>) -> &mut Self {
        let placeholder = self.placeholder(value);
        self.push(&placeholder)
    }

    /// Adds a value, and returns the placeholder that is to be appended for it.
    pub fn placeholder(&mut self, value: impl Into<Arg>) -> String {
        self.args.push(value.into());
        format!("${}", self.args.len())
    }

    /// Appends `($1, $2), ($3, $4)`: rows to be inserted.
    pub fn values<const N: usize>(&mut self, rows: impl IntoIterator<Item = [Arg; N]>) -> &mut Self {
        for (number, row) in rows.into_iter().enumerate() {
            self.push(if number == 0 { "(" } else { ", (" });
            for (column, value) in row.into_iter().enumerate() {
                self.push(if column == 0 { "" } else { ", " }).bind(value);
            }
            self.push(")");
        }
        self
    }

    pub(super) fn is_slow(&self) -> bool {
        self.is_slow
    }

    pub(super) fn into_parts(self) -> (String, Vec<Arg>) {
        (self.text, self.args)
    }
}

/// Cuts rows into the chunks that are written by one statement each.
pub fn chunks<T>(mut rows: &[T]) -> impl Iterator<Item = &[T]> {
    std::iter::from_fn(move || {
        let size = ROWS_AT_ONCE.into_iter().find(|size| *size <= rows.len())?;
        let (chunk, rest) = rows.split_at(size);
        rows = rest;
        Some(chunk)
    })
}

/// Makes a list of texts for [`Dialect::list`](super::Dialect::list).
#[must_use]
pub fn text_list<'a>(items: impl IntoIterator<Item = &'a str>) -> Arg {
    let items: Vec<_> = items.into_iter().map(without_nul).collect();
    Arg::Text(Some(serde_json::json!(items).to_string()))
}

/// Makes a list of numbers for [`Dialect::numbers`](super::Dialect::numbers).
#[must_use]
pub fn number_list(items: &[i64]) -> Arg {
    Arg::Text(Some(serde_json::json!(items).to_string()))
}

/// Replaces NUL by U+FFFD, because PostgreSQL accepts no NUL in a text, nor in the JSON that it reads.
#[must_use]
pub fn without_nul(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

impl From<i64> for Arg {
    fn from(value: i64) -> Self {
        Self::Int(Some(value))
    }
}

impl From<u32> for Arg {
    fn from(value: u32) -> Self {
        Self::Int(Some(value.into()))
    }
}

impl From<u64> for Arg {
    fn from(value: u64) -> Self {
        Some(value).into()
    }
}

impl From<Option<u64>> for Arg {
    fn from(value: Option<u64>) -> Self {
        Self::Int(value.map(|value| i64::try_from(value).unwrap_or(i64::MAX)))
    }
}

impl From<Option<f64>> for Arg {
    fn from(value: Option<f64>) -> Self {
        Self::Real(value)
    }
}

impl From<&str> for Arg {
    fn from(value: &str) -> Self {
        Some(value).into()
    }
}

impl From<Option<&str>> for Arg {
    fn from(value: Option<&str>) -> Self {
        Self::Text(value.map(without_nul))
    }
}

impl From<&serde_json::Value> for Arg {
    fn from(value: &serde_json::Value) -> Self {
        Self::Text(Some(value.to_string()))
    }
}

impl From<&[u8]> for Arg {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(Some(value.to_vec()))
    }
}
