//! The properties of a content header (AMQP 0-9-1, 4.2.6.1), walked without recursion.

use std::{collections::HashSet, mem};

/// The deepest nesting of tables and arrays that passes. RabbitMQ's own `x-death` has three levels. lapin overflows the
/// stack of its thread at about 200 in a debug build.
pub(super) const DEEPEST: usize = 32;

/// The class, weight and body size before the property flags.
pub(super) const SIZES: usize = 12;
/// The flag of the headers.
pub(super) const HEADERS: u16 = 1 << 13;

/// The wire type of a property.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Table,
    Octet,
    Time,
}

/// The properties of class basic, in the order of their flags from the highest bit on. The two lowest bits have none.
const PROPERTIES: [(&str, Kind); 14] = [
    ("content_type", Kind::Text),
    ("content_encoding", Kind::Text),
    ("headers", Kind::Table),
    ("delivery_mode", Kind::Octet),
    ("priority", Kind::Octet),
    ("correlation_id", Kind::Text),
    ("reply_to", Kind::Text),
    ("expiration", Kind::Text),
    ("message_id", Kind::Text),
    ("timestamp", Kind::Time),
    ("type", Kind::Text),
    ("user_id", Kind::Text),
    ("app_id", Kind::Text),
    ("cluster_id", Kind::Text),
];

/// Calls `visit` for every property with its flag, name, bytes and problem. Returns whether the payload ends with the
/// last property.
#[inline]
pub(super) fn walk(payload: &[u8], mut visit: impl FnMut(u16, &'static str, &[u8], Option<&'static str>)) -> bool {
    let Some((_, flagged)) = payload.split_at_checked(SIZES) else { return false };
    let Some((flags, mut rest)) = flagged.split_first_chunk() else { return false };
    let mut flags = u16::from_be_bytes(*flags);
    while let Some((name, kind)) = PROPERTIES.get(flags.leading_zeros() as usize) {
        let bit = 1 << 15 >> flags.leading_zeros();
        flags &= !bit;
        let size = match kind {
            Kind::Text => rest.first().map(|length| 1 + usize::from(*length)),
            Kind::Table => rest.first_chunk().map(|length| long(*length).saturating_add(4)),
            Kind::Octet => Some(1),
            Kind::Time => Some(8),
        };
        let Some((bytes, others)) = size.and_then(|size| rest.split_at_checked(size)) else { return false };
        let problem = match kind {
            Kind::Text if !is_utf8(&bytes[1..]) => Some("is not UTF-8"),
            Kind::Table => table_problem(&bytes[4..]),
            Kind::Text | Kind::Octet | Kind::Time => None,
        };
        visit(bit, name, bytes, problem);
        rest = others;
    }
    rest.is_empty()
}

/// The names of one header table.
///
/// lapin keeps the last of two headers with one name, and RabbitMQ reads the first. A check of lapin's table would then
/// not show how the broker treats the message.
#[derive(Default)]
struct Names<'a> {
    first: [&'a [u8]; 16],
    count: usize,
    others: HashSet<&'a [u8]>,
}

impl<'a> Names<'a> {
    /// Adds a name. Returns false if the table already has it.
    #[inline]
    fn insert(&mut self, name: &'a [u8]) -> bool {
        if self.first[..self.count].contains(&name) {
            return false;
        }
        if let Some(free) = self.first.get_mut(self.count) {
            *free = name;
            self.count += 1;
            return true;
        }
        self.others.insert(name)
    }
}

/// The problem of a table's content, at any depth.
fn table_problem(mut rest: &[u8]) -> Option<&'static str> {
    const BROKEN: &str = "is not well formed";
    let mut names = Names::default();
    // The rest of each enclosing table or array, the innermost last.
    let mut outer: Vec<(&[u8], bool)> = Vec::new();
    let mut has_names = true;
    loop {
        if rest.is_empty() {
            match outer.pop() {
                Some(outer) => (rest, has_names) = outer,
                None => return None,
            }
            continue;
        }
        if has_names {
            let Some((name, after)) = short_string(rest) else { return Some(BROKEN) };
            if !is_utf8(name) {
                return Some("has a name that is not UTF-8");
            }
            if outer.is_empty() && !names.insert(name) {
                return Some("has a name twice");
            }
            rest = after;
        }
        let Some((kind, value)) = rest.split_first() else { return Some(BROKEN) };
        let size = value_size(*kind, value);
        let Some((value, after)) = size.and_then(|size| value.split_at_checked(size)) else {
            let is_known = VALUE_KINDS.contains(kind);
            return Some(if is_known { BROKEN } else { "has a value of an unknown type" });
        };
        rest = after;
        if matches!(kind, b'A' | b'F') {
            if outer.len() == DEEPEST {
                return Some("is nested too deeply");
            }
            outer.push((mem::replace(&mut rest, &value[4..]), mem::replace(&mut has_names, *kind == b'F')));
        }
    }
}

const VALUE_KINDS: &[u8] = b"VtbBsUuIifDLldTSxAF";

/// The size of a table's value of this kind. `None` if the kind is unknown or the value is cut off.
#[inline]
pub(crate) fn value_size(kind: u8, value: &[u8]) -> Option<usize> {
    match kind {
        b'V' => Some(0),
        b't' | b'b' | b'B' => Some(1),
        b's' | b'U' | b'u' => Some(2),
        b'I' | b'i' | b'f' => Some(4),
        b'D' => Some(5),
        b'L' | b'l' | b'd' | b'T' => Some(8),
        b'S' | b'x' | b'A' | b'F' => value.first_chunk().map(|length| long(*length).saturating_add(4)),
        _ => None,
    }
}

/// Checks ASCII first, which is faster for ordinary text than `str::from_utf8` alone.
#[inline]
pub(super) fn is_utf8(bytes: &[u8]) -> bool {
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}

#[inline]
pub(crate) fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

#[inline]
pub(crate) fn long_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(long(*length))
}

#[inline]
fn long(length: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}
