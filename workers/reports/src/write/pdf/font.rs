//! The two built-in fonts: which letters they have, and how wide a text is in them.
//!
//! Every PDF reader has Helvetica, so nothing is embedded; but it knows the 217 characters of `WinAnsiEncoding` only.
//! Letters of other Latin alphabets lose their accent, anything else becomes a question mark, and the page says so.

use printpdf::BuiltinFont;

/// A built-in font.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Font {
    Regular,
    Bold,
}

impl Font {
    pub(crate) fn builtin(self) -> BuiltinFont {
        match self {
            Self::Regular => BuiltinFont::Helvetica,
            Self::Bold => BuiltinFont::HelveticaBold,
        }
    }

    /// The width of a printable text in points.
    pub(crate) fn width(self, text: &str, size: f32) -> f32 {
        let widths = match self {
            Self::Regular => &REGULAR,
            Self::Bold => &BOLD,
        };
        let units: u32 = text.chars().map(|letter| u32::from(widths[code(letter).unwrap_or(b'?') as usize - 32])).sum();
        units as f32 * size / 1000.0
    }

    /// As much of a printable text as fits, with an ellipsis for the rest.
    pub(crate) fn fit(self, text: &str, size: f32, width: f32) -> String {
        if self.width(text, size) <= width {
            return text.to_owned();
        }
        let mut short = text.to_owned();
        while !short.is_empty() && self.width(&short, size) + self.width("…", size) > width {
            short.pop();
        }
        short.truncate(short.trim_end().len());
        short + "…"
    }
}

/// The nearest text that the fonts have, and whether it is another one.
///
/// Line breaks become blanks and combining marks are left out without counting as another text.
pub(crate) fn printable(text: &str) -> (String, bool) {
    let mut changed = false;
    let mut printable = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_control() || letter.is_whitespace() {
            printable.push(' ');
        } else if code(letter).is_some() {
            printable.push(letter);
        } else if !is_mark(letter) {
            changed = true;
            printable.push(without_accent(letter).unwrap_or('?'));
        }
    }
    (printable, changed)
}

/// Combining accents, zero-width characters, the byte order mark.
fn is_mark(letter: char) -> bool {
    matches!(letter, '\u{300}'..='\u{36f}' | '\u{200b}'..='\u{200f}' | '\u{feff}')
}

fn without_accent(letter: char) -> Option<char> {
    PLAIN.split(' ').find(|group| group.contains(letter))?.chars().next()
}

/// The character's code in `WinAnsiEncoding`, if it has one that prints.
fn code(letter: char) -> Option<u8> {
    match u32::from(letter) {
        code @ (0x20..=0x7e | 0xa0..=0xff) => u8::try_from(code).ok(),
        0x7f => None,
        _ => (0x80..).zip(SPECIAL.chars()).find(|(_, special)| *special == letter).map(|(code, _)| code),
    }
}

/// The characters of the codes from 0x80; those of the five codes that have none are never asked for.
const SPECIAL: &str = "€\u{7f}‚ƒ„…†‡ˆ‰Š‹Œ\u{7f}Ž\u{7f}\u{7f}‘’“”•–—˜™š›œ\u{7f}žŸ";

/// Characters with the one to print in their place in front of them.
const PLAIN: &str = "\
    AĀĂĄǍǞǠǺȀȂȦḀẠẢẤẦẨẪẬẮẰẲẴẶ aāăąǎǟǡǻȁȃȧḁạảấầẩẫậắằẳẵặ BḂḄḆ bḃḅḇ CĆĈĊČḈ cćĉċčḉ DĎḊḌḎḐḒĐ dďḋḍḏḑḓđ \
    EĒĔĖĘĚȄȆȨḔḖḘḚḜẸẺẼẾỀỂỄỆ eēĕėęěȅȇȩḕḗḙḛḝẹẻẽếềểễệ FḞ fḟ GĜĞĠĢǦǴḠ gĝğġģǧǵḡ HĤȞḢḤḦḨḪĦ hĥȟḣḥḧḩḫẖħ IĨĪĬĮİǏȈȊḬḮỈỊ \
    iĩīĭįǐȉȋḭḯỉịı JĴ jĵǰ KĶǨḰḲḴ kķǩḱḳḵ LĹĻĽḶḸḺḼŁĿ lĺļľḷḹḻḽłŀ MḾṀṂ mḿṁṃ NŃŅŇǸṄṆṈṊŊ nńņňǹṅṇṉṋŋ \
    OŌŎŐƠǑǪǬȌȎȪȬȮȰṌṎṐṒỌỎỐỒỔỖỘỚỜỞỠỢ oōŏőơǒǫǭȍȏȫȭȯȱṍṏṑṓọỏốồổỗộớờởỡợ PṔṖ pṕṗ RŔŖŘȐȒṘṚṜṞ rŕŗřȑȓṙṛṝṟ SŚŜŞȘṠṢṤṦṨ \
    sśŝşșṡṣṥṧṩſ TŢŤȚṪṬṮṰŦ tţťțṫṭṯṱẗŧ UŨŪŬŮŰŲƯǓǕǗǙǛȔȖṲṴṶṸṺỤỦỨỪỬỮỰ uũūŭůűųưǔǖǘǚǜȕȗṳṵṷṹṻụủứừửữự VṼṾ vṽṿ WŴẀẂẄẆẈ \
    wŵẁẃẅẇẉẘ XẊẌ xẋẍ YŶȲẎỲỴỶỸ yŷȳẏẙỳỵỷỹ ZŹŻẐẒẔ zźżẑẓẕ -‐‑‒− 'ʹʼ′";

/// Widths of Helvetica in thousandths of its size, by code from 32 (Adobe's metrics of the standard fonts).
const REGULAR: [u16; 224] = [
    278, 278, 355, 556, 556, 889, 667, 191, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 556, 278, 278, 584, 584, 584, 556, 1015, 667, 667, 722, 722, 667, 611, 778, 722, 278, 500, 667, 556, 833,
    722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 278, 278, 278, 469, 556, 333, 556, 556, 500, 556,
    556, 278, 556, 556, 222, 222, 500, 222, 833, 556, 556, 556, 556, 333, 500, 278, 556, 500, 722, 500, 500, 500, 334,
    260, 334, 584, 0, 556, 0, 222, 556, 333, 1000, 556, 556, 333, 1000, 667, 333, 1000, 0, 611, 0, 0, 222, 222, 333,
    333, 350, 556, 1000, 333, 1000, 500, 333, 944, 0, 500, 667, 278, 333, 556, 556, 556, 556, 260, 556, 333, 737, 370,
    556, 584, 333, 737, 333, 400, 584, 333, 333, 333, 556, 537, 278, 333, 333, 365, 556, 834, 834, 834, 611, 667, 667,
    667, 667, 667, 667, 1000, 722, 667, 667, 667, 667, 278, 278, 278, 278, 722, 722, 778, 778, 778, 778, 778, 584, 778,
    722, 722, 722, 722, 667, 667, 611, 556, 556, 556, 556, 556, 556, 889, 500, 556, 556, 556, 556, 278, 278, 278, 278,
    556, 556, 556, 556, 556, 556, 556, 584, 611, 556, 556, 556, 556, 500, 556, 500,
];

/// Widths of Helvetica Bold.
const BOLD: [u16; 224] = [
    278, 333, 474, 556, 556, 889, 722, 238, 333, 333, 389, 584, 278, 333, 278, 278, 556, 556, 556, 556, 556, 556, 556,
    556, 556, 556, 333, 333, 584, 584, 584, 611, 975, 722, 722, 722, 722, 667, 611, 778, 722, 278, 556, 722, 611, 833,
    722, 778, 667, 778, 722, 667, 611, 722, 667, 944, 667, 667, 611, 333, 278, 333, 584, 556, 333, 556, 611, 556, 611,
    556, 333, 611, 611, 278, 278, 556, 278, 889, 611, 611, 611, 611, 389, 556, 333, 611, 556, 778, 556, 556, 500, 389,
    280, 389, 584, 0, 556, 0, 278, 556, 500, 1000, 556, 556, 333, 1000, 667, 333, 1000, 0, 611, 0, 0, 278, 278, 500,
    500, 350, 556, 1000, 333, 1000, 556, 333, 944, 0, 500, 667, 278, 333, 556, 556, 556, 556, 280, 556, 333, 737, 370,
    556, 584, 333, 737, 333, 400, 584, 333, 333, 333, 611, 556, 278, 333, 333, 365, 556, 834, 834, 834, 611, 722, 722,
    722, 722, 722, 722, 1000, 722, 667, 667, 667, 667, 278, 278, 278, 278, 722, 722, 778, 778, 778, 778, 778, 584, 778,
    722, 722, 722, 722, 667, 667, 611, 556, 556, 556, 556, 556, 556, 889, 556, 556, 556, 556, 556, 278, 278, 278, 278,
    611, 611, 611, 611, 611, 611, 611, 584, 611, 611, 611, 611, 611, 556, 611, 556,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn letters_that_the_fonts_lack_are_replaced_and_reported() {
        for (text, shown, changed) in [
            ("Zürich – 5 €", "Zürich – 5 €", false),
            ("Łódź", "Lódz", true),
            ("東京", "??", true),
            ("a\nb\tc", "a b c", false),
            ("cafe\u{301}", "cafe", false),
            ("−5", "-5", true),
        ] {
            assert_eq!(printable(text), (shown.to_owned(), changed));
        }
    }

    #[test]
    fn widths_are_those_of_the_standard_fonts() {
        assert!((Font::Regular.width("Ag 0€", 10.0) - 26.13).abs() < 0.01);
        assert!((Font::Bold.width("Ag 0€", 10.0) - 27.23).abs() < 0.01);
        assert_eq!((code('Ÿ'), code('ÿ'), code('\u{7f}'), code('ł')), (Some(0x9f), Some(0xff), None, None));
    }

    #[test]
    fn a_text_that_does_not_fit_ends_in_an_ellipsis() {
        assert_eq!(Font::Regular.fit("short", 10.0, 100.0), "short");
        let cut = Font::Regular.fit("a rather long text", 10.0, 50.0);
        assert!(cut.ends_with('…') && Font::Regular.width(&cut, 10.0) <= 50.0, "{cut}");
        assert_eq!(Font::Regular.fit("x", 10.0, 1.0), "…");
    }
}
