//! Draws text, rectangles and lines on a page. Positions are points from the top left.

use std::collections::BTreeSet;

use krilla::{
    color::rgb,
    geom::{Path, PathBuilder, Point, Rect},
    num::NormalizedF32,
    paint::{Fill, FillRule, Stroke},
    surface::Surface,
};

use super::font::Font;

/// Size of a page in points.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct PageSize {
    pub(crate) width: f32,
    pub(crate) height: f32,
}

/// Margin on every side, in points.
pub(crate) const MARGIN: f32 = 48.0;

/// Wider than any page; text beyond it is not measured.
const WIDEST: f32 = 1_000.0;
/// Maximum missing letters that a page collects.
const MOST_MISSING: usize = 100;

/// A page that is being drawn.
#[derive(Debug)]
pub(crate) struct Canvas {
    marks: Vec<DrawCommand>,
    /// Letters that the fonts lack.
    pub(crate) missing: BTreeSet<char>,
}

#[derive(Debug)]
enum DrawCommand {
    Text { text: String, font: Font, size: f32, color: Color, at: (f32, f32) },
    Fill { at: (f32, f32), width: f32, height: f32, color: Color },
    Line { from: (f32, f32), to: (f32, f32), thickness: f32, color: Color },
}

/// Font, size, colour and alignment of a text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TextStyle {
    font: Font,
    size: f32,
    color: Color,
    align: Align,
}

/// Alignment of a text relative to its x position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Middle,
    Right,
}

/// Colours of a report. Every text colour has a contrast of at least 4.5 on white.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Color {
    Text,
    Muted,
    White,
    Rule,
    Zebra,
    Title,
    ChartBar,
    NegativeBar,
}

impl PageSize {
    pub(crate) const PORTRAIT: Self = Self { width: 595.28, height: 841.89 };
    pub(crate) const LANDSCAPE: Self = Self { width: 841.89, height: 595.28 };

    /// Returns the width between the margins.
    pub(crate) fn content_width(self) -> f32 {
        self.width - 2.0 * MARGIN
    }
}

impl Canvas {
    pub(crate) fn new() -> Self {
        Self { marks: Vec::new(), missing: BTreeSet::new() }
    }

    /// Draws a text, cut to `room`, with its baseline at `y`. The alignment of its style refers to `x`.
    pub(crate) fn text(&mut self, text: &str, style: TextStyle, (x, y): (f32, f32), room: f32) {
        let line = style.font.line(text, style.size, room);
        if self.missing.len() < MOST_MISSING {
            self.missing.extend(line.missing);
        }
        let left = match style.align {
            Align::Left => x,
            Align::Middle => x - line.width / 2.0,
            Align::Right => x - line.width,
        };
        self.marks.push(DrawCommand::Text {
            text: line.text,
            font: style.font,
            size: style.size,
            color: style.color,
            at: (left, y),
        });
    }

    /// Fills the rectangle whose upper left corner is at `(x, y)`.
    pub(crate) fn fill(&mut self, at: (f32, f32), width: f32, height: f32, color: Color) {
        self.marks.push(DrawCommand::Fill { at, width, height, color });
    }

    pub(crate) fn line(&mut self, from: (f32, f32), to: (f32, f32), thickness: f32, color: Color) {
        self.marks.push(DrawCommand::Line { from, to, thickness, color });
    }

    /// Draws the page.
    pub(crate) fn draw(&self, surface: &mut Surface<'_>) {
        for mark in &self.marks {
            mark.draw(surface);
        }
    }
}

impl DrawCommand {
    fn draw(&self, surface: &mut Surface<'_>) {
        match self {
            Self::Text { text, font, size, color, at: (x, y) } => {
                let Some(embedded) = font.embedded() else { return };
                surface.set_stroke(None);
                surface.set_fill(Some(color.fill()));
                surface.draw_glyphs(Point::from_xy(*x, *y), &font.glyphs(text), embedded, text, *size, false);
            }
            Self::Fill { at: (x, y), width, height, color } => {
                let path = Rect::from_xywh(*x, *y, *width, *height).and_then(|rectangle| {
                    let mut path = PathBuilder::new();
                    path.push_rect(rectangle);
                    path.finish()
                });
                surface.set_stroke(None);
                surface.set_fill(Some(color.fill()));
                draw_path(surface, path);
            }
            Self::Line { from, to, thickness, color } => {
                let mut path = PathBuilder::new();
                path.move_to(from.0, from.1);
                path.line_to(to.0, to.1);
                surface.set_fill(None);
                surface.set_stroke(Some(Stroke {
                    paint: color.color().into(),
                    width: *thickness,
                    ..Stroke::default()
                }));
                draw_path(surface, path.finish());
            }
        }
    }
}

/// Draws a path; `None` is a path without an extent.
fn draw_path(surface: &mut Surface<'_>, path: Option<Path>) {
    if let Some(path) = path {
        surface.draw_path(&path);
    }
}

impl TextStyle {
    pub(crate) const fn new(font: Font, size: f32, color: Color) -> Self {
        Self { font, size, color, align: Align::Left }
    }

    pub(crate) const fn align(self, align: Align) -> Self {
        Self { align, ..self }
    }

    pub(crate) fn is_right(self) -> bool {
        self.align == Align::Right
    }

    /// Returns the width of a text, at most [`WIDEST`].
    pub(crate) fn width(self, text: &str) -> f32 {
        self.font.line(text, self.size, WIDEST).width
    }

    /// Breaks a text into up to `most` lines.
    pub(crate) fn lines(self, text: &str, room: f32, most: usize) -> Vec<String> {
        self.font.lines(text, self.size, room, most).into_iter().map(|line| line.text).collect()
    }
}

impl Color {
    fn fill(self) -> Fill {
        Fill { paint: self.color().into(), opacity: NormalizedF32::ONE, rule: FillRule::default() }
    }

    fn color(self) -> rgb::Color {
        let [red, green, blue] = match self {
            Self::Text => [0x1f, 0x29, 0x33],
            Self::Muted => [0x61, 0x6e, 0x7c],
            Self::White => [0xff, 0xff, 0xff],
            Self::Rule => [0xd5, 0xda, 0xe0],
            Self::Zebra => [0xf4, 0xf6, 0xf8],
            Self::Title => [0x1f, 0x4e, 0x79],
            Self::ChartBar => [0x2f, 0x75, 0xa8],
            Self::NegativeBar => [0xc0, 0x57, 0x46],
        };
        rgb::Color::new(red, green, blue)
    }
}
