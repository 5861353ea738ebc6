//! Filling parameters into a trial template.
//!
//! A template given as an object is filled text by text, so a value with quotes or newlines stays
//! one value. A template from a ConfigMap is filled as text before it is read as YAML, as Katib
//! does, so that `replicas: ${trialParameters.n}` becomes a number. Each placeholder is replaced
//! once: what a value contains is never looked at again.

use std::collections::BTreeMap;

use mizzen_crds::{ParameterAssignment, TrialParameter};
use serde_json::Value;

/// A trial template, from wherever it came.
#[derive(Clone, Debug)]
pub(crate) enum Template {
    /// `trialSpec`.
    Object(Value),
    /// The text of a ConfigMap's key.
    Text(String),
}

/// What a template is filled with.
pub(crate) struct Filling<'a> {
    pub(crate) parameters: &'a [TrialParameter],
    pub(crate) assignments: &'a [ParameterAssignment],
    pub(crate) trial: &'a str,
    pub(crate) namespace: &'a str,
}

const OPEN: &str = "${trialParameters.";

impl Template {
    /// The run object of one trial, with its name and namespace.
    ///
    /// # Errors
    /// One line that names the parameter or placeholder that has no value.
    pub(crate) fn render(&self, filling: &Filling<'_>) -> Result<Value, String> {
        let mut run = match self {
            Self::Object(object) => {
                let values = values(filling, object)?;
                let mut run = object.clone();
                fill_value(&mut run, &values)?;
                run
            }
            Self::Text(text) => {
                // References to the object's own metadata are read from the unfilled text.
                let raw = read_yaml(text).unwrap_or(Value::Null);
                read_yaml(&fill_text(text, &values(filling, &raw)?)?)?
            }
        };
        if !run.is_object() {
            return Err("the trial template is not an object".into());
        }
        if !run["metadata"].is_object() {
            run["metadata"] = Value::Object(serde_json::Map::new());
        }
        run["metadata"]["name"] = filling.trial.into();
        run["metadata"]["namespace"] = filling.namespace.into();
        Ok(run)
    }
}

fn read_yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! { strict_booleans: true };
    serde_saphyr::from_str_with_options(text, options)
        .map_err(|e| format!("the trial template is not YAML: {e}"))
}

/// The value of each template parameter.
fn values<'a>(filling: &'a Filling<'_>, run: &Value) -> Result<BTreeMap<&'a str, String>, String> {
    let value = |parameter: &'a TrialParameter| {
        let reference = &parameter.reference;
        let assigned = filling.assignments.iter().find(|a| a.name == *reference);
        assigned
            .map(|a| a.value.clone())
            .or_else(|| metadata(reference, filling, run))
            .map(|value| (parameter.name.as_str(), value))
            .ok_or_else(|| {
                format!(
                    "trial parameter `{}` refers to `{reference}`, which has no value",
                    parameter.name
                )
            })
    };
    filling.parameters.iter().map(value).collect()
}

fn metadata(reference: &str, filling: &Filling<'_>, run: &Value) -> Option<String> {
    let inner = reference.strip_prefix("${trialSpec.")?.strip_suffix('}')?;
    let entry = |map: &str, prefix: &str| {
        let key = inner.strip_prefix(prefix)?.strip_suffix(']')?;
        run["metadata"][map][key].as_str().map(str::to_owned)
    };
    match inner {
        "Name" => Some(filling.trial.to_owned()),
        "Namespace" => Some(filling.namespace.to_owned()),
        "Kind" => run["kind"].as_str().map(str::to_owned),
        "APIVersion" => run["apiVersion"].as_str().map(str::to_owned),
        _ => entry("annotations", "Annotations[").or_else(|| entry("labels", "Labels[")),
    }
}

fn fill_value(value: &mut Value, values: &BTreeMap<&str, String>) -> Result<(), String> {
    match value {
        Value::String(text) if text.contains(OPEN) => *text = fill_text(text, values)?,
        Value::Array(items) => items.iter_mut().try_for_each(|item| fill_value(item, values))?,
        Value::Object(map) => {
            for key in map.keys().filter(|k| k.contains(OPEN)).cloned().collect::<Vec<_>>() {
                let value = map.remove(&key).unwrap_or_default();
                map.insert(fill_text(&key, values)?, value);
            }
            map.values_mut().try_for_each(|value| fill_value(value, values))?;
        }
        _ => {}
    }
    Ok(())
}

fn fill_text(text: &str, values: &BTreeMap<&str, String>) -> Result<String, String> {
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(OPEN) {
        filled.push_str(before);
        let (name, tail) = after
            .split_once('}')
            .ok_or_else(|| format!("placeholder `{OPEN}…` is not closed in `{text}`"))?;
        let value = values
            .get(name)
            .ok_or_else(|| format!("placeholder `{OPEN}{name}}}` has no trial parameter"))?;
        filled.push_str(value);
        rest = tail;
    }
    filled.push_str(rest);
    Ok(filled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn parameter(name: &str, reference: &str) -> TrialParameter {
        TrialParameter { name: name.into(), reference: reference.into(), description: None }
    }

    fn render(
        template: &Template,
        parameters: &[TrialParameter],
        value: &str,
    ) -> Result<Value, String> {
        let assignments = [ParameterAssignment { name: "lr".into(), value: value.into() }];
        template.render(&Filling {
            parameters,
            assignments: &assignments,
            trial: "t-1",
            namespace: "ns",
        })
    }

    #[test]
    fn names_metadata_and_numbers_go_where_they_belong() {
        let object = Template::Object(json!({
            "apiVersion": "batch/v1", "kind": "Job", "metadata": {"labels": {"k": "v"}},
            "args": ["${trialParameters.a}-${trialParameters.a}", "${trialParameters.b}", "$HOME"],
            "${trialParameters.a}": 1}));
        let parameters = [parameter("a", "lr"), parameter("b", "${trialSpec.Labels[k]}")];
        let run = render(&object, &parameters, "0.1").unwrap();
        assert_eq!(run["args"], json!(["0.1-0.1", "v", "$HOME"]));
        assert_eq!(run["0.1"], 1);
        assert_eq!(
            run["metadata"],
            json!({"labels": {"k": "v"}, "name": "t-1", "namespace": "ns"})
        );

        let text = Template::Text("kind: Job\nspec: {replicas: ${trialParameters.a}}".into());
        let run = render(&text, &[parameter("a", "lr")], "3").unwrap();
        assert_eq!(run["spec"]["replicas"], 3, "in a ConfigMap a bare placeholder is a number");
    }

    #[test]
    fn what_has_no_value_is_named() {
        let object = Template::Object(json!({"a": "${trialParameters.x}"}));
        let no_value = render(&object, &[parameter("x", "nope")], "1").unwrap_err();
        assert!(no_value.contains("`nope`, which has no value"), "{no_value}");
        let undeclared = render(&object, &[], "1").unwrap_err();
        assert!(
            undeclared.contains("`${trialParameters.x}` has no trial parameter"),
            "{undeclared}"
        );
    }

    proptest! {
        /// Whatever a value holds (quotes, newlines, other placeholders), it arrives as it is and
        /// nothing else changes.
        #[test]
        fn a_value_arrives_as_it_is(value in "\\PC*|[\"\\\\{}$a]*|\\$\\{trialParameters\\.[ab]\\}", around in "[^$]*") {
            let object = Template::Object(json!({
                "text": format!("{around}${{trialParameters.a}}{around}"), "other": around}));
            let run = render(&object, &[parameter("a", "lr")], &value).unwrap();
            prop_assert_eq!(run["text"].as_str().unwrap(), format!("{around}{value}{around}"));
            prop_assert_eq!(run["other"].as_str().unwrap(), around);
        }
    }
}
