//! Messages as templates take them.

use serde_json::{Map, Value as Json};

use crate::GenerateError;

/// Messages of one chat at most: no context in use holds as many.
const MESSAGES_MAX: usize = 4096;

const ROLES: [&str; 6] = ["developer", "system", "user", "assistant", "tool", "function"];

/// Makes messages of OpenAI's form what chat templates take: parts of text are joined by line breaks
/// and no content is an empty text, arguments of tool calls are JSON and not text, and developers
/// are the system to templates that do not know them.
///
/// # Errors
/// [`GenerateError::Field`] naming the message and what is wrong with it.
pub fn messages(given: Vec<Json>, template: &str) -> Result<Vec<Json>, GenerateError> {
    if given.is_empty() || given.len() > MESSAGES_MAX {
        let reason = format!("has {} messages; expected 1 to {MESSAGES_MAX}", given.len());
        return Err(GenerateError::field("messages", reason));
    }
    let knows_developers = template.contains("developer");
    given.into_iter().enumerate().map(|(at, m)| message(at, m, knows_developers)).collect()
}

fn message(at: usize, given: Json, knows_developers: bool) -> Result<Json, GenerateError> {
    let wrong = |field: &str, reason: String| {
        let dot = if field.is_empty() { "" } else { "." };
        Err(GenerateError::field(format!("messages[{at}]{dot}{field}"), reason))
    };
    let Json::Object(mut message) = given else {
        return wrong("", "is not an object with `role` and `content`".to_owned());
    };
    let role = match message.get("role") {
        Some(Json::String(role)) if ROLES.contains(&role.as_str()) => role.clone(),
        Some(other) => return wrong("role", format!("is {other}; expected one of {ROLES:?}")),
        None => return wrong("role", format!("is missing; expected one of {ROLES:?}")),
    };
    if role == "developer" && !knows_developers {
        message.insert("role".to_owned(), "system".into());
    }
    let answers = role == "assistant";
    let calls = message.get("tool_calls").is_some_and(|calls| !calls.is_null());
    if !calls {
        message.remove("tool_calls"); // templates ask whether it is there
    }
    let content = match message.remove("content").unwrap_or_default() {
        Json::String(text) => text,
        Json::Null if answers => String::new(),
        Json::Null => return wrong("content", "is missing; expected a text".to_owned()),
        Json::Array(parts) => match joined(&parts) {
            Ok(text) => text,
            Err((part, reason)) => return wrong(&format!("content[{part}]"), reason),
        },
        _ => return wrong("content", "is neither a text nor a list of parts".to_owned()),
    };
    message.insert("content".to_owned(), content.into());
    if calls && let Some(Json::Array(calls)) = message.get_mut("tool_calls") {
        for (nth, call) in calls.iter_mut().enumerate() {
            if let Err(reason) = read_arguments(call) {
                return wrong(&format!("tool_calls[{nth}].function.arguments"), reason);
            }
        }
    } else if calls {
        return wrong("tool_calls", "is not a list".to_owned());
    }
    Ok(Json::Object(message))
}

/// The text of parts; which of them is none, and why.
fn joined(parts: &[Json]) -> Result<String, (usize, String)> {
    let text = |(at, part): (usize, &Json)| {
        let kind = part["type"].as_str().unwrap_or_default();
        match (kind, &part["text"], &part["refusal"], part) {
            (_, _, _, Json::String(text)) => Ok(text.clone()),
            ("text" | "input_text" | "output_text", Json::String(text), ..) => Ok(text.clone()),
            ("refusal", _, Json::String(text), _) => Ok(text.clone()),
            ("text" | "input_text" | "output_text", ..) => {
                Err((at, "has no `text`, which parts of type `text` have".to_owned()))
            }
            ("", ..) => Err((at, "has no `type`; expected `text`".to_owned())),
            (kind, ..) => Err((
                at,
                format!("has type `{kind}`; models here read text alone: expected `text`"),
            )),
        }
    };
    let texts = parts.iter().enumerate().map(text).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.join("\n"))
}

fn read_arguments(call: &mut Json) -> Result<(), String> {
    let Some(function) = call.get_mut("function").and_then(Json::as_object_mut) else {
        return Err("is missing: a call has a `function` with `name` and `arguments`".to_owned());
    };
    let arguments = match function.get("arguments") {
        None | Some(Json::Null) => Json::Object(Map::new()),
        Some(Json::String(text)) if text.trim().is_empty() => Json::Object(Map::new()),
        Some(Json::String(text)) => {
            serde_json::from_str(text).map_err(|error| format!("is not JSON: {error}"))?
        }
        Some(other) => other.clone(),
    };
    function.insert("arguments".to_owned(), arguments);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn messages_become_what_templates_take() {
        #[rustfmt::skip]
        let cases = [
            ("text stays",        json!({"role": "user", "content": "a", "name": "x"}), json!({"role": "user", "name": "x", "content": "a"})),
            ("parts are joined",  json!({"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}), json!({"role": "user", "content": "a\nb"})),
            ("developers",        json!({"role": "developer", "content": "a"}), json!({"role": "system", "content": "a"})),
            ("no content",        json!({"role": "assistant", "content": null, "tool_calls": null}), json!({"role": "assistant", "content": ""})),
            ("arguments",         json!({"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]}),
                                  json!({"role": "assistant", "content": "", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]})),
            ("a tool's answer",   json!({"role": "tool", "tool_call_id": "1", "content": "42"}), json!({"role": "tool", "tool_call_id": "1", "content": "42"})),
        ];
        for (shows, given, want) in cases {
            assert_eq!(messages(vec![given], "").unwrap(), [want], "{shows}");
        }
        let developer = json!({"role": "developer", "content": "a"});
        assert_eq!(messages(vec![developer.clone()], "developer").unwrap(), [developer]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        #[rustfmt::skip]
        let cases = [
            (json!(3),                                          "messages[0]"),
            (json!({"content": "a"}),                           "messages[0].role"),
            (json!({"role": "robot", "content": "a"}),          "messages[0].role"),
            (json!({"role": "user"}),                           "messages[0].content"),
            (json!({"role": "user", "content": 3}),             "messages[0].content"),
            (json!({"role": "user", "content": [{"type": "image_url", "image_url": {}}]}), "messages[0].content[0]"),
            (json!({"role": "user", "content": [{"type": "text"}]}), "messages[0].content[0]"),
            (json!({"role": "assistant", "tool_calls": 1}),     "messages[0].tool_calls"),
            (json!({"role": "assistant", "tool_calls": [{"function": {"arguments": "{"}}]}), "messages[0].tool_calls[0].function.arguments"),
        ];
        for (given, field) in cases {
            let got = messages(vec![given], "").unwrap_err();
            assert_eq!(got.at(), Some(field), "{got}");
        }
        assert_eq!(messages(vec![], "").unwrap_err().at(), Some("messages"));
    }
}
