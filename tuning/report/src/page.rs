//! The report as one page, which opens from a file and asks nothing of the network.
//!
//! Plots are drawn twice, for wide and for narrow screens, and the style sheet shows one. The script finds
//! all trials as JSON in the page; without a script, plots and the best trials are there all the same.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::{
    export::{duration, time},
    frame::{Plot, Sheet, page_style},
    importance::Importance,
    model::{Report, State, Trial},
    plots::plots,
    scale::digits,
    svg::{Lettering, escape},
};

const STYLE: &str = include_str!("page/page.css");
const SCRIPT: &str = include_str!("page/page.js");
const WIDE: f64 = 920.0;
const NARROW: f64 = 350.0;
/// From so many trials on the script's data is packed: then it is most of the page.
const PACKED_FROM: usize = 1000;
/// Rows of the table that are there without a script.
const ROWS: usize = 50;

/// The page.
pub fn page(report: &Report, importance: &Importance) -> String {
    let mut html = String::new();
    let name = escape(&report.name);
    let style = page_style();
    let _ = write!(
        html,
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
         <meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'\">\
         <title>{name}</title>\n<style>{style}\n{STYLE}</style></head>\n<body><main>\n<h1>{name}</h1>\n"
    );
    summary(&mut html, report);
    let sheet = |width| Sheet { width, lettering: Lettering::Text };
    let wide = plots(report, importance, &sheet(WIDE));
    let narrow = plots(report, importance, &sheet(NARROW));
    for (wide, narrow) in wide.iter().zip(&narrow) {
        section(&mut html, wide, narrow);
    }
    table(&mut html, report);
    let data = data(report).to_string().replace('<', "\\u003c");
    let _ = write!(
        html,
        "</main>\n<div id=\"tip\" role=\"status\" hidden></div>\n\
         <script type=\"application/json\" id=\"data\">{data}</script>\n<script>{SCRIPT}</script>\n</body></html>\n"
    );
    html
}

fn section(html: &mut String, wide: &Plot, narrow: &Plot) {
    let (id, title, note) = (wide.id, escape(&wide.title), escape(&wide.note));
    let tools = match id {
        "parallel" => {
            "<p class=\"tools\"><label>In colour: the best <input type=\"range\" id=\"share\" min=\"1\" max=\"100\" value=\"10\"> \
             <output for=\"share\">10 %</output></label> <button type=\"button\" id=\"clear\" hidden>Clear the marks on axes</button> \
             <span class=\"m\">Drag along an axis to keep only the lines that cross there.</span></p>"
        }
        _ => "",
    };
    let _ = write!(
        html,
        "<section id=\"{id}\"><h2>{title}</h2>\n<p class=\"m\">{note}</p>{tools}\n<div class=\"wide\">{}</div><div class=\"narrow\">{}</div></section>\n",
        wide.inline(),
        narrow.inline()
    );
}

fn summary(html: &mut String, report: &Report) {
    let aim = if report.objective.maximize { "maximise" } else { "minimise" };
    let mut facts = vec![
        ("state", report.state.clone()),
        ("objective", format!("{aim} {}", report.objective.metric)),
        ("algorithm", report.algorithm.clone()),
    ];
    if let Some(goal) = report.objective.goal {
        facts.push(("goal", digits(goal, 6)));
    }
    let states: Vec<String> =
        report.states().iter().map(|(s, n)| format!("{n} {}", words(s.word()))).collect();
    let of = report.trials_max.map(|n| format!(" of {n}")).unwrap_or_default();
    let trials = format!("{}{of}: {}", report.trials.len(), states.join(", "));
    facts.push(("trials", if states.is_empty() { "none yet".into() } else { trials }));
    if let Some(start) = report.started_ms {
        facts.push(("started", time(start)));
        if let Some(end) = report.ended_ms {
            facts.push(("took", duration(end.saturating_sub(start) as f64 / 1e3)));
        }
    }
    let spent: f64 = report.trials.iter().filter_map(Trial::seconds).sum();
    if spent > 0.0 {
        facts.push(("in trials", duration(spent)));
    }
    if let Some(best) = report.best() {
        let value = best.objective.clone().unwrap_or_default();
        let _ = write!(
            html,
            "<div class=\"best\"><div><span class=\"m\">best {}</span><strong>{}</strong><span class=\"m\">{}</span></div><dl>",
            escape(&report.objective.metric),
            escape(&shown(&value)),
            escape(&best.name)
        );
        for parameter in &report.parameters {
            let value = best.parameters.get(&parameter.name).cloned().unwrap_or_default();
            let _ = write!(
                html,
                "<div><dt>{}</dt><dd>{}</dd></div>",
                escape(&parameter.name),
                escape(&shown(&value))
            );
        }
        html.push_str("</dl></div>\n");
    }
    html.push_str("<dl class=\"facts\">");
    for (name, value) in facts.iter().filter(|(_, value)| !value.is_empty()) {
        let _ = write!(html, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(value));
    }
    html.push_str("</dl>\n");
    if !report.message.is_empty() {
        let _ = writeln!(html, "<p class=\"m\">{}</p>", escape(&report.message));
    }
}

/// `EarlyStopped` as `early stopped`.
fn words(state: &str) -> String {
    let mut text = String::new();
    for letter in state.chars() {
        if letter.is_uppercase() && !text.is_empty() {
            text.push(' ');
        }
        text.extend(letter.to_lowercase());
    }
    text
}

/// Long decimals in six digits, anything else as it is.
fn shown(value: &str) -> String {
    match crate::model::number(value) {
        Some(number) if value.len() > 10 => digits(number, 6),
        _ => value.to_owned(),
    }
}

/// What the command line calls a trial's log.
fn log_command(report: &Report, trial: &str) -> String {
    match report.namespace.as_str() {
        "default" | "" => format!("mizzen logs trial/{trial}"),
        other => format!("mizzen logs trial/{trial} --namespace {other}"),
    }
}

fn table(html: &mut String, report: &Report) {
    html.push_str(
        "<section id=\"trials\"><h2>Trials</h2>\n<p class=\"tools\"><label>Find <input type=\"search\" id=\"find\" \
         placeholder=\"name, state, value\"></label> <span class=\"m\" id=\"count\"></span></p>\n\
         <div class=\"scroll\" tabindex=\"0\"><table><thead><tr>",
    );
    let mut heads = vec!["trial".to_owned(), "state".into(), report.objective.metric.clone()];
    heads.extend(report.parameters.iter().map(|p| p.name.clone()));
    heads.extend(report.metrics.iter().skip(1).map(|m| format!("{m} (latest)")));
    heads.extend(["seconds".to_owned(), "log".to_owned()]);
    let last = heads.len() - 1;
    for (n, head) in heads.iter().enumerate() {
        let head = escape(head);
        if n == last {
            let _ = write!(html, "<th>{head}</th>");
        } else {
            let _ = write!(
                html,
                "<th aria-sort=\"none\"><button type=\"button\" data-column=\"{n}\">{head}</button></th>"
            );
        }
    }
    html.push_str("</tr></thead><tbody id=\"rows\">");
    for trial in first(report) {
        html.push_str("<tr>");
        for cell in cells(report, trial) {
            let _ = write!(html, "<td>{}</td>", escape(&shown(&cell)));
        }
        let command = log_command(report, &trial.name);
        let _ = write!(html, "<td><code>{}</code></td></tr>", escape(&command));
    }
    html.push_str("</tbody></table></div>\n<p class=\"tools\" id=\"pages\"></p></section>\n");
}

/// The best trials, then those without a number.
fn first(report: &Report) -> Vec<&Trial> {
    let ranked = report.ranked();
    let known: std::collections::HashSet<usize> = ranked.iter().map(|r| r.0).collect();
    let others = (0..report.trials.len()).filter(|i| !known.contains(i));
    let order = ranked.iter().map(|r| r.0).chain(others);
    order.take(ROWS).map(|i| &report.trials[i]).collect()
}

fn cells(report: &Report, trial: &Trial) -> Vec<String> {
    let mut cells = vec![
        trial.name.clone(),
        trial.state.word().to_owned(),
        trial.objective.clone().unwrap_or_default(),
    ];
    let given = report.parameters.iter().map(|p| trial.parameters.get(&p.name));
    cells.extend(given.map(|v| v.cloned().unwrap_or_default()));
    for metric in report.metrics.iter().skip(1) {
        let found = trial.metrics.iter().find(|m| m.name == *metric);
        cells.push(found.map(|m| m.latest.clone()).unwrap_or_default());
    }
    cells.push(trial.seconds().map(|s| s.to_string()).unwrap_or_default());
    cells
}

/// What the script works with.
fn data(report: &Report) -> Value {
    let mut columns = vec!["trial".to_owned(), "state".into(), report.objective.metric.clone()];
    columns.extend(report.parameters.iter().map(|p| p.name.clone()));
    columns.extend(report.metrics.iter().skip(1).cloned());
    columns.push("seconds".into());
    let mut ranks = vec![Value::Null; report.trials.len()];
    for (rank, (i, _)) in report.ranked().iter().enumerate() {
        ranks[*i] = json!(rank);
    }
    let rows = report.trials.iter().map(|t| {
        let cells = cells(report, t);
        cells.iter().map(|c| shown(c)).collect::<Vec<_>>()
    });
    let rows: Vec<Vec<String>> = rows.collect();
    let reasons = report.trials.iter().map(|t| t.reason.as_str());
    let suffix = log_command(report, "\u{0}");
    let (before, after) = suffix.split_once('\u{0}').unwrap_or((&suffix, ""));
    let mut data = json!({ "columns": columns, "ranks": ranks,
        "parameters": report.parameters.len(), "log": [before, after] });
    if rows.len() > PACKED_FROM {
        let said = reasons.enumerate().filter(|(_, reason)| !reason.is_empty());
        data["reasons"] = said.map(|(n, reason)| (n.to_string(), json!(reason))).collect();
        data["packed"] = packed(&rows);
    } else {
        data["reasons"] = reasons.collect();
        data["rows"] = json!(rows);
    }
    data
}

/// Rows of many trials, each as one text: what all names begin with stands once, and states are numbers.
fn packed(rows: &[Vec<String>]) -> Value {
    let names = || rows.iter().filter_map(|row| row.first());
    let prefix = names().skip(1).fold(names().next().map_or("", String::as_str), |prefix, name| {
        let same = prefix.char_indices().zip(name.chars()).take_while(|((_, a), b)| a == b);
        &prefix[..same.last().map_or(0, |((at, letter), _)| at + letter.len_utf8())]
    });
    let words = State::ALL.map(State::word);
    let row = |row: &Vec<String>| {
        let cell = |(n, cell): (usize, &String)| match n {
            0 => cell[prefix.len()..].to_owned(),
            1 => words.iter().position(|word| word == cell).unwrap_or(0).to_string(),
            _ => cell.replace('\t', " "),
        };
        row.iter().enumerate().map(cell).collect::<Vec<_>>().join("\t")
    };
    json!({ "prefix": prefix, "words": words, "rows": rows.iter().map(row).collect::<Vec<_>>() })
}
