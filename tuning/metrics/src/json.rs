//! Metrics in a line of JSON.

use crate::MetricRecord;
use crate::text::rfc3339;
use jiff::Timestamp;
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Arc;

/// The key that holds a line's time: RFC 3339 text, or seconds since 1970.
const TIMESTAMP: &str = "timestamp";

/// Hands over every metric of an object, in the order of `metrics`: strings by their content,
/// numbers by their text. Other values are not metrics.
///
/// # Errors
/// The parser's words if the line is not a JSON object.
pub(crate) fn parse(
    line: &str,
    metrics: &[Arc<str>],
    mut record: impl FnMut(MetricRecord),
) -> Result<(), String> {
    if line.trim().is_empty() {
        return Ok(());
    }
    let object: HashMap<String, &RawValue> =
        serde_json::from_str(line).map_err(|error| error.to_string())?;
    let timestamp = object.get(TIMESTAMP).and_then(|raw| moment(raw.get()));
    for name in metrics {
        if let Some(value) = object.get(&**name).and_then(|raw| scalar(raw.get())) {
            record(MetricRecord { name: name.clone(), value, timestamp });
        }
    }
    Ok(())
}

fn scalar(raw: &str) -> Option<String> {
    match raw.as_bytes().first()? {
        b'"' => serde_json::from_str::<String>(raw).ok().map(|text| text.trim().into()),
        b'-' | b'0'..=b'9' => Some(raw.into()),
        _ => None,
    }
}

fn moment(raw: &str) -> Option<Timestamp> {
    if raw.starts_with('"') {
        return rfc3339(&serde_json::from_str::<String>(raw).ok()?);
    }
    let seconds: f64 = raw.parse().ok()?;
    let nanoseconds = (seconds.fract() * 1e9).round() as i32;
    // Out of range is no time, rather than the wrong one.
    let whole = (seconds.abs() < 1e12).then_some(seconds.trunc() as i64)?;
    Timestamp::new(whole, nanoseconds.clamp(-999_999_999, 999_999_999)).ok()
}
