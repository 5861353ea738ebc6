//! Kubernetes quantities: `500m`, `2`, `1.5Gi`, `3e2`.

/// Why a text is no quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a quantity; expected a number with an optional suffix, as in 500m, 2, 1.5Gi")]
pub(crate) struct NotAQuantity(pub(crate) String);

/// A quantity in thousandths, rounded up; the finest that Kubernetes schedules by.
pub(crate) fn parse_milli(text: &str) -> Result<u64, NotAQuantity> {
    milli(text).ok_or_else(|| NotAQuantity(text.to_owned()))
}

/// A quantity in whole units, rounded up.
pub(crate) fn parse_whole(text: &str) -> Result<u64, NotAQuantity> {
    Ok(parse_milli(text)?.div_ceil(1000))
}

fn milli(text: &str) -> Option<u64> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() || fraction.contains('.') {
        return None;
    }
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let (factor, exponent) = scale(suffix)?;
    // 3 for thousandths; the fraction's digits are already in the mantissa.
    let exponent = exponent + 3 - i32::try_from(fraction.len()).ok()?;
    let scaled = mantissa.checked_mul(factor)?;
    let power = 10u128.checked_pow(exponent.unsigned_abs())?;
    let value = if exponent >= 0 { scaled.checked_mul(power)? } else { scaled.div_ceil(power) };
    u64::try_from(value).ok()
}

/// A suffix as a factor and a power of ten.
fn scale(suffix: &str) -> Option<(u128, i32)> {
    Some(match suffix {
        "" => (1, 0),
        "n" => (1, -9),
        "u" => (1, -6),
        "m" => (1, -3),
        "k" => (1, 3),
        "M" => (1, 6),
        "G" => (1, 9),
        "T" => (1, 12),
        "P" => (1, 15),
        "E" => (1, 18),
        "Ki" => (1 << 10, 0),
        "Mi" => (1 << 20, 0),
        "Gi" => (1 << 30, 0),
        "Ti" => (1 << 40, 0),
        "Pi" => (1 << 50, 0),
        "Ei" => (1 << 60, 0),
        _ => {
            let exponent: i32 = suffix.strip_prefix(['e', 'E'])?.parse().ok()?;
            (1, (-30..=30).contains(&exponent).then_some(exponent)?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        #[rustfmt::skip]
        let cases = [
            // what the case shows        text        thousandths
            ("millis",                    "500m",     Some(500)),
            ("whole",                     "2",        Some(2_000)),
            ("decimal",                   "0.5",      Some(500)),
            ("finer than millis round up","1n",       Some(1)),
            ("binary",                    "512Mi",    Some(512 * 1024 * 1024 * 1000)),
            ("binary with a fraction",    "1.5Ki",    Some(1_536_000)),
            ("decimal suffix",            "2k",       Some(2_000_000)),
            ("exponent",                  "3e2",      Some(300_000)),
            ("negative exponent",         "5E-1",     Some(500)),
            ("no number",                 "Mi",       None),
            ("negative",                  "-1",       None),
            ("unknown suffix",            "1GB",      None),
            ("two points",                "1.2.3",    None),
            ("too large",                 "99999Ei",  None),
            ("empty",                     "",         None),
        ];
        for (shows, text, want) in cases {
            assert_eq!(parse_milli(text).ok(), want, "{shows}");
        }
        assert_eq!(parse_whole("1500m"), Ok(2), "whole units round up");
    }
}
