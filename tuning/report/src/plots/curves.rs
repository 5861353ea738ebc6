//! How metrics went while trials ran.

use crate::{
    frame::{self, Area, Plot, Sheet},
    model::{Report, Series, number},
    scale::Scale,
    svg::Canvas,
};

/// Curves of one metric.
const CURVES_MAX: usize = 100;
/// Metrics that are drawn.
const METRICS_MAX: usize = 6;
/// Points of one curve; of longer ones every n-th value is drawn.
const POINTS_MAX: usize = 100;
const CELL_HEIGHT: f64 = 240.0;

pub(super) fn plot(report: &Report, sheet: &Sheet<'_>) -> Plot {
    const TITLE: &str = "Learning curves";
    let metrics: Vec<(&str, Vec<(usize, &Series)>)> = report
        .metrics
        .iter()
        .map(|m| (m.as_str(), of_metric(report, m)))
        .filter(|(_, curves)| !curves.is_empty())
        .take(METRICS_MAX)
        .collect();
    if metrics.is_empty() {
        let why = report.curves_missing.as_deref();
        let why = why.unwrap_or("no trial has reported a metric more than once");
        return Plot::empty("curves", TITLE, why, sheet);
    }
    let columns = if sheet.width > 600.0 { metrics.len().min(2) } else { 1 };
    let cell = sheet.width / columns as f64;
    let mut canvas = Canvas::new(sheet.lettering);
    let mut left_off = false;
    for (n, (metric, curves)) in metrics.iter().enumerate() {
        let at = ((n % columns) as f64 * cell, (n / columns) as f64 * CELL_HEIGHT);
        left_off |= curves.len() > CURVES_MAX;
        draw(&mut canvas, report, at, cell, (metric, curves), sheet.room(POINTS_MAX));
    }
    let height = metrics.len().div_ceil(columns) as f64 * CELL_HEIGHT;
    let mut note = "Thick: the best trial.".to_owned();
    if left_off {
        note.push_str(&format!(" Only {CURVES_MAX} trials are drawn, the best among them."));
    }
    Plot::new("curves", TITLE, (sheet.width, height), canvas).with_note(note)
}

/// Trials with a curve of the metric, the best first.
fn of_metric<'a>(report: &'a Report, metric: &str) -> Vec<(usize, &'a Series)> {
    let rank: std::collections::HashMap<usize, usize> =
        report.ranked().iter().enumerate().map(|(rank, (i, _))| (*i, rank)).collect();
    let mut curves: Vec<(usize, &Series)> = report
        .trials
        .iter()
        .enumerate()
        .filter_map(|(i, t)| Some((i, t.series.iter().find(|s| s.metric == metric)?)))
        .filter(|(_, s)| s.values.iter().filter_map(|v| number(v)).nth(1).is_some())
        .collect();
    curves.sort_by_key(|(i, _)| rank.get(i).copied().unwrap_or(usize::MAX));
    curves
}

fn draw(
    canvas: &mut Canvas<'_>,
    report: &Report,
    (left, top): (f64, f64),
    cell: f64,
    (metric, curves): (&str, &[(usize, &Series)]),
    points_max: usize,
) {
    let curves = frame::evenly(curves, CURVES_MAX);
    let points: Vec<(usize, Vec<(usize, f64)>)> = curves
        .iter()
        .map(|(i, series)| {
            let values = series.values.iter().enumerate();
            let all: Vec<_> = values.filter_map(|(n, v)| Some((n, number(v)?))).collect();
            (*i, frame::evenly(&all, points_max))
        })
        .collect();
    let longest = points.iter().filter_map(|(_, p)| p.last()).map(|(n, _)| *n).max().unwrap_or(1);
    let y = Scale::measured(points.iter().flat_map(|(_, p)| p).map(|(_, v)| *v));
    let x = Scale::linear(0.0, longest.max(1) as f64);
    let inner = left + frame::gutter(&y, CELL_HEIGHT);
    let area = Area {
        left: inner,
        top: top + 8.0,
        width: left + cell - inner - 14.0,
        height: CELL_HEIGHT - 60.0,
    };
    frame::axes(canvas, area, (&x, "step"), (&y, ""));
    canvas.upwards("o", (left + 12.0, area.y(0.5)), &crate::svg::fit(metric, area.height));
    let best = report.best().map(|t| t.name.as_str());
    // The best is drawn last, on top.
    for (i, points) in points.iter().rev() {
        let place = |(n, v): &(usize, f64)| {
            Some((area.x(x.at_number(*n as f64)?), area.y(y.at_number(*v)?)))
        };
        let line: Vec<_> = points.iter().filter_map(place).collect();
        let class = if Some(report.trials[*i].name.as_str()) == best { "one" } else { "h" };
        canvas.path(class, &line, Some(*i));
    }
}
