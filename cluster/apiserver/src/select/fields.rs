//! `fieldSelector`: equality on the few fields that a kind offers.

use crate::{ApiError, state::Object};

/// A parsed field selector; empty selects everything.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct FieldSelector {
    /// Field, whether it must be equal, value.
    terms: Vec<(String, bool, String)>,
}

impl FieldSelector {
    /// Parses as `metadata.name=x,status.phase!=Running`.
    pub(crate) fn parse(text: &str, table: &str) -> Result<Self, ApiError> {
        let mut terms = Vec::new();
        for term in text.split(',').map(str::trim).filter(|t| !t.is_empty()) {
            let parsed = match term.split_once("!=") {
                Some((field, value)) => (field, false, value),
                None => match term.split_once("==").or_else(|| term.split_once('=')) {
                    Some((field, value)) => (field, true, value),
                    None => {
                        return Err(ApiError::bad_request(format!(
                            "invalid field selector `{term}`; it takes FIELD=VALUE or FIELD!=VALUE"
                        )));
                    }
                },
            };
            let (field, equal, value) = parsed;
            let always = matches!(field, "metadata.name" | "metadata.namespace");
            if !always && !Object::is_selectable(table, field) {
                return Err(ApiError::bad_request(format!("field label not supported: {field}")));
            }
            terms.push((field.to_owned(), equal, value.to_owned()));
        }
        Ok(Self { terms })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub(crate) fn name(&self) -> Option<&str> {
        let term = self.terms.iter().find(|(field, equal, _)| *equal && field == "metadata.name");
        term.map(|(_, _, value)| value.as_str())
    }

    pub(crate) fn matches(&self, object: &Object) -> bool {
        self.terms.iter().all(|(field, equal, value)| {
            let actual = match field.as_str() {
                "metadata.name" => &*object.key.name,
                "metadata.namespace" => &*object.key.namespace,
                field => object.field(field),
            };
            (actual == value) == *equal
        })
    }
}
