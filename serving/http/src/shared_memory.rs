//! The calls about shared memory.

use std::borrow::Cow;

use http::{Response, StatusCode};
use mizzen_serving_host::RegionStatus;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    body::Chunks,
    error::{HttpError, json},
};

/// A registered region.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "SharedMemoryRegion")]
pub(crate) struct Region<'a> {
    name: &'a str,
    /// The shared memory object.
    key: &'a str,
    offset: u64,
    byte_size: u64,
}

pub(crate) fn status(regions: Vec<RegionStatus>) -> Response<Chunks> {
    let regions: Vec<_> = regions
        .iter()
        .map(|r| Region { name: &r.name, key: &r.key, offset: r.offset, byte_size: r.byte_size })
        .collect();
    json(StatusCode::OK, &regions)
}

/// Which part of which shared memory object.
#[derive(Deserialize, JsonSchema)]
#[schemars(rename = "SharedMemoryRegister")]
pub(crate) struct Register<'a> {
    /// The shared memory object, as `shm_open` has it: `/name`.
    #[serde(borrow)]
    key: Cow<'a, str>,
    #[serde(default)]
    offset: u64,
    byte_size: u64,
}

pub(crate) fn read_register(name: String, body: &[u8]) -> Result<RegionStatus, HttpError> {
    let Register { key, offset, byte_size } =
        serde_json::from_slice(body).map_err(HttpError::Json)?;
    Ok(RegionStatus { name, key: key.into_owned(), offset, byte_size })
}
