//! Conditions, as every resource here carries them.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// One aspect of an object's state, and since when.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Which aspect, for example `Running` or `Ready`.
    #[serde(rename = "type")]
    pub type_: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One CamelCase word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// A sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When anything in this condition last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Time>,
    /// When `status` last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
}

/// Sets a condition. One that says the same already stays as it is, times included; one that
/// changed moves to the end, because `kubectl get` shows the last.
pub fn set_condition(
    conditions: &mut Vec<Condition>,
    type_: &str,
    status: bool,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    set_condition_status(
        conditions,
        type_,
        if status { "True" } else { "False" },
        reason,
        message,
        now,
    );
}

/// [`set_condition`] for a status of three values: `True`, `False` or `Unknown`.
pub fn set_condition_status(
    conditions: &mut Vec<Condition>,
    type_: &str,
    word: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let old = conditions.iter().position(|c| c.type_ == type_);
    if let Some(old) = old.map(|i| &conditions[i])
        && old.status == word
        && old.reason.as_deref() == Some(reason)
        && old.message.as_deref() == Some(message)
    {
        return;
    }
    let old = old.map(|i| conditions.remove(i));
    let since = old.filter(|c| c.status == word).and_then(|c| c.last_transition_time);
    conditions.push(Condition {
        type_: type_.to_owned(),
        status: word.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: Some(since.unwrap_or(Time(now))),
    });
}

/// Whether a condition of this type is `True`.
pub fn has_condition(conditions: &[Condition], type_: &str) -> bool {
    conditions.iter().any(|c| c.type_ == type_ && c.status == "True")
}

/// The condition that changed last.
pub fn last_condition(conditions: &[Condition]) -> Option<&Condition> {
    conditions.last()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_changes_only_when_it_says_something_else() {
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut conditions = Vec::new();
        set_condition(&mut conditions, "Created", true, "C", "created", at(1));
        set_condition(&mut conditions, "Running", true, "R", "running", at(2));
        let before = conditions.clone();
        set_condition(&mut conditions, "Created", true, "C", "created", at(3));
        assert_eq!(conditions, before, "the same again changes nothing");

        set_condition(&mut conditions, "Created", true, "C", "created anew", at(4));
        let last = last_condition(&conditions).unwrap();
        assert_eq!(last.type_, "Created", "what changed is shown last");
        assert_eq!(last.last_transition_time, Some(Time(at(1))), "its status did not change");
        assert_eq!(last.last_update_time, Some(Time(at(4))));

        set_condition(&mut conditions, "Running", false, "R", "over", at(5));
        assert!(!has_condition(&conditions, "Running"));
        assert_eq!(conditions.len(), 2);
    }
}
