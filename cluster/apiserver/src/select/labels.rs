//! `labelSelector`: equality- and set-based requirements, all of which must hold.

use std::collections::BTreeMap;

use crate::ApiError;

/// A parsed label selector; empty selects everything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct LabelSelector {
    requirements: Vec<Requirement>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Requirement {
    key: String,
    test: Test,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Test {
    In(Vec<String>),
    NotIn(Vec<String>),
    Exists,
    Absent,
    Greater(i64),
    Less(i64),
}

impl LabelSelector {
    /// Parses as `app=web,tier!=db,env in (a, b),!legacy,canary`.
    pub(crate) fn parse(text: &str) -> Result<Self, ApiError> {
        let requirements = split(text)
            .map(str::trim)
            .filter(|part| !part.is_empty())
            .map(Requirement::parse)
            .collect::<Result<_, _>>()?;
        Ok(Self { requirements })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    pub(crate) fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        self.requirements.iter().all(|r| r.holds(labels.get(&r.key).map(String::as_str)))
    }
}

/// Splits at commas outside parentheses.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0usize;
    text.split(move |c| {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    })
}

impl Requirement {
    fn parse(text: &str) -> Result<Self, ApiError> {
        let bad = |why: &str| {
            ApiError::bad_request(format!(
                "unable to parse requirement: `{text}` in the label selector {why}"
            ))
        };
        let made = |key: &str, test: Test| {
            let key = key.trim();
            if !is_key(key) {
                return Err(bad("has no valid label key"));
            }
            Ok(Self { key: key.to_owned(), test })
        };
        let number = |value: &str| {
            value.trim().parse().map_err(|_| bad("compares with something that is no integer"))
        };
        let value = |value: &str| {
            let value = value.trim();
            if is_value(value) {
                Ok(value.to_owned())
            } else {
                Err(bad("has no valid label value"))
            }
        };
        if let Some(key) = text.strip_prefix('!') {
            return made(key, Test::Absent);
        }
        if let Some((left, list)) = text.strip_suffix(')').and_then(|t| t.split_once('(')) {
            let values = list.split(',').map(value).collect::<Result<Vec<_>, _>>()?;
            let mut words = left.split_whitespace();
            return match (words.next(), words.next(), words.next()) {
                (Some(key), Some("in"), None) => made(key, Test::In(values)),
                (Some(key), Some("notin"), None) => made(key, Test::NotIn(values)),
                _ => Err(bad("has a list without `in` or `notin`")),
            };
        }
        if let Some((key, right)) = text.split_once("!=") {
            return made(key, Test::NotIn(vec![value(right)?]));
        }
        if let Some((key, right)) = text.split_once("==").or_else(|| text.split_once('=')) {
            return made(key, Test::In(vec![value(right)?]));
        }
        if let Some((key, right)) = text.split_once('>') {
            return made(key, Test::Greater(number(right)?));
        }
        if let Some((key, right)) = text.split_once('<') {
            return made(key, Test::Less(number(right)?));
        }
        made(text, Test::Exists)
    }

    fn holds(&self, value: Option<&str>) -> bool {
        let number = || value.and_then(|v| v.parse::<i64>().ok());
        match &self.test {
            Test::In(values) => value.is_some_and(|v| values.iter().any(|w| w == v)),
            Test::NotIn(values) => value.is_none_or(|v| values.iter().all(|w| w != v)),
            Test::Exists => value.is_some(),
            Test::Absent => value.is_none(),
            Test::Greater(bound) => number().is_some_and(|n| n > *bound),
            Test::Less(bound) => number().is_some_and(|n| n < *bound),
        }
    }
}

/// Whether `text` may be a label key: an optional DNS prefix and a slash, then a short name.
pub(crate) fn is_key(text: &str) -> bool {
    let (prefix, name) = text.split_once('/').map_or((None, text), |(p, n)| (Some(p), n));
    let prefix_ok = prefix.is_none_or(|p| {
        (1..=253).contains(&p.len())
            && p.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || ".-".contains(c))
    });
    prefix_ok && !name.is_empty() && is_value(name)
}

/// Whether `text` may be a label value: at most 63 letters, digits, `-`, `_`, `.`.
pub(crate) fn is_value(text: &str) -> bool {
    let edge = |c: Option<char>| c.is_none_or(|c| c.is_ascii_alphanumeric());
    text.len() <= 63
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
        && edge(text.chars().next())
        && edge(text.chars().next_back())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_match_as_kubernetes_documents() {
        let labels: BTreeMap<_, _> = [("app", "web"), ("n", "5"), ("k8s.io/x", "")]
            .map(|(k, v)| (k.to_owned(), v.to_owned()))
            .into();
        #[rustfmt::skip]
        let cases = [
            ("",                          true),
            ("app=web",                   true),
            ("app==web,n=5",              true),
            ("app!=web",                  false),
            ("missing!=x",                true),
            ("app in (db, web)",          true),
            ("app notin (web)",           false),
            ("missing notin (a)",         true),
            ("app,!missing",              true),
            ("!app",                      false),
            ("k8s.io/x",                  true),
            ("k8s.io/x=",                 true),
            ("n>4,n<6",                   true),
            ("n>5",                       false),
            ("app in (web),n in (4,5)",   true),
        ];
        for (text, want) in cases {
            let selector = LabelSelector::parse(text).unwrap();
            assert_eq!(selector.matches(&labels), want, "{text}");
        }
    }

    #[test]
    fn malformed_selectors_are_refused_by_their_part() {
        for text in ["a b=c", "app=we b", "app near (x)", "=x", "n>x", "-a", "a=(b)"] {
            let error = LabelSelector::parse(text).unwrap_err().to_string();
            assert!(error.contains("unable to parse requirement"), "{text}: {error}");
        }
    }
}
