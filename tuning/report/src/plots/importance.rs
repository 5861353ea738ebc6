//! Importance as bars.

use crate::{
    frame::{Plot, Sheet},
    importance::Importance,
    model::Report,
    svg::{Anchor, Canvas, fit, width},
};

/// Bars; what is less important than so many is not worth a look.
const BARS_MAX: usize = 20;
/// The height of a bar and the space below it.
const ROW: f64 = 24.0;

pub(super) fn plot(report: &Report, importance: &Importance, sheet: &Sheet<'_>) -> Plot {
    const TITLE: &str = "Importance of parameters";
    if importance.shares.is_empty() {
        let why = "too few trials have ended with a number to tell (4 are needed)";
        return Plot::empty("importance", TITLE, why, sheet);
    }
    let mut bars: Vec<(&str, f64, &str)> = importance
        .shares
        .iter()
        .take(BARS_MAX)
        .map(|s| (s.name.as_str(), s.share, "bar"))
        .collect();
    if report.parameters.len() > 1 {
        bars.push(("several together", importance.together, "bar2"));
    }
    let widest = bars.iter().map(|b| width(b.0)).fold(0.0, f64::max);
    let left = widest.min(sheet.width * 0.36) + 14.0;
    let room = sheet.width - left - 60.0;
    let largest = bars.iter().map(|b| b.1).fold(0.0, f64::max).max(1e-9);
    let mut canvas = Canvas::new(sheet.lettering);
    for (n, (name, share, class)) in bars.iter().enumerate() {
        let top = 6.0 + n as f64 * ROW;
        let length = room * share / largest;
        canvas.text("o", (left - 8.0, top + 13.0), Anchor::End, &fit(name, left - 14.0));
        canvas.rect(class, (left, top), (length.max(1.0), ROW - 7.0), "");
        let words = format!("{:.1} %", share * 100.0);
        canvas.text("o m", (left + length + 6.0, top + 13.0), Anchor::Start, &words);
    }
    let note = format!(
        "The share of the objective's variance that each parameter explains by itself, by functional \
         analysis of variance over a random forest of {} trials.",
        importance.trials
    );
    let size = (sheet.width, bars.len() as f64 * ROW + 12.0);
    Plot::new("importance", TITLE, size, canvas).with_note(note)
}
