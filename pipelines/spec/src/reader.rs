//! Typed access to a document tree: every failure names the path, what was expected and what came.
//!
//! A message's fields are read by their camelCase name and match snake_case too; what is left over
//! when a message has been read is an unknown field, which is an error.

use serde_json::Value;

use crate::{
    SpecError,
    node::{Kind, Node},
};

/// A node and its path in the document.
#[derive(Clone)]
pub(crate) struct At<'a> {
    pub(crate) node: &'a Node,
    pub(crate) path: String,
}

/// The fields of one message, each to be taken once.
pub(crate) struct Fields<'a> {
    at: At<'a>,
    left: Vec<(String, &'a Node)>,
}

type Result<T> = std::result::Result<T, SpecError>;

impl<'a> At<'a> {
    pub(crate) fn new(node: &'a Node, path: &str) -> Self {
        Self { node, path: path.to_owned() }
    }

    /// An error about this place.
    pub(crate) fn invalid(&self, problem: impl Into<String>) -> SpecError {
        SpecError::Invalid {
            path: self.path.clone(),
            line: self.node.line,
            problem: problem.into(),
        }
    }

    /// An error about a feature used at this place.
    pub(crate) fn unsupported(&self, feature: impl Into<String>) -> SpecError {
        SpecError::Unsupported {
            path: self.path.clone(),
            line: self.node.line,
            feature: feature.into(),
        }
    }

    fn wrong(&self, want: &str) -> SpecError {
        self.invalid(format!("expected {want}, got {}", self.node.describe()))
    }

    pub(crate) fn text(&self) -> Result<String> {
        match &self.node.kind {
            Kind::Text(text) => Ok(text.clone()),
            _ => Err(self.wrong("a string")),
        }
    }

    /// A string, or a number or boolean that YAML read out of a string someone forgot to quote.
    pub(crate) fn scalar_text(&self) -> Result<String> {
        match &self.node.kind {
            Kind::Text(text) => Ok(text.clone()),
            Kind::Int(_) | Kind::Float(_) | Kind::Bool(_) => {
                Ok(crate::parameter::to_text(&self.node.json()))
            }
            _ => Err(self.wrong("a string")),
        }
    }

    pub(crate) fn flag(&self) -> Result<bool> {
        match &self.node.kind {
            Kind::Bool(flag) => Ok(*flag),
            _ => Err(self.wrong("true or false")),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "counts and factors, far below 2^53")]
    pub(crate) fn number(&self) -> Result<f64> {
        match &self.node.kind {
            Kind::Int(i) => Ok(*i as f64),
            Kind::Float(f) if f.is_finite() => Ok(*f),
            // Proto3 JSON writes 64-bit integers as strings.
            Kind::Text(t) => t.parse().map_err(|_| self.wrong("a number")),
            _ => Err(self.wrong("a number")),
        }
    }

    pub(crate) fn count(&self) -> Result<u32> {
        let number = self.number()?;
        let whole = crate::parameter::whole(number).and_then(|i| u32::try_from(i).ok());
        whole.ok_or_else(|| self.wrong("a whole number of 0 or more"))
    }

    /// Proto3 JSON's duration: seconds with an `s` at the end.
    pub(crate) fn seconds(&self) -> Result<f64> {
        let text = self.text()?;
        let seconds = text.strip_suffix('s').and_then(|s| s.parse::<f64>().ok());
        seconds
            .filter(|s| s.is_finite() && *s >= 0.0)
            .ok_or_else(|| self.wrong("a duration such as `30s`"))
    }

    pub(crate) fn json(&self) -> Value {
        self.node.json()
    }

    pub(crate) fn list(&self) -> Result<Vec<Self>> {
        match &self.node.kind {
            Kind::Null => Ok(Vec::new()),
            Kind::List(items) => Ok(items
                .iter()
                .enumerate()
                .map(|(i, node)| Self { node, path: format!("{}[{i}]", self.path) })
                .collect()),
            _ => Err(self.wrong("a list")),
        }
    }

    /// The entries of a mapping whose keys are names chosen by the author.
    pub(crate) fn entries(&self) -> Result<Vec<(String, Self)>> {
        match &self.node.kind {
            Kind::Null => Ok(Vec::new()),
            Kind::Map(entries) => Ok(entries
                .iter()
                .map(|(name, node)| {
                    (name.clone(), Self { node, path: format!("{}.{name}", self.path) })
                })
                .collect()),
            _ => Err(self.wrong("a mapping")),
        }
    }

    pub(crate) fn fields(&self) -> Result<Fields<'a>> {
        let mut left: Vec<(String, &'a Node)> = Vec::new();
        match &self.node.kind {
            Kind::Null => {}
            Kind::Map(entries) => {
                for (key, node) in entries {
                    let name = camel(key);
                    if left.iter().any(|(other, _)| *other == name) {
                        return Err(self.invalid(format!(
                            "field `{name}` is given twice, in camelCase and in snake_case"
                        )));
                    }
                    left.push((name, node));
                }
            }
            _ => return Err(self.wrong("a mapping")),
        }
        Ok(Fields { at: self.clone(), left })
    }
}

impl<'a> Fields<'a> {
    pub(crate) fn at(&self) -> &At<'a> {
        &self.at
    }

    /// Takes a field that may be missing; an explicit null counts as missing.
    pub(crate) fn optional(&mut self, name: &str) -> Option<At<'a>> {
        let found = self.any(name)?;
        (!matches!(found.node.kind, Kind::Null)).then_some(found)
    }

    /// Takes a field whose null is a value of its own.
    pub(crate) fn any(&mut self, name: &str) -> Option<At<'a>> {
        let index = self.left.iter().position(|(key, _)| key == name)?;
        let (_, node) = self.left.swap_remove(index);
        let path = match self.at.path.as_str() {
            "" => name.to_owned(),
            base => format!("{base}.{name}"),
        };
        Some(At { node, path })
    }

    pub(crate) fn required(&mut self, name: &str) -> Result<At<'a>> {
        self.optional(name).ok_or_else(|| self.at.invalid(format!("`{name}` is missing")))
    }

    /// Refuses whatever was not taken.
    pub(crate) fn finish(self) -> Result<()> {
        match self.left.first() {
            None => Ok(()),
            Some((name, node)) => Err(SpecError::Invalid {
                path: if self.at.path.is_empty() {
                    name.clone()
                } else {
                    format!("{}.{name}", self.at.path)
                },
                line: node.line,
                problem: format!("`{name}` is not a field of this message; check its spelling"),
            }),
        }
    }
}

fn camel(key: &str) -> String {
    let mut name = String::with_capacity(key.len());
    let mut up = false;
    for c in key.chars() {
        match c {
            '_' if !name.is_empty() && !key.ends_with('_') => up = true,
            c if up && c.is_ascii_lowercase() => {
                name.push(c.to_ascii_uppercase());
                up = false;
            }
            c => {
                if up {
                    // `components_1` is not a spelling of any field: keep what was written.
                    name.push('_');
                    up = false;
                }
                name.push(c);
            }
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_name_one_field() {
        #[rustfmt::skip]
        let cases = [
            ("snake becomes camel",      "component_ref", "componentRef"),
            ("camel stays",              "componentRef",  "componentRef"),
            ("a digit is not a spelling", "components_1",  "components_1"),
        ];
        for (shows, key, want) in cases {
            assert_eq!(camel(key), want, "{shows}");
        }
    }
}
