//! The frames that lapin cannot take, and the frames that replace them.
//!
//! lapin's parser recurses into nested header tables until the stack of its thread overflows. A short string that is not
//! UTF-8, or a frame above the negotiated size, ends its connection. So header frames are walked here without recursion.
//! A header frame that lapin cannot read is replaced by one that it can ([`Markers`]). A consumer that rejects such a
//! message makes the broker dead-letter its original.
//!
//! The replacement keeps visible whether the original may have an `x-death` array: consumers use it to detect cycles.
//!
//! RabbitMQ delivers on a channel that it has closed what was already on its way (seen on 3.10). lapin has forgotten the
//! channel by then and would end the connection with all its other channels. So the filter drops frames of a closed
//! channel until the channel is opened again.

mod properties;

use std::{
    borrow::Cow,
    collections::BTreeSet,
    sync::{Arc, OnceLock},
};

use self::properties::{HEADERS, SIZES, is_utf8, walk};
pub(crate) use self::properties::{long_string, short_string, value_size};
use crate::server::ServerProperties;

/// The size of type, channel and length before a frame's payload.
pub(crate) const FRAME_START: usize = 7;
/// The size of a frame without its payload, with the end octet.
pub(crate) const FRAME_OVERHEAD: usize = 8;
/// The `frame_max` for a URI that names none: RabbitMQ's default.
///
/// lapin has two buffers of 32 frames for each connection. With a size known from the start, their memory is used as it
/// is needed. For a size that only the broker names, lapin grows the buffers and writes zeros into all 8 MiB.
pub(crate) const FRAME_MAX: u32 = 131_072;

const METHOD: u8 = 1;
const HEADER: u8 = 2;

/// The names of the headers that replace the headers of an unreadable message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Markers {
    /// The reason, a long string. Default: `lapin-guard-unreadable`.
    pub reason: &'static str,
    /// The original properties from their flags on, a byte array. It is cut off where the frame would exceed the
    /// negotiated size. Default: `lapin-guard-original-properties`.
    pub original: &'static str,
}

impl Default for Markers {
    fn default() -> Self {
        Self { reason: "lapin-guard-unreadable", original: "lapin-guard-original-properties" }
    }
}

/// A filter for the frames of one connection, from the broker to lapin.
///
/// [`connect`](crate::connect) puts it before lapin. By itself it serves tests, benchmarks and other transports.
///
/// ```
/// # use lapin_guard::FrameFilter;
/// let heartbeat = [8, 0, 0, 0, 0, 0, 0, 0xCE];
/// assert_eq!(FrameFilter::default().filter(&heartbeat), None);
/// ```
#[derive(Debug)]
pub struct FrameFilter {
    markers: Markers,
    /// The largest frame that this side agrees to.
    own_frame_max: u32,
    /// The largest frame that was negotiated; 0 before.
    frame_max: usize,
    /// The channels that the broker has closed and not opened again.
    closed: BTreeSet<[u8; 2]>,
    server: Arc<OnceLock<ServerProperties>>,
}

impl Default for FrameFilter {
    fn default() -> Self {
        Self::new(FRAME_MAX, Markers::default())
    }
}

/// The first bytes of a frame.
#[derive(Clone, Copy, Debug)]
pub(crate) struct FrameStart {
    pub(crate) whole: usize,
    kind: u8,
    channel: [u8; 2],
}

impl FrameStart {
    /// `None` if there are too few bytes.
    #[inline]
    pub(crate) fn read(bytes: &[u8]) -> Option<Self> {
        let (start, _) = bytes.split_first_chunk::<FRAME_START>()?;
        let [kind, high, low, length @ ..] = *start;
        let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
        Some(Self { whole: length.saturating_add(FRAME_OVERHEAD), kind, channel: [high, low] })
    }
}

impl FrameFilter {
    /// Makes a filter for a connection whose client offers this `frame_max`, in bytes.
    #[must_use]
    pub fn new(frame_max: u32, markers: Markers) -> Self {
        Self::with_server(frame_max, markers, Arc::default())
    }

    /// Makes a filter that stores the broker's greeting in `server`.
    pub(crate) fn with_server(frame_max: u32, markers: Markers, server: Arc<OnceLock<ServerProperties>>) -> Self {
        Self { markers, own_frame_max: frame_max, frame_max: 0, closed: BTreeSet::new(), server }
    }

    /// Returns the frame that replaces this complete one, empty if the frame is dropped. `None` if lapin can take it.
    #[inline]
    pub fn filter(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        if self.must_be_whole(FrameStart::read(frame)?) { self.replacement(frame) } else { None }
    }

    /// Returns whether the filter needs the complete frame.
    #[inline]
    pub(crate) fn must_be_whole(&self, start: FrameStart) -> bool {
        matches!(start.kind, METHOD | HEADER) || self.closed.contains(&start.channel)
    }

    /// Like [`filter`](Self::filter), for a frame that [must be whole](Self::must_be_whole).
    #[inline]
    pub(crate) fn replacement(&mut self, frame: &[u8]) -> Option<Vec<u8>> {
        let payload = frame.get(FRAME_START..frame.len().checked_sub(1)?)?;
        if self.is_stray(frame[0], [frame[1], frame[2]], payload) {
            return Some(Vec::new());
        }
        let replaced = match frame[0] {
            METHOD => {
                self.learn(payload);
                repaired_method(payload)?
            }
            HEADER => {
                let most = if self.frame_max > 0 { self.frame_max } else { usize::MAX };
                let too_long = frame.len() > most;
                let reason = too_long.then_some("its header frame is longer than a connection may carry");
                readable_header(payload, reason, most.saturating_sub(FRAME_OVERHEAD), self.markers)?
            }
            _ => return None,
        };
        let mut replacement = Vec::with_capacity(replaced.len() + FRAME_OVERHEAD);
        replacement.extend_from_slice(&frame[..3]);
        replacement.extend_from_slice(&u32::try_from(replaced.len()).unwrap_or(u32::MAX).to_be_bytes());
        replacement.extend_from_slice(&replaced);
        replacement.push(frame[frame.len() - 1]);
        Some(replacement)
    }

    /// Returns whether the frame's channel is closed. Notes which channels are.
    #[inline]
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

    /// Notes the greeting of `connection.start` and the frame size of `connection.tune`. lapin agrees to the smaller of
    /// both sides' sizes, where 0 is no limit.
    #[inline]
    fn learn(&mut self, payload: &[u8]) {
        if let [0, 10, 0, 10, _, _, properties @ ..] = payload {
            self.server.get_or_init(|| ServerProperties::read(properties));
        }
        if let [0, 10, 0, 30, _, _, frame_max @ ..] = payload
            && let Some((frame_max, _)) = frame_max.split_first_chunk()
        {
            let own = self.own_frame_max;
            let theirs = Some(u32::from_be_bytes(*frame_max)).filter(|most| *most > 0);
            self.frame_max = theirs.map_or(own, |theirs| theirs.min(own)).try_into().unwrap_or(0);
        }
    }
}

/// The method with every byte of a broken short string that is not ASCII replaced by `?`. `None` if all are UTF-8.
///
/// The length stays. Routing needs none of these strings any more, and those of a close are for people.
#[inline]
fn repaired_method(payload: &[u8]) -> Option<Vec<u8>> {
    let (id, arguments) = payload.split_first_chunk()?;
    // The number of bytes before each of its short strings.
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
    let mut repaired = Cow::Borrowed(arguments);
    let mut at = 0;
    for gap in gaps {
        let start = at + gap + 1;
        at = start + usize::from(*repaired.get(start - 1)?);
        if !is_utf8(repaired.get(start..at)?) {
            repaired.to_mut()[start..at].iter_mut().filter(|byte| !byte.is_ascii()).for_each(|byte| *byte = b'?');
        }
    }
    match repaired {
        Cow::Borrowed(_) => None,
        Cow::Owned(arguments) => Some([id.as_slice(), &arguments].concat()),
    }
}

/// Returns whether lapin's parser reads these properties, which begin with their flags, and survives them.
///
/// Check stored properties with it before parsing them without a connection.
///
/// ```
/// # use lapin_guard::can_be_parsed;
/// assert!(can_be_parsed(b"\x80\x00\x10application/json"));
/// assert!(!can_be_parsed(b"\x80\x00\x10application"));
/// ```
#[must_use]
pub fn can_be_parsed(properties: &[u8]) -> bool {
    let payload = [&[0; SIZES], properties].concat();
    let mut is_sound = true;
    walk(&payload, |_, _, _, problem| is_sound &= problem.is_none()) && is_sound
}

/// A readable header of at most `room` bytes, for one that is unreadable or must not pass for `reason`. `None` if the
/// header is fine.
#[inline]
fn readable_header(payload: &[u8], reason: Option<&'static str>, room: usize, markers: Markers) -> Option<Vec<u8>> {
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
    reason.map(|reason| marked_header(payload, &reason, room, markers))
}

/// The header with its sound properties and the marker headers.
#[cold]
fn marked_header(payload: &[u8], reason: &str, room: usize, markers: Markers) -> Vec<u8> {
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
    readable.append(&mut marker_table(reason, payload, room, markers));
    readable.append(&mut after);
    readable
}

/// A header table of at most `room` bytes with the reason, an `x-death` array if the original may have one, and the
/// original.
fn marker_table(reason: &str, payload: &[u8], room: usize, markers: Markers) -> Vec<u8> {
    const DEATHS: &[u8] = b"\x07x-deathA";
    let entry = |name: &str, kind: u8, value: &[u8]| {
        let length = u32::try_from(value.len()).unwrap_or(u32::MAX).to_be_bytes();
        let name = [&[u8::try_from(name.len()).unwrap_or(u8::MAX)], name.as_bytes()].concat();
        [name.as_slice(), &[kind], &length, value].concat()
    };
    let mut entries = entry(markers.reason, b'S', reason.as_bytes());
    if payload.windows(DEATHS.len()).any(|bytes| bytes == DEATHS) {
        entries.append(&mut entry("x-death", b'A', b""));
    }
    let original = payload.get(SIZES..).unwrap_or_default();
    let left = room.saturating_sub(4 + entries.len() + entry(markers.original, b'x', b"").len());
    entries.append(&mut entry(markers.original, b'x', &original[..original.len().min(left)]));
    [u32::try_from(entries.len()).unwrap_or(u32::MAX).to_be_bytes().as_slice(), &entries].concat()
}

#[cfg(test)]
mod tests;
