//! The two embedded fonts, and the layout of a line of text.
//!
//! `DejaVu Sans Condensed` has the Latin, Greek, Cyrillic, Armenian and Georgian alphabets. A PDF embeds only the letters
//! that it uses. Scripts that join their letters or run from right to left require shaping, which this module does not do.
//! Their letters count as missing.

use std::{collections::HashMap, sync::LazyLock};

use krilla::text::{Font as Embedded, GlyphId, KrillaGlyph};
use skrifa::{FontRef, MetadataProvider, instance::LocationRef, prelude::Size};
use unicode_normalization::UnicodeNormalization;

/// An embedded font.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Font {
    Regular,
    Bold,
}

/// A line of text that is ready to draw.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct TextLine {
    pub(crate) text: String,
    pub(crate) width: f32,
    /// Letters of the text that the font lacks.
    pub(crate) missing: Vec<char>,
}

struct FontFace {
    embedded: Embedded,
    /// Glyph of each letter, and its width as a fraction of the size.
    glyphs: HashMap<char, (u32, f32)>,
}

/// Replaces a letter that the font lacks.
pub(crate) const LACKING: char = '\u{fffd}';
const ELLIPSIS: char = '…';
/// Maximum letters of a line. Combining marks have no width, so the width alone does not limit a line.
const LONGEST: usize = 1_000;

static REGULAR: LazyLock<Option<FontFace>> = LazyLock::new(|| FontFace::read(dejavu::sans_condensed::regular()));
static BOLD: LazyLock<Option<FontFace>> = LazyLock::new(|| FontFace::read(dejavu::sans_condensed::bold()));

impl Font {
    /// Returns the font to embed; `None` if the font of this program cannot be read.
    pub(crate) fn embedded(self) -> Option<Embedded> {
        self.face().map(|face| face.embedded.clone())
    }

    /// Returns the glyphs of a text.
    pub(crate) fn glyphs(self, text: &str) -> Vec<KrillaGlyph> {
        let glyph = |(at, letter): (usize, char)| {
            let (id, width) = self.glyph(letter)?;
            Some(KrillaGlyph::new(GlyphId::new(id), width, 0.0, 0.0, 0.0, at..at + letter.len_utf8(), None))
        };
        text.char_indices().filter_map(glyph).collect()
    }

    /// Cuts a text to `room`, with an ellipsis for the rest. The rest is not read, so `room` limits the time.
    pub(crate) fn line(self, text: &str, size: f32, room: f32) -> TextLine {
        let ellipsis = self.glyph(ELLIPSIS).map_or(0.0, |(_, width)| width * size);
        let mut line = TextLine::default();
        // Length and width of the line if an ellipsis follows.
        let (mut kept, mut kept_width) = (0, 0.0);
        for (at, letter) in text.nfc().filter(|letter| !is_invisible(*letter)).enumerate() {
            let (letter, width) = self.shown(letter, &mut line.missing);
            line.width += width * size;
            if line.width > room || at >= LONGEST {
                line.text.truncate(kept);
                line.text.truncate(line.text.trim_end().len());
                line.text.push(ELLIPSIS);
                line.width = kept_width + ellipsis;
                return line;
            }
            line.text.push(letter);
            if line.width + ellipsis <= room {
                (kept, kept_width) = (line.text.len(), line.width);
            }
        }
        line
    }

    /// Breaks a text into up to `most` lines, and cuts the last one.
    ///
    /// A line ends after a word if it is then at least half full.
    pub(crate) fn lines(self, text: &str, size: f32, room: f32, most: usize) -> Vec<TextLine> {
        let mut lines = Vec::new();
        let mut rest = text;
        while lines.len() + 1 < most {
            let fitting = self.fitting(rest, size, room);
            if fitting == rest.len() || fitting == 0 {
                break;
            }
            let word = rest[..fitting].rfind([' ', '_', '(', '-', '.', '/', ',']).map_or(0, |at| at + 1);
            let (first, next) = rest.split_at(if word * 2 > fitting { word } else { fitting });
            lines.push(self.line(first.trim_end(), size, room));
            rest = next;
        }
        lines.push(self.line(rest, size, room));
        lines
    }

    /// Returns the number of bytes of a text that fit.
    fn fitting(self, text: &str, size: f32, room: f32) -> usize {
        let mut width = 0.0;
        let over = text.char_indices().find(|(at, letter)| {
            width += self.glyph(*letter).or_else(|| self.glyph(LACKING)).map_or(0.0, |(_, width)| width * size);
            width > room || *at >= LONGEST
        });
        over.map_or(text.len(), |(at, _)| at)
    }

    /// Returns the letter to draw for this one, and its width.
    fn shown(self, letter: char, missing: &mut Vec<char>) -> (char, f32) {
        let shown = if letter.is_whitespace() || letter.is_control() { ' ' } else { letter };
        if let Some((_, width)) = self.glyph(shown).filter(|_| !needs_shaping(shown)) {
            return (shown, width);
        }
        missing.push(letter);
        (LACKING, self.glyph(LACKING).map_or(0.0, |(_, width)| width))
    }

    fn glyph(self, letter: char) -> Option<(u32, f32)> {
        self.face()?.glyphs.get(&letter).copied()
    }

    fn face(self) -> Option<&'static FontFace> {
        match self {
            Self::Regular => REGULAR.as_ref(),
            Self::Bold => BOLD.as_ref(),
        }
    }
}

impl FontFace {
    fn read(bytes: &'static [u8]) -> Option<Self> {
        let font = FontRef::new(bytes).ok()?;
        // Unscaled widths are in the units of the font.
        let metrics = font.glyph_metrics(Size::unscaled(), LocationRef::default());
        let embedded = Embedded::new(bytes.into(), 0)?;
        let units = embedded.units_per_em();
        let glyphs = font.charmap().mappings().filter_map(|(letter, id)| {
            Some((char::from_u32(letter)?, (id.to_u32(), metrics.advance_width(id)? / units)))
        });
        Some(Self { embedded, glyphs: glyphs.collect() })
    }
}

/// Returns whether the letter is a soft hyphen, a zero-width or direction mark, a variation selector or a byte order mark.
fn is_invisible(letter: char) -> bool {
    matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}

/// Returns whether the letter is Hebrew, Arabic or of another script that runs from right to left.
fn needs_shaping(letter: char) -> bool {
    matches!(letter, '\u{590}'..='\u{8ff}' | '\u{fb1d}'..='\u{fdff}' | '\u{fe70}'..='\u{fefe}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_the_fonts_lack_are_replaced_and_named() {
        for (text, shown, missing) in [
            ("Zürich – 5 €", "Zürich – 5 €", ""),
            ("Łódź Αθήνα Київ", "Łódź Αθήνα Київ", ""),
            ("東京", "\u{fffd}\u{fffd}", "東京"),
            ("a\nb\tc\u{a0}d", "a b c d", ""),
            ("cafe\u{301}\u{200b}", "café", ""),
            ("א1", "\u{fffd}1", "א"),
        ] {
            let line = Font::Regular.line(text, 10.0, 1000.0);
            assert_eq!((line.text.as_str(), line.missing.iter().collect::<String>().as_str()), (shown, missing));
        }
    }

    #[test]
    fn a_text_that_does_not_fit_ends_in_an_ellipsis_within_its_room() {
        assert_eq!(Font::Regular.line("short", 10.0, 100.0).text, "short");
        for room in [5_u8, 12, 50, 51, 52, 53] {
            let cut = Font::Bold.line("a rather long text", 10.0, room.into());
            assert!(cut.text.ends_with('…') && (cut.width <= room.into() || cut.text == "…"), "{cut:?}");
        }
        assert_eq!(Font::Regular.line("x", 10.0, 1.0).text, "…");
        assert!(Font::Regular.line(&"\u{338}".repeat(5_000), 10.0, 100.0).text.chars().count() <= LONGEST + 1);
    }

    #[test]
    fn a_long_title_is_broken_between_its_words() {
        let texts = |text: &str, most| -> Vec<String> {
            Font::Bold.lines(text, 9.0, 80.0, most).into_iter().map(|line| line.text).collect()
        };
        assert_eq!(texts("sum(amount)", 3), ["sum(amount)"]);
        assert_eq!(texts("sum(amount_in_thousand_euros)", 3), ["sum(amount_in_", "thousand_euros)"]);
        assert!(texts(&"x".repeat(500), 3)[2].ends_with('…'));
    }
}
