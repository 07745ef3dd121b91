//! A page that is drawn from the top left, in points, in the few ways a report needs.

use printpdf::{
    Color, Line, LinePoint, Mm, Op, PaintMode, PdfFontHandle, PdfPage, Point, Pt, Rect, Rgb, TextItem, TextMatrix,
};

use super::font::{Font, printable};

/// Where a page's content may go, and how large the page is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Sheet {
    pub(crate) width: f32,
    pub(crate) height: f32,
}

/// The margin on every side.
pub(crate) const MARGIN: f32 = 48.0;

/// A page in the making.
#[derive(Debug)]
pub(crate) struct Canvas {
    sheet: Sheet,
    ops: Vec<Op>,
    /// Whether a text had letters that the fonts lack.
    pub(crate) changed: bool,
}

/// How a text is set.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Style {
    font: Font,
    size: f32,
    ink: Ink,
    align: Align,
}

/// Where a text stands to the point it is put at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Middle,
    Right,
}

/// The colours of a report; every text colour has a contrast of 4.5 or more on white.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ink {
    Text,
    Quiet,
    White,
    Rule,
    Zebra,
    Title,
    Bar,
    NegativeBar,
}

impl Sheet {
    pub(crate) const PORTRAIT: Self = Self { width: 595.28, height: 841.89 };
    pub(crate) const LANDSCAPE: Self = Self { width: 841.89, height: 595.28 };

    /// The width between the margins.
    pub(crate) fn room(self) -> f32 {
        self.width - 2.0 * MARGIN
    }
}

impl Canvas {
    pub(crate) fn new(sheet: Sheet) -> Self {
        Self { sheet, ops: Vec::new(), changed: false }
    }

    /// Puts a text, cut to `room`, with its baseline at `y` and `x` where its style is aligned to.
    pub(crate) fn text(&mut self, text: &str, style: Style, (x, y): (f32, f32), room: f32) {
        let (text, changed) = printable(text);
        self.changed |= changed;
        let text = style.font.fit(&text, style.size, room);
        let width = style.font.width(&text, style.size);
        let left = match style.align {
            Align::Left => x,
            Align::Middle => x - width / 2.0,
            Align::Right => x - width,
        };
        self.ops.extend([
            Op::StartTextSection,
            Op::SetFillColor { col: style.ink.color() },
            Op::SetFont { font: PdfFontHandle::Builtin(style.font.builtin()), size: Pt(style.size) },
            Op::SetTextMatrix { matrix: TextMatrix::Translate(Pt(left), Pt(self.sheet.height - y)) },
            Op::ShowText { items: vec![TextItem::Text(text)] },
            Op::EndTextSection,
        ]);
    }

    /// Fills the rectangle whose upper left corner is at `(x, y)`.
    pub(crate) fn fill(&mut self, (x, y): (f32, f32), width: f32, height: f32, ink: Ink) {
        let mut rectangle = Rect::from_xywh(Pt(x), Pt(self.sheet.height - y - height), Pt(width), Pt(height));
        rectangle.mode = Some(PaintMode::Fill);
        self.ops.extend([Op::SetFillColor { col: ink.color() }, Op::DrawRectangle { rectangle }]);
    }

    pub(crate) fn line(&mut self, from: (f32, f32), to: (f32, f32), thickness: f32, ink: Ink) {
        let point = |(x, y): (f32, f32)| {
            let p = Point { x: Pt(x), y: Pt(self.sheet.height - y) };
            LinePoint { p, bezier: false }
        };
        let line = Line { points: vec![point(from), point(to)], is_closed: false };
        self.ops.extend([
            Op::SetOutlineColor { col: ink.color() },
            Op::SetOutlineThickness { pt: Pt(thickness) },
            Op::DrawLine { line },
        ]);
    }

    pub(crate) fn into_page(self) -> PdfPage {
        PdfPage::new(Mm::from(Pt(self.sheet.width)), Mm::from(Pt(self.sheet.height)), self.ops)
    }
}

impl Style {
    pub(crate) const fn new(font: Font, size: f32, ink: Ink) -> Self {
        Self { font, size, ink, align: Align::Left }
    }

    pub(crate) const fn align(self, align: Align) -> Self {
        Self { align, ..self }
    }

    pub(crate) fn is_right(self) -> bool {
        self.align == Align::Right
    }

    /// The width of a text once its letters are those of the font.
    pub(crate) fn width(self, text: &str) -> f32 {
        self.font.width(&printable(text).0, self.size)
    }
}

impl Ink {
    fn color(self) -> Color {
        let [red, green, blue] = match self {
            Self::Text => [0x1f, 0x29, 0x33],
            Self::Quiet => [0x61, 0x6e, 0x7c],
            Self::White => [0xff, 0xff, 0xff],
            Self::Rule => [0xd5, 0xda, 0xe0],
            Self::Zebra => [0xf4, 0xf6, 0xf8],
            Self::Title => [0x1f, 0x4e, 0x79],
            Self::Bar => [0x2f, 0x75, 0xa8],
            Self::NegativeBar => [0xc0, 0x57, 0x46],
        };
        let share = |byte: u8| f32::from(byte) / 255.0;
        Color::Rgb(Rgb { r: share(red), g: share(green), b: share(blue), icc_profile: None })
    }
}
