//! Pages in Prometheus' text format.

use mizzen_metrics_collector::Pages;
use proptest::prelude::*;

fn read(metrics: &[&str], pages: &[&str]) -> Vec<String> {
    let metrics: Vec<String> = metrics.iter().map(|m| (*m).to_owned()).collect();
    let mut reader = Pages::new(&metrics);
    let found = pages.iter().flat_map(|page| reader.read(page)).collect::<Vec<_>>();
    let time = |t: jiff::Timestamp| format!("@{t}");
    let text = |r: &mizzen_metrics_collector::MetricRecord| {
        format!("{}={}{}", r.name, r.value, r.timestamp.map_or(String::new(), time))
    };
    found.iter().map(text).collect()
}

#[test]
fn series_are_found_by_name_and_labels_and_told_when_they_change() {
    type Words<'a> = &'a [&'a str];
    #[rustfmt::skip]
    let cases: &[(&str, Words<'_>, Words<'_>, Words<'_>)] = &[
        // what the case shows              metrics                     pages                                            read
        ("a plain sample",                  &["loss"],                  &["# TYPE loss gauge\nloss 0.5\n"],              &["loss=0.5"]),
        ("a page that has not changed",     &["loss"],                  &["loss 0.5", "loss 0.5", "loss 0.25"],          &["loss=0.5", "loss=0.25"]),
        ("labels do not matter unasked",    &["loss"],                  &["loss{rank=\"0\"} 1e-3"],                      &["loss=1e-3"]),
        ("of several the first",            &["loss"],                  &["loss{rank=\"0\"} 1\nloss{rank=\"1\"} 2"],     &["loss=1"]),
        ("the one that is asked for",       &["loss{rank=\"1\"}"],      &["loss{rank=\"0\"} 1\nloss{rank=\"1\",x=\"y\"} 2"], &["loss{rank=\"1\"}=2"]),
        ("a brace within a label",          &["loss"],                  &["loss{a=\"}\\\"{\",} 3"],                      &["loss=3"]),
        ("another name that begins so",     &["loss"],                  &["loss_total 9\nloss 1"],                       &["loss=1"]),
        ("not-a-number and infinity",       &["loss", "acc"],           &["loss NaN\nacc +Inf"],                         &["loss=NaN", "acc=+Inf"]),
        ("a time in milliseconds",          &["loss"],                  &["loss 1 1500"],                                &["loss=1@1970-01-01T00:00:01.5Z"]),
        ("a time in seconds",               &["loss"],                  &["loss 1 1.5"],                                 &["loss=1@1970-01-01T00:00:01.5Z"]),
        ("the same at another time",        &["loss"],                  &["loss 1 1000", "loss 1 2000"],                 &["loss=1@1970-01-01T00:00:01Z", "loss=1@1970-01-01T00:00:02Z"]),
        ("lines that are no samples",       &["loss"],                  &["loss\nloss x\nloss{ 1\n{} 2\n<html>\nloss 4"], &["loss=4"]),
    ];
    for (shows, metrics, pages, want) in cases {
        assert_eq!(read(metrics, pages), *want, "{shows}");
    }
}

proptest! {
    #[test]
    fn any_page_is_borne(page in "\\PC{0,200}", metric in "\\PC{0,20}") {
        read(&[&metric, "loss"], &[&page, &format!("loss{{{page}}} 1\nloss 2")]);
    }
}
