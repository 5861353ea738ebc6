//! What is found in a trial's output, however it is cut into chunks.

use mizzen_metrics_collector::{
    Collector, CollectorOptions, Format, LINE_BYTES_MAX, MetricRecord, Observation, Observations,
    Strategy,
};
use mizzen_tuning_api::Direction;
use mizzen_types::Coded;
use proptest::prelude::*;
use proptest::strategy::Strategy as _;

fn options(metrics: &[&str], filters: &[&str], format: Format) -> CollectorOptions {
    let owned = |texts: &[&str]| texts.iter().map(|&t| t.to_owned()).collect();
    CollectorOptions { metrics: owned(metrics), filters: owned(filters), format }
}

fn text(metrics: &[&str]) -> Collector {
    Collector::new(options(metrics, &[], Format::Text)).expect("metrics to collect")
}

fn json(metrics: &[&str]) -> Collector {
    Collector::new(options(metrics, &[], Format::Json)).expect("metrics to collect")
}

fn collect(collector: &mut Collector, output: &[u8]) -> Vec<MetricRecord> {
    let mut records = collector.feed(output);
    records.extend(collector.finish());
    records
}

/// `name=value`, with `@time` if the record has one.
fn shown(records: &[MetricRecord]) -> Vec<String> {
    let time = |r: &MetricRecord| r.timestamp.map_or(String::new(), |t| format!("@{t}"));
    records.iter().map(|r| format!("{}={}{}", r.name, r.value, time(r))).collect()
}

#[test]
fn text_lines_are_read_by_katibs_rules() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &[&str])] = &[
        // what the case shows              output                                      records
        ("a plain line",                    "loss=0.5\n",                               &["loss=0.5"]),
        ("spaces around the sign",          "loss = 0.5\n",                             &["loss=0.5"]),
        ("several in a line, in order",     "loss=0.5 accuracy=0.9 loss=0.4\n",         &["loss=0.5", "accuracy=0.9", "loss=0.4"]),
        ("signs and exponents",             "loss=-1.5e-3\naccuracy=+.5\n",             &["loss=-1.5e-3", "accuracy=+.5"]),
        ("the last line needs no end",      "loss=1\nloss=2",                           &["loss=1", "loss=2"]),
        ("carriage returns",                "loss=1\r\nloss=2\rloss=3\n",               &["loss=1", "loss=2", "loss=3"]),
        ("other metrics are left out",      "val_loss=1 lossy=2 loss|x=3 epoch=4\n",    &[]),
        ("a word is an empty value",        "loss=nan\n",                               &["loss="]),
        ("a comma ends a value",            "{metricName: loss, loss=0.5, }\n",         &["loss=0.5"]),
        ("a time comes first",              "2024-03-01T10:20:30Z loss=1\n",            &["loss=1@2024-03-01T10:20:30Z"]),
        ("fractions and offsets",           "2024-03-01T10:20:30.25+02:00 loss=1\n",    &["loss=1@2024-03-01T08:20:30.25Z"]),
        ("a date alone is no time",         "2024-03-01 loss=1\n",                      &["loss=1"]),
        ("no zone, no time",                "2024-03-01T10:20:30 loss=1\n",             &["loss=1"]),
        ("a time elsewhere is no time",     "at 2024-03-01T10:20:30Z loss=1\n",         &["loss=1"]),
        ("an impossible time",              "2024-13-01T10:20:30Z loss=1\n",            &["loss=1"]),
        ("text in another script",          "训练loss=0.5 ✓ accuracy=1\n",               &["loss=0.5", "accuracy=1"]),
    ];
    for (shows, output, want) in cases {
        let records = collect(&mut text(&["loss", "accuracy"]), output.as_bytes());
        assert_eq!(shown(&records), *want, "{shows}");
    }
}

#[test]
fn custom_filters_apply_one_after_the_other() {
    let filters =
        [r"\{metricName: ([\w|-]+), metricValue: ((-?\d+)(\.\d+)?)\}", r"([\w ]+): ([0-9.]+)"];
    let options = options(&["loss", "valid_1 auc"], &filters, Format::Text);
    let mut collector = Collector::new(options).unwrap();
    let output = b"{metricName: loss, metricValue: 0.3634}\nvalid_1 auc: 0.9\nloss=7\n";
    let records = collect(&mut collector, output);
    assert_eq!(shown(&records), ["loss=0.3634", "valid_1 auc=0.9"]);
}

#[test]
fn json_lines_give_strings_and_numbers() {
    #[rustfmt::skip]
    let cases: &[(&str, &str, &[&str])] = &[
        // what the case shows              output                                              records
        ("a string, as Katib wants",        r#"{"loss": "0.5"}"#,                               &["loss=0.5"]),
        ("a number keeps its text",         r#"{"loss": 0.50, "accuracy": 1e-3}"#,              &["loss=0.50", "accuracy=1e-3"]),
        ("neither string nor number",       r#"{"loss": null, "accuracy": [1]}"#,               &[]),
        ("other keys",                      r#"{"epoch": 1, "checkpoint": {"loss": "2"}}"#,     &[]),
        ("a time as text",                  r#"{"timestamp": "2021-12-02T05:27:27Z", "loss": "1"}"#, &["loss=1@2021-12-02T05:27:27Z"]),
        ("a time as seconds",               r#"{"timestamp": 1638422847.25, "loss": "1"}"#,     &["loss=1@2021-12-02T05:27:27.25Z"]),
        ("a time that is none",             r#"{"timestamp": "today", "loss": "1"}"#,           &["loss=1"]),
        ("a time beyond time",              r#"{"timestamp": 1e300, "loss": "1"}"#,             &["loss=1"]),
        ("an escaped name",                 r#"{"lo\u0073s": "1"}"#,                            &["loss=1"]),
    ];
    for (shows, output, want) in cases {
        let mut collector = json(&["loss", "accuracy"]);
        let records = collect(&mut collector, output.as_bytes());
        assert_eq!(shown(&records), *want, "{shows}");
        assert_eq!(collector.skipped().lines, 0, "{shows}");
    }
}

#[test]
fn json_lines_that_are_not_are_counted_and_the_rest_is_read() {
    let mut collector = json(&["loss"]);
    let records = collect(
        &mut collector,
        b"{\"loss\": 1}\n  \nloading...\n[1]\n{\"loss\": NaN}\n{\"loss\": 2}\n",
    );
    assert_eq!(shown(&records), ["loss=1", "loss=2"]);
    let skipped = collector.skipped();
    assert_eq!((skipped.lines, skipped.first.as_ref().map(|f| f.0)), (3, Some(3)));
}

#[test]
fn a_line_beyond_the_limit_is_read_up_to_it() {
    let mut collector = text(&["loss"]);
    let mut output = b"loss=1 ".to_vec();
    output.resize(LINE_BYTES_MAX + 10, b'.');
    output.extend_from_slice(b" loss=2\nloss=3\n");
    assert_eq!(shown(&collect(&mut collector, &output)), ["loss=1", "loss=3"]);
    assert_eq!(collector.skipped().cut, 1);
}

#[test]
fn a_collector_that_cannot_work_says_why() {
    #[rustfmt::skip]
    let cases = [
        // what the case shows      options                                                     message
        ("nothing to collect",      options(&[""], &[], Format::Text),                          "no metric to collect; name the objective's in `objectiveMetricName`"),
        ("one group",               options(&["a"], &[r"(\w+)=(\d)", r"loss=(\d+)"], Format::Text), "`metricsFormat[1]`, `loss=(\\d+)`, has 1 of the two groups that it needs, for the metric's name and its value"),
        ("filters for JSON",        options(&["a"], &[r"(\w+)=(\d)"], Format::Json),            "`metricsFormat` has no meaning for format `JSON`; remove it or use `TEXT`"),
        ("no expression",           options(&["a"], &["(a"], Format::Text),                     "`metricsFormat[0]`, `(a`, is not a regular expression"),
    ];
    for (shows, options, want) in cases {
        let error = Collector::new(options).unwrap_err();
        assert_eq!(error.to_string(), want, "{shows}");
    }
    let error = Collector::new(options(&["a"], &["(a"], Format::Text)).unwrap_err();
    assert!(error.message().contains("unclosed group"), "the cause is kept: {}", error.message());
}

fn observe(records: &[(&str, Option<i64>)]) -> Observation {
    let mut observations = Observations::new(["loss", "accuracy"]);
    for (value, time) in records {
        observations.record(&MetricRecord {
            name: "loss".into(),
            value: (*value).into(),
            timestamp: time.map(|t| jiff::Timestamp::from_second(t).expect("a time in range")),
        });
    }
    observations.observe().remove(0)
}

#[test]
fn an_observation_holds_the_extremes_and_the_last_as_text() {
    type Case = (&'static str, &'static [(&'static str, Option<i64>)], [&'static str; 3]);
    #[rustfmt::skip]
    let cases: &[Case] = &[
        // what the case shows              values and times                                min             max             latest
        ("nothing was reported",            &[],                                            ["unavailable", "unavailable", "unavailable"]),
        ("one value is all three",          &[("0.50", None)],                              ["0.50", "0.50", "0.50"]),
        ("numbers compare as numbers",      &[("10", None), ("9", None), ("9.5", None)],    ["9", "10", "9.5"]),
        ("a word is only the latest",       &[("Genotype(x)", None)],                       ["unavailable", "unavailable", "Genotype(x)"]),
        ("an empty value likewise",         &[("1", None), ("", None)],                     ["1", "1", ""]),
        ("NaN is no extreme",               &[("NaN", None), ("2", None), ("NaN", None)],   ["2", "2", "NaN"]),
        ("infinity is",                     &[("1", None), ("inf", None)],                  ["1", "inf", "inf"]),
        ("the word for nothing is nothing", &[("1", None), ("unavailable", None)],          ["1", "1", "1"]),
        ("times beat order",                &[("1", Some(20)), ("2", Some(10))],            ["1", "2", "1"]),
        ("no time is before any",           &[("1", Some(20)), ("2", None)],                ["1", "2", "1"]),
        ("of one time the later line",      &[("1", Some(20)), ("2", Some(20))],            ["1", "2", "2"]),
    ];
    for (shows, records, want) in cases {
        let seen = observe(records);
        assert_eq!([&*seen.min, &*seen.max, &*seen.latest], *want, "{shows}");
    }
}

#[test]
fn a_strategy_chooses_the_value_that_counts() {
    let seen = observe(&[("3", None), ("1", None), ("2", None)]);
    for (name, want) in [("min", 1.0), ("max", 3.0), ("latest", 2.0)] {
        let strategy: Strategy = name.parse().unwrap();
        assert_eq!(seen.number(strategy), Some(want), "{strategy}");
    }
    assert_eq!(Strategy::default_for(Direction::Minimize), Strategy::Min);
    assert_eq!(Strategy::default_for(Direction::Maximize), Strategy::Max);
    assert_eq!(
        "median".parse::<Strategy>().unwrap_err().to_string(),
        "metric strategy `median` is unknown; use `min`, `max` or `latest`"
    );
    assert!(seen.is_available() && !observe(&[]).is_available());
    assert_eq!(observe(&[]).number(Strategy::Min), None);
}

/// Output with what is hard about it: cut metrics, all line ends, bytes that are no UTF-8.
fn any_output() -> impl prop::strategy::Strategy<Value = Vec<u8>> {
    let piece = prop::sample::select(vec![
        &b"loss=0.5"[..],
        b"loss",
        b"=",
        b"1e-3",
        b"\n",
        b"\r",
        b"\r\n",
        b" ",
        b"accuracy = .5",
        b"\xff\xfe",
        "é损".as_bytes(),
        b"2024-03-01T10:20:30Z ",
        b"{\"loss\": ",
        b"\"0.5\"}",
        b"{\"loss\": 1, \"accuracy\": \"2\"}",
        b"",
    ]);
    prop::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn any_chunking_gives_the_same_records(output in any_output(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10), is_json: bool) {
        let make = if is_json { json } else { text };
        let whole = collect(&mut make(&["loss", "accuracy"]), &output);
        let mut cuts: Vec<usize> = cuts.iter().map(|c| c.index(output.len() + 1)).collect();
        cuts.extend([0, output.len()]);
        cuts.sort_unstable();
        let mut collector = make(&["loss", "accuracy"]);
        let mut records: Vec<MetricRecord> = Vec::new();
        for pair in cuts.windows(2) {
            records.extend(collector.feed(&output[pair[0]..pair[1]]));
        }
        records.extend(collector.finish());
        prop_assert_eq!(records, whole);
    }

    #[test]
    fn every_reported_value_is_found(values in prop::collection::vec(-1e6f64..1e6, 1..20)) {
        let output: String = values.iter().enumerate().map(|(i, v)| format!("epoch {i}: loss={v:e}, step=3\n")).collect();
        let records = collect(&mut text(&["loss"]), output.as_bytes());
        let read: Vec<f64> = records.iter().map(|r| r.value.parse().unwrap()).collect();
        prop_assert_eq!(read, values);
    }
}
