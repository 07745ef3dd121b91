//! Bounds and escapes every field of a log line in one place. Errors and names come from any source and have any
//! length, and logs are read on terminals.

use std::{
    borrow::Cow,
    fmt::{self, Debug, Write as _},
    io::{self, Write},
};

use serde_json::Value;
use tracing::field::Field;
use tracing_subscriber::fmt::{MakeWriter, format::Writer};

use crate::text;

/// Most bytes logged of one field; the rest is cut off.
const LONGEST: usize = 8 * 1024;

/// Writes a field of a text log line.
pub(super) fn write_field(to: &mut Writer<'_>, field: &Field, value: &dyn Debug) -> fmt::Result {
    let mut kept = Bounded { text: String::new(), more: 0 };
    write!(kept, "{value:?}")?;
    let Bounded { text, more } = kept;
    let name = field.name();
    match (name, to.has_ansi_escapes()) {
        ("message", _) => {}
        (_, true) => write!(to, "\x1b[3m{name}\x1b[0m\x1b[2m=\x1b[0m")?,
        (_, false) => write!(to, "{name}=")?,
    }
    to.write_str(&text::one_line(&text, usize::MAX))?;
    if more > 0 { write!(to, "… and {more} bytes more") } else { Ok(()) }
}

/// Keeps the first bytes of the written text.
struct Bounded {
    text: String,
    more: usize,
}

impl fmt::Write for Bounded {
    fn write_str(&mut self, part: &str) -> fmt::Result {
        let room = LONGEST.saturating_sub(self.text.len());
        let kept = if self.more > 0 { 0 } else { part.floor_char_boundary(part.len().min(room)) };
        self.text.push_str(&part[..kept]);
        self.more += part.len() - kept;
        Ok(())
    }
}

/// Passes JSON lines on; each write must hold a whole line.
#[derive(Debug)]
pub(super) struct JsonLines<W>(pub(super) W);

impl<'a, W: MakeWriter<'a>> MakeWriter<'a> for JsonLines<W> {
    type Writer = JsonLines<W::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        JsonLines(self.0.make_writer())
    }
}

impl<W: Write> Write for JsonLines<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let is_plain = line.len() <= LONGEST && line.is_ascii() && !line.contains(&0x7f);
        match std::str::from_utf8(line) {
            Ok(text) if !is_plain => self.0.write_all(safe(text).as_bytes())?,
            _ => self.0.write_all(line)?,
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn safe(line: &str) -> Cow<'_, str> {
    let shortened = Some(line).filter(|line| line.len() > LONGEST).and_then(|line| {
        let mut value = serde_json::from_str(line).ok()?;
        shorten(&mut value);
        Some(format!("{value}\n"))
    });
    match shortened {
        Some(line) => Cow::Owned(text::json(&line).into_owned()),
        None => text::json(line),
    }
}

fn shorten(value: &mut Value) {
    match value {
        Value::String(text) if text.len() > LONGEST => {
            let kept = text.floor_char_boundary(LONGEST);
            let more = text.len() - kept;
            text.truncate(kept);
            text.push_str(&format!("… and {more} bytes more"));
        }
        Value::Array(items) => items.iter_mut().for_each(shorten),
        Value::Object(members) => members.values_mut().for_each(shorten),
        _ => {}
    }
}
