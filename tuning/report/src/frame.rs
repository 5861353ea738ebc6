//! What the plots share: a sheet to draw on, axes, colours and the standing of a plot by itself.

use crate::{
    scale::Scale,
    svg::{Anchor, Canvas, Lettering, TEXT, escape, fit, px, width},
};

/// What a plot is drawn for.
#[derive(Clone, Copy)]
pub struct Sheet<'a> {
    /// How wide it is, in pixels.
    pub width: f64,
    /// How text is written.
    pub lettering: Lettering<'a>,
}

impl Sheet<'_> {
    /// How much of something a plot shows here that shows so much of it on a wide sheet.
    pub(crate) fn room(&self, wide: usize) -> usize {
        if self.width > 600.0 { wide } else { wide / 2 }
    }
}

/// One plot.
#[derive(Clone, Debug)]
pub struct Plot {
    /// A word for files and addresses.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// What a reader should know.
    pub note: String,
    /// Its size in pixels.
    pub size: (f64, f64),
    /// Its elements.
    pub(crate) body: String,
}

/// Colours by name, in light and in dark.
const COLOURS: &[(&str, &str, &str)] = &[
    ("page", "#ffffff", "#14171c"),
    ("fg", "#1f2328", "#e6e8eb"),
    ("mute", "#59636e", "#9aa4af"),
    ("grid", "#dfe3e8", "#2d333b"),
    ("faint", "#b9c1cb", "#444d58"),
    ("point", "#2f6fd0", "#6ea8fe"),
    ("best", "#c2410c", "#ff9b5c"),
    ("bad", "#b42318", "#ff8a80"),
    ("s0", "#a9c4ee", "#2c4a7c"),
    ("s1", "#7ea6e4", "#3d66a8"),
    ("s2", "#5388da", "#4f82d2"),
    ("s3", "#2f6fd0", "#6ea8fe"),
    ("s4", "#174a9c", "#b3d1ff"),
];

/// How classes look; `$name` is a colour.
const STYLE: &str = "text,.o{fill:$fg;stroke:none;font:12px system-ui,-apple-system,'Segoe UI',Roboto,sans-serif}\
text.m,.o.m{fill:$mute}.halo{stroke:$page;stroke-width:3px;stroke-linejoin:round;paint-order:stroke}.g{stroke:$grid;stroke-width:1;fill:none}.x{stroke:$mute;stroke-width:1;fill:none}\
.p{fill:$point;fill-opacity:.75}.q{fill:none;stroke:$bad;stroke-width:1.5}\
.b{fill:none;stroke:$best;stroke-width:2}.bp{fill:$best}.bar{fill:$point}.bar2{fill:$faint}\
.goal{stroke:$best;stroke-width:1;stroke-dasharray:4 4;fill:none}\
.l{fill:none;stroke:$faint;stroke-width:1;stroke-opacity:.55}.h{fill:none;stroke:$point;stroke-width:1.4;stroke-opacity:.85}\
.one{fill:none;stroke:$best;stroke-width:2.2}.iso{fill:none;stroke:#fff;stroke-opacity:.55;stroke-width:1}\
.s0{fill:$s0}.s1{fill:$s1}.s2{fill:$s2}.s3{fill:$s3}.s4{fill:$s4}.w{fill:#fff;stroke:#14171c;stroke-width:1}\
.wb{fill:#ff9b5c;stroke:#14171c;stroke-width:1.5}.k{fill:transparent}";

/// The style of plots inside a page, whose colours are variables there.
pub(crate) fn page_style() -> String {
    let set = |pick: fn(&(&str, &str, &str)) -> String| -> String {
        COLOURS.iter().map(|c| format!("--{}:{};", c.0, pick(c))).collect()
    };
    let (light, dark) = (set(|c| c.1.to_owned()), set(|c| c.2.to_owned()));
    let style = coloured(|c| format!("var(--{})", c.0));
    format!(":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}{style}")
}

fn coloured(pick: impl Fn(&(&str, &str, &str)) -> String) -> String {
    let mut names: Vec<_> = COLOURS.iter().collect();
    // Longer names first: one may begin with another.
    names.sort_by_key(|c| std::cmp::Reverse(c.0.len()));
    names.into_iter().fold(STYLE.to_owned(), |s, c| s.replace(&format!("${}", c.0), &pick(c)))
}

impl Plot {
    pub(crate) fn new(
        id: &'static str,
        title: impl Into<String>,
        size: (f64, f64),
        canvas: Canvas<'_>,
    ) -> Self {
        Self { id, title: title.into(), note: String::new(), size, body: canvas.finish() }
    }

    /// A plot without data says why.
    pub(crate) fn empty(id: &'static str, title: &str, why: &str, sheet: &Sheet<'_>) -> Self {
        let (words, height) = (fit(why, sheet.width - 16.0), 60.0);
        let mut canvas = Canvas::new(sheet.lettering);
        canvas.text("o m", (sheet.width / 2.0, height / 2.0 + 4.0), Anchor::Middle, &words);
        Self::new(id, title, (sheet.width, height), canvas)
    }

    pub(crate) fn with_note(mut self, note: impl Into<String>) -> Self {
        self.note = note.into();
        self
    }

    /// The plot as a part of a page; the page has the style.
    pub(crate) fn inline(&self) -> String {
        let (w, h) = (px(self.size.0), px(self.size.1));
        format!(
            r#"<svg viewBox="0 0 {w} {h}" width="{w}" height="{h}" role="img" tabindex="0" aria-label="{}" data-plot="{}">{}{}</svg>"#,
            escape(&self.title),
            self.id,
            "\n",
            self.body
        )
    }

    /// The plot as a file of its own, light, with its title above.
    pub fn standalone(&self, lettering: Lettering<'_>) -> String {
        const HEAD: f64 = 30.0;
        let mut head = Canvas::new(lettering);
        head.text("o", (8.0, 20.0), Anchor::Start, &fit(&self.title, self.size.0 - 16.0));
        let (w, h) = (px(self.size.0), px(self.size.1 + HEAD));
        let style = coloured(|c| c.1.to_owned()).replace("transparent", "none");
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {w} {h}\" width=\"{w}\" height=\"{h}\">\n\
             <title>{}</title>\n<style>{style}</style>\n\
             <rect width=\"{w}\" height=\"{h}\" fill=\"#ffffff\"/>\n{}<g transform=\"translate(0 {HEAD})\">\n{}</g></svg>\n",
            escape(&self.title),
            head.finish(),
            self.body
        )
    }
}

/// A rectangle to plot in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Area {
    pub(crate) left: f64,
    pub(crate) top: f64,
    pub(crate) width: f64,
    pub(crate) height: f64,
}

impl Area {
    pub(crate) fn x(&self, share: f64) -> f64 {
        self.left + share * self.width
    }

    pub(crate) fn y(&self, share: f64) -> f64 {
        self.top + (1.0 - share) * self.height
    }

    pub(crate) fn bottom(&self) -> f64 {
        self.top + self.height
    }
}

/// Room for the words of a vertical axis.
pub(crate) fn gutter(scale: &Scale, height: f64) -> f64 {
    let widest = scale.ticks(marks(height, 46.0)).iter().map(|(_, w)| width(w)).fold(0.0, f64::max);
    widest.min(110.0) + 26.0
}

fn marks(length: f64, each: f64) -> usize {
    ((length / each) as usize).clamp(2, 10)
}

/// Titles of axes that count: nothing lies between two of their numbers.
const COUNTED: [&str; 2] = ["trial", "step"];

/// Marks and words beside and below an area.
pub(crate) fn axes(
    canvas: &mut Canvas<'_>,
    area: Area,
    (x, x_title): (&Scale, &str),
    (y, y_title): (&Scale, &str),
) {
    for (at, word) in y.ticks(marks(area.height, 46.0)) {
        let level = area.y(at);
        canvas.line("g", (area.left, level), (area.left + area.width, level));
        canvas.text("o m", (area.left - 6.0, level + 4.0), Anchor::End, &fit(&word, 104.0));
    }
    let mut free = f64::NEG_INFINITY;
    let counts = COUNTED.contains(&x_title);
    let ticks = x.ticks(marks(area.width, 80.0)).into_iter();
    for (at, word) in ticks.filter(|(_, word)| !counts || !word.contains('.')) {
        let word = fit(&word, 90.0);
        let (place, half) = (area.x(at), width(&word) / 2.0);
        canvas.line("g", (place, area.top), (place, area.bottom()));
        // Words that would touch the one before are left off.
        if place - half > free && place + half < area.left + area.width + area.left.min(30.0) {
            canvas.text("o m", (place, area.bottom() + 16.0), Anchor::Middle, &word);
            free = place + half + 6.0;
        }
    }
    let middle = (area.x(0.5), area.bottom() + 34.0);
    canvas.text("o", middle, Anchor::Middle, &fit(x_title, area.width));
    let side = (TEXT, area.y(0.5));
    canvas.upwards("o", side, &fit(y_title, area.height));
}

/// `count` of `all`, evenly, the first and the last among them.
pub(crate) fn evenly<T: Copy>(all: &[T], count: usize) -> Vec<T> {
    if all.len() <= count || count < 2 {
        return all.to_vec();
    }
    (0..count).map(|i| all[i * (all.len() - 1) / (count - 1)]).collect()
}

/// The best and an even choice of the rest: at most `count` trials, in the order of the trials.
pub(crate) fn choice(ranked: &[(usize, f64)], count: usize) -> Vec<(usize, f64)> {
    let best = ranked.len().min(count / 4);
    let mut chosen = ranked[..best].to_vec();
    let mut rest = ranked[best..].to_vec();
    rest.sort_by_key(|(i, _)| *i);
    chosen.extend(evenly(&rest, count - best));
    chosen.sort_by_key(|(i, _)| *i);
    chosen
}

/// What to say where not all trials are drawn.
pub(crate) fn of_all(shown: usize, all: usize) -> String {
    if shown < all {
        format!("{shown} of {all} trials are drawn, the best among them.")
    } else {
        String::new()
    }
}
