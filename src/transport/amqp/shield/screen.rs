//! Which frames lapin's parser cannot take, and what it gets instead.
//!
//! lapin's parser recurses into nested header tables until its thread's stack overflows, and a short string that is not
//! UTF-8, or a frame over the negotiated size, ends its connection: either way anyone who may publish to one queue could
//! stop every consumer of the process, again with each redelivery. So a header frame is walked here without recursion.
//! One that cannot be read is exchanged for one that can: it keeps every property that is sound, says in [`UNREADABLE`]
//! what was wrong, and has all properties as they were in [`ORIGINAL`], for whoever takes the message out of the broker
//! for good. A worker does not: it rejects the broker's original into the dead letters.
//! Whether the original may have an `x-death` array stays to be seen: such a message must not be rejected.
//!
//! A header name that occurs twice counts as unreadable too. RabbitMQ reads the first of them and lapin keeps the last,
//! so no check on lapin's table would hold for the broker.
//!
//! A channel that the broker has closed is silent for lapin from then on: RabbitMQ goes on to deliver what it had under
//! way (seen on 3.10), and lapin, which has forgotten the channel, would end the connection with all its other channels.

use std::{
    borrow::Cow,
    collections::{BTreeSet, HashSet},
    mem,
    sync::{Arc, OnceLock},
};

use crate::{
    message::header::{ORIGINAL, UNREADABLE},
    transport::amqp::{FRAME_MAX, probe::Server},
};

/// Tables and arrays within each other. RabbitMQ's own `x-death` has three; lapin overflows its stack at about 200 when
/// built for debugging.
const DEEPEST: usize = 32;
/// Type, channel and length before a frame's payload, and the octet after it.
pub(crate) const FRAME_START: usize = 7;
pub(crate) const FRAME_OVERHEAD: usize = 8;

const METHOD: u8 = 1;
const HEADER: u8 = 2;

/// What is known of a connection's frames.
#[derive(Debug, Default)]
pub(crate) struct Screen {
    /// The largest frame that was agreed on; 0 for any size.
    frame_max: usize,
    /// The channels that the broker has closed and that have not been opened since.
    closed: BTreeSet<[u8; 2]>,
    /// What the broker said of itself; lapin does not hand that on.
    server: Arc<OnceLock<Server>>,
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameStart {
    pub(crate) whole: usize,
    kind: u8,
    channel: [u8; 2],
}

impl FrameStart {
    /// None if there are too few bytes to tell.
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (start, _) = bytes.split_first_chunk::<FRAME_START>()?;
        let [kind, high, low, length @ ..] = *start;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        Some(Self { whole: length.saturating_add(FRAME_OVERHEAD), kind, channel: [high, low] })
    }
}

impl Screen {
    pub(crate) fn new(server: Arc<OnceLock<Server>>) -> Self {
        Self { server, ..Self::default() }
    }

    /// Whether a frame must be complete before it can be screened.
    pub(crate) fn must_see(&self, start: FrameStart) -> bool {
        matches!(start.kind, METHOD | HEADER) || self.closed.contains(&start.channel)
    }

    /// What to hand on instead of this frame, which is complete: another, or nothing; none if it is fine.
    pub(crate) fn replacement(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let payload = frame.get(FRAME_START..frame.len().checked_sub(1)?)?;
        if self.is_stray(frame[0], [frame[1], frame[2]], payload) {
            return Some(Vec::new());
        }
        let replaced = match frame[0] {
            METHOD => {
                self.learn(payload);
                mended_method(payload)?
            }
            HEADER => {
                let most = if self.frame_max > 0 { self.frame_max } else { usize::MAX };
                let too_long = frame.len() > most;
                let reason = too_long.then_some("its header frame is longer than a connection may carry");
                readable_header(payload, reason, most.saturating_sub(FRAME_OVERHEAD))?
            }
            _ => return None,
        };
        let mut screened = Vec::with_capacity(replaced.len() + FRAME_OVERHEAD);
        screened.extend_from_slice(&frame[..3]);
        screened.extend_from_slice(&u32::try_from(replaced.len()).unwrap_or(u32::MAX).to_be_bytes());
        screened.extend_from_slice(&replaced);
        screened.push(frame[frame.len() - 1]);
        Some(screened)
    }

    /// Whether a frame is for a channel that is closed. Notes which are.
    fn is_stray(&mut self, kind: u8, channel: [u8; 2], payload: &[u8]) -> bool {
        let method = payload.first_chunk().filter(|_| kind == METHOD);
        match method {
            // channel.open-ok
            Some([0, 20, 0, 11]) => {
                self.closed.remove(&channel);
                false
            }
            // channel.close
            Some([0, 20, 0, 40]) => !self.closed.insert(channel),
            _ => self.closed.contains(&channel),
        }
    }

    /// Notes the broker's properties in `connection.start`, and the frame size of `connection.tune`, which we agree to if
    /// it is not above ours.
    fn learn(&mut self, payload: &[u8]) {
        if let [0, 10, 0, 10, _, _, properties @ ..] = payload {
            self.server.get_or_init(|| server(properties));
        }
        if let [0, 10, 0, 30, _, _, frame_max @ ..] = payload
            && let Some((frame_max, _)) = frame_max.split_first_chunk()
        {
            let theirs = Some(u32::from_be_bytes(*frame_max)).filter(|most| *most > 0);
            self.frame_max = theirs.map_or(FRAME_MAX, |theirs| theirs.min(FRAME_MAX)).try_into().unwrap_or(0);
        }
    }
}

/// What the table of the server's properties, and the mechanisms after it, say of the broker.
fn server(said: &[u8]) -> Server {
    let mut server = Server::default();
    let Some((table, after)) = long_string(said) else { return server };
    if let Some((mechanisms, _)) = long_string(after) {
        server.mechanisms = String::from_utf8_lossy(mechanisms).into_owned();
    }
    let mut rest = table;
    while let Some((name, after)) = short_string(rest)
        && let Some((kind, value)) = after.split_first()
        && let Some((value, after)) = value_size(*kind, value).and_then(|size| value.split_at_checked(size))
    {
        let text = || String::from_utf8_lossy(value.get(4..).unwrap_or_default()).into_owned();
        match (name, kind) {
            (b"product", b'S') => server.product = text(),
            (b"version", b'S') => server.version = text(),
            (b"cluster_name", b'S') => server.cluster = text(),
            _ => {}
        }
        rest = after;
    }
    server
}

/// The method with its short strings made UTF-8, byte for byte; none if they are. Nobody reads those of a delivery, and
/// those of a close are for the eye.
fn mended_method(payload: &[u8]) -> Option<Vec<u8>> {
    let (id, arguments) = payload.split_first_chunk()?;
    // How many bytes are before each of its short strings.
    let gaps: &[usize] = match id {
        // basic.deliver: consumer tag, delivery tag and redelivered, exchange, routing key
        [0, 60, 0, 60] => &[0, 9, 0],
        // basic.get-ok: delivery tag and redelivered, exchange, routing key
        [0, 60, 0, 71] => &[9, 0],
        // basic.return: reply code, reply text, exchange, routing key
        [0, 60, 0, 50] => &[2, 0, 0],
        // connection.close, channel.close: reply code, reply text
        [0, 10, 0, 50] | [0, 20, 0, 40] => &[2],
        _ => return None,
    };
    let mut mended = Cow::Borrowed(arguments);
    let mut at = 0;
    for gap in gaps {
        let start = at + gap + 1;
        at = start + usize::from(*mended.get(start - 1)?);
        if !is_utf8(mended.get(start..at)?) {
            mended.to_mut()[start..at].iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        }
    }
    match mended {
        Cow::Borrowed(_) => None,
        Cow::Owned(arguments) => Some([id.as_slice(), &arguments].concat()),
    }
}

/// What a property is on the wire.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Text,
    Table,
    Octet,
    Time,
}

/// The properties of class basic in their order, which is that of their bits in the flags, from the highest on;
/// the two lowest are for none.
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
const HEADERS: u16 = 1 << 13;
/// Class, weight and body size, before the flags.
const SIZES: usize = 12;

/// Whether lapin's parser survives these properties, and reads them.
pub(crate) fn can_be_parsed(properties: &[u8]) -> bool {
    let payload = [&[0; SIZES], properties].concat();
    let mut is_sound = true;
    walk(&payload, |_, _, _, problem| is_sound &= problem.is_none()) && is_sound
}

/// A readable header of at most `room` bytes for an unreadable one, or one that must not stay as it is for `reason`; none
/// if it is fine.
fn readable_header(payload: &[u8], reason: Option<&'static str>, room: usize) -> Option<Vec<u8>> {
    let mut reason = reason.map(Cow::Borrowed);
    let wrong = |name, problem| Cow::Owned(format!("its property {name} {problem}"));
    let sound = walk(payload, |_, name, _, problem| {
        if let (None, Some(problem)) = (&reason, problem) {
            reason = Some(wrong(name, problem));
        }
    });
    if !sound {
        reason.get_or_insert(Cow::Borrowed("its properties end too soon or too late"));
    }
    let reason = reason?;
    let (mut before, mut after, mut flags) = (Vec::new(), Vec::new(), HEADERS);
    walk(payload, |bit, _, bytes, problem| {
        if problem.is_none() && bit != HEADERS {
            flags |= bit;
            if bit > HEADERS { &mut before } else { &mut after }.extend_from_slice(bytes);
        }
    });
    let mut readable = payload.get(..SIZES).map_or_else(|| vec![0; SIZES], <[u8]>::to_vec);
    readable.extend_from_slice(&flags.to_be_bytes());
    readable.append(&mut before);
    let room = room.saturating_sub(readable.len() + after.len());
    readable.append(&mut headers(&reason, payload, room));
    readable.append(&mut after);
    Some(readable)
}

/// A header table of at most `room` bytes that says why, whether the original may hold an `x-death` array, and what the
/// original is.
fn headers(reason: &str, payload: &[u8], room: usize) -> Vec<u8> {
    const DEATHS: &[u8] = b"\x07x-deathA";
    let entry = |name: &str, kind: u8, value: &[u8]| {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes();
        let name = [&[u8::try_from(name.len()).unwrap_or(u8::MAX)], name.as_bytes()].concat();
        [name.as_slice(), &[kind], &length, value].concat()
    };
    let mut entries = entry(UNREADABLE, b'S', reason.as_bytes());
    if payload.windows(DEATHS.len()).any(|bytes| bytes == DEATHS) {
        entries.append(&mut entry("x-death", b'A', b""));
    }
    let original = payload.get(SIZES..).unwrap_or_default();
    let left = room.saturating_sub(4 + entries.len() + entry(ORIGINAL, b'x', b"").len());
    entries.append(&mut entry(ORIGINAL, b'x', &original[..original.len().min(left)]));
    [u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes().as_slice(), &entries].concat()
}

/// Shows every property with its bytes and what is wrong with it. Tells whether the header ends where they end.
fn walk(payload: &[u8], mut visit: impl FnMut(u16, &'static str, &[u8], Option<&'static str>)) -> bool {
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
/// lapin keeps the last of two headers with one name, and RabbitMQ reads the first. A check of what lapin kept would then
/// say nothing about what the broker does with the message.
#[derive(Default)]
struct Names<'a> {
    first: [&'a [u8]; 16],
    count: usize,
    others: HashSet<&'a [u8]>,
}

impl<'a> Names<'a> {
    /// Adds a name; false if it is there already.
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

/// What is wrong with the content of a table, at whatever depth.
fn table_problem(mut rest: &[u8]) -> Option<&'static str> {
    const BROKEN: &str = "is not well formed";
    let mut names = Names::default();
    // What follows each table or array that is being read, the innermost last.
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

/// The bytes that a table's value of that kind takes; none if that cannot be told.
fn value_size(kind: u8, value: &[u8]) -> Option<usize> {
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

/// As `std::str::from_utf8` tells, sooner for the ordinary text.
fn is_utf8(bytes: &[u8]) -> bool {
    bytes.is_ascii() || std::str::from_utf8(bytes).is_ok()
}

fn short_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first()?;
    rest.split_at_checked(usize::from(*length))
}

fn long_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (length, rest) = bytes.split_first_chunk()?;
    rest.split_at_checked(long(*length))
}

fn long(length: [u8; 4]) -> usize {
    usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX)
}

#[cfg(test)]
#[path = "screen_tests.rs"]
mod tests;
