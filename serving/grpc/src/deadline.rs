//! How long a client waits: the call's `grpc-timeout`.

use std::time::Duration;

use http::HeaderMap;

/// What the call's headers say, up to eight digits and a unit.
pub(crate) fn of(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None; // not ours to judge: the client enforces its deadline itself
    }
    let n: u64 = digits.parse().ok()?;
    match unit {
        "H" => Some(Duration::from_secs(n * 3600)),
        "M" => Some(Duration::from_secs(n * 60)),
        "S" => Some(Duration::from_secs(n)),
        "m" => Some(Duration::from_millis(n)),
        "u" => Some(Duration::from_micros(n)),
        "n" => Some(Duration::from_nanos(n)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_calls_timeout_is_read() {
        #[rustfmt::skip]
        let cases = [
            ("1H",         Some(Duration::from_secs(3600))),
            ("250m",       Some(Duration::from_millis(250))),
            ("99999999n",  Some(Duration::from_nanos(99_999_999))),
            ("999999999S", None),
            ("1",          None),
            ("m",          None),
            ("-1S",        None),
            ("1é",         None),
        ];
        for (text, want) in cases {
            let mut headers = HeaderMap::new();
            if let Ok(value) = text.parse() {
                headers.insert("grpc-timeout", value);
            }
            assert_eq!(of(&headers), want, "{text}");
        }
    }
}
