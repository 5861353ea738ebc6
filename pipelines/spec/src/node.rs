//! YAML or JSON text as a tree that remembers its lines.
//!
//! Limits: YAML is parsed within a budget, so that alias bombs and absurd nesting are refused
//! before memory is spent; a key that occurs twice in one mapping is an error in both formats.

use std::{fmt, marker::PhantomData};

use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Map, Number, Value};
use serde_saphyr::Spanned;

use crate::SpecError;

/// The largest text read: far above the largest pipelines seen (581 kB), far below what hurts.
const TEXT_BYTES_MAX: usize = 16 << 20;

/// One value and the line it stands on (0: not known).
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    pub(crate) line: u64,
    pub(crate) kind: Kind,
}

#[derive(Debug, Clone, Default)]
pub(crate) enum Kind {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

/// Reads all documents of a YAML stream, or one JSON object.
pub(crate) fn parse(text: &str) -> Result<Vec<Node>, SpecError> {
    if text.len() > TEXT_BYTES_MAX {
        return Err(SpecError::Syntax(format!(
            "{} bytes are more than the {TEXT_BYTES_MAX} a pipeline may have",
            text.len()
        )));
    }
    // JSON proper goes to a JSON parser: YAML lacks its surrogate pairs and tabs.
    if text.trim_start().starts_with('{')
        && let Ok(bare) = serde_json::from_str::<Bare>(text)
    {
        return Ok(vec![bare.into()]);
    }
    let located: Vec<Located> = serde_saphyr::from_multiple_with_options(text, limits())
        .map_err(|e| SpecError::Syntax(first_line(&e)))?;
    Ok(located.into_iter().map(Node::from).collect())
}

/// The parser's default budget (250 000 nodes, 64 levels) holds; aliases, which KFP's compiler does not
/// write but PyYAML does, are bounded by what they expand to and not by how often one is used.
fn limits() -> serde_saphyr::Options {
    let mut aliases = serde_saphyr::options::AliasLimits::default();
    aliases.max_total_replayed_events = 20_000;
    let budget = serde_saphyr::budget! { enforce_alias_anchor_ratio: false };
    // `n` and `yes` are names here, not booleans.
    serde_saphyr::options! { alias_limits: aliases, budget: budget, strict_booleans: true }
}

/// The parser's message without its drawing of the source.
fn first_line(error: &serde_saphyr::Error) -> String {
    let text = error.without_snippet().to_string();
    text.lines().next().unwrap_or("unknown error").to_owned()
}

impl Node {
    /// The value as JSON, with whole floats as integers: KFP's numbers have no other notion.
    pub(crate) fn json(&self) -> Value {
        match &self.kind {
            Kind::Null => Value::Null,
            Kind::Bool(b) => Value::Bool(*b),
            Kind::Int(i) => Value::from(*i),
            Kind::Float(f) => crate::parameter::whole(*f)
                .map(Value::from)
                .or_else(|| Number::from_f64(*f).map(Value::Number))
                .unwrap_or(Value::Null),
            Kind::Text(t) => Value::String(t.clone()),
            Kind::List(items) => items.iter().map(Self::json).collect(),
            Kind::Map(entries) => {
                let pairs = entries.iter().map(|(k, v)| (k.clone(), v.json()));
                Value::Object(pairs.collect::<Map<_, _>>())
            }
        }
    }

    /// What came, for messages: the type and, where it is short, the value.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Null => "nothing".to_owned(),
            Kind::Bool(b) => format!("the boolean `{b}`"),
            Kind::Int(i) => format!("the number `{i}`"),
            Kind::Float(f) => format!("the number `{f}`"),
            Kind::Text(t) if t.len() <= 60 => format!("the string `{t}`"),
            Kind::Text(t) => format!("a string of {} bytes", t.len()),
            Kind::List(items) => format!("a list of {} items", items.len()),
            Kind::Map(entries) => format!("a mapping of {} keys", entries.len()),
        }
    }
}

/// A tree node as the YAML parser gives it, with its location.
struct Located(Spanned<Tree<Located>>);

/// A tree node as the JSON parser gives it.
struct Bare(Tree<Bare>);

/// One level of the tree, whose children are read as `C`.
struct Tree<C>(Kind, PhantomData<C>);

impl From<Located> for Node {
    fn from(located: Located) -> Self {
        Self { line: located.0.referenced.line(), kind: located.0.value.0 }
    }
}

impl From<Bare> for Node {
    fn from(bare: Bare) -> Self {
        Self { line: 0, kind: bare.0.0 }
    }
}

impl<'de> Deserialize<'de> for Located {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(Self)
    }
}

impl<'de> Deserialize<'de> for Bare {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Tree::deserialize(deserializer).map(Self)
    }
}

impl<'de, C: Deserialize<'de> + Into<Node>> Deserialize<'de> for Tree<C> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let kind = deserializer.deserialize_any(TreeVisitor::<C>(PhantomData))?;
        Ok(Self(kind, PhantomData))
    }
}

struct TreeVisitor<C>(PhantomData<C>);

impl<'de, C: Deserialize<'de> + Into<Node>> Visitor<'de> for TreeVisitor<C> {
    type Value = Kind;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }
    fn visit_unit<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_none<E>(self) -> Result<Kind, E> {
        Ok(Kind::Null)
    }
    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Kind, D::Error> {
        deserializer.deserialize_any(self)
    }
    fn visit_bool<E>(self, v: bool) -> Result<Kind, E> {
        Ok(Kind::Bool(v))
    }
    fn visit_i64<E>(self, v: i64) -> Result<Kind, E> {
        Ok(Kind::Int(v))
    }
    #[allow(clippy::cast_precision_loss, reason = "KFP's numbers are doubles beyond i64 anyway")]
    fn visit_u64<E>(self, v: u64) -> Result<Kind, E> {
        Ok(i64::try_from(v).map_or(Kind::Float(v as f64), Kind::Int))
    }
    fn visit_f64<E>(self, v: f64) -> Result<Kind, E> {
        Ok(Kind::Float(v))
    }
    fn visit_str<E>(self, v: &str) -> Result<Kind, E> {
        Ok(Kind::Text(v.to_owned()))
    }
    fn visit_string<E>(self, v: String) -> Result<Kind, E> {
        Ok(Kind::Text(v))
    }
    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Kind, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element::<C>()? {
            items.push(item.into());
        }
        Ok(Kind::List(items))
    }
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Kind, A::Error> {
        let mut entries: Vec<(String, Node)> = Vec::new();
        let mut seen = std::collections::HashSet::new();
        while let Some((key, value)) = map.next_entry::<String, C>()? {
            if !seen.insert(key.clone()) {
                return Err(A::Error::custom(format!("duplicate key `{key}`")));
            }
            entries.push((key, value.into()));
        }
        Ok(Kind::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_those_of_the_text() {
        let nodes = parse("a:\n  b: 1\n---\nc: [x]\n").unwrap();
        let Kind::Map(root) = &nodes[0].kind else { panic!("{nodes:?}") };
        let Kind::Map(a) = &root[0].1.kind else { panic!("{root:?}") };
        assert_eq!((nodes.len(), a[0].1.line), (2, 2));
    }

    #[test]
    fn a_key_twice_is_an_error_in_both_formats() {
        for text in ["a: 1\na: 2\n", r#"{"a":1,"a":2}"#] {
            let error = parse(text).unwrap_err();
            assert!(error.to_string().contains("uplicate"), "{error}");
        }
    }

    #[test]
    fn an_alias_bomb_is_refused_and_not_expanded() {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for i in 1..12 {
            let alias = format!("*a{},", i - 1).repeat(10);
            text.push_str(&format!("a{i}: &a{i} [{alias}]\n"));
        }
        assert!(matches!(parse(&text), Err(SpecError::Syntax(_))));
    }

    #[test]
    fn json_keeps_its_own_escapes() {
        let nodes = parse("{\"a\": \"\\ud83d\\ude00\",\t\"n\": 2.0}").unwrap();
        assert_eq!(nodes[0].json(), serde_json::json!({"a": "😀", "n": 2}));
    }
}
