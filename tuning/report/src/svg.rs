//! Writing SVG: escaped text, colours by class, and text as outlines where no font will be at hand.

use std::{fmt, fmt::Write as _};

/// How text is written.
#[derive(Clone, Copy, Default)]
pub enum Lettering<'a> {
    /// As text, in the reader's own font.
    #[default]
    Text,
    /// As outlines out of a font, for programs that draw without fonts.
    Outlines(&'a Font<'a>),
}

/// A font to take outlines from.
pub struct Font<'a>(ttf_parser::Face<'a>);

impl<'a> Font<'a> {
    /// Reads a TrueType or OpenType font; nothing if it is none.
    pub fn parse(data: &'a [u8]) -> Option<Self> {
        ttf_parser::Face::parse(data, 0).ok().map(Self)
    }

    /// Whether it has the letters of English, which a font of signs alone lacks.
    pub fn has_latin(&self) -> bool {
        ('a'..='z').all(|letter| self.0.glyph_index(letter).is_some())
    }
}

impl fmt::Debug for Font<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Font({} glyphs)", self.0.number_of_glyphs())
    }
}

/// Where a text lies relative to its point.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Anchor {
    Start,
    Middle,
    End,
}

/// The height of text, in pixels.
pub(crate) const TEXT: f64 = 12.0;

/// A drawing under way. Coordinates are pixels, from the upper left.
pub(crate) struct Canvas<'a> {
    body: String,
    lettering: Lettering<'a>,
}

impl<'a> Canvas<'a> {
    pub(crate) fn new(lettering: Lettering<'a>) -> Self {
        Self { body: String::new(), lettering }
    }

    pub(crate) fn finish(self) -> String {
        self.body
    }

    pub(crate) fn line(&mut self, class: &str, from: (f64, f64), to: (f64, f64)) {
        let ((x1, y1), (x2, y2)) = ((px(from.0), px(from.1)), (px(to.0), px(to.1)));
        self.put(format_args!(r#"<path class="{class}" d="M{x1} {y1}L{x2} {y2}"/>"#));
    }

    /// A line through points; `trial` is what it stands for.
    pub(crate) fn path(&mut self, class: &str, points: &[(f64, f64)], trial: Option<usize>) {
        let mut d = String::new();
        for (i, (x, y)) in points.iter().enumerate() {
            let _ = write!(d, "{}{} {}", if i == 0 { "M" } else { "L" }, px(*x), px(*y));
        }
        let of = trial.map(|t| format!(r#" data-t="{t}""#)).unwrap_or_default();
        self.put(format_args!(r#"<path class="{class}"{of} d="{d}"/>"#));
    }

    /// A dot; `trial` is what it stands for.
    pub(crate) fn dot(&mut self, class: &str, at: (f64, f64), r: f64, trial: usize) {
        let (x, y, r) = (px(at.0), px(at.1), px(r));
        self.put(format_args!(
            r#"<circle class="{class}" cx="{x}" cy="{y}" r="{r}" data-t="{trial}"/>"#
        ));
    }

    pub(crate) fn rect(&mut self, class: &str, at: (f64, f64), size: (f64, f64), extra: &str) {
        let (x, y, w, h) = (px(at.0), px(at.1), px(size.0.max(0.0)), px(size.1.max(0.0)));
        self.put(format_args!(
            r#"<rect class="{class}" x="{x}" y="{y}" width="{w}" height="{h}"{extra}/>"#
        ));
    }

    /// Text with its base line at a point.
    pub(crate) fn text(&mut self, class: &str, at: (f64, f64), anchor: Anchor, words: &str) {
        self.words(class, at, anchor, words, false);
    }

    /// Text that runs upwards.
    pub(crate) fn upwards(&mut self, class: &str, at: (f64, f64), words: &str) {
        self.words(class, at, Anchor::Middle, words, true);
    }

    fn words(&mut self, class: &str, at: (f64, f64), anchor: Anchor, words: &str, up: bool) {
        let (x, y) = (px(at.0), px(at.1));
        if let Lettering::Outlines(font) = self.lettering {
            let (d, width) = outlines(font, words);
            let shift = match anchor {
                Anchor::Start => 0.0,
                Anchor::Middle => -width / 2.0,
                Anchor::End => -width,
            };
            let turn = if up { " rotate(-90)" } else { "" };
            let shift = px(shift);
            return self.put(format_args!(
                r#"<path class="{class}" transform="translate({x} {y}){turn} translate({shift} 0)" d="{d}"/>"#
            ));
        }
        let anchor = match anchor {
            Anchor::Start => "",
            Anchor::Middle => r#" text-anchor="middle""#,
            Anchor::End => r#" text-anchor="end""#,
        };
        let turn = if up { format!(r#" transform="rotate(-90 {x} {y})""#) } else { String::new() };
        let words = escape(words);
        self.put(format_args!(
            r#"<text class="{class}" x="{x}" y="{y}"{anchor}{turn}>{words}</text>"#
        ));
    }

    fn put(&mut self, element: fmt::Arguments<'_>) {
        let _ = self.body.write_fmt(element); // a String takes everything
        self.body.push('\n');
    }
}

/// A coordinate, to a tenth of a pixel.
pub(crate) fn px(v: f64) -> String {
    let v = (v * 10.0).round() / 10.0;
    if v.is_finite() { format!("{}", v + 0.0) } else { "0".to_owned() }
}

/// The path of a text at the origin, and its width.
fn outlines(font: &Font<'_>, words: &str) -> (String, f64) {
    let face = &font.0;
    let scale = TEXT / f64::from(face.units_per_em().max(1));
    let mut pen = Pen { d: String::new(), scale, x: 0.0 };
    for letter in words.chars() {
        // Glyph 0 is the font's own sign for a letter that it lacks.
        let glyph = face.glyph_index(letter).unwrap_or_default();
        let _ = face.outline_glyph(glyph, &mut pen); // a space has none
        pen.x += f64::from(face.glyph_hor_advance(glyph).unwrap_or_default()) * scale;
    }
    (pen.d, pen.x)
}

struct Pen {
    d: String,
    scale: f64,
    x: f64,
}

impl Pen {
    fn put(&mut self, command: char, points: &[(f32, f32)]) {
        self.d.push(command);
        for (x, y) in points {
            let (x, y) = (self.x + f64::from(*x) * self.scale, -f64::from(*y) * self.scale);
            let _ = write!(self.d, "{x:.2} {y:.2} ");
        }
    }
}

impl ttf_parser::OutlineBuilder for Pen {
    fn move_to(&mut self, x: f32, y: f32) {
        self.put('M', &[(x, y)]);
    }

    fn line_to(&mut self, x: f32, y: f32) {
        self.put('L', &[(x, y)]);
    }

    fn quad_to(&mut self, x1: f32, y1: f32, x: f32, y: f32) {
        self.put('Q', &[(x1, y1), (x, y)]);
    }

    fn curve_to(&mut self, x1: f32, y1: f32, x2: f32, y2: f32, x: f32, y: f32) {
        self.put('C', &[(x1, y1), (x2, y2), (x, y)]);
    }

    fn close(&mut self) {
        self.d.push('Z');
    }
}

/// Text as it may stand in XML and HTML, between tags and in quotes. What XML cannot hold at all is
/// shown as a replacement sign.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\t' | '\n' | '\r' => out.push(' '),
            c if c < ' ' || matches!(c, '\u{fffe}' | '\u{ffff}') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

/// About how wide a text is, in pixels: what fonts without serifs come to.
pub(crate) fn width(words: &str) -> f64 {
    let em = |c: char| match c {
        'i' | 'j' | 'l' | 'I' | '.' | ',' | ':' | ';' | '\'' | '|' | '!' | '(' | ')' | ' ' => 0.34,
        'm' | 'w' | 'M' | 'W' | '%' | '@' => 0.92,
        'A'..='Z' => 0.7,
        c if c.is_ascii() => 0.58,
        c if c as u32 >= 0x1100 => 1.0,
        _ => 0.65,
    };
    words.chars().map(em).sum::<f64>() * TEXT
}

/// The beginning of a text that fits a width, with an ellipsis where something was left off.
pub(crate) fn fit(words: &str, room: f64) -> String {
    if width(words) <= room {
        return words.to_owned();
    }
    let mut cut = String::new();
    for letter in words.chars() {
        if width(&cut) + width(&letter.to_string()) + TEXT * 0.9 > room {
            break;
        }
        cut.push(letter);
    }
    format!("{}…", cut.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_escaped_and_cut_to_its_room() {
        assert_eq!(
            escape("<a href='x'>&\"\u{1}\n"),
            "&lt;a href=&#39;x&#39;&gt;&amp;&quot;\u{fffd} "
        );
        assert_eq!(fit("short", 100.0), "short");
        let cut = fit("a-name-that-is-far-too-long-for-this", 80.0);
        assert!(cut.ends_with('…') && width(&cut) <= 80.0 && cut.starts_with("a-name"), "{cut}");
        assert_eq!(fit("anything", 0.0), "…");
    }

    #[test]
    fn what_is_no_font_is_refused() {
        assert!(Font::parse(b"").is_none() && Font::parse(&[0; 64]).is_none());
    }
}
