//! The JSONPath of printer columns: fields, indices, slices, wildcards and equality filters.
//!
//! That is `.spec.a['b'].c[0].d[*].e[-1:].f[?(@.type=="Ready")].status`, the subset that custom
//! resource definitions use. Recursive descent and other operators are refused when parsed.

use serde_json::Value;

/// A parsed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct JsonPath {
    steps: Vec<Step>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Field(String),
    /// From the end if negative.
    Index(i64),
    /// From the first bound up to the second, not included; from the end where negative.
    Slice(Option<i64>, Option<i64>),
    All,
    /// Elements whose sub-path (in)equals the text.
    Where {
        path: JsonPath,
        equal: bool,
        text: String,
    },
}

impl JsonPath {
    /// Parses a path, with or without a leading `$` and with or without `{}` around it.
    ///
    /// # Errors
    /// A line that says what cannot be read.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let inner = text.trim();
        let inner = inner.strip_prefix('{').and_then(|t| t.strip_suffix('}')).unwrap_or(inner);
        let mut rest = inner.strip_prefix('$').unwrap_or(inner);
        let mut steps = Vec::new();
        while !rest.is_empty() {
            let (step, after) = step(rest).ok_or_else(|| {
                format!("JSONPath `{text}` cannot be read at `{rest}`; use .field, [0], [*], ['name'] or [?(@.field==\"text\")]")
            })?;
            steps.push(step);
            rest = after;
        }
        if steps.is_empty() {
            return Err("an empty JSONPath selects nothing; name a field, as `.spec.x`".into());
        }
        Ok(Self { steps })
    }

    /// Everything the path selects, in order.
    pub(crate) fn find<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        self.steps.iter().fold(vec![value], |found, step| {
            found.into_iter().flat_map(|value| step.apply(value)).collect()
        })
    }
}

impl Step {
    fn apply<'v>(&self, value: &'v Value) -> Vec<&'v Value> {
        let list = value.as_array().map(Vec::as_slice).unwrap_or_default();
        match self {
            Self::Field(name) => value.get(name).into_iter().collect(),
            Self::Index(index) => {
                let at = usize::try_from(*index).ok().or_else(|| {
                    list.len().checked_sub(usize::try_from(index.unsigned_abs()).ok()?)
                });
                at.and_then(|at| list.get(at)).into_iter().collect()
            }
            Self::Slice(from, to) => {
                let (from, to) = (from.unwrap_or(0), to.unwrap_or(i64::MAX));
                let (from, to) = (bound(from, list.len()), bound(to, list.len()));
                list.get(from..to).unwrap_or_default().iter().collect()
            }
            Self::All => match value {
                Value::Object(map) => map.values().collect(),
                _ => list.iter().collect(),
            },
            Self::Where { path, equal, text } => list
                .iter()
                .filter(|element| {
                    let found = path.find(element);
                    let same = found.first().is_some_and(|v| match v {
                        Value::String(s) => s == text,
                        other => other.to_string() == *text,
                    });
                    same == *equal
                })
                .collect(),
        }
    }
}

fn step(text: &str) -> Option<(Step, &str)> {
    if let Some(rest) = text.strip_prefix("[?(") {
        let end = rest.find(")]")?;
        let (filter, after) = (rest.get(..end)?, rest.get(end + 2..)?);
        let (left, equal, right) = match filter.split_once("==") {
            Some((left, right)) => (left, true, right),
            None => filter.split_once("!=").map(|(left, right)| (left, false, right))?,
        };
        let path = JsonPath::parse(left.trim().strip_prefix('@')?).ok()?;
        let text = unquote(right.trim())?;
        return Some((Step::Where { path, equal, text }, after));
    }
    if let Some(rest) = text.strip_prefix('[') {
        let end = match rest.chars().next()? {
            quote @ ('\'' | '"') => rest.get(1..)?.find(quote)? + 2,
            _ => rest.find(']')?,
        };
        let (inner, after) = (rest.get(..end)?, rest.get(end..)?.strip_prefix(']')?);
        let step = match inner {
            "*" => Step::All,
            _ => match inner.parse() {
                Ok(index) => Step::Index(index),
                Err(_) if inner.starts_with(['\'', '"']) => Step::Field(unquote(inner)?),
                Err(_) => slice(inner)?,
            },
        };
        return Some((step, after));
    }
    // A dot before the name; `\.` is a dot inside it. The first field may come without one.
    let rest = text.strip_prefix('.').unwrap_or(text);
    if let Some(after) = rest.strip_prefix('*') {
        return Some((Step::All, after));
    }
    let mut name = String::new();
    let mut chars = rest.char_indices();
    let mut end = rest.len();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => name.push(chars.next()?.1),
            '.' | '[' => {
                end = at;
                break;
            }
            c => name.push(c),
        }
    }
    (!name.is_empty()).then_some((Step::Field(name), &rest[end..]))
}

/// `1:2`, `-1:`, `:3`.
fn slice(text: &str) -> Option<Step> {
    let (from, to) = text.split_once(':')?;
    let bound = |text: &str| match text.trim() {
        "" => Some(None),
        number => number.parse().ok().map(Some),
    };
    Some(Step::Slice(bound(from)?, bound(to)?))
}

/// A slice's bound within a list of this length.
fn bound(at: i64, len: usize) -> usize {
    let distance = usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX);
    if at < 0 { len.saturating_sub(distance) } else { distance.min(len) }
}

fn unquote(text: &str) -> Option<String> {
    for quote in ['\'', '"'] {
        if let Some(inner) = text.strip_prefix(quote) {
            return inner.strip_suffix(quote).map(str::to_owned);
        }
    }
    // Numbers and booleans stand bare.
    text.chars().all(|c| c.is_ascii_alphanumeric() || c == '.' || c == '-').then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn paths_select_what_kubectl_would_print() {
        let object = json!({
            "metadata": {"annotations": {"a.b/c": "dotted"}},
            "spec": {"n": 3, "list": [{"name": "x"}, {"name": "y"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Done", "status": "False"}]},
        });
        #[rustfmt::skip]
        let cases = [
            (".spec.n",                                        json!([3])),
            ("$.spec.n",                                       json!([3])),
            ("{.spec.n}",                                      json!([3])),
            (".spec.list[0].name",                             json!(["x"])),
            (".spec.list[-1].name",                            json!(["y"])),
            (".spec.list[*].name",                             json!(["x", "y"])),
            (".spec.list[-1:].name",                           json!(["y"])),
            (".spec.list[:1].name",                            json!(["x"])),
            (".spec.list[5:2].name",                           json!([])),
            (".status.conditions[?(@.type==\"Ready\")].status", json!(["True"])),
            (".status.conditions[?(@.type!='Ready')].status",  json!(["False"])),
            (".metadata.annotations['a.b/c']",                 json!(["dotted"])),
            (".metadata.annotations.a\\.b/c",                  json!(["dotted"])),
            (".missing[3].x",                                  json!([])),
        ];
        for (path, want) in cases {
            let found = JsonPath::parse(path).unwrap();
            let found: Vec<_> = found.find(&object).into_iter().cloned().collect();
            assert_eq!(json!(found), want, "{path}");
        }
    }

    #[test]
    fn what_is_not_understood_is_refused() {
        for path in ["", "..a", ".a[", ".a[1:b]", ".a[?(@.b>1)]", ".a[b]", ".a."] {
            assert!(JsonPath::parse(path).is_err(), "{path}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "[.\\[\\]{}?@()='\"a-c0-9*\\\\ é]{0,24}") {
            if let Ok(path) = JsonPath::parse(&text) {
                path.find(&json!({"a": [{"b": 1}, "c"]}));
            }
        }
    }
}
