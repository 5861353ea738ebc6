//! All trials as a table for other programs.

use serde_json::{Value, json};

use crate::{
    importance::Importance,
    model::{Report, Trial, number},
};

/// All trials as CSV, one a line (RFC 4180), with a column for each parameter and metric.
///
/// A cell that a spreadsheet would take for a formula gets an apostrophe before it; numbers stay as they
/// are. Where a text is not ASCII, a byte order mark tells spreadsheets that this is UTF-8.
pub fn csv(report: &Report) -> String {
    let mut header: Vec<String> =
        ["trial", "state", "reason", "started", "ended", "seconds", "objective"]
            .map(str::to_owned)
            .to_vec();
    header.extend(report.parameters.iter().map(|p| format!("parameter.{}", p.name)));
    for metric in &report.metrics {
        header.extend(["min", "max", "latest"].map(|part| format!("metric.{metric}.{part}")));
    }
    let mut text = String::new();
    line(&mut text, header.iter().map(String::as_str));
    for trial in &report.trials {
        let cells = cells(report, trial);
        line(&mut text, cells.iter().map(String::as_str));
    }
    if text.is_ascii() { text } else { format!("\u{feff}{text}") }
}

fn cells(report: &Report, trial: &Trial) -> Vec<String> {
    let seconds = trial.seconds().map(|s| s.to_string()).unwrap_or_default();
    let mut cells = vec![
        trial.name.clone(),
        trial.state.word().to_owned(),
        trial.reason.clone(),
        trial.started_ms.map(time).unwrap_or_default(),
        trial.ended_ms.map(time).unwrap_or_default(),
        seconds,
        trial.objective.clone().unwrap_or_default(),
    ];
    let given = report.parameters.iter().map(|p| trial.parameters.get(&p.name));
    cells.extend(given.map(|value| value.cloned().unwrap_or_default()));
    for metric in &report.metrics {
        let found = trial.metrics.iter().find(|m| m.name == *metric);
        let parts = found.map(|m| [&m.min, &m.max, &m.latest].map(String::clone));
        cells.extend(parts.unwrap_or_default());
    }
    cells
}

fn line<'a>(text: &mut String, cells: impl Iterator<Item = &'a str>) {
    for (i, cell) in cells.enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(&escaped(cell));
    }
    text.push_str("\r\n");
}

fn escaped(cell: &str) -> String {
    let is_formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r', '\n']);
    let cell = match is_formula && cell.parse::<f64>().is_err() {
        true => format!("'{cell}"),
        false => cell.to_owned(),
    };
    if cell.contains(['"', ',', '\n', '\r']) {
        return format!("\"{}\"", cell.replace('"', "\"\""));
    }
    cell
}

/// The whole report as JSON, with the importance of each parameter. Values are texts, as the trials
/// wrote them; times are RFC 3339; `value` is the objective where it is a number.
pub fn json(report: &Report, importance: &Importance) -> Value {
    let mut all = serde_json::to_value(report).expect("a report is plain data");
    all["started"] = json!(report.started_ms.map(time));
    all["ended"] = json!(report.ended_ms.map(time));
    all["best"] = json!(report.best().map(|t| &t.name));
    let shares = importance.shares.iter().map(|s| (s.name.clone(), json!(s.share)));
    all["importance"] = Value::Object(shares.collect());
    if let Some(object) = all.as_object_mut() {
        object.remove("startedMs");
        object.remove("endedMs");
    }
    let trials = all["trials"].as_array_mut().into_iter().flatten();
    for (shown, trial) in trials.zip(&report.trials) {
        shown["started"] = json!(trial.started_ms.map(time));
        shown["ended"] = json!(trial.ended_ms.map(time));
        shown["seconds"] = json!(trial.seconds());
        shown["value"] = json!(trial.objective.as_deref().and_then(number));
        if let Some(object) = shown.as_object_mut() {
            object.remove("startedMs");
            object.remove("endedMs");
        }
    }
    all
}

/// Milliseconds since 1970 as RFC 3339, in UTC; nothing where there is no such date.
pub(crate) fn time(ms: i64) -> String {
    jiff::Timestamp::from_millisecond(ms).map(|t| t.to_string()).unwrap_or_default()
}

/// A duration for people.
pub(crate) fn duration(seconds: f64) -> String {
    let whole = seconds.round().clamp(0.0, 1e12) as u64;
    match whole {
        _ if seconds < 10.0 => format!("{seconds:.1} s"),
        0..=99 => format!("{whole} s"),
        100..=5_999 => format!("{} min {:02} s", whole / 60, whole % 60),
        _ => format!("{} h {:02} min", whole / 3600, whole / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_never_formulas() {
        #[rustfmt::skip]
        let cases = [("plain", "plain"), ("a,b", "\"a,b\""), ("say \"x\"", "\"say \"\"x\"\"\""), ("two\nlines", "\"two\nlines\""),
                     ("-0.5", "-0.5"), ("+3", "+3"), ("-1e-3", "-1e-3"), ("=1+1", "'=1+1"), ("@SUM(A1)", "'@SUM(A1)"),
                     ("-2+3+cmd|' /C calc'!A0", "'-2+3+cmd|' /C calc'!A0"), ("\t=1", "'\t=1"), ("=a,\"b\"", "\"'=a,\"\"b\"\"\"")];
        for (cell, want) in cases {
            assert_eq!(escaped(cell), want);
        }
    }

    #[test]
    fn times_are_rfc_3339() {
        #[rustfmt::skip]
        let cases = [(0, "1970-01-01T00:00:00Z"), (1_700_000_000_123, "2023-11-14T22:13:20.123Z"), (i64::MAX, "")];
        for (ms, want) in cases {
            assert_eq!(time(ms), want);
        }
    }
}
