//! The objective over each parameter by itself.

use crate::{
    frame::{self, Area, Plot, Sheet},
    importance::Importance,
    model::Report,
    scale::Scale,
    svg::Canvas,
};

/// Small plots; the most important come first.
const SLICES_MAX: usize = 12;
/// Dots in all; each small plot has its part of them.
const DOTS_MAX: usize = 2_400;
/// The least width of a small plot.
const CELL_MIN: f64 = 230.0;
const CELL_HEIGHT: f64 = 210.0;

pub(super) fn plot(report: &Report, importance: &Importance, sheet: &Sheet<'_>) -> Plot {
    const TITLE: &str = "Slices";
    let ranked = report.ranked();
    if ranked.is_empty() {
        return Plot::empty("slices", TITLE, super::NO_VALUES, sheet);
    }
    let rank = |p: usize| importance.shares.iter().position(|s| s.place == p).unwrap_or(p);
    let mut places: Vec<usize> = (0..report.parameters.len()).collect();
    places.sort_by_key(|p| rank(*p));
    let scales: Vec<(usize, Scale)> = places
        .into_iter()
        .map(|p| (p, report.scale(&report.parameters[p])))
        .filter(|(_, scale)| scale.is_drawable())
        .take(SLICES_MAX)
        .collect();
    if scales.is_empty() {
        return Plot::empty("slices", TITLE, "no parameter has an axis that can be drawn", sheet);
    }
    let columns = ((sheet.width / CELL_MIN) as usize).clamp(1, scales.len());
    let cell = sheet.width / columns as f64;
    let y = Scale::measured(ranked.iter().map(|r| r.1));
    let shown = frame::choice(&ranked, sheet.room(DOTS_MAX) / scales.len());
    let r = if shown.len() > 300 { 1.8 } else { 3.0 };
    let mut canvas = Canvas::new(sheet.lettering);
    for (n, (p, x)) in scales.iter().enumerate() {
        let (row, column) = (n / columns, n % columns);
        let left = column as f64 * cell + frame::gutter(&y, CELL_HEIGHT);
        let area = Area {
            left,
            top: row as f64 * CELL_HEIGHT + 8.0,
            width: (column + 1) as f64 * cell - left - 14.0,
            height: CELL_HEIGHT - 60.0,
        };
        let name = &report.parameters[*p].name;
        slice(&mut canvas, area, column as f64 * cell, (x, name), (&y, &report.objective.metric));
        for (i, value) in &shown {
            let at = report.trials[*i].parameters.get(name).and_then(|v| x.at(v));
            let (Some(at), Some(level)) = (at, y.at_number(*value)) else { continue };
            // Later trials are darker.
            let age = ["s0", "s1", "s2", "s3", "s4"][(i * 5 / report.trials.len()).min(4)];
            canvas.dot(age, (area.x(at + jitter(x, *i)), area.y(level)), r, *i);
        }
    }
    let height = scales.len().div_ceil(columns) as f64 * CELL_HEIGHT;
    let mut note = "Later trials are stronger in colour.".to_owned();
    note.push_str(&format!(" {}", frame::of_all(shown.len(), ranked.len())));
    Plot::new("slices", TITLE, (sheet.width, height), canvas).with_note(note.trim().to_owned())
}

/// Dots of one value are spread a little, so that many do not look like one.
fn jitter(scale: &Scale, i: usize) -> f64 {
    match scale {
        Scale::Places { values, .. } => {
            ((i * 29 % 17) as f64 / 16.0 - 0.5) * 0.45 / values.len() as f64
        }
        _ => 0.0,
    }
}

fn slice(
    canvas: &mut Canvas<'_>,
    area: Area,
    shift: f64,
    x: (&Scale, &str),
    (y, y_title): (&Scale, &str),
) {
    frame::axes(canvas, area, x, (y, ""));
    canvas.upwards("o", (shift + 12.0, area.y(0.5)), &crate::svg::fit(y_title, area.height));
}
