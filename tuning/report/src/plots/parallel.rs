//! Every trial as a line over all its parameters, the best ones in colour.

use crate::{
    frame::{self, Area, Plot, Sheet},
    importance::Importance,
    model::Report,
    scale::Scale,
    svg::{Anchor, Canvas, fit},
};

/// Lines that can still be told apart somewhat, and that a browser draws at once.
const LINES_MAX: usize = 400;
/// Axes side by side; those of least importance are left off.
const AXES_MAX: usize = 12;
/// The share of trials in colour.
const BEST: f64 = 0.1;

pub(super) fn plot(report: &Report, importance: &Importance, sheet: &Sheet<'_>) -> Plot {
    const TITLE: &str = "Parallel coordinates";
    let ranked = report.ranked();
    if ranked.is_empty() {
        return Plot::empty("parallel", TITLE, super::NO_VALUES, sheet);
    }
    let drawable = chosen(report, importance);
    let y = Scale::measured(ranked.iter().map(|r| r.1));
    let mut columns: Vec<(String, Scale)> = drawable
        .iter()
        .map(|p| (report.parameters[*p].name.clone(), report.scale(&report.parameters[*p])))
        .collect();
    columns.push((report.objective.metric.clone(), y));
    // Axes stand below one another's names where they would not fit side by side.
    let height = 300.0;
    let side = 34.0;
    let area =
        Area { left: side, top: 34.0, width: sheet.width - side - 62.0, height: height - 56.0 };
    let gap = if columns.len() > 1 { area.width / (columns.len() - 1) as f64 } else { 0.0 };
    let mut canvas = Canvas::new(sheet.lettering);

    let shown = frame::choice(&ranked, sheet.room(LINES_MAX));
    let best = ((ranked.len() as f64 * BEST).ceil() as usize).max(1);
    let rank: std::collections::HashMap<usize, usize> =
        ranked.iter().enumerate().map(|(rank, (i, _))| (*i, rank)).collect();
    let mut lines: Vec<(usize, Vec<(f64, f64)>)> = Vec::new();
    for (i, value) in &shown {
        let trial = &report.trials[*i];
        let last = columns.len() - 1;
        let place = |(n, (name, scale)): (usize, &(String, Scale))| {
            let at = if n == last {
                scale.at_number(*value)
            } else {
                trial.parameters.get(name).and_then(|v| scale.at(v))
            };
            Some((area.left + gap * n as f64, area.y(at?)))
        };
        lines.push((*i, columns.iter().enumerate().filter_map(place).collect()));
    }
    // The best are drawn last, on top.
    lines.sort_by_key(|(i, _)| std::cmp::Reverse(rank[i]));
    for (i, points) in &lines {
        let class = match rank[i] {
            0 => "one",
            r if r < best => "h",
            _ => "l",
        };
        canvas.path(class, points, Some(*i));
    }
    for (n, (name, scale)) in columns.iter().enumerate() {
        axis(&mut canvas, area, area.left + gap * n as f64, gap, n, (name, scale));
    }
    let hidden = report.parameters.len() - drawable.len();
    let mut note = format!("In colour: the best {best} of {}.", ranked.len());
    if hidden > 0 {
        note.push_str(&format!(" {hidden} parameters are not drawn: the least important ones, and those of too many values."));
    }
    note = format!("{note} {}", frame::of_all(shown.len(), ranked.len()));
    Plot::new("parallel", TITLE, (sheet.width, height), canvas).with_note(note.trim().to_owned())
}

/// The parameters that have an axis, in the order of the experiment.
fn chosen(report: &Report, importance: &Importance) -> Vec<usize> {
    let mut drawable: Vec<usize> = (0..report.parameters.len())
        .filter(|p| report.scale(&report.parameters[*p]).is_drawable())
        .collect();
    let rank = |p: &usize| importance.shares.iter().position(|s| s.place == *p);
    drawable.sort_by_key(|p| rank(p).unwrap_or(usize::MAX));
    drawable.truncate(AXES_MAX);
    drawable.sort_unstable();
    drawable
}

fn axis(
    canvas: &mut Canvas<'_>,
    area: Area,
    x: f64,
    gap: f64,
    n: usize,
    (name, scale): (&str, &Scale),
) {
    canvas.line("x", (x, area.top), (x, area.bottom()));
    // Names take turns in two rows, each with the room of two gaps.
    let row = if n.is_multiple_of(2) { 12.0 } else { 26.0 };
    let room = (gap * 1.9).min(if n == 0 { gap * 1.4 + 30.0 } else { f64::MAX });
    let anchor = if n == 0 { Anchor::Start } else { Anchor::Middle };
    let from = if n == 0 { 2.0 } else { x };
    canvas.text("o", (from, row), anchor, &fit(name, room.max(30.0)));
    let room = (gap - 8.0).clamp(18.0, 90.0);
    for (at, word) in scale.ticks(5) {
        canvas.line("x", (x - 3.0, area.y(at)), (x, area.y(at)));
        canvas.text("o m halo", (x + 4.0, area.y(at) + 4.0), Anchor::Start, &fit(&word, room));
    }
    let handle = format!(r#" data-axis="{n}""#);
    canvas.rect("k", (x - 8.0, area.top), (16.0, area.height), &handle);
}
