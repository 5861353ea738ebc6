//! Where values lie on an axis, and which are written beside it.

use crate::{model::Domain, model::number};

/// Most values without a range that an axis writes; more are an axis nobody can read.
const CHOICES_MAX: usize = 40;
/// A range of positive numbers this wide is shown in the logarithm.
const DECADES_LOG: f64 = 3.0;

/// Where values lie, from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Scale {
    Linear { low: f64, high: f64 },
    Log { low: f64, high: f64 },
    Places { values: Vec<String>, ordered: bool },
}

impl Scale {
    /// The scale of a domain, wide enough for what was tried.
    pub(crate) fn of<'a>(domain: &Domain, tried: impl Iterator<Item = &'a str>) -> Self {
        match domain {
            Domain::Range { min, max, log } => {
                let seen = tried.filter_map(number).filter(|v| !*log || *v > 0.0);
                let (low, high) = seen.fold((*min, *max), |(l, h), v| (l.min(v), h.max(v)));
                if *log && low > 0.0 { Self::log(low, high) } else { Self::linear(low, high) }
            }
            Domain::Ordered { values } => Self::places(values, tried, true),
            Domain::Choice { values } => Self::places(values, tried, false),
        }
    }

    fn places<'a>(values: &[String], tried: impl Iterator<Item = &'a str>, ordered: bool) -> Self {
        let mut all = values.to_vec();
        let mut known: std::collections::HashSet<String> = all.iter().cloned().collect();
        for value in tried {
            if known.insert(value.to_owned()) {
                all.push(value.to_owned());
            }
        }
        Self::Places { values: all, ordered }
    }

    pub(crate) fn linear(low: f64, high: f64) -> Self {
        match (low, high) {
            (l, h) if !l.is_finite() || !h.is_finite() => Self::Linear { low: 0.0, high: 1.0 },
            // Halves are subtracted: a range may be wider than the largest number.
            (l, h) if h / 2.0 - l / 2.0 <= 0.0 => {
                let pad = (l.abs() * 0.05).max(1e-9);
                Self::Linear { low: l - pad, high: l + pad }
            }
            (low, high) => Self::Linear { low, high },
        }
    }

    fn log(low: f64, high: f64) -> Self {
        if high <= low {
            return Self::Log { low: low / 1.1, high: low * 1.1 };
        }
        Self::Log { low, high }
    }

    /// The scale of measured values, with a little room; over several decades the logarithm.
    pub(crate) fn measured(values: impl Iterator<Item = f64>) -> Self {
        let (low, high) = values
            .filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
        if low > high {
            return Self::linear(0.0, 1.0);
        }
        if low > 0.0 && high.log10() - low.log10() > DECADES_LOG {
            return Self::log((low / 1.2).max(f64::MIN_POSITIVE), (high * 1.2).min(f64::MAX));
        }
        let room = (high / 2.0 - low / 2.0) * 0.1;
        Self::linear((low - room).max(f64::MIN), (high + room).min(f64::MAX))
    }

    /// The scale as it is, wide enough for one more value where that can stand on it.
    pub(crate) fn reaching(self, v: f64) -> Self {
        match self {
            Self::Linear { low, high } => Self::Linear { low: low.min(v), high: high.max(v) },
            Self::Log { low, high } if v > 0.0 => Self::Log { low: low.min(v), high: high.max(v) },
            other => other,
        }
    }

    /// Whether values without order stand on it.
    pub(crate) fn is_choice(&self) -> bool {
        matches!(self, Self::Places { ordered: false, .. })
    }

    /// Whether it can be drawn.
    pub(crate) fn is_drawable(&self) -> bool {
        !matches!(self, Self::Places { values, .. } if values.len() > CHOICES_MAX || values.is_empty())
    }

    /// Where a value lies; nothing if it is not of this scale.
    pub(crate) fn at(&self, text: &str) -> Option<f64> {
        match self {
            Self::Places { values, .. } => {
                let place = values.iter().position(|v| v == text)?;
                Some(middle(place, values.len()))
            }
            _ => self.at_number(number(text)?),
        }
    }

    pub(crate) fn at_number(&self, v: f64) -> Option<f64> {
        let share = match self {
            Self::Linear { low, high } => (v / 2.0 - low / 2.0) / (high / 2.0 - low / 2.0),
            Self::Log { low, high } => (v.ln() - low.ln()) / (high.ln() - low.ln()),
            Self::Places { .. } => return None,
        };
        share.is_finite().then_some(share.clamp(0.0, 1.0))
    }

    /// Places and words of some marks, about `wanted` of them.
    pub(crate) fn ticks(&self, wanted: usize) -> Vec<(f64, String)> {
        let numbers = match self {
            Self::Places { values, .. } => {
                let every = values.len().div_ceil(wanted.max(1) * 2).max(1);
                let places = values.iter().enumerate().step_by(every);
                return places.map(|(i, v)| (middle(i, values.len()), v.clone())).collect();
            }
            Self::Linear { low, high } => {
                let marks = round_numbers(*low, *high, wanted);
                // One mark tells no distance.
                if marks.len() > 1 { marks } else { round_numbers(*low, *high, wanted * 2) }
            }
            Self::Log { low, high } => round_powers(*low, *high, wanted),
        };
        let place = |v: f64| Some((self.at_number(v)?, short(v)));
        numbers.into_iter().filter_map(place).collect()
    }
}

fn middle(place: usize, of: usize) -> f64 {
    (place as f64 + 0.5) / of.max(1) as f64
}

/// Multiples of 1, 2 or 5 within a range.
fn round_numbers(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let rough = (high / 2.0 - low / 2.0) / wanted.max(1) as f64 * 2.0;
    let power = 10f64.powf(rough.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|m| m * power).into_iter().find(|s| *s >= rough * 0.999);
    let step = step.unwrap_or(rough);
    if !step.is_finite() || step <= 0.0 {
        return vec![low, high];
    }
    let first = (low / step - 1e-9).ceil();
    let last = (high / step + 1e-9).floor();
    if !(last - first).is_finite() || last - first > 100.0 {
        return vec![low, high]; // too fine for what numbers can tell apart
    }
    (0..=(last - first) as i64).map(|i| clean((first + i as f64) * step, step)).collect()
}

/// A multiple of a step without the dirt of its multiplication.
fn clean(v: f64, step: f64) -> f64 {
    if v.abs() < step * 1e-6 { 0.0 } else { v }
}

/// Powers of ten within a range, with twos and fives between where there are few.
fn round_powers(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let (first, last) = (low.log10().floor() as i32, high.log10().ceil() as i32);
    let decades = high.log10() - low.log10();
    let within = |v: &f64| *v >= low * 0.9999 && *v <= high * 1.0001;
    let of = |parts: &[f64], every: usize| -> Vec<f64> {
        (first..=last)
            .filter(|e| e.rem_euclid(every as i32) == 0)
            .flat_map(|e| parts.iter().map(move |p| p * 10f64.powi(e)))
            .filter(within)
            .collect()
    };
    let marks = if decades < 1.2 {
        of(&[1.0, 2.0, 3.0, 5.0, 7.0], 1)
    } else if decades < 2.5 {
        of(&[1.0, 2.0, 5.0], 1)
    } else {
        of(&[1.0], (decades / wanted.max(1) as f64).ceil().max(1.0) as usize)
    };
    if marks.len() < 2 { vec![low, high] } else { marks }
}

/// A number in few characters: four digits, and a power of ten where zeros would be many.
pub(crate) fn short(v: f64) -> String {
    digits(v, 4)
}

/// A number with so many significant digits.
pub(crate) fn digits(v: f64, count: usize) -> String {
    if v == 0.0 {
        return "0".to_owned();
    }
    if !v.is_finite() {
        return v.to_string();
    }
    let exponent = v.abs().log10().floor() as i32;
    if !(-4..7).contains(&exponent) {
        let text = format!("{v:.*e}", count.saturating_sub(1));
        let (mantissa, power) = text.split_once('e').unwrap_or((&text, "0"));
        return format!("{}e{power}", trimmed(mantissa));
    }
    let places = (count as i32 - 1 - exponent).clamp(0, 12) as usize;
    trimmed(&format!("{v:.places$}")).to_owned()
}

fn trimmed(text: &str) -> &str {
    if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_right() {
        #[rustfmt::skip]
        let cases = [(0.0, "0"), (0.25, "0.25"), (-1.5, "-1.5"), (12345.6, "12346"), (1e-7, "1e-7"), (0.000_123_4, "0.0001234"),
                     (1.0 / 3.0, "0.3333"), (1.234_567e9, "1.235e9"), (f64::MAX, "1.798e308"), (100.0, "100")];
        for (value, want) in cases {
            assert_eq!(short(value), want);
        }
    }

    #[test]
    fn marks_are_round_and_inside() {
        let words = |s: Scale| s.ticks(5).into_iter().map(|(_, w)| w).collect::<Vec<_>>();
        assert_eq!(words(Scale::linear(0.0, 1.0)), ["0", "0.2", "0.4", "0.6", "0.8", "1"]);
        assert_eq!(words(Scale::linear(-3.0, 7.0)), ["-2", "0", "2", "4", "6"]);
        assert_eq!(words(Scale::log(1e-4, 1e-1)), ["0.0001", "0.001", "0.01", "0.1"]);
        assert_eq!(words(Scale::log(10.0, 60.0)), ["10", "20", "30", "50"]);
    }

    #[test]
    fn any_range_has_places_between_0_and_1() {
        let ends = [f64::MIN, -1e300, -1.0, 0.0, 1e-300, 1.0, 1.0 + f64::EPSILON, 1e300, f64::MAX];
        for low in ends {
            for high in ends {
                for scale in [Scale::linear(low, high), Scale::measured([low, high].into_iter())] {
                    for v in ends {
                        let at = scale.at_number(v);
                        assert!(
                            at.is_none_or(|a| (0.0..=1.0).contains(&a)),
                            "{scale:?} {v} {at:?}"
                        );
                    }
                    assert!(scale.ticks(5).len() <= 101, "{scale:?}");
                }
            }
        }
    }

    #[test]
    fn reaching_for_a_value_widens_an_axis_and_keeps_its_kind() {
        let near_one = || Scale::measured([0.9, 1.1].into_iter());
        let Scale::Linear { low, high } = near_one().reaching(1e-4) else { panic!("logarithmic") };
        assert!(low == 1e-4 && high > 1.1);
        assert_eq!(near_one().reaching(1.0), near_one());
        let decades = Scale::measured([1e-5, 1.0].into_iter());
        assert_eq!(decades.clone().reaching(-1.0), decades);
        assert!(matches!(decades.reaching(1e-9), Scale::Log { low: 1e-9, .. }));
    }

    #[test]
    fn a_log_axis_spreads_decades_evenly_and_values_that_were_tried_widen_it() {
        let range = Domain::Range { min: 1e-3, max: 1e-1, log: true };
        let scale = Scale::of(&range, ["10", "oops", "-1"].into_iter());
        let at = |v: &str| scale.at(v).unwrap();
        assert!((at("0.1") - 0.5).abs() < 1e-9 && at("10") == 1.0 && at("0.001") == 0.0);
        let choice = Domain::Choice { values: vec!["a".into()] };
        let scale = Scale::of(&choice, ["b", "a"].into_iter());
        assert_eq!((scale.at("a"), scale.at("b"), scale.at("c")), (Some(0.25), Some(0.75), None));
    }
}
