//! Whether a run object has ended, by the trial's two GJSON paths.
//!
//! The rules are Katib's: failure is looked at first; a match is an object or a list that is not
//! empty; the match's `reason` and `message` say why.

use serde_json::Value;

/// How a run object stands.
#[derive(Debug, PartialEq)]
pub(crate) enum RunState {
    Running,
    Succeeded(Why),
    Failed(Why),
}

/// What the match said.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Why {
    pub(crate) reason: Option<String>,
    pub(crate) message: Option<String>,
}

/// Conditions of batch/v1 Jobs, for trials that name none.
const JOB_SUCCESS: &str = r#"status.conditions.#(type=="Complete")#|#(status=="True")#"#;
const JOB_FAILURE: &str = r#"status.conditions.#(type=="Failed")#|#(status=="True")#"#;

pub(crate) fn state(run: &Value, success: Option<&str>, failure: Option<&str>) -> RunState {
    let text = run.to_string();
    if let Some(why) = matched(&text, failure.unwrap_or(JOB_FAILURE)) {
        return RunState::Failed(why);
    }
    match matched(&text, success.unwrap_or(JOB_SUCCESS)) {
        Some(why) => RunState::Succeeded(why),
        None => RunState::Running,
    }
}

fn matched(text: &str, path: &str) -> Option<Why> {
    let found: Value = serde_json::from_str(gjson::get(text, path).json()).ok()?;
    let entry = match &found {
        Value::Array(items) => items.first()?,
        Value::Object(_) => &found,
        _ => return None,
    };
    let word = |field: &str| entry[field].as_str().filter(|w| !w.is_empty()).map(str::to_owned);
    Some(Why { reason: word("reason"), message: word("message") })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn conditions_are_read_as_katib_reads_them() {
        let job = |conditions: Value| json!({"status": {"conditions": conditions}});
        let done = json!([{"type": "Complete", "status": "True", "reason": "Done"}]);
        let both = json!([{"type": "Complete", "status": "True"},
                          {"type": "Failed", "status": "True", "message": "boom"}]);
        let why = |reason: Option<&str>, message: Option<&str>| Why {
            reason: reason.map(str::to_owned),
            message: message.map(str::to_owned),
        };
        // The paths of Katib's Argo example.
        let (ok, bad) =
            (r#"status.[@this].#(phase=="Succeeded")#"#, r#"status.[@this].#(phase=="Failed")#"#);
        #[rustfmt::skip]
        let cases = [
            // what the case shows             run object                                   paths            state
            ("no status yet",                  json!({}),                                   None,            RunState::Running),
            ("a condition that is not so",     job(json!([{"type": "Complete", "status": "False"}])), None,  RunState::Running),
            ("a job that is complete",         job(done),                                   None,            RunState::Succeeded(why(Some("Done"), None))),
            ("failure is looked at first",     job(both),                                   None,            RunState::Failed(why(None, Some("boom")))),
            ("an Argo workflow under way",     json!({"status": {"phase": "Running"}}),     Some((ok, bad)), RunState::Running),
            ("an Argo workflow that is done",  json!({"status": {"phase": "Succeeded", "message": "m"}}), Some((ok, bad)), RunState::Succeeded(why(None, Some("m")))),
            ("an Argo workflow that failed",   json!({"status": {"phase": "Failed"}}),      Some((ok, bad)), RunState::Failed(why(None, None))),
            ("a path that means nothing",      json!({"status": 1}),                        Some(("#(", "!!")), RunState::Running),
        ];
        for (shows, run, paths, want) in cases {
            let got = state(&run, paths.map(|p| p.0), paths.map(|p| p.1));
            assert_eq!(got, want, "{shows}");
        }
    }
}
