//! Pages of lists, which stay correct while rows are added.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

/// The bytes of the items of a page. Each text is bounded where it is received; this bounds a thousand of them.
pub(crate) const PAGE_BYTES: usize = 1 << 20;

/// One page of a list.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Page<T> {
    /// Its items: at most the requested number, and fewer if they are large, because a page has about 1 MiB.
    pub items: Vec<T>,
    /// The start of the next page, or `None` on the last one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next: Option<Cursor>,
}

impl<T> Page<T> {
    /// Makes a page of the rows of a query for `limit` + 1 rows: the additional row shows that there is a next page.
    /// `bytes` returns the size of an item. The first item is on the page whatever its size.
    pub(crate) fn new(
        mut items: Vec<T>,
        limit: u32,
        bytes: impl Fn(&T) -> usize,
        key: impl Fn(&T) -> (i64, String),
    ) -> Self {
        let sizes = items.iter().scan(0, |all, item| {
            *all += bytes(item);
            Some(*all)
        });
        let fitting = sizes.take_while(|all| *all <= PAGE_BYTES).count().max(1).min(limit as usize);
        let more = items.len() > fitting;
        items.truncate(fitting);
        let next = if more { items.last().map(|last| Cursor::new(key(last))) } else { None };
        Self { items, next }
    }
}

/// A position in a list. Its text is safe in a URL, and opaque.
///
/// ```
/// use leveret_store::Cursor;
///
/// assert!("not a cursor".parse::<Cursor>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Cursor {
    number: i64,
    id: String,
}

/// The error of a text that is not a cursor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a cursor of this list")]
pub struct InvalidCursor;

impl Cursor {
    pub(crate) fn new((number, id): (i64, String)) -> Self {
        Self { number, id }
    }

    pub(crate) fn number(&self) -> i64 {
        self.number
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.number, leveret::text::hex(self.id.as_bytes()))
    }
}

impl FromStr for Cursor {
    type Err = InvalidCursor;

    fn from_str(text: &str) -> Result<Self, InvalidCursor> {
        let read = || {
            let (number, id) = text.rsplit_once('-')?;
            let pairs = id.as_bytes().chunks(2).map(|pair| std::str::from_utf8(pair).ok());
            let bytes = pairs.map(|pair| u8::from_str_radix(pair.filter(|pair| pair.len() == 2)?, 16).ok());
            let id = String::from_utf8(bytes.collect::<Option<_>>()?).ok()?;
            Some(Self { number: number.parse().ok()?, id })
        };
        read().ok_or(InvalidCursor)
    }
}

impl TryFrom<String> for Cursor {
    type Error = InvalidCursor;

    fn try_from(text: String) -> Result<Self, InvalidCursor> {
        text.parse()
    }
}

impl From<Cursor> for String {
    fn from(cursor: Cursor) -> Self {
        cursor.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_page_ends_before_it_is_too_large_and_never_without_an_item() {
        let page = |sizes: &[usize], limit| {
            Page::new(sizes.to_vec(), limit, |size| *size, |size| (*size as i64, String::new()))
        };
        let large = PAGE_BYTES / 2;
        for (sizes, limit, fitting, more) in [
            (vec![1, 2, 3], 2, 2, true),
            (vec![1, 2], 2, 2, false),
            (vec![large, large, large], 10, 2, true),
            (vec![large * 3, 1], 10, 1, true),
            (vec![large * 3], 10, 1, false),
            (vec![], 10, 0, false),
        ] {
            let page = page(&sizes, limit);
            assert_eq!((page.items.len(), page.next.is_some()), (fitting, more), "{sizes:?}");
        }
    }

    proptest! {
        #[test]
        fn a_cursor_comes_back_from_its_text(number: i64, id: String) {
            let cursor = Cursor::new((number, id));
            prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
        }

        #[test]
        fn any_other_text_is_refused_and_never_panics(text: String) {
            if let Ok(cursor) = text.parse::<Cursor>() {
                prop_assert_eq!(cursor.to_string().parse::<Cursor>().unwrap(), cursor);
            }
        }
    }
}
