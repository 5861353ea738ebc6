//! get and list.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    ApiError,
    http::Reply,
    present::View,
    select::Selection,
    server::{Call, Server},
    state::Object,
};

/// Where a list goes on: after this object, as of this version.
#[derive(Debug, Serialize, Deserialize, PartialEq, Eq)]
struct Continue {
    #[serde(rename = "rv")]
    version: u64,
    namespace: String,
    name: String,
}

impl Server {
    pub(crate) fn get(&self, call: &Call) -> Result<Reply, ApiError> {
        let resource = &call.target.resource;
        if let Some(version) = call.params.number("resourceVersion")? {
            self.reached(version)?;
        }
        let object = self
            .state
            .get(&resource.table, call.namespace(), call.name())
            .ok_or_else(|| ApiError::NotFound(resource.subject(call.name())))?;
        Ok(View::of(call)?.reply(StatusCode::OK, &object))
    }

    pub(crate) fn list(&self, call: &Call) -> Result<Reply, ApiError> {
        let selection = Selection::of(&call.params, &call.target.resource)?;
        let limit = page_limit(call.params.number("limit")?, self.state.limits().list_page);
        let from = call.params.get("continue").map(Continue::decode).transpose()?;
        self.check_version(call, from.is_some())?;
        let after = from.as_ref().map(|c| (c.namespace.as_str(), c.name.as_str()));
        let namespace = call.target.namespace.as_deref();
        // One more than asked for tells whether there is a next page.
        let probe = limit.map_or(usize::MAX, |n| n.saturating_add(1));
        let keep = |object: &Object| selection.matches(object);
        let table = &call.target.resource.table;
        let mut page = self.state.list(table, namespace, after, probe, keep);
        // Every page carries the first one's version: a watch from there replays what changed while
        // the client was reading.
        let version = from.as_ref().map_or(page.version, |c| c.version);
        let mut metadata = json!({"resourceVersion": version.to_string()});
        if let Some(limit) = limit.filter(|limit| page.objects.len() > *limit) {
            page.objects.truncate(limit);
            if let Some(last) = page.objects.last() {
                let next = Continue {
                    version,
                    namespace: last.key.namespace.to_string(),
                    name: last.key.name.to_string(),
                };
                metadata["continue"] = next.encode().into();
                if selection.is_everything() {
                    let after = Some((next.namespace.as_str(), next.name.as_str()));
                    let left = self.state.list(table, namespace, after, usize::MAX, |_| true);
                    metadata["remainingItemCount"] = left.objects.len().into();
                }
            }
        }
        Ok(View::of(call)?.reply_list(&page.objects, metadata))
    }

    /// Checks `resourceVersion` and `resourceVersionMatch` of a list.
    fn check_version(&self, call: &Call, continued: bool) -> Result<(), ApiError> {
        let version = call.params.number("resourceVersion")?;
        match (call.params.get("resourceVersionMatch"), version) {
            (Some(_), _) if continued => Err(ApiError::bad_request(
                "query parameter `resourceVersionMatch` is forbidden when `continue` is given",
            )),
            (Some(_), None) => Err(ApiError::bad_request(
                "query parameter `resourceVersionMatch` is forbidden unless `resourceVersion` is given",
            )),
            (Some("Exact"), Some(0)) => Err(ApiError::bad_request(
                "query parameter `resourceVersionMatch` cannot be `Exact` for version `0`",
            )),
            // Only the newest state is kept.
            (Some("Exact"), Some(version)) if version < self.state.version() => {
                Err(ApiError::Expired(format!(
                    "the requested resource version {version} is too old; list without `resourceVersionMatch=Exact`"
                )))
            }
            (None | Some("NotOlderThan" | "Exact"), version) => self.reached(version.unwrap_or(0)),
            (Some(other), _) => Err(ApiError::bad_request(format!(
                "query parameter `resourceVersionMatch` is `{other}`; it takes Exact or NotOlderThan"
            ))),
        }
    }

    fn reached(&self, asked: u64) -> Result<(), ApiError> {
        let current = self.state.version();
        if asked > current { Err(ApiError::FutureVersion { asked, current }) } else { Ok(()) }
    }
}

fn page_limit(asked: Option<u64>, bound: Option<usize>) -> Option<usize> {
    let asked = asked.filter(|n| *n > 0).and_then(|n| usize::try_from(n).ok());
    match (asked, bound) {
        (Some(asked), Some(bound)) => Some(asked.min(bound)),
        (asked, bound) => asked.or(bound),
    }
}

impl Continue {
    fn encode(&self) -> String {
        URL_SAFE_NO_PAD.encode(json!(self).to_string())
    }

    fn decode(text: &str) -> Result<Self, ApiError> {
        let bad = || {
            ApiError::bad_request(format!(
                "query parameter `continue` is `{text}`, which no list gave out; list from the start"
            ))
        };
        let bytes = URL_SAFE_NO_PAD.decode(text.trim_end_matches('=')).map_err(|_| bad())?;
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| bad())?;
        serde_json::from_value(value).map_err(|_| bad())
    }
}
