//! Reviews: answered and not stored. Whoever reaches this server may do everything.

use bytes::Bytes;
use http::StatusCode;
use serde_json::json;

use super::prepare;
use crate::{
    ApiError,
    http::{Reply, body},
    present::View,
    server::{Call, Server},
};

impl Server {
    pub(crate) fn review(&self, call: &Call, bytes: &Bytes) -> Result<Reply, ApiError> {
        let mut review = body::object(body::media_type(&call.headers), bytes)?;
        prepare::identify(call, &mut review)?;
        review["status"] =
            json!({"allowed": true, "reason": "this server has one user, who may do everything"});
        Ok(View::of(call)?.reply_value(StatusCode::CREATED, review))
    }
}
