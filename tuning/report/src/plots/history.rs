//! What each trial came to, and the best so far.

use crate::{
    frame::{self, Area, Plot, Sheet},
    model::{Report, State},
    scale::{Scale, digits},
    svg::Canvas,
};

/// Dots that a browser moves without delay; the line of the best is drawn whole.
const DOTS_MAX: usize = 2_000;

pub(super) fn plot(report: &Report, sheet: &Sheet<'_>) -> Plot {
    let title = format!("History of {}", report.objective.metric);
    let ranked = report.ranked();
    if ranked.is_empty() {
        return Plot::empty("history", &title, super::NO_VALUES, sheet);
    }
    let goal = report.objective.goal.filter(|g| g.is_finite());
    let values = || ranked.iter().map(|r| r.1);
    let near = goal.filter(|g| is_near(*g, values()));
    let y = Scale::measured(values());
    let y = near.into_iter().fold(y, Scale::reaching);
    let x = Scale::linear(1.0, (report.trials.len() as f64).max(2.0));
    let height = 280.0;
    let left = frame::gutter(&y, height);
    let area = Area { left, top: 8.0, width: sheet.width - left - 12.0, height: height - 52.0 };
    let mut canvas = Canvas::new(sheet.lettering);
    frame::axes(&mut canvas, area, (&x, "trial"), (&y, &report.objective.metric));
    let at = |(i, v): (usize, f64)| {
        Some((area.x(x.at_number(i as f64 + 1.0)?), area.y(y.at_number(v)?)))
    };
    // Zero and less have no place on an axis of decades.
    let near = near.filter(|g| *g > 0.0 || !matches!(y, Scale::Log { .. }));
    if let Some(level) = near.and_then(|g| y.at_number(g)) {
        let level = area.y(level);
        canvas.line("goal", (area.left, level), (area.left + area.width, level));
    }
    let shown = frame::choice(&ranked, sheet.room(DOTS_MAX));
    let r = if shown.len() > 400 { 2.0 } else { 3.5 };
    for (i, v) in &shown {
        let class = if report.trials[*i].state == State::EarlyStopped { "q" } else { "p" };
        if let Some(place) = at((*i, *v)) {
            canvas.dot(class, place, r, *i);
        }
    }
    canvas.path("b", &staircase(report, &ranked, at, area), None);
    if let Some(place) = ranked.first().and_then(|best| at(*best)) {
        canvas.dot("bp", place, 5.0, ranked[0].0);
    }
    let mut note = vec!["The line is the best so far.".to_owned()];
    match (goal, near) {
        (Some(_), Some(_)) => note.push("Dashed: the goal.".to_owned()),
        (Some(goal), None) => note.push(format!("The goal, {}, lies far off.", digits(goal, 4))),
        (None, _) => {}
    }
    if report.trials.iter().any(|t| t.state == State::EarlyStopped) {
        note.push("Rings: stopped early.".to_owned());
    }
    note.push(frame::of_all(shown.len(), ranked.len()));
    Plot::new("history", title, (sheet.width, height), canvas).with_note(note.join(" "))
}

/// Whether a goal can share an axis with values and leave them half of it.
fn is_near(goal: f64, values: impl Iterator<Item = f64>) -> bool {
    let (low, high) =
        values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    let span = high / 2.0 - low / 2.0;
    span == 0.0 || (low / 2.0 - goal / 2.0).max(goal / 2.0 - high / 2.0) <= span
}

/// The best so far, as steps that end at the right edge.
fn staircase(
    report: &Report,
    ranked: &[(usize, f64)],
    at: impl Fn((usize, f64)) -> Option<(f64, f64)>,
    area: Area,
) -> Vec<(f64, f64)> {
    let mut made = ranked.to_vec();
    made.sort_by_key(|(i, _)| *i);
    let mut steps: Vec<(f64, f64)> = Vec::new();
    let mut best: Option<f64> = None;
    for (i, v) in made {
        if best.is_some_and(|b| !report.better(v, b)) {
            continue;
        }
        let Some(place) = at((i, v)) else { continue };
        if let Some((_, level)) = steps.last().copied() {
            steps.push((place.0, level));
        }
        steps.push(place);
        best = Some(v);
    }
    if let Some((_, level)) = steps.last().copied() {
        steps.push((area.left + area.width, level));
    }
    steps
}
