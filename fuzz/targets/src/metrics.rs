//! What trials leave of their metrics: output, event files, pages.

use mizzen_metrics_collector::{Collector, CollectorOptions, EventFile, Format, Pages};

use crate::bounded::bounded_by;

/// A metric of any directory, and one of a directory alone.
const METRICS: [&str; 2] = ["loss", "train/accuracy"];

/// Records that are found are as many as were written, and each has its texts.
const FLOOR: u64 = 1 << 20;

fn metrics() -> Vec<String> {
    METRICS.map(str::to_owned).to_vec()
}

/// An event file, whole and in pieces.
pub(crate) fn events(data: &[u8]) -> bool {
    let whole = bounded_by(FLOOR, data.len(), || {
        let mut file = EventFile::new(&metrics(), "logs/train");
        (file.feed(data), file.skipped())
    });
    let mut file = EventFile::new(&metrics(), "logs/train");
    let pieces: Vec<_> = data.chunks(7).flat_map(|piece| file.feed(piece)).collect();
    assert_eq!((&pieces, file.skipped()), (&whole.0, whole.1), "in pieces it is the same");
    assert!(pieces.iter().all(|record| METRICS.contains(&&*record.name)));
    !pieces.is_empty()
}

/// A page of Prometheus' or OpenMetrics' text.
pub(crate) fn page(data: &[u8]) -> bool {
    let text = String::from_utf8_lossy(data);
    let names = [metrics(), vec!["loss{phase=\"val\"}".to_owned()]].concat();
    let mut pages = Pages::new(&names);
    let found = bounded_by(FLOOR, data.len(), || pages.read(&text));
    assert!(found.len() <= names.len(), "each metric at most once a page");
    assert!(found.iter().all(|record| names.contains(&record.name.to_string())));
    assert!(pages.read(&text).is_empty(), "the same page again has no news");
    !found.is_empty()
}

/// A trial's output, as text or as JSON by the first byte, whole and in pieces.
pub(crate) fn output(data: &[u8]) -> bool {
    let Some((first, data)) = data.split_first() else { return false };
    let format = if first % 2 == 0 { Format::Text } else { Format::Json };
    let collector = || {
        let options = CollectorOptions { metrics: metrics(), filters: vec![], format };
        Collector::new(options).expect("metrics are named and the filter is the default one")
    };
    let whole = bounded_by(FLOOR, data.len(), || {
        let mut whole = collector();
        let mut found = whole.feed(data);
        found.extend(whole.finish());
        found
    });
    let mut pieces = collector();
    let mut found: Vec<_> = data.chunks(7).flat_map(|piece| pieces.feed(piece)).collect();
    found.extend(pieces.finish());
    assert_eq!(found, whole, "in pieces it is the same");
    !found.is_empty()
}
