//! Metrics in a line of text.

use crate::MetricRecord;
use jiff::Timestamp;
use regex::Regex;
use std::sync::Arc;

/// Hands over every metric of a line: all matches of every filter, in order, whose name is one of
/// `metrics`. Lines without such a name in them are not searched.
pub(crate) fn parse(
    line: &str,
    metrics: &[Arc<str>],
    filters: &[Regex],
    mut record: impl FnMut(MetricRecord),
) {
    if !metrics.iter().any(|name| line.contains(&**name)) {
        return;
    }
    let timestamp = line.split_once(' ').and_then(|(first, _)| rfc3339(first));
    for captures in filters.iter().flat_map(|filter| filter.captures_iter(line)) {
        let group = |i| captures.get(i).map_or("", |group| group.as_str().trim());
        if let Some(name) = metrics.iter().find(|name| group(1) == &***name) {
            record(MetricRecord { name: name.clone(), value: group(2).into(), timestamp });
        }
    }
}

/// A moment in the form that Go's `RFC3339Nano` reads: date, `T`, time, and `Z` or an offset.
pub(crate) fn rfc3339(text: &str) -> Option<Timestamp> {
    let bytes = text.as_bytes();
    // jiff reads more than RFC 3339: without a `T`, without seconds, with a zone in brackets.
    let shaped = bytes.len() >= 20
        && [(4, b'-'), (7, b'-'), (10, b'T'), (13, b':'), (16, b':')]
            .iter()
            .all(|&(i, separator)| bytes[i] == separator);
    let (offset, zulu) = (bytes.len().checked_sub(6).map(|i| &bytes[i..]), bytes.ends_with(b"Z"));
    let offset = offset.is_some_and(|o| matches!(o[0], b'+' | b'-') && o[3] == b':');
    (shaped && (zulu || offset)).then(|| text.parse().ok()).flatten()
}
