//! What is expected over the two most important parameters.

use crate::{
    frame::{self, Area, Plot, Sheet},
    importance::Importance,
    model::Report,
    scale::{self, Scale},
    svg::{Anchor, Canvas, width},
};

/// Cells along an axis of numbers.
const CELLS: usize = 36;
/// Bands of colour, and lines between them.
const BANDS: usize = 10;
const DOTS_MAX: usize = 400;

pub(super) fn plot(report: &Report, importance: &Importance, sheet: &Sheet<'_>) -> Plot {
    const TITLE: &str = "Contours";
    let scale = |place: usize| report.scale(&report.parameters[place]);
    let pair: Vec<usize> = importance
        .shares
        .iter()
        .map(|s| s.place)
        .filter(|p| scale(*p).is_drawable())
        .take(2)
        .collect();
    let [a, b] = pair[..] else {
        let why = "two parameters and 4 trials that ended with a number are needed";
        return Plot::empty("contour", TITLE, why, sheet);
    };
    let (x, y) = (scale(a), scale(b));
    let cells = |s: &Scale| if let Scale::Places { values, .. } = s { values.len() } else { CELLS };
    let (across, down) = (cells(&x), cells(&y));
    let mut grid = importance.surface(a, b, (across, down));
    if !x.is_choice() && across == CELLS {
        smooth(&mut grid, true);
    }
    if !y.is_choice() && down == CELLS {
        smooth(&mut grid, false);
    }
    let height = (sheet.width * 0.62).clamp(260.0, 420.0);
    let left = frame::gutter(&y, height);
    let area = Area { left, top: 8.0, width: sheet.width - left - 78.0, height: height - 56.0 };
    let mut canvas = Canvas::new(sheet.lettering);
    let names = (&report.parameters[a].name, &report.parameters[b].name);
    frame::axes(&mut canvas, area, (&x, names.0), (&y, names.1));

    let all = || grid.iter().flatten().copied();
    let (low, high) =
        (all().fold(f64::INFINITY, f64::min), all().fold(f64::NEG_INFINITY, f64::max));
    let level = |v: f64| if high > low { (v - low) / (high - low) } else { 0.5 };
    let (w, h) = (area.width / across as f64, area.height / down as f64);
    for (i, column) in grid.iter().enumerate() {
        // Cells of one colour above one another are one rectangle: they are most of the picture.
        let mut bottom = 0;
        for cells in column.chunk_by(|a, b| band(level(*a)) == band(level(*b))) {
            let fill = format!(r#" fill="{}""#, colour(report, band(level(cells[0]))));
            bottom += cells.len();
            let at = (area.left + i as f64 * w, area.bottom() - bottom as f64 * h);
            canvas.rect("c", at, (w + 0.6, cells.len() as f64 * h + 0.6), &fill);
        }
    }
    if across == CELLS && down == CELLS && high > low {
        for n in 1..BANDS {
            isolines(&mut canvas, area, &grid, |v| level(v) - n as f64 / BANDS as f64);
        }
    }
    let ranked = report.ranked();
    let shown = frame::choice(&ranked, DOTS_MAX);
    let mut dots: Vec<usize> = shown.iter().map(|s| s.0).collect();
    dots.extend(ranked.first().map(|r| r.0)); // the best once more, on top
    for (n, i) in dots.iter().enumerate() {
        let at = |p: usize, s: &Scale| {
            report.trials[*i].parameters.get(&report.parameters[p].name).and_then(|v| s.at(v))
        };
        let (Some(ax), Some(ay)) = (at(a, &x), at(b, &y)) else { continue };
        let (class, r) = if n + 1 == dots.len() { ("wb", 5.5) } else { ("w", 2.6) };
        canvas.dot(class, (area.x(ax), area.y(ay)), r, *i);
    }
    legend(&mut canvas, report, area, spread(report, low, high));
    let note = format!(
        "What the forest expects of {} over {} and {}, the mean over all other parameters. Large dot: the best trial. {}",
        report.objective.metric,
        names.0,
        names.1,
        frame::of_all(shown.len(), ranked.len())
    );
    Plot::new("contour", TITLE, (sheet.width, height), canvas).with_note(note.trim().to_owned())
}

/// The forest learned from values around 0 and within 1; this is what its numbers stand for.
fn spread(report: &Report, low: f64, high: f64) -> (f64, f64) {
    let values: Vec<f64> = report.ranked().iter().map(|r| r.1).collect();
    let (scale, mean) = crate::importance::centre(&values);
    ((low + mean) * scale, (high + mean) * scale)
}

fn band(level: f64) -> usize {
    ((level * BANDS as f64) as usize).min(BANDS - 1)
}

/// Viridis in ten steps, bright where it is better.
fn colour(report: &Report, band: usize) -> &'static str {
    const COLOURS: [&str; BANDS] = [
        "#440154", "#482878", "#3e4989", "#31688e", "#26828e", "#1f9e89", "#35b779", "#6ece58",
        "#b5de2b", "#fde725",
    ];
    COLOURS[if report.objective.maximize { band } else { BANDS - 1 - band }]
}

/// A forest is a staircase: neighbours are averaged, so that lines show its shape and not its steps.
fn smooth(grid: &mut [Vec<f64>], across: bool) {
    let (columns, rows) = (grid.len(), grid.first().map_or(0, Vec::len));
    for _ in 0..3 {
        let old = grid.to_vec();
        for i in 0..columns {
            for j in 0..rows {
                let (before, after) = if across {
                    (old[i.saturating_sub(1)][j], old[(i + 1).min(columns - 1)][j])
                } else {
                    (old[i][j.saturating_sub(1)], old[i][(j + 1).min(rows - 1)])
                };
                grid[i][j] = (before + 2.0 * old[i][j] + after) / 4.0;
            }
        }
    }
}

/// Lines where `f` is 0, between the middles of cells (marching squares).
fn isolines(canvas: &mut Canvas<'_>, area: Area, grid: &[Vec<f64>], f: impl Fn(f64) -> f64) {
    let place = |i: f64, j: f64| {
        (area.x((i + 0.5) / grid.len() as f64), area.y((j + 0.5) / grid[0].len() as f64))
    };
    for i in 0..grid.len() - 1 {
        for j in 0..grid[0].len() - 1 {
            let corners = [(i, j), (i + 1, j), (i + 1, j + 1), (i, j + 1)];
            let mut crossed = Vec::new();
            for n in 0..4 {
                let (p, q) = (corners[n], corners[(n + 1) % 4]);
                let (a, b) = (f(grid[p.0][p.1]), f(grid[q.0][q.1]));
                if (a < 0.0) != (b < 0.0) {
                    let share = a / (a - b);
                    let mix =
                        |from: usize, to: usize| from as f64 + share * (to as f64 - from as f64);
                    crossed.push(place(mix(p.0, q.0), mix(p.1, q.1)));
                }
            }
            for ends in crossed.chunks_exact(2) {
                canvas.line("iso", ends[0], ends[1]);
            }
        }
    }
}

fn legend(canvas: &mut Canvas<'_>, report: &Report, area: Area, (low, high): (f64, f64)) {
    let left = area.left + area.width + 14.0;
    let step = area.height / BANDS as f64;
    for band in 0..BANDS {
        let fill = format!(r#" fill="{}""#, colour(report, band));
        let top = area.bottom() - (band + 1) as f64 * step;
        canvas.rect("c", (left, top), (12.0, step + 0.6), &fill);
    }
    for (at, v) in [(area.bottom(), low), (area.top + 10.0, high)] {
        let words = scale::digits(v, 3);
        let words = if width(&words) > 46.0 { scale::digits(v, 2) } else { words };
        canvas.text("o m", (left + 16.0, at), Anchor::Start, &words);
    }
}
